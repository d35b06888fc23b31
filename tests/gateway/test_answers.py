"""What agents answer, how they fail, and what a defect may cost: one message."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from holdfast.agents import Turn
from holdfast.errors import StoreError
from holdfast.messages import Attachment, Inbound, MediaKind, Reply
from holdfast.store.protocol import Box
from holdfast.store.sqlite import SqliteStore
from tests.gateway.desk import Table, message
from tests.gateway.tools import until


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
