"""The process that validates challenges of the type http-01 (RFC 8555 8.3, RFC 8738), locally.

A worker has the CA's key, so it must neither wait for a stranger's web server nor parse what that sends. This
process has no secret and no ledger: it gets challenges from the workers, and sends them the results. It
connects to port 80 of an address that it has checked, by that address: no name is resolved twice. It follows
no redirect, since each would let a stranger choose where this process connects to. No response of a web
server gets into a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import aiohttp

from service import hardening, log_level
from service.challenge_queue import MAX_PACKET, ChallengeResult, QueuedChallenge, send
from service.gateway import sandbox
from service.gateway.listening import bracket_host

HTTP_PORT: Final = 80
DNS_PORT: Final = 53
TIMEOUT: Final = 10.0  # seconds for a validation
LOOKUP_TIMEOUT: Final = 5.0  # seconds of these for the addresses of a name
CONNECT_TIMEOUT: Final = 3.0  # seconds for a connection to one address
MAX_ADDRESSES: Final = 4  # of a name that are tried
MAX_BODY: Final = 8192  # octets
MAX_WAITING: Final = 1000  # challenges that are being validated, or wait for it
MAX_WAITING_PER_ACCOUNT: Final = 100  # the names of one order
CONCURRENCY: Final = 64  # validations at the same time
CONCURRENCY_PER_ACCOUNT: Final = 8  # so that the slow servers of an account do not delay other accounts
# No domain is added to a name; and a query ends not long after the lookup's time-out (resolv.conf(5)).
RESOLVER_ENVIRONMENT: Final = {"LOCALDOMAIN": "", "RES_OPTIONS": "timeout:2 attempts:2"}
_RESOLVER_FILES: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf")
_PATH: Final = "/.well-known/acme-challenge/"
_SPACES: Final = b" \t\r\n"
# Only a network that consists of such addresses permits them. So 0.0.0.0/0 does not permit loopback.
_SPECIAL: Final = ("is_loopback", "is_link_local", "is_unspecified", "is_multicast", "is_reserved")

_log = logging.getLogger(__name__)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Iterable[str]]
_Lookup = asyncio.Future[Iterable[str]]


class ValidationFailed(Exception):
    """A challenge failed; code and detail are those of `ChallengeResult`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def is_permitted(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    """Return whether the validator may connect to an address.

    Args:
        address: the address. An IPv4 address in IPv6 form (RFC 4291 2.5.5.2) is treated as IPv4.
        networks: the permitted networks; empty to permit all that are not for a special purpose.
    """
    address = getattr(address, "ipv4_mapped", None) or address
    special = [name for name in _SPECIAL if getattr(address, name)]
    if not networks:
        return not special
    return any(address in network and all(getattr(network, name) for name in special) for network in networks)


def resolve(name: str) -> list[str]:
    """Return the addresses of a DNS name; raise `socket.gaierror`. Blocks."""
    results = socket.getaddrinfo(name.encode("ascii"), HTTP_PORT, type=socket.SOCK_STREAM)
    return [str(result[4][0]) for result in results]


class HttpValidator:
    """Validates challenges, some at the same time."""

    def __init__(
        self,
        report: Callable[[ChallengeResult], None],
        networks: Sequence[IpNetwork] = (),
        resolve: Resolve = resolve,
        port: int = HTTP_PORT,
    ) -> None:
        """Prepare to validate.

        Args:
            report: gets the results.
            networks: as in `is_permitted`.
            resolve: returns the addresses of a name; may block.
            port: of the web servers; another one only in tests.
        """
        self._report = report
        self._networks = networks
        self._resolve = resolve
        self._port = port
        self._threads = ThreadPoolExecutor(CONCURRENCY)
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._account_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._tasks: dict[QueuedChallenge, asyncio.Task[None]] = {}

    def start(self, challenge: QueuedChallenge) -> None:
        """Start a validation, unless it runs already, or the account has too many."""
        of_account = sum(waiting.account_id == challenge.account_id for waiting in self._tasks)
        if challenge not in self._tasks and of_account < MAX_WAITING_PER_ACCOUNT:
            task = self._tasks[challenge] = asyncio.create_task(self._validate(challenge))
            task.add_done_callback(lambda _: self._tasks.pop(challenge))

    async def wait(self, max_waiting: int = 0) -> None:
        """Wait until at most this number of validations have not ended."""
        while len(self._tasks) > max_waiting:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)

    async def _validate(self, challenge: QueuedChallenge) -> None:
        account_slots = asyncio.Semaphore(CONCURRENCY_PER_ACCOUNT)
        account_slots = self._account_slots.setdefault(challenge.account_id, account_slots)
        async with account_slots, self._slots:
            loop = asyncio.get_running_loop()
            lookup = loop.run_in_executor(self._threads, self._resolve, challenge.name)
            code, detail = await self._find_error(challenge, lookup)
            _log.info("http-01 of %s: %s", challenge.name, f"{code}: {detail}" if code else "valid")
            self._report(ChallengeResult(*challenge[:3], code, detail))
            await asyncio.wait([lookup])  # a lookup that stalls keeps its thread, and so the account's slot

    async def _find_error(self, challenge: QueuedChallenge, lookup: _Lookup) -> tuple[str, str]:
        """Return the code and the detail of a problem; both are empty if there is none."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._prove(challenge, await self._permitted_addresses(challenge.name, lookup))
        except ValidationFailed as failure:
            return failure.code, failure.detail
        except TimeoutError:
            return "connection", f"{_url(challenge)} did not answer completely within {TIMEOUT:g} seconds"
        return "", ""

    async def _permitted_addresses(self, name: str, lookup: _Lookup) -> list[IpAddress]:
        """Return the first addresses of a name, or of an address itself."""
        try:
            texts = await asyncio.wait_for(asyncio.shield(lookup), LOOKUP_TIMEOUT)
        except TimeoutError:
            detail = f"the name servers of {name} did not answer within {LOOKUP_TIMEOUT:g} seconds"
            raise ValidationFailed("dns", detail) from None
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise ValidationFailed("dns", f"the name servers of {name} did not answer") from error
            detail = f"{name} has no address in the DNS: create its A or AAAA record"
            raise ValidationFailed("dns", detail) from error
        addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(texts)]
        permitted = [address for address in addresses if is_permitted(address, self._networks)]
        if not permitted:
            raise ValidationFailed(
                "connection",
                f"this CA does not connect to {_list(addresses[:MAX_ADDRESSES])}, the address of {name}: "
                "its administrator can permit the network (--acme-network)",
            )
        return permitted[:MAX_ADDRESSES]

    async def _prove(self, challenge: QueuedChallenge, addresses: Sequence[IpAddress]) -> None:
        """Verify the response of the first address that accepts a connection."""
        for address in addresses:
            try:
                status, body = await self._get(challenge, address)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue
            except aiohttp.ClientError as error:
                detail = f"{_url(challenge)} at {address} sent no complete HTTP response"
                raise ValidationFailed("connection", detail) from error
            key_authorization = f"{challenge.token}.{challenge.thumbprint}"
            if fault := _fault(status, body, key_authorization):
                raise ValidationFailed("incorrectResponse", f"{_url(challenge)} at {address} {fault}")
            return
        raise ValidationFailed(
            "connection",
            f"port {self._port} of {challenge.name} ({_list(addresses)}) accepts no connection: "
            "start a web server there, and permit connections from the CA",
        )

    async def _get(self, challenge: QueuedChallenge, address: IpAddress) -> tuple[int, bytes]:
        """Return the status and the start of the body, of at most `MAX_BODY` + 1 octets."""
        url = f"http://{bracket_host(str(address))}:{self._port}{_PATH}{challenge.token}"
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Host": bracket_host(challenge.name), "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            auto_decompress=False,
        )
        async with session, session.get(url, allow_redirects=False) as response:
            try:
                return response.status, await response.content.readexactly(MAX_BODY + 1)
            except asyncio.IncompleteReadError as end:
                return response.status, end.partial
            finally:
                response.close()


def _fault(status: int, body: bytes, key_authorization: str) -> str:
    """Describe what is wrong with a response, without any part of it; '' if it is right."""
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return f"redirects (status {status}), which this CA does not follow: answer without a redirect"
    if status != HTTPStatus.OK:
        return f"answered with status {status}: serve the file of the challenge there"
    if len(body) > MAX_BODY:
        return f"answered with more than {MAX_BODY} octets: serve only the file of the challenge there"
    if not hmac.compare_digest(body.rstrip(_SPACES), key_authorization.encode("ascii")):
        return f"did not answer with {key_authorization}: another program or account serves this path"
    return ""


def _url(challenge: QueuedChallenge) -> str:
    return f"http://{bracket_host(challenge.name)}{_PATH}{challenge.token}"


def _list(addresses: Iterable[IpAddress]) -> str:
    return ", ".join(map(str, addresses))


def _resolver_version() -> list[tuple[int, int]]:
    """Return what changes if one of the resolver's files is replaced."""
    version = []
    for path in _RESOLVER_FILES:
        with contextlib.suppress(OSError):
            status = Path(path).stat()
            version.append((status.st_dev, status.st_ino))
    return version


async def serve(channel: socket.socket, validator: HttpValidator) -> None:
    """Validate until the workers' ends are closed, or the resolver's files are replaced.

    In a sandbox, the process cannot read new files, so another process has to go on.
    """
    version = _resolver_version()
    while True:
        await validator.wait(MAX_WAITING - 1)
        await _wait_readable(channel)
        if _resolver_version() != version or not (packet := channel.recv(MAX_PACKET)):
            break
        validator.start(QueuedChallenge.parse(packet))
    await validator.wait()


async def _wait_readable(channel: socket.socket) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(channel, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(channel)


def main(arguments: list[str]) -> int:
    """Run the process: `CHANNEL CA LEDGER [NETWORK]...`, a descriptor, a directory, a file and networks.

    The process cannot access the directory and the file, even if they are in a directory of packages.
    """
    hardening.disable_core_dumps_and_ptrace()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the process group; the supervisor stops it
        signal.signal(number, signal.SIG_IGN)
    log_level.configure(os.environ.get(log_level.VARIABLE, ""))
    os.environ |= RESOLVER_ENVIRONMENT
    directory, ledger = map(Path, arguments[1:3])
    networks = [ipaddress.ip_network(text) for text in arguments[3:]]
    sandbox.enter([directory, ledger.parent], ports=(HTTP_PORT, DNS_PORT))
    with socket.socket(fileno=int(arguments[0])) as channel:
        asyncio.run(serve(channel, HttpValidator(partial(send, channel), networks)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
