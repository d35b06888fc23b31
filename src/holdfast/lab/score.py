"""`holdfast lab score`: every mode on every platform, side by side, and what came of it.

Simulated plays need the processor and run one to a core; plays on the real clock mostly wait, and
many of them run at once, each in a process of its own so that none can disturb another.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Final

from holdfast.lab.cast import CAST
from holdfast.lab.engine import Outcome, Result, run
from holdfast.lab.modes import MODES
from holdfast.lab.subjects import Subject
from holdfast.lab.subjects.registry import HOLDFAST
from holdfast.lab.subjects.registry import subject as subject_of
from holdfast.lab.terms import Clock

AT_ONCE: Final = 3
"""Plays on the real clock at the same time for each core."""

PEER_RUNS: Final = 3
"""How often a peer plays everything: on the real clock nothing repeats itself exactly."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One play that is asked for."""

    mode: str
    variant: str
    platform: str
    subject: str
    run: int = 1
    """Which of several it is. Simulated plays draw their jitter by it."""


def cells(
    subjects: Collection[str],
    modes: Collection[str] = (),
    platforms: Collection[str] = (),
    *,
    quick: bool = False,
    runs: int | None = None,
) -> Iterator[Cell]:
    """All plays of some modes on some platforms; none named means all that a subject speaks.

    ``runs``: how often each is played; None: Holdfast once, and a peer `PEER_RUNS` times.
    """
    for mode in MODES.values():
        if (modes and mode.id not in modes) or (quick and not mode.quick):
            continue
        for variant in mode.variants:
            if quick and variant in mode.slow | mode.real:
                continue
            for name in subjects:
                one = subject_of(name, mode.clock_of(variant))
                times = runs or (1 if name == HOLDFAST else PEER_RUNS)
                for platform in platforms or (p for p in CAST if p in (one.platforms or CAST)):
                    if quick and platform not in (mode.quick_on or CAST):
                        continue
                    for number in range(times):
                        yield Cell(mode.id, variant, platform, name, number + 1)


def play(cell: Cell) -> Result:
    """Play one, in this process."""
    result = run(MODES[cell.mode], cell.variant, cell.platform, subject_of_cell(cell))
    return replace(result, run=cell.run)


def subject_of_cell(cell: Cell) -> Subject:
    """Whom a cell is played with."""
    return subject_of(cell.subject, MODES[cell.mode].clock_of(cell.variant), cell.run)


def _quiet() -> None:
    """What a subject says in the lab's own process would drown what the lab says."""
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)


def _behind() -> None:
    """A simulated play can wait for the processor; one on the real clock is judged by it."""
    _quiet()
    os.nice(19)


def score(
    wanted: Sequence[Cell],
    told: Callable[[Result], None] = lambda result: None,
    *,
    at_once: int = AT_ONCE,
) -> list[Result]:
    """Play them all; ``told`` of each as it comes in. In the order in which they were wanted.

    ``at_once``: plays on the real clock at the same time for each core.
    """
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    results: dict[Cell, Result] = {}
    with (
        ProcessPoolExecutor(cores, context, _behind) as busy,
        ProcessPoolExecutor(cores * at_once, context, _quiet) as waiting,
    ):
        futures: dict[Future[Result], Cell] = {}
        for cell in wanted:
            pool = busy if subject_of_cell(cell).clock is Clock.SIMULATED else waiting
            futures[pool.submit(play, cell)] = cell
        for future in as_completed(futures):
            result = results[futures[future]] = future.result()
            told(result)
    return [results[cell] for cell in wanted]


def worst(results: Collection[Result]) -> Outcome:
    """One outcome for several variants: a failure of any, else a pass of any."""
    outcomes = {result.outcome for result in results}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if Outcome.PASS in outcomes else Outcome.NOT_APPLICABLE


def late_only(results: Collection[Result]) -> bool:
    """Whether all that failed did so only by coming later than Holdfast promises."""
    failed = [result for result in results if result.outcome is Outcome.FAIL]
    return bool(failed) and all(result.late for result in failed)
