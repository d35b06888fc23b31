"""The QQ bot simulator, spoken to frame by frame: opening, life, resume."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators.qqbot_rules import Close, Intent
from tests.lab.qqbot_client import INTENTS, facts, platform, resumed

# -- opening ------------------------------------------------------------------------------------


async def test_login_beats_and_truth() -> None:
    async with platform() as (sim, raw):
        assert not sim.listening()
        link = await raw.live()
        assert sim.listening()
        await link.put(1, 1)
        assert await link.next() == {"op": 11}
        assert facts(sim, "beat", "s") == [1]
        opening = ["ws-open", "identify", "login", "ready", "link-open"]
        assert [r.what for r in sim.log if r.what in opening] == opening
        await link.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert not sim.listening()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{broken", 4002),
        ("[]", 4002),
        ('{"op": 2}', 4002),
        ('{"op": 99}', 4001),
        ('{"op": 1, "d": null}', 4003),
        ('{"op": 2, "d": {"token": "QQBot wrong"}}', 4004),
    ],
)
async def test_wrong_frames_get_their_close_code(frame: str, code: int) -> None:
    async with platform() as (_, raw):
        link = await raw.connect()
        await link.next()
        await link.ws.send_str(frame)
        assert await link.next() == code


@pytest.mark.parametrize(
    ("changed", "answers"),
    [
        ({"shard": [1, 1]}, [4010]),
        ({"intents": 1 << 5}, [{"op": 9, "d": False}, 4013]),
        ({"intents": INTENTS | 1 << 28}, [{"op": 9, "d": False}, 4014]),
    ],
)
async def test_wrong_identify(changed: dict[str, Any], answers: list[Any]) -> None:
    async with platform() as (_, raw):
        await raw.fetch_token()
        link = await raw.connect()
        await link.next()
        await link.identify(**changed)
        assert [await link.next() for _ in answers] == answers


async def test_identify_twice_and_too_often() -> None:
    async with platform() as (_, raw):
        link = await raw.live()
        await link.identify()
        assert await link.next() == 4005
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert await link.next() == 4008
        await asyncio.sleep(5)
        assert (await raw.live()).session


async def test_unauthorized_intents_let_a_degraded_identify_pass() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        extra = int(Intent.INTERACTION)
        sim.faults.arm("unauthorized_intents", times=None, bits=extra)
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert [await link.next(), await link.next()] == [{"op": 9, "d": False}, 4014]
        link = await raw.connect()
        await link.next()
        await link.identify(intents=INTENTS & ~extra)
        assert (await link.next())["t"] == "READY"


@pytest.mark.parametrize("code", [c.value for c in Close])
async def test_every_close_code_after_accept_after_identify_and_on_resume(code: int) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("close_after_accept", code=code)
        assert await (await raw.connect()).next() == code
        await link.ws.close()
        sim.faults.arm("close_on_resume", code=code)
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 1)
        assert await again.next() == code
        await asyncio.sleep(5)
        sim.faults.arm("close_after_identify", code=code, ready=True)
        last = await raw.live()
        assert await last.next() == code
        assert not sim.listening()


async def test_close_after_identify_without_ready() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("close_after_identify")
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert await link.next() == 4900
        assert sim.count("ready") == 0


@pytest.mark.parametrize("fault", ["no_hello", "no_ready"])
async def test_silent_openings(fault: str) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm(fault)
        link = await raw.connect()
        if fault == "no_ready":
            await link.next()
            await link.identify()
        with pytest.raises(TimeoutError):
            await link.next(timeout=60)
        assert not sim.listening()


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("close", [True, False])
async def test_invalid_session_fault(resumable: bool, close: bool) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("invalid_session", resumable=resumable, close=close)
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert await link.next() == {"op": 9, "d": resumable}
        if close:
            assert await link.next() == 4903
        else:
            await asyncio.sleep(5)
            await link.identify()
            assert (await link.next())["t"] == "READY"


# -- life ---------------------------------------------------------------------------------------


async def test_silence_is_closed_by_the_server() -> None:
    async with platform() as (sim, raw):
        sim.heartbeat_interval = 10
        link = await raw.live()
        began = sim.now()
        assert await link.next(timeout=60) == 4009
        assert sim.now() - began == pytest.approx(25, abs=1)


async def test_heartbeat_faults() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("no_ack", times=None)
        await link.put(1, 1)
        with pytest.raises(TimeoutError):
            await link.next(timeout=30)
        assert sim.listening()
        sim.faults.clear("no_ack")
        sim.faults.arm("ack_once_late", delay=7)
        began = sim.now()
        await link.put(1, 1)
        assert await link.next(timeout=30) == {"op": 11}
        assert sim.now() - began == pytest.approx(7, abs=0.5)


async def test_server_beat_follows_ready() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("server_beat")
        link = await raw.live()
        assert await link.next() == {"op": 1, "d": 1}


async def test_mute_link_is_a_zombie_that_acknowledges_beats() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("mute", times=None)
        assert not sim.listening()
        key = sim.say("nobody hears this yet")
        await link.put(1, 1)
        assert await link.next() == {"op": 11}
        sim.faults.clear("mute")
        assert sim.listening()
        sim.drop_all()
        _, frames = await resumed(raw, link.session, 1)
        assert frames[0]["d"]["id"] == key


@pytest.mark.parametrize("how", ["fault", "method"])
async def test_half_open_link_is_silent_and_stays(how: str) -> None:
    async with platform() as (sim, raw):
        if how == "fault":
            sim.faults.arm("half_open")
        link = await raw.live()
        if how == "method":
            sim.half_open()
        assert not sim.listening()
        sim.say("into the void")
        await link.put(1, 1)
        await link.ws.ping()
        with pytest.raises(TimeoutError):
            await link.next(timeout=60)
        assert not link.ws.closed
        _, frames = await resumed(raw, link.session, 1)
        assert [frame["d"]["content"] for frame in frames[:-1]] == ["into the void"]
        assert sim.listening()


# -- resume -------------------------------------------------------------------------------------


async def test_resume_replays_what_was_missed_then_says_resumed() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.say("seen")
        assert (await link.next())["s"] == 2
        sim.drop_all()
        ids = [sim.say("one"), sim.say("two", chat="team", group=True)]
        _, frames = await resumed(raw, link.session, 2)
        assert [(f["s"], f["t"]) for f in frames] == [
            (3, "C2C_MESSAGE_CREATE"),
            (4, "GROUP_AT_MESSAGE_CREATE"),
            (5, "RESUMED"),
        ]
        assert [f["d"]["id"] for f in frames[:-1]] == ids
        assert sim.count("lost") == sim.count("unproven") == 0


async def test_resume_replays_what_was_written_but_not_received() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("written to a dying socket")
        sim.drop_all()
        _, frames = await resumed(raw, link.session, 1)
        assert [f["d"]["id"] for f in frames[:-1]] == [key]


async def test_resume_accepts_the_bare_token() -> None:
    async with platform() as (_, raw):
        link = await raw.live()
        await link.ws.close()
        again = await raw.connect()
        await again.next()
        await again.put(6, {"token": raw.token, "session_id": link.session, "seq": 1})
        assert (await again.next())["t"] == "RESUMED"


async def test_fresh_identify_loses_what_waited_and_reports_what_is_unproven() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        proven, unproven = sim.say("proven"), sim.say("unproven")
        await link.put(1, 2)
        await sim.until(lambda: sim.count("beat") == 1)
        sim.drop_all()
        lost = sim.say("lost")
        await asyncio.sleep(5)
        await raw.live()
        assert (facts(sim, "lost"), facts(sim, "unproven")) == ([lost], [unproven])
        assert proven not in facts(sim, "lost")


async def test_two_live_sessions_get_every_event_and_one_end_loses_nothing() -> None:
    async with platform() as (sim, raw):
        first = await raw.live()
        await asyncio.sleep(5)
        second = await raw.live()
        key = sim.say("to both")
        assert (await first.next())["d"]["id"] == (await second.next())["d"]["id"] == key
        await first.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert sim.listening()
        await asyncio.sleep(sim.resume_window + 1)
        assert sim.count("lost") == sim.count("unproven") == 0


async def test_session_ends_with_the_resume_window() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.drop_all()
        lost = sim.say("waits in vain")
        await asyncio.sleep(sim.resume_window + 1)
        assert facts(sim, "lost") == [lost]
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 1)
        assert [await again.next(), await again.next()] == [{"op": 9, "d": False}, 4006]


async def test_event_without_any_session_is_lost_at_once() -> None:
    async with platform() as (sim, _):
        key = sim.say("hello?")
        assert facts(sim, "lost") == [key]


async def test_resume_with_a_seq_from_the_future() -> None:
    async with platform() as (_, raw):
        link = await raw.live()
        await link.ws.close()
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 99)
        assert await again.next() == 4007


@pytest.mark.parametrize(
    ("params", "answers"),
    [
        ({}, [{"op": 9, "d": False}, 4006]),
        ({"op9": False}, [4006]),
        ({"code": 0}, [{"op": 9, "d": False}]),
    ],
)
async def test_refuse_resume_forgets_the_session(
    params: dict[str, Any], answers: list[Any]
) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.close_all(4009)
        assert await link.next() == 4009
        lost = sim.say("gone")
        sim.faults.arm("refuse_resume", **params)
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 1)
        assert [await again.next() for _ in answers] == answers
        assert facts(sim, "lost") == [lost]


async def test_sessions_survive_a_restart_of_the_server() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.stop()
        key = sim.say("while down")
        await sim.start()
        _, frames = await resumed(raw, link.session, 1)
        assert frames[0]["d"]["id"] == key


@pytest.mark.parametrize("close", [True, False])
async def test_goodbye(close: bool) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.goodbye(close)
        assert await link.next() == {"op": 7}
        assert sim.listening() is not close
        if close:
            assert await link.next() == 4009


@pytest.mark.parametrize("resumable", [True, False])
async def test_invalidate_leaves_the_socket_open(resumable: bool) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.invalidate(resumable)
        assert await link.next() == {"op": 9, "d": resumable}
        assert not sim.listening()
        await link.resume(link.session, 1)
        answer = await link.next()
        assert answer.get("t") == ("RESUMED" if resumable else None)


async def test_drop_all_resets_the_connection() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.drop_all()
        message = await link.ws.receive(timeout=5)
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert link.ws.close_code == 1006


@pytest.mark.parametrize(("verb", "code"), [("ban", 4915), ("revoke", 4004)])
async def test_ban_and_revoke_close_and_refuse_the_next_login(verb: str, code: int) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        getattr(sim, verb)()
        assert await link.next() == code
        again = await raw.connect()
        await again.next()
        await again.identify()
        assert await again.next() == code


async def test_hello_is_late_and_a_live_link_is_closed_at_once() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("slow_hello", delay=3)
        sim.faults.arm("close_when_live", code=1011)
        began = sim.now()
        link = await raw.live()
        assert sim.now() - began >= 3
        assert await link.next() == 1011
        assert not sim.listening()


async def test_a_goodbye_with_silence_leaves_nothing_but_heartbeats() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.goodbye(silence=10.0)
        frames = [await link.next()]
        while frames[-1]["op"] != 7:
            frames.append(await link.next())
        assert not sim.listening()
        sim.say("while it leaves")
        await link.put(1, frames[-1].get("s"))
        assert (await link.next())["op"] == 11
        began = sim.now()
        assert isinstance(await link.next(15.0), int)
        assert 8 <= sim.now() - began <= 10
        _, frames = await resumed(raw, link.session, 1)
        assert "while it leaves" in str(frames)


async def test_a_huge_frame_precedes_the_event() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("huge_frame", size=100_000)
        sim.say("after it")
        while (frame := await link.next())["t"] != "SOMETHING_NEW":
            pass
        assert len(frame["d"]["id"]) == 100_000
        assert "after it" in str(await link.next())


async def test_a_call_answers_with_json_that_breaks_off() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("api_malformed")
        with pytest.raises(ValueError, match="Unterminated"):
            await raw.call("GET", "/gateway")
        assert (await raw.call("GET", "/gateway"))[0] == 200
