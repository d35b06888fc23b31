"""The life of a connection: heartbeats, proof of life, gaps, and what survives a restart."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from holdfast.adapter import AdapterError, Continuity, Link
from holdfast.errors import StoreError
from holdfast.gateway.account import GAP_LEAD, UNKEPT
from holdfast.lab.faults.relay import Relay
from holdfast.messages import Gap, Inbound
from holdfast.store.protocol import Received
from holdfast.supervision import Cause, Kind, Published, State
from holdfast.testing import MemoryStore
from tests.gateway.parrot import Aviary, Parrot, Talk, closes
from tests.gateway.tools import alive, now, until
from tests.harness import running

CONFIG = {"platform": "parrot", "url": "http://127.0.0.1:9"}


# -- heartbeats -----------------------------------------------------------------------------------


async def test_every_new_connection_has_its_own_heartbeat_and_none_outlives_it() -> None:
    async with Aviary(beat=5.0) as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        await asyncio.sleep(22)
        for number in (2, 3):
            bot.account.kick(operator=True)
            await alive(bot, number)
            await asyncio.sleep(22)
        counts = [sum(n == number for n, _ in aviary.beats) for number in (1, 2, 3)]
        assert counts == [4, 4, 4]
        assert bot.account.view().beats == 4
        assert [n for n, _ in aviary.beats] == sorted(n for n, _ in aviary.beats)


async def test_unacknowledged_heartbeats_end_the_connection() -> None:
    async with Aviary(beat=5.0) as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        aviary.acks = False
        began = now()
        view = await bot.account.until(lambda v: v.generation == 1 and v.state is State.CLOSING)
        assert 15 <= now() - began <= 21
        assert view.cause is not None
        assert view.cause.code == "parrot_heartbeat_unacked"


class BadHeart(Parrot):
    """Three ways in which a heartbeat is not sent."""

    how = "raises"

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""

        async def beat() -> None:
            if self.how == "raises":
                raise RuntimeError("no heart")
            if self.how == "cancelled":
                raise asyncio.CancelledError
            await asyncio.Event().wait()

        link.on_beat(beat)
        link.ready(Continuity.FRESH, beat=20.0, silence=300.0)
        await asyncio.Event().wait()


@pytest.mark.parametrize(("how", "limit"), [("raises", 61), ("hangs", 71), ("cancelled", 81)])
async def test_a_heartbeat_that_is_not_sent_counts_as_failed(how: str, limit: float) -> None:
    kind = type("Kind", (BadHeart,), {"how": how})
    async with running(kind, CONFIG) as bot:
        began = now()
        view = await bot.account.until(lambda v: v.generation == 1 and v.state is State.CLOSING)
        assert 59 < now() - began < limit
        assert view.cause is not None
        assert view.cause.code == "parrot_heartbeat_unacked"


async def test_a_verdict_heard_by_a_heartbeat_counts() -> None:
    class Refused(Parrot):
        async def run(self, link: Link) -> None:
            async def beat() -> None:
                raise AdapterError(Cause(Kind.CREDENTIALS, "revoked"))

            link.on_beat(beat)
            link.ready(Continuity.FRESH, beat=20.0)
            await asyncio.Event().wait()

    async with running(Refused, CONFIG) as bot:
        view = await bot.account.until(lambda v: v.state is State.CLOSING)
        assert view.cause is not None
        assert view.cause.code == "revoked"


# -- proof of life --------------------------------------------------------------------------------


async def test_silence_is_asked_by_a_websocket_ping_whose_pong_is_life() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        began = now()
        await bot.account.until(lambda v: v.suspect)
        assert 39 <= now() - began <= 41  # silence 60 s less grace 20 s
        view = await bot.account.until(lambda v: not v.suspect)
        assert view.state is State.LIVE
        assert now() - began <= 41
        await asyncio.sleep(600)
        assert bot.account.view().generation == 1
        assert bot.states() == [Published.CONNECTING, Published.CONNECTED]


async def test_a_frame_after_silence_returns_to_live() -> None:
    async with Aviary() as aviary:
        hurried = asyncio.Event()

        async def deaf(aviary: Aviary, talk: Talk) -> None:
            await talk.send_json({"op": "hello", "beat": None})
            await talk.receive()
            await talk.send_json({"op": "ready"})
            await hurried.wait()  # nobody reads: pings stay unanswered
            await talk.send_json({"op": "ack"})
            await asyncio.Event().wait()

        aviary.script.append(deaf)
        async with running(Parrot, aviary.config) as bot:
            await bot.connected()
            await bot.account.until(lambda v: v.suspect)
            await asyncio.sleep(10)
            assert bot.account.view().suspect
            hurried.set()
            view = await bot.account.until(lambda v: not v.suspect)
            assert (view.state, view.generation) == (State.LIVE, 1)


async def test_a_holed_connection_is_dead_after_the_silence_limit_and_replaced() -> None:
    async with Aviary() as aviary:
        port = int(aviary.url.rpartition(":")[2])
        async with Relay("127.0.0.1", port) as relay:
            config = {"platform": "parrot", "url": relay.url("http")}
            async with running(Parrot, config) as bot:
                await bot.connected()
                began = now()
                relay.hole()
                view = await bot.account.until(lambda v: v.published is Published.RETRYING)
                assert 59 <= now() - began <= 61
                assert view.cause is not None
                assert view.cause.code == "parrot_silent"
                await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
                assert now() - began < 67


# -- gaps -----------------------------------------------------------------------------------------


async def test_no_gap_on_the_very_first_start() -> None:
    store = MemoryStore()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
    assert await store.gaps("bot") == []


async def test_a_fresh_login_after_a_loss_is_a_gap() -> None:
    store = MemoryStore()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        await aviary.talks[-1].close()
        await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
    (gap,) = await store.gaps("bot")
    assert gap.since <= gap.until
    assert bot.account.last_gap == gap


async def test_a_gap_begins_before_the_machine_slept() -> None:
    asleep = 0.0

    def wall() -> float:
        return 1e9 + now() + asleep

    async with (
        Aviary() as aviary,
        running(Parrot, aviary.config, clock=wall) as bot,
    ):
        await bot.connected()
        await asyncio.sleep(10)
        shut = wall()
        asleep = 8 * 3_600.0
        bot.account.woke(asleep)
        assert bot.account.view().published is Published.RETRYING
        await bot.published(Published.CONNECTED)  # the line has lived through it
        assert bot.account.last_gap is None
        asleep *= 2
        await aviary.talks[0].close()
        bot.account.woke(asleep / 2)
        await alive(bot, 2)
        gap = bot.account.last_gap
        assert gap is not None
        assert gap.since == pytest.approx(shut + asleep / 2 - GAP_LEAD, abs=2)
        assert gap.until == pytest.approx(wall(), abs=2)


async def test_no_gap_where_the_platform_replays() -> None:
    class Replaying(Parrot):
        traits = replace(Parrot.traits, replays=True)

    store = MemoryStore()
    async with Aviary() as aviary, running(Replaying, aviary.config, store=store) as bot:
        await bot.connected()
        await aviary.talks[-1].close()
        await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
    assert await store.gaps("bot") == []


async def test_a_gap_begins_at_the_last_working_login_whatever_failed_logins_say() -> None:
    """A HELLO before a failed login proves that the peer lives, not that messages came in."""
    store = MemoryStore()
    loop = asyncio.get_running_loop()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        bot.account.clock = lambda: 1e9 + loop.time()
        await bot.connected()
        lost = bot.account.clock()
        aviary.script.extend([closes(4000)] * 4)
        await aviary.talks[-1].close()
        await bot.account.until(lambda v: v.generation == 6 and v.state is State.LIVE)
        assert bot.account.clock() - lost > 5
    (gap,) = await store.gaps("bot")
    assert gap.since == pytest.approx(lost - GAP_LEAD, abs=1)
    assert gap.until - lost > 5


async def test_a_gap_begins_before_the_first_message_that_could_not_be_stored() -> None:
    """Whatever the connection proves afterwards, the platform does not say it again."""

    class Full(MemoryStore):
        async def receive(self, *args: Any, **more: Any) -> list[Received]:
            await asyncio.sleep(20)  # a disk that takes its time to fail
            raise StoreError("store_full", "the disk is full")

    store = Full()
    loop = asyncio.get_running_loop()
    async with Aviary(beat=5.0) as aviary, running(Parrot, aviary.config, store=store) as bot:
        bot.account.clock = lambda: 1e9 + loop.time()
        await bot.connected()
        await asyncio.sleep(20)
        said = bot.account.clock()
        with pytest.raises(StoreError):
            await bot.account.accept((Inbound(id="1", chat="c", sender="u", text="x"),), {})
        proof = bot.account.view().last_proof
        assert proof is not None
        assert bot.account.wall(proof) > said + GAP_LEAD
        await aviary.talks[-1].close()
        await alive(bot, 2)
    (gap,) = await store.gaps("bot")
    assert said - 10 < gap.since < said < gap.until


class Forgetful(MemoryStore):
    """A journal that takes no gaps for a while."""

    full = False

    async def add_gap(self, account: str, gap: Gap) -> None:
        """See `Store.add_gap`."""
        if self.full:
            raise StoreError("store_full", "the disk is full")
        await super().add_gap(account, gap)


async def test_gaps_that_can_not_be_stored_are_stored_later() -> None:
    store = Forgetful()
    told: list[Gap | None] = []
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        store.full = True
        for generation in (2, 3):
            await aviary.talks[-1].close()
            await alive(bot, generation)
            told.append(bot.account.last_gap)
        await asyncio.sleep(300)
        assert await store.gaps("bot") == []
        store.full = False
        await asyncio.sleep(3)
        assert await store.gaps("bot") == told


async def test_many_gaps_that_can_not_be_stored_are_told_as_one() -> None:
    store = Forgetful()
    store.full = True
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        for n in range(3 * UNKEPT):
            bot.account.missed("a test", bot.account.clock() - n)
        store.full = False
        await asyncio.sleep(3)
    gaps = await store.gaps("bot", limit=10 * UNKEPT)
    assert len(gaps) == UNKEPT
    assert gaps[-1].since < gaps[0].since - 2 * UNKEPT


async def test_a_gap_that_was_never_stored_is_found_again_by_the_next_process() -> None:
    store = Forgetful()
    async with Aviary() as aviary:
        async with running(Parrot, aviary.config, store=store) as bot:
            await bot.connected()
            store.full = True
            await aviary.talks[-1].close()
            await alive(bot, 2)
            lost = bot.account.last_gap
            await asyncio.sleep(3_600)
        store.full = False
        async with running(Parrot, aviary.config, store=store) as bot:
            await bot.connected()
    assert lost is not None
    (gap,) = await store.gaps("bot")
    assert gap.since == pytest.approx(lost.since)
    assert gap.until > lost.until


class Crash(MemoryStore):
    """A journal that can be cut off, as by a kill: later writes are not in the copy."""

    def copy(self) -> MemoryStore:
        """What a new process finds."""
        found = MemoryStore()
        found._memory = dict(self._memory)
        found._cursors = dict(self._cursors)
        return found


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_the_gap_spans_a_restart_of_the_process(kill: bool) -> None:
    store = Crash()
    async with Aviary() as aviary:
        async with running(Parrot, aviary.config, store=store) as bot:
            await bot.connected()
            await asyncio.sleep(0)
            after: MemoryStore = store.copy() if kill else store
        async with running(Parrot, aviary.config, store=after) as bot:
            await bot.connected()
    assert len(await after.gaps("bot")) == 1


async def test_after_a_kill_the_gap_is_at_most_a_minute_too_long() -> None:
    store = Crash()
    loop = asyncio.get_running_loop()
    async with Aviary() as aviary:
        async with running(Parrot, aviary.config, store=store) as bot:
            bot.account.clock = lambda: 1e9 + loop.time()
            await bot.connected()
            await asyncio.sleep(3_000)
            killed = bot.account.clock()
            after = store.copy()
        async with running(Parrot, aviary.config, store=after) as bot:
            await bot.connected()
    (gap,) = await after.gaps("bot")
    assert killed - 120 <= gap.since <= killed


# -- what survives a restart ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "expected"),
    [(0.0, 120.0), (50.0, 70.0), (500.0, 0.0), (-3_600.0, 120.0)],
    ids=["at-once", "later", "long-after", "clock-set-back"],
)
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_a_servers_wait_survives_a_restart(kill: bool, moved: float, expected: float) -> None:
    store = Crash()
    async with Aviary() as aviary:
        aviary.script.append(closes(4008))
        async with running(Parrot, aviary.config, store=store) as bot:
            view = await bot.account.until(lambda v: v.state is State.BACKOFF and v.generation == 1)
            assert view.retry_at == pytest.approx(now() + 120, abs=1)
            await asyncio.sleep(0)
            after: MemoryStore = store.copy() if kill else store
        await wall_moved(after, moved)
        async with running(Parrot, aviary.config, store=after) as bot:
            view = bot.account.view()
            if expected:
                assert view.retry_at == pytest.approx(now() + expected, abs=1)
            else:
                assert view.state is State.CONNECTING


async def wall_moved(store: MemoryStore, seconds: float) -> None:
    """The wall clock went on by so much between two lives of the process."""
    stored = await store.recall("bot", "supervision")
    assert stored is not None
    value = msgspec.msgpack.decode(stored)
    value["saved_at"] -= seconds
    await store.remember("bot", "supervision", msgspec.msgpack.encode(value))


async def test_spent_logins_stay_spent_over_a_kill() -> None:
    store = Crash()
    async with Aviary() as aviary:
        async with running(Parrot, aviary.config, store=store) as bot:
            await bot.connected()
            await asyncio.sleep(0)
            after = store.copy()
        async with running(Parrot, aviary.config, store=after) as bot:
            await bot.connected()
            assert len(bot.account.supervisor.memory(now()).fresh_ages) == 2


async def test_damaged_memory_delays_nobody() -> None:
    store = MemoryStore()
    await store.remember("bot", "supervision", b"\xc1 not msgpack")
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()


async def test_the_cursor_is_read_from_the_journal_for_each_connection() -> None:
    store = MemoryStore()
    async with Aviary() as aviary:

        async def leaves(aviary: Aviary, talk: Talk) -> None:
            await talk.send_json({"op": "hello", "beat": None})
            aviary.logins.append(await talk.receive_json())
            await talk.send_json({"op": "ready"})
            frame = {"op": "say", "id": "5", "chat": "c", "text": "x"}
            await talk.send_str(json.dumps(frame))
            await talk.receive()
            store.fail = StoreError("disk_full", "no space")
            await talk.send_str(json.dumps({**frame, "id": "6"}))
            await talk.receive()

        aviary.script.append(leaves)
        async with running(Parrot, aviary.config, store=store) as bot:
            view = await bot.account.until(lambda v: v.state is State.BACKOFF and v.generation == 1)
            # The journal's failure is ours, and nothing was acknowledged.
            assert view.cause is not None
            assert (view.cause.kind, view.cause.code) == (Kind.LOCAL, "disk_full")
            store.fail = None
            await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
            assert [login.get("seq") for login in aviary.logins] == [None, "5"]
            assert [m.id for m in bot.messages] == ["5"]


async def test_nothing_is_acknowledged_that_the_journal_did_not_take() -> None:
    store = MemoryStore()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        await aviary.say("1")
        await until(lambda: aviary.stored == ["1"])
        store.fail = StoreError("disk_full", "no space")
        await aviary.say("2")
        await bot.published(Published.RETRYING)
        store.fail = None
        await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
        await aviary.say("2")
        await until(lambda: aviary.stored == ["1", "2"])
        await aviary.say("2")  # a repeat is acknowledged again, and delivered to nobody
        await until(lambda: aviary.stored == ["1", "2", "2"])
        assert [m.id for m in bot.messages] == ["1", "2"]


async def test_state_of_one_connection_does_not_leak_into_the_next() -> None:
    class Leaky(Parrot):
        seen: list[dict[str, Any]] = []  # noqa: RUF012
        beats: list[int] = []  # noqa: RUF012

        async def run(self, link: Link) -> None:
            self.seen.append(dict(link.cursor))
            link.cursor["unsaved"] = True
            if link.generation == 1:

                async def beat() -> None:
                    self.beats.append(link.generation)

                link.on_beat(beat)
                link.ready(Continuity.FRESH, beat=1.0)
                await asyncio.sleep(0.5)
                return
            link.ready(Continuity.FRESH, beat=1.0, silence=30.0)
            await asyncio.Event().wait()

    async with running(Leaky, CONFIG) as bot:
        await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
        await asyncio.sleep(2)
        assert Leaky.seen == [{}, {}]
        assert Leaky.beats == []


async def test_a_stop_that_comes_while_the_memory_is_read_is_not_lost() -> None:
    class Slow(MemoryStore):
        async def recall(self, account: str, key: str) -> bytes | None:
            await asyncio.sleep(1)
            return await super().recall(account, key)

    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.account.pause()
        bot.account._store = Slow()
        starting = asyncio.create_task(bot.account.start())
        await asyncio.sleep(0.5)
        await bot.account.pause()
        await starting
        await asyncio.sleep(10)
        assert bot.account.view().state is State.STOPPED
        assert aviary.open == 0


async def test_each_account_only_hears_of_new_messages() -> None:
    store = MemoryStore()
    await store.receive("bot", [Inbound(id="1", chat="c", sender="u", text="old")], None)
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        heard: list[Received] = []
        bot.account._on_received = lambda _, rows: heard.extend(rows)
        await bot.connected()
        await aviary.say("1")
        await aviary.say("2")
        await until(lambda: aviary.stored == ["1", "2"])
        assert [row.message.id for row in heard] == ["2"]
        assert bot.account.received == 1


class Picky(MemoryStore):
    """Can not hold one message, whatever comes with it."""

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """See `MemoryStore.receive`."""
        if any(message.id == "bad" for message in messages):
            raise StoreError("store_refused", "an integer of 4000 digits", "report it")
        return await super().receive(account, messages, cursor, dropped, begun)


async def test_a_message_the_journal_can_not_hold_is_passed_over() -> None:
    """It would end each connection and come back for ever."""
    store = Picky()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        for id in ("before", "bad", "after"):
            await aviary.say(id)
        await until(lambda: aviary.stored == ["before", "bad", "after"])
        assert [message.id for message in bot.messages] == ["before", "after"]
        assert bot.account.skipped_frames == 1
        assert (await store.cursor("bot"))["seq"] == "after"
        assert bot.account.view().generation == 1


@pytest.mark.parametrize("stored", range(4))
async def test_what_was_stored_before_the_journal_failed_is_handled(stored: int) -> None:
    """Its repetition is a duplicate, which nobody is asked about."""

    class Filling(Picky):
        """Has room for so many writes more, the cursor's among them."""

        room = stored

        async def receive(self, *args: Any) -> list[Received]:
            """See `MemoryStore.receive`."""
            if len(args[1]) <= 1:
                self.room -= 1
                if self.room < 0:
                    raise StoreError("store_full", "there is no room left")
            return await super().receive(*args)

    store = Filling()
    batch = tuple(Inbound(id=id, chat=id, sender="u", text="hi") for id in ("1", "bad", "2", "3"))
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        with pytest.raises(StoreError, match="no room"):
            await bot.account.accept(batch, {"seq": "3"})
        store.room = 100
        await bot.account.accept(batch, {"seq": "3"})
        assert [message.id for message in bot.messages] == ["1", "2", "3"]
        assert bot.account.received == 3
        assert (await store.cursor("bot"))["seq"] == "3"


class Spread(Parrot):
    """Its peer may feed a dead connection for a while."""

    traits = replace(Parrot.traits, gap_tail=30.0)


async def test_a_gap_reaches_as_far_as_the_peer_may_feed_a_dead_connection() -> None:
    async with Aviary() as aviary, running(Spread, aviary.config) as bot:
        await bot.connected()
        await aviary.talks[-1].close(code=1001)
        await alive(bot, 2)
        gap = bot.account.last_gap
        assert gap is not None
        assert gap.until - time.time() == pytest.approx(30.0, abs=5.0)
