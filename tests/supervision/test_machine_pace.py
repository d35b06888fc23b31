"""Floors: server waits, the hot-loop bound, the login budget, recycles, kicks, resumes, memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.supervision import (
    Budget,
    Close,
    Kind,
    Memory,
    Reconfigured,
    State,
    Woke,
    preset,
)

from .driver import Driver, most_in_window, opened

# -- the server's wait ----------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [7.5, 6_775.0, 200_000.0])
@pytest.mark.parametrize("kind", [Kind.THROTTLED, Kind.LOST, Kind.RECYCLED, Kind.SESSION])
def test_the_servers_wait_is_a_floor_never_clamped(kind: Kind, wait: float) -> None:
    driver = Driver(u=0.0).fail(1, kind, retry_after=wait)
    assert driver.delay == wait


def test_the_ladder_may_be_longer_than_the_servers_wait() -> None:
    assert Driver().fail(6, Kind.LOST, retry_after=1.0).delay == 32.0


def test_no_kick_lifts_the_servers_wait() -> None:
    driver = Driver().fail(1, Kind.THROTTLED, retry_after=500.0)
    driver.kick()
    driver.kick(operator=True)
    assert driver.delay == 500.0
    assert driver.state() is State.BACKOFF


def test_the_servers_wait_survives_a_restart_and_a_pause() -> None:
    driver = Driver().fail(1, Kind.THROTTLED, retry_after=500.0)
    driver.wait(100.0)
    assert driver.memory().wait == 400.0
    reborn = Driver()
    reborn.start(driver.memory())
    assert reborn.delay == 400.0
    driver.stop()
    driver.start(Memory(wait=1.0))
    assert driver.delay == 400.0


def test_the_servers_wait_is_heard_while_closing_and_while_stopping() -> None:
    driver = Driver().live()
    driver.kick(operator=True)
    driver.end(Kind.THROTTLED, retry_after=500.0)
    assert driver.delay == 500.0
    stopping = Driver().live()
    stopping.stop()
    stopping.end(Kind.THROTTLED, retry_after=500.0)
    assert stopping.memory().wait == 500.0


def test_an_infinite_wait_is_not_believed() -> None:
    driver = Driver().fail(1, Kind.THROTTLED, retry_after=float("inf"))
    assert driver.delay == 1.0


def test_throttled_without_a_time_uses_the_slow_ladder() -> None:
    driver = Driver(escalate_after=99, breaker_after=99).fail(12, Kind.THROTTLED)
    assert driver.delay == 300.0


# -- the hot-loop bound ---------------------------------------------------------------------------


def _recycled(driver: Driver) -> None:
    driver.live()
    driver.wait(5.0)
    driver.end(Kind.RECYCLED)


def _quickly_recycled(driver: Driver) -> None:
    driver.live().end(Kind.RECYCLED)


def _kicked(driver: Driver) -> None:
    driver.fail()
    driver.kick(operator=True)


def _replaced(driver: Driver) -> None:
    driver.live()
    driver.kick(operator=True)
    driver.end()


def _reconfigured(driver: Driver) -> None:
    driver.live()
    driver.send(Reconfigured(driver.machine.policy))
    driver.end()


def _resumed(driver: Driver) -> None:
    driver.live(resumable=True)
    driver.end(Kind.SESSION)


def _restarted(driver: Driver) -> None:
    driver.live()
    driver.stop()
    driver.end()


def _lifted(driver: Driver) -> None:
    driver.fail(1, Kind.CREDENTIALS)
    driver.kick(operator=True)


def _verified(driver: Driver) -> None:
    driver.live().end(Kind.CREDENTIALS)
    driver.wait_for(State.CONNECTING, within=1_000.0)
    driver.verified()


@pytest.mark.parametrize(
    "path",
    [
        _recycled,
        _quickly_recycled,
        _kicked,
        _replaced,
        _reconfigured,
        _resumed,
        _restarted,
        _lifted,
        _verified,
    ],
)
def test_never_more_than_10_opens_a_minute_on_any_path(path: Callable[[Driver], None]) -> None:
    driver = Driver(u=0.0)
    for _ in range(60):
        path(driver)
    times = [at for at, _ in driver.opens]
    assert len(times) >= 60
    assert most_in_window(times, 60.0) <= 10


def test_planned_reconnects_are_immediate_five_times_a_minute() -> None:
    driver = Driver()
    for _ in range(5):
        _recycled(driver)
        assert driver.delay <= 1.0
        assert driver.view().attempt == 0
    _recycled(driver)
    assert driver.view().attempt == 1
    driver.live().wait(60.0)
    driver.end(Kind.RECYCLED)
    assert driver.view().attempt == 1


# -- kicks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kicks", [1, 3])
def test_a_failed_kick_neither_shortens_the_back_off_nor_counts(kicks: int) -> None:
    driver = Driver().fail(9)
    planned = driver.machine.next_deadline()
    for _ in range(kicks):
        driver.now += 1.0
        driver.kick()
        assert driver.state() is State.CONNECTING
        driver.end(Kind.UNREACHABLE)
    assert driver.machine.next_deadline() == planned
    assert driver.view().attempt == 9


def test_a_refused_resume_is_followed_by_a_fresh_login_at_once_however_long_the_outage() -> None:
    driver = Driver().live(resumable=True)
    driver.end()
    driver.fail(20)
    driver.wait_for(State.CONNECTING, within=400.0)
    assert driver.opens[-1][1].resume
    driver.alive()
    driver.end(Kind.SESSION)
    assert driver.delay <= driver.machine.policy.recycle_delay
    driver.wait_for(State.CONNECTING, within=2.0)
    assert not driver.opens[-1][1].resume
    driver.alive()
    driver.end(Kind.SESSION)
    assert driver.delay > 30.0, "a refused login is a failure like any other"


def test_news_of_the_network_restarts_an_attempt_that_was_dialled_in_the_outage() -> None:
    driver = Driver().fail(3)
    driver.wait_for(State.CONNECTING, within=60.0)
    driver.wait(5.0)
    opens, attempts = len(driver.opens), driver.view().attempt
    assert Close(driver.generation) in driver.kick()
    assert driver.cause.code == "network_back"
    driver.end()
    assert driver.machine.state is State.CONNECTING
    assert len(driver.opens) == opens + 1
    assert driver.view().attempt == attempts, "nothing is counted"


def test_news_of_the_network_leaves_a_young_or_a_first_attempt_alone() -> None:
    driver = Driver()
    driver.start()
    driver.wait(5.0)
    assert driver.kick() == []
    driver.end(Kind.UNREACHABLE)
    driver.wait_for(State.CONNECTING, within=60.0)
    assert driver.kick() == []
    assert driver.machine.state is State.CONNECTING


def test_a_second_kick_before_the_first_took_effect_keeps_the_plan() -> None:
    driver = Driver().fail(11).fail(1, Kind.THROTTLED, retry_after=100.0)
    planned = driver.machine.next_deadline()
    driver.kick()
    assert driver.delay == 100.0
    driver.kick()
    driver.tick()
    driver.end(Kind.UNREACHABLE)
    assert driver.machine.next_deadline() == planned
    assert driver.view().attempt == 12


def test_a_kicked_attempt_that_outlives_the_plan_counts() -> None:
    driver = Driver().fail(3)
    driver.kick()
    driver.wait(10.0)
    driver.end(Kind.UNREACHABLE)
    assert driver.view().attempt == 4
    assert driver.delay == 8.0


def test_a_kick_that_succeeds_forgets_the_plan() -> None:
    driver = Driver().fail(9)
    driver.kick()
    driver.ready(silence=1e6)
    driver.wait(10.0)
    driver.end()
    assert driver.view().attempt == 10


def test_a_kick_by_the_network_leaves_a_connection_alone() -> None:
    for prepare in (Driver.start, Driver.live):
        driver = Driver()
        prepare(driver)
        assert driver.kick() == []


# -- resuming -------------------------------------------------------------------------------------


def _resuming(driver: Driver) -> Driver:
    driver.live(resumable=True).end()
    driver.wait_for(State.CONNECTING, within=60.0)
    assert driver.opens[-1][1].resume
    return driver


def test_a_loss_resumes_and_a_lost_session_logs_in_afresh() -> None:
    driver = _resuming(Driver())
    driver.end(Kind.SESSION)
    driver.tick()
    assert not driver.opens[-1][1].resume


def test_two_failed_resumes_are_enough() -> None:
    driver = _resuming(Driver())
    driver.step("resume")
    driver.end()
    driver.tick()
    assert driver.opens[-1][1].resume
    driver.step("resume")
    driver.end()
    driver.tick()
    assert not driver.opens[-1][1].resume


def test_a_peer_that_greets_and_falls_mute_has_failed_to_resume() -> None:
    driver = _resuming(Driver())
    for _ in range(2):
        driver.wait_for(State.CONNECTING, within=60.0)
        driver.step("resume")
        driver.alive()
        driver.tick()
        driver.end()
    driver.wait_for(State.CONNECTING, within=60.0)
    assert not driver.opens[-1][1].resume


def test_a_session_that_dies_at_once_whenever_it_is_continued_is_given_up() -> None:
    driver = Driver()
    resumed = []
    for _ in range(4):
        driver.live(resumable=True)
        resumed.append(driver.opens[-1][1].resume)
        driver.end()
    assert resumed == [False, True, True, False]


def test_a_peer_that_ends_every_login_early_costs_no_session() -> None:
    driver = Driver(resume_tries=10).live(resumable=True)
    driver.wait(10.0)
    for _ in range(4):
        driver.end()
        driver.wait_for(State.CONNECTING, within=1_000.0)
        driver.step("resume")
    assert driver.view().flapping
    assert driver.opens[-1][1].resume


@pytest.mark.parametrize("kind", [Kind.UNREACHABLE, Kind.TIMEOUT, Kind.LOCAL, Kind.THROTTLED])
def test_a_network_that_is_down_costs_no_session(kind: Kind) -> None:
    driver = _resuming(Driver())
    for _ in range(5):
        driver.step("connect")
        driver.end(kind)
        driver.wait_for(State.CONNECTING, within=60.0)
        assert driver.opens[-1][1].resume


def test_a_black_hole_costs_no_session() -> None:
    driver = _resuming(Driver())
    for _ in range(4):
        driver.step("connect")
        driver.tick()
        driver.end()
        driver.wait_for(State.CONNECTING, within=60.0)
    assert driver.opens[-1][1].resume


def test_a_kick_or_pause_during_a_resume_costs_no_session() -> None:
    driver = _resuming(Driver())
    for _ in range(3):
        driver.step("resume")
        driver.stop()
        driver.end()
        driver.start()
        driver.wait_for(State.CONNECTING, within=60.0)
    assert driver.opens[-1][1].resume


def test_a_session_refused_while_closing_is_not_resumed() -> None:
    driver = Driver().live(resumable=True)
    driver.kick(operator=True)
    (attempt,) = opened(driver.end(Kind.SESSION))
    assert not attempt.resume


def test_a_session_is_remembered_over_a_restart() -> None:
    driver = Driver().live(resumable=True)
    reborn = Driver()
    (attempt,) = opened(reborn.start(driver.memory()))
    assert attempt.resume


# -- the budget of fresh logins -------------------------------------------------------------------


def _log_in(driver: Driver, **quota: float | int) -> None:
    driver.wait_for(State.CONNECTING, within=10 * 86_400.0)
    driver.send(Budget(driver.generation, **quota))  # type: ignore[arg-type]


def test_a_storm_never_spends_the_days_logins() -> None:
    driver = Driver(preset("discord"), u=0.0, backoff_cap=1.0, backoff_slow_cap=1.0)
    driver.start()
    logins: list[float] = []
    while driver.now < 1_000.0 + 3 * 86_400.0 and len(logins) < 5_000:
        _log_in(driver)
        logins.append(driver.now)
        driver.end()
    assert most_in_window(logins, 86_400.0) <= 950


def test_what_is_left_is_spread_over_the_time_to_the_reset() -> None:
    driver = Driver()
    driver.start()
    _log_in(driver, remaining=150, total=1000, reset_after=10_000.0)
    driver.end()
    assert driver.delay == pytest.approx(100.0)


def test_a_reserve_is_kept_and_the_reset_awaited() -> None:
    driver = Driver()
    driver.start()
    _log_in(driver, remaining=50, total=1000, reset_after=10_000.0)
    driver.end()
    assert driver.delay == pytest.approx(10_000.0)
    driver.tick()
    driver.end()
    assert driver.delay == 2.0


def test_for_the_platforms_count_a_suspend_is_time_that_passed() -> None:
    driver = Driver()
    driver.start()
    _log_in(driver, remaining=50, total=1000, reset_after=10_000.0)
    driver.end()
    driver.send(Woke(9_000.0))
    assert driver.delay == pytest.approx(1_000.0)


def test_an_ample_budget_slows_nothing() -> None:
    driver = Driver()
    driver.start()
    _log_in(driver, remaining=900, total=1000, reset_after=10_000.0)
    driver.end()
    assert driver.delay == 1.0


def test_the_tighter_of_two_counts_decides() -> None:
    driver = Driver(fresh_limit=1000)
    driver.start()
    _log_in(driver, remaining=10, total=1000, reset_after=5_000.0)
    driver.end()
    assert driver.delay == pytest.approx(5_000.0)


@pytest.mark.parametrize("quota", [{}, {"remaining": 0, "total": 0, "reset_after": 9.0}])
def test_a_quota_that_says_nothing_is_ignored(quota: dict[str, float | int]) -> None:
    driver = Driver()
    driver.start()
    _log_in(driver, **quota)
    driver.end()
    assert driver.delay == 1.0


def test_a_resume_costs_no_budget() -> None:
    driver = Driver()
    driver.start()
    _log_in(driver, remaining=10, total=1000, reset_after=5_000.0)
    driver.ready(resumable=True, silence=1e6)
    driver.wait(10.0)
    driver.end()
    assert driver.delay == 1.0


def test_spent_logins_stay_spent_over_restarts_and_are_not_counted_twice() -> None:
    driver = Driver(fresh_limit=100)
    ages = tuple(float(age) for age in range(960, 0, -10))
    driver.start(Memory(fresh_ages=ages))
    assert driver.state() is State.BACKOFF
    assert driver.memory().fresh_ages == ages
    driver.stop()
    driver.start(Memory(fresh_ages=ages))
    assert driver.memory().fresh_ages == ages
    assert driver.delay == pytest.approx(86_400.0 - 960.0)


def test_a_start_while_running_changes_no_memory() -> None:
    driver = Driver().live(resumable=True)
    driver.start(Memory(wait=900.0, resumable=False))
    driver.end()
    assert driver.delay == 1.0
    driver.tick()
    assert driver.opens[-1][1].resume


def test_the_budget_counts_down_as_the_window_moves() -> None:
    driver = Driver(fresh_limit=10)
    driver.start(Memory(fresh_ages=(86_399.0,) * 9))
    driver.wait(2.0)
    assert driver.state() is State.CONNECTING
    assert driver.memory().fresh_ages == ()
