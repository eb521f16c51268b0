"""Certificate profiles (RFC 5280 section 4): what is issued, as values."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.pki import keys, names
from service.pki.errors import BadPublicKey, RejectedValidity, quote
from service.pki.keys import KeyKind
from service.pki.name_policy import NamePolicy

EXTENDED_KEY_USAGES: Final = {  # RFC 5280 4.2.1.12; any other stands as its OID
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
}
SERVER_USAGES: Final = frozenset(
    {  # serverAuth, and Microsoft's and Netscape's of the 1990s, which OpenSSL and Java accept in its place
        ExtendedKeyUsageOID.SERVER_AUTH,
        x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
        x509.ObjectIdentifier("2.16.840.1.113730.4.1"),
    }
)
KEY_USAGES: Final = {  # the library's names, and RFC 5280's (4.2.1.3)
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
SUBJECT_ATTRIBUTES: Final = {  # RFC 4519's names, and RFC 5280 A.1's bounds in characters
    "C": (NameOID.COUNTRY_NAME, 2),
    "ST": (NameOID.STATE_OR_PROVINCE_NAME, 128),
    "L": (NameOID.LOCALITY_NAME, 128),
    "O": (NameOID.ORGANIZATION_NAME, 64),
    "OU": (NameOID.ORGANIZATIONAL_UNIT_NAME, 64),
    "CN": (NameOID.COMMON_NAME, 64),
    "serialNumber": (NameOID.SERIAL_NUMBER, 64),
}
MAX_ATTRIBUTE_CHARS: Final = max(bound for _, bound in SUBJECT_ATTRIBUTES.values())  # characters
MIN_VALIDITY: Final = timedelta(minutes=1)  # after the time of issue, to be of any use
ANY_PRINCIPAL: Final = "*"

_DURATION: Final = re.compile(r"P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


class Revocation(StrEnum):
    """How certificates of a profile are revoked."""

    NONE = "none"
    CRL = "crl"


class RequestedValidity(NamedTuple):
    """The validity that a request asks for, by at most one of the two."""

    validity: timedelta | None = None
    not_after: datetime | None = None

    @classmethod
    def parse(cls, validity: str | None, not_after: str | None) -> RequestedValidity:
        """Parse a request's ISO 8601 duration, or RFC 3339 time in UTC and whole seconds.

        Raises:
            RejectedValidity: it is neither.
        """
        try:
            length = None if validity is None else parse_duration(validity)
        except ValueError as error:
            raise RejectedValidity(str(error), "validity") from error
        return cls(length, None if not_after is None else _time(not_after))


def _time(text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):  # Python reads more, and what has no zone as the machine's own
            return datetime.fromisoformat(text)
    except ValueError:  # there is no such day, or hour
        pass
    expected = "a time in UTC and whole seconds, such as 2030-12-31T23:59:59Z (RFC 3339)"
    raise RejectedValidity(f"{quote(text)} is not {expected}", "not_after")


@dataclass(frozen=True, eq=False)
class Profile:
    """One certificate profile. It compares by identity, so that it is a cheap key of an `lru_cache`.

    `profiles.schema.json` describes the attributes. Validity periods include both ends; a URL is '' for none.

    Attributes:
        allowed_attributes: the subject attributes that are copied from the request.
        fixed_attributes: the subject attributes that every certificate has.
        public_keys: the kinds of key, and the least size in bits (of RSA; 0 for all others).
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
    short_lived: timedelta = timedelta(days=7)
    principals: tuple[str, ...] = (ANY_PRINCIPAL,)

    @functools.cached_property
    def extended_key_usage_oids(self) -> tuple[x509.ObjectIdentifier, ...]:
        """The extended key usages, as OIDs."""
        return tuple(map(eku_oid, self.extended_key_usage))

    @functools.cached_property
    def is_tls_server(self) -> bool:
        """Whether certificates are for TLS servers, which clients identify only by SANs (RFC 9525)."""
        return not SERVER_USAGES.isdisjoint(self.extended_key_usage_oids)

    def permits_principal(self, principal: str) -> bool:
        """Whether a principal may use it."""
        return ANY_PRINCIPAL in self.principals or principal in self.principals

    def asserts_no_rev_avail(self, not_before: datetime, not_after: datetime) -> bool:
        """Whether a certificate of this validity period has the extension noRevAvail (RFC 9608)."""
        span = not_after - not_before + timedelta(seconds=1)
        return self.revocation is Revocation.NONE and span <= self.short_lived

    def verify_key(self, public_key: CertificatePublicKeyTypes) -> None:
        """Check the kind and the size of a key.

        Raises:
            BadPublicKey: the profile does not take the key.
        """
        least = dict(self.public_keys).get(keys.kind_of(public_key))
        size = public_key.key_size if least and isinstance(public_key, rsa.RSAPublicKey) else 0
        if least is None or size < least:
            taken = [f"{kind}-{bits} and larger" if bits else kind for kind, bits in self.public_keys]
            refused = f"takes no {keys.describe_key(public_key)} keys; it takes {', '.join(taken)}"
            raise BadPublicKey(f"the profile {self.name} {refused}", "public_key")

    def validity_period(
        self, issued_at: datetime, earliest: datetime, requested: RequestedValidity
    ) -> tuple[datetime, datetime]:
        """not_before and not_after (UTC, whole seconds, the last one included) for a time of issue, UTC.

        not_before is not before `earliest`, UTC, which is where the issuer's chain begins.

        Raises:
            RejectedValidity: it asks for more than `max_validity`, for less than a minute, or in two ways.
        """
        return _validity_period(self, issued_at.replace(microsecond=0), earliest, requested)


@functools.lru_cache(maxsize=256)  # requests in the same second mostly ask for the same
def _validity_period(
    profile: Profile, issued_at: datetime, earliest: datetime, requested: RequestedValidity
) -> tuple[datetime, datetime]:
    start = max(issued_at - profile.backdate, earliest)
    if requested.validity is not None and requested.not_after is not None:
        raise RejectedValidity("validity and not_after are both given", "validity")
    field = "validity" if requested.not_after is None else "not_after"
    length = profile.validity if requested.validity is None else requested.validity
    end = requested.not_after or start + length - timedelta(seconds=1)
    if end - start + timedelta(seconds=1) > profile.max_validity:
        longest = f"{start + profile.max_validity - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
        most = f"{format_duration(profile.max_validity)} at most, which is until {longest}"
        raise RejectedValidity(f"the profile {profile.name} gives {most}", field)
    if end + timedelta(seconds=1) < issued_at + MIN_VALIDITY:
        since = f": it counts from {start:%Y-%m-%dT%H:%M:%SZ}" if requested.validity is not None else ""
        raise RejectedValidity(f"less than a minute of validity would be left{since}", field)
    return start, end


@functools.cache
def key_usage(kind: KeyKind) -> x509.KeyUsage:
    """The key usage for a kind of key: keyEncipherment only for RSA (RFC 8813 3, RFC 9881 5)."""
    bits = dict.fromkeys(KEY_USAGES, False)
    return x509.KeyUsage(**bits | {"digital_signature": True, "key_encipherment": kind is KeyKind.RSA})


def eku_oid(name: str) -> x509.ObjectIdentifier:
    """An extended key usage by RFC 5280's name, or by its OID."""
    return EXTENDED_KEY_USAGES.get(name) or x509.ObjectIdentifier(name)


def parse_duration(text: str) -> timedelta:
    """An ISO 8601 duration of days and smaller: `P90D`, `PT5M`, `P1DT12H`.

    Raises:
        ValueError: it is not one, or larger than ten thousand days.
    """
    match = _DURATION.fullmatch(text)
    if not match or len(text) > 32:  # noqa: PLR2004 - no duration needs more digits
        raise ValueError(f"{quote(text)} is not an ISO 8601 duration of days and smaller")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if max(days, hours // 24, minutes // 1440, seconds // 86400) > 10_000:  # noqa: PLR2004
        raise ValueError(f"{quote(text)} is longer than 10000 days")
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def format_duration(length: timedelta) -> str:
    """A duration in ISO 8601, as `parse_duration` reads it."""
    hours, rest = divmod(length.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if n)
    days = f"{length.days}D" if length.days else ""
    return f"P{days}" + (f"T{time}" if time else "") if days or time else "PT0S"


def check_subject_attribute(name: str, text: str) -> str:
    """What is wrong with a subject attribute, in a sentence; '' if nothing is (RFC 5280 A.1)."""
    bound, label = SUBJECT_ATTRIBUTES[name][1], "the common name" if name == "CN" else name
    if name == "C" and not re.fullmatch("[A-Z]{2}", text):
        return f"{quote(text)} is not a country code of two capital letters (ISO 3166)"
    if not 0 < len(text) <= bound:
        return f"{label} has {len(text)} characters; 1 to {bound} are accepted"
    if (prepared := names.prepare(text)) != text:
        fault = "has blanks, control characters or Unicode forms that programs read in other ways"
        return f"{quote(text)} {fault}" + (f"; write {quote(prepared)}" if prepared else "")
    if name == "CN" and not text.isascii() and names.is_another_host_in_idna_2003(text):
        fault = "is another host to programs that use IDNA 2003, such as Java; write it in A-labels (xn--…)"
        return f"{quote(text)} {fault}"
    if name == "serialNumber" and not re.fullmatch(r"[A-Za-z0-9 '()+,./:=?-]+", text):
        return f"{quote(text)} is not a PrintableString"
    return ""
