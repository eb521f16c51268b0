"""What a request asks for, weighed against profile, principal and issuer: given, refused, or noted.

Nothing is copied by default. What a request asks for is either given, refused, or left out with a
note, so that nobody is surprised by the certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AttributeOID, NameOID

from service.pki import names, weakness
from service.pki.csr import CertificationRequest
from service.pki.errors import (
    BadCSR,
    RejectedIdentifier,
    RejectedValidity,
    RequestError,
    quoted,
)
from service.pki.issuer import Issuer
from service.pki.names import DistinguishedName, Name, NameKind
from service.pki.policy import Profiles
from service.pki.profile import ATTRIBUTES, Asked, Profile, attribute_fault
from service.pki.rules import NameRules

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
_SHORT_NAMES: Final = {oid: name for name, (oid, _) in ATTRIBUTES.items()} | {
    NameOID.EMAIL_ADDRESS: "emailAddress"
}


@dataclass(frozen=True)
class Plan:
    """What a certificate is planned under.

    Attributes:
        profile: the profile that it is issued under.
        profiles: all of them, so that a refusal can name the one that would do.
        principal: who asks, by the name that profiles know.
        issuer: who will sign.
        now: the time, UTC.
        issued_at: when it counts as issued, UTC: now, or the window of an idempotent request.
        asked: what the request asks of the validity.
        reasons: what is against it already.
        is_renewal: whether a certificate of the profile asks, which is its own permission.
    """

    profile: Profile
    profiles: Profiles
    principal: str
    issuer: Issuer
    now: datetime
    issued_at: datetime
    asked: Asked
    reasons: tuple[RequestError, ...] = ()
    is_renewal: bool = False


class Draft:
    """What has been decided so far: names, notes, and reasons to refuse."""

    def __init__(self, request: CertificationRequest, under: Plan) -> None:
        self.request = request
        self.profile = under.profile
        self._under = under
        self.names: list[Name] = []
        self._fields: list[str] = []  # where each of the names stands in the request
        self.subject: DistinguishedName = ()
        self._attributes: dict[str, str] = {}
        self._asked_common_name = False
        self._common_name = ""  # what was asked for and is given
        self.copied: list[x509.ExtensionType] = []
        self.notes: list[str] = []
        self.reasons = list(under.reasons)
        for oid in request.attributes:
            ignored = oid == AttributeOID.CHALLENGE_PASSWORD
            self.notes.append("challengePassword ignored" if ignored else f"attribute {_label(oid)} left out")

    def verify_key(self) -> None:
        """Refuse a key that the profile does not take, and the CA's own."""
        spki, own = self.request.subject_public_key_info, self._under.issuer.public_keys
        self._try(lambda: self.profile.verify_key(self.request.public_key))
        self._try(lambda: weakness.verify_not_issuer(spki, own))

    def _try(self, verify: Callable[[], None]) -> None:
        try:
            verify()
        except RequestError as reason:
            self.reasons.append(reason)

    def read_validity(self) -> tuple[datetime, datetime]:
        """What the profile gives, or what is asked for; not beyond the CA's own end."""
        issuer, asked = self._under.issuer, self._under.asked
        try:
            not_before, not_after = self.profile.period(self._under.issued_at, issuer.not_before, asked)
        except RejectedValidity as reason:
            self.reasons.append(reason)
            return issuer.not_before, issuer.not_after
        if not_after > issuer.not_after:
            end = f"{issuer.not_after:%Y-%m-%dT%H:%M:%SZ}"
            if asked != Asked():
                field = "validity" if asked.not_after is None else "not_after"
                self.reasons.append(RejectedValidity(f"the CA's own certificates end at {end}", field))
            not_after = issuer.not_after
            self.notes.append(f"validity cut to the CA's own end, {end}")
        return not_before, not_after

    def read_names(self) -> None:
        """Honour every subject alternative name, or refuse it."""
        for extension in self.request.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                self._read_alternative_names(list(extension.value))

    def _read_alternative_names(self, general_names: Sequence[x509.GeneralName]) -> None:
        if not general_names:  # RFC 5280 4.2.1.6: at least one entry
            self.reasons.append(RejectedIdentifier("it is there and holds no name", "subject_alt_name"))
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
        if name in self.names:
            self.notes.append(f"{name} asked for twice, given once")
        else:
            self.names.append(name)
            self._fields.append(f"subject_alt_name[{position}]")

    def verify_names(self) -> None:
        """Hold the names to the profile, to what the principal may have, and to the CA's constraints.

        A common name that reads as a host's name, an address or a mailbox counts as that name. Where the
        profile gives no names of its kind it is just a name; a principal that is held to names has no others.
        """
        beside = self._beside()
        whose = f"the profile {self.profile.name}"
        self._verify_names(
            self.profile.names, whose, [each for each in beside if self.profile.names.gives(each)]
        )
        held_to = self._under.profiles.held_to(self._under.principal)
        if held_to is not None:
            self._verify_names(held_to, f"the principal {self._under.principal}", beside)
        self.reasons += [
            RejectedIdentifier(violation, "subject_alt_name")
            for violation in self._under.issuer.name_violations(self.subject, self.names)
        ]

    def _beside(self) -> list[Name]:
        """What the common name reads as, if it is none of the names."""
        if not self._common_name or Name(NameKind.DNS, self._common_name) in self.names:  # as a server's is
            return []
        spelt = names.read_into_common_name(self._common_name)
        return [spelt] if spelt and spelt not in self.names else []

    def _verify_names(self, rules: NameRules, whose: str, beside: Sequence[Name]) -> None:
        faults = rules.faults(self.names, whose)
        if beside:
            faults += [
                (len(self.names), detail) for _, detail in rules.of_common_names().faults(beside, whose)
            ]
        self.reasons += [RejectedIdentifier(detail, self._field(position)) for position, detail in faults]

    def _field(self, position: int | None) -> str:
        """Where a name stands in the request: the names in their order, and what is beside them."""
        if position is None:
            return "subject_alt_name"
        return self._fields[position] if position < len(self._fields) else "subject.common_name"

    def read_subject(self) -> DistinguishedName:
        """Take the attributes that the profile allows, and its own; leave others out, with a note."""
        self._read_attributes()
        given = self._attributes
        self.subject = tuple([(oid, given[name]) for name, (oid, _) in ATTRIBUTES.items() if name in given])
        if not (self.names or self.reasons):
            if not self._asked_common_name:
                self._reject("neither a common name nor a subject alternative name is asked for")
            elif not self.subject:  # RFC 5280 4.1.2.6: then the alternative names say whose it is
                self._reject(
                    f"the profile {self.profile.name} takes no common name, and there is no other name"
                )
        return self.subject

    def _read_attributes(self) -> None:
        self._attributes = dict(self.profile.fixed_attributes)
        for oid, text in self.request.subject:
            name = _SHORT_NAMES.get(oid, oid.dotted_string)
            if name == "CN":
                self._read_common_name(text)
            elif name in self.profile.allowed_attributes and name not in self._attributes:
                self._take(name, text)
            elif self._attributes.get(name) != text:
                self.notes.append(f"subject attribute {name}={quoted(text)} left out")

    def _take(self, name: str, text: str) -> bool:
        fault = attribute_fault(name, text)
        if fault:
            field = "subject.common_name" if name == "CN" else f"subject.{name}"
            self.reasons.append(RejectedIdentifier(fault, field))
        else:
            self._attributes[name] = text
        return not fault

    def _read_common_name(self, text: str) -> None:
        if self._asked_common_name:
            self._reject("several common names; one is accepted")
            return
        self._asked_common_name = True
        if "CN" in self._attributes or "CN" not in self.profile.allowed_attributes:
            self.notes.append(f"common name {quoted(text)} left out of the subject")
        elif self._take("CN", text):
            self._common_name = text
        else:
            return
        if self.profile.is_for_servers and not attribute_fault("CN", text):
            self._require_among_names(text)

    def _require_among_names(self, common_name: str) -> None:
        """For servers, the common name is one of the SANs (CA/Browser Forum 7.1.4.3)."""
        folded = common_name.lower() if common_name.isascii() else None  # DNS folds ASCII alone
        if any(name.value == folded for name in self.names):
            return
        spelt = names.from_common_name(common_name)
        if spelt in self.names:
            return
        if spelt is None:
            self._reject(
                f"{quoted(common_name)} is not among the subject alternative names, and is neither a DNS "
                "name with a dot nor an IP address that could be added"
            )
            return
        try:
            name = names.load(spelt.general_name(), "subject.common_name")
            if len(self.names) >= names.MAX_NAMES:
                self._reject(f"there is no room for it: {names.MAX_NAMES} names are accepted")
            else:
                self.names.append(name)
                self._fields.append("subject.common_name")
                self.notes.append(f"common name added to the subject alternative names: {name}")
        except RequestError as reason:
            self.reasons.append(reason)
        except ValueError:  # the library takes no text that is not ASCII
            self._reject(f"{quoted(common_name)} is not in A-labels; write it as xn--… (RFC 5890)")

    def _reject(self, detail: str) -> None:
        self.reasons.append(RejectedIdentifier(detail, "subject.common_name"))

    def read_extensions(self) -> None:
        """Refuse what only a CA or another profile has; take what the profile lets a request bring."""
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
                    self._read_extended_key_usage(list(extension.value))
                case _ if extension.oid in self.profile.extensions:
                    self.copied.append(extension.value)
                    if extension.critical:  # Java and Go refuse what is critical and unknown to them
                        self.notes.append(f"extension {_label(extension.oid)} is not critical")
                case _:
                    self.notes.append(f"extension {_label(extension.oid)} left out")

    def _read_key_usage(self, asked: x509.KeyUsage) -> None:
        given = self.profile.key_usage(self.request.key_kind)
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

    def _read_extended_key_usage(self, asked: list[x509.ObjectIdentifier]) -> None:
        given = self.profile.usages
        for usage in asked:
            if usage not in given:
                offers = self._under.profiles.offering(usage)
                where = f"the profile {' or '.join(offers)} does" if offers else "no profile does"
                self._forbid(
                    "extended_key_usage",
                    f"{_label(usage)}, which the profile {self.profile.name} does not give; {where}",
                )
        for name, usage in zip(self.profile.extended_key_usage, given, strict=True):
            if usage not in asked:
                self.notes.append(f"extended key usage {name} added by the profile")

    def _forbid(self, extension: str, detail: str) -> None:
        self.reasons.append(BadCSR(f"the request asks for {detail}", f"extensions.{extension}"))


def _label(oid: x509.ObjectIdentifier) -> str:
    name = oid._name  # noqa: SLF001 - the library's only name for an OID
    return oid.dotted_string if name == "Unknown OID" else name
