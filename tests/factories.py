"""An in-memory CA for tests: a real hierarchy, the contract's profiles and a fixed clock."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from service import keystore, openapi
from service.audit import AuditRecord
from service.authority import Authority, IssuanceRequest, Principal, PrincipalKind
from service.loaded_ca import LoadedCA
from service.pki import csr, evaluation
from service.pki.certificate import CertificateSpec
from service.pki.evaluation import IssuanceContext
from service.pki.hierarchy import Hierarchy, create_hierarchy
from service.pki.issuer import Issuer
from service.pki.profile import KEY_USAGES
from service.pki.profile_loader import IssuancePolicy
from service.pki.serial import SerialKeys
from service.settings import Settings

NOW = datetime(2026, 11, 23, 12, 30, 45, 678901, tzinfo=UTC)
CALLER = Principal(PrincipalKind.API_KEY, "tests")

ROOT, SIGNING = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def distinguished_name(common_name: str) -> x509.Name:
    """A distinguished name that consists of a common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def key_usage(*names: str, **bits: bool) -> x509.KeyUsage:
    """A key usage extension with these bits set."""
    all_bits = dict.fromkeys(KEY_USAGES, False)
    return x509.KeyUsage(**{**all_bits, **dict.fromkeys(names, True), **bits})


def ca(**change: Any) -> x509.Certificate:
    """A signing CA below ROOT with one part changed, or omitted (None)."""
    parts: dict[str, Any] = {
        "basic": x509.BasicConstraints(ca=True, path_length=0),
        "usage": key_usage("key_cert_sign", "crl_sign"),
        "ski": x509.SubjectKeyIdentifier.from_public_key(SIGNING.public_key()),
        "aki": x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.public_key()),
    }
    subject = change.pop("subject", "Signing")
    issuer, signing_key = change.pop("issuer", "Root"), change.pop("signing_key", ROOT)
    public_key = change.pop("public_key", SIGNING.public_key())
    start = change.pop("start", NOW - timedelta(days=1))
    end = change.pop("end", NOW + timedelta(days=365))
    critical = change.pop("critical", False)
    names = tuple(
        name if isinstance(name, x509.Name) else distinguished_name(name) for name in (issuer, subject)
    )
    builder = x509.CertificateBuilder(names[0], names[1], public_key, x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(end)
    for part, value in {**parts, **change}.items():
        if value is not None:
            builder = builder.add_extension(
                value, critical=critical if part == "extra" else part not in ("ski", "aki")
            )
    return builder.sign(signing_key, hashes.SHA256())


def root(**change: Any) -> x509.Certificate:
    """The self-signed root with one part changed, or omitted (None)."""
    parts = {
        "subject": "Root",
        "public_key": ROOT.public_key(),
        "basic": x509.BasicConstraints(ca=True, path_length=1),
        "ski": x509.SubjectKeyIdentifier.from_public_key(ROOT.public_key()),
        "aki": None,
    }
    return ca(**{**parts, **change})


@functools.cache
def document() -> openapi.OpenAPIDocument:
    """The contract."""
    return openapi.load()


def profiles() -> IssuancePolicy:
    """The contract's profiles."""
    return openapi.parse_policy(document())


@functools.cache
def hierarchy(key_type: str = "p-256", permitted: tuple[str, ...] = ()) -> Hierarchy:
    """A hierarchy created ten days before `NOW`."""
    subtrees = [ip_network(subtree) if "/" in subtree else subtree for subtree in permitted]
    return create_hierarchy("Test", "0a1b2c", key_type, NOW - timedelta(days=10), subtrees)


def signing_key(hierarchy: Hierarchy) -> CertificateIssuerPrivateKeyTypes:
    """The signing CA's private key."""
    assert hierarchy.signing_key is not None
    return hierarchy.signing_key


def create_issuer(
    key_type: str = "p-256",
    permitted: tuple[str, ...] = (),
    *,
    has_free_signatures: bool = True,
    is_deterministic: bool = True,
) -> Issuer:
    """The signing CA of `hierarchy`."""
    ca = hierarchy(key_type, permitted)
    return Issuer(
        ca.signing,
        [ca.root],
        signing_key(ca),
        has_free_signatures=has_free_signatures,
        is_deterministic=is_deterministic,
    )


class RecordingLog(list[AuditRecord]):
    """An audit log in memory."""

    def kinds(self) -> list[str]:
        return [record.event for record in self]


class CountingIssuer(Issuer):
    """An issuer that counts its signatures."""

    count = 0

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        self.count += 1
        return super().sign(builder)


def context(
    profile: str | None = None,
    issuer: Issuer | None = None,
    policy: IssuancePolicy | None = None,
    now: datetime = NOW,
    principal: str = CALLER.name,
    **change: Any,
) -> IssuanceContext:
    """The context for the evaluation of a request."""
    policy = policy or profiles()
    return IssuanceContext(
        policy.get(profile), policy, principal, issuer or create_issuer(), now, now, **change
    )


def evaluate(
    request: x509.CertificateSigningRequest, issuance_context: IssuanceContext | None = None
) -> CertificateSpec:
    """Evaluate a request as the service does."""
    parsed = csr.parse(request.public_bytes(Encoding.DER))
    return evaluation.evaluate(parsed, issuance_context or context())


SERIAL_KEYS = SerialKeys((bytes(range(32)),))


def authority(
    log: RecordingLog | None = None,
    now: datetime = NOW,
    issuer: Issuer | None = None,
    policy: IssuancePolicy | None = None,
    serial_keys: SerialKeys | None = SERIAL_KEYS,
    **change: Any,
) -> Authority:
    """An authority whose clock always returns `now`, unless `change` has another clock."""
    loaded_ca = LoadedCA(issuer or create_issuer(), serial_keys)
    record = (log if log is not None else RecordingLog()).extend
    defaults = {"load_ca": lambda: loaded_ca, "clock": lambda: now, "record": record}
    return Authority(profiles=policy or profiles(), **{**defaults, **change})


def issue(
    ca: Path, csr: bytes, age: timedelta = timedelta(), passphrase: bytes | None = None, **change: Any
) -> x509.Certificate:
    """Issue a certificate by the CA in a directory, as its server did some time ago."""
    loaded_ca = keystore.load_ca(Settings(ca, ca_passphrase=passphrase))
    issuing = authority(now=datetime.now(UTC) - age, load_ca=lambda: loaded_ca)
    return issuing.issue(issuance_request(csr, **change)).certificate


def issuance_request(csr: bytes, profile: str | None = None, **change: Any) -> IssuanceRequest:
    defaults = {"principal": CALLER, "request_id": "b3f1c1de-0000-4000-8000-000000000000"}
    return IssuanceRequest(csr, profile, **{**defaults, **change})


def codes(error: object) -> Sequence[tuple[str, str]]:
    """The code and field of each subproblem of an error."""
    return [(problem.code, problem.field) for problem in getattr(error, "subproblems", ())]
