"""Evaluate what a request asks for against profile, principal and issuer: granted, refused, or noted.

Nothing is copied by default. What a request asks for is granted, or refused, or left out with a
note, so that nobody is surprised by the certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AttributeOID, NameOID

from service.pki import names, weak_keys
from service.pki.certificate import (
    NO_REV_AVAIL,
    CertificateSpec,
    Extension,
    extension,
    static_extensions,
)
from service.pki.csr import CertificationRequest
from service.pki.encoding import oid_name, timestamp
from service.pki.errors import (
    BadCSR,
    IssuerUnavailable,
    NotPermitted,
    RejectedIdentifier,
    RejectedValidity,
    RequestError,
    quoted,
    refuse,
)
from service.pki.issuer import Issuer
from service.pki.name_policy import NamePolicy
from service.pki.names import Name, NameKind
from service.pki.profile import (
    ATTRIBUTES,
    DEFAULT_VALIDITY,
    Profile,
    RequestedValidity,
    check_subject_attribute,
    eku_oid,
    key_usage,
)
from service.pki.profile_loader import IssuancePolicy
from service.pki.weak_keys import DenyList

MIN_ISSUER_LIFETIME: Final = timedelta(hours=1)  # of what is left of the chain's, to be worth issuing

_KEY_USAGES: Final = {  # the library's name, and RFC 5280's (4.2.1.3)
    "digital_signature": "digitalSignature",
    "content_commitment": "contentCommitment",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
    "encipher_only": "encipherOnly",
    "decipher_only": "decipherOnly",
}
_CA_ONLY_USAGES: Final = frozenset({"keyCertSign", "cRLSign"})
_SHORT_NAMES: Final = {oid: name for name, (oid, _) in ATTRIBUTES.items()} | {
    NameOID.EMAIL_ADDRESS: "emailAddress"
}
_SAN: Final = "subject_alt_name"  # fields of the request, for errors
_COMMON_NAME: Final = "subject.common_name"


@dataclass(frozen=True)
class IssuanceContext:
    """What a request is evaluated against.

    Attributes:
        profile: the profile that the certificate is issued under.
        profiles: all of them, so that a refusal can name the one that would do.
        principal: the caller, by the name that profiles know.
        issuer: what will sign.
        now: the time, UTC.
        issued_at: when the certificate counts as issued, UTC: now, or the window of an idempotent request.
        validity: the requested length of the validity period, ISO 8601; None for the profile's.
        not_after: or the requested end, RFC 3339.
        is_renewal: whether the caller is a certificate of the profile, which is its own permission.
        deny_list: keys that are never certified.
    """

    profile: Profile
    profiles: IssuancePolicy
    principal: str
    issuer: Issuer
    now: datetime
    issued_at: datetime
    validity: str | None = None
    not_after: str | None = None
    is_renewal: bool = False
    deny_list: DenyList = field(default_factory=DenyList)


def evaluate(request: CertificationRequest, context: IssuanceContext) -> CertificateSpec:
    """Decide what the certificate will hold.

    Args:
        request: the proved request.
        context: profile, principal, issuer and time.

    Raises:
        NotPermitted: the profile is not for this principal.
        RequestError: the request cannot be granted; every reason at once.
        IssuerUnavailable: the issuer is not valid now, or ends within the hour.
    """
    profile, issuer = context.profile, context.issuer
    if not (context.is_renewal or profile.permits(context.principal)):
        raise NotPermitted(f"The profile {profile.name} is not for this caller.", "profile")
    verify_issuer_lifetime(issuer, context.now)
    evaluation = _Evaluation(request, context)
    evaluation.evaluate_key()
    evaluation.evaluate_names()
    subject = evaluation.evaluate_subject()
    evaluation.verify_names(subject)
    evaluation.evaluate_extensions()
    not_before, not_after = evaluation.evaluate_validity()
    refuse(evaluation.violations)
    return CertificateSpec(
        subject=subject,
        names=tuple(evaluation.names),
        public_key=request.public_key,
        subject_public_key_info=request.subject_public_key_info,
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        extensions=evaluation.extensions(has_subject=bool(subject.rdns), period=(not_before, not_after)),
        notes=tuple(evaluation.notes),
    )


def verify_issuer_lifetime(issuer: Issuer, now: datetime) -> None:
    """Refuse to issue outside the life of the issuer's chain, or in its last hour.

    Raises:
        IssuerUnavailable: that is the case at `now` (UTC).
    """
    if now < issuer.not_before:
        raise IssuerUnavailable(f"the CA's chain is not valid before {timestamp(issuer.not_before)}")
    if now > issuer.not_after - MIN_ISSUER_LIFETIME:
        raise IssuerUnavailable(f"the CA's chain ends at {timestamp(issuer.not_after)}")


class _Evaluation:
    """What has been decided so far about one request: names, notes, and violations."""

    def __init__(self, request: CertificationRequest, context: IssuanceContext) -> None:
        self._request = request
        self._context = context
        self._profile = context.profile
        self.names: dict[Name, str] = {}  # each with its field in the request
        self._requested_extensions: list[x509.ExtensionType] = []
        self.violations: list[RequestError] = []
        self.notes = [
            "challengePassword ignored"
            if oid == AttributeOID.CHALLENGE_PASSWORD
            else f"attribute {oid_name(oid)} left out"
            for oid in request.attributes
        ]
        self._attributes = dict(context.profile.fixed_attributes)
        self._has_common_name = False  # in the request
        self._common_name = ""  # what is granted of what the request asks for

    def _collect(self, verify: Callable[[], None]) -> None:
        try:
            verify()
        except RequestError as violation:
            self.violations.append(violation)

    def _reject_common_name(self, detail: str) -> None:
        self.violations.append(RejectedIdentifier(detail, _COMMON_NAME))

    def evaluate_key(self) -> None:
        """Refuse a key that the profile does not take, a denied one, and the CA's own."""
        spki, ca_keys = self._request.subject_public_key_info, self._context.issuer.public_keys
        self._collect(lambda: self._context.deny_list.verify(spki))
        self._collect(lambda: self._profile.verify_key(self._request.public_key))
        self._collect(lambda: weak_keys.verify_not_issuer(spki, ca_keys))

    def evaluate_validity(self) -> tuple[datetime, datetime]:
        """What the profile gives, or what is asked for; not beyond the CA's own end."""
        context, issuer = self._context, self._context.issuer
        try:
            requested = RequestedValidity.parse(context.validity, context.not_after)
            not_before, not_after = self._profile.validity_period(
                context.issued_at, issuer.not_before, requested
            )
        except RejectedValidity as violation:
            self.violations.append(violation)
            return issuer.not_before, issuer.not_after
        if not_after <= issuer.not_after:
            return not_before, not_after
        end = timestamp(issuer.not_after)
        if requested != DEFAULT_VALIDITY:
            name = "validity" if requested.not_after is None else "not_after"
            self.violations.append(RejectedValidity(f"the CA's own certificates end at {end}", name))
        self.notes.append(f"validity cut to the CA's own end, {end}")
        return not_before, issuer.not_after

    def evaluate_names(self) -> None:
        """Grant every subject alternative name, or refuse it."""
        general_names = self._request.general_names
        if general_names is None:
            return
        if not general_names:  # RFC 5280 4.2.1.6: at least one entry
            self.violations.append(RejectedIdentifier("it is there and holds no name", _SAN))
        if len(general_names) > names.MAX_NAMES:
            detail = f"{len(general_names)} names; {names.MAX_NAMES} are accepted"
            self.violations.append(RejectedIdentifier(detail, _SAN))
            return
        for position, general_name in enumerate(general_names):
            place = f"{_SAN}[{position}]"
            try:
                name = names.load(general_name, place)
            except RequestError as violation:
                self.violations.append(violation)
                continue
            if name in self.names:
                self.notes.append(f"{name} asked for twice, given once")
            self.names.setdefault(name, place)

    def evaluate_subject(self) -> x509.Name:
        """Take the attributes that the profile allows, and its own; leave others out, with a note."""
        for oid, text in self._request.subject:
            name = _SHORT_NAMES.get(oid, oid.dotted_string)
            if name == "CN":
                self._evaluate_common_name(text)
            elif name in self._profile.allowed_attributes and name not in self._attributes:
                self._set_attribute(name, text)
            elif self._attributes.get(name) != text:
                self.notes.append(f"subject attribute {name}={quoted(text)} left out")
        if not (self.names or self.violations):
            if not self._has_common_name:
                self._reject_common_name("neither a common name nor a subject alternative name is asked for")
            elif not self._attributes:  # RFC 5280 4.1.2.6: without a subject there is an alternative name
                self._reject_common_name(
                    f"the profile {self._profile.name} takes no common name, and there is no other name"
                )
        attributes = self._attributes
        return names.distinguished_name(
            tuple((oid, attributes[name]) for name, (oid, _) in ATTRIBUTES.items() if name in attributes)
        )

    def _set_attribute(self, name: str, text: str) -> bool:
        violation = check_subject_attribute(name, text)
        if violation:
            place = _COMMON_NAME if name == "CN" else f"subject.{name}"
            self.violations.append(RejectedIdentifier(violation, place))
        else:
            self._attributes[name] = text
        return not violation

    def _evaluate_common_name(self, text: str) -> None:
        if self._has_common_name:
            self._reject_common_name("several common names; one is accepted")
            return
        self._has_common_name = True
        if "CN" in self._attributes or "CN" not in self._profile.allowed_attributes:
            self.notes.append(f"common name {quoted(text)} left out of the subject")
        elif self._set_attribute("CN", text):
            self._common_name = text
        else:
            return
        if self._profile.is_tls_server and not check_subject_attribute("CN", text):
            self._require_in_san(text)

    def _require_in_san(self, common_name: str) -> None:
        """For servers, the common name is one of the SANs (CA/Browser Forum 7.1.4.3)."""
        folded = common_name.lower() if common_name.isascii() else None  # DNS folds ASCII alone
        if any(name.value == folded for name in self.names):
            return
        implied = names.from_common_name(common_name)
        if implied in self.names:
            return
        if implied is None:
            self._reject_common_name(
                f"{quoted(common_name)} is not among the subject alternative names, and is neither a DNS "
                "name with a dot nor an IP address that could be added"
            )
            return
        try:
            name = names.load(implied.general_name(), _COMMON_NAME)
        except RequestError as violation:
            self.violations.append(violation)
        except ValueError:  # the library takes no text that is not ASCII
            self._reject_common_name(
                f"{quoted(common_name)} is not in A-labels; write it as xn--… (RFC 5890)"
            )
        else:
            if len(self.names) >= names.MAX_NAMES:
                self._reject_common_name(f"there is no room for it: {names.MAX_NAMES} names are accepted")
                return
            self.names[name] = _COMMON_NAME
            self.notes.append(f"common name added to the subject alternative names: {name}")

    def verify_names(self, subject: x509.Name) -> None:
        """Apply the rules of the profile, of the principal, and the CA's constraints to the names.

        A common name that reads as a host's name, an address or a mailbox counts as that name. Where the
        profile gives no names of its kind it is just a name; a principal with rules has no others.
        """
        rules, implied = self._profile.names, self._name_implied_by_common_name()
        self._apply(
            rules, f"the profile {self._profile.name}", [name for name in implied if rules.permits_kind(name)]
        )
        principal = self._context.principal
        if principal_rules := self._context.profiles.names_permitted_for(principal):
            self._apply(principal_rules, f"the principal {principal}", implied)
        self.violations += [
            RejectedIdentifier(violation, _SAN)
            for violation in self._context.issuer.name_violations(subject, tuple(self.names))
        ]

    def _name_implied_by_common_name(self) -> list[Name]:
        """What the common name reads as, if that is none of the names."""
        if not self._common_name or Name(NameKind.DNS, self._common_name) in self.names:  # as a server's is
            return []
        implied = names.read_into_common_name(self._common_name)
        return [implied] if implied and implied not in self.names else []

    def _apply(self, rules: NamePolicy, label: str, implied: Sequence[Name]) -> None:
        fields = tuple(self.names.values())
        self.violations += [
            RejectedIdentifier(detail, _SAN if position is None else fields[position])
            for position, detail in rules.violations(tuple(self.names), label)
        ]
        if implied:
            self.violations += [
                RejectedIdentifier(detail, _COMMON_NAME)
                for _, detail in rules.for_common_name().violations(implied, label)
            ]

    def evaluate_extensions(self) -> None:
        """Refuse what only a CA or another profile has; copy what the profile lets a request ask for."""
        for requested in self._request.extensions:
            match requested.value:
                case x509.SubjectAlternativeName():
                    pass
                case x509.BasicConstraints(ca=is_ca):
                    if is_ca:
                        self._reject_extension(
                            "basic_constraints", "CA:TRUE: only end entities are certified"
                        )
                case x509.KeyUsage():
                    self._evaluate_key_usage(requested.value)
                case x509.ExtendedKeyUsage():
                    self._evaluate_extended_key_usage(list(requested.value))
                case _ if requested.oid in self._profile.extensions:
                    self._requested_extensions.append(requested.value)
                    if requested.critical:  # Java and Go refuse what is critical and unknown to them
                        self.notes.append(f"extension {oid_name(requested.oid)} is not critical")
                case _:
                    self.notes.append(f"extension {oid_name(requested.oid)} left out")
        self.violations += [
            BadCSR(f"this CA may not issue certificates for {usage}", "profile")
            for usage in self._profile.extended_key_usage
            if not self._context.issuer.may_issue_for(eku_oid(usage))
        ]

    def _evaluate_key_usage(self, requested: x509.KeyUsage) -> None:
        granted = _key_usages(key_usage(self._request.key_kind))
        for usage in _key_usages(requested):
            if usage in _CA_ONLY_USAGES:
                self._reject_extension("key_usage", f"{usage}: only end entities are certified")
            elif usage not in granted:
                self.notes.append(f"key usage {usage} left out")

    def _evaluate_extended_key_usage(self, requested: Sequence[x509.ObjectIdentifier]) -> None:
        granted = self._profile.usages
        for usage in requested:
            if usage not in granted:
                offers = self._context.profiles.with_extended_key_usage(usage)
                others = f"the profile {' or '.join(offers)} does" if offers else "no profile does"
                self._reject_extension(
                    "extended_key_usage",
                    f"{oid_name(usage)}, which the profile {self._profile.name} does not give; {others}",
                )
        for name, usage in zip(self._profile.extended_key_usage, granted, strict=True):
            if usage not in requested:
                self.notes.append(f"extended key usage {name} added by the profile")

    def extensions(self, *, has_subject: bool, period: tuple[datetime, datetime]) -> tuple[Extension, ...]:
        """Every extension of the certificate, in order."""
        request = self._request
        authority_key, *static = static_extensions(self._context.issuer, self._profile, request.key_kind)
        result = [authority_key, extension(x509.SubjectKeyIdentifier(request.key_identifier)), *static]
        if self.names:  # RFC 5280 4.2.1.6: critical if there is no subject
            sans = x509.SubjectAlternativeName([name.general_name() for name in self.names])
            result.append(extension(sans, critical=not has_subject))
        if self._profile.asserts_no_rev_avail(*period):  # never with the address of a CRL (RFC 9608 4)
            result.append(extension(NO_REV_AVAIL))
        return (*result, *map(extension, self._requested_extensions))

    def _reject_extension(self, extension: str, detail: str) -> None:
        self.violations.append(BadCSR(f"the request asks for {detail}", f"extensions.{extension}"))


def _key_usages(extension: x509.KeyUsage) -> list[str]:
    """RFC 5280's names of the bits; the library raises for the last two without keyAgreement."""
    usages = list(_KEY_USAGES.items())[: None if extension.key_agreement else -2]
    return [name for attribute, name in usages if getattr(extension, attribute)]
