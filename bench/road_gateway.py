"""A gateway as `bench.road` and `bench.dashboard` measure it.

    python -m bench.road_gateway URL DIRECTORY [--accounts 1] [--profile FILE]

The same `Gateway`, journal, pages and adapter as in `holdfast run`, on accounts of Mattermost whose
rate limit is lifted. Prints the URL of the pages when connected; then answers each line on standard
input with ``{"commits": so many}``. With a profile the loop's thread runs under cProfile, from
being connected to the end, and its statistics go to that file.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import dataclasses
import json
import time
from pathlib import Path
from typing import ClassVar

from bench.floor import on_line
from bench.road_platform import loop_factory
from bench.serving import serving
from holdfast.adapter import Traits
from holdfast.adapters import BUILT_IN
from holdfast.adapters.mattermost import Mattermost
from holdfast.config import Config, load
from holdfast.gateway import garbage
from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import FILE_NAME, History
from holdfast.store.journal import open_journal
from holdfast.supervision import Published
from holdfast.web.server import HttpServer

GATEWAY = """
[gateway]
agent = "python:road_agent:answer"

[web]
listen = "127.0.0.1:0"
"""

ACCOUNT = """
[accounts.road-{number}]
platform = "unlimited"
url = "{url}"
token = "t{number}"
"""

AGENT = """
async def answer(message):
    return message.text
"""

CONNECT_LIMIT = 10.0
"""Seconds in which the accounts connect on loopback."""


class Unlimited(Mattermost):
    """Mattermost, on a server whose administrator has not turned rate limiting on."""

    traits: ClassVar[Traits] = dataclasses.replace(Mattermost.traits, rate_total=None)


def configuration(url: str, directory: Path, accounts: int) -> Config:
    """Of accounts whose agent repeats what was said, written down and read."""
    BUILT_IN["unlimited"] = f"{Unlimited.__module__}:{Unlimited.__name__}"
    directory.mkdir()
    (directory / "road_agent.py").write_text(AGENT)
    path = directory / "holdfast.toml"
    tables = [ACCOUNT.format(url=url, number=number) for number in range(accounts)]
    path.write_text("".join([GATEWAY, *tables]))
    return load(path)


async def serve(config: Config, profile: Path | None) -> None:
    """Carry messages until standard input ends."""
    store = await open_journal(config.state_dir / "journal.db", config.accounts)
    gateway = Gateway(config, store)
    history = History(config.state_dir / FILE_NAME)
    server = HttpServer(gateway, history)
    async with serving(gateway, history, server):
        async with asyncio.timeout(CONNECT_LIMIT):
            for desk in gateway.desks.values():
                await desk.account.until(lambda view: view.published is Published.CONNECTED)
        profiler = cProfile.Profile(time.thread_time)  # waiting for a processor costs nothing
        if profile is not None:
            profiler.enable()
        garbage.settle()  # as `holdfast run` does
        print(json.dumps({"pages": server.url}), flush=True)
        await on_line(lambda: {"commits": store.counters.commits})
        if profile is not None:
            profiler.disable()
            profiler.dump_stats(profile)


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--accounts", type=int, default=1)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    config = configuration(options.url, options.directory, options.accounts)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(config, options.profile))


if __name__ == "__main__":
    run()
