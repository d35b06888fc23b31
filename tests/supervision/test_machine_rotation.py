"""A planned change of connections: the new one first, the old one drains, nothing is left over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.supervision import (
    Abandon,
    Abort,
    Alive,
    BeatAcked,
    Budget,
    Close,
    GoingAway,
    Kick,
    Kind,
    Open,
    Published,
    Ready,
    Start,
    State,
    Step,
    Stop,
    Tick,
    Woke,
)

from .driver import Driver, cause, opened


def test_a_goodbye_opens_the_successor_beside_the_connection_that_goes_on() -> None:
    driver = Driver().live()
    old = driver.generation
    effects = driver.send(GoingAway(old))
    assert effects == [Open(old + 1, resume=False, successor=True)]
    view = driver.view()
    assert view.published is Published.CONNECTED
    assert view.rotating
    assert view.generation == old + 1
    assert driver.reports[-1].trigger == "successor sought"


def test_the_successor_takes_the_place_and_the_old_one_drains_then_closes() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.wait(2.0)
    assert driver.ready(silence=1e6) == []
    view = driver.view()
    assert view.published is Published.CONNECTED
    assert not view.rotating
    assert driver.reports[-1].trigger == "successor ready"
    assert driver.wait(driver.machine.policy.drain_timeout - 0.1) == []
    assert driver.wait(0.2) == [Close(old)]
    assert driver.end_of(old) == []
    assert driver.wait(100.0) == []
    assert driver.state() is State.LIVE
    assert driver.view().attempt == 0


def test_a_former_connection_that_ignores_its_close_is_aborted_then_abandoned() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.ready(silence=1e6)
    effects = driver.wait(20.0)
    assert effects == [Close(old), Abort(old), Abandon(old)]
    assert driver.view().abandoned == 1
    before = driver.view().stale_events
    driver.send(Alive(old))
    assert driver.view().stale_events == before + 1


def test_what_the_old_one_hears_is_no_proof_for_the_new_one() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.ready(silence=30.0)
    for _ in range(4):
        driver.wait(2.0)
        driver.send(Alive(old))
        driver.send(BeatAcked(old))
    assert driver.view().stale_events == 0
    assert driver.view().valid_until == pytest.approx(driver.now - 8.0 + 30.0)


def test_what_a_successor_hears_before_it_is_ready_is_no_proof_for_the_old_one() -> None:
    driver = Driver().live(silence=30.0)
    since = driver.now
    driver.goodbye()
    driver.wait(5.0)
    driver.step("login")
    driver.alive()
    assert driver.view().valid_until == since + 30.0


def test_a_successor_that_fails_leaves_the_old_one_alone() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.end(Kind.UNREACHABLE)
    view = driver.view()
    assert (view.published, view.rotating, view.attempt) == (Published.CONNECTED, False, 0)
    driver.send(Alive(old))
    assert driver.view().stale_events == 0
    driver.end_of(old, Kind.RECYCLED)
    driver.wait_for(State.CONNECTING, within=1.0)


def test_a_successor_that_hangs_is_closed_at_the_attempts_limit() -> None:
    driver = Driver().live()
    driver.goodbye()
    successor = driver.generation
    effects = driver.wait(driver.machine.policy.attempt_timeout + 5.0)
    assert effects == [Close(successor), Abort(successor), Abandon(successor)]
    assert driver.state() is State.LIVE
    assert not driver.view().rotating


def test_a_late_ready_of_a_successor_that_was_given_up_changes_nothing() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.wait(driver.machine.policy.attempt_timeout)
    driver.ready()
    driver.send(Alive(old))
    assert driver.view().stale_events == 0, "the old connection is no longer the current one"
    assert driver.state() is State.LIVE


def test_a_server_wait_told_to_the_successor_binds() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.end(Kind.THROTTLED, retry_after=120.0)
    driver.end_of(old)
    assert driver.wait_for(State.CONNECTING, within=200.0) >= 120.0


def test_the_successors_login_counts_against_the_budget() -> None:
    driver = Driver(fresh_limit=10).live()
    driver.goodbye()
    driver.send(Budget(driver.generation))
    assert len(driver.memory().fresh_ages) == 1


def test_the_old_one_ends_first_and_the_successor_becomes_the_attempt() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.wait(3.0)
    assert opened(driver.end_of(old)) == [], "it has been dialled already"
    view = driver.view()
    assert (view.state, view.published) == (State.CONNECTING, Published.RETRYING)
    assert not view.rotating
    driver.step("login", limit=5.0)
    driver.ready()
    assert driver.view().published is Published.CONNECTED


def test_a_successor_that_took_over_keeps_the_limit_of_its_attempt() -> None:
    driver = Driver().live()
    begin = driver.now
    old = driver.goodbye()
    driver.wait(25.0)
    driver.end_of(old)
    driver.wait_for(State.CLOSING, within=10.0)
    assert driver.now - begin == driver.machine.policy.attempt_timeout


def test_an_old_one_that_falls_silent_gives_way_to_the_successor() -> None:
    driver = Driver().live(silence=24.0, grace=8.0)
    driver.wait(12.0)
    old = driver.goodbye()
    driver.wait(12.0)
    assert driver.state() is State.CLOSING
    driver.end_of(old)
    assert driver.state() is State.CONNECTING
    assert driver.view().generation == old + 1
    assert driver.cause.kind is Kind.SILENT


def test_a_successor_that_is_ready_while_the_silent_one_is_closed_takes_its_place() -> None:
    driver = Driver().live(silence=24.0, grace=8.0)
    driver.wait(12.0)
    old = driver.goodbye()
    driver.wait(12.0)
    assert driver.state() is State.CLOSING
    driver.ready(silence=1e6)
    view = driver.view()
    assert (view.state, view.published) == (State.LIVE, Published.CONNECTED)
    assert (view.generation, view.rotating) == (old + 1, False)
    assert driver.cause.kind is Kind.SILENT
    driver.end_of(old)
    driver.wait(60.0)
    assert driver.view().generation == old + 1, "the good connection stays"
    assert driver.state() is State.LIVE


@pytest.mark.parametrize("aborted", [False, True])
def test_the_one_that_was_being_closed_keeps_its_deadlines(aborted: bool) -> None:
    driver = Driver().live(silence=24.0, grace=8.0)
    driver.wait(12.0)
    old = driver.goodbye()
    driver.wait(12.0 + 3.0 * aborted)
    driver.ready(silence=1e6)
    effects = driver.wait(4.0)
    assert effects == [*([] if aborted else [Abort(old)]), Abandon(old)]
    assert driver.view().abandoned == 1
    assert driver.state() is State.LIVE


def test_whose_ready_is_awaited() -> None:
    driver = Driver()
    driver.start()
    first = driver.generation
    assert driver.machine.awaits(first)
    assert not driver.machine.awaits(first + 1)
    driver.live()
    assert not driver.machine.awaits(first)
    driver.goodbye()
    assert driver.machine.awaits(first + 1)
    assert not driver.machine.awaits(first)


def test_a_second_goodbye_opens_no_second_successor() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    assert driver.send(GoingAway(old)) == []


def test_a_goodbye_before_the_login_changes_nothing() -> None:
    driver = Driver()
    driver.start()
    assert driver.send(GoingAway(driver.generation)) == []


def test_a_goodbye_on_every_connection_is_no_hot_loop() -> None:
    driver = Driver().live()
    for _ in range(30):
        if driver.machine.state is State.LIVE:
            driver.goodbye()
        driver.ready(silence=1e6)
    assert len(driver.opens) == 1 + driver.machine.policy.recycle_limit
    assert driver.view().published is Published.CONNECTED


def test_no_successor_while_the_server_wants_us_to_wait() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.end(Kind.THROTTLED, retry_after=120.0)
    assert driver.send(GoingAway(old)) == []


def test_a_lost_successor_closes_what_still_drains_and_retries() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    driver.ready()
    assert driver.end() == [Close(old)]
    assert driver.state() is State.BACKOFF
    driver.end_of(old)
    driver.wait_for(State.CONNECTING, within=5.0)


def test_an_operators_kick_ends_all_of_them() -> None:
    driver = Driver().live()
    old = driver.goodbye()
    assert driver.send(Kick(operator=True)) == [Close(old + 1), Close(old)]
    driver.end_of(old)
    assert driver.state() is State.CONNECTING
    assert driver.generation == old + 2


def test_waking_up_doubts_the_current_one_and_keeps_the_successor() -> None:
    driver = Driver().live()
    driver.goodbye()
    driver.send(Woke(60.0))
    assert driver.state() is State.SUSPECT
    driver.ready()
    assert driver.state() is State.LIVE


def _rotating(driver: Driver) -> None:
    driver.live().goodbye()


def _draining(driver: Driver) -> None:
    _rotating(driver)
    driver.ready(silence=1e6)


def _draining_in_backoff(driver: Driver) -> None:
    _draining(driver)
    driver.end()


def _only_the_old_one_is_left(driver: Driver) -> None:
    _draining(driver)
    driver.stop()
    driver.end()


SITUATIONS: list[Callable[[Driver], None]] = [
    _rotating,
    _draining,
    _draining_in_backoff,
    _only_the_old_one_is_left,
]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_stop_ends_all_of_them_within_5_s(situation: Callable[[Driver], None]) -> None:
    driver = Driver()
    situation(driver)
    begin = driver.now
    driver.stop()
    assert driver.view().published is Published.STOPPING
    driver.wait_for(State.STOPPED, within=4.99)
    assert driver.now - begin < 5.0
    assert driver.machine.next_deadline() is None


def test_stopped_only_when_the_last_connection_has_ended() -> None:
    driver = Driver()
    _rotating(driver)
    old, successor = driver.generation - 1, driver.generation
    driver.stop()
    driver.end_of(old)
    assert driver.state() is State.CLOSING
    driver.end_of(successor)
    assert driver.state() is State.STOPPED


def test_a_start_that_comes_while_the_last_one_closes_is_not_lost() -> None:
    driver = Driver()
    _only_the_old_one_is_left(driver)
    driver.send(Start())
    driver.end_of(driver.generation - 1)
    assert driver.state() is State.CONNECTING
    driver.ready()
    assert driver.end(Kind.LOST) == []
    assert driver.cause.kind is Kind.LOST


def test_a_kick_while_the_last_one_closes_leaves_no_trace() -> None:
    driver = Driver()
    _only_the_old_one_is_left(driver)
    driver.send(Start())
    driver.send(Kick(operator=True))
    driver.end_of(driver.generation - 1)
    driver.ready()
    driver.end(Kind.UNREACHABLE)
    assert driver.cause.kind is Kind.UNREACHABLE


def test_events_of_connections_on_their_way_out_are_not_counted_as_stale() -> None:
    driver = Driver()
    _draining(driver)
    old = driver.generation - 1
    for event in (Alive(old), Step(old, "late"), Ready(old), GoingAway(old), Budget(old)):
        assert driver.send(event) == []
    assert driver.view().stale_events == 0
    assert driver.send(Tick()) == []


def test_stop_twice_and_a_late_end_are_harmless() -> None:
    driver = Driver()
    _rotating(driver)
    driver.stop()
    assert driver.send(Stop()) == []
    driver.wait_for(State.STOPPED, within=5.0)
    assert driver.end_of(driver.generation, Kind.LOST) == []
    assert cause().kind is Kind.LOST
    assert driver.state() is State.STOPPED
