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

ROOT_VALIDITY: Final = timedelta(days=3652)  # ten years
SIGNING_VALIDITY: Final = timedelta(days=1826)  # five years
BACKDATE: Final = timedelta(days=1)


@dataclass(frozen=True)
class Hierarchy:
    """A new CA: the root, to be kept away, and the signing CA, to be used. No `repr` shows a key.

    Attributes:
        root, signing: the certificates.
        root_key: the root's private key.
        signing_key: the signing CA's; None if it lives elsewhere.
    """

    root: x509.Certificate
    signing: x509.Certificate
    root_key: CertificateIssuerPrivateKeyTypes = field(repr=False)
    signing_key: CertificateIssuerPrivateKeyTypes | None = field(repr=False)


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
        name: what both are called; " Root CA" or " Signing CA" and the suffix follow it.
        suffix: random, so that two CAs of one name are never taken for each other.
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
    root_key = keys.generate(key)
    signing_key = None
    if signing_public_key is None:
        signing_key = keys.generate(key)
        signing_public_key = signing_key.public_key()
    root_name, signing_name = _dn(f"{name} Root CA {suffix}"), _dn(f"{name} Signing CA {suffix}")
    start = now.replace(microsecond=0) - BACKDATE
    root = (
        _ca(root_name, root_key.public_key(), 1)
        .issuer_name(root_name)
        .not_valid_before(start)
        .not_valid_after(start + ROOT_VALIDITY - timedelta(seconds=1))
        .sign(root_key, keys.signature_hash(root_key.public_key()))
    )
    signing = (
        _ca(signing_name, signing_public_key, 0)
        .issuer_name(root_name)
        .not_valid_before(start)
        .not_valid_after(start + SIGNING_VALIDITY - timedelta(seconds=1))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if permitted:
        signing = signing.add_extension(_name_constraints(permitted), critical=True)
    signed = signing.sign(root_key, keys.signature_hash(root_key.public_key()))
    return Hierarchy(root, signed, root_key, signing_key)


def _dn(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


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
    """Permitted subtrees; a kind of name without one among DNS and IP is excluded whole.

    Constraints restrict only the kinds that they mention, so a CA held to DNS names could name any
    address, were all addresses not excluded.
    """
    dns = [x509.DNSName(each) for each in permitted if isinstance(each, str)]
    ip = [x509.IPAddress(each) for each in permitted if not isinstance(each, str)]
    everywhere = [x509.IPAddress(IPv4Network("0.0.0.0/0")), x509.IPAddress(IPv6Network("::/0"))]
    excluded: list[x509.GeneralName] = [] if ip else [*everywhere]
    if not dns:
        excluded.append(x509.DNSName(""))
    return x509.NameConstraints([*dns, *ip], excluded or None)
