"""Tokens through the whole path: `certlet serve`, its token worker, and an issuer over TLS."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service import openapi
from tests import csrs, servers
from tests.oidc_issuer import CLAIMS, NAME, Fault, Issuer, write_policy
from tests.servers import API_KEY, Response, Server, certlet_server, child_pids, wait_until

OF_HTTP = {"Connection", "Content-Length", "Content-Type", "Date", "Server"}
DOCUMENT = openapi.load()
OPERATIONS = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in openapi.METHODS
    if {"bearer": []} in item.get(method, {}).get("security", ())
]


def pem(name: str) -> str:
    """A CSR for a DNS name."""
    return csrs.encode_pem(csrs.build(name)).decode()


def sign(server: Server, token: str, name: str = NAME, csr: str = "", **headers: str) -> Response:
    """`POST /sign` with a token, and a CSR for a name unless there is one."""
    body = json.dumps({"csr": csr or pem(name), "text": False}).encode()
    fields = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", **headers}
    return server.request("POST", "/sign", body, fields)


def refusal(response: Response) -> tuple[int, str, str]:
    problem = response.json()
    return response.status, problem["code"], problem["detail"]


@pytest.fixture
def server(token_server: Server) -> Server:
    return token_server


def token_worker(server: Server) -> int:
    """The process ID of the token worker."""
    (pid,) = [
        pid
        for pid in child_pids(server.process.pid)
        if b"service.token_worker.handler" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


def test_token_gets_a_certificate(server: Server, issuer: Issuer) -> None:
    """Its rule is the principal in certificate profiles, audit log and access log."""
    response = sign(server, issuer.token(CLAIMS))
    assert response.status == 200, response.body
    certificate = x509.load_pem_x509_certificate(response.json()["crt_pem"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    records = [json.loads(line) for line in (server.log.parent / "audit.log").read_text().splitlines()]
    intent = next(record for record in records if record["event"] == "intent")
    assert (intent["principal"], intent["token_issuer"]) == ("oidc:deploy", issuer.url)
    assert '"key":"oidc:deploy"' in server.read_log().replace(" ", "")


@pytest.mark.parametrize("name", ["green.ci.example.com", "ci.example.com", "blue.ci.example.org"])
def test_token_does_not_permit_other_names(server: Server, issuer: Issuer, name: str) -> None:
    assert sign(server, issuer.token(CLAIMS), name).json()["code"] == "rejectedIdentifier"


def test_token_does_not_permit_other_profiles(server: Server, issuer: Issuer) -> None:
    body = json.dumps({"csr": pem(NAME), "profile": "client"}).encode()
    fields = {"Content-Type": "application/json", "Authorization": f"Bearer {issuer.token(CLAIMS)}"}
    assert refusal(server.request("POST", "/sign", body, fields))[:2] == (403, "unauthorized")


@pytest.mark.parametrize(
    "claims", [{"ref": "refs/heads/other"}, {"repository_id": 74}, {"environment": "a.b"}, {"aud": "other"}]
)
def test_other_claims_are_refused(server: Server, issuer: Issuer, claims: dict[str, Any]) -> None:
    response = sign(server, issuer.token(CLAIMS | claims))
    status, code, detail = refusal(response)
    assert (status, code) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert "refs/heads/main" not in detail


def test_api_key_precedes_a_token(server: Server, issuer: Issuer) -> None:
    """A wrong one too: the caller learns that it is wrong."""
    assert sign(server, issuer.token(CLAIMS), "any.example.org", **{"x-api-key": API_KEY}).status == 200
    assert sign(server, issuer.token(CLAIMS), **{"x-api-key": "wrong"}).status == 403


def test_each_operation_with_a_key_accepts_a_token(server: Server, issuer: Issuer) -> None:
    headers = {"Authorization": f"bearer {issuer.token(CLAIMS)}"}
    mine = server.request("GET", "/profiles/mine", headers=headers).json()
    assert (mine["principal"], [profile["name"] for profile in mine["profiles"]]) == (
        "oidc:deploy",
        ["server"],
    )
    bundle = server.request("POST", "/sign.pem?profile=server", pem(NAME).encode(), headers)
    assert bundle.body.startswith(b"-----BEGIN CERTIFICATE-----")
    batch = json.dumps({"requests": [{"csr": pem(NAME)}]}).encode()
    fields = {**headers, "Content-Type": "application/json"}
    assert "certificate" in server.request("POST", "/sign/batch", batch, fields).json()["results"][0]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_wrong_token_is_refused_as_documented(server: Server, method: str, path: str) -> None:
    """By each operation that accepts tokens; the contract has the status and each header."""
    body = b"{}" if method == "POST" else None
    headers = {"Content-Type": "application/json", "Authorization": "Bearer a.b.c"}
    response = server.request(method, path.format(label="server"), body, headers)
    documented = openapi.resolve_ref(DOCUMENT["paths"][path][method.lower()]["responses"]["401"], DOCUMENT)
    names = {name for name in response.headers if not name.lower().startswith("x-am")} - OF_HTTP
    assert (response.status, names) == (401, set(documented["headers"]))


def test_killed_token_worker_is_replaced(server: Server, issuer: Issuer) -> None:
    before = token_worker(server)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: sign(server, issuer.token(CLAIMS)).status == 200)
    assert token_worker(server) != before


def test_token_worker_has_no_secret(server: Server) -> None:
    """Neither in its environment nor among its open files; and no core dumps."""
    process = Path(f"/proc/{token_worker(server)}")
    environment = (process / "environ").read_bytes()
    assert API_KEY.encode() not in environment
    assert b"PASSPHRASE" not in environment
    files = [str(path.readlink()) for path in (process / "fd").iterdir()]
    assert not [name for name in files if "/ca/" in name]


def test_unavailable_keys_are_503(tmp_path: Path, issuer: Issuer) -> None:
    """Until the issuer answers; callers with an API key do not notice."""
    policy = write_policy(tmp_path, issuer)
    issuer.fault = Fault.SILENT
    try:
        with certlet_server(tmp_path, "--profiles", policy, "--ephemeral") as server:
            waiting = threading.Thread(target=sign, args=(server, issuer.token(CLAIMS)))
            waiting.start()
            assert server.sign({"csr": pem("a.example.org")}).status == 200
            assert waiting.is_alive()
            waiting.join()
            response = sign(server, issuer.token(CLAIMS))
            assert refusal(response)[:2] == (503, "unavailable")
            assert response.headers["Retry-After"] == "60"
            assert server.read_log().count("rule deploy: ") == 1  # not one for each token
    finally:
        issuer.released.set()
        issuer.fault = Fault.NONE


def test_keys_of_a_file_are_used(tmp_path: Path, issuer: Issuer) -> None:
    """Next to the operator's file; a replaced file too."""
    (tmp_path / "keys").mkdir()
    file = tmp_path / "keys" / "jwks.json"
    file.write_bytes(issuer.jwk_set())
    policy = write_policy(tmp_path, issuer, jwks_url=None, ca_file=None, jwks_file="keys/jwks.json")
    with certlet_server(tmp_path, "--profiles", policy, "--ephemeral", "--no-usage-plan") as server:
        assert sign(server, issuer.token(CLAIMS)).status == 200
        issuer.rotate()
        assert sign(server, issuer.token(CLAIMS)).status == 401
        (tmp_path / "keys" / "new").write_bytes(issuer.jwk_set())
        (tmp_path / "keys" / "new").rename(file)
        assert sign(server, issuer.token(CLAIMS)).status == 200


def test_wrong_tokens_are_throttled(tmp_path: Path, issuer: Issuer) -> None:
    """Like wrong API keys, by address; valid tokens of the address are not."""
    policy = write_policy(tmp_path, issuer)
    with certlet_server(tmp_path, "--profiles", policy, "--ephemeral") as server:
        statuses = [sign(server, "wrong").status for _ in range(40)]
        assert statuses[0] == 401
        assert 429 in statuses
        assert sign(server, issuer.token(CLAIMS)).status == 200


def test_token_that_is_accepted_once_gets_one_certificate(tmp_path: Path, issuer: Issuer) -> None:
    """A retry under the same Idempotency-Key gets the same one, also after a restart; without a ledger there is no start."""
    policy = write_policy(tmp_path, issuer, once=True)
    options = ("--profiles", policy, "--no-usage-plan")
    done = servers.certlet("serve", "--port", "0", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"rule 'deploy' of identities has once: true" in done.stderr
    token, key = issuer.token(CLAIMS), {"Idempotency-Key": "0123456789"}
    csr = pem(NAME)
    with certlet_server(tmp_path, *options, "--ledger", "ledger.db", "--workers", "2") as server:
        assert sign(server, token, "refused.example.org", **key).status == 422
        first = sign(server, token, csr=csr, **key)
        assert first.status == 200, first.body
        assert sign(server, token, csr=csr).status == 403
        assert sign(server, token, **key).status == 403
    with certlet_server(tmp_path, *options, "--ledger", "ledger.db") as server:
        again = sign(server, token, csr=csr, **key)
        assert (again.status, again.json()["crt_pem"]) == (200, first.json()["crt_pem"])
        assert sign(server, issuer.token(CLAIMS)).status == 200


def test_server_without_rules_refuses_tokens(ca_server: Server, issuer: Issuer) -> None:
    status, code, detail = refusal(sign(ca_server, issuer.token(CLAIMS)))
    assert (status, code) == (401, "unauthorized")
    assert "accepts no tokens" in detail
