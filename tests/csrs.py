"""Certificate signing requests for tests, built with real keys."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from service.pki import keys

KEY_TYPES = tuple(sorted(keys.GENERATORS))
FAST_KEY_TYPES = ("p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-44")


@functools.cache
def private_key(key_type: str = "p-256") -> CertificateIssuerPrivateKeyTypes:
    """A private key of this type, generated once per test run."""
    return keys.generate_private_key(key_type)


def general_name(text: str) -> x509.GeneralName:
    """Parse `dns:a.example`, `ip:10.0.0.1`, `email:a@b.example` or `uri:spiffe://a.example/x`."""
    kind, _, value = text.partition(":")
    match kind:
        case "dns":
            return x509.DNSName(value)
        case "ip":
            return x509.IPAddress(ipaddress.ip_address(value))
        case "email":
            return x509.RFC822Name._init_without_validation(value)
        case _:
            return x509.UniformResourceIdentifier(value)


def build(
    common_name: str | None = "a.example.com",
    sans: Sequence[str | x509.GeneralName] = (),
    extensions: Sequence[x509.ExtensionType] = (),
    subject: x509.Name | None = None,
    key_type: str = "p-256",
) -> x509.CertificateSigningRequest:
    """Build a CSR and sign it with the private key of `key_type`; `subject` replaces `common_name`."""
    if subject is None:
        attributes = (
            []
            if common_name is None
            else [x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)]
        )
        subject = x509.Name(attributes)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if sans:
        names = [general_name(name) if isinstance(name, str) else name for name in sans]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    key = private_key(key_type)
    return builder.sign(key, keys.signature_hash(key.public_key()))


def encode_pem(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(Encoding.PEM)


def encode_der(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(Encoding.DER)


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode a DER value of these parts (X.690 8.1), including values that the library cannot write."""
    content = b"".join(parts)
    octets = len(content).to_bytes((len(content).bit_length() + 7) // 8 or 1, "big")
    length = octets if len(content) < 128 else bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + content


def oid(dotted: str) -> bytes:
    """Encode an OBJECT IDENTIFIER."""
    return asn1.encode_der(x509.ObjectIdentifier(dotted))


def attribute(dotted: str, *values: bytes) -> bytes:
    """Encode an attribute of a CSR (RFC 2986 4.1)."""
    return tlv(0x30, oid(dotted), tlv(0x31, *values))


def extension(dotted: str, value: bytes, critical: bytes = b"") -> bytes:
    """Encode an extension (RFC 5280 4.1)."""
    return tlv(0x30, oid(dotted), critical, tlv(0x04, value))


def extension_request(*extensions: bytes) -> bytes:
    """Encode the attributes of a CSR: extensionRequest (RFC 2985 5.4.2)."""
    return tlv(0xA0, attribute("1.2.840.113549.1.9.14", tlv(0x30, *extensions)))


def subject(*values: bytes, dotted: str = "2.5.4.3") -> bytes:
    """Encode a subject with these common names in one RDN."""
    return tlv(0x30, tlv(0x31, *(tlv(0x30, oid(dotted), value) for value in values)))


WWW = extension_request(extension("2.5.29.17", tlv(0x30, tlv(0x82, b"www.example.com"))))


def sign_parts(  # noqa: PLR0913 - the fields of RFC 2986 4
    *,
    version: bytes = b"\x02\x01\x00",
    subject: bytes = b"\x30\x00",
    public_key: bytes = b"",
    attributes: bytes = WWW,
    info: bytes = b"",
    algorithm: bytes = b"",
    key_type: str = "p-256",
    key: CertificateIssuerPrivateKeyTypes | None = None,
) -> bytes:
    """Encode and sign a CSR of these parts, which need not be DER."""
    key = key or private_key(key_type)
    public_key = public_key or keys.encode_public_key(key.public_key())
    info = info or tlv(0x30, version, subject, public_key, attributes)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature, default = (
            key.sign(info, ec.ECDSA(hashes.SHA256())),
            SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        )
    elif isinstance(key, rsa.RSAPrivateKey):
        signature, default = (
            key.sign(info, padding.PKCS1v15(), hashes.SHA256()),
            SignatureAlgorithmOID.RSA_WITH_SHA256,
        )
    else:
        signature, default = key.sign(info), SignatureAlgorithmOID.ED25519  # type: ignore[call-arg]
    null = b"\5\0" if isinstance(key, rsa.RSAPrivateKey) else b""
    algorithm = algorithm or tlv(0x30, oid(default.dotted_string), null)
    return tlv(0x30, info, algorithm, tlv(0x03, b"\0", signature))
