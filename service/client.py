"""The HTTP client of the command line; it works with any Certlet service."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import time
import urllib.parse
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, make_headers
from urllib3.exceptions import HTTPError, InsecureRequestWarning, ProtocolError
from urllib3.util import parse_url

from service.exit_status import ExitStatus
from service.pki.errors import escape_controls

_T = TypeVar("_T")
_TIMEOUT: Final = 35.0  # seconds, longer than API Gateway's longest
_RENEWAL_INFO_TIMEOUT: Final = 5.0  # seconds to connect, and between octets: it is only advice
_DATE_TIMEOUT: Final = 5.0  # seconds, as above
_MAX_RETRIES: Final = 2
# The errors of OpenSSL (x509_vfy.h).
_DATE_ERRORS: Final = (9, 10)  # not yet valid, expired
_NAME_ERRORS: Final = (62, 64)  # of a DNS name, of an IP address
_CERT_FILE: Final = "SSL_CERT_FILE"
TRUST_ROOT: Final = f"certlet login trusts the root of a service; or set ${_CERT_FILE} to it"
_USE_NAME: Final = "use a name of its certificate in the URL; certlet show HOST:PORT lists them"
COMPARE_CLOCKS: Final = (
    "certlet doctor compares the clocks; if they agree, the server needs a new certificate"
)
_CHECK_API_KEY: Final = "check --api-key, $CERTLET_API_KEY or certlet login"
_CHECK_URL: Final = "check that {} is the service's base URL, including the stage"
_AMBIGUOUS: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)  # the service may have signed
_BUSY: Final = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)  # needs a Retry-After
_EXIT_STATUSES: Final[Mapping[int, ExitStatus]] = {
    HTTPStatus.UNAUTHORIZED: ExitStatus.NOT_PERMITTED,
    HTTPStatus.FORBIDDEN: ExitStatus.NOT_PERMITTED,
    **dict.fromkeys((*_AMBIGUOUS, *_BUSY), ExitStatus.TRY_LATER),
}
_HTTPS_REQUIRED: Final = "httpsRequired"  # a problem code
_MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of a response
_MAX_RETRY_AFTER: Final = 10  # seconds
_MAX_RESPONSE: Final = 67_108_864  # bytes; a CRL of a million entries has 40 million

# RFC 7468 5.1, as Certlet writes it. Other text from a response must not reach a file or a terminal.
_PEM_CERTIFICATES: Final = re.compile(
    r"(-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE-----\n)*"
)

MAX_BATCH_BYTES: Final = 4_194_304  # of the request body


class ClientError(Exception):
    """A request failed; the message gives one reason per line, and then the remedy if there is one.

    Attributes:
        reason: the message without the remedy.
        exit_status: the exit status of a command that it ends.
        remedy: what to do; '' if it is not known.
    """

    def __init__(self, reason: str, exit_status: ExitStatus = ExitStatus.REFUSED, remedy: str = "") -> None:
        super().__init__(f"{reason} ({remedy})" if remedy else reason)
        self.reason: Final = reason
        self.exit_status: Final = exit_status
        self.remedy: Final = remedy


class _LostResponseError(ProtocolError):
    """The connection ended before the end of the response."""


@dataclass(frozen=True)
class Service:
    """A service: its base URL, which includes the stage, and a root (PEM) to trust next to the system's."""

    url: str
    root_pem: str = ""


@dataclass(frozen=True)
class Credentials:
    """What identifies the caller: an API key, or else a token (RFC 6750)."""

    api_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def to_headers(self) -> dict[str, str]:
        """Return the header that contains them; ClientError if they are malformed."""
        if self.api_key:
            if not re.fullmatch(r"[!-~]{1,128}", self.api_key):
                raise ClientError("malformed API key: use 1 to 128 visible ASCII characters, without spaces")
            return {"x-api-key": self.api_key}
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,8192}", self.token):
            raise ClientError("malformed token: it has up to 8192 characters of A-Z a-z 0-9 - . _ ~ + / =")
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class SignRequest:
    """A CSR to sign, and the options of the certificate; None leaves an option to the service.

    csr: PEM, or base64 of the DER.
    validity: a duration such as `P30D` or `30d`; excludes `not_after`.
    not_after: an RFC 3339 time.
    """

    csr: str
    profile: str | None = None
    validity: str | None = None
    not_after: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return the JSON body that the contract defines."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Signed:
    """A certificate, its intermediates, notes for the user, and the end of its validity (RFC 3339)."""

    crt_pem: str
    chain_pem: str
    notes: tuple[str, ...]
    not_after: str

    @property
    def pem(self) -> str:
        """The certificate and its chain."""
        return self.crt_pem + self.chain_pem


@dataclass(frozen=True)
class SignFailure:
    """A refused request of a batch: the reasons, one per line, and the exit status for them."""

    reason: str
    exit_status: ExitStatus = ExitStatus.REFUSED

    @property
    def retryable(self) -> bool:
        """Whether a retry may succeed."""
        return self.exit_status is ExitStatus.TRY_LATER


@dataclass(frozen=True)
class ProfileInfo:
    """A profile that the caller may use.

    policies: OIDs of its certificate policies; the first identifies the profile.
    extensions: OIDs of the extensions that it copies from a CSR.
    """

    name: str
    policies: tuple[str, ...]
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class DryRun:
    """The certificate that a request would get."""

    subject: str
    names: tuple[str, ...]
    not_before: str
    not_after: str
    profile: str
    notes: tuple[str, ...]


def sign(service: Service, credentials: Credentials, request: SignRequest) -> Signed:
    """Get a certificate for a CSR.

    If a response is lost, the request is repeated at most twice with the same Idempotency-Key, so that the
    service can return the same certificate.

    Args:
        service: the service.
        credentials: the caller's.
        request: the CSR and the options of the certificate.

    Returns:
        The certificate and its chain.

    Raises:
        ClientError: the service refused the request, or cannot be reached.
    """
    body = {"text": False, **request.to_json()}
    return _call(
        service,
        "/sign",
        credentials,
        lambda data: _parse_signed(json.loads(data)),
        body,
        retries=_MAX_RETRIES,
    )


def sign_batch(
    service: Service, credentials: Credentials, requests: Sequence[SignRequest]
) -> list[Signed | SignFailure]:
    """Get certificates for at most 500 CSRs, in a body of at most `MAX_BATCH_BYTES`; like `sign`."""
    body = {"requests": [request.to_json() for request in requests]}
    results = _call(service, "/sign/batch", credentials, _parse_batch, body, retries=_MAX_RETRIES)
    if len(results) != len(requests):
        raise ClientError(f"{service.url} returned {len(results)} results for {len(requests)} requests")
    return results


def dry_run(service: Service, credentials: Credentials, request: SignRequest) -> DryRun:
    """Get a description of the certificate that `sign` would return; raises the same errors."""
    return _call(service, "/sign?dry_run=true", credentials, _parse_dry_run, request.to_json())


def list_profiles(service: Service, credentials: Credentials) -> list[ProfileInfo]:
    """Get the profiles that the caller may use."""
    return _call(service, "/profiles/mine", credentials, _parse_profiles)


def fetch_id_token(url: str, token: str, audience: str) -> str:
    """Request an ID token in a job of GitHub Actions.

    Args:
        url: the value of `ACTIONS_ID_TOKEN_REQUEST_URL`, which has a query.
        token: the value of `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
        audience: the token's audience.

    Raises:
        ClientError: GitHub refuses the request, or cannot be reached.
    """
    path = f"&audience={urllib.parse.quote(audience, safe='')}"
    return _call(Service(url), path, Credentials(token=token), lambda data: str(json.loads(data)["value"]))


def fetch_renewal_window(service: Service, certificate_id: str) -> tuple[datetime, datetime]:
    """Fetch the time in which to renew a certificate: its start, and its end after it.

    Args:
        service: the service.
        certificate_id: the certificate's identifier (RFC 9773 4.1).

    Raises:
        ClientError: the service does not know it, or cannot be reached within a few seconds.
    """
    path = f"/renewal-info/{certificate_id}"
    return _call(service, path, None, _parse_renewal_window, timeout=_RENEWAL_INFO_TIMEOUT)


def fetch_date(url: str) -> datetime:
    """Fetch the time of a server, UTC, from the header Date of any response (RFC 9110 6.6.1).

    TLS is not verified, since a wrong clock may be the reason why it would fail.

    Raises:
        ClientError: the server cannot be reached, or its responses have no time.
    """
    with _connect(Service(url), is_verified=False) as pool:
        response, _ = _send(pool, url, {}, None, 0, _DATE_TIMEOUT)
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        reason = f"the response of {url} has no valid Date header"
        raise ClientError(reason, remedy=_CHECK_URL.format(url)) from error


def fetch_crl(service: Service) -> bytes:
    """Fetch the CA's CRL (DER)."""
    return _call(service, "/ca.crl", None, bytes)


def fetch_root(service: Service) -> bytes:
    """Fetch the root certificate (DER) without authentication of the server.

    TLS is not verified, since the server's certificate may be issued under this root. The caller must verify
    the root's fingerprint.
    """
    return _call(service, "/root.crt", None, bytes, is_verified=False)


def _call(  # noqa: PLR0913 - each is a property of an operation
    service: Service,
    path: str,
    credentials: Credentials | None,
    parse: Callable[[bytes], _T],
    body: object = None,
    *,
    retries: int = 0,
    is_verified: bool = True,
    timeout: float | None = None,
) -> _T:
    """Send a request and parse the response; every failure is a ClientError."""
    url = service.url.rstrip("/") + path
    with _connect(service, is_verified=is_verified) as pool:
        headers = {"Connection": "close", **(credentials.to_headers() if credentials else {})}
        if retries:
            headers["Idempotency-Key"] = str(_uuid7())
        response, data = _send(pool, url, headers, body, retries, timeout or _TIMEOUT)
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        raise _describe_refusal(service, credentials, response, data)
    try:
        return parse(data)
    except _MALFORMED as error:
        reason = f"the response of {service.url} is not that of a Certlet service"
        raise ClientError(reason, remedy=_CHECK_URL.format(service.url)) from error


def _describe_refusal(
    service: Service, credentials: Credentials | None, response: BaseHTTPResponse, data: bytes
) -> ClientError:
    """Return the error for a response that has no result."""
    exit_status = _EXIT_STATUSES.get(response.status, ExitStatus.REFUSED)
    remedy = _CHECK_URL.format(service.url) if response.status == HTTPStatus.NOT_FOUND else ""
    try:
        problem = json.loads(data)
        if problem["code"] == _HTTPS_REQUIRED:  # the URL is wrong, not the credentials
            exit_status = ExitStatus.REFUSED
        detail, advice, _ = problem["detail"].partition(": send it ")
        if advice and credentials and credentials.api_key:  # the advice is for other HTTP clients
            problem["detail"], remedy = detail, _CHECK_API_KEY
        reason = _format_problem(problem)
    except _MALFORMED:
        reason = escape_controls(f"{service.url} returned {response.status} {response.reason}")
    return ClientError(reason, exit_status, remedy)


@contextlib.contextmanager
def _connect(service: Service, *, is_verified: bool) -> Iterator[PoolManager]:
    """Create connections to the service; every failure of the block is a ClientError."""
    url = service.url
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise ClientError(f"{url!r} is not an http or https URL")
    try:
        with _create_pool(service, is_verified=is_verified) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # intended without verification
            yield pool
    except (HTTPError, OSError, ValueError) as error:
        status = ExitStatus.UNREACHABLE if isinstance(error, HTTPError | OSError) else ExitStatus.REFUSED
        status = ExitStatus.TRY_LATER if isinstance(error, _LostResponseError) else status
        reason, remedy = map(escape_controls, _describe_failure(error, service))
        raise ClientError(f"request to {url} failed: {reason}", status, remedy) from error


def _create_pool(service: Service, *, is_verified: bool) -> PoolManager:
    """Create connections to the service, through the proxy that the environment configures, if any."""
    context = ssl.create_default_context() if service.url.startswith("https:") else None
    if context and not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if context and service.root_pem:
        context.load_verify_locations(cadata=service.root_pem)
    target = urllib.parse.urlsplit(service.url)
    proxy = urllib.request.getproxies().get(target.scheme)
    if not proxy or urllib.request.proxy_bypass(target.netloc):
        return PoolManager(ssl_context=context)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    credentials = urllib.parse.unquote(parse_url(proxy).auth or "")
    headers = make_headers(proxy_basic_auth=credentials) if credentials else None
    return ProxyManager(proxy, proxy_headers=headers, ssl_context=context)


def _send(
    pool: PoolManager, url: str, headers: dict[str, str], body: object, retries: int, timeout: float
) -> tuple[BaseHTTPResponse, bytes]:
    """Return the response and its body. Redirects are not followed: they could leak the API key."""
    method = "GET" if body is None else "POST"
    options: dict[str, Any] = {"retries": False, "redirect": False, "timeout": timeout, "headers": headers}
    options |= {"preload_content": False, "decode_content": False} | ({} if body is None else {"json": body})
    for retries_left in reversed(range(retries + 1)):
        try:
            with pool.request(method, url, **options) as response:
                data = _read(response)
        except ProtocolError:  # the connection ended; the service may have signed
            if not retries_left:
                raise
            continue
        delay = response.headers.get("Retry-After", "0" if response.status in _AMBIGUOUS else "")
        is_short = re.fullmatch("[0-9]{1,9}", delay) and int(delay) <= _MAX_RETRY_AFTER
        if not retries_left or not is_short or response.status not in (*_AMBIGUOUS, *_BUSY):
            break
        time.sleep(int(delay))
    return response, data


def _read(response: BaseHTTPResponse) -> bytes:
    """Read a body."""
    try:
        data = response.read(_MAX_RESPONSE)
        if response.read(1):  # this also detects a truncated body
            raise ValueError(f"the response has more than {_MAX_RESPONSE} bytes")
    except ProtocolError:
        raise _LostResponseError("the response is incomplete") from None
    return data


def _describe_failure(error: BaseException, service: Service) -> tuple[str, str]:
    """Return why a request failed, and a remedy for the usual reasons."""
    url = service.url
    while isinstance(error, HTTPError):  # urllib3 wraps the errors of the system and of OpenSSL
        causes = [cause for cause in (error.__cause__, *error.args[::-1]) if isinstance(cause, BaseException)]
        if not causes:
            break
        error = causes[0]
    reason, remedy = str(error) or type(error).__name__, ""
    match error:
        case ssl.SSLCertVerificationError():
            remedies = dict.fromkeys(_DATE_ERRORS, COMPARE_CLOCKS) | dict.fromkeys(_NAME_ERRORS, _USE_NAME)
            reason = error.verify_message.rstrip(".")
            remedy = remedies.get(error.verify_code) or _trust_remedy(service)
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            reason = f"the server does not use TLS: try {url.replace('https', 'http', 1)}"
        case http.client.RemoteDisconnected() if url.startswith("http:"):
            reason = f"{error}: try {url.replace('http', 'https', 1)}"
        case http.client.HTTPException() if not isinstance(error, OSError):
            reason = "the response is not HTTP"
        case UnicodeEncodeError():
            reason = "an argument is not UTF-8"
        case ConnectionRefusedError():
            reason, remedy = "connection refused", "start the server with certlet serve, or pass its --url"
        case OSError(strerror=str(reason)):
            remedy = "check the host in the URL" if isinstance(error, socket.gaierror) else ""
    return reason, remedy


def _trust_remedy(service: Service) -> str:
    """Return what to do if the issuer of a certificate is not trusted."""
    file = os.environ.get(_CERT_FILE)
    if not file or service.root_pem:
        return TRUST_ROOT
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        return f"${_CERT_FILE} names {file}, which contains no certificate"
    except OSError as error:
        return f"${_CERT_FILE} names {file}: {error.strerror}"
    return TRUST_ROOT


def _uuid7() -> uuid.UUID:
    """Create a UUIDv7 (RFC 9562 5.7)."""
    random = secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return uuid.UUID(int=int(time.time() * 1000) << 80 | 7 << 76 | random)


def _parse_signed(response: Any) -> Signed:  # noqa: ANN401 - JSON
    leaf, chain, not_after = (response[name] for name in ("crt_pem", "chain_pem", "not_after"))
    notes = tuple(response["notes"])
    _verify_strings(leaf, chain, not_after, *notes)
    if not leaf or not all(_PEM_CERTIFICATES.fullmatch(pem) for pem in (leaf, chain)):
        raise ValueError("the response contains no certificate")
    return Signed(leaf, chain, notes, not_after)


def _parse_batch(body: bytes) -> list[Signed | SignFailure]:
    response = json.loads(body)
    chain = {"chain_pem": response["chain_pem"]}
    results: list[Signed | SignFailure] = []
    for result in response["results"]:
        if "certificate" in result:
            results.append(_parse_signed(result["certificate"] | chain))
        else:
            problem = result["problem"]
            status = _EXIT_STATUSES.get(problem["status"], ExitStatus.REFUSED)
            results.append(SignFailure(_format_problem(problem), status))
    return results


def _parse_profiles(body: bytes) -> list[ProfileInfo]:
    return [
        ProfileInfo(str(info["name"]), tuple(info["certificate_policies"]), tuple(info["extensions"]))
        for info in json.loads(body)["profiles"]
    ]


def _parse_renewal_window(body: bytes) -> tuple[datetime, datetime]:
    window = json.loads(body)["suggestedWindow"]
    start, end = (datetime.fromisoformat(window[name]) for name in ("start", "end"))
    if not (start.tzinfo and end.tzinfo and start < end):
        raise ValueError("the response contains no window")
    return start, end


def _parse_dry_run(body: bytes) -> DryRun:
    response = json.loads(body)
    members = {field.name: response[field.name] for field in fields(DryRun)}
    names, notes = tuple(members.pop("names")), tuple(members.pop("notes"))
    _verify_strings(*members.values(), *names, *notes)
    return DryRun(**members, names=names, notes=notes)


def _verify_strings(*texts: object) -> None:
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("the response does not conform to the API")


def _format_problem(problem: Any) -> str:  # noqa: ANN401 - JSON
    """Format a problem document: one line, and one more for each of several reasons."""
    reasons = [(reason["field"], reason["detail"]) for reason in problem.get("errors", ())]
    field = f", {reasons[0][0]}" if len(reasons) == 1 and reasons[0][0] else ""
    lines = [f"{problem['title']}: {problem['detail']} ({problem['status']} {problem['code']}{field})"]
    lines += [f"  {field}: {detail}" for field, detail in reasons] if len(reasons) > 1 else []
    return "\n".join(map(escape_controls, lines))  # the server cannot forge a line of output
