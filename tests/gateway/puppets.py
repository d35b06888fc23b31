"""Accounts on strings, a web hook that answers what a test wants, and a gateway of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from aiohttp import web

from holdfast.adapter import (
    Adapter,
    Continuity,
    Disconnect,
    Health,
    Link,
    Liveness,
    Outcome,
    Secret,
    SendFailed,
    Traits,
)
from holdfast.config import AlertsConfig, Config, HookWay, Way
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.notify import ServiceManager
from holdfast.messages import Outbound, Receipt
from holdfast.observe.alerts import Rules
from holdfast.supervision import Cause, Kind, Published
from holdfast.testing import MemoryStore
from tests.gateway.house import config, parrot, reach
from tests.gateway.parrot import ParrotSettings
from tests.theatre import NoWatchdog

GONE = Cause(Kind.UNREACHABLE, "puppet_gone", "nobody is there")
REVOKED = Cause(Kind.CREDENTIALS, "puppet_401", "the token was refused")


@dataclass
class Strings:
    """How an account's platform is, and what it was sent."""

    cause: Cause | None = None
    """Why no connection can be made; None lets it connect."""
    sent: list[str] = field(default_factory=list)
    continuity: Continuity = Continuity.CAUGHT_UP
    hangs: bool = False
    """A message is never taken."""
    refuses: Cause | None = None
    busy: float = 0.0
    """Seconds after which a message is to be tried again; 0 takes it."""
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    links: list[Link] = field(default_factory=list)

    @property
    def why(self) -> Cause:
        """Why the connection ends."""
        return self.cause or GONE

    def fail(self, cause: Cause) -> None:
        """Cut the connection; no other can be made."""
        self.cause = cause
        self.cut.set()

    def mend(self) -> None:
        """Connections can be made again."""
        self.cause = None
        self.cut.clear()


class Puppet(Adapter):
    """A platform on strings, without a socket."""

    platform = "puppet"
    Settings = ParrotSettings
    traits: ClassVar[Traits] = Traits(liveness=Liveness("strings", 86_400.0), max_text=10_000)
    strings: ClassVar[dict[str, Strings]] = {}

    def __init__(self, settings: ParrotSettings, tools: Any) -> None:
        super().__init__(settings, tools)
        self.mine, self.bot = self.strings[settings.bot], settings.bot

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        if self.mine.cause is not None:
            raise Disconnect(self.mine.cause)
        link.ready(self.mine.continuity, silence=86_400.0, grace=60.0)
        self.mine.links.append(link)
        await self.mine.cut.wait()
        raise Disconnect(self.mine.why)

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        if self.mine.hangs:
            await asyncio.Event().wait()
        if self.mine.refuses is not None:
            raise SendFailed(Outcome.REFUSED, self.mine.refuses)
        if self.mine.busy:
            slow = Cause(Kind.THROTTLED, "puppet_429", "slow down", retry_after=self.mine.busy)
            raise SendFailed(Outcome.NOT_SENT, slow)
        self.mine.sent.append(f"{message.chat}: {message.text}")
        return Receipt(str(len(self.mine.sent)))

    async def check(self) -> Health:
        """See `Adapter.check`."""
        return Health(self.bot, self.mine.cause)

    @property
    def identity(self) -> str:
        """See `Adapter.identity`."""
        return self.bot


@dataclass
class Stage:
    """A gateway of puppets, started as often as a test wants."""

    config: Config
    strings: dict[str, Strings]
    store: MemoryStore = field(default_factory=MemoryStore)

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[Gateway]:
        """The gateway, on virtual time; its wall clock is the loop's."""
        loop = asyncio.get_running_loop()
        gateway = Gateway(
            self.config,
            self.store,
            rand=lambda: 0.5,
            clock=lambda: 1e9 + loop.time(),
            service=ServiceManager({}),
            watchdog=NoWatchdog(),
            pulse=3600.0,
        )
        await gateway.start()
        try:
            yield gateway
        finally:
            await gateway.stop()

    def told(self, name: str) -> list[str]:
        """What an account sent to people, without what it answered."""
        return self.strings[name].sent


def stage(home: Path, *ways: Way, accounts: tuple[str, ...] = ("a", "b")) -> Stage:
    """Accounts, and whom to tell of them."""
    strings = {name: Strings() for name in accounts}
    Puppet.strings = strings
    tables = [parrot(name, "http://puppet.invalid", kind=Puppet) for name in accounts]
    alerts = AlertsConfig(Rules(), ways) if ways else None
    return Stage(replace(config(home, *tables), alerts=alerts), strings)


@dataclass
class Hook:
    """A web hook that answers what a test wants."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; then 200."""
    wait: str = ""
    """The Retry-After of those."""
    store: MemoryStore | None = None
    kept: list[bytes] = field(default_factory=list)
    """What the journal held at each try."""
    taken: list[dict[str, Any]] = field(default_factory=list)
    tries: list[tuple[float, dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        now = asyncio.get_running_loop().time()
        self.tries.append((now, {k.lower(): v for k, v in request.headers.items()}, body))
        if self.store is not None:
            self.kept.append(await self.store.recall("", "alerts") or b"")
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.taken.append(json.loads(body))
        return web.Response(status=status, headers={"Retry-After": self.wait} if self.wait else {})


@contextlib.asynccontextmanager
async def hooked() -> AsyncIterator[Hook]:
    """A server on loopback."""
    hook = Hook()
    app = web.Application()
    app.router.add_post("/secret-path", hook.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/secret-path"
    try:
        yield hook
    finally:
        await runner.cleanup()


def via_hook(hook: Hook, secret: str | None = None) -> HookWay:
    return HookWay(url=Secret(hook.url), secret=Secret(secret) if secret else None)


async def all_up(gateway: Gateway) -> None:
    for name in gateway.desks:
        await reach(gateway, name, Published.CONNECTED)
