"""F. Nothing lost, nothing doubled: the words of these modes object when they must."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.lab.checker import Answer, Question, Row
from holdfast.lab.mode import Step
from holdfast.lab.modes import messages
from holdfast.lab.record import Record
from holdfast.lab.steps_delivery import (
    asked_once,
    buried,
    passed_over,
    told_in_parts,
    told_once,
)
from holdfast.store.protocol import Box


def test_every_mode_of_the_paper_is_here() -> None:
    """`failure-modes.md`, group F."""
    assert [mode.id for mode in messages.MODES] == [
        "reconnect-gap-loss",
        "first-after-idle-fails",
        "backlog-dropped-at-start",
        "stale-backlog-replied",
        "ack-before-durable",
        "redelivery-duplicate",
        "retry-envelope-dropped",
        "history-replayed-at-start",
        "poison-message-loop",
        "duplicate-handlers",
        "callback-kills-listener",
        "out-of-order",
        "outbound-dropped-while-down",
        "outbound-ambiguous",
        "reply-lost-on-crash",
    ]


# -- the checks object when they must --------------------------------------------------------------


def scene_of(*heard: str, said: Sequence[Question] = (), idempotent: bool = True) -> Any:
    """What is left of a play in which this was said and heard."""
    texts = [SimpleNamespace(text=text, edit_of=None) for text in heard]
    record = Record("bot")
    seat = SimpleNamespace(
        record=record,
        simulator=SimpleNamespace(heard=texts),
        profile=SimpleNamespace(idempotent=idempotent),
        heard=[Answer(token=text.split()[-1], chat="ann") for text in heard],
        said=[*said],
        waiting={(asked.chat, asked.token) for asked in said},
    )
    scene = SimpleNamespace(seat=seat, seats={"bot": seat}, notes={}, epilogue=[])
    scene.object = lambda what, seat=None: record.broken.append(what)
    return scene


async def objections(scene: Any, step: Step, rows: Sequence[Row] = ()) -> list[str]:
    """What a step objects to, at once or when all is over."""
    await step.do(scene)
    for check in scene.epilogue:
        check(rows)
    return list(scene.seat.record.broken)


@pytest.mark.parametrize(
    ("heard", "good"),
    [
        (["part 1 of it", "part 2 of it", "part 3 of q t-1"], True),
        (["part 2 of it", "part 1 of it", "part 3 of q t-1"], False),
        (["part 1 of it", "part 1 of it", "part 2 of it", "part 3 of q t-1"], False),
        (["part 1 of it", "part 3 of q t-1"], False),
    ],
)
async def test_parts_come_in_order_and_once(heard: list[str], good: bool) -> None:
    assert (await objections(scene_of(*heard), told_in_parts()) == []) == good


@pytest.mark.parametrize("heard", [["attempt 2: #attempt number t-1"], []])
async def test_a_second_question_to_the_agent_is_seen(heard: list[str]) -> None:
    assert await objections(scene_of(*heard), asked_once())
    assert not await objections(scene_of("attempt 1: #attempt number t-1"), asked_once())


async def test_a_double_is_excused_only_where_the_platform_can_not_tell() -> None:
    twice = ("echo: number t-1", "echo: number t-1")
    assert await objections(scene_of(*twice), told_once()) == ["told twice: t-1"]
    assert await objections(scene_of(*twice, idempotent=False), told_once()) == []


def row(state: str, token: str = "t-1") -> Row:
    """A row of the inbox."""
    return Row(box=Box.INBOX, row=1, token=token, state=state)


@pytest.mark.parametrize(
    ("state", "waits", "good"),
    [("dropped", True, True), ("done", True, False), ("dropped", False, False)],
)
async def test_what_is_passed_over_is_listed_and_not_answered(
    state: str, waits: bool, good: bool
) -> None:
    said = [
        Question(token="t-1", chat="ann", at=100.0),
        Question(token="t-2", chat="ann", at=900.0),
    ]
    scene = scene_of(said=said)
    scene.notes = {"back": 1_000.0, "waited": {("ann", "t-1"), ("ann", "t-2")}}
    if not waits:
        scene.seat.waiting.remove(("ann", "t-1"))
    assert (await objections(scene, passed_over(600.0), [row(state)]) == []) == good
    assert [asked.token for asked in scene.seat.said] == ["t-2"]


@pytest.mark.parametrize(("state", "good"), [("dead", True), ("done", False)])
async def test_dead_letters_are_counted(state: str, good: bool) -> None:
    assert (await objections(scene_of(), buried(1), [row(state)]) == []) == good
