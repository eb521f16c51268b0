"""The client behind `certlet sign`: one HTTP request to a Certlet, whatever serves it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

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
    if urlsplit(url).scheme not in ("http", "https"):
        raise ClientError(f"{url} is not an http or https URL")
    order = {"csr": csr, "text": False} | ({"profile": profile} if profile else {})
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url.rstrip("/") + "/sign",
        json.dumps(order).encode(),
        {"Content-Type": "application/json", "x-api-key": api_key},
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
            answer = json.load(response)
        return Signed(answer["crt_pem"], answer["chain_pem"], tuple(answer["notes"]), answer["not_after"])
    except urllib.error.HTTPError as error:
        raise ClientError(_explain(error)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise ClientError(f"no Certlet answers at {url}: {reason}") from error


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        problem: dict[str, Any] = json.load(error)
        lines = [f"{problem['title']} {problem['detail']} ({error.code} {problem['code']})"]
        lines += [f"  {each['field']}: {each['detail']}" for each in problem.get("errors", ())]
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
    return "\n".join(lines)
