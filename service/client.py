"""The client behind `certlet sign`: one HTTP request to a Certlet, whatever serves it."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_TIMEOUT: Final = 35.0  # seconds, longer than API Gateway's longest
_LOST: Final = (502, 504)  # the function may have signed, and nobody knows


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


@dataclass(frozen=True)
class Signed:
    """The answer: certificate, intermediates, and what is worth knowing."""

    crt_pem: str
    chain_pem: str
    notes: tuple[str, ...]
    not_after: str


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
    headers = {"Idempotency-Key": str(_uuid7())}
    return _ask(url, "/sign", api_key, wish, headers, _signed)


def examine(url: str, api_key: str, wish: Wish) -> Planned:
    """Ask what would be issued; nothing is.

    Args:
        url: as for `sign`.
        api_key: as for `sign`.
        wish: as for `sign`.

    Raises:
        ClientError: it would be refused, or no service answers there.
    """
    return _ask(url, "/sign?dry_run=true", api_key, wish, {}, _planned)


def _ask(
    url: str, path: str, api_key: str, wish: Wish, headers: dict[str, str], read: Callable[[Any], _T]
) -> _T:
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise ClientError(f"{url} is not an http or https URL")
    if not re.fullmatch(r"[!-~]{1,128}", api_key):
        raise ClientError("an API key has at most 128 visible ASCII characters, without spaces")
    body = {"text": False, **{name: value for name, value in vars(wish).items() if value is not None}}
    try:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            url.rstrip("/") + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "x-api-key": api_key, **headers},
        )
        return read(_answer(request, attempts=3 if headers else 1))
    except urllib.error.HTTPError as error:
        raise ClientError(_explain(error)) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise ClientError(f"no Certlet answers at {url}: {reason}") from error


def _answer(request: urllib.request.Request, attempts: int) -> Any:  # noqa: ANN401 - JSON
    """The answer; asked for again where one may have got lost after the service had the request."""
    opener = urllib.request.build_opener(_NoRedirects)
    for left in reversed(range(attempts)):
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in _LOST or not left:
                raise
            error.close()
        except (ConnectionResetError, http.client.RemoteDisconnected, http.client.IncompleteRead):
            if not left:
                raise
    raise AssertionError("the last attempt returns or raises")


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


def _signed(answer: Any) -> Signed:  # noqa: ANN401 - JSON
    leaf, chain, not_after = (answer[name] for name in ("crt_pem", "chain_pem", "not_after"))
    notes = tuple(answer["notes"])
    if not all(isinstance(each, str) for each in (leaf, chain, not_after, *notes)):
        raise TypeError("its answer is not the contract's")
    return Signed(leaf, chain, notes, not_after)


def _planned(answer: Any) -> Planned:  # noqa: ANN401 - JSON
    members = {each.name: answer[each.name] for each in fields(Planned)}
    names, notes = tuple(members.pop("names")), tuple(members.pop("notes"))
    if not all(isinstance(each, str) for each in (*members.values(), *names, *notes)):
        raise TypeError("its answer is not the contract's")
    return Planned(**members, names=names, notes=notes)


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem: dict[str, Any] = json.load(error)
        lines = [f"{problem['title']} {problem['detail']} ({error.code} {problem['code']})"]
        lines += [f"  {each['field']}: {each['detail']}" for each in problem.get("errors", ())]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
    return "\n".join(lines)
