"""One scenario per row of the transition table, and none left over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.supervision import Kick, Kind, Policy, Ready, Reconfigured, State, Woke
from holdfast.supervision.states import (
    ACTS,
    TRANSITIONS,
    IllegalTransition,
    Trigger,
    check,
    diagram,
)

from .driver import Driver

S, T = State, Trigger


def _suspect(driver: Driver) -> None:
    driver.live()
    driver.send(Woke(60.0))


def _closing(driver: Driver) -> None:
    _suspect(driver)
    driver.tick()


def _rival_after_grace(driver: Driver) -> None:
    """Live again, with a conflict that began longer ago than the grace."""
    driver.live().end(Kind.REPLACED)
    driver.live().wait(driver.machine.policy.conflict_grace)


def _rival_while_suspect(driver: Driver) -> None:
    _rival_after_grace(driver)
    driver.send(Woke(60.0))
    driver.end(Kind.REPLACED)


def _proof(driver: Driver) -> None:
    _suspect(driver)
    driver.alive()


def _reconfigure(driver: Driver) -> None:
    driver.send(Reconfigured(Policy()))


def _operator_kick(driver: Driver) -> None:
    driver.send(Kick(operator=True))


def _then(*actions: Callable[[Driver], object]) -> Callable[[Driver], object]:
    def run(driver: Driver) -> None:
        for action in actions:
            action(driver)

    return run


def _verify_late(driver: Driver) -> None:
    """The re-verification of a blocked account hangs."""
    driver.blocked()
    driver.wait_for(S.CLOSING, within=1_000)


def _rotating(driver: Driver) -> None:
    """A successor is being dialled."""
    driver.live().goodbye()


def _the_old_one_ends(driver: Driver) -> None:
    driver.end_of(driver.generation - 1)


def _rotated(driver: Driver) -> None:
    """The successor is live, its predecessor still drains."""
    _rotating(driver)
    driver.ready()


def _rotating_while_suspect(driver: Driver) -> None:
    _suspect(driver)
    driver.goodbye()


def _rival_after_rotation(driver: Driver) -> None:
    _rival_after_grace(driver)
    driver.goodbye()
    driver.ready()
    driver.end(Kind.REPLACED)


SCENARIOS: dict[tuple[State, Trigger, State], Callable[[Driver], object]] = {
    (S.STOPPED, T.START, S.BACKOFF): Driver.start,
    (S.BACKOFF, T.DUE, S.CONNECTING): Driver.start,
    (S.BLOCKED, T.DUE, S.CONNECTING): _then(Driver.blocked, Driver.tick),
    (S.BLOCKED, T.KICK, S.BACKOFF): _then(Driver.blocked, _operator_kick),
    (S.CONNECTING, T.READY, S.LIVE): Driver.live,
    (S.LIVE, T.DOUBT, S.SUSPECT): _suspect,
    (S.SUSPECT, T.PROOF, S.LIVE): _proof,
    (S.CONNECTING, T.GIVE_UP, S.CLOSING): _then(Driver.start, Driver.tick),
    (S.LIVE, T.GIVE_UP, S.CLOSING): lambda d: d.live(beat=10.0).wait(60.0),
    (S.SUSPECT, T.GIVE_UP, S.CLOSING): _closing,
    (S.CONNECTING, T.STOP, S.CLOSING): _then(Driver.start, Driver.stop),
    (S.LIVE, T.STOP, S.CLOSING): _then(Driver.live, Driver.stop),
    (S.SUSPECT, T.STOP, S.CLOSING): _then(_suspect, Driver.stop),
    (S.CONNECTING, T.REPLACE, S.CLOSING): _then(Driver.start, _reconfigure),
    (S.LIVE, T.REPLACE, S.CLOSING): _then(Driver.live, _operator_kick),
    (S.SUSPECT, T.REPLACE, S.CLOSING): _then(_suspect, _operator_kick),
    (S.CONNECTING, T.ENDED, S.BACKOFF): _then(Driver.start, Driver.end),
    (S.LIVE, T.ENDED, S.BACKOFF): _then(Driver.live, Driver.end),
    (S.SUSPECT, T.ENDED, S.BACKOFF): _then(_suspect, Driver.end),
    (S.CLOSING, T.ENDED, S.BACKOFF): _then(_closing, Driver.end),
    (S.CONNECTING, T.VERDICT, S.BLOCKED): Driver.blocked,
    (S.LIVE, T.VERDICT, S.BLOCKED): _then(_rival_after_grace, lambda d: d.end(Kind.REPLACED)),
    (S.SUSPECT, T.VERDICT, S.BLOCKED): _rival_while_suspect,
    (S.CLOSING, T.VERDICT, S.BLOCKED): _then(_verify_late, Driver.end),
    (S.CONNECTING, T.VERIFIED, S.BACKOFF): _then(Driver.blocked, Driver.tick, Driver.verified),
    (S.CLOSING, T.STOP, S.STOPPED): _then(Driver.live, Driver.stop, Driver.end),
    (S.BACKOFF, T.STOP, S.STOPPED): _then(Driver.fail, Driver.stop),
    (S.BLOCKED, T.STOP, S.STOPPED): _then(Driver.blocked, Driver.stop),
    (S.LIVE, T.ROTATED, S.LIVE): _rotated,
    (S.SUSPECT, T.ROTATED, S.LIVE): _then(_rotating_while_suspect, Driver.ready),
    (S.CLOSING, T.ROTATED, S.LIVE): _then(_rotating_while_suspect, Driver.tick, Driver.ready),
    (S.LIVE, T.ENDED, S.CONNECTING): _then(_rotating, _the_old_one_ends),
    (S.SUSPECT, T.ENDED, S.CONNECTING): _then(_rotating_while_suspect, _the_old_one_ends),
    (S.CLOSING, T.ENDED, S.CONNECTING): _then(
        _rotating_while_suspect, Driver.tick, _the_old_one_ends
    ),
    (S.BACKOFF, T.STOP, S.CLOSING): _then(_rotated, Driver.end, Driver.stop),
    (S.BLOCKED, T.STOP, S.CLOSING): _then(_rival_after_rotation, Driver.stop),
}


@pytest.mark.parametrize(
    "row", SCENARIOS, ids=lambda row: f"{row[0].name}-{row[1].name}-{row[2].name}"
)
def test_row_is_reached(row: tuple[State, Trigger, State]) -> None:
    driver = Driver()
    SCENARIOS[row](driver)
    before, trigger, after = row
    assert (before, trigger.value, after) in driver.rows


def test_the_scenarios_reach_exactly_the_table() -> None:
    reached = set()
    for scenario in SCENARIOS.values():
        driver = Driver()
        scenario(driver)
        reached |= {(before, Trigger(name), after) for before, name, after in driver.rows}
    assert reached == TRANSITIONS


def test_any_other_change_raises_at_once() -> None:
    rows = [(s, t, u) for s in State for t in Trigger for u in State]
    illegal = [row for row in rows if row not in TRANSITIONS]
    for row in illegal:
        with pytest.raises(IllegalTransition):
            check(*row)
    assert len(illegal) == len(rows) - len(TRANSITIONS)


def test_every_state_says_who_acts_and_can_be_stopped() -> None:
    assert set(ACTS) == set(State)
    stoppable = {before for before, trigger, _ in TRANSITIONS if trigger is Trigger.STOP}
    assert stoppable == set(State) - {State.STOPPED}


def test_the_diagram_has_each_row_once() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> STOPPED"]
    drawn = set()
    for line in lines[2:]:
        ends, labels = line.strip().split(": ")
        before, after = ends.split(" --> ")
        drawn |= {(State[before], Trigger(label), State[after]) for label in labels.split(", ")}
    assert drawn == TRANSITIONS


def test_a_second_ready_changes_nothing() -> None:
    driver = Driver().live()
    before = driver.view()
    driver.send(Ready(driver.generation, beat=1.0))
    assert driver.view() == before
