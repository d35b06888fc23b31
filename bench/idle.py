"""What a gateway costs that has nothing to do: memory, CPU at rest, imports.

    python -m bench.idle [--seconds 8] > idle.json

`holdfast run` keeps one account on each simulated platform, all simulators in processes of their
own. Beside it, in the same run, the floors: a bare interpreter, and one that has only imported what
a gateway can not do without (aiohttp, msgspec, sqlite3) and waits in a loop. Memory is MiB, times
are seconds of CPU. PSS counts pages shared with other processes in part, RSS in full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from holdfast.lab.faults.process import Child
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.observe.status import read

RSS_TARGET = 60.0
"""MiB: a gateway with three accounts and no web extra."""

IMPORT_TARGET = 0.15
"""Seconds of CPU for ``import holdfast``."""

RUNS = 7
"""Of each command; the median counts."""

CONNECT_LIMIT = 20.0
"""Seconds in which three accounts connect to simulators on loopback."""

SIMULATORS: tuple[type[Simulator], ...] = (TelegramSimulator, QQBotSimulator, MatrixSimulator)

BARE = "import sys; print('{}', flush=True); sys.stdin.read()"

LIBRARIES = """
import aiohttp, asyncio, msgspec, sqlite3, sys
async def main():
    print("{}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


# -- memory at rest -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds, in MiB, and the CPU seconds it has spent."""

    rss: float
    pss: float
    cpu: float

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Read it from ``/proc``."""
        rollup = _table(Path(f"/proc/{pid}/smaps_rollup"))
        # The clock of a process, as MAKE_PROCESS_CPUCLOCK in Linux's posix-timers.h makes its id:
        # to the nanosecond, with the threads that have ended.
        cpu = time.clock_gettime(~pid << 3 | 2)
        return cls(rollup["Rss"] / 1024, rollup["Pss"] / 1024, cpu)

    def report(self) -> dict[str, float]:
        """For people: the memory alone."""
        return {"rss_mib": round(self.rss, 1), "pss_mib": round(self.pss, 1)}


def _table(path: Path) -> dict[str, int]:
    """``Name: number kB`` lines of a file under ``/proc``."""
    lines = (line.split() for line in path.read_text().splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) for words in lines}


async def floor(code: str) -> Footprint:
    """An interpreter that runs ``code``, which says that it is ready and waits for its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    await process.stdout.readline()
    found = Footprint.of(process.pid)
    process.stdin.close()
    await process.wait()
    return found


async def idle(directory: Path, seconds: float, *options: str) -> dict[str, Any]:
    """The gateway, after so many seconds with nothing to do."""
    async with contextlib.AsyncExitStack() as stack:
        tables = {
            kind.platform: await stack.enter_async_context(_away(kind)) for kind in SIMULATORS
        }
        pid = await stack.enter_async_context(gateway(directory, tables, *options))
        first = Footprint.of(pid)
        await asyncio.sleep(seconds)
        last = Footprint.of(pid)
    share = (last.cpu - first.cpu) / seconds * 100
    return last.report() | {"idle_cpu_percent": round(share, 3), "start_cpu_s": round(first.cpu, 3)}


@contextlib.asynccontextmanager
async def _away(kind: type[Simulator]) -> AsyncIterator[dict[str, Any]]:
    """A simulator in a process of its own; the account of its bot."""
    async with Child.module(kind.__module__) as child:
        account = kind(port=int(child.ready["url"].rpartition(":")[2])).account()
        if kind is MatrixSimulator:
            # Its token is drawn at random, over there.
            account["password"] = MatrixSimulator.password
            del account["access_token"]
        yield account


@contextlib.asynccontextmanager
async def gateway(
    directory: Path,
    tables: Mapping[str, Mapping[str, Any]],
    *options: str,
    limit: float = CONNECT_LIMIT,
) -> AsyncIterator[int]:
    """``holdfast run`` with every account connected, within so many seconds; its process id."""
    process = await asyncio.create_subprocess_exec(
        *_run(directory, tables, *options), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _connected(directory, process.pid, len(tables), limit)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _run(directory: Path, tables: Mapping[str, Mapping[str, Any]], *options: str) -> list[str]:
    """Write the configuration; the command that runs it."""
    directory.mkdir()
    config = directory / "holdfast.toml"
    lines = [
        f"[accounts.{name}]\n" + "".join(f"{key} = {json.dumps(table[key])}\n" for key in table)
        for name, table in tables.items()
    ]
    config.write_text("".join(lines))
    return [sys.executable, "-m", "holdfast.cli", "--config", str(config), "run", *options]


async def _connected(directory: Path, pid: int, accounts: int, limit: float) -> None:
    async with asyncio.timeout(limit):
        while True:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                status = read(directory / "state" / "gateway_state.json")
                states = [account.state for account in status.accounts.values()]
                if status.pid == pid and states == ["connected"] * accounts:
                    return
            await asyncio.sleep(0.05)


# -- imports --------------------------------------------------------------------------------------


def cpu(*arguments: str) -> float:
    """Median seconds of CPU, user and system, of this interpreter with these arguments."""
    return statistics.median(_cpu_once(arguments) for _ in range(RUNS))


def _cpu_once(arguments: Iterable[str]) -> float:
    with Path(os.devnull).open("wb") as nowhere:
        out = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        argv = [sys.executable, *arguments]
        pid = os.posix_spawn(sys.executable, argv, os.environ, file_actions=out)
        _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, argv
    return usage.ru_utime + usage.ru_stime


async def imported(directory: Path) -> set[str]:
    """Every module that `holdfast run` has imported once its Telegram account is connected."""
    async with _away(TelegramSimulator) as account:
        argv = _run(directory, {"telegram": account})
        process = await asyncio.create_subprocess_exec(
            *(argv[0], "-v", *argv[1:]), stderr=asyncio.subprocess.PIPE
        )
        draining = asyncio.create_task(process.communicate())
        try:
            await _connected(directory, process.pid, 1, CONNECT_LIMIT)
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = await draining
    # Not -X importtime: that leaves out what importlib.import_module loads, such as adapters.
    return set(re.findall(r"^import '([\w.]+)' #", log.decode(errors="replace"), re.MULTILINE))


TELEGRAM = {"telegram", "telegram_api"}
"""The files of the one adapter that such a configuration names."""

UNWANTED = ("holdfast.lab", "holdfast.testing", "cryptography", "rich")
"""What a gateway of a Telegram account alone has no use for."""


def luxuries(modules: set[str]) -> dict[str, list[str]]:
    """The adapters among imported modules, and what should not be among them.

    Raises AssertionError for an adapter that no configuration named.
    """
    adapters = {name.split(".")[2] for name in modules if name.startswith("holdfast.adapters.")}
    if not adapters <= TELEGRAM:
        raise AssertionError(f"imported though not configured: {adapters - TELEGRAM}")
    unwanted = {u for u in UNWANTED for name in modules if name == u or name.startswith(u + ".")}
    return {"adapters": sorted(adapters), "unwanted": sorted(unwanted)}


# -- the report -----------------------------------------------------------------------------------


def imports() -> dict[str, Any]:
    """CPU of the commands that people and programs wait for."""
    nothing = cpu("-c", "pass")
    costs = {
        "python": nothing,
        "import_holdfast": cpu("-c", "import holdfast"),
        "import_holdfast_cli": cpu("-c", "import holdfast.cli"),
        "import_gateway": cpu("-c", "import holdfast.gateway.gateway"),
        "import_libraries": cpu("-c", "import aiohttp, asyncio, msgspec, sqlite3"),
        "holdfast_help": cpu("-m", "holdfast.cli", "--help"),
    }
    return {
        "cpu_s": {name: round(cost, 4) for name, cost in costs.items()},
        "to_python": {name: round(cost / nothing, 2) for name, cost in costs.items()},
        "target_cpu_s": IMPORT_TARGET,
        "within_target": costs["import_holdfast"] < IMPORT_TARGET,
    }


async def memory(directory: Path, seconds: float) -> dict[str, Any]:
    """The gateway beside its floors."""
    bare, libraries = await floor(BARE), await floor(LIBRARIES)
    gateway = await idle(directory / "uvloop", seconds)
    asyncio_only = await idle(directory / "asyncio", seconds, "--no-uvloop")
    return {
        "python": bare.report(),
        "libraries": libraries.report(),
        "gateway": gateway,
        "gateway_without_uvloop": asyncio_only,
        "gateway_to_libraries": round(asyncio_only["rss_mib"] / libraries.rss, 2),
        "target_rss_mib": RSS_TARGET,
        "within_target": max(gateway["rss_mib"], asyncio_only["rss_mib"]) < RSS_TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the gateway rests")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        modules = asyncio.run(imported(directory / "imports"))
        report = {
            "python": sys.version.split()[0],
            "accounts": [kind.platform for kind in SIMULATORS],
            "memory": asyncio.run(memory(directory, options.seconds)),
            "imports": imports(),
            "telegram_only": luxuries(modules) | {"modules": len(modules)},
            "seconds": round(time.monotonic() - began, 1),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
