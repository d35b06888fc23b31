"""A peer that says goodbye gets the new connection first: nobody is deaf in between."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.gateway.account import GAP_LEAD
from holdfast.supervision import Published, State
from tests.gateway.parrot import Aviary, Parrot, Talk, good, mute
from tests.gateway.tools import until
from tests.harness import running


async def _leaving(aviary: Aviary, number: int = -1) -> Talk:
    talk = aviary.talks[number]
    await talk.send_json({"op": "leaving"})
    return talk


async def test_both_connections_deliver_until_the_peer_closes_the_old_one() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        old = await _leaving(aviary)
        await until(lambda: len(aviary.logins) == 2)
        await aviary.say("new")
        await old.send_json({"op": "say", "id": "old", "chat": "c", "text": "hi"})
        await until(lambda: sorted(aviary.stored) == ["new", "old"])
        await old.close(code=1000)
        await until(lambda: aviary.open == 1)
        await asyncio.sleep(30)
        assert {message.id for message in bot.messages} == {"new", "old"}
        assert bot.states() == [Published.CONNECTING, Published.CONNECTED]
        assert aviary.opened == 2
        assert bot.account.last_gap is None


async def test_the_view_says_rotating_while_the_successor_is_dialled() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        await _leaving(aviary)
        await bot.account.until(lambda view: view.rotating)
        view = await bot.account.until(lambda view: not view.rotating)
        assert (view.published, view.generation) == (Published.CONNECTED, 2)


async def test_an_old_connection_that_never_closes_is_closed_after_its_drain() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        await _leaving(aviary)
        await until(lambda: len(aviary.logins) == 2)
        assert aviary.open == 2
        await asyncio.sleep(11)
        await until(lambda: aviary.open == 1)
        assert bot.account.view().state is State.LIVE
        await aviary.say("after")
        await until(lambda: aviary.stored == ["after"])


async def test_a_successor_that_hangs_costs_nothing_and_the_end_is_a_gap() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        aviary.script.append(mute)
        old = await _leaving(aviary)
        await until(lambda: aviary.opened == 2)
        await asyncio.sleep(15)
        await old.send_json({"op": "say", "id": "still", "chat": "c", "text": "hi"})
        await until(lambda: aviary.stored == ["still"])
        assert bot.account.view().published is Published.CONNECTED
        await old.close(code=1001)
        await until(lambda: len(aviary.logins) == 2)
        assert bot.account.last_gap is not None
        assert "fresh login" in bot.account.last_gap.reason


async def test_a_successor_that_is_ready_while_the_silent_one_is_closed_stays() -> None:
    release = asyncio.Event()

    async def falls_silent(aviary: Aviary, talk: Talk) -> None:
        await talk.send_json({"op": "hello", "beat": None})
        await talk.receive_json()
        await talk.send_json({"op": "ready"})
        await asyncio.sleep(15)
        await talk.send_json({"op": "leaving"})
        await asyncio.Event().wait()

    async def takes_its_time(aviary: Aviary, talk: Talk) -> None:
        await release.wait()
        await good(aviary, talk)

    def wall() -> float:
        return 1e9 + asyncio.get_running_loop().time()

    async with Aviary() as aviary:
        aviary.script += [falls_silent, takes_its_time]
        policy = {"silence_limit": 20.0, "probe_grace": 10.0}
        async with running(Parrot, aviary.config, policy=policy, clock=wall) as bot:
            await bot.connected()
            goodbye = wall() + 15
            await bot.account.until(lambda view: view.state is State.CLOSING)
            release.set()
            await bot.connected()
            view = bot.account.view()
            assert (view.state, view.generation) == (State.LIVE, 2)
            gap = bot.account.last_gap
            assert gap is not None, "nobody knows what was said to the silent one"
            assert gap.since == pytest.approx(goodbye - GAP_LEAD, abs=0.5)
            assert gap.until == pytest.approx(wall(), abs=0.5)
            await asyncio.sleep(20)
            assert (bot.account.view().generation, aviary.opened) == (2, 2)
            await aviary.say("after")
            await until(lambda: aviary.stored == ["after"])


async def test_a_stop_in_the_middle_ends_both() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        await _leaving(aviary)
        await until(lambda: len(aviary.logins) == 2)
        began = asyncio.get_running_loop().time()
        await bot.account.stop()
        assert asyncio.get_running_loop().time() - began < 5.0
        assert bot.account.view().state is State.STOPPED
        await until(lambda: aviary.open == 0)
