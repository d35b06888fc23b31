"""Records what a simulator really says, for `tests.adapters.fuzzing` to play it back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from holdfast.adapter import HookRequest, Http, HttpReply, WebSocket
from holdfast.gateway.dns import Resolver
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.net import Net
from tests.adapters.fuzzing import PROOF, Call, Port, Raw, Tape


class _TapingSocket:
    def __init__(self, ws: WebSocket, tape: Tape) -> None:
        self._ws, self._tape = ws, tape

    async def __aiter__(self) -> AsyncIterator[Raw]:
        async for raw in self._ws:
            self._tape.items.append(raw)
            yield raw

    async def receive(self) -> Raw:
        raw = await self._ws.receive()
        self._tape.items.append(raw)
        return raw

    async def send(self, data: Raw) -> None:
        await self._ws.send(data)

    async def ping(self) -> None:
        await self._ws.ping()

    async def close(self) -> None:
        await self._ws.close()


class TapingPort(Port):
    """The real network; everything that comes in is taped."""

    def __init__(self, tape: Tape, hooks: HookServer, polls: str) -> None:
        self._tape, self._hooks, self._polls = tape, hooks, polls
        self.hooks_url = hooks.url
        self.client = Net(Resolver()).client()
        self.http: Http = self
        self._sockets: list[WebSocket] = []

    async def request(self, method: str, url: str, **more: Any) -> HttpReply:
        """See `holdfast.adapter.Http.request`."""
        reply = await self.client.request(method, url, **more)
        if self._polls and self._polls in url:
            self._tape.items.append(reply)
        else:
            self._tape.replies[method, urlsplit(url).path].append(reply)
        return reply

    async def dial(self, url: str, headers: Mapping[str, str] | None) -> WebSocket:
        """See `Port.dial`."""
        ws = await self.client.websocket(
            url, headers=headers, max_size=2**24, close_code=1000, alive=lambda: None
        )
        self._sockets.append(ws)
        return _TapingSocket(ws, self._tape)

    async def close(self) -> None:
        """Close what was opened, as the gateway does."""
        for ws in self._sockets:
            await ws.close()
        await self.client.close()

    @contextlib.asynccontextmanager
    async def listen(self, path: str) -> AsyncIterator[AsyncIterator[Any]]:
        """See `Port.listen`."""
        self._tape.hook_path = path
        async with self._hooks.listen(path, "tape") as requests:
            yield self._taped(requests)

    async def _taped(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            call = Call(request.body, request.headers, request.query, request.method)
            if PROOF not in request.query:
                self._tape.items.append(call)
            yield _Visit(request, self._tape) if "upgrade" in request.headers else request


class _Visit:
    """A request for a WebSocket whose frames are taped."""

    def __init__(self, request: HookRequest, tape: Tape) -> None:
        self.method, self.headers = request.method, request.headers
        self.query, self.body = request.query, request.body
        self.respond = request.respond
        self._request, self._tape = request, tape

    async def upgrade(self) -> WebSocket:
        return _TapingSocket(await self._request.upgrade(), self._tape)
