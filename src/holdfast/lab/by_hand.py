"""A simulator as a process: people speak on standard input, what they hear is printed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from holdfast.lab.cast import CAST
from holdfast.lab.simulator import Simulator

HOOKS: Final = "http://127.0.0.1:8070"
"""Where a gateway serves web hooks unless it is told otherwise (``hook_listen``)."""

EPILOG = """\
Prints a line of JSON with the configuration of an account. A line "ann: hello" on standard input
makes ann write to the bot; what people hear is printed, a line of JSON each. Ctrl-C ends it.
"""


def run(kind: type[Simulator]) -> None:
    """Serve until SIGTERM or SIGINT; a port that can not be had ends it with exit code 1."""
    parser = argparse.ArgumentParser(
        f"python -m holdfast.lab.simulators.{kind.platform}",
        description=f"A simulation of {kind.platform} on this machine.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--port", type=_port, default=0, metavar="P", help="where to listen (default: any)"
    )
    parser.add_argument(
        "--hooks",
        default=HOOKS,
        metavar="URL",
        help="where the gateway is, if the platform comes to it (default: %(default)s)",
    )
    options = parser.parse_args()
    asyncio.run(_serve(kind(port=options.port), options.hooks))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


async def _serve(sim: Simulator, hooks: str) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await sim.start()
    except OSError as error:
        await sim.stop()
        sys.exit(f"can not listen on {sim.host}:{sim.port}: {os.strerror(error.errno or 0)}")
    try:
        if (introduce := CAST[sim.platform].introduce) is not None:
            introduce(sim, hooks)
        print(
            json.dumps({"url": sim.url, "pid": os.getpid(), "account": sim.account()}), flush=True
        )
        telling = asyncio.create_task(_tell(sim), name="tell what is heard")
        telling.add_done_callback(lambda _: stop.set())
        _listen(lambda line: loop.call_soon_threadsafe(_say, sim, line))
        await stop.wait()
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
    finally:
        await sim.stop()


async def _tell(sim: Simulator) -> None:
    told = 0

    def news() -> bool:
        return len(sim.heard) > told

    while True:
        await sim.until(news, timeout=None)
        print(json.dumps(sim.heard[told].document()), flush=True)
        told += 1


def _say(sim: Simulator, line: str) -> None:
    name, _, text = (part.strip() for part in line.partition(":"))
    if name and text:
        sim.say(text, chat=name, sender=name)
    elif line.strip():
        print(f"who says it? Write NAME: TEXT, not {line.strip()!r}", file=sys.stderr)


def _listen(said: Callable[[str], object]) -> None:
    """Hand on each line of standard input, from a thread of its own.

    The loop can watch neither files nor /dev/null. What is read is not buffered: a thread that
    held a buffer would be in the way of the interpreter's end.
    """

    def read() -> None:
        # No terminal, or no loop any more.
        with contextlib.suppress(OSError, RuntimeError):
            for line in open(sys.stdin.fileno(), "rb", buffering=0, closefd=False):
                said(line.decode(errors="replace"))

    if sys.stdin is not None:
        # In the background a terminal can not be read, which must not halt the platform.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        threading.Thread(target=read, name="standard input", daemon=True).start()
