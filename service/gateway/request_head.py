"""Request heads that aiohttp's parser refuses, and the gateway response that each gets."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from service.gateway.routes import METHODS, GatewayError

MAX_LINE: Final = 8190  # octets of a request target, and of a header
MAX_FIELDS: Final = 128  # headers
RECORDED: Final = MAX_LINE + 256  # octets of a head that `refuse` needs
VERSIONS: Final = ("1.0", "1.1")
_REQUEST_LINE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:$| ([^ ]*)(?: HTTP/(\d\.\d)$)?)")


class RequestLine(NamedTuple):
    """A request line (RFC 9112 3); parts that are missing or malformed are ''."""

    method: str
    target: str
    version: str


def parse_request_line(head: bytes) -> RequestLine:
    """Parse the request line of a head, which may be incomplete."""
    line = head.lstrip(b"\r\n").partition(b"\r\n")[0].decode("latin-1")
    match = _REQUEST_LINE.match(line)
    return RequestLine(*match.groups("")) if match else RequestLine("", "", "")


def refuse(head: bytes) -> GatewayError:
    """The gateway response to a head that the parser refuses.

    Args:
        head: its first octets, at most RECORDED. A head that is longer is too large.
    """
    fields, end, _ = head.lstrip(b"\r\n").partition(b"\r\n\r\n")
    _, *lines = fields.split(b"\r\n")
    request_line = parse_request_line(head)
    if request_line.version and request_line.version not in VERSIONS:
        return GatewayError("VERSION_NOT_SUPPORTED")
    if request_line.method and request_line.method not in METHODS:
        return GatewayError("NOT_IMPLEMENTED")
    if len(request_line.target) > MAX_LINE:
        return GatewayError("URI_TOO_LONG")
    is_long = not end and len(head) >= RECORDED
    has_long_field = any(len(field) > MAX_LINE for field in lines)
    if request_line.version and (is_long or has_long_field or len(lines) > MAX_FIELDS):
        return GatewayError("HEADER_FIELDS_TOO_LARGE")
    return GatewayError("DEFAULT_4XX", "The request is not well-formed HTTP")
