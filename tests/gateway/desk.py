"""Lanes and a sender over a journal in memory, with an adapter whose sends are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.adapter import Outcome, SendFailed, Traits
from holdfast.agents import Agent, Turn
from holdfast.gateway.lanes import Lanes, Limits
from holdfast.gateway.sender import Sender
from holdfast.messages import Inbound, Outbound, Receipt, Reply
from holdfast.supervision import Cause, Kind
from holdfast.testing import MemoryStore
from tests.gateway.parrot import Parrot, ParrotSettings
from tests.gateway.tools import now

Sending = Callable[[Outbound], Awaitable[Receipt]]


def failed(outcome: Outcome, retry_after: float | None = None) -> SendFailed:
    """A failed send."""
    return SendFailed(outcome, Cause(Kind.THROTTLED, outcome.name, retry_after=retry_after))


def message(id: str, chat: str = "c") -> Inbound:
    """What somebody said."""
    return Inbound(id=id, chat=chat, sender="u", text=id)


class Mouth(Parrot):
    """Only sends, as its script says; the script is used up, then everything is accepted."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(ParrotSettings(url="http://127.0.0.1:9"), None)
        self.traits = replace(Parrot.traits, **traits)  # type: ignore[misc]
        self.script: list[BaseException | Sending] = []
        self.tries: list[tuple[float, str, str]] = []
        """Moment, chat and text of every try."""
        self.keys: list[str] = []
        self.typed: list[tuple[float, str]] = []

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        self.tries.append((now(), message.chat, message.text))
        self.keys.append(message.key)
        if self.script:
            step = self.script.pop(0)
            if isinstance(step, BaseException):
                raise step
            return await step(message)
        return Receipt(f"r{len(self.tries)}")

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """See `Adapter.typing`."""
        self.typed.append((now(), chat))

    def texts(self, chat: str | None = None) -> list[str]:
        """What was tried, in order."""
        return [text for _, where, text in self.tries if chat in (None, where)]


async def echo(message: Inbound, turn: Turn) -> list[Reply]:
    """Say it back."""
    return [Reply(text=message.text)]


@dataclass
class Table:
    """Everything for one account but the connection."""

    mouth: Mouth = field(default_factory=Mouth)
    store: MemoryStore = field(default_factory=MemoryStore)
    agent: Agent = echo
    limits: Limits = field(default_factory=Limits)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(64))
    ambiguous: str = "resend"
    account: str = "bot"
    wall: float = 1e9
    """Unix seconds at the loop's zero; a test may set the clock by it."""

    def __post_init__(self) -> None:
        self.store._clock = lambda: self.wall + now()
        self.sender = Sender(
            self.account,
            self.mouth,
            self.store,
            ambiguous=self.ambiguous,
            clock=lambda: self.wall + now(),
            rand=lambda: 0.5,
        )
        self.lanes = Lanes(
            self.account,
            self.mouth,
            self.agent,
            self.store,
            self.limits,
            self.slots,
            on_owed=self.sender.put,
            can_type=lambda: True,
        )

    @property
    def traits(self) -> Traits:
        """The platform's traits."""
        return self.mouth.traits

    async def hear(self, id: str, text: str = "hi", chat: str = "c") -> None:
        """A message comes in."""
        message = Inbound(id=id, chat=chat, sender="u", text=text)
        begun = await self.lanes.expect([message])
        rows = await self.store.receive(self.account, [message], None, begun=begun)
        self.lanes.put(rows)
        await self.lanes.settle([message], begun, rows)

    async def owe(self, *texts: str, chat: str = "c") -> None:
        """Messages are to be sent."""
        start = len(self.store.outbox)
        owed = [Outbound(key=f"k{start + n}", chat=chat, text=text) for n, text in enumerate(texts)]
        self.sender.put(await self.store.post(self.account, owed))

    async def recover(self) -> None:
        """Take up what the journal holds, as at a start."""
        self.sender.put(await self.store.owed(self.account))
        self.lanes.put(await self.store.unhandled(self.account))

    async def quiet(self, limit: float = 10_000.0) -> None:
        """Wait until nothing is left to do."""
        pause = 0.01
        async with asyncio.timeout(limit):
            while self.lanes.depth or self.sender.depth:
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, 1.0)

    async def close(self) -> None:
        """Stop both."""
        await asyncio.gather(self.lanes.stop(2.0), self.sender.stop(2.0))

    def states(self) -> list[str]:
        """Of all outbound messages, in order."""
        return [row.state.value for row in self.store.outbox.values()]
