"""A WhatsApp number on the real shell, its callback registered with the simulator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from holdfast.adapters.whatsapp import WhatsApp
from holdfast.lab.simulators.whatsapp import WebhookRefused, WhatsAppSimulator
from holdfast.messages import Inbound
from tests.harness import Running, running


def hook_url(run: Running) -> str:
    """The address Meta is to call."""
    number = run.adapter.identity.removeprefix("whatsapp:")
    return f"http://127.0.0.1:{run.hooks.port}/whatsapp/{number}"


async def register(sim: WhatsAppSimulator, run: Running, patience: float = 600.0) -> None:
    """Press "Verify and save" in the console until the gateway answers."""
    async with asyncio.timeout(patience):
        while True:
            with contextlib.suppress(WebhookRefused):
                return await sim.set_webhook(hook_url(run))
            await asyncio.sleep(1.0)


@contextlib.asynccontextmanager
async def bot(
    *, store: Any = None, policy: Any = None, **settings: Any
) -> AsyncIterator[tuple[WhatsAppSimulator, Running]]:
    """A connected number."""
    async with WhatsAppSimulator() as sim:
        config = sim.account() | settings
        async with running(WhatsApp, config, store=store, policy=policy) as run:
            await register(sim, run)
            await run.connected()
            yield sim, run


async def arrived(run: Running, count: int = 1, timeout: float = 600.0) -> list[Inbound]:
    """Wait for so many messages."""
    async with asyncio.timeout(timeout):
        while len(run.messages) < count:  # noqa: ASYNC110 - no event tells of a message
            await asyncio.sleep(0.25)
    return run.messages
