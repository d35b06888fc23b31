"""Whatever a user can write, call or read is documented, and the documents are true."""

from __future__ import annotations

import ast
import re
import shutil
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from tools import generate_docs

from holdfast.adapters import BUILT_IN
from holdfast.cli import parser
from holdfast.config import (
    AccountKeys,
    AccountWay,
    AlertSettings,
    CommandWay,
    GatewaySettings,
    HookWay,
    WebSettings,
)
from holdfast.observe.alert_words import AlertDocument, AlertLine
from holdfast.observe.history import Uptime
from holdfast.observe.incidents import Action, Incident, Moment
from holdfast.observe.metrics import METRICS
from holdfast.observe.status import AccountStatus, CauseStatus, ProofStatus, Status
from holdfast.platforms import find
from holdfast.supervision import RULES, Policy, Published
from holdfast.supervision.policy import preset
from holdfast.web.events import Event
from holdfast.web.guard import Refusal
from holdfast.web.probes import NotReady, Readiness
from holdfast.web.server import table as operations

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def everything() -> str:
    """All documents as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of the documents."""
    return Path(shutil.copytree(DOCS, tmp_path / "docs"))


# -- generated blocks -----------------------------------------------------------------------------


def test_generated_blocks_are_up_to_date() -> None:
    texts = generate_docs.read(DOCS)
    renewed = generate_docs.renewed(texts)
    for path, text in texts.items():
        assert renewed[path] == text, f"{path.name}: run `make docs`"


def test_every_block_is_in_a_document() -> None:
    texts = generate_docs.read(DOCS).values()
    assert sorted(name for text in texts for name in generate_docs.block_names(text)) == sorted(
        generate_docs.BLOCKS
    )


def test_a_stale_page_is_named_and_renewed(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = pages / "cli.md"
    fresh = page.read_text(encoding="utf-8")
    stale = fresh.replace("<!-- generated: exits -->\n", "<!-- generated: exits -->\nold\n")
    page.write_text(stale, encoding="utf-8")
    assert generate_docs.main(["--check"], pages) == 1
    assert capsys.readouterr().out == "docs/cli.md is stale: run `make docs`\n"
    assert page.read_text(encoding="utf-8") == stale
    assert generate_docs.main([], pages) == 0
    assert page.read_text(encoding="utf-8") == fresh
    assert generate_docs.main(["--check"], pages) == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<!-- generated: exits -->", "", "every `<!-- generated: NAME -->` needs"),
        ("<!-- end -->", "", "every `<!-- generated: NAME -->` needs"),
        ("<!-- end -->", "<!-- end: exits -->", "every `<!-- generated: NAME -->` needs"),
        ("generated: exits", "generated: entrances", "there is no block 'entrances'"),
        (
            "generated: exits",
            "generated: causes",
            "block 'causes' must stand in one place, not in 2",
        ),
        ("<!-- generated: exits -->\n<!-- end -->", "", "block 'exits' must stand in one place"),
    ],
)
def test_a_wrong_marker_is_told_and_nothing_is_written(
    pages: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, problem: str
) -> None:
    page = pages / "cli.md"
    text = generate_docs.BLOCK.sub(
        lambda found: f"<!-- generated: {found[1]} -->\n<!-- end -->",
        page.read_text(encoding="utf-8"),
    )
    wrong = text.replace(old, new, 1)
    assert wrong != text
    page.write_text(wrong, encoding="utf-8")
    assert generate_docs.main([], pages) == 1
    assert problem in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == wrong


# -- what must be documented ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        GatewaySettings,
        AccountKeys,
        AlertSettings,
        AccountWay,
        HookWay,
        CommandWay,
        AlertDocument,
        AlertLine,
        Status,
        AccountStatus,
        CauseStatus,
        ProofStatus,
        WebSettings,
        Incident,
        Moment,
        Uptime,
        Action,
        Event,
        Readiness,
        NotReady,
        *(find(name, "").Settings for name in BUILT_IN),
    ],
)
def test_every_field_has_an_explanation_and_a_row(kind: type) -> None:
    text = everything()
    found = generate_docs.attribute_docs(kind)
    assert found.keys() >= set(kind.__struct_fields__)  # type: ignore[attr-defined]
    for name, explanation in found.items():
        assert explanation, f"{kind.__name__}.{name} has no docstring"
        assert f"| `{name}` |" in text


NOT_CODES = {"whatsapp_business_account", "whatsapp_business_api_data"}
"""Words of Meta's API that look like codes of ours."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_setting_and_every_cause_of_a_platform_is_on_its_page(name: str) -> None:
    page = (DOCS / "platforms" / f"{name}.md").read_text(encoding="utf-8")
    for field in find(name, "").Settings.__struct_fields__:
        assert f"| `{field}` |" in page, field
    texts = {
        node.value
        for file in sorted((ROOT / "src" / "holdfast" / "adapters").glob(f"{name}*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    form = re.compile(rf"{preset(name).label}_[a-z0-9_]+")
    codes = {text for text in texts if form.fullmatch(text)} - NOT_CODES
    assert codes
    for code in sorted(codes):
        # What ends in "_" is the beginning of a family, such as `qq_close_4009`.
        assert f"`{code}" in page if code.endswith("_") else re.search(rf"`{code}(_\.\.\.)?`", page)


@pytest.mark.parametrize("name", parser.COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for verb in parser.verbs_of(name) or [""]:
        heading = f"`holdfast {name} {verb}".rstrip()
        section = re.split(r"\n##", text.split(f"# {heading}`\n")[1])[0]
        rows = re.findall(r"^\| `([^ `]+).*?` \| (.*) \|$", section, re.MULTILINE)
        assert rows == [
            (action.option_strings[0] if action.option_strings else action.metavar, action.help)
            for action in parser.arguments(name, verb)
        ]


def test_the_commands_without_json_are_named() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"^Every command but (.*) has `--json`", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", told) == [
        name
        for name in parser.COMMANDS
        for verb in parser.verbs_of(name) or [""]
        if "json" not in {action.dest for action in parser.arguments(name, verb)}
    ]


def test_every_room_is_in_the_table_of_the_design() -> None:
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    table = page.split("## Rooms and arrows")[1].split("\n## ")[0]
    told = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    arrows = project["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = re.findall(r"holdfast\.(\w+)", " ".join(arrows))
    assert sorted(told) == sorted([*rooms, "adapters"])  # which a contract of their own keeps apart


def test_every_make_target_is_told_to_contributors() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `make (\w+)` \|", page, re.MULTILINE)) == set(phony.split())


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


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    assert [row[:3] for row in rows] == [
        (
            metric.name,
            metric.type.value,
            ", ".join(f"`{label}`" for label in metric.labels) or "none",
        )
        for metric in METRICS
    ]
    for name, _, _, unit in rows:
        assert ("_seconds" in name) == (unit == "seconds"), name


def test_every_request_of_the_api_is_documented() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    told = operations()
    assert len(told) >= 25
    for why in Refusal:
        assert f"| `{why.value}` |" in text
    for one in told:
        assert f"| `{one.method} {one.path}` | {one.about}" in text


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
