"""No output contains a secret: each secret is a canary, and every output is searched for it."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import AttributeOID

from deploy import sbom
from service import keystore
from service.authority import IssuanceRequest
from service.gateway.api_keys import hash_key
from service.gateway.configuration import Configuration
from service.pki import csr
from service.pki.keys import encode_private_key
from service.pki.serial import SerialKeys
from service.settings import Settings
from tests import csrs, servers
from tests.assertions import JSON, uuid7
from tests.audit.conftest import CREDENTIAL, ENVIRON, PASSPHRASE
from tests.servers import API_KEY, Server

CHALLENGE = b"canary-challenge-77aa"
UNKNOWN_KEY = "canary-stranger-key-0123456789-0123456789"


def encodings(octets: bytes) -> set[bytes]:
    """Possible encodings of octets: raw, hexadecimal, base64, and as a Python literal."""
    return {octets, octets.hex().encode(), base64.b64encode(octets), repr(octets)[2:-1].encode()}


def canaries(home: Path) -> set[bytes]:
    """Every encoding of every secret."""
    secrets = set.union(
        *(encodings(text.encode()) for text in (PASSPHRASE, CREDENTIAL, API_KEY, UNKNOWN_KEY))
    )
    serial_keys = SerialKeys.parse((home / "ca" / "serial.key").read_bytes())
    secrets |= set.union(*map(encodings, (CHALLENGE, *serial_keys.keys)))
    for name in ("signing-ca.key", "root-ca.key"):
        pem = (home / "ca" / name).read_bytes()
        key = cast("ec.EllipticCurvePrivateKey", load_pem_private_key(pem, PASSPHRASE.encode()))
        secrets |= encodings(key.private_numbers().private_value.to_bytes(32, "big"))
        unencrypted = encode_private_key(key)
        # The third line of the unencrypted key is part of the public key, so it is in the certificate too.
        secrets |= {*pem.splitlines()[1:-1], *unencrypted.splitlines()[1:3]}
    return secrets


def find_canaries(home: Path, output: bytes) -> set[bytes]:
    """The canaries in an output."""
    return {canary for canary in canaries(home) if canary in output}


def csr_with_challenge_password() -> x509.CertificateSigningRequest:
    """A CSR with a challengePassword attribute."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(csrs.build().subject)
    return builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, CHALLENGE).sign(
        csrs.private_key(), hashes.SHA256()
    )


def collect_responses(server: Server) -> bytes:
    """The server's responses to valid and invalid requests that contain secrets."""
    request = csrs.encode_pem(csr_with_challenge_password()).decode()
    bad = base64.b64encode(
        csrs.encode_der(csr_with_challenge_password()).replace(b"a.example", b"b.example")
    ).decode()
    headers = {**JSON, "Authorization": f"Bearer {UNKNOWN_KEY}"}
    body = {"csr": request}
    responses = [
        server.sign(body), server.sign(body, UNKNOWN_KEY), server.sign({"csr": bad}),
        server.sign({"csr": request, "profile": PASSPHRASE[:3]}),
        server.sign({"csr": request, "validity": "P9000D"}),
        server.request("POST", "/sign.pem", csrs.encode_der(csr_with_challenge_password()), {"x-api-key": API_KEY}),
        server.request("GET", f"/nothing?x-api-key={API_KEY}", headers={"Cookie": f"key={UNKNOWN_KEY}"}),
        server.request("GET", "/profiles/mine", headers=headers),
        server.request("GET", "/ca"),
        server.request("GET", "/sign", headers={"Accept": "text/html"}),
    ]  # fmt: skip
    for path, content, extra in (
        ("/sign", b"{", {}),
        ("/sign?dry_run=true", json.dumps(body).encode(), {}),
        ("/sign", json.dumps(body).encode(), {"Idempotency-Key": uuid7()}),
        ("/sign/batch", json.dumps({"requests": [body, {"csr": bad}]}).encode(), {}),
    ):
        responses.append(server.request("POST", path, content, {**headers, **extra}))
    assert {200, 202, 400, 403, 404, 422} <= {response.status for response in responses}
    return b"".join(str(response.headers).encode() + response.body for response in responses)


def test_server_output_contains_no_secret(home: Path) -> None:
    """Responses, stdout, stderr, and audit and access log contain no canary, whatever fails."""
    log = home / "audit.log"
    with servers.certlet_server(home, "--no-usage-plan", "--audit-log", "audit.log", env=ENVIRON) as server:
        responses = collect_responses(server)
        (worker,) = server.pids("worker")
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))
        full = server.sign({"csr": csrs.encode_pem(csr_with_challenge_password()).decode()})
        assert full.status == 503
        (home / "ca" / "signing-ca.key").rename(home / "moved.key")
        os.kill(worker, signal.SIGABRT)
        servers.wait_until(
            lambda: server.request("GET", "/health") and "cannot start a worker" in server.read_log()
        )
        (home / "moved.key").rename(home / "ca" / "signing-ca.key")
    wrong_passphrase = servers.certlet(
        "serve", "--port", "0", cwd=home, env={"CERTLET_CA_PASSPHRASE": UNKNOWN_KEY}
    )
    no_passphrase = servers.certlet("serve", "--port", "0", cwd=home)
    key_list = servers.certlet("api-key", "list", cwd=home, env=ENVIRON)
    assert (wrong_passphrase.returncode, no_passphrase.returncode, key_list.returncode) == (1, 1, 0)
    output = (
        "\n".join(server.output).encode()
        + wrong_passphrase.stdout
        + wrong_passphrase.stderr
        + no_passphrase.stderr
        + key_list.stdout
    )
    logs = log.read_bytes() + server.read_log().encode()
    assert b"challengePassword ignored" in responses
    assert b'"access"' in logs
    assert b'"event":"refusal"' in logs
    assert not find_canaries(home, responses + full.body + output + logs)
    assert find_canaries(home, b"xx" + PASSPHRASE.encode().hex().encode())  # the search works


def test_repr_contains_no_secret(home: Path) -> None:
    """`repr` and `str`, which a traceback or a log record may contain, show no canary."""
    settings = Settings.from_environ({"CERTLET_CA": str(home / "ca"), **ENVIRON}, datetime.now(UTC))
    ca = keystore.load_ca(settings)
    keys = {"default": hash_key(API_KEY)}
    configuration = Configuration(
        document={}, public_document={}, listeners=[], port=0, workers=1, key_file="", env_keys=keys
    )
    request = csrs.encode_der(csr_with_challenge_password())
    values = [settings, ca, ca.issuer, configuration, IssuanceRequest(request, None, None, "")]
    values.append(csr.parse(request))
    text = "".join(f"{value!r}{value!s}" for value in values).encode()
    assert not find_canaries(home, text)
    assert hash_key(API_KEY).encode() not in text
    assert find_canaries(home, repr(request).encode())


def test_zip_and_sbom_contain_no_secret(home: Path, archive: Path) -> None:
    """The zip contains the encrypted key and serial.key, but no other canary; the SBOM contains none."""
    with zipfile.ZipFile(archive) as zip_file:
        content = {name: zip_file.read(name) for name in zip_file.namelist()}
    serial_key = content.pop("ca/serial.key")
    assert find_canaries(home, serial_key)
    encrypted_key = content.pop("ca/signing-ca.key")
    assert b"ENCRYPTED" in encrypted_key
    assert find_canaries(home, encrypted_key) == set(encrypted_key.splitlines()[1:-1])
    assert not find_canaries(home, b"\0".join(content.values()))
    assert not find_canaries(home, sbom.sbom(archive).encode())
