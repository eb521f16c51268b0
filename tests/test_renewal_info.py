"""ARI through the whole path: revocation, the operator's order, rollover, and CAs without it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from service.pki import encoding
from tests import csrs, factories
from tests.assertions import assert_documented, assert_problem
from tests.cli import certlet
from tests.examples import certificate_id
from tests.servers import ROOT, Server, certlet_server

PATH = "/renewal-info/{certificate_id}"
CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))


def sign(server: Server) -> x509.Certificate:
    """Return a new certificate."""
    return x509.load_pem_x509_certificate(server.sign({"csr": CSR.decode()}).json()["crt_pem"].encode())


def ask(server: Server, certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """Return the window of a certificate."""
    response = server.request("GET", PATH.format(certificate_id=certificate_id(certificate)))
    assert response.status == 200, response.body
    assert response.headers["Cache-Control"] == "public, max-age=300"
    window = assert_documented(PATH, "get", response)["suggestedWindow"]
    start, end = (datetime.fromisoformat(window[name]) for name in ("start", "end"))
    assert start < end
    assert response.headers["Retry-After"] == f"{min(21600, (end - start).total_seconds()):.0f}"
    return start, end


def refusal(server: Server, path: str) -> str:
    """Return the detail of the 404 to a request."""
    return str(assert_problem(server.request("GET", path), 404, "notFound")["detail"])


def test_window_is_in_the_last_third(server: Server) -> None:
    """Each certificate has its own, also directly after another one; repeated requests agree."""
    certificates = [sign(server) for _ in range(3)]
    windows = [ask(server, certificate) for certificate in certificates]
    assert [ask(server, certificate) for certificate in certificates] == windows
    assert len(set(windows)) == 3
    for certificate, (start, end) in zip(certificates, windows, strict=True):
        third = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / 3
        assert certificate.not_valid_after_utc - third <= start < end < certificate.not_valid_after_utc


def test_window_of_a_revoked_certificate_has_passed(tmp_path: Path) -> None:
    """A running server notices the revocation; others keep their window."""
    with certlet_server(tmp_path) as server:
        revoked, other = sign(server), sign(server)
        window = ask(server, other)
        result = certlet("revoke", "--yes", f"{revoked.serial_number:x}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert ask(server, revoked)[1] <= datetime.now(UTC)
        assert ask(server, other) == window


def test_order_renews_what_was_issued_before(tmp_path: Path) -> None:
    """The windows are in the period after the time; a new certificate keeps its own."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    old = factories.issue(tmp_path / "ca", CSR, timedelta(hours=12))
    recent = factories.issue(tmp_path / "ca", CSR, timedelta(hours=6, minutes=-1))
    before = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=6)
    order = ("--renew-before", before.isoformat(), "--renew-over", "PT2H")
    with certlet_server(tmp_path) as server:
        normal = ask(server, recent)
        assert ask(server, old)[0] > datetime.now(UTC)
    for arguments, env in ((order, {}), ((), {"CERTLET_RENEW_BEFORE": order[1], "CERTLET_RENEW_OVER": "PT2H"})):  # fmt: skip
        with certlet_server(tmp_path, *arguments, env={"CERTLET_API_KEY": "k" * 40, **env}) as server:
            start, end = ask(server, old)
            assert before <= start < end <= before + timedelta(hours=2)
            assert ask(server, recent) == normal


def test_period_without_an_order_is_refused(tmp_path: Path) -> None:
    """As an option; the variable may stay set when the order has ended."""
    for options, variable, error in (
        (
            ("--renew-over", "PT2H"),
            "",
            b"certlet: --renew-over requires --renew-before (see certlet serve --help)\n",
        ),
        ((), "PT2H", b"certlet: no CA in ca: "),
    ):
        run = certlet("serve", *options, cwd=tmp_path, env={"CERTLET_RENEW_OVER": variable})
        assert run.stderr.startswith(error)
        assert run.returncode == (2 if options else 1)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--renew-before", "2999-01-01T00:00:00Z"), "'2999-01-01T00:00:00Z' is in the future"),
        (("--renew-before", "2026-01-01"), "'2026-01-01' is not a time with a zone"),
        (("--renew-over", "1y"), "'1y' is not a duration"),
    ],
)
def test_malformed_order_is_refused_at_start(
    tmp_path: Path, arguments: tuple[str, str], fragment: str
) -> None:
    """The option and the variable; a malformed one starts nothing, with one line."""
    variable = {arguments[0].upper().replace("--", "CERTLET_").replace("-", "_"): arguments[1]}
    for options, env in ((arguments, {}), ((), variable)):
        result = certlet("serve", "--ephemeral", *options, cwd=tmp_path, env=env)
        assert (result.returncode, result.stdout) == (2, b"")
        (line,) = result.stderr.decode().splitlines()
        assert fragment in line


def test_rollover_keeps_the_windows_of_the_old_ca(ca_server: Server, tmp_path: Path) -> None:
    """The new CA knows the certificates of both; the old one only its own."""
    before = sign(ca_server)
    window = ask(ca_server, before)
    assert certlet("rollover", ca_server.log.parent / "ca", "new", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "new") as new_server:
        after = sign(new_server)
        assert ask(new_server, before) == window
        assert ask(new_server, after)[0] > datetime.now(UTC)
    detail = refusal(ca_server, PATH.format(certificate_id=certificate_id(after)))
    assert detail == "The certificate was not issued by this CA"


def test_unknown_serial_number_is_not_found(tmp_path: Path) -> None:
    """A CA from before recognises only its new serial numbers, but knows which ones are revoked."""
    shutil.copytree(ROOT / "tests" / "ca_from_before", tmp_path / "ca")
    for key in (tmp_path / "ca").glob("*.key"):
        key.chmod(0o600)
    with certlet_server(tmp_path) as server:
        tagged = sign(server)
        key_identifier = certificate_id(tagged).partition(".")[0]
        assert ask(server, tagged)[0] > datetime.now(UTC)
        path = f"/renewal-info/{key_identifier}.Cg"  # 0x0a
        assert refusal(server, path) == "The CA does not recognise the serial number"
        assert certlet("revoke", "0a", "--yes", cwd=tmp_path).returncode == 0
        response = server.request("GET", path)
        assert response.json()["suggestedWindow"]["end"] <= encoding.format_timestamp(datetime.now(UTC))
        (tmp_path / "ca" / "revoked.yaml").write_text("nonsense")
        assert_problem(server.request("GET", path), 503, "unavailable")


def test_ca_without_serial_key_has_no_windows(tmp_path: Path) -> None:
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / "serial.key").unlink()
    with certlet_server(tmp_path) as server:
        detail = refusal(server, PATH.format(certificate_id=certificate_id(sign(server))))
    assert detail == "The CA has no serial.key, so it does not know when certificates end"


@pytest.mark.parametrize(
    "identifier", ["x", "AAAA.", "AAAA.AAAA", "AAAA.gAA", "AAAA.AB=", "AAAA.AB", "A" * 87 + ".AB", "%2e.AB", "AAAA.%2f"]
)  # fmt: skip
def test_malformed_identifier_is_refused(server: Server, identifier: str) -> None:
    """The field is the parameter of the path."""
    problem = assert_problem(server.request("GET", f"/renewal-info/{identifier}"), 400, "malformed")
    ((code, field),) = [(error["code"], error["field"]) for error in problem["errors"]]
    assert (code, field) == ("malformed", "path.certificate_id")


def test_query_is_refused(server: Server) -> None:
    problem = assert_problem(server.request("GET", "/renewal-info/AAAA.Cg?a=1"), 400, "malformed")
    assert [error["field"] for error in problem["errors"]] == ["query.a"]
