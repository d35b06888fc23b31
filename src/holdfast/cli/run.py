"""`holdfast run`: the gateway in the foreground, from the configuration to the last commit."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from holdfast.cli import logs
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.cli.journal import JOURNAL
from holdfast.config import Config, check_state_dir, load
from holdfast.errors import ConfigError, StoreError
from holdfast.gateway import garbage
from holdfast.gateway.claims import Claims
from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import FILE_NAME, History
from holdfast.store.journal import open_journal
from holdfast.store.protocol import Store
from holdfast.web.api import reload
from holdfast.web.control_server import ControlServer
from holdfast.web.server import HttpServer

__all__ = ["JOURNAL", "STOP_LIMIT", "Signals", "run", "serve"]

log = logging.getLogger("holdfast.run")

STOP_LIMIT = 5.0
"""Seconds after the first signal in which the process is gone, whatever an agent does."""


def run(args: argparse.Namespace) -> int:
    """``holdfast run``."""
    redaction = logs.set_up(args.log_level, args.log_format)
    factory = None if args.no_uvloop else _uvloop()
    runner = asyncio.Runner(loop_factory=factory)
    try:
        return runner.run(serve(args.config, redaction))
    except SystemExit as leaving:
        # From a task that an agent has made, which nothing can hold back. Its code is not ours:
        # 78 would keep systemd from starting the gateway again.
        log.error("asked to leave by foreign code error=%r", leaving, exc_info=leaving)
        return Exit.FAILED
    finally:
        _close(runner)


def _close(runner: asyncio.Runner) -> None:
    """Close the loop if that can be done: how the gateway has ended is no longer at stake."""
    try:
        runner.close()
    except (OSError, RuntimeError) as error:
        # uvloop runs a last time for that, with a pair of sockets of its own. Where no descriptor
        # is free it says only that it runs; why is the error before. The process's end closes all.
        log.warning("event loop not closed error=%r", error.__context__ or error)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop, when it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(path: Path, redaction: logs.Redaction) -> Exit:
    """Run the gateway until a signal ends it.

    Raises ConfigError, StoreError, or CommandFailed when the control socket can not be made.
    """
    signals = Signals(asyncio.get_running_loop())
    try:
        config = _read(path, redaction)
        _warn(config.warnings)
        check_state_dir(config.state_dir, f"{path}: [gateway] state_dir")
        store = await open_journal(
            config.state_dir / JOURNAL, config.accounts, retention=config.gateway.retention
        )
        history = History(config.state_dir / FILE_NAME)
        gateway = await _start(config, store, history, partial(_read, redaction=redaction))
        server = ControlServer(gateway, history)
        pages = HttpServer(gateway, history)
        signals.reload = partial(_reload, gateway)
        try:
            await _listen(server)
            await pages.start()
            garbage.settle()
            log.info("started accounts=%d pid=%d", len(gateway.desks), os.getpid())
            await signals.stop.wait()
            log.info("stopping")
        finally:
            await asyncio.gather(server.stop(), pages.stop(), gateway.stop())
            await history.stop()  # last, as it is told that the accounts have stopped
        log.info("stopped")
    finally:
        signals.release()
    return Exit.OK


async def _start(
    config: Config, store: Store, history: History, read: Callable[[Path], Config]
) -> Gateway:
    gateway = Gateway(config, store, claims=Claims(), read=read)
    await history.start()
    gateway.listeners.append(history.report)
    try:
        await gateway.start()
    except ConfigError:
        # Nothing was started; the last status of the former gateway stays as it is.
        await history.stop()
        await store.close()
        raise
    except BaseException:
        await gateway.stop()
        await history.stop()
        raise
    return gateway


async def _listen(server: ControlServer) -> None:
    try:
        await server.start()
    except OSError as error:
        raise CommandFailed(
            f"the control socket {server.path} can not be made: {error.strerror}",
            "the state directory must be on a local disk and writable for this user",
        ) from None


def _read(path: Path, redaction: logs.Redaction) -> Config:
    """The configuration, whose secrets no log line may hold from now on."""
    config = load(path)
    redaction.hide(config)
    return config


async def _reload(gateway: Gateway) -> None:
    """What SIGHUP asks for; nobody waits for the answer but the log."""
    try:
        reloaded = await reload(gateway)
    except ConfigError as error:
        log.error("reload refused, nothing was changed: %s", error)
        return
    except StoreError as error:
        log.error("reload failed: %s", error)
        return
    log.info("reloaded changes=%d", len(reloaded.done))
    for line in reloaded.done:
        log.info("reload %s", line)
    _warn(reloaded.warnings)


def _warn(warnings: tuple[str, ...] | list[str]) -> None:
    for warning in warnings:
        log.warning("configuration %s", warning)


class Signals:
    """Signals of the running gateway. SIGTERM and SIGINT set ``stop``; SIGHUP reloads.

    Handlers are Python's, not the loop's: they run even while an agent blocks the loop, so that
    the process ends `STOP_LIMIT` seconds after the first signal, and at once after the second.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float = STOP_LIMIT) -> None:
        self.stop = asyncio.Event()
        self.reload: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What SIGHUP starts; until it is set, SIGHUP does nothing."""
        self._loop = loop
        self._reloads: set[asyncio.Task[None]] = set()
        self._deadline = threading.Timer(limit, _leave, [f"not stopped within {limit:g} s"])
        self._deadline.daemon = True
        self._asked = False
        handlers = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGHUP: self._on_reload,
        }
        self._before = {number: signal.signal(number, h) for number, h in handlers.items()}

    def release(self) -> None:
        """Give the signals back and forget the deadline."""
        self._deadline.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            _leave("a second signal")
        self._asked = True
        self._deadline.start()
        self._loop.call_soon_threadsafe(self.stop.set)

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._start_reload)

    def _start_reload(self) -> None:
        if self.reload is not None:
            task = asyncio.create_task(self.reload(), name="reload")
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)


def _leave(why: str) -> NoReturn:
    """End the process now. The journal stands it: every commit is durable."""
    os.write(2, f"holdfast: left at once: {why}\n".encode())
    os._exit(Exit.FAILED)
