"""Rows of the journal's tables as values, and values as what is stored of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from holdfast.errors import StoreError
from holdfast.messages import Inbound, Outbound
from holdfast.store.protocol import InboxState, OutboxState, Owed, Received

T = TypeVar("T")

INBOX_COLUMNS = "id, account, payload, state, attempts, received_at, reason"
OUTBOX_COLUMNS = (
    "id, account, payload, state, attempts, not_before, created_at, maybe_doubled, reason, receipt"
)

_inbound = msgspec.msgpack.Decoder(Inbound)
_outbound = msgspec.msgpack.Decoder(Outbound)


# -- messages in the boxes ------------------------------------------------------------------------


def changed(done: sqlite3.Cursor, db: sqlite3.Connection, table: str, row: int) -> None:
    """Raise StoreError `store_wrong_state` when a guarded UPDATE found no row to change."""
    if done.rowcount:
        return
    found = db.execute(f"SELECT state FROM {table} WHERE id = ?", (row,)).fetchone()
    problem = f"{table} row {row} " + (f"is {found[0]}" if found else "does not exist")
    raise StoreError("store_wrong_state", problem, "its state allows no such change")


def owe(
    db: sqlite3.Connection, account: str, packed: Sequence[tuple[Outbound, bytes]], now: float
) -> list[Owed]:
    """Put messages into the outbox; one whose key is known is returned as it stands."""
    return [_owe_one(db, account, message, payload, now) for message, payload in packed]


def _owe_one(
    db: sqlite3.Connection, account: str, message: Outbound, payload: bytes, now: float
) -> Owed:
    inserted = db.execute(
        "INSERT INTO outbox (account, key, chat, payload, created_at)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (account, message.key, message.chat, payload, now),
    )
    if not inserted.rowcount:
        found = db.execute(
            f"SELECT {OUTBOX_COLUMNS} FROM outbox WHERE account = ? AND key = ?",
            (account, message.key),
        )
        return owed(found.fetchone())
    return Owed(
        row=inserted.lastrowid or 0,
        account=account,
        message=message,
        state=OutboxState.OWED,
        attempts=0,
        not_before=0.0,
        created_at=now,
    )


def new_received(
    row: int, account: str, message: Inbound, now: float, dropped: str = ""
) -> Received:
    """A message that has just been put into the inbox, perhaps to be passed over."""
    return Received(
        row=row,
        account=account,
        message=message,
        state=InboxState.DROPPED if dropped else InboxState.RECEIVED,
        attempts=0,
        received_at=now,
        reason=dropped,
    )


def received(row: tuple[Any, ...]) -> Received:
    """A row of `INBOX_COLUMNS`. Raises StoreError `store_damaged`."""
    number, account, payload, state, attempts, received_at, reason = row
    return Received(
        row=number,
        account=account,
        message=_unpack(_inbound, payload, f"inbox row {number}"),
        state=InboxState(state),
        attempts=attempts,
        received_at=received_at,
        reason=reason,
    )


def owed(row: tuple[Any, ...]) -> Owed:
    """A row of `OUTBOX_COLUMNS`. Raises StoreError `store_damaged`."""
    number, account, payload, state, attempts, not_before, created_at, doubled, *texts = row
    reason, receipt = texts
    return Owed(
        row=number,
        account=account,
        message=_unpack(_outbound, payload, f"outbox row {number}"),
        state=OutboxState(state),
        attempts=attempts,
        not_before=not_before,
        created_at=created_at,
        maybe_doubled=bool(doubled),
        reason=reason,
        receipt=receipt,
    )


def in_turn(found: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    """Rows in the order their chats wait, without their last column, `turn`."""

    def place(row: tuple[Any, ...]) -> tuple[int, bool, int]:
        number, turn = row[0], row[-1]
        return (number, False, 0) if turn is None else (turn, True, number)

    return [row[:-1] for row in sorted(found, key=place)]


# -- what is inside a column ----------------------------------------------------------------------


def pack(message: Inbound | Outbound) -> bytes:
    """A message as stored. Raises StoreError `store_refused`."""
    return _encoded(msgspec.msgpack.encode, message)


def to_json(value: Any) -> bytes:
    """A cursor, transition or gap as stored. Raises StoreError `store_refused`."""
    return _encoded(msgspec.json.encode, value)


def from_json(payload: bytes, kind: type[T], what: str) -> T:
    """The opposite of `to_json`. Raises StoreError `store_damaged`, naming ``what``."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _damaged(f"a {what} entry", error) from error


def _encoded(encode: Callable[[Any], bytes], value: Any) -> bytes:
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(
            "store_refused",
            f"{type(value).__name__} can not be stored: {error}",
            "only JSON values and valid Unicode text can be kept",
        ) from error


def _unpack(decoder: msgspec.msgpack.Decoder[T], payload: bytes, what: str) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _damaged(what, error) from error


def _damaged(what: str, error: Exception) -> StoreError:
    return StoreError(
        "store_damaged",
        f"{what} of the journal can not be decoded: {error}",
        "stop the gateway and set the journal aside, or restore a backup",
    )
