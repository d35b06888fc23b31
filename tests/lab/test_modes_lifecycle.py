"""G. Lives and their ends: the words of these modes object when they must."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from holdfast.gateway import account
from holdfast.gateway.connection import Connection
from holdfast.lab.census import first_free
from holdfast.lab.engine import run
from holdfast.lab.fault import Fault
from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.modes import lifecycle
from holdfast.lab.modes.lifecycle import LIVELY
from holdfast.lab.record import Moment, Record
from holdfast.lab.steps import connected
from holdfast.lab.steps_delivery import counted, cut_off, flat, never, renewed
from holdfast.lab.subjects import Left
from holdfast.lab.subjects.inprocess import InProcess


def test_every_mode_of_the_paper_is_here() -> None:
    """`failure-modes.md`, group G."""
    assert [mode.id for mode in lifecycle.MODES] == [
        "sleep-blocks-shutdown",
        "stop-does-not-stop",
        "leak-per-reconnect",
        "exit-leaks-server-session",
        "restart-hurts-work",
    ]


# -- the checks object when they must --------------------------------------------------------------


async def objections(scene: Any, *steps: Step) -> list[str]:
    """What steps object to, one after the other."""
    record = scene.seat.record
    scene.object = lambda what, seat=None: record.broken.append(what)
    for step in steps:
        await step.do(scene)
    return list(record.broken)


@pytest.mark.parametrize(
    ("now", "good"),
    [
        (Left(tasks=12, threads=3, sockets=6, descriptors=32, memory=1_000), True),
        (Left(tasks=13, threads=3, sockets=6, descriptors=32, memory=1_000), False),
        (Left(tasks=10, threads=3, sockets=9, descriptors=30, memory=1_000), False),
        (Left(tasks=10, threads=3, sockets=6, descriptors=33, memory=1_000), False),
        (Left(tasks=10, threads=6, sockets=6, descriptors=30, memory=1_000), False),
        (Left(tasks=10, threads=3, sockets=6, descriptors=30, memory=1_050), True),
        (Left(tasks=10, threads=3, sockets=6, descriptors=30, memory=1_051), False),
    ],
)
async def test_what_grows_is_seen(now: Left, good: bool) -> None:
    lefts = iter([Left(tasks=10, threads=3, sockets=6, descriptors=30, memory=1_000), now])
    running = SimpleNamespace(census=lambda: next(lefts))
    seat = SimpleNamespace(record=Record("bot"))
    scene = SimpleNamespace(seat=seat, running=running, notes={})
    assert (await objections(scene, counted(), flat()) == []) == good


def test_the_next_descriptor_of_another_process_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert first_free(child.pid) == 3  # after the three that every program has
        child.communicate(b"\n")


async def test_a_state_that_never_may_be_is_remembered() -> None:
    record = Record("bot", moments=[Moment(at=1.0, state="fatal", deaf=True)])
    record.moments.append(Moment(at=2.0, state="connected", deaf=False))
    seat = SimpleNamespace(record=record)
    scene = SimpleNamespace(seat=seat, seats={"bot": seat})
    assert await objections(scene, never("stopped")) == []
    assert await objections(scene, never("fatal")) == ["it was fatal"]


class Grasping(Connection):
    """Something of each connection is kept for good."""

    kept: ClassVar[list[bytearray]] = []

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.kept.append(bytearray(5_000_000))  # the limit is a share of this very process


def test_memory_that_is_kept_of_each_connection_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "Connection", Grasping)
    steps = (connected(), counted(), *lifecycle.RECONNECT * 20, flat())
    mode = Mode(id="x", group=Group.LIFECYCLE, what="x", variants={"x": steps}, policy=LIVELY)
    (reason,) = run(mode, "x", "qqbot", InProcess(1)).reasons
    Grasping.kept.clear()
    assert reason.startswith("memory grew from ")


@pytest.mark.parametrize(
    ("called", "told", "counts", "said"),
    [
        (False, (1, 2), (4, 5), []),
        (False, (1, 1), (4, 5), ["no other connection within 7 s"]),
        (False, (1, 2), (4, 4), ["no other connection within 7 s"]),
        (False, (None, None), (4, 5), []),
        (True, (1, 1), (4, 5), []),
        (True, (1, 1), (4, 4), ["no other connection within 7 s"]),
    ],
)
async def test_a_reconnect_that_never_was_is_found(
    called: bool, told: tuple[int, int], counts: tuple[int, int], said: list[str]
) -> None:
    links = iter([*counts, counts[1]])
    record = Record("bot", moments=[Moment(at=1.0, state="connected", deaf=False)])
    profile = SimpleNamespace(returns=0.0, first_wait=1.0, links=lambda _: next(links))
    stage = SimpleNamespace(called=called)
    seat: Any = SimpleNamespace(record=record, profile=profile, stage=stage, simulator=None)
    seat.throw = lambda switch: None
    scene: Any = SimpleNamespace(seat=seat, notes={}, running=SimpleNamespace(publishes=True))

    def generation(number: int | None) -> None:
        record.moments[-1] = Moment(at=1.0, state="connected", deaf=False, generation=number)

    async def until(condition: Callable[[], bool], within: float) -> bool:
        return condition()

    scene.look, scene.until = lambda: None, until
    scene.strike = lambda name: Fault(name, 1.0, noticed=1.0)
    generation(told[0])
    assert await objections(scene, cut_off()) == []
    generation(told[1])
    assert await objections(scene, renewed()) == said
