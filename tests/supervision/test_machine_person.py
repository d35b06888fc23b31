"""What only a person can mend: verdicts, their confirmation and re-verification, two owners."""

from __future__ import annotations

import pytest

from holdfast.supervision import (
    RULES,
    Close,
    Kick,
    Kind,
    Policy,
    Published,
    Reconfigured,
    Refused,
    Remedy,
    State,
    Who,
)

from .driver import Driver, cause, closed, opened

VERDICTS = [Kind.CREDENTIALS, Kind.REFUSED]

# -- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VERDICTS)
def test_a_verdict_at_the_first_login_stops_at_once_and_says_who_acts(kind: Kind) -> None:
    driver = Driver().blocked(kind)
    view = driver.view()
    assert view.published is Published.FATAL
    assert view.attention
    assert view.cause is not None
    assert not view.cause.retryable
    assert view.cause.rule.who is Who.OPERATOR
    assert "holdfast kick" in view.cause.advice


@pytest.mark.parametrize("kind", VERDICTS)
def test_a_verdict_on_an_account_that_was_well_is_confirmed_first(kind: Kind) -> None:
    driver = Driver().live()
    driver.end(kind)
    assert driver.state() is State.BACKOFF
    assert driver.view().published is Published.RETRYING
    (verification,) = opened(driver.tick())
    assert verification.verify
    assert not verification.resume
    driver.end(kind)
    assert driver.state() is State.BLOCKED


def test_one_false_401_does_not_silence_a_bot() -> None:
    driver = Driver().well()
    driver.end(Kind.CREDENTIALS)
    driver.tick()
    (again,) = opened(driver.verified())
    assert not again.verify
    driver.ready()
    assert driver.view().published is Published.CONNECTED


def test_a_confirmation_without_network_is_repeated_not_taken_as_a_verdict() -> None:
    driver = Driver().live()
    driver.end(Kind.CREDENTIALS)
    for _ in range(3):
        driver.tick()
        assert driver.opens[-1][1].verify
        driver.end(Kind.UNREACHABLE)
        assert driver.state() is State.BACKOFF


def test_only_a_verification_can_be_verified() -> None:
    driver = Driver()
    driver.start()
    assert driver.verified() == []
    assert driver.state() is State.CONNECTING
    driver.live()
    driver.verified()
    assert driver.state() is State.LIVE


def test_a_quick_verification_is_no_quick_life() -> None:
    driver = Driver().blocked()
    for _ in range(5):
        driver.tick()
        driver.step("check")
        driver.end(Kind.CREDENTIALS)
    assert not driver.view().flapping


# -- re-verification ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VERDICTS)
def test_a_blocked_account_is_verified_after_5_min_doubling_to_1_h(kind: Kind) -> None:
    driver = Driver().blocked(kind)
    delays = []
    for _ in range(6):
        delays.append(driver.delay)
        (verification,) = opened(driver.tick())
        assert verification.verify
        driver.end(kind)
    assert delays == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_it_stays_blocked_when_the_verification_finds_no_network() -> None:
    driver = Driver().blocked()
    verdict = driver.view().cause
    driver.tick()
    driver.end(Kind.UNREACHABLE)
    assert driver.state() is State.BLOCKED
    assert driver.view().cause == verdict


@pytest.mark.parametrize("failures", [1, 9])
def test_a_good_verification_logs_in_again_at_once(failures: int) -> None:
    """However high the ladder: the platform itself has just said that it takes us."""
    driver = Driver(backoff_first=20.0, backoff_cap=300.0).fail(failures)
    driver.fail(1, Kind.CREDENTIALS).tick()
    (login,) = opened(driver.verified())
    assert not login.verify
    driver.ready()
    assert driver.view().published is Published.CONNECTED
    assert not driver.view().attention


def test_credentials_good_but_login_refused_is_asked_ever_more_slowly() -> None:
    """A check can pass where the login does not, for example with a missing intent."""
    driver = Driver().blocked(Kind.REFUSED)
    delays = []
    for _ in range(5):
        delays.append(driver.delay)
        driver.tick()
        driver.verified()
        driver.end(Kind.REFUSED)
        assert driver.state() is State.BLOCKED
    assert delays == [300.0, 600.0, 1200.0, 2400.0, 3600.0]


def test_a_stable_run_makes_the_next_verification_quick_again() -> None:
    driver = Driver().blocked()
    for _ in range(3):
        driver.tick()
        driver.end(Kind.CREDENTIALS)
    driver.tick()
    driver.verified()
    driver.well()
    driver.end(Kind.CREDENTIALS)
    driver.tick()
    driver.end(Kind.CREDENTIALS)
    assert driver.delay == 300.0


def test_few_attempts_in_half_an_hour() -> None:
    driver = Driver().blocked()
    while driver.now < 1_000.0 + 1_800.0:
        driver.tick()
        driver.end(Kind.CREDENTIALS)
    assert sum(at <= 2_800.0 for at, _ in driver.opens) <= 3


# -- lifting a verdict ----------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Kick(operator=True), Reconfigured(Policy())])
def test_a_person_lifts_a_verdict_at_once(event: Kick | Reconfigured) -> None:
    driver = Driver().blocked()
    (attempt,) = opened(driver.send(event))
    assert not attempt.verify
    assert driver.view().published is Published.RETRYING
    driver.ready()
    assert driver.state() is State.LIVE


def test_a_kick_by_the_network_lifts_no_verdict() -> None:
    driver = Driver().blocked()
    assert driver.kick() == []
    assert driver.state() is State.BLOCKED


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("event", [Kick(operator=True), Reconfigured(Policy())])
def test_a_person_is_heard_during_a_verification(event: Kick | Reconfigured, closing: bool) -> None:
    """The verification under way began before the person acted: its outcome is void."""
    driver = Driver().blocked()
    driver.wait_for(State.CLOSING if closing else State.CONNECTING, within=1_000.0)
    driver.send(event)
    assert driver.state() is State.CLOSING
    assert driver.reports[-1].view.published is Published.RETRYING
    (attempt,) = opened(driver.end(Kind.CREDENTIALS))
    assert not attempt.verify


def test_new_credentials_while_the_old_ones_are_being_refused() -> None:
    driver = Driver().live()
    driver.end(Kind.LOST)
    driver.start()
    driver.live(beat=10.0)
    driver.kick(operator=True)
    driver.send(Reconfigured(Policy()))
    (attempt,) = opened(driver.end(Kind.CREDENTIALS))
    assert not attempt.verify


def test_new_credentials_are_not_owed_a_confirmation() -> None:
    driver = Driver().live()
    driver.send(Reconfigured(Policy(label="new")))
    driver.end()
    driver.end(Kind.CREDENTIALS)
    assert driver.state() is State.BLOCKED
    assert driver.delay == 300.0


def test_reconfiguring_replaces_a_live_connection_at_once() -> None:
    driver = Driver().fail(3)
    driver.live()
    assert closed(driver.send(Reconfigured(Policy(label="new"))))
    assert len(opened(driver.end())) == 1
    assert driver.view().attempt == 0
    assert driver.machine.policy.label == "new"


def test_reconfiguring_ends_a_back_off_and_voids_the_servers_wait() -> None:
    driver = Driver().fail(8, Kind.THROTTLED, retry_after=50.0)
    assert len(opened(driver.send(Reconfigured(Policy())))) == 1
    driver.end(Kind.UNREACHABLE)
    assert driver.view().attempt == 1
    assert driver.delay == 1.0


def test_reconfiguring_a_stopped_account_does_not_start_it() -> None:
    driver = Driver()
    assert driver.send(Reconfigured(Policy(label="new"))) == []
    assert driver.state() is State.STOPPED


# -- two owners -----------------------------------------------------------------------------------


def test_a_rival_may_be_our_own_former_self_for_90_s() -> None:
    driver = Driver(u=1.0)
    driver.start()
    begin = driver.now
    gaps = []
    while driver.state() is not State.BLOCKED:
        driver.wait_for(State.CONNECTING, within=300.0)
        driver.end(Kind.REPLACED)
        gaps.append(driver.delay)
    assert 90.0 <= driver.now - begin <= 100.0
    assert max(gaps[:-1]) <= 10.0


def test_a_former_self_that_goes_is_forgotten() -> None:
    driver = Driver().live()
    driver.end(Kind.REPLACED)
    driver.well()
    driver.end(Kind.REPLACED)
    assert driver.state() is State.BACKOFF


def test_a_real_rival_blocks_and_is_looked_for_every_300_s() -> None:
    driver = Driver()
    driver.start()
    while driver.state() is not State.BLOCKED:
        driver.wait_for(State.CONNECTING, within=300.0)
        driver.end(Kind.REPLACED)
    assert driver.view().published is Published.FATAL
    for _ in range(4):
        assert driver.delay == 300.0
        (attempt,) = opened(driver.tick())
        assert not attempt.verify
        driver.end(Kind.REPLACED)
        assert driver.state() is State.BLOCKED
    driver.tick()
    driver.ready()
    assert driver.view().published is Published.CONNECTED


def test_a_rival_does_not_hide_a_second_verdict() -> None:
    driver = Driver().live()
    while driver.state() is not State.BLOCKED:
        driver.end(Kind.REPLACED)
        if driver.state() is State.BACKOFF:
            driver.wait_for(State.CONNECTING, within=300.0)
    driver.tick()
    driver.end(Kind.CREDENTIALS)
    driver.wait_for(State.CONNECTING, within=300.0)
    assert driver.opens[-1][1].verify
    driver.end(Kind.CREDENTIALS)
    assert driver.state() is State.BLOCKED
    assert driver.cause.kind is Kind.CREDENTIALS
    assert driver.delay == 300.0


@pytest.mark.parametrize("kind", list(Kind))
def test_only_a_verdict_ever_blocks(kind: Kind) -> None:
    driver = Driver()
    driver.start()
    for _ in range(60):
        if driver.state() is State.BLOCKED:
            break
        driver.wait_for(State.CONNECTING, within=1_000.0)
        driver.end(kind)
    blocked = driver.state() is State.BLOCKED
    assert blocked == (RULES[kind].remedy is Remedy.PERSON)


# -- what a send has learned -------------------------------------------------------------------


def test_credentials_refused_on_a_send_are_verified_while_the_connection_still_lives() -> None:
    driver = Driver().well()
    effects = driver.send(Refused(cause(Kind.CREDENTIALS, "send_401")))
    assert effects == [Close(driver.generation)]
    driver.end()
    driver.wait_for(State.CONNECTING, within=200.0)
    assert driver.opens[-1][1].verify
    driver.end(Kind.CREDENTIALS, "check_401")
    assert driver.view().published is Published.FATAL
    assert driver.cause.code == "check_401"


def test_credentials_found_good_are_not_doubted_again_at_once() -> None:
    driver = Driver().well()
    driver.send(Refused(cause(Kind.CREDENTIALS)))
    driver.end()
    driver.wait_for(State.CONNECTING, within=200.0)
    driver.verified()
    driver.live()
    assert driver.send(Refused(cause(Kind.CREDENTIALS))) == []
    driver.wait(driver.machine.policy.verify_first)
    assert driver.send(Refused(cause(Kind.CREDENTIALS))) == [Close(driver.generation)]


@pytest.mark.parametrize("kind", [Kind.THROTTLED, Kind.UNREACHABLE])
def test_a_send_that_fails_for_another_reason_doubts_nothing(kind: Kind) -> None:
    driver = Driver().well()
    assert driver.send(Refused(cause(kind))) == []


def test_a_refused_send_of_an_account_that_is_down_changes_nothing() -> None:
    driver = Driver().fail()
    before = driver.view()
    assert driver.send(Refused(cause(Kind.CREDENTIALS))) == []
    assert driver.view() == before
    driver.live().stop()
    assert driver.send(Refused(cause(Kind.CREDENTIALS))) == []
