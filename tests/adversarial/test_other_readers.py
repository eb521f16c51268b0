"""Law: what `csr.read` reads leniently is what OpenSSL and Go read, and at least one of them or GnuTLS reads it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from service.pki import csr, pem
from service.pki.csr import CertificateSigningRequest
from service.pki.errors import RequestError
from tests import other_readers, servers
from tests.adversarial import der, request_strategies
from tests.adversarial.test_csr_programs import run
from tests.adversarial.third_party_csrs import CASES, read_csr
from tests.pki import test_lenient_csr

READ: Final = Path(__file__).parent / "read_csrs.go"
REQUESTS: Final = int(os.environ.get("ADVERSARIAL_REQUESTS", "3000")) // 3
SEED: Final = int(os.environ.get("ADVERSARIAL_SEED", "0"))
KEY_TYPES: Final = ("p-256", "p-384", "rsa-2048", "ed25519")
_ISO_8859_1: Final = "which is read as ISO 8859-1"  # Go 1.19 does not decode it


def mutations(count: int) -> Iterator[bytes]:
    """Yield CSRs with changed values, lengths, tags or octets, signed again with their key."""
    rng = Random(SEED)  # noqa: S311 - reproducible
    accepted = [row[0] for row in test_lenient_csr.ACCEPTED.values()]
    for number in range(count // 2):
        key_type = rng.choice(KEY_TYPES)
        info, algorithm = _parts(rng.choice(accepted))
        for spki in map(request_strategies.spki, KEY_TYPES):
            info = info.replace(spki, request_strategies.spki(key_type))
        mutate = request_strategies.mutate if number % 3 else request_strategies.mutate_bytes
        mutated = mutate(rng, info)
        own_algorithm, signature = request_strategies.sign(key_type, 0, mutated)
        yield request_strategies.assemble_csr(
            mutated, algorithm if own_algorithm[2:9] in algorithm else own_algorithm, signature
        )
    yield from other_readers.mutations(count // 2, SEED)


def _parts(request: bytes) -> tuple[bytes, bytes]:
    info, algorithm, _ = der.split(der.content(request))
    return der.parse(info)[0].encode(), algorithm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and mutations of it."""
    folder = tmp_path_factory.mktemp("csrs")
    tables = [row[0] for row in test_lenient_csr.ACCEPTED.values()]
    third_party = [pem.parse(read_csr(path, row))[0].der or b"" for path, row in CASES]
    requests = (*other_readers.corpus(), *third_party, *tables, *mutations(REQUESTS))
    for number, request in enumerate(requests):
        (folder / f"{number:06}").write_bytes(request)
    return folder


@pytest.fixture(scope="module")
def go_readings(folder: Path) -> dict[str, Any]:
    """What Go reads, by file."""
    home = folder.parent
    output = run(home, "go", "run", str(READ), str(folder), GO111MODULE="off", GOCACHE=str(home / "cache"))
    return {reading["File"]: reading for reading in map(json.loads, output.splitlines())}


def is_read_by_gnutls(path: Path) -> bool:
    """Whether GnuTLS reads a CSR and verifies its signature."""
    command = ("certtool", "--crq-info", "--inder", "--infile", path)
    process = subprocess.run(command, capture_output=True, timeout=60, check=False, env=servers.environ())
    return process.returncode == 0 and b"Self signature: verified" in process.stdout


def compare_with_go(request: CertificateSigningRequest, reading: Any, *, is_compared: bool) -> None:
    """Assert that Go reads the same subject, names and key.

    Go ignores attributes whose lengths are not minimal, and does not decode VisibleString (nil). `is_compared`
    says whether OpenSSL reads the same names, if they can be compared.
    """
    assert base64.b64decode(reading["PublicKey"]) == request.subject_public_key_info
    if not any(_ISO_8859_1 in note for note in request.notes):
        theirs = Counter((oid, text) for oid, text in reading["Subject"] if text != "<nil>")
        assert theirs <= Counter((oid.dotted_string, text) for oid, text in request.subject)
        assert len(reading["Subject"]) == len(request.subject)
    names = [name for name in request.names if name.partition(":")[0] in ("dns", "ip", "email", "uri")]
    assert sorted(reading["Names"]) == sorted(names) or (is_compared and not reading["Names"])


def test_lenient_reading_is_that_of_other_programs(folder: Path, go_readings: dict[str, Any]) -> None:
    """The subject, names and key are equal; what no other program reads is refused."""
    outcomes: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        octets, reading = path.read_bytes(), go_readings.get(path.name)
        outcome = other_readers.compare(octets)
        try:
            request = csr.parse(octets)
        except RequestError:
            outcomes[outcome] += 1
            continue
        if reading:
            is_compared = outcome in ("read", "read leniently") or not other_readers.is_comparable(request)
            compare_with_go(request, reading, is_compared=is_compared)
            outcomes["compared with Go"] += 1
        elif request.notes and outcome == "not compared":
            assert other_readers.read_with_openssl(octets) or is_read_by_gnutls(path), path
        outcomes[outcome] += 1
    assert outcomes["read leniently"] >= REQUESTS // 10, outcomes
    assert outcomes["compared with Go"] >= REQUESTS // 10, outcomes
