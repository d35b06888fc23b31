"""T3: a connect to a full backlog hangs, on both address families, and only there."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from holdfast.lab.faults.backlog import FullBacklog, has_v6

HOSTS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_v6(), reason="no ::1"))]


@pytest.mark.parametrize("host", HOSTS)
async def test_connect_hangs_until_the_callers_own_limit(host: str) -> None:
    loop = asyncio.get_running_loop()
    with FullBacklog(host) as full:
        for _ in range(2):
            before = loop.time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await asyncio.open_connection(full.host, full.port)
            assert loop.time() - before == pytest.approx(30)


async def test_once_closed_the_port_refuses() -> None:
    with FullBacklog() as full:
        port = full.port
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_chosen_port_is_used_and_nothing_leaks_when_it_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        full = FullBacklog(port=port)
        with pytest.raises(OSError) as caught:
            full.start()
        assert caught.value.errno == errno.EADDRINUSE
    with full:
        assert full.port == port
