"""A forward proxy as companies have one, that can be broken: tunnels (CONNECT) and plain requests.

    async with ForwardProxy() as proxy:
        client(proxy=proxy.url)
        proxy.refuse()              # 403 to everything
        proxy.hang()                # takes every request and says nothing
        proxy.strip_upgrades()      # plain requests lose their Upgrade header; tunnels pass
        proxy.ok()

Every name leads to loopback: nothing ever leaves the machine. A switch is for what is asked from
then on; tunnels that are open stay so, but those that hang end with `ok`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"

LOG_SIZE = 1_000
"""Requests that are remembered; the oldest go first."""

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head, as much as asyncio's streams hold."""

CHUNK = 64 * 1024

_ONE_HOP = ("proxy-connection", "proxy-authorization", "connection", "upgrade")
"""Headers that are for the proxy, or that it decides on for itself (RFC 9110, section 7.6.1)."""


class Mode(enum.Enum):
    """What a proxy does with requests."""

    OK = "ok"
    REFUSE = "refuse"
    HANG = "hang"
    STRIP = "strip"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    target: str
    """``host:port`` of a tunnel, the whole URL of a plain request."""


class ForwardProxy:
    """A forward proxy on loopback. Use as an asynchronous context manager.

    Switches are plain calls that take effect before they return. ``asked`` holds the last
    requests, ``count`` counts them all.
    """

    def __init__(self) -> None:
        self.port = 0
        self.mode = Mode.OK
        self.count = 0
        self.asked: deque[Asked] = deque(maxlen=LOG_SIZE)
        self._moved = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The proxy's address."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> Self:
        """Listen. The kernel chooses the port; the choice is kept over stop and start."""
        self._server = await asyncio.start_server(self._accept, HOST, self.port, limit=HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and end every connection: from now on connects are refused."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # -- switches -----------------------------------------------------------------------------

    def ok(self) -> None:
        """Pass everything on; what hangs is ended, so that it is asked again."""
        self._enter(Mode.OK)

    def refuse(self) -> None:
        """Answer every request with 403."""
        self._enter(Mode.REFUSE)

    def hang(self) -> None:
        """Take every request and never answer it."""
        self._enter(Mode.HANG)

    def strip_upgrades(self) -> None:
        """Pass plain requests on without ``Upgrade``, as a proxy that knows no WebSockets."""
        self._enter(Mode.STRIP)

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self._moved.set()
        self._moved = asyncio.Event()

    # -- connections --------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs it as one"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            # A client that goes away in the middle is none of the proxy's business.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split(" ", 2)
        self.count += 1
        self.asked.append(Asked(method, target))
        match self.mode:
            case Mode.HANG:
                await self._moved.wait()
                return
            case Mode.REFUSE:
                await _answer(writer, "403 Forbidden")
                return
        place = urlsplit(f"//{target}" if method == "CONNECT" else target)
        try:
            there, onward = await asyncio.open_connection(HOST, place.port or 80)
        except OSError:
            await _answer(writer, "502 Bad Gateway")
            return
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                onward.write(_passed_on(head, strip=self.mode is Mode.STRIP))
            await asyncio.gather(_pump(reader, onward), _pump(there, writer))
        finally:
            onward.transport.abort()


def _passed_on(head: str, *, strip: bool) -> bytes:
    """A plain request as the server gets it: by its path, and alone on its connection unless it
    asks for another protocol."""
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, version = first.split(" ")
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {line.partition(":")[0].lower(): line for line in lines}
    kept = [line for name, line in headers.items() if name not in _ONE_HOP]
    if "upgrade" in headers and not strip:
        kept += [headers["upgrade"], "Connection: Upgrade"]
    else:
        kept += ["Connection: close"]
    return "\r\n".join([f"{method} {path} {version}", *kept, "\r\n"]).encode("latin-1")


async def _answer(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
