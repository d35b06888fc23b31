"""Cells of the score card as tests: a mode, a variant, a platform."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from holdfast.lab.cast import CAST
from holdfast.lab.engine import Outcome, Result, run
from holdfast.lab.mode import Clock, Mode
from holdfast.lab.modes import MODES
from holdfast.lab.profile import profile
from holdfast.lab.subjects.registry import HOLDFAST, subject

LONGEST = 900
"""Real seconds for one cell on a machine that has other things to do."""


def cells(modes: Iterable[Mode]) -> list[Any]:
    """Parameters for `play`: everything that can happen. What is not quick is marked `score`."""
    found = []
    for mode in modes:
        for number, variant in enumerate(mode.variants):
            quick = mode.quick and number == 0 and mode.clock is Clock.SIMULATED
            marks = [] if quick else [pytest.mark.score, pytest.mark.timeout(LONGEST)]
            for platform in CAST:
                if profile(platform).excuse(mode, variant) is None:
                    name = f"{mode.id}-{variant.replace(' ', '_')}-{platform}"
                    found.append(pytest.param(mode.id, variant, platform, marks=marks, id=name))
    return found


def play(mode: str, variant: str, platform: str) -> Result:
    """Play a cell with Holdfast; it must pass, and whatever was expected must have been said."""
    found = MODES[mode]
    if missing := CAST[platform].missing():
        pytest.skip(missing)
    result = run(found, variant, platform, subject(HOLDFAST, found.clock))
    assert result.outcome is Outcome.PASS, "\n".join(result.reasons)
    return result
