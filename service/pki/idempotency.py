"""The same certificate for a retry, with nothing stored.

Within one window of five minutes a request with the same Idempotency-Key has the same validity, and a serial
number that is a keyed hash of all the rest. A deterministic signature (RFC 6979, RFC 8032, PKCS#1 v1.5) then
makes it the same certificate, octet for octet.
"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from service.pki import encoding

WINDOW: Final = timedelta(minutes=5)
SECRET_BYTES: Final = 32
_DOMAIN: Final = b"certlet serial number 3"
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VERSION_7: Final = 7
_SERIAL_BITS: Final = 159  # positive in 20 octets (RFC 5280 4.1.2.2)


@dataclass(frozen=True)
class ReplayWindow:
    """When a certificate counts as issued, and until when a retry gets the same one, UTC."""

    issued_at: datetime
    expires_at: datetime


def replay_window(key: str, now: datetime) -> ReplayWindow:
    """The window of an Idempotency-Key at `now` (UTC).

    A UUIDv7 (RFC 9562 5.7) of the last five minutes begins its own window; any other key has the clock's. A
    UUIDv7 of the future has the clock's until its time has come, so the promise ends there.
    """
    seconds, length = int(now.timestamp()), int(WINDOW.total_seconds())
    start = seconds - seconds % length
    until = start + length
    if _UUID.fullmatch(key) and uuid.UUID(key).version == _VERSION_7:
        made = (uuid.UUID(key).int >> 80) // 1000
        if made > seconds:
            until = min(until, made)
        elif seconds < made + length:
            start, until = made, made + length
    return ReplayWindow(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(until, UTC))


def derive_serial_number(secret: bytes, inputs: Iterable[bytes]) -> int:
    """A serial number of 159 bits: HMAC-SHA-256 over the inputs, each after its length.

    Anyone who knows the secret (`SECRET_BYTES` octets) can predict serial numbers.
    """
    code = hmac.digest(secret, encoding.length_prefixed((_DOMAIN, *inputs)), "sha256")
    number = int.from_bytes(code, "big") >> (256 - _SERIAL_BITS)
    return number or 1  # zero is no serial number
