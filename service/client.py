"""The client behind `certlet sign`: one HTTP request to a Certlet, whatever serves it."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

_TIMEOUT: Final = 35.0  # seconds, longer than API Gateway's longest


class ClientError(Exception):
    """No certificate came back; the message says why, a line for each reason."""


@dataclass(frozen=True)
class Signed:
    """The answer: certificate, intermediates, and what is worth knowing."""

    crt_pem: str
    chain_pem: str
    notes: tuple[str, ...]
    not_after: str


def sign(url: str, api_key: str, csr: str, profile: str | None) -> Signed:
    """Have a certification request signed.

    Args:
        url: the service's base URL, with its stage if it has one.
        api_key: the API key.
        csr: the request, PEM or base64 of the DER.
        profile: the certificate profile; None for the default one.

    Raises:
        ClientError: it is refused, or no service answers there.
    """
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise ClientError(f"{url} is not an http or https URL")
    if not re.fullmatch(r"[!-~]{1,128}", api_key):
        raise ClientError("an API key has at most 128 visible ASCII characters, without spaces")
    order = {"csr": csr, "text": False} | ({"profile": profile} if profile else {})
    try:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            url.rstrip("/") + "/sign",
            json.dumps(order).encode(),
            {"Content-Type": "application/json", "x-api-key": api_key},
        )
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(request, timeout=_TIMEOUT) as response:
            return _signed(json.load(response))
    except urllib.error.HTTPError as error:
        raise ClientError(_explain(error)) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise ClientError(f"no Certlet answers at {url}: {reason}") from error


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


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem: dict[str, Any] = json.load(error)
        lines = [f"{problem['title']} {problem['detail']} ({error.code} {problem['code']})"]
        lines += [f"  {each['field']}: {each['detail']}" for each in problem.get("errors", ())]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
    return "\n".join(lines)
