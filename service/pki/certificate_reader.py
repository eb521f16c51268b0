"""Parse existing certificates eagerly: a malformed field raises `ValueError` at once.

`cryptography` parses lazily: a certificate with a malformed subject, time, extension or key loads, and raises
one of many exceptions when that field is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import AuthorityInformationAccessOID

from service.pki import names
from service.pki.errors import describe_error
from service.pki.names import Identifier

_T = TypeVar("_T", bound=x509.ExtensionType)
_Field = tuple[str, Callable[[x509.Certificate], object]]

_IDENTITY: Final[tuple[_Field, ...]] = (
    ("version", attrgetter("version")),
    ("serial number", attrgetter("serial_number")),
    ("subject", attrgetter("subject")),
    ("issuer", attrgetter("issuer")),
    ("validity period", attrgetter("not_valid_before_utc", "not_valid_after_utc")),
)
_USE: Final[tuple[_Field, ...]] = (
    ("extensions", attrgetter("extensions")),
    ("public key", lambda certificate: certificate.public_key()),
    ("signature algorithm", attrgetter("signature_hash_algorithm", "signature_algorithm_parameters")),
)


def parse_der(der: bytes, *, whole: bool = True) -> x509.Certificate:
    """Parse a certificate, DER.

    If not `whole`, its extensions, key and signature algorithm may be malformed.

    Raises:
        ValueError: the certificate is malformed, or the algorithm of its key or signature is unknown. The
            message names the field.
    """
    return _parse(lambda: [x509.load_der_x509_certificate(der)], (*_IDENTITY, *(_USE if whole else ())))[0]


def parse_pem(data: bytes) -> x509.Certificate:
    """Parse the first certificate in PEM; raises as `parse_der`."""
    return _parse(lambda: [x509.load_pem_x509_certificate(data)])[0]


def parse_pem_chain(data: bytes) -> list[x509.Certificate]:
    """Parse one or more certificates in PEM; raises as `parse_der`."""
    return _parse(lambda: x509.load_pem_x509_certificates(data))


def is_issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether the CA's key signed the certificate, and the CA's subject is the certificate's issuer."""
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # noqa: BLE001 - the library has no common class for signature errors
        return False
    return True


def find_issuer(certificate: x509.Certificate, cas: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """Return the first of these CA certificates, other than itself, that issued a certificate, if any."""
    return next((ca for ca in cas if ca != certificate and is_issued_by(certificate, ca)), None)


def names_key_of(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether the certificate's authorityKeyIdentifier, if present, is that of the CA (RFC 5280 4.2.1.1)."""
    authority_key = extension_value(certificate, x509.AuthorityKeyIdentifier)
    ca_key = extension_value(ca, x509.SubjectKeyIdentifier)
    if authority_key is None:
        return True
    issuer = x509.DirectoryName(ca.issuer)
    return (
        (ca_key is None or authority_key.key_identifier in (None, ca_key.digest))
        and authority_key.authority_cert_serial_number in (None, ca.serial_number)
        and issuer in (authority_key.authority_cert_issuer or [issuer])
    )


def extension_value(owner: x509.Certificate | x509.CertificateSigningRequest, kind: type[_T]) -> _T | None:
    """The value of the extension of this class; None if absent."""
    return next((item.value for item in owner.extensions if isinstance(item.value, kind)), None)


def alternative_names(certificate: x509.Certificate) -> tuple[Identifier, ...]:
    """The subject alternative names; raise `RejectedIdentifier` if this CA would not issue such a name."""
    sans = extension_value(certificate, x509.SubjectAlternativeName) or ()
    return tuple(names.parse_general_name(san, "") for san in sans)


def names_status(certificate: x509.Certificate) -> bool:
    """Whether a certificate names a CRL or an OCSP responder."""
    access = extension_value(certificate, x509.AuthorityInformationAccess) or ()
    has_ocsp = any(item.access_method == AuthorityInformationAccessOID.OCSP for item in access)
    return has_ocsp or extension_value(certificate, x509.CRLDistributionPoints) is not None


def omit_superiors(cas: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return these CA certificates without those of a CA above another of them."""
    superiors = {ca.issuer for ca in cas}
    return [ca for ca in cas if ca.subject not in superiors]


def find_path(certificate: x509.Certificate, cas: Sequence[x509.Certificate]) -> Iterator[x509.Certificate]:
    """Yield the certificates above a certificate: its issuer first, as far as these CA certificates reach."""
    while issuer := find_issuer(certificate, cas):
        yield issuer
        cas, certificate = [ca for ca in cas if ca != issuer], issuer


def key_id(ca: x509.Certificate) -> str:
    """The subjectKeyIdentifier (RFC 5280 4.2.1.2) in lower-case hexadecimal; '' if absent."""
    identifier = extension_value(ca, x509.SubjectKeyIdentifier)
    return identifier.digest.hex() if identifier else ""


def malformed_fields(certificate: x509.Certificate) -> list[str]:
    """Messages about a malformed key, extensions or signature algorithm; unknown algorithms are valid."""
    errors = _field_errors(certificate, _USE)
    return [_message(field, error) for field, error in errors if not isinstance(error, UnsupportedAlgorithm)]


def _parse(
    load: Callable[[], list[x509.Certificate]], fields: Sequence[_Field] = _IDENTITY + _USE
) -> list[x509.Certificate]:
    try:
        certificates = load()
    except Exception as error:  # the library has no common class for errors of malformed bytes
        raise ValueError(_message("certificate", error)) from error
    for number, certificate in enumerate(certificates, 1):
        for label, field_error in _field_errors(certificate, fields):
            field = f"{label} of certificate {number}" if len(certificates) > 1 else label
            raise ValueError(_message(field, field_error)) from field_error
    return certificates


def _field_errors(certificate: x509.Certificate, fields: Sequence[_Field]) -> Iterator[tuple[str, Exception]]:
    for label, get in fields:
        try:
            get(certificate)
        except Exception as error:  # noqa: BLE001 - as in `_parse`
            yield label, error


def _message(field: str, error: Exception) -> str:
    return f"the {field} cannot be parsed: {describe_error(error)}"
