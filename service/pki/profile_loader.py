"""Parse the issuance policy: profiles, principals and rules for tokens, from the JSON of the contract.

`service.overrides` validates the JSON by `profiles.schema.json`. This module checks what a schema cannot
express, and the type of each value: an invalid profile is an error, never a laxer profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from service.pki import keys
from service.pki.errors import UnknownProfile, escape_controls, quote
from service.pki.identity_rules import IdentityRule, parse_rule
from service.pki.keys import KeyKind
from service.pki.name_policy import NamePolicy
from service.pki.policy_parser import (
    NAME_POLICY,
    Fields,
    JSONPath,
    ProfileViolation,
    list_of,
    members_of,
    parse_name_policy,
    parse_object,
)
from service.pki.profile import (
    ANY_PRINCIPAL,
    EXTENDED_KEY_USAGES,
    MIN_VALIDITY,
    SERVER_USAGES,
    SUBJECT_ATTRIBUTES,
    Profile,
    Revocation,
    check_subject_attribute,
    eku_oid,
    parse_duration,
)
from service.pki.token_identity import PRINCIPAL_PREFIX

_FORBIDDEN_EXTENDED_USAGES: Final = {  # with these, a certificate could act for the CA, or for any purpose
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.OCSP_SIGNING,
    ExtendedKeyUsageOID.TIME_STAMPING,  # RFC 3161 2.3: must be the only one, and critical
}
# The arcs of extensions that only the CA sets: they grant rights, contain names or affect revocation.
_CA_CONTROLLED_ARCS: Final = (
    "2.5.29",  # RFC 5280 4.2.1, and its predecessors: Windows also reads 2.5.29.7 as subjectAltName
    "1.3.6.1.4.1.311",  # Microsoft: application policies, certificate templates, the SID of an account
    "2.16.840.1.113730.1",  # Netscape: nsCertType, nsSslServerName
    "1.3.6.1.4.1.11129.2.4",  # RFC 6962 3: SCTs, poison
    "1.3.6.1.4.1.44363.44",  # RFC 9345 4.2: delegated credentials
    "1.3.36.8.3",  # ISIS-MTT: procuration, admission, monetary limit
    # RFC 5280 4.2.2.1, 5755 4.4.3 and 7.4, 3779 (IP addresses, AS numbers), 3820 3.8 (proxies), 6010, 5913,
    # 8226 (telephone numbers), 8360, 9118
    *(f"1.3.6.1.5.5.7.1.{arc}" for arc in (1, 6, 7, 8, 10, 14, 18, 21, 26, 27, 28, 29, 33)),
)
_EXTENSIONS: Final = {"tlsFeature": ExtensionOID.TLS_FEATURE, "ocspNoCheck": ExtensionOID.OCSP_NO_CHECK}
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")  # the library accepts leading zeros
_MAX_DURATION: Final = timedelta(days=10_000)
_RSA: Final = re.compile(r"RSA(?:-([0-9]{4,5}))?")
_NO_MEMBERS: Final[dict[str, object]] = {}
_REQUIRED: Final = ("description", "validity", "backdate", "extended_key_usage", "names")


class Challenge(StrEnum):
    """How a principal proves that it controls its names (RFC 8555 8)."""

    HTTP_01 = "http-01"


class Role(StrEnum):
    """What a principal may do besides requesting certificates."""

    OPERATOR = "operator"


class PrincipalPolicy(NamedTuple):
    """The policy for a principal.

    Attributes:
        names: the names that it may request; None if the profiles' policies suffice.
        challenge: how it proves that it controls them; None if its credentials suffice.
        role: what else it may do; None for nothing.
    """

    names: NamePolicy | None
    challenge: Challenge | None = None
    role: Role | None = None


class IssuancePolicy:
    """The certificate profiles of a contract, the default profile, and the policies for principals."""

    def __init__(
        self,
        profiles: object,
        default: object,
        principals: object = _NO_MEMBERS,
        identities: object = _NO_MEMBERS,
        *,
        status_url: str = "",
        has_ocsp: bool = True,
    ) -> None:
        """Parse the four members that `profiles.schema.json` describes, JSON.

        The other arguments are those of `Profile.with_status_url`.

        Raises:
            ProfileError: the JSON is invalid; lists all violations.
        """
        fields: Fields = {
            "profiles": members_of(dict, _profile, _first_policy_violations),
            "default": (str, str),
            "principals": members_of(dict, _principal),
            "identities": members_of(dict, parse_rule),
        }
        data = {
            "profiles": profiles,
            "default": default,
            "principals": principals,
            "identities": identities,
        }
        parsed = parse_object(data, fields, partial(_policy_violations, data))
        self.identities: tuple[IdentityRule, ...] = tuple(parsed["identities"].values())
        self._by_name: dict[str, Profile] = {
            name: replace(
                profile.with_status_url(status_url, has_ocsp=has_ocsp),
                identities=tuple(
                    f"{PRINCIPAL_PREFIX}{rule.name}" for rule in self.identities if name in rule.profiles
                ),
            )
            for name, profile in parsed["profiles"].items()
        }
        self._principals: dict[str, PrincipalPolicy] = parsed["principals"]
        self.default: str = parsed["default"]

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def get(self, name: str | None) -> Profile:
        """The profile of this name; the default profile for None.

        Raises:
            UnknownProfile: the profile does not exist.
        """
        profile = self._by_name.get(self.default if name is None else name)
        if profile is None:
            choices = ", ".join(self._by_name)
            raise UnknownProfile(
                f"Profile {quote(str(name))} does not exist; use one of: {choices}", "profile"
            )
        return profile

    def resolve_name(self, name: str | None) -> str:
        """The name of the profile that `get` returns; '' if it does not exist."""
        resolved = self.default if name is None else name
        return resolved if resolved in self._by_name else ""

    def names_permitted_for(self, principal: str) -> NamePolicy | None:
        """The additional policy for a principal's names; None if the profiles' policies suffice."""
        policy = self._principals.get(principal)
        return policy.names if policy else None

    def challenge_for(self, principal: str) -> Challenge | None:
        """How a principal proves that it controls its names; None if its credentials suffice."""
        policy = self._principals.get(principal)
        return policy.challenge if policy else None

    def is_operator(self, principal: str) -> bool:
        """Whether a principal may revoke every certificate."""
        policy = self._principals.get(principal)
        return policy is not None and policy.role is Role.OPERATOR

    @property
    def has_challenges(self) -> bool:
        """Whether a principal has to prove that it controls its names."""
        return any(policy.challenge for policy in self._principals.values())

    @property
    def once_rule(self) -> str:
        """The name of a rule that accepts each token only once, which needs a ledger; '' if there is none."""
        return next((rule.name for rule in self.identities if rule.is_once), "")


def _oid(text: str) -> x509.ObjectIdentifier:
    try:
        if _OID.fullmatch(text):
            return x509.ObjectIdentifier(text)
    except ValueError:  # an arc is too large
        pass
    raise ValueError(f"{quote(text)} is not an OID in dotted decimals")


def _usage(text: str) -> str:
    if text not in EXTENDED_KEY_USAGES and _oid(text) in _FORBIDDEN_EXTENDED_USAGES:
        raise ValueError(f"{quote(text)} is not allowed in end-entity certificates")
    return text


def _extension_oid(text: str) -> x509.ObjectIdentifier:
    oid = _EXTENSIONS.get(text) or _oid(text)
    if f"{oid.dotted_string}.".startswith(tuple(f"{arc}." for arc in _CA_CONTROLLED_ARCS)):
        raise ValueError(f"{quote(text)} cannot be copied from requests: only the CA may set it")
    return oid


def _public_key(text: str) -> tuple[KeyKind, int]:
    """Parse the kind of a key, and for RSA the minimum size in bits (otherwise 0)."""
    if not (rsa := _RSA.fullmatch(text)):
        return KeyKind(text), 0
    min_size = int(rsa.group(1) or keys.RSA_MIN_BITS)
    if not keys.RSA_MIN_BITS <= min_size <= keys.RSA_MAX_BITS:
        raise ValueError(f"RSA keys have {keys.RSA_MIN_BITS} to {keys.RSA_MAX_BITS} bits, not {min_size}")
    return KeyKind.RSA, min_size


def _url(text: str) -> str:
    if text and not urlsplit(text).hostname:
        raise ValueError(f"{quote(text)} has no host")
    return text


def _allowed_attribute(text: str) -> str:
    if text not in SUBJECT_ATTRIBUTES:
        raise ValueError(f"{quote(text)} is not one of {', '.join(SUBJECT_ATTRIBUTES)}")
    return text


def _fixed_attribute(name: str, text: str) -> str:
    if violation := check_subject_attribute(_allowed_attribute(name), text):
        raise ValueError(violation)
    return text


def _duration(text: str) -> timedelta:
    length = parse_duration(text)
    if length > _MAX_DURATION:
        raise ValueError(f"{quote(text)} is longer than {_MAX_DURATION.days} days")
    return length


_SUBJECT: Final[Fields] = {"allowed": list_of(_allowed_attribute), "fixed": members_of(str, _fixed_attribute)}
_PROFILE: Final[Fields] = {
    **dict.fromkeys(("validity", "max_validity", "backdate", "short_lived"), (str, _duration)),
    **dict.fromkeys(("ca_issuers", "crl", "ocsp"), (str, _url)),
    "description": (str, str),
    "extended_key_usage": list_of(_usage, eku_oid, min_items=1),
    "names": (dict, parse_name_policy),
    "subject": (dict, partial(parse_object, fields=_SUBJECT)),
    "public_keys": list_of(_public_key, lambda key: key[0], min_items=1),
    "extensions": list_of(_extension_oid, lambda oid: oid),
    "certificate_policies": list_of(_oid, lambda oid: oid),
    "revocation": (str, Revocation),
    "principals": list_of(str, str),
}


def _profile(name: str, data: dict[str, Any]) -> Profile:
    parsed = parse_object(data, _PROFILE, partial(_profile_violations, data))
    subject = parsed.pop("subject", {"allowed": ("CN",)})
    return Profile(
        **{"name": name, "max_validity": parsed["validity"], **parsed},
        allowed_attributes=subject.get("allowed", ()),
        fixed_attributes=tuple(subject.get("fixed", {}).items()),
    )


def _profile_violations(data: dict[str, Any], parsed: dict[str, Any]) -> Iterator[ProfileViolation]:
    """Missing members, and valid members that contradict each other."""
    if missing := [member for member in _REQUIRED if member not in data]:
        yield ProfileViolation((), f"{', '.join(missing)} missing")
    if "validity" in parsed:
        if parsed["validity"] - parsed.get("backdate", timedelta()) < MIN_VALIDITY:
            yield ProfileViolation(("validity",), "less than a minute remains after the backdate")
        if parsed.get("max_validity", timedelta.max) < parsed["validity"]:
            yield ProfileViolation(("max_validity",), "shorter than validity")
    usages = map(eku_oid, parsed.get("extended_key_usage", ()))
    if "CN" in parsed.get("subject", {}).get("fixed", {}) and not SERVER_USAGES.isdisjoint(usages):
        detail = "the common name of a TLS server must be one of its names (CA/Browser Forum 7.1.4.3)"
        yield ProfileViolation(("subject", "fixed", "CN"), detail)
    has_crl = parsed.get("revocation") is Revocation.CRL
    if data.keys() & {"revocation", "crl"} <= parsed.keys() and has_crl != bool(parsed.get("crl")):
        yield ProfileViolation(("crl",), "required if revocation is crl, and only then")
    if parsed.get("ocsp") and not has_crl and data.keys() & {"revocation"} <= parsed.keys():
        yield ProfileViolation(("ocsp",), "allowed only if revocation is crl")


def _first_policy_violations(profiles: dict[str, Profile]) -> Iterator[ProfileViolation]:
    """The first policy OID of a certificate identifies its profile, so no two profiles may share one."""
    owners: dict[x509.ObjectIdentifier, str] = {}
    for name, profile in profiles.items():
        for policy_oid in profile.certificate_policies[:1]:
            if owners.setdefault(policy_oid, name) != name:
                detail = f"the first policy of profile '{owners[policy_oid]}' is the same"
                yield ProfileViolation((name, "certificate_policies", 0), detail)


def _policy_violations(data: dict[str, Any], parsed: dict[str, Any]) -> Iterator[ProfileViolation]:
    """Names of profiles and rules that do not exist, and rules that could never use their profiles."""
    profiles, rules = data["profiles"], data["identities"]
    if not isinstance(profiles, dict) or not isinstance(rules, dict):
        return
    choices = escape_controls(", ".join(profiles))
    named: list[tuple[JSONPath, str]] = [
        (("identities", rule.name, "profiles", index), name)
        for rule in parsed.get("identities", {}).values()
        for index, name in enumerate(rule.profiles)
    ]
    if "default" in parsed:
        named.append((("default",), parsed["default"]))
    for path, name in named:
        if name not in profiles:
            yield ProfileViolation(path, f"profile {quote(name)} does not exist; use one of: {choices}")
    principals = {f"{PRINCIPAL_PREFIX}{name}" for name in rules}
    for path, principal in _named_principals(parsed):
        if principal.startswith(PRINCIPAL_PREFIX) and principal not in principals:
            yield ProfileViolation(path, f"no rule of identities is the principal {quote(principal)}")
    for rule in parsed.get("identities", {}).values():
        for index, name in enumerate(rule.profiles):
            profile, principal = parsed.get("profiles", {}).get(name), f"{PRINCIPAL_PREFIX}{rule.name}"
            if profile and not {ANY_PRINCIPAL, principal}.intersection(profile.principals):
                detail = f"principals of profile '{name}' does not permit the rule; add {principal} to it"
                yield ProfileViolation(("identities", rule.name, "profiles", index), detail)


def _named_principals(parsed: dict[str, Any]) -> Iterator[tuple[JSONPath, str]]:
    """Yield each principal that a profile or a policy for principals names, with its path."""
    for name, profile in parsed.get("profiles", {}).items():
        for index, principal in enumerate(profile.principals):
            yield ("profiles", name, "principals", index), principal
    for principal in parsed.get("principals", {}):
        yield ("principals", principal), principal


def _principal(name: str, data: dict[str, Any]) -> PrincipalPolicy:
    if name in {"", ANY_PRINCIPAL}:  # no caller has such a name, so the policy would never apply
        raise ValueError(f"{quote(name)} is not the name of a principal")
    parsed = parse_object(data, {**NAME_POLICY, "challenge": (str, Challenge), "role": (str, Role)})
    challenge, role = parsed.pop("challenge", None), parsed.pop("role", None)
    has_names = parsed or not (challenge or role)  # a policy without any member permits no names
    return PrincipalPolicy(NamePolicy(**parsed) if has_names else None, challenge, role)
