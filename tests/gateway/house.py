"""A whole gateway with parrots, without a configuration file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.adapter import Adapter
from holdfast.config import AccountConfig, Config, GatewaySettings
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.notify import ServiceManager
from holdfast.store.protocol import Store
from holdfast.supervision import Published, State, preset
from holdfast.testing import MemoryStore
from tests.gateway.parrot import Parrot, ParrotSettings
from tests.theatre import NoWatchdog


def parrot(
    name: str,
    url: str,
    *,
    kind: type[Adapter] = Parrot,
    agent: str = "echo",
    policy: Mapping[str, Any] | None = None,
    ambiguous: str = "resend",
    proxy: str | None = None,
    **settings: Any,
) -> AccountConfig:
    """An account's configuration; each account is a bot of its own."""
    return AccountConfig(
        name=name,
        platform="parrot",
        adapter=kind,
        settings=ParrotSettings(url=url, **{"bot": name, **settings}),
        agent=agent,
        policy=preset("parrot", policy),
        proxy=proxy,
        ambiguous=ambiguous,
    )


def config(home: Path, *accounts: AccountConfig, **gateway: Any) -> Config:
    """A configuration in a directory of the test."""
    settings = GatewaySettings(**{"hook_listen": "127.0.0.1:0", **gateway})
    (home / settings.state_dir).mkdir(exist_ok=True)
    return Config(home / "holdfast.toml", settings, {a.name: a for a in accounts})


@contextlib.asynccontextmanager
async def house(
    home: Path,
    *accounts: AccountConfig,
    store: Store | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """A running gateway whose wall clock is the loop's; stopped at the end."""
    loop = asyncio.get_running_loop()
    gateway = Gateway(
        config(home, *accounts, **(settings or {})),
        store or MemoryStore(),
        rand=lambda: 0.5,
        clock=lambda: 1e9 + loop.time(),
        **{"service": ServiceManager({}), "watchdog": NoWatchdog(), **options},
    )
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


async def reach(gateway: Gateway, name: str, state: Published | State, limit: float = 60.0) -> None:
    """Wait until an account is in a state, published or of the machine."""
    async with asyncio.timeout(limit):
        await gateway.desk(name).account.until(lambda v: state in (v.published, v.state))
