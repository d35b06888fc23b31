"""More words for modes: what a platform refuses as too frequent, and when it may be asked again.

What was asked and refused, and when, is read from the platform's own log.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from holdfast.lab.injection import play
from holdfast.lab.mode import Step
from holdfast.lab.profile import ASKED, Throttle
from holdfast.lab.record import Late
from holdfast.lab.scene import FINE, Scene
from holdfast.lab.steps import MOMENT
from holdfast.lab.steps_connecting import ATTEMPT
from holdfast.lab.terms import Play

RUNGS: Final = 8
"""Refusals after which the sender's own ladder has reached its longest wait."""

RUNG: Final = 60.0
"""Seconds of that wait; jitter takes half of it at most."""


def throttle(what: Play) -> Step:
    """From now on the platform refuses all logins (`Play.THROTTLE`) or sends
    (`Play.SEND_THROTTLED`), and asks for as long a wait as it can."""

    async def do(scene: Scene) -> None:
        found = scene.seat.profile
        logins = what is Play.THROTTLE
        chosen = found.logins_throttled if logins else found.sends_throttled
        assert chosen is not None, "a platform plays what it does not decline"
        scene.notes["throttle"] = chosen
        scene.notes["facts"] = len(scene.seat.simulator.log)
        if logins:
            scene.strike("throttled logins")
        await play(scene.seat.simulator, chosen.inject)

    kind = "login" if what is Play.THROTTLE else "send"
    return Step(f"every {kind} is refused as too frequent", do, frozenset({what}))


def refused(times: int) -> Step:
    """Calls are refused so often, however long it takes; many times where the platform asks for
    no wait, or there would be nothing to see."""

    async def do(scene: Scene) -> None:
        chosen: Throttle = scene.notes["throttle"]
        enough = times if chosen.wait is not None else RUNGS
        limit = enough * (_wait(chosen) + _spare(scene))
        if not await scene.until(lambda: len(refusals(scene)) >= enough, limit):
            made = len(refusals(scene))
            scene.object(f"{made} calls were refused within {limit:g} s, not {enough}")

    words = f"{times} calls were refused" if times > 1 else "a call was refused"
    return Step(words, do, lasts=(times - 1) * ASKED)


def in_its_time() -> Step:
    """Nothing is refused any more: what was, succeeds when the wait asked for is over, and soon."""

    async def do(scene: Scene) -> None:
        limit = _wait(scene.notes["throttle"]) + _spare(scene)

        def done() -> bool:
            return not (scene.open_faults() or any(s.owed() for s in scene.seats.values()))

        if not await scene.until(done, limit):
            scene.object(Late(f"throttled for more than {limit:g} s"))

    return Step("it succeeds when the time has come", do)


def none_before_its_time() -> Step:
    """From each refusal on the platform was left alone for as long as it had asked for, see
    `Throttle`. Where it had asked for nothing, the waits grew."""

    async def do(scene: Scene) -> None:
        chosen: Throttle = scene.notes["throttle"]
        times = refusals(scene)
        if len(times) < 2:
            scene.object(f"{len(times)} calls were refused: nothing shows when the next one comes")
            return
        if chosen.wait is None:
            for number, (before, after) in enumerate(pairwise(times)):
                least = min(RUNG, 2.0**number) / 2
                if after - before < least - FINE:
                    scene.object(
                        f"refusal {number + 2} after {after - before:.1f} s, not {least:g}"
                    )
            return
        asked = _asked(scene, chosen)
        for since in times:
            until = since + chosen.wait - FINE
            if early := [at - since for at in asked if since + MOMENT < at < until]:
                told = f"{chosen.wait:g} s were asked for"
                scene.object(f"{len(early)} calls too early, after {early[0]:.1f} s: {told}")

    return Step("no call is made before its time", do)


def refusals(scene: Scene) -> list[float]:
    """When calls were refused as too frequent; those of one moment are one, and so are those of
    the platform's `Throttle.doubts`, of which the last counts."""
    chosen: Throttle = scene.notes["throttle"]
    found: list[float] = []
    for fact in _since(scene):
        if fact.what == "fault" and fact.detail["name"] == chosen.fault:
            if not found or fact.at - found[-1] > MOMENT:
                found.append(fact.at)
    doubted = [at for at in found if at <= found[0] + chosen.doubts]
    return [*doubted[-1:], *found[len(doubted) :]]


def _asked(scene: Scene, chosen: Throttle) -> list[float]:
    """When the platform was called, as far as the refusals forbade it."""
    if not chosen.granted:
        return list(scene.seat.simulator.calls)
    granted = [fact.at for fact in _since(scene) if fact.what == chosen.granted]
    return sorted([*refusals(scene), *granted])


def _since(scene: Scene) -> list[Any]:
    """The platform's facts since it began to refuse calls."""
    facts: list[Any] = scene.seat.simulator.log[scene.notes["facts"] :]
    return facts


def _wait(chosen: Throttle) -> float:
    return RUNG if chosen.wait is None else chosen.wait


def _spare(scene: Scene) -> float:
    """Seconds by which the next call may be later than it might be."""
    return scene.seat.profile.slow_cap + ATTEMPT
