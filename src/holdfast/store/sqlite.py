"""The journal of a single machine: one SQLite file, one thread that writes, one that reads.

The file runs in WAL mode with synchronous=FULL: what a call returned from survives kill -9 and
power loss. Cancelling any call is safe for its neighbours; whether a cancelled write happened is
open (it is withdrawn when its commit has not begun). Since what is written twice is recognised,
the answer is to call again, or to shield the call where the returned rows matter.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from holdfast.errors import StoreError
from holdfast.messages import Gap, Inbound, Outbound, Receipt
from holdfast.store.protocol import Depth, InboxState, OutboxState, Owed, Received, Transition
from holdfast.store.schema import Lock, Place, prepare
from holdfast.store.writer import Counters, GroupWriter, Operation, Reader

T = TypeVar("T")

DEDUPE_SECONDS = 24 * 3600.0
"""Known ids are kept at least this long: WhatsApp and Slack send again for hours, and twice the
longest window that failure mode `redelivery-duplicate` was seen with is below a day."""

HISTORY_KEPT = 10_000
"""Transitions kept per account: a week of an account that flaps once a minute."""

GAPS_KEPT = 1_000
"""Gaps kept per account."""

PRUNE_ROWS = 500
"""Rows removed in one commit, so that intake waits milliseconds and not seconds."""

_INBOX_COLUMNS = "id, account, payload, state, attempts, received_at, reason"
_OUTBOX_COLUMNS = (
    "id, account, payload, state, attempts, not_before, created_at, maybe_doubled, reason, receipt"
)

_inbound = msgspec.msgpack.Decoder(Inbound)
_outbound = msgspec.msgpack.Decoder(Outbound)


class SqliteStore:
    """The `Store` on one SQLite file. Make one with `open`; use it from one event loop."""

    def __init__(self, place: Place, clock: Callable[[], float] = time.time) -> None:
        self.path = place.path
        self.counters = Counters()
        self._place = place
        self._clock = clock
        self._writer = GroupWriter(place, self.counters)
        self._reader = Reader(place)
        self._lock: Lock | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        busy_timeout: float = 5.0,
        max_bytes: int | None = None,
    ) -> SqliteStore:
        """Open the journal at ``path``, creating it (and its directory) when there is none.

        ``clock`` gives Unix seconds; ``busy_timeout`` is how long (seconds) a write waits for
        another program that locked the database; ``max_bytes`` bounds the database file.
        Raises StoreError: `store_in_use`, `store_newer`, `store_foreign`, `store_damaged`,
        `store_readonly`, `store_full`, `store_locked`, `store_io`. A damaged file is never
        replaced by itself; see `holdfast.store.schema.set_aside`. Cancelling is safe.
        """
        place = Place(path=Path(path), busy_timeout=busy_timeout, max_bytes=max_bytes)
        store = cls(place, clock)
        await store._start()
        return store

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        preparing = loop.run_in_executor(self._writer.executor, prepare, self._place)
        try:
            self._lock = await asyncio.shield(preparing)
        except BaseException:
            # The thread can not be interrupted: wait for what it takes, then give it back.
            with suppress(StoreError):
                (await preparing).release()
            self._writer.executor.shutdown()
            self._reader.executor.shutdown()
            raise

    # -- the inbox --------------------------------------------------------------------------------

    async def receive(
        self, account: str, messages: Sequence[Inbound], cursor: Mapping[str, Any] | None
    ) -> list[Received]:
        """Store new messages and the cursor in one transaction; return only the new ones."""
        rows = [(account, m.id, m.chat, _pack(m)) for m in messages]
        position = None if cursor is None else _json(dict(cursor))
        now = self._clock()

        def operation(db: sqlite3.Connection) -> list[Received]:
            new = []
            for message, row in zip(messages, rows, strict=True):
                inserted = db.execute(
                    "INSERT INTO inbox (account, message, chat, payload, received_at)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (*row, now),
                )
                if inserted.rowcount:
                    new.append(_new_received(inserted.lastrowid or 0, account, message, now))
            if position is not None:
                db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (account, position))
            return new

        received = await self._write(operation)
        self.counters.duplicates += len(messages) - len(received)
        return received

    async def cursor(self, account: str) -> dict[str, Any]:
        """The stored cursor; empty for a new account."""

        def question(db: sqlite3.Connection) -> dict[str, Any]:
            found = db.execute("SELECT payload FROM cursors WHERE account = ?", (account,))
            row = found.fetchone()
            return {} if row is None else _from_json(row[0], dict[str, Any], "cursor")

        return await self._read(question)

    async def unhandled(self, account: str) -> list[Received]:
        """Messages neither done nor dead, in the order of arrival (for the start)."""

        def question(db: sqlite3.Connection) -> list[Received]:
            found = db.execute(
                f"SELECT {_INBOX_COLUMNS} FROM inbox WHERE account = ?"
                " AND state IN ('received', 'handling') AND state <> 'done' ORDER BY id",
                (account,),
            )
            return [_received(row) for row in found]

        return await self._read(question)

    async def begin(self, row: int) -> int:
        """An agent takes the message: count and return the attempt, from 1."""

        def operation(db: sqlite3.Connection) -> int:
            changed = db.execute(
                "UPDATE inbox SET state = 'handling', attempts = attempts + 1"
                " WHERE id = ? AND state IN ('received', 'handling')",
                (row,),
            )
            _changed(changed, db, "inbox", row)
            found = db.execute("SELECT attempts FROM inbox WHERE id = ?", (row,))
            return int(found.fetchone()[0])

        return await self._write(operation)

    async def release(self, row: int) -> None:
        """The agent was stopped, not failed: the attempt does not count."""

        def operation(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE inbox SET state = 'received', attempts = max(0, attempts - 1)"
                " WHERE id = ? AND state = 'handling'",
                (row,),
            )

        await self._write(operation)

    async def finish(self, row: int, owed: Sequence[Outbound]) -> list[Owed]:
        """The message is answered: mark it done and write the answers in one transaction."""
        packed = [(message, _pack(message)) for message in owed]
        now = self._clock()

        def operation(db: sqlite3.Connection) -> list[Owed]:
            changed = db.execute(
                "UPDATE inbox SET state = 'done', settled_at = ?"
                " WHERE id = ? AND state IN ('received', 'handling')",
                (now, row),
            )
            _changed(changed, db, "inbox", row)
            found = db.execute("SELECT account FROM inbox WHERE id = ?", (row,))
            return _owe(db, found.fetchone()[0], packed, now)

        return await self._write(operation)

    async def bury(self, row: int, reason: str) -> None:
        """An inbound message can not be handled: keep it among the dead letters."""
        await self._change(
            "inbox",
            row,
            "UPDATE inbox SET state = 'dead', settled_at = ?, reason = ?"
            " WHERE id = ? AND state <> 'done'",
            (self._clock(), reason, row),
        )

    # -- the outbox -------------------------------------------------------------------------------

    async def post(self, account: str, owed: Sequence[Outbound]) -> list[Owed]:
        """Owe messages that answer nothing. A key already known is returned as it stands."""
        packed = [(message, _pack(message)) for message in owed]
        now = self._clock()
        return await self._write(lambda db: _owe(db, account, packed, now))

    async def owed(self, account: str) -> list[Owed]:
        """OWED and SENDING rows in order (a SENDING row is found only after a crash)."""

        def question(db: sqlite3.Connection) -> list[Owed]:
            found = db.execute(
                f"SELECT {_OUTBOX_COLUMNS} FROM outbox WHERE account = ?"
                " AND state IN ('owed', 'sending') AND state <> 'sent' ORDER BY id",
                (account,),
            )
            return [_owed(row) for row in found]

        return await self._read(question)

    async def sending(self, row: int) -> None:
        """A try begins whose outcome a crash would hide. Counts the attempt."""
        await self._change(
            "outbox",
            row,
            "UPDATE outbox SET state = 'sending', attempts = attempts + 1"
            " WHERE id = ? AND state IN ('owed', 'sending')",
            (row,),
        )

    async def sent(self, row: int, receipt: Receipt) -> None:
        """The platform accepted it. True whatever was believed before, so any state allows it."""
        await self._change(
            "outbox",
            row,
            "UPDATE outbox SET state = 'sent', settled_at = ?, receipt = ? WHERE id = ?",
            (self._clock(), receipt.id, row),
        )

    async def postpone(
        self, row: int, not_before: float, reason: str, *, maybe_doubled: bool = False
    ) -> None:
        """The try failed and may be repeated at ``not_before`` (Unix seconds).

        Also brings back a message that was held or refused.
        """
        await self._change(
            "outbox",
            row,
            "UPDATE outbox SET state = 'owed', not_before = ?, reason = ?,"
            " maybe_doubled = maybe_doubled OR ?, settled_at = NULL"
            " WHERE id = ? AND state <> 'sent'",
            (not_before, reason, maybe_doubled, row),
        )

    async def hold(self, row: int, reason: str) -> None:
        """Nobody knows whether it arrived, and the policy is to ask a person: AMBIGUOUS."""
        await self._settle(row, OutboxState.AMBIGUOUS, reason)

    async def refuse(self, row: int, reason: str) -> None:
        """The platform will never take it: DEAD."""
        await self._settle(row, OutboxState.DEAD, reason)

    async def _settle(self, row: int, state: OutboxState, reason: str) -> None:
        await self._change(
            "outbox",
            row,
            "UPDATE outbox SET state = ?, reason = ?, settled_at = ?"
            " WHERE id = ? AND state <> 'sent'",
            (state.value, reason, self._clock(), row),
        )

    # -- what is remembered -----------------------------------------------------------------------

    async def record(self, transition: Transition) -> None:
        """Append to the history, which keeps the newest `HISTORY_KEPT` of each account."""
        await self._append("history", transition.account, _json(transition), HISTORY_KEPT)

    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        """The newest transitions, newest last."""
        return await self._newest("history", account, limit, Transition)

    async def add_gap(self, account: str, gap: Gap) -> None:
        """Messages of this stretch may be missing. The newest `GAPS_KEPT` are kept."""
        await self._append("gaps", account, _json(gap), GAPS_KEPT)

    async def gaps(self, account: str, limit: int = 20) -> list[Gap]:
        """The newest gaps, newest last."""
        return await self._newest("gaps", account, limit, Gap)

    async def remember(self, account: str, key: str, value: bytes) -> None:
        """Keep a small value over restarts (the supervisor's memory, an adapter's tokens)."""
        row = (account, key, value)
        await self._write(
            lambda db: db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", row).rowcount
        )

    async def recall(self, account: str, key: str) -> bytes | None:
        """A remembered value."""

        def question(db: sqlite3.Connection) -> bytes | None:
            query = "SELECT value FROM memory WHERE account = ? AND key = ?"
            row = db.execute(query, (account, key)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._read(question)

    async def depth(self, account: str) -> Depth:
        """How much is waiting."""

        def question(db: sqlite3.Connection) -> Depth:
            inbox, outbox = (
                dict(
                    db.execute(
                        f"SELECT state, count(*) FROM {table}"
                        f" WHERE account = ? AND state <> '{end}' GROUP BY state",
                        (account,),
                    ).fetchall()
                )
                for table, end in (("inbox", InboxState.DONE), ("outbox", OutboxState.SENT))
            )
            return Depth(
                inbox=inbox.get(InboxState.RECEIVED, 0) + inbox.get(InboxState.HANDLING, 0),
                outbox=outbox.get(OutboxState.OWED, 0) + outbox.get(OutboxState.SENDING, 0),
                ambiguous=outbox.get(OutboxState.AMBIGUOUS, 0),
                dead=inbox.get(InboxState.DEAD, 0) + outbox.get(OutboxState.DEAD, 0),
            )

        return await self._read(question)

    # -- upkeep -----------------------------------------------------------------------------------

    async def prune(self, older_than: float = DEDUPE_SECONDS) -> int:
        """Forget what was done or sent more than ``older_than`` seconds ago; return how much.

        Their ids are forgotten with them, so less than `DEDUPE_SECONDS` is taken as that. Works in
        small commits among everybody else's. Waiting, ambiguous and dead rows stay.
        """
        before = self._clock() - max(older_than, DEDUPE_SECONDS)
        inbox = await self._prune("inbox", InboxState.DONE, before)
        return inbox + await self._prune("outbox", OutboxState.SENT, before)

    async def _prune(self, table: str, end: str, before: float) -> int:
        statement = (
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table}"
            f" WHERE state = '{end}' AND settled_at < ? ORDER BY settled_at LIMIT ?)"
        )

        def operation(db: sqlite3.Connection) -> int:
            return db.execute(statement, (before, PRUNE_ROWS)).rowcount

        removed = count = await self._write(operation)
        while count == PRUNE_ROWS:
            count = await self._write(operation)
            removed += count
        return removed

    async def close(self) -> None:
        """Commit what was accepted and close. Idempotent; cancelling does not interrupt it.

        While another program keeps the file locked it waits `writer.CLOSE_PATIENCE`; what could
        not be committed then fails with StoreError `store_locked`.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="journal-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._writer.hurry()
        await self._writer.drain()
        # The last connection to close folds the log into the main file: that is a writer's work.
        await self._reader.stop()
        await self._writer.stop()
        assert self._lock is not None
        self._lock.release()

    # -- shared -----------------------------------------------------------------------------------

    async def _write(self, operation: Operation[T]) -> T:
        self._check_open()
        return await self._writer.submit(operation)

    async def _read(self, question: Operation[T]) -> T:
        self._check_open()
        return await self._reader.ask(question)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreError(
                "store_closed", f"journal {self.path} is closed", "the gateway is stopping"
            )

    async def _change(self, table: str, row: int, statement: str, values: tuple[Any, ...]) -> None:
        def operation(db: sqlite3.Connection) -> None:
            _changed(db.execute(statement, values), db, table, row)

        await self._write(operation)

    async def _append(self, table: str, account: str, payload: bytes, kept: int) -> None:
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

        await self._write(operation)

    async def _newest(self, table: str, account: str | None, limit: int, kind: type[T]) -> list[T]:
        def question(db: sqlite3.Connection) -> list[T]:
            if account is None:
                found = db.execute(
                    f"SELECT payload FROM {table} ORDER BY id DESC LIMIT ?", (limit,)
                )
            else:
                found = db.execute(
                    f"SELECT payload FROM {table} WHERE account = ? ORDER BY number DESC LIMIT ?",
                    (account, limit),
                )
            return [_from_json(row[0], kind, table) for row in reversed(found.fetchall())]

        return await self._read(question)


# -- rows and values ------------------------------------------------------------------------------


def _changed(done: sqlite3.Cursor, db: sqlite3.Connection, table: str, row: int) -> None:
    """Raise StoreError `store_wrong_state` when a guarded UPDATE found no row to change."""
    if done.rowcount:
        return
    found = db.execute(f"SELECT state FROM {table} WHERE id = ?", (row,)).fetchone()
    problem = f"{table} row {row} " + (f"is {found[0]}" if found else "does not exist")
    raise StoreError("store_wrong_state", problem, "its state allows no such change")


def _owe(
    db: sqlite3.Connection, account: str, packed: Sequence[tuple[Outbound, bytes]], now: float
) -> list[Owed]:
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
            f"SELECT {_OUTBOX_COLUMNS} FROM outbox WHERE account = ? AND key = ?",
            (account, message.key),
        )
        return _owed(found.fetchone())
    return Owed(
        row=inserted.lastrowid or 0,
        account=account,
        message=message,
        state=OutboxState.OWED,
        attempts=0,
        not_before=0.0,
        created_at=now,
    )


def _new_received(row: int, account: str, message: Inbound, now: float) -> Received:
    return Received(
        row=row,
        account=account,
        message=message,
        state=InboxState.RECEIVED,
        attempts=0,
        received_at=now,
    )


def _received(row: tuple[Any, ...]) -> Received:
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


def _owed(row: tuple[Any, ...]) -> Owed:
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


def _encoded(encode: Callable[[Any], bytes], value: Any) -> bytes:
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(
            "store_refused",
            f"{type(value).__name__} can not be stored: {error}",
            "only JSON values and valid Unicode text can be kept",
        ) from error


def _pack(message: Inbound | Outbound) -> bytes:
    return _encoded(msgspec.msgpack.encode, message)


def _json(value: Any) -> bytes:
    return _encoded(msgspec.json.encode, value)


def _damaged(what: str, error: Exception) -> StoreError:
    return StoreError(
        "store_damaged",
        f"{what} of the journal can not be decoded: {error}",
        "stop the gateway and set the journal aside, or restore a backup",
    )


def _unpack(decoder: msgspec.msgpack.Decoder[T], payload: bytes, what: str) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _damaged(what, error) from error


def _from_json(payload: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _damaged(f"a {what} entry", error) from error
