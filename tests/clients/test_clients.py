"""Clients that others' generators make of `certlet openapi --format public`, compiled and used."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openapi_generator_cli
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from tests import csrs, servers
from tests.clients import later
from tests.servers import API_KEY, Server

HERE = Path(__file__).parent
# The commands of docs/how-to/clients.md, by their first words: the document, and each client.
PAGE = (servers.ROOT / "docs/how-to/clients.md").read_text()
COMMANDS = re.findall(r"^\$ (.+)$", PAGE.split("```")[1], re.MULTILINE)
# The generator brings Jackson along, of the very line that its clients want; Debian has the annotations.
JAR = Path(openapi_generator_cli.__file__).with_name("openapi-generator.jar")
ANNOTATIONS = Path("/usr/share/java/geronimo-annotation-1.3-spec.jar")
QUICK = "-XX:TieredStopAtLevel=1"  # of Java, which ends before its second compiler has paid
ONE_SCHEMA = {
    "openapi": "3.0.3",
    "info": {"title": "One", "version": "1"},
    "paths": {},
    "components": {"schemas": {"One": {"type": "object", "properties": {"a": {"type": "string"}}}}},
}


def reference(name: str, **more: object) -> dict[str, Any]:
    """A media type object of a schema."""
    return {"schema": {"$ref": f"#/components/schemas/{name}"}, **more}


OPERATION = {
    "operationId": "one",
    "requestBody": {"content": {"application/json": reference("One", example={"a": "b"})}},
    "responses": {"200": {"description": "One"}},
}
ONE_BODY = {**ONE_SCHEMA, "servers": [{"url": "/"}], "paths": {"/one": {"post": OPERATION}}}
# No operationId, a media type that nobody knows, a discriminator of what is no object, an enum of all sorts.
ANSWER = {"description": "One", "content": {"application/x-one": reference("Two")}}
MAPPING = {"propertyName": "a", "mapping": {"one": "#/components/schemas/One"}}
CHOICE = {"oneOf": [{"$ref": "#/components/schemas/One"}], "discriminator": MAPPING}
QUESTIONABLE = {
    **ONE_SCHEMA,
    "paths": {"/one": {"get": {"responses": {"200": ANSWER}}}},
    "components": {"schemas": {"One": {"type": "string", "enum": ["a", {"b": 1}]}, "Two": CHOICE}},
}
# What openapi-generator says of any document that has as much: a schema, or an example of a body. In the schema
# the example would be quiet for Java, and cost a second line for Python.
ALWAYS = {"openapi-generator-python": ONE_SCHEMA, "java": ONE_BODY}
GENERATORS = {
    "openapi-generator-python": "openapi-generator-cli generate -g python",
    "openapi-python-client": "openapi-python-client",
    "openapi-fetch": "npx openapi-typescript",
    "hey-api": "npx @hey-api/openapi-ts",
    "go": "openapi-generator-cli generate -g go",
    "java": "openapi-generator-cli generate -g java",
}


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command says; it must succeed."""
    scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = servers.environ(
        PATH=scripts, GOFLAGS="-mod=mod", GOPROXY="off", NO_COLOR="1", JAVA_OPTS=QUICK, **(env or {})
    )
    done = servers.run(*command, cwd=cwd, env=environ)
    return done.stdout + done.stderr


def print_document(directory: Path) -> None:
    """The first command of the page, with the `certlet` of a clone."""
    servers.executable(directory / ".venv/bin/certlet")
    run("sh", "-c", COMMANDS[0], cwd=directory)


def furnish(directory: Path) -> None:
    """What generators find in a clone, and npm's packages."""
    (directory / "tests/clients").mkdir(parents=True)
    shutil.copy(HERE / "openapi_python_client.yaml", directory / "tests/clients")
    package = json.loads((HERE / "package.json").read_text())
    (directory / "package.json").write_text(json.dumps({**package, "type": "module"}))
    (directory / "node_modules").symlink_to(HERE / "node_modules")


def make(name: str, directory: Path) -> str:
    """Run the command of the page that makes a client; what the generator said."""
    (command,) = [each for each in COMMANDS if each.startswith(GENERATORS[name])]
    return run("sh", "-c", command, cwd=directory)


def warnings(said: str) -> list[str]:
    """The lines of a generator or compiler that warn; INFO names files, some of which are called so."""
    spoken = [line for line in said.splitlines() if " INFO " not in line]
    return [line for line in spoken if re.search(r"warn|error|unsupported|⚠|🚨|❗", line, re.IGNORECASE)]


class Client:
    """A client: what it is called, what its generators said, how to run it."""

    def __init__(self, command: list[str | Path], said: str, **env: str) -> None:
        self.command = command
        self.warnings = warnings(said)
        self.env = env


def python(directory: Path, name: str, script: str, path: str) -> Client:
    """A client for Python, which a script imports from a path."""
    said = make(name, directory)
    return Client([sys.executable, HERE / script], said, PYTHONPATH=str(directory / path))


def typescript(directory: Path) -> tuple[Client, Client]:
    """Both of TypeScript's, which one run of the compiler judges."""
    fetch = make("openapi-fetch", directory)
    hey = make("hey-api", directory)
    run("npx", "tsc", "--project", "tsconfig.json", cwd=directory)
    return Client(["node", "byOpenapiFetch.js"], fetch), Client(["node", "byHeyApi.js"], hey)


def go(directory: Path) -> Client:
    said = make("go", directory)
    made = directory / "made/go"
    shutil.rmtree(made / "test")  # asks for a library of assertions
    (made / "go.mod").write_text("module example.org/certlet\n\ngo 1.19\n")
    (made / "use").mkdir()
    shutil.copy(HERE / "main.go", made / "use")
    said += run("go", "vet", "./...", cwd=made)
    run("go", "build", "-o", "used", "./use", cwd=made)
    return Client([made / "used"], said)


def java(directory: Path) -> Client:
    said = make("java", directory)
    made = directory / "made/java"
    path = f"{JAR}:{ANNOTATIONS}"
    sources = [*(made / "src/main").rglob("*.java"), HERE / "Main.java"]
    said += run("javac", "-proc:none", "-cp", path, "-d", made / "classes", *sources, cwd=directory)
    return Client(["java", QUICK, "-cp", f"{path}:{made / 'classes'}", "Main"], said)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document, two requests, and the TypeScript sources beside their packages."""
    folder = tmp_path_factory.mktemp("clients")
    furnish(folder)
    print_document(folder)
    (folder / "good.csr").write_bytes(csrs.encode_pem(csrs.build("client.example.com")))
    (folder / "bad.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com", ["dns:a_b.example.com"])))
    for name in ("tsconfig.json", "byOpenapiFetch.ts", "byHeyApi.ts"):
        shutil.copy(HERE / name, folder)
    return folder


@pytest.fixture(scope="session")
def clients(directory: Path) -> Iterator[dict[str, Future[Any]]]:
    """All clients, two at a time: the generators are processes, and there are two cores."""
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(typescript, directory)
        made: dict[str, Future[Any]] = {
            "openapi-generator-python": pool.submit(
                python, directory, "openapi-generator-python", "by_openapi_generator.py", "made/python"
            ),
            "go": pool.submit(go, directory),
            "java": pool.submit(java, directory),
            "openapi-python-client": pool.submit(
                python, directory, "openapi-python-client", "by_openapi_python_client.py", "made"
            ),
            "openapi-fetch": both,
            "hey-api": both,
        }
        yield made


def client(clients: dict[str, Future[Any]], name: str) -> Client:
    made: Any = clients[name].result()
    found: Client = made[name == "hey-api"] if isinstance(made, tuple) else made
    return found


@pytest.mark.parametrize("name", GENERATORS)
def test_the_client_does_all(
    clients: dict[str, Future[Any]], directory: Path, server: Server, name: str
) -> None:
    """A certificate, a typed refusal, a 403, the CA, the profiles, a batch, a CRL: as the server has them."""
    made = client(clients, name)
    printed = run(*made.command, server.url, API_KEY, "good.csr", "bad.csr", cwd=directory, env=made.env)
    told = json.loads(printed)
    root = x509.load_pem_x509_certificate(told["root"].encode())
    chain = x509.load_pem_x509_certificates(server.request("GET", "/ca.pem").body)
    assert root in chain
    signed, of_batch = (
        x509.load_pem_x509_certificate(pem.encode()) for pem in (told["certificate"], told["batch"][0])
    )
    signed.verify_directly_issued_by(chain[0])
    of_batch.verify_directly_issued_by(chain[0])
    assert told["not_after"] == signed.not_valid_after_utc.timestamp()
    expected = {"status": 422, "code": "rejectedIdentifier", "fields": ["subject_alt_name[0]"]}
    assert told["refused"] == expected
    assert told["forbidden"] == {"status": 403, "code": "unauthorized", "fields": []}
    assert told["profiles"] == ["server", "client", "peer"]
    assert told["batch"][1] == "rejectedIdentifier"
    assert x509.load_der_x509_crl(bytes.fromhex(told["crl"])).issuer == chain[0].subject


@pytest.mark.parametrize("name", GENERATORS)
def test_the_client_outlives_an_addition(
    clients: dict[str, Future[Any]], directory: Path, server: Server, name: str
) -> None:
    """A member more in every object of every answer is no matter to a client: additions are compatible."""
    made = client(clients, name)
    with later.version(server) as grown:
        assert "member_of_later" in grown.request("GET", "/profiles").json()["profiles"][0]
        printed = run(*made.command, grown.url, API_KEY, "good.csr", "bad.csr", cwd=directory, env=made.env)
    told = json.loads(printed)
    assert told["refused"]["fields"] == ["subject_alt_name[0]"]
    assert told["batch"][1] == "rejectedIdentifier"


def test_a_device_enrols(clients: dict[str, Future[Any]], directory: Path, tmp_path: Path) -> None:
    """EST's media types, over HTTPS: the client of openapi-python-client gets the CA, a certificate, a typed 400."""
    made = client(clients, "openapi-python-client")
    with servers.serving(tmp_path, "--tls", "--no-usage-plan") as server:
        command = (sys.executable, HERE / "enrol_by_openapi_python_client.py", server.url, API_KEY)
        root = tmp_path / "ca" / "root-ca.crt"
        told = json.loads(run(*command, "good.csr", "bad.csr", root, cwd=directory, env=made.env))
        issuer = x509.load_pem_x509_certificate((tmp_path / "ca" / "signing-ca.crt").read_bytes())
    (enrolled,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(told["enrolled"]))
    enrolled.verify_directly_issued_by(issuer)
    assert issuer in pkcs7.load_der_pkcs7_certificates(base64.b64decode(told["authority"]))
    assert told["refused"] == {"status": 400, "code": "rejectedIdentifier"}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_generator_warns_of_nothing(clients: dict[str, Future[Any]], name: str, tmp_path: Path) -> None:
    """No generator, and no compiler, says a word of warning that it does not say of the smallest document."""
    said = client(clients, name).warnings
    if name in ALWAYS:
        (tmp_path / "openapi.json").write_text(json.dumps(ALWAYS[name]))
        (always,) = warnings(make(name, tmp_path))
        said = [line for line in said if line != always]
    assert said == []


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("openapi-generator-python", "Empty operationId"),
        ("openapi-python-client", "WARNING parsing GET /one"),
        ("openapi-fetch", "Discriminator mapping has an invalid schema"),
        ("hey-api", 'unhandled "object"'),
        ("go", "Empty operationId"),
        ("java", "Empty operationId"),
    ],
)
def test_a_warning_would_be_found(tmp_path: Path, name: str, warning: str) -> None:
    """The twin: each generator warns in words of its own, and these are seen."""
    furnish(tmp_path)
    (tmp_path / "openapi.json").write_text(json.dumps(QUESTIONABLE))
    assert any(warning in line for line in warnings(make(name, tmp_path)))


def test_every_command_of_readme_ran() -> None:
    """One command prints the document, and one makes each client; there is no other."""
    starts = [".venv/bin/certlet openapi --format public", *GENERATORS.values()]
    assert sorted(start for start in starts for each in COMMANDS if each.startswith(start)) == sorted(starts)
    assert len(COMMANDS) == len(starts)
