"""`certlet doctor`: each finding, its level and its remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from service.cli import check, contexts, doctor
from service.cli.contexts import Context, Contexts
from service.cli.doctor import Level
from service.gateway import sandbox
from service.keystore import ca_directory
from service.pki import encoding
from tests import factories, servers
from tests.cli import certlet, tls_context, write_site
from tests.servers import API_KEY, QuietHandler, Server

NOWHERE = {"CERTLET_URL": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def original_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("doctor") / "ca"
    servers.create_ca(directory)
    return directory


@pytest.fixture
def ca(original_ca: Path, tmp_path: Path) -> Path:
    """A copy of a CA in the directory `ca`, which the test may change."""
    return shutil.copytree(original_ca, tmp_path / "ca")


def findings(status: int, *arguments: str, **env: str) -> list[dict[str, Any]]:
    """Run the command, and return its findings; each that is not OK has a remedy."""
    run = certlet("doctor", "--json", *arguments, env=env or NOWHERE)
    assert (run.returncode, run.stderr) == (status, b""), run
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert all(item["remedy"] for item in found if item["level"] != Level.OK)
    return found


def problems(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(item["level"], item["subject"]) for item in found if item["level"] != Level.OK]


def test_healthy_machine_has_no_finding(server: Server, ca: Path) -> None:
    """It lists versions, the sandbox, the ends of the CA, the clock and the API key."""
    found = findings(0, CERTLET_URL=server.url, CERTLET_API_KEY=API_KEY)
    assert problems(found) == []
    assert [item["subject"] for item in found] == [
        "versions", "usage plan", "sandbox", "CA", "CA", "clock", "service",
    ]  # fmt: skip
    text = certlet("doctor", env={"CERTLET_URL": server.url, "CERTLET_API_KEY": API_KEY}).stdout.decode()
    assert f"Ok        clock: it agrees with that of {server.url}\n" in text
    assert "OpenSSL" in text


def test_client_needs_no_ca(server: Server) -> None:
    """Its wrong key is an error; without a key there is a warning."""
    for key, status, level in (("wrong", 1, "error"), ("", 0, "warning")):
        found = findings(status, CERTLET_URL=server.url, CERTLET_API_KEY=key)
        assert problems(found) == [(level, "service")]
        assert "there is none in ca" in next(item["text"] for item in found if item["subject"] == "CA")
    assert problems(findings(0)) == [("warning", "service")]


@contextmanager
def tls_service(ca: Path, age: timedelta) -> Iterator[str]:
    """A service with a certificate of this age; yield its URL."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            self.reply(200, b'{"profiles": []}')

    write_site(ca, age=age, validity="PT1H")
    with servers.http_server(Handler, tls_context()) as url:
        yield url.replace("127.0.0.1", "localhost")


def test_service_is_trusted_by_the_root_of_login(original_ca: Path) -> None:
    """Without it, or under another name, TLS fails, and the remedy is that of the failure."""
    pem = (original_ca / "root-ca.crt").read_text()
    with tls_service(original_ca, timedelta(minutes=1)) as url:
        failed = findings(1, CERTLET_URL=url, CERTLET_API_KEY=API_KEY)
        assert problems(failed) == [("error", "service")]
        assert failed[-1]["remedy"].startswith("certlet login trusts the root of a service")
        urls = {"a": url, "b": url.replace("localhost", "127.0.0.1")}
        stored = {name: Context(address, pem, API_KEY) for name, address in urls.items()}
        contexts.change(lambda _: Contexts("a", stored))
        assert problems(findings(0, CERTLET_API_KEY="")) == []
        last = findings(1, CERTLET_CONTEXT="b")[-1]
    assert last["remedy"] == "use a name of its certificate in the URL; certlet show HOST:PORT lists them"


@pytest.mark.parametrize("age", [timedelta(days=1), timedelta(days=-1)])
def test_wrong_date_of_the_service_has_another_remedy_than_this_command(
    original_ca: Path, age: timedelta
) -> None:
    env = {"CERTLET_API_KEY": API_KEY, "SSL_CERT_FILE": str(original_ca / "root-ca.crt")}
    with tls_service(original_ca, age) as url:
        *_, last = findings(1, CERTLET_URL=url, **env)
        assert b"certlet doctor" not in certlet("doctor", env=env | {"CERTLET_URL": url}).stdout
    assert (last["level"], "certificate" in last["text"]) == ("error", True)
    assert last["remedy"] == "if the clocks agree, renew the certificate of the server"


def test_file_that_others_can_read_is_found(ca: Path) -> None:
    """The remedy is the command, for the CA's secrets and for those of `certlet login`."""
    (ca / "signing-ca.key").chmod(0o644)
    contexts.change(lambda stored: stored)
    contexts.path().chmod(0o640)
    found = findings(1)
    assert problems(found) == [("error", "file"), ("error", "file"), ("warning", "service")]
    remedies = [item["remedy"] for item in found if item["subject"] == "file"]
    assert remedies == [f"chmod 600 {contexts.path()}", "chmod 600 ca/signing-ca.key"]
    for remedy in remedies:
        servers.run(*remedy.split())
    assert stat.S_IMODE((ca / "signing-ca.key").stat().st_mode) == 0o600
    assert problems(findings(0)) == [("warning", "service")]


def test_end_of_the_ca_is_found(ca: Path) -> None:
    """It is a warning in the last 90 days, and then an error; a time before the start is one of the clock."""
    signing, _ = ca_directory.load_chain(ca)
    end, start = signing.not_valid_after_utc, signing.not_valid_before_utc
    for now, level, subject in (
        (end - timedelta(days=91), Level.OK, "CA"),
        (end - timedelta(days=89), Level.WARNING, "CA"),
        (end + timedelta(seconds=1), Level.ERROR, "CA"),
        (start - timedelta(seconds=1), Level.ERROR, "clock"),
    ):
        finding = doctor._end("CA", signing, now, "rollover")
        assert (finding.level, finding.subject) == (level, subject)
        assert bool(finding.remedy) == (level is not Level.OK)


@pytest.mark.parametrize(("days", "level"), [(91, "ok"), (89, "warning"), (-1, "error")])
def test_end_of_the_root_of_login_is_found(days: int, level: str) -> None:
    """The service need not respond."""
    end = datetime.now(UTC) + timedelta(days=days)
    root = factories.root(start=end - timedelta(days=365), end=end)
    context = Context(NOWHERE["CERTLET_URL"], encoding.encode_pem([root]), API_KEY)
    contexts.change(lambda _: Contexts("a", {"a": context}))
    (finding,) = [item for item in findings(int(days < 0), CERTLET_URL="") if item["subject"] == "root"]
    assert finding["level"] == level
    assert ("run certlet login" in finding["remedy"]) == (level != "ok")


def test_api_key_that_ends_is_found(ca: Path) -> None:
    """It names the key and the command that creates another one."""
    for name, validity in (("soon", "13d"), ("later", "15d")):
        assert certlet("api-key", "add", name, "--expires", validity).returncode == 0
    (finding,) = [item for item in findings(0) if item["subject"] == "API key"]
    assert " of soon ends at " in finding["text"]
    assert finding["remedy"] == "certlet api-key add soon creates another one"


def test_damaged_ca_is_an_error(ca: Path) -> None:
    """A chain in the wrong order, a file that is no certificate, and damaged API keys are found."""
    (ca / "api-keys.json").write_text("{")
    assert ("error", "CA") in problems(findings(1))
    (ca / "api-keys.json").unlink()
    (ca / "signing-ca.crt").write_text("junk")
    assert ("error", "CA") in problems(findings(1))


@pytest.mark.parametrize(("method", "name"), [("lstat", "root-ca.crt"), ("read_bytes", "revoked.yaml")])
def test_ca_without_permission_is_a_finding(
    ca: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str
) -> None:
    """The directory, or a file of it. The service is examined, too."""
    original = getattr(Path, method)

    def refuse(path: Path) -> object:  # root, who may run the tests, has every permission
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path)

    monkeypatch.setattr(Path, method, refuse)
    found = findings(1)
    assert problems(found) == [("error", "CA"), ("warning", "service")]
    (finding,) = [item for item in found if item["level"] == "error"]
    assert finding["text"] == f"ca/{name}: Permission denied"
    assert finding["remedy"] == "run certlet doctor as the user of certlet serve"
    assert certlet("check").returncode == 4


def test_remedy_of_a_wrong_passphrase_is_another_one(ca: Path) -> None:
    """That of a key of another CA is the backup."""
    env = NOWHERE | {"CERTLET_CA_PASSPHRASE": "x"}
    (finding,) = [item for item in findings(1, **env) if item["level"] == "error"]
    assert finding["remedy"].startswith(
        "correct CERTLET_CA_PASSPHRASE, or restore the file from your backup ("
    )
    (ca / "signing-ca.key").write_bytes((ca / "root-ca.key").read_bytes())
    (finding,) = [item for item in findings(1) if item["level"] == "error"]
    assert finding["remedy"].startswith("restore the file from your backup (")


def test_problems_of_check_are_found(ca: Path) -> None:
    """Its remedy in parentheses becomes that of the finding."""
    (ca / "serial.key").unlink()
    (finding,) = [item for item in findings(0) if item["subject"] == "ca/serial.key"]
    assert finding["level"] == "warning"
    assert finding["remedy"] == "certlet rotate-serial-key creates it"
    assert finding["text"].startswith("does not exist")
    assert Path("ca/serial.key") in dict(check.find_ca_problems(Path("ca")))


def test_missing_landlock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "is_supported", lambda: False)
    assert ("warning", "sandbox") in problems(findings(0))


@pytest.mark.parametrize(("seconds", "is_wrong"), [(30, False), (-30, False), (90, True), (-7200, True)])
def test_clock_is_compared_with_the_service(seconds: int, *, is_wrong: bool) -> None:
    """More than a minute is an error, which says which clock is ahead."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            self.reply(401, b"{}")

        def date_time_string(self, _: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)

    with servers.http_server(Handler) as url:
        found = findings(int(is_wrong), CERTLET_URL=url, CERTLET_API_KEY="")
    assert (("error", "clock") in problems(found)) == is_wrong
    if is_wrong:
        (clock,) = [item for item in found if item["subject"] == "clock"]
        relation = "1 minute behind" if seconds > 0 else "2 hours ahead of"  # 1 hour 59, if a second passes
        time = "[0-9-]+T[0-9:]+Z"
        assert re.fullmatch(
            rf"this machine's \({time}\) is {relation} that of {url} \({time}\)", clock["text"]
        )


def test_urls_in_certificates_are_requested(tmp_path: Path) -> None:
    """Verifiers fetch the CRL and OCSP responses there."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            self.reply(200, b"")

    with servers.http_server(Handler) as url:
        assert certlet("init", "ca", "--url", url).returncode == 0
        found = [item for item in findings(0) if item["subject"] == "URL in certificates"]
        assert found
        assert {item["level"] for item in found} == {"ok"}
    found = [item for item in findings(0) if item["subject"] == "URL in certificates"]
    assert {item["level"] for item in found} == {"warning"}
    assert all(item["text"].endswith(" does not respond") for item in found)
