"""An account in the words that a model gets: never more than is known, always what to do."""

from __future__ import annotations

import time

import msgspec
import pytest

from holdfast.cli.look import Reading
from holdfast.mcp import answers
from holdfast.observe.status import AccountStatus, CauseStatus
from tests.cli.samples import LOST, REFUSED, account, document

EXHAUSTED = CauseStatus(
    kind="lost",
    code="qq_reconnect_exhausted",
    message="100 attempts in a row failed",
    who_acts="nobody",
    hint="Look at the platform's status page.",
    retryable=True,
)


def told(status: AccountStatus, doubt: str = "") -> answers.Account:
    return answers.account("bot", status, time.time(), doubt)


def test_a_connection_whose_evidence_has_run_out_is_not_told_as_connected() -> None:
    now = time.time()
    assert told(account(valid_until=now + 60)).state == "connected"
    assert told(account(valid_until=now - 1)).state == "retrying"


def test_the_trouble_before_is_not_told_of_a_connected_account() -> None:
    assert told(account(cause=LOST)).why == ""


def test_a_lost_account_says_why_and_when_it_is_tried_next() -> None:
    at = time.time() + 30
    answer = told(account("retrying", cause=LOST, next_retry_at=at))
    assert answer.why == "connection lost [lost: reset]"
    assert (answer.who_acts, answer.hint) == ("nobody", LOST.hint)
    assert answer.next_try == answers.iso(at)


def test_a_fatal_account_is_the_operators() -> None:
    answer = told(account("fatal", cause=REFUSED, attention=True))
    assert (answer.who_acts, answer.hint) == ("operator", REFUSED.hint)
    assert "needs attention" in answer.flags


def test_an_escalated_account_is_the_operators_though_tries_go_on() -> None:
    status = account("retrying", cause=LOST, escalation=EXHAUSTED, attention=True)
    assert told(status).who_acts == "operator"


def test_an_account_of_a_dead_gateway_is_unknown_and_never_healthy() -> None:
    answer = told(account(cause=LOST), "the gateway (pid 7) is gone")
    assert (answer.state, answer.flags, answer.who_acts) == ("unknown", [], "operator")
    assert "holdfast run" in answer.hint


def test_a_connected_account_with_messages_waiting_points_at_the_agent() -> None:
    assert "look at it, not at the platform" in told(account(inbox=3)).hint


def test_a_gap_is_told_with_its_bounds() -> None:
    gap = {"since": 1e9, "until": 1e9 + 60, "reason": "a fresh login"}
    assert told(account(gap=gap)).maybe_missed == (
        "2001-09-09T01:46:40Z to 2001-09-09T01:47:40Z: a fresh login"
    )


def test_those_in_trouble_come_first_and_a_broken_journal_is_in_the_summary() -> None:
    status = document(a=account(), b=account("retrying", cause=LOST), c=account("fatal"))
    status = msgspec.structs.replace(status, store="store_full: the disk is full")
    answer = answers.accounts(Reading(status, "gateway"), time.time())
    assert [one.account for one in answer.accounts] == ["c", "b", "a"]
    assert answer.summary == (
        "1 fatal, 1 retrying, 1 connected; journal: store_full: the disk is full"
    )


@pytest.mark.parametrize(
    ("doubt", "said"),
    [("", "recent enough to be believed"), ("it is gone", "can NOT be believed: it is gone")],
)
def test_an_answer_from_the_file_says_so_and_how_old_it_is(doubt: str, said: str) -> None:
    status = document(age=7.0, a=account())
    fresh = answers.accounts(
        Reading(status, "file", "no gateway is running", doubt), time.time()
    ).freshness
    assert fresh.source == "status file"
    assert 7.0 <= fresh.age_seconds < 8.0
    assert fresh.as_of == answers.iso(status.written_at)
    assert "no gateway is running" in fresh.warning
    assert said in fresh.warning
