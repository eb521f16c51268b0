"""Certificate profiles: the content of the certificates to issue (RFC 5280 4)."""

from __future__ import annotations

import contextlib
import functools
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.pki import encoding, keys, names
from service.pki.errors import BadPublicKey, RejectedValidity, quote
from service.pki.keys import KeyKind
from service.pki.name_policy import NamePolicy
from service.pki.token_identity import PRINCIPAL_PREFIX

EXTENDED_KEY_USAGES: Final = {  # RFC 5280 4.2.1.12; all others are written as OIDs
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
}
SERVER_USAGES: Final = frozenset(
    {  # serverAuth, and the usages of Microsoft and Netscape that OpenSSL and Java accept instead
        ExtendedKeyUsageOID.SERVER_AUTH,
        x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
        x509.ObjectIdentifier("2.16.840.1.113730.4.1"),
    }
)
KEY_USAGES: Final = {  # the library's name -> RFC 5280's name (4.2.1.3)
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
SUBJECT_ATTRIBUTES: Final = {  # name (RFC 4519) -> OID, and limit in characters (RFC 5280 A.1)
    "C": (NameOID.COUNTRY_NAME, 2),
    "ST": (NameOID.STATE_OR_PROVINCE_NAME, 128),
    "L": (NameOID.LOCALITY_NAME, 128),
    "O": (NameOID.ORGANIZATION_NAME, 64),
    "OU": (NameOID.ORGANIZATIONAL_UNIT_NAME, 64),
    "CN": (NameOID.COMMON_NAME, 64),
    "serialNumber": (NameOID.SERIAL_NUMBER, 64),
}
MAX_ATTRIBUTE_CHARS: Final = max(limit for _, limit in SUBJECT_ATTRIBUTES.values())
MIN_VALIDITY: Final = timedelta(minutes=1)  # after the time of issue
ANY_PRINCIPAL: Final = "*"

# The patterns of durations in openapi.yaml and profiles.schema.json are the same.
DURATION: Final = re.compile(
    r"^([0-9]{1,8}[mhdw]|P[0-9]{1,8}D"
    r"|P([0-9]{1,8}D)?T([0-9]{1,8}H|([0-9]{1,8}H)?[0-9]{1,8}M|([0-9]{1,8}H)?([0-9]{1,8}M)?[0-9]{1,8}S))$"
)
_UNITS: Final = {"S": "seconds", "M": "minutes", "H": "hours", "D": "days", "W": "weeks"}


_NO_STATUS_URL: Final = (
    ". Certificates of this service cannot be revoked, so they are short-lived: request less, or ask the "
    "CA's administrator to set a status URL"
)
KEY_ID: Final = "{key_id}"
"""In a URL: the issuer's subjectKeyIdentifier in hexadecimal."""
CRL_PATH: Final = f"/crl/{KEY_ID}"
OCSP_PATH: Final = "/ocsp"
ISSUER_PATH: Final = f"/issuer/{KEY_ID}"
"""The paths of the service that certificates name."""


class Revocation(StrEnum):
    """How certificates of a profile are revoked."""

    NONE = "none"
    CRL = "crl"
    SERVICE = "service"  # by the CRL and OCSP of the service, if it has a status URL


class RequestedValidity(NamedTuple):
    """The requested validity: at most one of a length and an end (UTC)."""

    validity: timedelta | None = None
    not_after: datetime | None = None

    @classmethod
    def parse(cls, validity: str | None, not_after: str | None) -> RequestedValidity:
        """Parse a duration and an RFC 3339 time in UTC and whole seconds.

        Raises:
            RejectedValidity: one of them is malformed.
        """
        try:
            length = None if validity is None else parse_duration(validity)
        except ValueError as error:
            raise RejectedValidity(str(error), "validity") from error
        return cls(length, None if not_after is None else _parse_time(not_after))


def _parse_time(text: str) -> datetime:
    with contextlib.suppress(ValueError):
        time = encoding.parse_timestamp(text)
        if encoding.format_timestamp(time) == text:
            return time
    expected = "a time in UTC and whole seconds, such as 2030-12-31T23:59:59Z (RFC 3339)"
    raise RejectedValidity(f"{quote(text)} is not {expected}", "not_after")


@dataclass(frozen=True, eq=False)
class Profile:
    """A certificate profile. It compares by identity, so that it is a cheap key of an `lru_cache`.

    `profiles.schema.json` describes the other attributes. A missing URL is ''.

    Attributes:
        allowed_attributes: the subject attributes that are copied from the request.
        fixed_attributes: the subject attributes of every certificate.
        needs_status_url: whether certificates are short-lived because the service has no status URL.
        public_keys: the accepted kinds of key, and the minimum size in bits (only for RSA, otherwise 0).
        identities: the principals of the rules for tokens that list the profile.
    """

    name: str
    description: str
    validity: timedelta
    max_validity: timedelta
    backdate: timedelta
    extended_key_usage: tuple[str, ...]
    names: NamePolicy
    allowed_attributes: tuple[str, ...] = ("CN",)
    fixed_attributes: tuple[tuple[str, str], ...] = ()
    public_keys: tuple[tuple[KeyKind, int], ...] = tuple((kind, 0) for kind in KeyKind)
    extensions: tuple[x509.ObjectIdentifier, ...] = ()
    certificate_policies: tuple[x509.ObjectIdentifier, ...] = ()
    ca_issuers: str = ""
    revocation: Revocation = Revocation.NONE
    crl: str = ""
    ocsp: str = ""
    short_lived: timedelta = timedelta(days=7)
    needs_status_url: bool = False
    principals: tuple[str, ...] = (ANY_PRINCIPAL,)
    identities: tuple[str, ...] = ()

    def with_status_url(self, status_url: str, *, has_ocsp: bool) -> Profile:
        """Return the profile in which revocation is not `SERVICE`.

        Args:
            status_url: the URL of the service's CRLs and OCSP, without a final slash; '' if there is none.
                Then certificates cannot be revoked, and are short-lived.
            has_ocsp: whether the service answers OCSP requests.
        """
        if self.revocation is not Revocation.SERVICE:
            return self
        if not status_url:
            lengths = {
                name: min(getattr(self, name), self.short_lived) for name in ("validity", "max_validity")
            }
            return replace(self, revocation=Revocation.NONE, needs_status_url=True, **lengths)
        return replace(
            self,
            revocation=Revocation.CRL,
            crl=status_url + CRL_PATH,
            ocsp=status_url + OCSP_PATH if has_ocsp else "",
            ca_issuers=self.ca_issuers or status_url + ISSUER_PATH,
        )

    @functools.cached_property
    def extended_key_usage_oids(self) -> tuple[x509.ObjectIdentifier, ...]:
        """The extended key usages, as OIDs."""
        return tuple(map(eku_oid, self.extended_key_usage))

    @functools.cached_property
    def is_tls_server(self) -> bool:
        """Whether certificates are for TLS servers, which clients identify only by SANs (RFC 9525)."""
        return not SERVER_USAGES.isdisjoint(self.extended_key_usage_oids)

    def permits_principal(self, principal: str) -> bool:
        """Whether a principal may use this profile; that of a token only if its rule lists the profile."""
        if principal.startswith(PRINCIPAL_PREFIX) and principal not in self.identities:
            return False
        return ANY_PRINCIPAL in self.principals or principal in self.principals

    def asserts_no_rev_avail(self, not_before: datetime, not_after: datetime) -> bool:
        """Whether a certificate with this validity period has the extension noRevAvail (RFC 9608)."""
        length = not_after - not_before + timedelta(seconds=1)
        return self.revocation is Revocation.NONE and length <= self.short_lived

    def verify_key(self, public_key: CertificatePublicKeyTypes) -> None:
        """Verify the kind and the size of a key.

        Raises:
            BadPublicKey: the profile does not accept the key.
        """
        min_size = dict(self.public_keys).get(keys.kind_of(public_key))
        size = public_key.key_size if min_size and isinstance(public_key, rsa.RSAPublicKey) else 0
        if min_size is None or size < min_size:
            key = keys.describe_key(public_key)
            accepted = [f"{kind}-{bits} or larger" if bits else kind for kind, bits in self.public_keys]
            detail = f"does not accept {key} keys; it accepts {', '.join(accepted)}"
            raise BadPublicKey(f"Profile '{self.name}' {detail}", "public_key")

    def validity_period(
        self, issued_at: datetime, earliest: datetime, requested: RequestedValidity
    ) -> tuple[datetime, datetime]:
        """Compute not_before and not_after (inclusive, UTC, whole seconds) for a time of issue, UTC.

        not_before is at least `earliest`, UTC: the start of the issuer's validity.

        Raises:
            RejectedValidity: the requested validity is over `max_validity` or under a minute, or both a
                length and an end are requested.
        """
        return _validity_period(self, issued_at.replace(microsecond=0), earliest, requested)


@functools.lru_cache(maxsize=256)  # requests in the same second often have the same result
def _validity_period(
    profile: Profile, issued_at: datetime, earliest: datetime, requested: RequestedValidity
) -> tuple[datetime, datetime]:
    start = max(issued_at - profile.backdate, earliest)
    if requested.validity is not None and requested.not_after is not None:
        raise RejectedValidity("Send validity or not_after, not both", "validity")
    field = "validity" if requested.not_after is None else "not_after"
    length = profile.validity if requested.validity is None else requested.validity
    length = min(length, profile.max_validity + timedelta(seconds=1))  # refused below, without overflow
    end = requested.not_after or start + length - timedelta(seconds=1)
    if end - start + timedelta(seconds=1) > profile.max_validity:
        longest = f"{start + profile.max_validity - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
        limit = (
            f"profile '{profile.name}' allows up to {format_duration(profile.max_validity)}, until {longest}"
        )
        hint = _NO_STATUS_URL if profile.needs_status_url else ""
        raise RejectedValidity(f"Requested validity is too long: {limit}{hint}", field)
    if end + timedelta(seconds=1) < issued_at + MIN_VALIDITY:
        start_hint = f"; it starts at {start:%Y-%m-%dT%H:%M:%SZ}" if requested.validity is not None else ""
        detail = (
            f"Requested validity is too short: less than a minute would be left{start_hint}; request more"
        )
        raise RejectedValidity(detail, field)
    return start, end


@functools.cache
def key_usage(kind: KeyKind) -> x509.KeyUsage:
    """The key usage for a kind of key: keyEncipherment only for RSA (RFC 8813 3, RFC 9881 5)."""
    bits = dict.fromkeys(KEY_USAGES, False)
    return x509.KeyUsage(**bits | {"digital_signature": True, "key_encipherment": kind is KeyKind.RSA})


def eku_oid(name: str) -> x509.ObjectIdentifier:
    """The OID of an extended key usage, given by its name in RFC 5280 or as an OID."""
    return EXTENDED_KEY_USAGES.get(name) or x509.ObjectIdentifier(name)


def parse_duration(text: str) -> timedelta:
    """Parse a number of minutes, hours, days or weeks (`90m`, `12h`, `30d`, `4w`), or an ISO 8601 duration in
    days or smaller units (`P30D`, `P1DT12H`).

    Raises:
        ValueError: the text is not such a duration.
    """
    if not DURATION.fullmatch(text):
        expected = "a duration such as 12h, 30d or 4w, or in ISO 8601 such as PT12H or P30D"
        raise ValueError(f"{quote(text)} is not {expected}")
    parts = re.findall("([0-9]+)([A-Z])", text.upper())
    return timedelta(**{_UNITS[unit]: int(number) for number, unit in parts})


def format_duration(length: timedelta) -> str:
    """Format a duration by ISO 8601, as `parse_duration` parses it."""
    hours, rest = divmod(length.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n)
    days = f"{length.days}D" if length.days else ""
    return f"P{days}" + (f"T{time}" if time else "") if days or time else "PT0S"


def check_subject_attribute(name: str, text: str) -> str:
    """A message about an invalid subject attribute (RFC 5280 A.1); '' if it is valid."""
    limit, label = SUBJECT_ATTRIBUTES[name][1], "The common name" if name == "CN" else name
    if name == "C" and not re.fullmatch("[A-Z]{2}", text):
        return f"{quote(text)} is not a country code of two capital letters (ISO 3166), such as CH"
    if not 0 < len(text) <= limit:
        remedy = "shorten it" if text else "omit it"
        return f"{label} has {len(text)} characters; 1 to {limit} are accepted: {remedy}"
    if (canonical := names.prepare(text)) != text:
        detail = "has white space, control characters or Unicode forms that programs read differently"
        return f"{quote(text)} {detail}" + (f"; write {quote(canonical)}" if canonical else "")
    if name == "CN" and not text.isascii() and names.is_another_host_in_idna_2003(text):
        detail = "is another host for programs that use IDNA 2003, such as Java; write it in A-labels (xn--…)"
        return f"{quote(text)} {detail}"
    if name == "serialNumber" and not re.fullmatch(r"[A-Za-z0-9 '()+,./:=?-]+", text):
        return f"{quote(text)} is not a PrintableString: use letters, digits, spaces and '()+,-./:=?"
    return ""
