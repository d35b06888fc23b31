"""What the kit allows a platform: its own time, a forgotten place, a send of unknown fate settled.

Nothing of this may excuse an adapter: its defects are in `test_kit`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest

from holdfast.adapter import HttpFailed, Link, Traits
from holdfast.conformance import SCENARIOS, Broken, Need, Result, judge
from holdfast.conformance.rig import PATIENCE, SETTLE, rig
from holdfast.lab.cable import Cable
from holdfast.lab.cabled_hooks import CabledHooks
from holdfast.messages import Receipt
from holdfast.supervision import Cause, Kind, Published
from tests.conformance.parrot import PARROT, Parrot, Perch, bench
from tests.conformance.test_kit import Mayfly, ReadyOnOpen, StartsAnew


class Veiled(Perch):
    """One that can deny to hear anybody."""

    veiled = False

    def listening(self) -> bool:
        return super().listening() and not self.veiled


class Dawdler(Perch):
    """Pushes everything late."""

    def say(self, text: str, *, chat: str = "ann", sender: str = "ann", group: bool = False) -> str:
        speak = partial(super().say, text, chat=chat, sender=sender)
        asyncio.get_running_loop().call_later(SETTLE + 100.0, speak)
        return text


class AdmitsIt(StartsAnew):
    """Throws away what was said meanwhile, and says so."""

    async def run(self, link: Link) -> None:
        if link.generation > 1:
            link.gap("thrown away", 0.0)
        await super().run(link)


class FindsOut(Parrot):
    """Repeats nothing: it knows another way to see what became of a send."""

    traits: ClassVar[Traits] = Traits(liveness=Parrot.traits.liveness, max_text=100, replays=True)

    async def send(self, message: Any) -> Any:
        with contextlib.suppress(HttpFailed):
            return await super().send(message)
        return Receipt(message.key)


class WaitsLong(Parrot):
    """Is told to wait longer than any ladder."""

    def classify(self, error: BaseException) -> Cause | None:
        cause = super().classify(error)
        if cause is not None and cause.kind is Kind.THROTTLED:
            return replace(cause, retry_after=1_000.0)
        return cause


async def test_a_claim_is_a_lie_only_for_as_long_as_it_is_made() -> None:
    async with rig(bench(server=Veiled)) as run:
        await run.connect()
        assert isinstance(run.server, Veiled)
        run.every, run.server.veiled = 100.0, True
        for _ in range(4):  # every look finds it deaf, and just connected
            await asyncio.sleep(90.0)
            await run.drop()
            await run.published(Published.CONNECTED, run.ladder)
            await asyncio.sleep(10.0)
        assert not run.lie
        run.server.veiled = False


async def test_a_status_that_the_platform_never_confirms_is_not_believed() -> None:
    async with rig(bench(ReadyOnOpen)) as run:
        await run.inject(Need.STALL_LOGIN)
        with pytest.raises(Broken, match="connected, but not for the platform"):
            await run.connect()
        await run.heal()
        await run.drop()
        await run.connected()


async def test_an_end_that_takes_its_time_is_waited_for() -> None:
    async with rig(bench(server=Veiled)) as run:
        await run.connect()
        assert isinstance(run.server, Veiled)
        run.server.veiled = True
        asyncio.get_running_loop().call_later(PATIENCE - 1.0, run.server.close_all, 1001)
        asyncio.get_running_loop().call_later(PATIENCE + 5.0, setattr, run.server, "veiled", False)
        await run.connected()
        assert run.view().generation == 2


def test_a_wait_that_the_platform_asks_for_comes_on_top_of_every_limit() -> None:
    assert judge(SCENARIOS["C08"], bench(WaitsLong)).result is Result.PASS


@pytest.mark.parametrize("redelivery", [0.0, 300.0])
async def test_a_redelivery_is_waited_for_if_there_is_one(redelivery: float) -> None:
    async def scenario() -> None:
        async with rig(bench(server=Dawdler, redelivery=redelivery)) as run:
            await run.connect()
            run.say()
            await run.settled()

    if redelivery:
        return await scenario()
    with pytest.raises(Broken, match="lost without a word"):
        await scenario()


FORGETS = {**PARROT.faults, Need.REFUSE_RESUME: Perch.forget}


@pytest.mark.parametrize("adapter", [Parrot, Mayfly, AdmitsIt])
def test_a_forgotten_place_costs_nothing_or_a_gap(adapter: type[Parrot]) -> None:
    row = judge(SCENARIOS["C17"], replace(bench(adapter), faults=FORGETS))
    assert row.result is Result.PASS


def test_a_forgotten_place_is_no_excuse_for_a_silent_loss() -> None:
    with pytest.raises(Broken, match="lost without a word"):
        judge(SCENARIOS["C17"], replace(bench(StartsAnew), faults=FORGETS))


def test_a_send_whose_fate_was_found_out_needs_no_mark() -> None:
    assert judge(SCENARIOS["C29"], bench(FindsOut)).result is Result.PASS


async def test_the_platform_and_the_account_reach_web_hooks_through_the_cable_only() -> None:
    told: list[str] = []
    async with rig(bench(introduce=lambda perch, url: told.append(url))) as run:
        assert told == [run.cable.hook_url]
    hooks = CabledHooks("127.0.0.1", 0)
    await hooks.start()
    cable = Cable(1, hooks.port)
    await cable.start()
    assert hooks.url == f"http://127.0.0.1:{hooks.port}"
    hooks.cable = cable
    assert hooks.url == cable.hook_url
    await cable.stop()
    await hooks.stop()
