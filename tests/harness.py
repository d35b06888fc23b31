"""Runs one account of the real gateway shell around an adapter, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.adapter import Adapter, Secret
from holdfast.gateway.account import Account, AccountTools
from holdfast.gateway.dns import Resolver
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.net import Net
from holdfast.messages import Inbound
from holdfast.store.protocol import Received, Store
from holdfast.supervision import Published, Report, preset
from holdfast.testing import MemoryStore


@dataclass
class Running:
    """What a test sees of a running account."""

    account: Account
    adapter: Adapter
    store: Store
    hooks: HookServer
    messages: list[Inbound] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    async def connected(self) -> None:
        """Wait until the account is connected."""
        await self.account.until(lambda view: view.published is Published.CONNECTED)

    async def published(self, state: Published) -> None:
        """Wait until a state is published."""
        await self.account.until(lambda view: view.published is state)

    def states(self) -> list[Published]:
        """Every published state in order, without repeats."""
        states = [report.view.published for report in self.reports]
        return [s for i, s in enumerate(states) if i == 0 or s is not states[i - 1]]


class SlowStore(MemoryStore):
    """A journal whose commits of messages take a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """See `Store.receive`."""
        await asyncio.sleep(self.seconds)
        return await super().receive(account, messages, cursor, dropped, begun)


def make_adapter(kind: type[Adapter], config: Mapping[str, Any], tools: AccountTools) -> Adapter:
    """An adapter from the plain configuration a simulator's `account()` returns."""
    import msgspec

    def hook(wanted: type, value: Any) -> Any:
        if wanted is Secret and isinstance(value, str):
            return Secret(value)
        raise TypeError(f"unexpected {wanted}")

    plain = {key: value for key, value in config.items() if key != "platform"}
    settings = msgspec.convert(plain, kind.Settings, dec_hook=hook)
    return kind(settings, tools)


@contextlib.asynccontextmanager
async def running(
    kind: type[Adapter],
    config: Mapping[str, Any],
    *,
    store: Store | None = None,
    policy: Mapping[str, Any] | None = None,
    rand: Callable[[], float] = lambda: 0.5,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Running]:
    """An account on the real shell; stopped at the end, whatever happens in the test."""
    net = Net(Resolver())
    hooks = HookServer("127.0.0.1", 0)
    await hooks.start()
    client = net.client()
    tools = AccountTools(client, f"http://127.0.0.1:{hooks.port}", clock)
    adapter = make_adapter(kind, config, tools)
    journal = store or MemoryStore()
    seen = Running(None, adapter, journal, hooks)  # type: ignore[arg-type]

    def received(_: Account, rows: list[Received]) -> None:
        seen.messages.extend(row.message for row in rows)

    seen.account = Account(
        "bot",
        adapter,
        preset(kind.platform, policy),
        store=journal,
        net=net,
        hooks=hooks,
        send_client=client,
        on_report=lambda _, report: seen.reports.append(report),
        on_received=received,
        rand=rand,
        clock=clock,
    )
    await seen.account.start()
    try:
        yield seen
    finally:
        await seen.account.stop()
        await hooks.stop()
