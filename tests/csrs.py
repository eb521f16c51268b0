"""Certificate signing requests for tests, built with real keys."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

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
