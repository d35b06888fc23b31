"""What the gateway asks of a journal. `SqliteStore` is the one for a single machine.

The one-way road of a message: `receive` (then the platform may be acknowledged) -> `begin` ->
`finish`, which marks it done and writes what is owed in one transaction -> `sending` -> `sent`.
Every method that writes returns only after the commit is durable, and raises StoreError when it
could not be made so; then nothing of the call happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from holdfast.messages import Gap, Inbound, Outbound, Receipt


class InboxState(StrEnum):
    """Where an inbound message stands."""

    RECEIVED = "received"
    HANDLING = "handling"
    DONE = "done"
    DEAD = "dead"


class OutboxState(StrEnum):
    """Where an outbound message stands."""

    OWED = "owed"
    SENDING = "sending"
    """On its way: if we die now, nobody knows whether it arrived."""
    AMBIGUOUS = "ambiguous"
    """Nobody knows; held for a person or for the account's policy."""
    SENT = "sent"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An inbound message in the journal."""

    row: int
    account: str
    message: Inbound
    state: InboxState
    attempts: int
    received_at: float
    """Unix seconds."""
    reason: str = ""
    """Why it is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
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


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is waiting in an account's journal."""

    inbox: int = 0
    outbox: int = 0
    ambiguous: int = 0
    dead: int = 0


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
    """A durable journal shared by all accounts of a gateway."""

    async def receive(
        self, account: str, messages: Sequence[Inbound], cursor: Mapping[str, Any] | None
    ) -> list[Received]:
        """Store new messages and the cursor in one transaction; return only the new ones.

        ``cursor=None`` leaves the stored cursor as it is. Known ids are dropped silently and
        counted in `duplicates`.
        """

    async def cursor(self, account: str) -> dict[str, Any]:
        """The stored cursor; empty for a new account."""

    async def unhandled(self, account: str) -> list[Received]:
        """Messages neither done nor dead, in the order of arrival (for the start)."""

    async def begin(self, row: int) -> int:
        """An agent takes the message: count and return the attempt, from 1."""

    async def release(self, row: int) -> None:
        """The agent was stopped, not failed: the attempt does not count."""

    async def finish(self, row: int, owed: Sequence[Outbound]) -> list[Owed]:
        """The message is answered: mark it done and write the answers in one transaction."""

    async def bury(self, row: int, reason: str) -> None:
        """An inbound message can not be handled: keep it among the dead letters."""

    async def post(self, account: str, owed: Sequence[Outbound]) -> list[Owed]:
        """Owe messages that answer nothing. A key already known is returned as it stands."""

    async def owed(self, account: str) -> list[Owed]:
        """OWED and SENDING rows in order (a SENDING row is found only after a crash)."""

    async def sending(self, row: int) -> None:
        """A try begins whose outcome a crash would hide. Counts the attempt."""

    async def sent(self, row: int, receipt: Receipt) -> None:
        """The platform accepted it."""

    async def postpone(
        self, row: int, not_before: float, reason: str, *, maybe_doubled: bool = False
    ) -> None:
        """The try failed and may be repeated at ``not_before`` (Unix seconds)."""

    async def hold(self, row: int, reason: str) -> None:
        """Nobody knows whether it arrived, and the policy is to ask a person: AMBIGUOUS."""

    async def refuse(self, row: int, reason: str) -> None:
        """The platform will never take it: DEAD."""

    async def record(self, transition: Transition) -> None:
        """Append to the history."""

    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        """The newest transitions, newest last."""

    async def add_gap(self, account: str, gap: Gap) -> None:
        """Messages of this stretch may be missing."""

    async def gaps(self, account: str, limit: int = 20) -> list[Gap]:
        """The newest gaps, newest last."""

    async def remember(self, account: str, key: str, value: bytes) -> None:
        """Keep a small value over restarts (the supervisor's memory, an adapter's tokens)."""

    async def recall(self, account: str, key: str) -> bytes | None:
        """A remembered value."""

    async def prune(self, older_than: float = 86_400.0) -> int:
        """Forget settled messages older than so many seconds (never under 24 h); how many."""

    async def depth(self, account: str) -> Depth:
        """How much is waiting."""

    async def close(self) -> None:
        """Commit what was accepted and close. Idempotent."""
