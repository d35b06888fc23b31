"""The cable: two ways that fail together, and hooks that are reached only through it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from holdfast.gateway.hooks import HookServer
from holdfast.lab.cable import Cable
from holdfast.lab.cabled_hooks import CabledHooks
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulators.telegram import TelegramSimulator


async def answer(url: str) -> int:
    """The HTTP status that answers at an address; 0 when nothing does."""
    timeout = aiohttp.ClientTimeout(total=5)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
            return reply.status
    return 0


@contextlib.asynccontextmanager
async def laid() -> AsyncIterator[tuple[Cable, CabledHooks, str]]:
    """A cable between a platform and hooks; gives the platform's address through it, too."""
    async with TelegramSimulator() as platform:
        hooks = CabledHooks("127.0.0.1", 0)
        cable = Cable(platform.port)
        await cable.start()
        await hooks.start()
        cable.lead_hooks(hooks.port)
        try:
            yield cable, hooks, cable.led({"url": platform.url})["url"]
        finally:
            await cable.stop()
            await hooks.stop()


async def test_it_leads_both_ways() -> None:
    async with laid() as (cable, hooks, platform):
        assert str(cable.outward.port) in platform
        assert str(hooks.port) not in cable.hook_url
        assert await answer(platform) == 404
        assert await answer(f"{cable.hook_url}/nobody") == 404
        assert (cable.accepted, hooks.refused) == (1, 1)
        assert cable.inbound > 0


@pytest.mark.parametrize("fault", [Relay.refuse, Relay.cut])
async def test_a_switch_is_thrown_on_both_ways_and_healed_on_both(fault: object) -> None:
    async with laid() as (cable, _, platform):
        cable(fault)  # type: ignore[arg-type]
        assert cable.broken
        assert [await answer(platform), await answer(cable.hook_url)] == [0, 0]
        cable.heal()
        assert not cable.broken
        assert [await answer(platform), await answer(cable.hook_url)] == [404, 404]


async def test_hooks_tell_the_cable_as_their_address() -> None:
    async with laid() as (cable, hooks, _):
        assert hooks.url == f"http://127.0.0.1:{hooks.port}"
        hooks.cable = cable
        assert hooks.url == cable.hook_url
        assert isinstance(hooks, HookServer)


async def test_only_what_holds_the_address_is_led() -> None:
    async with laid() as (cable, _, platform):
        table = {"token": "secret", "retries": 3, "flag": True}
        assert cable.led(table) == table
        assert cable.led({}, "localhost") == {}
        assert platform.startswith("http://127.0.0.1:")
