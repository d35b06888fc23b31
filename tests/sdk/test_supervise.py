"""`supervise`: every way an SDK ends, or does not, in a task, a thread and a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.observe.status import FILE_NAME, read
from holdfast.sdk import LAST_WORDS, Isolation, Life, Supervised, supervise
from holdfast.supervision import Cause, Kind, Policy, Published, Report, State, View
from tests.gateway.tools import census

QUICK = Policy(
    label="sdk",
    backoff_first=0.05,
    backoff_cap=0.1,
    backoff_slow_cap=0.2,
    close_timeout=0.3,
    abort_timeout=0.2,
)
"""For tests on the real clock."""


async def reach(bot: Supervised, condition: Callable[[View], bool], timeout: float = 30.0) -> View:
    """Wait for a reading, bounded."""
    async with asyncio.timeout(timeout):
        return await bot.until(condition)


def is_up(view: View) -> bool:
    """Whether the SDK has proved its life."""
    return view.state is State.LIVE


class Sdk:
    """An SDK that behaves as scripted, run by run; the last behaviour is repeated."""

    def __init__(self, *behaviours: str) -> None:
        self.behaviours = list(behaviours)
        self.runs = 0
        self.lives: list[Life] = []

    async def start(self, life: Life) -> None:
        """The start call."""
        self.runs += 1
        self.lives.append(life)
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        life.ready()
        match behaviour:
            case "returns":
                return
            case "raises":
                raise ConnectionResetError(104, "reset")
            case "is cancelled":
                raise asyncio.CancelledError
            case "exits":
                sys.exit(3)
            case "hangs":
                await asyncio.Event().wait()
            case "swallows":
                await self._swallow()
            case _:
                while True:  # lives; cancelled by the test's end
                    await asyncio.sleep(10)
                    life.alive()

    async def _swallow(self) -> None:
        for _ in range(1_000):
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                continue


@pytest.mark.parametrize(
    ("behaviour", "code", "seconds"),
    [("returns", "returned", 0), ("raises", "reset", 0), ("is cancelled", "cancelled", 0),
     ("exits", "unknown", 0), ("hangs", "sdk_silent", 60)],
)  # fmt: skip
async def test_every_end_is_noticed_and_the_sdk_started_again(
    behaviour: str, code: str, seconds: float
) -> None:
    sdk = Sdk(behaviour, "lives")
    reports: list[Report] = []
    async with supervise("sdk", sdk.start, on_report=reports.append) as bot:
        await reach(bot, lambda v: is_up(v) and v.generation == 2, 90)
        up = next(r.view.at for r in reports if r.view.published is Published.CONNECTED)
        lost = next(r.view for r in reports if r.view.published is Published.RETRYING)
        assert lost.cause is not None
        assert lost.cause.code == code
        assert lost.at - up == pytest.approx(seconds, abs=0.5)
        await asyncio.sleep(3_600)
        assert bot.view().generation == 2
        assert sdk.runs == 2


async def test_an_sdk_that_swallows_its_cancellation_is_abandoned_and_replaced() -> None:
    sdk = Sdk("swallows", "lives")
    async with supervise("sdk", sdk.start) as bot:
        await reach(bot, lambda v: is_up(v) and v.generation == 2, 90)
        view = bot.view()
        assert view.abandoned == 1
        stale = view.stale_events
        sdk.lives[0].alive()  # the zombie's word is not taken for the new one's
        await asyncio.sleep(0)
        assert bot.view().last_proof == view.last_proof
        assert bot.view().stale_events == stale
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        for _ in range(1_001):
            task.cancel()
            await asyncio.sleep(0)


@pytest.mark.parametrize("behaviour", ["hangs", "swallows", "lives", "returns"])
async def test_it_stops_within_five_seconds(behaviour: str) -> None:
    sdk = Sdk(behaviour)
    loop = asyncio.get_running_loop()
    async with supervise("sdk", sdk.start) as bot:
        await reach(bot, lambda v: sdk.runs > 0)
        began = loop.time()
        await bot.stop()
        assert loop.time() - began < 5
        assert bot.view().published is Published.STOPPED
        runs = sdk.runs
        await asyncio.sleep(600)
        assert sdk.runs == runs
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        for _ in range(1_001):
            task.cancel()
            await asyncio.sleep(0)


async def test_an_sdk_without_callbacks_is_proved_by_a_probe() -> None:
    answers = iter([False, True])
    probes = 0

    async def start() -> None:
        await asyncio.Event().wait()

    async def probe() -> bool:
        nonlocal probes
        probes += 1
        return next(answers, probes < 10)

    async with supervise("sdk", start, probe=probe, probe_every=20) as bot:
        await reach(bot, is_up)
        assert probes == 2, "not ready before the probe succeeded"
        view = await reach(bot, lambda v: v.published is Published.RETRYING, 400)
        assert view.cause is not None
        assert view.cause.kind is Kind.SILENT


async def test_a_verdict_stops_it_loudly_until_somebody_kicks() -> None:
    sdk = Sdk("raises", "lives")

    def classify(error: BaseException) -> Cause | None:
        return Cause(Kind.CREDENTIALS, "sdk_bad_token", "the token is refused")

    async with supervise("sdk", sdk.start, classify=classify) as bot:
        view = await reach(bot, lambda v: v.published is Published.FATAL)
        assert view.attention
        bot.kick(operator=True)
        await reach(bot, is_up)


def names_nothing(error: BaseException) -> Cause | None:
    """A defect in somebody's classification."""
    raise LookupError(error)


def names_a_kind(error: BaseException) -> Any:
    """A mistake."""
    return Kind.CREDENTIALS


@pytest.mark.parametrize("classify", [names_nothing, names_a_kind])
async def test_a_defective_classify_hides_no_end(
    classify: Callable[[BaseException], Cause | None], caplog: pytest.LogCaptureFixture
) -> None:
    sdk = Sdk("raises", "lives")
    async with supervise("sdk", sdk.start, classify=classify) as bot:
        view = await reach(bot, lambda v: v.published is Published.RETRYING, 5)
        assert view.cause is not None
        assert view.cause.code == "reset"
        assert "classify failed" in caplog.text
        await reach(bot, is_up)


async def test_a_defective_classify_hides_no_failed_probe() -> None:
    async def probe() -> bool:
        raise ConnectionResetError(104, "reset")

    async with supervise(
        "sdk", Sdk("hangs").start, probe=probe, classify=names_nothing, silence=600.0
    ) as bot:
        view = await reach(bot, lambda v: v.published is Published.RETRYING, 90)
        assert view.cause is not None
        assert view.cause.code == "sdk_heartbeat_unacked"
        assert "last: connection lost" in view.cause.message


def exits() -> bool:
    """As some SDKs do, deep inside."""
    sys.exit(3)


async def exits_on_our_loop() -> bool:
    """So does its coroutine."""
    sys.exit(3)


@pytest.mark.parametrize("exits", [exits, exits_on_our_loop])
async def test_a_probe_and_a_stop_that_exit_end_only_themselves(exits: Callable[[], Any]) -> None:
    sdk = Sdk("hangs")
    async with supervise("sdk", sdk.start, probe=exits, stop=exits, silence=600.0) as bot:
        view = await reach(bot, lambda v: v.published is Published.RETRYING, 90)
        assert view.cause is not None
        assert "raised SystemExit(3)" in view.cause.message
        await reach(bot, lambda v: v.generation == 2)


def test_without_any_proof_it_is_not_supervised() -> None:
    async def start() -> None:
        """Proves nothing."""

    with pytest.raises(ValueError, match="nothing can prove that 'sdk' lives"):
        supervise("sdk", start)


async def test_the_status_is_a_file_like_the_gateways(tmp_path: Path) -> None:
    sdk = Sdk("lives")
    path = tmp_path / FILE_NAME
    async with supervise("sdk", sdk.start, status_file=path) as bot:
        await reach(bot, is_up)
        await asyncio.sleep(1)
        assert read(path).accounts["sdk"].state == "connected"
    assert read(path).accounts["sdk"].state == "stopped"


async def test_of_two_questions_the_second_waits_for_the_first() -> None:
    asking: list[int] = []

    async def probe() -> bool:
        asking.append(1)
        most.append(len(asking))
        await asyncio.sleep(1.5)
        asking.pop()
        return True

    most: list[int] = []
    async with supervise("sdk", Sdk("hangs").start, probe=probe, probe_every=1.0) as bot:
        await asyncio.sleep(600)
        assert bot.view().generation == 1
        assert bot.view().published is Published.CONNECTED
    assert max(most) == 1


@pytest.mark.real_time
async def test_a_probe_that_hangs_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.sdk.PROBE_LIMIT", 0.02)
    monkeypatch.setattr("holdfast.sdk.FIRST_PROBES", 0.01)
    release = threading.Event()

    def hanging_probe() -> bool:
        return release.wait(20)

    async def start() -> None:
        await asyncio.Event().wait()

    def threads() -> int:
        return sum("hanging_probe" in thread.name for thread in threading.enumerate())

    policy = replace(QUICK, attempt_timeout=0.1, step_timeout=0.1)
    async with supervise("sdk", start, probe=hanging_probe, probe_every=0.05, policy=policy) as bot:
        await reach(bot, lambda v: v.generation == 3)
        assert threads() == 1
        release.set()
        up = await reach(bot, is_up)
        release.clear()
        await reach(bot, lambda v: v.generation > up.generation + 1)
        assert threads() == 1
        release.set()
        await reach(bot, is_up)


# -- threads --------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_a_thread_that_returns_and_one_that_is_stopped() -> None:
    done, runs = threading.Event(), []

    def start(life: Life) -> None:
        runs.append(threading.current_thread())
        life.alive()
        if len(runs) > 1:
            done.wait(30)

    async with supervise("sdk", start, isolation="thread", stop=done.set, policy=QUICK) as bot:
        await reach(bot, lambda v: is_up(v) and v.generation == 2)
        assert bot.view().cause is not None
        assert runs[0] is not threading.main_thread()
    assert done.is_set()
    runs[1].join(5)
    assert not runs[1].is_alive()


@pytest.mark.real_time
async def test_a_thread_without_a_stop_is_abandoned_in_time() -> None:
    release = threading.Event()

    def start(life: Life) -> None:
        life.alive()
        release.wait(30)

    began = time.monotonic()
    async with supervise("sdk", start, isolation=Isolation.THREAD, policy=QUICK) as bot:
        await reach(bot, is_up)
    assert time.monotonic() - began < 5
    assert bot.view().abandoned == 1
    release.set()


@pytest.mark.real_time
async def test_a_thread_with_a_loop_of_its_own_does_not_block_ours() -> None:
    async def start(life: Life) -> None:
        life.ready()
        time.sleep(0.3)  # noqa: ASYNC251  the SDK blocks its own loop

    async with supervise("sdk", start, isolation="thread", policy=QUICK) as bot:
        await reach(bot, is_up)
        lag = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - lag < 0.2
        await reach(bot, lambda v: v.generation >= 2)


# -- processes ------------------------------------------------------------------------------------


def process_that_raises(life: Life) -> None:
    """For the child."""
    life.ready()
    raise RuntimeError("the SDK is broken")


def process_that_never_ends() -> None:
    """For the child; deaf to SIGTERM as well."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait()


def process_that_lives(life: Life) -> None:
    """For the child."""
    for _ in range(600):
        life.alive()
        threading.Event().wait(0.1)


async def test_a_start_call_that_no_process_can_be_given_says_so_each_time() -> None:
    async with supervise("sdk", lambda life: life.ready(), isolation="process") as bot:
        view = await reach(bot, lambda v: v.attempt == 1)
        assert view.cause is not None
        assert (view.cause.kind, view.cause.code) == (Kind.LOCAL, "start_failed")
        assert "pickle" in view.cause.message
        before = await census()
        await reach(bot, lambda v: v.attempt == 4)
        assert await census() == before
        async with asyncio.timeout(5):
            await bot.stop()
    assert bot.view().published is Published.STOPPED


@pytest.mark.real_time
async def test_a_want_of_descriptors_is_survived() -> None:
    async with supervise("sdk", process_that_raises, isolation="process", policy=QUICK) as bot:
        await reach(bot, is_up)
        with no_descriptor_left():
            await reach(bot, lambda v: v.cause is not None and v.cause.kind is Kind.LOCAL)
        await reach(bot, lambda v: v.cause is not None and v.cause.kind is Kind.UNKNOWN)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """No file, pipe or socket can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    with contextlib.ExitStack() as holes:
        while (hole := os.open(os.devnull, os.O_RDONLY)) < highest:
            holes.callback(os.close, hole)
        os.close(hole)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.real_time
async def test_a_process_that_raises_says_why() -> None:
    async with supervise("sdk", process_that_raises, isolation="process", policy=QUICK) as bot:
        view = await reach(bot, lambda v: v.cause is not None)
        assert view.cause is not None
        assert "RuntimeError: the SDK is broken" in view.cause.message


@pytest.mark.real_time
async def test_a_process_lives_and_is_ended() -> None:
    began = time.monotonic()
    async with supervise("sdk", process_that_lives, isolation="process", policy=QUICK) as bot:
        await reach(bot, is_up)
        assert bot.view().published is Published.CONNECTED
    assert time.monotonic() - began < 8
    assert bot.view().abandoned == 0


@pytest.mark.real_time
async def test_a_deaf_process_is_killed() -> None:
    async def probe() -> bool:
        return True

    async with supervise(
        "sdk", process_that_never_ends, isolation="process", probe=probe, policy=QUICK
    ) as bot:
        await reach(bot, is_up)
        began = time.monotonic()
        await bot.stop()
        assert time.monotonic() - began < 5
        assert bot.view().abandoned == 0, "SIGKILL ends what SIGTERM does not"


def process_that_leaves_a_helper(life: Life) -> None:
    """For the child: it crashes, while a helper holds what it held, and speaks for it."""
    life.ready()
    if os.fork() != 0:
        os._exit(9)
    with contextlib.suppress(OSError):  # until nobody listens
        for _ in range(600):
            life.alive()
            time.sleep(0.05)
    os._exit(0)


@pytest.mark.real_time
async def test_a_process_has_ended_although_a_helper_of_it_lives_on() -> None:
    async with supervise(
        "sdk", process_that_leaves_a_helper, isolation="process", policy=QUICK, silence=600.0
    ) as bot:
        view = await reach(bot, lambda v: v.cause is not None, 10)
        assert view.cause is not None
        assert "exit code 9" in view.cause.message


def process_with_much_to_say(life: Life) -> None:
    """For the child."""
    raise RuntimeError("so long! " * 100_000)


@pytest.mark.real_time
async def test_the_last_words_of_a_process_are_few() -> None:
    async with supervise("sdk", process_with_much_to_say, isolation="process", policy=QUICK) as bot:
        view = await reach(bot, lambda v: v.cause is not None)
        assert view.cause is not None
        assert "RuntimeError: so long! so long!" in view.cause.message
        assert len(view.cause.message) < LAST_WORDS + 100


@pytest.mark.parametrize("options", [[], ["--helper"]], ids=["alone", "helper"])
def test_a_process_does_not_outlive_a_supervisor_that_is_killed(options: list[str]) -> None:
    program = [sys.executable, "-m", "tests.sdk.widow", *options]
    pids: dict[str, int] = {}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as widow:
        assert widow.stdout is not None
        try:
            for line in widow.stdout:
                who, *pid = line.split()
                if who == "up":
                    break
                pids[who] = int(*pid)
            with os.fdopen(os.pidfd_open(pids["sdk"])) as sdk:
                widow.kill()
                ended, _, _ = select.select([sdk], [], [], 10)
        finally:
            widow.kill()
            for left in pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)
    assert ended


# -- the page -------------------------------------------------------------------------------------


async def test_the_example_of_the_page_runs() -> None:
    """docs/sdk.md, with a vendor whose client connects, hears something, and returns."""
    page = Path(__file__).parents[2] / "docs" / "sdk.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    told: list[str] = []

    class VendorClient:
        def __init__(self, on_connect: Callable[[], None], on_event: Callable[[str], None]) -> None:
            self.on_connect, self.on_event = on_connect, on_event

        async def run(self) -> None:
            self.on_connect()
            self.on_event("hello")
            told.append("ran")
            await asyncio.sleep(10)

    example, _, last = code.rpartition("asyncio.run(")
    assert last.startswith("supervise(")
    names: dict[str, Any] = {"VendorClient": VendorClient}
    exec(example, names)
    async with supervise("my-bot", names["start"]) as bot:
        await reach(bot, is_up)
        await reach(bot, lambda v: is_up(v) and v.generation == 2)
    assert len(told) == 2
