"""Sessions and guesses, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.web.guard import _address
from holdfast.web.sessions import (
    ADDRESSES,
    OVERALL,
    PER_ADDRESS,
    SESSION_LIFE,
    SESSIONS,
    WINDOW,
    Guesses,
    Sessions,
    same,
)


@dataclass
class Clock:
    """Seconds that pass when told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("given", ["", "a", "secre", "secret ", "secret\0", "\ud800", "x" * 10_000])
def test_only_the_same_is_the_same(given: str) -> None:
    assert same("secret", "secret")
    assert not same(given, "secret")


def test_a_session_ends_by_itself_or_when_it_is_told_to() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    first, second = sessions.begin(), sessions.begin()
    found = sessions.find(first)
    assert found is not None
    assert first not in repr(found)
    assert found != sessions.find(second)
    sessions.end(first)
    sessions.end(first)
    assert sessions.find(first) is None
    clock.now = SESSION_LIFE - 1
    assert sessions.find(second) is not None
    clock.now = SESSION_LIFE
    assert sessions.find(second) is None
    assert sessions.find("") is None


def test_sessions_are_bounded() -> None:
    sessions = Sessions(Clock())
    cookies = [sessions.begin() for _ in range(SESSIONS + 1)]
    assert sessions.find(cookies[0]) is None
    assert all(sessions.find(cookie) for cookie in cookies[1:])


def test_an_address_may_guess_a_few_times_a_minute() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for number in range(PER_ADDRESS):
        assert guesses.wait("a") == 0
        clock.now = float(number)
        guesses.wrong("a")
    assert guesses.wait("a") == WINDOW - (PER_ADDRESS - 1)
    assert guesses.wait("b") == 0
    clock.now = WINDOW
    assert guesses.wait("a") == 0
    guesses.wrong("a")
    assert guesses.wait("a") > 0


def test_strangers_can_not_lock_the_owner_out() -> None:
    guesses = Guesses(Clock())
    guesses.right("home")
    for number in range(OVERALL):
        assert guesses.wait("elsewhere") == 0
        guesses.wrong(f"stranger {number}")
    assert guesses.wait("elsewhere") == WINDOW
    assert guesses.wait("home") == 0
    for _ in range(PER_ADDRESS):
        guesses.wrong("home")
    assert guesses.wait("home") == WINDOW


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    guesses = Guesses(Clock())
    for number in range(ADDRESSES + 10):
        guesses.right(f"good {number}")
        guesses.wrong(f"bad {number}")
    assert (len(guesses._good), len(guesses._of)) == (ADDRESSES, ADDRESSES)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        (None, "unknown"),
    ],
)
def test_an_ipv6_caller_is_its_network(remote: str | None, address: str) -> None:
    assert _address(cast("Any", SimpleNamespace(remote=remote))) == address
