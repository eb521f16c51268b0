"""Parse certificate signing requests (RFC 2986) and verify proof of possession.

`cryptography` parses lazily: a CSR with a forged signature, a malformed SAN or an unknown curve loads, and
fails later. So `read` accesses every field. It reads only DER: `lenient_csr` re-encodes what is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID, PublicKeyAlgorithmOID, SignatureAlgorithmOID

from service.pki import input_formats, keys, lenient_csr, names, weak_keys
from service.pki.errors import BadCSR, BadPublicKey, BadSignatureAlgorithm, RequestError, combine
from service.pki.keys import KeyKind
from service.pki.lenient_csr import EXTENSION_REQUESTS
from service.pki.names import DistinguishedName

MAX_DER_BYTES: Final = 65_536  # 100 names of 253 octets and an ML-DSA-87 key need 33 KiB
MAX_TEXT_BYTES: Final = 131_072  # the same in base64, with text around it

_RSA_ENCRYPTION: Final = bytes.fromhex("300d06092a864886f70d0101010500")  # with NULL, RFC 3279 2.3.1
_ECDSA: Final = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    }
)
# The tag of a NumericString, TeletexString, IA5String or VisibleString, after the type of an attribute.
_STRING_TAG: Final = re.compile(rb"\x06\x03\x55\x04.([\x12\x14\x16\x1a])", re.DOTALL)
_VISIBLE_STRING: Final = b"\x1a"


@asn1.sequence
class _CertificationRequestInfo:  # RFC 2986 4.1
    version: int
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    attributes: asn1.TLV


@asn1.sequence
class _ECDSASignature:  # RFC 3279 2.2.3
    r: int
    s: int


@dataclass(frozen=True)
class RequestedContent:
    """What a CSR requests; nothing proves that its sender has the private key.

    Attributes:
        subject: the requested subject.
        extensions: the requested extensions (extensionRequest, RFC 2985 5.4.2).
        attributes: the OIDs of all other attributes, such as challengePassword, without their values.
        subject_public_key_info: the public key in DER.
        notes: what was read leniently.
    """

    subject: DistinguishedName
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    attributes: tuple[x509.ObjectIdentifier, ...]
    subject_public_key_info: bytes
    notes: tuple[str, ...]

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


@dataclass(frozen=True, kw_only=True)
class CertificateSigningRequest(RequestedContent):
    """A CSR whose sender proved possession of the private key.

    The certificate contains `subject_public_key_info` unchanged.

    Attributes:
        der: the CSR as sent.
        public_key: the subject public key, of an accepted kind and size.
        key_kind: the kind of the public key.
        key_identifier: SHA-1 of the key's bits (RFC 5280 4.2.1.2, method 1).
    """

    der: bytes = field(repr=False)  # it may contain a challengePassword
    public_key: CertificatePublicKeyTypes
    key_kind: KeyKind
    key_identifier: bytes


@dataclass(frozen=True)
class RefusedRequest:
    """A CSR that is refused, whatever it requests; the refusal also lists the violations of the content."""

    content: RequestedContent
    violations: tuple[RequestError, ...]

    @property
    def error(self) -> RequestError:
        """The error that reports the violations."""
        return combine(self.violations)


@dataclass(frozen=True)
class UnverifiedRequest:
    """A CSR whose key and signature are not verified.

    Attributes:
        der: the CSR as sent.
        request: the CSR, re-encoded if it was not DER.
        subject: the content of its subject, DER.
        signed: the octets that the signature covers, as sent.
        content: what it requests.
        violations: parts that cannot be read.
    """

    der: bytes = field(repr=False)
    request: x509.CertificateSigningRequest = field(repr=False)
    subject: bytes
    signed: bytes = field(repr=False)
    content: RequestedContent
    violations: tuple[RequestError, ...] = ()


def parse(data: bytes) -> CertificateSigningRequest:
    """Read a CSR as `read`, and raise its violations.

    Raises:
        RequestError: as `read`; or the only violation, or a `CompoundError` of all violations.
    """
    result = read(data)
    if isinstance(result, RefusedRequest):
        raise result.error
    return result


def read(data: bytes) -> CertificateSigningRequest | RefusedRequest:
    """Read a CSR in PEM, DER or base64, also inside the encodings that `pem.decode` reads.

    The key size is verified before the signature, to bound the work on untrusted keys.

    Returns:
        the CSR; or its content and violations: the key is not accepted or weak, the CSR is signed with SHA-1
        or another insecure algorithm, or a part cannot be read.

    Raises:
        BadCSR: the data is too large, malformed, not exactly one CSR, or not signed by the key in the CSR.
        BadPublicKey: the data contains a private key.
    """
    return verify(read_unverified(data))


def read_unverified(data: bytes) -> UnverifiedRequest:
    """Read a CSR as `read`, without verifying its key and signature.

    Raises:
        BadCSR: the data is too large, malformed, or not exactly one CSR.
        BadPublicKey: the data contains a private key.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise BadCSR(f"The CSR has {len(data)} bytes; at most {MAX_TEXT_BYTES} are accepted", "csr")
    der, notes = input_formats.find_csr(data)
    if len(der) > MAX_DER_BYTES:
        raise BadCSR(f"The CSR has {len(der)} bytes; at most {MAX_DER_BYTES} are accepted", "csr")
    try:
        unverified = _parse_der(der, notes)
        _verify_readings(unverified)
    except Exception:  # noqa: BLE001 - the library has no common class for errors of malformed bytes
        return _parse_leniently(der, notes)
    return unverified


def _parse_der(der: bytes, notes: tuple[str, ...]) -> UnverifiedRequest:
    """Parse all fields but the key; any error means that the CSR is not DER."""
    request = x509.load_der_x509_csr(der)
    signed = request.tbs_certrequest_bytes
    info = asn1.decode_der(_CertificationRequestInfo, signed)
    subject = tuple(
        (attribute.oid, attribute.value if isinstance(attribute.value, str) else attribute.value.hex())
        for attribute in request.subject
    )
    oids = [attribute.oid for attribute in request.attributes]
    attributes = tuple(oid for oid in oids if oid not in EXTENSION_REQUESTS)
    if len(oids) - len(attributes) > 1:
        raise ValueError("the library reads one extensionRequest and drops others")
    spki = asn1.encode_der(info.subject_public_key_info)
    content = RequestedContent(subject, tuple(request.extensions), attributes, spki, notes)
    return UnverifiedRequest(der, request, bytes(info.subject.data), signed, content)


def _verify_readings(unverified: UnverifiedRequest) -> None:
    """Raise `ValueError` for what the library reads, but `lenient_csr` reads or encodes otherwise."""
    content = unverified.content
    tags = _STRING_TAG.findall(unverified.subject)
    if _VISIBLE_STRING in tags or (tags and not all(text.isascii() for _, text in content.subject)):
        raise ValueError("the library reads these strings as UTF-8")
    if (
        _key_algorithm(unverified.request) == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5
        and _RSA_ENCRYPTION not in content.subject_public_key_info[:24]
    ):
        raise ValueError("an RSA key has no NULL parameters")


def _parse_leniently(der: bytes, notes: tuple[str, ...]) -> UnverifiedRequest:
    """Parse a CSR that is not DER; its signature covers the original octets."""
    try:
        normalised = lenient_csr.normalise(der)
    except BadCSR:
        input_formats.verify_format(der)
        raise
    try:
        parsed = _parse_der(normalised.der, (*notes, *normalised.notes))
    except Exception as error:  # as in `read_unverified`
        detail = (
            "The algorithm of the public key or the signature has malformed parameters (RFC 5280 4.1.1.2)"
        )
        raise BadCSR(f"{detail}; create the CSR with another program", "csr") from error
    return replace(parsed, der=der, signed=normalised.signed, violations=normalised.violations)


def verify(unverified: UnverifiedRequest) -> CertificateSigningRequest | RefusedRequest:
    """Verify the key of a CSR, the signature algorithm, and if both are accepted the signature.

    Returns:
        as `read`.

    Raises:
        BadCSR: the key did not sign the CSR.
    """
    request, content = unverified.request, unverified.content
    violations: list[RequestError] = []
    public_key = None
    try:
        public_key, key_kind, bits = _verify_key(request, content.subject_public_key_info)
    except BadPublicKey as violation:
        violations.append(violation)
    try:
        if _key_algorithm(request) in keys.ALGORITHMS:  # no signature by another kind of key is accepted
            keys.verify_signature_algorithm(request.signature_algorithm_oid, _signature_hash(request))
    except BadSignatureAlgorithm as violation:
        violations.append(violation)
    if public_key and not violations:
        _verify_signature(request, unverified.signed, public_key)
    violations += unverified.violations
    if violations or public_key is None:
        return RefusedRequest(content, tuple(violations))
    return CertificateSigningRequest(
        **vars(content),
        der=unverified.der,
        public_key=public_key,
        key_kind=key_kind,
        key_identifier=hashlib.sha1(bits, usedforsecurity=False).digest(),
    )


def _verify_key(
    request: x509.CertificateSigningRequest, spki: bytes
) -> tuple[CertificatePublicKeyTypes, KeyKind, bytes]:
    """Verify the public key; return it, its kind and its bits."""
    bits = keys.verify_encoded_key(_key_algorithm(request), spki)
    try:
        public_key = request.public_key()
    except Exception as error:  # as in `read_unverified`
        raise keys.unreadable_key(spki) from error
    kind = keys.kind_of(public_key)
    keys.verify_canonical_spki(public_key, spki)
    weak_keys.verify_strength(public_key)
    return public_key, kind, bits


def _verify_signature(
    request: x509.CertificateSigningRequest, signed: bytes, public_key: CertificatePublicKeyTypes
) -> None:
    if _is_signed_by(request, signed, public_key):
        return
    if request.signature_algorithm_oid in _ECDSA and not _is_ecdsa_signature(request.signature):
        octets = len(request.signature)
        detail = f"The ECDSA signature is not DER-encoded (r, s) (RFC 3279 2.2.3); it has {octets} octets: "
        raise BadCSR(f"{detail}encode r and s as a SEQUENCE of two INTEGERs", "signature")
    raise BadCSR(
        "The signature does not match the key in the CSR: the CSR was changed, damaged, or signed "
        "with another key",
        "signature",
    )


def _key_algorithm(request: x509.CertificateSigningRequest) -> x509.ObjectIdentifier:
    algorithm: x509.ObjectIdentifier = request.public_key_algorithm_oid  # type: ignore[attr-defined]  # no stub
    return algorithm


def _signature_hash(request: x509.CertificateSigningRequest) -> hashes.HashAlgorithm | None:
    try:
        return request.signature_hash_algorithm
    except Exception:  # noqa: BLE001 - unknown; `verify_signature_algorithm` refuses its OID
        return None


def _is_ecdsa_signature(signature: bytes) -> bool:
    try:
        asn1.decode_der(_ECDSASignature, signature)
    except ValueError:
        return False
    return True


def _is_signed_by(
    request: x509.CertificateSigningRequest, signed: bytes, public_key: CertificatePublicKeyTypes
) -> bool:
    """Whether the key signed the octets; `request` may be another encoding of them."""
    try:
        algorithm, signature = request.signature_algorithm_parameters, request.signature
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, signed, algorithm)  # type: ignore[arg-type]  # raises TypeError
        elif isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, signed, algorithm, request.signature_hash_algorithm)  # type: ignore[arg-type]  # as above
        elif request.signature_algorithm_oid == _key_algorithm(request):  # Ed25519 and ML-DSA
            keys.signature_verifier(public_key)(signature, signed)
        else:
            return False
    except Exception:  # noqa: BLE001 - the signature of another kind of key raises
        return False
    return True
