"""One life of the account, as one run of a gateway's process would be, and the journal it shares
with the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from typing import Any

import msgspec
from aiohttp.abc import AbstractResolver

from holdfast.adapter import Adapter, Secret
from holdfast.errors import StoreError
from holdfast.gateway.account import Account, AccountTools
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.net import Net
from holdfast.gateway.sender import Sender
from holdfast.messages import Gap, Inbound, Outbound
from holdfast.store.protocol import Received
from holdfast.supervision import Policy, Published, Report
from holdfast.testing import MemoryStore

NAME = "bot"


class Moment(Enum):
    """Where in the intake of a message the process dies."""

    BEFORE_COMMIT = auto()
    AFTER_COMMIT = auto()


class Journal(MemoryStore):
    """A journal that outlives crashes, and can make one happen at an exact step."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[Gap] = []
        self.reached = asyncio.Event()
        """An intake stands at the armed step."""
        self._armed: Moment | None = None
        self._dead = asyncio.Event()

    def arm(self, moment: Moment) -> None:
        """The next intake of a message stops there until `break_down`."""
        self._armed = moment

    def break_down(self) -> None:
        """The process is dying: it writes nothing more."""
        self.fail = StoreError("crashed", "the process has died")
        self._dead.set()

    def repair(self) -> None:
        """The next process finds what was committed."""
        self.fail, self._armed = None, None
        self._dead, self.reached = asyncio.Event(), asyncio.Event()

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """See `holdfast.store.protocol.Store.receive`."""
        if not messages or self._armed is None:
            return await super().receive(account, messages, cursor, dropped, begun)
        moment, self._armed = self._armed, None
        if moment is Moment.AFTER_COMMIT:
            await super().receive(account, messages, cursor, dropped, begun)
        self.reached.set()
        await self._dead.wait()
        raise StoreError("crashed", "the process has died")

    async def add_gap(self, account: str, gap: Gap) -> None:
        """See `holdfast.store.protocol.Store.add_gap`."""
        await super().add_gap(account, gap)
        self.reported.append(gap)


class Life:
    """Account and sender around one adapter, with an agent that echoes."""

    def __init__(
        self,
        adapter: type[Adapter],
        table: Mapping[str, Any],
        policy: Policy,
        *,
        store: Journal,
        resolver: AbstractResolver,
        hooks: HookServer,
        hook_url: str,
        on_report: Callable[[Report], None],
        clock: Callable[[], float],
    ) -> None:
        net = Net(resolver, proxy="")
        client = net.client()
        self.adapter = adapter(settings(adapter, table), AccountTools(client, hook_url, clock))
        self.sender = Sender(NAME, self.adapter, store, clock=clock, rand=lambda: 0.5)
        self._store, self._on_report = store, on_report
        self._echoes: set[asyncio.Task[None]] = set()
        self.account = Account(
            NAME,
            self.adapter,
            policy,
            store=store,
            net=net,
            hooks=hooks,
            send_client=client,
            on_report=self._reported,
            on_received=lambda _, rows: self._handle(rows),
            rand=lambda: 0.5,
            clock=clock,
        )

    async def start(self) -> None:
        """Begin; what a former life has left is taken up first."""
        self._handle(await self._store.unhandled(NAME))
        self.sender.put(await self._store.owed(NAME))
        await self.account.start()

    async def stop(self) -> None:
        """Stop sender and account side by side, as the gateway does. Idempotent."""
        await asyncio.gather(self.sender.stop(1.0), self.account.stop())
        if self._echoes:
            await asyncio.wait(self._echoes)

    def _reported(self, _: Account, report: Report) -> None:
        self.sender.connected(report.view.published is Published.CONNECTED)
        self._on_report(report)

    def _handle(self, rows: Sequence[Received]) -> None:
        for row in rows:
            task = asyncio.create_task(self._echo(row), name=f"{NAME} echo")
            self._echoes.add(task)
            task.add_done_callback(self._echoes.discard)

    async def _echo(self, row: Received) -> None:
        message = row.message
        answer = Outbound(
            key=f"{NAME}-{row.row}",
            chat=message.chat,
            text=f"echo: {message.text}",
            thread=message.thread,
            context=message.context,
        )
        try:
            self.sender.put(await self._store.finish(row.row, [answer]))
        except StoreError:
            return  # the journal has broken down: the next life finds the message unhandled


def settings(adapter: type[Adapter], table: Mapping[str, Any]) -> Any:
    """An account's table as its adapter's settings. Raises msgspec.ValidationError."""

    def secret(kind: type, value: Any) -> Any:
        if kind is Secret and isinstance(value, str):
            return Secret(value)
        raise msgspec.ValidationError(f"expected {kind.__name__}, got {type(value).__name__}")

    own = {key: value for key, value in table.items() if key != "platform"}
    return msgspec.convert(own, adapter.Settings, dec_hook=secret)
