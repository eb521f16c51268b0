"""Other projects' software asks about a certificate by OCSP, and accepts or refuses it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import csrs, servers
from tests.interop.verifiers import HERE, JAVA, run
from tests.servers import Server

CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()


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


def ocsp_methods(server: Server) -> set[str]:
    """Return the methods of the OCSP requests in the access log."""
    return set(re.findall(r'"method":"(\w+)","path":"/ocsp', server.read_log()))


@pytest.mark.parametrize("ask", [java, openssl, ocsptool, curl])
def test_certificate_is_good_until_it_is_revoked(tmp_path: Path, ask: Callable[[Server, Path], str]) -> None:
    """The revocation is from before the current five minutes, since some send no nonce."""
    with servers.certlet_server(tmp_path, "--no-usage-plan") as server:
        ca = server.request("GET", "/ca").json()
        leaf = server.sign({"csr": CSR}).json()
        for name, text in {
            "leaf": leaf["crt_pem"],
            "issuer": ca["ca_pem"],
            "root": ca["root_pem"],
            "bundle": leaf["crt_pem"] + ca["ca_pem"],
        }.items():
            (tmp_path / f"{name}.pem").write_text(text)
        assert "good" in ask(server, tmp_path)
        entry = json.dumps({"serial": leaf["serial_number"], "at": leaf["not_before"]})
        (tmp_path / "ca" / "revoked.yaml").write_text(f"- {entry}\n")
        output = ask(server, tmp_path)
        assert "good" not in output
        assert "revoked" in output
