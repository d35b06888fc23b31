"""A journal without a disk, for tests of everything above the journal."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from holdfast.errors import StoreError
from holdfast.legible import legible
from holdfast.messages import Gap, Inbound, Outbound, Receipt
from holdfast.store.protocol import (
    COUNTED,
    MENDABLE,
    SETTLED,
    Box,
    Counts,
    Entry,
    GapEntry,
    InboxState,
    OutboxState,
    Owed,
    Received,
    Transition,
    no_such_gap,
    not_mendable,
)
from holdfast.store.rows import new_received, not_allowed, pack, to_json

ENDED = {box: (*SETTLED[box], *MENDABLE[box]) for box in Box}
"""States in which nobody works on a row."""


class MemoryStore:
    """A `holdfast.store.protocol.Store` without a disk, for tests of everything above it.

    ``fail`` makes every write raise StoreError until it is set back to None.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.fail: StoreError | None = None
        self.inbox: dict[int, Received] = {}
        self.outbox: dict[int, Owed] = {}
        self.duplicates = 0
        self._cursors: dict[str, dict[str, Any]] = {}
        self._memory: dict[tuple[str, str], bytes] = {}
        self._history: list[Transition] = []
        self._gaps: list[GapEntry] = []
        self._dismissed: set[int] = set()
        self._settled_at: dict[tuple[Box, int], float] = {}
        self._rows = itertools.count(1)

    @property
    def notice(self) -> str:
        """See `Store.notice`."""
        return "" if self.fail is None else f"{self.fail.code}: {self.fail}"

    def _write(self, messages: Sequence[Inbound | Outbound] = ()) -> None:
        """Refuse what no journal could take."""
        for message in messages:
            pack(message)
        if self.fail is not None:
            raise self.fail

    def _received(self, row: int, *not_in: str) -> Received:
        """A row of the inbox, which must not be in one of these states."""
        found = self.inbox.get(row)
        if found is None or found.state in not_in:
            raise not_allowed(Box.INBOX, row, None if found is None else found.state)
        return found

    def _owed(self, row: int, *not_in: str) -> Owed:
        """A row of the outbox, which must not be in one of these states."""
        found = self.outbox.get(row)
        if found is None or found.state in not_in:
            raise not_allowed(Box.OUTBOX, row, None if found is None else found.state)
        return found

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """See `Store.receive`."""
        self._write(messages)
        to_json(dict(cursor or {}))
        known = {(r.account, r.message.id) for r in self.inbox.values()}
        new: list[Received] = []
        for message in messages:
            if (account, message.id) in known:
                self.duplicates += 1
                continue
            known.add((account, message.id))
            why = (dropped or {}).get(message.id, "")
            attempts = int(message.id in begun)
            row = new_received(next(self._rows), account, message, self._clock(), why, attempts)
            self.inbox[row.row] = row
            new.append(row)
        if cursor is not None:
            self._cursors[account] = dict(cursor)
        return new

    async def cursor(self, account: str) -> dict[str, Any]:
        """See `Store.cursor`."""
        return dict(self._cursors.get(account, {}))

    async def unhandled(self, account: str) -> list[Received]:
        """See `Store.unhandled`."""
        waiting = (InboxState.RECEIVED, InboxState.HANDLING)
        return [r for r in self.inbox.values() if r.account == account and r.state in waiting]

    async def begin(self, row: int) -> int:
        """See `Store.begin`."""
        self._write()
        old = self._received(row, *ENDED[Box.INBOX])
        self.inbox[row] = replace(old, state=InboxState.HANDLING, attempts=old.attempts + 1)
        return old.attempts + 1

    async def release(self, row: int, failure: str | None = None) -> None:
        """See `Store.release`."""
        self._write()
        old = self.inbox.get(row)
        if old is not None and old.state is InboxState.HANDLING:
            attempts = max(0, old.attempts - int(failure is None))
            self.inbox[row] = replace(
                old,
                state=InboxState.RECEIVED,
                attempts=attempts,
                reason=legible(failure or old.reason),
            )

    async def finish(self, row: int, owed: Sequence[Outbound]) -> list[Owed]:
        """See `Store.finish`."""
        self._write(owed)
        done = replace(self._received(row, *ENDED[Box.INBOX]), state=InboxState.DONE)
        self.inbox[row] = done
        self._settled_at[Box.INBOX, row] = self._clock()
        return await self.post(done.account, owed)

    async def bury(self, row: int, reason: str) -> None:
        """See `Store.bury`."""
        self._write()
        old = self._received(row, *SETTLED[Box.INBOX])
        self.inbox[row] = replace(old, state=InboxState.DEAD, reason=legible(reason))
        self._settled_at[Box.INBOX, row] = self._clock()

    async def post(self, account: str, owed: Sequence[Outbound]) -> list[Owed]:
        """See `Store.post`."""
        self._write(owed)
        rows: list[Owed] = []
        for message in owed:
            known = [
                o
                for o in self.outbox.values()
                if o.account == account and o.message.key == message.key
            ]
            row = (
                known[0]
                if known
                else Owed(
                    row=next(self._rows),
                    account=account,
                    message=message,
                    state=OutboxState.OWED,
                    attempts=0,
                    not_before=0.0,
                    created_at=self._clock(),
                )
            )
            self.outbox[row.row] = row
            rows.append(row)
        return rows

    async def owed(self, account: str) -> list[Owed]:
        """See `Store.owed`."""
        waiting = (OutboxState.OWED, OutboxState.SENDING)
        return [o for o in self.outbox.values() if o.account == account and o.state in waiting]

    async def sending(self, row: int) -> None:
        """See `Store.sending`."""
        old = self._owed(row, *ENDED[Box.OUTBOX])
        self._change(row, state=OutboxState.SENDING, attempts=old.attempts + 1)

    async def sent(self, row: int, receipt: Receipt) -> None:
        """See `Store.sent`."""
        self._owed(row)
        self._change(row, state=OutboxState.SENT, receipt=legible(receipt.id))

    async def postpone(
        self,
        row: int,
        not_before: float,
        reason: str,
        *,
        maybe_doubled: bool = False,
        in_doubt: bool = False,
    ) -> None:
        """See `Store.postpone`."""
        old = self._owed(row, *SETTLED[Box.OUTBOX])
        self._change(
            row,
            state=OutboxState.SENDING if in_doubt else OutboxState.OWED,
            not_before=not_before,
            reason=legible(reason),
            maybe_doubled=maybe_doubled or old.maybe_doubled,
        )

    async def hold(self, row: int, reason: str) -> None:
        """See `Store.hold`."""
        self._owed(row, *SETTLED[Box.OUTBOX])
        self._change(row, state=OutboxState.AMBIGUOUS, reason=legible(reason))

    async def refuse(self, row: int, reason: str) -> None:
        """See `Store.refuse`."""
        self._owed(row, *SETTLED[Box.OUTBOX])
        self._change(row, state=OutboxState.DEAD, reason=legible(reason))

    async def undelivered(self, account: str, key: str, receipt: str, reason: str) -> bool:
        """See `Store.undelivered`."""
        self._write()
        for row, owed in self.outbox.items():
            known = (owed.account, owed.message.key, owed.receipt) == (account, key, receipt)
            if known and owed.state is OutboxState.SENT:
                self._change(row, state=OutboxState.DEAD, reason=legible(reason))
                return True
        return False

    def _change(self, row: int, **changes: Any) -> None:
        self._write()
        self.outbox[row] = replace(self.outbox[row], **changes)
        if self.outbox[row].state in (OutboxState.OWED, OutboxState.SENDING):
            self._settled_at.pop((Box.OUTBOX, row), None)
        else:
            self._settled_at[Box.OUTBOX, row] = self._clock()

    async def record(self, transition: Transition) -> None:
        """See `Store.record`."""
        self._write()
        self._history.append(transition)

    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        """See `Store.history`."""
        return [t for t in self._history if account in (None, t.account)][-limit:]

    async def add_gap(self, account: str, gap: Gap) -> None:
        """See `Store.add_gap`."""
        self._write()
        self._gaps.append(GapEntry(id=len(self._gaps) + 1, account=account, gap=gap))

    async def gaps(self, account: str | None = None, limit: int = 20) -> list[Gap]:
        """See `Store.gaps`."""
        return [entry.gap for entry in self._gaps if account in (None, entry.account)][-limit:]

    async def gap_entries(self, account: str | None = None, limit: int = 20) -> list[GapEntry]:
        """See `Store.gap_entries`."""
        found = [entry for entry in self._gaps if account in (None, entry.account)]
        return [entry for entry in found if entry.id not in self._dismissed][-limit:]

    async def dismiss_gap(self, id: int) -> GapEntry:
        """See `Store.dismiss_gap`."""
        self._write()
        for entry in await self.gap_entries(limit=len(self._gaps)):
            if entry.id == id:
                self._dismissed.add(id)
                return entry
        raise no_such_gap(id)

    async def remember(self, account: str, key: str, value: bytes) -> None:
        """See `Store.remember`."""
        self._write()
        self._memory[account, key] = value

    async def recall(self, account: str, key: str) -> bytes | None:
        """See `Store.recall`."""
        return self._memory.get((account, key))

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
        """See `Store.entries`."""
        rows = self.inbox if box is Box.INBOX else self.outbox
        found = (self._entry(box, row) for row in sorted(rows, reverse=True))
        wanted = (
            entry
            for entry in found
            if account in (None, entry.account)
            and (not states or entry.state in states)
            and chat in (None, entry.chat)
            and (before is None or entry.row < before)
        )
        return list(itertools.islice(wanted, limit))

    async def entry(self, box: Box, row: int) -> Entry | None:
        """See `Store.entry`."""
        rows = self.inbox if box is Box.INBOX else self.outbox
        return self._entry(box, row) if row in rows else None

    async def retry(self, box: Box, row: int) -> Entry:
        """See `Store.retry`."""
        await self._mendable(box, row)
        if box is Box.INBOX:
            # Taken out and put in again, it stands behind all that waits.
            received = self.inbox.pop(row)
            self.inbox[row] = replace(received, state=InboxState.RECEIVED, attempts=0)
        else:
            owed = self.outbox.pop(row)
            doubled = owed.maybe_doubled or owed.state is OutboxState.AMBIGUOUS
            self.outbox[row] = replace(
                owed, state=OutboxState.OWED, attempts=0, not_before=0.0, maybe_doubled=doubled
            )
        self._settled_at.pop((box, row), None)
        return self._entry(box, row)

    async def drop(self, box: Box, row: int) -> Entry:
        """See `Store.drop`."""
        await self._mendable(box, row)
        if box is Box.INBOX:
            self.inbox[row] = replace(self.inbox[row], state=InboxState.DROPPED)
        else:
            self.outbox[row] = replace(self.outbox[row], state=OutboxState.DROPPED)
        self._settled_at[box, row] = self._clock()
        return self._entry(box, row)

    async def _mendable(self, box: Box, row: int) -> None:
        self._write()
        entry = await self.entry(box, row)
        if entry is None or entry.state not in MENDABLE[box]:
            raise not_mendable(box, row, None if entry is None else entry.state)

    def _entry(self, box: Box, row: int) -> Entry:
        settled_at = self._settled_at.get((box, row))
        if box is Box.INBOX:
            return Entry.of_received(self.inbox[row], settled_at)
        return Entry.of_owed(self.outbox[row], settled_at)

    async def counts(self, account: str | None = None) -> dict[str, Counts]:
        """See `Store.counts`."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for received in self.inbox.values():
            found[received.account][COUNTED[Box.INBOX].get(received.state, "")] += 1
        for owed in self.outbox.values():
            found[owed.account][COUNTED[Box.OUTBOX].get(owed.state, "")] += 1
        for entry in await self.gap_entries(limit=len(self._gaps)):
            found[entry.account]["gaps"] += 1
        return {
            name: Counts(**{key: number for key, number in counted.items() if key})
            for name, counted in found.items()
            if account in (None, name)
        }

    async def backup(self, path: Path) -> int:
        """See `Store.backup`; what is kept in memory has no file to copy."""
        raise StoreError(
            "store_refused", "there is no journal on a disk", "so there is nothing to copy"
        )

    async def prune(
        self, older_than: float | None = None, longer: Mapping[str, float] | None = None
    ) -> int:
        """See `Store.prune`; a test's journal forgets nothing."""
        return 0

    async def close(self) -> None:
        """See `Store.close`."""
