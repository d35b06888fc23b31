"""Whoever reads the status, wherever: nobody says anything else than the others do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from holdfast.config import WebSettings
from holdfast.lab.cast import CAST
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from holdfast.mcp.desk import Desk
from holdfast.mcp.server import build
from holdfast.observe.history import FILE_NAME as HISTORY
from holdfast.observe.history import History
from holdfast.observe.status import FILE_NAME
from holdfast.web.control_server import ControlServer
from holdfast.web.server import HttpServer
from mcp import Client
from tests.cli.gateway import Place
from tests.e2e import readers
from tests.e2e.readers import Diary, Look, Seen, longest_disagreement
from tests.mcp.site import Model, over_stdio
from tests.theatre import Theatre, theatre
from tests.web.test_run import address

LIMIT = 1.0
"""Seconds for which two readers may say different things of an account."""

EVERY = 0.1
"""Seconds between two looks of a reader."""

PLATFORMS = ("telegram", "qqbot", "mattermost")

SECONDS = 120.0
"""On the gateway's clock."""

FAULTS = (Relay.hole, Relay.cut, Relay.refuse, Relay.rst, Relay.fin, Relay.stall)


# -- how disagreement is measured -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "seconds"),
    [
        ([("up", 0, 5), ("down", 5, 9)], 0.0),
        ([("up", 0, 6), ("down", 6, 9)], 1.0),
        ([("up", 0, 3), ("down", 3, 9)], 2.0),
        ([("up", 0, 9)], 4.0),
        ([("up", 0, 5), ("gone", 5, 7), ("lost", 7, 9)], 4.0),
        ([("gone", 0, 1), ("up", 1, 5), ("down", 5, 7), ("gone", 7, 9)], 2.0),
    ],
)
def test_the_longest_disagreement_is_found(
    other: list[tuple[str, float, float]], seconds: float
) -> None:
    one = [Seen("up", 0, 5), Seen("down", 5, 9)]
    assert longest_disagreement(one, [Seen(*run) for run in other]) == seconds
    assert longest_disagreement([Seen(*run) for run in other], one) == seconds


def judge(
    diaries: Mapping[str, Diary], names: Iterable[str], *, proven: bool = False
) -> tuple[float, dict[str, int]]:
    """The largest disagreement in seconds, and how often each account changed; both are shown."""
    states = {
        name: {reader: diary.of(name, proven=proven) for reader, diary in diaries.items()}
        for name in names
    }
    apart = [
        (longest_disagreement(told[one], told[other]), f"{one} and {other} on {name}")
        for name, told in states.items()
        for one, other in itertools.combinations(told, 2)
    ]
    changes = {name: min(map(len, told.values())) - 1 for name, told in states.items()}
    (largest, whose) = max(apart)
    print(f"largest disagreement: {largest:.3f} s, {whose}; changes: {changes}")
    return largest, changes


# -- chaos ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def outsiders(
    home: Path,
    play: Theatre,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AsyncIterator[Mapping[str, Look]]:
    """The gateway's servers, as `holdfast run` has them, and the five readers."""
    config = home / "holdfast.toml"
    config.write_text("")  # commands look for the state directory in it
    # The command's clock is that of the gateway it asks.
    monkeypatch.setattr("holdfast.cli.look.time", SimpleNamespace(time=play.wall))
    state = play.gateway.config.state_dir
    history = History(state / HISTORY, play.wall)
    control = ControlServer(play.gateway, history)
    pages = HttpServer(play.gateway, history, settings=WebSettings(listen="127.0.0.1:0"))
    await history.start()
    await control.start()
    await pages.start()
    url = pages.url.rstrip("/")
    try:
        async with (
            aiohttp.ClientSession() as session,
            Client(build(Desk(config, play.wall))) as client,
        ):
            yield {
                "file": readers.of_file(state / FILE_NAME, play.wall),
                "/readyz": readers.of_ready(session, url, PLATFORMS),
                "/metrics": readers.of_metrics(session, url),
                "MCP": readers.of_mcp(Model(client)),
                "command": readers.of_command(config, capsys),
            }
    finally:
        await pages.stop()
        await control.stop()
        await history.stop()


async def disown(play: Theatre, name: str, simulator: TelegramSimulator, seconds: float) -> None:
    """Let the platform refuse an account's credentials for a while."""
    simulator.revoke_token()
    play.gateway.kick(name)
    await asyncio.sleep(seconds)
    simulator.restore()


async def torment(play: Theatre, name: str, rng: random.Random) -> None:
    """Break an account's cable, its credentials and its operator's patience, for ever."""
    stage = play.stages[name]
    if isinstance(stage.simulator, TelegramSimulator):
        # Later its back-off may be longer than any of this.
        await play.until(name, "connected")
        await disown(play, name, stage.simulator, 2.0)
    while True:
        await asyncio.sleep(rng.uniform(0.0, 6.0))
        match rng.choice(("cable", "cable", "cable", "credentials", "operator")):
            case "cable":
                stage.cable(rng.choice(FAULTS))
                await asyncio.sleep(rng.uniform(0.2, 12.0))
                stage.cable.heal()
            case "credentials" if isinstance(stage.simulator, TelegramSimulator):
                await disown(play, name, stage.simulator, rng.uniform(0.2, 5.0))
            case _:
                await play.gateway.pause(name)
                await asyncio.sleep(rng.uniform(0.0, 3.0))
                await play.gateway.resume(name)
        if rng.random() < 0.7:
            play.gateway.kick(name)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_five_readers_never_disagree_for_longer_than_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(6)
    diaries: dict[str, Diary] = {}
    async with contextlib.AsyncExitStack() as stack:
        stages: list[Stage] = [
            await stack.enter_async_context(CAST[name].stage(name)) for name in PLATFORMS
        ]
        play = await stack.enter_async_context(theatre(tmp_path, *stages, rand=rng.random))
        looks = await stack.enter_async_context(outsiders(tmp_path, play, monkeypatch, capsys))
        tasks = []
        for name, look in looks.items():
            await asyncio.sleep(rng.uniform(0.0, EVERY))  # they do not look at the same moment
            diaries[name] = Diary()
            tasks.append(asyncio.create_task(diaries[name].keep(look, EVERY)))
        tasks += [asyncio.create_task(torment(play, name, rng)) for name in PLATFORMS]
        done, _ = await asyncio.wait(tasks, timeout=SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert [task.exception() for task in done] == []
    largest, changes = judge(diaries, PLATFORMS)
    assert largest <= LIMIT
    # A gateway that stands still, or readers that do not look, would agree as well.
    assert min(diary.looks for diary in diaries.values()) > 0.8 * SECONDS / EVERY
    assert min(changes.values()) >= 8, changes
    states = {
        seen.state for diary in diaries.values() for name in PLATFORMS for seen in diary.of(name)
    }
    assert states >= {"connected", "retrying", "fatal", "stopped"}


# -- a process ------------------------------------------------------------------------------------


async def unplug(
    stage: Stage, rng: random.Random, session: aiohttp.ClientSession, url: str
) -> None:
    """Pull an account's cable, put it back and have it tried at once, for ever."""
    while True:
        await asyncio.sleep(rng.uniform(0.5, 2.0))
        stage.cable(Relay.refuse)
        await asyncio.sleep(rng.uniform(0.5, 2.0))
        stage.cable.heal()
        async with session.post(f"{url}/api/v1/accounts/{stage.name}/kick") as answer:
            assert answer.status == 200


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_nor_do_those_of_a_process_on_the_real_clock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(6)
    names = ("telegram", "matrix")
    place = Place(tmp_path, pages="127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(CAST[name].stage(name)) for name in names]
        place.write(**{stage.name: stage.account() for stage in stages})
        process = await stack.enter_async_context(place.gateway())
        url = await address(process)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        model = await stack.enter_async_context(over_stdio(tmp_path, limit=90.0))
        looks = {
            "file": readers.of_file(place.state / FILE_NAME),
            "/readyz": readers.of_ready(session, url, names),
            "/metrics": readers.of_metrics(session, url),
            "MCP": readers.of_mcp(model),
            "command": readers.of_command(place.config, capsys),
        }
        await readers.agreed(looks.values(), dict.fromkeys(names, "connected"))
        diaries = {name: Diary() for name in looks}
        tasks = [asyncio.create_task(diaries[name].keep(looks[name], EVERY)) for name in looks]
        tasks += [asyncio.create_task(unplug(stage, rng, session, url)) for stage in stages]
        done, _ = await asyncio.wait(tasks, timeout=15.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert [task.exception() for task in done] == []
    largest, changes = judge(diaries, names, proven=True)
    assert largest <= LIMIT
    assert min(diary.looks for diary in diaries.values()) >= 15
    assert min(changes.values()) >= 2, changes
