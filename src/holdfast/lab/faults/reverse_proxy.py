"""A reverse proxy in front of an HTTP server, as most servers have one, that can be broken.

    async with ReverseProxy("http://127.0.0.1:8008") as proxy:
        connect(proxy.url)
        proxy.status(502)           # every request gets an error page, the server none of them
        proxy.hang()                # every request waits for an answer that does not come
        proxy.heal()
        proxy.swallow_answer(1, method="PUT")    # it reaches the server, its answer nobody

`status` and `hang` strike the requests under way too: from the call on, no answer of the server
gets through. Whoever waits for one when the proxy is healed has his connection reset.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

PAGE = """<html>
<head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center><hr><center>proxy</center></body>
</html>
"""

LOG_SIZE = 10_000
"""Requests that are remembered; the oldest go first."""

BODY_LIMIT = 64 * 2**20
"""Bytes of a request's body; it is read whole before it is passed on, as nginx does."""

STOP_TIMEOUT = 0.2
"""Seconds that requests under way have to finish at a stop."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection only, not to be passed on (RFC 9110, section 7.6.1)."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends RST (socket(7))."""


class Mode(enum.Enum):
    """What a proxy does with requests."""

    PASS = "pass"
    STATUS = "status"
    HANG = "hang"


class Fate(enum.Enum):
    """What became of a request."""

    ANSWERED = "answered"
    """The client has the server's answer."""
    REFUSED = "refused"
    """The client got a page of the proxy's own."""
    SWALLOWED = "swallowed"
    """The server has answered; the client's connection was reset."""
    LOST = "lost"
    """The client waited in vain; the server may have been asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request and its end."""

    at: float
    """Seconds on the loop's clock when it ended."""
    method: str
    path: str
    """With the query, encoded as it came."""
    fate: Fate
    status: int | None
    """What the server answered; None when it did not."""


@dataclass(slots=True)
class _Swallow:
    left: int
    method: str
    path: str

    def takes(self, request: web.Request) -> bool:
        return self.method in ("", request.method) and self.path in request.raw_path


class ReverseProxy:
    """A reverse proxy on loopback. Use as an asynchronous context manager.

    Methods, paths, queries, headers and bodies are passed on as they are. A server that can not be
    reached, or that ends before it has answered, gives a 502. Switches are plain calls that take
    effect before they return. ``log`` holds the last requests that came to an end.
    """

    def __init__(self, upstream: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """``upstream`` is the server's base address, for example ``http://127.0.0.1:8008``."""
        self.upstream = upstream.rstrip("/")
        self.host, self.port = host, port
        self.mode = Mode.PASS
        self.log: deque[Asked] = deque(maxlen=LOG_SIZE)
        self._refusal = (502, PAGE)
        self._swallow: _Swallow | None = None
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """The proxy's address, for example ``http://127.0.0.1:40123``; known after the start."""
        return f"http://{self.host}:{self.port}"

    # -- switches -----------------------------------------------------------------------------

    def status(self, status: int = 502, page: str = PAGE) -> None:
        """Answer every request, those under way too, with this status and web page."""
        self._refusal = (status, page)
        self._enter(Mode.STATUS)

    def hang(self) -> None:
        """Accept every request and answer none; those under way get no answer either."""
        self._enter(Mode.HANG)

    def swallow_answer(self, count: int = 1, *, method: str = "", path: str = "") -> None:
        """Let the next ``count`` requests reach the server, then reset instead of answering.

        Only requests with this method and with ``path`` somewhere in their encoded path count.
        A second call replaces the first.
        """
        self._swallow = _Swallow(count, method, path)

    def heal(self) -> None:
        """Pass everything again; whoever hangs is reset."""
        self._swallow = None
        self._enter(Mode.PASS)

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Listen. Port 0 lets the kernel choose; the choice is kept over stop and start."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._http = aiohttp.ClientSession(
            # A connection for each request: none is ever found dead when it is needed.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=STOP_TIMEOUT, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Stop listening and close every connection on both sides."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # -- a request ----------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        reply = await self._undisturbed(request, body) if self.mode is Mode.PASS else None
        if reply is not None:
            return reply
        while self.mode is Mode.HANG:
            await self._changed.wait()
        if self.mode is Mode.STATUS:
            return self._refuse(request, *self._refusal)
        return await self._reset(request, Fate.LOST, None)

    async def _undisturbed(self, request: web.Request, body: bytes) -> web.Response | None:
        """The server's answer; None when a fault came first."""
        asking = asyncio.create_task(self._ask(request, body), name="proxied request")
        struck = asyncio.create_task(self._changed.wait(), name="proxied request's fault")
        try:
            await asyncio.wait({asking, struck}, return_when=asyncio.FIRST_COMPLETED)
            return None if struck.done() else asking.result()
        finally:
            asking.cancel()
            struck.cancel()
            await asyncio.gather(asking, struck, return_exceptions=True)

    async def _ask(self, request: web.Request, body: bytes) -> web.Response:
        assert self._http is not None
        url = URL(self.upstream + request.raw_path, encoded=True)
        try:
            async with self._http.request(
                request.method,
                url,
                headers=_passed_on(request.headers, "host", "content-length"),
                data=body or None,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
        except aiohttp.ClientError:
            return self._refuse(request, 502, PAGE)
        swallow = self._swallow
        if swallow is not None and swallow.takes(request):
            swallow.left -= 1
            if swallow.left <= 0:
                self._swallow = None
            return await self._reset(request, Fate.SWALLOWED, answer.status)
        self._note(request, Fate.ANSWERED, answer.status)
        # The length of an answer to HEAD is that of the answer to GET.
        length = () if request.method == "HEAD" else ("content-length",)
        return web.Response(
            status=answer.status,
            reason=answer.reason,
            headers=_passed_on(answer.headers, *length),
            body=content,
        )

    def _refuse(self, request: web.Request, status: int, page: str) -> web.Response:
        self._note(request, Fate.REFUSED, None)
        return web.Response(status=status, text=page, content_type="text/html")

    async def _reset(self, request: web.Request, fate: Fate, status: int | None) -> web.Response:
        """Reset the client's connection; the server then cancels whoever handles it."""
        self._note(request, fate, status)
        transport = request.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        await asyncio.Event().wait()
        raise AssertionError("an event nobody sets was set")

    def _note(self, request: web.Request, fate: Fate, status: int | None) -> None:
        now = asyncio.get_running_loop().time()
        asked = Asked(
            at=now, method=request.method, path=request.raw_path, fate=fate, status=status
        )
        self.log.append(asked)


def _passed_on(headers: CIMultiDictProxy[str], *without: str) -> CIMultiDict[str]:
    """Headers without those of one connection only."""
    named = {
        name.strip().lower()
        for value in headers.getall("Connection", ())
        for name in value.split(",")
    }
    dropped = HOP_BY_HOP | named | set(without)
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in dropped)
