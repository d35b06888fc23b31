"""Feishu's long connection: where to dial, heartbeats, frames and their acknowledgements.

Sources: the WebSocket client of the official SDKs (``lark-oapi`` 1.7.5, Node SDK 1.74.0).
"""

from __future__ import annotations

import asyncio
from functools import partial
from urllib.parse import parse_qs, urlsplit

from holdfast.adapter import BadFrame, Disconnect, HttpFailed, Link, WebSocket, decode
from holdfast.adapters import feishu_frames as frames
from holdfast.adapters import feishu_intake as intake
from holdfast.adapters.feishu_api import Api, ClientConfig, upgrade_cause
from holdfast.adapters.feishu_frames import Codec, Frame, Method, Parts, Type

BEAT = 120.0
"""Seconds between heartbeats until ClientConfig says otherwise (official SDKs)."""

SHORTEST, LONGEST = 5.0, 300.0
"""Seconds: what is believed of a PingInterval."""

SILENCE = 60.0
"""Longest silence believed in, in seconds, and never more than two PingIntervals. Heartbeats are
rare here: a WebSocket ping asks in between, as the Python SDK does every 20 s."""

MAX_FRAME = 8 * 2**20
"""Bytes of one WebSocket message; the largest event seen is far below."""


async def run(link: Link, api: Api, own_id: str) -> None:
    """One connection, from its address to its end. ``own_id`` is the bot's open_id."""
    codec = frames.codec()
    link.step("endpoint")
    endpoint = await api.endpoint(link.http)
    ping = codec.ping(_service(endpoint.url))
    link.step("connect")
    try:
        ws = await link.websocket(endpoint.url, max_size=MAX_FRAME)
    except HttpFailed as error:
        raise Disconnect(upgrade_cause(error)) from error
    talk = _Talk(link, ws, codec, ping, own_id, endpoint.config)
    link.step("pong")
    await talk.beat()
    async for raw in ws:
        await talk.take(raw)


def _service(url: str) -> int:
    """The ``service_id`` of a connection's address. Raises BadFrame."""
    try:
        return int(parse_qs(urlsplit(url).query)["service_id"][0])
    except (KeyError, ValueError) as error:
        raise BadFrame("the connection's address has no service_id") from error


class _Talk:
    """One open WebSocket."""

    def __init__(
        self,
        link: Link,
        ws: WebSocket,
        codec: Codec,
        ping: bytes,
        own_id: str,
        config: ClientConfig | None,
    ) -> None:
        self._link, self._ws, self._codec = link, ws, codec
        self._ping, self._own_id = ping, own_id
        self._interval = _interval(config, BEAT)
        self._ready = self._leaving = False
        self._parts = Parts()

    async def beat(self) -> None:
        """Send a heartbeat; its pong carries the ClientConfig."""
        await self._ws.send(self._ping)

    async def take(self, raw: str | bytes) -> None:
        """Handle one frame. Raises StoreError: then none that was taken is acknowledged."""
        try:
            frame = self._codec.decode(raw)
            if frame.method == Method.CONTROL and frame.type == Type.PONG:
                await self._pong(frame)
            elif frame.method == Method.DATA and frame.type == Type.EVENT:
                # "card", the one other type, belongs to web hooks; no SDK acknowledges it.
                await self._event(frame)
        except BadFrame as error:
            self._link.skip(str(error), raw)

    async def _pong(self, frame: Frame) -> None:
        self._link.acked()
        interval = _interval(self._config(frame), self._interval)
        if not self._ready:
            self._interval = interval
        elif interval < self._interval and not self._leaving:
            # The heartbeat of a connection is fixed, and too rare from now on.
            self._leaving = True
            self._link.going_away(f"Feishu wants a heartbeat every {interval:.0f} s from now on")
        await self._proved()

    def _config(self, pong: Frame) -> ClientConfig | None:
        """What a pong asks of us; it is one even where that can not be read."""
        try:
            return decode(ClientConfig, pong.payload) if pong.payload else None
        except BadFrame as error:
            self._link.skip(str(error), pong.payload)
            return None

    async def _event(self, frame: Frame) -> None:
        began = asyncio.get_running_loop().time()
        payload = self._parts.add(frame, began)
        for key in self._parts.overdue(began):
            self._link.skip(f"message {key} did not come whole")
        if payload is None:
            return
        message = intake.message_in(self._link, payload, self._own_id)
        await self._link.take(message, partial(self._acknowledge, frame, began))

    async def _acknowledge(self, frame: Frame, began: float) -> None:
        took = round((asyncio.get_running_loop().time() - began) * 1000)
        await self._ws.send(self._codec.acknowledgement(frame, took))
        if not self._ready:
            await self._proved()

    async def _proved(self) -> None:
        """Feishu has answered, or pushed: the connection is in service."""
        if not self._ready:
            self._ready = True
            self._link.on_beat(self.beat)
            self._link.ready(
                intake.continuity(self._link),
                beat=self._interval,
                silence=min(SILENCE, 2 * self._interval),
            )
        await intake.heard(self._link)


def _interval(config: ClientConfig | None, default: float) -> float:
    """Seconds between heartbeats; the default where nothing sensible is said."""
    said = config.ping_interval if config else None
    return min(max(said, SHORTEST), LONGEST) if said and said > 0 else default
