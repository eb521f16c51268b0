"""`certlet verify`: the chain, the host and the purpose, compared with OpenSSL's own command."""

from __future__ import annotations

import json
import re
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from service.cli import contexts
from service.cli.contexts import Context, Contexts
from service.pki import encoding
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.cli import certlet
from tests.cli.test_tls_peer import Handler, address, chain

NEITHER = b"certlet: %b: No such file or directory (the address of a server is HOST:PORT or https://HOST)\n"

__all__ = ["address", "chain"]  # fixtures


def openssl_accepts(file: Path, root: Path, *arguments: str) -> bool:
    command = ("openssl", "verify", "-x509_strict", "-CAfile", str(root), "-untrusted", str(file), *arguments)
    return servers.run(*command, str(file), check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "openssl", "reason"),
    [
        ((), ("-purpose", "sslserver"), ""),
        (("--host", "localhost"), ("-verify_hostname", "localhost"), ""),
        (("--host", "LOCALHOST"), ("-verify_hostname", "LOCALHOST"), ""),
        (("--host", "a.localhost"), ("-verify_hostname", "a.localhost"), "is not for a.localhost: "),
        (("--host", "127.0.0.1"), ("-verify_ip", "127.0.0.1"), "is not for 127.0.0.1: "),
        (("--purpose", "client"), ("-purpose", "sslclient"), "permits no TLS clients"),
    ],
)
def test_chain_is_valid_as_openssl_says(
    chain: Path, arguments: tuple[str, ...], openssl: tuple[str, ...], reason: str
) -> None:
    """The exit status is 0, or 1 with the reason."""
    file, root = chain / "localhost.crt", chain / "root.crt"
    run = certlet("verify", file, "--root", root, *arguments)
    assert openssl_accepts(file, root, *openssl) == (not reason)
    assert run.returncode == int(bool(reason))
    assert reason in run.stderr.decode()
    assert run.stdout.startswith(b"Valid     ") == (not reason)
    facts = json.loads(certlet("verify", file, "--root", root, *arguments, "--json").stdout)
    assert (facts["valid"], reason in str(facts["reason"])) == (
        not reason,
        bool(reason) or facts["reason"] is None,
    )


def test_untrusted_or_incomplete_chain_is_refused(chain: Path, tmp_path: Path) -> None:
    """The reason names the certificate that is missing, in the file or among the trusted roots."""
    assert certlet("init", "other", cwd=tmp_path).returncode == 0
    file, root = chain / "localhost.crt", chain / "root.crt"
    leaf = tmp_path / "leaf.crt"
    leaf.write_text(file.read_text().partition("-----BEGIN CERTIFICATE-----\n")[2].partition("-----BEGIN")[0])
    leaf.write_text("-----BEGIN CERTIFICATE-----\n" + leaf.read_text())
    signing, anchor = (
        servers.run("openssl", "x509", "-in", str(path), "-noout", "-issuer", "-nameopt", "RFC2253").stdout
        for path in (leaf, root)
    )
    for issuer, *arguments in (
        (anchor, file, "--root", tmp_path / "other" / "root-ca.crt"),
        (signing, leaf, "--root", root),
        (anchor, file),
    ):
        trusted = arguments[2] if "--root" in arguments else "$SSL_CERT_FILE"
        run = certlet("verify", *arguments, env={"SSL_CERT_FILE": str(tmp_path / "other" / "root-ca.crt")})
        assert (run.returncode, run.stdout) == (1, b"")
        remedy = f"add it to {arguments[0]}, or if it is a root, pass it as --root (trusted: {trusted})\n"
        reason = (
            f"unable to get local issuer certificate: its {issuer.strip().replace('=', ' ', 1)} is missing: "
        )
        assert run.stderr.decode().endswith(reason + remedy)
    run = certlet("verify", "-", "--root", root, stdin=leaf.read_bytes())
    assert run.stderr.startswith(b"certlet: standard input: CN=")
    assert b": add it to standard input, or if it is a root, pass it as --root (trusted: " in run.stderr
    assert certlet("verify", file, env={"SSL_CERT_FILE": str(root)}).returncode == 0
    whole = tmp_path / "whole.crt"
    whole.write_text(file.read_text() + root.read_text())
    run = certlet("verify", whole, env={"SSL_CERT_FILE": str(tmp_path / "other" / "root-ca.crt")})
    assert b"self-signed certificate in certificate chain: pass the root as --root" in run.stderr


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (timedelta(hours=12), "certificate has expired: renew it; the time here is 20"),
        (timedelta(hours=-9), ": check the clock; the time here is 20"),
    ],
)
def test_date_is_verified(chain: Path, tmp_path: Path, age: timedelta, reason: str) -> None:
    """The reason has the time of this machine, since its clock may be wrong."""
    leaf = factories.issue(chain / "ca", csrs.encode_pem(csrs.build()), age, validity="PT1H")
    signing = (chain / "ca" / "signing-ca.crt").read_text()
    (tmp_path / "leaf.crt").write_text(encoding.encode_pem([leaf]) + signing)
    run = certlet("verify", "leaf.crt", "--root", chain / "root.crt", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (1, b"")
    assert reason in run.stderr.decode()


def test_server_without_intermediate_is_refused(chain: Path) -> None:
    """The server has to send the issuer that the reason names."""
    pem = (chain / "localhost.crt").read_text()
    (chain / "leaf.crt").write_text(pem[: pem.index("-----BEGIN", 1)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain / "leaf.crt", chain / "localhost.key")
    with servers.http_server(Handler, context) as url:
        run = certlet("verify", url.replace("127.0.0.1", "localhost"), "--root", chain / "root.crt")
    assert (run.returncode, run.stdout) == (1, b"")
    assert re.search(
        rb" its issuer CN=Certlet Signing CA \w+ is missing: the server must send it, ", run.stderr
    )


def test_server_is_verified(chain: Path, address: tuple[str, int]) -> None:
    """The host is that of the address, and the root that of --root."""
    host, port = address
    run = certlet("verify", f"{host}:{port}", "--root", chain / "root.crt")
    assert run.stdout.startswith(f"Valid     {host}:{port} for {host}, as a TLS server, until ".encode())
    assert run.returncode == 0
    assert re.search(rb"\nIssuer    CN=Certlet Signing CA .*\nRoot      CN=Certlet Root CA .*\n$", run.stdout)
    (issuer,) = re.findall(r"\nIssuer    (.*)\n", run.stdout.decode())
    run = certlet("verify", f"{host}:{port}", "--root", chain / "root.crt", "--json")
    assert json.loads(run.stdout)["issuers"] == [issuer]
    other = certlet("verify", f"127.0.0.1:{port}", "--root", chain / "root.crt")
    assert (other.returncode, b"is not for 127.0.0.1" in other.stderr) == (1, True)
    assert (
        certlet("verify", f"127.0.0.1:{port}", "--root", chain / "root.crt", "--host", host).returncode == 0
    )


def test_root_of_login_is_trusted(chain: Path, address: tuple[str, int], tmp_path: Path) -> None:
    """That of the current context, next to those of the system; the output says which of them it is."""
    assert certlet("init", "other", cwd=tmp_path).returncode == 0
    other, root = tmp_path / "other" / "root-ca.crt", chain / "root.crt"
    env = {"SSL_CERT_FILE": str(other)}
    services = {name: f"https://{name}.example.com" for name in ("prod", "test")}
    pem = {"prod": root.read_text(), "test": other.read_text()}
    stored = {name: Context(url, pem[name], "key") for name, url in services.items()}
    contexts.change(lambda _: Contexts("test", stored))
    subject = servers.run("openssl", "x509", "-in", str(root), "-noout", "-subject", "-nameopt", "RFC2253")
    name = subject.stdout.strip().removeprefix("subject=")
    for target in (str(chain / "localhost.crt"), f"localhost:{address[1]}"):
        run = certlet("verify", target, env=env)
        assert (run.returncode, run.stdout) == (1, b"")
        assert f"(trusted: $SSL_CERT_FILE and certlet login {services['test']})\n" in run.stderr.decode()
        for change in ({"CERTLET_CONTEXT": "prod"}, {"CERTLET_URL": services["prod"]}):
            run = certlet("verify", target, env=env | change)
            assert (run.returncode, run.stderr) == (0, b"")
            *_, line = run.stdout.decode().splitlines()
            assert line == f"Root      {name} (certlet login {services['prod']})"
    contexts.change(lambda found: Contexts("prod", found.by_name))
    facts = json.loads(certlet("verify", chain / "localhost.crt", "--json", env=env).stdout)
    assert (facts["root"], facts["trusted"]) == (name, f"certlet login {services['prod']}")
    for arguments, status, source in (
        (("--context", "test"), 1, None),
        (("--root", other), 1, None),
        (("--root", root), 0, str(root)),
        (("--context", "none"), 1, None),
    ):
        run = certlet(
            "verify", chain / "localhost.crt", *arguments, env=env | {"CERTLET_URL": services["prod"]}
        )
        assert run.returncode == status
        assert not source or f"Root      {name} ({source})\n" in run.stdout.decode()
    run = certlet("verify", chain / "localhost.crt", env={"SSL_CERT_FILE": str(root)})
    assert f"Root      {name} (certlet login {services['prod']})\n" in run.stdout.decode()
    run = certlet("verify", "my.crt", "--root", root, "--context", "prod", cwd=chain)
    assert (run.returncode, b"--context is not allowed with --root" in run.stderr) == (2, True)


def test_file_without_certificates_is_an_error(tmp_path: Path) -> None:
    """So is a file of roots without one."""
    (tmp_path / "my.key").write_bytes(encode_private_key(csrs.private_key()))
    (tmp_path / "my.csr").write_bytes(csrs.encode_pem(csrs.build()))
    (tmp_path / "empty").touch()
    for arguments, message in (
        (("my.csr",), b"certlet: my.csr contains no certificate\n"),
        (("empty",), b"certlet: empty: the file is empty\n"),
        (("none",), NEITHER % b"none"),
    ):
        run = certlet("verify", *arguments, cwd=tmp_path)
        assert (run.returncode, run.stdout, run.stderr) == (1, b"", message)
