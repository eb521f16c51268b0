"""The keys of issuers: JWK Sets (RFC 7517 5), from a URL or a file."""

from __future__ import annotations

from typing import Protocol

from joserfc.jwk import Key


class KeySet(Protocol):
    """The current keys of an issuer."""

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """Return the key with this `kid` if it can verify this algorithm; None if there is none.

        Raises:
            KeysUnavailableError: the set was never loaded, or too long ago.
        """
