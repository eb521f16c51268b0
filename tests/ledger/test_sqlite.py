"""The SQLite file: several processes, killed processes, damaged and foreign files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from service.ledger import sqlite
from service.ledger.sqlite import SqliteLedger
from service.pki import revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.revocation import RevokedCertificate
from tests import servers
from tests.factories import NOW
from tests.ledger import values
from tests.ledger.conftest import Clock
from tests.ledger.values import HOUR

PREAMBLE = """
import sys, dataclasses
from pathlib import Path
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import Conflict
from tests.factories import NOW
from tests.ledger import values
ledger = SqliteLedger(Path(sys.argv[1]), lambda: NOW)
"""


def start(path: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a process of its own, with a ledger."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(path), *arguments],
        cwd=servers.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_files_are_private(path: Path) -> None:
    """The database, its log and its index have mode 0600 under any umask."""
    umask = os.umask(0)
    try:
        ledger = SqliteLedger(path, Clock())
        ledger.add_order(values.order())
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}
        ledger.close()
    finally:
        os.umask(umask)


def test_processes_that_create_the_file_at_once_share_it(path: Path) -> None:
    """Four processes create, migrate and use one new file."""
    script = "print(ledger.add_account(values.account()).id)"
    processes = [start(path, script) for _ in range(4)]
    assert len({output(process) for process in processes}) == 1


def test_nonce_has_one_consumer_among_processes(path: Path) -> None:
    """Three processes consume the same 100 nonces: each nonce has exactly one consumer."""
    SqliteLedger(path, Clock()).close()
    script = "print(*(n for n in range(100) if ledger.consume_nonce(str(n), NOW + values.HOUR)))"
    processes = [start(path, script) for _ in range(3)]
    consumed = Counter(word for process in processes for word in output(process).split())
    assert consumed == {str(number): 1 for number in range(100)}


def test_token_has_one_request_among_processes(path: Path) -> None:
    """Three processes claim the same 100 tokens, each for its own request: each token has exactly one."""
    SqliteLedger(path, Clock()).close()
    script = """
at, end = NOW.replace(microsecond=0), NOW + values.HOUR
print(*(n for n in range(100) if ledger.claim_token("https://a", str(n), sys.argv[2], at, end)))
"""
    processes = [start(path, script, digest) for digest in ("00", "01", "02")]
    claimed = Counter(word for process in processes for word in output(process).split())
    assert claimed == {str(number): 1 for number in range(100)}


def test_no_change_of_processes_is_lost(path: Path) -> None:
    """Two processes change one order 50 times each, and try again after a conflict."""
    ledger, order = SqliteLedger(path, Clock()), values.order()
    ledger.add_order(order)
    script = """
for _ in range(50):
    while True:
        order = ledger.get_order("account", sys.argv[2])
        try:
            ledger.update_order(dataclasses.replace(order, certificate=order.certificate + "x"))
        except Conflict:
            continue
        break
"""
    for process in [start(path, script, order.id) for _ in range(2)]:
        output(process)
    stored = ledger.get_order("account", order.id)
    ledger.close()
    assert stored is not None
    assert (stored.certificate, stored.revision) == ("x" * 100, 100)


def test_change_is_durable_when_the_method_has_returned(path: Path) -> None:
    """A process that is killed (SIGKILL) loses nothing that it had stored, and blocks no other process."""
    script = """
for number in range(10**6):
    ledger.consume_nonce(str(number), NOW + values.HOUR)
    print(number, flush=True)
"""
    process = start(path, script)
    assert process.stdout
    stored = [process.stdout.readline().strip() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    ledger = SqliteLedger(path, Clock())
    for number in [*stored, *rest.splitlines()]:
        assert not ledger.consume_nonce(number, NOW + HOUR)
    assert ledger.consume_nonce("other", NOW + HOUR)
    ledger.close()


def test_issuance_waits_once_for_the_disk(path: Path) -> None:
    """With the certificate. Nonces and orders without one are on disk with the next change."""
    ledger = SqliteLedger(path, Clock())
    statements: list[str] = []
    ledger._database.set_trace_callback(statements.append)
    account = values.account()
    order = values.order(account.id)
    claimed = order.claimed("csr", "holder", NOW)
    completed = replace(claimed, revision=1).completed("holder", "chain")
    deactivated = replace(order, revision=2).deactivated(0)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("FULL", lambda: ledger.add_account(account)),
        ("NORMAL", lambda: ledger.consume_nonce("n", NOW + HOUR)),
        ("NORMAL", lambda: ledger.count("web", (NOW, NOW + HOUR), 1)),
        ("NORMAL", lambda: ledger.mark_replaced("a", order.id, NOW + HOUR)),
        ("NORMAL", lambda: ledger.add_order(order)),
        ("NORMAL", lambda: ledger.update_order(claimed)),
        ("FULL", lambda: ledger.update_order(completed)),
        ("FULL", lambda: ledger.update_order(deactivated)),
        ("FULL", lambda: ledger.claim_token("https://a", "1", "00", NOW, NOW + HOUR)),
        ("FULL", lambda: ledger.add_revocation(RevokedCertificate(1, NOW.replace(microsecond=0)))),
    ]
    for synchronous, call in calls:
        statements.clear()
        call()
        assert statements[0] == f"PRAGMA synchronous = {synchronous}"
        assert statements.count("COMMIT") == 1
    ledger.close()


def test_transaction_of_a_killed_process_is_undone(path: Path) -> None:
    """A process that is killed in the middle of a change leaves no part of it, and no lock."""
    SqliteLedger(path, Clock()).close()
    script = """
ledger._database.execute("BEGIN IMMEDIATE")
ledger._database.execute("INSERT INTO nonce VALUES ('half', 0)")
print("locked", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(path)],
        cwd=servers.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(CAUnavailable):
        SqliteLedger(path, Clock())
    process.kill()
    process.communicate()
    ledger = SqliteLedger(path, Clock())
    assert ledger.consume_nonce("half", NOW + HOUR)
    ledger.close()


def test_ended_rows_are_deleted_in_steps(path: Path) -> None:
    """Each nonce or token deletes some of them, and none that has not ended; accounts and revocations remain."""
    clock = Clock()
    ledger = SqliteLedger(path, clock)
    ledger.add_account(values.account())
    ledger.add_revocation(RevokedCertificate(1, NOW.replace(microsecond=0)))
    for number in range(sqlite._SWEEP + 5):
        ledger.add_order(values.order())
        ledger.consume_nonce(str(number), NOW + HOUR)
        ledger.mark_replaced(str(number), "order", NOW + HOUR)
        ledger.claim_token("https://a", str(number), "00", NOW, NOW + HOUR)
    ledger.add_order(values.order(expires_at=NOW + 3 * HOUR))
    clock.advance(2 * HOUR)

    def counts() -> list[int]:
        tables = ("account", "orders", "nonce", "replaced", "token", "revoked")
        return [ledger._scalar(f"SELECT count(*) FROM {table}") for table in tables]  # noqa: S608 - constants

    ledger.consume_nonce("a", NOW + 3 * HOUR)
    assert counts() == [1, 6, 6, 5, 5, 1]
    ledger.consume_nonce("b", NOW + 3 * HOUR)
    assert counts() == [1, 1, 2, 0, 0, 1]
    ledger.close()


def test_file_from_the_version_before_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps what it has, and can store tokens; the version before then refuses it."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_MIGRATIONS", sqlite._MIGRATIONS[:1])
        ledger, account = SqliteLedger(path, Clock()), values.account()
        ledger.add_account(account)
        ledger.close()
        migrated = SqliteLedger(path, Clock())
        assert migrated._pragma("user_version") == 1
        migrated.close()
    ledger = SqliteLedger(path, Clock())
    assert ledger._pragma("user_version") == len(sqlite._MIGRATIONS)
    assert ledger.get_account(account.id) == account
    assert ledger.claim_token("https://a", "1", "00", NOW, NOW + HOUR) == NOW
    ledger.close()
    monkeypatch.setattr(sqlite, "_MIGRATIONS", sqlite._MIGRATIONS[:1])
    with pytest.raises(CAError, match="newer version"):
        SqliteLedger(path, Clock())


def test_file_from_a_newer_version_is_refused(path: Path) -> None:
    SqliteLedger(path, Clock()).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    with pytest.raises(CAError, match="newer version"):
        SqliteLedger(path, Clock())
    assert path.read_bytes() == before


def test_database_of_another_program_is_refused(path: Path) -> None:
    """It is not changed."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE account (id TEXT)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(CAError, match="another program"):
        SqliteLedger(path, Clock())
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"key " * 1000)
    with pytest.raises(CAError, match="not a SQLite file"):
        SqliteLedger(path, Clock())
    assert path.read_bytes() == b"key " * 1000


def test_missing_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(CAUnavailable):
        SqliteLedger(tmp_path / "missing" / "ledger.db", Clock())


def test_file_that_is_missing_or_replaced_is_unavailable_until_it_is_back(path: Path) -> None:
    """SQLite would go on with the deleted file. No other one is created."""
    SqliteLedger(path, Clock()).close()
    ledger, elsewhere = SqliteLedger(path, Clock(), create=False), path.with_name("elsewhere")
    account = ledger.add_account(values.account())
    path.rename(elsewhere)
    for use in (lambda: ledger.get_account(account.id), lambda: ledger.consume_nonce("a", NOW + HOUR)):
        with pytest.raises(CAUnavailable) as missing:
            use()
        assert str(missing.value.__cause__) == (
            f"{path} is missing: put it back, or stop the server and restore a copy"
        )
    with pytest.raises(CAUnavailable):
        SqliteLedger(path, Clock(), create=False)
    assert not path.exists()
    path.write_bytes(elsewhere.read_bytes())
    with pytest.raises(CAUnavailable) as replaced:
        ledger.load_revoked()
    assert str(replaced.value.__cause__) == f"{path} was replaced: restart the server"
    elsewhere.rename(path)
    assert ledger.get_account(account.id) == account
    assert ledger.consume_nonce("a", NOW + HOUR)
    ledger.close()


def test_file_that_is_damaged_is_unavailable(path: Path) -> None:
    """While it is open, or when it is opened: the cause is in the log."""
    ledger = SqliteLedger(path, Clock())
    for number in range(100):
        ledger.add_order(values.order(str(number)))
    ledger.close()
    ledger = SqliteLedger(path, Clock())
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CAUnavailable) as damaged:
        ledger.add_account(values.account())
    text = f"{path} is damaged: stop the server and restore a copy"
    assert str(damaged.value.__cause__) == text
    ledger.close()
    with pytest.raises(CAError) as again:
        SqliteLedger(path, Clock())
    assert str(again.value) == text


def test_full_disk_is_unavailable_and_loses_nothing(path: Path) -> None:
    """A change that does not fit is undone; when there is space again, changes are possible."""
    ledger = SqliteLedger(path, Clock())
    pages = ledger._pragma("page_count")
    ledger._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    order = values.order(certificate="x" * 50_000)
    with pytest.raises(CAUnavailable):
        ledger.add_order(order)
    assert ledger.get_order("account", order.id) is None
    ledger._database.execute("PRAGMA max_page_count = 100000")
    ledger.add_order(order)
    assert ledger.get_order("account", order.id) == order
    ledger.close()


def test_accounts_and_revocations_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More are refused; what exists is still found."""
    monkeypatch.setattr(sqlite, "MAX_ACCOUNTS", 1)
    monkeypatch.setattr(revocation, "MAX_ENTRIES", 1)
    ledger = SqliteLedger(path, Clock())
    first = ledger.add_account(values.account())
    assert ledger.add_account(values.account()) == first
    with pytest.raises(CAUnavailable, match="maximum"):
        ledger.add_account(values.account("b" * 43))
    at = NOW.replace(microsecond=0)
    assert ledger.add_revocation(RevokedCertificate(1, at))
    assert not ledger.add_revocation(RevokedCertificate(1, at + timedelta(days=1)))
    with pytest.raises(CAUnavailable, match="maximum"):
        ledger.add_revocation(RevokedCertificate(2, at))
    ledger.close()
