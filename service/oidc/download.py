"""Download a small file by https, within a total time limit, from a URL of the operator."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from concurrent.futures import Future
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

TIMEOUT: Final = 3.0  # seconds for a download, including the lookup of the name
MAX_BODY: Final = 65_536  # octets


class DownloadError(Exception):
    """The file was not downloaded. The message has no text of the server."""


def create_tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Create the TLS of a client that verifies the server's name.

    Args:
        ca_file: PEM certificates of CAs; None for those of the system.

    Raises:
        OSError: the file cannot be read, or contains no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificates and names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    return context


def download(url: str, context: ssl.SSLContext, timeout: float = TIMEOUT) -> bytes:
    """Download a file of at most `MAX_BODY` octets.

    Redirects are not followed: another server would choose where this process connects to. Proxies of the
    environment are not used, and no cookies are sent.

    Args:
        url: an https URL.
        context: the TLS.
        timeout: seconds, in total.

    Raises:
        DownloadError: there is no complete response in time, its status is not 200, or it is too long.
    """
    request = _Request(url, context, timeout)
    request.start()
    try:
        status, body = request.response.result(timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(_describe(error, timeout)) from error
    finally:
        request.abort()
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise DownloadError(f"the server redirects (status {status}), which is not followed")
    if status != HTTPStatus.OK:
        raise DownloadError(f"the server answered with status {status}")
    if len(body) > MAX_BODY:
        raise DownloadError(f"the server sent more than {MAX_BODY} octets")
    return body


class _Request(threading.Thread):
    """A request in a thread, since a name lookup and a slow response have no total time limit.

    When `abort` returns, the thread ends as soon as its lookup or handshake does. It does not delay the exit
    of the process.
    """

    def __init__(self, url: str, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(daemon=True)
        self.response: Future[tuple[int, bytes]] = Future()
        self._url, self._context, self._timeout = url, context, timeout
        self._socket: socket.socket | None = None
        self._is_aborted = False

    def run(self) -> None:
        try:
            self.response.set_result(self._get())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.response.set_exception(error)

    def abort(self) -> None:
        """End the connection."""
        self._is_aborted = True
        if self._socket:
            with contextlib.suppress(OSError):  # it has ended
                self._socket.shutdown(socket.SHUT_RDWR)

    def _get(self) -> tuple[int, bytes]:
        """Return the status and the start of the body, of at most `MAX_BODY` + 1 octets."""
        parts = urlsplit(self._url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=self._timeout, context=self._context
        )
        with contextlib.closing(connection):
            connection.connect()
            self._socket = connection.sock
            if self._is_aborted:  # before the socket was known
                raise TimeoutError
            target = (parts.path or "/") + f"?{parts.query}" * bool(parts.query)
            connection.request("GET", target, headers={"Accept": "application/json", "Connection": "close"})
            with connection.getresponse() as response:
                return response.status, response.read(MAX_BODY + 1)


def _describe(error: Exception, timeout: float) -> str:
    """Describe why there is no response, without text of the server."""
    for kind, text in (
        (TimeoutError, f"there was no complete response within {timeout:g} seconds"),
        (socket.gaierror, "the name of the server has no address in the DNS, or name servers did not answer"),
        (ssl.SSLCertVerificationError, f"the certificate is refused: {getattr(error, 'verify_message', '')}"),
        (ssl.SSLError, "the server does not speak TLS 1.2 or 1.3, or ended the connection"),
        ((http.client.HTTPException, ValueError), "the server sent no complete HTTP response"),
    ):
        if isinstance(error, kind):
            return text
    return getattr(error, "strerror", None) or "the connection failed"
