from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import queue
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deploy import build
from service.keystore import ca_directory
from service.pki.hierarchy import create_hierarchy
from tests import servers
from tests.assertions import uuid7
from tests.deploy import runtime
from tests.lambda_events import event

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PASSPHRASE = "a passphrase of the zip's CA"  # noqa: S105
VERSIONS = [version for version in sorted({HERE, "3.13"}) if build.interpreter(version)]


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "deploy.build", *arguments)
    return servers.run(*command, cwd=servers.ROOT, env=servers.environ(**env), check=False)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA whose keys are encrypted."""
    directory = tmp_path_factory.mktemp("zip-ca")
    made = servers.certlet("init", "ca", cwd=directory, env={"CERTLET_CA_PASSPHRASE": PASSPHRASE})
    assert made.returncode == 0
    with (directory / "ca" / "revoked.yaml").open("a") as revoked:
        revoked.write("- {serial: '0a1b', at: 2026-01-01T00:00:00Z, reason: superseded}\n")
    return directory / "ca"


@pytest.fixture(scope="session", params=VERSIONS)
def zipped(request: pytest.FixtureRequest, ca: Path, tmp_path_factory: pytest.TempPathFactory) -> Zipped:
    """The zip for this machine, with a CA in it, unpacked as Lambda unpacks it; for each Python here."""
    directory, python = tmp_path_factory.mktemp("zip"), str(request.param)
    archive = directory / "certlet.zip"
    arguments = ("--arch", "x86_64", "--python", python, "--ca", str(ca), "--output", str(archive))
    made = make(*arguments, CERTLET_CA_PASSPHRASE=PASSPHRASE)
    assert made.returncode == 0, made.stderr
    assert "no bytecode" not in made.stdout
    zipfile.ZipFile(archive).extractall(directory / "task")
    runtime.install(directory / "client", python)
    return Zipped(python, archive, directory / "task", directory / "client")


@dataclass(frozen=True)
class Zipped:
    """A zip, where it is unpacked, and the runtime client for its Python."""

    python: str
    archive: Path
    task: Path
    client: Path

    @contextlib.contextmanager
    def running(self, log: Path, **env: str) -> Iterator[runtime.Runtime]:
        interpreter = build.interpreter(self.python)
        assert interpreter
        with runtime.running(self.task, Path(interpreter), self.client, log, **env) as function:
            yield function


OPEN = {"CERTLET_CA_PASSPHRASE": PASSPHRASE, "CERTLET_API_KEY_NAMES": '{"abc123": "ci"}'}


def test_the_zip_signs_refuses_and_answers_in_binary(zipped: Zipped, tmp_path: Path) -> None:
    """The very zip that ships, under Lambda's own runtime client: signed, refused, DER, 403."""
    with zipped.running(tmp_path / "log", **OPEN) as function:
        kind, signed = function.invoke(event())
        assert (kind, signed["statusCode"]) == ("response", 200)
        answer = json.loads(signed["body"])
        leaf = x509.load_pem_x509_certificate(answer["crt_pem"].encode())
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(answer["chain_pem"].encode()))
        assert answer["crt_text"].startswith("Certificate:")
        refused = event(body=base64.b64encode(b'{"csr":"x"}').decode())
        assert function.invoke(refused)[1]["statusCode"] == 422
        _, der = function.invoke(event("/ca.crt", "GET"))
        assert der["isBase64Encoded"]
        assert x509.load_der_x509_certificate(base64.b64decode(der["body"]))
        _, crl = function.invoke(event("/ca.crl", "GET"))
        (revoked,) = x509.load_der_x509_crl(base64.b64decode(crl["body"]))
        assert revoked.serial_number == 0xA1B
        nobody: dict[str, Any] = {"requestContext": {"requestId": "x", "identity": {}}}
        assert function.invoke(event(**nobody))[1]["statusCode"] == 403
        assert function.invoke({"no": "event"})[0] == "error"
        assert function.invoke(event("/health", "GET"))[1]["statusCode"] == 200
        retried = {"Content-Type": "application/json", "Idempotency-Key": uuid7()}
        again = [function.invoke(event(headers=retried))[1]["body"] for _ in range(2)]
        assert again[0] == again[1]
        assert "idempotent_until" in again[0]
    assert '"principal":"ci"' in (tmp_path / "log").read_text()


def test_five_hundred_requests_leave_memory_flat(zipped: Zipped, tmp_path: Path) -> None:
    """One process answers 500 requests in the memory that it had after 100."""
    with zipped.running(tmp_path / "log", **OPEN) as function:
        for _ in range(100):
            assert function.invoke(event())[1]["statusCode"] == 200
        before = function.resident()
        for _ in range(400):
            assert function.invoke(event())[1]["statusCode"] == 200
        after = function.resident()
        print(f"resident KiB: {before} after 100 requests, {after} after 500")  # noqa: T201 - a figure to see
        assert after < before * 1.05
        assert after < 100 * 1024


def test_batches_leave_memory_flat(zipped: Zipped, tmp_path: Path) -> None:
    """The zip answers a batch in order, and eight more of 500 take no more memory than four.

    The allocator moves by some 3 MB; eight batches that were kept alive would be 14.
    """
    order = json.loads(base64.b64decode(event()["body"]))
    body = base64.b64encode(json.dumps({"requests": [order, {"csr": "x"}, *[order] * 498]}).encode())
    batch = event("/sign/batch", body=body.decode())
    with zipped.running(tmp_path / "log", **OPEN) as function:
        resident = []
        for _ in range(3):
            for _ in range(4):
                kind, answer = function.invoke(batch)
                assert (kind, answer["statusCode"]) == ("response", 200)
                found = [list(each) for each in json.loads(answer["body"])["results"]]
                assert found == [["certificate"], ["problem"], *[["certificate"]] * 498]
            resident.append(function.resident())
        print(f"resident KiB after 4, 8 and 12 batches of 500: {resident}")  # noqa: T201 - a figure to see
        assert resident[2] - resident[0] < 8 * 1024
        assert resident[2] < 120 * 1024


@pytest.mark.parametrize("env", [{}, {"CERTLET_CA_PASSPHRASE": "a wrong secret"}])
def test_a_ca_that_does_not_open_is_an_init_error(
    zipped: Zipped, tmp_path: Path, env: dict[str, str]
) -> None:
    """The init phase fails with a clear word in the log, and with no secret in it."""
    with zipped.running(tmp_path / "log", **env) as function:
        kind, error = function.outcomes.get(timeout=30)
        assert kind == "init error"
        assert "CERTLET_CA_PASSPHRASE" in error["errorMessage"]
    for secret in ("a wrong secret", PASSPHRASE, "PRIVATE KEY"):
        assert secret not in json.dumps(error) + (tmp_path / "log").read_text()


def test_what_is_in_the_zip(zipped: Zipped) -> None:
    """Only what the function imports: no gateway, no command line, no tests, no aiohttp, no root key."""
    names = zipfile.ZipFile(zipped.archive).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {"aiohttp", "boto3", "botocore", "airspeed", "tests", "deploy", "pycparser", "yarl"}
    assert {"requests", "urllib3", "yaml", "jinja2"} <= tops  # what Connexion imports, as it is published
    held = ["revoked.yaml", "root-ca.crt", "serial.key", "signing-ca.crt", "signing-ca.key"]
    assert sorted(name for name in names if name.startswith("ca/")) == [f"ca/{name}" for name in held]
    assert "service/openapi.json" in names
    assert not [name for name in names if name.startswith(("service/gateway", "service/cli"))]
    sources = {name for name in names if name.endswith(".py")}
    tag = f"cpython-{zipped.python.replace('.', '')}"
    compiled = {name for name in names if name.endswith(f".{tag}.pyc")}
    assert len(compiled) == len(sources)
    assert zipped.archive.stat().st_size < 12_000_000


@pytest.fixture
def slow_kms() -> Iterator[SlowKms]:
    """A KMS on a socket, which holds a real key and signs when it is let."""
    kms = SlowKms()
    with servers.http_server(kms.handler()) as kms.url:
        yield kms
        kms.may_sign.set()


class SlowKms:
    """Two of KMS's calls, as JSON 1.1 over HTTP."""

    url: str

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.may_sign = threading.Event()
        self.may_sign.set()
        self.asked = threading.Event()

    def call(self, target: str, asked: dict[str, Any]) -> dict[str, str]:
        if target == "TrentService.GetPublicKey":
            spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return {"PublicKey": base64.b64encode(spki).decode(), "KeyUsage": "SIGN_VERIFY"}
        assert (target, asked["MessageType"]) == ("TrentService.Sign", "DIGEST")
        self.asked.set()
        self.may_sign.wait(30)
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        signature = self.key.sign(base64.b64decode(asked["Message"]), algorithm)
        return {"Signature": base64.b64encode(signature).decode()}

    def handler(kms) -> type[servers.QuietHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(servers.QuietHandler):
            def respond(self) -> None:
                called = kms.call(self.headers["X-Amz-Target"], json.loads(self.body()))
                self.answer(200, json.dumps(called).encode())

        return Handler


@pytest.fixture
def remote(slow_kms: SlowKms, tmp_path: Path) -> dict[str, str]:
    """The function's environment for a CA whose key is in `slow_kms`."""
    public_key = slow_kms.key.public_key()
    made = create_hierarchy("Test", "0a", "p-256", datetime.now(UTC), signing_public_key=public_key)
    ca_directory.save(tmp_path / "ca", made, None)
    return {
        "CERTLET_CA": str(tmp_path / "ca"),
        "CERTLET_CA_KEY": "kms:1234",
        "AWS_ENDPOINT_URL_KMS": slow_kms.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def audited(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if "event" in line]


@contextlib.contextmanager
def timed_out(zipped: Zipped, kms: SlowKms, log: Path, env: dict[str, str]) -> Iterator[runtime.Runtime]:
    """A function that nobody waits for any more, since KMS does not answer it."""
    with zipped.running(log, **env) as function:
        assert function.invoke(event("/health", "GET"))[1]["statusCode"] == 200
        kms.asked.clear()
        kms.may_sign.clear()
        with pytest.raises(queue.Empty):  # the integration's time-out: 504
            function.invoke(event(), timeout=0.5)
        assert kms.asked.is_set()
        yield function


def test_after_a_504_the_audit_log_shows_the_certificate(
    zipped: Zipped, slow_kms: SlowKms, remote: dict[str, str], tmp_path: Path
) -> None:
    """API Gateway stops waiting, the function goes on: what nobody received stands in the audit log."""
    log = tmp_path / "log"
    with timed_out(zipped, slow_kms, log, remote) as function:
        assert [line["event"] for line in audited(log)] == ["intent"]
        slow_kms.may_sign.set()
        _, late = function.outcomes.get(timeout=30)
        intent, result = audited(log)
    issued = json.loads(late["body"])
    assert result["event"] == "result"
    assert result["fingerprint_sha256"] == issued["fingerprint_sha256"]
    assert result["serial_number"] == intent["serial_number"] == issued["serial_number"]


def test_a_function_that_lambda_ends_at_its_time_out(
    zipped: Zipped, slow_kms: SlowKms, remote: dict[str, str], tmp_path: Path
) -> None:
    """Lambda kills it while KMS signs: an intent without a result, which counts as issued; the next start signs."""
    log = tmp_path / "log"
    with timed_out(zipped, slow_kms, log, remote) as function:
        function.process.kill()
    assert [line["event"] for line in audited(log)] == ["intent"]
    slow_kms.may_sign.set()
    with zipped.running(tmp_path / "again", **remote) as function:
        assert function.invoke(event())[1]["statusCode"] == 200
    assert [line["event"] for line in audited(tmp_path / "again")] == ["intent", "result"]


def test_built_twice_it_is_the_same(ca: Path, tmp_path: Path) -> None:
    """The zip is the same, octet for octet, when it is built again; the arm64 one too, which was not run."""
    digests = set()
    for name in ("a.zip", "b.zip"):
        made = make("--ca", str(ca), "--output", str(tmp_path / name), CERTLET_CA_PASSPHRASE=PASSPHRASE)
        assert made.returncode == 0, made.stderr
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        libraries = [name for name in archive.namelist() if ".so" in Path(name).suffixes]
        assert len(libraries) >= 4
        for name in libraries:
            assert "cpython-313-aarch64" in name or "abi3" in name, name
            assert archive.read(name)[18:20] == b"\xb7\x00", name  # ELF e_machine: AArch64


def test_a_ca_whose_key_is_elsewhere_ships_its_certificates(ca: Path, tmp_path: Path) -> None:
    """With the key in KMS or Secrets Manager the zip holds the certificates, the lists, and own profiles."""
    shutil.copytree(ca, tmp_path / "ca", ignore=shutil.ignore_patterns("*.key"))
    (tmp_path / "ca" / "denied-keys.txt").write_text(f"{'0' * 64}\n")
    own = ("--profiles", str(servers.ROOT / "tests" / "policies.yaml"))
    made = make("--ca", str(tmp_path / "ca"), "--output", str(tmp_path / "x.zip"), *own)
    assert made.returncode == 0, made.stderr
    archive = zipfile.ZipFile(tmp_path / "x.zip")
    held = [name for name in archive.namelist() if name.startswith("ca/")]
    assert held == ["ca/denied-keys.txt", "ca/revoked.yaml", "ca/root-ca.crt", "ca/signing-ca.crt"]
    document = json.loads(archive.read("service/openapi.json"))
    assert list(document["x-certificate-profiles"]) == ["server", "peer", "team", "secret"]
    (tmp_path / "bad.yaml").write_text("profiles: {server: {validity: x}}")
    refused = make("--output", str(tmp_path / "y.zip"), "--profiles", str(tmp_path / "bad.yaml"))
    assert refused.returncode == 1
    assert "profiles.server.validity" in refused.stderr


def test_a_ca_that_must_not_be_shipped_is_refused(ca: Path, tmp_path: Path) -> None:
    """The root's key, an open key, and a key without its passphrase do not get into a zip."""
    rooted, opened = tmp_path / "rooted", tmp_path / "opened"
    shutil.copytree(ca, rooted)
    shutil.copyfile(ca / "root-ca.key", rooted / "signing-ca.key")
    assert servers.certlet("init", str(opened), cwd=tmp_path).returncode == 0
    secret = {"CERTLET_CA_PASSPHRASE": PASSPHRASE}
    for directory, env, word in (
        (rooted, secret, "the root's key"),
        (opened, secret, "not encrypted"),
        (ca, {}, "encrypted alone"),
        (ca, {"CERTLET_CA_PASSPHRASE": "wrong"}, "build: "),
        (tmp_path / "none", secret, "signing-ca.crt"),
    ):
        made = make("--ca", str(directory), "--output", str(tmp_path / "x.zip"), **env)
        assert made.returncode == 1
        assert word in made.stderr
        assert "Traceback" not in made.stderr
        assert not (tmp_path / "x.zip").exists()
