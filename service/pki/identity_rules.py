"""Rules that turn a token's claims into a principal: `x-certificate-identities` of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from service.pki.name_policy import NamePolicy


@dataclass(frozen=True)
class IdentityRule:
    """A rule for tokens of one issuer.

    Attributes:
        name: the name of the rule; its principal is `oidc:` and this name.
        issuer, audience: the exact values of the claims `iss` and `aud`.
        algorithms: the algorithms of signatures that it accepts (RFC 7518 3.1), all asymmetric.
        jwks_url, jwks_file: where the issuer's keys are (JWK Set, RFC 7517 5); one of them is ''.
        ca_file: PEM certificates that verify the host of `jwks_url`; '' for those of the system.
        claims: JSON pointer (RFC 6901) -> the exact value.
        max_age: the longest time since the claim `iat`.
        is_once: whether a token is good for one certificate.
        profiles: the profiles that the principal may use.
    """

    name: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    jwks_url: str
    jwks_file: str
    ca_file: str
    claims: Mapping[str, str | int | bool]
    max_age: timedelta
    is_once: bool
    profiles: tuple[str, ...]

    def find_differing_claims(self, claims: Mapping[str, Any]) -> list[str]:
        """Return the JSON pointers of the claims that are missing, or have another value or type."""
        raise NotImplementedError

    def expand_names(self, claims: Mapping[str, Any]) -> NamePolicy:
        """Return the names that these claims permit.

        Raises:
            ValueError: a claim of a template is missing, or has characters that its place does not allow;
                the message names the claim, not its value.
        """
        raise NotImplementedError
