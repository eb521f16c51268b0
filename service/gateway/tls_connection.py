"""TLS connections for asyncio, by pyOpenSSL.

asyncio gets the classes of `ssl` that it expects, with other methods. `ssl` itself cannot send the names of
the CAs of client certificates, and asyncio does not send the alert of a handshake that it refuses.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM, X509, load_privatekey
from OpenSSL.crypto import Error as CryptoError

OnRefusal = Callable[[str], None]
on_refusal: Final[ContextVar[OnRefusal]] = ContextVar("on_refusal")
"""Logs why a handshake is refused, and closes its connection. asyncio keeps the context of its task."""

_CIPHERS: Final = b"@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
_CHUNK: Final = 32 * 1024  # bytes
_FOREIGN: Final = "unknown_ca: this server does not trust the CA of the client certificate"
# Verification errors of OpenSSL (x509_vfy.h) -> the alert that it sends (RFC 8446 6.2), and the reason.
_VERIFICATION_ERRORS: Final = {
    **dict.fromkeys((2, 18, 19, 20, 21), _FOREIGN),
    9: "bad_certificate: the client certificate is not yet valid",
    10: "certificate_expired: the client certificate has expired",
    26: "unsupported_certificate: the client certificate is not for TLS clients",
}
_REASONS: Final = {  # of OpenSSL's errors -> the alert, and the reason
    "http request": "plain HTTP on the port for HTTPS",
    "no shared cipher": "handshake_failure: no cipher suite in common",
    "unsupported protocol": "protocol_version: the client supports only older versions of TLS",
}
_Result = TypeVar("_Result")


class TlsConnection(ssl.SSLObject):
    """The server's side of a TLS connection."""

    def __init__(self, context: SSL.Context, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        """Create a connection with asyncio's buffers."""
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self._incoming = incoming
        self._outgoing = outgoing
        self._is_refused = False

    def client_certificate(self) -> x509.Certificate | None:
        """The client certificate that the handshake verified; None if there is none."""
        return self._tls.get_peer_certificate(as_cryptography=True)

    def do_handshake(self) -> None:
        """Continue the handshake. A refused one asks for more input, so that asyncio sends the alert."""
        try:
            if not self._is_refused:
                return self._call(self._tls.do_handshake)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            self._is_refused = True
            on_refusal.get()(_describe(str(error), self._tls.get_app_data()))
        self._incoming.read()  # discard what the client still sends
        raise ssl.SSLWantReadError

    def read(self, len: int = _CHUNK, _buffer: Any = None) -> Any:  # noqa: A002, ANN401 - as in ssl
        """Read up to `len` bytes; b"" at the end. Only buffered protocols have a buffer."""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            return self._call(self._tls.recv, len)
        return b""

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """Write bytes, and return how many."""
        return self._call(self._tls.send, data)

    def unwrap(self) -> None:
        """Send close_notify, and wait for that of the client."""
        if not self._call(self._tls.shutdown):
            raise ssl.SSLWantReadError

    def getpeercert(self, binary_form: bool = False) -> None:  # noqa: FBT001, FBT002 - as in ssl
        """None: asyncio asks for it."""

    def cipher(self) -> None:
        """None: asyncio asks for it."""

    def compression(self) -> None:
        """None: asyncio asks for it."""

    def _call(self, method: Callable[..., _Result], *arguments: object) -> _Result:
        """Call a method of OpenSSL with asyncio's input, and give asyncio the output.

        Raises:
            ssl.SSLError: as a method of `ssl` does.
        """
        if data := self._incoming.read():
            self._tls.bio_write(data)
        try:
            return method(*arguments)
        except (SSL.WantReadError, SSL.WantWriteError):
            raise ssl.SSLWantReadError from None
        except SSL.ZeroReturnError:
            raise ssl.SSLZeroReturnError from None
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, _reason(error)) from None
        finally:
            with contextlib.suppress(SSL.WantReadError):  # there is no output
                while self._outgoing.write(self._tls.bio_read(_CHUNK)) == _CHUNK:
                    pass


class TlsContext(ssl.SSLContext):
    """A server's context for TLS 1.2 and newer. New connections use what was loaded last."""

    _context: SSL.Context
    _identity: tuple[Sequence[x509.Certificate], Any] | None = None  # certificates, private key
    _client_cas: Sequence[x509.Certificate] = ()

    def load(self, certificate: bytes, key: bytes, password: str | None) -> None:
        """Load the server's certificate with its intermediates, and its key, from PEM.

        Without `password`, OpenSSL prompts for that of an encrypted key.

        Raises:
            ValueError: OpenSSL refuses one of them.
        """
        try:
            certificates = x509.load_pem_x509_certificates(certificate)
            private_key: Any = (
                load_privatekey(FILETYPE_PEM, key).to_cryptography_key()  # it prompts
                if password is None
                else load_pem_private_key(key, password.encode())
            )
            identity = certificates, private_key
            self._context = self._create(identity)
        except (
            SSL.Error,
            CryptoError,
            ValueError,
            UnsupportedAlgorithm,
        ) as error:  # ValueError: a wrong passphrase
            reason = _reason(error) if isinstance(error, (SSL.Error, CryptoError)) else " lib"
            hint = "check the passphrase, and that the key belongs to the certificate"
            raise ValueError(hint if reason.endswith(" lib") else reason) from None
        self._identity = identity

    def accept_clients(self, pem: str) -> None:
        """Request client certificates of these CAs, and no others, in new connections."""
        self._client_cas = x509.load_pem_x509_certificates(pem.encode())
        if self._identity:
            self._context = self._create(self._identity)

    def _create(self, identity: tuple[Sequence[x509.Certificate], Any]) -> SSL.Context:
        (certificate, *intermediates), private_key = identity
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 34 KB of an idle connection
        context.set_cipher_list(_CIPHERS)
        context.set_session_id(b"certlet")  # without one, clients with a certificate cannot resume sessions
        context.use_certificate(certificate)
        for intermediate in intermediates:
            context.add_extra_chain_cert(intermediate)
        context.use_privatekey(private_key)
        context.check_privatekey()
        _accept_clients(context, self._client_cas)
        return context

    def wrap_bio(  # type: ignore[override]  # asyncio sends only these arguments
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **_options: object
    ) -> TlsConnection:
        """Create a connection with asyncio's buffers."""
        return TlsConnection(self._context, incoming, outgoing)


def _accept_clients(context: SSL.Context, cas: Sequence[x509.Certificate]) -> None:
    """Verify client certificates, which are optional, and send the names of their CAs."""
    if cas:
        context.set_verify(SSL.VERIFY_PEER, _verify)
    for certificate in cas:
        context.add_client_ca(certificate)
        store = context.get_cert_store()
        if store:
            store.add_cert(X509.from_cryptography(certificate))


def _verify(connection: SSL.Connection, _certificate: X509, error: int, _depth: int, is_valid: int) -> bool:
    """Keep OpenSSL's decision, and record its error for the log."""
    if not is_valid:
        connection.set_app_data(error)
    return bool(is_valid)


def _describe(reason: str, verification_error: int | None) -> str:
    """Describe why a handshake is refused: the alert that is sent, if it is known, and the reason."""
    if verification_error is not None:
        other = f"the client certificate cannot be verified (X.509 error {verification_error} of OpenSSL)"
        return _VERIFICATION_ERRORS.get(verification_error, other)
    _, is_alert, alert = reason.rpartition(" alert ")
    if is_alert:
        return f"the client sent the alert {alert.replace(' ', '_')}"
    return _REASONS.get(reason, reason)


def _reason(error: SSL.Error | CryptoError) -> str:
    """The last error of OpenSSL's queue, which names the cause."""
    errors = error.args[0] if error.args else ()
    return str(errors[-1][2]) if isinstance(errors, list) and errors else "the client disconnected"
