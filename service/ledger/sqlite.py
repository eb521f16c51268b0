"""A ledger in a SQLite file, for the processes of one machine.

Write-ahead logging lets processes read while one writes. Each change is a transaction, which no killed
process loses. It is on disk when the method returns, with four exceptions: a used nonce, a new order with its
count, the mark of a replaced certificate, and an order that is being finalized. They are on disk with the
next other change, such as the order's certificate.

So a power failure loses no certificate that a client received. The client of a lost order creates another
one. An order that was being finalized may be ready again: its next certificate is another one, and the audit
log has both.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from service.ledger import records
from service.ledger_protocol import MAX_LISTED, Account, Conflict, KeyInUse, Order, OrderStatus
from service.pki import encoding, revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.revocation import RevokedCertificate

BUSY_TIMEOUT: Final = 2.0  # seconds to wait for another process that writes
MAX_ACCOUNTS: Final = 100_000
_APPLICATION_ID: Final = 0x43_74_6C_74  # "Ctlt", in the header of the file
_PRIMARY_CODE: Final = 0xFF  # of SQLite's extended error codes
_UNAVAILABLE: Final = "the ledger is not available"  # clients see this text
_RESTORE: Final = "stop the server and restore a copy"
_SWEEP: Final = 20  # ended rows that a request deletes from each table: more than it adds

# Each element changes the schema from its index to the next version (PRAGMA user_version).
_MIGRATIONS: Final = (
    """
    CREATE TABLE account (
        id TEXT PRIMARY KEY, thumbprint TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, body TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE orders (
        account TEXT NOT NULL, id TEXT NOT NULL, expires_at REAL NOT NULL, revision INTEGER NOT NULL,
        body TEXT NOT NULL, PRIMARY KEY (account, id)
    );
    CREATE TABLE nonce (id TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE deleted_nonce (last_end REAL NOT NULL);
    INSERT INTO deleted_nonce VALUES (0);
    CREATE TABLE order_count (
        principal TEXT NOT NULL, period_start REAL NOT NULL, expires_at REAL NOT NULL,
        number INTEGER NOT NULL, PRIMARY KEY (principal, period_start)
    ) WITHOUT ROWID;
    CREATE TABLE replaced (
        id TEXT PRIMARY KEY, order_id TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE revoked (
        number INTEGER PRIMARY KEY, serial_number TEXT NOT NULL UNIQUE, entry TEXT NOT NULL
    );
    CREATE INDEX order_end ON orders (expires_at);
    CREATE INDEX nonce_end ON nonce (expires_at);
    CREATE INDEX order_count_end ON order_count (expires_at);
    CREATE INDEX replaced_end ON replaced (expires_at)
    """,
    """
    CREATE TABLE token (
        id TEXT PRIMARY KEY, digest TEXT NOT NULL, issued_at TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX token_end ON token (expires_at)
    """,
)
_ACCOUNT_BY_ID: Final = "SELECT body FROM account WHERE id = ?"
_ACCOUNT_BY_THUMBPRINT: Final = "SELECT body FROM account WHERE thumbprint = ?"
_SWEEPS: Final = (
    """DELETE FROM orders WHERE (account, id) IN
       (SELECT account, id FROM orders WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)""",
    """UPDATE deleted_nonce SET last_end = ended.last FROM
       (SELECT max(expires_at) AS last FROM
       (SELECT expires_at FROM nonce WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)) AS ended
       WHERE ended.last > last_end""",
    """DELETE FROM nonce WHERE id IN
       (SELECT id FROM nonce WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)""",
    """DELETE FROM order_count WHERE (principal, period_start) IN
       (SELECT principal, period_start FROM order_count WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)""",
    """DELETE FROM replaced WHERE id IN
       (SELECT id FROM replaced WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)""",
    """DELETE FROM token WHERE id IN
       (SELECT id FROM token WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)""",
)


class SqliteLedger:
    """`service.ledger_protocol.Ledger` in a file, for the threads of one process."""

    def __init__(self, path: Path, clock: Callable[[], datetime], *, create: bool = True) -> None:
        """Open the ledger. A forked process must create its own object.

        Args:
            path: the file.
            clock: returns the current time, UTC.
            create: create the file, with mode 0600, if it does not exist.

        Raises:
            CAError: the file is not a ledger or damaged, or a newer version wrote it.
            CAUnavailable: the file cannot be opened or created.
        """
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._last_end = 0.0  # the latest end of a nonce that was deleted
        self._revoked: tuple[int, Mapping[int, RevokedCertificate]] = (0, {})
        with self._translated_errors():
            if create:
                _create_file(path)
            self._file = _identify(path)
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            try:
                self._migrate()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _migrate(self) -> None:
        version, application = self._pragma("user_version"), self._pragma("application_id")
        is_empty = version == application == 0 and not self._scalar("SELECT count(*) FROM sqlite_master")
        if not is_empty and application != _APPLICATION_ID:
            raise CAError(f"{self._path} is not a ledger: it is a database of another program")
        self._database.execute("PRAGMA journal_mode = WAL")
        with self._transaction():
            version = self._pragma("user_version")  # another process may have changed it
            if version > len(_MIGRATIONS):
                raise CAError(f"{self._path} was written by a newer version of Certlet: update this one")
            for statement in ";".join(_MIGRATIONS[version:]).split(";"):
                self._database.execute(statement)
            if version < len(_MIGRATIONS):
                self._database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def add_account(self, account: Account) -> Account:
        """As in the protocol. At most `MAX_ACCOUNTS` are stored."""
        body = records.encode(account)
        with self._change():
            if existing := self._find_account(_ACCOUNT_BY_THUMBPRINT, account.thumbprint):
                return existing
            if self._scalar("SELECT count(*) FROM account") >= MAX_ACCOUNTS:
                raise CAUnavailable(f"the ledger has {MAX_ACCOUNTS} accounts, the maximum")
            row = (account.id, account.thumbprint, account.revision, body)
            self._database.execute("INSERT INTO account VALUES (?, ?, ?, ?)", row)
        return account

    def get_account(self, account_id: str) -> Account | None:
        """As in the protocol."""
        with self._read():
            return self._find_account(_ACCOUNT_BY_ID, account_id)

    def find_account(self, thumbprint: str) -> Account | None:
        """As in the protocol."""
        with self._read():
            return self._find_account(_ACCOUNT_BY_THUMBPRINT, thumbprint)

    def _find_account(self, query: str, value: str) -> Account | None:
        body = self._scalar(query, value)
        return records.decode_account(body) if body else None

    def update_account(self, account: Account) -> Account:
        """As in the protocol."""
        stored = replace(account, revision=account.revision + 1)
        row = (stored.thumbprint, stored.revision, records.encode(stored), account.id, account.revision)
        with self._change():
            try:
                changed = self._database.execute(
                    "UPDATE account SET thumbprint = ?, revision = ?, body = ? WHERE id = ? AND revision = ?",
                    row,
                ).rowcount
            except sqlite3.IntegrityError as error:
                raise KeyInUse("another account has this key") from error
            if not changed:
                raise Conflict("the account was changed")
        return stored

    def add_order(self, order: Order) -> None:
        """As in the protocol."""
        row = (order.account, order.id, order.expires_at.timestamp(), order.revision, records.encode(order))
        with self._change("NORMAL"):
            self._database.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", row)

    def get_order(self, account_id: str, order_id: str) -> Order | None:
        """As in the protocol."""
        query = "SELECT body FROM orders WHERE account = ? AND id = ? AND expires_at > ?"
        with self._read():
            body = self._scalar(query, account_id, order_id, self._now())
        return records.decode_order(body) if body else None

    def update_order(self, order: Order) -> Order:
        """As in the protocol."""
        stored = replace(order, revision=order.revision + 1)
        row = (stored.expires_at.timestamp(), stored.revision, records.encode(stored))
        key = (order.account, order.id, order.revision, self._now())
        with self._change("NORMAL" if order.status is OrderStatus.PROCESSING else "FULL"):
            changed = self._database.execute(
                "UPDATE orders SET expires_at = ?, revision = ?, body = ? "
                "WHERE account = ? AND id = ? AND revision = ? AND expires_at > ?",
                row + key,
            ).rowcount
            if not changed:
                raise Conflict("the order was changed, or has ended")
        return stored

    def list_orders(self, account_id: str, after: str = "") -> Sequence[str]:
        """As in the protocol."""
        query = "SELECT id FROM orders WHERE account = ? AND id > ? AND expires_at > ? ORDER BY id LIMIT ?"
        with self._read():
            rows = self._database.execute(query, (account_id, after, self._now(), MAX_LISTED)).fetchall()
        return [order_id for (order_id,) in rows]

    def consume_nonce(self, nonce: str, expires_at: datetime) -> bool:
        """As in the protocol.

        After a power failure, the nonce of a request whose change is not on disk may be used again.
        """
        with self._change("NORMAL"):
            self._delete_ended()
            self._last_end = self._scalar("SELECT last_end FROM deleted_nonce")
            if expires_at.timestamp() <= self._last_end:  # the clock was set forward, and back
                return False
            statement = "INSERT OR IGNORE INTO nonce VALUES (?, ?)"
            return self._database.execute(statement, (nonce, expires_at.timestamp())).rowcount == 1

    def is_consumed(self, nonce: str) -> bool:
        """As in the protocol."""
        with self._read():
            return bool(self._scalar("SELECT 1 FROM nonce WHERE id = ?", nonce))

    def earliest_nonce(self) -> datetime:
        """As in the protocol."""
        return datetime.fromtimestamp(self._last_end, UTC)

    def count(self, principal: str, period: tuple[datetime, datetime], limit: int) -> bool:
        """As in the protocol."""
        start, end = (time.timestamp() for time in period)
        statement = (
            "INSERT INTO order_count SELECT ?, ?, ?, 1 WHERE ? > 0 ON CONFLICT DO UPDATE "
            "SET number = number + 1 WHERE number < ?"
        )
        with self._change("NORMAL"):
            return self._database.execute(statement, (principal, start, end, limit, limit)).rowcount == 1

    def mark_replaced(self, certificate_id: str, order_id: str, until: datetime) -> bool:
        """As in the protocol."""
        with self._change("NORMAL"):
            statement = (
                "INSERT INTO replaced VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
                "SET order_id = excluded.order_id, expires_at = excluded.expires_at "
                "WHERE order_id = excluded.order_id OR expires_at <= ?"
            )
            row = (certificate_id, order_id, until.timestamp(), self._now())
            return self._database.execute(statement, row).rowcount == 1

    def claim_token(
        self, issuer: str, token_id: str, digest: str, issued_at: datetime, expires_at: datetime
    ) -> datetime | None:
        """As in the protocol."""
        statement = (
            "INSERT INTO token VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, "
            "issued_at = excluded.issued_at, expires_at = excluded.expires_at WHERE expires_at <= ?"
        )
        key = records.identify_token(issuer, token_id)
        row = (key, digest, issued_at.isoformat(), expires_at.timestamp())
        with self._change():
            self._delete_ended()
            self._database.execute(statement, (*row, self._now()))
            first = self._scalar("SELECT issued_at FROM token WHERE id = ? AND digest = ?", key, digest)
        return datetime.fromisoformat(first) if first else None

    def add_revocation(self, entry: RevokedCertificate) -> bool:
        """As in the protocol. At most `revocation.MAX_ENTRIES` are stored."""
        row = (encoding.format_serial(entry.serial_number), revocation.format_entry(entry))
        with self._change():
            if self._scalar("SELECT 1 FROM revoked WHERE serial_number = ?", row[0]):
                return False
            if (self._scalar("SELECT max(number) FROM revoked") or 0) >= revocation.MAX_ENTRIES:
                raise CAUnavailable(
                    f"the ledger has {revocation.MAX_ENTRIES} revoked certificates, the maximum"
                )
            self._database.execute("INSERT INTO revoked (serial_number, entry) VALUES (?, ?)", row)
        return True

    def load_revoked(self) -> Mapping[int, RevokedCertificate]:
        """As in the protocol. The list only grows, so only new entries are read."""
        query = "SELECT number, entry FROM revoked WHERE number > ? ORDER BY number"
        with self._read():
            last, entries = self._revoked
            if rows := self._database.execute(query, (last,)).fetchall():
                added = revocation.parse_canonical("".join(entry for _, entry in rows))
                if isinstance(added, int):
                    raise CAError(f"{self._path}: a revoked certificate is malformed")
                self._revoked = (rows[-1][0], {**entries, **added})
            return self._revoked[1]

    @contextlib.contextmanager
    def _read(self) -> Iterator[None]:
        """Use the file; a fault of it ends when the operator has repaired it."""
        with self._lock:
            try:
                with self._translated_errors():
                    self._verify_file()
                    yield
            except CAUnavailable:
                raise
            except CAError as error:
                raise CAUnavailable(_UNAVAILABLE) from error

    def _verify_file(self) -> None:
        """Verify that the path names the file that is open, since SQLite goes on with a deleted one."""
        try:
            is_open = _identify(self._path) == self._file
        except FileNotFoundError as error:
            raise CAError(f"{self._path} is missing: put it back, or {_RESTORE}") from error
        if not is_open:
            raise CAError(f"{self._path} was replaced: restart the server")

    @contextlib.contextmanager
    def _change(self, synchronous: str = "FULL") -> Iterator[None]:
        """Change rows in a transaction."""
        with self._read(), self._transaction(synchronous):
            yield

    def _delete_ended(self) -> None:
        """Delete some rows that have ended, once in each request."""
        now = self._now()
        for statement in _SWEEPS:
            self._database.execute(statement, (now, _SWEEP))

    @contextlib.contextmanager
    def _transaction(self, synchronous: str = "FULL") -> Iterator[None]:
        """Hold the lock of writers from the start, so that no statement fails later for want of it."""
        self._database.execute(f"PRAGMA synchronous = {synchronous}")
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite itself ends it if the disk is full
                self._database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
            if code == sqlite3.SQLITE_NOTADB:
                raise CAError(
                    f"{self._path} is not a SQLite file: name another, or restore a copy"
                ) from error
            if code == sqlite3.SQLITE_CORRUPT:
                raise CAError(f"{self._path} is damaged: {_RESTORE}") from error
            raise CAUnavailable(_UNAVAILABLE) from error

    def _now(self) -> float:
        return self._clock().timestamp()

    def _pragma(self, name: str) -> int:
        return int(self._database.execute(f"PRAGMA {name}").fetchone()[0])

    def _scalar(self, query: str, *values: object) -> Any:  # noqa: ANN401 - a value of any column
        row = self._database.execute(query, values).fetchone()
        return row and row[0]


def _identify(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _create_file(path: Path) -> None:
    """Create the file if it does not exist: SQLite gives its other files the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    os.close(descriptor)
