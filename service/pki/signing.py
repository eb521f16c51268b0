"""How an issuer's key of each kind signs: the algorithm, its identifier, and how a signature is verified."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.x509.oid import SignatureAlgorithmOID

from service.pki import encoding, keys
from service.pki.keys import KeyKind

Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

# AlgorithmIdentifier, DER, of signatures by a key of a kind: with NULL for parameters of RSA (RFC 4055 5),
# without any of all others (RFC 5758 3.2, RFC 8410 3, RFC 9881 2).
_SIGNATURES: Final = keys.ALGORITHMS | {
    KeyKind.RSA: encoding.algorithm(SignatureAlgorithmOID.RSA_WITH_SHA256, encoding.NULL),
    KeyKind.P256: encoding.algorithm(SignatureAlgorithmOID.ECDSA_WITH_SHA256),
    KeyKind.P384: encoding.algorithm(SignatureAlgorithmOID.ECDSA_WITH_SHA384),
    KeyKind.P521: encoding.algorithm(SignatureAlgorithmOID.ECDSA_WITH_SHA512),
}
_HASHES: Final[dict[KeyKind, Hash]] = {
    KeyKind.RSA: hashes.SHA256(),
    KeyKind.P256: hashes.SHA256(),
    KeyKind.P384: hashes.SHA384(),
    KeyKind.P521: hashes.SHA512(),
}


def signature_hash(public_key: CertificatePublicKeyTypes) -> Hash | None:
    """The hash that an issuer with this key signs with; None where the algorithm has its own.

    Raises:
        BadPublicKey: the key is of a kind that is not certified.
    """
    return _HASHES.get(keys.kind_of(public_key))


def signature_algorithm(public_key: CertificatePublicKeyTypes) -> bytes:
    """AlgorithmIdentifier of what an issuer with this key makes, DER.

    Raises:
        BadPublicKey: the key is of a kind that is not certified.
    """
    return _SIGNATURES[keys.kind_of(public_key)]


def signer(
    private_key: CertificateIssuerPrivateKeyTypes, *, is_deterministic: bool
) -> Callable[[bytes], bytes]:
    """What signs as an issuer with this key does, in `signature_algorithm`.

    Args:
        private_key: the issuer's.
        is_deterministic: whether an EC key is to sign the same the same way (RFC 6979), which KMS's cannot.

    Raises:
        BadPublicKey: the key is of a kind that is not certified.
    """
    hashed = signature_hash(private_key.public_key())
    if hashed is None:
        return private_key.sign  # type: ignore[return-value]  # of Ed25519 and ML-DSA, which take data alone
    if isinstance(private_key, rsa.RSAPrivateKey):
        return functools.partial(private_key.sign, padding=padding.PKCS1v15(), algorithm=hashed)
    algorithm = ec.ECDSA(hashed, deterministic_signing=is_deterministic)
    return functools.partial(private_key.sign, signature_algorithm=algorithm)  # type: ignore[call-arg]  # EC


def verifier(public_key: CertificatePublicKeyTypes) -> Callable[[bytes, bytes], None]:
    """What verifies signatures that an issuer with this key makes.

    Returns:
        a function of the signature and what was signed, which raises
        `cryptography.exceptions.InvalidSignature`.

    Raises:
        BadPublicKey: the key is of a kind that is not certified.
    """
    hashed = signature_hash(public_key)
    if hashed is None:
        return public_key.verify  # type: ignore[union-attr,return-value]  # as above
    if isinstance(public_key, rsa.RSAPublicKey):
        return functools.partial(public_key.verify, padding=padding.PKCS1v15(), algorithm=hashed)
    algorithm = ec.ECDSA(hashed)
    return functools.partial(public_key.verify, signature_algorithm=algorithm)  # type: ignore[union-attr,call-arg]  # EC
