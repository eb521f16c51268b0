"""What is in a request, a certificate or a chain, and what is wrong with it, in plain words.

Nothing here reads a file, a clock or the network. Text of a stranger is escaped where it is printed, in
`service.cli.terminal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from service.pki import csr, encoding, keys, name_constraints, names, weak_keys
from service.pki.errors import IssuanceError

_T = TypeVar("_T", bound=x509.ExtensionType)
_Extensions: TypeAlias = Sequence[x509.Extension[x509.ExtensionType]]

_USES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS servers",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS clients",
    ExtendedKeyUsageOID.CODE_SIGNING: "code signing",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "email",
    ExtendedKeyUsageOID.TIME_STAMPING: "time stamps",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP answers",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "any use",
}
_LONGEST_FOR_SERVERS: Final = timedelta(days=825)  # support.apple.com/103769, for a CA of one's own too


@dataclass(frozen=True)
class Report:
    """What one request or certificate is found to be.

    Attributes:
        kind: what it is, in a word or two.
        facts: what is in it, each with its label.
        faults: what is wrong with it, in sentences.
        notes: what is only worth knowing.
    """

    kind: str
    facts: tuple[tuple[str, str], ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def of_request(der: bytes, key: CertificatePublicKeyTypes | None = None) -> Report:
    """What is in a certification request, and whether its sender has its key (RFC 2986).

    Args:
        der: the request, DER.
        key: the public half of the key that is said to be its own; None for none.

    Raises:
        ValueError: it is no request at all.
    """
    request = x509.load_der_x509_csr(der)
    faults: list[str] = []
    try:
        csr.load(der)
    except IssuanceError as error:
        faults.append(error.detail)
    faults += [each for each in _key_faults(request) if each not in faults]
    faults += _misfit(request, key)
    extensions = _extensions(request)
    if extensions is not None:
        faults += _asked_faults(request.subject, extensions)
    return Report("Request", _asked(request, extensions or ()), tuple(faults), tuple(_asked_notes(request)))


def _asked(request: x509.CertificateSigningRequest, extensions: _Extensions) -> tuple[tuple[str, str], ...]:
    others = [each.oid for each in extensions if not isinstance(each.value, x509.SubjectAlternativeName)]
    facts = [
        ("Subject", _subject(request.subject)),
        ("Names", ", ".join(map(names.shown, _sans(extensions))) or "(none)"),
        ("Key", _key(request)),
        ("Asks for", ", ".join(map(_oid, others))),
    ]
    return tuple((label, text) for label, text in facts if text)


def _asked_faults(subject: x509.Name, extensions: _Extensions) -> Iterator[str]:
    sans = _sans(extensions)
    yield from _name_faults(sans)
    if not sans and not _common_names(subject):
        yield "it asks for no name"
    if _is_ca(extensions):
        yield "it asks to be a CA, which no profile gives"


def _asked_notes(request: x509.CertificateSigningRequest) -> Iterator[str]:
    extensions = _extensions(request)
    if extensions is not None and not _sans(extensions) and _common_names(request.subject):
        yield "the name stands in the common name alone: ask for it as a subject alternative name too"
    kinds: list[x509.ObjectIdentifier] = _read(lambda: [each.oid for each in request.attributes], [])
    if AttributeOID.CHALLENGE_PASSWORD in kinds:  # RFC 2985 5.4.1
        yield "it holds a challenge password, which whoever sees the request can read"


def of_chain(
    certificates: Sequence[x509.Certificate], now: datetime, key: CertificatePublicKeyTypes | None = None
) -> list[Report]:
    """What is in certificates, the first of them the one that the others are the chain of.

    Args:
        certificates: as a TLS server sends them (RFC 8446 4.4.2), each issued by the next.
        now: the time, UTC.
        key: the public half of the key that is said to be the first one's; None for none.
    """
    reports = []
    for place, certificate in enumerate(certificates):
        faults: list[str] = []
        extensions = _extensions(certificate)
        faults += _plain_faults(certificate, now)
        faults += _key_faults(certificate)
        faults += _signature_faults(certificate)
        faults += (
            ["its extensions cannot be read"] if extensions is None else _use_faults(certificate, extensions)
        )
        if place == 0:
            faults += _misfit(certificate, key)
            faults += _constraint_faults(certificates)
        faults += _place_faults(certificates, place)
        facts = _facts(certificate, extensions or (), now)
        notes = tuple(_place_notes(certificates, place))
        reports.append(Report(_kind(certificate, extensions or ()), facts, tuple(faults), notes))
    return reports


def arranged(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Certificates of a bag without order, such as a PKCS#7, each before what issued it."""
    left = list(certificates)
    found: list[x509.Certificate] = []
    while left:
        issuers = {each.issuer for each in left if each.issuer != each.subject}
        found.append(next((each for each in left if each.subject not in issuers), left[0]))
        left.remove(found[-1])
    return found


def _facts(
    certificate: x509.Certificate, extensions: _Extensions, now: datetime
) -> tuple[tuple[str, str], ...]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    usage = _found(extensions, x509.ExtendedKeyUsage)
    facts = [
        ("Subject", _subject(certificate.subject)),
        ("Names", ", ".join(map(names.shown, _sans(extensions))) or ("" if _is_ca(extensions) else "(none)")),
        ("Issuer", _subject(certificate.issuer)),
        ("Valid", f"{encoding.timestamp(start)} to {encoding.timestamp(end)}{_remaining(end, now)}"),
        ("Key", _key(certificate)),
        ("For", ", ".join(_USES.get(each, each.dotted_string) for each in usage or ())),
        ("Serial", encoding.serial(certificate.serial_number)),
        ("SHA-256", encoding.fingerprint(certificate)),
    ]
    return tuple((label, text) for label, text in facts if text)


def _remaining(end: datetime, now: datetime) -> str:
    left = end - now
    return f" ({_span(left)} left)" if left > timedelta(0) else ""


def _span(time: timedelta) -> str:
    """A time in one unit: `89 days`."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if count := int(time.total_seconds()) // size:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def _kind(certificate: x509.Certificate, extensions: _Extensions) -> str:
    if not _is_ca(extensions):
        return "Certificate"
    return "Root CA" if certificate.issuer == certificate.subject else "CA"


def _place_faults(chain: Sequence[x509.Certificate], place: int) -> Iterator[str]:
    """Whether what follows a certificate is what issued it (RFC 5280 6.1).

    Where the first is a CA's they are a bundle, as of roots, and follow one another as they like.
    """
    certificate = chain[place]
    if certificate in chain[:place]:
        yield f"it is here twice: it is number {chain.index(certificate) + 1} too"
    elif certificate.issuer == certificate.subject:
        if not _is_issued_by(certificate, certificate):
            yield "its signature is not by its own key, though it names itself as its issuer"
    else:
        named = [number for number, each in enumerate(chain) if each.subject == certificate.issuer]
        signers = [number for number in named if _is_issued_by(certificate, chain[number])]
        if signers:
            yield from _issuer_faults(certificate, chain[signers[0]], place)
        elif named:
            yield f"number {named[0] + 1} has its issuer's name, and did not sign it"
        if not _is_ca(_extensions(chain[0]) or ()):
            yield from _order_faults(chain, place, signers, named)


def _order_faults(
    chain: Sequence[x509.Certificate], place: int, signers: Sequence[int], named: Sequence[int]
) -> Iterator[str]:
    if signers and place + 1 not in signers:
        yield f"out of order: number {signers[0] + 1} issued it, and ought to follow it"
    elif not named and place + 1 < len(chain):
        yield "what issued it ought to follow it, and is not here: the chain has a gap"


def _issuer_faults(certificate: x509.Certificate, issuer: x509.Certificate, beneath: int) -> Iterator[str]:
    """Whether a certificate's issuer may issue it, with so many CAs beneath, and lives as long."""
    extensions = _extensions(issuer) or ()
    basic = _found(extensions, x509.BasicConstraints)
    usage = _found(extensions, x509.KeyUsage)
    if not (basic and basic.ca):
        yield "its issuer is no CA"
    elif basic.path_length is not None and basic.path_length < beneath:
        yield f"its issuer's pathLen is {basic.path_length}, and there are {beneath} CAs beneath it"
    if usage and not usage.key_cert_sign:
        yield "its issuer may not sign certificates (keyUsage)"
    if certificate.not_valid_after_utc > issuer.not_valid_after_utc:
        yield f"it outlives its issuer, which ends at {encoding.timestamp(issuer.not_valid_after_utc)}"


def _place_notes(chain: Sequence[x509.Certificate], place: int) -> Iterator[str]:
    certificate = chain[place]
    if _is_ca(_extensions(chain[0]) or ()):
        return
    if certificate.issuer == certificate.subject and place:
        yield "whoever trusts this root has it already: a server need not send it"
    if certificate.issuer != certificate.subject and place == len(chain) - 1:
        if place:
            yield "what issued it is not here: clients need to have that, as a root"
        else:
            yield "what issued it is not here: a server has to send that too, unless it is a root"


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether it has that issuer's name, and no signature that the issuer's key disproves.

    SHA-1 is not verified, nor is anything by a key out of bounds: both are told as faults of their own.
    """
    try:
        _verify_signature_algorithm(certificate)
        keys.verify_bounds(_key_algorithm(issuer), keys.subject_public_key_info(issuer.public_key()))
        certificate.verify_directly_issued_by(issuer)
    except IssuanceError:
        return certificate.issuer == issuer.subject
    except Exception:  # noqa: BLE001 - the library has no common class for what disproves a signature
        return False
    return True


def _plain_faults(certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    if certificate.serial_number <= 0:
        yield "its serial number is not positive (RFC 5280 4.1.2.2)"
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < start:
        yield "it ends before it begins"
    elif end < now:
        yield f"it ended {_span(now - end)} ago"
    elif now < start:
        yield f"it is not yet valid: it begins in {_span(start - now)}"


def _key_faults(held: x509.Certificate | x509.CertificateSigningRequest) -> Iterator[str]:
    """What is wrong with the subject public key, or with reading it."""
    try:
        public_key = held.public_key()
        keys.kind_of(public_key)
        keys.verify_bounds(_key_algorithm(held), keys.subject_public_key_info(public_key))
        weak_keys.verify_strength(public_key)
    except IssuanceError as error:
        yield error.detail
    except Exception:  # noqa: BLE001 - the library has no common class for what a bad key raises
        yield "its public key cannot be read"


def _key_algorithm(held: x509.Certificate | x509.CertificateSigningRequest) -> x509.ObjectIdentifier:
    return held.public_key_algorithm_oid  # type: ignore[union-attr]  # not in the stubs


def _signature_faults(certificate: x509.Certificate) -> Iterator[str]:
    """A signature that proves nothing; at a root's own nobody looks."""
    if certificate.issuer == certificate.subject:
        return
    try:
        _verify_signature_algorithm(certificate)
    except IssuanceError:
        yield f"it is signed with {_oid(certificate.signature_algorithm_oid)}, which proves nothing any more"


def _verify_signature_algorithm(certificate: x509.Certificate) -> None:
    hashed = _read(lambda: certificate.signature_hash_algorithm, None)
    keys.verify_signature_algorithm(certificate.signature_algorithm_oid, hashed)


def _use_faults(certificate: x509.Certificate, extensions: _Extensions) -> Iterator[str]:
    """What clients refuse about the names, and the life, of a certificate that is no CA's."""
    usage = _found(extensions, x509.KeyUsage)
    if _is_ca(extensions):
        if usage and not usage.key_cert_sign:
            yield "it is a CA's, and may not sign certificates (keyUsage)"
        return
    sans = _sans(extensions)
    yield from _name_faults(sans)
    if not sans and _common_names(certificate.subject):
        yield "its name stands in the common name alone, where no client looks any more (RFC 9525 6.3)"
    elif not sans:
        yield "it has no subject alternative name"
    uses = _found(extensions, x509.ExtendedKeyUsage)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if uses and ExtendedKeyUsageOID.SERVER_AUTH in uses and life > _LONGEST_FOR_SERVERS:
        yield f"it is valid for {_span(life)}, and Apple's systems take 825 of a TLS server's"
    if usage and usage.key_encipherment and not _key(certificate).startswith("RSA"):
        yield "its keyUsage has keyEncipherment, which its kind of key cannot do (RFC 8813, RFC 9881)"


def _constraint_faults(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """Names outside what the CAs above are constrained to."""
    sans = []
    for each in _sans(_extensions(chain[0]) or ()):
        try:
            sans.append(names.load(each, ""))
        except IssuanceError:
            continue  # which `_name_faults` tells
    for ca in chain[1:]:
        limit = _found(_extensions(ca) or (), x509.NameConstraints)
        if limit:
            yield from name_constraints.violations(limit, chain[0].subject, sans)


def _name_faults(asked: Sequence[x509.GeneralName]) -> Iterator[str]:
    """Names that are not well formed; those of other kinds are not judged."""
    for each in asked:
        if type(each) in names.KINDS:
            try:
                names.load(each, "")
            except IssuanceError as error:
                yield error.detail


def _misfit(
    held: x509.Certificate | x509.CertificateSigningRequest, key: CertificatePublicKeyTypes | None
) -> Iterator[str]:
    if key is not None and _read(
        lambda: keys.subject_public_key_info(held.public_key()), b""
    ) != keys.subject_public_key_info(key):
        yield "the private key is not its own"


def _extensions(held: x509.Certificate | x509.CertificateSigningRequest) -> _Extensions | None:
    """Its extensions; None if they cannot be read."""
    return _read(lambda: tuple(held.extensions), None)


def _found(extensions: _Extensions, kind: type[_T]) -> _T | None:
    return next((each.value for each in extensions if isinstance(each.value, kind)), None)


def _is_ca(extensions: _Extensions) -> bool:
    basic = _found(extensions, x509.BasicConstraints)
    return bool(basic and basic.ca)


def _sans(extensions: _Extensions) -> list[x509.GeneralName]:
    return list(_found(extensions, x509.SubjectAlternativeName) or ())


def _common_names(subject: x509.Name) -> list[x509.NameAttribute[str | bytes]]:
    return subject.get_attributes_for_oid(NameOID.COMMON_NAME)


def _subject(name: x509.Name) -> str:
    return _read(name.rfc4514_string, "(cannot be read)") or "(empty)"


def _key(held: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The kind of key, or what its algorithm is called where it is of no kind that is certified."""
    return _read(lambda: keys.describe(held.public_key()), "") or _oid(_key_algorithm(held))


def _oid(oid: x509.ObjectIdentifier) -> str:
    known = oid._name  # noqa: SLF001 - the library's only name for it
    return oid.dotted_string if known == "Unknown OID" else known


_R = TypeVar("_R")


def _read(read: Callable[[], _R], otherwise: _R) -> _R:
    try:
        return read()
    except Exception:  # noqa: BLE001 - the library has no common class for what malformed bytes raise
        return otherwise
