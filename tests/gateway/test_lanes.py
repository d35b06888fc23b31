"""From the inbox to the outbox: order, isolation, and what a stop leaves."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict

import pytest

from holdfast.agents import Turn
from holdfast.errors import StoreError
from holdfast.gateway.lanes import Limits, compose
from holdfast.messages import Attachment, Inbound, MediaKind, Reply
from holdfast.store.protocol import Box, InboxState
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
