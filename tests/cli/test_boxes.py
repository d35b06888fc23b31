"""inbox, outbox, dead, gaps, send and backup without a gateway: on the journal itself."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import stat
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import main
from holdfast.cli.boxes import MEANINGS
from holdfast.cli.exits import Exit
from holdfast.cli.journal import JOURNAL
from holdfast.platforms import find
from holdfast.store.protocol import Box
from holdfast.store.sqlite import SqliteStore
from holdfast.web import control
from holdfast.web.letters import STATES
from tests.cli.journal import CONFIG, at, fill, heard
from tests.cli.test_output import Terminal


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of the configuration that commands find; it holds a journal."""
    config = tmp_path / "holdfast.toml"
    config.write_text(CONFIG)
    monkeypatch.setenv("HOLDFAST_CONFIG", str(config))
    at(tmp_path / "state", fill)
    return tmp_path / "state"


Output = pytest.CaptureFixture[str]


def shown(capsys: Output, *words: str, exit: Exit = Exit.OK) -> Any:
    """What a command prints as JSON."""
    assert main([*words, "--json"]) == exit
    return json.loads(capsys.readouterr().out)


def names(document: Any) -> list[str]:
    return [message["name"] for message in document["messages"]]


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


# -- list -----------------------------------------------------------------------------------------


def test_the_boxes_the_newest_last(state: Path, capsys: Output) -> None:
    assert names(shown(capsys, "inbox", "list")) == ["in-1", "in-2", "in-3"]
    assert names(shown(capsys, "outbox", "list")) == ["out-1", "out-2", "out-3"]
    dead = shown(capsys, "dead", "list")
    assert sorted(names(dead)) == ["in-2", "in-3", "out-2", "out-3"]
    assert (dead["source"], dead["more"]) == ("journal", False)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("inbox list --chat 9313", ["in-3"]),
        ("inbox list --state done", ["in-1"]),
        ("inbox list --limit 1", ["in-3"]),
        ("outbox list --state sent --state ambiguous", ["out-1", "out-3"]),
        ("dead list --state ambiguous", ["out-3"]),
        ("dead list --chat 9313 --account bot", ["in-3"]),
        ("inbox list --state received", []),
    ],
)
def test_filters(state: Path, capsys: Output, line: str, found: list[str]) -> None:
    assert names(shown(capsys, *line.split())) == found


def test_the_table_of_the_dead_says_why(state: Path, capsys: Output) -> None:
    assert main(["dead", "list"]) == Exit.OK
    output = capsys.readouterr()
    head, *lines = output.out.splitlines()
    assert head.split() == ["NAME", "ACCOUNT", "CHAT", "STATE", "AGE", "WHY"]
    rows = {line.split()[0]: line for line in lines}
    assert rows["in-2"].split()[1:4] == ["bot", "4217", "dead"]
    assert "RuntimeError: the model is down" in rows["in-2"]
    assert output.err == f"holdfast: no gateway is running on {state}; this is from its journal\n"


def test_a_list_fits_80_columns_whatever_is_in_it(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    bad = heard("d", chat="很长" * 20, text="你好 \x1b[2J\n" * 50)
    at(state, lambda store: store.receive("bot", [bad], None))
    assert main(["inbox", "list"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert max(columns(line) for line in lines) <= 80
    assert "\x1b" not in "".join(lines)
    assert lines[-1].count("…") == 2
    assert main(["inbox", "show", "in-4"]) == Exit.OK
    assert capsys.readouterr().out.count("    你好") == 50


def test_show_keeps_labels_apart_from_what_they_tell(state: Path, capsys: Output) -> None:
    async def fail(store: SqliteStore) -> None:
        (row,) = await store.receive("bot", [heard("d")], None)
        await store.begin(row.row)
        await store.release(row.row, "TypeError: no")

    at(state, fail)
    assert main(["inbox", "show", "in-4"]) == Exit.OK
    assert "  Last trouble: TypeError: no\n" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_list_is_printed_whatever_the_locale(
    state: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    said = "naïve 机器人"
    at(state, lambda store: store.receive("bot", [heard("d", text=said)], None))
    for words in (["inbox", "list"], ["inbox", "show", "in-4"], ["inbox", "list", "--json"]):
        screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", screen)
        assert main(words) == Exit.OK
        shown = screen.buffer.getvalue()
        if "--json" in words:
            assert json.loads(shown)["messages"][-1]["text"] == said
        else:
            assert said.encode(encoding, "backslashreplace") in shown


def test_what_was_left_out_is_told(state: Path, capsys: Output) -> None:
    main(["dead", "list", "--limit", "2"])
    assert capsys.readouterr().out.startswith("the newest 2 only; see --limit\n")


def test_nothing_dead_is_said_in_words(state: Path, capsys: Output) -> None:
    assert main(["dead", "drop", "--all", "--yes"]) == Exit.OK
    capsys.readouterr()
    assert main(["dead", "list"]) == Exit.OK
    assert capsys.readouterr().out == "nothing waits for a person\n"
    assert main(["dead", "drop", "--all"]) == Exit.OK
    assert capsys.readouterr().out == "nothing waits for a person\n"


@pytest.mark.parametrize("command", ["inbox", "outbox", "dead"])
def test_an_account_that_there_is_not(state: Path, capsys: Output, command: str) -> None:
    assert main([command, "list", "--account", "bto"]) == Exit.FAILED
    assert "there is no account 'bto'; there are: bot" in capsys.readouterr().err


# -- show -----------------------------------------------------------------------------------------


def test_every_state_is_explained() -> None:
    assert set(MEANINGS) == {(box, state) for box in Box for state in STATES[box]}


def test_show_says_what_is_known_and_what_to_do(state: Path, capsys: Output) -> None:
    assert main(["dead", "show", "in-2", "out-3"]) == Exit.OK
    text = capsys.readouterr().out
    for part in (
        "From:       Ann (u1)",
        "State:      dead: the agent failed",
        "Why:        RuntimeError: the model is down",
        "`holdfast dead retry in-2`",
        "Attempts:   1",
        "    text b",
        "State:      ambiguous: nobody knows whether it arrived",
        "look into the chat",
        "`holdfast dead drop out-3`",
    ):
        assert part in text
    assert main(["outbox", "show", "out-1"]) == Exit.OK
    text = capsys.readouterr().out
    assert "Sent as:    77" in text
    assert "What to do" not in text


@pytest.mark.parametrize(
    ("line", "exit", "error"),
    [
        ("inbox show in-99", Exit.FAILED, "there is no message in-99"),
        ("inbox show out-1", Exit.USAGE, "out-1 is in the outbox"),
        ("dead show 7", Exit.USAGE, "'7' is not the name of a message"),
        ("dead drop", Exit.USAGE, "say --all"),
        ("dead drop in-2 --all", Exit.USAGE, "not both"),
        ("outbox retry in-2", Exit.USAGE, "in-2 is in the inbox"),
        ("gaps --dismiss 99", Exit.FAILED, "99"),
    ],
)
def test_mistakes(state: Path, capsys: Output, line: str, exit: Exit, error: str) -> None:
    assert main(line.split()) == exit
    told = capsys.readouterr()
    assert error in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
    assert len(names(shown(capsys, "dead", "list"))) == 4


# -- retry and drop -------------------------------------------------------------------------------


def test_what_is_retried_waits_for_the_next_gateway(state: Path, capsys: Output) -> None:
    assert main(["dead", "retry", "in-2", "out-3"]) == Exit.OK
    output = capsys.readouterr()
    assert output.out == "in-2: retried, now received\nout-3: retried, now owed\n"
    assert output.err.count("\n") == 1
    assert "its journal is changed, for the next one to take up" in output.err
    (waiting,) = at(state, lambda store: store.unhandled("bot"))
    assert (waiting.message.id, waiting.attempts) == ("b", 0)
    (owed,) = at(state, lambda store: store.owed("bot"))
    assert (owed.message.key, owed.maybe_doubled) == ("k3", True)
    (line,) = shown(capsys, "history", "bot", "--limit", "1")
    assert line["trigger"] == "operator: retried in-2, out-3"


def test_what_can_not_be_mended_is_told_and_the_rest_is_done(state: Path, capsys: Output) -> None:
    assert main(["dead", "drop", "in-1", "in-2", "in-99"]) == Exit.FAILED
    output = capsys.readouterr()
    assert output.out == "in-2: dropped, now dropped\n"
    assert "holdfast: in-1 is not dropped: " in output.err
    assert "holdfast: in-99 is not dropped: " in output.err
    found = shown(capsys, "dead", "drop", "in-2", "in-3", exit=Exit.FAILED)
    assert [bool(result["error"]) for result in found["results"]] == [True, False]


def test_all_that_the_filters_let_through(state: Path, capsys: Output) -> None:
    found = shown(capsys, "dead", "drop", "--all", "--yes", "--chat", "4217")
    assert sorted(result["name"] for result in found["results"]) == ["in-2", "out-2", "out-3"]
    assert names(shown(capsys, "dead", "list")) == ["in-3"]


def test_all_is_more_than_one_page_and_the_oldest_come_first(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.cli.boxes.MOST", 1)
    monkeypatch.setattr("holdfast.cli.boxes.AT_ONCE", 1)
    assert main(["inbox", "retry", "--all", "--yes"]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "in-2: retried, now received",
        "in-3: retried, now received",
    ]


@pytest.mark.parametrize(
    ("answer", "exit", "left"), [("y\n", Exit.OK, 0), ("\n", Exit.FAILED, 4), ("", Exit.FAILED, 4)]
)
def test_all_is_confirmed(
    state: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    exit: Exit,
    left: int,
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["dead", "drop", "--all"]) == exit
    assert "drop 4 messages (bot), the oldest of" in capsys.readouterr().err
    assert len(names(shown(capsys, "dead", "list"))) == left


def test_nobody_there_to_confirm(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["dead", "drop", "--all"]) == Exit.USAGE
    assert "add --yes" in capsys.readouterr().err
    assert len(names(shown(capsys, "dead", "list"))) == 4


# -- gaps, send and backup ------------------------------------------------------------------------


def test_gaps_until_they_are_dismissed(state: Path, capsys: Output) -> None:
    found = shown(capsys, "gaps")
    (gap,) = found["gaps"]
    assert (gap["account"], gap["reason"]) == ("bot", "a fresh login")
    number = str(gap["number"])
    assert main(["gaps", "bot"]) == Exit.OK
    row = capsys.readouterr().out.splitlines()[1]
    assert row.startswith(number)
    assert "1 min" in row
    assert main(["gaps", "--dismiss", number]) == Exit.OK
    assert f"gap {number} of bot" in capsys.readouterr().out
    assert main(["gaps"]) == Exit.OK
    assert capsys.readouterr().out == "no gap that was not dismissed\n"
    assert main(["gaps", "bto"]) == Exit.FAILED


def test_send_without_a_gateway_is_owed(state: Path, capsys: Output) -> None:
    assert main(["send", "bot", "4217", "news"]) == Exit.OK
    name = capsys.readouterr().out.strip()
    assert name == "out-4"
    (owed,) = at(state, lambda store: store.owed("bot"))
    assert (owed.message.text, owed.message.chat) == ("news", "4217")
    assert names(shown(capsys, "outbox", "list", "--state", "owed")) == [name]


def test_send_reads_standard_input_and_splits_what_is_too_long(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = find("telegram", "").traits.max_text
    monkeypatch.setattr(sys, "stdin", io.StringIO("word " * (most // 4)))
    found = shown(capsys, "send", "bot", "4217", "-")
    assert len(found["messages"]) == 2
    assert found["source"] == "journal"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("bto", "4217", "x"), "there is no account 'bto'; there are: bot"),
        (("off", "4217", "x"), "there is no account 'off'"),
        (("bot", "1", "x"), "--anyway"),
        (("bot", "4217", ""), "no text"),
    ],
)
def test_what_can_not_be_sent(
    state: Path, capsys: Output, words: tuple[str, ...], error: str
) -> None:
    assert main(["send", *words]) == Exit.FAILED
    assert error in capsys.readouterr().err
    assert at(state, lambda store: store.owed("bot")) == []


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_is_no_text_on_standard_input(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    given = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", given)
    assert main(["send", "bot", "4217", "-"]) == Exit.USAGE
    assert capsys.readouterr().err == "holdfast: the text on standard input is not UTF-8\n"
    assert at(state, lambda store: store.owed("bot")) == []


def test_an_unknown_chat_is_tried_anyway(state: Path, capsys: Output) -> None:
    assert main(["send", "bot", "1", "x", "--anyway"]) == Exit.OK
    (owed,) = at(state, lambda store: store.owed("bot"))
    assert owed.message.chat == "1"


def test_backup_of_a_journal_that_nobody_uses(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(state.parent)
    found = shown(capsys, "backup", "copy.db")
    path = state.parent / "copy.db"
    assert found == {"path": str(path), "bytes": path.stat().st_size}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with sqlite3.connect(path) as copy:
        assert copy.execute("SELECT count(*) FROM inbox").fetchone() == (3,)
    copy.close()
    before = path.read_bytes()
    assert main(["backup", "copy.db"]) == Exit.FAILED
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before


# -- neither gateway nor journal ------------------------------------------------------------------

COMMANDS = [
    ["dead", "list"],
    ["inbox", "show", "in-1"],
    ["outbox", "retry", "out-1"],
    ["gaps"],
    ["send", "bot", "4217", "x"],
    ["backup", "copy.db"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_journal_that_was_taken_away_is_left_to_the_gateway(
    state: Path, capsys: Output, command: list[str]
) -> None:
    (state / JOURNAL).unlink()
    assert main(command) == Exit.FAILED
    assert f"journal {state / JOURNAL} is gone (start the gateway" in capsys.readouterr().err
    assert not (state / JOURNAL).exists()


@pytest.mark.parametrize(
    ("line", "exit", "word"),
    [
        ("dead list", Exit.OK, "nothing waits for a person"),
        ("inbox list", Exit.OK, "no message"),
        ("gaps", Exit.OK, "no gap"),
        ("history", Exit.OK, "TIME"),
        ("inbox list --account bto", Exit.FAILED, "there is no account 'bto'; there are: bot"),
        ("inbox show in-1", Exit.FAILED, "there is no message in-1"),
        ("outbox retry out-1", Exit.FAILED, "out-1 is not retried"),
        ("backup copy.db", Exit.FAILED, "there is no journal on a disk"),
    ],
)
def test_before_the_first_start_there_is_nothing(
    state: Path, capsys: Output, line: str, exit: Exit, word: str
) -> None:
    shutil.rmtree(state)
    assert main(line.split()) == exit
    told = capsys.readouterr()
    assert word in told.out + told.err
    if exit is Exit.OK:
        assert told.err == f"holdfast: no gateway is running on {state}; it has no journal yet\n"
    assert not state.exists()


def test_send_before_the_first_start_is_owed(state: Path, capsys: Output) -> None:
    shutil.rmtree(state)
    assert main(["send", "bot", "1", "x", "--anyway"]) == Exit.OK
    (owed,) = at(state, lambda store: store.owed("bot"))
    assert owed.message.text == "x"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.parametrize("command", COMMANDS)
def test_a_gateway_that_hangs_keeps_its_journal(
    state: Path, capsys: Output, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("control.PATIENCE", "control.SLOW", "care.COPY_LIMIT"):
        monkeypatch.setattr(f"holdfast.cli.{limit}", 0.05)
    before = (state / JOURNAL).read_bytes()
    with control.listen(state / control.SOCKET_NAME):
        assert main(command) == Exit.UNANSWERED
    assert "does not answer" in capsys.readouterr().err
    assert (state / JOURNAL).read_bytes() == before


# -- a journal that is not whole ------------------------------------------------------------------


def test_a_damaged_journal_is_left_to_the_gateway(state: Path, capsys: Output) -> None:
    damaged = b"not a journal " * 1000
    (state / JOURNAL).write_bytes(damaged)
    assert main(["dead", "list"]) == Exit.FAILED
    assert str(state / JOURNAL) in capsys.readouterr().err
    assert (state / JOURNAL).read_bytes() == damaged


def test_a_journal_that_was_emptied_is_told_and_left_to_the_gateway(
    state: Path, capsys: Output
) -> None:
    (state / JOURNAL).write_bytes(b"")
    for _ in range(2):  # the first one must not hide it from the second
        assert main(["inbox", "list"]) == Exit.FAILED
        assert "is empty (start the gateway" in capsys.readouterr().err
    assert (state / JOURNAL).read_bytes() == b""
