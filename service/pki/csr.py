"""RFC 2986: bytes -> `CertificateSigningRequest`, eager and total, with proof of possession.

`cryptography` reads lazily: a forged signature, a malformed SAN or an unknown curve all load, and
fail later. So `load` forces every field here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from service.pki import keys, names, pem, weak_keys
from service.pki.errors import BadCSR, BadPublicKey, describe_error
from service.pki.keys import KeyKind
from service.pki.names import DistinguishedName

MAX_DER_BYTES: Final = 65_536  # 100 names of 253 octets and an ML-DSA-87 key need 33 KiB
MAX_TEXT_BYTES: Final = 131_072  # the same in base64, with some text around it

_PRIVATE_KEY: Final = b"PRIVATE KEY-----"
# RFC 2985 5.4.2, and what Windows calls it. The library reads one attribute and drops any other.
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
    """A certification request, whose sender proved possession of the private key.

    Attributes:
        der: the request itself, DER.
        subject: the requested subject.
        public_key: the subject public key, of a kind and size that is certified.
        key_kind: its kind.
        subject_public_key_info: the key's DER, which the certificate carries unchanged.
        key_identifier: SHA-1 of the key's bits (RFC 5280 4.2.1.2, method 1).
        extensions: what the request asks for in its extensionRequest attribute (RFC 2985 5.4.2).
        attributes: the kinds of its other attributes, such as challengePassword; never their values.
    """

    der: bytes = field(repr=False)  # it may hold a challengePassword
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
        for each in self.extensions:
            if isinstance(each.value, x509.SubjectAlternativeName):
                return list(each.value)
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The requested subject alternative names, as sent; of other GeneralNames only the kind."""
        return tuple(map(names.describe, self.general_names or ()))

    @property
    def common_name(self) -> str:
        """The first requested common name, as sent; '' for none."""
        return next((text for oid, text in self.subject if oid == NameOID.COMMON_NAME), "")


def contains_private_key(data: bytes) -> bool:
    """Whether the data contains a private key in PEM, of any kind (RFC 7468 10 and 11)."""
    return _PRIVATE_KEY in data


def parse(data: bytes) -> CertificateSigningRequest:
    """Read a certification request: PEM with either header and text around it, DER, or base64 of the DER.

    The key's bounds come before the proof, so that nothing is computed on a key that is out of bounds.

    Raises:
        BadCSR: it is too large, malformed, not exactly one request, or not signed by the key in it.
        BadSignatureAlgorithm: it is signed with SHA-1 or another algorithm that proves nothing.
        BadPublicKey: its key is of a kind, size or encoding that is not certified, or known to be weak; or a
            private key in PEM is in the data.
    """
    if contains_private_key(data):
        raise BadPublicKey(
            "a private key came with it, so it is nobody's secret any more: make a new one, and send its "
            "request alone",
            "csr",
        )
    der = _der(data)
    if len(der) > MAX_DER_BYTES:
        raise BadCSR(f"the request has {len(der)} bytes; {MAX_DER_BYTES} are accepted", "csr")
    try:
        request = x509.load_der_x509_csr(der)
        signed = request.tbs_certrequest_bytes
        info = asn1.decode_der(_CertificationRequestInfo, signed)
        spki = asn1.encode_der(info.subject_public_key_info)
        key_algorithm = request.public_key_algorithm_oid  # type: ignore[attr-defined]  # not in the stubs
        subject = tuple(
            (each.oid, each.value if isinstance(each.value, str) else each.value.hex())
            for each in request.subject
        )
        extensions = tuple(request.extensions)
        attributes = _other_attributes(request)
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise BadCSR(f"it cannot be read as PKCS#10 (RFC 2986): {describe_error(error)}", "csr") from error
    bits = keys.verify_key_size(key_algorithm, spki)
    keys.verify_signature_algorithm(request.signature_algorithm_oid, _signature_hash(request))
    try:
        public_key = request.public_key()
    except Exception as error:  # as above
        raise BadPublicKey(f"the key cannot be read: {describe_error(error)}", "public_key") from error
    kind = keys.kind_of(public_key)
    keys.verify_canonical_spki(public_key, spki)
    weak_keys.verify_strength(public_key)
    if not _is_signed_with(request, signed, public_key):
        raise BadCSR(
            "the signature is not by the key in the request: it was changed, damaged, or signed "
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


def _der(data: bytes) -> bytes:
    if len(data) > MAX_TEXT_BYTES:
        raise BadCSR(f"the request has {len(data)} bytes; {MAX_TEXT_BYTES} are accepted", "csr")
    blocks = pem.parse(data)
    requests = [block.der for block in blocks if block.der and block.label in ("", *pem.CSR_LABELS)]
    if len(requests) > 1:
        raise BadCSR(f"there are {len(requests)} certification requests; send one", "csr")
    if not requests:
        raise BadCSR(_why_none(data, [block.label for block in blocks]), "csr")
    return requests[0]


def _why_none(data: bytes, labels: Sequence[str]) -> str:
    if not labels:
        return "there is no certification request in it"
    if not labels[0]:
        return "it is no certification request in PEM, DER or base64"
    if not any("CERTIFICATE REQUEST" in label for label in labels):
        return f"this is a {labels[0]}, not a CERTIFICATE REQUEST"
    if not re.search(rb"[\r\n]", data.strip()):
        return "the PEM block has lost its line ends; curl keeps them with --data-binary"
    return "the PEM block is damaged: its base64 or its END line is wrong"


def _other_attributes(request: x509.CertificateSigningRequest) -> tuple[x509.ObjectIdentifier, ...]:
    kinds = [attribute.oid for attribute in request.attributes]
    others = tuple(oid for oid in kinds if oid not in _EXTENSION_REQUESTS)
    if len(kinds) - len(others) > 1:
        raise ValueError("it has several extensionRequest attributes")
    return others


def _signature_hash(request: x509.CertificateSigningRequest) -> hashes.HashAlgorithm | None:
    try:
        return request.signature_hash_algorithm
    except Exception:  # noqa: BLE001 - an unknown algorithm is refused by its OID, with its name
        return None


def _is_signed_with(
    request: x509.CertificateSigningRequest, signed: bytes, public_key: CertificatePublicKeyTypes
) -> bool:
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):  # the library would load the key once more
            how = request.signature_algorithm_parameters
            if isinstance(how, ec.ECDSA):
                public_key.verify(request.signature, signed, how)
                return True
        return request.is_signature_valid  # noqa: TRY300 - it raises as well
    except Exception:  # noqa: BLE001 - a signature by another kind of key raises, and proves nothing
        return False
