"""Parse certificate signing requests (RFC 2986) and verify proof of possession.

`cryptography` parses lazily: a CSR with a forged signature, a malformed SAN or an unknown curve loads, and
fails later. So `parse` accesses every field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from service.pki import input_formats, keys, names, weak_keys
from service.pki.errors import BadCSR, BadPublicKey, describe_error
from service.pki.keys import KeyKind
from service.pki.names import DistinguishedName

MAX_DER_BYTES: Final = 65_536  # 100 names of 253 octets and an ML-DSA-87 key need 33 KiB
MAX_TEXT_BYTES: Final = 131_072  # the same in base64, with text around it

# RFC 2985 5.4.2, and the OID that Windows uses. The library reads one of these attributes and drops others.
_EXTENSION_REQUESTS: Final = (
    x509.ObjectIdentifier("1.2.840.113549.1.9.14"),
    x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.14"),
)


@asn1.sequence
class _CertificationRequestInfo:  # RFC 2986 4.1
    version: int
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    attributes: asn1.TLV


@dataclass(frozen=True)
class CertificateSigningRequest:
    """A CSR whose sender proved possession of the private key.

    Attributes:
        der: the CSR in DER.
        subject: the requested subject.
        public_key: the subject public key, of an accepted kind and size.
        key_kind: the kind of the public key.
        subject_public_key_info: the public key in DER, which the certificate contains unchanged.
        key_identifier: SHA-1 of the key's bits (RFC 5280 4.2.1.2, method 1).
        extensions: the requested extensions (extensionRequest, RFC 2985 5.4.2).
        attributes: the OIDs of all other attributes, such as challengePassword, without their values.
    """

    der: bytes = field(repr=False)  # it may contain a challengePassword
    subject: DistinguishedName
    public_key: CertificatePublicKeyTypes
    key_kind: KeyKind
    subject_public_key_info: bytes
    key_identifier: bytes
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    attributes: tuple[x509.ObjectIdentifier, ...]

    @property
    def general_names(self) -> Sequence[x509.GeneralName] | None:
        """The requested subject alternative names; None without the extension."""
        for extension in self.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                return list(extension.value)
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The requested subject alternative names, as sent; only the kind of names that are not supported."""
        return tuple(map(names.describe, self.general_names or ()))

    @property
    def common_name(self) -> str:
        """The first requested common name, as sent; '' if there is none."""
        return next((text for oid, text in self.subject if oid == NameOID.COMMON_NAME), "")


def parse(data: bytes) -> CertificateSigningRequest:
    """Parse a CSR in PEM, DER or base64, also inside the encodings that `pem.decode` reads.

    The key size is verified before the signature, to bound the work on untrusted keys.

    Raises:
        BadCSR: the data is too large, malformed, not exactly one CSR, or not signed by the key in the CSR.
        BadSignatureAlgorithm: the CSR is signed with SHA-1 or another insecure algorithm.
        BadPublicKey: the kind, size or encoding of the key is not accepted, or the key is weak; or the data
            contains a private key.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise BadCSR(f"The CSR has {len(data)} bytes; at most {MAX_TEXT_BYTES} are accepted", "csr")
    der, _notes = input_formats.find_csr(data)
    if len(der) > MAX_DER_BYTES:
        raise BadCSR(f"The CSR has {len(der)} bytes; at most {MAX_DER_BYTES} are accepted", "csr")
    try:
        request = x509.load_der_x509_csr(der)
        signed = request.tbs_certrequest_bytes
        info = asn1.decode_der(_CertificationRequestInfo, signed)
        spki = asn1.encode_der(info.subject_public_key_info)
        key_algorithm = request.public_key_algorithm_oid  # type: ignore[attr-defined]  # not in the stubs
        subject = tuple(
            (attribute.oid, attribute.value if isinstance(attribute.value, str) else attribute.value.hex())
            for attribute in request.subject
        )
        extensions = tuple(request.extensions)
        attributes = _other_attributes(request)
    except Exception as error:  # the library has no common class for errors of malformed bytes
        input_formats.verify_format(der)
        raise BadCSR(
            f"The CSR cannot be parsed as PKCS#10 (RFC 2986): {describe_error(error)}", "csr"
        ) from error
    bits = keys.verify_encoded_key(key_algorithm, spki)
    keys.verify_signature_algorithm(request.signature_algorithm_oid, _signature_hash(request))
    try:
        public_key = request.public_key()
    except Exception as error:  # as above
        raise BadPublicKey(
            f"The public key cannot be parsed: {describe_error(error)}", "public_key"
        ) from error
    kind = keys.kind_of(public_key)
    keys.verify_canonical_spki(public_key, spki)
    weak_keys.verify_strength(public_key)
    if not _is_signed_by(request, signed, public_key):
        raise BadCSR(
            "The signature does not match the key in the CSR: the CSR was changed, damaged, or signed "
            "with another key",
            "signature",
        )
    return CertificateSigningRequest(
        der=der,
        subject=subject,
        public_key=public_key,
        key_kind=kind,
        subject_public_key_info=spki,
        key_identifier=hashlib.sha1(bits, usedforsecurity=False).digest(),
        extensions=extensions,
        attributes=attributes,
    )


def _other_attributes(request: x509.CertificateSigningRequest) -> tuple[x509.ObjectIdentifier, ...]:
    oids = [attribute.oid for attribute in request.attributes]
    others = tuple(oid for oid in oids if oid not in _EXTENSION_REQUESTS)
    if len(oids) - len(others) > 1:
        raise ValueError("several extensionRequest attributes")
    return others


def _signature_hash(request: x509.CertificateSigningRequest) -> hashes.HashAlgorithm | None:
    try:
        return request.signature_hash_algorithm
    except Exception:  # noqa: BLE001 - unknown; `verify_signature_algorithm` refuses its OID
        return None


def _is_signed_by(
    request: x509.CertificateSigningRequest, signed: bytes, public_key: CertificatePublicKeyTypes
) -> bool:
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):  # faster: the library would load the key again
            algorithm = request.signature_algorithm_parameters
            if isinstance(algorithm, ec.ECDSA):
                public_key.verify(request.signature, signed, algorithm)
                return True
        return request.is_signature_valid  # noqa: TRY300 - it can raise
    except Exception:  # noqa: BLE001 - the signature of another kind of key raises
        return False
