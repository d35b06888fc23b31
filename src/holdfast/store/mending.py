"""What people ask of the journal: look at its rows, retry or drop what waits for them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from holdfast.errors import StoreError
from holdfast.messages import Gap
from holdfast.store.protocol import (
    COUNTED,
    MENDABLE,
    SETTLED,
    Box,
    Counts,
    Entry,
    GapEntry,
    NotMendable,
    no_such_gap,
    not_mendable,
)
from holdfast.store.rows import INBOX_COLUMNS, OUTBOX_COLUMNS, from_json, owed, received, unreadable
from holdfast.store.writer import Operation

_COLUMNS = {
    Box.INBOX: f"{INBOX_COLUMNS}, settled_at",
    Box.OUTBOX: f"{OUTBOX_COLUMNS}, settled_at",
}


def _among(states: Collection[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


OPEN = {box: f"state NOT IN ({_among(states)})" for box, states in SETTLED.items()}
"""The condition of the partial index ``*_open``: rows that are not final."""

ENDED = {box: f"state IN ({_among(states)})" for box, states in SETTLED.items()}
"""Rows that are final."""


def entries(
    box: Box,
    account: str | None,
    states: Collection[str],
    chat: str | None,
    before: int | None,
    limit: int,
) -> Operation[list[Entry]]:
    """See `Store.entries`."""
    wanted: list[tuple[str, Any]] = [
        ("account = ?", account),
        ("chat = ?", chat),
        ("id < ?", before),
    ]
    conditions = [condition for condition, value in wanted if value is not None]
    values = [value for _, value in wanted if value is not None]
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        values += [str(state) for state in states]
    if states and not set(states) & set(SETTLED[box]):
        # Few rows are open, and their index knows them: a million settled ones are not looked at.
        conditions.append(f"id IN (SELECT id FROM {box} WHERE {OPEN[box]})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"SELECT {_COLUMNS[box]} FROM {box}{where} ORDER BY id DESC LIMIT ?"

    def question(db: sqlite3.Connection) -> list[Entry]:
        return [_entry(box, row) for row in db.execute(query, (*values, limit)).fetchall()]

    return question


def entry(box: Box, row: int) -> Operation[Entry | None]:
    """See `Store.entry`."""

    def question(db: sqlite3.Connection) -> Entry | None:
        found = db.execute(f"SELECT {_COLUMNS[box]} FROM {box} WHERE id = ?", (row,)).fetchone()
        return None if found is None else _entry(box, found)

    return question


def retry(box: Box, row: int) -> Operation[Entry]:
    """See `Store.retry`."""
    anew = {
        Box.INBOX: "state = 'received'",
        Box.OUTBOX: "state = 'owed', not_before = 0,"
        " maybe_doubled = maybe_doubled OR state = 'ambiguous'",
    }
    behind = f"turn = (SELECT max(id) FROM {box})"
    mend = _mend(box, row, f"{anew[box]}, attempts = 0, settled_at = NULL, {behind}")
    decode: Callable[[tuple[Any, ...]], Any] = received if box is Box.INBOX else owed
    columns = INBOX_COLUMNS if box is Box.INBOX else OUTBOX_COLUMNS

    def operation(db: sqlite3.Connection) -> Entry:
        found = db.execute(f"SELECT {columns} FROM {box} WHERE id = ?", (row,)).fetchone()
        if found is not None:
            try:
                decode(found)
            except StoreError as error:
                raise NotMendable(
                    "store_not_mendable", error.problem, "nobody can read it: drop it"
                ) from error
        return mend(db)

    return operation


def drop(box: Box, row: int, now: float) -> Operation[Entry]:
    """See `Store.drop`."""
    return _mend(box, row, "state = 'dropped', settled_at = ?", now)


def _mend(box: Box, row: int, changes: str, *values: Any) -> Operation[Entry]:
    statement = f"UPDATE {box} SET {changes} WHERE id = ? AND state IN ({_among(MENDABLE[box])})"

    def operation(db: sqlite3.Connection) -> Entry:
        done = db.execute(statement, (*values, row))
        found = entry(box, row)(db)
        if found is None or not done.rowcount:
            raise not_mendable(box, row, None if found is None else found.state)
        return found

    return operation


def counts(account: str | None) -> Operation[dict[str, Counts]]:
    """See `Store.counts`."""
    of, values = ("", ()) if account is None else (" AND account = ?", (account,))

    def question(db: sqlite3.Connection) -> dict[str, Counts]:
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for box, fields in COUNTED.items():
            for owner, state, number in db.execute(
                f"SELECT account, state, count(*) FROM {box} WHERE {OPEN[box]}"
                f"{of} GROUP BY account, state",
                values,
            ):
                # A state that damage made up is found, and settled, at the next start.
                if state in fields:
                    found[owner][fields[state]] = number
        for owner, number in db.execute(
            f"SELECT account, count(*) FROM gaps WHERE dismissed_at IS NULL{of} GROUP BY account",
            values,
        ):
            found[owner]["gaps"] = number
        return {owner: Counts(**fields) for owner, fields in found.items()}

    return question


def gap_entries(account: str | None, limit: int) -> Operation[list[GapEntry]]:
    """See `Store.gap_entries`."""

    def question(db: sqlite3.Connection) -> list[GapEntry]:
        found = db.execute(
            "SELECT id, account, payload FROM gaps WHERE dismissed_at IS NULL"
            " AND (?1 IS NULL OR account = ?1) ORDER BY id DESC LIMIT ?2",
            (account, limit),
        )
        return [_gap(row) for row in reversed(found.fetchall())]

    return question


def dismiss_gap(id: int, now: float) -> Operation[GapEntry]:
    """See `Store.dismiss_gap`."""

    def operation(db: sqlite3.Connection) -> GapEntry:
        done = db.execute(
            "UPDATE gaps SET dismissed_at = ? WHERE id = ? AND dismissed_at IS NULL", (now, id)
        )
        if not done.rowcount:
            raise no_such_gap(id)
        found = db.execute("SELECT id, account, payload FROM gaps WHERE id = ?", (id,))
        return _gap(found.fetchone())

    return operation


def _entry(box: Box, row: tuple[Any, ...]) -> Entry:
    *columns, settled_at = row
    found = tuple(columns)
    try:
        if box is Box.INBOX:
            return Entry.of_received(received(found), settled_at)
        return Entry.of_owed(owed(found), settled_at)
    except StoreError:
        return unreadable(box, found, settled_at)


def _gap(row: tuple[Any, ...]) -> GapEntry:
    number, account, payload = row
    return GapEntry(id=number, account=account, gap=from_json(payload, Gap, f"gap {number}"))
