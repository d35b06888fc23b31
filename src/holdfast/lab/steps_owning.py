"""More words for modes: a second owner, what a crash leaves on the disk, and what runs out."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from holdfast.lab.mode import Step
from holdfast.lab.scene import Scene
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
