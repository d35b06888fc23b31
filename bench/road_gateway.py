"""A gateway with one account, as `bench.road` measures it.

    python -m bench.road_gateway URL DIRECTORY [PROFILE]

The same `Gateway`, journal and adapter as in `holdfast run`, on one of Mattermost's accounts whose
rate limit is lifted. Prints a line when connected; then answers each line on standard input with
``{"commits": so many}``. With PROFILE the loop's thread runs under cProfile, from being connected
to the end, and its statistics go to that file.
"""

from __future__ import annotations

import asyncio
import cProfile
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import ClassVar

from bench.floor import on_line
from bench.road_platform import loop_factory
from holdfast.adapter import Traits
from holdfast.adapters import BUILT_IN
from holdfast.adapters.mattermost import Mattermost
from holdfast.config import Config, load
from holdfast.gateway import garbage
from holdfast.gateway.gateway import Gateway
from holdfast.store.journal import open_journal
from holdfast.supervision import Published, Report

CONFIG = """
[accounts.road]
platform = "unlimited"
url = "{url}"
token = "t"
agent = "python:road_agent:answer"
"""

AGENT = """
async def answer(message):
    return message.text
"""

CONNECT_LIMIT = 10.0
"""Seconds in which the account connects on loopback."""


class Unlimited(Mattermost):
    """Mattermost, on a server whose administrator has not turned rate limiting on."""

    traits: ClassVar[Traits] = dataclasses.replace(Mattermost.traits, rate_total=None)


def configuration(url: str, directory: Path) -> Config:
    """Of one account whose agent repeats what was said, written down and read."""
    BUILT_IN["unlimited"] = f"{Unlimited.__module__}:{Unlimited.__name__}"
    directory.mkdir()
    (directory / "road_agent.py").write_text(AGENT)
    path = directory / "holdfast.toml"
    path.write_text(CONFIG.format(url=url))
    return load(path)


async def serve(config: Config, profile: Path | None) -> None:
    """Carry messages until standard input ends."""
    store = await open_journal(config.state_dir / "journal.db", config.accounts)
    gateway = Gateway(config, store)
    connected = asyncio.Event()

    def listen(account: str, report: Report) -> None:
        if report.view.published is Published.CONNECTED:
            connected.set()

    gateway.listeners.append(listen)
    await gateway.start()
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            await connected.wait()
        profiler = cProfile.Profile(time.thread_time)  # waiting for a processor costs nothing
        if profile is not None:
            profiler.enable()
        garbage.settle()  # as `holdfast run` does
        print(json.dumps({"ready": True}), flush=True)
        await on_line(lambda: {"commits": store.counters.commits})
        if profile is not None:
            profiler.disable()
            profiler.dump_stats(profile)
    finally:
        await gateway.stop()


def run() -> None:
    url, directory, *more = sys.argv[1:]
    config = configuration(url, Path(directory))
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(config, Path(more[0]) if more else None))


if __name__ == "__main__":
    run()
