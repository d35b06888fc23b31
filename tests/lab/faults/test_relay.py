"""T1: every mode of the relay injects what its name says, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast.lab.faults.relay import Mode, Relay
from holdfast.lab.faults.splice import LIMIT


@dataclass
class Peer:
    """One side of a connection, with streams."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hears(self, data: bytes, within: float = 1.0) -> None:
        async with asyncio.timeout(within):
            assert await self.reader.readexactly(len(data)) == data

    async def hears_nothing(self, seconds: float = 60.0) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.reader.read(1)

    async def hears_eof(self) -> None:
        async with asyncio.timeout(1):
            assert await self.reader.read(1) == b""

    async def is_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(1):
                await self.reader.read(1)


@dataclass
class Server:
    """Collects the connections it accepts."""

    port: int = 0
    peers: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    opened: list[asyncio.StreamWriter] = field(default_factory=list)

    async def accept(self) -> Peer:
        async with asyncio.timeout(1):
            return await self.peers.get()


@dataclass
class Bench:
    """A relay in front of a server."""

    relay: Relay
    server: Server
    opened: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.relay.port)
        self.opened.append(writer)
        return Peer(reader, writer)

    async def pair(self) -> tuple[Peer, Peer]:
        return await self.connect(), await self.server.accept()


async def close_all(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    server = Server()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.opened.append(writer)
        await server.peers.put(Peer(reader, writer))

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with Relay("127.0.0.1", server.port) as relay:
        setup = Bench(relay, server)
        try:
            yield setup
        finally:
            await close_all(setup.opened)
            await close_all(server.opened)
            listener.close()


async def settle(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


async def test_pass_carries_both_ways_and_counts() -> None:
    async with bench() as b:
        client, server = await b.pair()
        await client.say(b"ping")
        await server.hears(b"ping")
        await server.say(b"pong!")
        await client.hears(b"pong!")
        assert b.relay.mode is Mode.PASS
        assert (b.relay.connections, b.relay.accepted) == (1, 1)
        assert (b.relay.to_server.delivered, b.relay.to_client.delivered) == (4, 5)
        assert (b.relay.to_server.lost, b.relay.to_client.lost) == (0, 0)


async def test_pass_carries_a_half_close_and_the_answer_to_it() -> None:
    async with bench() as b:
        client, server = await b.pair()
        client.writer.write_eof()
        await server.hears_eof()
        await server.say(b"last words")
        await client.hears(b"last words")
        server.writer.close()
        await client.hears_eof()
        await settle(lambda: b.relay.connections == 0)


async def test_pass_carries_a_reset() -> None:
    async with bench() as b:
        client, server = await b.pair()
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await server.is_reset()
        await settle(lambda: b.relay.connections == 0)


async def test_a_big_stream_arrives_whole_and_in_order() -> None:
    data = os.urandom(3_000_000)
    async with bench() as b:
        client, server = await b.pair()
        sending = asyncio.create_task(client.say(data))
        await server.hears(data, within=30)
        await sending


async def test_hole_loses_both_ways_and_closes_nothing() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.hole()
        await server.say(b"lost")
        await client.say(b"gone!")
        await asyncio.gather(client.hears_nothing(), server.hears_nothing())
        assert (b.relay.to_client.lost, b.relay.to_server.lost) == (4, 5)
        client.writer.close()
        await server.hears_nothing()
        assert b.relay.connections == 1


async def test_hole_accepts_megabytes_as_a_kernel_that_acknowledges() -> None:
    async with bench() as b:
        client, _ = await b.pair()
        b.relay.hole()
        async with asyncio.timeout(5):
            await client.say(bytes(8_000_000))
        await settle(lambda: b.relay.to_server.lost == 8_000_000)


async def test_hole_spares_new_connections_and_heal_resets_the_dead() -> None:
    async with bench() as b:
        dead, dead_server = await b.pair()
        b.relay.hole()
        fresh, fresh_server = await b.pair()
        await fresh.say(b"hello")
        await fresh_server.hears(b"hello")
        b.relay.heal()
        await dead.is_reset()
        await dead_server.is_reset()
        await fresh.say(b"still here")
        await fresh_server.hears(b"still here")


async def test_hole_for_new_connections_too() -> None:
    async with bench() as b:
        b.relay.hole(new=True)
        client, server = await b.pair()
        await client.say(b"hello")
        await server.hears_nothing()
        b.relay.heal()
        await client.is_reset()


async def test_pass_leaves_a_broken_stream_silent() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.hole()
        b.relay.pass_()
        await client.say(b"a stream with a hole in it must not go on")
        await server.hears_nothing()
        assert b.relay.connections == 1


async def test_hole_in_loses_only_what_the_server_says() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.hole_in()
        await client.say(b"heard")
        await server.hears(b"heard")
        await server.say(b"unheard")
        await client.hears_nothing()
        b.relay.heal()
        await client.is_reset()


async def test_stall_delivers_everything_late_and_in_order() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.stall()
        await client.say(b"one")
        await server.say(b"uno")
        await asyncio.gather(client.hears_nothing(), server.hears_nothing())
        b.relay.stall()
        await client.say(b"two")
        await server.hears_nothing()
        b.relay.heal()
        await server.hears(b"onetwo")
        await client.hears(b"uno")
        assert b.relay.to_server.lost == 0


async def test_stall_pushes_back_instead_of_buffering() -> None:
    async with bench() as b:
        client, _ = await b.pair()
        b.relay.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await client.say(bytes(32_000_000))


async def test_a_hole_after_a_stall_loses_what_was_stalled() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.stall()
        await client.say(b"waiting")
        await server.hears_nothing()
        b.relay.hole()
        await server.hears_nothing()
        assert b.relay.to_server.lost == len(b"waiting")


async def test_rst_strikes_once() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.rst()
        await client.is_reset()
        await server.is_reset()
        assert b.relay.mode is Mode.PASS
        client, server = await b.pair()
        await client.say(b"again")
        await server.hears(b"again")


async def test_rst_for_new_connections_too() -> None:
    async with bench() as b:
        b.relay.rst(new=True)
        for _ in range(3):
            client = await b.connect()
            await client.is_reset()
        assert b.server.peers.empty()
        assert b.relay.mode is Mode.RST
        b.relay.heal()
        client, server = await b.pair()
        await server.say(b"better")
        await client.hears(b"better")


async def test_fin_half_closes_toward_the_client() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.fin()
        await client.hears_eof()
        await client.say(b"still speaking")
        await server.hears(b"still speaking")
        await server.say(b"unheard")
        await settle(lambda: b.relay.to_client.lost == 7)
        client.writer.close()
        await server.hears_eof()
        await settle(lambda: b.relay.connections == 0)


async def test_fin_for_new_connections_too() -> None:
    async with bench() as b:
        b.relay.fin(new=True)
        client, server = await b.pair()
        await client.hears_eof()
        await client.say(b"x")
        await server.hears(b"x")


async def test_late_delays_each_way_without_narrowing_the_path() -> None:
    loop = asyncio.get_running_loop()
    async with bench() as b:
        client, server = await b.pair()
        b.relay.late(4.0)
        start = loop.time()
        await client.say(b"first")
        await asyncio.sleep(1)
        await client.say(b"second")
        await server.hears(b"first", within=10)
        assert loop.time() - start == pytest.approx(4.0, abs=0.1)
        await server.hears(b"second", within=10)
        assert loop.time() - start == pytest.approx(5.0, abs=0.1)
        client.writer.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.5):
                await server.reader.read()
        await server.hears_eof()


async def test_healing_a_late_path_delivers_at_once() -> None:
    async with bench() as b:
        b.relay.late(1_000)
        client, server = await b.pair()
        await client.say(b"hurry")
        await server.hears_nothing()
        b.relay.heal()
        await server.hears(b"hurry", within=0.1)


async def test_drip_is_one_byte_a_second() -> None:
    loop = asyncio.get_running_loop()
    async with bench() as b:
        client, server = await b.pair()
        b.relay.drip()
        start = loop.time()
        await server.say(b"abcd")
        for n in range(4):
            await client.hears(b"abcd"[n : n + 1], within=1.5)
            assert loop.time() - start == pytest.approx(n, abs=0.1)
        b.relay.heal()
        await server.say(b"and fast again")
        await client.hears(b"and fast again", within=0.1)


async def test_drip_holds_a_bounded_amount() -> None:
    async with bench() as b:
        client, _ = await b.pair()
        b.relay.drip()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await client.say(bytes(32_000_000))
        (splice,) = b.relay._splices
        assert splice.to_server._queued <= 5 * LIMIT


async def test_refuse_resets_the_living_refuses_the_new_and_keeps_the_port() -> None:
    async with bench() as b:
        client, _ = await b.pair()
        port = b.relay.port
        b.relay.refuse()
        await client.is_reset()
        with pytest.raises(ConnectionRefusedError):
            await b.connect()
        b.relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            await b.connect()
        b.relay.heal()
        assert b.relay.port == port
        client, server = await b.pair()
        await client.say(b"back")
        await server.hears(b"back")


async def test_cut_is_a_pulled_cable() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.cut()
        hanging = await b.connect()
        await hanging.say(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.gather(
            client.hears_nothing(), server.hears_nothing(), hanging.hears_nothing()
        )
        assert b.server.peers.empty()
        assert b.relay.mode is Mode.CUT
        b.relay.heal()
        for peer in (client, server, hanging):
            await peer.is_reset()
        client, server = await b.pair()
        await server.say(b"plugged in")
        await client.hears(b"plugged in")


async def test_idle_drop_forgets_only_the_idle() -> None:
    async with bench() as b:
        b.relay.idle_drop(30)
        client, server = await b.pair()
        for _ in range(4):
            await asyncio.sleep(29)
            await server.say(b"beat")
            await client.hears(b"beat")
        await asyncio.sleep(31)
        await server.say(b"too late")
        await client.hears_nothing()
        assert [change.what for change in b.relay.log] == ["idle-drop", "forgotten"]


async def test_idle_drop_with_rst_answers_the_next_client_byte() -> None:
    async with bench() as b:
        client, server = await b.pair()
        b.relay.idle_drop(30, then="rst")
        await client.hears_nothing(40)
        await client.say(b"anyone?")
        await client.is_reset()
        await server.hears_nothing()


async def test_idle_drop_can_be_switched_off() -> None:
    async with bench() as b:
        b.relay.idle_drop(30)
        client, server = await b.pair()
        b.relay.idle_drop(None)
        await asyncio.sleep(3_600)
        await client.say(b"x")
        await server.hears(b"x")


async def test_an_absent_server_resets_the_client_and_retarget_helps() -> None:
    async with bench() as b:
        good = b.relay.target
        b.relay.retarget("127.0.0.1", 1)
        client = await b.connect()
        await client.is_reset()
        assert b.relay.log[-1].what == "unreachable"
        b.relay.retarget(*good)
        client, server = await b.pair()
        await client.say(b"x")
        await server.hears(b"x")


async def test_the_log_is_dated_and_the_modes_are_named() -> None:
    loop = asyncio.get_running_loop()
    async with bench() as b:
        start = loop.time()
        b.relay.late(2)
        loop.call_later(10, b.relay.hole_in)
        loop.call_later(20, b.relay.heal)
        await asyncio.sleep(30)
        assert [(c.at - start, c.what) for c in b.relay.log] == [
            (0, "late"),
            (10, "hole-in"),
            (20, "heal"),
            (20, "pass"),
        ]


async def test_urls() -> None:
    async with bench() as b:
        assert b.relay.url("ws") == f"ws://127.0.0.1:{b.relay.port}"
        assert b.relay.url("http", "/bot") == f"http://127.0.0.1:{b.relay.port}/bot"
    assert Relay("::1", 1, host="::1", port=80).url("http") == "http://[::1]:80"


async def test_the_port_survives_stop_and_start() -> None:
    async with bench() as b:
        client, _ = await b.pair()
        port = b.relay.port
        await b.relay.stop()
        await client.is_reset()
        with pytest.raises(ConnectionRefusedError):
            await b.connect()
        await b.relay.start()
        assert b.relay.port == port
        client, server = await b.pair()
        await client.say(b"x")
        await server.hears(b"x")


async def test_fifty_connections_in_every_mode_leak_nothing() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before, tasks = descriptors(), len(asyncio.all_tasks())
    async with bench() as b:
        relay = b.relay
        modes: list[Callable[[], None]] = [
            relay.pass_, relay.hole, relay.hole_in, relay.stall, relay.rst, relay.fin,
            lambda: relay.late(5), relay.drip, relay.cut, relay.refuse, relay.heal,
        ]  # fmt: skip
        for n in range(50):
            relay.heal()
            client = await b.connect()
            await client.say(b"x")
            modes[n % len(modes)]()
            if n % 3:
                client.writer.close()
            await asyncio.sleep(0.001)
    await asyncio.sleep(1)
    assert relay.connections == 0
    assert descriptors() == before
    assert len(asyncio.all_tasks()) == tasks
