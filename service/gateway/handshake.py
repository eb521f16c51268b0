"""TLS handshakes that are refused: the client gets the alert, and the log a line."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, cast

OnRefusal = Callable[[ssl.SSLError], None]
on_refusal: Final[ContextVar[OnRefusal]] = ContextVar("on_refusal")
"""Logs the refusal of the handshake that the current task starts, and closes its connection."""

# X.509 verification errors of OpenSSL (X509_verify_cert_error_string(3)) -> alerts (RFC 8446 6.2).
_VERIFICATION_ALERTS: Final = {
    **dict.fromkeys((2, 18, 19, 20, 21, 24), "unknown_ca"),
    7: "decrypt_error",
    10: "certificate_expired",
    26: "unsupported_certificate",
}
_ALERTS: Final = {"NO_SHARED_CIPHER": "handshake_failure", "UNSUPPORTED_PROTOCOL": "protocol_version"}


class TlsConnection(ssl.SSLObject):
    """The server's side of a TLS connection.

    asyncio closes a connection whose handshake fails without sending the alert, which is in the buffer. So
    this class asks for more input instead, which makes asyncio send the buffer, and discards that input.
    """

    incoming: ssl.MemoryBIO
    on_refusal: OnRefusal
    _is_refused = False

    def do_handshake(self) -> None:
        """Continue the handshake."""
        try:
            if not self._is_refused:
                super().do_handshake()
                return
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._is_refused = True
            self.on_refusal(error)
        self.incoming.read()
        raise ssl.SSLWantReadError


class TlsContext(ssl.SSLContext):
    """The TLS context of a server, whose connections are of the class above."""

    sslobject_class = TlsConnection

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature of ssl
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> TlsConnection:
        """Create the connection of the current task."""
        created = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        connection = cast("TlsConnection", created)
        connection.incoming, connection.on_refusal = incoming, on_refusal.get()
        return connection


def describe(error: ssl.SSLError) -> str:
    """Describe why a handshake is refused: the alert that is sent, if any, and the reason."""
    reason = (error.reason or "unknown").replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        alert = _VERIFICATION_ALERTS.get(error.verify_code, "bad_certificate")
        return f"{alert}: client certificate: {error.verify_message}"
    if error.reason in _ALERTS:
        return f"{_ALERTS[error.reason]}: {reason}"
    if error.reason == "HTTP_REQUEST":
        return "plain HTTP on the port for HTTPS"
    _, _, received = reason.rpartition(" alert ")
    return f"the client sent the alert {received.replace(' ', '_')}" if " alert " in reason else reason
