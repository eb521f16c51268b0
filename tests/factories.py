"""A whole CA for tests, in memory: a real hierarchy, the contract's profiles, a clock that stands."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from service import openapi
from service.audit import Event
from service.authority import Authority, IssuanceRequest, LoadedCA, Principal, PrincipalKind
from service.pki import csr, evaluation
from service.pki.certificate import CertificateSpec
from service.pki.evaluation import IssuanceContext
from service.pki.hierarchy import Hierarchy, create_hierarchy
from service.pki.issuer import Issuer
from service.pki.profile_loader import IssuancePolicy

NOW = datetime(2026, 11, 23, 12, 30, 45, 678901, tzinfo=UTC)
CALLER = Principal(PrincipalKind.API_KEY, "tests")

ROOT, SIGNING = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def name(text: str) -> x509.Name:
    """A distinguished name of one common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(*names: str, **bits: bool) -> x509.KeyUsage:
    """The key usage with these bits."""
    known = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
    )
    all_bits = dict.fromkeys(f"{known}crl_sign encipher_only decipher_only".split(), False)
    return x509.KeyUsage(**{**all_bits, **dict.fromkeys(names, True), **bits})


def ca(**change: Any) -> x509.Certificate:
    """A signing CA under ROOT, with one thing changed, or (value None) left out."""
    parts: dict[str, Any] = {
        "basic": x509.BasicConstraints(ca=True, path_length=0),
        "usage": usage("key_cert_sign", "crl_sign"),
        "ski": x509.SubjectKeyIdentifier.from_public_key(SIGNING.public_key()),
        "aki": x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.public_key()),
    }
    subject = change.pop("subject", "Signing")
    issued_by, signer = change.pop("issuer", "Root"), change.pop("signer", ROOT)
    public_key = change.pop("public_key", SIGNING.public_key())
    start = change.pop("start", NOW - timedelta(days=1))
    end = change.pop("end", NOW + timedelta(days=365))
    critical = change.pop("critical", False)
    names = tuple(each if isinstance(each, x509.Name) else name(each) for each in (issued_by, subject))
    builder = x509.CertificateBuilder(names[0], names[1], public_key, x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(end)
    for part, value in {**parts, **change}.items():
        if value is not None:
            builder = builder.add_extension(
                value, critical=critical if part == "extra" else part not in ("ski", "aki")
            )
    return builder.sign(signer, hashes.SHA256())


def root(**change: Any) -> x509.Certificate:
    """The self-signed root."""
    usual = {
        "subject": "Root",
        "public_key": ROOT.public_key(),
        "basic": x509.BasicConstraints(ca=True, path_length=1),
        "ski": x509.SubjectKeyIdentifier.from_public_key(ROOT.public_key()),
        "aki": None,
    }
    return ca(**{**usual, **change})


@functools.cache
def document() -> openapi.Document:
    """The contract."""
    return openapi.load()


def profiles() -> IssuancePolicy:
    """The contract's profiles."""
    return openapi.profiles(document())


@functools.cache
def hierarchy(key: str = "p-256", permitted: tuple[str, ...] = ()) -> Hierarchy:
    """A CA that was made ten days before `NOW`."""
    subtrees = [ip_network(each) if "/" in each else each for each in permitted]
    return create_hierarchy("Test", "0a1b2c", key, NOW - timedelta(days=10), subtrees)


def signing_key(made: Hierarchy) -> CertificateIssuerPrivateKeyTypes:
    """Its signing key, which is there where it was made here."""
    assert made.signing_key is not None
    return made.signing_key


def issuer(key: str = "p-256", permitted: tuple[str, ...] = ()) -> Issuer:
    made = hierarchy(key, permitted)
    return Issuer(made.signing, [made.root], signing_key(made))


class Log(list[Event]):
    """A recorder that keeps what it is given."""

    def kinds(self) -> list[str]:
        return [event.event for event in self]


class Counting(Issuer):
    count = 0

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        self.count += 1
        return super().sign(builder)


def context(
    profile: str | None = None,
    of: Issuer | None = None,
    policy: IssuancePolicy | None = None,
    now: datetime = NOW,
    principal: str = CALLER.name,
    **more: Any,
) -> IssuanceContext:
    """What a request is evaluated against."""
    chosen = policy or profiles()
    return IssuanceContext(chosen.get(profile), chosen, principal, of or issuer(), now, now, **more)


def evaluate(
    request: x509.CertificateSigningRequest, issuance_context: IssuanceContext | None = None
) -> CertificateSpec:
    """What would be issued for a request."""
    loaded = csr.parse(request.public_bytes(Encoding.DER))
    return evaluation.evaluate(loaded, issuance_context or context())


SERIAL_SECRET = bytes(range(32))


def authority(
    log: Log | None = None,
    now: datetime = NOW,
    of: Issuer | None = None,
    policy: IssuancePolicy | None = None,
    serial_secret: bytes | None = SERIAL_SECRET,
    **more: Any,
) -> Authority:
    """An authority whose clock stands at `now`, if no other is given."""
    ca = LoadedCA(of or issuer(), serial_secret)
    record = (log if log is not None else Log()).extend
    usual = {"load_ca": lambda: ca, "clock": lambda: now, "record": record}
    return Authority(profiles=policy or profiles(), **{**usual, **more})


def order(csr: bytes, profile: str | None = None, **change: Any) -> IssuanceRequest:
    usual = {"principal": CALLER, "request_id": "b3f1c1de-0000-4000-8000-000000000000"}
    return IssuanceRequest(csr, profile, **{**usual, **change})


def codes(error: object) -> Sequence[tuple[str, str]]:
    """Code and field of each reason of a refusal."""
    return [(each.code, each.field) for each in getattr(error, "subproblems", ())]
