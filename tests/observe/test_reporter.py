"""One line per change that matters: a long outage is not a flood."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from holdfast.observe.reporter import Reporter
from holdfast.supervision import (
    Cause,
    Kind,
    Published,
    Report,
    State,
    Supervisor,
    View,
    preset,
)

LOST = Cause(Kind.LOST, "reset", "connection lost")
DNS = Cause(Kind.UNREACHABLE, "dns", "no such host")


def view(published: Published, state: State = State.BACKOFF, **changes: object) -> View:
    fresh = Supervisor(preset("telegram"), lambda: 0.5).view(100.0)
    changed = replace(fresh, at=100.0, published=published, state=state, generation=3)
    return replace(changed, **changes)  # type: ignore[arg-type]


def tell(reporter: Reporter, seen: View, trigger: str = "connection ended") -> object:
    return reporter.report("bot", Report(seen, trigger), 1_000.0)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What was logged so far: level and message."""
    caplog.set_level(logging.DEBUG, "holdfast")

    class Lines(list[tuple[int, str]]):
        def __len__(self) -> int:
            return len(caplog.records)

        def __getitem__(self, index: int) -> tuple[int, str]:  # type: ignore[override]
            record = caplog.records[index]
            return record.levelno, record.getMessage()

    return Lines()


def test_a_transition_holds_what_the_history_shows() -> None:
    seen = view(Published.RETRYING, cause=LOST, attempt=2, retry_at=104.0)
    line = Reporter().report("bot", Report(seen, "connection ended"), 1_000.0)
    assert line is not None
    assert (line.account, line.at, line.state) == ("bot", 1_000.0, "retrying")
    assert (line.trigger, line.generation, line.attempt) == ("connection ended", 3, 2)
    assert (line.code, line.message, line.retry_in) == ("reset", "connection lost", 4.0)


def test_a_connected_line_has_no_cause_and_no_retry() -> None:
    seen = view(Published.CONNECTED, State.LIVE, cause=LOST, retry_at=104.0)
    line = Reporter().report("bot", Report(seen, "ready"), 1_000.0)
    assert line is not None
    assert (line.code, line.retry_in) == ("", None)


@pytest.mark.parametrize("trigger", ["silence or wake-up", "proof of life"])
def test_a_doubt_that_passes_is_no_history(trigger: str) -> None:
    assert tell(Reporter(), view(Published.CONNECTED, State.SUSPECT), trigger) is None


def test_an_outage_is_two_lines(lines: list[tuple[int, str]]) -> None:
    reporter = Reporter()
    tell(reporter, view(Published.CONNECTED, State.LIVE))
    for attempt in range(20):
        tell(reporter, view(Published.RETRYING, cause=LOST, attempt=attempt, retry_at=101.0))
        tell(reporter, view(Published.RETRYING, State.CONNECTING, cause=LOST, attempt=attempt))
    back = view(Published.CONNECTED, State.LIVE, attempt=20, outage_since=40.0, since=100.0)
    tell(reporter, back)
    assert len(lines) == 3
    assert lines[1][0] == logging.WARNING
    assert "lost account=bot code=reset" in lines[1][1]
    assert "was=connected retry_in=1.0" in lines[1][1]
    assert lines[2] == (
        logging.INFO,
        "restored account=bot generation=3 after=60.0s attempts=20",
    )


def test_a_known_cause_is_told_quietly_until_the_next_connect(
    lines: list[tuple[int, str]],
) -> None:
    reporter = Reporter()
    for _ in range(2):
        tell(reporter, view(Published.CONNECTING, State.CONNECTING))
        tell(reporter, view(Published.RETRYING, cause=DNS))
    assert [lines[i][0] for i in (1, 3)] == [logging.WARNING, logging.INFO]
    tell(reporter, view(Published.CONNECTED, State.LIVE))
    tell(reporter, view(Published.RETRYING, cause=DNS))
    assert lines[len(lines) - 1][0] == logging.WARNING


def test_what_comes_and_goes_is_told_when_it_has_lasted(lines: list[tuple[int, str]]) -> None:
    reporter = Reporter()

    def seen(published: Published, at: float, since: float, **changes: object) -> None:
        state = State.LIVE if published is Published.CONNECTED else State.BACKOFF
        told = {"at": at, "since": since, "outage_since": 0.0, "cause": LOST} | changes
        tell(reporter, view(published, state, **told))

    for n in range(10):  # down at once, back after 5 s, and so on
        seen(Published.RETRYING, n * 30.0, n * 30.0, attempt=n)
        seen(Published.CONNECTED, n * 30.0 + 5, n * 30.0 + 5, attempt=n)
    assert [text.split()[0] for _, text in (lines[i] for i in range(len(lines)))] == [
        "lost",
        "restored",
    ]
    seen(Published.RETRYING, 300.0, 300.0, attempt=10)
    seen(Published.RETRYING, 500.0, 300.0, attempt=11)
    assert len(lines) == 2
    seen(Published.RETRYING, 601.0, 300.0, attempt=12)
    assert lines[2][1].startswith("lost account=bot code=reset")
    seen(Published.CONNECTED, 620.0, 620.0, attempt=12)
    assert len(lines) == 3
    seen(Published.CONNECTED, 920.0, 620.0, attempt=0, outage_since=None)  # a stable run
    assert lines[3][1] == "restored account=bot generation=3 after=620.0s attempts=12"
    seen(Published.STOPPED, 930.0, 930.0, outage_since=None)
    seen(Published.CONNECTED, 940.0, 940.0, outage_since=None)
    assert lines[5][1] == "connected account=bot generation=3"
    seen(Published.RETRYING, 950.0, 950.0, outage_since=950.0)  # another outage is news at once
    assert lines[6][1].startswith("lost")


def test_an_escalation_is_told_once(lines: list[tuple[int, str]]) -> None:
    reporter = Reporter()
    seen = view(Published.RETRYING, cause=LOST, escalation=Cause(Kind.LOST, "bot_down", "long"))
    for _ in range(3):
        tell(reporter, seen)
    errors = [lines[i] for i in range(len(lines)) if lines[i][0] == logging.ERROR]
    assert len(errors) == 1
    assert "escalated account=bot code=bot_down" in errors[0][1]
    tell(reporter, view(Published.CONNECTED, State.LIVE))
    tell(reporter, seen)
    assert lines[len(lines) - 1][0] == logging.ERROR


def test_fatal_says_who_must_act_and_what_to_do(lines: list[tuple[int, str]]) -> None:
    cause = Cause(Kind.CREDENTIALS, "telegram_unauthorized", "401", "Ask @BotFather.")
    tell(Reporter(), view(Published.FATAL, State.BLOCKED, cause=cause))
    level, text = lines[0]
    assert level == logging.ERROR
    assert text == (
        "fatal account=bot code=telegram_unauthorized message='401' who_acts=operator "
        "hint='Ask @BotFather.'"
    )
