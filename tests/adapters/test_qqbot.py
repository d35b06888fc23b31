"""The QQ adapter on the real shell against the simulator: the gateway socket."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.adapters.qqbot import QQBot
from holdfast.adapters.qqbot_wire import Intent
from holdfast.errors import StoreError
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, SlowStore, running


@asynccontextmanager
async def bot(**options: Any) -> AsyncIterator[tuple[QQBotSimulator, Running]]:
    """A connected bot on a simulator of its own."""
    async with QQBotSimulator() as sim, running(QQBot, sim.account(), **options) as run:
        await run.connected()
        yield sim, run


def codes(run: Running) -> list[str]:
    """The causes of all reports in order, without repeats."""
    found = [report.view.cause.code for report in run.reports if report.view.cause is not None]
    return [code for i, code in enumerate(found) if i == 0 or code != found[i - 1]]


async def until(condition: Callable[[], bool], timeout: float = 400.0) -> None:
    """Wait on virtual time; the step is small against every limit of the protocol."""
    for _ in range(round(timeout / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the condition did not come true in {timeout} s")


async def heard_texts(run: Running, *texts: str) -> None:
    """Wait for exactly these texts, in this order, and for nothing after them."""
    await until(lambda: len(run.messages) >= len(texts))
    await asyncio.sleep(0.5)
    assert [message.text for message in run.messages] == list(texts)


def moments(sim: QQBotSimulator, what: str) -> list[float]:
    """When facts of one kind happened."""
    return [record.at for record in sim.log if record.what == what]


# -- messages ---------------------------------------------------------------------------------


async def test_a_private_message_comes_in() -> None:
    async with bot() as (sim, run):
        said = sim.say("hello")
        await heard_texts(run, "hello")
        message = run.messages[0]
        assert message.id == said
        assert message.chat == f"c2c:{sim.openid('alice')}"
        assert message.sender == sim.openid("alice")
        assert message.private
        assert message.at is not None
        assert message.context["msg_id"] == said


async def test_a_group_message_is_a_mention_without_the_blank_it_leaves() -> None:
    async with bot() as (sim, run):
        sim.say("summarize", chat="team", sender="bob", group=True)
        await heard_texts(run, "summarize")
        message = run.messages[0]
        assert message.chat == f"group:{sim.openid('team', group=True)}"
        assert message.mentioned
        assert not message.private
        assert message.sender not in message.chat


async def test_images_and_files_are_fetched_by_reference() -> None:
    async with bot() as (sim, run):
        sim.say("", image=b"\x89PNG-picture", file=("report.pdf", b"%PDF"))
        await heard_texts(run, "")
        image, file = run.messages[0].attachments
        assert (image.kind, image.mime) == ("image", "image/png")
        assert (file.kind, file.name, file.size) == ("file", "report.pdf", 4)
        assert await run.adapter.fetch(image) == b"\x89PNG-picture"
        assert await run.adapter.fetch(file) == b"%PDF"


async def test_a_quotation_names_what_it_quotes() -> None:
    async with bot() as (sim, run):
        first = sim.say("first")
        sim.say("about that", reply_to=first)
        await heard_texts(run, "first", "about that")
        assert run.messages[1].reply_to == first


@pytest.mark.parametrize("fault", ["bad_frame", "unknown_event", "dup_event", "out_of_order"])
async def test_odd_frames_never_end_a_connection(fault: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault)
        sim.say("one")
        await heard_texts(run, "one")
        assert run.account.skipped_frames == (fault == "bad_frame")
        assert sim.count("ws-open") == 1


@pytest.mark.parametrize(
    "raw",
    [
        "[]",
        '{"op": 0, "s": 5, "t": "C2C_MESSAGE_CREATE", "d": {}}',
        '{"op": 0, "s": 5, "t": "READY", "d": {}}',
        '{"op": 10, "d": {"heartbeat_interval": "soon"}}',
        f'{{"op": 0, "s": {10**30}, "t": "C2C_MESSAGE_CREATE", "d": {{}}}}',
    ],
)
async def test_a_message_that_can_not_be_read_is_skipped_and_counted(raw: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm("bad_frame", raw=raw)
        sim.say("one")
        await heard_texts(run, "one")
        assert run.account.skipped_frames == 1
        assert codes(run) == []


# -- opening ----------------------------------------------------------------------------------


async def test_the_login_budget_is_told_before_the_identify_and_the_session_is_stored() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        cursor = await store.cursor("bot")
        assert cursor["session"]
        assert cursor["seq"] == 1
        budget = run.account.supervisor._pace.budget(run.account.view().at)
        assert budget is not None
        assert budget.remaining == sim.limit.state(sim.now())["remaining"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("token_hang", "qq_token_timeout"),
        ("no_hello", "qq_hello_timeout"),
        ("no_ready", "qq_identify_timeout"),
        ("token_500", "qq_http_500"),
        ("api_html", "qq_http_502"),
        ("api_500", "qq_api_500"),
        ("gateway_429", "qq_api_429"),
        ("close_after_accept", "qq_close_4900"),
        ("close_after_identify", "qq_close_4900"),
    ],
)
async def test_a_failed_opening_is_named_and_recovers(fault: str, code: str) -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm(fault)
        async with running(QQBot, sim.account()) as run:
            await run.published(Published.RETRYING)
            assert codes(run) == [code]
            assert run.states()[:2] == [Published.CONNECTING, Published.RETRYING]
            await run.connected()
            sim.say("after all")
            await heard_texts(run, "after all")


async def test_the_token_may_come_with_a_number() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("expires_in_number")
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            assert codes(run) == []


async def test_a_throttled_token_service_is_left_alone_for_a_minute() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("token_error", code=100001)
        start = sim.now()
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            assert codes(run) == ["qq_token_throttled"]
            assert sim.now() - start >= 60


@pytest.mark.parametrize("fault", ["gateway_401", "api_401"])
async def test_a_refused_token_is_renewed_once_within_the_call(fault: str) -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm(fault)
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            assert codes(run) == []
            assert sim.count("token") == 2


async def test_a_spent_login_budget_waits_for_its_reset() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("no_sessions_left", reset_after=1800)
        start = sim.now()
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            assert codes(run) == ["qq_no_logins_left"]
            assert moments(sim, "identify")[0] - start >= 1800


async def test_the_gateway_address_is_kept_while_it_serves() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("gateway_429", times=None)
        await asyncio.sleep(20)
        sim.drop_all()
        await until(lambda: sim.count("resumed") == 1)
        assert sim.faults.played["gateway_429"] == 0
        # A dial that leads to nothing: from now on the address is not trusted.
        sim.faults.arm("close_on_resume", code=4000)
        await asyncio.sleep(20)
        sim.drop_all()
        await until(lambda: sim.faults.played["gateway_429"] == 1)
        sim.faults.clear()
        await run.connected()
        assert codes(run)[-2:] == ["qq_close_4000", "qq_api_429"]
        assert (sim.count("login"), sim.count("resumed")) == (1, 2)


async def test_identify_calls_keep_their_distance() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("close_after_identify", code=4900, times=3)
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            at = moments(sim, "identify")
            assert len(at) == 4
            assert min(b - a for a, b in itertools.pairwise(at)) >= 4.99
            assert "qq_close_4008" not in codes(run)


# -- intents ----------------------------------------------------------------------------------


async def test_refused_intents_are_tried_once_with_fewer() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("unauthorized_intents", bits=int(Intent.DIRECT_MESSAGE), times=None)
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            assert codes(run) == ["qq_intents_refused"]
            asked = [r.detail["intents"] for r in sim.log if r.what == "identify"]
            assert asked == [
                Intent.DIRECT_MESSAGE | Intent.GROUP_AND_C2C | Intent.PUBLIC_GUILD_MESSAGES,
                Intent.GROUP_AND_C2C | Intent.PUBLIC_GUILD_MESSAGES,
            ]
            assert "intents" in (await run.adapter.check()).notes[0]
            sim.say("still here")
            await heard_texts(run, "still here")


async def test_intents_refused_twice_need_a_person_and_a_kick_tries_them_all_again() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("unauthorized_intents", times=None)
        async with running(QQBot, sim.account()) as run:
            await run.published(Published.FATAL)
            assert codes(run) == ["qq_intents_refused", "qq_close_4014"]
            cause = run.account.view().cause
            assert cause is not None
            assert "console" in cause.advice
            assert sim.count("identify") == 2
            sim.faults.clear()
            run.account.kick(operator=True)
            await run.connected()
            assert (await run.adapter.check()).notes == ()


# -- life -------------------------------------------------------------------------------------


async def test_every_connection_has_a_heartbeat_that_tells_what_is_stored() -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await until(lambda: sim.count("beat") == 1)
        assert sim.log[-1].detail["s"] == 2
        await asyncio.sleep(300)
        assert sim.count("beat") == 11
        sim.drop_all()
        await until(lambda: sim.count("resumed") == 1)
        await asyncio.sleep(95)
        beats = [r.detail["n"] for r in sim.log if r.what == "beat"]
        assert beats[-3:] == [2, 2, 2]
        assert run.account.view().beats == 3


async def test_a_heartbeat_of_the_server_is_answered_at_once() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("server_beat")
        async with running(QQBot, sim.account()) as run:
            await run.connected()
            await until(lambda: sim.count("beat") == 1, timeout=1)
            assert codes(run) == []


async def test_three_unacknowledged_heartbeats_end_even_a_busy_connection() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("no_ack", times=None)
        start = sim.now()
        while "qq_heartbeat_unacked" not in codes(run):
            sim.say("busy")
            await asyncio.sleep(10)
        assert 90 <= sim.now() - start <= 140
        sim.faults.clear()
        await until(lambda: sim.count("resumed") >= 1)


async def test_a_late_acknowledgement_harms_nothing() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("ack_once_late", delay=20.0, times=None)
        await asyncio.sleep(600)
        assert codes(run) == []
        assert sim.count("ws-open") == 1


async def test_a_half_open_link_is_found_within_its_silence_and_nothing_is_lost() -> None:
    async with bot() as (sim, run):
        sim.half_open()
        sim.say("into the void")
        start = sim.now()
        await run.published(Published.RETRYING)
        assert sim.now() - start <= 61
        assert codes(run) == ["qq_silent"]
        await heard_texts(run, "into the void")
        assert sim.count("login") == 1


# -- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4009, Kind.RECYCLED),
        (4000, Kind.LOST),
        (1000, Kind.LOST),
        (1001, Kind.LOST),
        (4999, Kind.LOST),
    ],
)
async def test_these_closes_resume_and_miss_nothing(code: int, kind: Kind) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.close_all(code)
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert codes(run) == [f"qq_close_{code}"]
        assert {r.view.cause.kind for r in run.reports if r.view.cause} == {kind}
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)
        assert run.account.last_gap is None


@pytest.mark.parametrize("code", [4003, 4005, 4006, 4007, 4900, 4903, 4913])
async def test_these_closes_need_a_fresh_login_and_report_the_gap(code: int) -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        await asyncio.sleep(20)
        before = (await store.cursor("bot"))["session"]
        await sim.close_all(code)
        await until(lambda: sim.count("login") == 2)
        await run.connected()
        assert codes(run) == [f"qq_close_{code}"]
        assert sim.count("resume") == 0
        assert run.account.last_gap is not None
        assert (await store.cursor("bot"))["session"] != before


async def test_too_fast_waits_a_minute_and_then_resumes() -> None:
    async with bot() as (sim, run):
        await sim.close_all(4008)
        start = sim.now()
        await until(lambda: sim.count("resumed") + sim.count("login") == 2)
        assert sim.now() - start >= 60
        cause = next(r.view.cause for r in run.reports if r.view.cause)
        assert (cause.kind, cause.code) == (Kind.THROTTLED, "qq_close_4008")


@pytest.mark.parametrize("code", [4001, 4002, 4010, 4011, 4012, 4914, 4915])
async def test_these_closes_are_final_and_say_what_to_do(code: int) -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("close_after_identify", code=code, times=None)
        async with running(QQBot, sim.account()) as run:
            await run.published(Published.FATAL)
            cause = run.account.view().cause
            assert cause is not None
            assert cause.code == f"qq_close_{code}"
            assert cause.hint
            assert sim.count("ws-open") == 1
            await asyncio.sleep(200)
            assert sim.count("ws-open") == 1


async def test_a_ban_is_confirmed_by_a_call_and_then_final() -> None:
    async with bot() as (sim, run):
        sim.ban()
        await run.published(Published.FATAL)
        assert codes(run) == ["qq_close_4915", "qq_api_11265"]
        cause = run.account.view().cause
        assert cause is not None
        assert "appeal" in cause.advice
        sim.unban()
        run.account.kick(operator=True)
        await run.connected()


@pytest.mark.parametrize("close", [True, False])
async def test_a_requested_reconnect_resumes_at_once(close: bool) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.goodbye(close=close)
        start = sim.now()
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert codes(run) == ["qq_reconnect_requested"]
        assert moments(sim, "resumed")[0] - start <= 1.1
        assert run.account.last_gap is None


async def test_an_invalidated_session_is_forgotten() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.invalidate()
        await until(lambda: sim.count("login") == 2)
        await run.connected()
        assert codes(run) == ["qq_invalid_session"]
        assert sim.count("resume") == 0
        assert run.account.last_gap is not None


async def test_a_dead_session_is_forgotten_by_the_journal_too() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        sim.faults.arm("no_ready", times=None)
        await sim.close_all(4006)
        await until(lambda: "qq_identify_timeout" in codes(run))
        assert await store.cursor("bot") == {}


async def test_an_invalid_session_that_may_be_resumed_is() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.invalidate(resumable=True)
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)


@pytest.mark.parametrize("how", [{}, {"code": 0}, {"op9": False}, {"code": 1000}])
async def test_a_refused_resume_becomes_a_fresh_login_with_a_gap(how: dict[str, Any]) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.faults.arm("refuse_resume", **how)
        sim.drop_all()
        await until(lambda: sim.count("login") == 2)
        await run.connected()
        assert sim.count("resume") == 1
        assert run.account.last_gap is not None


@pytest.mark.parametrize("fault", ["no_ready", "close_on_resume"])
async def test_a_resume_that_never_works_is_given_up_after_two_tries(fault: str) -> None:
    async with bot() as (sim, _):
        await asyncio.sleep(20)
        sim.faults.arm(fault, times=2)
        sim.drop_all()
        await until(lambda: sim.count("login") == 2)
        assert sim.count("resume") == 2


async def test_expired_closes_never_become_a_fast_loop() -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("close_after_identify", code=4009, ready=True, times=None)
        sim.faults.arm("close_on_resume", code=4009, times=None)
        async with running(QQBot, sim.account()) as run:
            await asyncio.sleep(900)
            opens = moments(sim, "ws-open")
            assert all(sum(a <= t < a + 60 for t in opens) <= 10 for a in opens)
            assert len(opens) <= 30
            found = {r.view.escalation.code for r in run.reports if r.view.escalation}
            assert "qq_quick_disconnect" in found


# -- durability -------------------------------------------------------------------------------


async def test_a_restart_resumes_and_misses_nothing() -> None:
    store = MemoryStore()
    async with QQBotSimulator() as sim:
        async with running(QQBot, sim.account(), store=store) as first:
            await first.connected()
            sim.say("before")
            await heard_texts(first, "before")
        sim.say("while down")
        sim.faults.arm("dup_after_resume")
        async with running(QQBot, sim.account(), store=store) as second:
            await second.connected()
            await heard_texts(second, "while down")
            assert second.account.last_gap is None
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)


async def test_an_outage_shorter_than_the_session_loses_nothing() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.stop()
        sim.say("in the dark")
        await asyncio.sleep(12)
        await sim.start()
        await heard_texts(run, "in the dark")
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)
        assert run.account.last_gap is None


async def test_a_slow_replay_is_progress_and_no_timeout() -> None:
    async with bot(store=SlowStore(4)) as (sim, run):
        await asyncio.sleep(20)
        await sim.close_all(4009)
        for text in "1234":
            sim.say(text)
        await heard_texts(run, "1", "2", "3", "4")
        await run.connected()
        assert codes(run) == ["qq_close_4009"]


async def test_what_can_not_be_stored_is_not_claimed_and_comes_again() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        store.fail = StoreError("disk_full", "the disk is full")
        sim.say("precious")
        await run.published(Published.RETRYING)
        cause = run.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.LOCAL, "disk_full")
        assert (await store.cursor("bot"))["seq"] == 1
        await asyncio.sleep(5)
        store.fail = None
        await heard_texts(run, "precious")
        assert sim.count("login") == 1


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["token_hang", "no_hello", "no_ready", "half_open", None])
async def test_stop_ends_within_five_seconds_in_every_step(fault: str | None) -> None:
    async with QQBotSimulator() as sim:
        if fault is not None:
            sim.faults.arm(fault, times=None)
        async with running(QQBot, sim.account()) as run:
            await asyncio.sleep(2)
            start = sim.now()
            await run.account.stop()
            assert sim.now() - start <= 5
            assert run.account.view().published is Published.STOPPED
