"""Attempts: time-outs, the back-off ladder, stable runs, quick lives, escalation, the breaker."""

from __future__ import annotations

import pytest

from holdfast.supervision import Breaker, Kind, Published, Start, State, preset

from .driver import Driver, closed, opened

# -- time-outs ------------------------------------------------------------------------------------


def test_an_attempt_without_steps_ends_after_30_s() -> None:
    driver = Driver()
    driver.start()
    assert driver.delay == 30.0
    assert closed(driver.tick())
    assert driver.cause.code == "account_connect_timeout"


def test_a_step_ends_after_10_s_or_its_own_limit() -> None:
    driver = Driver()
    driver.start()
    driver.step("await hello")
    assert driver.delay == 10.0
    driver.step("identify", 3.0)
    assert driver.delay == 3.0
    driver.tick()
    cause = driver.cause
    assert (cause.kind, cause.code, cause.step) == (
        Kind.TIMEOUT,
        "account_identify_timeout",
        "identify",
    )


def test_steps_never_extend_the_whole_attempt() -> None:
    driver = Driver()
    driver.start()
    begin = driver.now
    while driver.state() is State.CONNECTING:
        driver.step("again")
        driver.wait(4.0)
    assert driver.now - begin < 30.0 + 4.0
    assert driver.state() is State.CLOSING


def test_a_step_is_shown_only_while_attempting() -> None:
    driver = Driver()
    driver.start()
    driver.step("identify")
    assert driver.view().step == "identify"
    driver.ready()
    driver.step("too late")
    assert driver.view().step == ""


def test_a_second_start_does_not_open_a_second_connection() -> None:
    driver = Driver()
    driver.start()
    assert driver.start() == []
    driver.live()
    assert driver.send(Start()) == []
    assert len(driver.opens) == 1


# -- the ladder -----------------------------------------------------------------------------------


def test_the_ladder_doubles_from_1_s_to_60_s() -> None:
    driver = Driver(escalate_after=100, breaker_after=100)
    delays = []
    for _ in range(9):
        driver.fail()
        delays.append(driver.delay)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_jitter_takes_up_to_half_of_the_step() -> None:
    for failures, step in ((1, 1.0), (4, 8.0), (8, 60.0)):
        assert Driver(u=0.0).fail(failures).delay == step / 2
        assert Driver(u=1.0).fail(failures).delay == step


@pytest.mark.parametrize(
    ("platform", "first", "cap"),
    [("dingtalk", 20.0, 300.0), ("feishu", 2.0, 60.0), ("telegram", 1.0, 60.0), ("qqbot", 2.0, 60)],
)
def test_presets_have_their_own_ladder(platform: str, first: float, cap: float) -> None:
    assert Driver(preset(platform)).fail().delay == first
    assert Driver(preset(platform)).fail(9).delay == cap


def test_dingtalk_waits_at_least_10_s_and_never_more_than_300_s() -> None:
    eager, slow = Driver(preset("dingtalk"), u=0.0), Driver(preset("dingtalk"), u=1.0)
    for _ in range(30):
        assert eager.fail().delay >= 10.0
        assert slow.fail().delay <= 300.0


def test_the_ladder_never_ends() -> None:
    driver = Driver().fail(2_000)
    assert driver.state() is State.BACKOFF
    assert driver.delay <= 300.0


@pytest.mark.parametrize(
    "kind",
    [
        Kind.UNREACHABLE,
        Kind.TIMEOUT,
        Kind.LOST,
        Kind.SILENT,
        Kind.PROTOCOL,
        Kind.LOCAL,
        Kind.UNKNOWN,
        Kind.SESSION,
    ],
)
def test_kinds_that_mend_themselves_are_retried(kind: Kind) -> None:
    driver = Driver().fail(1, kind)
    assert driver.state() is State.BACKOFF
    assert driver.delay == 1.0
    assert driver.view().attempt == 1
    assert driver.view().published is Published.RETRYING


# -- only a stable run resets ---------------------------------------------------------------------


def test_a_mere_connect_resets_nothing() -> None:
    driver = Driver().fail(4)
    driver.live().wait(299.0)
    assert driver.view().attempt == 4
    driver.end()
    assert driver.view().attempt == 5
    assert driver.delay == 16.0


def test_a_stable_run_of_300_s_resets_the_counters() -> None:
    driver = Driver().fail(12)
    driver.live()
    assert driver.view().attention
    driver.wait(300.0)
    view = driver.view()
    assert (view.attempt, view.attention, view.outage_since) == (0, False, None)
    assert view.breaker is Breaker.CLOSED
    assert driver.reports[-1].trigger == "stable"
    driver.end()
    assert driver.delay == 1.0


def test_a_run_in_doubt_is_not_stable() -> None:
    driver = Driver().fail(3)
    driver.live(silence=60.0)
    for _ in range(10):
        driver.wait(25.0)
        driver.alive()
    driver.wait(55.0)
    assert driver.state() is State.SUSPECT
    assert driver.view().attempt == 3
    driver.alive()
    driver.tick()
    assert driver.view().attempt == 0


def test_the_outage_clock_is_not_renewed_by_attempts() -> None:
    driver = Driver().well()
    driver.end()
    lost = driver.now
    for _ in range(5):
        driver.fail()
        driver.live().wait(10.0)
        driver.end()
    assert driver.view().outage_since == lost


def test_the_outage_begins_when_a_connection_is_given_up() -> None:
    driver = Driver().live(silence=60.0)
    driver.wait(60.0)
    assert driver.state() is State.CLOSING
    assert driver.view().outage_since == driver.now
    assert driver.view().published is Published.RETRYING


def test_a_pause_by_a_person_is_no_outage() -> None:
    driver = Driver().fail(2)
    driver.stop()
    driver.wait(86_400.0)
    driver.start()
    assert driver.view().outage_since is None
    assert driver.view().published is Published.CONNECTING


# -- quick lives ----------------------------------------------------------------------------------


def _quick_lives(driver: Driver, times: int, kind: Kind, *, ready: bool = True) -> None:
    driver.start()
    for _ in range(times):
        driver.wait_for(State.CONNECTING, within=1_000.0)
        driver.step("hello")
        if ready:
            driver.ready()
        driver.wait(4.9)
        driver.end(kind)


@pytest.mark.parametrize(
    "kind",
    [k for k in Kind if k.value not in ("credentials", "refused", "replaced", "local")],
)
def test_three_quick_lives_are_flapping_on_every_path(kind: Kind) -> None:
    driver = Driver()
    _quick_lives(driver, 2, kind)
    assert not driver.view().flapping
    _quick_lives(driver, 1, kind)
    view = driver.view()
    assert view.flapping
    assert view.escalation is not None
    assert view.escalation.code == "account_quick_disconnect"
    assert f"test_{kind.value}" in view.escalation.message
    assert driver.delay >= 270.0


def test_a_conflict_is_no_flapping() -> None:
    driver = Driver()
    _quick_lives(driver, 3, Kind.REPLACED)
    assert not driver.view().flapping
    assert driver.delay <= driver.machine.policy.conflict_cap


def test_a_trouble_of_this_machine_is_no_flapping() -> None:
    """A full disk ends each connection at its first message, and is over when there is room."""
    driver = Driver()
    _quick_lives(driver, 5, Kind.LOCAL)
    assert not driver.view().flapping
    assert driver.delay <= driver.machine.policy.backoff_cap


def test_accept_then_close_before_ready_is_flapping_too() -> None:
    driver = Driver()
    _quick_lives(driver, 3, Kind.LOST, ready=False)
    assert driver.view().flapping


@pytest.mark.parametrize("kind", [Kind.UNREACHABLE, Kind.TIMEOUT, Kind.LOCAL, Kind.THROTTLED])
def test_a_peer_never_reached_is_not_flapping(kind: Kind) -> None:
    driver = Driver()
    _quick_lives(driver, 5, kind, ready=False)
    assert not driver.view().flapping


def test_refused_credentials_are_no_quick_life() -> None:
    driver = Driver()
    _quick_lives(driver, 2, Kind.LOST)
    driver.wait_for(State.CONNECTING, within=1_000.0)
    driver.step("hello")
    driver.alive()
    driver.end(Kind.CREDENTIALS)
    assert not driver.view().flapping
    assert driver.delay <= driver.machine.policy.backoff_cap


def test_a_refused_resume_is_no_quick_life_and_is_followed_by_a_fresh_login_at_once() -> None:
    driver = Driver()
    for _ in range(2):
        driver.live(resumable=True).end()
        driver.wait_for(State.CONNECTING, within=60.0)
    assert driver.opens[-1][1].resume
    driver.alive()
    driver.end(Kind.SESSION)
    assert not driver.view().flapping
    assert driver.delay <= driver.machine.policy.recycle_delay


def test_a_longer_life_breaks_the_row() -> None:
    driver = Driver()
    _quick_lives(driver, 2, Kind.LOST)
    driver.live().wait(5.0)
    driver.end()
    _quick_lives(driver, 2, Kind.LOST)
    assert not driver.view().flapping


def test_a_planned_end_within_5_s_does_not_forget_the_row() -> None:
    driver = Driver()
    _quick_lives(driver, 2, Kind.LOST)
    driver.live()
    driver.kick(operator=True)
    driver.end()
    driver.live().end()
    assert driver.view().flapping


def test_flapping_is_slow_enough_for_ten_minutes_and_after() -> None:
    driver = Driver(u=0.0)
    driver.start()
    while driver.now < 1_000.0 + 7 * 3_600.0:
        driver.wait_for(State.CONNECTING, within=1_000.0)
        driver.ready()
        driver.wait(0.1)
        driver.end()
    opens = [at - 1_000.0 for at, _ in driver.opens]
    assert sum(at <= 600.0 for at in opens) <= 20
    assert sum(3_600.0 <= at < 2 * 3_600.0 for at in opens) <= 14


# -- louder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("platform", "label", "limit"), [("qqbot", "qq", 100), ("x", "x", 10)])
def test_escalation_has_a_code_names_the_last_path_and_retries_go_on(
    platform: str, label: str, limit: int
) -> None:
    driver = Driver(preset(platform)).fail(limit - 1, Kind.LOST)
    assert driver.view().escalation is None
    assert not driver.view().attention
    driver.fail(1, Kind.THROTTLED, code="close_4008", message="rate limit", hint="wait")
    view = driver.view()
    assert view.escalation is not None
    assert view.escalation.code == f"{label}_reconnect_exhausted"
    assert "close_4008, rate limit" in view.escalation.message
    assert view.escalation.retryable
    assert view.escalation.advice == "wait"
    assert view.attention
    driver.tick()
    assert opened([driver.opens[-1][1]])[0].generation == limit + 1


def test_no_escalation_before_anything_happened() -> None:
    assert Driver().view().escalation is None


def test_the_breaker_opens_probes_slowly_and_closes_after_a_probe_that_holds() -> None:
    driver = Driver(u=0.0).fail(9)
    assert driver.view().breaker is Breaker.CLOSED
    driver.fail()
    assert driver.view().breaker is Breaker.OPEN
    assert 270.0 <= driver.delay <= 300.0
    driver.tick()
    assert driver.view().breaker is Breaker.HALF_OPEN
    driver.ready(silence=1e6)
    assert driver.view().breaker is Breaker.HALF_OPEN
    driver.wait(300.0)
    assert driver.view().breaker is Breaker.CLOSED
