"""More words of which modes are made: those about attempts, and how they are spread in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from holdfast.lab.mode import Step
from holdfast.lab.record import Late
from holdfast.lab.scene import SWITCHES, Scene, Seat
from holdfast.lab.steps import MOMENT, SLACK, is_up
from holdfast.lab.terms import Ability, Play

BREAKER: Final = 10
"""Failures in a row after which only slow single attempts are made (design, section 3)."""

LADDER: Final = 600.0
"""Seconds in which a ladder of attempts has reached its longest waits."""

ATTEMPT: Final = 30.0
"""Seconds that a whole attempt may take (design, section 3)."""

STEADY: Final = 0.9
"""The least part of its longest back-off that an account waits: slow attempts hardly jitter."""


def end_connection() -> Step:
    """End what is open, so that the account has to connect anew; the way itself is good."""

    async def do(scene: Scene) -> None:
        for seat in scene.seats.values():
            seat.throw(SWITCHES["rst"])
        await scene.until(lambda: not any(map(is_up, scene.seats.values())), MOMENT)

    return Step("the network ends the connection", do)


def keeps_trying(seconds: float) -> Step:
    """Let time pass, in which no wait is longer than the platform's longest back-off."""

    async def do(scene: Scene) -> None:
        began = scene.now()
        await asyncio.sleep(seconds)
        scene.look()
        reading = scene.running.read(scene.seat.name)
        if reading is None:
            return
        for waited, failures in _waits(scene.seat, began, scene.now(), reading.attempt):
            slow = failures >= BREAKER
            cap = scene.seat.profile.slow_cap if slow else scene.seat.profile.cap
            if waited > cap + ATTEMPT + SLACK:
                scene.object(f"no attempt for {waited:.0f} s, {cap + ATTEMPT:g} are allowed")

    words = f"it goes on trying for {seconds:g} s"
    return Step(words, do, frozenset({Ability.STATUS}), seconds)


def _waits(seat: Seat, since: float, until: float, last: int) -> Iterator[tuple[float, int]]:
    """Seconds between two attempts, and the failures in a row after which they were waited;
    ``last`` are those of the end."""
    failures = {m.at: m.attempt for m in seat.record.moments}
    attempts = [at for at in seat.record.opens if since < at < until]
    for before, after in pairwise([since, *attempts, until]):
        yield after - before, failures.get(after, last)


def hardly_tries(seconds: float) -> Step:
    """Let time pass, in which it tries no more often than its longest back-off makes it."""

    async def do(scene: Scene) -> None:
        made = len(scene.seat.record.opens)
        await asyncio.sleep(seconds)
        scene.look()
        made = len(scene.seat.record.opens) - made
        most = 1 + int(seconds / (STEADY * scene.seat.profile.slow_cap))
        if made > most:
            scene.object(f"{made} attempts within {seconds:g} s, {most} are allowed")

    words = f"it tries slowly for {seconds:g} s"
    return Step(words, do, frozenset({Ability.STATUS}), seconds)


def climbs(failures: int, *, spare: float) -> Step:
    """It is connected by itself after so many failed attempts, each of which has to happen: what
    was never played is told by the engine."""

    async def do(scene: Scene) -> None:
        seat = scene.seat
        limit = seat.profile.first_wait * (2 ** (failures + 1) - 1) + spare
        if not await scene.until(lambda: is_up(seat), limit):
            scene.object(Late(f"not connected within {limit:g} s"))

    return Step(f"it is connected by itself after {failures} failed attempts", do)


def waits(at_least: float) -> Step:
    """Wait until the next attempt is so far away, where one will be needed at all."""

    async def do(scene: Scene) -> None:
        def far() -> bool:
            reading = scene.running.read(scene.seat.name)
            due = None if reading is None else reading.next_retry_at
            return due is not None and due - scene.wall() > at_least

        await scene.until(far, LADDER)

    words = f"the next attempt is {at_least:g} s away"
    return Step(words, do, frozenset({Ability.STATUS}))


def met() -> Step:
    """The next attempt of the ladder meets what was healed: no network tells of it."""

    async def do(scene: Scene) -> None:
        seat = scene.seat
        reading = scene.running.read(seat.name)
        # The attempt that is under way may fail as the last before the breaker opens.
        slow = reading is not None and reading.attempt + 1 >= BREAKER
        limit = (seat.profile.slow_cap if slow else seat.profile.cap) + ATTEMPT + SLACK
        if not await scene.until(lambda: not scene.open_faults(), limit):
            scene.object(Late(f"not back within {limit:g} s"))

    return Step("the next attempt succeeds", do)


def flaps() -> Step:
    """It has been called flapping since the fault began."""

    async def do(scene: Scene) -> None:
        record = scene.seat.record
        began = record.faults[-1].began
        if scene.running.publishes and not any(m.flapping for m in record.moments if m.at > began):
            scene.object("it was not called flapping")

    return Step("it is called flapping", do, frozenset({Ability.STATUS}))


def causes(at_least: int) -> Step:
    """The status has named so many different causes since the fault began."""

    async def do(scene: Scene) -> None:
        record = scene.seat.record
        began = record.faults[-1].began
        named = {(m.kind, m.code) for m in record.moments if m.at > began and m.kind}
        if scene.running.publishes and len(named) < at_least:
            told = ", ".join(sorted(code for _, code in named))
            scene.object(f"{len(named)} causes were named, not {at_least}: {told}")

    return Step(f"{at_least} different causes are named", do, frozenset({Ability.STATUS}))


def logins(at_most: int) -> Step:
    """The bot has logged in afresh so often at most, where the platform counts it."""

    async def do(scene: Scene) -> None:
        made = scene.seat.simulator.count("identify")
        if made > at_most:
            scene.object(f"{made} fresh logins, {at_most} are allowed")

    return Step(f"at most {at_most} fresh logins", do, frozenset({Play.QUOTA}))


def spread(*, bucket: float, most: int) -> Step:
    """Of all accounts, so many at most come back in any such part of a second since the last
    healing.

    Only the first attempt of each is held to it, which nobody but the gateway has a say in. There
    is a second one only where the platform itself has refused the first as one too many, as QQ
    does: when that comes is the server's wait and the account's own jitter, and now and then four
    of them meet.
    """

    async def do(scene: Scene) -> None:
        healed = max(f.healed or 0.0 for s in scene.seats.values() for f in s.record.faults)
        opens = [[at for at in s.record.opens if at >= healed] for s in scene.seats.values()]
        buckets = Counter(int((own[0] - healed) / bucket) for own in opens if own)
        fullest = max(buckets.values(), default=0)
        if fullest > most:
            scene.object(f"{fullest} accounts within {bucket:g} s, {most} are allowed")

    words = f"never more than {most} accounts come back within {bucket:g} s"
    return Step(words, do, frozenset({Ability.STATUS}))


def one_link() -> Step:
    """The platform holds no more than one connection of the account."""

    async def do(scene: Scene) -> None:
        simulator = scene.seat.simulator
        links = simulator.count("link-open") - simulator.count("link-lost")
        if links > 1:
            scene.object(f"{links} connections are open at once")

    return Step("there is one connection", do)


def stays_down(seconds: float) -> Step:
    """Never is it called connected for a while."""

    async def do(scene: Scene) -> None:
        def connected() -> bool:
            return scene.seat.record.moments[-1].state == "connected"

        if scene.running.publishes and await scene.until(connected, seconds):
            scene.object("it was called connected")
        elif not scene.running.publishes:
            await asyncio.sleep(seconds)

    return Step(f"it is not called connected for {seconds:g} s", do, lasts=seconds)


def one_up(number: int, *, within: float) -> Step:
    """One of several accounts is connected, whatever the others do."""

    async def do(scene: Scene) -> None:
        seat: Seat = list(scene.seats.values())[number]
        if not await scene.until(lambda: is_up(seat), within):
            scene.object(Late(f"{seat.name} not connected within {within:g} s"), seat)

    return Step(f"account {number + 1} is connected within {within:g} s", do)


def resolver(answer: str) -> Step:
    """How names are resolved from now on: ``ok``, ``fail`` at once, ``hang``."""

    async def do(scene: Scene) -> None:
        scene.running.names(answer)
        if answer != "ok":
            scene.strike(f"names: {answer}")

    return Step(f"names: {answer}", do, frozenset({Ability.RESOLVER}))
