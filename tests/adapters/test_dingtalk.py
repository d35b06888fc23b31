"""The DingTalk adapter on the real shell against the simulator: the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.adapters.dingtalk import DingTalk
from holdfast.errors import StoreError
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.dingtalk_rules import BOT_TOPIC
from holdfast.messages import MediaKind
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.adapters.test_dingtalk_frames import frame, payload
from tests.harness import Running, SlowStore, running


@asynccontextmanager
async def bot(**options: Any) -> AsyncIterator[tuple[DingTalkSimulator, Running]]:
    """A connected robot on a simulator of its own."""
    async with DingTalkSimulator() as sim, running(DingTalk, sim.account(), **options) as run:
        await run.connected()
        await until(sim.listening)
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


def moments(sim: DingTalkSimulator, what: str) -> list[float]:
    """When facts of one kind happened."""
    return [record.at for record in sim.log if record.what == what]


# -- messages ---------------------------------------------------------------------------------


async def test_a_private_message_comes_in_and_is_acknowledged() -> None:
    async with bot() as (sim, run):
        said = sim.say("hello")
        await heard_texts(run, "hello")
        message = run.messages[0]
        assert (message.id, message.chat) == (said, "user:staff-alice")
        assert (message.sender, message.sender_name) == ("staff-alice", "alice")
        assert (message.private, message.mentioned) == (True, False)
        assert message.at is not None
        assert message.context["webhook"].startswith(sim.url)
        assert [r.detail["id"] for r in sim.log if r.what == "ack"] == [said]


async def test_a_group_message_is_a_mention_without_the_blank_it_leaves() -> None:
    async with bot() as (sim, run):
        sim.say("summarize", chat="team", sender="bob", group=True)
        await heard_texts(run, "summarize")
        message = run.messages[0]
        assert (message.chat, message.sender) == ("group:cidGroup-team==", "staff-bob")
        assert (message.private, message.mentioned) == (False, True)


async def test_pictures_rich_text_and_files_are_fetched_by_reference() -> None:
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


async def test_somebody_from_outside_the_organisation_has_the_other_id() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("no_staff_id")
        sim.say("hi")
        await heard_texts(run, "hi")
        assert run.messages[0].sender == "$:LWCP_v1:$alice=="
        assert run.messages[0].chat == "user:$:LWCP_v1:$alice=="


@pytest.mark.parametrize(
    ("fault", "skipped"),
    [
        ("bad_frame", 1),
        ("no_headers", 1),
        ("unknown_topic", 0),
        ("dup_event", 0),
        ("out_of_order", 0),
        ("split_frame", 0),
        ("big_frame", 0),
    ],
)
async def test_odd_frames_never_end_a_connection(fault: str, skipped: int) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault)
        sim.say("one")
        await heard_texts(run, "one")
        assert sim.faults.played[fault] == 1
        assert run.account.skipped_frames == skipped
        assert sim.count("ws-open") == 1


async def test_a_message_that_comes_again_is_acknowledged_and_dropped() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("dup_event")
        sim.say("once")
        await heard_texts(run, "once")
        assert sim.count("ack") == 2


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"msgtype": "unknownMsgType", "content": {"unknownMsgType": "sticker"}},
        {"msgtype": "picture", "content": {}},
        {"msgtype": "text"},
        {"msgId": ""},
    ],
)
async def test_a_message_that_can_not_be_read_is_skipped_and_counted(data: dict[str, Any]) -> None:
    whole = payload(**data) if data else "[]"
    async with bot() as (sim, run):
        sim.faults.arm("bad_frame", raw=frame("CALLBACK", BOT_TOPIC, whole))
        sim.say("one")
        await heard_texts(run, "one")
        assert run.account.skipped_frames == 1
        assert codes(run) == []


# -- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "code"),
    [
        ("open_hang", {}, "dingtalk_register_timeout"),
        ("open_403", {}, "dingtalk_rate_limited"),
        ("open_429", {}, "dingtalk_rate_limited"),
        ("open_503", {}, "dingtalk_http_503"),
        ("open_html", {}, "dingtalk_unexpected_html"),
        ("open_fields_missing", {}, "bad_frame"),
        ("ip_banned", {}, "dingtalk_ip_banned"),
        ("ticket_expired", {}, "upgrade_401"),
        ("upgrade_rejected", {}, "upgrade_503"),
        ("close_after_accept", {}, "dingtalk_close_1000"),
        ("close_after_accept", {"code": 1011}, "dingtalk_close_1011"),
        ("reset_after_accept", {}, "dingtalk_close_1006"),
    ],
)
async def test_a_failed_opening_is_named_and_recovers(
    fault: str, params: dict[str, Any], code: str
) -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm(fault, **params)
        async with running(DingTalk, sim.account()) as run:
            await until(sim.listening, timeout=400)
            await run.connected()
            assert codes(run)[0] == code
            assert Published.RETRYING in run.states()
            sim.say("after all")
            await heard_texts(run, "after all")


async def test_a_slow_registration_is_waited_for() -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm("open_slow")
        async with running(DingTalk, sim.account()) as run:
            await run.connected()
            assert codes(run) == []


@pytest.mark.parametrize(
    ("fault", "params", "wait"),
    [("open_429", {"retry_after": 120}, 120.0), ("ip_banned", {}, 300.0)],
)
async def test_a_throttled_registration_waits_as_long_as_it_must(
    fault: str, params: dict[str, Any], wait: float
) -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm(fault, **params)
        async with running(DingTalk, sim.account()) as run:
            await run.connected()
            first, second = moments(sim, "open")
            assert second - first >= wait
            cause = next(r.view.cause for r in run.reports if r.view.cause)
            assert cause.kind is Kind.THROTTLED


async def test_only_messages_to_the_robot_are_subscribed() -> None:
    async with bot() as (sim, _):
        (link,) = sim._gateway.links
        assert link.subscriptions == {("CALLBACK", BOT_TOPIC)}


# -- life -------------------------------------------------------------------------------------


async def test_pings_of_the_server_are_answered_with_their_own_words() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(205)
        assert [r.detail["kind"] for r in sim.log if r.what == "beat"] == ["system"] * 10
        assert codes(run) == []


async def test_a_server_that_never_pings_is_asked() -> None:
    async with DingTalkSimulator() as sim:
        sim.ping_interval = None
        async with running(DingTalk, sim.account()) as run:
            await run.connected()
            await asyncio.sleep(300)
            assert codes(run) == []
            assert {r.detail["kind"] for r in sim.log if r.what == "beat"} == {"ws"}
            assert sim.count("ws-open") == 1


async def test_a_peer_that_answers_nothing_is_given_up() -> None:
    async with DingTalkSimulator() as sim:
        sim.ping_interval = None
        async with running(DingTalk, sim.account()) as run:
            await run.connected()
            sim.faults.arm("no_pong", times=1)
            await until(lambda: "dingtalk_silent" in codes(run), timeout=60)
            await until(lambda: sim.count("ready") == 2)


async def test_a_half_open_link_is_found_and_what_it_swallowed_is_a_gap() -> None:
    async with bot() as (sim, run):
        sim.half_open()
        sim.say("into the void")
        start = sim.now()
        await run.published(Published.RETRYING)
        assert sim.now() - start <= 41
        assert codes(run) == ["dingtalk_silent"]
        await run.connected()
        assert run.account.last_gap is not None
        await until(sim.listening)
        sim.say("heard again")
        await heard_texts(run, "heard again")


async def test_a_link_that_falls_silent_at_once_is_found_too() -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm("half_open")
        async with running(DingTalk, sim.account()) as run:
            await until(lambda: "dingtalk_silent" in codes(run), timeout=60)
            await until(sim.listening)


# -- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "limit"),
    [
        (1000, Kind.RECYCLED, 1.5),
        (1001, Kind.RECYCLED, 1.5),
        (1011, Kind.LOST, 20.5),
        (4000, Kind.LOST, 20.5),
    ],
)
async def test_a_close_is_followed_by_a_fresh_connection_and_a_gap(
    code: int, kind: Kind, limit: float
) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        start = sim.now()
        await sim.close_all(code)
        sim.say("lost")
        await until(lambda: sim.count("ready") == 2)
        await run.connected()
        assert sim.now() - start <= limit
        assert codes(run) == [f"dingtalk_close_{code}"]
        assert {r.view.cause.kind for r in run.reports if r.view.cause} == {kind}
        assert run.account.last_gap is not None
        assert run.account.last_gap.until - run.account.last_gap.since >= 0
        assert run.messages == []


async def test_a_reset_waits_at_least_ten_seconds() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.drop_all()
        start = sim.now()
        await until(lambda: sim.count("ready") == 2)
        assert 10 <= sim.now() - start <= 21
        assert codes(run) == ["dingtalk_close_1006"]


async def test_polite_closes_never_become_a_fast_loop() -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm("close_after_accept", times=None)
        async with running(DingTalk, sim.account()) as run:
            await asyncio.sleep(900)
            opens = moments(sim, "ws-open")
            assert all(sum(a <= t < a + 60 for t in opens) <= 10 for a in opens)
            assert len(opens) <= 30
            found = {r.view.escalation.code for r in run.reports if r.view.escalation}
            assert "dingtalk_quick_disconnect" in found


async def test_an_announced_end_has_its_successor_at_once_and_hides_no_loss() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.goodbye()
        sim.say("between two chairs")
        start = sim.now()
        await until(sim.listening, timeout=2)
        assert sim.count("ws-closed") == 0
        sim.say("hello again")
        await heard_texts(run, "hello again")
        await until(lambda: sim.count("ws-closed") == 1)
        assert sim.now() - start == pytest.approx(10, abs=0.5)
        await asyncio.sleep(30)
        assert (sim.count("ready"), codes(run)) == (2, [])
        assert run.states() == [Published.CONNECTING, Published.CONNECTED]
        gap = run.account.last_gap
        assert gap is not None
        assert "farewell" in gap.reason


async def test_what_arrived_before_the_farewell_is_acknowledged_after_it() -> None:
    store = SlowStore(2)
    async with bot(store=store) as (sim, run):
        said = sim.say("just in time")
        await sim.goodbye()
        await heard_texts(run, "just in time")
        await until(lambda: sim.count("ack") == 1)
        assert [r.detail["id"] for r in sim.log if r.what == "ack"] == [said]


async def test_farewells_in_a_row_never_become_a_fast_loop() -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm("disconnect", times=None)
        async with running(DingTalk, sim.account()):
            await asyncio.sleep(900)
            opens = moments(sim, "ws-open")
            assert all(sum(a <= t < a + 60 for t in opens) <= 10 for a in opens)
            assert len(opens) >= 10


async def test_an_announcement_as_the_first_frame_does_no_harm() -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm("disconnect", reason="persistent connection is timeout")
        async with running(DingTalk, sim.account()) as run:
            await until(sim.listening)
            sim.say("hi")
            await heard_texts(run, "hi")


# -- durability -------------------------------------------------------------------------------


async def test_a_restart_reports_what_may_be_lost_and_takes_nothing_twice() -> None:
    store = MemoryStore()
    async with DingTalkSimulator() as sim:
        async with running(DingTalk, sim.account(), store=store) as first:
            await first.connected()
            await until(sim.listening)
            sim.faults.arm("redeliver", after=5.0)
            sim.say("before")
            await heard_texts(first, "before")
        sim.say("while down")
        async with running(DingTalk, sim.account(), store=store) as second:
            await second.connected()
            assert second.account.last_gap is not None
            await asyncio.sleep(10)
            assert second.messages == []


async def test_an_outage_is_a_gap() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.stop()
        sim.say("in the dark")
        await asyncio.sleep(40)
        await sim.start()
        await until(sim.listening)
        await run.connected()
        assert run.account.last_gap is not None
        assert run.messages == []


async def test_what_can_not_be_stored_is_not_acknowledged() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        store.fail = StoreError("disk_full", "the disk is full")
        sim.faults.arm("redeliver")
        said = sim.say("precious")
        await run.published(Published.RETRYING)
        cause = run.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.LOCAL, "disk_full")
        assert sim.count("ack") == 0
        store.fail = None
        await heard_texts(run, "precious")
        assert [r.detail["id"] for r in sim.log if r.what == "ack"] == [said]


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["open_hang", "open_slow", "half_open", "disconnect", None])
async def test_stop_ends_within_five_seconds_in_every_step(fault: str | None) -> None:
    async with DingTalkSimulator() as sim:
        if fault is not None:
            sim.faults.arm(fault, times=None)
        async with running(DingTalk, sim.account()) as run:
            await asyncio.sleep(2)
            start = sim.now()
            await run.account.stop()
            assert sim.now() - start <= 5
            assert run.account.view().published is Published.STOPPED
