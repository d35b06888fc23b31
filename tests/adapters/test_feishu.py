"""The Feishu adapter on the real shell against the simulator: the long connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.adapters.feishu import Feishu
from holdfast.adapters.feishu_intake import MARK, REPEATED_FOR
from holdfast.errors import StoreError
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.messages import MediaKind
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, running


@asynccontextmanager
async def bot(**options: Any) -> AsyncIterator[tuple[FeishuSimulator, Running]]:
    """A connected bot on a simulator of its own."""
    async with FeishuSimulator() as sim, running(Feishu, sim.account(), **options) as run:
        await run.connected()
        yield sim, run


def codes(run: Running) -> list[str]:
    """The causes of all reports in order, without repeats."""
    found = [report.view.cause.code for report in run.reports if report.view.cause is not None]
    return [code for i, code in enumerate(found) if i == 0 or code != found[i - 1]]


async def until(condition: Callable[[], bool], timeout: float = 400.0) -> None:
    """Wait on virtual time; the step is small against every limit of the protocol."""
    for _ in range(round(timeout / 0.25)):
        if condition():
            return
        await asyncio.sleep(0.25)
    pytest.fail(f"the condition did not come true in {timeout} s")


async def heard_texts(run: Running, *texts: str) -> None:
    """Wait for exactly these texts, in this order, and for nothing after them."""
    await until(lambda: len(run.messages) >= len(texts))
    await asyncio.sleep(0.5)
    assert [message.text for message in run.messages] == list(texts)


def details(sim: FeishuSimulator, what: str, name: str) -> list[Any]:
    """One detail of all facts of a kind, in order."""
    return [record.detail.get(name) for record in sim.log if record.what == what]


def moments(sim: FeishuSimulator, what: str) -> list[float]:
    """When facts of one kind happened."""
    return [record.at for record in sim.log if record.what == what]


# -- messages ---------------------------------------------------------------------------------


async def test_a_private_message_comes_in_and_is_acknowledged() -> None:
    async with bot() as (sim, run):
        said = sim.say("hello")
        await heard_texts(run, "hello")
        message = run.messages[0]
        assert (message.id, message.chat) == (said, sim.know("alice").id)
        assert message.sender == sim.person("alice").open_id
        assert (message.private, message.mentioned) == (True, False)
        assert message.at is not None
        assert abs(time.time() - message.at) < 60
        assert details(sim, "ack", "id") == [said]


async def test_a_group_message_is_a_mention_without_its_placeholder() -> None:
    async with bot() as (sim, run):
        sim.say("summarize", chat="team", sender="bob", group=True)
        await heard_texts(run, "summarize")
        message = run.messages[0]
        assert message.sender == sim.person("bob").open_id
        assert (message.private, message.mentioned) == (False, True)


async def test_a_reply_names_the_message_it_answers() -> None:
    async with bot() as (sim, run):
        first = sim.say("one")
        sim.say("two", reply_to=first)
        await heard_texts(run, "one", "two")
        assert [message.reply_to for message in run.messages] == [None, first]


async def test_pictures_posts_and_files_are_fetched_by_reference() -> None:
    async with bot() as (sim, run):
        sim.say("", image=b"\x89PNG-1")
        sim.say("look", image=b"\x89PNG-2")
        sim.say("", file=("report.pdf", b"%PDF"))
        await heard_texts(run, "", "look", "")
        (first,), (second,), (file,) = (message.attachments for message in run.messages)
        assert (first.kind, second.kind) == (MediaKind.IMAGE, MediaKind.IMAGE)
        assert (file.kind, file.name) == (MediaKind.FILE, "report.pdf")
        assert await run.adapter.fetch(first) == b"\x89PNG-1"
        assert await run.adapter.fetch(second) == b"\x89PNG-2"
        assert await run.adapter.fetch(file) == b"%PDF"


@pytest.mark.parametrize(
    ("fault", "params", "skipped"),
    [
        ("server_ping", {}, 0),
        ("bad_frame", {}, 1),
        ("text_frame", {}, 1),
        ("future_frame", {}, 0),
        ("card_frame", {}, 0),
        ("header_missing", {}, 0),
        ("split_event", {"parts": 5}, 0),
        ("big_event", {}, 0),
        ("dup_event", {}, 0),
        ("dup_after_ack", {}, 0),
        ("dup_message", {}, 0),
        ("out_of_order", {}, 0),
        ("unknown_event", {}, 0),
        ("no_user_id", {}, 0),
    ],
)
async def test_odd_frames_and_events_never_end_a_connection(
    fault: str, params: dict[str, Any], skipped: int
) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault, **params)
        said = sim.say("one")
        await heard_texts(run, "one")
        await until(lambda: said in details(sim, "ack", "id"))
        assert sim.faults.played[fault] == 1
        assert run.account.skipped_frames == skipped
        assert sim.count("ws-open") == 1
        assert (sim.count("lost"), sim.count("bad-frame")) == (0, 0)


async def test_other_events_are_acknowledged_and_dropped() -> None:
    async with bot() as (sim, run):
        said = sim.say("one")
        sim.recall(said)
        await until(lambda: sim.count("ack") == 2)
        assert [message.text for message in run.messages] == ["one"]
        assert run.account.skipped_frames == 0


async def test_a_pressed_button_is_acknowledged() -> None:
    async with bot() as (sim, run):
        said = sim.say("one")
        pressed = sim.press(said, {"decision": "approve"})
        await until(lambda: pressed in details(sim, "ack", "id"))
        assert run.account.skipped_frames == 0


async def test_a_message_of_an_unknown_kind_is_told_of() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("unknown_message")
        sim.say("one")
        await heard_texts(run, "[hologram]")


async def test_a_message_with_a_lost_part_is_counted_and_comes_again() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("part_lost")
        sim.say("one")
        await heard_texts(run, "one")
        assert sim.count("pushed") == 2
        assert run.account.skipped_frames == 1


async def test_an_event_that_can_not_be_read_is_skipped_and_not_sent_again() -> None:
    async with bot() as (sim, run):
        event = sim.happen("im.message.receive_v1", {"sender": {}, "message": None})
        await until(lambda: event in details(sim, "ack", "id"))
        assert run.account.skipped_frames == 1
        assert codes(run) == []


# -- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "code"),
    [
        ("endpoint_busy", {}, "feishu_busy"),
        ("endpoint_internal", {}, "feishu_busy"),
        ("endpoint_invalid", {"msg": "system busy"}, "feishu_busy"),
        ("endpoint_code", {}, "feishu_code_1000040399"),
        ("endpoint_no_data", {}, "feishu_busy"),
        ("endpoint_http", {}, "feishu_http_500"),
        ("endpoint_http", {"status": 403}, "feishu_http_403"),
        ("endpoint_429", {"reset": 30}, "feishu_rate_limited"),
        ("endpoint_hang", {}, "feishu_endpoint_timeout"),
        ("endpoint_garbage", {}, "feishu_unexpected_html"),
        ("endpoint_no_ids", {}, "bad_frame"),
        ("upgrade_rejected", {}, "upgrade_503"),
        ("upgrade_busy", {}, "feishu_handshake_500"),
        ("upgrade_auth_failed", {}, "feishu_handshake_514"),
        ("upgrade_too_many", {}, "feishu_too_many_connections"),
        ("close_after_accept", {}, "feishu_close_1000"),
        ("close_after_accept", {"code": 1011}, "feishu_close_1011"),
        ("reset_after_accept", {}, "feishu_close_1006"),
        ("half_open", {}, "feishu_pong_timeout"),
        ("no_pong", {}, "feishu_pong_timeout"),
        ("token_429", {"reset": 30}, "feishu_rate_limited"),
        ("token_500", {}, "feishu_http_500"),
        ("token_hang", {}, "feishu_identity_timeout"),
        ("api_500", {}, "feishu_http_500"),
        ("api_html", {}, "feishu_http_502"),
    ],
)
async def test_a_failed_opening_is_named_and_recovers(
    fault: str, params: dict[str, Any], code: str
) -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm(fault, **params)
        async with running(Feishu, sim.account()) as run:
            await until(lambda: bool(codes(run)))
            await run.connected()
            assert codes(run)[0] == code
            assert Published.RETRYING in run.states()
            sim.say("after all")
            await heard_texts(run, "after all")


@pytest.mark.parametrize(
    "fault",
    [
        "endpoint_slow",
        "endpoint_no_config",
        "endpoint_partial_config",
        "pong_late",
        "pong_empty",
        "pong_partial",
        "api_token_invalid",
    ],
)
async def test_a_slow_or_sparing_opening_is_an_opening(fault: str) -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm(fault)
        async with running(Feishu, sim.account()) as run:
            await run.connected()
            await asyncio.sleep(400)
            assert sim.faults.played[fault] == 1
            assert codes(run) == []
            assert sim.count("ws-open") == 1


async def test_an_event_before_the_first_pong_is_taken_and_proves_the_connection() -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm("no_pong")
        async with running(Feishu, sim.account()) as run:
            await until(lambda: sim.count("ready") == 1)
            sim.say("early")
            await run.connected()
            await heard_texts(run, "early")
            await asyncio.sleep(300)
            assert codes(run) == []


@pytest.mark.parametrize(
    ("fault", "params", "wait", "what"),
    [
        ("endpoint_429", {"reset": 120}, 120.0, "endpoint"),
        ("endpoint_too_many", {}, 300.0, "endpoint"),
        ("upgrade_too_many", {}, 300.0, "endpoint"),
    ],
)
async def test_a_throttled_opening_waits_as_long_as_it_must(
    fault: str, params: dict[str, Any], wait: float, what: str
) -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm(fault, **params)
        async with running(Feishu, sim.account()) as run:
            await until(lambda: sim.count(what) == 2)
            first, second = moments(sim, what)
            assert second - first >= wait
            cause = next(r.view.cause for r in run.reports if r.view.cause)
            assert cause.kind is Kind.THROTTLED


# -- what needs a person ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"app_secret": "wrong"}, "feishu_bad_credentials"),
        ({"app_id": "cli_ffffffffffffffff"}, "feishu_bad_credentials"),
    ],
)
async def test_wrong_credentials_are_fatal_at_once(change: dict[str, str], code: str) -> None:
    async with FeishuSimulator() as sim:
        async with running(Feishu, sim.account() | change) as run:
            await run.published(Published.FATAL)
            assert codes(run) == [code]
            cause = run.reports[-1].view.cause
            assert cause is not None
            assert "App Secret" in cause.hint
            assert sim.count("refused") == 1
            assert sim.count("endpoint") == 0


@pytest.mark.parametrize(
    ("fault", "code", "hint"),
    [
        ("endpoint_forbidden", "feishu_forbidden", "persistent connection"),
        ("endpoint_auth_failed", "feishu_auth_failed", "App Secret"),
        ("endpoint_invalid", "feishu_bad_credentials", "App Secret"),
        ("upgrade_forbidden", "feishu_forbidden", "persistent connection"),
        ("token_error", "feishu_bad_credentials", "App Secret"),
        ("api_scope", "feishu_scope_missing", "Permissions & Scopes"),
    ],
)
async def test_a_refusal_tells_where_to_mend_it(fault: str, code: str, hint: str) -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm(fault, times=None)
        async with running(Feishu, sim.account()) as run:
            await run.published(Published.FATAL)
            cause = run.reports[-1].view.cause
            assert cause is not None
            assert cause.code == code
            assert hint in cause.hint
            sim.faults.clear()
            run.account.kick(operator=True)
            await run.connected()


async def test_a_secret_withdrawn_while_live_is_confirmed_then_fatal_then_mended() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(600)
        secret = sim.app_secret
        sim.revoke()
        await run.published(Published.FATAL)
        assert codes(run)[-1] == "feishu_bad_credentials"
        sim.set_secret(secret)
        run.account.kick(operator=True)
        await run.connected()
        sim.say("again")
        await heard_texts(run, "again")


async def test_secrets_appear_in_no_report() -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm("endpoint_invalid", times=None)
        secret = sim.account()["app_secret"]
        async with running(Feishu, sim.account()) as run:
            await run.published(Published.FATAL)
            told = repr(run.reports) + repr(vars(run.adapter)) + repr(await run.adapter.check())
            assert "feishu_bad_credentials" in told
            assert secret not in told


# -- life -------------------------------------------------------------------------------------


async def test_heartbeats_follow_the_client_config() -> None:
    async with FeishuSimulator() as sim:
        sim.ping_interval, sim.idle_intervals = 20, 2.0
        async with running(Feishu, sim.account()) as run:
            await run.connected()
            await asyncio.sleep(205)
            assert details(sim, "beat", "kind").count("frame") == 11
            assert codes(run) == []
            assert sim.count("idle") == 0


@pytest.mark.parametrize(("interval", "limit"), [(120, 61), (10, 21)])
async def test_a_half_open_link_is_found_and_nothing_is_lost(interval: int, limit: float) -> None:
    async with FeishuSimulator() as sim:
        sim.ping_interval = interval
        async with running(Feishu, sim.account()) as run:
            await run.connected()
            sim.half_open()
            sim.say("into the void")
            start = sim.now()
            await run.published(Published.RETRYING)
            assert sim.now() - start <= limit
            assert codes(run) == ["feishu_silent"]
            await run.connected()
            await heard_texts(run, "into the void")
            assert run.account.last_gap is None


async def test_a_zombie_that_only_answers_websocket_pings_is_given_up() -> None:
    async with FeishuSimulator() as sim:
        sim.ping_interval = 30
        async with running(Feishu, sim.account()) as run:
            await run.connected()
            sim.faults.arm("no_pong", times=4)
            await until(lambda: "feishu_heartbeat_unacked" in codes(run))
            await until(lambda: sim.count("ws-open") == 2)
            await run.connected()


async def test_a_shorter_ping_interval_is_obeyed_on_a_successor() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(10)
        sim.ping_interval = 30
        await until(lambda: sim.count("ws-open") == 2)
        await until(lambda: sim.count("ws-closed") == 1)
        beats = details(sim, "beat", "kind").count("frame")
        await asyncio.sleep(91)
        assert details(sim, "beat", "kind").count("frame") - beats in (3, 4)
        assert (sim.count("ws-open"), codes(run)) == (2, [])
        assert Published.RETRYING not in run.states()


@pytest.mark.parametrize("interval", ["soon", None, {}])
async def test_a_pong_with_an_odd_config_is_a_pong(interval: Any) -> None:
    async with FeishuSimulator() as sim:
        sim.ping_interval = 30
        async with running(Feishu, sim.account()) as run:
            await run.connected()
            sim.client_config = lambda: {"PingInterval": interval}  # type: ignore[method-assign]
            await asyncio.sleep(200)
            assert (sim.count("ws-open"), codes(run)) == (1, [])
            assert run.account.skipped_frames == (0 if interval is None else 6)
            assert run.account.view().missed_beats == 0


async def test_a_longer_ping_interval_changes_nothing() -> None:
    async with FeishuSimulator() as sim:
        sim.ping_interval = 30
        async with running(Feishu, sim.account()) as run:
            await run.connected()
            sim.ping_interval = 120
            await asyncio.sleep(300)
            assert (sim.count("ws-open"), codes(run)) == (1, [])


# -- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_a_close_is_followed_by_a_fresh_connection_and_no_loss(code: int) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.close_all(code)
        sim.say("in between")
        await run.published(Published.RETRYING)
        await run.connected()
        await heard_texts(run, "in between")
        assert codes(run) == [f"feishu_close_{code}"]
        assert run.account.last_gap is None


async def test_a_reset_loses_nothing() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.drop_all()
        sim.say("in between")
        await heard_texts(run, "in between")
        assert codes(run) == ["feishu_close_1006"]
        assert (sim.count("lost"), run.account.last_gap) == (0, None)


async def test_closes_never_become_a_fast_loop() -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm("close_after_accept", times=None)
        async with running(Feishu, sim.account()):
            await asyncio.sleep(900)
            opens = moments(sim, "ws-open")
            assert len(opens) >= 5
            assert all(sum(a <= t < a + 60 for t in opens) <= 10 for a in opens)


# -- durability -------------------------------------------------------------------------------


async def test_a_restart_loses_nothing_and_takes_nothing_twice() -> None:
    store = MemoryStore()
    async with FeishuSimulator() as sim:
        async with running(Feishu, sim.account(), store=store) as first:
            await first.connected()
            sim.say("before")
            await heard_texts(first, "before")
        sim.say("while down")
        await asyncio.sleep(60)
        async with running(Feishu, sim.account(), store=store) as second:
            await second.connected()
            await heard_texts(second, "while down")
            assert second.account.last_gap is None


async def test_an_outage_longer_than_all_repeats_is_a_gap() -> None:
    store = MemoryStore()
    away = time.time() - REPEATED_FOR - 3600
    await store.receive("bot", [], {MARK: away})
    async with bot(store=store) as (_, run):
        await until(lambda: run.account.last_gap is not None)
        gap = run.account.last_gap
        assert gap is not None
        assert gap.since == away
        assert "8.1 h" in gap.reason
        await asyncio.sleep(1)
        assert (await store.cursor("bot"))[MARK] > away + REPEATED_FOR


async def test_an_outage_within_the_repeats_is_no_gap() -> None:
    store = MemoryStore()
    await store.receive("bot", [], {MARK: time.time() - REPEATED_FOR + 600})
    async with bot(store=store) as (_, run):
        await asyncio.sleep(10)
        assert run.account.last_gap is None


async def test_each_pong_moves_the_mark() -> None:
    store = MemoryStore()
    async with bot(store=store) as (_, run):
        await until(lambda: bool(store._cursors))
        await store.receive("bot", [], {MARK: 0.0})
        await asyncio.sleep(121)
        assert (await store.cursor("bot"))[MARK] > 0
        assert run.account.last_gap is None


async def test_what_the_journal_does_not_take_is_not_acknowledged() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        store.fail = StoreError("store_full", "the disk is full")
        said = sim.say("kept")
        await run.published(Published.RETRYING)
        assert sim.count("ack") == 0
        assert run.reports[-1].view.cause is not None
        assert run.reports[-1].view.cause.kind is Kind.LOCAL
        store.fail = None
        await heard_texts(run, "kept")
        await until(lambda: details(sim, "ack", "id") == [said])
        await run.connected()


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("token_hang", "server-up"),
        ("endpoint_hang", "endpoint"),
        ("half_open", "ws-open"),
        ("", "ready"),
        ("endpoint_busy", "endpoint"),
    ],
)
async def test_a_stop_in_any_step_is_quick(fault: str, what: str) -> None:
    async with FeishuSimulator() as sim:
        if fault:
            sim.faults.arm(fault, times=None)
        async with running(Feishu, sim.account()) as run:
            await until(lambda: sim.count(what) == 1)
            await asyncio.sleep(0.5)
            start = sim.now()
            await run.account.stop()
            assert sim.now() - start <= 5
            if fault != "half_open":  # such a server learns of nothing
                await until(lambda: sim.count("ws-closed") == sim.count("ws-open"), timeout=1)
