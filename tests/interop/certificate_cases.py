"""The certificates to verify: one of every profile, CA key type and subject key type, and some with a defect.

Each case is a folder: `leaf.pem`, `chain.pem` (the signing CA), `bundle.pem` (both), `root.pem` and `key.pem`; and a line
of `cases.tsv`: the folder, the purpose, the host. The authority issues the certificates, except defects that it refuses
to sign.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service import openapi
from service.authority import Principal, PrincipalKind
from service.overrides import YAMLSource
from service.pki import encoding, keys
from service.pki.errors import BadPublicKey
from service.pki.hierarchy import Hierarchy, create_hierarchy
from service.pki.issuer import Issuer
from service.pki.profile_loader import IssuancePolicy
from tests import csrs, factories
from tests.servers import ROOT

HOST: Final = "a.team.example.com"
TAMPERED_HOST: Final = "z.team.example.com"
SANS: Final = (f"dns:{HOST}", "ip:10.0.0.1")

CA_KEY_TYPES: Final = tuple(csrs.KEY_TYPES)
NEGATIVE_CAS: Final = ("ml-dsa-65", "p-256", "rsa-2048")
CONSTRAINED: Final = "p-256, constrained"  # by nameConstraints, to the requested names
PROFILES: Final = {  # profile -> purposes
    "server": ("server",),
    "client": ("client",),
    "peer": ("server", "client"),
    "team": ("server",),  # an operator's profile, with every setting
    "secret": ("client",),  # an operator's profile, valid for one hour, so with noRevAvail
}
DEFECTS: Final = (
    "expired",
    "wrong name",
    "wrong usage",
    "wrong CA",
    "tampered",
    "outside nameConstraints",
    "outliving its issuer",
)

NOW: Final = datetime.now(UTC)
CA_CREATED: Final = NOW - timedelta(days=200)
# Certificates that were issued then for 90 days have expired.
EXPIRED_ISSUE_TIME: Final = NOW - timedelta(days=100)


@dataclass(frozen=True)
class Case:
    """One certificate to verify.

    Attributes:
        profile: the profile of the certificate.
        ca: the type of the CA's keys, or CONSTRAINED.
        key_type: the type of the subject's key.
        purpose: the certificate's use, `server` or `client`.
        defect: one of DEFECTS; '' for a valid certificate.
        host: the host name that the client connects to.
    """

    profile: str
    ca: str
    key_type: str
    purpose: str
    defect: str = ""
    host: str = HOST

    @property
    def folder(self) -> str:
        parts = (self.profile, self.ca, self.key_type, self.purpose, self.defect)
        return "_".join(filter(None, parts)).replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True)
class Chain:
    """A case's certificate, the CA that signed it, and the root that the verifier trusts."""

    leaf: x509.Certificate
    signing: x509.Certificate
    root: x509.Certificate


Chains = dict[Case, Chain]


@functools.cache
def hierarchy(ca: str, permitted: tuple[str, ...] = (), *, impostor: bool = False) -> Hierarchy:
    """Create a CA that is 200 days old; an impostor has the same names and different keys."""
    subtrees = [ip_network(name) if "/" in name else name for name in permitted]
    return create_hierarchy("Interop", ca_key_type(ca), ca_key_type(ca), CA_CREATED, subtrees)


def ca_key_type(ca: str) -> str:
    return ca.partition(",")[0]


@functools.cache
def policy() -> IssuancePolicy:
    """The contract's profiles, and two profiles of an operator."""
    overrides = YAMLSource.from_file(ROOT / "tests" / "policies.yaml")
    profiles = {name: overrides.data["profiles"][name] for name in ("team", "secret")}
    document = openapi.with_overrides(openapi.load(), {"profiles": profiles})
    return openapi.parse_policy(document, "http://status.example.com")


@functools.cache
def issue(profile: str, ca: str, key_type: str, now: datetime = NOW) -> Chain:
    """Issue a certificate with the authority."""
    ca_hierarchy = hierarchy(ca, ("team.example.com", "10.0.0.0/8") if ca == CONSTRAINED else ())
    issuer = Issuer(ca_hierarchy.signing, [ca_hierarchy.root], factories.signing_key(ca_hierarchy))
    authority = factories.authority(now=now, issuer=issuer, policy=policy())
    csr = csrs.encode_pem(csrs.build(HOST, SANS[:1] if profile == "secret" else SANS, key_type=key_type))
    principal = Principal(PrincipalKind.API_KEY, "ci" if profile == "secret" else "default")
    leaf = authority.issue(factories.issuance_request(csr, profile, principal=principal)).certificate
    return Chain(leaf, ca_hierarchy.signing, ca_hierarchy.root)


def positive_cases() -> Iterator[tuple[Case, Chain]]:
    """Yield a case of every profile x CA key type x subject key type that the profile permits."""
    for profile, purposes in PROFILES.items():
        for ca in (*CA_KEY_TYPES, CONSTRAINED):
            for key_type in csrs.KEY_TYPES:
                for purpose in purposes if permits(profile, key_type) else ():
                    yield Case(profile, ca, key_type, purpose), issue(profile, ca, key_type)


def permits(profile: str, key_type: str) -> bool:
    """Whether a profile permits keys of this type."""
    try:
        policy().get(profile).verify_key(csrs.private_key(key_type).public_key())
    except BadPublicKey:
        return False
    return True


def negative_cases() -> Iterator[tuple[Case, Chain]]:
    """Yield a case of every defect, from CAs of several key types, for a server and for a client."""
    for ca in NEGATIVE_CAS:
        for profile, purpose, other_profile in (
            ("server", "server", "client"),
            ("client", "client", "server"),
        ):
            valid = issue(profile, ca, "p-256")
            impostor = hierarchy(ca, impostor=True)
            der = encoding.encode_der(valid.leaf).replace(HOST.encode(), TAMPERED_HOST.encode())
            constrained_ca = hierarchy(ca, ("example.org", "10.0.0.0/8"))
            late_end = valid.signing.not_valid_after_utc + timedelta(days=1)
            chains = {
                "expired": issue(profile, ca, "p-256", EXPIRED_ISSUE_TIME),
                "wrong name": valid,
                "wrong usage": issue(other_profile, ca, "p-256"),
                "wrong CA": Chain(valid.leaf, valid.signing, impostor.root),
                "tampered": Chain(x509.load_der_x509_certificate(der), valid.signing, valid.root),
                "outside nameConstraints": sign_again(
                    valid.leaf, constrained_ca, valid.leaf.not_valid_after_utc
                ),
                "outliving its issuer": sign_again(valid.leaf, hierarchy(ca), late_end),
            }
            hosts = {"wrong name": "b.team.example.com", "tampered": TAMPERED_HOST}
            for defect in DEFECTS:
                if (purpose, defect) != ("client", "wrong name"):  # a client has no host name
                    host = hosts.get(defect, HOST) if purpose == "server" else HOST
                    case = Case(profile, ca, "p-256", purpose, defect, host)
                    yield case, chains[defect]


def sign_again(certificate: x509.Certificate, issuer: Hierarchy, not_after: datetime) -> Chain:
    """Sign a certificate with another CA or end of validity, which the authority would refuse."""
    key = factories.signing_key(issuer)
    identifier = issuer.signing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    akid = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(
        issuer.signing.subject, certificate.subject, certificate.public_key(), serial
    )
    builder = builder.not_valid_before(certificate.not_valid_before_utc).not_valid_after(not_after)
    for extension in certificate.extensions:
        value = akid if isinstance(extension.value, x509.AuthorityKeyIdentifier) else extension.value
        builder = builder.add_extension(value, extension.critical)
    return Chain(builder.sign(key, keys.signature_hash(key.public_key())), issuer.signing, issuer.root)


def write_cases(directory: Path, chains: Chains) -> None:
    """Write the folders and `cases.tsv`."""
    for case, chain in chains.items():
        folder = directory / case.folder
        folder.mkdir()
        files = {
            "leaf": [chain.leaf],
            "chain": [chain.signing],
            "bundle": [chain.leaf, chain.signing],
            "root": [chain.root],
        }
        for name, certificates in files.items():
            (folder / f"{name}.pem").write_text(encoding.encode_pem(certificates))
        key_pem = csrs.private_key(case.key_type).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        (folder / "key.pem").write_bytes(key_pem)
    lines = [f"{case.folder}\t{case.purpose}\t{case.host}\n" for case in chains]
    (directory / "cases.tsv").write_text("".join(lines))
