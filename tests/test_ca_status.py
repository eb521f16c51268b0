"""OCSP about the signing CA: the root's responses through the command line and the running server."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPResponseStatus

from service.keystore import ca_directory
from tests import servers
from tests.cli import certlet
from tests.servers import ROOT, Server, certlet_server

STATUS = ca_directory.CA_STATUS


def ask(server: Server, directory: Path, ca: str = "ca", options: Sequence[str] = ()) -> str:
    """Ask about a directory's signing CA with `openssl ocsp`, and verify the response up to the root."""
    result = servers.run(
        *("openssl", "ocsp", *options, "-issuer", f"{ca}/root-ca.crt", "-cert", f"{ca}/signing-ca.crt"),
        *("-CAfile", f"{ca}/root-ca.crt", "-url", f"{server.url}/ocsp"),
        cwd=directory,
        check=False,
    )
    output = result.stdout + result.stderr
    assert ("Response verify OK" in output) is ("signing-ca.crt: " in output)
    return output


def test_openssl_accepts_the_status_of_the_signing_ca(ca_server: Server) -> None:
    """By SHA-1 and SHA-256, with and without a nonce, which the response does not repeat."""
    directory = ca_server.log.parent
    for options in ((), ("-sha256",), ("-sha1", "-no_nonce"), ("-sha256", "-no_nonce")):
        output = ask(ca_server, directory, options=options)
        assert "ca/signing-ca.crt: good" in output
        assert ("WARNING: no nonce in response" in output) is ("-no_nonce" not in options)
    assert "unauthorized (6)" in ask(ca_server, directory, options=["-sha384"])
    assert STATUS not in ca_server.read_log()


def test_response_is_cached_like_others(ca_server: Server) -> None:
    """GET has an ETag, and ends with the window, also with a nonce."""
    ca = ca_server.log.parent / "ca"
    signing, chain = ca_directory.load_chain(ca)
    builder = ocsp.OCSPRequestBuilder().add_certificate(signing, chain[0], hashes.SHA256())
    builder = builder.add_extension(x509.OCSPNonce(bytes(16)), critical=False)
    path = f"/ocsp/{base64.b64encode(builder.build().public_bytes(Encoding.DER)).decode()}"
    response = ca_server.request("GET", path)
    assert response.status == 200
    assert 0 < int(response.headers["Cache-Control"].removeprefix("public, max-age=")) <= 300
    statuses = ca_directory.load_statuses(ca, [signing, *chain])[0]
    assert response.body in [entry.der for entry in statuses]
    again = ca_server.request("GET", path, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_server_notices_changed_responses(tmp_path: Path) -> None:
    """Without a usable file it is `unauthorized`, with one line in the log; a new one is served at once."""
    with certlet_server(tmp_path) as server:
        path = tmp_path / "ca" / STATUS
        assert certlet("init", "other", cwd=tmp_path).returncode == 0
        for data in ((tmp_path / "other" / STATUS).read_bytes(), b"garbage", None):
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
            before = len(server.read_log().split(STATUS))
            assert all("unauthorized (6)" in ask(server, tmp_path) for _ in range(3))
            lines = len(server.read_log().split(STATUS)) - before
            assert lines == {None: 0, b"garbage": 1}.get(data, 2)
        assert server.request("GET", "/health").status == 200
        for arguments, status in (((), "good"), (("--revoke", "ca/signing-ca.crt"), "revoked")):
            signed = certlet("sign-ca-status", *arguments, cwd=tmp_path)
            assert signed.returncode == 0, signed.stderr
            assert f": {status} until ".encode() in signed.stdout
            assert f"ca/signing-ca.crt: {status}" in ask(server, tmp_path)
    assert "Traceback" not in server.read_log()


def test_rollover_still_answers_about_the_old_ca(tmp_path: Path) -> None:
    """If the old signing CA's key is stolen, the root revokes it in the new directory."""
    assert certlet("init", "old", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "old", "new", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "new") as server:
        assert [": good" in ask(server, tmp_path, ca) for ca in ("old", "new")] == [True, True]
        arguments = ("--root-key", "old/root-ca.key", "--revoke", "old/signing-ca.crt")
        signed = certlet(
            "sign-ca-status", "--ca", "new", *arguments, "--reason", "cACompromise", cwd=tmp_path
        )
        assert signed.returncode == 0, signed.stderr
        output = ask(server, tmp_path, "old")
        assert "old/signing-ca.crt: revoked" in output
        assert "Reason: cACompromise" in output
        assert "new/signing-ca.crt: good" in ask(server, tmp_path, "new")


def test_encrypted_root_key_signs(tmp_path: Path) -> None:
    """The passphrase of the CA decrypts it; the file stays readable for all, and is replaced in one step."""
    env = {"CERTLET_CA_PASSPHRASE": "correct horse battery staple"}
    assert certlet("init", "ca", cwd=tmp_path, env=env).returncode == 0
    (tmp_path / "ca" / "root-ca.key").rename(tmp_path / "offline.key")
    before = (tmp_path / "ca" / STATUS).read_bytes()
    missing = certlet("sign-ca-status", cwd=tmp_path, env=env)
    message = b"certlet: ca/root-ca.key does not exist: pass --root-key FILE\n"
    assert (missing.returncode, missing.stderr) == (1, message)
    assert certlet("sign-ca-status", "--root-key", "offline.key", cwd=tmp_path).returncode == 1
    assert (tmp_path / "ca" / STATUS).read_bytes() == before
    signed = certlet("sign-ca-status", "--root-key", "offline.key", cwd=tmp_path, env=env)
    assert signed.returncode == 0, signed.stderr
    assert (tmp_path / "ca" / STATUS).read_bytes() != before
    assert (tmp_path / "ca" / STATUS).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--reason", "superseded"), 2, "--reason requires --revoke"),
        (("--revoke", "other/signing-ca.crt"), 1, "is not a CA certificate in ca"),
        (("--revoke", "ca/root-ca.crt"), 1, "is not that of the issuer of the certificate to revoke"),
        (("--revoke", "nowhere"), 1, "nowhere: No such file or directory"),
        (("--revoke", "ca/revoked.yaml"), 1, "ca/revoked.yaml: "),
        (("--root-key", "other/root-ca.key"), 1, "is not that of an issuer of a certificate in ca"),
        (("--root-key", "ca/signing-ca.key"), 1, "is not that of an issuer of a certificate in ca"),
        (("--ca", "nowhere"), 1, "no CA in nowhere"),
    ],
)
def test_wrong_arguments_change_nothing(
    tmp_path: Path, arguments: Sequence[str], status: int, message: str
) -> None:
    for name in ("ca", "other"):
        assert certlet("init", name, cwd=tmp_path).returncode == 0
    before = (tmp_path / "ca" / STATUS).read_bytes()
    result = certlet("sign-ca-status", *arguments, cwd=tmp_path)
    assert result.returncode == status
    assert message.encode() in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert (tmp_path / "ca" / STATUS).read_bytes() == before


def test_check_warns_of_missing_and_malformed_responses(tmp_path: Path) -> None:
    """A CA from before has none; the warning names the command."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    path = tmp_path / "ca" / STATUS
    assert STATUS.encode() not in certlet("check", cwd=tmp_path).stdout
    data = path.read_bytes()
    texts = {
        b"garbage": ["block 1 is not an OCSP response", "by SHA-1 (", "by SHA-256 ("],
        data[: data.index(b"-----END")]: ["block 1 is not", "by SHA-1 (", "by SHA-256 ("],
        data[: data.rindex(b"-----BEGIN")]: ["by SHA-256 ("],
        None: ["by SHA-1 (", "by SHA-256 ("],
    }
    for content, fragments in texts.items():
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        checked = certlet("check", cwd=tmp_path)
        lines = [line for line in checked.stdout.decode().splitlines() if STATUS in line]
        assert [fragment in line for line, fragment in zip(lines, fragments, strict=True)] == [True] * len(
            lines
        )
        assert all("warning: " in line and "certlet sign-ca-status" in line for line in lines)
        assert checked.returncode == 0
    signed = certlet("sign-ca-status", cwd=tmp_path)
    assert (signed.returncode, signed.stderr) == (0, b"")
    assert STATUS.encode() not in certlet("check", cwd=tmp_path).stdout
    path.write_text("garbage")
    for arguments in (("rollover", "ca", "new"), ("sign-ca-status",)):
        result = certlet(*arguments, cwd=tmp_path)
        assert result.returncode == 0
        assert b"warning: ca/ca-status.pem: block 1 is not an OCSP response; if it revoked" in result.stderr


def test_ca_from_before_has_no_response(tmp_path: Path) -> None:
    """The server starts as before, and answers `unauthorized` about the signing CA."""
    shutil.copytree(ROOT / "tests" / "ca_from_before", tmp_path / "ca")
    for path in (tmp_path / "ca").glob("*.key"):
        path.chmod(0o600)
    with certlet_server(tmp_path) as server:
        assert "unauthorized (6)" in ask(server, tmp_path)
        signing, chain = ca_directory.load_chain(tmp_path / "ca")
        builder = ocsp.OCSPRequestBuilder().add_certificate(signing, chain[0], hashes.SHA256())
        headers = {"Content-Type": "application/ocsp-request"}
        body = server.request("POST", "/ocsp", builder.build().public_bytes(Encoding.DER), headers).body
        assert ocsp.load_der_ocsp_response(body).response_status is OCSPResponseStatus.UNAUTHORIZED
    assert b"certlet sign-ca-status" in certlet("check", cwd=tmp_path).stdout
