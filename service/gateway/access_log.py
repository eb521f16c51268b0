"""The access log: one line on stderr for each request, and for each refused TLS handshake.

A line is ASCII, and no text of a client can begin another one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from typing import Final, NamedTuple

from service import audit
from service.gateway.configuration import AccessLogFormat
from service.gateway.events import format_utc
from service.gateway.worker import to_json

MAX_TEXT: Final = 200  # characters of a client's text; the rest is cut off
_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")  # in quotes: all but visible ASCII, and `"` and `\`

_log = logging.getLogger(__name__)


class Exchange(NamedTuple):
    """A request and its response, without the event and the key.

    Attributes:
        request_id: the ID of the request.
        trace_id: the ID of its trace; '' if it has none.
        operation: the operationId; '' if the contract has no operation with this path and method.
        source_ip: the address of the client; None if it has disconnected.
        key: the principal of the API key or of the token; None without.
        key_id: the ID of the API key, which may have expired; None without.
        method, path, protocol: of the request line, '' if it is malformed; the path without the query.
        referer, user_agent: the headers; '' if the request has none.
        status: the status of the response.
        size: the bytes of the response's body.
        seconds: from the head of the request to the response.
    """

    request_id: str
    trace_id: str
    operation: str
    source_ip: str | None
    key: str | None
    key_id: str | None
    method: str
    path: str
    protocol: str
    referer: str
    user_agent: str
    status: int
    size: int
    seconds: float


class AccessLog:
    """Writes the lines. An unwritable log does not prevent responses."""

    def __init__(self, line_format: AccessLogFormat) -> None:
        self._format = line_format

    def write_exchange(self, exchange: Exchange) -> None:
        """Write the line of a request."""
        if self._format is AccessLogFormat.COMBINED:
            _write(_combined(exchange))
            return
        texts = {
            "protocol": exchange.protocol,
            "referer": exchange.referer[:MAX_TEXT],
            "user_agent": exchange.user_agent[:MAX_TEXT],
        }
        _write_json(
            "access",
            request_id=exchange.request_id,
            **({"trace_id": exchange.trace_id} if exchange.trace_id else {}),
            source_ip=exchange.source_ip,
            key=exchange.key,
            key_id=exchange.key_id,
            method=exchange.method[:MAX_TEXT],
            path=exchange.path[:MAX_TEXT],
            status=exchange.status,
            bytes=exchange.size,
            milliseconds=round(exchange.seconds * 1000, 1),
            **{name: text for name, text in texts.items() if text},
        )

    def write_refused_handshake(self, source_ip: str, reason: str) -> None:
        """Write the line of a refused TLS handshake: JSON, or a warning, since the other format has none."""
        if self._format is AccessLogFormat.JSON:
            _write_json("tls", source_ip=source_ip, refused=reason)
        else:
            _log.warning("%s: the TLS handshake was refused: %s", source_ip, reason)


def _write_json(kind: str, **members: object) -> None:
    """Write a record whose first member is `kind`, the time."""
    _write(to_json({kind: format_utc(int(time.time()), "%Y-%m-%dT%H:%M:%SZ"), **members}))


def _combined(exchange: Exchange) -> str:
    """The combined log format of Apache and nginx."""
    user = _escape(exchange.key or "-").replace(" ", r"\x20")
    moment = format_utc(int(time.time()), "%d/%b/%Y:%H:%M:%S +0000")
    request_line = " ".join(
        filter(None, (exchange.method[:MAX_TEXT], exchange.path[:MAX_TEXT], exchange.protocol))
    )
    quoted = [f'"{_escape(text[:MAX_TEXT] or "-")}"' for text in (exchange.referer, exchange.user_agent)]
    return " ".join(
        [
            f'{exchange.source_ip or "-"} - {user} [{moment}] "{_escape(request_line or "-")}"',
            f"{exchange.status} {exchange.size}",
            *quoted,
        ]
    )


def _escape(text: str) -> str:
    r"""Escape octets as nginx does: `\x` and two digits."""
    return _UNSAFE.sub(lambda match: "".join(rf"\x{octet:02X}" for octet in _encode(match[0])), text)


def _encode(character: str) -> bytes:
    """Encode a character; aiohttp decodes octets that are not UTF-8 as low surrogates."""
    is_octet = "\udc80" <= character <= "\udcff"
    return character.encode("utf-8", "surrogateescape" if is_octet else "surrogatepass")


def _write(line: str) -> None:
    stderr = sys.stderr.fileno()
    # The lock keeps long audit records in a pipe intact.
    with contextlib.suppress(OSError), audit.locked_descriptor(stderr):
        os.write(stderr, f"{line}\n".encode("ascii"))
