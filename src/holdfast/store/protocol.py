"""What the gateway asks of a journal. `SqliteStore` is the one for a single machine.

The one-way road of a message: `receive` (then the platform may be acknowledged) -> `begin`, or
begun as it is received -> `finish`, which marks it done and writes what is owed in one
transaction -> `sending` -> `sent`.
Every method that writes returns only after the commit is durable, and raises StoreError when it
could not be made so; then nothing of the call happened. A step that the row's state does not allow
is `store_wrong_state`, and what can not be encoded `store_refused`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from holdfast.errors import StoreError
from holdfast.messages import Gap, Inbound, Outbound, Receipt

DEDUPE_SECONDS = 24 * 3600.0
"""Known ids are kept at least this long: platforms send again for hours. Where it is days, the
account's ids are kept for longer (`holdfast.adapter.Traits.repeats`)."""


class InboxState(StrEnum):
    """Where an inbound message stands."""

    RECEIVED = "received"
    HANDLING = "handling"
    DONE = "done"
    DEAD = "dead"
    """No agent could answer it; kept until a person retries or drops it."""
    DROPPED = "dropped"
    """Given up by a person, or passed over by the backlog policy. Settled, like DONE."""


class OutboxState(StrEnum):
    """Where an outbound message stands."""

    OWED = "owed"
    SENDING = "sending"
    """On its way, or in doubt and to be repeated while the platform recognises it: if we die now,
    nobody knows whether it arrived."""
    AMBIGUOUS = "ambiguous"
    """Nobody knows; held for a person or for the account's policy."""
    SENT = "sent"
    DEAD = "dead"
    """The platform refused it; kept until a person retries or drops it."""
    DROPPED = "dropped"
    """A person gave it up. Settled, like SENT."""


class Box(StrEnum):
    """The two halves of the journal."""

    INBOX = "inbox"
    OUTBOX = "outbox"


def name_of(box: Box, row: int) -> str:
    """The name by which people call a message."""
    return f"{'in' if box is Box.INBOX else 'out'}-{row}"


SETTLED: dict[Box, tuple[str, ...]] = {
    Box.INBOX: (InboxState.DONE, InboxState.DROPPED),
    Box.OUTBOX: (OutboxState.SENT, OutboxState.DROPPED),
}
"""States that are final: only such rows are ever pruned."""

MENDABLE: dict[Box, tuple[str, ...]] = {
    Box.INBOX: (InboxState.DEAD,),
    Box.OUTBOX: (OutboxState.AMBIGUOUS, OutboxState.DEAD),
}
"""States that wait for a person, who may retry or drop the row."""


COUNTED: dict[Box, dict[str, str]] = {
    Box.INBOX: {
        InboxState.RECEIVED: "received",
        InboxState.HANDLING: "handling",
        InboxState.DEAD: "dead",
    },
    Box.OUTBOX: {
        OutboxState.OWED: "owed",
        OutboxState.SENDING: "sending",
        OutboxState.AMBIGUOUS: "held",
        OutboxState.DEAD: "refused",
    },
}
"""The field of `Counts` in which a state is counted."""


class NotMendable(StoreError):
    """A person asked for a change that the row's state, or its absence, does not allow."""


def not_mendable(box: Box, row: int, state: str | None) -> NotMendable:
    """Why a row, of which only the state is known, can not be retried or dropped."""
    wanted = " or ".join(MENDABLE[box])
    if state is None:
        hint = "settled rows are pruned after a while; list what there is"
        return NotMendable("store_not_mendable", f"there is no message {name_of(box, row)}", hint)
    return NotMendable(
        "store_not_mendable",
        f"{name_of(box, row)} is {state}",
        f"only what is {wanted} can be retried or dropped",
    )


def no_such_gap(id: int) -> NotMendable:
    """Why a gap can not be dismissed."""
    return NotMendable(
        "store_not_mendable",
        f"gap {id} does not exist, or was dismissed before",
        "list the gaps there are",
    )


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """An inbound message in the journal."""

    row: int
    account: str
    message: Inbound
    state: InboxState
    attempts: int
    received_at: float
    """Unix seconds."""
    reason: str = ""
    """Why it is dead or dropped, or why its newest failed attempt failed."""


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """An outbound message in the journal."""

    row: int
    account: str
    message: Outbound
    state: OutboxState
    attempts: int
    not_before: float
    """Unix seconds; 0 for at once."""
    created_at: float
    maybe_doubled: bool = False
    """It was sent again although an earlier try may have arrived."""
    reason: str = ""
    """Why the last try failed."""
    receipt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of either half of the journal, as people look at it."""

    box: Box
    row: int
    account: str
    state: str
    """An `InboxState` or `OutboxState`."""
    chat: str
    message: Inbound | Outbound
    attempts: int
    at: float
    """Unix seconds at which it was received or first owed."""
    settled_at: float | None = None
    """Unix seconds at which it came into a state that nobody works on; None while somebody does."""
    not_before: float = 0.0
    """Outbox: Unix seconds before which it is not tried again; 0 for at once."""
    reason: str = ""
    """Why it is dead or held, or why the last try failed; kept when it is retried."""
    maybe_doubled: bool = False
    """Outbox: it was sent again although an earlier try may have arrived."""
    receipt: str = ""
    """Outbox: the platform's id of it."""

    @classmethod
    def of_received(cls, row: Received, settled_at: float | None) -> Entry:
        """A row of the inbox."""
        return cls(
            box=Box.INBOX,
            row=row.row,
            account=row.account,
            state=row.state.value,
            chat=row.message.chat,
            message=row.message,
            attempts=row.attempts,
            at=row.received_at,
            settled_at=settled_at,
            reason=row.reason,
        )

    @classmethod
    def of_owed(cls, row: Owed, settled_at: float | None) -> Entry:
        """A row of the outbox."""
        return cls(
            box=Box.OUTBOX,
            row=row.row,
            account=row.account,
            state=row.state.value,
            chat=row.message.chat,
            message=row.message,
            attempts=row.attempts,
            at=row.created_at,
            settled_at=settled_at,
            not_before=row.not_before,
            reason=row.reason,
            maybe_doubled=row.maybe_doubled,
            receipt=row.receipt,
        )

    def received(self) -> Received:
        """The same row for a lane. Only for the inbox."""
        assert isinstance(self.message, Inbound)
        return Received(
            row=self.row,
            account=self.account,
            message=self.message,
            state=InboxState(self.state),
            attempts=self.attempts,
            received_at=self.at,
            reason=self.reason,
        )

    def owed(self) -> Owed:
        """The same row for a sender. Only for the outbox."""
        assert isinstance(self.message, Outbound)
        return Owed(
            row=self.row,
            account=self.account,
            message=self.message,
            state=OutboxState(self.state),
            attempts=self.attempts,
            not_before=self.not_before,
            created_at=self.at,
            maybe_doubled=self.maybe_doubled,
            reason=self.reason,
            receipt=self.receipt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GapEntry:
    """A reported gap that nobody has dismissed yet."""

    id: int
    account: str
    gap: Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many rows of an account are in each state that is not final, and its open gaps."""

    received: int = 0
    handling: int = 0
    dead: int = 0
    """Inbound messages no agent could answer."""
    owed: int = 0
    sending: int = 0
    held: int = 0
    """Outbound messages that are AMBIGUOUS."""
    refused: int = 0
    """Outbound messages that are DEAD."""
    gaps: int = 0


class Transition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an account's history."""

    account: str
    at: float
    """Unix seconds."""
    state: str
    """Published state after the change."""
    trigger: str
    generation: int
    attempt: int = 0
    code: str = ""
    message: str = ""
    retry_in: float | None = None


class Store(Protocol):
    """A durable journal shared by all accounts of a gateway.

    What is written lands in the order in which it was handed in.
    """

    @property
    def notice(self) -> str:
        """What people must know of the journal now; empty when all is well.

        Why it can not be written or read, as long as that is so; or that messages may be lost with
        an older one, as long as nobody has taken its file away.
        """

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """Store new messages and the cursor in one transaction; return only the new ones.

        ``cursor=None`` leaves the stored cursor as it is. Known ids are passed over silently and
        counted in `duplicates`. ``dropped`` says why messages of these ids are not to be handled:
        they are stored as settled. ``begun`` are ids that an agent takes at once: their first
        attempt is counted in the same transaction, as by `begin`.
        """

    async def cursor(self, account: str) -> dict[str, Any]:
        """The stored cursor; empty for a new account."""

    async def unhandled(self, account: str) -> list[Received]:
        """Messages neither done nor dead, in the order of arrival (for the start)."""

    async def begin(self, row: int) -> int:
        """An agent takes the message: count and return the attempt, from 1."""

    async def release(self, row: int, failure: str | None = None) -> None:
        """The attempt is over and the message waits for another one: kept with the reason why it
        failed. None: it was stopped, has not failed, and does not count."""

    async def finish(self, row: int, owed: Sequence[Outbound]) -> list[Owed]:
        """The message is answered: mark it done and write the answers in one transaction."""

    async def bury(self, row: int, reason: str) -> None:
        """An inbound message can not be handled: keep it among the dead letters."""

    async def post(self, account: str, owed: Sequence[Outbound]) -> list[Owed]:
        """Owe messages that answer nothing. A key already known is returned as it stands."""

    async def owed(self, account: str) -> list[Owed]:
        """OWED and SENDING rows in order. A try of a SENDING one may have arrived."""

    async def sending(self, row: int) -> None:
        """A try begins whose outcome a crash would hide. Counts the attempt."""

    async def sent(self, row: int, receipt: Receipt) -> None:
        """The platform accepted it."""

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
        """

    async def hold(self, row: int, reason: str) -> None:
        """Nobody knows whether it arrived, and the policy is to ask a person: AMBIGUOUS."""

    async def refuse(self, row: int, reason: str) -> None:
        """The platform will never take it: DEAD."""

    async def undelivered(self, account: str, key: str, receipt: str, reason: str) -> bool:
        """What the platform accepted with this receipt did not arrive after all: DEAD.

        False, and nothing changes, when no message is SENT with that key and receipt.
        """

    async def record(self, transition: Transition) -> None:
        """Append to the history."""

    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        """The newest transitions, newest last."""

    async def add_gap(self, account: str, gap: Gap) -> None:
        """Messages of this stretch may be missing."""

    async def gaps(self, account: str | None = None, limit: int = 20) -> list[Gap]:
        """The newest gaps of an account or of all, dismissed ones among them, newest last."""

    async def gap_entries(self, account: str | None = None, limit: int = 20) -> list[GapEntry]:
        """The newest gaps that were not dismissed, newest last."""

    async def dismiss_gap(self, id: int) -> GapEntry:
        """A person has seen to it: it is not listed any more. Raises NotMendable."""

    async def remember(self, account: str, key: str, value: bytes) -> None:
        """Keep a small value over restarts (the supervisor's memory, an adapter's tokens)."""

    async def recall(self, account: str, key: str) -> bytes | None:
        """A remembered value."""

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

    async def entry(self, box: Box, row: int) -> Entry | None:
        """One row, whatever its state; None when there is none."""

    async def retry(self, box: Box, row: int) -> Entry:
        """Give a row that waits for a person to the agents or the sender once more.

        It becomes RECEIVED or OWED with no attempts counted, keeps its reason, and takes its place
        behind all that its chat waits for now, over restarts too. A held message is marked as
        perhaps doubled. Raises NotMendable when the row is not among `MENDABLE`.
        """

    async def drop(self, box: Box, row: int) -> Entry:
        """Give up a row that waits for a person: DROPPED. Raises NotMendable like `retry`."""

    async def counts(self, account: str | None = None) -> dict[str, Counts]:
        """What waits, by account. Accounts of which nothing waits may be missing."""

    async def backup(self, path: Path) -> int:
        """Write a consistent copy of the journal to a new file; its size in bytes.

        Everything goes on meanwhile. The file is private (mode 0600) and durable on return; when
        the call fails, there is none. Raises StoreError, `store_exists` for a file that is there.
        """

    async def prune(
        self, older_than: float | None = None, longer: Mapping[str, float] | None = None
    ) -> int:
        """Forget what was settled longer ago than so many seconds; how many messages.

        None stands for the retention the journal was opened with. Never under 24 h: known ids are
        what repetitions are recognised by. Messages of an account in ``longer`` are kept for its
        seconds at least.
        """

    async def close(self) -> None:
        """Commit what was accepted and close. Idempotent."""
