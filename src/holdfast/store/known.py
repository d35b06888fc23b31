"""Which ids a box of the journal knows, at a cost that does not grow with their number.

An index over ids in no order, as most platforms make them and as our own keys are, costs a page of
the file for each message. So ids are found by a 64-bit hash. The newest hashes are in memory, and
each time there are `RECENT` of them they are written, sorted, as one run: nothing in the file is
ever changed in a random place.

A hash only names rows to look at; what makes a message known is its whole id in the box. So a
collision costs a look, and hashes of rows that do not exist (any more) are harmless. Missing ones
would not be: each row above the newest run's `Run.upto` is read when the file is opened.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from holdfast.store.protocol import Box

RECENT = 65_536
"""Ids kept in memory before they become a run: about 8 MB. A start reads so many rows, in about
0.2 s. In a run, an id takes 16 bytes of memory and of the file."""

SPARSE: Final = 4
"""Least bytes of the filter for each id in it (at most four times as many): one bit in 32 is set,
and so one in 32 unknown ids is looked for in all runs."""

PARTS: Final = 64
"""In which hashes are sorted: one sort of them all keeps the event loop waiting for 70 ms."""

ID: Final = {Box.INBOX: "message", Box.OUTBOX: "key"}
"""The column whose value is known within an account."""

BORN: Final = {Box.INBOX: "received_at", Box.OUTBOX: "created_at"}
"""The column that says when a row was new."""


@dataclass(frozen=True, slots=True)
class Run:
    """Sorted hashes, and the row that each of them names."""

    upto: int
    """No row up to this number is missing in this run and those before it."""
    hashes: array[int]
    rows: array[int]

    @classmethod
    def read(cls, upto: int, hashes: bytes, rows: bytes) -> Run:
        """A run as it was stored. Raises struct.error."""
        layout = f"<{len(hashes) // 8}Q"
        numbers = (array("Q", struct.unpack(layout, column)) for column in (hashes, rows))
        return cls(upto, *numbers)

    def write(self, db: sqlite3.Connection, box: Box) -> None:
        """Store it."""
        layout = f"<{len(self.hashes)}Q"
        db.execute(
            "INSERT INTO known (box, upto, hashes, rows) VALUES (?, ?, ?, ?)",
            (box, self.upto, struct.pack(layout, *self.hashes), struct.pack(layout, *self.rows)),
        )

    def named(self, number: int) -> Iterator[int]:
        """The rows with this hash."""
        at = bisect_left(self.hashes, number)
        while at < len(self.hashes) and self.hashes[at] == number:
            yield self.rows[at]
            at += 1


class Recent:
    """Hashes that are in no run yet."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._twins: dict[int, list[int]] = {}
        """Further rows of a hash: collisions, and what followed a row that was rolled back."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, number: int, row: int) -> None:
        """A row has this hash."""
        if self._rows.setdefault(number, row) != row:
            self._twins.setdefault(number, []).append(row)

    def named(self, number: int) -> Sequence[int]:
        """The rows with this hash."""
        row = self._rows.get(number)
        return () if row is None else (row, *self._twins.get(number, ()))

    def run(self, upto: int) -> Run:
        """All of them as a run."""
        parts: list[list[int]] = [[] for _ in range(PARTS)]
        for number in self._rows:
            parts[number * PARTS >> 64].append(number)
        hashes = array("Q")
        for part in parts:
            part.sort()
            hashes.extend(part)
        rows = array("Q", map(self._rows.__getitem__, hashes))
        for number, twins in self._twins.items():
            for row in twins:
                at = bisect_left(hashes, number)
                hashes.insert(at, number)
                rows.insert(at, row)
        return Run(upto, hashes, rows)


class Filter:
    """Says of nearly all hashes that are in no run that they are in none, with one look.

    It only takes in; what has left the runs stays until the filter is full and made anew.
    """

    def __init__(self, runs: list[Run]) -> None:
        self._count = 0
        size = sum(len(run.hashes) for run in runs)
        self._bits = bytearray(1 << (2 * SPARSE * size).bit_length())
        for run in runs:
            self.take(run)

    @property
    def full(self) -> bool:
        """Whether too many bits are set to be of use."""
        return self._count * SPARSE > len(self._bits)

    def take(self, run: Run) -> None:
        """The hashes of this run may be in a run."""
        bits, mask = self._bits, len(self._bits) - 1
        for number in run.hashes:
            bits[number & mask] |= 1 << (number >> 61)
        self._count += len(run.hashes)

    def may_have(self, number: int) -> bool:
        """False for a hash that is in no run."""
        return bool(self._bits[number & len(self._bits) - 1] & 1 << (number >> 61))


class Known:
    """The known ids of one box. Only for the thread that writes.

    Statements take effect with the transaction of their caller. Whoever undoes more than one
    operation must `reset`; after a single one, memory holds too much, which is harmless.
    """

    def __init__(self, box: Box) -> None:
        self._box = box
        self._key: bytes | None = None
        self._runs: list[Run] = []
        self._filter = Filter([])
        self._recent = Recent()
        self._look = f"SELECT 1 FROM {box} WHERE id = ? AND account = ? AND {ID[box]} = ?"

    def reset(self) -> None:
        """Read everything anew at the next use."""
        self._key = None

    def find(self, db: sqlite3.Connection, account: str, name: str) -> tuple[int, int | None]:
        """The hash under which to `add` an id, and the row that has the id already."""
        number = hashed(self._follow(db), account.encode(), name.encode())
        rows = self._recent.named(number)
        if self._filter.may_have(number):
            rows = [*rows, *(row for run in self._runs for row in run.named(number))]
        for row in rows:
            if db.execute(self._look, (row, account, name)).fetchone():
                return number, row
        return number, None

    def add(self, number: int, row: int) -> None:
        """The id with this hash is in the box now."""
        self._recent.add(number, row)

    def keep(self, db: sqlite3.Connection) -> None:
        """Write a run if it is time. Must come last in its operation."""
        if len(self._recent) < RECENT:
            return
        # Not the largest in memory: that may have been rolled back, and its number come again.
        (upto,) = db.execute(f"SELECT max(id) FROM {self._box}").fetchone()
        run = self._recent.run(upto)
        run.write(db, self._box)
        self._runs.append(run)
        self._recent = Recent()
        self._filter.take(run)
        if self._filter.full:
            self._filter = Filter(self._runs)

    def forget(self, db: sqlite3.Connection, before: float) -> None:
        """Give runs up that name few rows any more, now that rows settled before then are gone.

        What is left of a run becomes part of the next.
        """
        self._follow(db)
        at, below = 0, 0
        while at < len(self._runs) and self._is_old(db, self._runs[at], before):
            run = self._runs[at]
            half, inside = len(run.hashes) // 2, f"id > {below} AND id <= {run.upto}"
            left = list(islice(_ids(db, self._box, inside), half + 1))
            if len(left) <= half:
                self._merge(db, at, left)
            else:
                at, below = at + 1, run.upto

    def _merge(self, db: sqlite3.Connection, at: int, left: list[tuple[int, bytes, bytes]]) -> None:
        """Put what is left of a run into the next one."""
        key, recent = self._follow(db), Recent()
        for row, account, name in left:
            recent.add(hashed(key, account, name), row)
        gone, following = self._runs[at], self._runs[at + 1 : at + 2]
        for run in following:
            for number, row in zip(run.hashes, run.rows, strict=True):
                recent.add(number, row)
        merged = [recent.run(run.upto) for run in following or [gone] if recent]
        for run in (gone, *following):
            db.execute("DELETE FROM known WHERE box = ? AND upto = ?", (self._box, run.upto))
        for run in merged:
            run.write(db, self._box)
        self._runs[at : at + 2] = merged

    def _is_old(self, db: sqlite3.Connection, run: Run, before: float) -> bool:
        query = f"SELECT {BORN[self._box]} FROM {self._box} WHERE id >= ? ORDER BY id LIMIT 1"
        newest = db.execute(query, (run.upto,)).fetchone()
        return newest is None or newest[0] < before

    def _follow(self, db: sqlite3.Connection) -> bytes:
        """The key of the hashes; with the first use, everything is read."""
        if self._key is None:
            key = _key(db)
            self._runs, self._recent = _read(db, self._box), Recent()
            self._filter = Filter(self._runs)
            upto = self._runs[-1].upto if self._runs else 0
            for row, account, name in _ids(db, self._box, f"id > {upto}"):
                self._recent.add(hashed(key, account, name), row)
            self._key = key
        return self._key


def learn(db: sqlite3.Connection) -> None:
    """Make the runs of both boxes: for a file of an older version, or filled by other means."""
    for box in Box:
        _learn(db, box)


def hashed(key: bytes, account: bytes, name: bytes) -> int:
    """64 bits. Nobody outside can aim at a collision."""
    found = hashlib.blake2b(b"%b\0%b" % (account, name), digest_size=8, key=key).digest()
    return int.from_bytes(found)


def _learn(db: sqlite3.Connection, box: Box) -> None:
    db.execute("DELETE FROM known WHERE box = ?", (box,))
    key, recent = _key(db), Recent()
    for row, account, name in _ids(db, box, "true"):
        recent.add(hashed(key, account, name), row)
        if len(recent) == RECENT:
            recent.run(row).write(db, box)
            recent = Recent()


def _read(db: sqlite3.Connection, box: Box) -> list[Run]:
    query = "SELECT upto, hashes, rows FROM known WHERE box = ? ORDER BY upto"
    try:
        return [Run.read(*row) for row in db.execute(query, (box,))]
    except (struct.error, TypeError):
        # Damage that SQLite does not see. All of it is in the boxes, too.
        _learn(db, box)
        return [Run.read(*row) for row in db.execute(query, (box,))]


def _ids(db: sqlite3.Connection, box: Box, where: str) -> Iterator[tuple[int, bytes, bytes]]:
    # As bytes: damaged text, which is no text any more, must not stop everybody else's intake.
    return db.execute(
        f"SELECT id, CAST(account AS BLOB), CAST({ID[box]} AS BLOB) FROM {box}"
        f" WHERE {where} ORDER BY id"
    )


def _key(db: sqlite3.Connection) -> bytes:
    found = db.execute("SELECT value FROM settings WHERE name = 'known_key'").fetchone()
    return bytes(found[0])
