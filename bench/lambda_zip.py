"""Measure the zip: its size, its cold start, its imports, its warm time and its memory.

The cold start lasts from the process's start to its first signed certificate, under Lambda's own runtime
client; it is compared with a handler that only imports cryptography and signs. The warm time is the handler's
time per event, compared with `authority.issue`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from bench import imports
from bench.imports import Imports
from bench.load import BenchError
from bench.results import Spread, Target
from bench.settings import Settings
from bench.source import PRESENT, Source
from deploy import build
from service import aws_lambda
from service.settings import AUDIT_LOG, CA, CA_PASSPHRASE
from tests import csrs, factories
from tests.deploy import runtime
from tests.lambda_events import proxy_event

CALLS: Final = 300  # of the warm handler, per round
MAX_MEGABYTES: Final = 12
MAX_COLD: Final = 3  # times the cold start of the minimal handler
MAX_BASE: Final = 0.85  # times the cold start of the base
MAX_WARM: Final = 2.5  # times authority.issue
MAX_RESIDENT: Final = 100  # MB
PASSPHRASE: Final = "bench"  # noqa: S105 - of a temporary CA

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
class ColdStart:
    """Cold starts with one Python version.

    Attributes:
        python: the version.
        milliseconds: until the first signed certificate.
        ratio: relative to the minimal handler.
        target: the target of that.
        base_ratio, base_target: relative to the zip of the base, if there is one.
        resident: memory at the first response, in MB.
        resident_target: the target of that.
    """

    python: str
    milliseconds: Spread
    ratio: Spread
    target: Target
    base_ratio: Spread | None
    base_target: Target | None
    resident: float
    resident_target: Target


@dataclass(frozen=True)
class ZipFigures:
    """The figures of the zip.

    Attributes:
        megabytes: its size, for the first Python version.
        megabytes_target: the target of that.
        warm: the handler's time, without text, relative to `authority.issue`.
        warm_target: the target of that.
        cold_starts: for each Python version on this machine.
        imports: likewise.
        missing: the Python versions that are not on this machine.
    """

    megabytes: float
    megabytes_target: Target
    warm: Spread
    warm_target: Target
    cold_starts: tuple[ColdStart, ...]
    imports: tuple[Imports, ...]
    missing: tuple[str, ...]


class Function(NamedTuple):
    """An unpacked function, and what runs it."""

    task: Path
    interpreter: Path
    client: Path
    log: Path

    def first_response(self) -> tuple[float, float]:
        """Return the milliseconds until the first response, and the memory then, in MB."""
        start = time.monotonic()
        env = {CA_PASSPHRASE: PASSPHRASE}
        with runtime.run_function(self.task, self.interpreter, self.client, self.log, **env) as function:
            kind, response = function.invoke(proxy_event())
            seconds = time.monotonic() - start
            if kind != "response" or response["statusCode"] != HTTPStatus.OK:
                raise BenchError(f"the zip's response is not a success: {response} {self.log.read_text()}")
            return seconds * 1e3, function.resident_kib() * 1024 / 1e6


def measure(directory: Path, settings: Settings, base: Source | None) -> ZipFigures:
    """Build the zips, and measure them.

    Args:
        directory: for all files.
        settings: how much to measure.
        base: an earlier source, to compare cold starts with.

    Raises:
        BenchError: a zip cannot be built, or its function does not sign.
    """
    found = {version: build.interpreter(version) for version in settings.pythons}
    interpreters = {version: Path(path) for version, path in found.items() if path}
    if not interpreters:
        raise BenchError(f"none of the Pythons {', '.join(found)} is on this machine")
    sources = [PRESENT, *([base] if base else [])]
    for source in sources:
        ca = directory / f"ca-{source.name}"
        source.run("service.cli", "init", ca, cwd=directory, **{CA_PASSPHRASE: PASSPHRASE})
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        builds = [
            pool.submit(_build, directory, source, version) for version in interpreters for source in sources
        ]
        clients = [
            pool.submit(runtime.install, directory / f"client-{version}", version) for version in interpreters
        ]
        archives = [job.result() for job in builds]
        for job in clients:
            job.result()
    cold_starts, import_times = [], []
    for version, interpreter in interpreters.items():
        log, client = directory / "log", directory / f"client-{version}"
        tasks = [directory / f"task-{source.name}-{version}" for source in sources]
        tasks.insert(1, _minimal_function(tasks[0], directory / f"minimal-{version}"))
        functions = [Function(task, interpreter, client, log) for task in tasks]
        cold_starts.append(compare(functions, version, settings.zip_rounds))
        environ = {CA_PASSPHRASE: PASSPHRASE}
        import_times.append(imports.measure(tasks[0], version, interpreter, environ, settings.import_runs))
    megabytes, warm = archives[0].stat().st_size / 1e6, _warm(directory, settings.zip_rounds)
    return ZipFigures(
        megabytes,
        Target.maximum(MAX_MEGABYTES, megabytes),
        warm,
        Target.maximum(MAX_WARM, warm.median),
        tuple(cold_starts),
        tuple(import_times),
        tuple(version for version in found if version not in interpreters),
    )


def _build(directory: Path, source: Source, version: str) -> Path:
    """Build the zip of a source, unpack it, and return its path."""
    archive = directory / f"{source.name}-{version}.zip"
    ca = directory / f"ca-{source.name}"
    options = ["--arch", "x86_64", "--python", version, "--ca", str(ca), "--output", str(archive)]
    source.run("deploy.build", *options, cwd=directory, **{CA_PASSPHRASE: PASSPHRASE})
    with zipfile.ZipFile(archive) as file:
        file.extractall(directory / f"task-{source.name}-{version}")
    return archive


def compare(functions: Sequence[Function], version: str, rounds: int) -> ColdStart:
    """Start the zip's function, the minimal one, and that of the base if there is one, in turn."""
    for function in functions:
        function.first_response()
    responses = []
    for number in range(rounds):
        responses.append([function.first_response() for function in functions])
        sys.stderr.write(f"cold start, python{version}: round {number + 1} of {rounds}\n")
    present, minimal, *others = ([item[0] for item in column] for column in zip(*responses, strict=True))
    resident = max(response[0][1] for response in responses)
    ratio = Spread.ratio(present, minimal)
    base_ratio = Spread.ratio(present, others[0]) if others else None
    return ColdStart(
        version,
        Spread.of(present),
        ratio,
        Target.maximum(MAX_COLD, ratio.median),
        base_ratio,
        Target.maximum(MAX_BASE, base_ratio.median) if base_ratio else None,
        resident,
        Target.maximum(MAX_RESIDENT, resident),
    )


def _microseconds(call: Callable[[], object]) -> float:
    for _ in range(50):
        call()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


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
    os.environ |= {
        CA: str(directory / f"ca-{PRESENT.name}"),
        CA_PASSPHRASE: PASSPHRASE,
        AUDIT_LOG: os.devnull,
    }
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
