"""Bounded lists of an account in the journal: its history and its gaps."""

from __future__ import annotations

import sqlite3
from typing import TypeVar

from holdfast.store.rows import from_json
from holdfast.store.writer import Operation

T = TypeVar("T")


def append(table: str, account: str, payload: bytes, kept: int) -> Operation[None]:
    """Add to a list and forget all but the newest ``kept`` of the account."""

    def operation(db: sqlite3.Connection) -> None:
        newest = db.execute(f"SELECT max(number) FROM {table} WHERE account = ?", (account,))
        number = (newest.fetchone()[0] or 0) + 1
        db.execute(
            f"INSERT INTO {table} (account, number, payload) VALUES (?, ?, ?)",
            (account, number, payload),
        )
        db.execute(
            f"DELETE FROM {table} WHERE account = ? AND number <= ?", (account, number - kept)
        )

    return operation


def newest(table: str, account: str | None, limit: int, kind: type[T]) -> Operation[list[T]]:
    """The newest of an account's list or of all lists, newest last."""

    def question(db: sqlite3.Connection) -> list[T]:
        if account is None:
            found = db.execute(f"SELECT payload FROM {table} ORDER BY id DESC LIMIT ?", (limit,))
        else:
            found = db.execute(
                f"SELECT payload FROM {table} WHERE account = ? ORDER BY number DESC LIMIT ?",
                (account, limit),
            )
        return [from_json(row[0], kind, table) for row in reversed(found.fetchall())]

    return question
