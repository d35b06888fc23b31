"""Spans of time: what people write is read, and what they are told is how one says it."""

from __future__ import annotations

import pytest

from holdfast import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("1.5m", 90), ("36 h", 129_600), ("7d", 604_800)],
)
def test_what_is_written_is_read(text: str, seconds: float) -> None:
    assert durations.read(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "h", "-1h", "5 hours", "1h30m", "5H", "inf", "9" * 400 + "d"]
)
def test_what_is_no_duration_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.read(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (725, "12 min 5 s"),
        (3_600, "1 h"),
        (3_659, "1 h"),
        (7_500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
        (90 * 86_400, "90 d"),
    ],
)
def test_two_units_are_said_at_most(seconds: float, text: str) -> None:
    assert durations.say(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59, "59 s"), (3_599, "59 min"), (90_000, "1 d")]
)
def test_one_unit_is_said_where_more_would_be_too_much(seconds: float, text: str) -> None:
    assert durations.say(seconds, units=1) == text
