"""The file of the history: SQLite, asked by calls that block; `history` makes them on threads."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast.legible import encoded
from holdfast.observe.incidents import HOUR, MINUTE, Action, Batch, End, Incident, Piece, Spent

log = logging.getLogger("holdfast.history")

LIMIT = 5.0
"""Seconds a call may take; a disk that hangs must not hold up whoever looks at a page."""

KEPT = {MINUTE: 24 * 3_600.0, HOUR: 91 * 86_400.0}
"""Seconds for which pieces of a size are kept: the page shows an hour and 90 days."""

INCIDENTS_KEPT = 1_000
"""Incidents kept of each account; eleven a day for 91 days."""

ACTIONS_KEPT = 10_000
"""Actions kept in all."""

VERSION = 1
"""``user_version`` of the file."""

SCHEMA = f"""
BEGIN;
CREATE TABLE incidents (
  number INTEGER PRIMARY KEY, account TEXT NOT NULL, since REAL NOT NULL,
  open INTEGER NOT NULL, document BLOB NOT NULL
);
CREATE INDEX incidents_of ON incidents (account, number);
CREATE INDEX incidents_open ON incidents (number) WHERE open;
CREATE TABLE uptime (
  account TEXT NOT NULL, size INTEGER NOT NULL, start INTEGER NOT NULL,
  up REAL NOT NULL, down REAL NOT NULL, off REAL NOT NULL,
  PRIMARY KEY (account, size, start)
) WITHOUT ROWID;
CREATE TABLE actions (id INTEGER PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE seen (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL);
PRAGMA user_version = {VERSION};
COMMIT;
"""
"""Of a new file; incidents and actions are JSON, so that a new field needs no new version."""


def open_file(path: Path, now: float) -> tuple[HistoryFile, int]:
    """The file at ``path``; one that is damaged or of another version is renamed before."""
    try:
        return begun(str(path))
    except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
        if isinstance(error, sqlite3.OperationalError):  # no disk, no permission: no damage
            raise
        aside = path.with_name(f"{path.name}.damaged-{int(now)}")
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        log.error("history was set aside as %s: %s", aside.name, error)
        return begun(str(path))


def begun(name: str) -> tuple[HistoryFile, int]:
    """An open file, and the number of its newest incident."""
    file = HistoryFile(name)
    try:
        return file, file.begin()
    except BaseException:
        file.close()
        raise


class HistoryFile:
    """The calls that block; one at a time. All raise sqlite3.Error."""

    def __init__(self, name: str) -> None:
        self._one = threading.Lock()
        if name != ":memory:":
            Path(name).touch(mode=0o600)
        self._db = sqlite3.connect(
            name, timeout=LIMIT, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"its version is {version}, not {VERSION}")
        self._db.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last seconds of the history, never its file.
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Idempotent."""
        with self._one:
            self._db.close()

    def begin(self) -> int:
        """End the incidents that a former process left open; the newest incident's number."""
        with self._one, self._transaction():
            row = self._db.execute("SELECT at FROM seen").fetchone()
            left = self._db.execute("SELECT document FROM incidents WHERE open").fetchall()
            for (document,) in left:
                incident = msgspec.json.decode(document, type=Incident)
                until = max(incident.since, row[0]) if row else incident.since
                self._put(msgspec.structs.replace(incident, until=until, end=End.UNSEEN))
            (number,) = self._db.execute("SELECT max(number) FROM incidents").fetchone()
            return number or 0

    def write(self, batch: Batch, now: float) -> None:
        """Add a batch."""
        with self._one, self._transaction():
            for incident in batch.incidents.values():
                self._put(incident)
            self._db.executemany(
                "INSERT INTO actions (document) VALUES (?)",
                [(encoded(action),) for action in batch.actions],
            )
            self._db.executemany(
                "INSERT INTO uptime VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET up = up + excluded.up, down = down + excluded.down, off = off + excluded.off",
                [_row(piece, spent) for piece, spent in batch.pieces.items()],
            )
            self._db.execute("INSERT OR REPLACE INTO seen VALUES (1, ?)", (now,))

    def prune(self, now: float) -> None:
        """Forget what is too old or too much."""
        with self._one, self._transaction():
            for size, seconds in KEPT.items():
                self._db.execute(
                    "DELETE FROM uptime WHERE size = ? AND start < ?", (size, int(now - seconds))
                )
            self._db.execute(
                "DELETE FROM incidents WHERE number IN (SELECT number FROM (SELECT number,"
                " row_number() OVER (PARTITION BY account ORDER BY number DESC) AS place"
                " FROM incidents) WHERE place > ?)",
                (INCIDENTS_KEPT,),
            )
            self._db.execute(
                "DELETE FROM actions WHERE id <= (SELECT max(id) FROM actions) - ?",
                (ACTIONS_KEPT,),
            )

    def incidents(self, account: str | None, since: float, limit: int) -> list[Incident]:
        """See `History.incidents`; an incident's end is in its document."""
        where, given = ("WHERE account = ?", (account,)) if account is not None else ("", ())
        with self._one:
            rows = self._db.execute(
                f"SELECT document FROM incidents {where} ORDER BY number DESC LIMIT ?",
                (*given, limit),
            ).fetchall()
        found = [msgspec.json.decode(document, type=Incident) for (document,) in reversed(rows)]
        return [one for one in found if one.until is None or one.until >= since]

    def uptime(self, account: str, size: int, since: int) -> dict[int, Spent]:
        """Seconds by the start of their piece."""
        with self._one:
            rows = self._db.execute(
                "SELECT start, up, down, off FROM uptime"
                " WHERE account = ? AND size = ? AND start >= ?",
                (account, size, since),
            ).fetchall()
        return {start: Spent(up, down, off) for start, up, down, off in rows}

    def actions(self, limit: int) -> list[Action]:
        """See `History.actions`."""
        with self._one:
            rows = self._db.execute(
                "SELECT document FROM actions ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [msgspec.json.decode(document, type=Action) for (document,) in reversed(rows)]

    def _put(self, incident: Incident) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?)",
            (
                incident.number,
                incident.account,
                incident.since,
                incident.until is None,
                encoded(incident),
            ),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _row(piece: Piece, spent: Spent) -> tuple[str, int, int, float, float, float]:
    return piece.account, piece.size, piece.start, spent.up, spent.down, spent.off
