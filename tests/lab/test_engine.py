"""The engine of the lab: what it makes of a good subject, of a bad one, and of a bad step."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.lab.cable import HOST
from holdfast.lab.cast import CAST
from holdfast.lab.engine import Outcome, Result, run
from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.modes import MODES
from holdfast.lab.profile import profile
from holdfast.lab.record import Record
from holdfast.lab.scene import COARSE, FINE, Scene, Seat
from holdfast.lab.stage import Stage
from holdfast.lab.steps import (
    accounted_for,
    answered,
    connected,
    heal,
    kill,
    network,
    noticed,
    platform,
    recovered,
    say,
    start,
    stop,
    wait,
)
from holdfast.lab.steps_connecting import (
    causes,
    climbs,
    end_connection,
    flaps,
    hardly_tries,
    keeps_trying,
    logins,
    one_link,
    spread,
)
from holdfast.lab.steps_owning import disk
from holdfast.lab.subjects import Reading
from holdfast.lab.subjects.inprocess import House, InProcess
from holdfast.lab.terms import NAME, Ability, Clock, Expect, Play
from holdfast.supervision import preset

WELL = (connected(), say(), answered())
LOSS = (*WELL, network("cut"), noticed(), heal(), recovered(), say(), answered())


def mode(*steps: Step, **more: Any) -> Mode:
    """A mode with one variant."""
    return Mode(id="planted", group=Group.RECONNECTING, what="x", variants={"only": steps}, **more)


def doing(words: str, do: Callable[[Scene], object]) -> Step:
    """A step made of a plain call."""

    async def carry_out(scene: Scene) -> None:
        do(scene)

    return Step(words, carry_out)


class Planted(InProcess):
    """Holdfast with a flaw."""

    name = "planted"

    def __init__(self, house: type[House]) -> None:
        self._house = house

    @contextlib.asynccontextmanager
    async def run(
        self,
        home: Path,
        stages: Mapping[str, Stage],
        *,
        policy: Mapping[str, Any],
        gateway: Mapping[str, Any],
    ) -> AsyncIterator[House]:
        """See `Subject`."""
        house = self._house(home, stages, policy, gateway, Random(1).random)
        try:
            yield house
        finally:
            await house.stop()


class Liar(House):
    """Whatever happens, it is connected."""

    def read(self, account: str) -> Reading | None:
        """See `Running`."""
        return Reading(state="connected", generation=1)


class Sleeper(House):
    """It never begins to work."""

    async def start(self) -> None:
        """See `Running`."""


class Hoarder(House):
    """It leaves a task behind."""

    async def start(self) -> None:
        """See `Running`."""
        await super().start()
        self.kept = asyncio.create_task(asyncio.sleep(1_000_000))


def played(*steps: Step, on: str = "telegram", flaw: type[House] = House, **more: Any) -> Result:
    """The result of a planted mode."""
    return run(mode(*steps, **more), "only", on, Planted(flaw))


# -- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "host"), [(InProcess.abilities, NAME), (frozenset[Ability](), HOST)]
)
def test_whoever_resolves_names_for_itself_calls_by_address(
    kept: frozenset[Ability], host: str
) -> None:
    class Resolving(InProcess):
        abilities = kept

    hosts: list[str] = []
    look = doing("look", lambda scene: hosts.append(scene.seat.stage.host))
    result = run(mode(*WELL, look, host=NAME), "only", "telegram", Resolving())
    assert (result.outcome, hosts) == (Outcome.PASS, [host])


def test_a_loss_that_is_survived_is_a_pass_with_its_figures() -> None:
    told: list[str] = []
    result = run(mode(*LOSS), "only", "telegram", InProcess(), told.append)
    assert (result.outcome, result.reasons) == (Outcome.PASS, ())
    assert (result.mode, result.variant, result.platform) == ("planted", "only", "telegram")
    assert (result.subject, result.clock) == ("holdfast", Clock.SIMULATED)
    (figures,) = result.figures
    assert (figures.said, figures.answered, figures.lost) == (2, 2, 0)
    (took,) = figures.detection_s
    assert took is not None
    assert 0.0 < took <= 60.0
    assert took < result.played_s < 300.0
    assert told[:2] == ["connect", "a message in ann"]
    assert "telegram: network: cut" in told


@pytest.mark.parametrize(
    ("hurried", "outcome"), [(True, Outcome.FAIL), (False, Outcome.NOT_APPLICABLE)]
)
def test_a_fault_that_was_never_played_shows_nothing(hurried: bool, outcome: Outcome) -> None:
    subject = InProcess()
    subject.hurried = hurried
    steps = (*WELL, platform(Play.ERROR_ONCE, fault=False), heal(), say(), answered())
    result = run(mode(*steps), "only", "discord", subject)
    assert result.outcome is outcome
    words = "the platform never got to answer the next login with a server error, once"
    assert result.reasons == (words,)


def test_a_fault_that_was_played_is_not_asked_for_again() -> None:
    steps = (*WELL, platform(Play.ERROR_ONCE, fault=False), network("rst"), wait(5.0))
    result = played(*steps, heal(), recovered(), say(), answered(), on="discord")
    assert (result.outcome, result.reasons) == (Outcome.PASS, ())


class Mumbler(House):
    """It does not say why a login failed."""

    def read(self, account: str) -> Reading | None:
        """See `Running`."""
        reading = super().read(account)
        if reading is None or reading.state != "retrying" or reading.code != "upgrade_503":
            return reading
        return replace(reading, message="")


def test_a_failure_that_is_soon_over_is_judged_as_well() -> None:
    once = MODES["error-without-cause"].variants["a server error"]
    result = played(*once, on="discord", flaw=Mumbler, expect=Expect(recover=None))
    assert result.reasons[0] == "the status names no message: ''"


class Forgetful(House):
    """Whatever it lost, it was silent since 1970."""

    async def gaps(self, account: str) -> Sequence[tuple[float, float]]:
        """See `Running`."""
        return [(0.0, until) for _, until in await super().gaps(account)]


def test_a_gap_wider_than_the_fault_is_no_report() -> None:
    missed = (*WELL, network("cut"), say(), noticed(), heal(), recovered(), accounted_for())
    assert played(*missed, on="dingtalk").reasons == ()
    reasons = played(*missed, on="dingtalk", flaw=Forgetful).reasons
    assert [reason.partition(" covers ")[0] for reason in reasons] == ["a gap"]


async def test_the_time_of_day_before_a_sleep_stays_what_it_was() -> None:
    seat: Any = SimpleNamespace(simulator=SimpleNamespace())
    running: Any = SimpleNamespace()
    scene = Scene(Expect(), {"bot": seat}, running)
    before, now = scene.wall(), scene.now()
    await asyncio.sleep(1.0)
    scene.slept(600.0)
    assert scene.wall_at(now) == pytest.approx(before)
    assert scene.wall_at(now + 1.0) == pytest.approx(scene.wall())
    assert scene.awake(now, now + 3.0) == [
        pytest.approx((before, before + 1.0)),
        pytest.approx((before + 601.0, before + 603.0)),
    ]
    assert scene.awake(now, now + 1.0)[0] == pytest.approx((before, before + 1.0))


def test_what_is_in_hand_is_waited_for_although_a_gap_covers_it() -> None:
    stopped = (say(ask="#sleep 15"), wait(1.0), stop(), wait(1.0), start(), connected())
    result = run(mode(*WELL, *stopped, accounted_for(60.0)), "only", "dingtalk", InProcess())
    assert (result.outcome, result.reasons) == (Outcome.PASS, ())
    (figures,) = result.figures
    assert (figures.said, figures.answered, figures.gap) == (2, 2, 0)


def test_one_seed_draws_one_jitter() -> None:
    def drawn(seed: int) -> float:
        """The wait after the first loss, of half a second to a whole one."""
        waits: list[float] = []

        def look(scene: Scene) -> None:
            reading = scene.running.read("telegram")
            assert reading is not None
            assert reading.next_retry_at is not None
            waits.append(reading.next_retry_at - scene.wall())

        steps = (*WELL, network("refuse"), noticed(), doing("look", look), heal(), recovered())
        result = run(mode(*steps), "only", "telegram", InProcess(seed))
        assert result.outcome is Outcome.PASS, result.reasons
        return waits[0]

    first = drawn(1)
    assert [drawn(1), drawn(1)] == pytest.approx([first, first], abs=0.02)
    assert len({round(drawn(seed), 1) for seed in range(1, 8)}) > 2


def test_the_time_line_begins_with_the_play_and_holds_changes_only() -> None:
    result = run(mode(*LOSS), "only", "telegram", InProcess())
    ats = [moment.at for moment in result.line]
    assert ats == sorted(ats)
    assert ats[0] == 0.0
    states = [moment.state for moment in result.line]
    assert {"connecting", "connected", "retrying"} <= set(states)
    ((name, began, healed),) = result.faults
    assert name == "network: cut"
    assert healed is not None
    assert 0.0 < began < healed <= result.played_s
    lost = next(moment for moment in result.line if moment.state == "retrying")
    assert lost.at - began == pytest.approx(result.figures[0].detection_s[0], abs=0.01)
    assert lost.deaf


def test_every_account_of_a_play_is_judged() -> None:
    one_sided = (connected(), say(), say(seat=1), answered(), network("rst"), heal(), recovered())
    result = played(*one_sided, accounts=2)
    assert result.outcome is Outcome.PASS
    first, second = result.figures
    assert (first.said, second.said) == (1, 1)
    assert (len(first.recovery_s), len(second.recovery_s)) == (1, 0)


def test_who_lies_is_found_out() -> None:
    result = played(
        *WELL, network("cut"), wait(200.0), heal(), flaw=Liar, expect=Expect(detect=60.0)
    )
    assert result.outcome is Outcome.FAIL
    assert "network: cut: never noticed" in result.reasons
    (lie,) = [reason for reason in result.reasons if "lie" in reason]
    assert result.figures[0].lie_s == pytest.approx(200.0 - 61.0, abs=1.0), lie


def test_who_never_begins_is_found_out() -> None:
    result = played(*WELL, flaw=Sleeper)
    assert result.outcome is Outcome.FAIL
    assert "not connected within 60 s" in result.reasons
    assert any(reason.startswith("lost: telegram telegram-1") for reason in result.reasons)


def test_who_leaves_something_behind_is_found_out() -> None:
    assert played(*WELL, flaw=Hoarder).reasons == ("1 tasks left behind",)


def test_a_step_that_can_not_be_done_ends_the_play_and_is_told() -> None:
    after: list[str] = []

    def explode(scene: Scene) -> None:
        raise ValueError("boom")

    result = played(
        *WELL, doing("light it", explode), doing("run", lambda scene: after.append("ran"))
    )
    assert result.reasons == ("light it: ValueError: boom",)
    assert after == []
    assert result.line[-1].state == "stopped"
    assert result.figures[0].answered == 1


# -- what can not be ------------------------------------------------------------------------------


def test_a_play_that_a_platform_declines_does_not_apply_with_its_reason() -> None:
    result = played(*WELL, platform(Play.GOODBYE))
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert result.reasons == (profile("telegram").lacks[Play.GOODBYE],)
    assert (result.line, result.figures, result.took_s) == ((), (), 0.0)


def test_what_a_subject_can_not_do_does_not_apply() -> None:
    result = played(*WELL, kill())
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert result.reasons == (f"planted can not {Ability.KILL.value}",)


def test_what_can_only_happen_elsewhere_does_not_apply() -> None:
    result = played(*WELL, only=frozenset({"slack"}), elsewhere="it has no sockets")
    assert result.reasons == ("it has no sockets",)
    assert result.outcome is Outcome.NOT_APPLICABLE


# -- the scene ------------------------------------------------------------------------------------


def test_healing_disarms_the_platform_and_puts_the_cable_back() -> None:
    seen: list[tuple[bool, bool]] = []

    def look(scene: Scene) -> None:
        faults = scene.seat.simulator.faults
        seen.append((faults.armed("poll_fails"), scene.seat.stage.cable.broken))

    struck = (platform(Play.POLL_FAILS), say(), wait(1.0))  # words end the poll under way
    broken = (*struck, network("late", 1.0), doing("look", look))
    result = played(*WELL, *broken, heal(), doing("look", look), expect=Expect(recover=None))
    assert seen == [(True, True), (False, False)]
    assert result.outcome is Outcome.PASS


def test_in_simulated_hours_every_fact_is_dated_at_once() -> None:
    """Looks are far apart then; what a user hears wakes the one who looks."""
    waited: list[float] = []

    def note(scene: Scene) -> None:
        asked = scene.seat.said[-1]
        waited.append(scene.seat.heard_at[asked.token] - (asked.at - scene.wall() + scene.now()))

    played(*WELL, wait(1_003.0), say(), wait(8.0), doing("note", note))
    assert waited
    assert waited[0] < 2 * FINE < COARSE


async def test_a_stop_without_an_end_is_told_and_holds_up_nothing() -> None:
    running: Any = SimpleNamespace(stop=asyncio.Event().wait)
    seat: Any = SimpleNamespace(record=Record("bot"), simulator=SimpleNamespace())
    await Scene(mode(*WELL).expect, {"bot": seat}, running).stop()
    assert seat.record.broken == ["it did not stop within 95 s"]


def test_a_full_disk_is_the_gateways_until_all_is_mended() -> None:
    left: list[int] = []

    def note(scene: Scene) -> None:
        left.append(resource.getrlimit(resource.RLIMIT_FSIZE)[0])

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (*WELL, disk(full=True), doing("note", note), say(), answered(5.0))
    result = run(mode(*full), "only", "telegram", InProcess())
    assert result.reasons == ("1 messages not answered within 5 s",)
    assert result.late
    assert {type(reason) for reason in result.reasons} == {str}, "a result is data"
    assert (left, resource.getrlimit(resource.RLIMIT_FSIZE)) == ([0], before)


class Stranger(InProcess):
    """It has promised us nothing."""

    hurried = False


@pytest.mark.parametrize(
    ("subject", "repeat", "patience"), [(InProcess(), 5.0, 60.0), (Stranger(), 15.0, 300.0)]
)
def test_a_platform_hurries_for_holdfast_alone(
    subject: InProcess, repeat: float, patience: float
) -> None:
    told: list[tuple[float, float]] = []

    def note(scene: Scene) -> None:
        told.append((scene.seat.simulator.redelivery[0], scene.seat.profile.redelivery))

    result = run(mode(*WELL, doing("note", note)), "only", "feishu", subject)
    assert (result.outcome, told) == (Outcome.PASS, [(repeat, patience)])


async def test_a_page_is_not_deaf_while_its_users_are_on_their_way_back() -> None:
    part = CAST["webchat"]
    async with part.stage("page") as stage:
        seat = Seat(stage, profile("webchat"))
        assert seat.deaf()  # nobody was ever there
        seat.heal()
        assert not seat.deaf()
        await asyncio.sleep(profile("webchat").returns + 1.0)
        assert seat.deaf()


async def test_a_platform_that_keeps_its_links_is_given_no_such_time() -> None:
    async with CAST["telegram"].stage("bot") as stage:
        seat = Seat(stage, profile("telegram"))
        seat.heal()
        await asyncio.sleep(FINE)
        assert seat.deaf()


# -- the words about attempts ---------------------------------------------------------------------


def test_a_wait_beyond_the_longest_back_off_is_found() -> None:
    slow = {"backoff_first": 250.0, "backoff_cap": 250.0, "backoff_slow_cap": 250.0}
    down = (*WELL, network("refuse"), keeps_trying(900.0))
    lenient = Expect(recover=None)
    reasons = played(*down, policy=slow, expect=lenient).reasons
    assert reasons
    for reason in reasons:
        assert reason.startswith("no attempt for ")
        assert reason.endswith(" s, 90 are allowed")
    assert played(*down, expect=lenient).reasons == ()


def test_attempts_faster_than_the_longest_back_off_are_found() -> None:
    young = (*WELL, platform(Play.POLL_FAILS), end_connection(), hardly_tries(30.0))
    (reason,) = played(*young, expect=Expect(recover=None)).reasons
    assert reason.endswith(" attempts within 30 s, 1 are allowed")
    old = (*young[:-1], wait(600.0), hardly_tries(1_200.0))
    assert played(*old, expect=Expect(recover=None)).reasons == ()


def test_two_connections_at_once_are_found() -> None:
    def second(scene: Scene) -> None:
        scene.seat.simulator.note("link-open")

    assert played(*WELL, one_link(), on="qqbot").reasons == ()
    result = played(*WELL, doing("open another", second), one_link(), on="qqbot")
    assert result.reasons == ("2 connections are open at once",)


def test_a_fault_that_never_struck_is_found() -> None:
    passing = (*WELL, platform(Play.SEND_THROTTLED), end_connection(), climbs(1, spare=7.0))
    (reason,) = played(*passing, expect=Expect(recover=None)).reasons
    assert reason == f"the platform never got to {Play.SEND_THROTTLED.value}"
    stuck = (*WELL, platform(Play.POLL_FAILS), end_connection(), climbs(1, spare=7.0), heal())
    assert "not connected within 10 s" in played(*stuck, expect=Expect(recover=None)).reasons


def test_what_the_status_keeps_to_itself_is_found() -> None:
    once = (*WELL, platform(Play.ERROR_ONCE), end_connection(), wait(30.0))
    (reason,) = played(*once, causes(3), expect=Expect(recover=None)).reasons
    assert re.fullmatch(r"[12] causes were named, not 3: telegram_.*", reason)
    assert played(*once, flaps(), expect=Expect(recover=None)).reasons == (
        "it was not called flapping",
    )


def test_logins_that_are_spent_are_found() -> None:
    spent = (*WELL, wait(10.0), platform(Play.RESUME_BROKEN), end_connection(), wait(30.0))
    (reason,) = played(*spent, logins(1), on="qqbot", expect=Expect(recover=None, gap=True)).reasons
    assert reason == "2 fresh logins, 1 are allowed"


def test_accounts_that_come_back_together_are_found() -> None:
    def together(scene: Scene) -> None:
        scene.strike("a shared outage").healed = scene.now()
        for seat in scene.seats.values():
            seat.record.opens += [scene.now() + 0.05, scene.now() + 0.06]

    crowd = (connected(), doing("come back", together), spread(bucket=0.1, most=2))
    assert played(*crowd, accounts=2, expect=Expect(recover=None)).reasons == ()
    (reason,) = played(*crowd, accounts=3, expect=Expect(recover=None)).reasons
    assert reason == "3 accounts within 0.1 s, 2 are allowed"


@pytest.mark.parametrize("name", CAST)
def test_a_profile_knows_its_presets_longest_back_off(name: str) -> None:
    policy, known = preset(name), profile(name)
    assert (known.cap, known.slow_cap) == (policy.backoff_cap, policy.backoff_slow_cap)
