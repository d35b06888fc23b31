"""Tables without colours, log lines without secrets."""

from __future__ import annotations

import builtins
import io
import json
import logging
import re
import sys
import threading
from pathlib import Path

import pytest

from holdfast.cli import logs, main, tables
from holdfast.cli.exits import Exit
from holdfast.cli.tables import Cell, Table, Tone, plain
from holdfast.config import build


class Terminal(io.StringIO):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def table() -> Table:
    found = Table(("NAME", "STATE", "WHY"))
    found.add("bot", Cell("connected", Tone.GOOD), "-")
    found.add("机器人", "fatal", "bad\x1b[2Jthing\nhere")
    return found


def test_plain_columns_are_aligned_also_beside_wide_characters() -> None:
    assert plain(table()) == [
        "NAME    STATE      WHY",
        "bot     connected  -",
        "机器人  fatal      bad [2Jthing here",
    ]


def test_a_fitted_table_cuts_its_last_column_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Table(("NAME", "WHY"), [("bot", Cell("机器人" * 9, Tone.BAD)), ("other", "fine")])
    monkeypatch.setenv("COLUMNS", "30")
    cut = tables.fitted(wide)
    assert plain(cut) == ["NAME   WHY", "bot    " + "机器人" * 3 + "机器…", "other  fine"]
    assert cut.rows[0][-1] == Cell("机器人" * 3 + "机器…", Tone.BAD)
    monkeypatch.setenv("COLUMNS", "10")
    assert plain(tables.fitted(wide))[1] == "bot    机器人机器…"
    monkeypatch.setenv("COLUMNS", "200")
    assert plain(tables.fitted(wide)) == plain(wide)


def test_no_escape_reaches_anything_but_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(table())
    tables.say("bad \x1b[31mnews", Tone.BAD)
    tables.clear()
    text = capsys.readouterr().out
    assert "connected" in text
    assert "news" in text
    assert "\x1b" not in text


def test_a_terminal_gets_colours_but_no_escapes_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    tables.show(table())
    tables.say("bad news", Tone.BAD)
    tables.clear()
    text = screen.getvalue()
    assert "\x1b[32mconnected" in text
    assert re.search(r"\x1b\[1;31mbad news", text)
    assert text.count("\x1b[2J") == 1


def test_a_terminal_without_colours_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    tables.show(table())
    assert "\x1b" not in screen.getvalue()
    assert "机器人  fatal" in screen.getvalue()


@pytest.mark.parametrize("colour", ["", "1"])
def test_nothing_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, colour: str) -> None:
    wide = Table(("NAME", "WHY"), [("bot", Cell("a word 机器人机器人 12345678901234567890"))])

    def shown(columns: int) -> list[str]:
        monkeypatch.setattr(sys, "stdout", screen := Terminal())
        monkeypatch.setenv("COLUMNS", str(columns))
        tables.show(wide)
        return [
            re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in screen.getvalue().split("\n")
        ]

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", colour)
    assert shown(80)[1:] == ["bot   a word 机器人机器人 12345678901234567890", ""]
    assert shown(22)[1:] == [
        "bot   a word",
        "      机器人机器人",
        "      1234567890123456",
        "      7890",
        "",
    ]
    assert shown(17)[:2] == ["NAME: bot", "  WHY:  a word"]


def test_a_long_line_goes_on_where_its_text_began(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "20")
    tables.say_under("ok  ", "clock, names and\x1b disk", Tone.GOOD)
    lines = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()).splitlines()
    assert lines == ["ok  clock, names and", "    disk"]


def test_everything_works_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    monkeypatch.setattr(tables, "find_spec", lambda name: None)

    def refuse(name: str, *others: object) -> object:
        assert not name.startswith("rich")
        return real(name, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    tables.show(table())
    tables.say("bad news", Tone.BAD)
    assert "connected" in screen.getvalue()
    assert screen.getvalue().endswith("bad news\n")


# -- logs -----------------------------------------------------------------------------------------

TOKEN = 'secret-"quoted"-\\'


DOCUMENT = {"accounts": {"bot": {"platform": "telegram", "token": TOKEN}}}


def redaction() -> logs.Redaction:
    made = logs.Redaction()
    made.hide(build(DOCUMENT, Path("holdfast.toml")))
    return made


def record(message: str, *args: object, **others: object) -> logging.LogRecord:
    made = logging.LogRecord("holdfast", logging.WARNING, "", 1, message, args, None)
    made.created = 1_700_000_000.25
    for name, value in others.items():
        setattr(made, name, value)
    return made


def test_a_line_of_pairs() -> None:
    line = logs.Lines(redaction()).format(record("lost account=%s retry_in=%.1f", "bot", 1.26))
    assert line == (
        "time=2023-11-14T22:13:20.250Z level=warning logger=holdfast "
        "event=lost account=bot retry_in=1.3"
    )


def test_a_json_line_has_the_pairs_as_members() -> None:
    made = record("lost account=%s message=%r attempt=%d level=%s 100%%", "bot", "it's", 3, "x")
    assert json.loads(logs.JsonLines(redaction()).format(made)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "holdfast",
        "event": "lost",
        "text": 'lost account=bot message="it\'s" attempt=3 level=x 100%',
        "account": "bot",
        "message": "it's",
        "attempt": 3,
    }


def test_a_json_line_without_pairs() -> None:
    line = json.loads(logs.JsonLines(redaction()).format(record("the loop: %s", "stuck")))
    assert (line["event"], line["text"]) == ("the loop: stuck", "the loop: stuck")


@pytest.mark.parametrize("kind", [logs.Lines, logs.JsonLines])
def test_a_secret_is_hidden_wherever_it_comes_from(kind: type[logs.Lines]) -> None:
    try:
        raise ValueError(f"can not reach http://x/bot{TOKEN}/getMe")
    except ValueError:
        line = kind(redaction()).format(record("url=%s", f"/bot{TOKEN}", exc_info=sys.exc_info()))
    assert "ValueError" in line
    assert "quoted" not in line
    assert line.count("***") >= 2


def test_set_up_takes_over_standard_error_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    before = root.level, logging.getLogger("asyncio").level
    try:
        logs.set_up("warning", logs.Format.KV).hide(build(DOCUMENT, Path("holdfast.toml")))
        logging.getLogger("holdfast").info("quiet")
        logging.getLogger("holdfast").error("loud token=%s", TOKEN)
    finally:
        root.setLevel(before[0])
        logging.getLogger("asyncio").setLevel(before[1])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.endswith("level=error logger=holdfast event=loud token=***\n")


def test_an_error_that_says_nothing_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(args: object) -> int:
        raise TimeoutError

    monkeypatch.setattr("holdfast.cli.setup.version", late)
    assert main(["version"]) != Exit.OK
    assert capsys.readouterr().err == "holdfast: TimeoutError\n"
