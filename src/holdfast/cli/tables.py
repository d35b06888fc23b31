"""Tables and sentences on standard output: in colour on a terminal with rich, plain elsewhere."""

from __future__ import annotations

import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from typing import Any

from holdfast.legible import encoded


class Tone(Enum):
    """What a cell means; the value is rich's style for it."""

    PLAIN = ""
    GOOD = "green"
    BUSY = "yellow"
    BAD = "bold red"
    FAINT = "dim"


STATE_TONES = {
    "connected": Tone.GOOD,
    "connecting": Tone.BUSY,
    "retrying": Tone.BUSY,
    "fatal": Tone.BAD,
    "stopping": Tone.FAINT,
    "stopped": Tone.FAINT,
}


NARROWEST = 12
"""Columns that a cut column keeps at least, however narrow the screen is."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a meaning."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(slots=True)
class Table:
    """Columns and rows; the last column may be as long as it likes."""

    columns: Sequence[str]
    rows: list[Sequence[Cell | str]] = field(default_factory=list)

    def add(self, *cells: Cell | str) -> None:
        """Append a row."""
        self.rows.append(cells)


def state_cell(state: str, notes: Sequence[str] = ()) -> Cell:
    """A published state with its flags, in its tone."""
    return Cell(", ".join([state, *notes]), STATE_TONES.get(state, Tone.BAD))


def show(table: Table) -> None:
    """Print a table."""
    if _colourful():
        _show_rich(table)
    else:
        print("\n".join(plain(table)))


def plain(table: Table) -> list[str]:
    """A table as aligned lines without colours."""
    lines = [list(table.columns), *([printable(_text(c)) for c in row] for row in table.rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(table.columns))]
    return [
        "  ".join(
            text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def fitted(table: Table) -> Table:
    """The table with its last column cut so that its lines fit the screen, or 80 columns."""
    before = len(table.columns) - 1
    texts = [list(table.columns), *([printable(_text(c)) for c in row] for row in table.rows)]
    taken = sum(max(_width(line[i]) for line in texts) + 2 for i in range(before))
    room = max(NARROWEST, shutil.get_terminal_size((80, 24)).columns - taken)
    cut_rows = [
        [*row[:-1], _with_text(row[-1], cut(printable(_text(row[-1])), room))] for row in table.rows
    ]
    return Table(table.columns, list(cut_rows))


def cut(text: str, columns: int) -> str:
    """The beginning of a text that fits, with a sign where something is left out."""
    if _width(text) <= columns:
        return text
    kept, room = "", columns - 1
    for char in text:
        room -= _width(char)
        if room < 0:
            break
        kept += char
    return kept + "…"


def say(text: str, tone: Tone = Tone.PLAIN) -> None:
    """Print one line."""
    if tone is not Tone.PLAIN and _colourful():
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(printable(text), tone.value))
    else:
        print(printable(text))


def show_json(value: Any) -> None:
    """Print one JSON document on one line, in UTF-8 as RFC 8259 demands, whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(encoded(value).decode())


def clear() -> None:
    """Empty the screen, on a terminal."""
    if sys.stdout.isatty():
        print("\x1b[2J\x1b[H", end="")


def printable(text: str) -> str:
    """A text without control characters: what a platform sent must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _colourful() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and find_spec("rich") is not None


def _show_rich(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        rich.add_column(column, overflow="fold")
    for row in table.rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        rich.add_row(*(Text(printable(cell.text), cell.tone.value) for cell in cells))
    Console().print(rich)


def _with_text(cell: Cell | str, text: str) -> Cell | str:
    return Cell(text, cell.tone) if isinstance(cell, Cell) else text


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
