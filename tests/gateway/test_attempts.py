"""Attempts of a message: when they are counted, and what takes one back."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from msgspec.structs import replace

from holdfast.agents import Turn
from holdfast.gateway.lanes import Limits
from holdfast.gateway.suspects import HEAD_START
from holdfast.messages import Inbound, Reply
from holdfast.store.protocol import InboxState
from holdfast.testing import MemoryStore
from tests.gateway.desk import Table, message
from tests.gateway.tools import until


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
