"""The score: what is played, what several plays come to, how it is told, and the exit codes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.cli.exits import Exit
from holdfast.lab import score as engine
from holdfast.lab.cast import CAST
from holdfast.lab.engine import Outcome, Result
from holdfast.lab.judge import Figures
from holdfast.lab.modes import MODES
from holdfast.lab.record import Moment
from holdfast.lab.score import Cell, cells, late_only, play, worst
from holdfast.lab.score_html import page
from holdfast.lab.score_page import LEGEND, by_cell, document, markdown, summary, table
from holdfast.lab.subjects.inprocess import InProcess
from holdfast.lab.terms import Clock

PASS, FAIL, NO = Outcome.PASS, Outcome.FAIL, Outcome.NOT_APPLICABLE
MODE = "reconnect-missing"
FIGURES = Figures(
    said=4,
    answered=3,
    detection_s=(1.0, None),
    recovery_s=(2.0, 4.0),
    lie_s=1.5,
    lost=1,
    unreported=1,
    doubled=2,
    out_of_order=0,
    ambiguous=0,
    gap=0,
    dead=0,
    opens_a_minute=2,
)


def result(
    outcome: Outcome = PASS,
    *,
    mode: str = MODE,
    platform: str = "telegram",
    subject: str = "holdfast",
    reasons: tuple[str, ...] = (),
    late: bool = False,
    figures: tuple[Figures, ...] = (),
) -> Result:
    """A planted one."""
    return Result(
        mode=mode,
        variant="reset",
        platform=platform,
        subject=subject,
        outcome=outcome,
        reasons=reasons,
        late=late,
        figures=figures,
        line=(Moment(at=0.0, state="connected", deaf=False, generation=1),),
        faults=(("network: rst", 1.0, 2.0),),
    )


# -- what is played -------------------------------------------------------------------------------


def test_all_variants_of_all_modes_on_all_platforms_unless_told_otherwise() -> None:
    wanted = list(cells(["holdfast"]))
    assert len(wanted) == len(CAST) * sum(len(mode.variants) for mode in MODES.values())
    assert len(set(wanted)) == len(wanted)
    assert {cell.mode for cell in wanted} == set(MODES)


def test_only_what_is_named() -> None:
    assert list(cells(["holdfast"], [MODE], ["slack"])) == [
        Cell(MODE, variant, "slack", "holdfast") for variant in MODES[MODE].variants
    ]


def test_the_same_play_as_often_as_is_wanted() -> None:
    often = [cell.run for cell in cells(["holdfast"], [MODE], ["slack"], runs=3)]
    assert often == [1, 2, 3] * len(MODES[MODE].variants)


def test_the_quick_set_is_quick() -> None:
    quick = {cell.mode for cell in cells(["holdfast"], quick=True)}
    assert quick == {mode.id for mode in MODES.values() if mode.quick}
    assert MODE in quick
    assert set(MODES) > quick


def test_what_is_about_the_kernel_is_played_on_the_real_clock_and_is_not_quick() -> None:
    mode = MODES["sleep-blocks-shutdown"]
    assert mode.real
    for variant in mode.variants:
        assert mode.clock_of(variant) is (Clock.REAL if variant in mode.real else Clock.SIMULATED)
    quick = {cell.variant for cell in cells(["holdfast"], [mode.id], quick=True)}
    assert quick == set(mode.variants) - mode.real
    assert all(mode.real <= set(mode.variants) for mode in MODES.values())


def test_a_cell_is_played_as_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "holdfast")  # restored: the process of a play ends with it
    played = play(Cell(MODE, "reset", "matrix", "holdfast"))
    assert (played.mode, played.variant, played.platform) == (MODE, "reset", "matrix")
    assert (played.outcome, played.reasons) == (PASS, ())
    assert played.figures[0].answered == played.figures[0].said == 4


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([PASS, FAIL, NO], FAIL),
        ([PASS, NO], PASS),
        ([NO, NO], NO),
        ([PASS], PASS),
        ([FAIL, NO], FAIL),
    ],
)
def test_one_failure_outweighs_and_one_pass_decides(
    outcomes: list[Outcome], expected: Outcome
) -> None:
    assert worst([result(outcome) for outcome in outcomes]) is expected


# -- how it is told -------------------------------------------------------------------------------

SCORE = (
    result(figures=(FIGURES,)),
    result(FAIL, platform="slack", reasons=("connected was a lie for 9 s",)),
    result(NO, mode="quick-disconnect-loop", reasons=("it has no sockets",)),
    result(NO, mode="quick-disconnect-loop", platform="matrix", reasons=("it has no sockets",)),
)


def test_the_document_holds_everything_and_is_json() -> None:
    made = json.loads(json.dumps(document(SCORE, "holdfast lab score")))
    assert made["command"] == "holdfast lab score"
    first, second, *_ = made["results"]
    assert first["figures"][0]["recovery_s"] == [2.0, 4.0]
    assert first["line"][0]["state"] == "connected"
    assert first["faults"] == [["network: rst", 1.0, 2.0]]
    assert (second["outcome"], second["reasons"]) == ("fail", ["connected was a lie for 9 s"])


def test_the_summary_counts_modes_on_platforms_and_adds_up_the_damage() -> None:
    *_, row = summary(SCORE).splitlines()
    told = [column.strip() for column in row.strip("|").split("|")]
    assert told == ["holdfast", "2", "1", "2", "0", "2", "3.0 s", "4.0 s", "2 s", "2", "2"]


def test_the_summary_has_a_column_for_each_of_its_figures() -> None:
    head, line, row = summary(SCORE).splitlines()
    assert head.count("|") == line.count("|") == row.count("|")
    for column in ("plays", "survived", "late only", "worst", "lie", "lost", "doubled"):
        assert f"| {column} |" in head


LATE = result(FAIL, platform="slack", reasons=("rst: back after 9.0 s, 6 are allowed",), late=True)


def test_what_failed_in_time_alone_is_counted_apart() -> None:
    assert summary([result(), LATE]).splitlines()[-1].startswith("| holdfast | 2 | 1 | 2 | 1 |")
    assert table([result(), LATE]).endswith("| ✓ | ~ |")
    broken = result(FAIL, platform="slack", reasons=("1 message lost",))
    assert late_only([LATE, LATE, result()])
    assert not late_only([LATE, broken])
    assert not late_only([result()])
    assert summary([LATE, broken]).splitlines()[-1].startswith("| holdfast | 2 | 0 | 1 | 0 |")
    assert table([LATE, broken]).endswith("| ✗ |")


def test_the_pages_tell_what_is_late_from_what_is_broken() -> None:
    assert json.loads(json.dumps(document([LATE], "x")))["results"][0]["late"] is True
    html = page([result(), LATE], "holdfast lab score", "2026-11-21")
    assert html.count('<td class="late"') == 1
    assert '<td class="fail"' not in html
    assert "<p>2 plays.</p>" in html
    assert LEGEND in markdown([LATE], "holdfast lab score")


def test_who_never_came_back_is_not_given_a_figure() -> None:
    gone = Figures(**{name: getattr(FIGURES, name) for name in Figures.__slots__} | LOST)
    *_, row = summary([result(FAIL, figures=(gone,))]).splitlines()
    assert "| – | never |" in row


LOST = {"recovery_s": (None,)}


def test_the_table_is_mode_by_platform() -> None:
    head, _, *rows = table(SCORE).splitlines()
    assert head == "| mode | telegram | slack | matrix |"
    assert rows == ["| `reconnect-missing` | ✓ | ✗ |  |", "| `quick-disconnect-loop` | – |  | – |"]


def test_variants_share_a_cell() -> None:
    assert len(by_cell([result(), result(FAIL)])[MODE, "telegram"]) == 2
    assert "✗" in table([result(), result(FAIL)])


def test_the_page_for_people_names_every_reason_once() -> None:
    page = markdown(SCORE, "holdfast lab score")
    assert "- `reconnect-missing` (reset) on slack: connected was a lie for 9 s" in page
    assert "- `quick-disconnect-loop` on telegram, matrix: it has no sockets" in page
    assert page.count("it has no sockets") == 1
    assert "`holdfast lab score`" in page


# -- the commands ---------------------------------------------------------------------------------

Planted = Callable[[Sequence[Result]], None]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Lets the plays come to what a test says."""

    def plant(results: Sequence[Result]) -> None:
        def score(wanted: Sequence[Cell], told: Callable[[Result], None]) -> list[Result]:
            assert wanted
            for one in results:
                told(one)
            return list(results)

        monkeypatch.setattr(engine, "score", score)

    return plant


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [([PASS, NO], Exit.OK), ([PASS, FAIL], Exit.FAILED), ([NO], Exit.ATTENTION)],
)
def test_a_run_ends_with_what_it_came_to(
    planted: Planted,
    outcomes: list[Outcome],
    code: Exit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted([result(outcome, reasons=("why",)) for outcome in outcomes])
    assert main(["lab", "run", MODE, "--platform", "telegram"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r" \[.*", "", line) for line in lines] == [
        f"{MODE} (reset) on telegram, holdfast: {outcome}: why" for outcome in outcomes
    ]


def test_a_run_as_json_is_json_alone(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    planted([result(FAIL)])
    assert main(["lab", "run", MODE, "--json"]) == Exit.FAILED
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["outcome"]) == (MODE, "fail")


def test_a_run_draws_by_the_seed_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[Cell] = []

    def score(cells: Sequence[Cell], told: Callable[[Result], None]) -> list[Result]:
        wanted.extend(cells)
        return [result(PASS)]

    monkeypatch.setattr(engine, "score", score)
    assert main(["lab", "run", MODE, "--platform", "telegram", "--seed", "7"]) == Exit.OK
    assert wanted
    assert {cell.run for cell in wanted} == {7}
    subject = engine.subject_of_cell(wanted[0])
    assert isinstance(subject, InProcess)
    assert subject.seed == 7


def test_a_score_writes_its_pages_and_fails_for_holdfast_alone(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(SCORE)
    out = tmp_path / "score"
    assert main(["lab", "score", "--mode", MODE, "--out", str(out)]) == Exit.FAILED
    assert json.loads((out / "score.json").read_text())["results"][1]["platform"] == "slack"
    assert "connected was a lie for 9 s" in (out / "score.md").read_text()
    assert "connected was a lie for 9 s" in (out / "score.html").read_text()
    assert summary(SCORE) in capsys.readouterr().out
    planted([result(), result(FAIL, subject="other")])
    assert main(["lab", "score", "--mode", MODE]) == Exit.OK


def test_a_place_that_can_not_be_had_is_told_before_anything_is_played(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "score"
    assert main(["lab", "score", "--mode", MODE, "--out", str(out)]) == Exit.USAGE
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert f"{out} can not be made" in told.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "reconnect-mising"], "did you mean reconnect-missing?"),
        (["run", MODE, "--variant", "reste"], "did you mean reset?"),
        (["run", MODE, "--variant", "nope"], "(there are: "),
        (["run", MODE, "--subject", "hodlfast"], "did you mean holdfast?"),
        (["score", "--mode", "xyzzy"], "`holdfast lab list` names them"),
    ],
)
def test_a_name_that_is_none_is_a_wrong_command_line(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *words]) == Exit.USAGE
    assert hint in capsys.readouterr().err


def test_the_list_names_every_mode_with_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "list", "--json"]) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert list(told["modes"]) == list(MODES)
    assert told["modes"][MODE]["variants"]["reset"][:2] == ["connect", "a message in ann"]
    assert "holdfast" in told["subjects"]
