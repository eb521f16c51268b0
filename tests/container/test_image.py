"""The page "Containers", followed as it is written, and the properties of the image and its manifests."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests import csrs, pages, servers
from tests.container.engine import POD, Engine
from tests.servers import ROOT, HttpService

PAGE = pages.read("container")
DOCKERFILE = (ROOT / "deploy/container/Dockerfile").read_text()
COMPOSE = ROOT / "deploy/container/compose.yaml"
MANIFEST = ROOT / "deploy/kubernetes/certlet.yaml"
IMAGE = "certlet:0.1.0"
HEALTH = json.loads(re.findall(r"^HEALTHCHECK .* CMD (.*)", DOCKERFILE, re.MULTILINE)[0])
MAX_BYTES = 120_000_000
# proc(5): the effective and bounding capabilities, no_new_privs, and a seccomp filter.
STATUS = {"Uid": "10001", "Gid": "10001", "CapEff": "0000000000000000", "CapBnd": "0000000000000000"}
RESTRICTED = {**STATUS, "NoNewPrivs": "1", "Seccomp": "2"}


def follow(engine: Engine, heading: str, cwd: Path, **env: str) -> None:
    """Run the commands of a section of the page, with the documented output."""
    tools = engine.directory / "bin"
    engine.create_programs(tools)
    environ = engine.environ() | {"PATH": f"{tools}:{engine.environ()['PATH']}", **env}
    pages.follow(pages.section(PAGE, heading), cwd, environ, {"/somewhere/safe": str(cwd / "safe")})


@pytest.fixture(scope="session", autouse=True)
def image(engine: Engine) -> str:
    """The image, as the page builds it."""
    follow(engine, "Build the image", ROOT)
    return IMAGE


@pytest.fixture(autouse=True)
def _containers(engine: Engine) -> Iterator[None]:
    yield
    engine.clear()


def verify_isolation(engine: Engine, container: str, volume: str) -> None:
    """Verify what the server's first process may do."""
    lines = engine.podman("exec", container, "cat", "/proc/1/status").stdout.splitlines()
    status = {name: value.split()[0] for name, _, value in (line.partition(":\t") for line in lines) if value}
    assert {name: status[name] for name in RESTRICTED} == RESTRICTED
    for path in ("/file", "/opt/certlet/file", "/ca/file", f"{volume}/file", "/tmp/file"):  # noqa: S108 - in the container
        result = engine.podman("exec", container, "touch", path, check=False)
        is_writable = path.startswith((volume, "/tmp"))  # noqa: S108 - in the container
        assert (result.returncode == 0) == is_writable, (path, result.stderr)
        assert is_writable or "Read-only file system" in result.stderr
    log = engine.podman("logs", container)
    assert (
        "Warning" not in log.stdout + log.stderr
    )  # such as a missing sandbox, or a secret that others can read


def test_image_is_small_and_has_no_package_manager(engine: Engine, tmp_path: Path) -> None:
    engine.podman("push", "--quiet", IMAGE, f"oci:{tmp_path}")
    layers = [path.stat().st_size for path in (tmp_path / "blobs/sha256").iterdir()]
    assert sum(layers) < MAX_BYTES, layers
    (inspected,) = json.loads(engine.podman("image", "inspect", IMAGE).stdout)
    assert inspected["Config"]["User"] == "10001:10001"
    assert "Volumes" not in inspected["Config"]  # a forgotten mount is an error, not an anonymous volume
    script = (
        "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'boto3') if u.find_spec(n)])"
    )
    run = ("run", "--rm", "--network=none", "--entrypoint=/opt/certlet/bin/python3", IMAGE, "-c", script)
    assert engine.podman(*run).stdout == "[]\n"


def test_compose_is_followed_as_written(engine: Engine, tmp_path: Path) -> None:
    """A certificate is signed, SIGTERM ends the server at once, and a lost ledger is not created again."""
    ports = servers.free_port(), servers.free_port()
    text = COMPOSE.read_text()
    for port, published in zip(ports, ("443:8443", "80:8080"), strict=True):
        assert f'"{published}"' in text
        text = text.replace(f'"{published}"', f'"127.0.0.1:{port}:{published.partition(":")[2]}"')
    (tmp_path / "compose.yaml").write_text(text)
    (tmp_path / ".curlrc").write_text(f"connect-to = ca.example.com:443:127.0.0.1:{ports[0]}\n")
    follow(engine, "Create the CA and the ledger", tmp_path)
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "root-ca.key").read_bytes()
    follow(engine, "Run it with Compose", tmp_path, CURL_HOME=str(tmp_path))
    engine.podman("healthcheck", "run", "certlet")
    assert HttpService(f"http://127.0.0.1:{ports[1]}").request("GET", "/ca.crl").status == 200
    verify_isolation(engine, "certlet", "/ledger")
    assert "root-ca.key" not in engine.podman("exec", "certlet", "ls", "/ca").stdout
    engine.podman("exec", "certlet", "rm", "/ledger/ledger.db")
    start = time.monotonic()
    engine.podman("stop", "certlet")
    assert time.monotonic() - start < 20
    assert engine.podman("inspect", "--format={{.State.ExitCode}}", "certlet").stdout == "0\n"
    result = engine.podman("start", "--attach", "certlet", check=False)
    assert result.returncode == 1
    assert "certlet: no ledger at /ledger/ledger.db: restore a copy" in result.stderr


def test_container_without_a_ca_creates_none(engine: Engine) -> None:
    """The server does not start, and the volume stays empty; the health check of a container without it fails."""
    options = ("--read-only", "--network=none", "--volume=empty:/ca:ro")
    result = engine.podman("run", "--rm", *options, IMAGE, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "certlet: " in result.stderr.splitlines()[-1]
    idle = ("run", "--detach", "--name=idle", *options, "--entrypoint=sleep", IMAGE, "60")
    engine.podman(*idle)
    assert engine.podman("exec", "idle", "ls", "-A", "/ca").stdout == ""
    assert engine.podman("healthcheck", "run", "idle", check=False).returncode == 1


def test_manifest_is_followed_as_written(engine: Engine, tmp_path: Path) -> None:
    """Podman plays it; a certificate is signed with a CA that is in a Secret, without `--create`."""
    (tmp_path / "ca-passphrase").write_text("a passphrase of the cluster\n")
    path = tmp_path / "deploy/kubernetes/certlet.yaml"
    path.parent.mkdir(parents=True)
    port = str(servers.free_port())  # Podman publishes the ports of containers at the same ports of the host
    metrics = str(servers.free_port())
    text = MANIFEST.read_text().replace("8443", port).replace("8080", str(servers.free_port()))
    text = text.replace("9464", metrics)
    path.write_text(text.replace("registry.example.com/", "localhost/"))
    follow(engine, "Run it in Kubernetes", tmp_path)
    health = [argument.replace("9464", metrics) for argument in HEALTH]
    servers.wait_until(lambda: engine.podman("exec", POD, *health, check=False).returncode == 0)
    assert "--create" not in engine.podman("inspect", "--format={{.Config.Cmd}}", POD).stdout
    probes = re.findall(r"httpGet: .*\{path: (\S+), port: metrics\}", text)
    assert probes == ["/livez", "/readyz"]
    for probe in probes:
        assert HttpService(f"http://127.0.0.1:{metrics}").request("GET", probe).body == b"ok\n"
    service = HttpService(f"https://127.0.0.1:{port}")
    context = ssl.create_default_context(cafile=tmp_path / "ca/root-ca.crt")
    context.check_hostname = False  # the name is not 127.0.0.1
    key = (tmp_path / "api-key").read_text().strip()
    headers = {"Content-Type": "application/pkcs10", "x-api-key": key}
    body = csrs.encode_pem(csrs.build())
    assert service.request("POST", "/sign.pem", body, headers, context).status == 200
    assert service.request("POST", "/sign.pem", body, {}, context).status == 403
    verify_isolation(engine, POD, "/ledger")


def test_dockerfile_pins_what_it_uses() -> None:
    """The base image by its digest, packages by their hashes; the user is a number, as runAsNonRoot needs it."""
    (base,) = re.findall(r"^ARG BASE=(.*)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert [
        "--require-hashes -r service.txt" in line or "--no-build-isolation ." in line for line in installs
    ] == [True] * 2
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    for text in (DOCKERFILE, COMPOSE.read_text(), MANIFEST.read_text(), PAGE):
        version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert version
        assert set(re.findall(r"certlet:(\d\S*?)[\s`]", text)) == {version[1]}


def test_manifests_are_valid_and_restricted() -> None:
    """By the schemas of Kubernetes, and by the restricted profile of its Pod Security Standards."""
    documents = [
        document
        for path in MANIFEST.parent.glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
    ]
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    by_kind = {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}
    template = by_kind["Deployment"]["spec"]["template"]
    pod, (container,) = template["spec"], template["spec"]["containers"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = template["metadata"]["labels"]
    assert by_kind["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert by_kind["Service"]["spec"]["selector"] == labels
    policy = by_kind["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert "egress" not in policy
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} == ports - {"metrics"}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    assert {document["metadata"].get("namespace", "certlet") for document in documents} == {"certlet"}


def test_no_secret_is_sent_to_the_builder(tmp_path: Path) -> None:
    """The ignore file begins with all files, and the exceptions are what the Dockerfile copies."""
    lines = (ROOT / "deploy/container/Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = [
        name for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    ]
    assert sorted(rule.removeprefix("!") for rule in rules if rule.startswith("!")) == sorted(copied)
