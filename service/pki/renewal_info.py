"""ACME renewal information (ARI, RFC 9773): when to renew a certificate, by its identifier.

The window follows from the lifetime in the serial number, the revocation list and the operator's settings.
It is the same each time, since its place depends only on the identifier.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from service.pki import idempotency
from service.pki.errors import quote
from service.pki.serial import Lifetime, SerialNumbers

RETRY_AFTER: Final = timedelta(hours=6)  # RFC 9773 4.3.2 recommends it
_ID: Final = re.compile(r"([A-Za-z0-9_-]{2,86})\.([A-Za-z0-9_-]{2,27})")  # 1 to 64, and 1 to 20 octets
_SECOND: Final = timedelta(seconds=1)
_MINUTE: Final = timedelta(minutes=1)
_REVOKED: Final = timedelta(hours=1)  # length of the window of a revoked certificate


class UnknownCertificate(LookupError):
    """The CA does not know when to renew this certificate; the message says why."""


@dataclass(frozen=True)
class CertificateId:
    """The identifier of a certificate (RFC 9773 4.1).

    Attributes:
        key_identifier: keyIdentifier of the certificate's authorityKeyIdentifier.
        serial_number: the certificate's serial number, positive.
    """

    key_identifier: bytes
    serial_number: int

    @classmethod
    def parse(cls, text: str) -> CertificateId:
        """Parse an identifier. Each certificate has exactly one.

        Raises:
            ValueError: it is malformed, or not in the form that `encode` returns.
        """
        if match := _ID.fullmatch(text):
            key_identifier, serial = (_decode(part) for part in match.groups())
            certificate_id = cls(key_identifier, int.from_bytes(serial, "big", signed=True))
            if certificate_id.serial_number > 0 and certificate_id.encode() == text:
                return certificate_id
        raise ValueError(
            f"{quote(text, 40)} is not the key identifier and the serial number of a certificate, both in "
            "base64url without padding, with a dot between (RFC 9773 4.1)"
        )

    def encode(self) -> str:
        """Encode the identifier as text."""
        serial = self.serial_number.to_bytes(self.serial_number.bit_length() // 8 + 1, "big")
        return f"{_encode(self.key_identifier)}.{_encode(serial)}"


class RenewalWindow(NamedTuple):
    """The time in which to renew a certificate, UTC, in whole seconds; the end is after the start."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class EarlyRenewal:
    """The order to renew early all certificates that were issued before a time.

    Attributes:
        before: the time, UTC.
        over: the length of the period after it in which certificates are renewed.
    """

    before: datetime
    over: timedelta

    def includes(self, lifetime: Lifetime, max_backdate: timedelta) -> bool:
        """Whether a certificate was issued before the time.

        A lifetime starts up to a minute, a backdate and a replay window before the issue. A certificate whose
        time of issue is in doubt is not included: otherwise its successor could be, too.
        """
        return lifetime.start + _MINUTE + max_backdate + idempotency.WINDOW <= self.before


def find_serial_numbers(certificate_id: CertificateId, issuers: Iterable[SerialNumbers]) -> SerialNumbers:
    """Return the serial numbers of the issuer that an identifier names.

    Raises:
        UnknownCertificate: it names none of them.
    """
    for numbers in issuers:
        if numbers.key_identifier == certificate_id.key_identifier:
            return numbers
    raise UnknownCertificate("The certificate was not issued by this CA")


def retry_after(window: RenewalWindow) -> timedelta:
    """Return how long a client should wait before it asks again: a minute to six hours (RFC 9773 4.3).

    It is not longer than the window, so that a client of a short certificate asks in time.
    """
    return min(RETRY_AFTER, max(_MINUTE, window.end - window.start))


def window_of_revoked(revoked_at: datetime) -> RenewalWindow:
    """Return the window of a revoked certificate, which has passed."""
    return RenewalWindow(revoked_at - _REVOKED, revoked_at)


def window_of(
    certificate_id: CertificateId,
    lifetime: Lifetime,
    early_renewal: EarlyRenewal | None,
    max_backdate: timedelta,
) -> RenewalWindow:
    """Return the window of a certificate that is not revoked.

    It is in the last third of the lifetime, and ends before the last twelfth; or in the period of an early
    renewal that includes the certificate, if that is earlier.

    Args:
        certificate_id: the certificate's identifier.
        lifetime: the certificate's lifetime.
        early_renewal: the operator's order, if there is one.
        max_backdate: the longest backdate of any certificate.
    """
    length = lifetime.end - lifetime.start
    window = _spread(certificate_id, lifetime.end - length / 3, lifetime.end - length / 12)
    if early_renewal is None or not early_renewal.includes(lifetime, max_backdate):
        return window
    early = _spread(certificate_id, early_renewal.before, early_renewal.before + early_renewal.over)
    return RenewalWindow(early.start, min(early.end, window.end)) if early < window else window


def _spread(certificate_id: CertificateId, start: datetime, end: datetime) -> RenewalWindow:
    """Return a quarter of a period, at a place that depends on the identifier."""
    digest = hashlib.sha256(certificate_id.encode().encode()).digest()
    length = (end - start) / 4
    first = start + (end - start - length) * (int.from_bytes(digest[:4], "big") / (1 << 32))
    first = first.replace(microsecond=0)
    return RenewalWindow(first, max((first + length).replace(microsecond=0), first + _SECOND))


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if len(text) % 4 != 1 else b""


def _encode(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
