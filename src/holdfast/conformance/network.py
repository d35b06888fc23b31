"""Scenarios of the network: the kit breaks it, with no help of the platform."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from holdfast.conformance.bench import Bench, Need
from holdfast.conformance.catalogue import scenario
from holdfast.conformance.rig import SLACK, Rig, expect, rig
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.faults.relay import Relay
from holdfast.supervision import Kind, Published, View

DARK = 1_800.0
"""Seconds of the long outage: past the escalation, with the breaker open."""

SHORT_LIFE = 100.0
"""Seconds: no quick death, and far from a stable run."""

TWO_HOURS = 7_200.0

HOST = "platform.test"
"""A name that only the test's own resolver knows (RFC 6761 reserves the domain)."""

DIALS = 4
"""Connections that one attempt may take before it gives up: a library may repeat a request."""

UP = {Published.CONNECTED}
FAILED_DIAL = {Kind.UNREACHABLE, Kind.TIMEOUT, Kind.LOST}


async def never_connects(run: Rig[Any], seconds: float) -> None:
    """Start, and see that nothing is claimed and every attempt ends. Raises Broken."""
    began = run.now()
    await run.start()
    await asyncio.sleep(seconds)
    expect(not run.states(began) & {*UP, Published.FATAL}, f"claimed {run.states(began)}")
    expect(run.opens_since(began) >= 2, f"an attempt never ended: {run.describe()}")
    found = run.causes(began)
    expect(found & FAILED_DIAL, f"no cause says that the peer can not be reached: {found}")


@scenario("C01", "connect, receive, send")
async def c01(bench: Bench[Any]) -> None:
    """Connected within one attempt; a message comes in and its answer goes out, each once."""
    async with rig(bench) as run:
        await run.connect()
        for _ in range(3):
            run.say()
        await run.settled(gaps_count=False)
        expect(not run.gaps(), "a gap was reported on a connection that was always good")
        await asyncio.sleep(10 * SLACK)
        expect(run.opens_since(0) == 1, f"a good connection was left: {run.describe()}")


@scenario("C02", "refused")
async def c02(bench: Bench[Any]) -> None:
    """While connects are refused or reset, each attempt is one attempt, and nothing is claimed.

    An adapter that retries by itself is found out: the pace is not its business.
    """
    async with rig(bench) as run:
        run.cable(Relay.refuse)
        await never_connects(run, 60.0)
        run.cable(partial(Relay.rst, new=True))
        began, accepted = run.now(), run.cable.accepted
        await asyncio.sleep(run.ladder)
        dials, opens = run.cable.accepted - accepted, run.opens_since(began)
        expect(opens, "the retries have stopped")
        expect(dials <= DIALS * opens, f"{dials} connections in {opens} attempts")
        await run.heal()
        await run.works()


@scenario("C03", "accepted, then mute")
async def c03(bench: Bench[Any]) -> None:
    """A peer that accepts and never answers costs one bounded attempt after the other."""
    async with rig(bench) as run:
        run.cable(Relay.cut)
        await never_connects(run, 2 * run.ladder)
        await run.heal()
        await run.works()


@scenario("C04", "handshake stalls")
async def c04(bench: Bench[Any]) -> None:
    """A handshake at one byte a second, or a login without an answer, is given up in time."""
    async with rig(bench) as run:
        run.cable(Relay.drip)
        await never_connects(run, 3 * run.policy.attempt_timeout)
        await run.heal()
        await run.works()
    if Need.STALL_LOGIN not in bench.faults:
        return
    async with rig(bench) as run:
        await run.inject(Need.STALL_LOGIN)
        await never_connects(run, 3 * run.policy.attempt_timeout)
        await run.heal()
        await run.works()


@scenario("C05", "zombie")
async def c05(bench: Bench[Any]) -> None:
    """A connection that is dead without a close is noticed in time and replaced."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        run.cable(Relay.hole)
        run.say()
        await run.noticed()
        run.cable.heal()
        await run.works()


@scenario("C06", "black hole")
async def c06(bench: Bench[Any]) -> None:
    """Half an hour without a network: noticed in time, retried for ever, back without a hand."""
    async with rig(bench) as run:
        await run.connect()
        run.cable(Relay.cut)
        run.say()
        await run.noticed()
        dark = run.now()
        run.every = 10.0
        await asyncio.sleep(DARK)
        run.say()
        expect(run.states(dark + SLACK) == {Published.RETRYING}, f"said {run.states(dark)}")
        expect(run.opens_since(run.now() - run.ladder - SLACK), "the retries have stopped")
        await run.heal()
        await run.works()


@scenario("C07", "reset in the middle of a frame")
async def c07(bench: Bench[Any]) -> None:
    """A message whose frame is cut by a reset is neither lost nor doubled."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        run.cable(Relay.drip, 50.0)
        before = run.cable.inbound
        run.say()
        await run.poll("delivered in part", lambda: run.cable.inbound >= before + 20)
        run.cable(Relay.rst)
        run.cable.heal()
        await asyncio.sleep(SLACK)  # until both ends have learnt of it, nothing more is said
        await run.works()


@scenario("C09", "accept and close, as a storm")
async def c09(bench: Bench[Any]) -> None:
    """A connection that dies half a second after each login resets nothing: the pace slows."""
    async with rig(bench) as run:
        strikes = Strikes(run, SLACK)
        await run.start()
        await run.until("flapping", lambda view: view.flapping, 600.0)
        await asyncio.sleep(DARK)
        late = run.opens_since(run.now() - 600.0)
        expect(late <= 12, f"{late} attempts in the last ten minutes of a storm")
        expect(run.opens_since(run.now() - 2 * run.ladder), "the retries have stopped")
        strikes.end()
        await asyncio.sleep(3 * SLACK)
        await run.works()


@scenario("C16", "resume with replay", certain=lambda bench: bench.adapter.traits.replays)
async def c16(bench: Bench[Any]) -> None:
    """What is said during a short outage comes in afterwards, and no gap is reported."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        run.cable(Relay.refuse)
        await run.noticed()
        run.say()
        await asyncio.sleep(5.0)
        run.say()
        await run.heal()
        await run.connected()
        await run.settled(gaps_count=False)
        expect(not run.gaps(), "a gap was reported although the platform has replayed")


@scenario("C27", "no name at start")
async def c27(bench: Bench[Any]) -> None:
    """Without a name server, failing or mute, the account waits and comes up by itself."""
    resolver = LabResolver({HOST: ["127.0.0.1"]})
    async with rig(bench, resolver=resolver, host=HOST) as run:
        resolver.fail()
        await never_connects(run, 60.0)
        asked = resolver.asked.total()
        expect(asked, f"the adapter never asked for {HOST}: does it follow its account's table?")
        resolver.hang()
        await asyncio.sleep(2 * run.ladder)
        expect(resolver.asked.total() > asked, "a mute name server has stopped the retries")
        resolver.ok()
        await run.works()


@scenario("C28", "a day of flapping")
async def c28(bench: Bench[Any]) -> None:
    """Connections that die before they are stable stay within every budget of logins.

    A whole day where the platform counts logins by the day, two hours elsewhere.
    """
    async with rig(bench) as run:
        run.every = 300.0
        limit, seconds = run.policy.fresh_limit, run.policy.fresh_window
        strikes = Strikes(run, SHORT_LIFE)
        await run.start()
        await asyncio.sleep(TWO_HOURS if limit is None else seconds)
        fresh = len(run.life.account.supervisor.memory(run.now()).fresh_ages)
        expect(limit is None or fresh <= limit, f"{fresh} logins in a day, {limit} are allowed")
        expect(len(run.opens) >= 10, f"only {len(run.opens)} attempts")
        expect(run.opens_since(run.now() - 2 * run.ladder), "the retries have stopped")
        strikes.end()
        await asyncio.sleep(SHORT_LIFE + SLACK)
        await run.works()


class Strikes:
    """Cuts every connection a while after it was published as connected."""

    def __init__(self, run: Rig[Any], after: float) -> None:
        self._run, self._after = run, after
        self._struck: set[int] = set()
        self._over = False
        run.listeners.append(self._look)

    def end(self) -> None:
        """No more."""
        self._over = True

    def _look(self, view: View) -> None:
        fresh = view.generation not in self._struck
        if fresh and view.published is Published.CONNECTED and not self._over:
            self._struck.add(view.generation)
            asyncio.get_running_loop().call_later(self._after, self._run.interrupt)
