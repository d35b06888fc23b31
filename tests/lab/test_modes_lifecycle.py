"""G. Lives and their ends: the words of these modes object when they must."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.lab.census import first_free
from holdfast.lab.mode import Step
from holdfast.lab.modes import lifecycle
from holdfast.lab.record import Moment, Record
from holdfast.lab.steps_delivery import counted, flat, never
from holdfast.lab.subjects import Left


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
    ("now", "simulated", "good"),
    [
        (Left(tasks=12, threads=3, sockets=6, descriptors=32, memory=1_000), True, True),
        (Left(tasks=13, threads=3, sockets=6, descriptors=32, memory=1_000), True, False),
        (Left(tasks=10, threads=3, sockets=9, descriptors=30, memory=1_000), True, False),
        (Left(tasks=10, threads=3, sockets=6, descriptors=33, memory=1_000), True, False),
        (Left(tasks=10, threads=6, sockets=6, descriptors=30, memory=1_000), True, False),
        (Left(tasks=10, threads=3, sockets=6, descriptors=30, memory=1_051), True, True),
        (Left(tasks=10, threads=3, sockets=6, descriptors=30, memory=1_051), False, False),
    ],
)
async def test_what_grows_is_seen(now: Left, simulated: bool, good: bool) -> None:
    lefts = iter([Left(tasks=10, threads=3, sockets=6, descriptors=30, memory=1_000), now])
    running = SimpleNamespace(census=lambda: next(lefts))
    seat = SimpleNamespace(record=Record("bot"))
    scene = SimpleNamespace(seat=seat, running=running, notes={}, simulated=simulated)
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
