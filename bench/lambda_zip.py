"""The zip: its size, its cold start, its warm time and its memory. `make bench`.

Cold start is from the process's start to its first signed certificate, under Lambda's own runtime client,
against the same with a handler that only imports cryptography and signs with it. Warm is the handler's
time for one event against `authority.issue` alone.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from deploy import build
from service import aws_lambda
from tests import authorities, csrs
from tests.deploy import runtime
from tests.test_lambda import event

ROUNDS: Final = 15
CALLS: Final = 300
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


def _first_answer(task: Path, client: Path, log: Path) -> tuple[float, int]:
    """Seconds to the first answer, and KiB of memory then."""
    began = time.monotonic()
    env = {"CERTLET_CA_PASSPHRASE": PASSPHRASE}
    with runtime.running(task, Path(sys.executable), client, log, **env) as function:
        kind, answer = function.invoke(event())
        took = time.monotonic() - began
        assert kind == "response", log.read_text()  # noqa: S101 - a bench that measured an error is none
        assert answer["statusCode"] == 200, answer  # noqa: S101, PLR2004
        return took, function.resident()


def _microseconds(call: Callable[[], object]) -> float:
    for _ in range(50):
        call()
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> int:
    """Measure, and print ratios with their spread."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "service.cli", "init", str(directory / "ca")],
            check=True,
            capture_output=True,
            env={**os.environ, "CERTLET_CA_PASSPHRASE": PASSPHRASE},
        )
        archive = directory / "certlet.zip"
        build.build("x86_64", PYTHON, archive, directory / "ca", PASSPHRASE.encode())
        task, bare, client = directory / "task", directory / "bare", directory / "client"
        zipfile.ZipFile(archive).extractall(task)
        bare.mkdir()
        for name in ("cryptography", *[path.name for path in task.glob("_cffi_backend*")]):
            source = task / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, bare / name)
        (bare / "function.py").write_text(BARE)
        runtime.install(client, PYTHON)
        _first_answer(task, client, directory / "log"), _first_answer(bare, client, directory / "log")
        rounds = [
            (_first_answer(task, client, directory / "log"), _first_answer(bare, client, directory / "log"))
            for _ in range(ROUNDS)
        ]
        ratios = sorted(ours[0] / floor[0] for ours, floor in rounds)
        print(f"zip size              {archive.stat().st_size / 1e6:6.2f} MB           target 12")
        print(
            f"cold start            {statistics.median(ratios):6.2f} x cryptography alone  ({ratios[0]:.2f} to {ratios[-1]:.2f})  target 3"
        )
        print(
            f"memory at first answer{max(ours[1] for ours, _ in rounds) / 1024:6.0f} MB           target 100"
        )
        os.environ.update(CERTLET_CA=str(directory / "ca"), CERTLET_CA_PASSPHRASE=PASSPHRASE)
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the audit log of the handler
        order = authorities.order(csrs.pem(csrs.build(sans=["dns:a.example.com"])))
        authority = authorities.authority(now=datetime.now(UTC))
        asked = event(body=json.dumps({"csr": order.csr.decode(), "text": False}), isBase64Encoded=False)
        pairs = [
            (
                _microseconds(lambda: aws_lambda.handler(asked, None)),
                _microseconds(lambda: authority.issue(order)),
            )
            for _ in range(ROUNDS)
        ]
        warm = sorted(handler / alone for handler, alone in pairs)
        print(
            f"warm handler          {statistics.median(warm):6.2f} x authority.issue     ({warm[0]:.2f} to {warm[-1]:.2f})  target 2.5"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
