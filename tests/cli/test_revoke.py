"""`certlet revoke`: what it shows, and the confirmation (tests/test_crl.py has the CRL)."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service.keystore import revocation_file
from service.pki import encoding
from tests import csrs, servers
from tests.cli import certlet, type_at_terminal
from tests.servers import API_KEY


@pytest.fixture(scope="module")
def original_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA in `ca`, the audit log of its server in `audit.log`, and a certificate in `a.crt`."""
    directory = tmp_path_factory.mktemp("site")
    assert certlet("init", "ca", cwd=directory).returncode == 0
    env = {"CERTLET_API_KEY": API_KEY}
    assert certlet("api-key", "add", "ops", "--from-env", cwd=directory, env=env).returncode == 0
    with servers.certlet_server(directory, "--audit-log", "audit.log", env={}) as server:
        csr = csrs.encode_pem(csrs.build(sans=["dns:b.example.com"])).decode()
        (directory / "a.crt").write_text(server.sign({"csr": csr}).json()["crt_pem"])
    return directory


@pytest.fixture
def site(original_site: Path, tmp_path: Path) -> Path:
    """A copy of `original_site`, which the test may change."""
    return shutil.copytree(original_site, tmp_path, dirs_exist_ok=True)


def load_result(directory: Path) -> Any:
    return json.loads((directory / "audit.log").read_text().splitlines()[-1])


@pytest.mark.parametrize(("text", "status"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
def test_certificate_is_shown_before_the_question(site: Path, text: bytes, status: int) -> None:
    """Names, time, caller, profile and end are those of the audit log; only yes revokes."""
    result = load_result(site)
    run = type_at_terminal(text, "revoke", result["serial_number"], "--audit-log", "audit.log")
    assert run.returncode == status
    assert run.stdout.decode().splitlines()[:4] == [
        f"Serial    {result['serial_number']}",
        "Names     dns:a.example.com, dns:b.example.com",
        f"Requested {result['time']} by ops, profile server",
        f"Ends      {result['not_after']}",
    ]
    assert run.stderr.decode().startswith("Revoke it? [y/N]: ")
    revoked = revocation_file.load_revoked(site / "ca")
    assert list(revoked) == ([] if status else [int(result["serial_number"], 16)])
    assert (load_result(site)["event"] == "revocation") is (status == 0)
    assert (b"certlet: nothing was revoked\n" in run.stderr) is bool(status)


def test_certificate_in_a_file_is_shown_without_an_audit_log(site: Path) -> None:
    """Names and end are those of the certificate."""
    run = certlet("revoke", "a.crt", "--yes")
    assert run.returncode == 0, run.stderr
    certificate = x509.load_pem_x509_certificate((site / "a.crt").read_bytes())
    assert run.stdout.decode().splitlines()[:3] == [
        f"Serial    {encoding.format_serial(certificate.serial_number)}",
        "Names     dns:b.example.com, dns:a.example.com",
        f"Ends      {encoding.format_timestamp(certificate.not_valid_after_utc)}",
    ]


def test_intent_without_result_is_shown_as_such(site: Path) -> None:
    lines = (site / "audit.log").read_text().splitlines(keepends=True)
    (site / "audit.log").write_text("".join(line for line in lines if '"intent"' in line))
    run = certlet("revoke", "a.crt", "--yes", "--audit-log", "audit.log")
    assert b", profile server, without a result in the audit log\n" in run.stdout


def test_unknown_certificate_is_noted(site: Path) -> None:
    """The audit log may be another one, or damaged: the certificate is revoked nevertheless."""
    (site / "audit.log").write_bytes(b"")
    run = certlet("revoke", "a.crt", "--yes", "--audit-log", "audit.log")
    assert run.returncode == 0
    assert b"Note      audit.log has no certificate with this serial number\n" in run.stdout
    assert (load_result(site)["event"]) == "revocation"


def test_damaged_audit_log_is_noted(site: Path) -> None:
    (site / "audit.log").write_bytes(b"\x1f\x8b\x08")
    run = certlet("revoke", "a.crt", "--yes", "--audit-log", "audit.log")
    assert run.returncode == 0
    assert b"Note      the audit log cannot be read: audit.log is not complete" in run.stdout


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_certificate_is_shown_on_stderr_before_the_question(site: Path, option: str) -> None:
    """With options that change stdout; with --yes, there is no question, and nothing is shown."""
    serial_number = load_result(site)["serial_number"]
    run = type_at_terminal(b"n\n", "revoke", serial_number, "--audit-log", "audit.log", option)
    assert (run.returncode, run.stdout) == (1, b"")
    first, second, *_, question = run.stderr.decode().splitlines()
    assert (first, second) == (f"Serial    {serial_number}", "Names     dns:a.example.com, dns:b.example.com")
    assert question.startswith("Revoke it? [y/N]: ")
    run = certlet("revoke", "a.crt", "--audit-log", "audit.log", option, "--yes")
    assert (run.returncode, run.stderr) == (0, b"")


def test_ca_certificate_is_refused_with_its_own_command(site: Path) -> None:
    """A TLS certificate of another CA is refused without it."""
    run = certlet("revoke", "ca/signing-ca.crt", "--yes")
    message = "is a CA certificate (certlet sign-ca-status --revoke ca/signing-ca.crt revokes it)"
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: ca/signing-ca.crt {message}\n")
    assert certlet("init", "other").returncode == 0
    run = certlet("revoke", "a.crt", "--yes", "--ca", "other")
    assert run.stderr == b"certlet: a.crt is not a certificate of the CA in other\n"
    assert not revocation_file.load_revoked(site / "ca")


@pytest.mark.parametrize("stdin", [b"", b"y\n"])
def test_revocation_without_a_terminal_requires_yes(site: Path, stdin: bytes) -> None:
    """A pipe is no terminal; nothing is revoked or recorded."""
    run = certlet("revoke", "a.crt", stdin=stdin)
    assert run.returncode == 1
    assert run.stderr == b"certlet: no terminal to ask for confirmation: pass --yes to revoke it\n"
    assert not revocation_file.load_revoked(site / "ca")


def test_last_time_at_which_verifiers_accept_it_is_shown(site: Path) -> None:
    """A CRL is valid for a day, and a new one is signed every five minutes; without a CRL, it is the end.

    A serial number does not say whether the certificate names a CRL; a file does.
    """
    result = load_result(site)
    earliest = datetime.now(UTC) + timedelta(hours=24, minutes=5)
    *_, by_crl, by_end = certlet("revoke", result["serial_number"], "--yes").stdout.decode().splitlines()
    assert by_crl.startswith("Verifiers may use an earlier CRL or OCSP response, until ")
    time = datetime.fromisoformat(by_crl.split()[10])
    assert timedelta(seconds=-1) < time - earliest < timedelta(minutes=2)
    end = datetime.fromisoformat(by_end.split()[12].removesuffix(":"))
    assert timedelta() < end - datetime.fromisoformat(result["not_after"]) <= timedelta(minutes=1)
    assert by_end == (
        "If the certificate names neither CRL nor OCSP, verifiers accept it until "
        f"{encoding.format_timestamp(end)}: its serial number does not say (pass its file to know)."
    )
    (site / "ca" / "revoked.yaml").write_bytes(revocation_file.HEADER)
    lines = certlet("revoke", "a.crt", "--yes").stdout.decode().splitlines()
    assert lines[-1] == (
        "Warning   this certificate names neither CRL nor OCSP, so verifiers accept it until "
        f"{result['not_after']}"
    )


def test_revocation_is_described_in_json(site: Path) -> None:
    """The object has what is known of the certificate, and the notes; nothing else is on stdout."""
    run = certlet("revoke", "a.crt", "--yes", "--json", "--reason", "superseded")
    facts = json.loads(run.stdout)
    (revoked,) = revocation_file.load_revoked(site / "ca").values()
    assert facts["serial_number"] == encoding.format_serial(revoked.serial_number)
    assert facts["time"] == encoding.format_timestamp(revoked.revoked_at)
    assert facts["reason"] == "superseded"
    assert facts["names"] == ["dns:b.example.com", "dns:a.example.com"]
    assert facts["not_after"] == load_result(site)["not_after"]
    assert facts["notes"][0].startswith("The CRL lists it by ")
    (site / "ca" / "revoked.yaml").write_bytes(revocation_file.HEADER)
    facts |= json.loads(certlet("revoke", facts["serial_number"], "--yes", "--json").stdout)
    assert facts["names"] == []  # a serial number has no names, and the end in minutes
    end = datetime.fromisoformat(facts["not_after"])
    assert timedelta() < end - datetime.fromisoformat(load_result(site)["not_after"]) <= timedelta(minutes=1)
