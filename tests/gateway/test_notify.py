"""sd_notify(3) on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.gateway.notify import ServiceManager
from holdfast.supervision import Published
from tests.gateway.house import house, parrot, reach
from tests.gateway.parrot import Aviary


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.setblocking(False)
        yield sock


def said(sock: socket.socket) -> list[str]:
    """All datagrams so far."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(4_096).decode())
    return found


@pytest.mark.parametrize("abstract", [False, True])
def test_datagrams_arrive(abstract: bool, tmp_path: Path) -> None:
    name = f"holdfast-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager("\0" + name if abstract else name) as sock:
        service = ServiceManager({"NOTIFY_SOCKET": ("@" if abstract else "") + name})
        assert service.send("READY=1", "STATUS=well")
        assert said(sock) == ["READY=1\nSTATUS=well"]


def test_without_a_manager_nothing_is_sent_and_nothing_fails(tmp_path: Path) -> None:
    assert not ServiceManager({}).send("READY=1")
    assert not ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).send("READY=1")


@pytest.mark.parametrize(
    ("env", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_interval_is_half_of_what_the_manager_demands(
    env: dict[str, str], interval: float | None
) -> None:
    assert ServiceManager(env).interval == interval


async def test_a_gateway_is_ready_lives_and_stops(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"}
    with manager(address) as sock:
        async with Aviary() as aviary:
            service = ServiceManager(env)
            async with house(tmp_path, parrot("bot", aviary.url), service=service) as gateway:
                first = said(sock)
                assert [line for line in first if line.startswith("READY=1\nSTATUS=")]
                await reach(gateway, "bot", Published.CONNECTED)
                await asyncio.sleep(50.5)
                fed = [line for line in said(sock) if line.startswith("WATCHDOG=1")]
                assert 9 <= len(fed) <= 12
                assert fed[-1] == "WATCHDOG=1\nSTATUS=1 connected"
            assert said(sock)[-1] == "STOPPING=1"


async def test_the_manager_hears_nothing_while_a_deadline_is_overdue(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
    with manager(address) as sock:
        async with Aviary() as aviary:
            service = ServiceManager(env)
            async with house(tmp_path, parrot("bot", aviary.url), service=service) as gateway:
                await reach(gateway, "bot", Published.CONNECTED)
                account = gateway.desk("bot").account
                # As if the shell were broken: its one timer is lost.
                assert account._timer is not None
                account._timer.cancel()
                deadline = account.supervisor.next_deadline()
                assert deadline is not None
                loop = asyncio.get_running_loop()
                await asyncio.sleep(deadline - loop.time() + 4)
                assert gateway.on_time()
                said(sock)
                await asyncio.sleep(30)
                assert not gateway.on_time()
                assert len([line for line in said(sock) if "WATCHDOG" in line]) <= 2
