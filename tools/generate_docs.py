"""Writes the generated blocks of the pages under ``docs/``; ``--check`` fails if any is stale.

A block stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``, each on a line of its own.
Everything outside is written by hand and left alone. Every block stands in exactly one place.

    python tools/generate_docs.py [--check]
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from holdfast.adapter import Secret
from holdfast.adapters import BUILT_IN
from holdfast.cli import parser
from holdfast.cli.exits import Exit
from holdfast.config import (
    AccountKeys,
    AccountWay,
    AlertSettings,
    CommandWay,
    GatewaySettings,
    HookWay,
    WebSettings,
)
from holdfast.conformance import Bench, Suite, expected_rows, to_markdown
from holdfast.conformance.bench import SILENCE
from holdfast.observe.alert_words import AlertDocument, AlertLine
from holdfast.observe.history import Uptime
from holdfast.observe.incidents import Action, Incident, Moment
from holdfast.observe.status import AccountStatus, CauseStatus, ProofStatus, Status
from holdfast.platforms import find
from holdfast.supervision import PRESETS, RULES, Kind, Policy, Published, State
from holdfast.supervision.states import ACTS, diagram
from holdfast.web.events import Event
from holdfast.web.guard import Refusal
from holdfast.web.probes import NotReady, Readiness
from holdfast.web.server import table as operations

DOCS = Path(__file__).resolve().parent.parent / "docs"

MARKER = re.compile(r"^<!-- (?:generated: (?P<name>[\w-]+)|end\b.*) -->$", re.MULTILINE)

BLOCK = re.compile(r"^<!-- generated: ([\w-]+) -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


class MarkerError(Exception):
    """The markers of the pages are not those of the blocks; the message says which and where."""


# -- what the source says -------------------------------------------------------------------------


def attribute_docs(owner: type) -> dict[str, str]:
    """The string below each attribute of a class body, as one line; empty where there is none."""
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


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the head is written out, the cells of the rows are escaped."""
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in cells)])


# -- the blocks of supervision.md -----------------------------------------------------------------


def number(value: Any) -> str:
    """A default as people write it."""
    if value is None:
        return "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def states() -> str:
    """The diagram, and who must act in each state."""
    head = "| state | who acts |\n| --- | --- |"
    acting = table(head, ((f"`{state.name}`", ACTS[state]) for state in State))
    return f"```mermaid\n{diagram()}```\n\n{acting}"


def published() -> str:
    """The published names."""
    return "\n".join(f"- `{name.value}`" for name in Published)


def remedies() -> str:
    """The table from causes to remedies."""
    about = attribute_docs(Kind)
    head = "| cause | what it means | remedy | who acts | hint |\n| --- | --- | --- | --- | --- |"
    rows = (
        (f"`{kind.value}`", about[kind.name], rule.remedy.value, rule.who.value, rule.hint)
        for kind, rule in RULES.items()
    )
    return table(head, rows)


def policy() -> str:
    """Every number with its default."""
    about = attribute_docs(Policy)
    head = "| setting | default | meaning |\n| --- | --- | --- |"
    rows = (
        (f"`{field.name}`", number(field.default), about[field.name]) for field in fields(Policy)
    )
    return table(head, rows)


def presets() -> str:
    """What differs from the defaults, by platform."""
    head = "| platform | differs in |\n| --- | --- |"
    rows = (
        (f"`{name}`", ", ".join(f"`{key}` {number(value)}" for key, value in numbers.items()))
        for name, numbers in PRESETS.items()
    )
    return table(head, rows)


# -- the blocks of configuration.md ---------------------------------------------------------------


def settings(kind: type[msgspec.Struct]) -> str:
    """The keys of a table of the configuration."""
    about = attribute_docs(kind)
    rows = (
        (f"`{info.name}`", default(info), about[info.name]) for info in msgspec.structs.fields(kind)
    )
    return table("| Key | Default | Meaning |\n|---|---|---|", rows)


def default(info: msgspec.structs.FieldInfo) -> str:
    """A default as it would be written in TOML, or why there is none."""
    if info.required:
        return "required"
    factory = info.default_factory
    value = info.default if factory is msgspec.NODEFAULT else factory()
    if value is None or isinstance(value, Secret):  # the default of a secret can only be none
        return "unset"
    return f"`{msgspec.json.encode(value).decode()}`"


def configurable_presets() -> str:
    """What the platforms that can be configured change, as it would be written in TOML."""
    rows = []
    for platform in BUILT_IN:
        changed = {k: v for k, v in PRESETS.get(platform, {}).items() if k != "label"}
        text = ", ".join(f"`{key} = {value}`" for key, value in changed.items())
        rows.append((platform, text or "none"))
    return table("| Platform | Numbers that differ |\n|---|---|", rows)


# -- the blocks of cli.md -------------------------------------------------------------------------


def exits() -> str:
    """The exit codes."""
    about = attribute_docs(Exit)
    rows = ((f"{exit.value}", about[exit.name]) for exit in Exit)
    return table("| Code | Meaning |\n|---|---|", rows)


def commands() -> str:
    """Every command with its arguments."""
    return parser.reference().rstrip()


def causes() -> str:
    """The cause kinds, without the hints that the commands print themselves."""
    about = attribute_docs(Kind)
    rows = (
        (f"`{kind.value}`", about[kind.name], rule.remedy.value, rule.who.value)
        for kind, rule in RULES.items()
    )
    return table("| Kind | Meaning | What Holdfast does | Who acts |\n|---|---|---|---|", rows)


def members(kind: type) -> str:
    """The fields of a published document."""
    rows = ((f"`{name}`", text) for name, text in attribute_docs(kind).items())
    return table("| Field | Meaning |\n|---|---|", rows)


# -- the blocks of api.md -------------------------------------------------------------------------


def requests() -> str:
    """Every request of the API."""
    rows = (
        (
            f"`{one.method} {one.path}`",
            one.about + (" Only on the control socket." if one.local else ""),
            ", ".join(f"`{query.name}`" for query in one.query),
            f"`{one.body.__name__}`" if one.body else "",
            f"`{_spelled(one.answer)}`",
        )
        for one in operations()
    )
    return table("| Request | What it does | Query | Body | Answer |\n|---|---|---|---|---|", rows)


def _spelled(kind: Any) -> str:
    """A type as it is written in an annotation."""
    return kind.__name__ if isinstance(kind, type) and "[" not in repr(kind) else _short(repr(kind))


def _short(text: str) -> str:
    return re.sub(r"[\w.]+\.(\w+)", r"\1", text)


def refusals() -> str:
    """Why requests are refused."""
    about = attribute_docs(Refusal)
    rows = ((f"`{why.value}`", about[why.name]) for why in Refusal)
    return table("| Reason | What was refused |\n|---|---|", rows)


# -- the block of mcp.md --------------------------------------------------------------------------


def mcp_tools() -> str:
    """The tools of the MCP server, those that change nothing first."""
    from holdfast.mcp.desk import Desk
    from holdfast.mcp.server import build

    tools = asyncio.run(build(Desk(Path())).list_tools())
    rows = (
        (
            f"`{tool.name}`",
            ", ".join(f"`{name}`" for name in tool.input_schema["properties"]),
            " ".join((tool.description or "").split("\n\n")[0].split()),
            "no" if tool.annotations and tool.annotations.read_only_hint else "yes",
        )
        for tool in tools
    )
    return table(
        "| Tool | Arguments | What it is for | Changes anything |\n|---|---|---|---|", rows
    )


# -- the block of conformance.md ------------------------------------------------------------------


def benches() -> list[Bench[Any]]:
    """The bench of every built-in platform, from its module among the tests."""
    found: list[Bench[Any]] = []
    for name in BUILT_IN:
        members = vars(import_module(f"tests.conformance.test_{name}")).values()
        suites = (m for m in members if isinstance(m, type) and issubclass(m, Suite))
        found += [suite.bench for suite in suites if suite is not Suite]
    return found


def conformance() -> str:
    """The results that the suites enforce, and the silence they allow; nothing is run."""
    longer = [f"{b.silence:g} s on {b.platform}" for b in benches() if b.silence != SILENCE]
    limits = ", ".join([f"{SILENCE:g} s", *longer])
    return f"{to_markdown(expected_rows(*benches()))}\nSilence limit: {limits}."


BLOCKS: Mapping[str, Callable[[], str]] = {
    "states": states,
    "published": published,
    "remedies": remedies,
    "policy": policy,
    "presets": presets,
    "gateway": partial(settings, GatewaySettings),
    "web": partial(settings, WebSettings),
    "account": partial(settings, AccountKeys),
    **{f"platform-{name}": partial(settings, find(name, "").Settings) for name in BUILT_IN},
    "configurable-presets": configurable_presets,
    "alerts": partial(settings, AlertSettings),
    "alert-account": partial(settings, AccountWay),
    "alert-hook": partial(settings, HookWay),
    "alert-command": partial(settings, CommandWay),
    "alert-document": partial(members, AlertDocument),
    "alert-line": partial(members, AlertLine),
    "exits": exits,
    "commands": commands,
    "causes": causes,
    "status": partial(members, Status),
    "account-status": partial(members, AccountStatus),
    "cause-status": partial(members, CauseStatus),
    "proof-status": partial(members, ProofStatus),
    "mcp-tools": mcp_tools,
    "conformance": conformance,
    "api": requests,
    "incident": partial(members, Incident),
    "moment": partial(members, Moment),
    "uptime": partial(members, Uptime),
    "action": partial(members, Action),
    "event": partial(members, Event),
    "readiness": partial(members, Readiness),
    "not-ready": partial(members, NotReady),
    "refusals": refusals,
}


# -- the pages ------------------------------------------------------------------------------------


def read(docs: Path) -> dict[Path, str]:
    """All pages of a folder, in order."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(docs.rglob("*.md"))}


def block_names(page: str) -> list[str]:
    """The blocks of a page in order. Raises MarkerError unless each begin has its own end."""
    markers = list(MARKER.finditer(page))
    begins, ends = markers[::2], markers[1::2]
    if (
        len(begins) != len(ends)
        or any(begin["name"] is None for begin in begins)
        or any(end[0] != "<!-- end -->" for end in ends)
    ):
        raise MarkerError("every `<!-- generated: NAME -->` needs its own `<!-- end -->`")
    return [begin["name"] for begin in begins]


def renewed(pages: Mapping[Path, str]) -> dict[Path, str]:
    """The pages with all blocks as the code has them now.

    Raises MarkerError if a marker has no partner, or a block does not stand in exactly one place.
    """
    places: Counter[str] = Counter()
    for path, page in pages.items():
        try:
            places.update(block_names(page))
        except MarkerError as error:
            raise MarkerError(f"{path.name}: {error}") from None
    for name in sorted(places.keys() | BLOCKS.keys()):
        if name not in BLOCKS:
            raise MarkerError(f"there is no block {name!r}")
        if places[name] != 1:
            raise MarkerError(f"block {name!r} must stand in one place, not in {places[name]}")
    return {path: BLOCK.sub(_block, page) for path, page in pages.items()}


def _block(found: re.Match[str]) -> str:
    return f"<!-- generated: {found[1]} -->\n\n{BLOCKS[found[1]]()}\n\n<!-- end -->"


def main(arguments: list[str], docs: Path = DOCS) -> int:
    """Write or check; the exit code. Nothing is written if a marker is wrong."""
    old = read(docs)
    try:
        new = renewed(old)
    except MarkerError as error:
        print(error)
        return 1
    stale = [path for path in old if old[path] != new[path]]
    if "--check" in arguments:
        for path in stale:
            print(f"docs/{path.relative_to(docs).as_posix()} is stale: run `make docs`")
        return bool(stale)
    for path in stale:
        path.write_text(new[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.append(str(DOCS.parent))  # the benches are among the tests
    sys.exit(main(sys.argv[1:]))
