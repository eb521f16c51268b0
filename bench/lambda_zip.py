"""The zip: its size, its cold start, its warm time and its memory.

Cold start is from the process's start to its first signed certificate, under Lambda's own runtime client,
against the same with a handler that only imports cryptography and signs with it. Warm is the handler's
time for one event against `authority.issue` alone.
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

from bench.figures import Spread, Target
from bench.load import BenchError
from deploy import build
from service import aws_lambda
from service.settings import AUDIT_LOG, CA, CA_PASSPHRASE
from tests import csrs, factories, servers
from tests.deploy import runtime
from tests.lambda_events import event

CALLS: Final = 300  # of the warm handler, in a round
MAX_MEGABYTES: Final = 12
MAX_COLD: Final = 3  # times cryptography alone
MAX_WARM: Final = 2.5  # times authority.issue
MAX_RESIDENT: Final = 100  # MB
PASSPHRASE: Final = "bench"  # noqa: S105 - of a CA that ends with the run
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

BARE: Final = """
from datetime import datetime, timezone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

key = ec.generate_private_key(ec.SECP256R1())

def handler(event, context):
    now, nobody = datetime.now(timezone.utc), x509.Name([])
    builder = x509.CertificateBuilder(nobody, nobody, key.public_key(), 1, now, now)
    return {"statusCode": 200, "body": builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()}
"""


@dataclass(frozen=True)
class ZipFigures:
    """All of the zip's.

    Attributes:
        megabytes: its size.
        cold: start to the first certificate, against cryptography alone.
        warm: the handler, without text, against `authority.issue`.
        resident: MB of memory at the first answer.
        targets: of the four, in this order.
    """

    megabytes: float
    cold: Spread
    warm: Spread
    resident: float
    targets: tuple[Target, ...]


def _first_answer(task: Path, client: Path, log: Path) -> tuple[float, float]:
    """Seconds to the first answer, and MB of memory then."""
    began = time.monotonic()
    env = {CA_PASSPHRASE: PASSPHRASE}
    with runtime.running(task, Path(sys.executable), client, log, **env) as function:
        kind, answer = function.invoke(event())
        took = time.monotonic() - began
        if kind != "response" or answer["statusCode"] != HTTPStatus.OK:
            raise BenchError(f"the zip does not answer: {answer} {log.read_text()}")
        return took, function.resident() * 1024 / 1e6


def _microseconds(call: Callable[[], object]) -> float:
    for _ in range(50):
        call()
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS * 1e6


def measure(rounds: int) -> ZipFigures:
    """Build the zip, and measure it.

    Raises:
        BenchError: it does not sign.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        made = servers.certlet("init", "ca", cwd=directory, env={CA_PASSPHRASE: PASSPHRASE})
        if made.returncode:
            raise BenchError(made.stderr.decode())
        archive, task, client = directory / "certlet.zip", directory / "task", directory / "client"
        build.build("x86_64", PYTHON, archive, directory / "ca", PASSPHRASE.encode())
        zipfile.ZipFile(archive).extractall(task)
        runtime.install(client, PYTHON)
        bare, log = _bare(task, directory / "bare"), directory / "log"
        _first_answer(task, client, log), _first_answer(bare, client, log)
        answers = [
            (_first_answer(task, client, log), _first_answer(bare, client, log)) for _ in range(rounds)
        ]
        megabytes = archive.stat().st_size / 1e6
        cold = Spread.ratio([ours[0] for ours, _ in answers], [floor[0] for _, floor in answers])
        resident = max(ours[1] for ours, _ in answers)
        warm = _warm(directory, rounds)
    reached = (
        (MAX_MEGABYTES, megabytes),
        (MAX_COLD, cold.median),
        (MAX_WARM, warm.median),
        (MAX_RESIDENT, resident),
    )
    targets = tuple(Target(bound, value <= bound, at_most=True) for bound, value in reached)
    return ZipFigures(megabytes, cold, warm, resident, targets)


def _bare(task: Path, bare: Path) -> Path:
    """A function that does nothing but sign, with the zip's own cryptography."""
    bare.mkdir()
    for name in ("cryptography", *[path.name for path in task.glob("_cffi_backend*")]):
        source = task / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, bare / name)
    (bare / "function.py").write_text(BARE)
    return bare


def _warm(directory: Path, rounds: int) -> Spread:
    """The handler in this process, its audit log thrown away, against the story alone."""
    os.environ |= {CA: str(directory / "ca"), CA_PASSPHRASE: PASSPHRASE, AUDIT_LOG: os.devnull}
    order = factories.issuance_request(csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])))
    authority = factories.authority(now=datetime.now(UTC))
    asked = event(body=json.dumps({"csr": order.csr.decode(), "text": False}), isBase64Encoded=False)
    answer = aws_lambda.handler(asked, None)
    if answer["statusCode"] != HTTPStatus.OK:
        raise BenchError(f"the handler does not sign: {answer}")
    pairs = [
        (
            _microseconds(lambda: aws_lambda.handler(asked, None)),
            _microseconds(lambda: authority.issue(order)),
        )
        for _ in range(rounds)
    ]
    return Spread.ratio([handler for handler, _ in pairs], [alone for _, alone in pairs])
