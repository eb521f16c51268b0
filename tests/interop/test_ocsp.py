"""Other projects' software asks about a certificate by OCSP, and accepts or refuses it."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import csrs, servers
from tests.interop.verifiers import HERE, JAVA, build_go, run
from tests.servers import Server

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


@pytest.mark.parametrize("ask", [java, openssl, ocsptool, curl, go, nss])
def test_certificate_is_good_until_it_is_revoked(tmp_path: Path, ask: Callable[[Server, Path], str]) -> None:
    """Some ask with a nonce, some without."""
    with servers.certlet_server(tmp_path, "--no-usage-plan") as server:
        certificate = write_certificates(server, tmp_path, "server")
        assert "good" in ask(server, tmp_path)
        revoke(server, certificate)
        output = ask(server, tmp_path)
        assert "good" not in output
        assert "revoked" in output
