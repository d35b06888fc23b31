"""The words about rate limits object when they must: what was called is read from the platform."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.gateway.sender import Sender
from holdfast.lab.cast import CAST
from holdfast.lab.engine import run
from holdfast.lab.mode import Step
from holdfast.lab.modes import MODES
from holdfast.lab.profile import ASKED, Profile, Throttle, profile
from holdfast.lab.record import Record
from holdfast.lab.simulator import Record as Fact
from holdfast.lab.steps_throttled import none_before_its_time, refusals
from holdfast.lab.subjects.inprocess import InProcess
from holdfast.lab.terms import Play
from holdfast.supervision import Cause
from holdfast.supervision.pace import Pace


def scene_of(throttle: Throttle, *, refused: list[float], **more: list[float]) -> Any:
    """What is left of a play in which a platform refused calls at these times.

    ``calls`` are all others, ``heard`` and ``probe`` facts of those that it granted.
    """
    calls = sorted([*refused, *more.pop("calls", [])])
    facts = [Fact(at, "fault", {"name": throttle.fault}) for at in refused]
    facts += [Fact(at, what) for what, times in more.items() for at in times]
    record = Record("bot")
    simulator = SimpleNamespace(log=sorted(facts, key=lambda fact: fact.at), calls=calls)
    seat = SimpleNamespace(record=record, simulator=simulator)
    scene = SimpleNamespace(seat=seat, notes={"throttle": throttle, "facts": 0})
    scene.object = record.broken.append
    return scene


async def objections(scene: Any, step: Step) -> list[str]:
    """What a step objects to."""
    await step.do(scene)
    return list(scene.seat.record.broken)


LOGIN = Throttle("any", "429", wait=100.0)
SEND = Throttle("any", "429", wait=100.0, granted="heard")
UNTOLD = Throttle("any", "429", wait=None, granted="heard")
DOUBTFUL = Throttle("any", "429", wait=100.0, doubts=60.0)


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (scene_of(LOGIN, refused=[0.0, 100.0], calls=[200.0]), []),
        (
            scene_of(LOGIN, refused=[0.0, 60.0, 160.0]),
            ["1 calls too early, after 60.0 s: 100 s were asked for"],
        ),
        (
            scene_of(LOGIN, refused=[0.0, 100.0], calls=[130.0, 140.0]),
            ["2 calls too early, after 30.0 s: 100 s were asked for"],
        ),
        (scene_of(SEND, refused=[0.0, 100.0], calls=[130.0], heard=[200.0]), []),
        (
            scene_of(SEND, refused=[0.0, 100.0], heard=[150.0]),
            ["1 calls too early, after 50.0 s: 100 s were asked for"],
        ),
        (scene_of(UNTOLD, refused=[0.0, 0.6, 1.7, 4.0]), []),
        (scene_of(UNTOLD, refused=[0.0, 0.6, 1.7, 3.0]), ["refusal 4 after 1.3 s, not 2"]),
        (scene_of(DOUBTFUL, refused=[0.0, 11.0, 29.0, 129.0]), []),
        (
            scene_of(DOUBTFUL, refused=[0.0, 29.0, 70.0, 170.0]),
            ["1 calls too early, after 41.0 s: 100 s were asked for"],
        ),
        (
            scene_of(LOGIN, refused=[0.0]),
            ["1 calls were refused: nothing shows when the next one comes"],
        ),
    ],
)
async def test_calls_before_their_time_are_found(scene: Any, said: list[str]) -> None:
    assert await objections(scene, none_before_its_time()) == said


def test_refusals_of_one_moment_are_one() -> None:
    assert refusals(scene_of(LOGIN, refused=[5.0, 5.2, 105.0])) == [5.0, 105.0]
    assert refusals(scene_of(DOUBTFUL, refused=[5.0, 40.0, 105.0])) == [40.0, 105.0]
    assert refusals(scene_of(LOGIN, refused=[])) == []


def test_who_can_be_throttled_says_how_and_nobody_else() -> None:
    lacks = dict.fromkeys(Play, "no")
    with pytest.raises(ValueError, match="x must say how it throttles: THROTTLE"):
        Profile(platform="x", plays={}, lacks=lacks, logins_throttled=LOGIN)
    del lacks[Play.SEND_THROTTLED]
    with pytest.raises(ValueError, match="x must say how it throttles: SEND_THROTTLED"):
        Profile(platform="x", plays={Play.SEND_THROTTLED: "429"}, lacks=lacks)


def test_whoever_can_say_it_asks_for_the_whole_wait() -> None:
    logins = {name: profile(name).logins_throttled for name in CAST}
    sends = {name: profile(name).sends_throttled for name in CAST}
    assert {name for name, one in logins.items() if one and one.wait != ASKED} == {"qqbot"}
    untold = {name for name, one in sends.items() if one and one.wait != ASKED}
    assert untold == {"qqbot", "whatsapp"}


# -- planted ---------------------------------------------------------------------------------------


def reasons(variant: str, platform: str = "telegram") -> tuple[str, ...]:
    """Why a play of the mode fails."""
    return run(MODES["retry-after-ignored"], variant, platform, InProcess(1)).reasons


def clamped(of: Callable[..., float]) -> Callable[..., float]:
    """Nobody waits longer than a minute."""
    return lambda *args: min(60.0, of(*args))


def test_a_sender_that_clamps_what_is_asked_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sender, "_delay", clamped(Sender._delay))
    assert any(one.endswith("s: 6775 s were asked for") for one in reasons("at a send"))


def test_a_sender_that_heeds_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def heedless(self: Sender, cause: Cause, failures: int) -> float:
        return min(60.0, 2.0**failures)

    monkeypatch.setattr(Sender, "_delay", heedless)
    assert any(one.endswith("s: 6775 s were asked for") for one in reasons("at a send"))


def test_a_login_that_clamps_what_is_asked_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Pace.server_wait

    def clamp(self: Pace, now: float, seconds: float) -> None:
        asked(self, now, min(60.0, seconds))

    monkeypatch.setattr(Pace, "server_wait", clamp)
    assert any(one.endswith("s: 6775 s were asked for") for one in reasons("at login"))
