"""The virtual clock itself."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from holdfast.testing import VirtualTimeLoop, run_virtual


def test_hours_take_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(7_200)
        return loop.time() - before

    real = time.monotonic()
    assert run_virtual(main()) == 7_200
    assert time.monotonic() - real < 5


async def test_real_sockets_are_served_before_the_clock_moves() -> None:
    loop = asyncio.get_running_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    before = loop.time()
    async with asyncio.timeout(0.5):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
    assert loop.time() == before
    writer.close()
    server.close()


async def test_a_working_thread_holds_the_clock() -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    loop.call_soon(lambda: threading.Timer(0.05, release.set).start())
    async with asyncio.timeout(0.01):
        await loop.run_in_executor(None, release.wait, 5)


def test_a_spinning_loop_is_stopped() -> None:
    async def main() -> None:
        for _ in range(10_000):
            await asyncio.sleep(0.001)

    loop = VirtualTimeLoop(max_jumps=100)
    with pytest.raises(RuntimeError, match="spin"):
        loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.close()
