"""The Discord adapter on the real shell against the simulator: the gateway socket."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from holdfast.adapters.discord import Discord
from holdfast.errors import StoreError
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.discord_world import BOT_ID
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, SlowStore, running


@asynccontextmanager
async def bot(**options: Any) -> AsyncIterator[tuple[DiscordSimulator, Running]]:
    """A connected bot on a simulator of its own."""
    async with DiscordSimulator() as sim, running(Discord, sim.account(), **options) as run:
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
    await asyncio.sleep(0.7)
    assert [message.text for message in run.messages] == list(texts)


def moments(sim: DiscordSimulator, what: str) -> list[float]:
    """When facts of one kind happened."""
    return [record.at for record in sim.log if record.what == what]


# -- messages ---------------------------------------------------------------------------------


async def test_a_private_message_comes_in() -> None:
    async with bot() as (sim, run):
        said = sim.say("hello")
        await heard_texts(run, "hello")
        message = run.messages[0]
        assert message.id == said
        assert message.chat == sim.channel_id("alice")
        assert (message.sender_name, message.private, message.mentioned) == ("Alice", True, False)
        assert message.at is not None


async def test_a_mention_in_a_server_is_taken_out_of_the_text() -> None:
    async with bot() as (sim, run):
        sim.say("look", chat="team", sender="bob", group=True)
        sim.say("just talk", chat="team", sender="bob", group=True, mention=False)
        await heard_texts(run, "look", "just talk")
        first, second = run.messages
        assert first.chat == second.chat == sim.channel_id("team", group=True)
        assert (first.private, first.mentioned, second.mentioned) == (False, True, False)


async def test_a_thread_is_a_chat_of_its_own() -> None:
    async with bot() as (sim, run):
        sim.say("here", chat="team", group=True)
        sim.say("in there", chat="team", group=True, thread="plans")
        await heard_texts(run, "here", "in there")
        assert run.messages[0].chat != run.messages[1].chat


async def test_a_reply_names_what_it_answers() -> None:
    async with bot() as (sim, run):
        first = sim.say("first")
        sim.say("about that", reply_to=first)
        await heard_texts(run, "first", "about that")
        assert run.messages[1].reply_to == first


async def test_an_edit_names_what_it_replaces_and_a_link_preview_is_none() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("link_unfurl")
        first = sim.say("see example.org")
        sim.say("see example.com", edit_of=first)
        await heard_texts(run, "see example.org", "see example.com")
        assert [m.edit_of for m in run.messages] == [None, first]
        assert run.messages[1].id != first


async def test_images_and_files_are_fetched_by_reference() -> None:
    async with bot() as (sim, run):
        sim.say("", image=b"\x89PNG-picture", file=("report.pdf", b"%PDF"))
        await heard_texts(run, "")
        image, file = run.messages[0].attachments
        assert (image.kind, image.mime) == ("image", "image/png")
        assert (file.kind, file.name, file.size) == ("file", "report.pdf", 4)
        assert await run.adapter.fetch(image) == b"\x89PNG-picture"
        assert await run.adapter.fetch(file) == b"%PDF"


async def test_a_forwarded_message_says_what_was_forwarded() -> None:
    async with bot() as (sim, run):
        told = sim.say("the invoice", chat="bob", sender="bob", file=("invoice.pdf", b"%PDF"))
        sim.forward(told)
        await heard_texts(run, "the invoice", "the invoice")
        _, message = run.messages
        assert (message.sender_name, message.private, message.reply_to) == ("Alice", True, None)
        (file,) = message.attachments
        assert (file.name, await run.adapter.fetch(file)) == ("invoice.pdf", b"%PDF")


@pytest.mark.parametrize(
    "fault", ["bad_frame", "unknown_event", "unknown_op", "dup_event", "out_of_order"]
)
async def test_odd_frames_never_end_a_connection(fault: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault)
        sim.say("one")
        await heard_texts(run, "one")
        assert run.account.skipped_frames == (fault == "bad_frame")
        assert sim.count("ws-open") == 1


async def test_an_overtaken_event_does_not_turn_the_position_back() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        sim.faults.arm("out_of_order")
        sim.say("one")
        sim.say("two")
        await heard_texts(run, "two", "one")
        assert (await store.cursor("bot"))["seq"] == 4


@pytest.mark.parametrize(
    "raw",
    [
        "[]",
        '{"op": 0, "s": 3, "t": "MESSAGE_CREATE", "d": {}}',
        '{"op": 0, "s": 3, "t": "MESSAGE_CREATE", "d": {"id": "1", "channel_id": "2"}}',
        '{"op": 10, "d": {"heartbeat_interval": "soon"}}',
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


async def test_the_login_budget_is_told_and_the_session_is_stored() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        cursor = await store.cursor("bot")
        assert cursor["session"]
        assert cursor["resume_url"].endswith("/gw-resume")
        assert (cursor["seq"], cursor["bot"]) == (1, str(BOT_ID))
        budget = run.account.supervisor._pace.budget(run.account.view().at)
        assert budget is not None
        assert budget.remaining == sim.limit.state(sim.now())["remaining"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("no_hello", "discord_hello_timeout"),
        ("no_ready", "discord_identify_timeout"),
        ("api_hang", "discord_gateway_timeout"),
        ("api_html", "discord_http_502"),
        ("api_500", "discord_http_500"),
        ("api_200_html", "discord_unexpected_html"),
        ("api_malformed", "bad_frame"),
        ("upgrade_refused", "upgrade_503"),
        ("close_after_accept", "discord_close_4000"),
        ("close_after_identify", "discord_close_4000"),
        ("invalid_session", "discord_invalid_session"),
    ],
)
async def test_a_failed_opening_is_named_and_recovers(fault: str, code: str) -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm(fault)
        async with running(Discord, sim.account()) as run:
            await run.published(Published.RETRYING)
            assert codes(run) == [code]
            await run.connected()
            assert run.states()[-2:] == [Published.RETRYING, Published.CONNECTED]
            sim.say("after all")
            await heard_texts(run, "after all")


async def test_a_huge_ready_is_taken() -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("huge_ready")
        async with running(Discord, sim.account()) as run:
            await run.connected()
            assert codes(run) == []


@pytest.mark.parametrize(
    ("fault", "params", "code", "wait"),
    [
        ("api_429", {"retry_after": 90.5}, "discord_rate_limited", 90.5),
        ("api_429", {"retry_after": 90.5, "global": True}, "discord_rate_limited", 90.5),
        ("cloudflare_ban", {}, "discord_edge_ban", 900),
        ("no_sessions_left", {"reset_after": 1800}, "discord_no_logins_left", 1800),
    ],
)
async def test_a_named_wait_is_kept(
    fault: str, params: dict[str, Any], code: str, wait: float
) -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm(fault, **params)
        start = sim.now()
        async with running(Discord, sim.account()) as run:
            await run.connected()
            assert codes(run) == [code]
            assert moments(sim, "identify")[0] - start >= wait
            assert sim.count("identify") == 1


async def test_a_throttle_that_names_no_time_is_waited_for_all_the_same() -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("api_429_bare")
        async with running(Discord, sim.account()) as run:
            await run.connected()
            assert codes(run) == ["discord_rate_limited"]


async def test_identify_calls_keep_their_distance() -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("close_after_identify", times=3)
        async with running(Discord, sim.account()) as run:
            await run.connected()
            at = moments(sim, "identify")
            assert len(at) == 4
            assert min(b - a for a, b in itertools.pairwise(at)) >= 4.99
            assert "discord_invalid_session" not in codes(run)


async def test_a_resume_address_that_leads_nowhere_is_left_for_the_usual_one() -> None:
    store = MemoryStore()
    async with DiscordSimulator() as sim:
        async with running(Discord, sim.account(), store=store) as first:
            await first.connected()
        cursor = await store.cursor("bot")
        await store.receive("bot", (), cursor | {"resume_url": "ws://127.0.0.1:1"})
        sim.say("while down")
        async with running(Discord, sim.account(), store=store) as second:
            await heard_texts(second, "while down")
            assert codes(second) == ["unreachable"]
            await asyncio.sleep(20)
            sim.drop_all()
            await until(lambda: sim.count("resumed") == 2)
        paths = [r.detail["path"] for r in sim.log if r.what == "ws-open"]
        assert paths == ["/gw", "/gw", "/gw"]
        assert sim.count("login") == 1


# -- life -------------------------------------------------------------------------------------


async def test_every_connection_has_a_heartbeat_that_tells_what_is_stored() -> None:
    async with bot() as (sim, run):
        await until(lambda: sim.count("beat") == 1, timeout=1)
        sim.say("one")
        await asyncio.sleep(41.25 * 5 + 1)
        beats = [r.detail["s"] for r in sim.log if r.what == "beat"]
        assert beats == [1, 3, 3, 3, 3, 3]
        assert run.account.view().beats >= 5
        sim.drop_all()
        await until(lambda: sim.count("resumed") == 1)
        await asyncio.sleep(90)
        assert [r.detail["n"] for r in sim.log if r.what == "beat"][-3:] == [2, 2, 2]


async def test_a_heartbeat_of_the_server_is_answered_at_once() -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("server_beat")
        async with running(Discord, sim.account()) as run:
            await run.connected()
            await until(lambda: sim.count("beat") == 2, timeout=1)
            assert codes(run) == []


async def test_unacknowledged_heartbeats_end_even_a_busy_connection_and_nothing_is_lost() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("no_ack", times=None)
        said = 0
        while "discord_heartbeat_unacked" not in codes(run):
            sim.say(f"{said}")
            said += 1
            await asyncio.sleep(10)
            assert said < 25
        sim.faults.clear()
        await until(lambda: sim.count("resumed") >= 1)
        await heard_texts(run, *map(str, range(said)))
        assert sim.count("login") == 1


async def test_a_late_acknowledgement_harms_nothing() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("ack_late", delay=14.0, times=None)
        await asyncio.sleep(600)
        assert codes(run) == []
        assert sim.count("ws-open") == 1


async def test_a_silence_is_asked_about_before_it_is_taken_for_death() -> None:
    async with bot() as (sim, run):
        await until(lambda: sim.count("beat") == 1)
        sim.faults.arm("no_ack")
        await asyncio.sleep(80)
        first, due, asked = moments(sim, "beat")
        assert (due - first, asked - first) == pytest.approx((41.25, 45.0), abs=0.2)
        assert codes(run) == []


async def test_a_half_open_link_is_found_within_its_silence_and_nothing_is_lost() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(1)
        sim.half_open()
        sim.say("into the void")
        start = sim.now()
        await run.published(Published.RETRYING)
        assert sim.now() - start <= 60
        assert codes(run) == ["discord_silent"]
        await heard_texts(run, "into the void")
        assert sim.count("login") == 1


# -- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, Kind.LOST),
        (1001, Kind.LOST),
        (4000, Kind.LOST),
        (4001, Kind.PROTOCOL),
        (4002, Kind.PROTOCOL),
        (4005, Kind.LOST),
        (4009, Kind.LOST),
        (4999, Kind.LOST),
    ],
)
async def test_these_closes_resume_and_miss_nothing(code: int, kind: Kind) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.close_all(code)
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert codes(run) == [f"discord_close_{code}"]
        assert {r.view.cause.kind for r in run.reports if r.view.cause} == {kind}
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)
        assert run.account.last_gap is None


@pytest.mark.parametrize("code", [4003, 4007])
async def test_these_closes_need_a_fresh_login_and_report_the_gap(code: int) -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        await asyncio.sleep(20)
        before = (await store.cursor("bot"))["session"]
        await sim.close_all(code)
        await until(lambda: sim.count("login") == 2)
        await run.connected()
        assert codes(run) == [f"discord_close_{code}"]
        assert sim.count("resume") == 0
        assert run.account.last_gap is not None
        assert (await store.cursor("bot"))["session"] != before


async def test_too_many_frames_wait_a_minute_and_then_resume() -> None:
    async with bot() as (sim, run):
        await sim.close_all(4008)
        start = sim.now()
        await until(lambda: sim.count("resumed") == 1)
        assert sim.now() - start >= 60
        cause = next(r.view.cause for r in run.reports if r.view.cause)
        assert (cause.kind, cause.code) == (Kind.THROTTLED, "discord_close_4008")


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012, 4013, 4014])
async def test_these_closes_are_final_and_say_what_to_do(code: int) -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("close_after_identify", code=code, times=None)
        async with running(Discord, sim.account()) as run:
            await run.published(Published.FATAL)
            cause = run.account.view().cause
            assert cause is not None
            assert cause.code == f"discord_close_{code}"
            assert cause.hint
            await asyncio.sleep(200)
            assert sim.count("ws-open") == 1


@pytest.mark.parametrize("code", [None, 1000, 4000])
async def test_a_requested_reconnect_resumes_at_once(code: int | None) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.goodbye(code)
        start = sim.now()
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert codes(run) == ["discord_reconnect_requested"]
        assert moments(sim, "resumed")[0] - start <= 1.1
        assert run.account.last_gap is None


async def test_every_resume_goes_to_the_address_of_the_session() -> None:
    async with bot() as (sim, _):
        for count in (1, 2):
            await asyncio.sleep(20)
            await sim.goodbye()
            await until(partial(lambda n: sim.count("resumed") == n, count))
        paths = [r.detail["path"] for r in sim.log if r.what == "ws-open"]
        assert paths == ["/gw", "/gw-resume", "/gw-resume"]


async def test_an_invalidated_session_is_forgotten_and_its_gap_reported() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        await asyncio.sleep(20)
        await sim.invalidate()
        start = sim.now()
        await run.published(Published.RETRYING)
        await asyncio.sleep(0.5)
        assert await store.cursor("bot") == {}
        await until(lambda: sim.count("login") == 2)
        assert sim.now() - start >= 1
        await run.connected()
        assert codes(run) == ["discord_invalid_session"]
        assert sim.count("resume") == 0
        assert run.account.last_gap is not None


async def test_an_invalid_session_that_may_be_resumed_is() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.invalidate(resumable=True)
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)


async def test_a_refused_resume_becomes_a_fresh_login_with_a_gap() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.faults.arm("refuse_resume")
        sim.drop_all()
        await until(lambda: sim.count("login") == 2)
        await run.connected()
        assert sim.count("resume") == 1
        assert run.account.last_gap is not None


async def test_an_outage_longer_than_the_session_ends_in_a_gap() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.faults.arm("upgrade_refused", times=None)
        sim.drop_all()
        await asyncio.sleep(sim.resume_window + 10)
        sim.faults.clear()
        await until(lambda: sim.count("login") == 2)
        await run.connected()
        assert run.account.last_gap is not None
        assert codes(run)[-1] == "discord_invalid_session"


@pytest.mark.parametrize("fault", ["no_ready", "close_on_resume", "abort_on_resume"])
async def test_a_resume_that_never_works_is_given_up_after_two_tries(fault: str) -> None:
    async with bot() as (sim, _):
        await asyncio.sleep(20)
        sim.faults.arm(fault, times=2)
        sim.drop_all()
        await until(lambda: sim.count("login") == 2)
        assert sim.count("resume") == 2


async def test_closes_after_ready_never_become_a_fast_loop() -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("close_after_identify", code=4009, ready=True, times=None)
        sim.faults.arm("close_on_resume", code=4009, times=None)
        async with running(Discord, sim.account()) as run:
            await asyncio.sleep(900)
            opens = moments(sim, "ws-open")
            assert len(opens) <= 30
            found = {r.view.escalation.code for r in run.reports if r.view.escalation}
            assert "discord_quick_disconnect" in found


# -- durability -------------------------------------------------------------------------------


async def test_a_restart_resumes_and_misses_nothing() -> None:
    store = MemoryStore()
    async with DiscordSimulator() as sim:
        async with running(Discord, sim.account(), store=store) as first:
            await first.connected()
            sim.say("before")
            await heard_texts(first, "before")
        sim.say("while down")
        sim.faults.arm("dup_after_resume")
        async with running(Discord, sim.account(), store=store) as second:
            await second.connected()
            await heard_texts(second, "while down")
            assert second.account.last_gap is None
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)


@pytest.mark.parametrize("fault", ["drop_on_event", "close_on_event"])
async def test_an_event_its_socket_did_not_carry_is_replayed(fault: str) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.faults.arm(fault)
        sim.say("lost and found")
        await heard_texts(run, "lost and found")
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
        await sim.close_all(4000)
        for text in "1234":
            sim.say(text)
        await heard_texts(run, "1", "2", "3", "4")
        await run.connected()
        assert codes(run) == ["discord_close_4000"]


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
        assert sim.count("ack") == 0
        await asyncio.sleep(5)
        store.fail = None
        await heard_texts(run, "precious")
        assert sim.count("login") == 1


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["api_hang", "no_hello", "no_ready", "half_open", None])
async def test_stop_ends_within_five_seconds_in_every_step(fault: str | None) -> None:
    async with DiscordSimulator() as sim:
        if fault is not None:
            sim.faults.arm(fault, times=None)
        async with running(Discord, sim.account()) as run:
            await asyncio.sleep(2)
            start = sim.now()
            await run.account.stop()
            assert sim.now() - start <= 5
            assert run.account.view().published is Published.STOPPED
