"""The same care around a vendor's SDK: for people who already have a bot on one.

`supervise` takes the call that starts the SDK and gives it the whole machine: noticed when it
returns, raises, is cancelled or falls silent; started again for ever, at a bearable pace; stopped
within five seconds. Nothing the SDK says of itself is believed but proof of life.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from holdfast import __version__
from holdfast.foreign import contained
from holdfast.gateway.classify import named
from holdfast.gateway.shell import Shell
from holdfast.observe.reporter import Reporter
from holdfast.observe.status import Status, account_status, boot_id, proof
from holdfast.observe.writer import StatusWriter
from holdfast.supervision import (
    Alive,
    BeatAcked,
    BeatFailed,
    Cause,
    Ended,
    Event,
    Kind,
    Open,
    Policy,
    Ready,
    Report,
    Start,
    Verified,
)
from holdfast.threads import DAEMONS, Calls, CallsHang

log = logging.getLogger("holdfast.sdk")

PROBE_LIMIT = 10.0
"""Seconds for one probe."""

FIRST_PROBES = 1.0
"""Seconds between probes until the first one succeeds."""

HANGING_STOPS = 8
"""Calls of a blocking `stop` that may hang at a time; each costs a thread."""

PARENT_EVERY = 1.0
"""Seconds between the looks of an SDK's process at whether its supervisor lives."""

LAST_WORDS = 900
"""Characters of the error that ended an SDK's process. They go through its pipe in one piece: half
of them, from a process that was killed, would be waited for without end."""


class Isolation(StrEnum):
    """Where an SDK runs. The further away, the more surely it can be ended."""

    TASK = "task"
    """A coroutine on this loop; one that swallows its cancellation is abandoned."""
    THREAD = "thread"
    """A blocking function in a daemon thread; without a stop call it can only be abandoned."""
    PROCESS = "process"
    """A process of its own, which can always be killed. The start call must be importable."""


class ChildFailed(Exception):
    """An SDK in a process of its own raised; the message is the error's type and text."""


class Life:
    """What an SDK's callbacks tell. Every method may be called from any thread and any loop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def ready(self) -> None:
        """The platform has accepted the login."""
        self._say("ready")

    def alive(self) -> None:
        """Something came in from the platform. Before `ready` it stands for that as well."""
        self._say("alive")


Probe = Callable[[], Awaitable[bool] | bool]
"""Asks the platform whether it still delivers to us; False and raising are no proof."""


def supervise(
    name: str,
    start: Callable[..., Any],
    *,
    isolation: Isolation | str = Isolation.TASK,
    stop: Callable[[], Any] | None = None,
    probe: Probe | None = None,
    classify: Callable[[BaseException], Cause | None] | None = None,
    silence: float = 60.0,
    probe_every: float = 20.0,
    policy: Policy | None = None,
    status_file: Path | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Supervised:
    """Supervise ``start``; use as ``async with supervise(...) as bot``.

    ``start`` is a coroutine function (TASK) or a blocking function, called anew for each
    connection; if it takes an argument, that is a `Life`. Build the SDK's client inside it, so
    that no state of a dead one leaks into the next. ``stop`` asks the running SDK to end, ``probe``
    is called every ``probe_every`` seconds, ``classify`` names errors. Without any proof of life
    for ``silence`` seconds the connection is dead. Raises ValueError when there can be no proof:
    neither a probe nor an argument of ``start``.
    """
    wants_life = bool(inspect.signature(start).parameters)
    if probe is None and not wants_life:
        raise ValueError(
            f"nothing can prove that {name!r} lives: let start(life) call life.alive(), "
            "or pass a probe"
        )
    return Supervised(
        name,
        start if wants_life else partial(_without_life, start),
        Isolation(isolation),
        stop,
        probe,
        classify or (lambda error: None),
        silence,
        probe_every,
        policy or Policy(label=name),
        status_file,
        on_report or (lambda report: None),
    )


def _without_life(start: Callable[[], Any], life: Life) -> Any:
    return start()


class Supervised(Shell):
    """A supervised SDK. Made by `supervise`."""

    def __init__(
        self,
        name: str,
        start: Callable[[Life], Any],
        isolation: Isolation,
        stop: Callable[[], Any] | None,
        probe: Probe | None,
        classify: Callable[[BaseException], Cause | None],
        silence: float,
        probe_every: float,
        policy: Policy,
        status_file: Path | None,
        on_report: Callable[[Report], None],
    ) -> None:
        super().__init__(name, policy, random.random)
        self.start, self.isolation, self.probe, self.classify = start, isolation, probe, classify
        self.ask_to_stop = stop
        self.probes, self.stops = Calls("the probe", 1), Calls("the stop call", HANGING_STOPS)
        self.silence, self.probe_every = silence, probe_every
        self._on_report = on_report
        self._reporter = Reporter()
        self._started_at = time.time()
        self._writer = StatusWriter(status_file, self.status) if status_file else None

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            self._writer.start()
        self.post(Start())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def run(self) -> None:
        """Supervise until cancelled, then stop."""
        async with self:
            await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stop within 5 s, whatever the SDK does. Idempotent."""
        await self.pause()
        if self._writer is not None:
            await self._writer.stop()

    def status(self) -> Status:
        """The status document of a gateway with this one account."""
        now, loop = time.time(), asyncio.get_running_loop()
        never = proof(None, now)
        entry = account_status(
            self.view(),
            lambda moment: now - (loop.time() - moment),
            now,
            platform="sdk",
            paused=False,
            inbound=never,
            outbound=never,
            gap=None,
            inbox=0,
            outbox=0,
            received=0,
            sent=0,
            passed_over=0,
            skipped=0,
            dead=0,
            unknown=0,
        )
        return Status(
            pid=multiprocessing.current_process().pid or 0,
            boot_id=boot_id(),
            started_at=self._started_at,
            written_at=now,
            version=__version__,
            accounts={self.name: entry},
        )

    def _begin(self, effect: Open) -> _Attempt:
        kind = {
            Isolation.TASK: _TaskAttempt,
            Isolation.THREAD: _ThreadAttempt,
            Isolation.PROCESS: _ProcessAttempt,
        }[self.isolation]
        attempt = kind(self, effect.generation)
        if effect.verify:
            attempt.verify()
        else:
            attempt.open()
        return attempt

    def _told(self, report: Report) -> None:
        if self._writer is not None:
            self._writer.changed()
        self._reporter.report(self.name, report, time.time())
        self._on_report(report)


class _Attempt:
    """One run of an SDK; what all isolations share."""

    def __init__(self, bot: Supervised, generation: int) -> None:
        self.bot, self.generation = bot, generation
        self.loop = asyncio.get_running_loop()
        self.life = Life(partial(self._from_anywhere, self._heard))
        self._launched = self._ready = self._asking = self._over = False
        self._helpers: set[asyncio.Task[None]] = set()

    def launch(self) -> None:
        """Start the SDK."""
        raise TypeError(f"{type(self).__name__} must start the SDK")

    def open(self) -> None:
        """Start the SDK, and look for proof of life where only a probe gives it."""
        self._launched = True
        self.launch()
        if self.bot.probe is not None:
            self._help(self._until_ready())

    def verify(self) -> None:
        """Ask the probe whether a verdict holds; nobody else can be asked."""
        self._help(self._verify())

    def beat(self) -> None:
        """The probe is due."""
        self._help(self._beat())

    def probe(self) -> None:
        """The SDK is silent: ask now."""
        if self.bot.probe is not None:
            self._help(self._beat())

    def close(self) -> None:
        """Ask the SDK to end."""
        if not self._launched:
            self.ended(asyncio.CancelledError())
        elif self.bot.ask_to_stop is not None:
            self._help(self._ask_to_stop(self.bot.ask_to_stop))

    def abort(self) -> None:
        """End it now, as far as its isolation can."""

    def abandon(self) -> None:
        """Forget it: what it still says is a former generation's word."""
        log.error("abandoned sdk=%s generation=%d", self.bot.name, self.generation)
        self._finish()

    def ended(self, error: BaseException | None) -> None:
        """It came to its end, whatever the outcome."""
        if self._over:
            return
        self._finish()
        if error is None:
            cause = Cause(Kind.LOST, "returned", "the SDK's start call returned")
        else:
            cause = self._cause(error)
        self._post(Ended(self.generation, cause))

    def _finish(self) -> None:
        self._over = True
        for helper in self._helpers:
            helper.cancel()

    def _cause(self, error: BaseException) -> Cause:
        return named(self.bot.classify, error, self.bot.name)

    def _post(self, event: Event) -> None:
        self.bot.post(event)

    def _from_anywhere(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            return  # our loop is closed; nobody listens to an abandoned SDK

    def _heard(self, what: str) -> None:
        if self._over:
            return
        if not self._ready:
            self._ready = True
            beat = self.bot.probe_every if self.bot.probe is not None else None
            self._post(Ready(self.generation, beat=beat, silence=self.bot.silence))
        self._post(Alive(self.generation))

    async def _proven(self) -> bool:
        assert self.bot.probe is not None
        self._asking = True
        try:
            async with asyncio.timeout(PROBE_LIMIT):
                return bool(await _called(self.bot.probe, self.bot.probes))
        except CallsHang as error:
            raise TimeoutError(str(error)) from error
        finally:
            self._asking = False

    async def _until_ready(self) -> None:
        while not self._ready:
            try:
                if await self._proven():
                    self._heard("ready")
            except Exception as error:
                log.debug("no proof yet sdk=%s error=%r", self.bot.name, error)
            await asyncio.sleep(FIRST_PROBES)

    async def _beat(self) -> None:
        if self._asking:
            return  # that answer is one to this question, too
        try:
            proven = await self._proven()
        except Exception as error:
            self._post(BeatFailed(self.generation, self._cause(error)))
            return
        if proven:
            self._post(BeatAcked(self.generation))

    async def _verify(self) -> None:
        verdict = self.bot.view().cause or Cause(Kind.UNKNOWN, "unknown")
        try:
            good = self.bot.probe is not None and await self._proven()
        except Exception as error:
            self.ended(error)
            return
        self._finish()
        self._post(Verified(self.generation) if good else Ended(self.generation, verdict))

    async def _ask_to_stop(self, stop: Callable[[], Any]) -> None:
        try:
            await _called(stop, self.bot.stops)
        except Exception as error:
            log.warning("stop failed sdk=%s error=%r", self.bot.name, error)

    def _help(self, work: Any) -> None:
        task = asyncio.create_task(work, name=f"{self.bot.name} #{self.generation}")
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)


async def _called(function: Callable[[], Any], calls: Calls) -> Any:
    """The result of a function of either colour; ``calls`` takes a blocking one."""
    with contained(getattr(function, "__qualname__", repr(function))):
        if inspect.iscoroutinefunction(function):
            return await function()
        result = await calls(function)
        return await result if inspect.isawaitable(result) else result


class _TaskAttempt(_Attempt):
    """A coroutine on our own loop."""

    def launch(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"{self.bot.name} #{self.generation}")
        self._task.add_done_callback(self._done)

    async def _run(self) -> None:
        with contained("the SDK"):
            await self.bot.start(self.life)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.ended(asyncio.CancelledError() if task.cancelled() else task.exception())

    def close(self) -> None:
        if self.bot.ask_to_stop is None:
            self.abort()
        super().close()

    def abort(self) -> None:
        if self._launched:
            self._task.cancel()


class _ThreadAttempt(_Attempt):
    """A blocking function in a daemon thread. Threads can not be killed, only abandoned."""

    def launch(self) -> None:
        future = DAEMONS.submit(self._run)
        future.add_done_callback(lambda done: self._from_anywhere(self.ended, done.exception()))

    def _run(self) -> None:
        result = self.bot.start(self.life)
        if inspect.iscoroutine(result):
            asyncio.run(result)


class _ProcessAttempt(_Attempt):
    """A process of its own."""

    def launch(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._error: BaseException | None = None
        self._process = context.Process(
            target=_child,
            args=(self.bot.start, theirs),
            name=f"{self.bot.name} #{self.generation}",
            daemon=True,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._pipe.close)
            with theirs:
                self._process.start()
            undo.callback(self._process.kill)
            # Not the pipe's end: a process of its own may hold that for as long as it likes.
            exited = DAEMONS.submit(self._process.join)
            exited.add_done_callback(lambda _: self._from_anywhere(self._exited))
            self.loop.add_reader(self._pipe.fileno(), self._read)
            undo.pop_all()

    def _read(self) -> None:
        try:
            what = self._pipe.recv()
        except (EOFError, OSError):
            self._hang_up()
            return
        if isinstance(what, tuple):
            self._error = ChildFailed(": ".join(what))
        else:
            self._heard(what)

    def _hang_up(self) -> None:
        if not self._pipe.closed:
            self.loop.remove_reader(self._pipe.fileno())
            self._pipe.close()

    def _exited(self) -> None:
        try:
            while not self._pipe.closed and self._pipe.poll():
                self._read()
        finally:
            self._hang_up()
            code = self._process.exitcode
            if self._error is None and code:
                self._error = ChildFailed(f"exit code {code}")
            self.ended(self._error)

    def close(self) -> None:
        super().close()
        if self.bot.ask_to_stop is None and self._launched:
            self._process.terminate()

    def abort(self) -> None:
        if self._launched:
            self._process.kill()


def _child(start: Callable[[Life], Any], pipe: Pipe) -> None:
    """The process's main: run the SDK, pass on what it tells, and how it ended."""
    try:
        threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
        result = start(Life(pipe.send))
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception as error:
        pipe.send((type(error).__name__, str(error)[:LAST_WORDS]))


def _end_with_parent() -> None:
    """Whoever is supervised next must be the only owner of its credentials."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A process that the parent has forked may hold the sentinel.
    while not wait([parent.sentinel], PARENT_EVERY) and os.getppid() == parent.pid:
        pass
    os._exit(1)
