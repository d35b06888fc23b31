"""The kit itself: for each planted defect, the right scenario fails and says why."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from holdfast.adapter import (
    AdapterError,
    BadFrame,
    Continuity,
    HttpFailed,
    Link,
    Liveness,
    Outcome,
    SendFailed,
    Traits,
    WebSocket,
    WebSocketClosed,
)
from holdfast.conformance import (
    SCENARIOS,
    Bench,
    BenchError,
    Broken,
    Ending,
    Need,
    Result,
    Row,
    expected_rows,
    from_json,
    judge,
    to_json,
    to_markdown,
)
from holdfast.conformance.rig import Rig, rig
from holdfast.conformance.suite import Suite
from holdfast.lab.faults.relay import Relay
from holdfast.messages import Inbound
from holdfast.supervision import Cause, Kind
from tests.conformance.parrot import BEAT, PARROT, Parrot, Perch, bench

pytest_plugins = ["pytester"]

# -- adapters with a defect each ----------------------------------------------------------------


class AcksEarly(Parrot):
    """Acknowledges before the commit."""

    async def message(self, link: Link, ws: WebSocket, frame: dict[str, Any]) -> None:
        await ws.send(json.dumps({"op": "ack", "id": frame["id"]}))
        await link.deliver(self.inbound(frame))


class NeverReady(Parrot):
    """Logs in and never says so."""

    async def run(self, link: Link) -> None:
        ws = await link.websocket(self.settings.url.replace("http", "ws") + "/ws")
        await ws.send(json.dumps(self.login()))
        async for _ in ws:
            pass


class ReadyOnOpen(Parrot):
    """Takes an open socket for a login."""

    async def run(self, link: Link) -> None:
        ws = await link.websocket(self.settings.url.replace("http", "ws") + "/ws")
        link.ready(Continuity.CAUGHT_UP)
        await ws.send(json.dumps(self.login()))
        async for raw in ws:
            await self.take(link, ws, json.loads(raw))


class ProvesItself(Parrot):
    """Says that it lives without having heard anything."""

    async def run(self, link: Link) -> None:
        async def claim() -> None:
            while True:  # cancelled below
                await asyncio.sleep(BEAT)
                link.alive()
                link.acked()

        claims = asyncio.create_task(claim())
        try:
            await super().run(link)
        finally:
            claims.cancel()


class SwallowsCancel(Parrot):
    """Takes a cancellation for just another error, four times."""

    async def run(self, link: Link) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await super().run(link)
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30.0)


class RetriesItself(Parrot):
    """Takes the pace into its own hands."""

    async def run(self, link: Link) -> None:
        while True:
            with contextlib.suppress(AdapterError):
                await super().run(link)
            await asyncio.sleep(0.1)


class IgnoresNotice(Parrot):
    """Has never heard of an announced end."""

    async def take(self, link: Link, ws: WebSocket, frame: dict[str, Any]) -> None:
        if frame["op"] != "leaving":
            await super().take(link, ws, frame)


class StartsAnew(Parrot):
    """Throws away what was said while it was not there."""

    def login(self) -> dict[str, Any]:
        return super().login() | {"skip": True}


class ForgetsIds(Parrot):
    """Makes up a new id for each delivery."""

    numbers = itertools.count()

    def inbound(self, frame: dict[str, Any]) -> Inbound:
        return super().inbound(frame | {"id": f"own-{next(self.numbers)}"})


class DropsBadNeighbours(Parrot):
    """Loses the message behind a frame it does not understand."""

    lost = False

    def bad(self, link: Link, error: BadFrame) -> None:
        super().bad(link, error)
        self.lost = True

    async def message(self, link: Link, ws: WebSocket, frame: dict[str, Any]) -> None:
        if not self.lost:
            await super().message(link, ws, frame)
            return
        self.lost = False
        await ws.send(json.dumps({"op": "ack", "id": frame["id"]}))


class KnowsNoCodes(Parrot):
    """Takes every close code for a loss."""

    def classify(self, error: BaseException) -> Cause | None:
        return None


class CallsForHelp(Parrot):
    """Takes every loss for bad credentials."""

    def classify(self, error: BaseException) -> Cause | None:
        if isinstance(error, WebSocketClosed):
            return Cause(Kind.CREDENTIALS, "parrot_guess", "it was closed, so it is the token")
        return None


class LetsThroughErrors(Parrot):
    """Ends with an error that nobody has classified."""

    def bad(self, link: Link, error: BadFrame) -> None:
        raise ValueError("what was that?")


class Mayfly(Parrot):
    """Forgets everything between connections."""

    traits: ClassVar[Traits] = Traits(liveness=Liveness("a pong", BEAT), max_text=100)
    continuity = Continuity.FRESH


class LeavesTasks(Parrot):
    """Starts a task and forgets it."""

    async def run(self, link: Link) -> None:
        self.task = asyncio.create_task(asyncio.sleep(1e6), name="parrot orphan")
        await super().run(link)


class SendsUnmarked(Parrot):
    """Declares that repeated sends are recognised, and changes the key with each try."""

    tries = itertools.count()

    async def send(self, message: Any) -> Any:
        return await super().send(replace_key(message, f"{message.key}-{next(self.tries)}"))


def replace_key(message: Any, key: str) -> Any:
    """The message under another key."""
    return msgspec.structs.replace(message, key=key)


class DoublesSends(SendsUnmarked):
    """Says of a send of unknown fate that it has not happened."""

    traits: ClassVar[Traits] = Traits(liveness=Parrot.traits.liveness, max_text=100, replays=True)

    async def send(self, message: Any) -> Any:
        try:
            return await super().send(message)
        except HttpFailed as error:
            raise SendFailed(Outcome.NOT_SENT, error.cause) from error


DEFECTS = [
    pytest.param(NeverReady, "C01", "not connected", id="never-ready"),
    pytest.param(LeavesTasks, "C01", "parrot orphan", id="leaves-tasks"),
    pytest.param(RetriesItself, "C02", "connections in", id="retries-itself"),
    pytest.param(ReadyOnOpen, "C04", "claimed", id="ready-on-open"),
    pytest.param(ProvesItself, "C05", "not noticed", id="proves-itself"),
    pytest.param(KnowsNoCodes, "C08", "4002: not seen as replaced", id="knows-no-codes"),
    pytest.param(CallsForHelp, "C08", "1001: not seen as lost", id="calls-for-help"),
    pytest.param(IgnoresNotice, "C10", "deaf in a planned", id="ignores-notice"),
    pytest.param(KnowsNoCodes, "C11", "not throttled", id="ignores-throttle"),
    pytest.param(KnowsNoCodes, "C12", "not fatal", id="ignores-refusal"),
    pytest.param(StartsAnew, "C16", "lost without a word", id="starts-anew"),
    pytest.param(ForgetsIds, "C18", "answered 2 times", id="forgets-ids"),
    pytest.param(DropsBadNeighbours, "C20", "lost without a word", id="drops-neighbours"),
    pytest.param(LetsThroughErrors, "C20", "nobody has classified", id="lets-errors-through"),
    pytest.param(AcksEarly, "C21", "lost without a word", id="acks-early"),
    pytest.param(SwallowsCancel, "C22", "not noticed within 5 s", id="swallows-cancel"),
    pytest.param(SwallowsCancel, "C23", "still runs after a stop", id="swallows-the-stop"),
    pytest.param(SendsUnmarked, "C29", "2 answers", id="new-key-each-try"),
    pytest.param(DoublesSends, "C29", "was doubled is not marked", id="no-mark"),
]


@pytest.mark.parametrize(("adapter", "scenario", "complaint"), DEFECTS)
def test_a_planted_defect_fails_the_right_scenario(
    adapter: type[Parrot], scenario: str, complaint: str
) -> None:
    with pytest.raises(Broken, match=complaint):
        judge(SCENARIOS[scenario], bench(adapter))


# -- the laws, which hold whatever a scenario looks at ---------------------------------------------


async def lie(run: Rig[Perch]) -> None:
    """Go deaf and do not notice."""
    run.cable(Relay.hole)
    await asyncio.sleep(100.0)


async def hurry(run: Rig[Perch]) -> None:
    """Ten more attempts at once."""
    run.opens += [run.now()] * 10


async def repeat(run: Rig[Perch]) -> None:
    """Hear one thing twice."""
    await run.inject(Need.DUPLICATE)
    run.say()
    await asyncio.sleep(1.0)


async def lose(run: Rig[Perch]) -> None:
    """End before something said has arrived."""
    run.cable(Relay.cut)
    run.say()


async def hoard(run: Rig[Perch]) -> None:
    """Open a socket that nobody closes."""
    HOARD.append(socket.socket())


HOARD: list[socket.socket] = []


@pytest.mark.parametrize(
    ("adapter", "misdeed", "complaint"),
    [
        (ProvesItself, lie, "connected was a lie for"),
        (Parrot, hurry, "11 attempts within 60 s"),
        (ForgetsIds, repeat, "answered twice: word 1"),
        (Parrot, lose, "lost without a word: word 1"),
        (Parrot, hoard, "1 sockets left behind"),
    ],
)
async def test_a_broken_law_is_told_whatever_the_scenario_looks_at(
    adapter: type[Parrot], misdeed: Callable[[Rig[Perch]], Awaitable[None]], complaint: str
) -> None:
    async def scenario() -> None:
        async with rig(bench(adapter)) as run:
            await run.connect()
            await misdeed(run)

    with pytest.raises(Broken, match=complaint):
        await scenario()
    while HOARD:
        HOARD.pop().close()


async def test_a_reported_gap_accounts_for_what_can_not_be_replayed() -> None:
    async with rig(bench(Mayfly)) as run:
        await run.connect()
        run.cable(Relay.cut)
        run.say()
        await run.noticed()
        run.server.forget()
        await run.heal()
        await run.works()
        assert len(run.gaps()) == 1


# -- what does not apply, and what is known to fail ------------------------------------------------


class Mute(Parrot):
    """Declares no proof of life."""

    traits: ClassVar[Traits] = Traits(liveness=Liveness("", 0.0), max_text=100)


def test_all_thirty_scenarios_are_tests_and_say_what_they_demand() -> None:
    assert sorted(SCENARIOS) == [f"C{n:02}" for n in range(1, 31)]
    for scenario in SCENARIOS.values():
        test = getattr(Suite, scenario.test_name)
        assert test.__doc__ == scenario.demands
        assert scenario.demands.endswith(".")


def test_a_scenario_that_can_neither_be_played_nor_excused_fails() -> None:
    with pytest.raises(AssertionError, match=r"C17 needs Need\.REFUSE_RESUME"):
        judge(SCENARIOS["C17"], bench(Mayfly))


def test_the_traits_excuse_what_can_not_happen() -> None:
    row = judge(SCENARIOS["C17"], PARROT)
    assert row.result is Result.NOT_APPLICABLE
    assert "own cursor" in row.reason


def test_the_author_excuses_in_his_own_words() -> None:
    row = judge(SCENARIOS["C17"], bench(Mayfly, not_applicable={"C17": "nothing to resume"}))
    assert (row.result, row.reason) == (Result.NOT_APPLICABLE, "nothing to resume")


@pytest.mark.parametrize("scenario", ["C08", "C15", "C16"])
def test_no_excuse_counts_for_what_can_happen(scenario: str) -> None:
    excused = bench(not_applicable={scenario: "parrots are special"})
    with pytest.raises(AssertionError, match=f"{scenario} is said not to apply.*special"):
        judge(SCENARIOS[scenario], excused)


def test_a_fault_the_simulator_does_not_have_is_refused() -> None:
    with pytest.raises(BenchError, match="no fault 'mumble'"):
        Bench[Perch](adapter=Parrot, server=Perch, faults={Need.BAD_FRAME: "mumble"})


def test_a_known_deviation_is_expected_to_fail() -> None:
    row = judge(SCENARIOS["C01"], bench(NeverReady, deviations={"C01": "it is shy"}))
    assert (row.result, row.reason) == (Result.DEVIATION, "it is shy")


def test_a_deviation_that_passes_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="C01 passes: take it out"):
        judge(SCENARIOS["C01"], bench(deviations={"C01": "it is shy"}))


def test_without_a_list_of_endings_c08_fails() -> None:
    bare = Bench[Perch](adapter=Parrot, server=Perch)
    with pytest.raises(Broken, match="list the platform's close codes"):
        judge(SCENARIOS["C08"], bare)


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.UNREACHABLE])
def test_what_the_kit_itself_breaks_is_not_taken_for_an_ending(kind: Kind) -> None:
    idle = replace(PARROT, endings=[Ending("nothing", kind, lambda perch: None)])
    with pytest.raises(Broken, match=f"nothing: not seen as {kind}"):
        judge(SCENARIOS["C08"], idle)


@pytest.mark.parametrize(
    ("adapter", "tables", "problem"),
    [
        (Parrot, {"not_applicable": {"C31": "there are thirty"}}, "'C31' is no scenario"),
        (Parrot, {"deviations": {"C01": " "}}, "C01 gives no reason"),
        (Parrot, {"deviations": {"C01": "a"}, "not_applicable": {"C01": "b"}}, "can not be both"),
        (Mute, {}, "no proof of life"),
    ],
)
def test_a_bench_that_contradicts_itself_is_refused(
    adapter: type[Parrot], tables: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BenchError, match=problem):
        bench(adapter, **tables)


# -- the table -----------------------------------------------------------------------------------


def test_the_promised_table_goes_through_json_unchanged() -> None:
    rows = expected_rows(PARROT)
    assert len(rows) == 30
    assert from_json(to_json(rows)) == rows
    assert [row.scenario for row in rows if row.result is not Result.PASS] == ["C17"]


def test_the_table_has_a_column_for_each_platform_and_notes_for_each_reason() -> None:
    rows = [
        Row("b", "C01", "connect", Result.PASS),
        Row("a", "C01", "connect", Result.DEVIATION, "it is shy"),
        Row("a", "C02", "refused", Result.NOT_APPLICABLE, "never"),
        Row("a", "C03", "mute", Result.NOT_APPLICABLE, "never"),
    ]
    assert to_markdown(rows).splitlines() == [
        "| | scenario | a | b |",
        "|---|---|---|---|",
        "| C01 | connect | deviation [1] | pass |",
        "| C02 | refused | n/a [2] |  |",
        "| C03 | mute | n/a [2] |  |",
        "",
        "1. a: it is shy",
        "2. a: never",
    ]


AUTHORS_FILE = """
from holdfast.conformance import Suite
from tests.conformance.parrot import bench
from tests.conformance.test_kit import NeverReady

class TestParrot(Suite):
    bench = bench(NeverReady, deviations={"C01": "it is shy"})
"""

CHOSEN = "c01 or c12 or c17 or c27"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_a_run_writes_what_really_happened(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyfile(AUTHORS_FILE)
    options = ("-p", "holdfast.conformance", "-k", CHOSEN, "-p", "no:cacheprovider", *workers)
    done = pytester.runpytest_subprocess(*options, "--conformance-table", "table.json")
    done.assert_outcomes(passed=1, skipped=1, xfailed=1, failed=1)
    rows = from_json((pytester.path / "table.json").read_bytes())
    assert [(row.scenario, row.result) for row in rows] == [
        ("C01", Result.DEVIATION),
        ("C12", Result.PASS),
        ("C17", Result.NOT_APPLICABLE),
        ("C27", Result.FAIL),
    ]


@pytest.mark.slow
def test_a_run_writes_markdown_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyfile(AUTHORS_FILE)
    pytester.runpytest_subprocess(
        "-p", "holdfast.conformance", "-k", "c17", "--conformance-table", "table.md"
    )
    text = (pytester.path / "table.md").read_text(encoding="utf-8")
    assert "| C17 | resume refused | n/a [1] |" in text
