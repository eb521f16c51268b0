"""Evaluate a request: grant each part, refuse it, or leave it out with a note."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Final, NamedTuple, NoReturn, TypeVar

from cryptography import x509
from cryptography.x509.oid import AttributeOID

from service.pki import names, pem, weak_keys
from service.pki.certificate import (
    NO_REV_AVAIL,
    CertificateSpec,
    EncodedExtension,
    encode_extension,
    static_extensions,
)
from service.pki.csr import CertificateSigningRequest, RefusedRequest, RequestedContent
from service.pki.encoding import attribute_name, format_timestamp, oid_name
from service.pki.errors import (
    BadCSR,
    CAUnavailable,
    RejectedIdentifier,
    RejectedValidity,
    RequestError,
    Unauthorized,
    combine,
    list_some,
    quote,
    raise_all,
)
from service.pki.issuer import Issuer
from service.pki.name_policy import NamePolicy
from service.pki.names import Identifier, IdentifierKind
from service.pki.profile import (
    KEY_USAGES,
    SUBJECT_ATTRIBUTES,
    Profile,
    RequestedValidity,
    check_subject_attribute,
    eku_oid,
    key_usage,
)
from service.pki.profile_loader import IssuancePolicy
from service.pki.weak_keys import DenyList

MIN_ISSUER_LIFETIME: Final = timedelta(hours=1)  # remaining validity of the chain that issuing requires

_CA_KEY_USAGES: Final = frozenset({"keyCertSign", "cRLSign"})
_OPENSSL_EXAMPLES: Final = {  # of `-addext subjectAltName=`
    IdentifierKind.DNS: "DNS:www.example.com",
    IdentifierKind.IP: "IP:192.0.2.1",
    IdentifierKind.EMAIL: "email:anna@example.com",
    IdentifierKind.URI: "URI:urn:example:device",
}
_SAN: Final = "subject_alt_name"  # fields of the request in errors
_COMMON_NAME: Final = "subject.common_name"
_NO_SUBJECT: Final = x509.Name([])
_Result = TypeVar("_Result")


class IssuanceContext(NamedTuple):
    """The context that a request is evaluated in; times are UTC.

    Attributes:
        profile: the profile of the certificate.
        profiles: all profiles; a refusal may suggest another one.
        principal: the name of the caller.
        issuer: the CA.
        now: the current time.
        issued_at: the time of issue: `now`, or the start of an idempotent request's window.
        validity: the requested validity period, such as `P30D` or `30d`; None for that of the profile.
        not_after: the requested end of the validity period, RFC 3339, instead of `validity`.
        is_renewal: whether this renews a certificate of the profile; its `principals` are not checked then.
        deny_list: the keys to refuse.
        token_names: the names that the caller's token permits; None for a caller without a token.
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
    deny_list: DenyList = DenyList()
    token_names: NamePolicy | None = None

    @property
    def caller_policies(self) -> list[tuple[NamePolicy, str]]:
        """The policies for the caller's names, besides that of the profile, with their labels in messages."""
        policies = []
        if policy := self.profiles.names_permitted_for(self.principal):
            policies.append((policy, f"the policy for caller {quote(self.principal)}"))
        if self.token_names:
            policies.append((self.token_names, f"the token of caller {quote(self.principal)}"))
        return policies

    def suggest_profiles(self, is_suitable: Callable[[Profile], bool]) -> str:
        """Suggest the suitable profiles of the caller: `use profile 'client' or 'peer'`; '' if there is none.

        A certificate is renewed under its own profile, so a renewal gets no suggestion.
        """
        suitable = [
            quote(profile.name)
            for profile in self.profiles
            if not self.is_renewal and profile.permits_principal(self.principal) and is_suitable(profile)
        ]
        return f"use profile {list_some(suitable, ' or ')}" if suitable else ""

    def permits_name(self, name: Identifier, profile: Profile) -> bool:
        """Whether a profile, the caller's policies and the CA permit a name."""
        policies = (profile.names, *(policy for policy, _ in self.caller_policies))
        is_permitted = not any(policy.violations([name], "") for policy in policies)
        return is_permitted and not self.issuer.name_violations(_NO_SUBJECT, (name,))


def evaluate(request: CertificateSigningRequest, context: IssuanceContext) -> CertificateSpec:
    """Decide the content of the certificate for a verified CSR.

    Raises:
        Unauthorized: the principal may not use the profile.
        RequestError: the request cannot be granted; lists all violations.
        CAUnavailable: the issuer is not valid now, or expires within an hour.
    """
    verify_context(context)
    return _Evaluation(request, context).evaluate(request)


def refuse(request: RefusedRequest, context: IssuanceContext) -> NoReturn:
    """Raise all violations of a CSR that is refused already, those of its content too.

    Raises:
        Unauthorized, RequestError, CAUnavailable: as `evaluate`.
    """
    verify_context(context)
    raise combine(_Evaluation(request.content, context, request.violations).violations())


def name_violations(
    identifiers: Sequence[Identifier],
    context: IssuanceContext,
    subject: x509.Name = _NO_SUBJECT,
    usages: frozenset[x509.ObjectIdentifier] = frozenset(),
) -> list[tuple[int | None, str]]:
    """Apply the policies of the profile and the caller, and the CA's name constraints, to names.

    Args:
        identifiers: the names.
        context: the context of the request.
        subject: the subject of the certificate.
        usages: the requested extended key usages, which a suggested profile has.

    Returns:
        of each violation, the position of the name (None for several names, or the subject), and a message.
    """

    def suggest(name: Identifier) -> str:
        return context.suggest_profiles(
            lambda profile: (
                usages.issubset(profile.extended_key_usage_oids) and context.permits_name(name, profile)
            )
        )

    profile = context.profile
    violations = profile.names.violations(identifiers, _profile_label(profile), suggest)
    for policy, label in context.caller_policies:
        violations += policy.violations(identifiers, label)
    return violations + context.issuer.name_violations(subject, identifiers)


def verify_context(context: IssuanceContext) -> None:
    """Verify that the principal may use the profile, and that the issuer can issue now.

    Raises:
        Unauthorized, CAUnavailable: as `evaluate`.
    """
    profile = context.profile
    if not (context.is_renewal or profile.permits_principal(context.principal)):
        caller, profiles = quote(context.principal), context.suggest_profiles(lambda _: True)
        detail = f"Caller {caller} may not use profile '{profile.name}'; "
        raise Unauthorized(detail + (profiles or "ask the CA's administrator for a profile"), "profile")
    verify_issuer_lifetime(context.issuer, context.now)


def verify_issuer_lifetime(issuer: Issuer, now: datetime) -> None:
    """Verify that the issuer's chain is valid at `now` (UTC), and for another hour.

    Raises:
        CAUnavailable: it is not.
    """
    if now < issuer.not_before:
        raise CAUnavailable(f"The CA is not valid before {format_timestamp(issuer.not_before)}")
    if now > issuer.not_after - MIN_ISSUER_LIFETIME:
        raise CAUnavailable(f"The CA expires at {format_timestamp(issuer.not_after)}")


class _Evaluation:
    """The state of the evaluation of one request."""

    def __init__(
        self, request: RequestedContent, context: IssuanceContext, violations: Sequence[RequestError] = ()
    ) -> None:
        self._request = request
        self._context = context
        self._profile = context.profile
        self._names: dict[Identifier, str] = {}  # name -> its field in the request
        self._requested_extensions: list[x509.ExtensionType] = []
        self._violations = [*violations]
        self._unreadable = {violation.field for violation in violations}
        self._notes = [
            *request.notes,
            *[
                "challengePassword ignored"
                if oid == AttributeOID.CHALLENGE_PASSWORD
                else f"attribute {oid_name(oid)} left out"
                for oid in request.attributes
            ],
        ]
        self._attributes = dict(context.profile.fixed_attributes)
        self._has_common_name = False  # whether the request has one
        self._common_name = ""  # copied from the request

    def evaluate(self, request: CertificateSigningRequest) -> CertificateSpec:
        """Evaluate each part of the request."""
        context = self._context
        key_encodings = weak_keys.equivalent_encodings(request.public_key, request.subject_public_key_info)
        self._collect(partial(context.deny_list.verify, key_encodings))
        self._collect(partial(self._profile.verify_key, request.public_key))
        self._collect(partial(weak_keys.verify_not_ca_key, key_encodings, context.issuer.public_keys))
        subject, not_before, not_after = self._evaluate_content()
        raise_all(self._violations)
        return CertificateSpec(
            subject=subject,
            common_name=self._attributes.get("CN", ""),
            names=tuple(self._names),
            public_key=request.public_key,
            profile=self._profile,
            not_before=not_before,
            not_after=not_after,
            extensions=self._extensions(request, subject, (not_before, not_after)),
            notes=tuple(self._notes),
        )

    def violations(self) -> list[RequestError]:
        """Evaluate the content of a request that is refused; return all violations."""
        self._evaluate_content()
        return self._violations

    def _evaluate_content(self) -> tuple[x509.Name, datetime, datetime]:
        """Evaluate all but the key."""
        self._evaluate_names(self._request.general_names)
        subject = self._evaluate_subject()
        self._verify_names(subject)
        self._evaluate_extensions()
        return subject, *self._evaluate_validity()

    def _collect(self, parse: Callable[[], _Result]) -> _Result | None:
        """Call `parse`; None if it raises a violation."""
        try:
            return parse()
        except RequestError as violation:
            self._violations.append(violation)
            return None

    def _reject_common_name(self, detail: str) -> None:
        self._violations.append(RejectedIdentifier(detail, _COMMON_NAME))

    def _evaluate_validity(self) -> tuple[datetime, datetime]:
        context, issuer = self._context, self._context.issuer
        try:
            requested = RequestedValidity.parse(context.validity, context.not_after)
            period = self._profile.validity_period(context.issued_at, issuer.not_before, requested)
        except RejectedValidity as violation:
            self._violations.append(violation)
            return issuer.not_before, issuer.not_after
        if period[1] <= issuer.not_after:
            return period
        end = format_timestamp(issuer.not_after)
        if name := "validity" if requested.validity else "not_after" if requested.not_after else "":
            self._violations.append(
                RejectedValidity(
                    f"Requested validity is too long: the CA expires at {end}; request less, or omit it", name
                )
            )
        self._notes.append(f"validity shortened: the CA expires at {end}")
        return period[0], issuer.not_after

    def _evaluate_names(self, general_names: Sequence[x509.GeneralName] | None) -> None:
        if general_names is None:
            return
        if not general_names:  # RFC 5280 4.2.1.6: at least one entry
            self._violations.append(
                RejectedIdentifier(
                    "The subject alternative name extension is empty: add a name, or omit the extension", _SAN
                )
            )
        if len(general_names) > names.MAX_NAMES:
            detail = f"The request has {len(general_names)} names; at most {names.MAX_NAMES} are accepted: "
            detail += "send several requests"
            self._violations.append(RejectedIdentifier(detail, _SAN))
            return
        for position, general_name in enumerate(general_names):
            field = f"{_SAN}[{position}]"
            if field in self._unreadable:
                continue
            name = self._collect(partial(names.parse_general_name, general_name, field))
            if name in self._names:
                self._notes.append(f"duplicate {name} left out")
            elif name:
                self._names[name] = field

    def _evaluate_subject(self) -> x509.Name:
        """Combine the allowed attributes of the request with those of the profile; note the others."""
        for oid, text in self._request.subject:
            name = attribute_name(oid)
            if name == "CN":
                self._evaluate_common_name(text)
            elif name in self._profile.allowed_attributes and name not in self._attributes:
                self._set_attribute(name, text)
            elif self._attributes.get(name) != text:
                self._notes.append(f"subject attribute {name}={quote(text)} left out")
        if not (self._names or self._violations):
            if not self._has_common_name:
                kinds = [kind for kind in IdentifierKind if self._profile.names.permits_kind(kind)]
                option = (
                    f"-addext subjectAltName={_OPENSSL_EXAMPLES[kinds[0]]}" if kinds else "-subj /CN=Anna"
                )
                detail = (
                    f"has neither a common name nor a subject alternative name: with openssl, add {option}"
                )
                self._reject_common_name(f"The request {detail}")
            elif not self._attributes:  # RFC 5280 4.1.2.6: an empty subject requires an alternative name
                detail = "does not copy the common name, and the request has no other name: "
                hint = self._suggest(lambda profile: "CN" in profile.allowed_attributes)
                detail += f"add a subject alternative name{', or ' if hint else ''}{hint}"
                self._reject_common_name(f"Profile '{self._profile.name}' {detail}")
        attributes = self._attributes
        return names.distinguished_name(
            tuple(
                (oid, attributes[name]) for name, (oid, _) in SUBJECT_ATTRIBUTES.items() if name in attributes
            )
        )

    def _set_attribute(self, name: str, text: str) -> bool:
        violation = check_subject_attribute(name, text)
        if violation:
            field = _COMMON_NAME if name == "CN" else f"subject.{name}"
            self._violations.append(RejectedIdentifier(violation, field))
        else:
            self._attributes[name] = text
        return not violation

    def _evaluate_common_name(self, text: str) -> None:
        if self._has_common_name:
            detail = "send one, and the others as subject alternative names"
            self._reject_common_name(f"The subject has several common names, such as {quote(text)}: {detail}")
            return
        self._has_common_name = True
        if "CN" in self._attributes or "CN" not in self._profile.allowed_attributes:
            self._notes.append(f"common name {quote(text)} left out of the subject")
            is_valid = not check_subject_attribute("CN", text)
        else:
            is_valid = self._set_attribute("CN", text)
            self._common_name = text if is_valid else ""
        if is_valid and self._profile.is_tls_server:
            self._require_in_san(text)

    def _require_in_san(self, common_name: str) -> None:
        """Require that a server's common name is one of the SANs, or add it (CA/Browser Forum 7.1.4.3)."""
        folded = common_name.lower() if common_name.isascii() else None  # DNS folds only ASCII
        if any(name.value == folded for name in self._names):
            return
        implied = names.identifier_in_cn(common_name)
        if implied in self._names:
            return
        if implied is None:
            self._reject_common_name(self._missing_san_message(common_name))
            return
        name = self._collect(partial(names.parse_identifier, implied.kind, implied.value, _COMMON_NAME))
        if name and len(self._names) >= names.MAX_NAMES:
            detail = f"at most {names.MAX_NAMES} subject alternative names are accepted: omit the common name"
            self._reject_common_name(f"{quote(common_name)} cannot be added: {detail}")
        elif name:
            self._names[name] = _COMMON_NAME
            self._notes.append(f"common name added to the subject alternative names: {name}")

    def _missing_san_message(self, common_name: str) -> str:
        """The refusal of a common name that is not a SAN and cannot be added as one."""
        problem = f"{quote(common_name)} is not among the subject alternative names"
        profiles = self._suggest(
            lambda profile: not profile.is_tls_server and "CN" in profile.allowed_attributes
        )
        alternative = f", or {profiles}" if profiles else ""
        try:
            name = names.parse_identifier(IdentifierKind.DNS, common_name, _COMMON_NAME)
        except RejectedIdentifier:
            return f"{problem}, and is not a host name: omit it{alternative}"
        if not self._context.permits_name(name, self._profile):
            return f"{problem}: use a full host name{alternative}"
        san = f"DNS:{common_name}"  # `name` consists of letters, digits, hyphens and underscores
        option = f"add {san}" if self._names else f"with openssl, add -addext subjectAltName={san}"
        return f"{problem}: {option}{alternative}"

    def _suggest(self, is_suitable: Callable[[Profile], bool]) -> str:
        """Suggest the caller's profiles that are suitable, and have every requested extended key usage."""
        usages = self._extended_key_usage
        return self._context.suggest_profiles(
            lambda profile: usages.issubset(profile.extended_key_usage_oids) and is_suitable(profile)
        )

    @cached_property
    def _extended_key_usage(self) -> frozenset[x509.ObjectIdentifier]:
        values = [extension.value for extension in self._request.extensions]
        return frozenset(
            usage for value in values if isinstance(value, x509.ExtendedKeyUsage) for usage in value
        )

    def _verify_names(self, subject: x509.Name) -> None:
        """Verify the subject alternative names, and the name that programs take from the common name.

        The principal's policy always applies to the latter; the profile's policy applies if it permits names
        of that kind, or if there is a wildcard.
        """
        fields = tuple(self._names.values())
        self._violations += [
            RejectedIdentifier(detail, _SAN if position is None else fields[position])
            for position, detail in name_violations(
                tuple(self._names), self._context, subject, self._extended_key_usage
            )
        ]
        profile = self._profile
        # The common name of a TLS server is one of the names, or was refused.
        implied = None if profile.is_tls_server else names.identifier_implied_by_cn(self._common_name)
        if implied is None or implied in self._names:
            return
        if "*" in implied.value or profile.names.permits_kind(implied.kind):
            self._verify_common_name(implied, profile.names, _profile_label(profile))
        for policy, label in self._context.caller_policies:
            self._verify_common_name(implied, policy, label)

    def _verify_common_name(self, implied: Identifier, policy: NamePolicy, label: str) -> None:
        for _, detail in policy.for_common_name().violations([implied], label):
            self._reject_common_name(detail)

    def _evaluate_extensions(self) -> None:
        """Refuse extensions of a CA or another profile; copy those that the profile allows."""
        for requested in self._request.extensions:
            match requested.value:
                case x509.SubjectAlternativeName() | x509.BasicConstraints(ca=False):
                    pass
                case x509.BasicConstraints(ca=True):
                    self._reject_extension(
                        "basic_constraints",
                        "The request asks for CA:TRUE; only end-entity certificates are issued: "
                        "omit basicConstraints, or set CA:FALSE",
                    )
                case x509.KeyUsage():
                    self._evaluate_key_usage(requested.value)
                case x509.ExtendedKeyUsage():
                    self._evaluate_extended_key_usage(requested.value)
                case _ if requested.oid in self._profile.extensions:
                    self._copy_extension(requested.value)
                    if requested.critical:  # Java and Go reject unknown critical extensions
                        self._notes.append(f"extension {oid_name(requested.oid)} made non-critical")
                case _:
                    self._notes.append(f"extension {oid_name(requested.oid)} left out")
        self._violations += [
            BadCSR(f"This CA may not issue certificates for {usage}{self._suggest_for_ca()}", "profile")
            for usage in self._profile.extended_key_usage
            if not self._context.issuer.may_issue_for(eku_oid(usage))
        ]

    def _suggest_for_ca(self) -> str:
        may_issue_for = self._context.issuer.may_issue_for
        profiles = self._suggest(lambda profile: all(map(may_issue_for, profile.extended_key_usage_oids)))
        return f": {profiles}" if profiles else ""

    def _copy_extension(self, value: x509.ExtensionType) -> None:
        """Copy an extension. The value of an extension unknown to the library must be DER."""
        self._requested_extensions.append(value)
        if isinstance(value, x509.UnrecognizedExtension):
            try:
                pem.verify_der(value.value)
            except ValueError:
                name = oid_name(value.oid)
                detail = f"The value of extension {name} is not DER (X.690): correct or omit it"
                self._reject_extension(name, detail)

    def _evaluate_key_usage(self, requested: x509.KeyUsage) -> None:
        request = self._request
        granted: Iterable[str] = ()
        if isinstance(request, CertificateSigningRequest):
            granted = _key_usages(key_usage(request.key_kind))
        for usage in _key_usages(requested):
            if usage in _CA_KEY_USAGES:
                detail = f"The request asks for {usage}; only end-entity certificates are issued: omit it"
                self._reject_extension("key_usage", detail)
            elif usage not in granted:
                self._notes.append(f"key usage {usage} left out")

    def _evaluate_extended_key_usage(self, requested: Iterable[x509.ObjectIdentifier]) -> None:
        if missing := [usage for usage in requested if usage not in self._profile.extended_key_usage_oids]:
            remedy = self._suggest(lambda _: True) or "omit it: no profile fits the requested usages"
            for usage in missing:
                detail = f"Profile '{self._profile.name}' does not have {oid_name(usage)}; {remedy}"
                self._reject_extension("extended_key_usage", detail)
        self._notes += [
            f"extended key usage {name} added by the profile"
            for name in self._profile.extended_key_usage
            if eku_oid(name) not in requested
        ]

    def _extensions(
        self, request: CertificateSigningRequest, subject: x509.Name, period: tuple[datetime, datetime]
    ) -> tuple[EncodedExtension, ...]:
        authority_key, *static = static_extensions(self._context.issuer, self._profile, request.key_kind)
        result = [authority_key, encode_extension(x509.SubjectKeyIdentifier(request.key_identifier)), *static]
        if self._names:  # RFC 5280 4.2.1.6: critical if the subject is empty
            sans = x509.SubjectAlternativeName([name.general_name() for name in self._names])
            result.append(encode_extension(sans, critical=not subject.rdns))
        if self._profile.asserts_no_rev_avail(*period):  # never with a CRL distribution point (RFC 9608 4)
            result.append(encode_extension(NO_REV_AVAIL))
        return (*result, *map(encode_extension, self._requested_extensions))

    def _reject_extension(self, extension: str, detail: str) -> None:
        self._violations.append(BadCSR(detail, f"extensions.{extension}"))


def _profile_label(profile: Profile) -> str:
    return f"profile '{profile.name}'"


def _key_usages(extension: x509.KeyUsage) -> list[str]:
    """The names of the bits in RFC 5280; the library raises for the last two without keyAgreement."""
    usages = list(KEY_USAGES.items())[: None if extension.key_agreement else -2]
    return [name for attribute, name in usages if getattr(extension, attribute)]
