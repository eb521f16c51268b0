"""Parse JWK Sets (RFC 7517 5): the keys of an issuer that can verify signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.x509.oid import PublicKeyAlgorithmOID
from joserfc import jwk
from joserfc.errors import JoseError
from joserfc.jwk import Key

from service.pki import keys
from service.pki.encoding import decode_base64url
from service.pki.errors import BadPublicKey
from service.pki.strict_json import parse_json

MAX_KEYS: Final = 100
_MAX_EXPONENT: Final = 11  # characters in base64url: 8 octets (keys.RSA_MAX_EXPONENT)
_MAX_MODULUS: Final = 1_400  # characters: some more than those of keys.RSA_MAX_BITS
_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_KINDS: Final = {  # type and curve -> members, algorithms (RFC 7518 3.1, 6; RFC 8037), OID
    ("RSA", None): (("n", "e"), _RSA_ALGORITHMS, PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5),
    ("EC", "P-256"): (("crv", "x", "y"), ("ES256",), PublicKeyAlgorithmOID.EC_PUBLIC_KEY),
    ("EC", "P-384"): (("crv", "x", "y"), ("ES384",), PublicKeyAlgorithmOID.EC_PUBLIC_KEY),
    ("EC", "P-521"): (("crv", "x", "y"), ("ES512",), PublicKeyAlgorithmOID.EC_PUBLIC_KEY),
    ("OKP", "Ed25519"): (("crv", "x"), ("EdDSA",), PublicKeyAlgorithmOID.ED25519),
}


@dataclass(frozen=True)
class JwkSet:
    """The usable keys of an issuer.

    Attributes:
        keys: key ID and algorithm -> key.
        secrets: the number of keys that were ignored since they are private or symmetric.
    """

    keys: Mapping[tuple[str, str], Key]
    secrets: int


def parse_jwk_set(data: bytes) -> JwkSet:
    """Parse a JWK Set.

    Keys that cannot verify signatures, or that are not accepted, are ignored (RFC 7517 5). So are different
    keys with the same ID for the same algorithm, since each of them could be the wrong one.

    Raises:
        ValueError: it is not a JWK Set, or has more than `MAX_KEYS` keys. The message does not quote it.
    """
    match parse_json(data):
        case {"keys": list(members)} if len(members) <= MAX_KEYS:
            objects = [member for member in members if isinstance(member, dict)]
        case _:
            raise ValueError(f"not an object with a list of at most {MAX_KEYS} keys")
    public = [member for member in objects if not _is_secret(member)]
    usable: dict[tuple[str, str], Key] = {}
    ambiguous = set()
    for slot, key in (item for member in public for item in _parse_key(member)):
        if usable.setdefault(slot, key).thumbprint() != key.thumbprint():
            ambiguous.add(slot)
    usable = {slot: key for slot, key in usable.items() if slot not in ambiguous}
    return JwkSet(usable, len(objects) - len(public))


def _is_secret(member: Mapping[str, Any]) -> bool:
    return member.get("kty") == "oct" or not keys.PRIVATE_JWK_MEMBERS.isdisjoint(member)


def _parse_key(member: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Key]]:
    """Yield a key with its ID, for each algorithm that it can verify."""
    key_id, operations = member.get("kid"), member.get("key_ops", ["verify"])
    if not isinstance(key_id, str) or not key_id or member.get("use", "sig") != "sig":
        return
    if not isinstance(operations, list) or "verify" not in operations:
        return
    try:
        key, algorithms = _import_key(member)
    except (ValueError, BadPublicKey, JoseError):
        return
    for algorithm in algorithms:
        if member.get("alg", algorithm) == algorithm:
            yield (key_id, algorithm), key


def _import_key(member: Mapping[str, Any]) -> tuple[Key, tuple[str, ...]]:
    """Import a public key whose kind and size are accepted; raise one of the errors of the libraries."""
    kind = member.get("kty"), member.get("crv")
    names, algorithms, oid = _KINDS[kind] if kind in list(_KINDS) else ((), (), None)
    values = {name: value for name in ("kty", *names) if isinstance(value := member.get(name), str)}
    if oid is None or len(values) <= len(names):
        raise ValueError("a key of an unknown type, or without a required member")
    if oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5:
        _verify_size(values["n"], values["e"])
    key: Any = jwk.import_key(dict(values))
    keys.verify_encoded_key(oid, keys.encode_public_key(key.public_key))
    return key, algorithms


def _verify_size(modulus: str, exponent: str) -> None:
    """Verify the size of an RSA key before any arithmetic with it."""
    if len(modulus) > _MAX_MODULUS or len(exponent) > _MAX_EXPONENT:
        raise ValueError("too long")
    bits = int.from_bytes(decode_base64url(modulus), "big").bit_length()
    if not keys.RSA_MIN_BITS <= bits <= keys.RSA_MAX_BITS:
        raise ValueError("an RSA modulus of a size that is not accepted")
