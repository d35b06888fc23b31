"""What one more account costs an idle gateway.

    python -m bench.accounts [--accounts 60] > accounts.json

`holdfast run` with three accounts, then with many, on as many simulated bots in another process: a
third each Telegram (long poll), QQ and Discord (WebSocket). The difference in resident memory,
divided by the difference in accounts, is what an account costs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.idle import Footprint, gateway
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator

TARGET = 1.0
"""MiB of resident memory an added account may cost."""

KINDS: tuple[type[Simulator], ...] = (TelegramSimulator, QQBotSimulator, DiscordSimulator)

REST = 8.0
"""Seconds a gateway rests before it is looked at."""


async def host(count: int) -> None:
    """Run so many simulators until standard input ends; prints their accounts."""
    async with contextlib.AsyncExitStack() as stack:
        tables = {}
        for number in range(count):
            simulator = KINDS[number % len(KINDS)]()
            make_own(simulator, number)
            await stack.enter_async_context(simulator)
            tables[f"bot{number}"] = simulator.account()
        print(json.dumps(tables), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def make_own(simulator: Simulator, number: int) -> None:
    """Each bot has an identity of its own: a gateway refuses two accounts with one."""
    match simulator:
        case TelegramSimulator():
            simulator.token = f"{1_000 + number}:{simulator.token.partition(':')[2]}"
        case DiscordSimulator():
            name = base64.b64encode(f"{1_000 + number}".encode()).decode().rstrip("=")
            simulator.token = f"{name}.{simulator.token.partition('.')[2]}"
        case QQBotSimulator():
            simulator.app_id = str(102_000_001 + number)


async def rest(directory: Path, tables: dict[str, Any]) -> Footprint:
    """A gateway with these accounts connected, after a while with nothing to do."""
    async with gateway(directory, tables, limit=120.0) as pid:
        await asyncio.sleep(REST)
        return Footprint.of(pid)


async def measure(accounts: int) -> dict[str, Any]:
    """One account and many, side by side."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.accounts", "--host", str(accounts)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        tables = json.loads(await process.stdout.readline())
        with tempfile.TemporaryDirectory() as name:
            few = dict(list(tables.items())[: len(KINDS)])
            small = await rest(Path(name) / "few", few)
            large = await rest(Path(name) / "many", tables)
    finally:
        process.stdin.close()
        await process.wait()
    each = (large.rss - small.rss) / (accounts - len(KINDS))
    return {
        "few": {"accounts": len(KINDS)} | small.report(),
        "many": {"accounts": accounts} | large.report(),
        "rss_mib_per_account": round(each, 3),
        "target_mib": TARGET,
        "within_target": each < TARGET,
    }


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=60, help="how many in the large gateway")
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        asyncio.run(host(options.host))
    else:
        print(json.dumps(asyncio.run(measure(options.accounts)), indent=2))


if __name__ == "__main__":
    main()
