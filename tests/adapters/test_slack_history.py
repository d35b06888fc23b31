"""The Slack adapter: what a connection missed is read from the histories, or is a gap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from holdfast.adapters import slack_catchup
from holdfast.adapters.slack import Slack
from holdfast.adapters.slack_catchup import SHARED_EVERY
from holdfast.adapters.slack_history import CHATS
from holdfast.errors import StoreError
from holdfast.lab.simulators.slack_rules import ApiError
from holdfast.lab.simulators.slack_world import SUBSCRIPTIONS
from holdfast.messages import Inbound, Outbound
from holdfast.store.protocol import Received
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.adapters.test_slack import Narrow, bot, calls, cause, codes, heard_texts, until
from tests.harness import running


def post(sim: Narrow, text: str, age: float, *, thread: str | None = None) -> str:
    """Something that alice wrote so many seconds ago, and that the stream does not tell."""
    channel, user = sim.world.channel("alice", group=False), sim.world.user("alice")
    content = sim.world.by_user(user, text, [], mention=False)
    ts: str = sim.world.post(channel, f"{time.time() - age:.6f}", content, thread)["ts"]
    return ts


async def store_at(age: float, **more: Any) -> MemoryStore:
    """A journal whose place in the stream is so many seconds old."""
    store = MemoryStore()
    mark, floor = time.time() - age, time.time() - 1e6
    await store.receive("bot", (), {"mark": f"{mark:.6f}", "floor": f"{floor:.6f}"} | more)
    return store


async def test_a_restart_reads_what_was_said_in_chats_known_and_new() -> None:
    store = MemoryStore()
    async with Narrow() as sim:
        sim.say("long ago")
        async with running(Slack, sim.account(), store=store) as first:
            await first.connected()
            root = sim.say("before", chat="ops", group=True)
            await heard_texts(first, "before")
        sim.say("hello", chat="bob", sender="bob")
        sim.say("in the thread", chat="ops", group=True, reply_to=root, mention=False)
        sim.say("in the channel", chat="ops", group=True, mention=False)
        sim.say("", image=b"\x89PNG")
        async with running(Slack, sim.account(), store=store) as second:
            await until(lambda: len(second.messages) == 4)
            await asyncio.sleep(1)
            texts = [m.text for m in second.messages]
            assert sorted(texts) == ["", "hello", "in the channel", "in the thread"]
            assert texts.index("in the thread") < texts.index("in the channel")
            thread = next(m for m in second.messages if m.text == "in the thread")
            assert thread.thread == root
            assert second.account.last_gap is None
            picture = next(m for m in second.messages if m.attachments).attachments[0]
            assert await second.adapter.fetch(picture) == b"\x89PNG"
            sim.say("now")
            await until(lambda: len(second.messages) == 5)
            cursor = await store.cursor("bot")
            assert cursor["mark"] == sim.said[-1].id


async def test_the_first_start_answers_nothing_of_the_past() -> None:
    async with Narrow() as sim:
        sim.say("long ago")
        async with running(Slack, sim.account()) as run:
            await run.connected()
            sim.drop_all()
            sim.say("now")
            await heard_texts(run, "now")
            assert run.account.last_gap is None


async def test_the_past_ends_by_the_gateways_clock() -> None:
    """Whose dates are also those of gaps and of the backlog, not those of this machine."""
    loop, store = asyncio.get_running_loop(), MemoryStore()

    def clock() -> float:
        return 1e9 + loop.time()

    async with Narrow() as sim, running(Slack, sim.account(), store=store, clock=clock) as run:
        await run.connected()
        floor = float((await store.cursor("bot"))["floor"])
        assert clock() - 60 < floor <= clock()


async def test_an_app_that_hears_only_mentions_reads_only_mentions() -> None:
    async with Narrow() as sim:
        sim.subscriptions = {"app_mention", "message.im"}
        async with running(Slack, sim.account()) as run:
            await run.connected()
            sim.say("one", chat="ops", group=True)
            await heard_texts(run, "one")
            sim.drop_all()
            sim.say("not for us", chat="ops", group=True, mention=False)
            sim.say("two", chat="ops", group=True)
            sim.say("three")
            await until(lambda: len(run.messages) == 3)
            await asyncio.sleep(5)
            assert sorted(m.text for m in run.messages) == ["one", "three", "two"]


@pytest.mark.parametrize("kind", ["mpim", "group"])
async def test_what_is_heard_in_one_kind_of_chat_proves_nothing_of_another(kind: str) -> None:
    async with Narrow() as sim:
        sim.subscriptions = {"app_mention", "message.im", SUBSCRIPTIONS[kind]}
        sim.channel_id("trio", group=True, kind=kind)
        async with running(Slack, sim.account()) as run:
            await run.connected()
            sim.say("hi all three", chat="trio", sender="bob", group=True, mention=False)
            sim.say("status?", chat="ops", group=True)
            await heard_texts(run, "hi all three", "status?")
            for number in range(3):
                sim.say(f"chatter {number}", chat="ops", group=True, mention=False)
                await asyncio.sleep(400)
            assert len(run.messages) == 2
            assert run.account.view().generation == 1
            sim.drop_all()
            sim.say("between us three", chat="trio", sender="bob", group=True, mention=False)
            sim.say("chatter", chat="ops", group=True, mention=False)
            await heard_texts(run, "hi all three", "status?", "between us three")


async def test_a_reply_in_our_thread_without_our_name_is_no_mention_that_is_told() -> None:
    async with Narrow() as sim:
        sim.subscriptions = {"app_mention", "message.im"}
        async with running(Slack, sim.account()) as run:
            await run.connected()
            chat = sim.channel_id("ops", group=True)
            report = await run.adapter.send(Outbound(key="k", chat=chat, text="nightly report"))
            root = report.id.partition(":")[2]
            sim.say("explain?", chat="ops", group=True, reply_to=root)
            await heard_texts(run, "explain?")
            for number in range(3):
                text = f"not to the bot {number}"
                sim.say(text, chat="ops", group=True, mention=False, reply_to=root)
                await asyncio.sleep(400)
            sim.drop_all()
            sim.say("and this?", chat="ops", group=True, reply_to=root)
            await heard_texts(run, "explain?", "and this?")
            assert run.account.view().generation == 2


async def test_one_channel_overheard_tells_what_is_told_of_the_others() -> None:
    async with bot() as (sim, run):
        sim.say("here", chat="ops", group=True, mention=False)
        await heard_texts(run, "here")
        sim.drop_all()
        sim.say("there", chat="dev", group=True, mention=False)
        await heard_texts(run, "here", "there")


async def test_an_older_journal_still_says_that_channels_are_overheard() -> None:
    store = await store_at(700, overhears=True)
    async with Narrow() as sim:
        sim.say("not for us alone", chat="ops", group=True, mention=False)
        async with running(Slack, sim.account(), store=store) as run:
            await heard_texts(run, "not for us alone")
            sim.say("more", chat="ops", group=True, mention=False)
            await heard_texts(run, "not for us alone", "more")
            cursor = await store.cursor("bot")
            assert cursor["overhears"] == {"channel": [sim.channel_id("ops", group=True)]}


async def test_what_is_remembered_as_overheard_is_bounded() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        for number in range(CHATS + 1):
            sim.say("hi", chat=f"c{number}", group=True, mention=False)
        await heard_texts(run, *["hi"] * (CHATS + 1))
        channels = (await store.cursor("bot"))["overhears"]["channel"]
        assert len(channels) == CHATS
        assert channels[-1] == sim.channel_id(f"c{CHATS}", group=True)


async def test_a_long_history_is_read_page_by_page() -> None:
    async with bot() as (sim, run):
        sim.history_most = 3
        sim.drop_all()
        for number in range(12):
            sim.say(f"{number}")
        await heard_texts(run, *(str(number) for number in range(12)))
        assert run.account.last_gap is None


async def test_a_history_is_read_no_further_than_our_place() -> None:
    store = await store_at(700)
    async with Narrow() as sim:
        for number in range(30):
            post(sim, "known", 2000 - number)
        post(sim, "new", 5)
        sim.history_most = 3
        async with running(Slack, sim.account(), store=store) as run:
            await heard_texts(run, "new")
            assert len(calls(sim, "conversations.history")) == 1
            assert run.account.last_gap is None


async def test_too_long_a_history_is_a_gap() -> None:
    async with bot() as (sim, run):
        sim.history_most = 2
        sim.drop_all()
        for number in range(12):
            sim.say(f"{number}")
        await heard_texts(run, *(str(number) for number in range(2, 12)))
        assert run.account.last_gap is not None
        assert "pages" in run.account.last_gap.reason


async def test_a_history_that_may_not_be_read_is_a_gap() -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        sim.refusals["conversations.history"] = ApiError("missing_scope", needed="im:history")
        sim.drop_all()
        sim.say("lost")
        await asyncio.sleep(20)
        assert run.account.view().published is Published.CONNECTED
        assert run.account.last_gap is not None
        assert "im:history" in run.account.last_gap.reason
        sim.say("next")
        await heard_texts(run, "one", "next")


async def test_chats_that_can_not_be_listed_are_a_gap_and_known_ones_are_read() -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        sim.refusals["users.conversations"] = ApiError("missing_scope", needed="im:read")
        sim.drop_all()
        sim.say("two")
        sim.say("lost", chat="bob", sender="bob")
        await heard_texts(run, "one", "two")
        assert run.account.last_gap is not None
        assert "im:read" in run.account.last_gap.reason


async def test_a_chat_we_have_left_is_no_gap() -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        sim.refusals["conversations.history"] = ApiError("channel_not_found")
        sim.drop_all()
        await until(lambda: len(calls(sim, "conversations.history")) == 1)
        await asyncio.sleep(5)
        assert run.account.last_gap is None


async def test_histories_that_hang_are_read_later_and_live_events_go_on() -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        sim.hanging.add("users.conversations")
        sim.drop_all()
        sim.say("from a new chat", chat="bob", sender="bob")
        await until(lambda: bool(calls(sim, "users.conversations")))
        sim.say("next")
        await heard_texts(run, "one", "next")
        assert sim.count("ws-open") == 2
        sim.hanging.clear()
        await heard_texts(run, "one", "next", "from a new chat")
        assert run.account.last_gap is None


@pytest.mark.parametrize(
    "error", [ApiError("ratelimited", status=429), ApiError("internal_error", status=503)]
)
async def test_a_history_that_can_not_be_read_for_now_is_read_later(error: ApiError) -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        sim.refusals["conversations.history"] = error
        sim.drop_all()
        sim.say("later")
        await asyncio.sleep(1_000)  # nor are looks into the history evidence of anything
        assert run.account.view().published is Published.CONNECTED
        sim.refusals.clear()
        await heard_texts(run, "one", "later")
        assert run.account.view().generation == 2
        assert run.account.last_gap is None


async def test_a_history_that_can_not_be_read_for_too_long_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slack_catchup, "PATIENCE", 1_500.0)
    loop, store, epoch = asyncio.get_running_loop(), MemoryStore(), time.time()
    start = loop.time()
    async with bot(store=store, clock=lambda: epoch + loop.time() - start) as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        sim.refusals["conversations.history"] = ApiError("internal_error", status=503)
        sim.drop_all()
        sim.say("lost")
        await asyncio.sleep(1_400)
        assert run.account.last_gap is None
        await asyncio.sleep(600)
        assert run.account.last_gap is not None
        assert "internal_error" in run.account.last_gap.reason
        assert (await store.cursor("bot"))["behind"] == {}


async def test_slacks_own_time_is_waited_for_whatever_comes_in() -> None:
    async with bot() as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        throttled = ApiError("ratelimited", status=429, headers={"Retry-After": "100"})
        sim.refusals["conversations.history"] = throttled
        sim.drop_all()
        sim.say("missed")
        await until(lambda: bool(calls(sim, "conversations.history")))
        sim.refusals.clear()
        asked = len(calls(sim, "conversations.history"))
        for number in range(9):
            await asyncio.sleep(10)
            sim.say(f"{number}")
        await until(lambda: len(run.messages) == 10)
        assert len(calls(sim, "conversations.history")) == asked
        await asyncio.sleep(15)
        sim.say("now")
        await until(lambda: [m.text for m in run.messages][-2:] == ["now", "missed"])


async def test_one_chat_that_fails_does_not_hold_up_the_others() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        names = [f"user{number}" for number in range(8)]
        for name in names:
            sim.say("live", chat=name, sender=name)
        await until(lambda: len(run.messages) == 8)
        bad = sim.channel_id("user7")
        error = ApiError("internal_error", status=503)
        sim.refusals[f"conversations.history {bad}"] = error
        sim.drop_all()
        for name in names:
            sim.say("missed", chat=name, sender=name)
        await until(lambda: len(run.messages) == 15)
        assert bad not in {m.chat for m in run.messages if m.text == "missed"}
        await until(lambda: len(store._cursors["bot"]["behind"]) == 1)
        sim.refusals.clear()
        await until(lambda: len(run.messages) == 16)


async def test_more_than_there_is_time_for_at_first_is_read_beside_what_comes_in() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        for number in range(60):
            sim.channel_id(f"user{number}")
        sim.drop_all()
        sim.slow = 1.0
        for number in range(60):
            sim.say("missed", chat=f"user{number}", sender=f"user{number}")
        await until(lambda: sim.count("ws-open") == 2)
        sim.say("now", chat="carol", sender="carol")
        await until(lambda: len(run.messages) == 61)
        assert [m.text for m in run.messages].index("now") < 50
        await asyncio.sleep(5)  # for carol's history, in which nothing is new
        assert await store.gaps("bot") == []
        assert (await store.cursor("bot"))["behind"] == {}


async def test_a_catch_up_that_a_stop_ends_goes_on_at_the_next_start() -> None:
    store = MemoryStore()
    async with Narrow() as sim:
        for number in range(60):
            sim.channel_id(f"user{number}")
        async with running(Slack, sim.account(), store=store) as first:
            await first.connected()
        for number in range(60):
            sim.say("missed", chat=f"user{number}", sender=f"user{number}")
        sim.slow = 1.0
        found: list[int] = []
        for _ in range(4):
            async with running(Slack, sim.account(), store=store) as run:
                await run.connected()
                await asyncio.sleep(8)
                found.append(len(run.messages))
        assert sum(found) == 60
        assert found[0] < 60
        assert found[3] == 0
        assert await store.gaps("bot") == []
        assert len(store.inbox) == 60


async def test_a_planned_replacement_goes_on_with_what_is_behind() -> None:
    async with bot() as (sim, run):
        for number in range(60):
            sim.channel_id(f"user{number}")
        sim.drop_all()
        sim.slow = 1.0
        for number in range(60):
            sim.say("missed", chat=f"user{number}", sender=f"user{number}")
        await until(lambda: len(run.messages) >= 20)
        await sim.goodbye("refresh_requested")
        await until(lambda: len(run.messages) == 60)
        assert run.account.view().generation == 3
        assert run.account.last_gap is None


async def test_an_outage_is_read_up_and_our_place_moves_on() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        await sim.stop()
        sim.say("in the dark")
        await asyncio.sleep(1200)
        await sim.start()
        await heard_texts(run, "one", "in the dark")
        assert run.account.last_gap is None
        assert (await store.cursor("bot"))["mark"] == sim.said[-1].id


async def test_what_can_not_be_stored_is_not_acknowledged_and_comes_again() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        store.fail = StoreError("disk_full", "the disk is full")
        sim.say("precious")
        await run.published(Published.RETRYING)
        assert (cause(run).kind, cause(run).code) == (Kind.LOCAL, "disk_full")
        assert sim.count("ack") == 0
        await asyncio.sleep(5)
        store.fail = None
        await heard_texts(run, "precious")


async def test_a_journal_that_fails_while_catching_up_keeps_our_place() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        sim.say("one")
        await heard_texts(run, "one")
        before = await store.cursor("bot")
        store.fail = StoreError("disk_full", "the disk is full")
        sim.drop_all()
        sim.say("two")
        await until(lambda: "disk_full" in codes(run))
        assert await store.cursor("bot") == before
        store.fail = None
        await heard_texts(run, "one", "two")


class Flaky(MemoryStore):
    """A journal that fails once, and slowly, when it is to take a certain text."""

    text = "missed"

    async def receive(
        self, account: str, messages: Sequence[Inbound], *more: Any, **rest: Any
    ) -> list[Received]:
        """See `Store.receive`."""
        if any(message.text == self.text for message in messages):
            self.text = ""
            await asyncio.sleep(1)
            raise StoreError("disk_full", "the disk is full")
        return await super().receive(account, messages, *more, **rest)


async def test_a_journal_that_fails_for_one_chat_keeps_its_place_beside_the_others() -> None:
    store = Flaky()
    mark = f"{time.time() - 5000:.6f}"
    await store.receive("bot", (), {"mark": mark, "floor": mark})
    async with Narrow() as sim:
        post(sim, "missed", 3000)  # so long before the others that no overlap finds it again
        for number in range(3):
            sim.say(f"{number}", chat=f"user{number}", sender=f"user{number}")
        async with running(Slack, sim.account(), store=store) as run:
            await until(lambda: "disk_full" in codes(run))
            assert len(run.messages) == 3
            await until(lambda: len(run.messages) == 4)
            assert "missed" in [message.text for message in run.messages]


@pytest.mark.parametrize(("hours", "texts"), [(1, ["before", "after"]), (13, ["after"])])
async def test_a_young_place_is_read_with_what_may_have_been_overtaken(
    hours: int, texts: list[str]
) -> None:
    store = await store_at(hours * 3600)
    async with Narrow() as sim:
        post(sim, "too old", hours * 3600 + 900)
        post(sim, "before", hours * 3600 + 300)
        post(sim, "after", hours * 3600 - 300)
        async with running(Slack, sim.account(), store=store) as run:
            await heard_texts(run, *texts)


@pytest.mark.parametrize(
    ("age", "known", "found"), [(3600, False, True), (260_000, True, True), (260_000, False, False)]
)
async def test_replies_are_found_in_young_and_in_remembered_threads(
    age: float, known: bool, found: bool
) -> None:
    async with Narrow() as sim:
        root = post(sim, "root", age)
        threads = [f"{sim.channel_id('alice')}:{root}"] if known else []
        store = await store_at(700, threads=threads)
        post(sim, "reply", 10, thread=root)
        post(sim, "top", 5)
        async with running(Slack, sim.account(), store=store) as run:
            await heard_texts(run, *(["reply", "top"] if found else ["top"]))


async def test_an_event_that_was_overtaken_for_good_is_read_at_the_next_connection() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("event_lost")
        sim.say("lost")
        sim.say("told")
        await heard_texts(run, "told")
        sim.drop_all()
        await heard_texts(run, "told", "lost")


async def test_what_another_program_on_the_app_takes_is_read_from_the_histories() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("split", times=None)  # it comes unseen, behind our hello
        for number in range(20):
            sim.say(f"{number}")
            await asyncio.sleep(100)  # never so quiet that anybody would look
        assert (len(run.messages), run.account.view().generation) == (10, 1)
        await sim.goodbye("refresh_requested")  # the next hello counts it
        await until(lambda: len(run.messages) == 20)
        for number in range(20, 24):
            sim.say(f"{number}")
            await asyncio.sleep(2 * SHARED_EVERY)
            assert len(run.messages) == number + 1
        assert run.account.view().generation == 2
        assert run.account.last_gap is None


async def test_a_thread_is_remembered_from_the_stream() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        root = post(sim, "root", 260_000)
        sim.say("one", reply_to=root)
        await heard_texts(run, "one")
        sim.drop_all()
        sim.say("two", reply_to=root)
        await heard_texts(run, "one", "two")
        key = f"{sim.channel_id('alice')}:{root}"
        assert (await store.cursor("bot"))["threads"] == [key]


async def test_more_chats_than_are_asked_are_a_gap() -> None:
    async with bot() as (sim, run):
        for number in range(101):
            sim.channel_id(f"user{number}")
        sim.drop_all()
        await until(lambda: run.account.last_gap is not None)
        assert len(calls(sim, "conversations.history")) == 100


async def test_without_any_history_scope_every_connection_is_fresh() -> None:
    async with Narrow() as sim:
        sim.scopes = "chat:write, app_mentions:read"
        async with running(Slack, sim.account()) as run:
            await run.connected()
            sim.say("one")
            await heard_texts(run, "one")
            assert run.account.last_gap is None
            sim.drop_all()
            await until(lambda: run.account.last_gap is not None)
            await asyncio.sleep(1)
            assert "fresh login" in str(run.account.last_gap)
            assert calls(sim, "users.conversations") == []
            assert calls(sim, "conversations.history") == []


async def test_only_what_the_scopes_allow_is_asked_and_the_rest_is_a_gap() -> None:
    async with Narrow() as sim:
        sim.scopes = "chat:write,im:history,im:read,channels:history"
        async with running(Slack, sim.account()) as run:
            await run.connected()
            sim.drop_all()
            sim.say("one")
            await heard_texts(run, "one")
            assert [c["types"] for c in calls(sim, "users.conversations")] == ["im"]
            assert run.account.last_gap is not None
            assert "channels:read" in run.account.last_gap.reason


async def test_stop_while_catching_up() -> None:
    async with bot() as (sim, run):
        sim.hanging.add("users.conversations")
        sim.drop_all()
        await until(lambda: bool(calls(sim, "users.conversations")))
        start = sim.now()
        await run.account.stop()
        assert sim.now() - start <= 5
