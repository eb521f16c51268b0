"""Issuers by key identifier, through the whole path: the current one, and revocation by those before a rollover."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from service import keystore
from service.authority import IssuedCertificate
from service.keystore import ca_directory
from service.loaded_ca import LoadedCA, PreviousIssuer
from service.pki import encoding
from service.pki.certificate_reader import key_id
from service.pki.errors import CAUnavailable, IssuanceError
from service.settings import Settings
from service.status import UnknownIssuer
from tests import csrs, factories, servers
from tests.assertions import assert_problem
from tests.cli import certlet
from tests.servers import API_KEY, Response, Server, certlet_server, run
from tests.test_crl import backdate_entries

PASSPHRASE = {"CERTLET_CA_PASSPHRASE": "correct horse"}


def ca_certificates(server: Server) -> list[x509.Certificate]:
    """Return the CA certificates that the server serves."""
    return x509.load_pem_x509_certificates(server.request("GET", "/ca.pem").body)


def test_paths_of_the_current_issuer_have_the_same_responses(server: Server) -> None:
    """The octets and the headers for caches are those of /ca.crt, /ca.crl and /root.crt."""
    issuer, root = ca_certificates(server)
    for path, same in (
        (f"/issuer/{key_id(issuer)}", "/ca.crt"),
        (f"/issuer/{key_id(root)}", "/root.crt"),
        (f"/crl/{key_id(issuer)}", "/ca.crl"),
    ):
        response, expected = (server.request("GET", name, headers={"Accept": "*/*"}) for name in (path, same))
        assert (response.status, response.body) == (200, expected.body)
        for name in ("Content-Type", "Cache-Control", "Access-Control-Allow-Origin"):
            assert response.headers[name] == expected.headers[name]


@pytest.mark.parametrize("path", ["/crl/", "/issuer/"])
def test_unknown_issuer_is_not_found(server: Server, path: str) -> None:
    """This includes the root's CRL, which this CA does not sign, and what is not a key identifier."""
    issuer, root = ca_certificates(server)
    others = ["00", "0a" * 64, "0", "g0", "00" * 65, key_id(issuer).upper(), f"{key_id(issuer)}%0A"]
    for name in [*others, *([key_id(root)] if path == "/crl/" else [])]:
        assert_problem(server.request("GET", path + name), 404, "notFound")
    assert_problem(server.request("GET", f"{path}{key_id(issuer)}?a=1"), 400, "malformed")


def test_certificates_of_previous_issuers_are_served(tmp_path: Path) -> None:
    """Those of all CAs, also of the root before a new one."""
    assert certlet("init", "a", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "a", "b", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "b", "c", "--new-root", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "c") as server:
        certificates = ca_certificates(server)
        assert len({key_id(certificate) for certificate in certificates}) == len(certificates) == 5
        for certificate in certificates:
            response = server.request("GET", f"/issuer/{key_id(certificate)}")
            assert x509.load_der_x509_certificate(response.body) == certificate


def issue(directory: Path, ca: str, *names: str, env: Mapping[str, str] | None = None) -> x509.Certificate:
    """Issue certificates by a CA, as its server does, into NAME.pem; return the CA's certificate."""
    passphrase = PASSPHRASE["CERTLET_CA_PASSPHRASE"].encode() if env else None
    for name in names:
        csr = csrs.encode_pem(csrs.build(sans=[f"dns:{name}.example.com"]))
        certificate = factories.issue(directory / ca, csr, passphrase=passphrase)
        (directory / f"{name}.pem").write_text(encoding.encode_pem([certificate]))
    return ca_directory.load_chain(directory / ca)[0]


def load(directory: Path, name: str) -> x509.Certificate:
    """Load NAME.pem."""
    return x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())


def roll_over(directory: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run `certlet rollover` and return its output."""
    result = certlet("rollover", *arguments, cwd=directory, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def judge(server: Server, directory: Path, issuer: x509.Certificate, name: str) -> tuple[str, str]:
    """Return what openssl says of NAME.pem by the CRL of its issuer, and by OCSP."""
    crl = server.request("GET", f"/crl/{key_id(issuer)}", headers={"Accept": "*/*"})
    assert (crl.status, crl.headers["Cache-Control"]) == (200, "public, max-age=300")
    pem = x509.load_der_x509_crl(crl.body).public_bytes(Encoding.PEM)
    (directory / "crl.pem").write_bytes(pem)
    (directory / "issuer.pem").write_text(encoding.encode_pem([issuer]))
    (directory / "root.pem").write_text(server.request("GET", "/ca").json()["root_pem"])
    trust = ("-CAfile", "root.pem")
    command = ("openssl", "verify", "-x509_strict", "-crl_check", *trust, "-untrusted", "issuer.pem")
    verified = run(*command, "-CRLfile", "crl.pem", f"{name}.pem", cwd=directory, check=False)
    command = ("openssl", "ocsp", *trust, "-issuer", "issuer.pem", "-cert", f"{name}.pem")
    asked = run(*command, "-url", f"{server.url}/ocsp", cwd=directory, check=False)
    return verified.stdout + verified.stderr, asked.stdout + asked.stderr


@pytest.mark.parametrize("env", [{}, PASSPHRASE], ids=["plain", "encrypted"])
def test_each_issuer_revokes_its_certificates_after_two_rollovers(
    tmp_path: Path, env: Mapping[str, str]
) -> None:
    """Each CRL has the entries of its issuer and those that no issuer recognises; openssl verifies all answers."""
    assert certlet("init", "a", cwd=tmp_path, env=env).returncode == 0
    issuers = {"a": issue(tmp_path, "a", "a0", "a1", env=env)}
    for old, new in (("a", "b"), ("b", "c")):
        roll_over(tmp_path, old, new, "--root-key", "a/root-ca.key", env=env)
        issuers[new] = issue(tmp_path, new, f"{new}0", f"{new}1", env=env)
    for name in ("a", "b"):
        path = tmp_path / "c" / ca_directory.previous_key_name(issuers[name])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (b"ENCRYPTED" in path.read_bytes()) == bool(env)
    for name in issuers:
        result = certlet("revoke", "--yes", f"{name}1.pem", "--ca", "c", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert b"key is gone" not in result.stdout
    with (tmp_path / "c" / "revoked.yaml").open("a") as file:
        file.write('- {"serial": "0a", "at": "2026-01-01T00:00:00Z"}\n')
    backdate_entries(tmp_path / "c")
    with certlet_server(tmp_path, "--ca", "c", env={"CERTLET_API_KEY": API_KEY, **env}) as server:
        for name, issuer in issuers.items():
            verified, asked = judge(server, tmp_path, issuer, f"{name}0")
            assert f"{name}0.pem: OK" in verified
            assert f"{name}0.pem: good" in asked
            assert "Response verify OK" in asked
            verified, asked = judge(server, tmp_path, issuer, f"{name}1")
            assert "certificate revoked" in verified
            assert f"{name}1.pem: revoked" in asked
            assert "Response verify OK" in asked
            crl = x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes())
            assert {entry.serial_number for entry in crl} == {load(tmp_path, f"{name}1").serial_number, 10}
            assert crl.issuer == issuer.subject
        paths = (f"/crl/{key_id(issuers['c'])}", "/ca.crl")
        same, current = (server.request("GET", path, headers={"Accept": "*/*"}) for path in paths)
        assert same.body == current.body
    assert certlet("check", "--ca", "c", cwd=tmp_path, env=env).stdout.count(b"previous-ca-") == 0


def test_issuer_under_a_previous_root_revokes_its_certificates(tmp_path: Path) -> None:
    """Its chain ends at the old root, which verifiers still trust."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    issuer = issue(tmp_path, "ca", "a")
    roll_over(tmp_path, "ca", "new", "--new-root")
    assert certlet("revoke", "--yes", "a.pem", "--ca", "new", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "new") as server:
        judge(server, tmp_path, issuer, "a")
        shutil.copy(tmp_path / "ca" / "root-ca.crt", tmp_path / "root.pem")
        command = "openssl ocsp -CAfile root.pem -issuer issuer.pem -cert a.pem -url"
        answer = run(*command.split(), f"{server.url}/ocsp", cwd=tmp_path, check=False)
        assert "a.pem: revoked" in answer.stdout
        assert "Response verify OK" in answer.stderr


def test_previous_issuer_without_its_key_is_unknown(tmp_path: Path) -> None:
    """Rollover, check and revoke say what ends; CRL and OCSP end; the current issuer has both."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    issuer = issue(tmp_path, "ca", "a", "b")
    output = roll_over(tmp_path, "ca", "lost", "--old-key", "none")
    assert f"Warning   no key of {issuer.subject.rfc4514_string()}, so its certificates have no CRL" in output
    output = roll_over(tmp_path, "lost", "new", "--root-key", "ca/root-ca.key")
    assert output.count("Warning   no key of ") == 1
    for certificate in ("a.pem", f"{load(tmp_path, 'b').serial_number:x}"):
        revoked = certlet("revoke", "--yes", certificate, "--ca", "new", cwd=tmp_path)
        last = revoked.stdout.decode().splitlines()[-1]
        assert last.startswith(
            "Warning   no CRL lists it, as the key of its issuer, a previous CA, is gone: "
        )
        assert b"The CRL lists it by" not in revoked.stdout
    name = ca_directory.previous_key_name(issuer)
    checked = certlet("check", "--ca", "new", cwd=tmp_path)
    assert checked.returncode == 0
    assert f"new/{name}: warning: the key of {issuer.subject.rfc4514_string()} does not exist" in (
        checked.stdout.decode()
    )
    assert checked.stdout.count(b"previous-ca-") == 1
    with certlet_server(tmp_path, "--ca", "new") as server:
        assert_problem(server.request("GET", f"/crl/{key_id(issuer)}"), 404, "notFound")
        assert ask_status(server, issuer, load(tmp_path, "a")) is ocsp.OCSPResponseStatus.UNAUTHORIZED
        assert server.request("GET", "/ca.crl").status == 200
        # A key that appears is used at once.
        key = (tmp_path / "ca" / "signing-ca.key").read_bytes()
        (tmp_path / "new" / name).write_bytes(key)
        assert server.request("GET", f"/crl/{key_id(issuer)}").status == 200
        assert ask_status(server, issuer, load(tmp_path, "a")) is ocsp.OCSPResponseStatus.SUCCESSFUL


def ask_status(server: Server, issuer: x509.Certificate, leaf: x509.Certificate) -> ocsp.OCSPResponseStatus:
    """Return the status of the OCSP response about a certificate."""
    return ocsp.load_der_ocsp_response(post_ocsp(server, issuer, leaf).body).response_status


def post_ocsp(server: Server, issuer: x509.Certificate, leaf: x509.Certificate) -> Response:
    """Send an OCSP request about a certificate."""
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build()
    headers = {"Content-Type": "application/ocsp-request", "Accept": "*/*"}
    return server.request("POST", "/ocsp", request.public_bytes(Encoding.DER), headers)


UNUSABLE_KEYS = [
    (b"garbage", "is not a private key in PEM, kms:KEY-ID or secretsmanager:NAME"),
    (b"file:/etc/passwd", "is not a private key in PEM, kms:KEY-ID or secretsmanager:NAME"),
    (b"-----BEGIN PRIVATE KEY-----\n", "is not a PEM private key"),
    (None, "is not the key of CN=Certlet Signing CA "),
]


@pytest.fixture(scope="module")
def successor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the CA `new`, the successor of `ca`, whose key of the previous issuer was unusable at the start."""
    directory = tmp_path_factory.mktemp("successor")
    servers.create_ca(directory / "ca")
    issuer = issue(directory, "ca", "a")
    roll_over(directory, "ca", "new")
    path = directory / "new" / ca_directory.previous_key_name(issuer)
    path.write_bytes(b"garbage")
    with certlet_server(directory, "--ca", "new") as server:
        yield server


@pytest.mark.parametrize(("content", "reason"), UNUSABLE_KEYS)
def test_unusable_key_of_a_previous_issuer_affects_only_that_issuer(
    successor: Server, content: bytes | None, reason: str
) -> None:
    """Its CRL and OCSP are 503 until the file is right; check and rollover name it; the current CA issues."""
    directory = successor.log.parent
    issuer = ca_directory.load_chain(directory / "ca")[0]
    path = directory / "new" / ca_directory.previous_key_name(issuer)
    key = (directory / "ca" / "signing-ca.key").read_bytes()
    path.write_bytes(content or (directory / "new" / "signing-ca.key").read_bytes())
    output = certlet("check", "--ca", "new", cwd=directory).stdout.decode()
    assert f"{path.name}: warning: " in output
    assert reason in output
    refused = certlet("rollover", "new", "next", "--root-key", "ca/root-ca.key", cwd=directory)
    assert refused.returncode == 1
    assert reason.encode() in refused.stderr
    assert not (directory / "next").exists()
    for _ in range(2):
        assert_problem(successor.request("GET", f"/crl/{key_id(issuer)}"), 503, "unavailable")
        assert_problem(post_ocsp(successor, issuer, load(directory, "a")), 503, "unavailable")
    assert successor.request("GET", "/ca.crl").status == 200
    csr = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()
    assert successor.sign({"csr": csr}).status == 200
    path.write_bytes(key)
    assert successor.request("GET", f"/crl/{key_id(issuer)}").status == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "signing-ca.key: No such file or directory: pass --old-key KEY, or --old-key none to end the old CA's",
        ),
        (("--old-key", "elsewhere"), "--old-key: expected file:PATH, secretsmanager:NAME or kms:KEY-ID"),
        (("--old-key", "file:ca/root-ca.key"), "file:ca/root-ca.key is not the key of the CA in ca"),
    ],
)
def test_rollover_without_the_old_key_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """No CA is created. With the key's new place, one is."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / "signing-ca.key").rename(tmp_path / "moved.key")
    result = certlet("rollover", "ca", "new", *arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr.decode()
    assert not (tmp_path / "new").exists()
    roll_over(tmp_path, "ca", "new", "--old-key", "file:moved.key")
    issuer = ca_directory.load_chain(tmp_path / "ca")[0]
    name = ca_directory.previous_key_name(issuer)
    assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "moved.key").read_bytes()


def test_wrong_passphrase_stops_a_rollover(tmp_path: Path) -> None:
    """The old key would be lost. No CA is created."""
    assert certlet("init", "ca", cwd=tmp_path, env=PASSPHRASE).returncode == 0
    for env in ({}, {"CERTLET_CA_PASSPHRASE": "wrong"}):
        result = certlet("rollover", "ca", "new", "--new-root", cwd=tmp_path, env=env)
        assert result.returncode == 1
        assert b"CERTLET_CA_PASSPHRASE is" in result.stderr
        assert not (tmp_path / "new").exists()


def test_previous_issuer_issues_nothing() -> None:
    """Its key is not even loaded to issue certificates, whatever the result. Only its CRL needs it."""
    loaded = []
    certificate = factories.hierarchy("p-384").signing

    def load() -> None:
        loaded.append(1)

    previous = (PreviousIssuer(certificate, load),)
    ca = LoadedCA(factories.create_issuer(), factories.SERIAL_KEYS, previous=previous)
    authority = factories.authority(load_ca=lambda: ca)
    good, bad = (
        factories.issuance_request(csr)
        for csr in (csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])), b"x")
    )
    issued, refused = authority.issue_batch([good, bad])
    assert isinstance(issued, IssuedCertificate)
    assert isinstance(refused, IssuanceError)
    assert issued.certificate.issuer == ca.issuer.certificate.subject
    authority.dry_run(good)
    authority.status.current_crl()
    assert not loaded
    with pytest.raises(UnknownIssuer):
        authority.status.current_crl(key_id(certificate))
    assert loaded


def test_key_that_fails_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each request: AWS may take seconds to fail."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    roll_over(tmp_path, "ca", "new")
    attempts, load_issuer = [], keystore.load_previous_issuer

    def fail(*_arguments: object) -> None:
        attempts.append(1)
        raise CAUnavailable("Secrets Manager is unavailable")

    (previous,) = keystore.load_ca(Settings(tmp_path / "new")).previous
    monkeypatch.setattr(keystore, "load_previous_issuer", fail)
    for _ in range(3):
        with pytest.raises(CAUnavailable, match="the key of a previous CA is not available"):
            previous.load()
    assert len(attempts) == 1
    monkeypatch.setattr(keystore, "load_previous_issuer", load_issuer)
    later = time.monotonic() + keystore.RETRY_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    issuer = previous.load()
    assert issuer is not None
    assert issuer is previous.load()
