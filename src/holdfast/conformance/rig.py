"""One account of the real gateway between a user and a test server, and the laws it must keep.

A rig counts what was said, answered and reported missing, dates every attempt, and samples the
published state against the truth. `rig` raises `Broken` at the end of a scenario for any law that
was broken while it ran, whatever the scenario itself looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Generic

from aiohttp.abc import AbstractResolver

from holdfast.conformance.bench import Bench, Need, S
from holdfast.conformance.life import Journal, Life
from holdfast.gateway.dns import Resolver
from holdfast.gateway.hooks import ANSWER_LIMIT, HookServer
from holdfast.lab.cable import Cable
from holdfast.lab.cabled_hooks import CabledHooks
from holdfast.lab.faults.relay import Relay
from holdfast.supervision import Cause, Kind, Published, Report, State, View

STOP_LIMIT = 5.0
"""Seconds in which every stop ends (promise P4)."""

OPENS, WINDOW = 10, 60.0
"""The hot-loop bound: attempts in any window of so many seconds (mission row M5.7)."""

SAMPLE = 2.0
"""Seconds between two comparisons of the published state with the truth."""

SLACK = 0.5
"""Seconds of grace for bytes on their way through relay and server."""

SETTLE = 180.0
"""Seconds in which everything said must be answered once the account is connected: the sender's own
ladder takes its time. A platform's redelivery comes on top (`Bench.redelivery`)."""

PATIENCE = 15.0
"""Seconds of disagreement between status and platform: until the platform takes note of a new
connection, or carries out the end that it has announced."""


class Broken(AssertionError):
    """The adapter does not conform; the message says what was expected and what happened."""


def expect(condition: object, message: str) -> None:
    """Raise Broken with the message unless the condition holds."""
    if not condition:
        raise Broken(message)


class Rig(Generic[S]):
    """A scenario's view of account, network and platform. Made by `rig`."""

    def __init__(
        self, bench: Bench[S], server: S, cable: Cable, resolver: AbstractResolver
    ) -> None:
        self.bench, self.server, self.cable = bench, server, cable
        self.policy = bench.supervision()
        self.store = Journal()
        self.reports: list[Report] = []
        self.opens: list[float] = []
        """When each attempt began, seconds on the loop's clock."""
        self.listeners: list[Callable[[View], None]] = []
        """Called with every report's view, as soon as it is published."""
        self.every = SAMPLE
        self.lie = 0.0
        """Seconds in which the account called itself connected and was deaf past the limit."""
        self.life: Life
        self._resolver = resolver
        self._hooks: HookServer
        self._said: list[tuple[str, float]] = []
        self._deaf_since: float | None = None
        self._replays = bench.adapter.traits.replays
        self._offset = time.time() - self.now()
        self._generation = 0
        self._overlaps: list[str] = []
        self._unknown_sends = self._unknown_errors = 0

    # -- clocks -------------------------------------------------------------------------------

    @staticmethod
    def now() -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Unix seconds that pass as the loop's do."""
        return self._offset + self.now()

    @property
    def ladder(self) -> float:
        """The longest wait for the next attempt and its outcome, once nothing is wrong."""
        return self.policy.backoff_slow_cap + self.policy.attempt_timeout

    # -- life ---------------------------------------------------------------------------------

    async def begin(self, hooks: HookServer, host: str) -> None:
        """Build the account, not yet started."""
        self._hooks = hooks
        await self.bench.introduce_to(self.server, self.cable.hook_url)
        self._table = self.cable.led(self.server.account(), host)
        self.life = self._born()

    def _born(self) -> Life:
        return Life(
            self.bench.adapter,
            self._table,
            self.policy,
            store=self.store,
            resolver=self._resolver,
            hooks=self._hooks,
            hook_url=self.cable.hook_url,
            on_report=self._reported,
            clock=self.wall,
        )

    async def start(self) -> None:
        """Start the account."""
        await self.life.start()

    async def stop(self) -> None:
        """Stop the account. Raises Broken when that takes too long."""
        began = self.now()
        await self.life.stop()
        self._unknown_sends += self.life.sender.unknown
        self._unknown_errors += self.life.account.unknown_errors
        took = self.now() - began
        expect(took <= STOP_LIMIT, f"the stop took {took:.1f} s")

    async def crash(self) -> None:
        """End the account as kill -9 would: nothing more reaches platform or journal."""
        self.cable(Relay.refuse)
        self.store.break_down()
        await self.stop()
        # The hook server outlives this death; a request it holds for the dead must not linger.
        await asyncio.sleep(ANSWER_LIMIT)
        self._generation = 0
        self.store.repair()
        self.cable.heal()
        self.life = self._born()

    async def connect(self) -> None:
        """Start the account and wait until it is connected and the platform agrees."""
        await self.start()
        await self.connected(self.policy.attempt_timeout)

    # -- what is published --------------------------------------------------------------------

    def view(self) -> View:
        """The account's supervision, now."""
        return self.life.account.view()

    async def until(self, what: str, condition: Callable[[View], bool], within: float) -> float:
        """Wait for a reading; returns the seconds it took. Raises Broken."""
        began = self.now()
        try:
            async with asyncio.timeout(within):
                await self.life.account.until(condition)
        except TimeoutError:
            raise Broken(f"not {what} within {within:.0f} s: {self.describe()}") from None
        return self.now() - began

    async def published(self, state: Published, within: float) -> float:
        """Wait for a published state. Raises Broken."""
        return await self.until(state.value, lambda view: view.published is state, within)

    async def connected(self, within: float | None = None) -> float:
        """Wait until the status says connected and the platform agrees. Raises Broken."""
        # Twice, for the first attempt may find that the session has been forgotten meanwhile.
        within = 2 * self.ladder + self._told_to_wait() if within is None else within
        began = self.now()
        while True:
            await self.published(Published.CONNECTED, within - (self.now() - began))
            took = self.now() - began
            while self.view().published is Published.CONNECTED:
                if self.server.listening():
                    return took
                if self.now() - began - took > PATIENCE:
                    raise Broken(f"connected, but not for the platform: {self.describe()}")
                await asyncio.sleep(SLACK / 2)

    def _told_to_wait(self) -> float:
        """Seconds that the platform has asked for, or that its documents do."""
        cause = self.view().cause
        return (cause.retry_after or 0.0) if cause is not None else 0.0

    async def noticed(self, within: float | None = None) -> float:
        """Wait until the status no longer says connected. Raises Broken."""
        return await self.until(
            "noticed",
            lambda view: view.published is not Published.CONNECTED,
            self.bench.silence + SLACK if within is None else within,
        )

    def states(self, since: float = 0.0) -> set[Published]:
        """Every state published from a moment on, the one in force at that moment included."""
        before = [r.view.published for r in self.reports if r.view.at <= since][-1:]
        return {*before, *(r.view.published for r in self.reports if r.view.at > since)}

    def causes(self, since: float = 0.0, *, but: Cause | None = None) -> set[Kind]:
        """The kind of every cause reported from a moment on, but for one occurrence."""
        found = [report.view.cause for report in self.reports if report.view.at >= since]
        return {cause.kind for cause in found if cause is not None and cause is not but}

    def opens_since(self, moment: float) -> int:
        """How many attempts began from a moment on."""
        return sum(1 for at in self.opens if at >= moment)

    def describe(self) -> str:
        """Where the account stands, for a message."""
        view = self.view()
        cause = f", {view.cause.kind}: {view.cause.code} {view.cause.message}" if view.cause else ""
        return f"{view.published} in attempt {view.generation}, step {view.step!r}{cause}"

    def run_tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks in which the adapter's `run` is under way."""
        start, end = f"{self.life.account.name} #", " run"
        return [
            task
            for task in asyncio.all_tasks()
            if task.get_name().startswith(start) and task.get_name().endswith(end)
        ]

    # -- people -------------------------------------------------------------------------------

    def say(self) -> str:
        """A user says what was never said before."""
        text = f"word {len(self._said) + 1}."
        self.server.say(text, chat="ann", sender="ann")
        self._said.append((text, self.wall()))
        return text

    def answers(self, text: str) -> int:
        """How often something said was answered."""
        return sum(1 for heard in list(self.server.heard) if heard.text.rstrip().endswith(text))

    def gaps(self) -> list[tuple[float, float]]:
        """Reported gaps, Unix seconds."""
        return [(gap.since, gap.until) for gap in self.store.reported]

    def lost(self, *, gaps_count: bool = True) -> list[str]:
        """What was neither answered nor, where the platform can not replay, reported missing."""
        gaps = self.gaps() if gaps_count and not self._replays else []
        return [
            text
            for text, at in self._said
            if not self.answers(text) and not any(a <= at <= b for a, b in gaps)
        ]

    async def settled(self, *, gaps_count: bool = True) -> None:
        """Wait until nothing said is unaccounted for. Raises Broken."""
        began = self.now()
        while lost := self.lost(gaps_count=gaps_count):
            waited = self.now() - began
            if waited >= SETTLE + self.bench.redelivery:
                raise Broken(f"lost without a word: {', '.join(lost)}; {self.describe()}")
            await asyncio.sleep(SLACK if waited < SETTLE else SETTLE / 10)
        await asyncio.sleep(SLACK)

    async def works(self) -> None:
        """Connected, and a message goes through in both directions. Raises Broken."""
        await self.connected()
        text = self.say()
        await self.settled()
        expect(self.answers(text), f"{text!r} said on a good connection, but only a gap reported")

    # -- faults -------------------------------------------------------------------------------

    async def inject(self, need: Need) -> None:
        """Let the platform misbehave."""
        if need is Need.REFUSE_RESUME:  # from now on a gap is an honest answer
            self._replays = False
        await self.bench.inject(self.server, need)

    def interrupt(self) -> None:
        """End every connection, and refuse new ones for a second.

        A mere reset may pass unnoticed, and may: HTTP clients repeat a read that was cut off.
        """
        self.cable(Relay.refuse)
        asyncio.get_running_loop().call_later(1.0, self.cable.heal)

    async def drop(self) -> None:
        """End the connection, so that the account has to log in anew. Raises Broken."""
        self.cable(Relay.refuse)
        await self.noticed()
        self.cable.heal()

    async def poll(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for what tells nobody. Raises Broken past the silence limit."""
        deadline = self.now() + self.bench.silence
        while not condition():
            expect(self.now() < deadline, f"not {what}: {self.describe()}")
            await asyncio.sleep(0.1)

    async def heal(self) -> None:
        """Mend network and platform."""
        await self.bench.heal(self.server)
        self.cable.heal()

    # -- laws ---------------------------------------------------------------------------------

    def _reported(self, report: Report) -> None:
        before = self.reports[-1].view.published if self.reports else None
        self.reports.append(report)
        if before is not report.view.published:  # a claim is as old as itself
            self._deaf_since = None
        if report.view.generation > self._generation:
            self._generation = report.view.generation
            self.opens.append(self.now())
            self._look_for_others(report.view)
        for listener in self.listeners:
            listener(report.view)

    def _look_for_others(self, view: View) -> None:
        """A new attempt begins: only a planned replacement leaves the old connection open."""
        if view.state is State.CONNECTING and not view.rotating:
            name = f"#{view.generation} "
            others = [t.get_name() for t in self.run_tasks() if name not in t.get_name()]
            self._overlaps += [f"{other} while {name.strip()} begins" for other in others]

    async def watch(self) -> None:
        """Compare the published state with the truth for ever."""
        last = self.now()
        while True:  # cancelled by `rig`
            await asyncio.sleep(self.every)
            late = self.now() - last > 2 * self.every
            last = self.now()
            deaf = self.cable.broken or not self.server.listening()
            # After a frozen loop or a suspend nobody could have told: the clock begins anew.
            if not deaf or late or self._deaf_since is None:
                self._deaf_since = last if deaf else None
            view = self.view()
            believed = view.published is Published.CONNECTED and (view.valid_until or 0.0) >= last
            if believed and self._deaf_since is not None:
                limit = self.bench.silence + self.every
                self.lie += self.every if last - self._deaf_since > limit else 0.0

    def laws(self) -> list[str]:
        """Every law that was broken, in words."""
        doubled = [text for text, _ in self._said if self.answers(text) > 1]
        most = max((self._opens_from(at) for at in self.opens), default=0)
        broken = {
            f"connected was a lie for {self.lie:.0f} s": self.lie,
            f"answered twice: {', '.join(doubled)}": len(doubled) > self._unknown_sends,
            f"{most} attempts within {WINDOW:.0f} s": most > OPENS,
            f"two connections at once: {'; '.join(self._overlaps)}": self._overlaps,
            "a connection ignored its end and was abandoned": self.view().abandoned,
            "a connection ended by an error that nobody has classified": self._unknown_errors,
        }
        lost = self.lost()
        broken[f"lost without a word: {', '.join(lost)}"] = lost
        return [law for law, count in broken.items() if count]

    def _opens_from(self, moment: float) -> int:
        return sum(1 for at in self.opens if moment <= at < moment + WINDOW)


@contextlib.asynccontextmanager
async def rig(
    bench: Bench[S], *, resolver: AbstractResolver | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Rig[S]]:
    """Server, network and account for one scenario. Raises Broken for every law broken in it."""
    tasks, sockets = asyncio.all_tasks(), _sockets()
    async with bench.server() as server:
        hooks = CabledHooks("127.0.0.1", 0)
        await hooks.start()
        hooks.cable = cable = Cable(server.port, hooks.port)
        await cable.start()
        running = Rig(bench, server, cable, resolver or Resolver())
        await running.begin(hooks, host)
        watcher = asyncio.create_task(running.watch(), name="conformance watch")
        try:
            yield running
            await running.stop()
        finally:
            watcher.cancel()
            await running.life.stop()
            await cable.stop()
            await hooks.stop()
            await asyncio.wait([watcher])
        broken = running.laws()
    broken += await _left(tasks, sockets)
    expect(not broken, "; ".join(broken))


async def _left(tasks: set[asyncio.Task[Any]], sockets: set[str]) -> list[str]:
    """Tasks and sockets that nobody has ended."""
    for _ in range(5):
        await asyncio.sleep(0.01)
    gc.collect()
    names = sorted(_told(task) for task in asyncio.all_tasks() - tasks)
    left = [f"tasks left behind: {', '.join(names)}"] if names else []
    open_sockets = len(_sockets() - sockets)
    return left + ([f"{open_sockets} sockets left behind"] if open_sockets else [])


def _told(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})"


def _sockets() -> set[str]:
    """The sockets of this process, where the system shows them (Linux)."""
    found: set[str] = set()
    folder = Path("/proc/self/fd")
    for entry in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # the folder's own descriptor is gone by now
            found.add(str(entry.readlink()))
    return {name for name in found if name.startswith("socket:")}
