"""The list of planted bugs does not rot: each can be planted, and its play is in the quick set.

That each is noticed is what ``make planted`` shows.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tools import planted_bugs
from tools.bugs import BUGS, PACKAGE, Bug, CanNotPlant

from holdfast.lab.engine import Outcome
from holdfast.lab.modes import MODES
from holdfast.lab.profile import profile
from holdfast.lab.score import Cell, cells

QUICK = set(cells(["holdfast"], quick=True))
PLAYED = [bug for bug in BUGS if bug.cell is not None]
bugs = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)


def copied(bug: Bug, root: Path) -> Path:
    """The file that a bug is planted in, in a copy."""
    path = root / PACKAGE / bug.file
    path.parent.mkdir(parents=True)
    shutil.copy(planted_bugs.ROOT / PACKAGE / bug.file, path)
    return path


@bugs
def test_a_bug_changes_its_file_and_leaves_it_a_program(bug: Bug, tmp_path: Path) -> None:
    path = copied(bug, tmp_path)
    before = path.read_text()
    bug.plant(tmp_path)
    assert path.read_text() != before
    compile(path.read_text(), str(path), "exec")
    if bug.old not in bug.new:
        with pytest.raises(CanNotPlant, match="0 places"):
            bug.plant(tmp_path)


@bugs
def test_somebody_must_notice_it(bug: Bug) -> None:
    assert bug.in_core or bug.cell is not None


@pytest.mark.parametrize("bug", PLAYED, ids=lambda bug: bug.name)
def test_its_play_is_in_the_quick_set_and_happens_there(bug: Bug) -> None:
    cell = bug.cell
    assert cell is not None
    assert Cell(cell.mode, cell.variant, cell.platform, "holdfast") in QUICK
    assert MODES[cell.mode].excuse(cell.variant, profile(cell.platform)) is None


def test_the_bugs_of_a_gateway_are_all_played() -> None:
    assert len(PLAYED) == 14


@pytest.mark.parametrize(
    ("outcome", "reasons", "missed"),
    [
        (Outcome.FAIL, ["a", "the stop took 9.0 s"], ()),
        (
            Outcome.FAIL,
            ["ImportError: no"],
            ("mode (variant) on qqbot, which says: ImportError: no",),
        ),
        (Outcome.PASS, [], ("mode (variant) on qqbot, which says: nothing",)),
    ],
)
def test_a_failure_counts_only_for_the_reason_that_is_named(
    monkeypatch: pytest.MonkeyPatch, outcome: Outcome, reasons: list[str], missed: tuple[str, ...]
) -> None:
    from tools.bugs import Cell as Named

    some = next(bug for bug in BUGS if not bug.in_core)
    bug = Bug(
        some.name, some.file, some.old, some.new, Named("mode", "variant", "qqbot", "stop took")
    )
    monkeypatch.setattr(planted_bugs, "_reasons", lambda root, cell: reasons)
    finding = planted_bugs.examine(bug)
    assert finding.missed == missed
    assert str(finding).startswith("NOT caught" if missed else "caught")


def test_a_name_that_is_none_is_told_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert planted_bugs.main(["no such bug"]) == 2
    assert "no burst limit" in capsys.readouterr().out
