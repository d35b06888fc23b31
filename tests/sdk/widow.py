"""A program that supervises an SDK in a process of its own, to be killed by a test.

Says ``sdk PID`` and, with ``--helper``, ``helper PID``: a process of its own that outlives it and
holds all its descriptors but the standard ones.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from holdfast.sdk import Life, supervise


def start(life: Life) -> None:
    """An SDK that never asks how its supervisor is."""
    print("sdk", os.getpid(), flush=True)
    life.ready()
    time.sleep(60)


def leave_a_helper() -> None:
    """Fork, as some libraries do."""
    helper = os.fork()
    if helper == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(60)
        os._exit(0)
    print("helper", helper, flush=True)


async def main() -> None:
    """Supervise until killed."""
    async with supervise("sdk", start, isolation="process") as bot:
        await bot.until(lambda view: view.published == "connected")
        if "--helper" in sys.argv:
            leave_a_helper()
        print("up", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
