"""Other programs beside Holdfast: what is played, what is kept, and what is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.cli.exits import Exit
from holdfast.lab import compare as room
from holdfast.lab import score as engine
from holdfast.lab.compare import OTHERS, PLAYS, cells, compare
from holdfast.lab.engine import Outcome, Result, excuse
from holdfast.lab.modes import MODES
from holdfast.lab.score import Cell, subject_of_cell
from holdfast.lab.subjects.peers import Peer
from holdfast.lab.subjects.registry import PROCESS

SDK = "sdk:slack-sdk"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `make peers` had been called: nothing of a peer is run here."""
    monkeypatch.setattr(Peer, "missing", lambda self: None)


def played(cell: Cell) -> Result:
    return Result(
        mode=cell.mode,
        variant=cell.variant,
        platform=cell.platform,
        subject=cell.subject,
        run=cell.run,
        outcome=Outcome.PASS,
    )


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """What the engine was asked to play; everything passes."""
    asked: list[Cell] = []

    def score(
        wanted: Sequence[Cell], told: Callable[[Result], None], *, at_once: int
    ) -> list[Result]:
        asked.extend(wanted)
        results = [played(cell) for cell in wanted]
        for result in results:
            told(result)
        return results

    monkeypatch.setattr(room, "score", score)
    return asked


def test_each_mode_once_on_each_platform_and_holdfast_wherever_another_is() -> None:
    wanted = cells([SDK], runs=2)
    theirs = [cell for cell in wanted if cell.subject == SDK and cell.run == 1]
    assert len(theirs) == len({cell.mode for cell in theirs}) > 20
    for cell in theirs:
        assert excuse(MODES[cell.mode], cell.variant, "slack", subject_of_cell(cell)) is None
    ours = [cell for cell in wanted if cell.subject == PROCESS]
    assert {(cell.mode, cell.variant) for cell in ours} == {(c.mode, c.variant) for c in theirs}
    assert {cell.run for cell in ours} == {1, 2}
    assert len(wanted) == 2 * len(theirs) + len(ours) == 4 * len(theirs)
    assert all(a.run <= b.run for a, b in pairwise(wanted)), "the first runs come first"


def test_holdfast_is_played_once_where_two_others_are() -> None:
    wanted = cells(["sdk:aiogram", "sdk:python-telegram-bot"], runs=1)
    ours = [cell for cell in wanted if cell.subject == PROCESS]
    assert len(ours) == len(set(ours)) == len(wanted) // 3


def test_holdfast_is_not_compared_with_itself() -> None:
    assert SDK in OTHERS
    assert not any(name.startswith("holdfast") for name in OTHERS)


def test_what_was_played_is_not_played_again(tmp_path: Path, plays: list[Cell]) -> None:
    wanted = cells([SDK], runs=1)[:5]
    first = compare(wanted[:3], tmp_path)
    assert plays == wanted[:3]
    told: list[Result] = []
    assert compare(wanted, tmp_path, told.append) == [*first, *map(played, wanted[3:])]
    assert plays == wanted
    assert told == list(map(played, wanted[3:]))
    assert len((tmp_path / PLAYS).read_text().splitlines()) == 5


def test_a_file_of_something_else_is_refused(
    tmp_path: Path, plays: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / PLAYS).write_text("{}\n")
    code = main(["lab", "compare", "--subject", SDK, "--out", str(tmp_path)])
    assert (code, plays) == (Exit.USAGE, [])
    assert f"{tmp_path / PLAYS}, line 1" in capsys.readouterr().err


def test_the_pages_are_written_and_holdfasts_failure_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plays: list[Cell]
) -> None:
    command = ["lab", "compare", "--subject", SDK, "--runs", "1", "--out", str(tmp_path)]
    assert main(command) == Exit.OK
    assert PROCESS in (tmp_path / "score.md").read_text()
    document = json.loads((tmp_path / "score.json").read_text())
    assert document["versions"][SDK] == subject_of_cell(cells([SDK])[0]).version != ""
    assert len(document["results"]) == len(plays) > 0
    assert "<html" in (tmp_path / "score.html").read_text()
    lines = (tmp_path / PLAYS).read_text()
    (tmp_path / PLAYS).write_text(
        lines.replace(':process","outcome":"pass', ':process","outcome":"fail')
    )
    assert main(command) == Exit.FAILED


def test_a_subject_nobody_knows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["lab", "compare", "--subject", "sdk:slck-sdk", "--out", str(tmp_path)])
    assert code == Exit.USAGE
    assert "did you mean sdk:slack-sdk?" in capsys.readouterr().err
    assert engine.PEER_RUNS == 3
