"""HTTPS, with a certificate from a file, or one that the function issues and renews."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.gateway.configuration import Configuration
from service.gateway.events import with_new_id
from service.gateway.routes import GatewayError
from service.gateway.tls_connection import TlsConnection, TlsContext

RENEW_AFTER: Final = 2 / 3  # of the remaining lifetime of a new certificate
RETRY: Final = 60.0  # seconds between attempts to renew; fewer if the certificate expires soon
MIN_RETRY: Final = 1.0  # seconds
_TIMEOUT: Final = 10.0  # seconds for the function to respond

_log = logging.getLogger(__name__)

JSONObject = dict[str, Any]
Invoke = Callable[[JSONObject, float], Awaitable[Any]]
"""Invokes the function with an event; the second argument is the time-out in seconds."""


class TlsError(Exception):
    """HTTPS cannot be served; the message is one line."""


class Tls:
    """The server's side of TLS 1.2 and newer. New connections use the latest loaded certificate."""

    def __init__(self, certificate: str, key: str, password: str | None = None) -> None:
        """Create a context; `load` reads the files.

        Args:
            certificate: path of the server's certificate with its intermediates, PEM.
            key: path of its private key, PEM.
            password: the key's password; if None and the key is encrypted, OpenSSL prompts for it.
        """
        self.context = TlsContext(ssl.PROTOCOL_TLS_SERVER)
        self.end: float | None = None  # of the certificate, in seconds since 1970; None if none is loaded
        self._certificate = Path(certificate)
        self._key = Path(key)
        self._password = password
        self._renewal: asyncio.Task[None] | None = None

    def load(self, certificate: str = "", key: str = "") -> None:
        """Load a certificate and its key, PEM; from the files if they are empty.

        Raises:
            TlsError: they are not a certificate and its key.
        """
        try:
            pem = certificate.encode() or self._certificate.read_bytes()
            self.context.load(pem, key.encode() or self._key.read_bytes(), self._password)
            self.end = x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
        except (OSError, ValueError) as error:
            raise TlsError(f"OpenSSL cannot load {self._certificate} and {self._key}: {error}") from error

    async def start(self, invoke: Invoke, configuration: Configuration) -> None:
        """Use this configuration from now on, or change nothing.

        The function supplies the CAs of client certificates, and the server's certificate, which is then
        renewed, unless the operator supplies it.

        Raises:
            TlsError: the function fails, or the operator's certificate or key is not usable.
        """
        ca_event, signing_event = configuration.tls_client_ca_event, configuration.tls_signing_event
        cas = str((await invoke_checked(invoke, ca_event))["body"]) if ca_event else ""
        if signing_event:
            expires_at = await self.enroll(invoke, signing_event)
            self.stop()
            self._renewal = asyncio.create_task(self.renew_forever(invoke, signing_event, expires_at))
        elif configuration.tls_key_pem:
            self.load(configuration.tls_certificate_pem, configuration.tls_key_pem)
        if cas:
            self.context.accept_clients(cas)

    def stop(self) -> None:
        """Stop to renew the certificate."""
        if self._renewal:
            self._renewal.cancel()

    async def enroll(self, invoke: Invoke, event: JSONObject) -> float:
        """Have the function issue the server's certificate, and load it.

        Returns:
            its expiry, in seconds since 1970, UTC.

        Raises:
            TlsError: the function fails.
        """
        body = (await invoke_checked(invoke, event))["body"]
        try:
            signed = json.loads(body)
            pem, expiry = signed["crt_pem"] + signed["chain_pem"], datetime.fromisoformat(signed["not_after"])
        except (KeyError, TypeError, ValueError) as error:
            raise TlsError("the function did not return a signed certificate") from error
        self.load(pem)
        return expiry.timestamp()

    async def renew_forever(self, invoke: Invoke, event: JSONObject, expires_at: float) -> None:
        """Renew the certificate forever, each time after two thirds of its lifetime.

        After a failure, retry; the intervals allow several attempts before the expiry. Continue after it too.

        Args:
            invoke: the function.
            event: the event that requests the certificate.
            expires_at: the expiry of the current certificate, in seconds since 1970, UTC.
        """
        pause = (expires_at - time.time()) * RENEW_AFTER
        while True:
            await _sleep_until(time.time() + pause)
            try:
                expires_at = await self.enroll(invoke, event)
                _log.info("the server's certificate was renewed")
                pause = (expires_at - time.time()) * RENEW_AFTER
            except (TlsError, OSError) as error:
                _log.error("cannot renew the server's certificate: %s", error)
                pause = min(RETRY, max(MIN_RETRY, (expires_at - time.time()) / 10))


async def _sleep_until(moment: float) -> None:
    """Sleep in short intervals: the monotonic clock stops while the machine is suspended."""
    while (left := moment - time.time()) > 0:  # noqa: ASYNC110 - a clock sets no event
        await asyncio.sleep(min(left, RETRY))


async def invoke_checked(invoke: Invoke, event: JSONObject) -> JSONObject:
    """Invoke the function; raise TlsError if it fails, with the detail of its problem."""
    try:
        result: JSONObject = await invoke(with_new_id(event), _TIMEOUT)
    except GatewayError as error:
        raise TlsError(f"the function did not respond: {error.kind}") from error
    if result["statusCode"] == 200:  # noqa: PLR2004
        return result
    problem = json.loads(result["body"])
    reasons = [f"{error['field']}: {error['detail']}" for error in problem.get("errors", ())]
    raise TlsError("; ".join([problem["detail"], *reasons]))


def client_certificate(connection: TlsConnection | None) -> JSONObject | None:
    """The client certificate that the handshake verified; None if there is none.

    The format is that of `requestContext.identity.clientCert` of API Gateway.
    """
    certificate = connection and connection.client_certificate()
    if not certificate:
        return None
    serial = certificate.serial_number
    return {
        "clientCertPem": certificate.public_bytes(Encoding.PEM).decode(),
        "subjectDN": certificate.subject.rfc4514_string(),
        "issuerDN": certificate.issuer.rfc4514_string(),
        "serialNumber": serial.to_bytes((serial.bit_length() + 7) // 8).hex(":"),
        "validity": {
            "notBefore": _format_time(certificate.not_valid_before_utc),
            "notAfter": _format_time(certificate.not_valid_after_utc),
        },
    }


def _format_time(moment: datetime) -> str:
    return f"{moment:%b %e %H:%M:%S %Y} GMT"
