"""Revocation through the whole path: the command, the file, `GET /ca.crl`, openssl and pkilint."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from service.keystore import revocation_file
from service.pki import certificate_reader, encoding
from service.pki.revocation import RevokedCertificate
from tests import csrs, factories, servers
from tests.assertions import assert_problem
from tests.cli import certlet
from tests.servers import Server, certlet_server, run

PROFILES = """\
profiles:
  server: {revocation: crl, crl: "http://ca.example.com/ca.crl"}
"""


def sign(server: Server, profile: str = "server") -> str:
    """Return a new certificate, PEM."""
    body = {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode(), "profile": profile}
    return str(server.sign(body).json()["crt_pem"])


def verify(directory: Path, leaf: str, crl: str = "ca.crl.pem") -> str:
    """Return the output of `openssl verify -crl_check` for a certificate."""
    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", "root.pem"]
    crl_options = ["-CRLfile", crl] if crl else []
    result = run(*command, "-untrusted", "chain.pem", *crl_options, leaf, cwd=directory, check=False)
    return result.stdout + result.stderr


def backdate_entries(ca: Path) -> None:
    """Move all dates of the list ten minutes back, as if the next window had begun."""
    path = ca / "revoked.yaml"
    earlier = f"{datetime.now(UTC) - timedelta(minutes=10):%Y-%m-%dT%H:%M:%SZ}"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head] + [line.replace(line.split('"')[7], earlier) for line in lines]) + "\n")


def fetch(server: Server, directory: Path) -> x509.CertificateRevocationList:
    """Save `GET /ca.crl` for openssl, with the chain and the root."""
    (directory / "chain.pem").write_bytes(server.request("GET", "/ca.pem").body)
    (directory / "root.pem").write_text(server.request("GET", "/ca").json()["root_pem"])
    response = server.request("GET", "/ca.crl", headers={"Accept": "*/*"})
    assert (response.status, response.headers["Content-Type"]) == (200, "application/pkix-crl")
    assert response.headers["Cache-Control"] == "public, max-age=300"
    crl = x509.load_der_x509_crl(response.body)
    (directory / "ca.crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    (directory / "ca.crl").write_bytes(response.body)
    assert lint(directory / "ca.crl") == []
    return crl


def test_revoked_certificate_is_on_the_crl(tmp_path: Path) -> None:
    """A certificate with a CRL URL, revoked by file or serial number, is on the CRL, and openssl rejects it."""
    (tmp_path / "own.yaml").write_text(PROFILES)
    with certlet_server(tmp_path, "--profiles", "own.yaml") as server:
        for name in ("a", "b", "c"):
            (tmp_path / f"{name}.pem").write_text(sign(server))
        (tmp_path / "peer.pem").write_text(sign(server, "peer"))
        assert not list(fetch(server, tmp_path))
        assert "OK" in verify(tmp_path, "a.pem")
    leaf = x509.load_pem_x509_certificate((tmp_path / "a.pem").read_bytes())
    points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name == [x509.UniformResourceIdentifier("http://ca.example.com/ca.crl")]
    assert not [extension for extension in leaf.extensions if extension.oid.dotted_string == "2.5.29.56"]
    result = certlet("revoke", "--yes", "a.pem", "--reason", "keyCompromise", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert b"Warning" not in result.stdout
    assert result.stdout.splitlines()[-1].startswith(
        b"Verifiers may use an earlier CRL or OCSP response, until "
    )
    second = x509.load_pem_x509_certificate((tmp_path / "b.pem").read_bytes())
    assert not certlet(
        "revoke", "--yes", encoding.format_serial(second.serial_number), cwd=tmp_path
    ).returncode
    assert b"names neither CRL nor OCSP" in certlet("revoke", "--yes", "peer.pem", cwd=tmp_path).stdout
    backdate_entries(tmp_path / "ca")
    with certlet_server(tmp_path, "--profiles", "own.yaml") as server:
        crl = fetch(server, tmp_path)
    assert len(list(crl)) == 3
    entry = crl.get_revoked_certificate_by_serial_number(leaf.serial_number)
    assert entry is not None
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise
    for name in ("a.pem", "b.pem"):
        assert "certificate revoked" in verify(tmp_path, name)
    assert "OK" in verify(tmp_path, "c.pem")
    assert "unable to get certificate CRL" in verify(tmp_path, "c.pem", "")


def test_crl_is_signed_by_the_current_ca(tmp_path: Path) -> None:
    """After a rollover the new CA's CRL has no entries of the old CA, and does not cover its certificates."""
    (tmp_path / "own.yaml").write_text(PROFILES)
    assert not certlet("init", "old", cwd=tmp_path).returncode
    before = factories.issue(tmp_path / "old", csrs.encode_pem(csrs.build()))
    (tmp_path / "before.pem").write_text(encoding.encode_pem([before]))
    assert not certlet("revoke", "--yes", "before.pem", "--ca", "old", cwd=tmp_path).returncode
    backdate_entries(tmp_path / "old")
    assert not certlet("rollover", "old", "new", cwd=tmp_path).returncode
    with certlet_server(tmp_path, "--profiles", "own.yaml", "--ca", "new") as server:
        (tmp_path / "after.pem").write_text(sign(server))
        crl = fetch(server, tmp_path)
    assert list(crl) == []
    assert "after.pem: OK" in verify(tmp_path, "after.pem")
    assert "unable to get certificate CRL" in verify(tmp_path, "before.pem")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xyz"], "'xyz' is not a serial number: write at most 20 octets in hexadecimal, or an existing file"),
        (["other.pem"], "other.pem is not a certificate of the CA in ca"),
        (["garbage.pem"], "garbage.pem is not a certificate of the CA in ca"),
        (["0a", "--reason", "certificateHold"], "invalid value for '--reason': 'certificateHold'"),
        (["0b", "--yes"], "already revoked at 2026-01-01T00:00:00Z"),
        (["0a", "--ca", "nowhere"], "no CA in nowhere: pass another directory as --ca, or create a CA with certlet init"),
    ],
)  # fmt: skip
def test_invalid_revocations_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    """Another CA's certificate and an invalid or repeated serial number are errors, and the list is unchanged."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    (tmp_path / "other.pem").write_text(encoding.encode_pem([factories.create_issuer().certificate]))
    (tmp_path / "garbage.pem").write_text("garbage")
    (tmp_path / "ca" / "serial.key").unlink()
    path = tmp_path / "ca" / "revoked.yaml"
    with path.open("a") as file:
        file.write('- {serial: "0b", at: 2026-01-01T00:00:00Z}  # written by hand\n')
    before = path.read_text()
    run = certlet("revoke", *arguments, cwd=tmp_path)
    assert run.returncode
    assert message in run.stderr.decode()
    assert path.read_text() == before


def test_revoke_keeps_comments_and_mode_of_the_list(tmp_path: Path) -> None:
    """Entries are added to a list in block style without other changes; other lists are not changed."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    (tmp_path / "ca" / "serial.key").unlink()
    path = tmp_path / "ca" / "revoked.yaml"
    with path.open("a") as file:
        file.write("- serial: '0b'  # Anna's laptop\n  at: 2026-01-01T00:00:00Z\n  reason: superseded")
    path.chmod(0o640)
    result = certlet("revoke", "0c", "--yes", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (
        b"\nIf the certificate names neither CRL nor OCSP, verifiers accept it until it ends: "
        in result.stdout
    )
    text = path.read_text()
    assert "Anna's laptop" in text
    assert text.splitlines()[-1].startswith('- {"serial": "0c"')
    assert path.stat().st_mode & 0o777 == 0o640
    path.write_text('[{serial: "0b", at: 2026-01-01T00:00:00Z}]')
    result = certlet("revoke", "0c", "--yes", cwd=tmp_path)
    assert result.returncode
    assert b'does not have one entry per line; add this line yourself: - {"serial": "0c"' in result.stderr


def test_concurrent_revocations_are_all_listed(tmp_path: Path) -> None:
    """Concurrent revocations wait for each other, and all of them are in the list."""
    (tmp_path / "revoked.yaml").write_bytes(revocation_file.HEADER)
    now = datetime.now(UTC).replace(microsecond=0)
    entries = [RevokedCertificate(number, now) for number in range(1, 41)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(functools.partial(revocation_file.add_revoked, tmp_path, record=lambda: None), entries))
    assert revocation_file.load_revoked(tmp_path) == {entry.serial_number: entry for entry in entries}


def test_malformed_revocation_list_is_503(tmp_path: Path) -> None:
    """A malformed, non-UTF-8 or missing list is 503, with the cause only in the log; signing still works."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    path = tmp_path / "ca" / "revoked.yaml"
    path.write_text("- {serial: 10, at: 2026-01-01T00:00:00Z}")
    with certlet_server(tmp_path) as server:  # it starts with the first list
        for text in (path.read_bytes(), b"{}", b"a: [", b"\xff", None):
            path.unlink()
            if text is not None:
                path.write_bytes(text)
            log_length = len(server.read_log())
            problem = assert_problem(server.request("GET", "/ca.crl"), 503, "unavailable")
            assert "revoked.yaml" not in problem["detail"]
            assert "revoked.yaml" in server.read_log()[log_length:]
            assert sign(server)
        path.write_text("[]")  # the server keeps a valid CRL for five minutes
        assert not list(fetch(server, tmp_path))


def lint(crl: Path) -> list[dict[str, str]]:
    """Return the findings of pkilint's CRL linter (RFC 5280 5)."""
    arguments = ["lint", "-t", "CRL", "-p", "PKIX", "-s", "INFO", "-f", "JSON", str(crl)]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as output:
        warnings.simplefilter("ignore")
        from pkilint.bin import lint_crl  # noqa: PLC0415 - its import causes warnings

        lint_crl.main(arguments)
    results = json.loads(output.getvalue())["results"]
    return [finding for result in results for finding in result["finding_descriptions"]]


@pytest.mark.parametrize("key_type", ["p-256", "rsa-2048", "ed25519", "ml-dsa-44"])
@pytest.mark.parametrize("entries", [0, 2])
def test_crl_passes_pkilint(tmp_path: Path, key_type: str, entries: int) -> None:
    """pkilint has no findings for our CRLs, empty or not."""
    now = datetime.now(UTC)
    yesterday = now - timedelta(days=1)
    revoked = [
        RevokedCertificate(7, yesterday, x509.ReasonFlags.superseded),
        RevokedCertificate(8, yesterday),
    ]
    entries_by_serial = {entry.serial_number: entry for entry in revoked[:entries]}
    authority = factories.authority(
        issuer=factories.create_issuer(key_type), now=now, load_revoked=lambda: entries_by_serial
    )
    (tmp_path / "ca.crl").write_bytes(encoding.encode_der(authority.status.current_crl()))
    assert lint(tmp_path / "ca.crl") == []


def test_pkilint_finds_an_invalid_crl(tmp_path: Path) -> None:
    """pkilint reports a CRL without a number and without the CA's key identifier."""
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateRevocationListBuilder(
        factories.distinguished_name("Naive"), now, now + timedelta(days=1)
    )
    (tmp_path / "ca.crl").write_bytes(encoding.encode_der(builder.sign(factories.ROOT, hashes.SHA256())))
    assert lint(tmp_path / "ca.crl")


STATUS_URL = "http://ca.example.com/pki"


def status_urls(leaf: x509.Certificate) -> list[str]:
    """Return the URLs of a certificate for CRL, OCSP and the issuer's certificate; none if there are none."""
    by_oid = {extension.oid: extension.value for extension in leaf.extensions}
    points: Any = by_oid.get(ExtensionOID.CRL_DISTRIBUTION_POINTS, ())
    access: Any = by_oid.get(ExtensionOID.AUTHORITY_INFORMATION_ACCESS, ())
    names = [point.full_name[0] for point in points] + [item.access_location for item in access]
    return [name.value for name in names]


def test_certificates_name_the_status_url_of_the_ca(tmp_path: Path) -> None:
    """`init --url` puts URLs into certificates that work, also after a rollover; a setting precedes it."""
    assert not certlet("init", "ca", "--url", f"{STATUS_URL}/", cwd=tmp_path).returncode
    assert not certlet("rollover", "ca", "next", cwd=tmp_path).returncode
    for directory in ("ca", "next"):
        with certlet_server(tmp_path, "--ca", directory) as server:
            leaf = x509.load_pem_x509_certificate(sign(server).encode())
            issuer = x509.load_pem_x509_certificates(server.request("GET", "/ca.pem").body)[0]
            key_id = certificate_reader.key_id(issuer)
            assert not any(line.startswith("Note") for line in server.output)
            paths = [f"/crl/{key_id}", "/ocsp", f"/issuer/{key_id}"]
            assert status_urls(leaf) == [f"{STATUS_URL}{path}" for path in paths]
            assert leaf.not_valid_after_utc - leaf.not_valid_before_utc > timedelta(days=89)
            crl = x509.load_der_x509_crl(server.request("GET", paths[0]).body)
            public_key: Any = issuer.public_key()
            assert crl.is_signature_valid(public_key)
            assert server.request("GET", paths[2]).body == encoding.encode_der(issuer)
            root = x509.load_der_x509_certificate(server.request("GET", "/root.crt").body)
            root_path = f"/issuer/{certificate_reader.key_id(root)}"
            assert status_urls(issuer) == [f"{STATUS_URL}/ocsp", STATUS_URL + root_path]
            assert server.request("GET", root_path).body == encoding.encode_der(root)
    for options in (("--status-url", "http://a.example"), ("--url", "http://a.example")):
        with certlet_server(tmp_path, *options) as server:
            url = status_urls(x509.load_pem_x509_certificate(sign(server).encode()))[1]
            used = "http://a.example" if options[0] == "--status-url" else STATUS_URL
            assert url == f"{used}/ocsp"
            (note,) = (line for line in server.output if line.startswith("Note"))
            assert note.startswith(f"Note      new certificates name {used} for CRL and OCSP: ")
            assert STATUS_URL in note
            assert "--status-url" in note


def test_certificates_without_status_url_are_short_lived(ca_server: Server, tmp_path: Path) -> None:
    """They are valid for 7 days and assert noRevAvail; longer ones are refused with the reason."""
    leaf = x509.load_pem_x509_certificate(sign(ca_server).encode())
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=7, seconds=-1)
    issuer = x509.load_der_x509_certificate(ca_server.request("GET", "/ca.crt").body)
    assert not status_urls(leaf) + status_urls(issuer)
    assert "2.5.29.56" in [extension.oid.dotted_string for extension in leaf.extensions]
    body = {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode(), "validity": "8d"}
    detail = assert_problem(ca_server.sign(body), 422, "rejectedValidity")["errors"][0]["detail"]
    assert "set a status URL" in detail
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    (tmp_path / "ca" / "serial.key").unlink()
    with certlet_server(tmp_path, "--status-url", STATUS_URL) as server:
        urls = status_urls(x509.load_pem_x509_certificate(sign(server).encode()))
        assert [url.split("/")[-2] for url in urls] == ["crl", "issuer"]  # no OCSP


@pytest.mark.parametrize("url", ["ftp://a.example", "http://a.example?x", ""])
def test_malformed_status_url_is_refused(tmp_path: Path, url: str) -> None:
    """By `init`, and by the server if the file was changed."""
    if url:
        assert certlet("init", "ca", "--url", url, cwd=tmp_path).returncode == 2
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    (tmp_path / "ca" / "status-url.txt").write_text(f"{url}\n")
    result = servers.certlet("serve", "--port", "0", cwd=tmp_path)
    assert result.returncode == 1
    assert b"status-url.txt: " in result.stderr
    assert b"Traceback" not in result.stderr
