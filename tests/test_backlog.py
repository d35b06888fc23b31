"""The backlog policy: what is handled, and what is passed over and why."""

from __future__ import annotations

import pytest

from holdfast.backlog import ALL, Backlog
from holdfast.messages import Inbound

NOW = 1_000_000.0


def said(at: float | None) -> Inbound:
    """A message with this date."""
    return Inbound(id="1", chat="c", sender="u", text="hi", at=at)


@pytest.mark.parametrize(
    ("text", "newer_than"),
    [("all", None), ("skip", 0.0), ("newer-than 10m", 600.0), ("newer-than 36h", 129_600.0)],
)
def test_it_is_written_in_words(text: str, newer_than: float | None) -> None:
    assert Backlog.parse(text) == Backlog(newer_than)


@pytest.mark.parametrize(
    "text", ["", "none", "10m", "newer-than", "newer-than 0s", "newer-than 5w"]
)
def test_anything_else_is_refused_with_the_words_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="none of all, skip, newer-than 10m"):
        Backlog.parse(text)


@pytest.mark.parametrize(
    ("policy", "age", "passed_over"),
    [
        (ALL, 1e6, False),
        (Backlog(600.0), 599.0, False),
        (Backlog(600.0), 604.0, False),  # the clocks may be that far apart
        (Backlog(600.0), 606.0, True),
        (Backlog(600.0), -3_600.0, False),  # a platform whose clock is ahead
    ],
)
def test_by_age(policy: Backlog, age: float, passed_over: bool) -> None:
    verdict = policy.verdict(said(NOW - age), NOW, None)
    assert verdict == (f"backlog: {age:.0f} s old" if passed_over else "")


def test_skip_means_what_was_said_before_the_account_listened() -> None:
    skip = Backlog(0.0)
    assert skip.verdict(said(NOW - 100), NOW, NOW - 50) == (
        "backlog: said 50 s before the account listened"
    )
    assert skip.verdict(said(NOW - 40), NOW, NOW - 50) == ""
    assert skip.verdict(said(NOW - 40), NOW, None) != "", "replayed before the login is complete"
    assert skip.verdict(said(NOW - 2), NOW, None) == ""


@pytest.mark.parametrize("policy", [ALL, Backlog(0.0), Backlog(600.0)])
def test_a_message_without_a_date_is_never_passed_over(policy: Backlog) -> None:
    assert policy.verdict(said(None), NOW, NOW) == ""
