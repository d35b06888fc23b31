"""Help that a newcomer understands, and exit code 2 for a wrong command line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from holdfast import __version__
from holdfast.cli import main
from holdfast.cli.catalogue import BOXES, VERBS
from holdfast.cli.exits import Exit
from holdfast.cli.parser import COMMANDS, build


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main([name, "--help"]) == Exit.OK
    text = capsys.readouterr().out
    assert f"example: {COMMANDS[name].example}" in text
    assert COMMANDS[name].text in text


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_command_leads_to_a_function_and_its_example_parses(command: object) -> None:
    name, run = command.name, command.run  # type: ignore[attr-defined]
    module, _, function = run.partition(":")
    functions = [function] if function else [verb.function for verb in VERBS.values()]
    assert all(callable(getattr(import_module(module), one)) for one in functions)
    words = shlex.split(COMMANDS[name].example)
    assert words[0] == "holdfast"
    assert build().parse_args(words[1:]).command == name


def test_no_command_is_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == Exit.USAGE
    text = capsys.readouterr().err
    assert all(f"    {name} " in text for name in COMMANDS)
    assert "exit codes: 0 it worked" in text


@pytest.mark.parametrize(
    "line",
    [
        "jump",
        "kick",
        "kick bot --all",
        "explain",
        "history --limit 0",
        "history --limit many",
        "init --platform irc",
        "run --log-level loud",
        "demo --seconds -1",
        "demo --seconds soon",
        "demo --port 99999",
        "status extra",
        "dead",
        "dead bury in-1",
        "dead show",
        "dead list --state done",
        "inbox list --state sent",
        "outbox list --limit 0",
        "gaps --dismiss first",
        "send bot 1",
        "backup",
    ],
)
def test_a_wrong_command_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == Exit.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_a_box_has_help_and_leads_to_its_function(
    box: str, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main([box, verb, "--help"]) == Exit.OK
    assert VERBS[verb].text in capsys.readouterr().out
    args = build().parse_args([box, verb, *(["in-1"] if verb != "list" else [])])
    assert (args.command, args.verb) == (box, verb)
    assert args.run == f"holdfast.cli.boxes:{VERBS[verb].function}"


def test_names_may_stand_before_and_after_the_options() -> None:
    for line in ("dead drop in-1 out-2 --yes", "dead drop --yes in-1 out-2"):
        assert build().parse_args(line.split()).names == ["in-1", "out-2"]


def test_a_chat_may_be_a_negative_number() -> None:
    args = build().parse_args(["send", "bot", "-100123", "hello"])
    assert (args.chat, args.text) == ("-100123", "hello")
    assert build().parse_args("dead list --chat -100123".split()).chat == "-100123"


@pytest.mark.parametrize(
    "line",
    ["--config c.toml status", "status --config c.toml", "dead list --config c.toml"],
)
def test_the_configuration_may_be_named_before_and_after(line: str) -> None:
    assert build().parse_args(line.split()).config == Path("c.toml")


def test_the_configuration_is_found_by_environment_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    assert main(["status"]) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("holdfast: holdfast.toml: there is no such file")
    monkeypatch.setenv("HOLDFAST_CONFIG", "other.toml")
    assert main(["status"]) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("holdfast: other.toml: there is no such file")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == Exit.OK
    assert capsys.readouterr().out == f"holdfast {__version__}\n"
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out == f"holdfast {__version__}\n"
    assert main(["version", "--json"]) == Exit.OK
    assert capsys.readouterr().out == f'{{"version":"{__version__}"}}\n'


@pytest.mark.parametrize(
    ("words", "exit", "own"),
    [(["status"], 4, set()), (["dead", "list"], 0, {"sqlite3"}), (["gaps"], 0, {"sqlite3"})],
)
def test_looking_loads_no_server_no_adapter_and_no_rich(
    tmp_path: Path, words: list[str], exit: int, own: set[str]
) -> None:
    config = tmp_path / "holdfast.toml"
    config.write_text('[accounts.bot]\nplatform = "telegram"\ntoken = { env = "UNSET" }\n')
    script = (
        "import sys; from holdfast.cli import main;"
        f"code = main(['--config', {str(config)!r}, *{words!r}]);"
        "bad = {'aiohttp', 'rich', 'sqlite3', 'uvloop', 'holdfast.gateway',"
        " 'holdfast.adapters.telegram'} & set(sys.modules);"
        f"assert code == {exit}, code; assert bad == {own!r}, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_who_leaves_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m holdfast.cli --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["version >&-", "version >&- 2>&-", "version <&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(line: str) -> None:
    command = f"{sys.executable} -m holdfast.cli {line}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.OK, "", "")


@pytest.mark.parametrize(
    ("line", "name"),
    [("send bot 1", "text"), ("explain", "account"), ("gaps", "account"), ("backup", "file")],
)
def test_an_argument_that_is_no_text(
    line: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line.split(), "caf\udce9"]) == Exit.USAGE
    assert capsys.readouterr().err == f"holdfast: {name} 'caf\\udce9' is not UTF-8\n"
