"""What the whole road of one message costs beside the floor, in one run.

    python -m bench.road [--rounds 5] [--seconds 3] [--rate 200] [--dir PATH] > road.json

A frame comes in on a WebSocket, is committed to the inbox, answered by an async function, the
answer committed to the outbox, sent by HTTP, accepted, and recorded as sent. `gateway` is the
product (`bench.road_gateway`), `floor` the least that does it (`bench.floor`); each has a platform
of its own in another process (`bench.road_platform`), and both take turns in each round. Three
loads: `saturated` (256 chats, each writes when it is answered), `half_load` (half of what the
gateway answered then, offered to both) and `steady`. Figures are medians over the rounds, ratios
those of the medians; `spread` has the lowest and the highest ratio of a round.

`messages_per_core_second` is messages by seconds of CPU of the process, all its threads.
`fsyncs_per_message` counts commits; each is one fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.idle import Footprint
from bench.road_platform import CHATS, PATIENCE, Load, Result, loop_factory

RATE, P99 = "messages_per_core_second", "p99_ms"
"""The figures whose ratios are judged."""

RATE_TARGET = 0.7
"""Of the floor's saturated rate, for a durable road: set with the project's other targets."""

P99_TARGET = 2.0
"""Times the floor's p99 at half load: set with it. For the steady load there is no target."""

START_LIMIT = 20.0
"""Seconds in which a process is ready."""


@dataclass(frozen=True, slots=True)
class Process:
    """A child that answers a line with a line."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def line(self) -> dict[str, Any]:
        """The next line it prints. Raises TimeoutError, and ValueError when it has ended."""
        async with asyncio.timeout(START_LIMIT):
            found: dict[str, Any] = json.loads(await self.reader.readline())
        return found

    async def commits(self) -> int:
        """How many transactions it has made durable."""
        self.writer.write(b"\n")
        return int((await self.line())["commits"])


@dataclass(frozen=True, slots=True)
class Side:
    """A program on the road and its platform."""

    program: Process
    url: str
    session: aiohttp.ClientSession
    ready: dict[str, Any]
    """What the program said of itself."""

    async def load(self, seconds: float, rate: float | None) -> dict[str, float]:
        """The figures of one load."""
        before = await self.program.commits()
        load = Load(seconds=seconds, pid=self.program.pid, rate=rate)
        async with self.session.post(f"{self.url}/load", data=msgspec.json.encode(load)) as reply:
            reply.raise_for_status()
            result = msgspec.json.decode(await reply.read(), type=Result)
        commits = await self.program.commits() - before
        return {
            "messages_per_second": result.answered / result.seconds,
            "messages_per_core_second": result.answered / result.cpu,
            "cpu_us_per_message": result.cpu / result.answered * 1e6,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "fsyncs_per_message": commits / result.asked,
        }


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    """A module of this package, ended by the end of its standard input."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        yield Process(child.pid, child.stdout, child.stdin)
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(START_LIMIT):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


@contextlib.asynccontextmanager
async def side(session: aiohttp.ClientSession, module: str, *arguments: str) -> AsyncIterator[Side]:
    """A program, connected to its platform. ``arguments`` follow the platform's URL."""
    async with process("bench.road_platform") as platform:
        url = (await platform.line())["url"]
        async with process(module, url, *arguments) as program:
            yield Side(program, url, session, await program.line())


def loop_name() -> str:
    """The package of the event loop both sides run on: asyncio or uvloop."""
    loop = loop_factory()
    loop.close()
    return type(loop).__module__.partition(".")[0]


# -- the report -----------------------------------------------------------------------------------


async def compare(
    sides: dict[str, Side], rounds: int, seconds: float, rate: float | None, judged: str
) -> dict[str, Any]:
    """Medians of one load, both sides in turns; how far the ratio of one figure was spread."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(rounds):
        # Neither side is always the one that comes second.
        for name in sorted(sides, reverse=turn % 2 == 1):
            found[name].append(await sides[name].load(seconds, rate))
    pairs = zip(found["gateway"], found["floor"], strict=True)
    ratios = [gateway[judged] / floor[judged] for gateway, floor in pairs]
    spread = {"spread": [round(min(ratios), 3), round(max(ratios), 3)]}
    return {name: medians(figures) for name, figures in found.items()} | spread


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {name: round(statistics.median(r[name] for r in rounds), 3) for name in rounds[0]}


def ratio(figures: dict[str, Any], name: str) -> float:
    """The gateway's figure by the floor's."""
    gateway, floor = (float(figures[one][name]) for one in ("gateway", "floor"))
    return round(gateway / floor, 3)


async def measure(directory: Path, rounds: int, seconds: float, rate: float) -> dict[str, Any]:
    """All three loads."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds + 2 * PATIENCE))
        )
        floor = side(session, "bench.floor", str(directory / "floor.db"))
        gateway = side(session, "bench.road_gateway", str(directory / "gateway"))
        sides = {
            "floor": await stack.enter_async_context(floor),
            "gateway": await stack.enter_async_context(gateway),
        }
        for one in sides.values():
            await one.load(seconds, None)
        saturated = await compare(sides, rounds, seconds, None, RATE)
        half = saturated["gateway"]["messages_per_second"] / 2
        half_load = await compare(sides, rounds, seconds, half, P99)
        steady = await compare(sides, rounds, seconds, rate, P99)
        rss = {f"{name}_rss_mib": Footprint.of(s.program.pid).rss for name, s in sides.items()}
    of_floor = ratio(saturated, RATE)
    p99_to_floor = ratio(half_load, P99)
    return {
        "saturated": saturated
        | {
            "of_floor": of_floor,
            "target_of_floor": RATE_TARGET,
            "within_target": of_floor >= RATE_TARGET,
        },
        "half_load": {"rate": round(half)}
        | half_load
        | {
            "p99_to_floor": p99_to_floor,
            "target_p99_to_floor": P99_TARGET,
            "within_target": p99_to_floor < P99_TARGET,
        },
        "steady": {"rate": rate} | steady | {"p99_to_floor": ratio(steady, P99)},
        **{name: round(value, 1) for name, value in rss.items()},
    }


async def profiled(directory: Path, seconds: float, profile: Path) -> None:
    """Saturate a gateway under cProfile once."""
    arguments = (str(directory / "gateway"), "--profile", str(profile))
    timeout = aiohttp.ClientTimeout(total=seconds + 2 * PATIENCE)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        side(session, "bench.road_gateway", *arguments) as gateway,
    ):
        print(json.dumps(await gateway.load(seconds, None), indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each load, both in turns")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load in a round")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second when steady")
    parser.add_argument("--dir", default=None, help="where the journals go: the disk to measure")
    parser.add_argument(
        "--profile", type=Path, help="only saturate the gateway, cProfile's statistics into a file"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        if options.profile is not None:
            asyncio.run(profiled(directory, options.seconds, options.profile))
            return
        found = asyncio.run(measure(directory, options.rounds, options.seconds, options.rate))
    report = {
        "python": sys.version.split()[0],
        "loop": loop_name(),
        "chats": CHATS,
        "rounds": options.rounds,
    }
    print(json.dumps(report | found, indent=2))


if __name__ == "__main__":
    main()
