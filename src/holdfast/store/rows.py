"""Rows of the journal's tables as values, and values as what is stored of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from holdfast.errors import StoreError
from holdfast.messages import Inbound, Outbound
from holdfast.store.known import Known
from holdfast.store.protocol import Box, Entry, InboxState, OutboxState, Owed, Received

T = TypeVar("T")

INBOX_COLUMNS = "id, account, payload, state, attempts, received_at, reason, message, chat"
OUTBOX_COLUMNS = (
    "id, account, payload, state, attempts, not_before, created_at, maybe_doubled, reason, receipt,"
    " key, chat"
)

_inbound = msgspec.msgpack.Decoder(Inbound)
_outbound = msgspec.msgpack.Decoder(Outbound)


# -- messages in the boxes ------------------------------------------------------------------------


def wrong_state(db: sqlite3.Connection, table: str, row: int) -> StoreError:
    """Why a guarded UPDATE found no row to change."""
    found = db.execute(f"SELECT state FROM {table} WHERE id = ?", (row,)).fetchone()
    return not_allowed(table, row, found[0] if found else None)


def not_allowed(table: str, row: int, state: str | None) -> StoreError:
    """Why a row in this state, or one that does not exist, can not be changed."""
    problem = f"{table} row {row} " + ("does not exist" if state is None else f"is {state}")
    return StoreError("store_wrong_state", problem, "its state allows no such change")


def owe(
    db: sqlite3.Connection,
    known: Known,
    account: str,
    packed: Sequence[tuple[Outbound, bytes]],
    now: float,
) -> list[Owed]:
    """Put messages into the outbox; one whose key is known is returned as it stands."""
    rows = [_owe_one(db, known, account, message, payload, now) for message, payload in packed]
    known.keep(db)
    return rows


def _owe_one(
    db: sqlite3.Connection,
    known: Known,
    account: str,
    message: Outbound,
    payload: bytes,
    now: float,
) -> Owed:
    number, row = known.find(db, account, message.key)
    if row is not None:
        found = db.execute(f"SELECT {OUTBOX_COLUMNS} FROM outbox WHERE id = ?", (row,))
        return owed(found.fetchone())
    inserted = db.execute(
        "INSERT INTO outbox (account, key, chat, payload, created_at) VALUES (?, ?, ?, ?, ?)",
        (account, message.key, message.chat, payload, now),
    )
    known.add(number, inserted.lastrowid or 0)
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
    row: int, account: str, message: Inbound, now: float, dropped: str = "", attempts: int = 0
) -> Received:
    """A message that has just been put into the inbox: passed over, begun, or to wait."""
    return Received(
        row=row,
        account=account,
        message=message,
        state=new_state(dropped, attempts),
        attempts=attempts,
        received_at=now,
        reason=dropped,
    )


def new_state(dropped: str, attempts: int) -> InboxState:
    """In which a message gets into the inbox."""
    if dropped:
        return InboxState.DROPPED
    return InboxState.HANDLING if attempts else InboxState.RECEIVED


def received(row: tuple[Any, ...]) -> Received:
    """A row of `INBOX_COLUMNS`. Raises StoreError `store_damaged`."""
    number, account, payload, state, attempts, received_at, reason, *_ = row
    with _decoding(f"inbox row {number}"):
        return Received(
            row=number,
            account=account,
            message=_inbound.decode(payload),
            state=InboxState(state),
            attempts=attempts,
            received_at=received_at,
            reason=reason,
        )


def owed(row: tuple[Any, ...]) -> Owed:
    """A row of `OUTBOX_COLUMNS`. Raises StoreError `store_damaged`."""
    number, account, payload, state, attempts, not_before, created_at, doubled, *texts = row
    reason, receipt, *_ = texts
    with _decoding(f"outbox row {number}"):
        return Owed(
            row=number,
            account=account,
            message=_outbound.decode(payload),
            state=OutboxState(state),
            attempts=attempts,
            not_before=not_before,
            created_at=created_at,
            maybe_doubled=bool(doubled),
            reason=reason,
            receipt=receipt,
        )


def unreadable(box: Box, row: tuple[Any, ...], settled_at: float | None) -> Entry:
    """What people see of a row that `received` or `owed` can not decode."""
    name, chat = row[-2:]
    inbound = box is Box.INBOX
    return Entry(
        box=box,
        row=row[0],
        account=row[1],
        state=row[3],
        chat=chat,
        message=Inbound(id=name, chat=chat, sender="", text="")
        if inbound
        else Outbound(key=name, chat=chat, text=""),
        attempts=row[4],
        at=row[5] if inbound else row[6],
        settled_at=settled_at,
        reason=row[6] if inbound else row[8],
    )


def in_turn(
    found: sqlite3.Cursor, decode: Callable[[tuple[Any, ...]], T]
) -> tuple[list[T], dict[int, StoreError]]:
    """Rows in the order their chats wait, and what is wrong with those that can not be decoded.

    Their last column is `turn`.
    """

    def place(row: tuple[Any, ...]) -> tuple[int, bool, int]:
        number, turn = row[0], row[-1]
        return (number, False, 0) if turn is None else (turn, True, number)

    decoded: list[T] = []
    damaged: dict[int, StoreError] = {}
    for row in sorted(found, key=place):
        try:
            decoded.append(decode(row[:-1]))
        except StoreError as error:
            damaged[row[0]] = error
    return decoded, damaged


# -- what is inside a column ----------------------------------------------------------------------


def pack(message: Inbound | Outbound) -> bytes:
    """A message as stored. Raises StoreError `store_refused`."""
    return _encoded(msgspec.msgpack.encode, message)


def to_json(value: Any) -> bytes:
    """A cursor as stored. Raises StoreError `store_refused`."""
    return _encoded(msgspec.json.encode, value)


def from_json(payload: bytes, kind: type[T], what: str) -> T:
    """The opposite of `to_json`. Raises StoreError `store_damaged`, naming ``what``."""
    with _decoding(f"a {what} entry"):
        return msgspec.json.decode(payload, type=kind)


def _encoded(encode: Callable[[Any], bytes], value: Any) -> bytes:
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(
            "store_refused",
            f"{type(value).__name__} can not be stored: {error}",
            "only JSON values and valid Unicode text can be kept",
        ) from error


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise StoreError(
            "store_damaged",
            f"{what} of the journal can not be decoded: {error}",
            "look at the disk it is on; the gateway goes on without it",
        ) from error
