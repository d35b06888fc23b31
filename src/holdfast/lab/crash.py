"""`holdfast lab crash`: nothing lost, nothing doubled, with a gateway that dies every few seconds.

The gateway is a process of its own with a real journal, killed with SIGKILL at random and at each
kill point, while cables break and the platforms repeat themselves. The simulators and the truth
about them are in this process. In the end everything is healed, the gateway gets time to finish,
and `holdfast.lab.checker` compares what users said and heard with what the journal has.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from holdfast.adapters import BUILT_IN
from holdfast.config import Config
from holdfast.errors import HoldfastError
from holdfast.lab.cable import HOST
from holdfast.lab.cast import CAST
from holdfast.lab.checker import BAD, Kind, Verdict, check
from holdfast.lab.configured import document, free_port, write
from holdfast.lab.crash_plan import BREAKS, HABITS, Act, Plan, Role, Step, plan
from holdfast.lab.crash_process import Process
from holdfast.lab.crash_witness import Journal, Users
from holdfast.lab.stage import Stage
from holdfast.observe.status import AccountStatus

POLICY = {"stable_after": 3.0, "quick_life": 1.0}
"""As in the demo: faults come seconds apart instead of days, and so must the proof of stability."""

READY: Final = 60.0
"""Seconds in which every account must be connected for the first time."""

SETTLE: Final = 180.0
"""Seconds without an answer after which work that is still under way is given up."""

QUIET: Final = 10.0
"""Seconds without work and without news after which nothing more is expected..."""

REDELIVERY: Final = 140.0
"""...and while a platform that keeps what is missed still owes a message: WhatsApp alone may wait
126 s before it repeats one for the seventh time."""

LOOK, PROGRESS = 0.5, 5.0
"""Seconds between two looks at the status, and between two lines of progress."""

TOLD: Final = 50
"""Findings that are told in words; all of them are counted."""


class NotReady(HoldfastError):
    """The gateway did not connect everything while nothing was broken yet."""


class Crash:
    """One run between open stages."""

    def __init__(
        self,
        process: Process,
        users: Mapping[str, Users],
        plan: Plan,
        tell: Callable[[str], None] = lambda line: None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.left_out = dict(left_out or {})
        """Platforms that can not be played on this machine, and why."""
        self.process, self.users, self.plan = process, users, plan
        self.faults: Counter[str] = Counter()
        """Network faults that were inflicted, by name."""
        self._tell = tell
        self._began = 0.0

    async def run(self) -> list[Verdict]:
        """The whole plan, then peace, then the verdict of every account.

        Raises NotReady when the first life does not get that far.
        """
        try:
            await self._connect()
            self._began = _now()
            async with asyncio.TaskGroup() as group:
                lives = group.create_task(self._lives())
                report = group.create_task(self._report())
                await self._play()
                self._heal()
                await lives
                await self.process.start()
                await self._settle()
                report.cancel()
            await self.process.stop()
        finally:
            await self.process.kill9()
        journal = await Journal.read(self.process.journal, self.users)
        return [check(users.history(journal)) for users in self.users.values()]

    async def _connect(self) -> None:
        """A first life: what was said before an account was ever connected is nobody's loss."""
        await self.process.start()
        try:
            async with asyncio.timeout(READY):
                while not self._connected():  # noqa: ASYNC110  another process sets no event
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise NotReady(f"not every account connected within {READY:g} s") from None
        await self.process.kill()

    def _connected(self) -> bool:
        return self._all(lambda entry: entry.state == "connected") and all(
            users.stage.simulator.listening() for users in self.users.values()
        )

    # -- the plan -----------------------------------------------------------------------------

    async def _play(self) -> None:
        for step in self.plan.steps:
            delay = self._began + step.at - _now()
            # A loop that is late still lets the platforms breathe between two messages.
            await asyncio.sleep(max(0.0, delay))
            self._do(step)
        await asyncio.sleep(max(0.0, self._began + self.plan.seconds - _now()))

    def _do(self, step: Step) -> None:
        users = self.users[step.account]
        match step.act:
            case Act.SAY:
                users.say(step.what)
            case Act.ARM:
                users.stage.simulator.faults.arm(step.what)
            case Act.CUT:
                self.faults[step.what] += 1
                users.stage.cable(BREAKS[step.what].switch)
            case Act.HEAL:
                users.stage.cable.heal()

    async def _lives(self) -> None:
        """One after the other, until the plan is over: the last one ends by SIGKILL too."""
        for life in self.plan.lives:
            if _now() < self._began + self.plan.seconds:
                await self.process.live(life)

    # -- the end ------------------------------------------------------------------------------

    def _heal(self) -> None:
        for users in self.users.values():
            users.stage.cable.heal()
            users.stage.simulator.faults.clear()

    async def _settle(self) -> None:
        """Wait until nothing is under way and nothing more is expected.

        An account that never gets idle is waited for as long as `SETTLE` after the last answer.
        """
        news = quiet = _now()
        before = -1
        while _now() - news < SETTLE and _now() - quiet < self._patience():
            await asyncio.sleep(LOOK)
            heard = sum(len(users.stage.simulator.heard) for users in self.users.values())
            if heard != before:
                news, before = _now(), heard
            if news > quiet or not self._idle():
                quiet = _now()

    def _idle(self) -> bool:
        """Whether every account is connected and has nothing to do."""
        return self._all(
            lambda entry: entry.state == "connected" and not (entry.inbox or entry.outbox)
        )

    def _all(self, condition: Callable[[AccountStatus], bool]) -> bool:
        """Whether the present life has published this of every account."""
        status = self.process.status()
        return status is not None and all(map(condition, status.accounts.values()))

    def _patience(self) -> float:
        for users in self.users.values():
            users.listen()
        owing = any(users.waiting for users in self.users.values() if users.replays)
        return REDELIVERY if owing else QUIET

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS)
            said, waiting = 0, 0
            for users in self.users.values():
                users.listen()
                said, waiting = said + len(users.said), waiting + len(users.waiting)
            self._tell(
                f"{_now() - self._began:.0f} s: {said} sent, {said - waiting} answered, "
                f"{self.process.kills.total()} kills, {self.faults.total()} network faults"
            )


@contextlib.asynccontextmanager
async def crash(
    home: Path,
    seconds: float,
    seed: int,
    platforms: Collection[str] = (),
    tell: Callable[[str], None] = lambda line: None,
    agent: str = "echo",
) -> AsyncIterator[Crash]:
    """Everything a run needs, in ``home``; ``platforms`` are all that can be played if empty.

    ``agent`` must answer everything once, with a text that ends as the message does.
    The plan is recorded as ``plan.json``. Gone when the context ends, but for the files.
    """
    names = [n for n in BUILT_IN if n in CAST and (n in platforms or not platforms)]
    missing = {name: CAST[name].missing() for name in names}
    left_out = {name: why for name, why in missing.items() if why is not None}
    async with contextlib.AsyncExitStack() as stack:
        stages: dict[str, Stage] = {}
        port = free_port()
        for name in (name for name in names if name not in left_out):
            stage = stages[name] = await stack.enter_async_context(CAST[name].stage(name))
            stage.cable.lead_hooks(port)
            await CAST[name].meet(stage)
            _hasten(name, stage.simulator)
        gateway = {"agent": agent, "hook_listen": f"{HOST}:{port}"}
        config = write(home / "holdfast.toml", document(stages, gateway, POLICY))
        users = _users(config, stages)
        made = plan(seed, seconds, [one.role for one in users.values()])
        (home / "plan.json").write_text(json.dumps(dataclasses.asdict(made)))
        yield Crash(Process(config.path), users, made, tell, left_out)


def _users(config: Config, stages: Mapping[str, Stage]) -> dict[str, Users]:
    found: dict[str, Users] = {}
    for name, stage in stages.items():
        traits, habit = config.accounts[name].adapter.traits, HABITS[name]
        role = Role.of(name, traits, habit, len(stages), stage.groups)
        found[name] = Users(stage, role, traits.replays, habit.ordered)
    return found


def _hasten(name: str, simulator: Any) -> None:
    """QQ counts calls for the gateway's address; nobody dies so often that it would matter."""
    if name == "qqbot":
        bucket = simulator.gateway_bucket
        simulator.gateway_bucket = type(bucket)(1_000.0, 1_000.0)


def _now() -> float:
    return asyncio.get_running_loop().time()


# -- the command ----------------------------------------------------------------------------------


def main(
    minutes: float, seed: int | None, platforms: Collection[str] = (), *, quiet: bool = False
) -> int:
    """Run, and end with one line of JSON; 0 only if nothing of `checker.BAD` was found.

    Without a ``seed`` the clock gives one. After a finding the directory of the run is kept, with
    its plan, its journal and the gateway's log.
    """
    seed = time.time_ns() % 1_000_000 if seed is None else seed
    home = Path(tempfile.mkdtemp(prefix="holdfast-crash-"))
    good = False
    try:
        run, verdicts = asyncio.run(_run(home, minutes, seed, platforms, quiet))
        good = _good(run, verdicts)
        for finding in [finding for v in verdicts for finding in v.bad][:TOLD]:
            print(finding, file=sys.stderr)
        for code in run.process.accidents:
            print(f"the gateway ended by itself with status {code}", file=sys.stderr)
        print(json.dumps(summary(run, verdicts)))
    finally:
        if good:
            shutil.rmtree(home)
        else:
            print(f"plan, journal and log are kept in {home}", file=sys.stderr)
    return 0 if good else 1


async def _run(
    home: Path, minutes: float, seed: int, platforms: Collection[str], quiet: bool
) -> tuple[Crash, list[Verdict]]:
    def tell(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    tell(f"seed {seed}")
    async with crash(home, minutes * 60, seed, platforms, tell) as run:
        return run, await run.run()


def _good(run: Crash, verdicts: Collection[Verdict]) -> bool:
    return all(verdict.good for verdict in verdicts) and not run.process.accidents


def summary(run: Crash, verdicts: Collection[Verdict]) -> dict[str, Any]:
    """What a run showed: counts over all platforms, and for each."""
    totals = {kind.value: sum(v.counts[kind] for v in verdicts) for kind in Kind}
    return {
        "sent": sum(verdict.said for verdict in verdicts),
        "kills": run.process.kills.total(),
        **{kind.value: totals[kind] for kind in (*BAD, Kind.AMBIGUOUS)},
        "seed": run.plan.seed,
        "minutes": round(run.plan.seconds / 60, 3),
        "answered": sum(verdict.answered for verdict in verdicts),
        **{kind.value: totals[kind] for kind in (Kind.GAP, Kind.DEAD)},
        "accidents": len(run.process.accidents),
        "kill_points": dict(run.process.kills),
        "faults": dict(run.faults),
        "platforms": {
            verdict.account: {
                "sent": verdict.said,
                "answered": verdict.answered,
                **{kind.value: count for kind, count in verdict.counts.items()},
                "faults": dict(run.users[verdict.account].stage.simulator.faults.played),
            }
            for verdict in verdicts
        },
        "left_out": run.left_out,
    }
