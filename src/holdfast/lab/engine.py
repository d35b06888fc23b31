"""Plays modes: one mode, on one platform, with one subject, and a result that is data."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.lab.cast import CAST
from holdfast.lab.judge import Figures, judge, judge_ending, only_late
from holdfast.lab.mode import Mode
from holdfast.lab.profile import Profile, profile
from holdfast.lab.record import Ending, Moment, Record
from holdfast.lab.scene import Scene, Seat
from holdfast.lab.simulator import date_by_loop
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Subject
from holdfast.lab.terms import Ability, Clock
from holdfast.testing import run_virtual

if TYPE_CHECKING:
    from holdfast.lab.faults.tls import Authority

LIMIT: Final = 3_600.0
"""Real seconds after which a play that does not end is broken off."""


class Outcome(StrEnum):
    """What became of a cell of the score."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One mode, variant, platform and subject."""

    mode: str
    variant: str
    platform: str
    subject: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    """Why it failed, or why it does not apply."""
    late: bool = False
    """It failed only in that something came later than Holdfast promises."""
    figures: tuple[Figures, ...] = ()
    """Per account."""
    line: tuple[Moment, ...] = ()
    """The first account's time line, from 0 at the beginning of the play."""
    faults: tuple[tuple[str, float, float | None], ...] = ()
    """Name, beginning and healing of the first account's faults, on that line."""
    played_s: float = 0.0
    """Seconds on the clock of the play."""
    took_s: float = 0.0
    """Real seconds."""
    clock: str = Clock.SIMULATED
    run: int = 1
    """Which of several runs of the same play it was."""


def run(
    mode: Mode,
    variant: str,
    platform: str,
    subject: Subject,
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """Play it, on the subject's clock. Never raises for what the subject does."""
    found = profile(platform) if subject.hurried else profile(platform).unhurried()
    if (why := excuse(mode, variant, platform, subject)) is not None:
        return Result(
            mode=mode.id,
            variant=variant,
            platform=platform,
            subject=subject.name,
            outcome=Outcome.NOT_APPLICABLE,
            reasons=(why,),
            clock=subject.clock,
        )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-lab-") as home:
        playing = _play(mode, variant, found, subject, Path(home), tell)
        if subject.clock is Clock.SIMULATED:
            result = run_virtual(playing)
        else:
            result = asyncio.run(asyncio.wait_for(playing, LIMIT))
    return replace(result, took_s=round(time.monotonic() - began, 2))


def excuse(mode: Mode, variant: str, platform: str, subject: Subject) -> str | None:
    """Why a mode does not apply to a subject on a platform; None when it can be played."""
    never = mode.excuse(variant, profile(platform))
    return never or _unable(mode, variant, platform, subject)


def _unable(mode: Mode, variant: str, platform: str, subject: Subject) -> str | None:
    """Why a subject can not be put through a mode."""
    if subject.platforms is not None and platform not in subject.platforms:
        return f"{subject.name} does not speak {platform}"
    asked = [need for need in mode.needs(variant) if isinstance(need, Ability)]
    lacking = sorted(need.value for need in asked if need not in subject.abilities)
    if lacking:
        return f"{subject.name} can not {lacking[0]}"
    return CAST[platform].missing() or subject.missing()


async def _play(
    mode: Mode,
    variant: str,
    found: Profile,
    subject: Subject,
    home: Path,
    tell: Callable[[str], None],
) -> Result:
    if subject.clock is Clock.SIMULATED:
        date_by_loop()
    async with _stages(mode, variant, found.platform, subject) as stages:
        seats = {name: Seat(stage, found) for name, stage in stages.items()}
        policy, gateway = mode.policy, mode.gateway
        async with subject.run(home, stages, policy=policy, gateway=gateway) as running:
            scene = Scene(mode.expect, seats, running, clock=subject.clock, tell=tell)
            before, began = running.census(), scene.now()
            watcher = asyncio.create_task(scene.watch(), name="lab watch")
            try:
                await _steps(mode, variant, scene)
            finally:
                watcher.cancel()
                await asyncio.wait([watcher])
                await scene.close(began)
            ending = Ending(
                stop_s=scene.stop_s,
                before=before,
                after=running.census(),
                accidents=running.accidents(),
            )
    expect = found.expected(mode.expect)
    verdicts = [
        judge(seat.record, expect, expect.silence or found.silence, found.longest_wait)
        for seat in seats.values()
    ]
    problems = [problem for verdict in verdicts for problem in verdict.problems]
    problems += judge_ending(ending, subject.stop_limit)
    unplayed = [words for seat in seats.values() for words in seat.unplayed]
    figures = tuple(verdict.figures for verdict in verdicts)
    record = scene.seat.record
    return Result(
        mode=mode.id,
        variant=variant,
        platform=found.platform,
        subject=subject.name,
        outcome=_outcome(problems, unplayed, subject),
        reasons=tuple(map(str, [*problems, *unplayed])),  # plain ones: a result is data
        late=only_late([*problems, *unplayed], figures),
        figures=figures,
        line=tuple(replace(m, at=round(m.at - began, 3)) for m in record.moments),
        faults=tuple(_relative(record, began)),
        played_s=round(record.ended - began, 1),
        clock=subject.clock,
    )


def _outcome(problems: Sequence[str], unplayed: Sequence[str], subject: Subject) -> Outcome:
    """What came of a play. One whose fault was never played shows nothing: that is an error of the
    mode, which our own plays must tell, and no fault of a peer that never asked for it."""
    if problems or (unplayed and subject.hurried):
        return Outcome.FAIL
    return Outcome.NOT_APPLICABLE if unplayed else Outcome.PASS


async def _steps(mode: Mode, variant: str, scene: Scene) -> None:
    """All of them; one that can not be done ends the play, and is told."""
    for step in mode.variants[variant]:
        scene.tell(step.words)
        try:
            await step.do(scene)
        except Exception as error:  # whatever a subject's end does to a step
            scene.object(f"{step.words}: {type(error).__name__}: {error}")
            break
    await scene.settle()


def _relative(record: Record, began: float) -> list[tuple[str, float, float | None]]:
    return [
        (fault.name, fault.began - began, None if fault.healed is None else fault.healed - began)
        for fault in record.faults
    ]


@contextlib.asynccontextmanager
async def _stages(
    mode: Mode, variant: str, platform: str, subject: Subject
) -> AsyncIterator[Mapping[str, Stage]]:
    """The platform of each account, open, and told where its web hooks will be found."""
    names = [platform, *(f"{platform}-{n}" for n in range(2, mode.accounts + 1))]
    authority = _authority() if variant in mode.tls else None
    async with contextlib.AsyncExitStack() as stack:
        stages: dict[str, Stage] = {}
        for name in names:
            stage = CAST[platform].stage(name, hurried=subject.hurried)
            stage.settings = mode.account
            if Ability.RESOLVER in subject.abilities:  # to all others the name says nothing
                stage.host = mode.host
            if authority is not None:
                stage.authority = authority
                stage.simulator.tls = authority.server_context(names=(mode.host,))
            if stages:
                profile(platform).rename(stage.simulator, len(stages) + 1)
            stages[name] = await stack.enter_async_context(stage)
            await CAST[platform].meet(stages[name])
        yield stages


def _authority() -> Authority:
    """Who signs the certificates of one play. Its library is needed for nothing else here."""
    from holdfast.lab.faults.tls import Authority

    return Authority()
