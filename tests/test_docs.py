"""Whatever a user can write, call or read is documented, and the documents are true.

Blocks of ``cli.md`` and ``configuration.md`` between ``<!-- generated: NAME -->`` and
``<!-- end -->`` are made from the source; ``python -m tests.test_docs`` writes them anew.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import msgspec
import pytest

from holdfast.adapters import BUILT_IN, find
from holdfast.cli import parser
from holdfast.cli.exits import Exit
from holdfast.config import AccountKeys, GatewaySettings
from holdfast.observe.status import AccountStatus, CauseStatus, ProofStatus, Status
from holdfast.supervision import PRESETS, RULES, Policy, Published
from holdfast.web import api

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

GENERATED = (DOCS / "cli.md", DOCS / "configuration.md")

BLOCK = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


# -- what the source says -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A field of a class, as its source documents it."""

    name: str
    text: str


def entries(kind: type) -> Iterator[Entry]:
    """The fields of a class with their docstrings, in order."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield Entry(node.target.id, _docstring(after))


def _docstring(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split()).replace("``", "`").replace("|", "\\|")
        case _:
            return ""


# -- generated blocks -----------------------------------------------------------------------------


def settings(kind: type[msgspec.Struct]) -> str:
    """A table of configuration keys."""
    described = {entry.name: entry.text for entry in entries(kind)}
    rows = ["| Key | Default | Meaning |", "|---|---|---|"]
    rows += [
        f"| `{info.name}` | {_default(info)} | {described[info.name]} |"
        for info in msgspec.structs.fields(kind)
    ]
    return "\n".join(rows)


def _default(info: msgspec.structs.FieldInfo) -> str:
    """A default as it would be written in TOML, or why there is none."""
    if info.required:
        return "required"
    factory = info.default_factory
    value = info.default if factory is msgspec.NODEFAULT else factory()
    return "unset" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def members(kind: type) -> str:
    """A table of the fields of a published document."""
    rows = ["| Field | Meaning |", "|---|---|"]
    rows += [f"| `{entry.name}` | {entry.text} |" for entry in entries(kind)]
    return "\n".join(rows)


def exits() -> str:
    """A table of exit codes."""
    described = {_name(node): text for node, text in _enum(Exit)}
    rows = ["| Code | Meaning |", "|---|---|"]
    rows += [f"| {exit.value} | {described[exit.name]} |" for exit in Exit]
    return "\n".join(rows)


def _enum(kind: type) -> Iterator[tuple[ast.Assign, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.Assign):
            yield node, _docstring(after)


def _name(node: ast.Assign) -> str:
    (target,) = node.targets
    assert isinstance(target, ast.Name)
    return target.id


def causes() -> str:
    """A table of cause kinds."""
    from holdfast.supervision import Kind

    described = {_name(node): text for node, text in _enum(Kind)}
    rows = ["| Kind | Meaning | What Holdfast does | Who acts |", "|---|---|---|---|"]
    rows += [
        f"| `{kind.value}` | {described[kind.name]} | {rule.remedy.value} | {rule.who.value} |"
        for kind, rule in RULES.items()
    ]
    return "\n".join(rows)


def presets() -> str:
    """A table of what the platforms' policies change, for those that can be configured."""
    rows = ["| Platform | Numbers that differ |", "|---|---|"]
    for platform in BUILT_IN:
        changed = {k: v for k, v in PRESETS.get(platform, {}).items() if k != "label"}
        text = ", ".join(f"`{key} = {value}`" for key, value in changed.items())
        rows.append(f"| {platform} | {text or 'none'} |")
    return "\n".join(rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": lambda: parser.reference().rstrip(),
    "exits": exits,
    "gateway": lambda: settings(GatewaySettings),
    "account": lambda: settings(AccountKeys),
    "presets": presets,
    "causes": causes,
    "status": lambda: members(Status),
    "account-status": lambda: members(AccountStatus),
    "cause-status": lambda: members(CauseStatus),
    "proof-status": lambda: members(ProofStatus),
    **{
        f"platform-{name}": lambda name=name: settings(find(name, "").Settings)  # type: ignore[misc]
        for name in BUILT_IN
    },
}


def renewed(text: str) -> str:
    """A document with its generated blocks as they should be."""

    def block(found: re.Match[str]) -> str:
        body = BLOCKS[found["name"]]()
        return f"<!-- generated: {found['name']} -->\n\n{body}\n\n<!-- end -->"

    return BLOCK.sub(block, text)


def everything() -> str:
    """All documents as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))


# -- the tests ------------------------------------------------------------------------------------


def test_generated_blocks_are_up_to_date() -> None:
    for path in GENERATED:
        text = path.read_text(encoding="utf-8")
        assert renewed(text) == text, f"{path.name}: run `python -m tests.test_docs`"


def test_every_block_is_in_a_document() -> None:
    texts = [path.read_text(encoding="utf-8") for path in GENERATED]
    assert sorted(found["name"] for text in texts for found in BLOCK.finditer(text)) == sorted(
        BLOCKS
    )


@pytest.mark.parametrize(
    "kind",
    [
        GatewaySettings,
        AccountKeys,
        Status,
        AccountStatus,
        CauseStatus,
        ProofStatus,
        *(find(name, "").Settings for name in BUILT_IN),
    ],
)
def test_every_field_has_an_explanation_and_a_row(kind: type) -> None:
    text = everything()
    found = list(entries(kind))
    assert {entry.name for entry in found} >= set(kind.__struct_fields__)  # type: ignore[attr-defined]
    for entry in found:
        assert entry.text, f"{kind.__name__}.{entry.name} has no docstring"
        assert f"| `{entry.name}` |" in text


@pytest.mark.parametrize("name", parser.COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = text.split(f"### `holdfast {name}`\n")[1].split("\n### ")[0]
    for action in parser.arguments(name):
        spelled = action.option_strings[0] if action.option_strings else str(action.metavar)
        assert f"| `{spelled}" in section
        assert action.help


def test_every_policy_key_is_documented_with_its_default() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for field in fields(Policy):
        if field.name == "label":
            continue
        assert field.default is not MISSING
        default = "none" if field.default is None else f"{field.default:g}"
        assert f"| `{field.name}` | {default} | " in text, field.name


def test_every_state_and_cause_is_documented() -> None:
    text = everything()
    for state in Published:
        assert f"| `{state.value}` |" in text
    for kind in RULES:
        assert f"| `{kind.value}` |" in text


def test_every_request_of_the_api_is_documented() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    source = inspect.getsource(api.Api.add_to)
    routes = re.findall(r"web\.(get|post)\((PREFIX|account)(?: \+ \"([^\"]+)\")?", source)
    assert len(routes) == 9
    for method, base, rest in routes:
        path = ("/api/v1" if base == "PREFIX" else "/api/v1/accounts/{name}") + rest
        assert f"`{method.upper()} {path}`" in text


def test_examples_of_configurations_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.config import load

    for name in ("TELEGRAM_TOKEN", "QQBOT_SECRET", "MATRIX_PASSWORD"):
        monkeypatch.setenv(name, "1:x")
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        path = tmp_path / "holdfast.toml"
        path.write_text(example, encoding="utf-8")
        assert load(path).accounts


# -- the service unit -----------------------------------------------------------------------------


def test_the_service_unit_never_gives_up_but_on_a_bad_configuration() -> None:
    lines = (ROOT / "deploy" / "holdfast.service").read_text(encoding="utf-8").splitlines()
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "Restart=always",
        "RestartSec=1s",
        "StartLimitIntervalSec=0",
        f"RestartPreventExitStatus={Exit.CONFIG.value}",
    ):
        assert line in lines


if __name__ == "__main__":
    for place in GENERATED:
        place.write_text(renewed(place.read_text(encoding="utf-8")), encoding="utf-8")
