"""Which message ids the inbox knows, at a cost that does not grow with their number.

An index over ids in random order, as most platforms make them, costs a page of the file for each
message. So ids are found by a 64-bit hash, and the newest are kept in memory: the table `known`
takes them over sorted, several thousand at a time, so that one page takes many.

A hash only names rows to look at; what makes a message known is its whole id in the inbox. So a
collision costs a look, and hashes of rows that do not exist (any more) are harmless. Missing ones
would not be: everything above the row number ``known_upto`` is read into memory when the file is
opened, and the number rises in the transaction that completes the table up to it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

RECENT = 65_536
"""Ids kept in memory before the table takes them over: about 4 MB, and at 1,000,000 rows five of
them share a page. A start reads so many rows, in about 0.2 s."""

SHARE = 4
"""Ids the table takes over for each message stored meanwhile, until it has them all."""

_ALL = "SELECT id, account, message FROM inbox"
_ASK = (
    "SELECT 1 FROM known JOIN inbox ON inbox.id = known.id"
    " WHERE known.hash = ? AND inbox.account = ? AND inbox.message = ?"
)
_LOOK = "SELECT 1 FROM inbox WHERE id = ? AND account = ? AND message = ?"
_TAKE = "INSERT OR IGNORE INTO known VALUES (?, ?)"


class Known:
    """The known ids of one journal. Only for the thread that writes.

    Statements take effect with the transaction of their caller. When that is rolled back, memory
    may hold too much, which is harmless; when the connection is given up, it is read anew.
    """

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._key = b""
        self._recent: dict[int, int] = {}
        self._twins: dict[int, list[int]] = {}
        """Further rows of a hash in `_recent`: collisions, and what followed a rolled back row."""
        self._moving: Iterator[int] | None = None
        self._upto = 0

    def missing(self, db: sqlite3.Connection, account: str, message: str) -> int | None:
        """The hash under which to `add` a message; None when the inbox has it."""
        self._follow(db)
        number = hashed(self._key, account, message)
        for row in self._rows(number):
            if db.execute(_LOOK, (row, account, message)).fetchone():
                return None
        return None if db.execute(_ASK, (number, account, message)).fetchone() else number

    def add(self, number: int, row: int) -> None:
        """The message with this hash is in the inbox now."""
        if self._recent.setdefault(number, row) != row:
            self._twins.setdefault(number, []).append(row)

    def move(self, db: sqlite3.Connection, stored: int) -> None:
        """Let the table take over its share, after so many messages were stored.

        Must come last in its transaction's part: what it took is not in memory for long.
        """
        if self._moving is None:
            if len(self._recent) < RECENT or not stored:
                return
            # Not the largest in memory: that may have been rolled back, and its number come again.
            (self._upto,) = db.execute("SELECT max(id) FROM inbox").fetchone()
            self._moving = iter(sorted(self._recent))
        share = list(islice(self._moving, SHARE * stored))
        try:
            db.executemany(_TAKE, [(n, row) for n in share for row in self._rows(n)])
            if len(share) < SHARE * stored:
                self._moved(db)
        except BaseException:
            self._db = None
            raise

    def forget(self, db: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
        """Rows (number, account, message id) leave the inbox."""
        self._follow(db)
        gone = sorted((hashed(self._key, account, id), row) for row, account, id in rows)
        db.executemany("DELETE FROM known WHERE hash = ? AND id = ?", gone)
        if self._moving is not None:
            return  # the table takes them over for nothing
        for number, row in gone:
            if self._recent.get(number) == row and number not in self._twins:
                del self._recent[number]

    def _rows(self, number: int) -> tuple[int, ...]:
        row = self._recent.get(number)
        return () if row is None else (row, *self._twins.get(number, ()))

    def _moved(self, db: sqlite3.Connection) -> None:
        upto, old = self._upto, self._recent
        late = [(n, row) for n, rows in self._twins.items() for row in rows if old[n] <= upto]
        db.executemany(_TAKE, late)
        db.execute("UPDATE settings SET value = ? WHERE name = 'known_upto'", (upto,))
        self._recent = {number: row for number, row in old.items() if row > upto}
        self._twins = {n: rows for n, rows in self._twins.items() if n in self._recent}
        self._moving = None

    def _follow(self, db: sqlite3.Connection) -> None:
        """Read what the table lacks, when the connection is a new one."""
        if self._db is db:
            return
        self._key, upto = _settings(db)
        self._recent, self._twins, self._moving = {}, {}, None
        for row, account, message in db.execute(f"{_ALL} WHERE id > ?", (upto,)):
            self.add(hashed(self._key, account, message), row)
        self._db = db


def learn(db: sqlite3.Connection) -> None:
    """Fill the table from the inbox: for a file of an older version, or filled by other means."""
    key, _ = _settings(db)
    known = sorted((hashed(key, account, id), row) for row, account, id in db.execute(_ALL))
    db.executemany(_TAKE, known)
    db.execute(
        "UPDATE settings SET value = (SELECT coalesce(max(id), 0) FROM inbox)"
        " WHERE name = 'known_upto'"
    )


def hashed(key: bytes, account: str, message: str) -> int:
    """64 bits, signed as SQLite's integers are. Nobody outside can aim at a collision."""
    name = f"{account}\0{message}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=key).digest(), signed=True)


def _settings(db: sqlite3.Connection) -> tuple[bytes, int]:
    found = dict(db.execute("SELECT name, value FROM settings").fetchall())
    return bytes(found["known_key"]), int(found["known_upto"])
