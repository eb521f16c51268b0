"""Return the same certificate to a retry, without stored state.

Within a window of five minutes, requests with the same Idempotency-Key get the same validity, and a serial
number whose random bits are a keyed hash of all other inputs. A deterministic signature (RFC 6979, RFC 8032,
PKCS#1 v1.5) then makes the certificates identical, octet for octet.
"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from service.pki import encoding, serial

WINDOW: Final = timedelta(minutes=5)
_LABEL: Final = b"certlet serial number 4"
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VERSION_7: Final = 7


@dataclass(frozen=True)
class ReplayWindow:
    """The time of issue of a certificate, and the time until which a retry gets the same one, UTC."""

    issued_at: datetime
    expires_at: datetime


def replay_window(key: str, now: datetime, issued_at: datetime | None = None) -> ReplayWindow:
    """The window of an Idempotency-Key at `now` (UTC), or the window that began at a known time of issue.

    A UUIDv7 (RFC 9562 5.7) from the last five minutes starts its own window; for any other key, windows start
    at multiples of five minutes. The window of a UUIDv7 from the future ends at its timestamp, when its own
    starts.
    """
    if issued_at:
        return ReplayWindow(issued_at, issued_at + WINDOW)
    seconds, length = int(now.timestamp()), int(WINDOW.total_seconds())
    start = seconds - seconds % length
    end = start + length
    if _UUID.fullmatch(key) and uuid.UUID(key).version == _VERSION_7:
        created = (uuid.UUID(key).int >> 80) // 1000
        if created > seconds:
            end = min(end, created)
        elif seconds < created + length:
            start, end = created, created + length
    return ReplayWindow(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))


def derive_random(key: bytes, inputs: Iterable[bytes]) -> int:
    """Derive the random bits of a serial number: HMAC-SHA-256 of the inputs, each after its length.

    Anyone who knows the key (`serial.KEY_BYTES` octets) can predict serial numbers.
    """
    mac = hmac.digest(key, encoding.length_prefixed((_LABEL, *inputs)), "sha256")
    return int.from_bytes(mac, "big") >> (256 - serial.RANDOM_BITS)
