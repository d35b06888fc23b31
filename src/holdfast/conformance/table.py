"""The results as data: a row per platform and scenario, as JSON, as Markdown, from any run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

PROPERTY = "holdfast.conformance"
"""Name of the pytest user property that carries a row from a test to whoever collects it."""


class Result(StrEnum):
    """What became of a scenario."""

    PASS = "pass"
    NOT_APPLICABLE = "not applicable"
    DEVIATION = "deviation"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the table of platforms and scenarios."""

    platform: str
    scenario: str
    title: str
    result: Result
    reason: str = ""
    """Why it does not apply, or what the deviation is."""

    def plain(self) -> dict[str, str]:
        """As plain values, which survive the way from a worker process."""
        return {
            "platform": self.platform,
            "scenario": self.scenario,
            "title": self.title,
            "result": self.result.value,
            "reason": self.reason,
        }


def to_json(rows: Iterable[Row]) -> str:
    """The rows as a JSON list, sorted by platform and scenario."""
    plain = [row.plain() for row in _sorted(rows)]
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"


def from_json(text: str | bytes) -> list[Row]:
    """The rows of `to_json`. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=list[Row])


def to_markdown(rows: Iterable[Row]) -> str:
    """One table, scenarios down and platforms across, and each reason once as a note below it."""
    ordered = _sorted(rows)
    platforms = sorted({row.platform for row in ordered})
    cells = {(row.scenario, row.platform): row for row in ordered}
    titles = {row.scenario: row.title for row in ordered}
    notes: dict[str, int] = {}

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        if not row.reason:
            return row.result.value
        note = notes.setdefault(f"{row.platform}: {row.reason}", len(notes) + 1)
        short = "n/a" if row.result is Result.NOT_APPLICABLE else row.result.value
        return f"{short} [{note}]"

    lines = [
        "| | scenario | " + " | ".join(platforms) + " |",
        "|---|---|" + "---|" * len(platforms),
    ]
    for scenario in sorted(titles):
        found = [cell(cells.get((scenario, platform))) for platform in platforms]
        lines.append(f"| {scenario} | {titles[scenario]} | " + " | ".join(found) + " |")
    numbered = [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join([*lines, "", *numbered] if notes else lines) + "\n"


def _sorted(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.platform, row.scenario))
