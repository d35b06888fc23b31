"""Scenarios of our own side: crashes, stops, cancellations, clocks and files."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.conformance.bench import Bench, Need
from holdfast.conformance.catalogue import scenario
from holdfast.conformance.life import Moment
from holdfast.conformance.rig import SLACK, Rig, expect, rig
from holdfast.lab.faults.relay import Relay
from holdfast.observe.status import Status, account_status, boot_id, proof
from holdfast.observe.writer import StatusWriter
from holdfast.supervision import Published, State, View
from holdfast.testing import VirtualTimeLoop

FROZEN, ASLEEP = 90.0, 3_600.0
"""Seconds of the frozen loop and of the suspended machine."""


def _jump(seconds: float) -> None:
    """Let time pass while nothing on the loop runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.jump(seconds)


@scenario("C21", "crash between deliver and acknowledge")
async def c21(bench: Bench[Any]) -> None:
    """A crash before the commit loses nothing; one before the acknowledgement doubles nothing."""
    for moment in Moment:
        async with rig(bench) as run:
            await run.connect()
            await run.works()
            run.store.arm(moment)
            run.say()
            await run.poll("delivered", run.store.reached.is_set)
            # Whoever acknowledges too early does it now.
            await asyncio.sleep(2 * SLACK)
            await run.crash()
            await run.start()
            await run.works()


@scenario("C22", "task cancelled, stream ended")
async def c22(bench: Bench[Any]) -> None:
    """Cancelled by someone else, or at the end of its stream: noticed at once, and replaced."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        for task in run.run_tasks():
            task.cancel()
        await run.until("noticed", lambda view: view.published is not Published.CONNECTED, 5.0)
        run.say()
        await run.works()
        run.cable(Relay.fin)
        await asyncio.sleep(5.0)
        live = run.view().published is Published.CONNECTED
        expect(run.server.listening() or not live, "the end of the stream went unnoticed")
        run.say()
        await run.works()


@scenario("C23", "stop in every state")
async def c23(bench: Bench[Any]) -> None:
    """In every state a stop takes at most five seconds and leaves nothing behind."""
    for state in (State.STOPPED, State.CONNECTING, State.LIVE, State.SUSPECT, State.BACKOFF):
        async with rig(bench) as run:
            await _enter(run, state)
            await _stops(run)
    if Need.REVOKE in bench.faults:
        async with rig(bench) as run:
            await run.inject(Need.REVOKE)
            await run.start()
            await run.published(Published.FATAL, 60.0)
            await _stops(run)


async def _enter(run: Rig[Any], state: State) -> None:
    """Bring the account into a state."""
    match state:
        case State.CONNECTING:
            run.cable(Relay.cut)
            await run.start()
            await asyncio.sleep(1.0)
        case State.LIVE:
            await run.connect()
        case State.SUSPECT:
            await run.connect()
            run.cable(Relay.cut)

            def doubtful(view: View) -> bool:
                return view.suspect or view.published is not Published.CONNECTED

            await run.until("suspect", doubtful, run.bench.silence)
        case State.BACKOFF:
            run.cable(Relay.refuse)
            await run.start()
            await run.until("waiting", lambda view: view.state is State.BACKOFF, 60.0)


async def _stops(run: Rig[Any]) -> None:
    await run.stop()
    state = run.view().published
    expect(state is Published.STOPPED, f"published {state} after a stop")
    expect(not run.run_tasks(), "the adapter still runs after a stop")


@scenario("C24", "cancelled twice")
async def c24(bench: Bench[Any]) -> None:
    """A second cancellation, in the middle of the goodbye to a mute peer, loses no socket."""
    async with rig(bench) as run:
        await run.connect()
        run.cable(Relay.stall)
        tasks = run.run_tasks()
        expect(tasks, "the adapter's run has ended on a good connection")
        stopping = asyncio.create_task(run.stop(), name="conformance stop")
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.wait([stopping])
        stopping.result()
        run.cable.heal()


@scenario("C25", "loop frozen for 90 s")
async def c25(bench: Bench[Any]) -> None:
    """A frozen loop convicts nobody: what is still good goes on, what is not is replaced."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        began, opens = run.now(), len(run.opens)
        _jump(FROZEN)
        run.say()
        await asyncio.sleep(2 * bench.silence)
        await run.works()
        expect(Published.FATAL not in run.states(began), "fatal because our own loop was late")
        expect(len(run.opens) <= opens + 2, f"{len(run.opens) - opens} attempts after a pause")


@scenario("C26", "suspend")
async def c26(bench: Bench[Any]) -> None:
    """After an hour's sleep with dead connections the account is back as if it had been cut."""
    async with rig(bench) as run:
        await run.connect()
        await run.works()
        run.cable(Relay.hole)
        _jump(ASLEEP)
        run.life.account.woke(ASLEEP)
        await run.noticed()
        run.cable.heal()
        await run.connected(bench.silence)
        await run.works()


@scenario("C30", "status file can not be written")
async def c30(bench: Bench[Any]) -> None:
    """A status file that can not be written costs nothing but its own counter."""
    async with rig(bench) as run:
        # A file is no folder: nobody, not even root, can write below it.
        writer = StatusWriter(Path(os.devnull) / "status.json", lambda: _document(run))
        run.listeners.append(lambda view: writer.changed())
        writer.start()
        try:
            await run.connect()
            await run.works()
            await run.drop()
            await run.works()
        finally:
            await writer.stop()
        expect(writer.failures > 0, "the status file was meant not to be writable")
        expect(writer.writes == 0, "the status file was meant not to be writable")


def _document(run: Rig[Any]) -> Status:
    never = proof(None, run.wall())
    entry = account_status(
        run.view(),
        lambda moment: run.wall() - (run.now() - moment),
        run.wall(),
        platform=run.bench.platform,
        paused=False,
        inbound=never,
        outbound=never,
        gap=None,
        **dict.fromkeys(("inbox", "outbox", "received", "sent", "skipped", "dead", "unknown"), 0),
    )
    return Status(
        pid=os.getpid(),
        boot_id=boot_id(),
        started_at=time.time(),
        written_at=run.wall(),
        version=__version__,
        accounts={"bot": entry},
    )
