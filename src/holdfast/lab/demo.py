"""`holdfast demo`: simulated platforms, a real gateway, users who chat, and cables being pulled.

Nothing is needed but this machine: no account, no network. What is shown is measured by the
stages, which see only what users see and what the gateway publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json as jsonlib
import logging
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.adapters import BUILT_IN
from holdfast.config import Config, WebSettings, build
from holdfast.gateway.gateway import Gateway
from holdfast.lab.cabled_hooks import CabledHooks
from holdfast.lab.cast import CAST, Part
from holdfast.lab.play import Demo
from holdfast.lab.show import show
from holdfast.lab.stage import Stage
from holdfast.observe.history import FILE_NAME, History
from holdfast.store.protocol import Store
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Report
from holdfast.web.cable_api import CableApi
from holdfast.web.server import HttpServer

POLICY = {"stable_after": 3.0, "quick_life": 1.0}
"""The demo's faults come seconds apart instead of days: so must the proof of stability."""


@contextlib.asynccontextmanager
async def demo(
    cast: Mapping[str, Part] = CAST, make: Callable[[Config, Store], Gateway] = Gateway
) -> AsyncIterator[Demo]:
    """Everything the demo needs, on embedded defaults, gone when the context ends.

    Platforms whose library is missing are left out, see `Demo.left_out`.
    """
    parts = {name: cast[name] for name in BUILT_IN if name in cast}
    missing = {name: part.missing() for name, part in parts.items()}
    playing = {name: part for name, part in parts.items() if missing[name] is None}
    async with contextlib.AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-demo-")))
        stages: dict[str, Stage] = {}
        for name, part in playing.items():
            stages[name] = await stack.enter_async_context(part.stage(name))
            await part.meet(stages[name])
        config = _configured(home, stages)
        config.state_dir.mkdir()
        store = await SqliteStore.open(config.state_dir / "journal.db")
        gateway = make(config, store)
        gateway.hooks = await _hooks(stages)
        await gateway.start()
        try:
            yield Demo(gateway, stages, {n: why for n, why in missing.items() if why is not None})
        finally:
            await gateway.stop()


def _configured(home: Path, stages: Mapping[str, Stage]) -> Config:
    """One account per stage, named like it."""
    tables = {name: {**stage.account(), "policy": POLICY} for name, stage in stages.items()}
    gateway: dict[str, Any] = {}
    if "whatsapp" in stages:  # the one platform that is asked whether it calls us, and where
        gateway["hook_url"] = stages["whatsapp"].cable.hook_url
    config = build({"accounts": tables, "gateway": gateway}, home / "holdfast.toml")
    for name, stage in stages.items():
        stage.replays = config.accounts[name].adapter.traits.replays
    return config


async def _hooks(stages: Mapping[str, Stage]) -> CabledHooks:
    """The gateway's web hook server, listening, with every cable led to it."""
    hooks = CabledHooks("127.0.0.1", 0)
    await hooks.start()
    for stage in stages.values():
        stage.cable.lead_hooks(hooks.port)
    if "webchat" in stages:  # the one adapter that visits its own page, as others do
        hooks.cable = stages["webchat"].cable
    return hooks


def main(seconds: float | None, json: bool, port: int) -> int:
    """Run the demo; 0 only if all was healed and nothing was lost, doubled or lied about.

    ``seconds=None`` plays until Ctrl-C, which ends the play in order; a second one raises
    KeyboardInterrupt. ``port`` is where the HTTP server listens on loopback,
    0 for any free port.
    """
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    try:
        play = asyncio.run(_run(seconds, json, port))
    except OSError as error:
        print(f"holdfast: the demo can not listen on port {port}: {error}", file=sys.stderr)
        return 1
    return report(play, json)


def report(play: Demo, json: bool) -> int:
    """Print what a play showed; the exit code."""
    verdicts = play.verdicts()
    if json:
        accounts = [asdict(verdict) for verdict in verdicts]
        print(jsonlib.dumps({"accounts": accounts, "left_out": play.left_out}))
    else:
        print(play.conclusion())
    return 0 if all(verdict.good for verdict in verdicts) else 1


async def _run(seconds: float | None, json: bool, port: int) -> Demo:
    async with demo() as play, served(play, port) as url:
        for name, why in play.left_out.items():
            print(f"{name} is left out: {why}", file=sys.stderr)
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.remove_signal_handler(signal.SIGINT)  # the next one is Python's own
            play.end()

        loop.add_signal_handler(signal.SIGINT, end)
        showing = asyncio.create_task(show(play, url)) if not json else None
        try:
            await play.play(seconds)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if showing is not None:
                showing.cancel()
                await asyncio.wait([showing])
        return play


@contextlib.asynccontextmanager
async def served(play: Demo, port: int = 0) -> AsyncIterator[str]:
    """The dashboard and the API while the demo runs; gives its URL. Raises OSError."""
    gateway = play.gateway
    history = History(gateway.config.state_dir / FILE_NAME)
    settings = WebSettings(listen=f"127.0.0.1:{port}")
    server = HttpServer(gateway, history, [CableApi(play)], settings=settings)
    await history.start()
    try:
        for name, desk in gateway.desks.items():  # they have reported before it was there
            history.report(name, Report(desk.account.view(), "start"))
        gateway.listeners.append(history.report)
        await server.start()
        if not server.port:
            raise OSError(errno.EADDRINUSE, f"{settings.listen} can not be had")
        yield server.url
    finally:
        await server.stop()
        await history.stop()
