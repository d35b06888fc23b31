"""The server platforms call: one HTTP listener, a path per account, one request at a time each."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from aiohttp import web

from holdfast import killpoints
from holdfast.adapter import Disconnect, WebSocketClosed
from holdfast.gateway.door import Door, room
from holdfast.gateway.websocket import POLITE_CLOSE, LiveWebSocket
from holdfast.supervision import Cause, Kind

log = logging.getLogger("holdfast.hooks")

MAX_BODY = 4 * 2**20
"""Bytes of one request; the largest documented event of any platform is far below."""

ANSWER_LIMIT = 15.0
"""Seconds until a request that nobody answered gets a 503, so that the platform sends again."""

SET_ANOTHER = "set another [gateway] hook_listen and restart the gateway."

_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address that means all of them -> one of them."""

WAITING = 64
"""Requests that may wait for one account; further ones get a 503 at once."""

MOST = 2_000
"""Connections at a time."""

SHARE = Fraction(1, 2)
"""Of the descriptors that connections may take: the accounts' own and the journal need the rest."""

SOCKETS = 1_000
"""WebSockets that may be open on one path; further ones get a 503."""

FOR_SOCKETS = Fraction(3, 4)
"""Of the connections that may be WebSockets: the others' requests must get through."""

HEARTBEAT = 20.0
"""Seconds between our pings on an accepted WebSocket; half of it without a pong ends it."""


class _Acknowledgement(web.Response):
    """An answer to the platform: once it is written, the message is ours."""

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        killpoints.reach("after-ack")


class _Upgrade:
    """A request that is to become a WebSocket, until that has ended."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[LiveWebSocket] = loop.create_future()
        self.over = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Hold the WebSocket open until it, or the path's listener, comes to its end."""
        ws = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MAX_BODY, timeout=POLITE_CLOSE)
        try:
            await ws.prepare(request)
            if not self.opened.cancelled():
                self.opened.set_result(LiveWebSocket(ws, lambda: None, self.over.set))
                await self.over.wait()
        finally:
            if not self.opened.done():
                self.opened.set_exception(WebSocketClosed(1006, "the caller has left"))
        return ws


@dataclass(slots=True)
class Request:
    """One HTTP request; its sender waits for `respond` or `upgrade`."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    answer: asyncio.Future[web.Response | _Upgrade] = field(repr=False)

    def respond(
        self,
        status: int = 200,
        body: bytes = b"",
        mime: str = "text/plain",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer. A second answer, or one after the sender left, is ignored."""
        if not self.answer.done():
            reply = _Acknowledgement(
                status=status, body=body, content_type=mime, headers=dict(headers or {})
            )
            self.answer.set_result(reply)

    async def upgrade(self) -> LiveWebSocket:
        """See `holdfast.adapter.HookRequest.upgrade`."""
        if self.answer.done():
            raise WebSocketClosed(1006, "the caller has left or was answered")
        upgrade = _Upgrade()
        self.answer.set_result(upgrade)
        return await upgrade.opened


class _Listener:
    """The connection that reads a path's requests."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.queue: asyncio.Queue[Request] = asyncio.Queue(WAITING)
        self.unanswered: dict[int, Request] = {}
        self.upgrades: set[_Upgrade] = set()

    def dismiss(self) -> None:
        """Nobody reads any more: whoever waits is asked to come again, WebSockets are closed."""
        for request in self.unanswered.values():
            request.respond(503)
        for upgrade in self.upgrades:
            upgrade.over.set()


class HookServer:
    """Listens for web hooks. Paths are registered by connections and vanish with them."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._listeners: dict[str, _Listener] = {}
        self._known: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self.door = Door(room(MOST, SHARE), surplus=self._surplus, slow=lambda: None)
        self.refused = 0
        """Requests to no path of ours, too large, broken, or beyond the waiting limit."""

    @property
    def url(self) -> str:
        """Base URL as seen from this machine; empty while nobody listens."""
        if self._runner is None:
            return ""
        host = _LOOPBACK.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; idempotent. Raises OSError when the address is taken."""
        async with self._starting:  # else a second account would believe in a listener to come
            if self._runner is None:
                self._runner = await self._listening()

    async def _listening(self) -> web.AppRunner:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self.door.attend])
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        try:
            await runner.setup()
            make = runner.server
            assert make is not None
            self._server = await asyncio.get_running_loop().create_server(
                lambda: self.door.admit(make), self.host, self.port, reuse_address=True
            )
        except BaseException:
            await runner.cleanup()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        return runner

    async def stop(self) -> None:
        """Stop listening. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        self.door.stop()

    def _surplus(self) -> None:
        log.warning("too many web hook connections most=%d", self.door.most)

    @contextlib.asynccontextmanager
    async def listen(self, path: str, owner: str) -> AsyncIterator[AsyncIterator[Request]]:
        """Requests to ``path`` while the context lasts; those left unanswered get a 503.

        The first listener starts the server. An owner's new connection takes the path over from
        its former one, which may never end. Raises Disconnect when the address is taken, or the
        path by another owner.
        """
        try:
            await self.start()
        except OSError as error:
            where = f"{self.host}:{self.port}"
            message, hint = f"can not listen on {where}: {error.strerror}", SET_ANOTHER
            if error.errno == errno.EADDRINUSE:
                hint = f"Another program, or [web] listen, has {where}: end it, or {hint}"
            else:
                hint = f"An address of this machine is needed, and the right to its port: {hint}"
            raise Disconnect(Cause(Kind.LOCAL, "hook_address", message, hint)) from error
        former = self._listeners.get(path)
        if former is not None and former.owner != owner:
            raise Disconnect(
                Cause(
                    Kind.LOCAL,
                    "hook_path_taken",
                    f"web hook path {path!r} belongs to account {former.owner!r}",
                    "Give each account a hook path of its own.",
                )
            )
        self._listeners[path] = listener = _Listener(owner)
        self._known.add(path)
        if former is not None:
            former.dismiss()
        try:
            yield _each(listener.queue)
        finally:
            if self._listeners.get(path) is listener:
                del self._listeners[path]
            listener.dismiss()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                answer = await self._answer(request)
        except TimeoutError:
            log.warning("no answer to a web hook request path=%s", request.path)
            return _later()
        return await self._upgraded(request, answer) if isinstance(answer, _Upgrade) else answer

    async def _upgraded(self, request: web.Request, upgrade: _Upgrade) -> web.StreamResponse:
        listener = self._listeners.get(request.path)
        if listener is None or len(listener.upgrades) >= SOCKETS or self._is_crowded():
            self.refused += 1
            upgrade.opened.set_exception(WebSocketClosed(1013, "too many WebSockets"))
            return _later()
        listener.upgrades.add(upgrade)
        try:
            return await upgrade.serve(request)
        finally:
            listener.upgrades.discard(upgrade)

    def _is_crowded(self) -> bool:
        """Whether one WebSocket more would keep requests out."""
        sockets = sum(len(listener.upgrades) for listener in self._listeners.values())
        return sockets >= self.door.most * FOR_SOCKETS

    async def _answer(self, request: web.Request) -> web.Response | _Upgrade:
        if request.path not in self._listeners:
            self.refused += 1
            return _later() if request.path in self._known else web.Response(status=404)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            self.refused += 1
            return web.Response(status=413)
        except (web.RequestPayloadError, OSError):  # broken, or its sender has left
            self.refused += 1
            return web.Response(status=400)
        self.door.hold(request)
        hook = Request(
            request.method,
            {name.lower(): value for name, value in request.headers.items()},
            dict(request.query),
            body,
            asyncio.get_running_loop().create_future(),
        )
        listener = self._listeners.get(request.path)  # the body took its time to come
        if listener is None:
            return _later()
        try:
            listener.queue.put_nowait(hook)
        except asyncio.QueueFull:
            self.refused += 1
            return _later()
        listener.unanswered[id(hook)] = hook
        try:
            return await hook.answer
        finally:
            del listener.unanswered[id(hook)]


def _later() -> web.Response:
    return web.Response(status=503, headers={"Retry-After": "5"})


async def _each(queue: asyncio.Queue[Request]) -> AsyncIterator[Request]:
    while True:  # ended by the connection that reads it
        yield await queue.get()
