"""Which public keys and signature algorithms are accepted: policy as data, each figure with its source."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Final

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import PublicKeyAlgorithmOID, SignatureAlgorithmOID

from service.pki.encoding import oid_name
from service.pki.errors import BadPublicKey, BadSignatureAlgorithm, quote

RSA_MIN_BITS: Final = 2048  # NIST SP 800-57 part 1, 5.6.1: 112 bits of strength
RSA_MAX_BITS: Final = 8192  # bounds the work of one proof of possession
RSA_BITS_STEP: Final = 8  # CA/Browser Forum Baseline Requirements 6.1.5
RSA_MIN_EXPONENT: Final = 2**16  # FIPS 186-5 A.1.1: 2^16 < e
RSA_MAX_EXPONENT: Final = 2**64  # OpenSSL takes no larger one with a modulus over 3,072 bits

Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


class KeyKind(StrEnum):
    """The kinds of key that are certified, and that a CA may have."""

    RSA = "RSA"
    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    ED25519 = "Ed25519"
    ML_DSA_44 = "ML-DSA-44"
    ML_DSA_65 = "ML-DSA-65"
    ML_DSA_87 = "ML-DSA-87"


EC_KINDS: Final = frozenset({KeyKind.P256, KeyKind.P384, KeyKind.P521})
_HASHES: Final[dict[KeyKind, Hash]] = {
    KeyKind.RSA: hashes.SHA256(),
    KeyKind.P256: hashes.SHA256(),
    KeyKind.P384: hashes.SHA384(),
    KeyKind.P521: hashes.SHA512(),
}
FAST_SIGNING_KINDS: Final = frozenset({KeyKind.P256, KeyKind.ED25519})  # to sign with: some 20 us
ML_DSA_KINDS: Final = frozenset({KeyKind.ML_DSA_44, KeyKind.ML_DSA_65, KeyKind.ML_DSA_87})

_CURVES: Final = {"secp256r1": KeyKind.P256, "secp384r1": KeyKind.P384, "secp521r1": KeyKind.P521}
_KINDS: Final[dict[type, KeyKind]] = {
    rsa.RSAPublicKey: KeyKind.RSA,
    ed25519.Ed25519PublicKey: KeyKind.ED25519,
    mldsa.MLDSA44PublicKey: KeyKind.ML_DSA_44,
    mldsa.MLDSA65PublicKey: KeyKind.ML_DSA_65,
    mldsa.MLDSA87PublicKey: KeyKind.ML_DSA_87,
}
_REFUSED: Final = {
    PublicKeyAlgorithmOID.RSASSA_PSS: "id-RSASSA-PSS",
    PublicKeyAlgorithmOID.DSA: "DSA",
    PublicKeyAlgorithmOID.ED448: "Ed448",
    PublicKeyAlgorithmOID.X25519: "X25519",
    PublicKeyAlgorithmOID.X448: "X448",
}
_ACCEPTED: Final = "RSA of 2048 to 8192 bits, P-256, P-384, P-521, Ed25519 and ML-DSA are accepted"

_SHA2: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ML_DSA: Final = frozenset(  # of signatures and keys alike (RFC 9881 2)
    {SignatureAlgorithmOID.ML_DSA_44, SignatureAlgorithmOID.ML_DSA_65, SignatureAlgorithmOID.ML_DSA_87}
)
_MIN_ML_DSA_VALUES: Final = 128  # different octets of t1: a real key has over 240, of 256
_SIGNATURE_ALGORITHMS: Final = frozenset(
    {
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.ED25519,
        *_ML_DSA,
    }
)


# Points of small order, for which anybody can make signatures, in all their encodings but for the sign
# bit: y = 0, 1, -1 and the two y of order 8, and 0 and 1 again as p and p + 1 (RFC 8032 5.1.3).
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


@asn1.sequence
class _SubjectPublicKeyInfo:  # RFC 5280 4.1
    algorithm: asn1.TLV
    subject_public_key: asn1.BitString


@asn1.sequence
class _RSAPublicKey:  # RFC 8017 A.1.1
    modulus: int
    public_exponent: int


def verify_signature_algorithm(
    algorithm: ObjectIdentifier, hash_algorithm: hashes.HashAlgorithm | None
) -> None:
    """Raise `BadSignatureAlgorithm` for all but RSA, RSA-PSS and ECDSA with SHA-2, Ed25519 and ML-DSA."""
    hashed = algorithm != SignatureAlgorithmOID.RSASSA_PSS or isinstance(hash_algorithm, _SHA2)
    if algorithm not in _SIGNATURE_ALGORITHMS or not hashed:
        raise BadSignatureAlgorithm(
            f"{oid_name(algorithm)} is not accepted; "
            "sign the request with SHA-256, SHA-384, SHA-512, Ed25519 or ML-DSA",
            "signature_algorithm",
        )


def verify_key_size(algorithm: ObjectIdentifier, subject_public_key_info: bytes) -> bytes:
    """Verify the bounds of a DER SubjectPublicKeyInfo, before any arithmetic on it.

    Returns:
        the key's bits (RFC 5280 4.1: subjectPublicKey).

    Raises:
        BadPublicKey: the algorithm is refused by name, the RSA figures are out of bounds, or anybody can
            sign for the key.
    """
    if algorithm in _REFUSED:
        raise _bad(f"{_REFUSED[algorithm]} keys are not accepted; {_ACCEPTED}")
    try:
        info = asn1.decode_der(_SubjectPublicKeyInfo, subject_public_key_info)
        key = info.subject_public_key.as_bytes()
        if algorithm == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5:
            numbers = asn1.decode_der(_RSAPublicKey, key)
            _verify_rsa(numbers.modulus, numbers.public_exponent)
    except ValueError as error:
        raise _bad("the public key is malformed") from error
    if algorithm == PublicKeyAlgorithmOID.ED25519 and _without_sign(key) in _SMALL_ORDER:
        raise _bad("the Ed25519 point is of small order: anybody can sign for it")
    # FIPS 204, algorithm 8: a t1 of 0 and 1023, which is -1 there, leaves nothing of the secret to prove.
    if algorithm in _ML_DSA and len(set(key[32:])) < _MIN_ML_DSA_VALUES:
        raise _bad("the ML-DSA key is nearly all zeros: anybody can sign for it")
    return key


def _without_sign(point: bytes) -> bytes:
    return point[:31] + bytes(octet & 0x7F for octet in point[31:])


def _verify_rsa(modulus: int, exponent: int) -> None:
    bits = modulus.bit_length() if modulus > 0 else 0
    if not RSA_MIN_BITS <= bits <= RSA_MAX_BITS:
        raise _bad(f"the RSA modulus has {bits} bits; {RSA_MIN_BITS} to {RSA_MAX_BITS} are accepted")
    if bits % RSA_BITS_STEP:
        raise _bad(f"the RSA modulus has {bits} bits, which is not divisible by {RSA_BITS_STEP}")
    if not modulus % 2:
        raise _bad("the RSA modulus is even")
    if not exponent % 2 or not RSA_MIN_EXPONENT < exponent < RSA_MAX_EXPONENT:
        raise _bad("the RSA public exponent must be odd and between 2^16 and 2^64")


def verify_canonical_spki(public_key: CertificatePublicKeyTypes, spki: bytes) -> None:
    """Raise `BadPublicKey` unless the DER `spki` is what the library will write into the certificate."""
    if spki != encode_public_key(public_key):
        raise _bad(
            "the key's encoding is not the usual one (a compressed point, or odd parameters), "
            "and the certificate could not carry it unchanged"
        )


def kind_of(public_key: CertificatePublicKeyTypes) -> KeyKind:
    """The kind of a public key.

    Raises:
        BadPublicKey: it is of a kind that is not certified.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        curve = public_key.curve.name
        if curve not in _CURVES:
            raise _bad(f"the curve {curve} is not accepted; {_ACCEPTED}")
        return _CURVES[curve]
    for base, kind in _KINDS.items():
        if isinstance(public_key, base):
            return kind
    raise _bad(f"keys of this kind are not accepted; {_ACCEPTED}")


def signature_hash(public_key: CertificatePublicKeyTypes) -> Hash | None:
    """The hash that an issuer with this key signs with; None where the algorithm has its own."""
    return _HASHES.get(kind_of(public_key))


def signature_verifier(public_key: CertificatePublicKeyTypes) -> Callable[[bytes, bytes], None]:
    """A function of signature and data, which raises `InvalidSignature` if this issuer did not make it."""
    algorithm = signature_hash(public_key)
    if algorithm is None:
        return public_key.verify  # type: ignore[union-attr,return-value]  # Ed25519 and ML-DSA take no more
    if isinstance(public_key, rsa.RSAPublicKey):
        return partial(public_key.verify, padding=padding.PKCS1v15(), algorithm=algorithm)
    return partial(public_key.verify, signature_algorithm=ec.ECDSA(algorithm))  # type: ignore[union-attr,call-arg]  # EC


def encode_public_key(public_key: CertificatePublicKeyTypes) -> bytes:
    """The key as a certificate holds it (RFC 5280 4.1.2.7), DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def describe_key(public_key: CertificatePublicKeyTypes) -> str:
    """A key in a word, such as `RSA-3072` or `P-256`; raise as `kind_of`."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA-{public_key.key_size}"
    return kind_of(public_key).value


def generate_private_key(name: str) -> CertificateIssuerPrivateKeyTypes:
    """Make a private key of a kind in `GENERATORS`, in any case; raise `ValueError` for another one."""
    generator = GENERATORS.get(name.lower())
    if generator is None:
        raise ValueError(f"there is no kind of key {quote(name)}")
    return generator()


def encode_private_key(key: CertificateIssuerPrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    """A private key, PKCS#8 in PEM, encrypted if there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


GENERATORS: Final[dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]]] = {
    "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa-4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


def _bad(detail: str) -> BadPublicKey:
    return BadPublicKey(detail, "public_key")
