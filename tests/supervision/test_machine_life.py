"""Proof of life: silence, probes, heartbeats, late clocks, suspends, and what is published."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.supervision import (
    Alive,
    BeatAcked,
    BeatFailed,
    Effect,
    Event,
    Kind,
    Published,
    Ready,
    State,
    Step,
    Verified,
    Woke,
)
from holdfast.supervision.current import EXCUSES

from .driver import Driver, beaten, cause, closed, probed

# -- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("silence", [None, 5.0, 45.0, 60.0, 123.75])
def test_silence_is_probed_once_and_killed_within_the_limit(silence: float | None) -> None:
    driver = Driver()
    driver.start()
    driver.ready(silence=silence)
    limit = silence or 60.0
    begin = driver.now
    assert probed(driver.tick())
    assert driver.state() is State.SUSPECT
    assert driver.view().suspect
    assert driver.view().published is Published.CONNECTED
    assert limit - (driver.now - begin) <= 20.0
    effects = driver.tick()
    assert closed(effects)
    assert not probed(effects)
    assert driver.now - begin == pytest.approx(limit)
    assert driver.cause.code == "account_silent"


def test_a_probe_noticed_a_little_late_does_not_lengthen_the_silence() -> None:
    driver = Driver().live(silence=60.0)
    begin = driver.now
    driver.tick(late=1.9)
    driver.tick()
    assert driver.state() is State.CLOSING
    assert driver.now - begin == 60.0


def test_a_platforms_own_grace_is_respected() -> None:
    driver = Driver()
    driver.start()
    driver.ready(silence=60.0, grace=5.0)
    assert driver.delay == 55.0


def test_any_inbound_byte_is_life() -> None:
    driver = Driver().live(silence=60.0)
    for _ in range(10):
        driver.wait(39.0)
        driver.alive()
    assert driver.state() is State.LIVE
    assert driver.view().last_proof == driver.now
    assert driver.view().valid_until == driver.now + 60.0


def test_an_idle_but_answering_peer_is_never_restarted() -> None:
    driver = Driver().live(silence=60.0)
    for _ in range(200):
        driver.tick()
        if driver.state() is State.SUSPECT:
            driver.wait(1.0)
            driver.alive()
    assert driver.state() is State.LIVE
    assert len(driver.opens) == 1


# -- heartbeats -----------------------------------------------------------------------------------


def test_every_connection_beats() -> None:
    driver = Driver()
    for _ in range(3):
        driver.live(beat=10.0)
        for _ in range(3):
            assert driver.delay == 10.0
            assert beaten(driver.tick())
            driver.send(BeatAcked(driver.generation))
        assert driver.view().beats == 3
        driver.end()


def test_three_unacknowledged_heartbeats_end_the_connection() -> None:
    driver = Driver().live(beat=10.0)
    begin = driver.now
    for missed in (0, 1, 2):
        assert beaten(driver.tick())
        assert driver.view().missed_beats == missed
    assert closed(driver.tick())
    assert driver.now == begin + 40.0
    assert driver.cause.code == "account_heartbeat_unacked"


def test_three_heartbeats_that_can_not_be_sent_end_the_connection() -> None:
    driver = Driver().live(beat=10.0)
    for _ in range(2):
        driver.tick()
        assert not closed(driver.send(BeatFailed(driver.generation, cause(Kind.LOST))))
    driver.tick()
    assert closed(driver.send(BeatFailed(driver.generation, cause(Kind.LOST, "broken_pipe"))))
    assert "broken_pipe" in driver.cause.message


def test_unsent_and_unacknowledged_count_together() -> None:
    driver = Driver().live(beat=10.0)
    driver.tick()
    driver.tick()
    driver.send(BeatFailed(driver.generation, cause(Kind.LOST, message="no route")))
    assert driver.view().missed_beats == 2
    driver.tick()
    assert driver.state() is State.LIVE
    driver.send(BeatFailed(driver.generation, cause(Kind.LOST)))
    assert driver.state() is State.CLOSING


def test_an_acknowledgement_forgives_earlier_misses() -> None:
    driver = Driver().live(beat=10.0)
    for _ in range(20):
        driver.tick()
        driver.tick()
        driver.send(BeatAcked(driver.generation))
    assert driver.state() is State.LIVE
    assert driver.view().missed_beats == 0


def test_an_inbound_byte_is_life_but_no_acknowledgement() -> None:
    driver = Driver().live(beat=10.0, silence=60.0)
    begin = driver.now
    for _ in range(100):
        driver.wait(1.0)
        if driver.state() is not State.LIVE:
            break
        driver.alive()
    assert driver.state() is State.CLOSING
    assert driver.now == begin + 40.0


def test_an_acknowledgement_is_life_too() -> None:
    driver = Driver().live(beat=50.0, silence=60.0)
    driver.tick()
    assert driver.state() is State.SUSPECT
    driver.send(BeatAcked(driver.generation))
    assert driver.state() is State.LIVE


def test_heartbeats_go_on_while_suspect() -> None:
    driver = Driver().live(beat=50.0, silence=60.0)
    driver.tick()
    assert driver.state() is State.SUSPECT
    assert beaten(driver.tick())


def test_a_heartbeat_refused_for_good_is_a_verdict() -> None:
    driver = Driver().live(beat=10.0)
    refused = cause(Kind.CREDENTIALS, "revoked")
    assert closed(driver.send(BeatFailed(driver.generation, refused)))
    driver.end()
    assert driver.view().cause == refused


def test_heartbeats_mean_nothing_before_ready() -> None:
    driver = Driver()
    driver.start()
    driver.send(BeatFailed(driver.generation, cause()))
    driver.send(BeatAcked(driver.generation))
    assert driver.state() is State.CONNECTING
    assert (driver.view().missed_beats, driver.view().beats) == (0, 0)


# -- a late clock convicts nobody -----------------------------------------------------------------


def test_after_a_frozen_loop_the_peer_is_asked_again() -> None:
    driver = Driver().live(silence=60.0)
    effects = driver.freeze(90.0)
    assert probed(effects)
    assert not closed(effects)
    assert driver.state() is State.SUSPECT
    assert driver.delay == 20.0
    driver.alive()
    assert driver.state() is State.LIVE


def test_a_frozen_loop_gives_a_running_probe_its_grace_again() -> None:
    driver = Driver().live(silence=60.0)
    driver.tick()
    assert driver.state() is State.SUSPECT
    assert probed(driver.freeze(90.0))
    assert driver.delay == 20.0
    assert closed(driver.tick())


def test_heartbeats_missed_by_a_frozen_loop_are_forgiven_and_beat_again() -> None:
    driver = Driver().live(beat=10.0, silence=60.0)
    for _ in range(3):
        driver.tick()
    assert driver.view().missed_beats == 2
    effects = driver.freeze(90.0)
    assert beaten(effects)
    assert not closed(effects)
    assert driver.view().missed_beats == 0


def test_a_busy_loop_that_is_always_late_still_beats() -> None:
    driver = Driver().live(beat=10.0, silence=60.0)
    for _ in range(10):
        assert beaten(driver.tick(late=3.0))
        driver.send(BeatAcked(driver.generation))
    assert driver.state() is State.LIVE


def test_a_loop_frozen_over_the_stable_moment_neither_spins_nor_convicts() -> None:
    driver = Driver().live(silence=60.0)
    for _ in range(10):
        driver.wait(29.0)
        driver.alive()
    probes = sum(probed([effect]) for effect in driver.freeze(90.0))
    driver.alive()
    for _ in range(20):
        probes += sum(probed([effect]) for effect in driver.tick())
        if driver.state() is State.SUSPECT:
            driver.alive()
    assert driver.state() is State.LIVE
    assert probes <= 20
    assert driver.view().outage_since is None
    assert any(report.trigger == "stable" for report in driver.reports)


def test_an_attempt_frozen_by_us_gets_its_time_again() -> None:
    driver = Driver()
    driver.start()
    driver.step("identify")
    assert not closed(driver.freeze(90.0))
    assert driver.state() is State.CONNECTING
    assert driver.delay == 10.0
    assert closed(driver.tick())


@pytest.mark.parametrize("beat", [None, 20.0])
@pytest.mark.parametrize("late", [2.1, 25.0])
def test_a_clock_that_is_always_late_keeps_no_dead_connection(
    late: float, beat: float | None
) -> None:
    driver = Driver().live(silence=60.0, beat=beat)
    begin = driver.now
    while driver.state() in (State.LIVE, State.SUSPECT):
        driver.tick(late=late)
        assert driver.now - begin <= 60.0 + (EXCUSES + 1) * (20.0 + late)
    assert driver.state() is State.CLOSING


def test_a_proof_of_life_ends_the_row_of_excuses() -> None:
    driver = Driver(stable_after=1e7).live(silence=60.0)
    for _ in range(3 * EXCUSES):
        driver.tick(late=3.0)
        assert driver.state() is State.SUSPECT
        driver.alive()
    assert driver.state() is State.LIVE


def test_an_attempt_that_hangs_under_a_late_clock_is_given_up() -> None:
    driver = Driver()
    driver.start()
    begin = driver.now
    while driver.state() is State.CONNECTING:
        driver.tick(late=3.0)
        assert driver.now - begin <= 30.0 + (EXCUSES + 1) * 13.0
    assert driver.state() is State.CLOSING


def test_early_ticks_do_nothing() -> None:
    driver = Driver().live(silence=60.0)
    driver.now += 39.0
    assert driver.freeze(0.0) == []
    assert driver.state() is State.LIVE


# -- suspend --------------------------------------------------------------------------------------


def test_a_suspend_puts_every_proof_in_doubt_at_once() -> None:
    driver = Driver().live(beat=10.0, silence=60.0)
    for _ in range(3):
        driver.tick()
    assert probed(driver.send(Woke(3_600.0)))
    assert driver.state() is State.SUSPECT
    assert driver.view().missed_beats == 0
    driver.wait(20.0)
    assert driver.state() is State.CLOSING


def test_a_suspend_ends_a_back_off_and_excuses_an_attempt() -> None:
    driver = Driver().fail(8)
    driver.send(Woke(3_600.0))
    assert driver.state() is State.CONNECTING
    driver.wait(29.0)
    driver.send(Woke(3_600.0))
    assert driver.delay == 10.0


def test_what_is_known_grows_old_while_the_machine_sleeps() -> None:
    driver = Driver().fail(2).live(silence=60.0)
    before = driver.view()
    assert before.outage_since is not None
    assert before.last_proof is not None
    driver.send(Woke(3_600.0))
    view = driver.view()
    assert view.last_proof == before.last_proof - 3_600.0
    assert view.outage_since == before.outage_since - 3_600.0
    assert view.published is Published.RETRYING, "an hour without a proof is no connection"
    driver.alive()
    view = driver.view()
    assert (view.published, view.last_proof) == (Published.CONNECTED, driver.now)


def test_a_nap_after_which_the_proof_is_still_fresh_changes_nothing_that_is_told() -> None:
    driver = Driver().live(silence=60.0)
    driver.send(Woke(6.0))
    assert driver.view().published is Published.CONNECTED
    assert driver.view().since == driver.now - 6.0


def test_naps_without_a_proof_between_them_come_to_an_end() -> None:
    driver = Driver().live(silence=60.0)
    for _ in range(EXCUSES):
        driver.send(Woke(900.0))
        driver.wait(10.0)
        assert driver.state() is State.SUSPECT
    driver.send(Woke(900.0))
    driver.wait(10.0)
    assert driver.state() is State.CLOSING


# -- news of the network --------------------------------------------------------------------------


@pytest.mark.parametrize("beat", [None, 20.0])
@pytest.mark.parametrize("every", [1.0, 5.0, 15.0, 19.0])
def test_news_of_the_network_keep_no_dead_connection(every: float, beat: float | None) -> None:
    driver = Driver().live(silence=60.0, beat=beat)
    begin = driver.now
    while driver.generation == 1:
        driver.wait(every)
        driver.send(Woke(0.0))
        assert driver.now - begin <= 60.0 + 5.0 + every
    assert driver.cause.kind is Kind.SILENT


def test_news_of_the_network_prolong_no_attempt() -> None:
    driver = Driver()
    driver.start()
    for _ in range(6):
        driver.wait(5.0)
        driver.send(Woke(0.0))
    assert driver.state() is State.CLOSING


def test_news_of_the_network_forgive_no_heartbeat() -> None:
    driver = Driver().live(beat=10.0, silence=60.0)
    for _ in range(3):
        driver.tick()
    driver.send(Woke(0.0))
    assert driver.view().missed_beats == 2


@pytest.mark.parametrize("kind", [Kind.UNREACHABLE, Kind.TIMEOUT, Kind.LOST, Kind.SILENT])
def test_news_of_the_network_end_a_wait_for_it(kind: Kind) -> None:
    driver = Driver().fail(5, kind)
    driver.send(Woke(0.0))
    assert driver.state() is State.CONNECTING


@pytest.mark.parametrize("kind", [Kind.THROTTLED, Kind.PROTOCOL, Kind.UNKNOWN, Kind.LOCAL])
def test_news_of_the_network_end_no_other_wait(kind: Kind) -> None:
    driver = Driver().fail(5, kind)
    delay = driver.delay
    driver.send(Woke(0.0))
    assert (driver.state(), driver.delay) == (State.BACKOFF, delay)


@given(
    moves=st.lists(
        st.one_of(
            st.builds(Woke, st.just(0.0)),
            st.builds(Woke, st.floats(5.0, 1e5)),
            st.floats(0.0, 1e4),
        ),
        max_size=60,
    )
)
def test_nothing_but_proof_of_life_keeps_a_connection(moves: list[Woke | float]) -> None:
    driver = Driver().live(silence=60.0)
    limits = 0
    for move in moves:
        if driver.state() is State.CLOSING:
            return
        if isinstance(move, Woke):
            driver.send(move)
        else:
            driver.tick(late=move)
            limits += 1
        assert limits <= 1 + EXCUSES + 1, "limits pass, and it is not given up"


@pytest.mark.parametrize("state", [State.STOPPED, State.CLOSING, State.BLOCKED])
def test_a_suspend_changes_nothing_elsewhere(state: State) -> None:
    driver = Driver()
    if state is State.BLOCKED:
        driver.blocked()
    elif state is State.CLOSING:
        driver.live()
        driver.stop()
    assert driver.send(Woke(3_600.0)) == []
    assert driver.state() is state


def test_for_the_server_a_suspend_is_time_that_passed() -> None:
    driver = Driver().fail(1, Kind.THROTTLED, retry_after=1_000.0)
    driver.send(Woke(600.0))
    assert driver.state() is State.BACKOFF
    assert driver.delay == 400.0


# -- generations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Step(1, "late"),
        Ready(1),
        Alive(1),
        BeatAcked(1),
        BeatFailed(1, cause(Kind.CREDENTIALS)),
        Verified(1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_stale_event_changes_nothing_but_the_counter(event: Event) -> None:
    driver = Driver()
    driver.live().end()
    driver.tick()
    assert driver.generation == 2
    before = driver.view()
    assert driver.send(event) == []
    after = driver.view()
    assert after.stale_events == before.stale_events + 1
    assert _without_counter(driver, before) == _without_counter(driver, after)


def _without_counter(driver: Driver, view: object) -> tuple[str, float | None, object]:
    return (
        str(view).replace(f"stale_events={getattr(view, 'stale_events')}", ""),  # noqa: B009
        driver.machine.next_deadline(),
        driver.memory(),
    )


def test_what_a_dying_connection_says_changes_nothing() -> None:
    driver = Driver().live(beat=10.0)
    driver.kick(operator=True)
    before = driver.view()
    effects: list[Effect] = []
    effects += driver.alive()
    effects += driver.ready()
    effects += driver.send(BeatAcked(driver.generation))
    effects += driver.send(BeatFailed(driver.generation, cause(Kind.CREDENTIALS)))
    assert effects == []
    assert driver.view() == before


# -- the status never lies ------------------------------------------------------------------------


def test_connected_expires_even_without_a_tick() -> None:
    driver = Driver().live(silence=60.0)
    driver.now += 60.0
    assert driver.view().published is Published.CONNECTED
    driver.now += 0.001
    view = driver.view()
    assert view.published is Published.RETRYING
    assert view.since == view.valid_until == driver.now - 0.001


def test_a_doubt_that_comes_too_late_is_told_as_retrying() -> None:
    driver = Driver().live(silence=60.0)
    driver.freeze(90.0)
    assert driver.reported() is Published.RETRYING
    driver.alive()
    assert driver.reported() is Published.CONNECTED


def test_a_suspect_past_its_limit_is_told_as_retrying() -> None:
    driver = Driver().live(silence=60.0)
    driver.tick()
    driver.freeze(90.0)
    assert driver.state() is State.SUSPECT
    assert driver.reported() is Published.RETRYING


def test_published_names_of_a_whole_life() -> None:
    driver = Driver()
    assert driver.view().published is Published.STOPPED
    driver.start()
    assert driver.view().published is Published.CONNECTING
    driver.live()
    assert driver.view().published is Published.CONNECTED
    driver.end()
    assert driver.view().published is Published.RETRYING
    driver.tick()
    assert driver.view().published is Published.RETRYING
    driver.end(Kind.CREDENTIALS)
    driver.tick()
    driver.end(Kind.CREDENTIALS)
    assert driver.view().published is Published.FATAL
    driver.tick()
    assert driver.view().published is Published.FATAL
    driver.stop()
    assert driver.view().published is Published.STOPPING
    driver.end()
    assert driver.view().published is Published.STOPPED
