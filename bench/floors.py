"""What signing costs without a server: the story alone, the library's calls alone, OpenSSL alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench import load, peers
from bench.load import BenchError
from service import openapi
from service.audit import AuditRecord
from service.authority import Authority, IssuedCertificate, LoadedCA
from service.keystore import ca_directory
from service.pki import keys
from tests import factories

ISSUE: Final = "authority.issue, one after the other"
ISSUE_ALL: Final = f"authority.issue_batch, {peers.BATCH} at a time"
LOAD, PROVE, SIGN, PEM = (
    f"cryptography: {what}"
    for what in ("load the CSR", "its proof of possession", "build and sign", "certificate to PEM")
)
OPENSSL_SIGN, OPENSSL_VERIFY = "openssl speed: sign", "openssl speed: verify"
ALGORITHMS: Final = {"p-256": ("ecdsap256", "+F4:"), "rsa-2048": ("rsa2048", "+F2:")}


@dataclass(frozen=True)
class Floor:
    """What one thing costs.

    Attributes:
        name: what it is.
        microseconds: of one core, for each certificate.
    """

    name: str
    microseconds: float


def measure(ca: Path, kind: str, seconds: float) -> list[Floor]:
    """Measure all of them on the server's core.

    Args:
        ca: the directory of the CA that signs.
        kind: of its key.
        seconds: for each of them, at least.

    Raises:
        BenchError: something was not issued, or openssl said nothing.
    """
    with _on(load.cores()[0]):
        calls = {**_story(ca), **_library(ca)}
        floors = [Floor(name, _cost(call, seconds) / count) for name, (call, count) in calls.items()]
        return [*floors, *_openssl(kind)]


def _story(ca: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Whole requests to certificates, the audit events thrown away."""
    authority = _authority(ca)
    orders = [factories.issuance_request(each) for each in peers.requests()]

    def one_by_one() -> None:
        for order in orders:
            authority.issue(order)

    def all_at_once() -> None:
        if not all(isinstance(each, IssuedCertificate) for each in authority.issue_batch(orders)):
            raise BenchError("issue_batch refused a request")

    return {ISSUE: (one_by_one, len(orders)), ISSUE_ALL: (all_at_once, len(orders))}


def _library(ca: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """The calls that no Python program gets around; the extensions are those of our certificates."""
    key = ca_directory.load_private_key(ca / ca_directory.SIGNING_KEY, None)
    issuer = x509.load_pem_x509_certificate((ca / ca_directory.SIGNING_CERTIFICATE).read_bytes())
    pem = peers.requests()[0]
    csr = x509.load_pem_x509_csr(pem)
    like = _authority(ca).issue(factories.issuance_request(pem)).certificate
    hashed = keys.signature_hash(key.public_key())

    def sign() -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer.subject, csr.subject, csr.public_key(), x509.random_serial_number()
        )
        builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=90))
        for extension in like.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        return builder.sign(key, hashed)

    certificate = sign()
    certificate.verify_directly_issued_by(issuer)
    return {
        LOAD: (lambda: x509.load_pem_x509_csr(pem), 1),
        PROVE: (lambda: csr.is_signature_valid, 1),
        SIGN: (sign, 1),
        PEM: (lambda: certificate.public_bytes(Encoding.PEM), 1),
    }


def _authority(ca: Path) -> Authority:
    """As the server composes it, but for the audit events, which nobody writes."""
    kept = LoadedCA(ca_directory.load_issuer(ca, None), ca_directory.load_serial_secret(ca))
    profiles = openapi.parse_policy(factories.document())
    return Authority(lambda: kept, profiles, lambda: datetime.now(UTC), _forget)


def _forget(_events: Sequence[AuditRecord]) -> None:
    """Record nothing."""


def _openssl(kind: str) -> list[Floor]:
    algorithm, mark = ALGORITHMS[kind]
    command = ["openssl", "speed", "-elapsed", "-seconds", "1", "-mr", algorithm]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    lines = [line.split(":") for line in ran.stdout.splitlines() if line.startswith(mark)]
    if not lines:
        raise BenchError(f"openssl speed: {ran.stdout} {ran.stderr}")
    sign, verify = (1e6 / float(each) for each in lines[0][3:5])
    return [Floor(OPENSSL_SIGN, sign), Floor(OPENSSL_VERIFY, verify)]


def _cost(call: Callable[[], object], seconds: float) -> float:
    """Microseconds for a call, on average."""
    call()
    calls, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        call()
        calls += 1
    return took / calls * 1e6


@contextlib.contextmanager
def _on(core: int) -> Iterator[None]:
    """This process, and what it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
