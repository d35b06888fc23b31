"""The quick set of failure modes, on every platform where they can happen: part of every test run.

All ninety modes are played by ``make score``.
"""

from __future__ import annotations

import pytest

from holdfast.lab.engine import Outcome
from holdfast.lab.modes import MODES
from holdfast.lab.profile import profile
from holdfast.lab.score import Cell, cells, play
from holdfast.lab.terms import Clock

QUICK = [
    cell
    for cell in cells(["holdfast"], quick=True)
    if MODES[cell.mode].excuse(cell.variant, profile(cell.platform)) is None
]


@pytest.mark.parametrize("cell", QUICK, ids=lambda c: f"{c.mode}-{c.variant}-{c.platform}")
def test_a_mode_is_survived(cell: Cell) -> None:
    result = play(cell)
    assert result.outcome is Outcome.PASS, result.reasons


def test_the_quick_set_is_of_every_group_and_platform() -> None:
    assert {MODES[cell.mode].group for cell in QUICK} == {mode.group for mode in MODES.values()}
    assert len({cell.platform for cell in QUICK}) == 10
    assert all(MODES[cell.mode].clock_of(cell.variant) is Clock.SIMULATED for cell in QUICK)
