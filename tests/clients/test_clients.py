"""Clients generated from `certlet openapi --format public` by other projects' generators, compiled and used."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import openapi_generator_cli
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from tests import csrs, servers
from tests.clients import newer_server
from tests.servers import API_KEY, Server

HERE = Path(__file__).parent
# The commands of docs/how-to/clients.md: one prints the document, the others generate clients.
PAGE = (servers.ROOT / "docs/how-to/clients.md").read_text()
COMMANDS = re.findall(r"^\$ (.+)$", PAGE.split("```")[1], re.MULTILINE)
# The generator includes the version of Jackson that its clients require; Debian has the annotations.
JAR = Path(openapi_generator_cli.__file__).with_name("openapi-generator.jar")
ANNOTATIONS = Path("/usr/share/java/geronimo-annotation-1.3-spec.jar")
FAST_JAVA = "-XX:TieredStopAtLevel=1"  # only the fast compiler: the processes are short-lived
ONE_SCHEMA = {
    "openapi": "3.0.3",
    "info": {"title": "One", "version": "1"},
    "paths": {},
    "components": {"schemas": {"One": {"type": "object", "properties": {"a": {"type": "string"}}}}},
}


def reference(name: str, **fields: object) -> dict[str, Any]:
    """A media type object with a schema."""
    return {"schema": {"$ref": f"#/components/schemas/{name}"}, **fields}


OPERATION = {
    "operationId": "one",
    "requestBody": {"content": {"application/json": reference("One", example={"a": "b"})}},
    "responses": {"200": {"description": "One"}},
}
ONE_BODY = {**ONE_SCHEMA, "servers": [{"url": "/"}], "paths": {"/one": {"post": OPERATION}}}
# No operationId, an unknown media type, a discriminator on a schema that is not an object, and a mixed enum.
RESPONSE = {"description": "One", "content": {"application/x-one": reference("Two")}}
MAPPING = {"propertyName": "a", "mapping": {"one": "#/components/schemas/One"}}
CHOICE = {"oneOf": [{"$ref": "#/components/schemas/One"}], "discriminator": MAPPING}
QUESTIONABLE = {
    **ONE_SCHEMA,
    "paths": {"/one": {"get": {"responses": {"200": RESPONSE}}}},
    "components": {"schemas": {"One": {"type": "string", "enum": ["a", {"b": 1}]}, "Two": CHOICE}},
}
# openapi-generator warns of every document with a schema, or with an example of a body. An example in the schema
# would cause no warning for Java, and two for Python.
UNAVOIDABLE_WARNINGS = {"openapi-generator-python": ONE_SCHEMA, "java": ONE_BODY}
GENERATORS = {
    "openapi-generator-python": "openapi-generator-cli generate -g python",
    "openapi-python-client": "openapi-python-client",
    "openapi-fetch": "npx openapi-typescript",
    "hey-api": "npx @hey-api/openapi-ts",
    "go": "openapi-generator-cli generate -g go",
    "java": "openapi-generator-cli generate -g java",
    "php": "openapi-generator-cli generate -g php",
    "oazapfts": "npx oazapfts",
}

TYPESCRIPT = {
    "openapi-fetch": "useOpenapiFetch",
    "hey-api": "useHeyApi",
    "oazapfts": "useOazapfts",
}  # the programs
MORE_REQUESTS = {"php", "oazapfts"}  # also a dry run, in PHP with `dry_run=1`, and PEM with `validity=5d`


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command, which must succeed; return its output."""
    scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = servers.environ(
        PATH=scripts, GOFLAGS="-mod=mod", GOPROXY="off", NO_COLOR="1", JAVA_OPTS=FAST_JAVA, **(env or {})
    )
    process = servers.run(*command, cwd=cwd, env=environ)
    return process.stdout + process.stderr


def print_document(directory: Path) -> None:
    """Run the page's first command with the `certlet` of this checkout."""
    servers.create_script(directory / ".venv/bin/certlet")
    run("sh", "-c", COMMANDS[0], cwd=directory)


def prepare(directory: Path) -> None:
    """Copy the files that the generators use, and link the npm packages."""
    (directory / "tests/clients").mkdir(parents=True)
    shutil.copy(HERE / "openapi_python_client.yaml", directory / "tests/clients")
    package = json.loads((HERE / "package.json").read_text())
    (directory / "package.json").write_text(json.dumps({**package, "type": "module"}))
    (directory / "node_modules").symlink_to(HERE / "node_modules")


def generate(name: str, directory: Path) -> str:
    """Run the command of the page that generates a client; return the generator's output."""
    (command,) = [command for command in COMMANDS if command.startswith(GENERATORS[name])]
    return run("sh", "-c", command, cwd=directory)


def warnings(output: str) -> list[str]:
    """Return the warnings in the output of a generator or compiler; INFO lines contain file names that match too."""
    lines = [line for line in output.splitlines() if " INFO " not in line]
    return [line for line in lines if re.search(r"warn|error|unsupported|⚠|🚨|❗", line, re.IGNORECASE)]


class Client:
    """A generated client: the command to run it, and the warnings of its generator and compiler."""

    def __init__(self, command: list[str | Path], output: str, **env: str) -> None:
        self.command = command
        self.warnings = warnings(output)
        self.env = env


def build_python(directory: Path, name: str, script: str, path: str) -> Client:
    """Generate a Python client, which a script imports from a path."""
    output = generate(name, directory)
    return Client([sys.executable, HERE / script], output, PYTHONPATH=str(directory / path))


def build_typescript(directory: Path) -> dict[str, Client]:
    """Generate the TypeScript clients and compile them together."""
    outputs = {name: generate(name, directory) for name in TYPESCRIPT}
    run("npx", "tsc", "--project", "tsconfig.json", cwd=directory)
    return {name: Client(["node", TYPESCRIPT[name] + ".js"], output) for name, output in outputs.items()}


def build_go(directory: Path) -> Client:
    output = generate("go", directory)
    package = directory / "generated/go"
    shutil.rmtree(package / "test")  # requires an assertion library
    (package / "go.mod").write_text("module example.org/certlet\n\ngo 1.19\n")
    (package / "use").mkdir()
    shutil.copy(HERE / "main.go", package / "use")
    output += run("go", "vet", "./...", cwd=package)
    run("go", "build", "-o", "use-client", "./use", cwd=package)
    return Client([package / "use-client"], output)


def build_java(directory: Path) -> Client:
    output = generate("java", directory)
    package = directory / "generated/java"
    path = f"{JAR}:{ANNOTATIONS}"
    sources = [*(package / "src/main").rglob("*.java"), HERE / "Main.java"]
    output += run("javac", "-proc:none", "-cp", path, "-d", package / "classes", *sources, cwd=directory)
    return Client(["java", FAST_JAVA, "-cp", f"{path}:{package / 'classes'}", "Main"], output)


def build_php(directory: Path) -> Client:
    output = generate("php", directory)
    strict = ["-d", "zend.assertions=1", "-d", "error_reporting=-1"]
    return Client(["php", *strict, HERE / "use_openapi_generator.php"], output)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the document, two CSRs, and the TypeScript sources next to their packages."""
    folder = tmp_path_factory.mktemp("clients")
    prepare(folder)
    print_document(folder)
    (folder / "valid.csr").write_bytes(csrs.encode_pem(csrs.build("client.example.com")))
    (folder / "invalid.csr").write_bytes(
        csrs.encode_pem(csrs.build("a.example.com", ["dns:a_b.example.com"]))
    )
    shutil.copy(HERE / "tsconfig.json", folder)
    for name in TYPESCRIPT.values():
        shutil.copy(HERE / f"{name}.ts", folder)
    return folder


@pytest.fixture(scope="session")
def clients(directory: Path) -> Iterator[dict[str, Future[Any]]]:
    """Generate all clients, two at a time, one per core."""
    with ThreadPoolExecutor(2) as pool:
        typescript_clients = pool.submit(build_typescript, directory)
        futures: dict[str, Future[Any]] = {
            "openapi-generator-python": pool.submit(
                build_python,
                directory,
                "openapi-generator-python",
                "use_openapi_generator.py",
                "generated/python",
            ),
            "go": pool.submit(build_go, directory),
            "java": pool.submit(build_java, directory),
            "openapi-python-client": pool.submit(
                build_python, directory, "openapi-python-client", "use_openapi_python_client.py", "generated"
            ),
            "php": pool.submit(build_php, directory),
            **dict.fromkeys(TYPESCRIPT, typescript_clients),
        }
        yield futures


def get_client(clients: dict[str, Future[Any]], name: str) -> Client:
    result: Any = clients[name].result()
    client: Client = result[name] if isinstance(result, dict) else result
    return client


@pytest.mark.parametrize("name", GENERATORS)
def test_client_supports_every_operation(
    clients: dict[str, Future[Any]], directory: Path, server: Server, name: str
) -> None:
    """The client gets a certificate, a typed problem, a 403, the CA, the profiles, a batch and a CRL."""
    client = get_client(clients, name)
    stdout = run(
        *client.command, server.url, API_KEY, "valid.csr", "invalid.csr", cwd=directory, env=client.env
    )
    output = json.loads(stdout)
    root = x509.load_pem_x509_certificate(output["root"].encode())
    chain = x509.load_pem_x509_certificates(server.request("GET", "/ca.pem").body)
    assert root in chain
    certificate, batch_certificate = (
        x509.load_pem_x509_certificate(pem.encode()) for pem in (output["certificate"], output["batch"][0])
    )
    certificate.verify_directly_issued_by(chain[0])
    batch_certificate.verify_directly_issued_by(chain[0])
    assert output["not_after"] == certificate.not_valid_after_utc.timestamp()
    expected = {"status": 422, "code": "rejectedIdentifier", "fields": ["subject_alt_name[0]"]}
    assert output["refused"] == expected
    assert output["forbidden"] == {"status": 403, "code": "unauthorized", "fields": []}
    assert output["profiles"] == ["server", "client", "peer"]
    assert output["batch"][1] == "rejectedIdentifier"
    assert x509.load_der_x509_crl(bytes.fromhex(output["crl"])).issuer == chain[0].subject
    if name in MORE_REQUESTS:
        assert output["dry_run"] == ["dns:client.example.com"]
        leaf, _ = x509.load_pem_x509_certificates(output["chain"].encode())
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=5, seconds=-1)


@pytest.mark.parametrize("name", GENERATORS)
def test_client_ignores_new_response_fields(
    clients: dict[str, Future[Any]], directory: Path, server: Server, name: str
) -> None:
    """The client accepts an unknown field in every object of every response."""
    client = get_client(clients, name)
    with newer_server.newer_server(server) as newer:
        assert "new_field" in newer.request("GET", "/profiles").json()["profiles"][0]
        stdout = run(
            *client.command, newer.url, API_KEY, "valid.csr", "invalid.csr", cwd=directory, env=client.env
        )
    output = json.loads(stdout)
    assert output["refused"]["fields"] == ["subject_alt_name[0]"]
    assert output["batch"][1] == "rejectedIdentifier"


def test_device_enrolls_over_est(clients: dict[str, Future[Any]], directory: Path, tmp_path: Path) -> None:
    """The client of openapi-python-client uses EST over HTTPS: it gets the CA, a certificate and a typed 400."""
    client = get_client(clients, "openapi-python-client")
    with servers.certlet_server(tmp_path, "--tls", "--no-usage-plan") as server:
        command = (sys.executable, HERE / "enroll_with_openapi_python_client.py", server.url, API_KEY)
        root = tmp_path / "ca" / "root-ca.crt"
        output = json.loads(run(*command, "valid.csr", "invalid.csr", root, cwd=directory, env=client.env))
        issuer = x509.load_pem_x509_certificate((tmp_path / "ca" / "signing-ca.crt").read_bytes())
    (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(output["enrolled"]))
    certificate.verify_directly_issued_by(issuer)
    assert issuer in pkcs7.load_der_pkcs7_certificates(base64.b64decode(output["authority"]))
    assert output["refused"] == {"status": 400, "code": "rejectedIdentifier"}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_and_compilers_do_not_warn(
    clients: dict[str, Future[Any]], name: str, tmp_path: Path
) -> None:
    """No generator and no compiler warns, except for warnings that a minimal document causes too."""
    unexpected = get_client(clients, name).warnings
    if name in UNAVOIDABLE_WARNINGS:
        (tmp_path / "openapi.json").write_text(json.dumps(UNAVOIDABLE_WARNINGS[name]))
        (unavoidable,) = warnings(generate(name, tmp_path))
        unexpected = [line for line in unexpected if line != unavoidable]
    assert unexpected == []


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("openapi-generator-python", "Empty operationId"),
        ("openapi-python-client", "WARNING parsing GET /one"),
        ("openapi-fetch", "Discriminator mapping has an invalid schema"),
        ("hey-api", 'unhandled "object"'),
        ("go", "Empty operationId"),
        ("java", "Empty operationId"),
        ("php", "Empty operationId"),
    ],
)
def test_generator_warnings_are_detected(tmp_path: Path, name: str, warning: str) -> None:
    """Each generator but oazapfts warns of a questionable document in its own way, and `warnings` detects it."""
    prepare(tmp_path)
    (tmp_path / "openapi.json").write_text(json.dumps(QUESTIONABLE))
    assert any(warning in line for line in warnings(generate(name, tmp_path)))


def test_page_has_a_command_for_every_client() -> None:
    """The page has one command that prints the document, and one for each client."""
    prefixes = [".venv/bin/certlet openapi --format public", *GENERATORS.values()]
    assert sorted(
        prefix for prefix in prefixes for command in COMMANDS if command.startswith(prefix)
    ) == sorted(prefixes)
    assert len(COMMANDS) == len(prefixes)
