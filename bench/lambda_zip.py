"""Measure the zip: its size, its cold start, its warm time and its memory.

The cold start lasts from the process's start to its first signed certificate, under Lambda's own runtime
client; it is compared with a handler that only imports cryptography and signs. The warm time is the handler's
time per event, compared with `authority.issue`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

from bench.load import BenchError
from bench.results import Spread, Target
from deploy import build
from service import aws_lambda
from service.settings import AUDIT_LOG, CA, CA_PASSPHRASE
from tests import csrs, factories, servers
from tests.deploy import runtime
from tests.lambda_events import proxy_event

CALLS: Final = 300  # of the warm handler, per round
MAX_MEGABYTES: Final = 12
MAX_COLD: Final = 3  # times the cold start of the minimal handler
MAX_WARM: Final = 2.5  # times authority.issue
MAX_RESIDENT: Final = 100  # MB
PASSPHRASE: Final = "bench"  # noqa: S105 - of a temporary CA
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

MINIMAL_HANDLER: Final = """
from datetime import datetime, timezone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

key = ec.generate_private_key(ec.SECP256R1())

def handler(event, context):
    now, empty = datetime.now(timezone.utc), x509.Name([])
    builder = x509.CertificateBuilder(empty, empty, key.public_key(), 1, now, now)
    return {"statusCode": 200, "body": builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()}
"""


@dataclass(frozen=True)
class ZipFigures:
    """The figures of the zip.

    Attributes:
        megabytes: its size.
        cold: the cold start, relative to the minimal handler.
        warm: the handler's time, without text, relative to `authority.issue`.
        resident: memory at the first response, in MB.
        targets: the targets of these four, in this order.
    """

    megabytes: float
    cold: Spread
    warm: Spread
    resident: float
    targets: tuple[Target, ...]


def _first_response(task: Path, client: Path, log: Path) -> tuple[float, float]:
    """Return the seconds until the first response, and the memory then, in MB."""
    start = time.monotonic()
    env = {CA_PASSPHRASE: PASSPHRASE}
    with runtime.run_function(task, Path(sys.executable), client, log, **env) as function:
        kind, response = function.invoke(proxy_event())
        seconds = time.monotonic() - start
        if kind != "response" or response["statusCode"] != HTTPStatus.OK:
            raise BenchError(f"the zip's response is not a success: {response} {log.read_text()}")
        return seconds, function.resident_kib() * 1024 / 1e6


def _microseconds(call: Callable[[], object]) -> float:
    for _ in range(50):
        call()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def measure(rounds: int) -> ZipFigures:
    """Build the zip, and measure it.

    Raises:
        BenchError: the function does not sign.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        init = servers.certlet("init", "ca", cwd=directory, env={CA_PASSPHRASE: PASSPHRASE})
        if init.returncode:
            raise BenchError(init.stderr.decode())
        archive, task, client = directory / "certlet.zip", directory / "task", directory / "client"
        build.build("x86_64", PYTHON, archive, directory / "ca", PASSPHRASE.encode())
        zipfile.ZipFile(archive).extractall(task)
        runtime.install(client, PYTHON)
        minimal, log = _minimal_function(task, directory / "minimal"), directory / "log"
        _first_response(task, client, log), _first_response(minimal, client, log)
        responses = [
            (_first_response(task, client, log), _first_response(minimal, client, log)) for _ in range(rounds)
        ]
        megabytes = archive.stat().st_size / 1e6
        cold = Spread.ratio(
            [complete[0] for complete, _ in responses], [minimal[0] for _, minimal in responses]
        )
        resident = max(complete[1] for complete, _ in responses)
        warm = _warm(directory, rounds)
    values = (
        (MAX_MEGABYTES, megabytes),
        (MAX_COLD, cold.median),
        (MAX_WARM, warm.median),
        (MAX_RESIDENT, resident),
    )
    targets = tuple(Target.maximum(bound, value) for bound, value in values)
    return ZipFigures(megabytes, cold, warm, resident, targets)


def _minimal_function(task: Path, folder: Path) -> Path:
    """Create a function that only signs, with the zip's own cryptography."""
    folder.mkdir()
    for name in ("cryptography", *[path.name for path in task.glob("_cffi_backend*")]):
        source = task / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)
    (folder / "function.py").write_text(MINIMAL_HANDLER)
    return folder


def _warm(directory: Path, rounds: int) -> Spread:
    """Compare the handler in this process, with its audit log discarded, with `authority.issue`."""
    os.environ |= {CA: str(directory / "ca"), CA_PASSPHRASE: PASSPHRASE, AUDIT_LOG: os.devnull}
    request = factories.issuance_request(csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])))
    authority = factories.authority(now=datetime.now(UTC))
    lambda_event = proxy_event(
        body=json.dumps({"csr": request.csr.decode(), "text": False}), isBase64Encoded=False
    )
    response = aws_lambda.handler(lambda_event, None)
    if response["statusCode"] != HTTPStatus.OK:
        raise BenchError(f"the handler does not sign: {response}")
    pairs = [
        (
            _microseconds(lambda: aws_lambda.handler(lambda_event, None)),
            _microseconds(lambda: authority.issue(request)),
        )
        for _ in range(rounds)
    ]
    return Spread.ratio([handler for handler, _ in pairs], [direct for _, direct in pairs])
