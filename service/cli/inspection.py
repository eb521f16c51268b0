"""What is in a request, a certificate or a chain, and whether it belongs together, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from service.pki import certificate_reader, csr, encoding, keys, names
from service.pki.certificate_reader import is_issued_by
from service.pki.errors import IssuanceError

_T = TypeVar("_T")
_E = TypeVar("_E", bound=x509.ExtensionType)
_Owner: TypeAlias = x509.Certificate | x509.CertificateSigningRequest

_SAN: Final = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
_USES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS servers",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS clients",
    ExtendedKeyUsageOID.CODE_SIGNING: "code signing",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "email",
    ExtendedKeyUsageOID.TIME_STAMPING: "time stamps",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP answers",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "any use",
}


@dataclass(frozen=True)
class Inspection:
    """What one request or certificate is: labelled facts, what is wrong, and what is worth knowing."""

    kind: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def inspect_csr(der: bytes, file: bytes, key: CertificatePublicKeyTypes | None = None) -> Inspection:
    """What is in a CSR, DER, and why no service would take it, whatever the profile.

    `file` is all that is in its file, `key` the public half of its own key. ValueError if it is no CSR.
    """
    request = x509.load_der_x509_csr(der)
    sans = list(_value(request, x509.SubjectAlternativeName) or ())
    oids = [extension.oid for extension in _try_or(lambda: request.extensions, None) or ()]
    facts = (
        ("Subject", _subject(request.subject)),
        ("Names", ", ".join(map(names.describe, sans)) or "(none)"),
        ("Key", _key(request)),
        ("Asks for", ", ".join(encoding.oid_name(oid) for oid in oids if oid != _SAN)),
    )
    warning = "a private key is in its file, so certlet sign sends nothing: give the request alone"
    return _inspection(
        "Request",
        facts,
        warning if csr.contains_private_key(file) else "",
        _refusal(csr.parse, der),
        *[_refusal(names.parse_general_name, san, "") for san in sans if type(san) in names.KINDS],
        _key_mismatch(request, key),
    )


def inspect_chain(
    certificates: Sequence[x509.Certificate], now: datetime, key: CertificatePublicKeyTypes | None = None
) -> list[Inspection]:
    """What is in certificates, as a TLS server sends them: each issued by the next (RFC 8446 4.4.2).

    They are read by `certificate_reader`, at least in part.
    If the first is a CA's they are a bundle, as of roots, in any order. `now` is in UTC, `key` the
    public half of the first one's key.
    """
    is_bundle = any(map(_is_ca, certificates[:1]))
    return [
        _inspection(
            _kind(certificate),
            _facts(certificate, now),
            *certificate_reader.malformed_fields(certificate),
            _date_problem(certificate, now),
            _signature_problem(certificate),
            "" if index else _key_mismatch(certificate, key),
            _issuer_problem(certificates, index),
            _identifier_problem(certificates, index),
            note="" if is_bundle else _chain_note(certificates, index),
        )
        for index, certificate in enumerate(certificates)
    ]


def _inspection(kind: str, facts: Sequence[tuple[str, str]], *problems: str, note: str = "") -> Inspection:
    """All that has a text."""
    facts = tuple(fact for fact in facts if fact[1])
    return Inspection(kind, facts, tuple(filter(None, problems)), (note,) if note else ())


def sort_chain(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Certificates without order, such as a PKCS#7's, each before its issuer's."""
    left = list(certificates)
    chain: list[x509.Certificate] = []
    while left:
        issuers = {each.issuer for each in left if each.issuer != each.subject}
        chain.append(next((each for each in left if each.subject not in issuers), left[0]))
        left.remove(chain[-1])
    return chain


def _facts(certificate: x509.Certificate, now: datetime) -> tuple[tuple[str, str], ...]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = f" ({_span(end - now)} left)" if end > now else ""
    usage = _value(certificate, x509.ExtendedKeyUsage)
    sans = ", ".join(map(names.describe, _value(certificate, x509.SubjectAlternativeName) or ()))
    return (
        ("Subject", _subject(certificate.subject)),
        ("Names", sans or ("" if _is_ca(certificate) else "(none)")),
        ("Issuer", _subject(certificate.issuer)),
        ("Valid", f"{encoding.format_timestamp(start)} to {encoding.format_timestamp(end)}{left}"),
        ("Key", _key(certificate)),
        ("For", ", ".join(_USES.get(each, each.dotted_string) for each in usage or ())),
        ("Serial", encoding.format_serial(certificate.serial_number)),
        ("SHA-256", encoding.fingerprint(certificate)),
    )


def _date_problem(certificate: x509.Certificate, now: datetime) -> str:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        return f"it ended {_span(now - end)} ago"
    return f"it is not yet valid: it begins in {_span(start - now)}" if now < start else ""


def _signature_problem(certificate: x509.Certificate) -> str:
    if certificate.issuer == certificate.subject or _is_verifiable(certificate):
        return ""
    algorithm = encoding.oid_name(certificate.signature_algorithm_oid)
    return f"it is signed with {algorithm}, which proves nothing any more"


def _span(time: timedelta) -> str:
    """A time in one unit: `89 days`."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if count := int(time.total_seconds()) // size:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def _kind(certificate: x509.Certificate) -> str:
    if not _is_ca(certificate):
        return "Certificate"
    return "Root CA" if certificate.issuer == certificate.subject else "CA"


def _issuer_problem(chain: Sequence[x509.Certificate], index: int) -> str:
    """Whether what follows a certificate is what issued it (RFC 5280 6.1); '' if so."""
    certificate = chain[index]
    named = [number for number, each in enumerate(chain) if each.subject == certificate.issuer]
    signers = [number for number in named if _is_signed_by(certificate, chain[number])]
    if certificate in chain[:index]:
        return f"it is here twice: it is number {chain.index(certificate) + 1} too"
    if certificate.issuer == certificate.subject:
        is_own = index in signers
        return "" if is_own else "its signature is not by its own key, though it names itself as its issuer"
    if named and not signers:
        return f"number {named[0] + 1} has its issuer's name, and did not sign it"
    if signers and index + 1 not in signers and not _is_ca(chain[0]):
        return f"out of order: number {signers[0] + 1} issued it, and ought to follow it"
    if not signers and index + 1 < len(chain) and not _is_ca(chain[0]):
        return "what issued it ought to follow it, and is not here: the chain has a gap"
    return ""


def _identifier_problem(chain: Sequence[x509.Certificate], index: int) -> str:
    """Whether the authorityKeyIdentifier is of what issued a certificate, as OpenSSL wants it; '' if so."""
    certificate = chain[index]
    named = [each for each in chain if each.subject == certificate.issuer]
    signers = [each for each in named if _is_signed_by(certificate, each)]
    is_named = partial(certificate_reader.names_key_of, certificate)
    if not signers or _try_or(lambda: any(map(is_named, signers)), otherwise=True):
        return ""
    return "its authorityKeyIdentifier is not of what issued it: OpenSSL does not find its issuer"


def _chain_note(chain: Sequence[x509.Certificate], index: int) -> str:
    if chain[index].issuer == chain[index].subject:
        return "whoever trusts this root has it already: a server need not send it" if index else ""
    if index + 1 < len(chain):
        return ""
    if index:
        return "what issued it is not here: clients need to have that, as a root"
    return "what issued it is not here: a server has to send that too, unless it is a root"


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made the signature; always for algorithms that nobody verifies any more."""
    return not _is_verifiable(certificate) or is_issued_by(certificate, issuer)


def _is_verifiable(certificate: x509.Certificate) -> bool:
    digest = _try_or(lambda: certificate.signature_hash_algorithm, None)
    return not _refusal(keys.verify_signature_algorithm, certificate.signature_algorithm_oid, digest)


def _refusal(check: Callable[..., object], *args: object) -> str:
    """What the core says against something; '' if nothing."""
    try:
        check(*args)
    except IssuanceError as error:
        return error.detail
    return ""


def _key_mismatch(owner: _Owner, key: CertificatePublicKeyTypes | None) -> str:
    is_own = key is None or _try_or(lambda: owner.public_key() == key, otherwise=False)
    return "" if is_own else "the private key is not its own"


def _is_ca(certificate: x509.Certificate) -> bool:
    basic = _value(certificate, x509.BasicConstraints)
    return bool(basic and basic.ca)


def _value(owner: _Owner, kind: type[_E]) -> _E | None:
    return _try_or(lambda: certificate_reader.extension_value(owner, kind), None)


def _subject(name: x509.Name) -> str:
    return name.rfc4514_string() or "(empty)"


def _key(owner: _Owner) -> str:
    """The kind of key, or what its algorithm is called if it is of no kind that is certified."""
    algorithm: x509.ObjectIdentifier = owner.public_key_algorithm_oid  # type: ignore[union-attr]  # not in the stubs
    return _try_or(lambda: keys.describe_key(owner.public_key()), "") or encoding.oid_name(algorithm)


def _try_or(read: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return read()
    except Exception:  # noqa: BLE001 - the library has no common class for what malformed bytes raise
        return otherwise
