"""An open WebSocket: every frame is life, every end is WebSocketClosed, every close is bounded.

It is read ahead by a bounded piece, so that its reader can be told when nothing more is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import aiohttp
from aiohttp import web

from holdfast.adapter import WebSocketClosed

READ_AHEAD = 2**18
"""Bytes of one WebSocket's frames that are read before they are asked for: some 500 messages."""

FRAME_COST = 100
"""Bytes an empty frame counts as: no number of small ones may fill the memory either."""

POLITE_CLOSE = 1.5
"""Seconds for closing handshakes; then the socket is shut down."""


class LiveWebSocket:
    """A WebSocket on which every frame, control frames included, is proof of life.

    A frame is proof when it is received here, not when it has reached this machine: an adapter
    that hangs must not look alive.
    """

    def __init__(
        self,
        ws: aiohttp.ClientWebSocketResponse[Any] | web.WebSocketResponse[Any],
        alive: Callable[[], None],
        over: Callable[[], None] = lambda: None,
        *,
        idle: Callable[[], Awaitable[None]] | None = None,
        close_code: int = 1000,
    ) -> None:
        """``idle`` is awaited when all that has come is received, before waiting for more."""
        self._ws, self._alive, self._over, self._idle = ws, alive, over, idle
        self._close_code = close_code
        self._ahead = _ReadAhead(ws.receive)
        self._told = False

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while True:  # receive() ends it with WebSocketClosed
            yield await self.receive()

    async def receive(self) -> str | bytes:
        """The next data frame. Raises WebSocketClosed. Cancelling is safe: no frame is lost."""
        try:
            while True:
                if self._idle is not None and self._ahead.empty:
                    await self._idle()
                data = await self._meaning(await self._ahead.next())
                if data is not None:
                    return data
        except WebSocketClosed:
            self._over()
            raise

    async def _meaning(self, frame: aiohttp.WSMessage) -> str | bytes | None:
        """The data of a data frame; None for a control frame. Raises WebSocketClosed."""
        match frame.type:
            case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                self._live()
                return cast(str | bytes, frame.data)
            case aiohttp.WSMsgType.PING:
                self._live()
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    await self._ws.pong(frame.data)
                return None
            case aiohttp.WSMsgType.PONG:
                self._live()
                return None
            case aiohttp.WSMsgType.CLOSE:
                raise WebSocketClosed(int(frame.data or 1005), str(frame.extra or ""))
            case aiohttp.WSMsgType.ERROR:
                code = getattr(frame.data, "code", None) or 1006
                raise WebSocketClosed(int(code), str(frame.data))
            case _:
                raise WebSocketClosed(self._ws.close_code or 1006, "connection lost")

    def _live(self) -> None:
        """Say so once a turn of the loop: all frames received in one were here when it began."""
        if not self._told:
            self._told = True
            asyncio.get_running_loop().call_soon(self._turned)
            self._alive()

    def _turned(self) -> None:
        self._told = False

    async def send(self, data: str | bytes) -> None:
        """Send a data frame. Raises WebSocketClosed when the connection is gone."""
        try:
            if isinstance(data, str):
                await self._ws.send_str(data)
            else:
                await self._ws.send_bytes(data)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise WebSocketClosed(self._ws.close_code or 1006, str(error)) from error

    async def ping(self) -> None:
        """Send a ping; the pong counts as life by itself."""
        try:
            await self._ws.ping()
        except (ConnectionError, aiohttp.ClientError) as error:
            raise WebSocketClosed(self._ws.close_code or 1006, str(error)) from error

    async def close(self) -> None:
        """The closing handshake, bounded by `POLITE_CLOSE`."""
        self._ahead.stop()
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
            async with asyncio.timeout(POLITE_CLOSE):
                await self._ws.close(code=self._close_code)
        self._over()


class _ReadAhead:
    """Frames in the order of their arrival, read by a task so that they can be seen to be there."""

    def __init__(self, receive: Callable[[], Awaitable[aiohttp.WSMessage]]) -> None:
        self._receive = receive
        self._frames: deque[tuple[aiohttp.WSMessage, int]] = deque()
        """Each with its cost."""
        self._size = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def empty(self) -> bool:
        """Whether the next frame has still to come."""
        return not self._frames

    async def next(self) -> aiohttp.WSMessage:
        """The next frame; once the connection has ended, its end over and over."""
        while not self._frames:
            if self._task is None:
                self._task = asyncio.create_task(self._read(), name="websocket reader")
                self._task.add_done_callback(lambda _: self._changed.set())
            if self._task.done():
                return _OVER
            self._changed.clear()
            await self._changed.wait()
        frame, cost = self._frames[0]
        if frame.type in _GOES_ON:
            self._frames.popleft()
            if self._size >= READ_AHEAD:
                self._changed.set()
            self._size -= cost
        return frame

    def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()

    async def _read(self) -> None:
        frame: aiohttp.WSMessage | None = None
        while frame is None or frame.type in _GOES_ON:
            try:
                frame = await self._receive()
            except Exception as error:
                frame = aiohttp.WSMessage(aiohttp.WSMsgType.ERROR, error, None)
            cost = _cost(frame)
            self._frames.append((frame, cost))
            self._size += cost
            self._changed.set()
            while self._size >= READ_AHEAD:
                self._changed.clear()
                await self._changed.wait()


_GOES_ON = frozenset(
    {
        aiohttp.WSMsgType.TEXT,
        aiohttp.WSMsgType.BINARY,
        aiohttp.WSMsgType.PING,
        aiohttp.WSMsgType.PONG,
    }
)
"""Frames behind which more may come."""

_OVER = aiohttp.WSMessage(aiohttp.WSMsgType.CLOSED, None, None)


def _cost(frame: aiohttp.WSMessage) -> int:
    data = frame.data
    return FRAME_COST + (len(data) if isinstance(data, str | bytes) else 0)
