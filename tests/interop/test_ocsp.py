"""Other projects' software asks about a certificate by OCSP, and accepts or refuses it."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.pki import encoding, ocsp, ocsp_responder
from service.pki.certificate import encode_extension
from service.pki.hierarchy import create_hierarchy
from service.pki.issuer import Issuer
from service.pki.ocsp import CertificateStatus
from service.pki.ocsp_responder import DelegatedResponder
from tests import csrs, factories, servers
from tests.interop.verifiers import HERE, JAVA, build_go, run
from tests.pki.test_ocsp import issue
from tests.servers import Server
from tests.test_serial_numbers import create_ca_from_before

CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()


def write_certificates(server: Server, directory: Path, profile: str) -> dict[str, str]:
    """Issue a certificate, write it and those of the CA into files, and return the response."""
    ca = server.request("GET", "/ca").json()
    leaf: dict[str, str] = server.sign({"csr": CSR, "profile": profile}).json()
    for name, text in {
        "leaf": leaf["crt_pem"],
        "issuer": ca["ca_pem"],
        "root": ca["root_pem"],
        "bundle": leaf["crt_pem"] + ca["ca_pem"],
        "issuer-and-root": ca["ca_pem"] + ca["root_pem"],
    }.items():
        (directory / f"{name}.pem").write_text(text)
    return leaf


def revoke(server: Server, certificate: dict[str, str]) -> None:
    """Revoke a certificate as of its start, which is before the current five minutes."""
    entry = json.dumps({"serial": certificate["serial_number"], "at": certificate["not_before"]})
    (server.log.parent / "ca" / "revoked.yaml").write_text(f"- {entry}\n")


def java(server: Server, directory: Path) -> str:
    """Validate the path with revocation on; Java asks by GET, and percent-encodes the base64."""
    command = (*JAVA, HERE / "RevocationChecker.java", "bundle.pem", "root.pem", f"{server.url}/ocsp")
    result = run(*command, cwd=directory)[1]
    assert "GET" in ocsp_methods(server)
    return "good" if result == "ok\n" else result


def openssl(server: Server, directory: Path) -> str:
    """Ask by POST, with a nonce."""
    code, out, err = run(
        "openssl", "ocsp", "-issuer", "issuer.pem", "-CAfile", "root.pem", "-cert", "leaf.pem",
        "-url", f"{server.url}/ocsp", cwd=directory,
    )  # fmt: skip
    assert (code, "Response verify OK" in err) == (0, True), err
    return out


def ocsptool(server: Server, directory: Path) -> str:
    """Ask by POST, with GnuTLS."""
    code, out, err = run(
        "ocsptool",
        f"--ask={server.url}/ocsp",
        "--load-cert",
        "leaf.pem",
        "--load-issuer",
        "issuer.pem",
        cwd=directory,
    )
    assert (code, "Verifying OCSP Response: Success" in out) == (0, True), err
    return out


def curl(server: Server, directory: Path) -> str:
    """Ask by GET with the base64 as it is, and verify the response with openssl."""
    request = ("-issuer", "issuer.pem", "-cert", "leaf.pem", "-no_nonce")
    servers.run("openssl", "ocsp", *request, "-reqout", "request.der", cwd=directory)
    text = base64.b64encode((directory / "request.der").read_bytes()).decode()
    servers.run(
        "curl", "--fail", "--silent", "--output", "response.der", f"{server.url}/ocsp/{text}", cwd=directory
    )
    code, out, err = run(
        "openssl", "ocsp", *request, "-respin", "response.der", "-CAfile", "root.pem", cwd=directory
    )
    assert (code, "Response verify OK" in err) == (0, True), err
    return out


def go(server: Server, directory: Path) -> str:
    """Ask by POST, with Go's x/crypto/ocsp, which has a SHA-1 CertID and no nonce."""
    return run(build_go("ocsp.go", directory), f"{server.url}/ocsp", cwd=directory)[1]


def nss(server: Server, directory: Path) -> str:
    """Verify the certificate for a TLS server with NSS; the issuer is the configured responder."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        database = ("-d", f"sql:{folder}")
        servers.run("certutil", "-N", *database, "--empty-password")
        for name, trust in (("root", "C,,"), ("issuer", ",,"), ("leaf", ",,")):
            arguments = ("-n", name, "-t", trust, "-a", "-i", f"{name}.pem")
            servers.run("certutil", "-A", *database, *arguments, cwd=directory)
        responder = ("-l", f"{server.url}/ocsp", "-t", "issuer")
        _, out, err = run("ocspclnt", "-V", "leaf", "-u", "s", *database, *responder, cwd=directory)
    assert "GET" in ocsp_methods(server)
    return "good" if out == 'Verification of certificate "leaf" succeeded.\n' else out + err


def ocsp_methods(server: Server) -> set[str]:
    """Return the methods of the OCSP requests in the access log."""
    return set(re.findall(r'"method":"(\w+)","path":"/ocsp', server.read_log()))


@pytest.mark.parametrize("is_delegated", [False, True], ids=["issuer", "delegated responder"])
@pytest.mark.parametrize("ask", [java, openssl, ocsptool, curl, go, nss])
def test_certificate_is_good_until_it_is_revoked(
    tmp_path: Path, ask: Callable[[Server, Path], str], *, is_delegated: bool
) -> None:
    """Some ask with a nonce, some without."""
    if is_delegated:
        create_ca_from_before(tmp_path / "ca")
    with servers.certlet_server(tmp_path, "--no-usage-plan") as server:
        certificate = write_certificates(server, tmp_path, "server")
        assert "good" in ask(server, tmp_path)
        revoke(server, certificate)
        output = ask(server, tmp_path)
        assert "good" not in output
        assert "revoked" in output


def test_java_validates_a_chain_by_the_urls_in_its_certificates(tmp_path: Path) -> None:
    """It asks about the leaf and about the signing CA, and refuses the chain if either is revoked."""
    port, revoked = servers.free_port(), tmp_path / "ca" / "revoked.yaml"
    init = servers.certlet("init", "ca", "--url", f"http://127.0.0.1:{port}", cwd=tmp_path)
    assert init.returncode == 0, init.stderr
    command = (*JAVA, HERE / "RevocationChecker.java", "bundle.pem", "root.pem")
    with servers.certlet_server(tmp_path, "--no-usage-plan", "--port", str(port)) as server:
        certificate = write_certificates(server, tmp_path, "server")
        assert run(*command, cwd=tmp_path)[1] == "ok\n"
        assert server.read_log().count('"path":"/ocsp/') == 2
        revoke(server, certificate)
        assert "revoked" in run(*command, cwd=tmp_path)[1]
        revoked.write_text("[]")
        assert run(*command, cwd=tmp_path)[1] == "ok\n"
        arguments = ("--root-key", "ca/root-ca.key", "--revoke", "ca/signing-ca.crt")
        assert servers.certlet("sign-ca-status", *arguments, cwd=tmp_path).returncode == 0
        assert "revoked" in run(*command, cwd=tmp_path)[1]


def java_verdict(url: str, directory: Path) -> bool:
    command = (*JAVA, HERE / "RevocationChecker.java", "bundle.pem", "root.pem", url)
    return run(*command, cwd=directory)[1] == "ok\n"


def openssl_verdict(url: str, directory: Path) -> bool:
    names = ("-issuer", "issuer.pem", "-CAfile", "root.pem", "-cert", "leaf.pem")
    _, out, err = run("openssl", "ocsp", *names, "-no_nonce", "-url", url, cwd=directory)
    return "leaf.pem: good" in out and "Response verify OK" in err


def ocsptool_verdict(url: str, directory: Path) -> bool:
    names = ("--load-cert", "leaf.pem", "--load-issuer", "issuer.pem")
    code, out, _ = run("ocsptool", f"--ask={url}", *names, cwd=directory)
    return code == 0 and "Verifying OCSP Response: Success" in out


@pytest.mark.parametrize("verdict", [java_verdict, openssl_verdict, ocsptool_verdict])
@pytest.mark.parametrize(
    ("usages", "is_accepted"),
    [
        ([ExtendedKeyUsageOID.OCSP_SIGNING], True),
        ([ExtendedKeyUsageOID.SERVER_AUTH], False),
        ([], False),
    ],
    ids=["OCSPSigning", "serverAuth", "no usage"],
)
def test_responder_without_its_usage_is_refused(
    tmp_path: Path,
    verdict: Callable[[str, Path], bool],
    usages: list[x509.ObjectIdentifier],
    *,
    is_accepted: bool,
) -> None:
    """Only OCSPSigning makes a certificate of the issuer a responder (RFC 6960 4.2.2.2)."""
    now = datetime.now(UTC).replace(microsecond=0)
    ca = create_hierarchy("Test", "0a", "p-256", now)
    issuer = Issuer(ca.signing, [ca.root], factories.signing_key(ca))
    leaf = issue(factories.authority(issuer=issuer, now=now))
    key = ec.generate_private_key(ec.SECP256R1())
    spec = ocsp_responder.create_spec(issuer, key.public_key(), now)
    extensions = [item for item in spec.extensions if item.value.oid != x509.ExtendedKeyUsage.oid]
    if usages:
        extensions.append(encode_extension(x509.ExtendedKeyUsage(usages)))
    changed = replace(spec, extensions=tuple(extensions), evaluated_digest=b"")
    responder = DelegatedResponder(issuer.sign(changed.builder(2**80)), key)

    class Responder(servers.QuietHandler):
        def respond(self) -> None:
            der = self.body() or base64.b64decode(unquote(self.path[1:]))
            status = CertificateStatus(OCSPCertStatus.GOOD)
            builder = ocsp.response_builder(ocsp.parse_request(der), status, now, responder.not_after)
            response = responder.sign_ocsp(builder).public_bytes(Encoding.DER)
            self.reply(200, response, Content_Type="application/ocsp-response")

    bundle = [leaf, issuer.certificate]
    for name, chain in {"leaf": [leaf], "issuer": bundle[1:], "root": [ca.root], "bundle": bundle}.items():
        (tmp_path / f"{name}.pem").write_text(encoding.encode_pem(chain))
    with servers.http_server(Responder) as url:
        assert verdict(f"{url}/", tmp_path) is is_accepted
