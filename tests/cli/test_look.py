"""status and explain without a gateway: nothing is believed longer than its evidence."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import msgspec
import pytest

from holdfast.cli import main, words
from holdfast.cli.exits import Exit
from holdfast.cli.look import Reading
from holdfast.cli.look import status as status_command
from holdfast.observe.status import FILE_NAME, Status, write
from holdfast.supervision import Published
from holdfast.web import control
from tests.cli.samples import LOST, REFUSED, account, document
from tests.observe.test_status import dead_pid


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of the configuration that commands find."""
    config = tmp_path / "holdfast.toml"
    config.write_text("")
    monkeypatch.setenv("HOLDFAST_CONFIG", str(config))
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def put(state: Path, status: Status) -> None:
    write(state / FILE_NAME, status)


# -- where the truth comes from -------------------------------------------------------------------


def test_neither_gateway_nor_file(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == Exit.UNANSWERED
    error = capsys.readouterr().err
    assert f"no gateway is running on {state}" in error
    assert error.count("\n") == 1


def test_a_dead_writer_makes_everything_unknown(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(state, document(pid=dead_pid(), bot=account(), bad=account("fatal", cause=REFUSED)))
    assert main(["status"]) == Exit.UNANSWERED
    text = capsys.readouterr().out
    assert "unknown (last: connected)" in text
    assert "unknown (last: fatal)" in text
    assert "it can not be believed: the gateway (pid" in text
    assert main(["status", "--json"]) == Exit.UNANSWERED
    shown = json.loads(capsys.readouterr().out)
    assert shown["accounts"]["bot"]["believed"] == "unknown"
    assert shown["accounts"]["bot"]["state"] == "connected"
    assert shown["source"] == "file"
    assert "is gone" in shown["doubt"]
    assert main(["explain", "bot"]) == Exit.UNANSWERED
    assert "unknown: the gateway (pid" in capsys.readouterr().out


def test_a_frozen_writer_makes_everything_unknown_after_the_time_to_live(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.cli.control.PATIENCE", 0.05)
    with control.listen(state / control.SOCKET_NAME):
        put(state, document(bot=account()))
        assert main(["status"]) == Exit.UNANSWERED
        text = capsys.readouterr().out
        assert "does not answer: nothing within 0.05 s" in text
        assert "unknown" not in text
        put(state, document(bot=account(), age=11))
        assert main(["status"]) == Exit.UNANSWERED
        text = capsys.readouterr().out
        assert "unknown (last: connected)" in text
        assert "has not written for 11 s" in text


def test_connected_without_evidence_is_not_believed(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(state, document(bot=account(valid_until=time.time() - 1)))
    assert main(["status", "--json"]) == Exit.UNANSWERED
    assert json.loads(capsys.readouterr().out)["accounts"]["bot"]["believed"] == "retrying"


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}'])
def test_a_file_that_is_none(state: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (state / FILE_NAME).write_text(text)
    assert main(["status"]) == Exit.UNANSWERED
    assert "is not a status file" in capsys.readouterr().err


def test_a_file_of_another_schema(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(state, msgspec.structs.replace(document(bot=account()), schema=2))
    assert main(["status"]) == Exit.UNANSWERED
    assert "has schema 2, not 1" in capsys.readouterr().err


def test_history_without_gateway_and_journal(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history"]) == Exit.OK
    assert "it has no journal yet" in capsys.readouterr().err
    assert list(state.iterdir()) == []


# -- exit codes -----------------------------------------------------------------------------------


def test_an_account_that_needs_a_person_is_exit_3() -> None:
    reading = Reading(
        document(
            good=account(),
            slow=account("retrying", cause=LOST),
            fatal=account("fatal", cause=REFUSED),
            loud=account("retrying", cause=LOST, attention=True),
            paused=account("stopped", attention=True, paused=True),
        ),
        "gateway",
    )
    needs = {name: reading.exit([name]) for name in reading.status.accounts}
    assert needs == {
        "good": Exit.OK,
        "slow": Exit.OK,
        "fatal": Exit.ATTENTION,
        "loud": Exit.ATTENTION,
        "paused": Exit.OK,
    }
    assert reading.exit(reading.status.accounts) == Exit.ATTENTION
    assert Reading(reading.status, "file", "it is gone").exit(["fatal"]) == Exit.UNANSWERED


# -- watching -------------------------------------------------------------------------------------


def test_watch_goes_on_until_it_is_interrupted(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        put(state, document(bot=account("retrying", cause=LOST)))
        if len(naps) == 3:
            raise KeyboardInterrupt

    args = argparse.Namespace(config=state.parent / "holdfast.toml", watch=True, json=True)
    assert status_command(args, nap) == Exit.UNANSWERED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "no gateway is running" in lines[0]["error"]
    assert [line["accounts"]["bot"]["believed"] for line in lines[1:]] == ["retrying"] * 2
    assert naps == [1.0, 1.0, 1.0]


# -- what is shown --------------------------------------------------------------------------------


def test_the_table_says_what_matters(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    long = msgspec.structs.replace(LOST, message="very " * 100)
    retrying = account(
        "retrying", cause=long, next_retry_at=now + 59.6, attempt=4, inbox=3, outbox=7
    )
    put(state, document(good=account(), lost=retrying, off=account("stopped", paused=True)))
    main(["status"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "connected" in rows["good"]
    assert "5 min" in rows["good"]
    assert "4 s ago" in rows["good"]
    assert "(#5)" in rows["lost"]
    assert "3/7" in rows["lost"]
    assert "reset: very very" in rows["lost"]
    assert rows["lost"].endswith("…")
    assert "stopped, paused" in rows["off"]


def test_a_journal_in_trouble_is_told(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(state, msgspec.structs.replace(document(bot=account()), store="store_full: no room"))
    main(["status"])
    assert "the journal is in trouble: store_full: no room" in capsys.readouterr().out


def test_an_unknown_account_is_told_with_the_known_ones(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(state, document(bot=account()))
    assert main(["explain", "bto"]) == Exit.FAILED
    assert "there is no account 'bto'; there are: bot" in capsys.readouterr().err


def explained(**changes: object) -> dict[str, str]:
    state = str(changes.pop("state", "retrying"))
    return dict(words.explanation(account(state, **changes), time.time(), ""))


def test_explain_a_fatal_account() -> None:
    said = explained(state="fatal", cause=REFUSED, next_retry_at=time.time() + 300)
    assert said["State"].startswith("fatal: is not connected, and only a person can change that")
    assert said["Why"] == "getMe was answered with 401 [credentials: telegram_unauthorized]"
    assert said["Who must act"] == "operator"
    assert said["What to do"] == "Get the token from @BotFather."
    assert said["Next try"] == "in 5 min"


def test_explain_an_outage() -> None:
    now = time.time()
    said = explained(
        cause=LOST,
        attempt=1,
        next_retry_at=now - 1,
        outage_since=now - 100,
        suspect=True,
        flapping=True,
        inbox=1,
        outbox=2,
        dead=1,
        unknown=2,
        gap={"since": now - 100, "until": now, "reason": "a fresh login"},
    )
    assert said["Down since"] == words.clock(now - 100)
    assert said["Next try"] == "now, after 1 failure"
    assert said["Who must act"] == "nobody"
    assert said["Waiting"] == "1 message to be answered, 2 replies to be sent"
    assert said["Trouble"].startswith("1 message given up, 2 sends of unknown fate")
    assert said["Gap"].endswith("may be missing: a fresh login")
    assert "Silent" in said
    assert "Flapping" in said


def test_explain_an_escalation_that_a_person_must_end() -> None:
    said = explained(cause=LOST, escalation=REFUSED)
    assert said["Why"].endswith("[lost: reset]")
    assert said["Escalated"].endswith("[credentials: telegram_unauthorized]")
    assert said["Who must act"] == "operator"


def test_explain_the_quiet_ones() -> None:
    connected = explained(state="connected", cause=LOST)
    assert connected["Last trouble"] == "connection lost [lost: reset]"
    assert connected["Who must act"] == "nobody"
    first = explained(state="connecting", step="get me")
    assert (first["Why"], first["Step"]) == ("no failure so far", "get me")
    paused = explained(state="stopped", paused=True, cause=REFUSED)
    assert "holdfast resume" in paused["Paused"]
    assert "Why" not in paused
    stale = explained(state="connected", valid_until=None)
    assert stale["State"].startswith("retrying:")
    assert "too old" in stale["Doubt"]


def test_every_published_state_has_words() -> None:
    assert set(words.STATES) == {state.value for state in Published}
