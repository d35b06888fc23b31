"""The scenarios as tests: subclass `Suite`, name your bench, run pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from holdfast.conformance import network, own, peer
from holdfast.conformance.bench import Bench
from holdfast.conformance.catalogue import SCENARIOS, Scenario
from holdfast.conformance.rig import Broken
from holdfast.conformance.table import PROPERTY, Result, Row
from holdfast.testing import run_virtual

ROOMS = (network, peer, own)
"""Importing them has filled the catalogue."""


class Suite:
    """Every scenario against one bench; ``class TestParrot(Suite): bench = PARROT``.

    What does not apply is skipped with its reason. A known deviation is an expected failure, and
    one that passes is a failure. A scenario the bench can neither play nor excuse fails.
    """

    bench: ClassVar[Bench[Any]]


def judge(scenario: Scenario, bench: Bench[Any]) -> Row:
    """Play one scenario. Raises what the adapter breaks, unless it is a known deviation."""
    if scenario.inexcusable(bench):
        raise AssertionError(
            f"{scenario.id} is said not to apply, but by its traits and faults it can happen: "
            f"{bench.not_applicable[scenario.id]}"
        )
    row = expected(scenario, bench)
    if row.result is Result.NOT_APPLICABLE:
        return row
    known = row.result is Result.DEVIATION
    if missing := scenario.missing(bench):
        names = ", ".join(f"Need.{need.name} ({need.value})" for need in missing)
        raise AssertionError(
            f"{scenario.id} needs {names}: say in `faults` how to play it, or in `not_applicable` "
            "why it can not happen on this platform"
        )
    try:
        run_virtual(_played(scenario, bench))
    except Broken:
        if known:
            return row
        raise
    if known:
        raise AssertionError(f"{scenario.id} passes: take it out of `deviations` ({row.reason})")
    return row


async def _played(scenario: Scenario, bench: Bench[Any]) -> None:
    await scenario.play(bench)


def expected(scenario: Scenario, bench: Bench[Any]) -> Row:
    """What a scenario comes to if the adapter does what its bench says; runs nothing."""
    if (reason := bench.deviations.get(scenario.id)) is not None:
        return Row(bench.platform, scenario.id, scenario.title, Result.DEVIATION, reason)
    if (reason := scenario.excuse(bench)) is not None:
        return Row(bench.platform, scenario.id, scenario.title, Result.NOT_APPLICABLE, reason)
    return Row(bench.platform, scenario.id, scenario.title, Result.PASS)


def expected_rows(*benches: Bench[Any]) -> list[Row]:
    """The whole table as the benches promise it, to compare a committed one with."""
    return [expected(scenario, bench) for bench in benches for scenario in ordered()]


def ordered() -> list[Scenario]:
    """All scenarios, C01 first."""
    return [SCENARIOS[id] for id in sorted(SCENARIOS)]


def _test(scenario: Scenario) -> Callable[[Suite, pytest.FixtureRequest], None]:
    # A plain function that brings its own loop: no plugin for async tests can get in its way.
    def test(self: Suite, request: pytest.FixtureRequest) -> None:
        note = request.node.user_properties.append
        row = expected(scenario, self.bench)
        note((PROPERTY, row.plain()))
        judge(scenario, self.bench)
        if row.result is Result.NOT_APPLICABLE:
            pytest.skip(f"not applicable: {row.reason}")
        if row.result is Result.DEVIATION:
            pytest.xfail(row.reason)

    test.__name__ = scenario.test_name
    test.__qualname__ = f"Suite.{scenario.test_name}"
    test.__doc__ = scenario.demands
    return test


for _scenario in ordered():
    setattr(Suite, _scenario.test_name, _test(_scenario))
