"""More words for modes: those about what the bot says of itself, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Final

from holdfast.lab.mode import Step
from holdfast.lab.scene import PATIENCE, Scene
from holdfast.lab.terms import AT_ONCE, Ability

LINE_LIMIT: Final = 1_000
"""Bytes of a line of the log, tracebacks apart."""

VAGUE: Final = frozenset({"", "unknown", "error", "none"})
"""Words that are no reason."""


def asked(expected: str, *, well: bool = True) -> Step:
    """The bot is asked from outside how it is; the answer contains this, and its exit status says
    whether all is well."""

    async def do(scene: Scene) -> None:
        told = await scene.running.ask()
        if expected not in told.text:
            scene.object(f"asked how it is, it said {told.text!r}, not {expected!r}")
        if (told.status == 0) is not well:
            scene.object(f"asked how it is, it answered with status {told.status}")

    words = f"asked how it is, it says {expected or 'something'!r}"
    return Step(words, do, frozenset({Ability.ASK}))


def reused_pid() -> Step:
    """Another process, this one, now has the number of the one that died."""

    async def do(scene: Scene) -> None:
        scene.running.rename(os.getpid())

    words = "another process gets its number"
    return Step(words, do, frozenset({Ability.KILL, Ability.ASK}))


# -- the log ---------------------------------------------------------------------------------------


def listen_to_log() -> Step:
    """What was logged and published before this is not looked at."""

    async def do(scene: Scene) -> None:
        scene.notes["log"] = len(scene.running.log())
        _listen(scene)

    return Step("listen to its log", do, frozenset({Ability.LOG}))


def listen_to_status() -> Step:
    """What was published before this is not looked at."""

    async def do(scene: Scene) -> None:
        _listen(scene)

    return Step("listen to its status", do, frozenset({Ability.STATUS}))


def _listen(scene: Scene) -> None:
    scene.notes["told"], scene.notes["since"] = len(scene.seat.told), scene.now()


def met(within: float = PATIENCE) -> Step:
    """Wait until the platform has done all that it was told to do, and the bot has told of it or
    had the time to. What never comes is told by the engine."""

    async def do(scene: Scene) -> None:
        await scene.until(lambda: not scene.seat.waiting_plays(), within)
        await scene.until(lambda: len(scene.seat.told) > scene.notes["told"], AT_ONCE)

    return Step("the platform has done so", do)


def _log(scene: Scene) -> list[str]:
    return scene.running.log()[scene.notes["log"] :].strip().splitlines()


def _event(line: str) -> str:
    """What a line is about, whether it is written for a program or as it was logged."""
    found = re.match(r"(?:time=\S+ .*?\bevent=)?(\w+)", line)
    return "" if found is None else found[1]


def logged(why: str) -> Step:
    """The log has said why, whatever else can not be written."""

    async def do(scene: Scene) -> None:
        if why not in scene.running.log().lower():
            scene.object(f"the log does not say {why!r}")

    return Step(f"the log says: {why}", do, frozenset({Ability.LOG}))


def tells_all() -> Step:
    """Status and log have named each failure, however soon it was over: its kind, its code, what
    happened, and what to do, in words."""

    async def do(scene: Scene) -> None:
        told = scene.seat.told[scene.notes["told"] :]
        if not told:
            if not _well_since(scene, scene.notes["since"]):
                scene.object("the status names no cause")
            return  # the account got over it without a loss
        for reading in told:
            for what in ("kind", "code", "message", "hint"):
                if getattr(reading, what).lower() in VAGUE:
                    scene.object(f"the status names no {what}: {getattr(reading, what)!r}")
        lines = [line for line in _log(scene) if f"account={scene.seat.name} " in line + " "]
        losses = [line for line in lines if _event(line) in ("lost", "fatal", "escalated")]
        if not losses or not all(
            re.search(r"code=\w+ .*message=['\"].{8,}", line) for line in losses
        ):
            scene.object(f"the log does not say why: {losses or lines}")

    words = "status and log say what happened, and what to do"
    return Step(words, do, frozenset({Ability.LOG, Ability.STATUS}))


def _well_since(scene: Scene, since: float) -> bool:
    """Whether the account has been called connected all the time."""
    moments = scene.seat.record.moments
    now = [m for m in moments if m.at <= since][-1:]
    later = [m for m in moments if m.at > since]
    return all(m.state == "connected" for m in now + later)


def few_lines(most: int) -> Step:
    """The log has so many lines at most, each of a bounded length, one of the end of it all."""

    async def do(scene: Scene) -> None:
        lines = _log(scene)
        if len(lines) > most:
            scene.object(f"{len(lines)} lines of log, {most} are allowed; last: {lines[-1]!r}")
        if any(len(line) > LINE_LIMIT for line in lines):
            scene.object("a line of the log is longer than a line")
        ends = [line for line in lines if _event(line) == "restored"]
        if len(ends) != 1 and scene.seat.record.faults[-1].noticed is not None:
            scene.object(f"the end of the outage was told {len(ends)} times: {lines[-5:]}")

    words = f"all of it is told in {most} lines"
    return Step(words, do, frozenset({Ability.LOG}))


# -- the service manager ---------------------------------------------------------------------------


def supervised(limit: float) -> Step:
    """A service manager starts the bot, and restarts it when it has not heard from it for ``limit``
    seconds, as systemd does with ``WatchdogSec``."""

    async def do(scene: Scene) -> None:
        home = scene.aids.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-notify-"))
        address = str(Path(home) / "notify")
        ears = scene.aids.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ears.setblocking(False)
        ears.bind(address)
        micros = str(int(limit * 1e6))
        scene.running.environ({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": micros})
        watch = asyncio.create_task(_restart_when_silent(scene, ears, limit), name="lab manager")
        scene.aids.push_async_callback(_end, watch)

    words = f"a service manager restarts what is silent for {limit:g} s"
    return Step(words, do, frozenset({Ability.KILL}))


async def _restart_when_silent(scene: Scene, ears: socket.socket, limit: float) -> None:
    """Listens for signs of life from the first word on, for ever."""
    loop = asyncio.get_running_loop()
    await loop.sock_recv(ears, 4_096)
    while True:
        try:
            async with asyncio.timeout(limit):
                await loop.sock_recv(ears, 4_096)
        except TimeoutError:
            scene.tell("the service manager restarts it")
            began = scene.now() - limit
            await scene.running.kill()
            await scene.running.start()
            await loop.sock_recv(ears, 4_096)
            scene.absent(began)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
