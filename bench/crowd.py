"""A gateway with very many accounts whose platform is in this process and costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.serving import serving
from holdfast import adapter as contract
from holdfast.adapter import Adapter, Continuity, Disconnect, Health, Link, Liveness, Tools, Traits
from holdfast.config import AccountConfig, Config, GatewaySettings, WebSettings
from holdfast.gateway.gateway import Gateway
from holdfast.messages import Outbound, Receipt
from holdfast.observe.history import FILE_NAME, History
from holdfast.supervision import Cause, Kind, Published, preset
from holdfast.testing import MemoryStore
from holdfast.web.server import HttpServer


class MemberSettings(contract.Settings, frozen=True, kw_only=True):
    """Configuration of a member."""

    seat: int


class Member(Adapter):
    """Connects at once and stays, until somebody shows it the door."""

    platform = "crowd"
    Settings: ClassVar[type[contract.Settings]] = MemberSettings
    traits = Traits(liveness=Liveness("being there", 3600.0), max_text=1000)

    def __init__(self, settings: MemberSettings, tools: Tools) -> None:
        self._seat = settings.seat
        self.door = asyncio.Event()
        self.kind = Kind.LOST

    async def run(self, link: Link) -> None:
        """Be there."""
        link.ready(Continuity.CAUGHT_UP, silence=86_400.0, grace=60.0)
        await self.door.wait()
        self.door.clear()
        raise Disconnect(Cause(self.kind, f"crowd_{self.kind}", "shown the door"))

    async def send(self, message: Outbound) -> Receipt:
        """Everything arrives."""
        return Receipt("1")

    async def check(self) -> Health:
        """Whether the verdict holds that was heard last."""
        if self.kind is Kind.CREDENTIALS:
            raise Disconnect(Cause(self.kind, f"crowd_{self.kind}", "shown the door"))
        return Health("well")

    @property
    def identity(self) -> str:
        """The seat."""
        return str(self._seat)


@dataclass(frozen=True, slots=True)
class Crowd:
    """A running gateway, and where its dashboard is."""

    gateway: Gateway
    server: HttpServer

    @property
    def url(self) -> str:
        """Of the dashboard."""
        return self.server.url

    def lose(self, name: str, kind: Kind = Kind.LOST) -> None:
        """End the connection of an account; after CREDENTIALS it does not come back by itself."""
        member = self.gateway.desk(name).account.adapter
        assert isinstance(member, Member)
        member.kind = kind
        member.door.set()

    async def until(self, name: str, state: Published) -> None:
        """Wait until an account publishes a state."""
        await self.gateway.desk(name).account.until(lambda view: view.published is state)


def names(count: int) -> Iterator[str]:
    """What the accounts are called."""
    return (f"bot-{number:04}" for number in range(count))


@contextlib.asynccontextmanager
async def crowd(directory: Path, count: int, **web: Any) -> AsyncIterator[Crowd]:
    """So many accounts, all connected, and their dashboard."""
    accounts = {
        name: AccountConfig(
            name=name,
            platform=Member.platform,
            adapter=Member,
            settings=MemberSettings(seat=seat),
            agent="echo",
            policy=preset(Member.platform),
            proxy=None,
            ambiguous="resend",
        )
        for seat, name in enumerate(names(count))
    }
    config = Config(directory / "holdfast.toml", GatewaySettings(state_dir="."), accounts)
    gateway = Gateway(config, MemoryStore())
    history = History(directory / FILE_NAME)
    server = HttpServer(gateway, history, settings=WebSettings(**{"listen": "127.0.0.1:0", **web}))
    async with serving(gateway, history, server):
        found = Crowd(gateway, server)
        for name in accounts:
            await found.until(name, Published.CONNECTED)
        yield found
