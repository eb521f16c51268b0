"""What `acme.key` authenticates without storage: external account keys, and nonces.

An external account key (RFC 8555 7.3.4) is derived from `acme.key`, a principal and a generation, so that no
secret is stored for each principal. A new generation ends the earlier one.

A nonce (RFC 8555 6.5.1) has 33 octets, of which base64url makes 44 characters without spare bits:

    12 random | 5 time | 16 tag

The time is in seconds since 1970. The tag is a truncated HMAC of the rest, so that a nonce of a stranger is
refused before any other work. It does not show whether the nonce was used before.
"""

from __future__ import annotations

import base64
import hmac
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from service.pki import encoding
from service.pki.errors import quote

KEY_BYTES: Final = 32
NONCE_RANDOM_BYTES: Final = 12
NONCE_LIFE: Final = timedelta(hours=1)
MAX_CLOCK_SKEW: Final = timedelta(minutes=1)  # between the processes that create and verify nonces
MAX_GENERATION: Final = 999_999
_TIME_BYTES: Final = 5
_TAG_BYTES: Final = 16
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{44}")
_NONCE_LABEL: Final = b"certlet acme nonce 1"
_ACCOUNT_LABEL: Final = b"certlet acme external account 1"
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")  # 32 octets
_KEY_ID: Final = re.compile(r"([A-Za-z0-9_.~%-]{1,384})\.([1-9][0-9]{0,5})")


def is_thumbprint(text: str) -> bool:
    """Whether a text can be the thumbprint of a key: SHA-256 in base64url without padding (RFC 7638 3.4)."""
    return bool(_THUMBPRINT.fullmatch(text))


class InvalidNonce(ValueError):
    """The nonce was not created with this key, or has expired."""


class ExternalKeyId(NamedTuple):
    """The identifier of an external account key: a principal, and the generation of its key, from 1."""

    principal: str
    generation: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of `encode`; raise `ValueError` for any other text."""
        match = _KEY_ID.fullmatch(text)
        if match:
            key_id = cls(urllib.parse.unquote(match[1]), int(match[2]))
            if key_id.encode() == text:
                return key_id
        raise ValueError(f"{quote(text)} is not a key identifier of this CA")

    def encode(self) -> str:
        """Encode as `NAME.GENERATION`, with the name percent-encoded (RFC 3986 2.1)."""
        return f"{urllib.parse.quote(self.principal, safe='')}.{self.generation}"


@dataclass(frozen=True)
class AcmePrincipals:
    """The principals that may have accounts.

    Attributes:
        generations: principal -> the current generation of its external account key.
        thumbprints: the thumbprint of an account key that needs no external account (RFC 7638, SHA-256 in
            base64url) -> principal.
    """

    generations: Mapping[str, int]
    thumbprints: Mapping[str, str] = field(default_factory=dict)

    def has(self, key_id: ExternalKeyId) -> bool:
        """Return whether the principal exists, and the key is its current one."""
        return self.generations.get(key_id.principal) == key_id.generation

    def find(self, thumbprint: str) -> ExternalKeyId | None:
        """Return the principal for which an account key is listed; None if it is not listed."""
        principal = self.thumbprints.get(thumbprint, "")
        generation = self.generations.get(principal)
        return ExternalKeyId(principal, generation) if generation else None


class AcmeKey:
    """The content of `acme.key`."""

    def __init__(self, key: bytes) -> None:
        """Use a key.

        Raises:
            ValueError: it does not have `KEY_BYTES` octets; the message contains no part of it.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"{len(key)} octets; expected {KEY_BYTES}")
        self._key = key

    def external_account_key(self, key_id: ExternalKeyId) -> bytes:
        """Derive an external account key, whether or not the principal exists.

        It has 64 octets, as HS512 requires at least (RFC 7518 3.2).
        """
        inputs = (_ACCOUNT_LABEL, key_id.principal.encode(), str(key_id.generation).encode())
        return hmac.digest(self._key, encoding.length_prefixed(inputs), "sha512")

    def create_nonce(self, random: bytes, now: datetime) -> str:
        """Create a nonce.

        Args:
            random: `NONCE_RANDOM_BYTES` random octets.
            now: the current time, UTC.
        """
        head = random + int(now.timestamp()).to_bytes(_TIME_BYTES, "big")
        return base64.urlsafe_b64encode(head + self._tag(head)).decode("ascii")

    def verify_nonce(self, nonce: str, now: datetime) -> datetime:
        """Verify that a nonce was created with this key, and may still be used.

        A nonce from the future is accepted: the clock was set back.

        Returns:
            the time, UTC, until which its use must be remembered.

        Raises:
            InvalidNonce: it was not, or it has expired.
        """
        if not _NONCE.fullmatch(nonce):
            raise InvalidNonce("the nonce is not one of this CA")
        octets = base64.urlsafe_b64decode(nonce)
        head, tag = octets[:-_TAG_BYTES], octets[-_TAG_BYTES:]
        if not hmac.compare_digest(self._tag(head), tag):
            raise InvalidNonce("the nonce is not one of this CA")
        created = datetime.fromtimestamp(int.from_bytes(head[NONCE_RANDOM_BYTES:], "big"), UTC)
        if now >= created + NONCE_LIFE:
            raise InvalidNonce("the nonce has expired")
        return created + NONCE_LIFE + MAX_CLOCK_SKEW

    def _tag(self, head: bytes) -> bytes:
        message = encoding.length_prefixed((_NONCE_LABEL, head))
        return hmac.digest(self._key, message, "sha256")[:_TAG_BYTES]
