"""More words for modes: a second owner, what a crash leaves on the disk, and what runs out."""

from __future__ import annotations

import asyncio
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from holdfast.lab.faults.slow_disk import SlowDisk
from holdfast.lab.mode import Step
from holdfast.lab.scene import Scene
from holdfast.lab.subjects import Left
from holdfast.lab.terms import Ability

NAMED: Final = re.compile(r"\b(?:pid|process) \d+")
"""How a holder is named."""


def second(*, shared: bool) -> Step:
    """A second bot of the same accounts is started on the same machine, and gives up at once; it
    says which process has them."""

    async def do(scene: Scene) -> None:
        told = await scene.running.second(shared=shared)
        if told is None:
            scene.object("a second one ran beside the first")
        elif not told.status or not NAMED.search(told.text):
            scene.object(f"the second one ended with {told.status} and said {told.text!r}")

    where = "the same state directory" if shared else "another state directory"
    return Step(f"a second one, on {where}, gives up", do, frozenset({Ability.TWICE}))


def torn() -> Step:
    """What was written last is torn: half a page of garbage ends the journal's log (T14). For a
    subject that is dead."""

    async def do(scene: Scene) -> None:
        scene.running.tear()

    return Step("half a page ends the journal", do, frozenset({Ability.KILL, Ability.JOURNAL}))


def exhausted() -> Step:
    """The bot has as many descriptors as it may have (T8), until the next healing."""

    async def do(scene: Scene) -> None:
        scene.running.exhaust(True)
        scene.mends.append(partial(scene.running.exhaust, False))

    return Step("no descriptor is left", do, frozenset({Ability.LIMITS}))


def disk(*, full: bool) -> Step:
    """No file of the bot may grow from now on (T9), until the next healing or until all may."""

    async def do(scene: Scene) -> None:
        scene.running.fill_disk(full)
        if full:
            scene.mends.append(partial(scene.running.fill_disk, False))

    what = "the disk is full" if full else "the disk has room again"
    return Step(what, do, frozenset({Ability.DISK}))


def slow_disk() -> Step:
    """The disk of the bot, which is not started yet, can be made to stick: see `stuck`."""

    async def do(scene: Scene) -> None:
        home = scene.aids.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-disk-"))
        scene.notes["disk"] = made = SlowDisk(Path(home))
        scene.aids.callback(made.ok)
        scene.running.environ(made.environ)

    needs = frozenset({Ability.KILL, Ability.JOURNAL})
    return Step("its disk is one that may become slow", do, needs)


def stuck(seconds: float) -> Step:
    """An fsync takes so long. Whatever is said meanwhile can not be made durable, and waits."""

    async def do(scene: Scene) -> None:
        made: SlowDisk = scene.notes["disk"]
        made.stick()
        scene.seat.say(scene.wall(), "ann", "")
        await asyncio.sleep(seconds)
        made.ok()

    needs = frozenset({Ability.KILL, Ability.JOURNAL})
    return Step(f"an fsync takes {seconds:g} s", do, needs, seconds)


def first_life() -> Step:
    """Neither has it ended nor has anybody ended it: it is the process that was started first."""

    async def do(scene: Scene) -> None:
        lives = scene.running.log().count("--- ")
        if lives != 1 or scene.running.census() == Left():
            scene.object(f"a healthy process was ended: {lives} lives")

    return Step("it was not ended", do, frozenset({Ability.KILL, Ability.LOG}))
