"""Stopping: from any state, within 5 s, told apart from a failure, never lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.supervision import (
    Abandon,
    Abort,
    Close,
    Effect,
    Kind,
    Published,
    Start,
    State,
    Woke,
)

from .driver import Driver, closed, opened


def _suspect(driver: Driver) -> None:
    driver.live()
    driver.send(Woke(1.0))


def _closing(driver: Driver) -> None:
    driver.live()
    driver.kick(operator=True)


STATES: dict[State, Callable[[Driver], object]] = {
    State.STOPPED: lambda driver: None,
    State.CONNECTING: Driver.start,
    State.LIVE: Driver.live,
    State.SUSPECT: _suspect,
    State.CLOSING: _closing,
    State.BACKOFF: lambda driver: driver.fail(20),
    State.BLOCKED: Driver.blocked,
}


@pytest.mark.parametrize("state", list(State))
def test_stop_ends_within_5_s_even_if_the_connection_ignores_everything(state: State) -> None:
    driver = Driver()
    STATES[state](driver)
    assert driver.state() is state
    begin = driver.now
    driver.stop()
    assert driver.view().published in (Published.STOPPING, Published.STOPPED)
    driver.wait_for(State.STOPPED, within=4.99)
    assert driver.now - begin < 5.0
    assert driver.machine.next_deadline() is None
    assert driver.view().published is Published.STOPPED


@pytest.mark.parametrize("state", [State.STOPPED, State.BACKOFF, State.BLOCKED])
def test_a_waiting_account_stops_at_once(state: State) -> None:
    driver = Driver()
    STATES[state](driver)
    assert driver.stop() == []
    assert driver.state() is State.STOPPED


def test_close_then_abort_then_abandon() -> None:
    driver = Driver().live()
    begin = driver.now
    seen: list[tuple[float, Effect]] = [(0.0, effect) for effect in driver.stop()]
    while driver.state() is not State.STOPPED:
        seen += [(driver.now - begin, effect) for effect in driver.tick()]
    polite = driver.machine.policy.close_timeout
    last = polite + driver.machine.policy.abort_timeout
    assert seen == [(0.0, Close(1)), (polite, Abort(1)), (last, Abandon(1))]
    assert driver.view().abandoned == 1


def test_a_graceful_stop_is_no_failure() -> None:
    driver = Driver().live()
    driver.stop()
    driver.end(Kind.UNKNOWN)
    view = driver.view()
    assert (view.attempt, view.outage_since, view.escalation) == (0, None, None)
    assert view.cause is not None
    assert view.cause.code == "stopped"
    assert driver.wait(86_400.0) == []


@pytest.mark.parametrize("state", list(State))
def test_a_stop_racing_with_anything_is_not_lost(state: State) -> None:
    driver = Driver()
    STATES[state](driver)
    driver.stop()
    late = [driver.kick(), driver.kick(operator=True), driver.send(Woke(9.0)), driver.end()]
    assert not any(opened(effects) for effects in late)
    assert not opened(driver.wait(86_400.0))
    assert driver.state() is State.STOPPED


def test_a_stop_at_the_very_moment_the_retry_is_due() -> None:
    driver = Driver().fail(9)
    driver.now += driver.delay
    driver.stop()
    assert opened(driver.freeze(0.0)) == []
    assert driver.state() is State.STOPPED


def test_two_stops_are_one() -> None:
    driver = Driver().live()
    driver.stop()
    deadline = driver.machine.next_deadline()
    driver.now += 1.0
    assert not closed(driver.stop())
    assert driver.machine.next_deadline() == deadline


def test_start_during_a_stop_comes_up_again() -> None:
    driver = Driver().live()
    driver.stop()
    driver.send(Start())
    assert driver.reports[-1].view.published is Published.CONNECTING
    assert len(opened(driver.end())) == 1
    assert driver.view().attempt == 0


def test_an_abandoned_connection_does_not_keep_the_account_down() -> None:
    driver = Driver().live()
    driver.kick(operator=True)
    driver.tick()
    effects = driver.tick()
    assert Abandon(1) in effects
    assert [attempt.generation for attempt in opened(effects)] == [2]
    assert driver.end(Kind.LOST) == [] or driver.state() is State.BACKOFF
    assert driver.view().abandoned == 1
