"""Scenarios of the platform: the bench lets it misbehave."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.conformance.bench import Bench, Ending, Need
from holdfast.conformance.catalogue import scenario
from holdfast.conformance.rig import SLACK, Broken, Rig, expect, rig
from holdfast.lab.faults.relay import Relay
from holdfast.lab.injection import play
from holdfast.store.protocol import OutboxState
from holdfast.supervision import Cause, Kind, Published

PERSON = {Kind.CREDENTIALS, Kind.REFUSED}

GOODBYES = 8
"""Planned ends in a row: more than the budget of immediate reconnects in a minute."""


async def fatal(run: Rig[Any], within: float, kinds: set[Kind]) -> None:
    """Wait until a person is called, loudly and with advice. Raises Broken."""
    await run.published(Published.FATAL, within)
    view = run.view()
    expect(view.cause is not None and view.cause.kind in kinds, f"wrong cause: {run.describe()}")
    expect(view.attention, "fatal without calling for attention")
    expect(view.cause is not None and view.cause.advice, "fatal without saying what to do")


async def stays_down(run: Rig[Any]) -> None:
    """For ten minutes nothing but slow verification. Raises Broken."""
    began = run.now()
    await asyncio.sleep(600.0)
    expect(run.opens_since(began) <= 3, f"{run.opens_since(began)} logins in ten fatal minutes")
    expect(Published.CONNECTED not in run.states(began), "connected with refused credentials")


@scenario("C08", "every documented ending", certain=lambda bench: bool(bench.endings))
async def c08(bench: Bench[Any]) -> None:
    """Each close code or status is given its cause; none ends the account but a verdict."""
    if not bench.endings:
        raise Broken("list the platform's close codes in `Bench.endings`, or say why it has none")
    wrong = [fault for ending in bench.endings if (fault := await _ended(bench, ending))]
    expect(not wrong, "; ".join(wrong))


async def _ended(bench: Bench[Any], ending: Ending[Any]) -> str:
    try:
        async with rig(bench) as run:
            await run.connect()
            began = run.now()
            await play(run.server, ending.inject)
            await asyncio.sleep(SLACK)
            ours: Cause | None = None
            if run.view().published is Published.CONNECTED and run.view().generation == 1:
                await run.drop()  # an ending of logins strikes the next one
                began, ours = run.now(), run.view().cause
            await run.until(
                f"seen as {ending.kind}",
                lambda _: ending.kind in run.causes(began, but=ours),
                2 * run.bench.silence,
            )
            await run.heal()
            run.life.account.kick(operator=True)
            await run.works()
    except Broken as broken:
        return f"{ending.code}: {broken}"
    return ""


@scenario("C10", "recycle storm", Need.GOODBYE, Need.NOTICE, any_of=True)
async def c10(bench: Bench[Any]) -> None:
    """One planned end costs seconds at most; a storm of them stays within every budget."""
    for need in (Need.GOODBYE, Need.NOTICE):
        if need in bench.faults:
            async with rig(bench) as run:
                await run.connect()
                await run.works()
                await _one_goodbye(run, need)
                for _ in range(GOODBYES):
                    await run.inject(need)
                    run.say()
                    await asyncio.sleep(2 * SLACK)
                    await run.connected()
                await run.heal()
                await run.works()


async def _one_goodbye(run: Rig[Any], need: Need) -> None:
    began, generation = run.now(), run.view().generation
    await run.inject(need)
    run.say()
    took = await run.until("reconnected", lambda view: view.generation > generation, 60.0)
    took += await run.connected(10.0)
    expect(Published.FATAL not in run.states(began), "a planned end is no fault")
    if need is Need.GOODBYE:
        expect(took <= 10.0, f"{took:.0f} s for one planned reconnect")
    else:
        expect(run.states(began) == {Published.CONNECTED}, "deaf in a planned replacement")
    await run.settled()


@scenario("C11", "throttled", Need.THROTTLE)
async def c11(bench: Bench[Any]) -> None:
    """A rate limit is obeyed for as long as the platform says, and never taken for a verdict."""
    async with rig(bench) as run:
        await run.connect()
        await run.inject(Need.THROTTLE)
        await run.drop()
        await run.until(
            "throttled",
            lambda view: view.cause is not None and view.cause.kind is Kind.THROTTLED,
            60.0,
        )
        began, opens = run.now(), len(run.opens)
        await asyncio.sleep(max(0.0, (bench.retry_after or 0.0) - SLACK))
        expect(len(run.opens) == opens, "tried again before the platform allowed it")
        await asyncio.sleep(600.0)
        expect(run.states(began + SLACK) <= {Published.RETRYING}, f"published {run.states(began)}")
        await run.heal()
        await run.works()


@scenario("C12", "bad credentials at start", Need.REVOKE)
async def c12(bench: Bench[Any]) -> None:
    """Refused at the first login: fatal, with advice, and no storm of logins."""
    async with rig(bench) as run:
        await run.inject(Need.REVOKE)
        await run.start()
        await fatal(run, 60.0, PERSON)
        await stays_down(run)


@scenario("C13", "revoked while live", Need.REVOKE)
async def c13(bench: Bench[Any]) -> None:
    """Revoked on a live connection: noticed in time, confirmed, fatal."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        await run.inject(Need.REVOKE)
        await fatal(run, 2 * bench.silence, PERSON)
        await stays_down(run)


@scenario("C14", "repaired, then kicked", Need.REVOKE, Need.REPAIR)
async def c14(bench: Bench[Any]) -> None:
    """Good credentials and a kick end the verdict at once; without a kick it ends by itself."""
    for kick in (True, False):
        async with rig(bench) as run:
            await run.connect()
            await run.inject(Need.REVOKE)
            await fatal(run, 2 * bench.silence, PERSON)
            await run.inject(Need.REPAIR)
            if kick:
                run.life.account.kick(operator=True)
            limit = run.policy.attempt_timeout + (0.0 if kick else run.policy.verify_cap)
            await run.connected(limit)
            await run.works()


@scenario("C15", "replaced", Need.REPLACED)
async def c15(bench: Bench[Any]) -> None:
    """A second owner that stays is fatal, without ping-pong; when it goes, the account is back."""
    async with rig(bench) as run:
        await run.connect()
        await run.inject(Need.REPLACED)
        await fatal(run, 2 * bench.silence + 3 * run.policy.conflict_grace, {Kind.REPLACED})
        began = run.now()
        await asyncio.sleep(1_200.0)
        expect(run.opens_since(began) <= 8, f"{run.opens_since(began)} logins against a rival")
        await run.heal()
        await run.connected(run.policy.conflict_recheck + run.policy.attempt_timeout)
        await run.works()


def _own_cursor(bench: Bench[Any]) -> str | None:
    if bench.adapter.traits.replays:
        return "the platform replays from the bot's own cursor: there is no session to refuse"
    return None


@scenario("C17", "resume refused", Need.REFUSE_RESUME, derived=_own_cursor)
async def c17(bench: Bench[Any]) -> None:
    """When the platform has forgotten us, a fresh login is made; what was missed meanwhile is
    fetched, or reported as a gap."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        await run.inject(Need.REFUSE_RESUME)
        run.cable(Relay.refuse)
        await run.noticed()
        text = run.say()
        run.cable.heal()
        await run.connected()
        await run.settled()
        fetched = run.answers(text)
        expect(fetched or run.gaps(), "the platform has forgotten us, and no gap was reported")
        await run.heal()
        await run.works()


@scenario("C18", "duplicates", Need.DUPLICATE)
async def c18(bench: Bench[Any]) -> None:
    """What the platform delivers twice is answered once."""
    async with rig(bench) as run:
        await run.connect()
        await run.inject(Need.DUPLICATE)
        for _ in range(3):
            text = run.say()
            await run.settled(gaps_count=False)
        await run.heal()
        await asyncio.sleep(bench.silence)
        expect(run.answers(text) == 1, f"answered {run.answers(text)} times")


@scenario("C19", "out of order", Need.REORDER)
async def c19(bench: Bench[Any]) -> None:
    """Messages that overtake each other all come in, once."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        await run.inject(Need.REORDER)
        run.say()
        run.say()
        await run.settled(gaps_count=False)
        await run.heal()
        await run.drop()  # the place to resume from may have gone back, but not beyond what came
        await run.works()


@scenario("C20", "bad frames", Need.BAD_FRAME)
async def c20(bench: Bench[Any]) -> None:
    """What can not be understood costs at most a reconnect, never a message, never the account."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        await run.inject(Need.BAD_FRAME)
        run.say()
        await asyncio.sleep(bench.silence)
        await run.heal()
        await run.connected()
        await run.settled()
        expect(Published.FATAL not in run.states(), "fatal for a frame that makes no sense")
        await run.works()


@scenario("C29", "answer of a send lost", Need.LOSE_SEND_ANSWER)
async def c29(bench: Bench[Any]) -> None:
    """A send of unknown fate arrives once where keys are known, else at most twice and marked."""
    async with rig(bench) as run:
        await run.connect()
        await run.inject(Need.LOSE_SEND_ANSWER)
        text = run.say()
        await asyncio.sleep(SLACK)
        await run.heal()
        await run.settled(gaps_count=False)
        await asyncio.sleep(bench.silence)
        idempotent = bench.adapter.traits.idempotent
        expect(run.answers(text) <= (1 if idempotent else 2), f"{run.answers(text)} answers")
        rows = run.store.outbox.values()
        open_rows = [row for row in rows if row.state is not OutboxState.SENT]
        expect(not open_rows, f"still owed: {[row.state.value for row in open_rows]}")
        marked = any(row.maybe_doubled for row in rows)
        # One whose fate was found out is not doubled, and needs no mark.
        expect(marked or run.answers(text) == 1, "a message that was doubled is not marked")
