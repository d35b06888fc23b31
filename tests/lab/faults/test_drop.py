"""T4: packets vanish without a word, are refused or arrive, on a wire with two kernels' ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.lab.faults.drop import Side, Wire, WireError, available
from holdfast.lab.faults.process import Child


@pytest.fixture(scope="module")
def namespaces_allowed() -> None:
    here = available()
    if not here:
        pytest.skip(here.reason)


PORT = 7000

BRIEFLY = 0.3
"""Seconds after which silence is taken as proven; a retransmission comes after 0.2."""

SERVER = """
    import socket, sys
    server = socket.create_server((sys.argv[1], int(sys.argv[2])))
    print("{}", flush=True)
    while True:
        peer, _ = server.accept()
        try:
            while data := peer.recv(1000):
                peer.sendall(data)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
"""

CLIENT = """
    import json, socket, sys
    print("{}", flush=True)
    address, sock = (sys.argv[1], int(sys.argv[2])), None
    for line in sys.stdin:
        word, patience = line.split()
        try:
            if word == "connect":
                sock = socket.create_connection(address, timeout=float(patience))
            else:
                sock.settimeout(float(patience))
                sock.sendall(line.encode())
                sock.recv(1000)
            print("ok", flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
"""


class Client:
    """A client in the wire's other namespace that does one thing at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def does(self, what: str, patience: float = 5.0) -> str:
        """``connect`` or a word to be echoed; returns ``ok`` or the exception's name."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{what} {patience}\n".encode())
        async with asyncio.timeout(10):
            return (await stdout.readline()).decode().strip()


@asynccontextmanager
async def bench() -> AsyncIterator[tuple[Wire, Client]]:
    with Wire() as wire:
        where = [wire.server_address, str(PORT)]
        serve = [sys.executable, "-c", textwrap.dedent(SERVER), *where]
        ask = [sys.executable, "-c", textwrap.dedent(CLIENT), *where]
        async with Child(wire.inside(Side.SERVER, serve)):
            process = await asyncio.create_subprocess_exec(
                *wire.inside(Side.CLIENT, ask), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            client = Client(process)
            try:
                assert await client.does("connect") == "{}"
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ok\n"
                yield wire, client
            finally:
                process.kill()
                await process.communicate()


@pytest.mark.real
@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.usefixtures("namespaces_allowed")
class TestWire:
    async def test_drop_is_silent_and_heal_lets_retransmissions_through(self) -> None:
        async with bench() as (wire, client):
            assert await client.does("one") == "ok"
            wire.drop(PORT)
            assert await client.does("two", BRIEFLY) == "TimeoutError"
            assert await client.does("connect", BRIEFLY) == "TimeoutError"
            wire.heal()
            assert await client.does("three") == "ok"

    async def test_another_port_is_not_dropped(self) -> None:
        async with bench() as (wire, client):
            wire.drop(PORT + 1)
            assert await client.does("one") == "ok"
            wire.drop()
            assert await client.does("two", BRIEFLY) == "TimeoutError"

    async def test_reject_resets_the_living_and_refuses_the_new(self) -> None:
        async with bench() as (wire, client):
            wire.reject_rst(PORT)
            assert await client.does("one") == "ConnectionResetError"
            assert await client.does("connect") == "ConnectionRefusedError"
            wire.heal()
            assert await client.does("connect") == "ok"

    async def test_a_link_goes_down_and_up(self) -> None:
        async with bench() as (wire, client):
            wire.link_down()
            assert await client.does("one", BRIEFLY) == "TimeoutError"
            wire.link_up()
            assert await client.does("two") == "ok"

    async def test_nothing_is_left(self) -> None:
        with Wire() as wire:
            names = {word for side in Side for word in wire.inside(side, []) if "holdfast" in word}
            assert names <= namespaces()
        assert not names & namespaces()

    async def test_a_failed_command_says_what_it_was(self) -> None:
        with pytest.raises(WireError, match=r"ip -n holdfast-\S+-server link set wire0 down: "):
            Wire().link_down()


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def test_availability_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not available()
    assert "Linux" in available().reason
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert available().reason == "network namespaces need root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert available().reason == "not installed: ip, nft"
