"""The faults of the Matrix simulator: each one misbehaves as named, and then it is over."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from holdfast.lab.simulator import UnknownFault
from holdfast.lab.simulators.matrix import LINGER, MatrixSimulator

from .test_matrix_simulator import V3, bodies, conversing, simulated


@pytest.mark.parametrize(("fault", "status"), [("http_502", 502), ("http_504", 504)])
async def test_a_proxy_answers_in_html(fault: str, status: int) -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm(fault)
        headers = {"Authorization": f"Bearer {bot.token}"}
        async with bot.http.get(f"{sim.url}{V3}/sync", headers=headers) as answer:
            assert (answer.status, answer.content_type) == (status, "text/html")
        await bot.sync()


@pytest.mark.parametrize(
    ("fault", "kind"), [("html_200", "text/html"), ("malformed_json", "application/json")]
)
async def test_a_good_status_with_nonsense(fault: str, kind: str) -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm(fault)
        headers = {"Authorization": f"Bearer {bot.token}"}
        async with bot.http.get(f"{sim.url}{V3}/sync", headers=headers) as answer:
            assert (answer.status, answer.content_type) == (200, kind)
            with pytest.raises(json.JSONDecodeError):
                json.loads(await answer.text())


@pytest.mark.parametrize(
    ("fault", "expected", "soft"),
    [
        ("unknown_token", "401 M_UNKNOWN_TOKEN", False),
        ("soft_logout", "401 M_UNKNOWN_TOKEN", True),
        ("user_locked", "401 M_USER_LOCKED", True),
    ],
)
async def test_a_session_is_refused(fault: str, expected: str, soft: bool) -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm(fault, times=2)
        await bot.send("not a call of the link", "t1")
        assert await bot.refused("GET", "/account/whoami") == expected
        _, answer, _ = await bot.raw("GET", "/sync")
        assert answer["soft_logout"] is soft
        await bot.sync()


async def test_rate_limits_tell_the_wait_twice() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("rate_limited", retry_after_ms=2500)
        status, body, response = await bot.raw("GET", "/sync")
        assert (status, body["errcode"], body["retry_after_ms"]) == (
            429,
            "M_LIMIT_EXCEEDED",
            2500,
        )
        assert response.headers["Retry-After"] == "3"
        sim.faults.arm("send_429")
        path = f"{bot.room()}/send/m.room.message/t"
        assert await bot.refused("PUT", path, {"body": "x"}) == "429 M_LIMIT_EXCEEDED"
        assert sim.heard == []


async def test_the_connection_is_reset_instead_of_an_answer() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("close_before_answer", times=2)
        with pytest.raises(aiohttp.ClientConnectionError):
            await bot.sync()
        # aiohttp repeats an idempotent call once on a fresh connection.
        sim.faults.clear()
        await bot.sync()


async def test_a_poll_hangs_for_ever() -> None:
    async with conversing() as (sim, bot):
        await asyncio.sleep(LINGER * 2)
        sim.faults.arm("sync_hangs")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await bot.sync(timeout=1000)
        assert sim.faults.played["sync_hangs"] == 1
        assert sim.count("link-open") == 1


async def test_a_poll_drips() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("sync_drips", interval=5)
        headers = {"Authorization": f"Bearer {bot.token}"}
        async with bot.http.get(f"{sim.url}{V3}/sync", headers=headers) as answer:
            start = sim.now()
            assert await answer.content.readexactly(4) == b"    "
            assert sim.now() - start == pytest.approx(15, abs=1)


async def test_a_stream_token_is_forgotten() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("bad_since")
        assert await bot.refused("GET", "/sync", since=bot.since) == "400 M_UNKNOWN"
        await bot.sync()


async def test_a_timeline_is_limited_on_demand() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("limited_timeline")
        sim.say("lonely")
        assert bodies(await bot.sync(), sim.room_id("alice")) == ["lonely"]
        for text in ("one", "two", "three"):
            sim.say(text)
        answer = await bot.sync()
        timeline = answer["rooms"]["join"][sim.room_id("alice")]["timeline"]
        assert (bodies(answer, sim.room_id("alice")), timeline["limited"]) == (["three"], True)
        await bot.sync()
        assert sim.pending() == 2


async def test_a_first_sync_brings_old_messages() -> None:
    async with simulated() as (sim, bot):
        sim.faults.arm("replay_history")
        answer = await bot.sync()
        room_id = sim.room_id("alice")
        assert bodies(answer, room_id) == [f"old {n}" for n in range(10)]
        events = answer["rooms"]["join"][room_id]["timeline"]["events"]
        assert all(event["unsigned"]["age"] > 3_000_000 for event in events)
        assert (sim.said, sim.pending()) == ([], 0)


async def test_a_first_sync_hands_out_a_stale_place() -> None:
    async with conversing() as (sim, bot):
        sim.say("seen twice")
        bot.since = None
        sim.faults.arm("stale_next_batch", count=1)
        assert bodies(await bot.sync(), sim.room_id("alice"))[-1] == "seen twice"
        assert bodies(await bot.sync(), sim.room_id("alice")) == ["seen twice"]


async def test_the_answer_to_a_send_gets_lost() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("send_answer_lost", times=2)
        with pytest.raises(aiohttp.ClientConnectionError):
            await bot.send("once", "t1")
        sim.faults.clear()
        event_id = await bot.send("once", "t1")
        assert [(h.id, h.text) for h in sim.heard] == [(event_id, "once")]


async def test_a_send_that_the_proxy_refuses_is_not_stored() -> None:
    async with conversing() as (sim, bot):
        sim.faults.arm("send_502")
        url = f"{sim.url}{V3}{bot.room()}/send/m.room.message/t1"
        headers = {"Authorization": f"Bearer {bot.token}"}
        async with bot.http.put(url, json={"body": "x"}, headers=headers) as answer:
            assert answer.status == 502
        assert sim.heard == []


async def test_an_unknown_fault_is_named() -> None:
    async with MatrixSimulator() as sim:
        with pytest.raises(UnknownFault, match="http_502"):
            sim.faults.arm("nonsense")
