"""The client behind `certlet sign` and its like: HTTP requests to a Certlet, whatever serves it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

from service.pki.errors import printable

_T = TypeVar("_T")
_TIMEOUT: Final = 35.0  # seconds, longer than API Gateway's longest
_LOST: Final = (502, 504)  # the function may have signed, and nobody knows
_UNAVAILABLE: Final = 503
_BUSY: Final = 429  # the usage plan's rate is used up for a moment, or its quota for longer
_PATIENCE: Final = 10  # seconds that are waited where the service says for how long

# RFC 7468 5.1, as Certlet writes it: nothing else of an answer gets into a file or to a terminal.
_CERTIFICATES: Final = re.compile(
    r"(-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE-----\n)*"
)

BATCH_REQUESTS: Final = 500  # of one batch
BATCH_BYTES: Final = 4_194_304  # of its body


class ClientError(Exception):
    """No certificate came back; the message says why, a line for each reason."""


@dataclass(frozen=True)
class Wish:
    """What is to be signed.

    Attributes:
        csr: the request, PEM or base64 of the DER.
        profile: the certificate profile; None for the default one.
        validity: how long, ISO 8601; None for the profile's.
        not_after: until when, RFC 3339, instead.
    """

    csr: str
    profile: str | None = None
    validity: str | None = None
    not_after: str | None = None

    def stated(self) -> dict[str, str]:
        """The same as the contract's members."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Signed:
    """The answer: certificate, intermediates, and what is worth knowing."""

    crt_pem: str
    chain_pem: str
    notes: tuple[str, ...]
    not_after: str


@dataclass(frozen=True)
class Unsigned:
    """What became of a request of a batch that got no certificate.

    Attributes:
        why: every reason, a line each.
        is_passing: whether there was only no time or room for it: it may be sent again.
    """

    why: str
    is_passing: bool


@dataclass(frozen=True)
class Offer:
    """A certificate profile that the caller may use.

    Attributes:
        name: what a request names it.
        policies: the OIDs of its certificate policies; the first is its own.
        extensions: the OIDs of the extensions that a request may bring along.
    """

    name: str
    policies: tuple[str, ...]
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """The answer to a dry run: what would be issued."""

    subject: str
    names: tuple[str, ...]
    not_before: str
    not_after: str
    profile: str
    notes: tuple[str, ...]


def sign(url: str, api_key: str, wish: Wish) -> Signed:
    """Have a certification request signed.

    Where an answer got lost on its way the request is sent again, twice at most, with the same
    Idempotency-Key: a CA that can repeat itself then answers the same certificate.

    Args:
        url: the service's base URL, with its stage if it has one.
        api_key: the API key.
        wish: what is to be signed.

    Raises:
        ClientError: it is refused, or no service answers there.
    """
    return _ask(url, "/sign", api_key, _json({"text": False, **wish.stated()}), _signed, repeats=True)


def sign_batch(url: str, api_key: str, wishes: Sequence[Wish]) -> list[Signed | Unsigned]:
    """Have several certification requests signed in one go, each judged by itself.

    A lost answer is asked for again, as in `sign`; where the usage plan wants it, its time is waited for.

    Args:
        url: as for `sign`.
        api_key: as for `sign`.
        wishes: at most `BATCH_REQUESTS`, of at most `BATCH_BYTES` in JSON.

    Returns:
        what became of each, in their order.

    Raises:
        ClientError: none was judged, or no service answers there.
    """
    found = _ask(url, "/sign/batch", api_key, _body(wishes), _batch, repeats=True)
    if len(found) != len(wishes):
        raise ClientError(f"{url} answered {len(found)} results for {len(wishes)} requests")
    return found


def examine(url: str, api_key: str, wish: Wish) -> Planned:
    """Ask what would be issued; nothing is.

    Args:
        url: as for `sign`.
        api_key: as for `sign`.
        wish: as for `sign`.

    Raises:
        ClientError: it would be refused, or no service answers there.
    """
    return _ask(url, "/sign?dry_run=true", api_key, _json(wish.stated()), _planned, repeats=False)


def offers(url: str, api_key: str) -> list[Offer]:
    """Ask which profiles the caller may use.

    Args:
        url: as for `sign`.
        api_key: as for `sign`.

    Raises:
        ClientError: it is refused, or no service answers there.
    """
    return _ask(url, "/profiles/mine", api_key, None, _offers, repeats=False)


def crl(url: str) -> bytes:
    """The list of what the service's CA revoked, DER.

    Args:
        url: as for `sign`.

    Raises:
        ClientError: it is refused, or no service answers there.
    """
    return _ask(url, "/ca.crl", None, None, bytes, repeats=False)


def root(url: str) -> bytes:
    """Fetch the root's certificate, DER, from whoever answers there: it proves nothing by itself.

    So TLS proves nothing either: its certificate may be under this very root, which nobody trusts yet.

    Args:
        url: as for `sign`.

    Raises:
        ClientError: it is refused, or no service answers there.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _explaining(url):
        request = _request(url, "/root.crt", None, None)
        return _answer(request, 1, urllib.request.HTTPSHandler(context=context))


def _body(wishes: Sequence[Wish]) -> bytes:
    return _json({"requests": [wish.stated() for wish in wishes]})


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


def _ask(
    url: str,
    path: str,
    api_key: str | None,
    body: bytes | None,
    read: Callable[[bytes], _T],
    *,
    repeats: bool,
) -> _T:
    with _explaining(url):
        request = _request(url, path, api_key, body)
        if repeats:
            request.add_header("Idempotency-Key", str(_uuid7()))
        return read(_answer(request, attempts=3 if repeats else 1))


def _request(url: str, path: str, api_key: str | None, body: bytes | None) -> urllib.request.Request:
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise ClientError(f"{url} is not an http or https URL")
    headers = {} if body is None else {"Content-Type": "application/json"}
    if api_key is not None:
        if not re.fullmatch(r"[!-~]{1,128}", api_key):
            raise ClientError("an API key has at most 128 visible ASCII characters, without spaces")
        headers["x-api-key"] = api_key
    return urllib.request.Request(url.rstrip("/") + path, body, headers)  # noqa: S310 - the scheme was checked


@contextlib.contextmanager
def _explaining(url: str) -> Iterator[None]:
    """Every failure of the network, and every answer that is none, in words."""
    try:
        yield
    except urllib.error.HTTPError as error:
        hint = f"\n  is {url} the service's base URL, with its stage if it has one?"
        raise ClientError(_explain(error) + (hint if error.code == HTTPStatus.NOT_FOUND else "")) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ClientError(f"no Certlet answers at {url}: {_cause(cause, url)}") from error


def _cause(error: BaseException | str, url: str) -> str:
    """Why a connection came to nothing, and what is to be done about the usual reasons."""
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


def _answer(request: urllib.request.Request, attempts: int, *handlers: urllib.request.BaseHandler) -> bytes:
    """The answer; asked for again where one may have got lost after the service had the request."""
    opener = urllib.request.build_opener(_NoRedirects, *handlers)
    for left in reversed(range(attempts)):
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            wait = 0 if error.code in _LOST else _wait(error)
            if wait is None or not left:
                raise
            error.close()
            time.sleep(wait)
        except (ConnectionResetError, http.client.RemoteDisconnected, http.client.IncompleteRead):
            if not left:
                raise
    raise AssertionError("the last attempt returns or raises")


def _wait(error: urllib.error.HTTPError) -> int | None:
    """How many seconds a busy service asks to be given; None if it is not busy, or for too long."""
    seconds = error.headers.get("Retry-After", "")
    if error.code != _BUSY or not re.fullmatch("[0-9]{1,9}", seconds) or int(seconds) > _PATIENCE:
        return None
    return int(seconds)


def _uuid7() -> uuid.UUID:
    """A UUIDv7 (RFC 9562 5.7) of now."""
    milliseconds = int(datetime.now(UTC).timestamp() * 1000)
    return uuid.UUID(
        int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: following it would send the API key to whoever is named there."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        """Follow none."""


def _signed(body: bytes) -> Signed:
    return _issued(json.loads(body))


def _issued(answer: Any) -> Signed:  # noqa: ANN401 - JSON
    leaf, chain, not_after = (answer[name] for name in ("crt_pem", "chain_pem", "not_after"))
    notes = tuple(answer["notes"])
    if not all(isinstance(each, str) for each in (leaf, chain, not_after, *notes)):
        raise TypeError("its answer is not the contract's")
    if not leaf or not all(_CERTIFICATES.fullmatch(each) for each in (leaf, chain)):
        raise ValueError("its answer holds no certificate")
    return Signed(leaf, chain, notes, not_after)


def _batch(body: bytes) -> list[Signed | Unsigned]:
    answer = json.loads(body)
    chain = {"chain_pem": answer["chain_pem"]}
    return [
        _issued(each["certificate"] | chain)
        if "certificate" in each
        else Unsigned(_told(each["problem"]), each["problem"]["status"] == _UNAVAILABLE)
        for each in answer["results"]
    ]


def _offers(body: bytes) -> list[Offer]:
    return [
        Offer(str(each["name"]), tuple(each["certificate_policies"]), tuple(each["extensions"]))
        for each in json.loads(body)["profiles"]
    ]


def _planned(body: bytes) -> Planned:
    answer = json.loads(body)
    members = {each.name: answer[each.name] for each in fields(Planned)}
    names, notes = tuple(members.pop("names")), tuple(members.pop("notes"))
    if not all(isinstance(each, str) for each in (*members.values(), *names, *notes)):
        raise TypeError("its answer is not the contract's")
    return Planned(**members, names=names, notes=notes)


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        return _told(json.load(error))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"


def _told(problem: Any) -> str:  # noqa: ANN401 - JSON
    """A problem document for people: a line, and one more for each of several reasons."""
    reasons = [(each["field"], each["detail"]) for each in problem.get("errors", ())]
    where = f", {reasons[0][0]}" if len(reasons) == 1 and reasons[0][0] else ""
    lines = [f"{problem['title']} {problem['detail']} ({problem['status']} {problem['code']}{where})"]
    lines += [f"  {field}: {detail}" for field, detail in reasons] if len(reasons) > 1 else []
    return "\n".join(map(printable, lines))  # a line of ours is none of the server's making
