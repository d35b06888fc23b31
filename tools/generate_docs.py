"""Writes the generated parts of ``docs/supervision.md``; ``--check`` fails if they are stale.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->``; everything
outside is written by hand and left alone.

    python tools/generate_docs.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from holdfast.supervision import PRESETS, RULES, Kind, Policy, Published, State
from holdfast.supervision.states import ACTS, diagram

PAGE = Path(__file__).resolve().parent.parent / "docs" / "supervision.md"


class StaleDocs(Exception):
    """The page and the code disagree, or a marker is missing; the message says where."""


def attribute_docs(owner: type) -> dict[str, str]:
    """The string below each attribute of a class body, as one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in body.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = ""
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[name] = " ".join(text.split()).replace("``", "`")
            case _:
                name = ""
    return found


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def number(value: Any) -> str:
    """A default as people write it."""
    if value is None:
        return "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def states() -> str:
    """The diagram, and who must act in each state."""
    acting = table(("state", "who acts"), ((f"`{s.name}`", ACTS[s]) for s in State))
    return f"```mermaid\n{diagram()}```\n\n{acting}"


def remedies() -> str:
    """The table from causes to remedies."""
    about = attribute_docs(Kind)
    rows = (
        (f"`{kind.value}`", about[kind.name], rule.remedy.value, rule.who.value, rule.hint)
        for kind, rule in RULES.items()
    )
    return table(("cause", "what it means", "remedy", "who acts", "hint"), rows)


def published() -> str:
    """The published names."""
    return "".join(f"- `{name.value}`\n" for name in Published)


def policy() -> str:
    """Every number with its default."""
    about = attribute_docs(Policy)
    rows = ((f"`{f.name}`", number(f.default), about[f.name]) for f in fields(Policy))
    return table(("setting", "default", "meaning"), rows)


def presets() -> str:
    """What differs from the defaults, by platform."""
    rows = (
        (f"`{name}`", ", ".join(f"`{key}` {number(value)}" for key, value in numbers.items()))
        for name, numbers in PRESETS.items()
    )
    return table(("platform", "differs in"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "states": states,
    "remedies": remedies,
    "published": published,
    "policy": policy,
    "presets": presets,
}


def render(page: str) -> str:
    """The page with all generated parts as the code has them now. Raises StaleDocs."""
    for name, block in BLOCKS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        part = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text = f"{begin}\n{block()}\n{end}"
        page, count = part.subn(text.replace("\\", r"\\"), page)
        if count != 1:
            raise StaleDocs(f"the part {name!r} must be in the page once, it is {count} times")
    return page


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    old = PAGE.read_text(encoding="utf-8")
    try:
        new = render(old)
    except StaleDocs as error:
        print(f"{PAGE.name}: {error}")
        return 1
    if "--check" not in arguments:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{PAGE.name} is stale: run python tools/generate_docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
