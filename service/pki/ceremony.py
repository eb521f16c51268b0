"""The key ceremony: a root CA, and the signing CA beneath it (RFC 5280 4.2.1.9, 4.2.1.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.x509.oid import NameOID

from service.pki import keys
from service.pki.errors import IssuerError

ROOT_VALIDITY: Final = timedelta(days=3652)  # ten years
SIGNING_VALIDITY: Final = timedelta(days=1826)  # five years
BACKDATE: Final = timedelta(days=1)

_ROOT: Final = " Root CA "
_SIGNING: Final = " Signing CA "
_NOBODY: Final = "invalid"
_COMMON_NAME: Final = 64  # characters, not octets (RFC 5280 A.1: ub-common-name)
SUFFIX_BYTES: Final = 3  # random, in hexadecimal at the end of each name
MAX_NAME: Final = _COMMON_NAME - len(_SIGNING) - 2 * SUFFIX_BYTES  # characters


@dataclass(frozen=True)
class Hierarchy:
    """A CA that was made: the root, to be kept away, and the signing CA, to be used. No `repr` shows a key.

    Attributes:
        root, signing: the certificates.
        root_key: the root's private key; None if the root was there already.
        signing_key: the signing CA's; None if it lives elsewhere.
        previous: the certificates of the CA that this one succeeds, its chain among them.
    """

    root: x509.Certificate
    signing: x509.Certificate
    root_key: CertificateIssuerPrivateKeyTypes | None = field(repr=False)
    signing_key: CertificateIssuerPrivateKeyTypes | None = field(repr=False)
    previous: tuple[x509.Certificate, ...] = ()


def hold(
    name: str,
    suffix: str,
    key: str,
    now: datetime,
    permitted: Sequence[str | IPv4Network | IPv6Network] = (),
    signing_public_key: CertificatePublicKeyTypes | None = None,
) -> Hierarchy:
    """Make a root (10 years, pathLen 1) and a signing CA (5 years, pathLen 0), backdated a day.

    Args:
        name: what both are called, at most `MAX_NAME` characters; " Root CA" or " Signing CA" and the
            suffix follow it.
        suffix: `SUFFIX_BYTES` random octets in hexadecimal, so that two CAs of one name are never taken
            for each other.
        key: the kind of both keys, as `keys.generate` takes it.
        now: the time, UTC.
        permitted: DNS subtrees (text) and IP networks that the signing CA is constrained to,
            critical; for a kind that is not mentioned there is no constraint, except that a DNS
            or an IP constraint alone excludes all names of the other kind.
        signing_public_key: of a signing key that lives elsewhere, such as in KMS; None to make one.

    Raises:
        ValueError: there is no such kind of key, or the name is empty or too long.
    """
    if not name.strip():
        raise ValueError("a CA needs a name")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name has {len(name)} characters; {MAX_NAME} are accepted")
    constraints = _name_constraints(permitted) if permitted else None
    root, root_key = _root(f"{name}{_ROOT}{suffix}", key, now)
    signing_key, public_key = _signing_key(key, signing_public_key)
    signing = _signing(f"{name}{_SIGNING}{suffix}", public_key, root, root_key, now, constraints)
    return Hierarchy(root, signing, root_key, signing_key)


@dataclass(frozen=True)
class Predecessor:
    """A signing CA that another takes over from.

    Attributes:
        certificate: its own.
        chain: those above it, the root last.
        previous: what it has still served of the CA before it.
    """

    certificate: x509.Certificate
    chain: Sequence[x509.Certificate]
    previous: Sequence[x509.Certificate] = ()


def succeed(
    predecessor: Predecessor,
    root_key: CertificateIssuerPrivateKeyTypes | None,
    suffix: str,
    key: str,
    now: datetime,
    signing_public_key: CertificatePublicKeyTypes | None = None,
) -> Hierarchy:
    """Make the signing CA that takes over from another, of its name and under its nameConstraints.

    Args:
        predecessor: the other.
        root_key: the root's key, to stay beneath the same root; None to make a new root.
        suffix: random, as for `hold`.
        key: the kind of the keys that are made, as `keys.generate` takes it.
        now: the time, UTC.
        signing_public_key: of a signing key that lives elsewhere; None to make one.

    Raises:
        IssuerError: the root's key is not the root's.
        ValueError: there is no such kind of key, or the root ends within a day.
    """
    name, root, made_key = _called(predecessor.certificate), predecessor.chain[-1], None
    if root_key is None:
        root, root_key = _root(f"{name}{_ROOT}{suffix}", key, now)
        made_key = root_key
    elif root_key.public_key() != root.public_key():
        raise IssuerError("the root's key is not the one in the root's certificate")
    signing_key, public_key = _signing_key(key, signing_public_key)
    constraints = _constraints_of(predecessor.certificate)
    signing = _signing(f"{name}{_SIGNING}{suffix}", public_key, root, root_key, now, constraints)
    served = (predecessor.certificate, *predecessor.chain, *predecessor.previous)
    previous = tuple(each for each in served if each != root and each.not_valid_after_utc > now)
    return Hierarchy(root, signing, made_key, signing_key, previous)


def _called(signing: x509.Certificate) -> str:
    """The name that a CA was made with, or as much as fits of its common name if it was not made here."""
    attributes = signing.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value).partition(_SIGNING)[0][:MAX_NAME] if attributes else "Certlet"


def _constraints_of(ca: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return ca.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _root(
    common_name: str, key: str, now: datetime
) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    private_key = keys.generate(key)
    subject, start = _dn(common_name), now.replace(microsecond=0) - BACKDATE
    builder = (
        _ca(subject, private_key.public_key(), 1)
        .issuer_name(subject)
        .not_valid_before(start)
        .not_valid_after(start + ROOT_VALIDITY - timedelta(seconds=1))
    )
    return builder.sign(private_key, keys.signature_hash(private_key.public_key())), private_key


def _signing_key(
    key: str, public_key: CertificatePublicKeyTypes | None
) -> tuple[CertificateIssuerPrivateKeyTypes | None, CertificatePublicKeyTypes]:
    if public_key is not None:
        return None, public_key
    made = keys.generate(key)
    return made, made.public_key()


def _signing(
    common_name: str,
    public_key: CertificatePublicKeyTypes,
    root: x509.Certificate,
    root_key: CertificateIssuerPrivateKeyTypes,
    now: datetime,
    constraints: x509.NameConstraints | None,
) -> x509.Certificate:
    start = max(now.replace(microsecond=0) - BACKDATE, root.not_valid_before_utc)
    end = min(start + SIGNING_VALIDITY - timedelta(seconds=1), root.not_valid_after_utc)
    if end < now + BACKDATE:
        raise ValueError("the root ends too soon: make a new one")
    builder = (
        _ca(_dn(common_name), public_key, 0)
        .issuer_name(root.subject)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if constraints:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(root_key, keys.signature_hash(root_key.public_key()))


def _dn(common_name: str) -> x509.Name:
    # Not validated: the library counts octets.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])


def _ca(
    subject: x509.Name, public_key: CertificatePublicKeyTypes, path_length: int
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name_constraints(
    permitted: Sequence[str | IPv4Network | IPv6Network],
) -> x509.NameConstraints:
    """Permitted subtrees, for every kind of name that is certified.

    Constraints restrict only the kinds that they mention: a CA held to DNS names could name any address, and
    any host in a URI or a mailbox. Of those a domain's have two forms, its own and what is beneath it (RFC
    5280 4.2.1.10); where no domain is permitted there is one that nobody has (RFC 6761 6.4).
    """
    domains = [each for each in permitted if isinstance(each, str)]
    hosts = [form for each in domains or [_NOBODY] for form in (each, f".{each}")]
    dns = [x509.DNSName(each) for each in domains]
    ip = [x509.IPAddress(each) for each in permitted if not isinstance(each, str)]
    within = [kind(each) for kind in (x509.RFC822Name, x509.UniformResourceIdentifier) for each in hosts]
    everywhere = [x509.IPAddress(IPv4Network("0.0.0.0/0")), x509.IPAddress(IPv6Network("::/0"))]
    excluded: list[x509.GeneralName] = [] if ip else [*everywhere]
    if not dns:
        excluded.append(x509.DNSName(""))
    return x509.NameConstraints([*dns, *ip, *within], excluded or None)
