"""Verify a token: form, rule, signature, times, claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from service.oidc.key_sets import KeySet
from service.pki.identity_rules import IdentityRule
from service.pki.token_identity import TokenIdentity


class TokenVerifier:
    """Verifies tokens by rules."""

    def __init__(
        self, rules: Sequence[IdentityRule], key_sets: Mapping[str, KeySet], clock: Callable[[], datetime]
    ) -> None:
        """Prepare to verify.

        Args:
            rules: the rules; the first that matches applies.
            key_sets: name of a rule -> the keys of its issuer.
            clock: returns the current time, UTC.
        """
        self._rules = rules
        self._key_sets = key_sets
        self._clock = clock

    def verify(self, token: str) -> TokenIdentity:
        """Verify a token (RFC 7519 7.2).

        Raises:
            InvalidTokenError: it identifies no caller.
            KeysUnavailableError: the keys of its issuer are not available.
        """
        raise NotImplementedError
