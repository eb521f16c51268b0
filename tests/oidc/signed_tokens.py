"""Tokens signed with real keys, also malformed ones, and the rules and keys that verify them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from service.oidc.tokens import TokenVerifier
from service.pki.identity_rules import IdentityRule
from service.pki.name_policy import DnsPolicy, NamePolicy
from service.pki.token_identity import KeysUnavailableError

NOW: Final = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
TIME: Final = int(NOW.timestamp())
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "https://ca.example.com"
CLAIMS: Final[Mapping[str, Any]] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "repo:example/site:environment:prod",
    "jti": "b7b1-1",
    "iat": TIME - 10,
    "nbf": TIME - 10,
    "exp": TIME + 300,
    "repository_id": "74",
    "ref": "refs/heads/main",
    "run_attempt": 1,
    "is_protected": True,
    "kubernetes.io": {"namespace": "web", "serviceaccount": {"name": "deployer"}},
    "environment": "prod",
}
REQUIRED: Final[Mapping[str, str | int | bool]] = {
    "/repository_id": "74",
    "/ref": "refs/heads/main",
    "/run_attempt": 1,
    "/is_protected": True,
    "/kubernetes.io/serviceaccount/name": "deployer",
}
CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", *CURVES, "EdDSA")


def new_key(algorithm: str) -> Key:
    if algorithm in CURVES:
        return ECKey.generate_key(CURVES[algorithm])
    return OKPKey.generate_key("Ed25519") if algorithm == "EdDSA" else RSAKey.generate_key(2048)


RSA: Final = new_key("RS256")
KEYS: Final[Mapping[str, Key]] = {
    **dict.fromkeys(ALGORITHMS[:6], RSA),
    **{algorithm: new_key(algorithm) for algorithm in ALGORITHMS[6:]},
}


RULE: Final = IdentityRule(
    name="deploy",
    issuer=ISSUER,
    audience=AUDIENCE,
    algorithms=ALGORITHMS,
    jwks_url="https://issuer.example/jwks",
    jwks_file="",
    ca_file="",
    claims=REQUIRED,
    max_age=timedelta(hours=1),
    is_once=False,
    profiles=("server",),
    names=NamePolicy(dns=DnsPolicy(permitted=("{/environment}.ci.example.com",))),
)


@dataclass
class Keys:
    """A key set in memory, with public keys only; None for one that was never loaded."""

    keys: Mapping[tuple[str, str], Key] | None

    def find(self, key_id: str, algorithm: str) -> Key | None:
        if self.keys is None:
            raise KeysUnavailableError("the keys of rule deploy are not available")
        return self.keys.get((key_id, algorithm))


def public(key: Key) -> Key:
    return type(key).import_key(dict(key.as_dict(private=False)))


ISSUER_KEYS: Final = Keys({(f"key-{algorithm}", algorithm): public(key) for algorithm, key in KEYS.items()})


def verifier(
    *rules: IdentityRule, keys: Mapping[str, Keys] | None = None, clock: Callable[[], datetime] = lambda: NOW
) -> TokenVerifier:
    """A verifier by these rules, otherwise by `RULE`; rules without keys have those of the issuer."""
    rules = rules or (RULE,)
    return TokenVerifier(
        rules, {rule.name: (keys or {}).get(rule.name, ISSUER_KEYS) for rule in rules}, clock
    )


def rule(name: str = "deploy", **changes: Any) -> IdentityRule:
    return replace(RULE, name=name, **changes)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def token(algorithm: str = "ES256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
    """A token with changed claims and header members; ... as the value removes one."""
    members = {"alg": algorithm, "kid": f"key-{algorithm}", "typ": "JWT"} | dict(header or {})
    return sign(encode_json(members), encode_json(dict(CLAIMS) | claims), KEYS[algorithm], algorithm)


def encode_json(members: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def sign(header: bytes, claims: bytes, key: Key, algorithm: str) -> str:
    """Sign any octets as header and claims."""
    content = f"{encode(header)}.{encode(claims)}"
    return f"{content}.{encode(JWSRegistry.algorithms[algorithm].sign(content.encode(), key))}"


def authenticate(header: bytes, claims: bytes, secret: bytes) -> str:
    """Authenticate by HS256."""
    content = f"{encode(header)}.{encode(claims)}"
    return f"{content}.{encode(hmac.digest(secret, content.encode(), hashlib.sha256))}"
