"""The score as JSON and as Markdown."""

from __future__ import annotations

import platform as machine
import statistics
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from holdfast import __version__
from holdfast.lab.cast import CAST
from holdfast.lab.engine import Outcome, Result
from holdfast.lab.modes import MODES
from holdfast.lab.score import late_only, worst
from holdfast.lab.subjects.registry import SUBJECTS, subject
from holdfast.lab.terms import Clock

MARKS: Final = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.NOT_APPLICABLE: "–"}
LATE: Final = "~"

COLUMNS: Final = (
    "subject",
    "plays",
    "survived",
    "of",
    "late only",
    "not applicable",
    "recovery, median",
    "worst",
    "lie",
    "lost",
    "doubled",
)
"""Of the summary. Modes are counted once on each platform, however often they were played."""

LEGEND: Final = (
    "Counted is each failure mode on each platform, with all its variants and plays: ✓ survived, "
    "✗ not, ~ late only, – can not happen there. *Late only* failed in nothing but time: noticed, "
    "recovered, answered or stopped, but later than Holdfast promises; these promises are its own, "
    "nobody else has made them. Late ones are not among the survived."
)


def document(results: Sequence[Result], command: str) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": {
            **versions(results),
            "holdfast": __version__,
            "python": machine.python_version(),
            "system": f"{sys.platform} {machine.release()}",
        },
        "results": [asdict(result) for result in results],
    }


def markdown(results: Sequence[Result], command: str) -> str:
    """For people: a summary, the table of each subject, and every reason."""
    names = list(dict.fromkeys(result.subject for result in results))
    parts = [
        "# Score",
        f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d} with Holdfast {__version__}, "
        f"Python {machine.python_version()}, {sys.platform}.",
        summary(results),
        LEGEND,
    ]
    if others := versions(results):
        told = ", ".join(f"{name} {version}" for name, version in others.items())
        parts.append(f"Versions: {told}.")
    for name in names:
        mine = [result for result in results if result.subject == name]
        parts += [f"## {name}", table(mine), *_reasons(mine)]
    return "\n\n".join(parts) + "\n"


def versions(results: Sequence[Result]) -> dict[str, str]:
    """Of the subjects that are not Holdfast, as they are installed here."""
    names = dict.fromkeys(result.subject for result in results)
    found = {name: subject(name, Clock.REAL).version for name in names if name in SUBJECTS}
    return {name: text for name, text in found.items() if not name.startswith("holdfast") and text}


def summary(results: Sequence[Result]) -> str:
    """A row per subject."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    names = dict.fromkeys(result.subject for result in results)
    rows += [_summary_row(name, [r for r in results if r.subject == name]) for name in names]
    return "\n".join(rows)


def _summary_row(name: str, results: Sequence[Result]) -> str:
    found = by_cell(results).values()
    plays = sum(result.outcome is not Outcome.NOT_APPLICABLE for result in results)
    outcomes, late = [worst(cell) for cell in found], sum(map(late_only, found))
    passed, failed = outcomes.count(Outcome.PASS), outcomes.count(Outcome.FAIL)
    figures = [figure for result in results for figure in result.figures]
    back = [took for figure in figures for took in figure.recovery_s if took is not None]
    never = sum(took is None for figure in figures for took in figure.recovery_s)
    median = f"{statistics.median(back):.1f} s" if back else "–"
    slowest = "never" if never else f"{max(back):.1f} s" if back else "–"
    lie = sum(figure.lie_s for figure in figures)
    lost = sum(figure.lost + figure.unreported for figure in figures)
    doubled = sum(figure.doubled for figure in figures)
    return (
        f"| {name} | {plays} | {passed} | {passed + failed} | {late} "
        f"| {outcomes.count(Outcome.NOT_APPLICABLE)} "
        f"| {median} | {slowest} | {lie:.0f} s | {lost} | {doubled} |"
    )


def table(results: Sequence[Result]) -> str:
    """Mode by platform."""
    found = by_cell(results)
    platforms = [name for name in CAST if any(platform == name for _, platform in found)]
    rows = [
        "| mode | " + " | ".join(platforms) + " |",
        "|---" * (len(platforms) + 1) + "|",
    ]
    for mode in (mode for mode in MODES if any(mode == one for one, _ in found)):
        marks = [
            mark(found[mode, platform]) if (mode, platform) in found else ""
            for platform in platforms
        ]
        rows.append(f"| `{mode}` | " + " | ".join(marks) + " |")
    return "\n".join(rows)


def mark(cell: Collection[Result]) -> str:
    """What a cell came to, in one character."""
    return LATE if late_only(cell) else MARKS[worst(cell)]


def by_cell(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """Results by mode and platform."""
    found: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        found[result.mode, result.platform].append(result)
    return found


def _reasons(results: Sequence[Result]) -> Iterable[str]:
    failed = [r for r in results if r.outcome is Outcome.FAIL]
    if failed:
        yield "### Failed"
        yield "\n".join(
            f"- `{r.mode}` ({r.variant}) on {r.platform}: {'; '.join(r.reasons)}" for r in failed
        )
    excused: dict[tuple[str, str], list[str]] = defaultdict(list)
    for r in results:
        if r.outcome is Outcome.NOT_APPLICABLE:
            excused[r.mode, r.reasons[0]].append(r.platform)
    if excused:
        yield "### Not applicable"
        yield "\n".join(
            f"- `{mode}` on {', '.join(dict.fromkeys(platforms))}: {why}"
            for (mode, why), platforms in excused.items()
        )
