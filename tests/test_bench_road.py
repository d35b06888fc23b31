"""The benchmark of the whole road runs, and says what its page of the documentation names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.__main__ import names

ROOT = Path(__file__).parents[1]

FIGURES = {
    "messages_per_second",
    "messages_per_core_second",
    "cpu_us_per_message",
    "p50_ms",
    "p99_ms",
    "fsyncs_per_message",
}
"""What is measured of each side under each load."""


@pytest.fixture(scope="module")
def report() -> Any:
    """What a run with a tiny load prints."""
    tiny = ("--rounds", "1", "--seconds", "0.2", "--rate", "50")
    command = [sys.executable, "-m", "bench.road", *tiny]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_it_is_one_of_the_benchmarks_and_its_parts_are_not() -> None:
    assert [name for name in names() if name.startswith(("road", "floor"))] == ["road"]


@pytest.mark.slow
@pytest.mark.parametrize("load", ["saturated", "half_load", "steady"])
def test_both_sides_carry_messages_under_each_load(report: Any, load: str) -> None:
    for side in ("floor", "gateway"):
        figures = report[load][side]
        assert figures.keys() == FIGURES
        assert all(value > 0 for value in figures.values())


@pytest.mark.slow
def test_each_target_is_judged_by_the_ratio_it_is_about(report: Any) -> None:
    saturated, half_load = report["saturated"], report["half_load"]
    assert saturated["target_of_floor"] == 0.7
    assert saturated["within_target"] is (saturated["of_floor"] >= 0.7)
    assert half_load["target_p99_to_floor"] == 2.0
    assert half_load["within_target"] is (half_load["p99_to_floor"] < 2.0)
    # None was ever set for it.
    assert not {"target_p99_to_floor", "within_target"} & report["steady"].keys()


@pytest.mark.slow
def test_ratios_are_the_gateways_figure_by_the_floors(report: Any) -> None:
    for load, ratio, figure in (
        ("saturated", "of_floor", "messages_per_core_second"),
        ("half_load", "p99_to_floor", "p99_ms"),
        ("steady", "p99_to_floor", "p99_ms"),
    ):
        sides = report[load]
        expected = sides["gateway"][figure] / sides["floor"][figure]
        assert sides[ratio] == pytest.approx(expected, abs=0.002)
        assert sides["spread"] == pytest.approx([expected, expected], abs=0.002)
