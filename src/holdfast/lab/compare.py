"""`holdfast lab compare`: other programs and Holdfast under the same faults, in one run.

All of them run as processes on the real clock, Holdfast too. Each failure mode is played with the
first of its variants that can happen to a program on a platform; Holdfast is played in each run
wherever anybody else is. What has been played is kept: a run that was broken off goes on where it
ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from holdfast.lab.engine import Result, excuse
from holdfast.lab.modes import MODES
from holdfast.lab.score import PEER_RUNS, Cell, score, subject_of_cell
from holdfast.lab.score import cells as all_cells
from holdfast.lab.subjects.registry import PROCESS, SUBJECTS

PLAYS: Final = "plays.jsonl"
"""Where a run keeps what it has played, a line each."""

AT_ONCE: Final = 6
"""Plays at the same time for each core. Nearly all of a play is waiting; but the heaviest of the
others takes six seconds of a core to start, and with twelve it was seen to fail for want of one."""

OTHERS: Final = tuple(name for name in SUBJECTS if not name.startswith("holdfast"))
"""Everybody who can be compared with Holdfast."""


def cells(subjects: Collection[str], runs: int = PEER_RUNS) -> list[Cell]:
    """All plays of a comparison, run by run."""
    theirs = [cell for name in subjects for cell in _first(name)]
    ours = dict.fromkeys(replace(cell, subject=PROCESS) for cell in theirs)
    return [replace(cell, run=number) for number in range(1, runs + 1) for cell in (*theirs, *ours)]


def _first(name: str) -> Iterator[Cell]:
    """Each mode on each platform once, where it can happen."""
    known: set[tuple[str, str]] = set()
    for cell in all_cells([name], runs=1):
        place = cell.mode, cell.platform
        if place in known:
            continue
        if excuse(MODES[cell.mode], cell.variant, cell.platform, subject_of_cell(cell)) is None:
            known.add(place)
            yield cell


def compare(
    wanted: Collection[Cell], folder: Path, told: Callable[[Result], None] = lambda result: None
) -> list[Result]:
    """Play what ``folder`` does not have already; ``told`` of each as it comes in.

    Raises OSError, and ValueError when the folder's file is not one of ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLAYS
    played = {_cell(result): result for result in _kept(path)}
    with path.open("ab") as file:

        def keep(result: Result) -> None:
            file.write(msgspec.json.encode(result) + b"\n")
            file.flush()
            told(result)

        left = [cell for cell in wanted if cell not in played]
        played |= {_cell(result): result for result in score(left, keep, at_once=AT_ONCE)}
    return [played[cell] for cell in wanted]


def _kept(path: Path) -> Iterator[Result]:
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            yield msgspec.json.decode(line, type=Result)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}; remove it to begin anew") from error


def _cell(result: Result) -> Cell:
    return Cell(result.mode, result.variant, result.platform, result.subject, result.run)
