"""Secrets get nowhere: canaries are planted in all of them, and every output is looked through."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import zipfile
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
from service.settings import Settings
from tests import csrs, servers
from tests.assertions import JSON, uuid7
from tests.audit.conftest import CREDENTIAL, ENVIRON, PASSPHRASE
from tests.servers import API_KEY, Server

CHALLENGE = b"canary-challenge-77aa"
STRANGER = "canary-stranger-key-0123456789-0123456789"


def spelt(octets: bytes) -> set[bytes]:
    """Octets as they might be written: raw, in hexadecimal, in base64, as Python writes them."""
    return {octets, octets.hex().encode(), base64.b64encode(octets), repr(octets)[2:-1].encode()}


def canaries(home: Path) -> set[bytes]:
    """All that must be nowhere."""
    found = set.union(*(spelt(text.encode()) for text in (PASSPHRASE, CREDENTIAL, API_KEY, STRANGER)))
    found |= spelt(CHALLENGE) | spelt((home / "ca" / "serial.key").read_bytes())
    for name in ("signing-ca.key", "root-ca.key"):
        pem = (home / "ca" / name).read_bytes()
        key = cast("ec.EllipticCurvePrivateKey", load_pem_private_key(pem, PASSPHRASE.encode()))
        found |= spelt(key.private_numbers().private_value.to_bytes(32, "big"))
        plain = encode_private_key(key)
        # The third line of the plain one is a part of the public key, which stands in the certificate too.
        found |= {*pem.splitlines()[1:-1], *plain.splitlines()[1:3]}
    return found


def leaked(home: Path, output: bytes) -> set[bytes]:
    """The canaries in an output."""
    return {each for each in canaries(home) if each in output}


def challenging() -> x509.CertificateSigningRequest:
    """A request with a challengePassword."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(csrs.build().subject)
    return builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, CHALLENGE).sign(
        csrs.private_key(), hashes.SHA256()
    )


def everything(server: Server) -> bytes:
    """What the server answers to requests, good and bad, that have secrets in them."""
    request = csrs.encode_pem(challenging()).decode()
    bad = base64.b64encode(csrs.encode_der(challenging()).replace(b"a.example", b"b.example")).decode()
    headers = {**JSON, "Authorization": f"Bearer {STRANGER}"}
    asked = {"csr": request}
    answers = [
        server.sign(asked), server.sign(asked, STRANGER), server.sign({"csr": bad}),
        server.sign({"csr": request, "profile": PASSPHRASE[:3]}),
        server.sign({"csr": request, "validity": "P9000D"}),
        server.request("POST", "/sign.pem", csrs.encode_der(challenging()), {"x-api-key": API_KEY}),
        server.request("GET", f"/nothing?x-api-key={API_KEY}", headers={"Cookie": f"key={STRANGER}"}),
        server.request("GET", "/profiles/mine", headers=headers),
        server.request("GET", "/ca"),
        server.request("GET", "/sign", headers={"Accept": "text/html"}),
    ]  # fmt: skip
    for path, body, more in (
        ("/sign", b"{", {}),
        ("/sign?dry_run=true", json.dumps(asked).encode(), {}),
        ("/sign", json.dumps(asked).encode(), {"Idempotency-Key": uuid7()}),
        ("/sign/batch", json.dumps({"requests": [asked, {"csr": bad}]}).encode(), {}),
    ):
        answers.append(server.request("POST", path, body, {**headers, **more}))
    assert {200, 202, 400, 403, 404, 422} <= {each.status for each in answers}
    return b"".join(str(each.headers).encode() + each.body for each in answers)


def test_server_output_contains_no_secret(home: Path) -> None:
    """Answers, stdout, stderr, audit and access log, with good requests, bad ones and faults: no canary."""
    log = home / "audit.log"
    with servers.certlet_server(home, "--no-usage-plan", "--audit-log", "audit.log", env=ENVIRON) as server:
        seen = everything(server)
        (worker,) = server.pids("worker")
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))
        full = server.sign({"csr": csrs.encode_pem(challenging()).decode()})
        assert full.status == 503
        (home / "ca" / "signing-ca.key").rename(home / "away")
        os.kill(worker, signal.SIGABRT)
        servers.wait_until(
            lambda: server.request("GET", "/health") and "cannot start a worker" in server.read_log()
        )
        (home / "away").rename(home / "ca" / "signing-ca.key")
    wrong = servers.certlet("serve", "--port", "0", cwd=home, env={"CERTLET_CA_PASSPHRASE": STRANGER})
    none = servers.certlet("serve", "--port", "0", cwd=home)
    listed = servers.certlet("api-key", "list", cwd=home, env=ENVIRON)
    assert (wrong.returncode, none.returncode, listed.returncode) == (1, 1, 0)
    said = "\n".join(server.output).encode() + wrong.stdout + wrong.stderr + none.stderr + listed.stdout
    logged = log.read_bytes() + server.read_log().encode()
    assert b"challengePassword ignored" in seen
    assert b'"access"' in logged
    assert b'"event":"refusal"' in logged
    assert not leaked(home, seen + full.body + said + logged)
    assert leaked(home, b"xx" + PASSPHRASE.encode().hex().encode())  # the search can find them


def test_repr_contains_no_secret(home: Path) -> None:
    """What a traceback or a log line might show of a value: no canary."""
    settings = Settings.from_environ({"CERTLET_CA": str(home / "ca"), **ENVIRON})
    custody = keystore.load_ca(settings)
    keys = {"default": hash_key(API_KEY)}
    configuration = Configuration(
        document={}, public_document={}, host="", port=0, workers=1, key_file="", env_keys=keys
    )
    request = csrs.encode_der(challenging())
    values = [settings, custody, custody.issuer, configuration, IssuanceRequest(request, None, None, "")]
    values.append(csr.parse(request))
    shown = "".join(f"{each!r}{each!s}" for each in values).encode()
    assert not leaked(home, shown)
    assert hash_key(API_KEY).encode() not in shown
    assert leaked(home, repr(request).encode())


def test_zip_and_sbom_contain_no_secret(home: Path, archive: Path) -> None:
    """The zip holds the encrypted key and serial.key where they belong, and no other canary; its bill holds none."""
    with zipfile.ZipFile(archive) as opened:
        content = {name: opened.read(name) for name in opened.namelist()}
    serial = content.pop("ca/serial.key")
    assert leaked(home, serial)
    encrypted = content.pop("ca/signing-ca.key")
    assert b"ENCRYPTED" in encrypted
    assert leaked(home, encrypted) == set(encrypted.splitlines()[1:-1])
    assert not leaked(home, b"\0".join(content.values()))
    assert not leaked(home, sbom.sbom(archive).encode())
