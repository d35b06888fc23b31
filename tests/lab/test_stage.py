"""What a stage calls deaf, lost, missing and good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulator import Heard
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import PATIENCE, Stage
from holdfast.observe.status import AccountStatus, proof

WALL = 1_000_000.0
"""Unix seconds at the loop's time 0."""


class Heedless(TelegramSimulator):
    """A platform on which every message is heard of, and that can be told to listen."""

    ears = True

    def listening(self) -> bool:
        return self.ears

    def answer(self, text: str) -> None:
        """The bot answers."""
        self.hear(Heard(id=text, chat="ann", text=f"You said: {text}", at=self.now()))


def entry(state: str = "connected", gap: tuple[float, float] | None = None) -> AccountStatus:
    """A published status. ``gap`` in seconds on the loop's clock."""
    nothing = proof(None, 0.0)
    return AccountStatus(
        **dict.fromkeys(AccountStatus.__struct_fields__, 0)  # type: ignore[arg-type]
        | {
            "state": state,
            "valid_until": WALL * 2,
            "inbound": nothing,
            "outbound": nothing,
            "cause": None,
            "gap": gap and {"since": WALL + gap[0], "until": WALL + gap[1], "reason": "fresh"},
        }
    )


def now() -> float:
    """Seconds on the loop's clock."""
    return asyncio.get_running_loop().time()


def look(stage: Stage, seen: AccountStatus) -> None:
    """The status is looked at."""
    stage.sample(seen, WALL + now())


@contextlib.asynccontextmanager
async def staged(*, replays: bool = False) -> AsyncIterator[tuple[Stage, Heedless]]:
    """A stage whose platform does as it is told."""
    simulator = Heedless()
    async with Stage("tg", simulator, replays=replays) as stage:
        yield stage, simulator


@pytest.mark.parametrize("side", ["outward", "inward"])
async def test_a_cable_cut_on_either_way_makes_deaf(side: str) -> None:
    async with staged() as (stage, simulator):
        assert not stage.deaf()
        relay: Relay = getattr(stage.cable, side)
        relay.refuse()
        assert stage.deaf()
        relay.heal()
        assert not stage.deaf()
        simulator.ears = False
        assert stage.deaf()


async def test_a_message_without_an_answer_is_lost() -> None:
    async with staged() as (stage, simulator):
        stage.say()
        stage.say(group=True)
        simulator.answer("tg message 2")
        verdict = stage.verdict("telegram")
        assert (verdict.received, verdict.answered, verdict.lost, verdict.gap) == (2, 1, 1, 0)
        assert not verdict.good
        simulator.answer("tg message 1")
        assert stage.verdict("telegram").good


async def test_what_is_answered_twice_is_doubled_unless_marked() -> None:
    async with staged() as (stage, simulator):
        stage.say()
        simulator.answer("tg message 1")
        simulator.answer("tg message 1")
        verdict = stage.verdict("telegram")
        assert (verdict.answered, verdict.doubled, verdict.good) == (1, 1, False)
        stage.unknown = 1
        assert stage.verdict("telegram").doubled == 0


@pytest.mark.parametrize(("replays", "lost", "gap"), [(False, 1, 1), (True, 2, 0)])
async def test_a_reported_gap_excuses_only_what_fell_into_it(
    replays: bool, lost: int, gap: int
) -> None:
    async with staged(replays=replays) as (stage, _):
        stage.say()
        await asyncio.sleep(10)
        began = now()
        await asyncio.sleep(1)
        stage.say()
        await asyncio.sleep(1)
        reported = entry(gap=(began, now()))
        for _ in range(3):  # one and the same gap
            look(stage, reported)
            await asyncio.sleep(1)
        verdict = stage.verdict("dingtalk")
        assert (verdict.lost, verdict.gap, len(stage.gaps)) == (lost, gap, 1)
        assert not verdict.good
        await asyncio.sleep(PATIENCE)
        assert stage.waiting_too_long() == lost


async def test_all_is_accounted_for_once_the_gap_is_reported() -> None:
    async with staged() as (stage, _):
        stage.say()
        said = now()
        waiting = asyncio.create_task(stage.all_accounted_for())
        await asyncio.sleep(1)
        look(stage, entry())
        await asyncio.sleep(1)
        assert not waiting.done()
        look(stage, entry(gap=(said - 1, said + 1)))
        await asyncio.wait_for(waiting, 1)
        assert stage.verdict("dingtalk").good


async def test_connected_is_a_lie_past_the_limit_of_the_fault() -> None:
    async with staged() as (stage, _):
        fault = stage.strike("cut", lambda: stage.cable(Relay.cut), limit=3.0)
        for _ in range(6):
            look(stage, entry())
            await asyncio.sleep(1)
        assert 0 < stage.lie < 1
        look(stage, entry("retrying"))
        assert fault.detection == pytest.approx(6.0, abs=0.1)
        stage.heal(fault)
        assert not stage.deaf()
        await asyncio.sleep(2)
        look(stage, entry())
        assert fault.recovery == pytest.approx(2.0, abs=0.1)
        assert not stage.verdict("telegram").good


async def test_a_fault_that_never_healed_is_not_good() -> None:
    async with staged() as (stage, _):
        fault = stage.strike("cable pulled", lambda: stage.cable(Relay.refuse), limit=3.0)
        look(stage, entry("retrying"))
        stage.heal(fault)
        verdict = stage.verdict("telegram")
        assert (verdict.faults, verdict.healed, verdict.good) == (1, 0, False)
        look(stage, entry())
        assert stage.verdict("telegram").good
