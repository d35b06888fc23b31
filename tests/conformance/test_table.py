"""The table in the documents speaks of tests that exist."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tools import generate_docs

from holdfast.adapters import BUILT_IN
from holdfast.conformance import SCENARIOS, Result, Suite, expected_rows

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def rows() -> list[list[str]]:
    """The cells of the committed table, head first, without the line below the head."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    head, _, *scenarios = (line.strip("|").split("|") for line in lines if line.startswith("|"))
    return [[cell.strip() for cell in row] for row in (head, *scenarios)]


def test_every_cell_is_a_test() -> None:
    (_, _, *platforms), *scenarios = rows()
    assert sorted(platforms) == sorted(BUILT_IN)
    assert [row[0] for row in scenarios] == sorted(SCENARIOS)
    for platform in platforms:
        members = vars(import_module(f"tests.conformance.test_{platform}"))
        (suite,) = [
            member
            for name, member in members.items()
            if name.startswith("Test") and issubclass(member, Suite)
        ]
        assert suite.bench.platform == platform
        for key, title, *_ in scenarios:
            assert SCENARIOS[key].title == title
            assert callable(getattr(suite, SCENARIOS[key].test_name))


def test_no_platform_deviates() -> None:
    results = [row.result for row in expected_rows(*generate_docs.benches())]
    assert len(results) == 30 * len(BUILT_IN)
    assert set(results) == {Result.PASS, Result.NOT_APPLICABLE}
