"""Accepted public keys and signature algorithms, with the source of each limit."""

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

PRIVATE_JWK_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 6
RSA_MIN_BITS: Final = 2048  # NIST SP 800-57 part 1, 5.6.1: 112 bits of strength
RSA_MAX_BITS: Final = 8192  # bounds the work of one proof of possession
RSA_BITS_STEP: Final = 8  # CA/Browser Forum Baseline Requirements 6.1.5
RSA_MIN_EXPONENT: Final = 2**16  # FIPS 186-5 A.1.1: 2^16 < e
RSA_MAX_EXPONENT: Final = 2**64  # OpenSSL accepts no larger exponent if the modulus has over 3,072 bits

Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


class KeyKind(StrEnum):
    """The accepted kinds of key, of subjects and CAs."""

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
FAST_SIGNING_KINDS: Final = frozenset({KeyKind.P256, KeyKind.ED25519})  # a signature takes some 20 µs
ML_DSA_KINDS: Final = frozenset({KeyKind.ML_DSA_44, KeyKind.ML_DSA_65, KeyKind.ML_DSA_87})

_CURVES: Final = {"secp256r1": KeyKind.P256, "secp384r1": KeyKind.P384, "secp521r1": KeyKind.P521}
_CURVE_NAMES: Final = {"secp192r1": "P-192", "secp224r1": "P-224", "1.2.156.10197.1.301": "SM2"}
_CURVE_OIDS: Final = {
    ec.EllipticCurveOID.SECP256R1,
    ec.EllipticCurveOID.SECP384R1,
    ec.EllipticCurveOID.SECP521R1,
}
_NOT_UNCOMPRESSED: Final = (b"\2", b"\3", b"\6", b"\7")  # SEC 1 2.3.3, X9.62 4.3.6
_KINDS: Final[dict[type, KeyKind]] = {
    rsa.RSAPublicKey: KeyKind.RSA,
    ed25519.Ed25519PublicKey: KeyKind.ED25519,
    mldsa.MLDSA44PublicKey: KeyKind.ML_DSA_44,
    mldsa.MLDSA65PublicKey: KeyKind.ML_DSA_65,
    mldsa.MLDSA87PublicKey: KeyKind.ML_DSA_87,
}
_REJECTED: Final = {
    PublicKeyAlgorithmOID.DSA: "DSA",
    PublicKeyAlgorithmOID.ED448: "Ed448",
    PublicKeyAlgorithmOID.X25519: "X25519",
    PublicKeyAlgorithmOID.X448: "X448",
}
_MALFORMED: Final = "The public key is malformed: create the key and the CSR again"
_NOT_CANONICAL: Final = (
    "The encoding of the public key is not canonical, so the certificate could not contain it unchanged; "
    "create the CSR again with another program"
)
_GENPKEY: Final = "openssl genpkey -out key.pem -algorithm"
_NEW_RSA_KEY: Final = f"create one with: {_GENPKEY} RSA -pkeyopt rsa_keygen_bits:3072"
_ACCEPTED_MESSAGE: Final = (
    "RSA of 2048 to 8192 bits, P-256, P-384, P-521, Ed25519 and ML-DSA are accepted, as from: "
    f"{_GENPKEY} EC -pkeyopt ec_paramgen_curve:P-256"
)
NEW_KEY: Final = "generate a new key"

_SHA2: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ML_DSA: Final = frozenset(  # the same OIDs for signatures and keys (RFC 9881 2)
    {SignatureAlgorithmOID.ML_DSA_44, SignatureAlgorithmOID.ML_DSA_65, SignatureAlgorithmOID.ML_DSA_87}
)
ALGORITHMS: Final = _ML_DSA | {  # of accepted keys
    PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5,
    PublicKeyAlgorithmOID.EC_PUBLIC_KEY,
    PublicKeyAlgorithmOID.ED25519,
}
_MIN_ML_DSA_VALUES: Final = 128  # distinct octets of t1: a proper key has over 240 of 256
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


# Points of small order, for which anyone can forge signatures, in all encodings without the sign bit:
# y = 0, 1, -1, the two y of order 8, and 0 and 1 encoded as p and p + 1 (RFC 8032 5.1.3).
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
class _ECAlgorithm:  # RFC 5480 2.1.1
    algorithm: ObjectIdentifier
    parameters: asn1.TLV


@asn1.sequence
class _RSAPublicKey:  # RFC 8017 A.1.1
    modulus: int
    public_exponent: int


def verify_signature_algorithm(
    algorithm: ObjectIdentifier, hash_algorithm: hashes.HashAlgorithm | None
) -> None:
    """Verify that an algorithm is RSA, RSA-PSS or ECDSA with SHA-2, Ed25519 or ML-DSA.

    Raises:
        BadSignatureAlgorithm: it is another algorithm.
    """
    has_sha2 = algorithm != SignatureAlgorithmOID.RSASSA_PSS or isinstance(hash_algorithm, _SHA2)
    if algorithm not in _SIGNATURE_ALGORITHMS or not has_sha2:
        raise BadSignatureAlgorithm(
            f"Signature algorithm {oid_name(algorithm)} is not accepted; "
            "sign the CSR with SHA-256, SHA-384, SHA-512, Ed25519 or ML-DSA",
            "signature_algorithm",
        )


def verify_encoded_key(algorithm: ObjectIdentifier, subject_public_key_info: bytes) -> bytes:
    """Verify the size of a DER SubjectPublicKeyInfo, before any arithmetic with the key.

    Returns:
        the content of the BIT STRING subjectPublicKey (RFC 5280 4.1).

    Raises:
        BadPublicKey: the algorithm is not accepted, the RSA modulus or exponent is out of bounds, or anyone
            can forge signatures of the key.
    """
    if algorithm == PublicKeyAlgorithmOID.RSASSA_PSS:
        detail = "an rsaEncryption key, which can sign with RSA-PSS too, is accepted"
        raise _bad(f"id-RSASSA-PSS keys are not accepted; {detail}: {_NEW_RSA_KEY}")
    if algorithm not in ALGORITHMS:
        name = _REJECTED.get(algorithm, algorithm.dotted_string)
        raise _bad(f"{name} keys are not accepted; {_ACCEPTED_MESSAGE}")
    try:
        info = asn1.decode_der(_SubjectPublicKeyInfo, subject_public_key_info)
        key = info.subject_public_key.as_bytes()
        if algorithm == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5:
            numbers = asn1.decode_der(_RSAPublicKey, key)
            _verify_rsa(numbers.modulus, numbers.public_exponent)
    except ValueError as error:
        raise _bad(_MALFORMED) from error
    if algorithm == PublicKeyAlgorithmOID.ED25519 and _without_sign(key) in _SMALL_ORDER:
        raise _bad(
            "The Ed25519 key is a point of small order: anyone can forge its signatures; generate a new key"
        )
    # FIPS 204, algorithm 8: if t1 consists of 0 and 1023 (-1), a signature needs no secret.
    if algorithm in _ML_DSA and len(set(key[32:])) < _MIN_ML_DSA_VALUES:
        raise _bad("The ML-DSA key is nearly all zeros: anyone can forge its signatures; generate a new key")
    return key


def _without_sign(point: bytes) -> bytes:
    return point[:31] + bytes(octet & 0x7F for octet in point[31:])


def _verify_rsa(modulus: int, exponent: int) -> None:
    if modulus <= 0:
        raise _bad(f"The RSA modulus is not positive: its INTEGER lacks a leading zero octet; {NEW_KEY}")
    bits = modulus.bit_length()
    if not RSA_MIN_BITS <= bits <= RSA_MAX_BITS:
        raise _bad(
            f"The RSA modulus has {bits} bits; {RSA_MIN_BITS} to {RSA_MAX_BITS} are accepted: {_NEW_RSA_KEY}"
        )
    if bits % RSA_BITS_STEP:
        raise _bad(f"The RSA modulus has {bits} bits, which is not a multiple of {RSA_BITS_STEP}: {NEW_KEY}")
    if not modulus % 2:
        raise _bad(f"The RSA modulus is even: {NEW_KEY}")
    if not exponent % 2 or not RSA_MIN_EXPONENT < exponent < RSA_MAX_EXPONENT:
        value = exponent if 0 < exponent < RSA_MAX_EXPONENT else f"of {exponent.bit_length()} bits"
        raise _bad(f"The RSA public exponent {value} is not odd and between 2^16 and 2^64: use 65537")


def verify_canonical_spki(public_key: CertificatePublicKeyTypes, spki: bytes) -> None:
    """Verify that the library re-encodes the key as the same DER `spki`; raises `BadPublicKey`."""
    if spki != encode_public_key(public_key):
        raise unreadable_key(spki, _NOT_CANONICAL)


def unreadable_key(subject_public_key_info: bytes, otherwise: str = _MALFORMED) -> BadPublicKey:
    """Return an error that says why an encoded EC key is refused; `otherwise` if the reason is another."""
    try:
        info = asn1.decode_der(_SubjectPublicKeyInfo, subject_public_key_info)
        parameters = info.algorithm.parse(_ECAlgorithm).parameters
        point = info.subject_public_key.as_bytes()
        if parameters.tag_bytes == b"\x30":
            return _bad(
                "The EC key has explicit parameters instead of a named curve (RFC 5480 2.1.1); "
                "convert it with: openssl ec -param_enc named_curve, "
                "or create it with -pkeyopt ec_param_enc:named_curve"
            )
        if point[:1] in _NOT_UNCOMPRESSED:
            return _bad(
                "The point of the EC key is compressed or hybrid; only uncompressed points are accepted "
                "(RFC 5480 2.2): convert the key with: openssl ec -conv_form uncompressed"
            )
        curve = parameters.parse(ObjectIdentifier)
    except ValueError:  # includes keys that are not EC
        return _bad(otherwise)
    return _bad(otherwise if curve in _CURVE_OIDS else _curve_violation(curve.dotted_string))


def _curve_violation(curve: str) -> str:
    alias = f" ({_CURVE_NAMES[curve]})" if curve in _CURVE_NAMES else ""
    return f"Curve {curve}{alias} is not accepted; {_ACCEPTED_MESSAGE}"


def kind_of(public_key: CertificatePublicKeyTypes) -> KeyKind:
    """The kind of a public key.

    Raises:
        BadPublicKey: the kind is not accepted.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        curve = public_key.curve.name
        if curve not in _CURVES:
            raise _bad(_curve_violation(curve))
        return _CURVES[curve]
    for base, kind in _KINDS.items():
        if isinstance(public_key, base):
            return kind
    raise _bad(f"This kind of key is not accepted; {_ACCEPTED_MESSAGE}")


def signature_hash(public_key: CertificatePublicKeyTypes) -> Hash | None:
    """The hash that an issuer with this key signs with; None if the algorithm includes one."""
    return _HASHES.get(kind_of(public_key))


def signature_verifier(public_key: CertificatePublicKeyTypes) -> Callable[[bytes, bytes], None]:
    """A function of signature and data that raises `InvalidSignature` if the key did not sign the data."""
    algorithm = signature_hash(public_key)
    if algorithm is None:
        return public_key.verify  # type: ignore[union-attr,return-value]  # Ed25519 and ML-DSA need no other arguments
    if isinstance(public_key, rsa.RSAPublicKey):
        return partial(public_key.verify, padding=padding.PKCS1v15(), algorithm=algorithm)
    return partial(public_key.verify, signature_algorithm=ec.ECDSA(algorithm))  # type: ignore[union-attr,call-arg]  # EC


def encode_public_key(public_key: CertificatePublicKeyTypes) -> bytes:
    """Encode a public key as SubjectPublicKeyInfo (RFC 5280 4.1.2.7), DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def describe_key(public_key: CertificatePublicKeyTypes) -> str:
    """Describe a key, such as `RSA-3072` or `P-256`; raises as `kind_of`."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA-{public_key.key_size}"
    return kind_of(public_key).value


def generate_private_key(key_type: str) -> CertificateIssuerPrivateKeyTypes:
    """Generate a private key of a type in `GENERATORS`, in any case; raises `ValueError` for other types."""
    generator = GENERATORS.get(key_type.lower())
    if generator is None:
        raise ValueError(f"unknown key type {quote(key_type)}")
    return generator()


def encode_private_key(key: CertificateIssuerPrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    """Encode a private key as PKCS#8 in PEM, encrypted if there is a passphrase."""
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
