"""`certlet list`: the certificates in audit logs that the service wrote, in files, compressed files and stdin."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.ledger.sqlite import SqliteLedger
from service.pki.revocation import RevokedCertificate
from tests import csrs, servers
from tests.cli import certlet
from tests.factories import NOW
from tests.inventory import insights
from tests.inventory.test_inventory import record
from tests.servers import API_KEY

HOSTS = ("a.example.com", "b.example.com", "*.w.example.com")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA and the logs of its server, for which some certificates were requested.

    a.example.com: valid for 90 days; 2 days, replaced by the former. b.example.com: 3 days. *.w.example.com:
    by another caller. `audit.log` is the audit log, and `server.log` has access log and audit log together.
    """
    directory = tmp_path_factory.mktemp("site")
    certlet("init", "ca", "--url", "http://ca.example.com", cwd=directory).check_returncode()
    certlet(
        "api-key", "add", "ops", "--from-env", "--ca", "ca", cwd=directory, env={"CERTLET_API_KEY": API_KEY}
    ).check_returncode()
    other = "other-key-0123456789-0123456789-0123456789"
    certlet(
        "api-key", "add", "ci", "--from-env", "--ca", "ca", cwd=directory, env={"CERTLET_API_KEY": other}
    ).check_returncode()
    for arguments, environ in (["--audit-log", "audit.log"], {}), ([], {"CERTLET_METRICS": "Certlet"}):
        with servers.certlet_server(directory, *arguments, env=environ) as server:
            for host, validity, key in (
                (HOSTS[0], "P2D", API_KEY),
                (HOSTS[0], "P90D", API_KEY),
                (HOSTS[1], "P3D", API_KEY),
                (HOSTS[2], "P30D", other),
            ):
                csr = csrs.encode_pem(csrs.build(host)).decode()
                assert server.sign({"csr": csr, "validity": validity}, key).status == 200
            assert server.sign({"csr": "nonsense"}).status == 422
    return directory


@pytest.fixture
def directory(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(site)
    return site


def rows(*arguments: str | Path, **more: Any) -> list[dict[str, Any]]:
    """The listed certificates, in order."""
    run = certlet("list", *arguments, "--json", **more)
    assert (run.returncode, run.stderr) == (0, b"")
    return [json.loads(line) for line in run.stdout.splitlines()]


def hosts(*arguments: str | Path, **more: Any) -> list[str]:
    """The only name of each listed certificate."""
    return [name.removeprefix("dns:") for row in rows(*arguments, **more) for name in row["names"]]


def test_certificates_of_the_service_are_listed(directory: Path) -> None:
    """By their end, with status, profile, principal, serial number and names; refusals are not listed."""
    listed = rows("audit.log")
    assert [(row["names"], row["status"]) for row in listed] == [
        (["dns:a.example.com"], "replaced"),
        (["dns:b.example.com"], "valid"),
        (["dns:*.w.example.com"], "valid"),
        (["dns:a.example.com"], "valid"),
    ]
    assert [row["not_after"] for row in listed] == sorted(row["not_after"] for row in listed)
    results = [json.loads(line) for line in Path("audit.log").read_text().splitlines() if '"result"' in line]
    for row in listed:
        (result,) = [result for result in results if result["serial_number"] == row["serial_number"]]
        assert {name: value for name, value in row.items() if name != "status"} == {
            name: result[name] for name in row if name != "status"
        }


def test_table_has_a_line_for_each_certificate(directory: Path) -> None:
    """The columns are aligned; without certificates, nothing is printed."""
    run = certlet("list", "audit.log", "--principal", "ci")
    head, line = run.stdout.decode().splitlines()
    assert head.split() == ["End", "Status", "Profile", "Principal", "Serial", "number", "Names"]
    assert line.split()[1:4] == ["valid", "server", "ci"]
    assert line.index("dns:*.w.example.com") == head.index("Names")
    run = certlet("list", "audit.log", "--principal", "nobody")
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--name", "a.example.com"], {"a.example.com"}),
        (["--name", "A.Example.COM"], {"a.example.com"}),
        (["--name", "dns:b.*"], {"b.example.com"}),
        (["--name", "*.example.com"], set(HOSTS)),
        (["--name", "[*].w.example.com"], {"*.w.example.com"}),
        (["--name", "example.com"], set()),
        (["--principal", "ci"], {"*.w.example.com"}),
        (["--principal", "c"], set()),
        (["--profile", "server"], set(HOSTS)),
        (["--profile", "client"], set()),
        (["--profile", "server", "--principal", "ops", "--name", "b*"], {"b.example.com"}),
        (["--expires-in", "84h"], {"b.example.com"}),
        (["--expires-in", "60h"], set()),
        (["--expires-in", "31d"], {"b.example.com", "*.w.example.com"}),
    ],
)
def test_options_select_certificates(directory: Path, arguments: list[str], expected: set[str]) -> None:
    """A certificate with a successor does not expire, in the sense of --expires-in."""
    assert set(hosts("audit.log", *arguments)) == expected


def test_rotated_compressed_and_mixed_logs_are_one_inventory(directory: Path, tmp_path: Path) -> None:
    """Files in any order, gzip, stdin, and stderr of the server, which has the access log between the records."""
    lines = Path("audit.log").read_bytes().splitlines(keepends=True)
    (tmp_path / "audit.log.2.gz").write_bytes(gzip.compress(b"".join(lines[:3])))
    (tmp_path / "audit.log.1").write_bytes(b"".join(lines[3:5]))
    newest = b"".join(lines[5:])
    expected = rows("audit.log")
    assert rows(tmp_path / "audit.log.1", "-", tmp_path / "audit.log.2.gz", stdin=newest) == expected
    assert rows("-", stdin=gzip.compress(b"".join(lines))) == expected
    assert rows(env={"CERTLET_AUDIT_LOG": "audit.log"}) == expected
    assert '{"access"' in Path("server.log").read_text()
    assert sorted(hosts("server.log")) == sorted(hosts("audit.log"))


def test_log_group_gives_the_list_of_the_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the service, with metrics and the access log between them, in CloudWatch Logs."""
    assert '"_aws"' in Path("server.log").read_text()
    with insights.configured(monkeypatch) as logs:
        logs.add(Path("server.log").read_bytes())
        assert rows("--log-group", insights.LOG_GROUP) == rows("server.log")
        assert hosts("--log-group", insights.LOG_GROUP, "--expires-in", "84h") == ["b.example.com"]


def test_crash_after_the_intent_is_listed_as_unconfirmed(directory: Path, tmp_path: Path) -> None:
    """The certificate may exist, so that it also expires; a result elsewhere confirms it."""
    lines = Path("audit.log").read_bytes().splitlines(keepends=True)
    intents = [line for line in lines if b'"intent"' in line]
    (tmp_path / "log").write_bytes(b"".join(intents))
    assert {row["status"] for row in rows(tmp_path / "log")} == {"unconfirmed"}
    assert {row["fingerprint_sha256"] for row in rows(tmp_path / "log")} == {""}
    assert len(rows(tmp_path / "log", "--expires-in", "84h")) == 2
    assert rows(tmp_path / "log", "audit.log") == rows("audit.log")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_damaged_lines_are_counted(directory: Path, tmp_path: Path, *, is_compressed: bool) -> None:
    """The warning is on stderr, with the first line; the other lines are listed."""
    data = Path("audit.log").read_bytes()
    damaged = data[:100] + b"\n" + data + b"Traceback (most recent call last):\n"
    (tmp_path / "log").write_bytes(gzip.compress(damaged) if is_compressed else damaged)
    run = certlet("list", tmp_path / "log", "--json")
    total = data.count(b"\n") + 2
    message = f"warning: {tmp_path / 'log'}: 2 of {total} lines are not records; the first is line 1\n"
    assert (run.returncode, run.stderr.decode()) == (0, message)
    assert run.stdout == certlet("list", "audit.log", "--json").stdout


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"nonsense\n", "is not an audit log: no line is a record"),
        (b"\xfd7zXZ\x00\x00", "is not an audit log: no line is a record"),
        (gzip.compress(record())[:-9], "is not complete, or its compressed data is damaged"),
        (None, "No such file or directory"),
    ],
    ids=["text", "xz", "truncated", "missing"],
)
def test_unreadable_log_is_an_error(
    directory: Path, tmp_path: Path, data: bytes | None, fragment: str
) -> None:
    """A list without this log would look complete: nothing is printed."""
    if data is not None:
        (tmp_path / "log").write_bytes(data)
    run = certlet("list", "audit.log", tmp_path / "log", "--expires-in", "30d", "--exit-code")
    assert (run.returncode, run.stdout) == (1, b"")
    (line,) = run.stderr.decode().splitlines()
    assert str(tmp_path / "log") in line
    assert fragment in line


def test_empty_log_has_no_certificates(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert rows("log") == []


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([], "no audit log: pass FILE, - for stdin or --log-group, or set $CERTLET_AUDIT_LOG"),
        (["log", "--json", "--csv"], "--csv is not allowed with --json"),
        (["log", "--expires-in", "1d", "--revoked"], "--revoked is not allowed with --expires-in"),
        (["log", "--expires-in", "soon"], "not a duration"),
    ],
)
def test_invalid_arguments_are_refused(arguments: list[str], fragment: str) -> None:
    run = certlet("list", *arguments)
    assert (run.returncode, run.stdout) == (2, b"")
    assert fragment in run.stderr.decode()


def test_exit_code_says_whether_a_certificate_is_listed(directory: Path) -> None:
    """6 if there is one, 0 if not; without the option always 0."""
    assert certlet("list", "audit.log", "--expires-in", "84h", "--exit-code").returncode == 6
    assert certlet("list", "audit.log", "--expires-in", "60h", "--exit-code").returncode == 0
    assert certlet("list", "audit.log", "--expires-in", "84h").returncode == 0


def test_revoked_certificates_are_marked(directory: Path, tmp_path: Path) -> None:
    """`--revoked` lists them; they do not expire."""
    (tmp_path / "ca").mkdir()
    for file in Path("ca").iterdir():
        (tmp_path / "ca" / file.name).write_bytes(file.read_bytes())
    (due,) = rows("audit.log", "--expires-in", "84h")
    assert certlet("revoke", "--yes", due["serial_number"], "--ca", tmp_path / "ca").returncode == 0
    ca = ("--ca", tmp_path / "ca")
    assert rows("audit.log", "--expires-in", "84h", *ca) == []
    assert rows("audit.log", "--revoked", *ca) == [due | {"status": "revoked"}]
    assert [row["status"] for row in rows("audit.log", *ca)].count("revoked") == 1
    assert rows("audit.log", "--revoked") == []


@pytest.mark.parametrize("other", ["ca", "none"])
def test_status_is_unknown_without_the_list_of_the_ca(directory: Path, tmp_path: Path, other: str) -> None:
    """With another CA in ca/, or with none; a certificate that may be revoked is still listed as due."""
    assert certlet("init", other, cwd=tmp_path).returncode == 0
    ca, log = ("--ca", directory / "ca"), directory / "audit.log"
    hint = "the CA in ca did not issue the certificates with the status unknown: pass their CA as --ca"
    if other == "none":
        hint = "without the directory of the CA, the status of certificates is unknown: pass it as --ca"
    run = certlet("list", log, "--json", cwd=tmp_path)
    assert (run.returncode, run.stderr.decode()) == (0, f"note: {hint}\n")
    listed, known = [json.loads(line) for line in run.stdout.splitlines()], rows(log, *ca)
    assert [row["status"] for row in known] == ["replaced", "valid", "valid", "valid"]
    assert [row["status"] for row in listed] == ["replaced", "unknown", "unknown", "unknown"]
    assert [row | {"status": ""} for row in listed] == [row | {"status": ""} for row in known]
    due = ("list", log, "--expires-in", "84h", "--exit-code")
    assert certlet(*due, cwd=tmp_path).returncode == certlet(*due, *ca).returncode == 6
    assert certlet("list", log, "--name", "a*", "--expires-in", "84h", cwd=tmp_path).stderr == b""
    SqliteLedger(tmp_path / "ledger.db", lambda: NOW).close()
    with_ledger = certlet(*due, cwd=tmp_path, env={"CERTLET_LEDGER": "ledger.db"})
    assert (b"unknown" in with_ledger.stdout) == (other == "ca")
    (directory / "ca" / "serial.key").rename(
        tmp_path / "serial.key"
    )  # such a CA cannot know its certificates
    try:
        assert rows(log, *ca) == known
    finally:
        (tmp_path / "serial.key").rename(directory / "ca" / "serial.key")


def test_certificates_revoked_in_the_ledger_are_marked(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the ledger in $CERTLET_LEDGER; a missing ledger is an error, and is not created."""
    (due,) = rows("audit.log", "--expires-in", "84h")
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("CERTLET_LEDGER", str(path))
    run = certlet("list", "audit.log")
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: $CERTLET_LEDGER: {path} does not exist\n")
    assert not path.exists()
    ledger = SqliteLedger(path, lambda: NOW)
    ledger.add_revocation(RevokedCertificate(int(due["serial_number"], 16), NOW.replace(microsecond=0)))
    ledger.close()
    assert rows("audit.log", "--revoked") == [due | {"status": "revoked"}]
    assert rows("audit.log", "--expires-in", "84h") == []


def test_revocation_list_must_be_readable(tmp_path: Path) -> None:
    """With --revoked or --ca, a CA is required; a malformed list is an error in any case."""
    (tmp_path / "log").write_bytes(record(not_after="2999-01-01T00:00:00Z"))
    assert certlet("list", "log").stdout.count(b"unknown") == 1
    for arguments in (["--revoked"], ["--ca", "elsewhere"]):
        run = certlet("list", "log", *arguments)
        assert (run.returncode, run.stdout) == (1, b"")
        assert run.stderr.startswith(b"certlet: no CA in ")
    assert certlet("init", "ca").returncode == 0
    (tmp_path / "ca" / "revoked.yaml").write_text("nonsense")
    run = certlet("list", "log")
    assert (run.returncode, run.stdout) == (1, b"")
    assert b"ca/revoked.yaml" in run.stderr


HOSTILE = ("\x1b[2Jdns:x", "dns:\u202eevil", "dns:line\nbreak", "dns:\ud800")


def hostile_list(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """List a certificate with such names, principal and common name."""
    line = record(
        names=HOSTILE,
        principal="=cmd|' /C calc'!A0",
        common_name="@SUM(1,2)",
        not_after="2999-01-01T00:00:00Z",
    )
    (tmp_path / "log").write_bytes(line)
    return certlet("list", "log", *arguments)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--csv"]])
def test_text_of_the_log_is_escaped(tmp_path: Path, arguments: list[str]) -> None:
    """No control character reaches the terminal, and no line is forged."""
    run = hostile_list(tmp_path, *arguments)
    assert (run.returncode, run.stderr.count(b"\n")) == (0, 1)  # the note on the status
    text = run.stdout.decode()
    assert len(text.splitlines()) == (1 if arguments == ["--json"] else 2)
    assert all(line.isprintable() for line in text.splitlines())


def test_csv_has_no_formulas(tmp_path: Path) -> None:
    """A cell that starts like a formula gets an apostrophe; the other cells are those of JSON."""
    reader = csv.DictReader(io.StringIO(hostile_list(tmp_path, "--csv").stdout.decode()))
    (row,) = reader
    assert (row["principal"], row["common_name"]) == ("'=cmd|' /C calc'!A0", "'@SUM(1,2)")
    assert row["names"].startswith("\\x1b[2Jdns:x ")
    expected = json.loads(hostile_list(tmp_path, "--json").stdout)
    assert reader.fieldnames == list(expected)
    for name in ("not_after", "status", "profile", "serial_number", "time", "fingerprint_sha256"):
        assert row[name] == expected[name]


def test_csv_of_no_certificates_is_a_header(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert certlet("list", "log", "--csv").stdout.startswith(b"not_after,status,profile,")


def test_closed_pipe_is_no_traceback(directory: Path) -> None:
    run = servers.run("sh", "-c", f"{' '.join(servers.CERTLET)} list audit.log | true", cwd=directory)
    assert run.stderr == ""


def test_documented_check_reports_due_certificates(directory: Path, tmp_path: Path) -> None:
    """The check for Nagios on the page: 1 with the certificates, 0 without, 3 if the log cannot be read."""
    page = (servers.ROOT / "docs/how-to/inventory.md").read_text()
    script = page.partition("```sh\n")[2].partition("```")[0].replace("/var/lib/certlet", str(directory))
    program = servers.create_script(tmp_path / "bin" / "certlet")
    path = {"PATH": f"{program.parent}:{servers.environ()['PATH']}"}

    def check(duration: str, files: str = "audit.log*") -> tuple[int, str]:
        text = script.replace("14d", duration).replace("audit.log*", files)
        run = servers.run("sh", "-c", text, env=servers.environ(**path), check=False)
        return run.returncode, run.stdout

    assert check("60h") == (0, "OK: no certificate expires within 14 days\n")
    status, output = check("84h")
    assert (status, output.count("dns:b.example.com")) == (1, 1)
    assert check("60h", "missing.log") == (3, "UNKNOWN: certlet list failed\n")
