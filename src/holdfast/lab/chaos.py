"""`holdfast lab chaos` and `holdfast lab soak`: a nemesis over all platforms at once.

The same plan is played on simulated time, where eight hours take minutes, or on the real clock with
Holdfast as a process, whose use of memory, descriptors and threads is then watched for slopes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from holdfast.lab.cast import CAST
from holdfast.lab.chaos_plan import Act, Move, plan, shrink
from holdfast.lab.judge import Figures, judge, judge_ending
from holdfast.lab.profile import profile
from holdfast.lab.record import Ending
from holdfast.lab.scene import SWITCHES, Scene, Seat
from holdfast.lab.stage import Stage
from holdfast.lab.steps import connected
from holdfast.lab.subjects import Left, Running
from holdfast.lab.subjects.registry import HOLDFAST, subject
from holdfast.lab.terms import Clock, Expect, Play
from holdfast.testing import VirtualTimeLoop

LAWS: Final = Expect(recover=None, doubles=True)
"""No single limit fits what overlaps; the laws hold as everywhere. Networks end in the middle of a
send, and for longer than a platform recognises it."""

JUMPS: Final = 2**31
"""Jumps of simulated time: hours of ten accounts are many."""

WATCH: Final = 1.0
"""Seconds between two looks at the status: there is always something going on."""

CENSUS: Final = 10.0
"""Seconds between two looks at what a process has in use."""

PROGRESS: Final = 600.0
"""Simulated seconds between two lines of progress; real ones come each `CENSUS`."""

WARM_UP: Final = 0.2
"""Part of a soak that does not count for its slopes: caches fill, the journal finds its size."""


@dataclass(frozen=True, slots=True)
class Slope:
    """How much more an hour costs."""

    memory: float
    """Bytes an hour."""
    descriptors: float
    threads: float


@dataclass(slots=True)
class Run:
    """What a run showed."""

    seed: int
    seconds: float
    moves: Counter[str]
    figures: dict[str, Figures] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    slope: Slope | None = None
    took_s: float = 0.0

    def summary(self) -> dict[str, Any]:
        """For programs: one object."""
        totals = {
            name: sum(getattr(figure, name) for figure in self.figures.values())
            for name in ("said", "answered", "lost", "unreported", "out_of_order", "doubled")
        }
        return {
            "seed": self.seed,
            "hours": round(self.seconds / 3_600, 3),
            "moves": dict(self.moves),
            **totals,
            "ambiguous": sum(figure.ambiguous for figure in self.figures.values()),
            "gap": sum(figure.gap for figure in self.figures.values()),
            "lie_s": sum(figure.lie_s for figure in self.figures.values()),
            "slope": None if self.slope is None else asdict(self.slope),
            "problems": self.problems,
            "took_s": round(self.took_s, 1),
        }


def chaos(
    seed: int,
    moves: Sequence[Move],
    seconds: float,
    platforms: Collection[str],
    clock: Clock,
    tell: Callable[[str], None] = lambda line: None,
) -> Run:
    """Play a plan to its end and judge it."""
    began = time.monotonic()
    run = Run(seed, seconds, Counter(move.act.value for move in moves))
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as home:
        playing = _play(run, moves, seconds, platforms, clock, Path(home), tell)
        if clock is Clock.SIMULATED:
            with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(max_jumps=JUMPS)) as runner:
                runner.run(playing)
        else:
            asyncio.run(playing)
    run.took_s = time.monotonic() - began
    return run


async def _play(
    run: Run,
    moves: Sequence[Move],
    seconds: float,
    platforms: Collection[str],
    clock: Clock,
    home: Path,
    tell: Callable[[str], None],
) -> None:
    async with _stages(platforms) as stages:
        seats = {name: Seat(stage, profile(name)) for name, stage in stages.items()}
        chosen = subject(HOLDFAST, clock, run.seed)
        async with chosen.run(home, stages, policy={}, gateway={}) as running:
            scene = Scene(LAWS, seats, running, clock=clock, every=WATCH)
            before, began = running.census(), scene.now()
            tasks = [
                asyncio.create_task(scene.watch(), name="chaos watch"),
                asyncio.create_task(_count(run, running, clock), name="chaos census"),
                asyncio.create_task(_report(scene, seconds, tell), name="chaos report"),
            ]
            try:
                await connected().do(scene)
                await _moves(scene, moves, seconds)
                await scene.settle()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await scene.close(began)
            ending = Ending(
                stop_s=scene.stop_s,
                before=before,
                after=running.census(),
                accidents=running.accidents(),
            )
    for name, seat in seats.items():
        verdict = judge(seat.record, LAWS, seat.profile.silence)
        run.figures[name] = verdict.figures
        run.problems += [f"{name}: {problem}" for problem in verdict.problems]
    run.problems += judge_ending(ending)


async def _moves(scene: Scene, moves: Sequence[Move], seconds: float) -> None:
    began = scene.now()
    for move in moves:
        await asyncio.sleep(max(0.0, began + move.at - scene.now()))
        await _do(scene, move)
    await asyncio.sleep(max(0.0, began + seconds - scene.now()))


async def _do(scene: Scene, move: Move) -> None:
    seat = scene.seats[move.account]
    match move.act:
        case Act.SAY:
            seat.say(scene.wall(), move.what, "")
        case Act.NETWORK:
            seat.throw(SWITCHES[move.what])
            scene.strike(move.what, seat)
        case Act.PLATFORM:
            scene.strike(move.what, seat)
            await scene.play(Play[move.what], seat)
        case Act.HEAL:
            scene.heal(seat)
        case Act.KICK:
            try:
                await scene.running.order("kick", move.account)
            except OSError as error:  # hours must not end with one question that was not answered
                scene.object(f"kick: {type(error).__name__} {error}".strip(), seat)


@contextlib.asynccontextmanager
async def _stages(platforms: Collection[str]) -> AsyncIterator[Mapping[str, Stage]]:
    async with contextlib.AsyncExitStack() as stack:
        stages: dict[str, Stage] = {}
        for name in platforms:
            stages[name] = await stack.enter_async_context(CAST[name].stage(name))
            await CAST[name].meet(stages[name])
        yield stages


# -- slopes ---------------------------------------------------------------------------------------


async def _count(run: Run, running: Running, clock: Clock) -> None:
    """Watch what a process of its own has in use, for ever."""
    seen: list[tuple[float, Left]] = []
    loop = asyncio.get_running_loop()
    try:
        while clock is Clock.REAL:
            seen.append((loop.time(), running.census()))
            await asyncio.sleep(CENSUS)
        await asyncio.Event().wait()
    finally:
        settled = seen[int(len(seen) * WARM_UP) :]
        if len(settled) > 2:
            run.slope = Slope(
                memory=slope([(at, left.memory) for at, left in settled]),
                descriptors=slope([(at, left.descriptors) for at, left in settled]),
                threads=slope([(at, left.threads) for at, left in settled]),
            )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The growth per hour of values dated in seconds, by least squares."""
    mean_at = sum(at for at, _ in points) / len(points)
    mean = sum(value for _, value in points) / len(points)
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    rise = sum((at - mean_at) * (value - mean) for at, value in points)
    return 3_600 * rise / spread if spread else 0.0


async def _report(scene: Scene, seconds: float, tell: Callable[[str], None]) -> None:
    began = scene.now()
    while True:
        await asyncio.sleep(PROGRESS if scene.simulated else CENSUS)
        said = sum(len(seat.said) for seat in scene.seats.values())
        open_ = sum(seat.unaccounted() for seat in scene.seats.values())
        faults = sum(len(seat.record.faults) for seat in scene.seats.values())
        tell(
            f"{(scene.now() - began) / 3_600:.2f} of {seconds / 3_600:g} h: {said} messages, "
            f"{open_} under way, {faults} faults"
        )


# -- the commands ---------------------------------------------------------------------------------


def main(
    seconds: float,
    seed: int | None,
    platforms: Collection[str],
    clock: Clock,
    *,
    quiet: bool = False,
) -> int:
    """Run, and end with one line of JSON; 0 only if no law was broken.

    A failure on simulated time is played again with ever fewer moves; its shortest plan is told.
    """
    seed = time.time_ns() % 1_000_000 if seed is None else seed
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)

    def tell(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    names = [name for name in CAST if (name in platforms or not platforms) and _can(name, tell)]
    moves = plan(seed, seconds, [profile(name) for name in names])
    tell(f"seed {seed}: {len(moves)} moves on {len(names)} platforms")
    run = chaos(seed, moves, seconds, names, clock, tell)
    for problem in run.problems:
        print(problem, file=sys.stderr)
    if run.problems and clock is Clock.SIMULATED:
        for move in _shortest(run, moves, tell):
            print(f"  {move}", file=sys.stderr)
    print(json.dumps(run.summary()))
    return 1 if run.problems else 0


def _can(name: str, tell: Callable[[str], None]) -> bool:
    missing = CAST[name].missing()
    if missing is not None:
        tell(f"{name} is left out: {missing}")
    return missing is None


def _shortest(run: Run, moves: Sequence[Move], tell: Callable[[str], None]) -> list[Move]:
    """The shortest plan found that still breaks a law on the first account that broke one."""
    account = run.problems[0].partition(":")[0]
    mine = [move for move in moves if move.account == account]
    if not mine:
        return []

    def fails(some: Sequence[Move]) -> bool:
        tell(f"shrinking: {len(some)} moves of {account}")
        end = some[-1].at + 1.0
        return bool(chaos(run.seed, some, end, [account], Clock.SIMULATED).problems)

    if not fails(mine):
        tell(f"{account} alone does not fail: it takes the other accounts' moves as well")
        return list(moves)
    return shrink(mine, fails)
