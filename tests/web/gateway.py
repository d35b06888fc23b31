"""A real gateway around an adapter that only does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

from holdfast import adapter as contract
from holdfast.adapter import Adapter, Continuity, Health, Link, Liveness, Tools, Traits
from holdfast.config import AccountConfig, Config, GatewaySettings
from holdfast.gateway.gateway import Gateway
from holdfast.messages import Outbound, Receipt
from holdfast.store.protocol import Store
from holdfast.supervision import Published, preset
from holdfast.testing import MemoryStore


class ParrotSettings(contract.Settings, frozen=True, kw_only=True):
    """Configuration of a parrot."""

    nest: str


class Parrot(Adapter):
    """A platform that connects at once and says nothing."""

    platform = "parrot"
    Settings: ClassVar[type[contract.Settings]] = ParrotSettings
    traits = Traits(liveness=Liveness("a squawk", 3600.0), max_text=100)

    def __init__(self, settings: ParrotSettings, tools: Tools) -> None:
        self._nest = settings.nest

    async def run(self, link: Link) -> None:
        """Connect and stay."""
        link.ready(Continuity.CAUGHT_UP, silence=86_400.0, grace=60.0)
        await asyncio.Event().wait()

    async def send(self, message: Outbound) -> Receipt:
        """Every message arrives."""
        return Receipt("1")

    async def check(self) -> Health:
        """Parrots are always well."""
        return Health(self._nest)

    @property
    def identity(self) -> str:
        """The nest."""
        return self._nest


def parrots(directory: Path, kind: type[Parrot] = Parrot, **nests: str) -> Config:
    """A configuration with an account for each keyword."""
    accounts = {
        name: AccountConfig(
            name=name,
            platform="parrot",
            adapter=kind,
            settings=ParrotSettings(nest=nest),
            agent="echo",
            policy=preset("parrot"),
            proxy=None,
            ambiguous="resend",
        )
        for name, nest in nests.items()
    }
    return Config(directory / "holdfast.toml", GatewaySettings(state_dir="."), accounts)


@contextlib.asynccontextmanager
async def running(config: Config, store: Store | None = None) -> AsyncIterator[Gateway]:
    """A gateway whose accounts are all connected."""
    gateway = Gateway(config, store or MemoryStore())
    await gateway.start()
    try:
        for name in config.accounts:
            await connected(gateway, name)
        yield gateway
    finally:
        await gateway.stop()


async def connected(gateway: Gateway, name: str) -> None:
    """Wait until the account is connected."""
    account = gateway.desk(name).account
    await account.until(lambda view: view.published is Published.CONNECTED)
