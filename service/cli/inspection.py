"""Explain CSRs, certificates and chains, and find their errors."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from service.pki import certificate_reader, encoding, input_formats, keys, names
from service.pki.certificate_reader import is_issued_by
from service.pki.errors import BadPublicKey, IssuanceError, quote
from service.pki.names import IdentifierKind

if TYPE_CHECKING:  # slow to import, and certificates do not need it
    from service.pki.csr import RequestedContent

_T = TypeVar("_T")
_E = TypeVar("_E", bound=x509.ExtensionType)

_SAN: Final = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
_EXPOSED_KEY: Final = "the file also contains a private key: certlet sign accepts only the CSR"
_KEY_MISMATCH: Final = "the private key does not match"
_USES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS servers",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS clients",
    ExtendedKeyUsageOID.CODE_SIGNING: "code signing",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "email",
    ExtendedKeyUsageOID.TIME_STAMPING: "time stamps",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP responses",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "any use",
}


@dataclass(frozen=True)
class Inspection:
    """A CSR or certificate: labelled facts, errors and notes."""

    kind: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    members: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of `certlet show --json`."""
        return {"kind": self.kind, **self.members, "errors": self.problems, "notes": self.notes}


def inspect_csr(der: bytes, file: bytes, key: CertificatePublicKeyTypes | None = None) -> Inspection:
    """Inspect a CSR, for errors that do not depend on the profile.

    Args:
        der: the CSR, DER; b'' if the file has none.
        file: the content of its file, of which the service reads only one CSR and nothing else.
        key: a public key that must be the CSR's.

    Returns:
        The facts, the errors, which are those of the service, and what the service reads leniently.
    """
    from service.pki import csr  # noqa: PLC0415 - slow to import, and certificates do not need it

    has_private_key = input_formats.contains_private_key(file)
    violations = (BadPublicKey(_EXPOSED_KEY),) if has_private_key else _csr_violations(file)
    if der:
        violations += _csr_violations(der)
    for data in (file, der):  # the service refuses a file with a private key or with several CSRs
        if unverified := _try_or(partial(csr.read_unverified, data), None):
            content = unverified.content
            break
    else:
        return _inspection("File", (), {}, *_details(violations))
    unreadable = {violation.field for violation in violations}
    sans = [
        san
        for index, san in enumerate(content.general_names or ())
        if f"subject_alt_name[{index}]" not in unreadable
    ]
    public_key: Any = _try_or(lambda: load_der_public_key(content.subject_public_key_info), None)
    oids = [extension.oid for extension in content.extensions if extension.oid != _SAN]
    subject, texts = names.distinguished_name(content.subject), [names.describe(san) for san in sans]
    key_type, requested = (
        _try_or(lambda: keys.describe_key(public_key), ""),
        list(map(encoding.oid_name, oids)),
    )
    return _inspection(
        "CSR",
        (
            ("Subject", _subject(subject)),
            ("Names", ", ".join(texts) or "(none)"),
            ("Key", key_type),
            ("Requests", ", ".join(requested)),
        ),
        {"subject": subject.rfc4514_string(), "names": texts, "key_type": key_type, "extensions": requested},
        *_details(violations),
        *[_refusal(names.parse_general_name, san, "") for san in sans if type(san) in names.KINDS],
        "" if key is None or key == public_key else _KEY_MISMATCH,
        notes=(*content.notes, _missing_san_note(content)),
    )


def _missing_san_note(content: RequestedContent) -> str:
    """Return a note on a host name that is not a SAN, which profiles for TLS servers refuse; '' if none."""
    name = content.common_name
    if content.general_names or names.identifier_in_cn(name):
        return ""
    if _refusal(names.parse_identifier, IdentifierKind.DNS, name, ""):
        return ""
    option = f"-addext subjectAltName=DNS:{name}"
    return f"a TLS server needs {quote(name)} as a subject alternative name: with openssl, add {option}"


def _csr_violations(data: bytes) -> tuple[IssuanceError, ...]:
    """Return the violations that the service reports for any profile."""
    from service.pki import csr  # noqa: PLC0415 - as above

    try:
        result = csr.read(data)
    except IssuanceError as error:
        return (error,)
    return result.violations if isinstance(result, csr.RefusedRequest) else ()


def _details(violations: Sequence[IssuanceError]) -> list[str]:
    return list(dict.fromkeys(violation.detail for violation in violations))


def inspect_chain(
    certificates: Sequence[x509.Certificate],
    now: datetime,
    key: CertificatePublicKeyTypes | None = None,
    host: str = "",
) -> list[Inspection]:
    """Inspect a chain, in which each certificate is issued by the next (RFC 8446 4.4.2), or a bundle of CAs.

    Args:
        certificates: from `certificate_reader`; some of their fields may be malformed. If the first is a CA
            certificate, they are a bundle, in any order.
        now: the time, UTC.
        key: a public key that must be the first certificate's.
        host: a DNS name or IP address that the first certificate must be for; '' if it is not known.

    Returns:
        The facts, errors and notes of each certificate.
    """
    is_bundle = any(map(_is_ca, certificates[:1]))
    return [
        _inspection(
            _kind(certificate),
            _facts(certificate, now),
            certificate_facts(certificate) | _more_facts(certificate),
            *certificate_reader.malformed_fields(certificate),
            date_problem(certificate, now),
            _signature_problem(certificate),
            "" if index else _key_mismatch(certificate, key),
            name_problem(certificate, host) if host and not index else "",
            _issuer_problem(certificates, index),
            _identifier_problem(certificates, index),
            notes=[] if is_bundle else [_chain_note(certificates, index)],
        )
        for index, certificate in enumerate(certificates)
    ]


def _inspection(
    kind: str,
    facts: Sequence[tuple[str, str]],
    members: Mapping[str, object],
    *problems: str,
    notes: Sequence[str] = (),
) -> Inspection:
    """Create an inspection without empty texts."""
    facts = tuple(fact for fact in facts if fact[1])
    return Inspection(kind, facts, tuple(filter(None, problems)), tuple(filter(None, notes)), members)


def name_problem(certificate: x509.Certificate, host: str) -> str:
    """Return why a certificate is not for a DNS name or IP address (RFC 9525 6.3); '' if it is."""
    sans = list(_value(certificate, x509.SubjectAlternativeName) or ())
    matching: dict[type[x509.GeneralName], set[str]]
    try:
        matching = {x509.IPAddress: {str(ipaddress.ip_address(host))}}
    except ValueError:
        matching = {x509.DNSName: {host.lower(), f"*.{host.lower().partition('.')[2]}"}}
    if any(str(san.value).lower() in matching.get(type(san), ()) for san in sans):
        return ""
    return f"is not for {host}: its names are {', '.join(map(names.describe, sans)) or '(none)'}"


def sort_chain(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Sort certificates so that each comes before its issuer."""
    unsorted = list(certificates)
    chain: list[x509.Certificate] = []
    while unsorted:
        issuers = {
            certificate.issuer for certificate in unsorted if certificate.issuer != certificate.subject
        }
        leaves = (other for other in unsorted if other.subject not in issuers)
        chain.append(next(leaves, unsorted[0]))
        unsorted.remove(chain[-1])
    return chain


def certificate_facts(certificate: x509.Certificate) -> dict[str, object]:
    """Describe a certificate in JSON, with the field names of the audit log."""
    sans = _value(certificate, x509.SubjectAlternativeName) or ()
    return {
        "subject": certificate.subject.rfc4514_string(),
        "names": [names.describe(san) for san in sans],
        "issuer": certificate.issuer.rfc4514_string(),
        "serial_number": encoding.format_serial(certificate.serial_number),
        "not_before": encoding.format_timestamp(certificate.not_valid_before_utc),
        "not_after": encoding.format_timestamp(certificate.not_valid_after_utc),
        "fingerprint_sha256": encoding.fingerprint(certificate),
    }


def _more_facts(certificate: x509.Certificate) -> dict[str, object]:
    """Describe in JSON what `certlet show` adds; None is an extension that the certificate does not have."""
    usage, constraints = _value(certificate, x509.ExtendedKeyUsage), _name_constraints(certificate)
    return {
        "key_type": _key(certificate),
        "extended_key_usage": None if usage is None else list(map(encoding.oid_name, usage)),
        "name_constraints": constraints,
    }


def _name_constraints(certificate: x509.Certificate) -> dict[str, list[str]] | None:
    """Describe the names that a CA may certify (RFC 5280 4.2.1.10); None if it has no nameConstraints."""
    constraints = _value(certificate, x509.NameConstraints)
    if constraints is None:
        return None
    trees = {"permitted": constraints.permitted_subtrees, "excluded": constraints.excluded_subtrees}
    return {key: list(map(_describe_subtree, subtrees or ())) for key, subtrees in trees.items()}


def _describe_subtree(name: x509.GeneralName) -> str:
    directory = f":{name.value.rfc4514_string()}" if isinstance(name, x509.DirectoryName) else ""
    return f"{names.describe(name)}{directory}"


def _facts(certificate: x509.Certificate, now: datetime) -> tuple[tuple[str, str], ...]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = f" ({format_duration(end - now)} left)" if end > now else ""
    usage = _value(certificate, x509.ExtendedKeyUsage)
    sans = ", ".join(map(names.describe, _value(certificate, x509.SubjectAlternativeName) or ()))
    constraints = _name_constraints(certificate) or {}
    permitted, excluded = (
        ", ".join(f"{tree}(all)" if tree.endswith(":") else tree for tree in constraints.get(key, ()))
        for key in ("permitted", "excluded")
    )
    return (
        ("Subject", _subject(certificate.subject)),
        ("Names", sans or ("" if _is_ca(certificate) else "(none)")),
        ("Issuer", _subject(certificate.issuer)),
        ("Valid", f"{encoding.format_timestamp(start)} to {encoding.format_timestamp(end)}{left}"),
        ("Key", _key(certificate)),
        ("Usage", ", ".join(_USES.get(oid, oid.dotted_string) for oid in usage or ())),
        ("Permits", permitted),
        ("Excludes", excluded),
        ("Serial", encoding.format_serial(certificate.serial_number)),
        ("SHA-256", encoding.fingerprint(certificate)),
    )


def date_problem(certificate: x509.Certificate, now: datetime) -> str:
    """Return why a certificate is not valid at a time, UTC; '' if it is."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        return f"expired {format_duration(now - end)} ago"
    return f"not yet valid: the validity starts in {format_duration(start - now)}" if now < start else ""


def _signature_problem(certificate: x509.Certificate) -> str:
    if certificate.issuer == certificate.subject or _is_verifiable(certificate):
        return ""
    algorithm = encoding.oid_name(certificate.signature_algorithm_oid)
    return f"signed with {algorithm}, which is no longer secure"


def format_duration(time: timedelta) -> str:
    """Format a duration in one unit: `89 days`."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if count := int(time.total_seconds()) // size:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def _kind(certificate: x509.Certificate) -> str:
    if not _is_ca(certificate):
        return "Certificate"
    return "Root CA" if certificate.issuer == certificate.subject else "CA"


def _issuer_problem(chain: Sequence[x509.Certificate], index: int) -> str:
    """Return the error of a certificate's issuer in a chain (RFC 5280 6.1); '' if there is none."""
    certificate = chain[index]
    candidates = [number for number, other in enumerate(chain) if other.subject == certificate.issuer]
    issuers = [number for number in candidates if _is_signed_by(certificate, chain[number])]
    if certificate in chain[:index]:
        return f"duplicate of certificate {chain.index(certificate) + 1}"
    if certificate.issuer == certificate.subject:
        return "" if index in issuers else "self-issued, but not signed with its own key"
    if candidates and not issuers:
        return f"certificate {candidates[0] + 1} has the issuer's name, but did not sign this certificate"
    if issuers and index + 1 not in issuers and not _is_ca(chain[0]):
        return f"out of order: its issuer is certificate {issuers[0] + 1}, which must come next"
    if not issuers and index + 1 < len(chain) and not _is_ca(chain[0]):
        return "the chain has a gap: the issuer must come next, but is not included"
    return ""


def _identifier_problem(chain: Sequence[x509.Certificate], index: int) -> str:
    """Return an error if the authorityKeyIdentifier, which OpenSSL verifies, does not match the issuer."""
    certificate = chain[index]
    candidates = [other for other in chain if other.subject == certificate.issuer]
    issuers = [candidate for candidate in candidates if _is_signed_by(certificate, candidate)]
    identifies = partial(certificate_reader.names_key_of, certificate)
    if not issuers or _try_or(lambda: any(map(identifies, issuers)), default=True):
        return ""
    return "authorityKeyIdentifier does not match the issuer: OpenSSL rejects the chain"


def _chain_note(chain: Sequence[x509.Certificate], index: int) -> str:
    if chain[index].issuer == chain[index].subject:
        return "clients that trust this root already have it: a server need not send it" if index else ""
    if index + 1 < len(chain):
        return ""
    if index:
        return "the issuing root is not included; clients must already trust it"
    return "the issuer is not included; a server must also send it, unless it is a root"


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer signed the certificate; True if the algorithm is not supported."""
    return not _is_verifiable(certificate) or is_issued_by(certificate, issuer)


def _is_verifiable(certificate: x509.Certificate) -> bool:
    digest = _try_or(lambda: certificate.signature_hash_algorithm, None)
    return not _refusal(keys.verify_signature_algorithm, certificate.signature_algorithm_oid, digest)


def _refusal(check: Callable[..., object], *args: object) -> str:
    """Return the error that a check raises; '' if it raises none."""
    try:
        check(*args)
    except IssuanceError as error:
        return error.detail
    return ""


def _key_mismatch(certificate: x509.Certificate, key: CertificatePublicKeyTypes | None) -> str:
    matches = key is None or _try_or(lambda: certificate.public_key() == key, default=False)
    return "" if matches else _KEY_MISMATCH


def _is_ca(certificate: x509.Certificate) -> bool:
    basic = _value(certificate, x509.BasicConstraints)
    return bool(basic and basic.ca)


def _value(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    return _try_or(lambda: certificate_reader.extension_value(certificate, kind), None)


def _subject(name: x509.Name) -> str:
    return name.rfc4514_string() or "(empty)"


def _key(certificate: x509.Certificate) -> str:
    """Describe the key; if it is of an unsupported kind, name its algorithm."""
    algorithm = certificate.public_key_algorithm_oid
    return _try_or(lambda: keys.describe_key(certificate.public_key()), "") or encoding.oid_name(algorithm)


def _try_or(parse: Callable[[], _T], default: _T) -> _T:
    try:
        return parse()
    except Exception:  # noqa: BLE001 - the library has no common class for what malformed bytes raise
        return default
