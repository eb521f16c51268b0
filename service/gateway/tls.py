"""HTTPS: with a certificate from files, or one that the function signs and signs again before it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from service.gateway.routes import GatewayError

RENEW_AFTER: Final = 2 / 3  # of what is left of its life when a certificate is got
RETRY: Final = 60.0  # seconds between attempts to renew it; fewer where it ends sooner
MIN_RETRY: Final = 1.0  # seconds, then
_TIMEOUT: Final = 10.0  # seconds for the function to answer
_SHORT: Final = {  # RFC 4514's names for what `ssl` spells out; the rest keep theirs
    "commonName": "CN",
    "countryName": "C",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
}

_log = logging.getLogger(__name__)

JSON = dict[str, Any]
Invoke = Callable[[JSON, float], Awaitable[Any]]
"""Has the function answer an event within so many seconds."""


class TlsError(Exception):
    """HTTPS cannot be served; the message says why, in one line."""


class Tls:
    """The server's side of TLS 1.2 and newer. New connections get what was loaded last."""

    def __init__(self, certificate: str, key: str, password: str | None = None) -> None:
        """Name the files, in PEM: the server's certificate with its intermediates, and its private key.

        The password is the key's; OpenSSL asks for it on the terminal if there is none.
        """
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._certificate = certificate
        self._key = key
        self._password = password

    def load(self, certificate: str = "") -> None:
        """Read the files, after the certificate's got this content (PEM), if any.

        Raises:
            OSError: the certificate's file cannot be written.
            TlsError: they are no certificate and its key.
        """
        if certificate:
            Path(self._certificate).write_text(certificate, encoding="ascii")  # OpenSSL only reads files
        try:
            self.context.load_cert_chain(self._certificate, self._key, self._password)
        except OSError as error:  # ssl.SSLError is one, and says nothing of which file
            files = f"{self._certificate} and {self._key}"
            word = (getattr(error, "reason", None) or "").replace("_", " ").lower()
            told = word or "is the passphrase right, and the key the certificate's?"
            raise TlsError(f"OpenSSL does not take {files}: {told}") from error

    async def load_client_cas(self, invoke: Invoke, event: JSON) -> None:
        """Take client certificates, from those who have one, under what the function answers, PEM.

        Raises:
            TlsError: it does not.
        """
        pem = str((await _invoke_checked(invoke, event))["body"])
        self.context.load_verify_locations(cadata=pem)
        self.context.verify_mode = ssl.CERT_OPTIONAL

    async def enroll(self, invoke: Invoke, event: JSON) -> float:
        """Have the function sign the server's certificate, and use it from now on.

        Returns:
            when it ends, in seconds since 1970, UTC.

        Raises:
            TlsError: the function does not sign it.
        """
        body = (await _invoke_checked(invoke, event))["body"]
        try:
            signed = json.loads(body)
            pem, ends = signed["crt_pem"] + signed["chain_pem"], datetime.fromisoformat(signed["not_after"])
        except (KeyError, TypeError, ValueError) as error:
            raise TlsError("the function did not return a signed certificate") from error
        self.load(pem)
        return ends.timestamp()

    async def renew_forever(self, invoke: Invoke, event: JSON, ends: float) -> None:
        """Have it signed again for ever, each time that two thirds of its life are over.

        After a failure this tries again, often enough to succeed before the end, and on after that.

        Args:
            invoke: the function.
            event: what has it sign.
            ends: when the present certificate does, in seconds since 1970, UTC.
        """
        pause = (ends - time.time()) * RENEW_AFTER
        while True:
            await _sleep_until(time.time() + pause)
            try:
                ends = await self.enroll(invoke, event)
                pause = (ends - time.time()) * RENEW_AFTER
            except (TlsError, OSError) as error:
                _log.error("the server's own certificate is not renewed: %s", error)
                pause = min(RETRY, max(MIN_RETRY, (ends - time.time()) / 10))


async def _sleep_until(moment: float) -> None:
    """By the wall clock, in small parts: a machine that sleeps does not count."""
    while (left := moment - time.time()) > 0:  # noqa: ASYNC110 - a clock is no event
        await asyncio.sleep(min(left, RETRY))


async def _invoke_checked(invoke: Invoke, event: JSON) -> JSON:
    context = {**event["requestContext"], "requestId": str(uuid.uuid4())}
    try:
        result: JSON = await invoke({**event, "requestContext": context}, _TIMEOUT)
    except GatewayError as error:
        raise TlsError(f"the function did not answer: {error.kind}") from error
    if result["statusCode"] == 200:  # noqa: PLR2004
        return result
    problem = json.loads(result["body"])
    reasons = [f"{each['field']}: {each['detail']}" for each in problem.get("errors", ())]
    raise TlsError("; ".join([problem["detail"], *reasons]))


def client_certificate(connection: ssl.SSLObject | None) -> JSON | None:
    """The client's certificate in API Gateway's words (`requestContext.identity.clientCert`), which was
    verified in the handshake; None if there is none.
    """
    told: JSON = (connection and connection.getpeercert()) or {}
    der = connection.getpeercert(binary_form=True) if connection and told else None
    if not der:
        return None
    digits = told["serialNumber"].lower()
    return {
        "clientCertPem": ssl.DER_cert_to_PEM_cert(der),
        "subjectDN": _name(told["subject"]),
        "issuerDN": _name(told["issuer"]),
        "serialNumber": ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)),
        "validity": {"notBefore": told["notBefore"], "notAfter": told["notAfter"]},
    }


def _name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    return ",".join(f"{_SHORT.get(kind, kind)}={value}" for part in reversed(parts) for kind, value in part)
