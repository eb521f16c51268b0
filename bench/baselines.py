"""Measure signing without a server: issuance, the library's calls, and OpenSSL."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench import endpoints, load
from bench.load import BenchError
from service import openapi
from service.audit import AuditRecord
from service.authority import Authority, IssuedCertificate
from service.keystore import ca_directory
from service.loaded_ca import LoadedCA
from service.pki import keys
from tests import factories, servers

ISSUE: Final = "authority.issue, one at a time"
ISSUE_ALL: Final = f"authority.issue_batch, {endpoints.BATCH} at a time"
LOAD, VERIFY_CSR, SIGN, PEM = (
    f"cryptography: {call}"
    for call in ("load the CSR", "verify its signature", "build and sign", "certificate to PEM")
)
OPENSSL_SIGN, OPENSSL_VERIFY = "openssl speed: sign", "openssl speed: verify"
ALGORITHMS: Final = {"p-256": ("ecdsap256", "+F4:"), "rsa-2048": ("rsa2048", "+F2:")}


@dataclass(frozen=True)
class Baseline:
    """The cost of one operation.

    Attributes:
        name: the operation.
        microseconds: time on one core, per certificate.
    """

    name: str
    microseconds: float


def measure(ca: Path, key_type: str, seconds: float) -> list[Baseline]:
    """Measure all baselines on the server's core.

    Args:
        ca: the directory of the CA that signs.
        key_type: the type of its key.
        seconds: the minimum duration of each measurement.

    Raises:
        BenchError: a request was refused, or openssl printed no figures.
    """
    with load.pinned_to(load.cores()[0]):
        calls = {**_issuance(ca), **_library(ca)}
        baselines = [Baseline(name, _cost(call, seconds) / count) for name, (call, count) in calls.items()]
        return [*baselines, *_openssl(key_type)]


def _issuance(ca: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Whole requests, with the audit records discarded."""
    authority = _authority(ca)
    requests = [factories.issuance_request(csr) for csr in endpoints.requests()]

    def one_by_one() -> None:
        for request in requests:
            authority.issue(request)

    def as_batch() -> None:
        if not all(isinstance(result, IssuedCertificate) for result in authority.issue_batch(requests)):
            raise BenchError("issue_batch refused a request")

    return {ISSUE: (one_by_one, len(requests)), ISSUE_ALL: (as_batch, len(requests))}


def _library(ca: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """The calls that any Python program needs, with the extensions of Certlet's certificates."""
    key = ca_directory.load_private_key(ca / ca_directory.SIGNING_KEY, None)
    issuer = x509.load_pem_x509_certificate((ca / ca_directory.SIGNING_CERTIFICATE).read_bytes())
    pem = endpoints.requests()[0]
    csr = x509.load_pem_x509_csr(pem)
    template = _authority(ca).issue(factories.issuance_request(pem)).certificate
    hash_algorithm = keys.signature_hash(key.public_key())

    def sign() -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer.subject, csr.subject, csr.public_key(), x509.random_serial_number()
        )
        builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=90))
        for extension in template.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        return builder.sign(key, hash_algorithm)

    certificate = sign()
    certificate.verify_directly_issued_by(issuer)
    return {
        LOAD: (lambda: x509.load_pem_x509_csr(pem), 1),
        VERIFY_CSR: (lambda: csr.is_signature_valid, 1),
        SIGN: (sign, 1),
        PEM: (lambda: certificate.public_bytes(Encoding.PEM), 1),
    }


def _authority(ca: Path) -> Authority:
    """The server's authority, without an audit log."""
    loaded_ca = LoadedCA(ca_directory.load_issuer(ca, None), ca_directory.load_serial_keys(ca))
    profiles = openapi.parse_policy(factories.document())
    return Authority(lambda: loaded_ca, profiles, lambda: datetime.now(UTC), _discard)


def _discard(_events: Sequence[AuditRecord]) -> None:
    """Record nothing."""


def _openssl(key_type: str) -> list[Baseline]:
    algorithm, prefix = ALGORITHMS[key_type]
    command = ("openssl", "speed", "-elapsed", "-seconds", "1", "-mr", algorithm)
    process = servers.run(*command, check=False)
    lines = [line.split(":") for line in process.stdout.splitlines() if line.startswith(prefix)]
    if not lines:
        raise BenchError(f"openssl speed: {process.stdout} {process.stderr}")
    sign, verify = (1e6 / float(rate) for rate in lines[0][3:5])
    return [Baseline(OPENSSL_SIGN, sign), Baseline(OPENSSL_VERIFY, verify)]


def _cost(call: Callable[[], object], seconds: float) -> float:
    """Average microseconds per call."""
    call()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        calls += 1
    return elapsed / calls * 1e6
