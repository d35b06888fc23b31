"""From the inbox to the outbox: order, isolation, attempts, and what a stop leaves."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast.agents import Turn
from holdfast.errors import StoreError
from holdfast.gateway.lanes import Limits, compose
from holdfast.gateway.suspects import HEAD_START
from holdfast.messages import Attachment, Inbound, MediaKind, Reply
from holdfast.store.protocol import Box, InboxState
from holdfast.store.sqlite import SqliteStore
from holdfast.testing import MemoryStore
from tests.gateway.desk import Mouth, Table
from tests.gateway.tools import census, now, until


async def test_order_within_a_chat_and_chats_side_by_side() -> None:
    running: set[str] = set()
    most = 0

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        nonlocal most
        assert message.chat not in running  # never two at once in one chat
        running.add(message.chat)
        most = max(most, len(running))
        # The first message of a chat takes longest: order must not depend on speed.
        await asyncio.sleep(10 - int(message.id.partition("-")[2]))
        running.discard(message.chat)
        return [Reply(text=message.id)]

    table = Table(agent=agent)
    table.sender.connected(True)
    for n in range(5):
        for chat in "abc":
            await table.hear(f"{chat}-{n}", chat=chat)
    began = now()
    await table.quiet()
    assert most == 3
    assert now() - began < 45  # three chats one after the other would take 120 s
    for chat in "abc":
        assert table.mouth.texts(chat) == [f"{chat}-{n}" for n in range(5)]
    await table.close()


async def test_a_hung_handler_holds_its_own_lane_only_and_becomes_a_dead_letter() -> None:
    asked: dict[str, int] = defaultdict(int)

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        asked[message.id] += 1
        if message.id == "hung":
            await asyncio.Event().wait()
        return [Reply(text=message.id)]

    table = Table(agent=agent, limits=Limits(timeout=30.0, attempts=3))
    table.sender.connected(True)
    await table.hear("hung", chat="a")
    await table.hear("behind", chat="a")
    await table.hear("beside", chat="b")
    await until(lambda: "beside" in table.mouth.texts())
    assert now() < 1_001
    await table.quiet()
    assert asked == {"hung": 3, "beside": 1, "behind": 1}
    assert table.mouth.texts("a") == ["behind"]
    (dead,) = [row for row in table.store.inbox.values() if row.state is InboxState.DEAD]
    assert dead.message.id == "hung"
    assert dead.reason == "no answer within 30 s"
    assert table.lanes.failed == 1
    assert 90 <= now() - 1_000 <= 96
    await table.close()


async def test_a_failing_handler_is_tried_again_with_back_off() -> None:
    tries: list[tuple[float, int]] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        assert turn.deadline == now() + 120.0
        tries.append((now(), turn.attempt))
        if turn.attempt < 4:
            raise RuntimeError("not yet")
        return [Reply(text="at last")]

    table = Table(agent=agent, limits=Limits(attempts=4))
    table.sender.connected(True)
    await table.hear("1")
    await table.quiet()
    assert [attempt for _, attempt in tries] == [1, 2, 3, 4]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(tries)]
    assert gaps == pytest.approx([1, 2, 4])
    assert table.mouth.texts() == ["at last"]
    await table.close()


async def test_a_handler_cancelled_by_its_own_inside_is_a_failure_like_any_other() -> None:
    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        if turn.attempt == 1:
            raise asyncio.CancelledError
        return [Reply(text=message.id)]

    table = Table(agent=agent)
    table.sender.connected(True)
    await table.hear("1")
    await table.hear("2")
    await table.quiet()
    assert table.mouth.texts() == ["1", "2"]
    await table.close()


async def test_waiting_for_the_next_try_takes_no_handlers_place() -> None:
    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        if message.chat == "bad":
            raise RuntimeError("always")
        return [Reply(text=message.id)]

    table = Table(agent=agent, slots=asyncio.Semaphore(1), limits=Limits(attempts=10))
    table.sender.connected(True)
    await table.hear("x", chat="bad")
    await asyncio.sleep(5)
    began = now()
    await table.hear("1", chat="good")
    await until(lambda: table.mouth.texts("good") == ["1"])
    assert now() - began < 1
    await table.close()


async def test_no_more_handlers_than_allowed() -> None:
    busy = most = 0

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(1)
        busy -= 1
        return []

    table = Table(agent=agent, slots=asyncio.Semaphore(3))
    for n in range(12):
        await table.hear(str(n), chat=str(n))
    began = now()
    await table.quiet()
    assert most == 3
    assert now() - began == pytest.approx(4, abs=1)
    await table.close()


async def test_a_journal_that_fails_while_finishing_never_asks_twice() -> None:
    table: Table
    asked = 0

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        nonlocal asked
        asked += 1
        table.store.fail = StoreError("disk_full", "no space")
        return [Reply(text="once")]

    table = Table(agent=agent)
    table.sender.connected(True)
    await table.hear("1")
    await asyncio.sleep(60)
    assert (asked, table.mouth.tries) == (1, [])
    table.store.fail = None
    await table.quiet()
    assert (asked, table.mouth.texts()) == (1, ["once"])
    await table.close()


async def test_typing_is_shown_while_the_agent_works_and_not_longer() -> None:
    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        await asyncio.sleep(10)
        return []

    table = Table(mouth=Mouth(typing=True, typing_every=4.0), agent=agent)
    await table.hear("1", chat="a")
    await asyncio.sleep(100)
    moments = [at - 1_000 for at, chat in table.mouth.typed if chat == "a"]
    assert moments == pytest.approx([0.5, 4.5, 8.5], abs=0.05)
    await table.close()


async def test_a_quick_answer_shows_no_typing() -> None:
    table = Table(mouth=Mouth(typing=True))
    await table.hear("1")
    await asyncio.sleep(10)
    assert table.mouth.typed == []
    await table.close()


async def test_a_stop_leaves_unfinished_work_to_the_next_process() -> None:
    async def never(message: Inbound, turn: Turn) -> list[Reply]:
        await asyncio.Event().wait()
        return []

    before = await census()
    first = Table(agent=never)
    for n in range(3):
        await first.hear(str(n))
    await first.hear("other", chat="d")
    await asyncio.sleep(1)
    began = now()
    await first.close()
    assert now() - began <= 2.1
    assert (await census()).tasks == before.tasks
    second = Table(store=first.store)
    second.sender.connected(True)
    await second.recover()
    await second.quiet()
    assert second.mouth.texts("c") == ["hi"] * 3
    assert len(second.mouth.texts("d")) == 1
    states = {row.state for row in first.store.inbox.values()}
    assert states == {InboxState.DONE}
    await second.close()


async def test_a_stop_lets_a_running_handler_end_and_begins_no_other() -> None:
    asked: list[str] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        asked.append(message.id)
        await asyncio.sleep(1)
        return [Reply(text=message.id)]

    table = Table(agent=agent, slots=asyncio.Semaphore(1))
    await table.hear("1", chat="a")
    await table.hear("2", chat="a")
    await table.hear("3", chat="b")
    await asyncio.sleep(0.5)
    await table.close()
    assert asked == ["1"]
    attempts = {row.message.id: row.attempts for row in table.store.inbox.values()}
    assert attempts == {"1": 1, "2": 0, "3": 0}
    assert [row.message.text for row in table.store.outbox.values()] == ["1"]


@pytest.mark.parametrize("deaths", [1, 2])
async def test_what_the_process_died_of_is_buried_unasked(deaths: int) -> None:
    table = Table(limits=Limits(attempts=1 if deaths == 1 else 3))
    message = Inbound(id="poison", chat="c", sender="u", text="x")
    (row,) = await table.store.receive("bot", [message], None)
    for _ in range(deaths):
        await table.store.begin(row.row)
    await table.recover()
    await table.quiet()
    assert table.mouth.tries == []
    assert table.store.inbox[row.row].state is InboxState.DEAD
    assert table.store.inbox[row.row].attempts == deaths
    assert f"died in attempt {deaths}" in table.store.inbox[row.row].reason
    # A person who has it tried anew knows better.
    table.sender.connected(True)
    table.lanes.put([(await table.store.retry(Box.INBOX, row.row)).received()])
    await table.quiet()
    assert table.mouth.texts() == ["x"]
    await table.close()


async def test_a_message_that_is_put_again_is_answered_once() -> None:
    table = Table()
    table.sender.connected(True)
    rows = await table.store.receive("bot", [Inbound(id="1", chat="c", sender="u", text="x")], None)
    table.lanes.put(rows)
    table.lanes.put(rows)
    assert table.lanes.depth == 1
    await table.quiet()
    assert table.mouth.texts() == ["x"]
    await table.close()


async def test_a_long_answer_arrives_whole_and_in_order() -> None:
    text = " ".join(f"word{n}" for n in range(3_000))[:20_000]

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        return [Reply(text=text), Reply(text="the end")]

    table = Table(agent=agent)
    table.sender.connected(True)
    await table.hear("1")
    await table.quiet()
    pieces = table.mouth.texts()
    assert all(len(piece) <= 100 for piece in pieces)
    assert pieces[-1] == "the end"
    assert " ".join(pieces[:-1]).split() == text.split()
    assert len(set(table.mouth.keys)) == len(pieces)
    await table.close()


def test_keys_depend_on_nothing_but_the_message_and_the_position() -> None:
    message = Inbound(id="77", chat="c", sender="u", text="x", private=False)
    picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=b"x")
    answers = [Reply(text="one"), Reply(text="two", attachments=(picture,))]
    traits = Mouth().traits
    first = compose("bot", message, answers, traits)
    assert first == compose("bot", message, answers, traits)
    assert [piece.seq for piece in first] == [1, 2, 3]
    assert first[2].attachments == (picture,)
    assert len({piece.key for piece in first}) == 3
    assert compose("other", message, answers, traits)[0].key != first[0].key
    assert all(len(piece.key) <= 64 for piece in first)
    # In a group the first piece of each answer says what it answers.
    assert [piece.reply_to for piece in first] == ["77", "77", None]


# -- the first attempt, counted as the message is stored ---------------------------------------


class Counted(MemoryStore):
    """Counts the attempts that cost a commit of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []

    async def begin(self, row: int) -> int:
        """See `Store.begin`."""
        self.begun.append(row)
        return await super().begin(row)


def told(store: MemoryStore) -> dict[str, tuple[InboxState, int]]:
    """State and attempts of each message."""
    return {row.message.id: (row.state, row.attempts) for row in store.inbox.values()}


def message(id: str, chat: str = "c") -> Inbound:
    return Inbound(id=id, chat=chat, sender="u", text=id)


async def test_a_message_that_is_asked_about_at_once_is_stored_as_begun() -> None:
    go = asyncio.Event()

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        await go.wait()
        return []

    store = Counted()
    table = Table(store=store, agent=agent)
    await table.hear("1", chat="a")
    await table.hear("2", chat="a")
    assert told(store) == {"1": (InboxState.HANDLING, 1), "2": (InboxState.RECEIVED, 0)}
    go.set()
    await table.quiet()
    assert store.begun == [2]  # it had to wait for its chat
    await table.close()


async def test_of_one_burst_the_first_of_each_chat_is_begun() -> None:
    table = Table(slots=asyncio.Semaphore(2))
    burst = [message("a1", "a"), message("a2", "a"), message("b1", "b"), message("c1", "c")]
    # Of the first ones, as many as there are places.
    assert await table.lanes.expect(burst) == {"a1", "b1"}
    assert table.slots.locked()
    # While they are being stored, others of these chats come behind them.
    assert await table.lanes.expect([message("c2", "c")]) == set()
    await table.lanes.settle(burst, {"a1", "b1"}, [])
    assert not table.slots.locked()
    await table.lanes.settle([message("c2", "c")], (), [])
    assert await table.lanes.expect([message("c3", "c")]) == {"c3"}
    await table.lanes.settle([message("c3", "c")], {"c3"}, [])
    await table.close()


async def test_nothing_is_begun_while_all_places_are_taken() -> None:
    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        await asyncio.sleep(5)
        return []

    table = Table(agent=agent, slots=asyncio.Semaphore(1))
    await table.hear("1", chat="a")
    await asyncio.sleep(1)
    assert await table.lanes.expect([message("2", "b")]) == set()
    await table.lanes.settle([message("2", "b")], (), [])
    await table.quiet()
    assert await table.lanes.expect([message("3", "b")]) == {"3"}
    await table.lanes.settle([message("3", "b")], {"3"}, [])
    await table.close()


async def test_a_place_is_kept_for_what_is_begun_while_it_is_stored() -> None:
    asked: list[str] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        asked.append(message.id)
        if message.id == "a1" and turn.attempt == 1:
            raise RuntimeError("not yet")
        await asyncio.sleep(100)
        return []

    table = Table(agent=agent, slots=asyncio.Semaphore(1))
    await table.hear("a1", chat="a")
    await asyncio.sleep(0.5)
    said = [message("b1", "b")]
    begun = await table.lanes.expect(said)
    await asyncio.sleep(2)  # a slow commit; meanwhile the second attempt of a1 is due
    rows = await table.store.receive("bot", said, None, begun=begun)
    table.lanes.put(rows)
    await table.lanes.settle(said, begun, rows)
    await asyncio.sleep(2)
    assert asked == ["a1", "b1"]
    # What has not been asked about has no attempt on record.
    assert told(table.store) == {"a1": (InboxState.RECEIVED, 1), "b1": (InboxState.HANDLING, 1)}
    await table.close()
    assert told(table.store) == {"a1": (InboxState.RECEIVED, 1), "b1": (InboxState.RECEIVED, 0)}
    assert not table.slots.locked()


async def test_what_is_known_already_is_not_tried() -> None:
    table = Table(slots=asyncio.Semaphore(1))
    table.sender.connected(True)
    for _ in range(3):
        await table.hear("1")  # known from the second time on
    await table.quiet()
    await table.hear("2", chat="d")
    await table.quiet()
    assert table.mouth.texts() == ["hi", "hi"]
    assert not table.slots.locked()
    await table.close()


async def test_one_id_is_begun_once_whatever_chats_it_comes_from() -> None:
    table = Table(slots=asyncio.Semaphore(2))
    twins = [message("1", "a"), message("1", "b")]
    assert await table.lanes.expect(twins) == {"1"}
    await table.lanes.settle(twins, {"1"}, [])
    assert await table.lanes.expect([message("2", "a"), message("3", "b")]) == {"2", "3"}
    await table.lanes.settle([message("2", "a"), message("3", "b")], {"2", "3"}, [])
    await table.close()


async def test_what_a_stop_overtakes_while_it_is_stored_was_not_tried() -> None:
    table = Table(slots=asyncio.Semaphore(1))
    said = [message("1")]
    begun = await table.lanes.expect(said)
    rows = await table.store.receive("bot", said, None, begun=begun)
    await table.lanes.stop(1.0)
    table.lanes.put(rows)
    await table.lanes.settle(said, begun, rows)
    assert told(table.store) == {"1": (InboxState.RECEIVED, 0)}
    assert not table.slots.locked()
    await table.close()


async def test_what_a_stop_overtakes_on_its_way_to_the_agent_was_not_tried() -> None:
    table = Table(slots=asyncio.Semaphore(1))
    await table.hear("1")
    assert table.lanes.depth == 1  # its lane has not run yet
    await table.lanes.stop(1.0)
    assert told(table.store) == {"1": (InboxState.RECEIVED, 0)}
    assert (table.mouth.tries, table.lanes.depth) == ([], 0)
    assert not table.slots.locked()
    await table.close()


async def test_where_one_attempt_is_all_it_is_begun_only_when_the_agent_is_there() -> None:
    store = Counted()
    table = Table(store=store, limits=Limits(attempts=1))
    table.sender.connected(True)
    await table.hear("1")
    assert told(store) == {"1": (InboxState.RECEIVED, 0)}
    await table.quiet()
    assert store.begun == [1]
    await table.close()


async def test_a_stop_uncounts_only_the_attempt_that_it_ends() -> None:
    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        await asyncio.Event().wait()
        return []

    first = Table(agent=agent, slots=asyncio.Semaphore(1))
    await first.hear("runs", chat="a")
    rows = await first.store.receive("bot", [message("died", "b")], None, begun={"died"})
    first.lanes.put([replace(row) for row in rows])  # as found after a crash
    await asyncio.sleep(1)
    await first.close()
    assert told(first.store) == {
        "runs": (InboxState.RECEIVED, 0),
        "died": (InboxState.HANDLING, 1),
    }


@pytest.mark.parametrize(("deaths", "most_at_once"), [(1, 4), (2, 1)])
async def test_attempts_after_deaths_begin_one_by_one(deaths: int, most_at_once: int) -> None:
    running = most = 0
    begun: list[float] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        nonlocal running, most
        assert turn.attempt == deaths + 1
        begun.append(asyncio.get_running_loop().time())
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return [Reply(text=message.id)]

    table = Table(agent=agent)
    said = [message(str(n), chat=str(n)) for n in range(4)]
    for row in await table.store.receive("bot", said, None, begun={m.id for m in said}):
        for _ in range(deaths - 1):
            await table.store.begin(row.row)
    table.sender.connected(True)
    await table.recover()
    await table.quiet()
    assert (most, sorted(table.mouth.texts())) == (most_at_once, ["0", "1", "2", "3"])
    assert min(b - a for a, b in pairwise(begun)) >= HEAD_START
    await table.close()


class Half:
    """Neither a message nor an error that can be told."""

    def __str__(self) -> str:
        raise ValueError(self)


UNUSABLE: list[tuple[Any, str]] = [
    ([Reply(text="half an emoji \ud83d")], "'\\ud83d'"),
    ([Reply(text=42)], "Expected `str`, got `int` - at `$[0].text`"),  # type: ignore[arg-type]
    ([Reply(text=None)], "Expected `str`, got `None`"),  # type: ignore[arg-type]
    ([Reply(attachments=None)], "Expected `array`, got `None`"),  # type: ignore[arg-type]
    ([Reply(attachments=("a.png",))], "at `$[0].attachments[0]`"),  # type: ignore[arg-type]
    ([Reply(text="x"), "y"], "Expected `object`, got `str` - at `$[1]`"),
    ([Reply(text=Half())], "Half is unsupported"),  # type: ignore[arg-type]
    (None, "Expected `array`, got `None`"),
    (ValueError("can not handle \ud83d"), "ValueError: can not handle \N{REPLACEMENT CHARACTER}"),
    (ValueError(Half()), "ValueError"),
]


@pytest.mark.parametrize(("answer", "reason"), UNUSABLE, ids=map(str, range(len(UNUSABLE))))
async def test_an_answer_that_nobody_can_keep_is_a_failed_attempt(
    answer: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Workers of a test run can not tell of half a character.
    caplog.set_level(logging.CRITICAL, "holdfast.lanes")
    asked: list[tuple[str, int]] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        asked.append((message.id, turn.attempt))
        if message.id != "1":
            return [Reply(text=message.id)]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    store = await SqliteStore.open(tmp_path / "j.db")
    table = Table(store=store, agent=agent)  # type: ignore[arg-type]
    table.sender.connected(True)
    table.lanes.put(await store.receive("bot", [message(id) for id in "123"], None))
    await table.quiet()
    assert asked == [("1", 1), ("1", 2), ("1", 3), ("2", 1), ("3", 1)]
    assert table.mouth.texts() == ["2", "3"]
    [dead] = await store.entries(Box.INBOX, states=["dead"])
    assert (dead.message, table.lanes.failed) == (message("1"), 1)
    assert reason in dead.reason
    await table.close()
    await store.close()


async def test_an_answer_is_taken_as_it_was_meant() -> None:
    picture = Attachment(kind="image", data=b"x")  # type: ignore[arg-type]

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        return [Reply(text="x", attachments=[picture])]  # type: ignore[arg-type]

    table = Table(agent=agent)
    await table.hear("1")
    await until(lambda: len(table.store.outbox) == 2)
    [_, row] = table.store.outbox.values()
    assert row.message.attachments == (Attachment(kind=MediaKind.IMAGE, data=b"x"),)
    await table.close()


@pytest.mark.parametrize("where", ["begin", "finish"])
async def test_a_defect_buries_its_own_message_and_the_lane_goes_on(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    real = getattr(table.store, where)

    async def defect(row: int, *more: Any) -> Any:
        if row == 1:
            raise RuntimeError("a defect")
        return await real(row, *more)

    monkeypatch.setattr(table.store, where, defect)
    table.sender.connected(True)
    table.lanes.put(await table.store.receive("bot", [message(id) for id in "123"], None))
    await table.quiet()
    assert table.mouth.texts() == ["2", "3"]
    [dead] = await table.store.entries(Box.INBOX, states=["dead"])
    assert dead.reason == "a defect: RuntimeError, see the log"
    assert "message set aside account=bot message=1" in caplog.text
    assert not table.slots.locked()
    # Retried by a person, it is a message like any other.
    monkeypatch.setattr(table.store, where, real)
    table.lanes.put([(await table.store.retry(Box.INBOX, dead.row)).received()])
    await table.quiet()
    assert table.mouth.texts() == ["2", "3", "1"]
    await table.close()


async def test_a_message_that_somebody_else_has_settled_is_let_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    table = Table(store=store)  # type: ignore[arg-type]
    rows = await store.receive("bot", [message(id) for id in "12"], None)
    await store.finish(rows[0].row, [])
    table.lanes.put(rows)
    table.sender.connected(True)
    await table.quiet()
    assert table.mouth.texts() == ["2"]
    assert table.lanes.failed == 0
    assert "message left as it is account=bot in-1" in caplog.text
    await table.close()
    await store.close()


async def test_a_failure_that_can_not_be_noted_is_no_reason_not_to_try_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        tries.append(turn.attempt)
        if turn.attempt == 1:
            table.store.fail = StoreError("store_full", "the disk is full")
            raise RuntimeError("not yet")
        return [Reply(text="at last")]

    table = Table(agent=agent)
    table.sender.connected(True)
    await table.hear("1")
    await until(lambda: "attempt left open account=bot" in caplog.text)
    table.store.fail = None
    await table.quiet()
    assert tries == [1, 2]
    assert table.mouth.texts() == ["at last"]
    await table.close()


async def test_a_death_after_a_failed_attempt_is_one_death_and_not_two() -> None:
    tries: list[int] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        tries.append(turn.attempt)
        if turn.attempt == 1:
            raise RuntimeError("not yet")
        if turn.attempt == 2:
            await asyncio.Event().wait()
        return [Reply(text="at last")]

    table = Table(agent=agent)
    await table.hear("1")
    await until(lambda: tries == [1, 2])
    [row] = table.store.inbox.values()
    assert (row.state, row.reason) == (InboxState.HANDLING, "RuntimeError: not yet")
    successor = Table(store=table.store, agent=agent)  # the process has died meanwhile
    successor.sender.connected(True)
    await successor.recover()
    await until(lambda: tries == [1, 2, 3])
    await until(lambda: successor.mouth.texts() == ["at last"])
    await table.close()
    await successor.close()


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_process_that_ends_while_a_failed_message_waits_did_not_die_of_it(
    stopped: bool,
) -> None:
    tries: list[int] = []

    async def agent(message: Inbound, turn: Turn) -> list[Reply]:
        tries.append(turn.attempt)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        return [Reply(text="at last")]

    table = Table(agent=agent)
    await table.hear("1")
    await until(lambda: tries == [1, 2])
    await asyncio.sleep(0.1)
    assert [(r.state, r.attempts) for r in table.store.inbox.values()] == [(InboxState.RECEIVED, 2)]
    if stopped:
        await table.lanes.stop(1.0)
    successor = Table(store=table.store, agent=agent)
    successor.sender.connected(True)
    await successor.recover()
    await successor.quiet()
    assert tries == [1, 2, 3]
    assert successor.mouth.texts() == ["at last"]
    await table.close()
    await successor.close()
