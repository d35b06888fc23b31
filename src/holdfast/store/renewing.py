"""A new journal in the place of one that turned out to be damaged while it was in use.

The gateway goes on working on what it has in memory. So every row it works on is in the new
journal, under its old number, whatever became of its page in the old one; of the rest, what can
still be read is taken along.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from holdfast.errors import StoreError
from holdfast.store.aside import rename
from holdfast.store.mending import OPEN
from holdfast.store.opening import COMPANIONS, Lock, Note, Place, connect, create, examine
from holdfast.store.protocol import Box, Owed, Received
from holdfast.store.rows import pack

log = logging.getLogger("holdfast.journal")

SETTLED_TAKEN: Final = 10_000
"""Newest rows of each box that are taken along even if settled: repetitions of them are the most
likely ones, and more would keep intake waiting for longer than about a second."""

NEW: Final = ".new"
"""Suffix of a journal that is not complete."""

_LISTS: Final = ("cursors", "memory", "history", "gaps")


class Working:
    """The rows the gateway works on, as it knows them."""

    def __init__(self) -> None:
        self._received: dict[int, Received] = {}
        self._owed: dict[int, Owed] = {}

    def add(self, rows: Iterable[Received | Owed]) -> None:
        """The gateway has these rows."""
        for row in rows:
            if isinstance(row, Received):
                self._received[row.row] = row
            else:
                self._owed[row.row] = row

    def end(self, box: Box, row: int) -> None:
        """It has done with this one."""
        rows: dict[int, Received] | dict[int, Owed]
        rows = self._received if box is Box.INBOX else self._owed
        rows.pop(row, None)

    def write(self, db: sqlite3.Connection) -> None:
        """Insert those that are missing."""
        db.executemany(
            "INSERT OR IGNORE INTO inbox (id, account, message, chat, payload, state, attempts,"
            " received_at, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    *(r.row, r.account, r.message.id, r.message.chat, pack(r.message), r.state),
                    *(r.attempts, r.received_at, r.reason),
                )
                for r in self._received.values()
            ),
        )
        db.executemany(
            "INSERT OR IGNORE INTO outbox (id, account, key, chat, payload, state, attempts,"
            " not_before, created_at, maybe_doubled, reason) VALUES"
            " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    *(o.row, o.account, o.message.key, o.message.chat, pack(o.message), o.state),
                    *(o.attempts, o.not_before, o.created_at, o.maybe_doubled, o.reason),
                )
                for o in self._owed.values()
            ),
        )


def renew(place: Place, lock: Lock, working: Working, now: float) -> Path | None:
    """Set a damaged journal aside and put a new one in its place; the old one's new name.

    None when the whole file was looked through and nothing is wrong with it. Nobody else may use
    the journal meanwhile. Raises StoreError, sqlite3.Error and OSError; then it is as it was.
    """
    try:
        examine(place, lock)
    except StoreError as error:
        if error.code != "store_damaged":
            raise
        log.error("journal damaged, a new one begins file=%s error=%s", place.path, error.problem)
    else:
        lock.forget(Note.DAMAGED)
        log.warning("journal met damage that is not in its file file=%s", place.path)
        return None
    new = Place(path=place.path.with_name(place.path.name + NEW), busy_timeout=place.busy_timeout)
    for suffix in ("", *COMPANIONS):
        new.path.with_name(new.path.name + suffix).unlink(missing_ok=True)
    create(new, lock)
    with closing(connect(new)) as db:
        db.execute("BEGIN IMMEDIATE")
        _take_along(place, db)
        working.write(db)
        db.execute("COMMIT")
    aside = rename(place.path, now, lock)
    new.path.rename(place.path)
    lock.note(Note.MADE)
    return aside


def _take_along(place: Place, db: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error), closing(connect(place, read_only=True)) as old:
        for table in _LISTS:
            _copy(db, table, _readable(old, f"SELECT * FROM {table}"))
        for box in Box:
            newest = f"SELECT * FROM {box} ORDER BY id DESC LIMIT {SETTLED_TAKEN}"
            for query in (newest, f"SELECT * FROM {box} WHERE {OPEN[box]}"):
                _copy(db, box, _readable(old, query))


def _readable(db: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    """What is found up to the first damage."""
    found = []
    with suppress(sqlite3.Error):
        for row in db.execute(query):
            found.append(row)  # noqa: PERF402 - what was found before an error counts
    return found


def _copy(db: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        # What damage made of a row may be nothing that a table takes.
        with suppress(sqlite3.IntegrityError, UnicodeError):
            places = ", ".join("?" * len(row))
            db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", row)
