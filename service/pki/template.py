"""Request + profile + issuer + time + serial number -> the certificate that will be signed.

Nothing is copied by default. What a request asks for is either given, refused, or left out with a
note, so that nobody is surprised by the certificate.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AttributeOID, NameOID

from service.pki import names
from service.pki.csr import CertificationRequest
from service.pki.errors import BadCSR, IssuerUnavailable, RejectedIdentifier, RequestError, quoted, refuse
from service.pki.issuer import Issuer
from service.pki.names import Name
from service.pki.profile import EXTENDED_KEY_USAGES, Profile, Profiles

MAX_COMMON_NAME: Final = 64  # RFC 5280 A.1, ub-common-name
LEAST_REMAINING: Final = timedelta(hours=1)  # of the issuer's own life, to be worth issuing

_KEY_USAGE_BITS: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
_AGREEMENT_BITS: Final = ("encipher_only", "decipher_only")
_CA_BITS: Final = frozenset({"key_cert_sign", "crl_sign"})
_RFC_5280_BITS: Final = {  # the RFC's spelling where it differs from the library's
    "content_commitment": "contentCommitment",
    "digital_signature": "digitalSignature",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
    "encipher_only": "encipherOnly",
    "decipher_only": "decipherOnly",
}
_SHORT_NAMES: Final = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.EMAIL_ADDRESS: "emailAddress",
}


@dataclass(frozen=True)
class Template:
    """All that a certificate will hold, except the signature.

    Attributes:
        subject: the common name alone, or empty.
        names: the subject alternative names, each once, in the request's order.
        public_key: the request's subject public key.
        subject_public_key_info: the same, DER.
        profile: the certificate profile.
        not_before: the first second of the validity period, UTC.
        not_after: its last second, UTC.
        notes: what was asked for and left out, or added, in sentences.
    """

    subject: x509.Name
    names: tuple[Name, ...]
    public_key: CertificatePublicKeyTypes
    subject_public_key_info: bytes
    profile: Profile
    not_before: datetime
    not_after: datetime
    notes: tuple[str, ...]

    def builder(self, issuer: Issuer, serial_number: int) -> x509.CertificateBuilder:
        """The certificate, ready for `Issuer.sign`."""
        usages = [EXTENDED_KEY_USAGES[usage] for usage in self.profile.extended_key_usage]
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.certificate.subject)
            .public_key(self.public_key)
            .serial_number(serial_number)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(issuer.authority_key_identifier, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.public_key), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(self.profile.key_usage(self.public_key), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if not self.names:
            return builder
        sans = x509.SubjectAlternativeName([name.general_name() for name in self.names])
        return builder.add_extension(sans, critical=not self.subject.rdns)  # RFC 5280 4.2.1.6


def plan(
    request: CertificationRequest,
    profile: Profile,
    profiles: Profiles,
    issuer: Issuer,
    now: datetime,
) -> Template:
    """Decide what the certificate will hold.

    Args:
        request: the proved request.
        profile: the profile that it is issued under.
        profiles: all profiles, so that a refusal can name the one that would do.
        issuer: who will sign.
        now: the time of issue, UTC.

    Raises:
        RequestError: the request cannot be granted; every reason at once.
        IssuerUnavailable: the issuer is not valid now, or ends within the hour.
    """
    draft = _Draft(request, profile)
    draft.read_names()
    subject = draft.read_subject()
    draft.read_extensions(profiles)
    draft.reasons += [
        RejectedIdentifier(violation, "subject_alt_name")
        for violation in issuer.name_violations(subject, draft.names)
    ]
    draft.reasons += [
        BadCSR(f"this CA may not issue certificates for {usage}", "profile")
        for usage in profile.extended_key_usage
        if not issuer.may_issue_for(EXTENDED_KEY_USAGES[usage])
    ]
    refuse(draft.reasons)
    not_before, not_after = _period(profile, issuer, now, draft.notes)
    return Template(
        subject=subject,
        names=tuple(draft.names),
        public_key=request.public_key,
        subject_public_key_info=request.subject_public_key_info,
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        notes=tuple(draft.notes),
    )


def _period(profile: Profile, issuer: Issuer, now: datetime, notes: list[str]) -> tuple[datetime, datetime]:
    verify_time(issuer, now)
    not_before, not_after = profile.period(now, issuer.not_before)
    if not_after > issuer.not_after:
        not_after = issuer.not_after
        notes.append(f"validity cut to the CA's own end, {not_after:%Y-%m-%dT%H:%M:%SZ}")
    return not_before, not_after


def verify_time(issuer: Issuer, now: datetime) -> None:
    """Refuse to issue outside the issuer's chain's life, or in its last hour.

    Raises:
        IssuerUnavailable: that is the case at `now` (UTC).
    """
    if now < issuer.not_before:
        raise IssuerUnavailable(f"the CA's chain is not valid before {issuer.not_before:%Y-%m-%dT%H:%M:%SZ}")
    if now > issuer.not_after - LEAST_REMAINING:
        raise IssuerUnavailable(f"the CA's chain ends at {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}")


class _Draft:
    """What has been decided so far: names, notes, and reasons to refuse."""

    def __init__(self, request: CertificationRequest, profile: Profile) -> None:
        self.request = request
        self.profile = profile
        self.names: list[Name] = []
        self.notes: list[str] = []
        self.reasons: list[RequestError] = []
        for oid in request.attributes:
            ignored = oid == AttributeOID.CHALLENGE_PASSWORD
            self.notes.append("challengePassword ignored" if ignored else f"attribute {_label(oid)} left out")

    def read_names(self) -> None:
        """Honour every subject alternative name, or refuse it."""
        for extension in self.request.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                self._read_alternative_names(list(extension.value))

    def _read_alternative_names(self, general_names: Sequence[x509.GeneralName]) -> None:
        if len(general_names) > names.MAX_NAMES:
            detail = f"{len(general_names)} names; {names.MAX_NAMES} are accepted"
            self.reasons.append(RejectedIdentifier(detail, "subject_alt_name"))
            return
        for position, general_name in enumerate(general_names):
            try:
                self._add(names.load(general_name, f"subject_alt_name[{position}]"), position)
            except RequestError as reason:
                self.reasons.append(reason)

    def _add(self, name: Name, position: int) -> None:
        if name.kind not in self.profile.names:
            raise RejectedIdentifier(
                f"the profile {self.profile.name} takes no {name.kind.value} names: {quoted(name.value)}",
                f"subject_alt_name[{position}]",
            )
        if name in self.names:
            self.notes.append(f"{name} asked for twice, given once")
        else:
            self.names.append(name)

    def read_subject(self) -> x509.Name:
        """Take the common name; leave every other attribute out, with a note."""
        common_names = []
        for oid, text in self.request.subject:
            if oid == NameOID.COMMON_NAME:
                common_names.append(text)
            else:
                label = _SHORT_NAMES.get(oid, oid.dotted_string)
                self.notes.append(f"subject attribute {label}={quoted(text)} left out")
        if len(common_names) > 1:
            self._reject(f"{len(common_names)} common names; one is accepted")
            return x509.Name([])
        if not common_names:
            self._require_a_name("neither a common name nor a subject alternative name is asked for")
            return x509.Name([])
        return self._read_common_name(common_names[0])

    def _read_common_name(self, text: str) -> x509.Name:
        if not 0 < len(text) <= MAX_COMMON_NAME:
            self._reject(f"the common name has {len(text)} characters; 1 to {MAX_COMMON_NAME} are accepted")
            return x509.Name([])
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
            self._reject(f"{quoted(text)} holds a control character")
            return x509.Name([])
        if self.profile.is_for_servers:
            self._require_among_names(text)
        # RFC 5280 counts characters, as above; the library's own check would count octets.
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)])

    def _require_among_names(self, common_name: str) -> None:
        """For servers, the common name is one of the SANs (CA/Browser Forum 7.1.4.3)."""
        spelt = names.from_common_name(common_name)
        folded = common_name.lower() if common_name.isascii() else None  # DNS folds ASCII alone
        if any(name.value == folded or name == spelt for name in self.names):
            return
        if spelt is None:
            self._reject(
                f"{quoted(common_name)} is not among the subject alternative names, and is neither a DNS "
                "name with a dot nor an IP address that could be added"
            )
            return
        try:
            name = names.load(spelt.general_name(), "subject.common_name")
            if name.kind not in self.profile.names:
                self._reject(f"the profile {self.profile.name} takes no {name.kind.value} names")
            elif len(self.names) >= names.MAX_NAMES:
                self._reject(f"there is no room for it: {names.MAX_NAMES} names are accepted")
            else:
                self.names.append(name)
                self.notes.append(f"common name added to the subject alternative names: {name}")
        except RequestError as reason:
            self.reasons.append(reason)
        except ValueError:  # the library takes no text that is not ASCII
            self._reject(f"{quoted(common_name)} is not in A-labels; write it as xn--… (RFC 5890)")

    def _require_a_name(self, detail: str) -> None:
        if not self.names and not self.reasons:
            self._reject(detail)

    def _reject(self, detail: str) -> None:
        self.reasons.append(RejectedIdentifier(detail, "subject.common_name"))

    def read_extensions(self, profiles: Profiles) -> None:
        """Refuse what only a CA or another profile has; note what is not copied."""
        for extension in self.request.extensions:
            match extension.value:
                case x509.SubjectAlternativeName():
                    pass
                case x509.BasicConstraints(ca=is_ca):
                    if is_ca:
                        self._forbid("basic_constraints", "CA:TRUE: only end entities are certified")
                case x509.KeyUsage():
                    self._read_key_usage(extension.value)
                case x509.ExtendedKeyUsage():
                    self._read_extended_key_usage(list(extension.value), profiles)
                case _:
                    self.notes.append(f"extension {_label(extension.oid)} left out")

    def _read_key_usage(self, asked: x509.KeyUsage) -> None:
        given = self.profile.key_usage(self.request.public_key)
        for bit in _KEY_USAGE_BITS:
            if not getattr(asked, bit) or getattr(given, bit):
                continue
            if bit in _CA_BITS:
                self._forbid("key_usage", f"{_RFC_5280_BITS[bit]}: only end entities are certified")
            else:
                self.notes.append(f"key usage {_RFC_5280_BITS[bit]} left out")
        for bit in _AGREEMENT_BITS:  # the library has them for key agreement alone
            if asked.key_agreement and getattr(asked, bit):
                self.notes.append(f"key usage {_RFC_5280_BITS[bit]} left out")

    def _read_extended_key_usage(self, asked: list[x509.ObjectIdentifier], profiles: Profiles) -> None:
        given = [EXTENDED_KEY_USAGES[usage] for usage in self.profile.extended_key_usage]
        for usage in asked:
            if usage not in given:
                offers = profiles.offering(usage)
                where = f"the profile {' or '.join(offers)} has it" if offers else "no profile has it"
                self._forbid(
                    "extended_key_usage",
                    f"{_label(usage)} is not in the profile {self.profile.name}; {where}",
                )
        for name, usage in zip(self.profile.extended_key_usage, given, strict=True):
            if usage not in asked:
                self.notes.append(f"extended key usage {name} added by the profile")

    def _forbid(self, extension: str, detail: str) -> None:
        self.reasons.append(BadCSR(f"the request asks for {detail}", f"extensions.{extension}"))


def _label(oid: x509.ObjectIdentifier) -> str:
    name = oid._name  # noqa: SLF001 - the library's only name for an OID
    return oid.dotted_string if name == "Unknown OID" else name
