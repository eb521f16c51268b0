"""Create a hierarchy: a root CA, and the signing CA below it (RFC 5280 4.2.1.9, 4.2.1.10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.x509.oid import NameOID

from service.pki import ca_status, keys, names
from service.pki.ca_status import CAStatus
from service.pki.certificate import authority_information_access
from service.pki.certificate_reader import extension_value
from service.pki.errors import CAError, quote
from service.pki.issuer import authority_key_identifier
from service.pki.names import distinguished_name
from service.pki.profile import ISSUER_PATH, OCSP_PATH

ROOT_VALIDITY: Final = timedelta(days=3652)  # ten years
SIGNING_VALIDITY: Final = timedelta(days=1826)  # five years
BACKDATE: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)

_ROOT: Final = " Root CA "
_SIGNING: Final = " Signing CA "
_RESERVED_TLD: Final = "invalid"  # never assigned (RFC 6761 6.4)
_MAX_COMMON_NAME_CHARS: Final = 64  # characters, not octets (RFC 5280 A.1: ub-common-name)
SUFFIX_BYTES: Final = 3  # of random hexadecimal digits at the end of each name
MAX_NAME_CHARS: Final = _MAX_COMMON_NAME_CHARS - len(_SIGNING) - 2 * SUFFIX_BYTES  # characters


@dataclass(frozen=True)
class Hierarchy:
    """A new CA.

    Attributes:
        root, signing: the certificates.
        root_key: the root's private key, to store offline; None if the root existed before.
        signing_key: the signing CA's private key; None if it is stored elsewhere.
        predecessors: the certificates of the CA that this one replaces, including its chain.
        statuses: OCSP responses about the certificates below the root.
    """

    root: x509.Certificate
    signing: x509.Certificate
    root_key: CertificateIssuerPrivateKeyTypes | None = field(repr=False)
    signing_key: CertificateIssuerPrivateKeyTypes | None = field(repr=False)
    predecessors: tuple[x509.Certificate, ...] = ()
    statuses: Sequence[CAStatus] = ()


@dataclass(frozen=True)
class Predecessor:
    """The CA to replace.

    Attributes:
        certificate: its signing certificate.
        chain: the chain with the root last.
        predecessors: its own predecessors.
        statuses: the OCSP responses about all of these certificates.
    """

    certificate: x509.Certificate
    chain: Sequence[x509.Certificate]
    predecessors: Sequence[x509.Certificate]
    statuses: Sequence[CAStatus] = ()


class SigningCA(NamedTuple):
    """Properties of a new signing CA.

    Attributes:
        public_key: the public key of an existing key, such as one in KMS; None to create one.
        status_url: the URL below which the service answers OCSP requests, for the certificate; '' for none.
    """

    public_key: CertificatePublicKeyTypes | None = None
    status_url: str = ""


_NEW_KEY: Final = SigningCA()


def create_hierarchy(
    name: str,
    suffix: str,
    key_type: str,
    now: datetime,
    permitted: Sequence[str | IPv4Network | IPv6Network] = (),
    signing: SigningCA = _NEW_KEY,
) -> Hierarchy:
    """Create a root (10 years, pathLen 1) and a signing CA (5 years, pathLen 0), backdated a day.

    Args:
        name: the beginning of both common names, at most `MAX_NAME_CHARS` characters.
        suffix: the end of both common names, which distinguishes CAs: `SUFFIX_BYTES` random octets in
            hexadecimal.
        key_type: the type of both keys, see `keys.GENERATORS`.
        now: the current time, UTC.
        permitted: DNS subtrees (text) and IP networks that the signing CA is constrained to; if all are of
            one kind, no name of the other kind is permitted.
        signing: further properties of the signing CA.

    Raises:
        ValueError: the key type is unknown; or the name is empty or too long, or is not normalised.
    """
    canonical = names.prepare(name)
    if not canonical:
        raise ValueError("the name of the CA is empty")
    if canonical != name:
        reason = "has white space or characters that programs do not show, or read differently"
        raise ValueError(f"the name {quote(name)} {reason}: pass {quote(canonical)}")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"the name has {len(name)} characters; at most {MAX_NAME_CHARS} are accepted")
    root, root_key = _create_root(f"{name}{_ROOT}{suffix}", key_type, now)
    constraints = _name_constraints(permitted) if permitted else None
    signing_key, public_key = _signing_key(key_type, signing.public_key)
    extensions = _signing_extensions(root, constraints, signing.status_url)
    subject = f"{name}{_SIGNING}{suffix}"
    certificate = _create_signing(subject, public_key, root, root_key, now, extensions)
    statuses = ca_status.sign_statuses((certificate, root), root_key, now)
    return Hierarchy(root, certificate, root_key, signing_key, statuses=statuses)


def create_successor(
    predecessor: Predecessor,
    root_key: CertificateIssuerPrivateKeyTypes | None,
    suffix: str,
    key_type: str,
    now: datetime,
    signing: SigningCA = _NEW_KEY,
) -> Hierarchy:
    """Create a signing CA that replaces another, with the same name and nameConstraints.

    `root_key` is the existing root's key; None creates a new root. The other arguments are as for
    `create_hierarchy`.

    Raises:
        CAError: the root's key does not match the root's certificate.
        ValueError: the key type is unknown, or the root expires within a day.
    """
    name, root, new_root_key = _base_name(predecessor.certificate), predecessor.chain[-1], None
    if root_key is None:
        root, root_key = _create_root(f"{name}{_ROOT}{suffix}", key_type, now)
        new_root_key = root_key
    elif root_key.public_key() != root.public_key():
        raise CAError("the root's private key does not match the root's certificate")
    constraints = extension_value(predecessor.certificate, x509.NameConstraints)
    signing_key, public_key = _signing_key(key_type, signing.public_key)
    extensions = _signing_extensions(root, constraints, signing.status_url)
    subject = f"{name}{_SIGNING}{suffix}"
    certificate = _create_signing(subject, public_key, root, root_key, now, extensions)
    certificates = (predecessor.certificate, *predecessor.chain, *predecessor.predecessors)
    predecessors = tuple(ca for ca in certificates if ca != root and ca.not_valid_after_utc > now)
    statuses = ca_status.sign_statuses(
        (certificate, root, *predecessors), root_key, now, predecessor.statuses
    )
    return Hierarchy(root, certificate, new_root_key, signing_key, predecessors, statuses)


def _base_name(signing: x509.Certificate) -> str:
    """The name that a CA was created with; a truncated common name if this program did not create the CA."""
    attributes = signing.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value).partition(_SIGNING)[0][:MAX_NAME_CHARS] if attributes else "Certlet"


def _signing_key(
    key_type: str, public_key: CertificatePublicKeyTypes | None
) -> tuple[CertificateIssuerPrivateKeyTypes | None, CertificatePublicKeyTypes]:
    if public_key is not None:
        return None, public_key
    private_key = keys.generate_private_key(key_type)
    return private_key, private_key.public_key()


def _create_root(
    common_name: str, key_type: str, now: datetime
) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    private_key, start = keys.generate_private_key(key_type), now.replace(microsecond=0) - BACKDATE
    public_key = private_key.public_key()
    builder = _builder(common_name, public_key, 1, start, start + ROOT_VALIDITY - _SECOND)
    builder = builder.issuer_name(_dn(common_name))
    return builder.sign(private_key, keys.signature_hash(public_key)), private_key


def _create_signing(
    common_name: str,
    public_key: CertificatePublicKeyTypes,
    root: x509.Certificate,
    root_key: CertificateIssuerPrivateKeyTypes,
    now: datetime,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    start = max(now.replace(microsecond=0) - BACKDATE, root.not_valid_before_utc)
    end = min(start + SIGNING_VALIDITY - _SECOND, root.not_valid_after_utc)
    if end < now + BACKDATE:
        raise ValueError("the root expires within a day: create a new root")
    builder = _builder(common_name, public_key, 0, start, end).issuer_name(root.subject)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(root_key, keys.signature_hash(root_key.public_key()))


def _signing_extensions(
    root: x509.Certificate, constraints: x509.NameConstraints | None, status_url: str
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """Yield the extensions that depend on the root and the service, and whether they are critical."""
    yield authority_key_identifier(root), False
    if constraints:
        yield constraints, True
    if status_url:
        yield authority_information_access(status_url + OCSP_PATH, status_url + ISSUER_PATH, root), False


def _dn(common_name: str) -> x509.Name:
    return distinguished_name(((NameOID.COMMON_NAME, common_name),))


def _builder(
    common_name: str,
    public_key: CertificatePublicKeyTypes,
    path_length: int,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    unset = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys([*unset, "encipher_only", "decipher_only"], False)
    usage["digital_signature"] = True  # of OCSP responses
    return (
        x509.CertificateBuilder()
        .subject_name(_dn(common_name))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name_constraints(permitted: Sequence[str | IPv4Network | IPv6Network]) -> x509.NameConstraints:
    """Constrain every supported kind of name: kinds that name constraints omit are not restricted.

    A CA constrained only to DNS names could certify any IP address, and any host in a URI or mailbox. For
    URIs and mailboxes, a domain needs two subtrees: the domain itself, and its subdomains (RFC 5280
    4.2.1.10). If no domain is permitted, the subtree is a reserved domain.
    """
    domains = [subtree for subtree in permitted if isinstance(subtree, str)]
    hosts = [host for domain in domains or [_RESERVED_TLD] for host in (domain, f".{domain}")]
    dns = [x509.DNSName(domain) for domain in domains]
    ip = [x509.IPAddress(subtree) for subtree in permitted if not isinstance(subtree, str)]
    email_and_uri = [
        kind(host) for kind in (x509.RFC822Name, x509.UniformResourceIdentifier) for host in hosts
    ]
    no_ip = [x509.IPAddress(IPv4Network("0.0.0.0/0")), x509.IPAddress(IPv6Network("::/0"))]
    excluded = [*([] if ip else no_ip), *([] if dns else [x509.DNSName("")])]
    return x509.NameConstraints([*dns, *ip, *email_and_uri], excluded or None)
