"""Read existing certificates: every field at once, so that a malformed one is one error, and at the start.

`cryptography` reads lazily: a certificate with a malformed subject, time, extension or key loads, and raises
one of many classes of exception wherever that field is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from service.pki.errors import describe_error

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
    """Read a certificate, DER; each of its fields can be read after that.

    Unless `whole` is asked for, its extensions, key and signature algorithm may be unreadable.

    Raises:
        ValueError: it is malformed, or its key or signature is of an unknown kind; the text says which field.
    """
    return _load(lambda: [x509.load_der_x509_certificate(der)], (*_IDENTITY, *(_USE if whole else ())))[0]


def parse_pem(data: bytes) -> x509.Certificate:
    """Read the first certificate in PEM; raise as `load_der`."""
    return _load(lambda: [x509.load_pem_x509_certificate(data)])[0]


def parse_pem_chain(data: bytes) -> list[x509.Certificate]:
    """Read all certificates in PEM, of which there is at least one; raise as `load_der`."""
    return _load(lambda: x509.load_pem_x509_certificates(data))


def is_issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether the CA's key made the certificate's signature, and its subject is the certificate's issuer."""
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # noqa: BLE001 - the library has no common class for what disproves a signature
        return False
    return True


def names_key_of(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether the certificate's authorityKeyIdentifier, if it has one, is the CA's (RFC 5280 4.2.1.1)."""
    named = extension_value(certificate, x509.AuthorityKeyIdentifier)
    own = extension_value(ca, x509.SubjectKeyIdentifier)
    if named is None:
        return True
    issuer = x509.DirectoryName(ca.issuer)
    return (
        (own is None or named.key_identifier in (None, own.digest))
        and named.authority_cert_serial_number in (None, ca.serial_number)
        and issuer in (named.authority_cert_issuer or [issuer])
    )


def extension_value(owner: x509.Certificate | x509.CertificateSigningRequest, kind: type[_T]) -> _T | None:
    """The value of an extension of this class; None without one."""
    return next((each.value for each in owner.extensions if isinstance(each.value, kind)), None)


def malformed_fields(certificate: x509.Certificate) -> list[str]:
    """What `load_der` does not require to be readable, and is malformed; an unknown algorithm is not."""
    faults = _faults(certificate, _USE)
    return [_sentence(*fault) for fault in faults if not isinstance(fault[1], UnsupportedAlgorithm)]


def _load(
    load: Callable[[], list[x509.Certificate]], fields: Sequence[_Field] = _IDENTITY + _USE
) -> list[x509.Certificate]:
    try:
        certificates = load()
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise ValueError(_sentence("certificate", error)) from error
    for number, certificate in enumerate(certificates, 1):
        for label, fault in _faults(certificate, fields):
            place = f"{label} of certificate {number}" if len(certificates) > 1 else label
            raise ValueError(_sentence(place, fault)) from fault
    return certificates


def _faults(certificate: x509.Certificate, fields: Sequence[_Field]) -> Iterator[tuple[str, Exception]]:
    for label, read in fields:
        try:
            read(certificate)
        except Exception as error:  # noqa: BLE001 - as in `_load`
            yield label, error


def _sentence(field: str, error: Exception) -> str:
    return f"the {field} cannot be read: {describe_error(error)}"
