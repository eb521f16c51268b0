"""Serial numbers that a CA recognises without storage, together with the lifetime of the certificate.

A serial number has 159 bits, so that it is positive in 20 octets (RFC 5280 4.1.2.2):

    64 random | 26 end | 24 lifetime | 45 tag

The end is in minutes since 2020, and the lifetime in minutes. Both are XORed with a mask that depends on the
random bits, so that a serial number shows no date. The tag is a truncated HMAC of the issuer and of all other
bits. It authenticates only the serial number, and never replaces the verification of a signature.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from cryptography import x509

from service.pki import certificate_reader, encoding, keys
from service.pki.certificate_reader import extension_value

KEY_BYTES: Final = 32
MAX_KEYS: Final = 8  # a CRL tries each of them on each entry
RANDOM_BITS: Final = 64
_END_BITS: Final = 26
_LIFETIME_BITS: Final = 24
_TIME_BITS: Final = _END_BITS + _LIFETIME_BITS
_TAG_BITS: Final = 45
_BITS: Final = RANDOM_BITS + _TIME_BITS + _TAG_BITS
_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)
_MINUTE: Final = timedelta(minutes=1)
_SECOND: Final = timedelta(seconds=1)
_MASK: Final = b"certlet serial number mask 1"
_TAG: Final = b"certlet serial number tag 1"

_HEADER: Final = (
    "# Secret. Keys of serial numbers, newest first, and the CAs that gave every certificate a tag.\n"
)
_LINE: Final = re.compile(r"(key|issuer) ([0-9a-f]{64})|\s*(?:#.*)?")


@dataclass(frozen=True)
class SerialKeys:
    """The content of `serial.key`.

    Attributes:
        keys: the keys, `KEY_BYTES` octets each, newest first. The first one creates serial numbers; all of
            them recognise serial numbers.
        tagged_issuers: the `issuer_id` of each CA that never issued a certificate whose serial number no key
            recognises.
    """

    keys: tuple[bytes, ...] = field(default=(), repr=False)
    tagged_issuers: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the text of `encode`, or a single key of 32 octets, as earlier versions wrote it.

        Raises:
            ValueError: the data is malformed; the message contains no part of it.
        """
        if len(data) == KEY_BYTES:
            return cls((data,))
        values: dict[str, list[bytes]] = {"key": [], "issuer": []}
        for number, line in enumerate(data.decode("latin-1").splitlines(), 1):
            match = _LINE.fullmatch(line)
            if not match:
                raise ValueError(f"line {number} is not `key` or `issuer` and 64 hexadecimal digits")
            if match[1]:
                values[match[1]].append(bytes.fromhex(match[2]))
        count = len(values["key"])
        if not 0 < count <= MAX_KEYS:
            raise ValueError(f"{count} keys; expected 1 to {MAX_KEYS}")
        return cls(tuple(values["key"]), frozenset(values["issuer"]))

    def encode(self) -> bytes:
        """Encode as text, a key or an issuer per line."""
        lines = [f"key {key.hex()}\n" for key in self.keys]
        lines += [f"issuer {issuer.hex()}\n" for issuer in sorted(self.tagged_issuers)]
        return "".join([_HEADER, *lines]).encode()

    def with_key(self, key: bytes) -> Self:
        """Return these keys after a new one, which from now on creates serial numbers.

        Raises:
            ValueError: there are `MAX_KEYS` already.
        """
        if len(self.keys) == MAX_KEYS:
            raise ValueError(
                f"{MAX_KEYS} keys, the maximum: remove the last one when all its certificates have ended"
            )
        return replace(self, keys=(key, *self.keys))

    def with_tagged_issuer(self, issuer: x509.Certificate) -> Self:
        """Return these keys with a mark for a new CA, which has not issued any certificate."""
        return replace(self, tagged_issuers=self.tagged_issuers | {issuer_id(issuer)})


class Lifetime(NamedTuple):
    """The lifetime of a certificate, UTC, widened to whole minutes: the certificate has ended at `end`."""

    start: datetime
    end: datetime


class SerialNumbers:
    """The serial numbers of one issuer.

    Attributes:
        all_tagged: whether the issuer never issued a certificate whose serial number is not recognised.
        issuer_id: the `issuer_id` of the issuer.
        key_identifier: the issuer's subjectKeyIdentifier (RFC 5280 4.2.1.2); None if it has none.
    """

    def __init__(self, serial_keys: SerialKeys, issuer: x509.Certificate) -> None:
        """Prepare to create and recognise the serial numbers of an issuer."""
        self._keys = serial_keys.keys
        self.issuer_id = issuer_id(issuer)
        self.all_tagged = self.issuer_id in serial_keys.tagged_issuers
        identifier = extension_value(issuer, x509.SubjectKeyIdentifier)
        self.key_identifier = identifier.digest if identifier else None

    def create(self, random: int, not_before: datetime, not_after: datetime) -> int:
        """Create the serial number of a certificate.

        Args:
            random: `RANDOM_BITS` random bits.
            not_before: first second of the validity period, UTC.
            not_after: last second of the validity period, UTC.

        Raises:
            ValueError: the random number, the end or the lifetime is out of range.
        """
        start, end = (not_before - _EPOCH) // _MINUTE, -((_EPOCH - not_after - _SECOND) // _MINUTE)
        if not (0 < end < 1 << _END_BITS and 0 < end - start < 1 << _LIFETIME_BITS):
            limit, latest = (1 << _LIFETIME_BITS) // (24 * 60), _EPOCH + ((1 << _END_BITS) - 1) * _MINUTE
            raise ValueError(
                f"a certificate lives at most {limit} days, and ends by {encoding.format_timestamp(latest)}"
            )
        if not 0 <= random < 1 << RANDOM_BITS:
            raise ValueError(f"the random number has more than {RANDOM_BITS} bits")
        key, times = self._keys[0], end << _LIFETIME_BITS | (end - start)
        head = random << _TIME_BITS | times ^ self._mask(key, random)
        return head << _TAG_BITS | _truncated_hmac(key, self._message(_TAG, head), _TAG_BITS)

    def recognize(self, serial_number: int) -> Lifetime | None:
        """Return the lifetime of a certificate of this issuer; None if the serial number has no valid tag."""
        if not 0 < serial_number < 1 << _BITS:
            return None
        head, tag = serial_number >> _TAG_BITS, _octets(serial_number & (1 << _TAG_BITS) - 1)
        message = self._message(_TAG, head)
        for key in self._keys:
            if hmac.compare_digest(_octets(_truncated_hmac(key, message, _TAG_BITS)), tag):
                times = (head & (1 << _TIME_BITS) - 1) ^ self._mask(key, head >> _TIME_BITS)
                end = _EPOCH + (times >> _LIFETIME_BITS) * _MINUTE
                return Lifetime(end - (times & (1 << _LIFETIME_BITS) - 1) * _MINUTE, end)
        return None

    def _mask(self, key: bytes, random: int) -> int:
        return _truncated_hmac(key, self._message(_MASK, random), _TIME_BITS)

    def _message(self, label: bytes, value: int) -> bytes:
        return encoding.length_prefixed((label, self.issuer_id, _octets(value)))


def for_issuers(
    serial_keys: SerialKeys, issuer: x509.Certificate, predecessors: Sequence[x509.Certificate]
) -> tuple[SerialNumbers, ...]:
    """Return the serial numbers of a CA, and of each predecessor that is not a CA above another."""
    issuers = [issuer, *certificate_reader.omit_superiors(predecessors)]
    return tuple(SerialNumbers(serial_keys, ca) for ca in issuers)


def find_issuer(issuer: x509.Certificate, issuers: Iterable[SerialNumbers]) -> SerialNumbers | None:
    """Return the serial numbers of an issuer; None if there are none."""
    return next((numbers for numbers in issuers if numbers.issuer_id == issuer_id(issuer)), None)


def recognize(serial_number: int, issuers: Iterable[SerialNumbers]) -> Lifetime | None:
    """Return the lifetime of a certificate of any of these issuers; None if none recognises it."""
    lifetimes = (numbers.recognize(serial_number) for numbers in issuers)
    return next(filter(None, lifetimes), None)


def find_recognizing_issuer(
    serial_number: int, issuers: Iterable[x509.Certificate], numbers: Sequence[SerialNumbers]
) -> x509.Certificate | None:
    """Return the issuer whose serial numbers recognise a serial number; None if there is none."""
    for issuer in issuers:
        recognized = find_issuer(issuer, numbers)
        if recognized and recognized.recognize(serial_number):
            return issuer
    return None


@functools.lru_cache(64)
def issuer_id(issuer: x509.Certificate) -> bytes:
    """SHA-256 of an issuer's SubjectPublicKeyInfo: the same for all certificates of a CA's key."""
    return hashlib.sha256(keys.encode_public_key(issuer.public_key())).digest()


def _truncated_hmac(key: bytes, message: bytes, bits: int) -> int:
    return int.from_bytes(hmac.digest(key, message, "sha256"), "big") >> 256 - bits


def _octets(value: int) -> bytes:
    """Encode a part of a serial number in a fixed length."""
    return value.to_bytes(_BITS // 8 + 1, "big")
