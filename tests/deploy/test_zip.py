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
from service.pki.hierarchy import SigningCA, create_hierarchy
from tests import oidc_issuer, servers
from tests.assertions import uuid7
from tests.deploy import runtime
from tests.lambda_events import authorized_event, authorizer_event, proxy_event
from tests.oidc_issuer import Issuer

CURRENT_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PASSPHRASE = "a passphrase of the zip's CA"  # noqa: S105
VERSIONS = [version for version in sorted({CURRENT_PYTHON, "3.13"}) if build.interpreter(version)]


def run_build(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "deploy.build", *arguments)
    return servers.run(*command, cwd=servers.ROOT, env=servers.environ(**env), check=False)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with encrypted keys."""
    directory = tmp_path_factory.mktemp("zip-ca")
    process = servers.certlet("init", "ca", cwd=directory, env={"CERTLET_CA_PASSPHRASE": PASSPHRASE})
    assert process.returncode == 0
    with (directory / "ca" / "revoked.yaml").open("a") as file:
        file.write("- {serial: '0a1b', at: 2026-01-01T00:00:00Z, reason: superseded}\n")
    return directory / "ca"


@pytest.fixture(scope="session", params=VERSIONS)
def unpacked_zip(
    request: pytest.FixtureRequest, ca: Path, tmp_path_factory: pytest.TempPathFactory
) -> UnpackedZip:
    """The unpacked zip for this machine, with a CA, for each available Python."""
    directory, python = tmp_path_factory.mktemp("zip"), str(request.param)
    archive = directory / "certlet.zip"
    arguments = ("--arch", "x86_64", "--python", python, "--ca", str(ca), "--output", str(archive))
    process = run_build(*arguments, CERTLET_CA_PASSPHRASE=PASSPHRASE)
    assert process.returncode == 0, process.stderr
    assert "holds no bytecode" not in process.stdout
    zipfile.ZipFile(archive).extractall(directory / "task")
    runtime.install(directory / "client", python)
    return UnpackedZip(python, archive, directory / "task", directory / "client")


@dataclass(frozen=True)
class UnpackedZip:
    """A zip, the folder of its contents, and the folder of the runtime client for its Python."""

    python: str
    archive: Path
    task: Path
    client: Path

    @contextlib.contextmanager
    def run_function(self, log: Path, **env: str) -> Iterator[runtime.Runtime]:
        interpreter = build.interpreter(self.python)
        assert interpreter
        with runtime.run_function(self.task, Path(interpreter), self.client, log, **env) as function:
            yield function


ENVIRONMENT = {"CERTLET_CA_PASSPHRASE": PASSPHRASE, "CERTLET_API_KEY_NAMES": '{"abc123": "ci"}'}


def test_zip_handles_requests_with_the_lambda_runtime(unpacked_zip: UnpackedZip, tmp_path: Path) -> None:
    """With AWS's runtime client, the zip signs, refuses, returns DER and 403, and replays a retry."""
    with unpacked_zip.run_function(tmp_path / "log", **ENVIRONMENT) as function:
        kind, response = function.invoke(proxy_event())
        assert (kind, response["statusCode"]) == ("response", 200)
        result = json.loads(response["body"])
        leaf = x509.load_pem_x509_certificate(result["crt_pem"].encode())
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(result["chain_pem"].encode()))
        assert result["crt_text"].startswith("Certificate:")
        invalid_request = proxy_event(body=base64.b64encode(b'{"csr":"x"}').decode())
        assert function.invoke(invalid_request)[1]["statusCode"] == 422
        _, der = function.invoke(proxy_event("/ca.crt", "GET"))
        assert der["isBase64Encoded"]
        assert x509.load_der_x509_certificate(base64.b64decode(der["body"]))
        _, crl = function.invoke(proxy_event("/ca.crl", "GET"))
        (revoked,) = x509.load_der_x509_crl(base64.b64decode(crl["body"]))
        assert revoked.serial_number == 0xA1B
        unauthenticated: dict[str, Any] = {"requestContext": {"requestId": "x", "identity": {}}}
        assert function.invoke(proxy_event(**unauthenticated))[1]["statusCode"] == 403
        assert function.invoke({"no": "event"})[1]["statusCode"] == 500
        assert function.invoke(proxy_event("/health", "GET"))[1]["statusCode"] == 200
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid7()}
        bodies = [function.invoke(proxy_event(headers=headers))[1]["body"] for _ in range(2)]
        assert bodies[0] == bodies[1]
        assert "idempotent_until" in bodies[0]
    assert '"principal":"ci"' in (tmp_path / "log").read_text()


def test_memory_is_stable_over_500_requests(unpacked_zip: UnpackedZip, tmp_path: Path) -> None:
    """After 500 requests, a process has at most 5% more memory than after 100."""
    with unpacked_zip.run_function(tmp_path / "log", **ENVIRONMENT) as function:
        for _ in range(100):
            assert function.invoke(proxy_event())[1]["statusCode"] == 200
        before = function.resident_kib()
        for _ in range(400):
            assert function.invoke(proxy_event())[1]["statusCode"] == 200
        after = function.resident_kib()
        print(f"resident KiB: {before} after 100 requests, {after} after 500")  # noqa: T201 - a measurement to report
        assert after < before * 1.05
        assert after < 100 * 1024


def test_memory_is_stable_over_batches(unpacked_zip: UnpackedZip, tmp_path: Path) -> None:
    """The results of a batch are in order; after 12 batches of 500, memory is at most 8 MiB larger than after 4.

    The allocator varies by some 3 MB; 8 leaked batches would take 14 MB.
    """
    request = json.loads(base64.b64decode(proxy_event()["body"]))
    body = base64.b64encode(json.dumps({"requests": [request, {"csr": "x"}, *[request] * 498]}).encode())
    batch = proxy_event("/sign/batch", body=body.decode())
    with unpacked_zip.run_function(tmp_path / "log", **ENVIRONMENT) as function:
        resident = []
        for _ in range(3):
            for _ in range(4):
                kind, response = function.invoke(batch)
                assert (kind, response["statusCode"]) == ("response", 200)
                kinds = [list(result) for result in json.loads(response["body"])["results"]]
                assert kinds == [["certificate"], ["problem"], *[["certificate"]] * 498]
            resident.append(function.resident_kib())
        print(f"resident KiB after 4, 8 and 12 batches of 500: {resident}")  # noqa: T201 - a measurement to report
        assert resident[2] - resident[0] < 8 * 1024
        assert resident[2] < 120 * 1024


@pytest.mark.parametrize("env", [{}, {"CERTLET_CA_PASSPHRASE": "a wrong secret"}])
def test_wrong_passphrase_is_an_init_error(
    unpacked_zip: UnpackedZip, tmp_path: Path, env: dict[str, str]
) -> None:
    """The init phase fails; its error names the setting, and neither error nor log contains a secret."""
    with unpacked_zip.run_function(tmp_path / "log", **env) as function:
        kind, error = function.outcomes.get(timeout=30)
        assert kind == "init error"
        assert "CERTLET_CA_PASSPHRASE" in error["errorMessage"]
    for secret in ("a wrong secret", PASSPHRASE, "PRIVATE KEY"):
        assert secret not in json.dumps(error) + (tmp_path / "log").read_text()


def test_zip_contains_only_imported_packages(unpacked_zip: UnpackedZip) -> None:
    """The zip contains no gateway, command line, tests, aiohttp or root key."""
    names = zipfile.ZipFile(unpacked_zip.archive).namelist()
    top_level = {name.partition("/")[0] for name in names}
    excluded = {"aiohttp", "boto3", "botocore", "airspeed", "tests", "deploy", "pycparser", "yarl"}
    assert not top_level & excluded
    assert {"requests", "urllib3", "yaml", "jinja2"} <= top_level  # Connexion imports these
    ca_files = [
        "ca-status.pem",
        "revoked.yaml",
        "root-ca.crt",
        "serial.key",
        "signing-ca.crt",
        "signing-ca.key",
    ]
    assert sorted(name for name in names if name.startswith("ca/")) == [f"ca/{name}" for name in ca_files]
    assert "service/openapi.json" in names
    assert not [name for name in names if name.startswith(("service/gateway", "service/cli"))]
    sources = {name for name in names if name.endswith(".py")}
    tag = f"cpython-{unpacked_zip.python.replace('.', '')}"
    bytecode = {name for name in names if name.endswith(f".{tag}.pyc")}
    assert len(bytecode) == len(sources)
    assert unpacked_zip.archive.stat().st_size < 12_000_000


@pytest.fixture
def slow_kms() -> Iterator[SlowKms]:
    """Run a KMS with a real key, which signs when the test allows it."""
    kms = SlowKms()
    with servers.http_server(kms.handler()) as kms.url:
        yield kms
        kms.signing_allowed.set()


class SlowKms:
    """A KMS with the operations GetPublicKey and Sign, as JSON 1.1 over HTTP."""

    url: str

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.signing_allowed = threading.Event()
        self.signing_allowed.set()
        self.sign_requested = threading.Event()

    def call(self, target: str, request: dict[str, Any]) -> dict[str, str]:
        if target == "TrentService.GetPublicKey":
            spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return {"PublicKey": base64.b64encode(spki).decode(), "KeyUsage": "SIGN_VERIFY"}
        assert (target, request["MessageType"]) == ("TrentService.Sign", "DIGEST")
        self.sign_requested.set()
        self.signing_allowed.wait(30)
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        signature = self.key.sign(base64.b64decode(request["Message"]), algorithm)
        return {"Signature": base64.b64encode(signature).decode()}

    def handler(kms) -> type[servers.QuietHandler]:  # noqa: N805 - the handler's methods have their own self
        class Handler(servers.QuietHandler):
            def respond(self) -> None:
                result = kms.call(self.headers["X-Amz-Target"], json.loads(self.body()))
                self.reply(200, json.dumps(result).encode())

        return Handler


@pytest.fixture
def kms_environment(slow_kms: SlowKms, tmp_path: Path) -> dict[str, str]:
    """The function's environment for a CA whose key is in `slow_kms`."""
    public_key = slow_kms.key.public_key()
    hierarchy = create_hierarchy("Test", "0a", "p-256", datetime.now(UTC), signing=SigningCA(public_key))
    ca_directory.save_hierarchy(tmp_path / "ca", hierarchy, None)
    return {
        "CERTLET_CA": str(tmp_path / "ca"),
        "CERTLET_CA_KEY": "kms:1234",
        "AWS_ENDPOINT_URL_KMS": slow_kms.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def audit_events(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if "event" in line]


@contextlib.contextmanager
def run_past_timeout(
    unpacked_zip: UnpackedZip, kms: SlowKms, log: Path, env: dict[str, str]
) -> Iterator[runtime.Runtime]:
    """Run a function whose caller has timed out, because KMS does not respond."""
    with unpacked_zip.run_function(log, **env) as function:
        assert function.invoke(proxy_event("/health", "GET"))[1]["statusCode"] == 200
        kms.sign_requested.clear()
        kms.signing_allowed.clear()
        with pytest.raises(queue.Empty):  # the integration's timeout: 504
            function.invoke(proxy_event(), timeout=0.5)
        assert kms.sign_requested.is_set()
        yield function


def test_certificate_of_a_504_is_in_the_audit_log(
    unpacked_zip: UnpackedZip, slow_kms: SlowKms, kms_environment: dict[str, str], tmp_path: Path
) -> None:
    """The function continues after API Gateway's timeout, and the audit log records the undelivered certificate."""
    log = tmp_path / "log"
    with run_past_timeout(unpacked_zip, slow_kms, log, kms_environment) as function:
        assert [line["event"] for line in audit_events(log)] == ["intent"]
        slow_kms.signing_allowed.set()
        _, response = function.outcomes.get(timeout=30)
        intent, result = audit_events(log)
    certificate = json.loads(response["body"])
    assert result["event"] == "result"
    assert result["fingerprint_sha256"] == certificate["fingerprint_sha256"]
    assert result["serial_number"] == intent["serial_number"] == certificate["serial_number"]


def test_function_killed_at_its_timeout_leaves_an_intent(
    unpacked_zip: UnpackedZip, slow_kms: SlowKms, kms_environment: dict[str, str], tmp_path: Path
) -> None:
    """If Lambda kills the function while KMS signs, the log has an intent without a result; the next start signs."""
    log = tmp_path / "log"
    with run_past_timeout(unpacked_zip, slow_kms, log, kms_environment) as function:
        function.process.kill()
    assert [line["event"] for line in audit_events(log)] == ["intent"]
    slow_kms.signing_allowed.set()
    with unpacked_zip.run_function(tmp_path / "next", **kms_environment) as function:
        assert function.invoke(proxy_event())[1]["statusCode"] == 200
    assert [line["event"] for line in audit_events(tmp_path / "next")] == ["intent", "result"]


def test_zip_is_reproducible(ca: Path, tmp_path: Path) -> None:
    """Two builds produce the same bytes; the target is arm64, which the other tests do not run."""
    digests = set()
    for name in ("a.zip", "b.zip"):
        process = run_build(
            "--ca", str(ca), "--output", str(tmp_path / name), CERTLET_CA_PASSPHRASE=PASSPHRASE
        )
        assert process.returncode == 0, process.stderr
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        libraries = [name for name in archive.namelist() if ".so" in Path(name).suffixes]
        assert len(libraries) >= 4
        for name in libraries:
            assert "cpython-313-aarch64" in name or "abi3" in name, name
            assert archive.read(name)[18:20] == b"\xb7\x00", name  # ELF e_machine: AArch64


def test_zip_without_ca_key_contains_certificates_and_lists(ca: Path, tmp_path: Path) -> None:
    """Without the CA key, the zip contains the certificates, the lists and the operator's profiles."""
    shutil.copytree(ca, tmp_path / "ca", ignore=shutil.ignore_patterns("*.key"))
    (tmp_path / "ca" / "denied-keys.txt").write_text(f"{'0' * 64}\n")
    (tmp_path / "ca" / "status-url.txt").write_text("http://ca.example.com\n")
    assert servers.certlet("acme", "add", "web", cwd=tmp_path).returncode == 0
    profiles = ("--profiles", str(servers.ROOT / "tests" / "policies.yaml"))
    process = run_build("--ca", str(tmp_path / "ca"), "--output", str(tmp_path / "x.zip"), *profiles)
    assert process.returncode == 0, process.stderr
    archive = zipfile.ZipFile(tmp_path / "x.zip")
    ca_files = [name for name in archive.namelist() if name.startswith("ca/")]
    acme = ("acme-principals.yaml", "acme.key")
    lists = (*acme, "ca-status.pem", "denied-keys.txt", "revoked.yaml", "root-ca.crt", "signing-ca.crt")
    assert ca_files == [f"ca/{name}" for name in (*lists, "status-url.txt")]
    document = json.loads(archive.read("service/openapi.json"))
    assert list(document["x-certificate-profiles"]) == ["server", "peer", "team", "secret"]
    (tmp_path / "bad.yaml").write_text("profiles: {server: {validity: x}}")
    process = run_build("--output", str(tmp_path / "y.zip"), "--profiles", str(tmp_path / "bad.yaml"))
    assert process.returncode == 1
    assert "profiles.server.validity" in process.stderr


def test_zip_contains_only_the_places_of_previous_keys(ca: Path, tmp_path: Path) -> None:
    """A key file stays out, with a warning; a place in AWS goes in; other text is refused."""
    env = {"CERTLET_CA_PASSPHRASE": PASSPHRASE}
    run = servers.certlet("rollover", ca, tmp_path / "new", cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr
    (key,) = (tmp_path / "new").glob("previous-ca-*.key")
    arguments = ("--ca", str(tmp_path / "new"), "--output", str(tmp_path / "x.zip"))
    for content, is_in_zip in ((key.read_text(), False), ("secretsmanager:certlet/previous\n", True)):
        key.write_text(content)
        process = run_build(*arguments, **env)
        assert process.returncode == 0, process.stderr
        assert (f"{key} is not in the zip" in process.stdout) is not is_in_zip
        assert (f"ca/{key.name}" in zipfile.ZipFile(tmp_path / "x.zip").namelist()) is is_in_zip
    key.write_text("garbage")
    process = run_build(*arguments, **env)
    assert process.returncode == 1
    assert "is not a private key in PEM, kms:KEY-ID or secretsmanager:NAME" in process.stderr


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with oidc_issuer.running(tmp_path) as issuer:
        yield issuer


def write_rule(issuer: Issuer, directory: Path, **change: Any) -> Path:
    """Write profiles with a rule for tokens of an issuer; return their file."""
    profiles = directory / "own.yaml"
    rule = {
        "issuer": issuer.url,
        "audience": oidc_issuer.AUDIENCE,
        "algorithms": ["RS256"],
        "claims": {"/sub": "workload"},
        "profiles": ["server"],
        "names": {"dns": {"permitted": ["example.com"]}},
        **change,
    }
    profiles.write_text(json.dumps({"identities": {"deploy": rule}}))
    return profiles


@pytest.mark.parametrize("source", ["file", "url"])
def test_zip_verifies_tokens_with_the_files_of_its_rules(
    ca: Path, issuer: Issuer, tmp_path: Path, source: str
) -> None:
    """With AWS's runtime client, a token is allowed, and its caller gets a certificate."""
    python = VERSIONS[-1]
    (tmp_path / "issuers").mkdir()
    (tmp_path / "issuers" / "keys.json").write_bytes(issuer.jwk_set())
    keys = (
        {"jwks_file": "issuers/keys.json"}
        if source == "file"
        else {"jwks_url": issuer.jwks_url, "ca_file": issuer.ca_file.name}
    )
    archive = tmp_path / "certlet.zip"
    arguments = ("--arch", "x86_64", "--python", python, "--ca", str(ca), "--output", str(archive))
    profiles = write_rule(issuer, tmp_path, **keys)
    process = run_build(*arguments, "--profiles", str(profiles), CERTLET_CA_PASSPHRASE=PASSPHRASE)
    assert process.returncode == 0, process.stderr
    zipfile.ZipFile(archive).extractall(tmp_path / "task")
    runtime.install(tmp_path / "client", python)
    unpacked = UnpackedZip(python, archive, tmp_path / "task", tmp_path / "client")
    shared = {"CERTLET_TOKEN_USAGE_KEY": "51af3dc0-da77-11e4-872e-1234567db123"}
    with unpacked.run_function(tmp_path / "log", **ENVIRONMENT, **shared) as function:
        event = authorizer_event("/sign", Authorization=f"Bearer {issuer.token()}")
        kind, result = function.invoke(event)
        assert (kind, result["principalId"]) == ("response", "oidc:deploy")
        assert function.invoke(authorized_event(result, proxy_event()))[1]["statusCode"] == 200
        event = authorizer_event("/sign", Authorization=f"Bearer {issuer.token({'sub': 'other'})}")
        _, result = function.invoke(event)
        assert result["policyDocument"]["Statement"][0]["Effect"] == "Deny"
    assert '"principal":"oidc:deploy"' in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("member", "name", "message"),
    [
        ("jwks_file", "{directory}/keys.json", " is not in the directory of the profiles: copy it there"),
        (
            "jwks_file",
            "../keys.json",
            "'../keys.json' is not in the directory of the profiles: copy it there",
        ),
        ("jwks_file", "a/../keys.json", "'a/../keys.json' is not in the directory of the profiles"),
        ("jwks_file", "missing.json", "missing.json"),
        ("jwks_file", "own.yaml", "rule deploy: 'own.yaml' is not a JWK Set with a usable key"),
        ("ca_file", "../issuer-ca.pem", "'../issuer-ca.pem' is not in the directory of the profiles"),
        ("ca_file", "own.yaml", "own.yaml cannot be read, or contains no certificate"),
    ],
)
def test_zip_refuses_unusable_files_of_rules(
    issuer: Issuer, tmp_path: Path, member: str, name: str, message: str
) -> None:
    """A file is in the directory of the profiles, and is what the function needs."""
    directory = tmp_path / "operator"
    directory.mkdir()
    for path in (tmp_path, directory):
        (path / "keys.json").write_bytes(issuer.jwk_set())
    keys = {} if member == "jwks_file" else {"jwks_url": issuer.jwks_url}
    profiles = write_rule(issuer, directory, **keys, **{member: name.format(directory=directory)})
    process = run_build("--profiles", str(profiles), "--output", str(tmp_path / "certlet.zip"))
    assert process.returncode == 1
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not (tmp_path / "certlet.zip").exists()


def test_zip_refuses_unsafe_ca_keys(ca: Path, tmp_path: Path) -> None:
    """The build refuses the root key, an unencrypted key, a wrong passphrase, and a directory without a CA."""
    with_root_key, unencrypted = tmp_path / "with-root-key", tmp_path / "unencrypted"
    shutil.copytree(ca, with_root_key)
    shutil.copyfile(ca / "root-ca.key", with_root_key / "signing-ca.key")
    assert servers.certlet("init", str(unencrypted), cwd=tmp_path).returncode == 0
    passphrase = {"CERTLET_CA_PASSPHRASE": PASSPHRASE}
    for directory, env, fragment in (
        (with_root_key, passphrase, "the root key"),
        (unencrypted, passphrase, "not encrypted"),
        (ca, {}, "only an encrypted CA key"),
        (ca, {"CERTLET_CA_PASSPHRASE": "wrong"}, "build: "),
        (tmp_path / "none", passphrase, "signing-ca.crt"),
    ):
        process = run_build("--ca", str(directory), "--output", str(tmp_path / "x.zip"), **env)
        assert process.returncode == 1
        assert fragment in process.stderr
        assert "Traceback" not in process.stderr
        assert not (tmp_path / "x.zip").exists()
