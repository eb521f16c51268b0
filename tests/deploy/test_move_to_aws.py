"""The page "Move from certlet serve to AWS": the zip of a served CA goes on with its certificates."""

from __future__ import annotations

import base64
import json
import sys
import zipfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from deploy import build
from tests import csrs, pages, servers
from tests.deploy import runtime
from tests.deploy.test_zip import CURRENT_PYTHON
from tests.lambda_events import proxy_event
from tests.servers import API_KEY, ROOT, Server

PAGE = pages.read("move-to-aws")


def sign(server: Server, name: str) -> x509.Certificate:
    response = server.sign({"csr": csrs.encode_pem(csrs.build(name)).decode()})
    return x509.load_pem_x509_certificate(response.json()["crt_pem"].encode())


def test_zip_goes_on_with_the_certificates_of_a_server(tmp_path: Path) -> None:
    """OCSP knows them, and which one was revoked in the ledger; new certificates have the same issuer."""
    (tmp_path / "profiles.yaml").write_text("principals: {default: {role: operator}}\n")
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    options = ("--profiles", "profiles.yaml", "--ledger", "ledger.db", "--audit-log", "audit.log")
    with servers.certlet_server(tmp_path, *options) as server:
        kept, revoked = sign(server, "kept.example.com"), sign(server, "revoked.example.com")
        body = json.dumps({"serial_number": f"{revoked.serial_number:x}"}).encode()
        headers = {"Content-Type": "application/json", "x-api-key": API_KEY}
        assert server.request("POST", "/revoke", body, headers).status == 200
    environ = pages.with_certlet(tmp_path / "bin")
    prepare = pages.section(PAGE, "Prepare") + '\n```console\n$ printf %s "$CERTLET_CA_PASSPHRASE"\n```\n'
    *_, passphrase = pages.follow(prepare, tmp_path, environ)
    (make,) = pages.commands(pages.section(PAGE, "Build and deploy"), "make zip")
    assert make == 'make zip ZIP="--ca ca --arch x86_64"'
    archive = tmp_path / "certlet.zip"
    arguments = ("--ca", str(tmp_path / "ca"), "--arch", "x86_64", "--python", CURRENT_PYTHON, "--output")
    setting = {"CERTLET_CA_PASSPHRASE": passphrase}
    command = (sys.executable, "-m", "deploy.build", *arguments, archive)
    servers.run(*command, cwd=ROOT, env=servers.environ(**setting))
    zipfile.ZipFile(archive).extractall(tmp_path / "task")
    runtime.install(tmp_path / "client", CURRENT_PYTHON)
    interpreter = build.interpreter(CURRENT_PYTHON)
    assert interpreter
    signing = x509.load_pem_x509_certificate((tmp_path / "ca/signing-ca.crt").read_bytes())
    task, client, log = (tmp_path / name for name in ("task", "client", "log"))
    with runtime.run_function(task, Path(interpreter), client, log, **setting) as function:

        def status(certificate: x509.Certificate) -> ocsp.OCSPCertStatus:
            request = ocsp.OCSPRequestBuilder().add_certificate(certificate, signing, hashes.SHA256())
            request = request.add_extension(x509.OCSPNonce(b"0" * 32), critical=False)
            data = base64.b64encode(request.build().public_bytes(Encoding.DER)).decode()
            event = proxy_event("/ocsp", headers={"Content-Type": "application/ocsp-request"}, body=data)
            _, answer = function.invoke(event)
            return ocsp.load_der_ocsp_response(base64.b64decode(answer["body"])).certificate_status

        assert (status(kept), status(revoked)) == (ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED)
        _, response = function.invoke(proxy_event())
        new = x509.load_pem_x509_certificate(json.loads(response["body"])["crt_pem"].encode())
        new.verify_directly_issued_by(signing)
        assert function.invoke(proxy_event("/ca.crl", "GET"))[1]["statusCode"] == 200
