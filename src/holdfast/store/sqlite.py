"""The journal of a single machine: one SQLite file, one thread that writes, one that reads.

The file runs in WAL mode with synchronous=FULL: what a call returned from survives kill -9 and
power loss. Cancelling any call is safe for its neighbours; whether a cancelled write happened is
open (it is withdrawn when its commit has not begun). Since what is written twice is recognised,
the answer is to call again, or to shield the call where the returned rows matter.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from holdfast.errors import StoreError
from holdfast.legible import encoded, legible
from holdfast.messages import Gap, Inbound, Outbound, Receipt
from holdfast.store import keeping, mending, pruning
from holdfast.store.copying import Copy
from holdfast.store.custody import Custody
from holdfast.store.mending import OPEN
from holdfast.store.opening import Place
from holdfast.store.protocol import (
    DEDUPE_SECONDS,
    Box,
    Counts,
    Entry,
    GapEntry,
    InboxState,
    OutboxState,
    Owed,
    Received,
    Transition,
)
from holdfast.store.rows import (
    INBOX_COLUMNS,
    OUTBOX_COLUMNS,
    from_json,
    in_turn,
    new_received,
    new_state,
    owe,
    owed,
    pack,
    received,
    to_json,
    wrong_state,
)
from holdfast.store.writer import Counters, Operation
from holdfast.threads import DAEMONS

log = logging.getLogger("holdfast.journal")

T = TypeVar("T")

HISTORY_KEPT = 10_000
"""Transitions kept per account: a week of an account that flaps once a minute."""

GAPS_KEPT = 1_000
"""Gaps kept per account."""


class SqliteStore:
    """The `Store` on one SQLite file. Make one with `open`; use it from one event loop."""

    def __init__(
        self,
        place: Place,
        clock: Callable[[], float] = time.time,
        retention: float = DEDUPE_SECONDS,
    ) -> None:
        self.path = place.path
        self.clock = clock
        self.retention = retention
        self.custody = Custody(place, clock)
        self._known, self._working = self.custody.known, self.custody.working
        self._copies: set[Copy] = set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        retention: float = DEDUPE_SECONDS,
        busy_timeout: float = 5.0,
        max_bytes: int | None = None,
    ) -> SqliteStore:
        """Open the journal at ``path``, creating it (and its directory) when there is none.

        ``clock`` gives Unix seconds; ``retention`` is how long (seconds) settled rows are kept,
        at least `DEDUPE_SECONDS`; ``busy_timeout`` is how long (seconds) a write waits for
        another program that locked the database; ``max_bytes`` bounds the database file.
        Raises StoreError: `store_in_use`, `store_newer`, `store_foreign`, `store_damaged`,
        `store_readonly`, `store_full`, `store_locked`, `store_io`, `store_migration`. A damaged
        file is never replaced; see `holdfast.store.journal`. Cancelling is safe.
        """
        place = Place(path=Path(path), busy_timeout=busy_timeout, max_bytes=max_bytes)
        store = cls(place, clock, retention)
        await store.custody.open()
        return store

    @property
    def counters(self) -> Counters:
        """What it did since it was opened."""
        return self.custody.counters

    @property
    def notice(self) -> str:
        """Why the newest commit or question failed, or that a commit takes long; else what of an
        older journal may be lost; else empty.
        """
        return self.custody.notice

    # -- the inbox --------------------------------------------------------------------------------

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """Store new messages and the cursor in one transaction; return only the new ones."""
        rows = [(account, m.id, m.chat, pack(m)) for m in messages]
        position = None if cursor is None else to_json(dict(cursor))
        now = self.clock()

        def operation(db: sqlite3.Connection) -> list[Received]:
            new = []
            known = self._known[Box.INBOX]
            for message, row in zip(messages, rows, strict=True):
                number, stored = known.find(db, account, message.id)
                if stored is not None:
                    continue
                why = (dropped or {}).get(message.id, "")
                attempts = int(message.id in begun)
                inserted = db.execute(
                    "INSERT INTO inbox (account, message, chat, payload, received_at, state,"
                    " attempts, settled_at, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*row, now, new_state(why, attempts), attempts, now if why else None, why),
                )
                row_id = inserted.lastrowid or 0
                new.append(new_received(row_id, account, message, now, why, attempts))
                known.add(number, new[-1].row)
            if position is not None:
                db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (account, position))
            known.keep(db)
            return new

        received = await self._write(operation)
        self.counters.duplicates += len(messages) - len(received)
        self._working.add(row for row in received if row.state is not InboxState.DROPPED)
        return received

    async def cursor(self, account: str) -> dict[str, Any]:
        """The stored cursor; empty for a new account. One that damage made unreadable is a gap."""
        query = "SELECT payload FROM cursors WHERE account = ?"
        found = await self._read(lambda db: db.execute(query, (account,)).fetchone())
        if found is None:
            return {}
        try:
            return from_json(found[0], dict[str, Any], "cursor")
        except StoreError as error:
            log.error("cursor lost account=%s error=%s", account, error.problem)
            gap = Gap(since=self.custody.last_used, until=self.clock(), reason=error.problem)
            await self.add_gap(account, gap)
            return {}

    async def unhandled(self, account: str) -> list[Received]:
        """Messages neither done nor dead, in the order of arrival (for the start).

        One that damage made unreadable becomes a dead letter.
        """
        query = (
            f"SELECT {INBOX_COLUMNS}, turn FROM inbox"
            f" WHERE account = ? AND state <> 'dead' AND {OPEN[Box.INBOX]}"
        )
        rows, damaged = await self._read(
            lambda db: in_turn(db.execute(query, (account,)), received)
        )
        await self._give_up(account, damaged, self.bury)
        self._working.add(rows)
        return rows

    async def begin(self, row: int) -> int:
        """An agent takes the message: count and return the attempt, from 1."""

        def operation(db: sqlite3.Connection) -> int:
            begun = db.execute(
                "UPDATE inbox SET state = 'handling', attempts = attempts + 1"
                " WHERE id = ? AND state IN ('received', 'handling') RETURNING attempts",
                (row,),
            )
            found = begun.fetchone()
            if found is None:
                raise wrong_state(db, "inbox", row)
            return int(found[0])

        return await self._write(operation)

    async def release(self, row: int, failure: str | None = None) -> None:
        """The attempt is over and the message waits for another one: kept with the reason why it
        failed. None: it was stopped, has not failed, and does not count."""
        statement = (
            "UPDATE inbox SET state = 'received', attempts = max(0, attempts - ?),"
            " reason = coalesce(?, reason) WHERE id = ? AND state = 'handling'"
        )
        values = (int(failure is None), failure and legible(failure), row)
        await self._write(lambda db: db.execute(statement, values).rowcount)

    async def finish(self, row: int, owed: Sequence[Outbound]) -> list[Owed]:
        """The message is answered: mark it done and write the answers in one transaction."""
        packed = [(message, pack(message)) for message in owed]
        now = self.clock()

        def operation(db: sqlite3.Connection) -> list[Owed]:
            done = db.execute(
                "UPDATE inbox SET state = 'done', settled_at = ?"
                " WHERE id = ? AND state IN ('received', 'handling') RETURNING account",
                (now, row),
            )
            found = done.fetchone()
            if found is None:
                raise wrong_state(db, "inbox", row)
            return owe(db, self._known[Box.OUTBOX], found[0], packed, now)

        rows = await self._write(operation)
        self._working.end(Box.INBOX, row)
        self._working.add(rows)
        return rows

    async def bury(self, row: int, reason: str) -> None:
        """An inbound message can not be handled: keep it among the dead letters."""
        await self._change(
            "inbox",
            row,
            "UPDATE inbox SET state = 'dead', settled_at = ?, reason = ?"
            f" WHERE id = ? AND {OPEN[Box.INBOX]}",
            (self.clock(), reason, row),
        )
        self._working.end(Box.INBOX, row)

    # -- the outbox -------------------------------------------------------------------------------

    async def post(self, account: str, owed: Sequence[Outbound]) -> list[Owed]:
        """Owe messages that answer nothing. A key already known is returned as it stands."""
        packed = [(message, pack(message)) for message in owed]
        known, now = self._known[Box.OUTBOX], self.clock()
        rows = await self._write(lambda db: owe(db, known, account, packed, now))
        self._working.add(rows)
        return rows

    async def owed(self, account: str) -> list[Owed]:
        """OWED and SENDING rows in order. A try of a SENDING one may have arrived.

        One that damage made unreadable becomes a dead letter.
        """
        query = (
            f"SELECT {OUTBOX_COLUMNS}, turn FROM outbox WHERE account = ?"
            f" AND state NOT IN ('dead', 'ambiguous') AND {OPEN[Box.OUTBOX]}"
        )
        rows, damaged = await self._read(lambda db: in_turn(db.execute(query, (account,)), owed))
        await self._give_up(account, damaged, self.refuse)
        self._working.add(rows)
        return rows

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
            (self.clock(), receipt.id, row),
        )
        self._working.end(Box.OUTBOX, row)

    async def postpone(
        self,
        row: int,
        not_before: float,
        reason: str,
        *,
        maybe_doubled: bool = False,
        in_doubt: bool = False,
    ) -> None:
        """The try failed and may be repeated at ``not_before`` (Unix seconds).

        One ``in_doubt`` stays SENDING: a try may have arrived, and the next process must know.
        Also brings back a message that was held or refused.
        """
        state = OutboxState.SENDING if in_doubt else OutboxState.OWED
        await self._change(
            "outbox",
            row,
            "UPDATE outbox SET state = ?, not_before = ?, reason = ?,"
            " maybe_doubled = maybe_doubled OR ?, settled_at = NULL"
            f" WHERE id = ? AND {OPEN[Box.OUTBOX]}",
            (state.value, not_before, reason, maybe_doubled, row),
        )

    async def hold(self, row: int, reason: str) -> None:
        """Nobody knows whether it arrived, and the policy is to ask a person: AMBIGUOUS."""
        await self._settle(row, OutboxState.AMBIGUOUS, reason)

    async def refuse(self, row: int, reason: str) -> None:
        """The platform will never take it: DEAD."""
        await self._settle(row, OutboxState.DEAD, reason)

    async def undelivered(self, account: str, key: str, receipt: str, reason: str) -> bool:
        """What the platform accepted with this receipt did not arrive after all: DEAD.

        False, and nothing changes, when no message is SENT with that key and receipt.
        """
        known, now = self._known[Box.OUTBOX], self.clock()

        def operation(db: sqlite3.Connection) -> bool:
            _, row = known.find(db, account, legible(key))
            changed = db.execute(
                "UPDATE outbox SET state = 'dead', reason = ?, settled_at = ?"
                " WHERE id = ? AND state = 'sent' AND receipt = ?",
                (legible(reason), now, row, legible(receipt)),
            )
            return changed.rowcount == 1

        return await self._write(operation)

    async def _settle(self, row: int, state: OutboxState, reason: str) -> None:
        await self._change(
            "outbox",
            row,
            "UPDATE outbox SET state = ?, reason = ?, settled_at = ?"
            f" WHERE id = ? AND {OPEN[Box.OUTBOX]}",
            (state.value, reason, self.clock(), row),
        )
        self._working.end(Box.OUTBOX, row)

    # -- what is remembered -----------------------------------------------------------------------

    async def record(self, transition: Transition) -> None:
        """Append to the history, which keeps the newest `HISTORY_KEPT` of each account."""
        await self._write(
            keeping.append("history", transition.account, encoded(transition), HISTORY_KEPT)
        )

    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        """The newest transitions, newest last."""
        return await self._read(keeping.newest("history", account, limit, Transition))

    async def add_gap(self, account: str, gap: Gap) -> None:
        """Messages of this stretch may be missing. The newest `GAPS_KEPT` are kept."""
        await self._write(keeping.append("gaps", account, encoded(gap), GAPS_KEPT))

    async def gaps(self, account: str | None = None, limit: int = 20) -> list[Gap]:
        """The newest gaps, dismissed ones among them, newest last."""
        return await self._read(keeping.newest("gaps", account, limit, Gap))

    async def gap_entries(self, account: str | None = None, limit: int = 20) -> list[GapEntry]:
        """The newest gaps that were not dismissed, newest last."""
        return await self._read(mending.gap_entries(account, limit))

    async def dismiss_gap(self, id: int) -> GapEntry:
        """A person has seen to it: it is not listed any more. Raises NotMendable."""
        return await self._write(mending.dismiss_gap(id, self.clock()))

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

    # -- what people ask for ----------------------------------------------------------------------

    async def entries(
        self,
        box: Box,
        *,
        account: str | None = None,
        states: Collection[str] = (),
        chat: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Entry]:
        """Rows of one half, newest first; ``before`` is the row a former page ended with."""
        return await self._read(mending.entries(box, account, states, chat, before, limit))

    async def entry(self, box: Box, row: int) -> Entry | None:
        """One row, whatever its state; None when there is none."""
        return await self._read(mending.entry(box, row))

    async def retry(self, box: Box, row: int) -> Entry:
        """Give a row that waits for a person a new chance, behind all that its chat waits for."""
        entry = await self._write(mending.retry(box, row))
        self._working.add([entry.received() if box is Box.INBOX else entry.owed()])
        return entry

    async def drop(self, box: Box, row: int) -> Entry:
        """Give up a row that waits for a person. Raises NotMendable."""
        return await self._write(mending.drop(box, row, self.clock()))

    async def counts(self, account: str | None = None) -> dict[str, Counts]:
        """What waits, by account. Accounts of which nothing waits may be missing."""
        return await self._read(mending.counts(account))

    async def backup(self, path: Path) -> int:
        """Write a consistent copy to a new file; its size in bytes. Closing gives it up, and so
        does cancelling, unless the copy was just ready."""
        self._check_open()
        copy = Copy(self.custody.place, path)
        self._copies.add(copy)
        try:
            return await asyncio.get_running_loop().run_in_executor(DAEMONS, copy.make)
        finally:
            copy.give_up()
            self._copies.discard(copy)

    # -- upkeep -----------------------------------------------------------------------------------

    async def prune(
        self, older_than: float | None = None, longer: Mapping[str, float] | None = None
    ) -> int:
        """Forget what was settled more than ``older_than`` seconds ago; return how much.

        None stands for `retention`; less than `DEDUPE_SECONDS` is taken as that, since ids are
        forgotten too. Messages of an account in ``longer`` are kept for its seconds at
        least. Works in small commits among everybody else's, and gives room back.
        """
        age = self.retention if older_than is None else older_than
        now = self.clock()
        before = now - max(age, DEDUPE_SECONDS)
        kept = {account: min(before, now - least) for account, least in (longer or {}).items()}
        removed = 0
        for box in Box:
            after: int | None = 0
            while after is not None:
                step = pruning.remove(box, after, before, now, kept)
                count, after = await self._write(step)
                removed += count
            await self._write(partial(self._known[box].forget, before=before))
        while await self._write(pruning.give_back(pruning.GIVE_BACK_PAGES)):
            pass
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
        for copy in self._copies:
            copy.give_up()
        await self.custody.close()

    # -- shared -----------------------------------------------------------------------------------

    def _write(self, operation: Operation[T]) -> asyncio.Future[T]:
        self._check_open()
        return self.custody.write(operation)

    async def _read(self, question: Operation[T]) -> T:
        self._check_open()
        return await self.custody.read(question)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreError(
                "store_closed", f"journal {self.path} is closed", "the gateway is stopping"
            )

    async def _give_up(
        self,
        account: str,
        damaged: Mapping[int, StoreError],
        bury: Callable[[int, str], Awaitable[None]],
    ) -> None:
        for row, error in damaged.items():
            log.error("dead letter account=%s reason=%s", account, error.problem)
            # Where nothing can be written, the next start tells it again.
            with suppress(StoreError):
                await bury(row, error.problem)

    def _change(
        self, table: str, row: int, statement: str, values: tuple[Any, ...]
    ) -> asyncio.Future[None]:
        # Reasons are in the words of others, and none may keep a row from its next state.
        bound = tuple(legible(v) if isinstance(v, str) else v for v in values)

        def operation(db: sqlite3.Connection) -> None:
            if not db.execute(statement, bound).rowcount:
                raise wrong_state(db, table, row)

        return self._write(operation)
