"""`holdfast demo`: simulated platforms, a real gateway, users who chat, and cables being pulled.

Nothing is needed but this machine: no account, no network. What is shown is measured by the
stages, which see only what users see and what the gateway publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as jsonlib
import logging
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

from aiohttp import web

from holdfast.config import build
from holdfast.gateway.gateway import Gateway
from holdfast.lab.play import Demo
from holdfast.lab.show import show
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage, Verdict
from holdfast.store.sqlite import SqliteStore
from holdfast.web.api import PREFIX, Api

POLICY = {"stable_after": 3.0, "quick_life": 1.0}
"""The demo's faults come seconds apart instead of days: so must the proof of stability."""


STAGES = {
    "telegram": TelegramSimulator,
    "qqbot": QQBotSimulator,
    "matrix": MatrixSimulator,
}


@contextlib.asynccontextmanager
async def demo() -> AsyncIterator[Demo]:
    """Everything the demo needs, on embedded defaults, gone when the context ends."""
    async with contextlib.AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-demo-")))
        stages = {
            name: await stack.enter_async_context(Stage(name, simulator()))
            for name, simulator in STAGES.items()
        }
        config = build(
            {
                "accounts": {
                    name: {**stage.account(), "policy": POLICY} for name, stage in stages.items()
                }
            },
            home / "holdfast.toml",
        )
        config.state_dir.mkdir()
        store = await SqliteStore.open(config.state_dir / "journal.db")
        gateway = Gateway(config, store)
        await gateway.start()
        try:
            yield Demo(gateway, stages)
        finally:
            await gateway.stop()


def main(seconds: float | None, json: bool, port: int) -> int:
    """Run the demo; 0 only if nothing was lost, doubled or lied about.

    ``seconds=None`` plays until Ctrl-C. ``port`` is where the control API listens on loopback,
    0 for any free port.
    """
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    try:
        verdicts = asyncio.run(_run(seconds, json, port))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"holdfast: the demo can not listen on port {port}: {error}", file=sys.stderr)
        return 1
    if json:
        accounts = [asdict(verdict) for verdict in verdicts]
        print(jsonlib.dumps({"accounts": accounts}))
    return 0 if all(verdict.good for verdict in verdicts) else 1


async def _run(seconds: float | None, json: bool, port: int) -> list[Verdict]:
    async with demo() as play, _served(play.gateway, port) as url:
        showing = asyncio.create_task(show(play, url)) if not json else None
        try:
            await play.play(seconds)
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.wait([showing])
        return play.verdicts()


@contextlib.asynccontextmanager
async def _served(gateway: Gateway, port: int) -> AsyncIterator[str]:
    """The control API on loopback while the demo runs; gives its URL. Raises OSError."""
    app = web.Application()
    Api(gateway).add_to(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{PREFIX}/status"
    finally:
        await runner.cleanup()
