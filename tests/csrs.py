"""Certification requests for tests, made with real keys."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from service.pki import keys

KINDS = tuple(sorted(keys.GENERATORS))
FAST_KINDS = ("p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-44")


@functools.cache
def key(kind: str = "p-256") -> CertificateIssuerPrivateKeyTypes:
    """One private key of each kind, made once in a test run."""
    return keys.generate_private_key(kind)


def general_name(text: str) -> x509.GeneralName:
    """`dns:a.example`, `ip:10.0.0.1`, `email:a@b.example`, `uri:spiffe://a.example/x`."""
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
    cn: str | None = "a.example.com",
    sans: Sequence[str | x509.GeneralName] = (),
    extensions: Sequence[x509.ExtensionType] = (),
    subject: x509.Name | None = None,
    kind: str = "p-256",
) -> x509.CertificateSigningRequest:
    """A request with a common name, alternative names and other extensions, signed by its key."""
    if subject is None:
        common_name = [x509.NameAttribute(NameOID.COMMON_NAME, cn, _validate=False)] if cn is not None else []
        subject = x509.Name(common_name)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if sans:
        names = [general_name(each) if isinstance(each, str) else each for each in sans]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key(kind), keys.signature_hash(key(kind).public_key()))


def pem(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(Encoding.PEM)


def der(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(Encoding.DER)


def tlv(tag: int, *parts: bytes) -> bytes:
    """A DER value of these parts (X.690 8.1), as the library may not write it."""
    body = b"".join(parts)
    octets = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    length = octets if len(body) < 128 else bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + body
