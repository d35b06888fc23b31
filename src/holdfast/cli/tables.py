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
    """Print a table, on a terminal no wider than that: a field a line where it is too narrow."""
    if sys.stdout.isatty():
        room = _room(table)
        if room < min(NARROWEST, _widths(table)[-1]):
            _show_fields(table)
            return
        table = _folded(table, room)
    if _colourful():
        _show_rich(table)
    else:
        print("\n".join(plain(table)))


def plain(table: Table) -> list[str]:
    """A table as aligned lines without colours."""
    widths = _widths(table)
    return [
        "  ".join(
            text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in _lines(table)
    ]


def fitted(table: Table) -> Table:
    """The table with its last column cut so that its lines fit the screen, or 80 columns."""
    room = _room(table)
    if room < NARROWEST:
        if sys.stdout.isatty():
            return table  # `show` gives each field a line
        room = NARROWEST
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


def folded(text: str, columns: int) -> list[str]:
    """A text in lines of so many columns at most, broken between words where that can be."""
    lines = [""]
    for word in text.split(" "):
        joint = " " if lines[-1] else ""
        if _width(lines[-1] + joint + word) <= columns:
            lines[-1] += joint + word
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if _width(lines[-1] + char) > columns:
                lines.append("")
            lines[-1] += char
    return lines


def say_under(head: str, text: str, tone: Tone = Tone.PLAIN) -> None:
    """Print a line; on a terminal what is too long for it goes on below where the text began."""
    lines = [text]
    if sys.stdout.isatty():
        lines = folded(printable(text), max(NARROWEST, _columns() - len(head)))
    for number, line in enumerate(lines):
        say((" " * len(head) if number else head) + line, tone)


def say(text: str, tone: Tone = Tone.PLAIN) -> None:
    """Print one line."""
    if tone is not Tone.PLAIN and _colourful():
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(printable(text), tone.value), soft_wrap=True)
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


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _lines(table: Table) -> list[list[str]]:
    return [list(table.columns), *([printable(_text(c)) for c in row] for row in table.rows)]


def _widths(table: Table) -> list[int]:
    lines = _lines(table)
    return [max(_width(line[i]) for line in lines) for i in range(len(table.columns))]


def _room(table: Table) -> int:
    """Columns that are left for the last one."""
    return _columns() - sum(width + 2 for width in _widths(table)[:-1])


def _folded(table: Table, room: int) -> Table:
    """The table with lines of its own for what does not fit into the last column."""
    found = Table(table.columns)
    for row in table.rows:
        head: Sequence[Cell | str] = row[:-1]
        for line in folded(printable(_text(row[-1])), room):
            found.add(*head, _with_text(row[-1], line))
            head = [""] * len(head)
    return found


def _show_fields(table: Table) -> None:
    width = max(map(len, table.columns)) + 1
    for row in table.rows:
        for number, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            head = f"{column + ':':<{width}} "
            tone = cell.tone if isinstance(cell, Cell) else Tone.PLAIN
            say_under(head if number == 0 else f"  {head}", _text(cell), tone)


def _show_rich(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        rich.add_column(column, no_wrap=True)
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
