"""T13: an event loop that is blocked, on a real clock or on a virtual one."""

from __future__ import annotations

import asyncio
import enum
import time

from holdfast.testing import VirtualTimeLoop


class How(enum.Enum):
    """What keeps the loop from running."""

    SLEEP = "sleep"
    """A synchronous sleep: other threads run, as under blocking I/O."""
    BUSY = "busy"
    """A computation: other threads get the interpreter only now and then."""


def block(seconds: float, how: How = How.SLEEP) -> None:
    """Block the calling thread for at least ``seconds`` of real time."""
    if how is How.SLEEP:
        time.sleep(seconds)
        return
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def block_later(
    loop: asyncio.AbstractEventLoop, delay: float, seconds: float, how: How = How.SLEEP
) -> asyncio.TimerHandle:
    """Block ``loop`` for ``seconds``, ``delay`` seconds from now. Cancel the handle to spare it.

    On a VirtualTimeLoop the stall is virtual whatever ``how`` says: see `stall_virtual`.
    """
    if isinstance(loop, VirtualTimeLoop):
        return loop.call_later(delay, stall_virtual, loop, seconds)
    return loop.call_later(delay, block, seconds, how)


def stall_virtual(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Jump the clock of a VirtualTimeLoop as if a callback had held the loop for ``seconds``.

    Call it from within the loop. Everything that became due meanwhile runs afterwards, late, in
    the order of its deadlines. Raises TypeError for a loop on a real clock.
    """
    if not isinstance(loop, VirtualTimeLoop):
        raise TypeError("stall_virtual needs a VirtualTimeLoop; use block on a real clock")
    loop.jump(seconds)
