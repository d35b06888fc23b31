"""Any sequence of calls, reopenings among them, leaves what a plain model says."""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import StoreError
from holdfast.messages import Inbound, Outbound, Receipt
from holdfast.store import known
from holdfast.store.protocol import DEDUPE_SECONDS, Box, Counts, InboxState, OutboxState
from holdfast.store.sqlite import SqliteStore
from holdfast.testing import run_virtual
from tests.store.journal import Clock, inbound, outbound


@dataclass
class In:
    account: str
    message: Inbound
    state: InboxState = InboxState.RECEIVED
    attempts: int = 0
    settled_at: float = 0.0
    row: int = 0
    turn: tuple[int, int] | None = None


@dataclass
class Out:
    account: str
    message: Outbound
    state: OutboxState = OutboxState.OWED
    attempts: int = 0
    doubled: bool = False
    settled_at: float = 0.0
    row: int = 0
    turn: tuple[int, int] | None = None


OPEN_IN = (InboxState.RECEIVED, InboxState.HANDLING)
OPEN_OUT = (OutboxState.OWED, OutboxState.SENDING)
END_IN = (InboxState.DONE, InboxState.DROPPED)
END_OUT = (OutboxState.SENT, OutboxState.DROPPED)


def in_turn(rows: list[Any]) -> list[Any]:
    """In the order their chats wait: a retried row behind all there was when it was retried."""
    return sorted(rows, key=lambda row: row.turn or (row.row, 0))


@dataclass
class Model:
    """The journal as two lists, beside the real one."""

    path: Path
    clock: Clock
    store: SqliteStore
    inbox: list[In] = field(default_factory=list)
    outbox: list[Out] = field(default_factory=list)
    cursors: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def receive(self, account: str, ids: list[str], number: int) -> None:
        cursor = {"n": number} if number % 2 else None
        new = []
        for name in ids:
            if all((i.account, i.message.id) != (account, name) for i in self.inbox):
                new.append(In(account, inbound(name)))
                self.inbox.append(new[-1])
        if cursor is not None:
            self.cursors[account] = cursor
        messages, begun = [inbound(name) for name in ids], ids[: number % 3]
        for entry in new:
            if entry.message.id in begun:
                entry.state, entry.attempts = InboxState.HANDLING, 1
        stored = await self.store.receive(account, messages, cursor, None, begun)
        assert [(r.message, r.state, r.attempts) for r in stored] == [
            (i.message, i.state, i.attempts) for i in new
        ]
        for entry, received in zip(new, stored, strict=True):
            entry.row = received.row

    async def post(self, account: str, keys: list[str], number: int) -> None:
        self.owe(account, keys, await self.store.post(account, [outbound(key) for key in keys]))

    def owe(self, account: str, keys: list[str], owed: list[Any]) -> None:
        for key, stored in zip(keys, owed, strict=True):
            known = [o for o in self.outbox if (o.account, o.message.key) == (account, key)]
            if not known:
                known.append(Out(account, outbound(key), row=stored.row))
                self.outbox.append(known[0])
            assert (stored.row, stored.state) == (known[0].row, known[0].state)

    async def handle(self, account: str, keys: list[str], number: int) -> None:
        if not self.inbox:
            return
        row = self.inbox[number % len(self.inbox)]
        what = number // 7 % 3
        if what == 0:
            if await self.allowed(self.store.begin(row.row), row.state in OPEN_IN):
                row.state, row.attempts = InboxState.HANDLING, row.attempts + 1
        elif what == 1:
            call = self.store.finish(row.row, [outbound(key) for key in keys])
            owed = await self.allowed(call, row.state in OPEN_IN)
            if owed is not None:
                row.state, row.settled_at = InboxState.DONE, self.clock.now
                self.owe(row.account, keys, owed)
        else:
            possible = row.state not in END_IN
            await self.allowed(self.store.bury(row.row, "why"), possible)
            if possible:
                row.state = InboxState.DEAD

    async def deliver(self, account: str, keys: list[str], number: int) -> None:
        if not self.outbox:
            return
        row = self.outbox[number % len(self.outbox)]
        possible = row.state not in END_OUT
        match number // 7 % 5:
            case 0:
                possible = row.state in OPEN_OUT
                await self.allowed(self.store.sending(row.row), possible)
                if possible:
                    row.state, row.attempts = OutboxState.SENDING, row.attempts + 1
            case 1:
                await self.store.sent(row.row, Receipt("p"))
                row.state, row.settled_at = OutboxState.SENT, self.clock.now
            case 2:
                doubled = number % 2 == 0
                call = self.store.postpone(row.row, 1.0, "why", maybe_doubled=doubled)
                await self.allowed(call, possible)
                if possible:
                    row.state, row.doubled = OutboxState.OWED, row.doubled or doubled
            case 3:
                await self.allowed(self.store.hold(row.row, "why"), possible)
                if possible:
                    row.state = OutboxState.AMBIGUOUS
            case _:
                await self.allowed(self.store.refuse(row.row, "why"), possible)
                if possible:
                    row.state = OutboxState.DEAD

    async def mend(self, account: str, keys: list[str], number: int) -> None:
        box = Box.INBOX if number % 2 else Box.OUTBOX
        rows: list[Any] = self.inbox if box is Box.INBOX else self.outbox
        if not rows:
            return
        row = rows[number // 2 % len(rows)]
        wanted = (InboxState.DEAD,) if box is Box.INBOX else (OutboxState.AMBIGUOUS, "dead")
        possible = row.state in wanted
        if number // 7 % 3:
            if await self.allowed(self.store.retry(box, row.row), possible, "store_not_mendable"):
                row.doubled = getattr(row, "doubled", False) or row.state == "ambiguous"
                row.turn = (self.newest[box], 1 + row.row)
                row.state = InboxState.RECEIVED if box is Box.INBOX else OutboxState.OWED
                row.attempts = 0
        elif await self.allowed(self.store.drop(box, row.row), possible, "store_not_mendable"):
            row.state = InboxState.DROPPED if box is Box.INBOX else OutboxState.DROPPED
            row.settled_at = self.clock.now

    @property
    def newest(self) -> dict[Box, int]:
        """The newest row there is in each half."""
        return {
            Box.INBOX: max((i.row for i in self.inbox), default=0),
            Box.OUTBOX: max((o.row for o in self.outbox), default=0),
        }

    @staticmethod
    async def allowed(
        call: Coroutine[Any, Any, Any], possible: bool, code: str = "store_wrong_state"
    ) -> Any:
        if possible:
            return await call
        with pytest.raises(StoreError, match=r"(in|out)-\d|row") as caught:
            await call
        assert caught.value.code == code
        return None

    async def prune(self, account: str, ids: list[str], number: int) -> None:
        self.clock.now += number * 1_000
        limit = self.clock.now - DEDUPE_SECONDS
        inbox = [i for i in self.inbox if i.state not in END_IN or i.settled_at >= limit]
        outbox = [o for o in self.outbox if o.state not in END_OUT or o.settled_at >= limit]
        removed = len(self.inbox) + len(self.outbox) - len(inbox) - len(outbox)
        assert await self.store.prune() == removed
        self.inbox, self.outbox = inbox, outbox

    async def reopen(self, account: str, ids: list[str], number: int) -> None:
        await self.store.close()
        self.store = await SqliteStore.open(self.path, clock=self.clock)

    async def check(self) -> None:
        for box, rows in ((Box.INBOX, self.inbox), (Box.OUTBOX, self.outbox)):
            found = await self.store.entries(box, limit=1_000)
            assert [(e.row, e.account, e.state) for e in found] == sorted(
                ((row.row, row.account, row.state) for row in rows), reverse=True
            )
        for account in "ab":
            inbox = [i for i in self.inbox if i.account == account]
            outbox = [o for o in self.outbox if o.account == account]
            assert [
                (r.row, r.message, r.state, r.attempts) for r in await self.store.unhandled(account)
            ] == [
                (i.row, i.message, i.state, i.attempts)
                for i in in_turn(inbox)
                if i.state in OPEN_IN
            ]
            assert [
                (o.row, o.message, o.state, o.attempts, o.maybe_doubled)
                for o in await self.store.owed(account)
            ] == [
                (o.row, o.message, o.state, o.attempts, o.doubled)
                for o in in_turn(outbox)
                if o.state in OPEN_OUT
            ]
            assert await self.store.cursor(account) == self.cursors.get(account, {})
            states = [row.state for row in inbox] + [row.state for row in outbox]
            counted = (await self.store.counts()).get(account, Counts())
            assert counted == Counts(
                received=states.count(InboxState.RECEIVED),
                handling=states.count(InboxState.HANDLING),
                dead=[row.state for row in inbox].count(InboxState.DEAD),
                owed=states.count(OutboxState.OWED),
                sending=states.count(OutboxState.SENDING),
                held=states.count(OutboxState.AMBIGUOUS),
                refused=[row.state for row in outbox].count(OutboxState.DEAD),
            )


OPERATIONS = (
    Model.receive,
    Model.receive,
    Model.post,
    Model.handle,
    Model.handle,
    Model.deliver,
    Model.deliver,
    Model.mend,
    Model.prune,
    Model.reopen,
)
steps = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.sampled_from("ab"),
        st.lists(st.sampled_from("12345"), max_size=3),
        st.integers(0, 200),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=80)
@given(steps=steps, recent=st.sampled_from([1, 3, known.RECENT]))
def test_the_journal_agrees_with_the_model(steps: list[Any], recent: int) -> None:
    async def run(directory: str) -> None:
        path, clock = Path(directory) / "j.db", Clock()
        model = Model(path, clock, await SqliteStore.open(path, clock=clock))
        for operation, account, names, number in steps:
            await operation(model, account, names, number)
        await model.check()
        await model.store.close()

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "RECENT", recent)
        run_virtual(run(directory))
