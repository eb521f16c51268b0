"""The client behind `certlet sign` and its like: HTTP requests to a Certlet, whatever serves it."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import ssl
import time
import urllib.parse
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any, Final, TypeVar

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, make_headers
from urllib3.exceptions import HTTPError, InsecureRequestWarning, ProtocolError
from urllib3.util import parse_url

from service.pki.errors import escape_controls

_T = TypeVar("_T")
_TIMEOUT: Final = 35.0  # seconds, longer than API Gateway's longest
_REPEATS: Final = 2
_AMBIGUOUS: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)  # the function may have signed
_BUSY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)  # if Retry-After says when
_MAX_RETRY_AFTER: Final = 10  # seconds
_MAX_RESPONSE: Final = 67_108_864  # octets; a CRL of a million entries has 40 million

# RFC 7468 5.1, as Certlet writes it: nothing else of a response gets into a file or to a terminal.
_CERTIFICATES: Final = re.compile(
    r"(-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE-----\n)*"
)

BATCH_BYTES: Final = 4_194_304  # of a batch's body


class ClientError(Exception):
    """No certificate came back; the message says why, a line for each reason."""


@dataclass(frozen=True)
class SignRequest:
    """What is to be signed: a CSR, PEM or base64 of the DER; None elsewhere is for the service's default.

    `validity` is a duration in ISO 8601; `not_after`, which is instead of it, a time in RFC 3339.
    """

    csr: str
    profile: str | None = None
    validity: str | None = None
    not_after: str | None = None

    def to_json(self) -> dict[str, str]:
        """The same as the contract's members."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Signed:
    """A certificate, its intermediates, notes for the user, and when it ends (RFC 3339)."""

    crt_pem: str
    chain_pem: str
    notes: tuple[str, ...]
    not_after: str

    @property
    def pem(self) -> str:
        """The certificate, its chain after it."""
        return self.crt_pem + self.chain_pem


@dataclass(frozen=True)
class SignFailure:
    """A request of a batch that got no certificate: why, a line each; and whether it may be sent again."""

    reason: str
    retryable: bool


@dataclass(frozen=True)
class ProfileInfo:
    """A profile that the caller may use: OIDs of its policies, its own first, and of what it copies."""

    name: str
    policies: tuple[str, ...]
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class DryRun:
    """The response to a dry run: what would be issued."""

    subject: str
    names: tuple[str, ...]
    not_before: str
    not_after: str
    profile: str
    notes: tuple[str, ...]


def sign(url: str, api_key: str, request: SignRequest) -> Signed:
    """Have a certificate signing request signed by the service at a base URL, with its stage if it has one.

    If a response is lost, the request is sent again, twice at most, with the same Idempotency-Key: a CA
    that can repeat itself answers with the same certificate.

    Raises:
        ClientError: the service refuses it, or there is none.
    """
    body = {"text": False, **request.to_json()}
    return _ask(url, "/sign", api_key, lambda data: _certificate(json.loads(data)), body, repeats=_REPEATS)


def sign_batch(url: str, api_key: str, requests: Sequence[SignRequest]) -> list[Signed | SignFailure]:
    """Have at most 500 requests, of `BATCH_BYTES`, signed: what became of each. Otherwise as `sign`."""
    body = {"requests": [request.to_json() for request in requests]}
    results = _ask(url, "/sign/batch", api_key, _batch, body, repeats=_REPEATS)
    if len(results) != len(requests):
        raise ClientError(f"{url} answered {len(results)} results for {len(requests)} requests")
    return results


def dry_run(url: str, api_key: str, request: SignRequest) -> DryRun:
    """Ask what would be issued; nothing is. Errors are those of `sign`, as below."""
    return _ask(url, "/sign?dry_run=true", api_key, _dry_run, request.to_json())


def list_profiles(url: str, api_key: str) -> list[ProfileInfo]:
    """Ask which profiles the caller may use."""
    return _ask(url, "/profiles/mine", api_key, _profiles)


def fetch_crl(url: str) -> bytes:
    """Fetch the CRL of the service's CA, DER."""
    return _ask(url, "/ca.crl", None, bytes)


def fetch_root(url: str) -> bytes:
    """Fetch the root's certificate, DER, from anyone who answers there: it proves nothing by itself.

    So TLS is not verified: its certificate may be under this very root, which nobody trusts yet.
    """
    return _ask(url, "/root.crt", None, bytes, is_verified=False)


def _ask(  # noqa: PLR0913 - each is a property of an operation
    url: str,
    path: str,
    api_key: str | None,
    parse: Callable[[bytes], _T],
    body: object = None,
    *,
    repeats: int = 0,
    is_verified: bool = True,
) -> _T:
    """Send a request and parse the response; every failure is a ClientError that says what to do."""
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise ClientError(f"{url} is not an http or https URL")
    headers = {"Connection": "close"}
    if api_key is not None:
        if not re.fullmatch(r"[!-~]{1,128}", api_key):
            raise ClientError("an API key has at most 128 visible ASCII characters, without spaces")
        headers["x-api-key"] = api_key
    if repeats:
        headers["Idempotency-Key"] = str(_uuid7())
    try:
        with _pool(url, is_verified=is_verified) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # of `fetch_root`, which says why
            response, data = _send(pool, url.rstrip("/") + path, headers, body, repeats)
        if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            return parse(data)
    except (HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise ClientError(f"no Certlet answers at {url}: {_cause(error, url)}") from error
    try:
        problem = _format_problem(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = escape_controls(f"the server answered {response.status} {response.reason}")
    hint = f"\n  is {url} the service's base URL, with its stage if it has one?"
    raise ClientError(problem + (hint if response.status == HTTPStatus.NOT_FOUND else ""))


def _pool(url: str, *, is_verified: bool) -> PoolManager:
    """Connections to the service, or to the proxy that the environment names for it."""
    context = ssl.create_default_context() if url.startswith("https:") else None
    if context and not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    target = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(target.scheme)
    if not proxy or urllib.request.proxy_bypass(target.netloc):
        return PoolManager(ssl_context=context)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    credentials = urllib.parse.unquote(parse_url(proxy).auth or "")
    headers = make_headers(proxy_basic_auth=credentials) if credentials else None
    return ProxyManager(proxy, proxy_headers=headers, ssl_context=context)


def _send(
    pool: PoolManager, url: str, headers: dict[str, str], body: object, repeats: int
) -> tuple[BaseHTTPResponse, bytes]:
    """The response and its body. No redirect is followed: it would send the API key to another server."""
    method = "GET" if body is None else "POST"
    options: dict[str, Any] = {"retries": False, "redirect": False, "timeout": _TIMEOUT, "headers": headers}
    options |= {"preload_content": False, "decode_content": False} | ({} if body is None else {"json": body})
    for left in reversed(range(repeats + 1)):
        try:
            with pool.request(method, url, **options) as response:
                data = response.read(_MAX_RESPONSE)
                if response.read(1):  # which finds out, too, whether the connection was cut off
                    raise ValueError(f"its response has more than {_MAX_RESPONSE} octets")
        except ProtocolError:  # the connection ended before the response, or within it
            if not left:
                raise
            continue
        wait = response.headers.get("Retry-After", "0" if response.status in _AMBIGUOUS else "")
        is_brief = re.fullmatch("[0-9]{1,9}", wait) and int(wait) <= _MAX_RETRY_AFTER
        if not left or not is_brief or response.status not in (*_AMBIGUOUS, *_BUSY):
            break
        time.sleep(int(wait))
    return response, data


def _cause(error: BaseException, url: str) -> str:
    """Why a connection failed, and what to do about the usual reasons."""
    while isinstance(error, HTTPError):  # which wraps what the system or OpenSSL says
        causes = [each for each in (error.__cause__, *error.args[::-1]) if isinstance(each, BaseException)]
        if not causes:
            break
        error = causes[0]
    match error:
        case ssl.SSLCertVerificationError():
            return f"{error.verify_message} ($SSL_CERT_FILE names the root to be trusted: certlet trust)"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return f"it speaks no TLS; perhaps plain {url.replace('https', 'http', 1)}"
        case http.client.RemoteDisconnected() if url.startswith("http:"):
            return f"{error}; perhaps it is {url.replace('http', 'https', 1)}"
        case ConnectionRefusedError():
            return "nothing listens there (certlet serve does, and --url says where)"
        case OSError(strerror=str(reason)):
            return reason
    return str(error) or type(error).__name__


def _uuid7() -> uuid.UUID:
    """A UUIDv7 (RFC 9562 5.7) of now."""
    random = secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return uuid.UUID(int=int(time.time() * 1000) << 80 | 7 << 76 | random)


def _certificate(response: Any) -> Signed:  # noqa: ANN401 - JSON
    leaf, chain, not_after = (response[name] for name in ("crt_pem", "chain_pem", "not_after"))
    notes = tuple(response["notes"])
    _verify_strings(leaf, chain, not_after, *notes)
    if not leaf or not all(_CERTIFICATES.fullmatch(pem) for pem in (leaf, chain)):
        raise ValueError("its answer holds no certificate")
    return Signed(leaf, chain, notes, not_after)


def _batch(body: bytes) -> list[Signed | SignFailure]:
    response = json.loads(body)
    chain = {"chain_pem": response["chain_pem"]}
    results: list[Signed | SignFailure] = []
    for result in response["results"]:
        if "certificate" in result:
            results.append(_certificate(result["certificate"] | chain))
        else:
            problem = result["problem"]
            is_retryable = problem["status"] == HTTPStatus.SERVICE_UNAVAILABLE
            results.append(SignFailure(_format_problem(problem), is_retryable))
    return results


def _profiles(body: bytes) -> list[ProfileInfo]:
    return [
        ProfileInfo(str(info["name"]), tuple(info["certificate_policies"]), tuple(info["extensions"]))
        for info in json.loads(body)["profiles"]
    ]


def _dry_run(body: bytes) -> DryRun:
    response = json.loads(body)
    members = {field.name: response[field.name] for field in fields(DryRun)}
    names, notes = tuple(members.pop("names")), tuple(members.pop("notes"))
    _verify_strings(*members.values(), *names, *notes)
    return DryRun(**members, names=names, notes=notes)


def _verify_strings(*texts: object) -> None:
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("its answer is not the contract's")


def _format_problem(problem: Any) -> str:  # noqa: ANN401 - JSON
    """A problem document for people: a line, and one more for each of several reasons."""
    reasons = [(reason["field"], reason["detail"]) for reason in problem.get("errors", ())]
    where = f", {reasons[0][0]}" if len(reasons) == 1 and reasons[0][0] else ""
    lines = [f"{problem['title']}: {problem['detail']} ({problem['status']} {problem['code']}{where})"]
    lines += [f"  {field}: {detail}" for field, detail in reasons] if len(reasons) > 1 else []
    return "\n".join(map(escape_controls, lines))  # a line of ours is none of the server's making
