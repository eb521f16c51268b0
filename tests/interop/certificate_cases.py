"""What is put before the judges: a certificate of every profile, CA key kind and subject key kind, and negative twins.

Each case is a folder: `leaf.pem`, `chain.pem` (the signing CA), `bundle.pem` (both), `root.pem` and `key.pem`; and a line
of `cases.tsv`: the folder, the purpose, the host. Certificates come from the authority; only a twin that no authority of
ours would sign is signed here.
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

CA_KINDS: Final = tuple(csrs.KEY_TYPES)
TWIN_CAS: Final = ("ml-dsa-65", "p-256", "rsa-2048")
CONSTRAINED: Final = "p-256, constrained"  # by nameConstraints, to what is asked for
PROFILES: Final = {  # and what their certificates are shown for
    "server": ("server",),
    "client": ("client",),
    "peer": ("server", "client"),
    "team": ("server",),  # an operator's, with all that a profile can say
    "secret": ("client",),  # an operator's, of one hour, so with noRevAvail
}
TWINS: Final = (
    "expired",
    "wrong name",
    "wrong usage",
    "wrong CA",
    "tampered",
    "outside nameConstraints",
    "outliving its issuer",
)

NOW: Final = datetime.now(UTC)
FOUNDED: Final = NOW - timedelta(days=200)
LONG_AGO: Final = NOW - timedelta(days=100)  # what was issued then for 90 days has expired


@dataclass(frozen=True)
class Case:
    """One question to a judge.

    Attributes:
        profile: under which the certificate was issued.
        ca: the kind of the CA's keys.
        kind: the kind of the subject's key.
        purpose: what the certificate is shown for, `server` or `client`.
        twin: what is wrong; '' if nothing is.
        host: the name that a server is asked for by.
    """

    profile: str
    ca: str
    kind: str
    purpose: str
    twin: str = ""
    host: str = HOST

    @property
    def folder(self) -> str:
        parts = (self.profile, self.ca, self.kind, self.purpose, self.twin)
        return "_".join(filter(None, parts)).replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True)
class Exhibit:
    """What stands in a case's folder: a certificate, the CA that signed it, and the root that the judge trusts."""

    leaf: x509.Certificate
    signing: x509.Certificate
    root: x509.Certificate


Exhibits = dict[Case, Exhibit]


@functools.cache
def hierarchy(ca: str, permitted: tuple[str, ...] = (), *, impostor: bool = False) -> Hierarchy:
    """A CA of 200 days of age; the impostor, which only the cache tells apart, has other keys and the same names."""
    subtrees = [ip_network(each) if "/" in each else each for each in permitted]
    return create_hierarchy("Judged", keys_of(ca), keys_of(ca), FOUNDED, subtrees)


def keys_of(ca: str) -> str:
    return ca.partition(",")[0]


@functools.cache
def policy() -> IssuancePolicy:
    """The contract's profiles, and two of an operator's."""
    overrides = YAMLSource.from_file(ROOT / "tests" / "policies.yaml")
    profiles = {name: overrides.data["profiles"][name] for name in ("team", "secret")}
    return openapi.parse_policy(openapi.with_overrides(openapi.load(), {"profiles": profiles}))


@functools.cache
def issued(profile: str, ca: str, kind: str, now: datetime = NOW) -> Exhibit:
    """A certificate by a whole authority."""
    made = hierarchy(ca, ("team.example.com", "10.0.0.0/8") if ca == CONSTRAINED else ())
    issuer = Issuer(made.signing, [made.root], factories.signing_key(made))
    authority = factories.authority(now=now, issuer=issuer, policy=policy())
    csr = csrs.encode_pem(csrs.build(HOST, SANS[:1] if profile == "secret" else SANS, key_type=kind))
    principal = Principal(PrincipalKind.API_KEY, "ci" if profile == "secret" else "default")
    leaf = authority.issue(factories.issuance_request(csr, profile, principal=principal)).certificate
    return Exhibit(leaf, made.signing, made.root)


def positives() -> Iterator[tuple[Case, Exhibit]]:
    """Every profile x CA key kind x subject key kind that there is."""
    for profile, purposes in PROFILES.items():
        for ca in (*CA_KINDS, CONSTRAINED):
            for kind in csrs.KEY_TYPES:
                for purpose in purposes if takes(profile, kind) else ():
                    yield Case(profile, ca, kind, purpose), issued(profile, ca, kind)


def takes(profile: str, kind: str) -> bool:
    """Whether a profile is for keys of this kind."""
    try:
        policy().get(profile).verify_key(csrs.private_key(kind).public_key())
    except BadPublicKey:
        return False
    return True


def twins() -> Iterator[tuple[Case, Exhibit]]:
    """Each way to be wrong, by CAs of several kinds, as a server and as a client."""
    for ca in TWIN_CAS:
        for profile, purpose, other in (("server", "server", "client"), ("client", "client", "server")):
            good = issued(profile, ca, "p-256")
            impostor = hierarchy(ca, impostor=True)
            der = encoding.encode_der(good.leaf).replace(HOST.encode(), TAMPERED_HOST.encode())
            elsewhere = hierarchy(ca, ("example.org", "10.0.0.0/8"))
            late = good.signing.not_valid_after_utc + timedelta(days=1)
            made = {
                "expired": issued(profile, ca, "p-256", LONG_AGO),
                "wrong name": good,
                "wrong usage": issued(other, ca, "p-256"),
                "wrong CA": Exhibit(good.leaf, good.signing, impostor.root),
                "tampered": Exhibit(x509.load_der_x509_certificate(der), good.signing, good.root),
                "outside nameConstraints": resigned(good.leaf, elsewhere, good.leaf.not_valid_after_utc),
                "outliving its issuer": resigned(good.leaf, hierarchy(ca), late),
            }
            hosts = {"wrong name": "b.team.example.com", "tampered": TAMPERED_HOST}
            for twin in TWINS:
                if (purpose, twin) != ("client", "wrong name"):  # a client has none to be asked for by
                    host = hosts.get(twin, HOST) if purpose == "server" else HOST
                    case = Case(profile, ca, "p-256", purpose, twin, host)
                    yield case, made[twin]


def resigned(good: x509.Certificate, by: Hierarchy, not_after: datetime) -> Exhibit:
    """The same certificate by another CA, or with another end: what the authority refuses to sign."""
    key = factories.signing_key(by)
    identifier = by.signing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    akid = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(by.signing.subject, good.subject, good.public_key(), serial)
    builder = builder.not_valid_before(good.not_valid_before_utc).not_valid_after(not_after)
    for each in good.extensions:
        value = akid if isinstance(each.value, x509.AuthorityKeyIdentifier) else each.value
        builder = builder.add_extension(value, each.critical)
    return Exhibit(builder.sign(key, keys.signature_hash(key.public_key())), by.signing, by.root)


def write(directory: Path, exhibits: Exhibits) -> None:
    for case, exhibit in exhibits.items():
        folder = directory / case.folder
        folder.mkdir()
        leaf, chain = (encoding.encode_pem([each]) for each in (exhibit.leaf, exhibit.signing))
        texts = {
            "leaf": leaf,
            "chain": chain,
            "bundle": leaf + chain,
            "root": encoding.encode_pem([exhibit.root]),
        }
        for name, text in texts.items():
            (folder / f"{name}.pem").write_text(text)
        private = csrs.private_key(case.kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(private)
    lines = [f"{case.folder}\t{case.purpose}\t{case.host}\n" for case in exhibits]
    (directory / "cases.tsv").write_text("".join(lines))
