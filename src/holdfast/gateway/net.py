"""HTTP and WebSocket clients with a deadline on every step and an owner for every socket.

The library is aiohttp; what this file adds is that nothing can wait for ever, that errors say
whether the peer may have seen a request, and that every socket can be dropped synchronously.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import io
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from holdfast import __version__
from holdfast.adapter import HttpFailed, HttpReply, Part, cause_of
from holdfast.gateway.patience import CancelledInside, Patience
from holdfast.gateway.proxy import Proxies
from holdfast.gateway.websocket import POLITE_CLOSE, LiveWebSocket
from holdfast.supervision import Cause, Kind

TCP_LIMIT = 5.0
"""Seconds for TCP and TLS to one address; the next address starts 0.25 s after the first."""

CONNECT_LIMIT = 10.0
"""Seconds for a free place in the pool, DNS, TCP and TLS together."""

CONNECT_SHARE = 0.8
"""Of a short request's time that the same may take."""

UPGRADE_LIMIT = 10.0
"""Seconds for a WebSocket upgrade after the connect."""

IDLE_LIMIT = 5.0
"""Seconds an idle pooled connection is reused; NAT and platforms drop them silently later."""

POOL = 16
"""Connections of one client at a time; who needs one more waits for his `CONNECT_LIMIT`."""

USER_AGENT = f"holdfast/{__version__}"

_KEEPALIVE = {
    "TCP_KEEPIDLE": 20,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    # Milliseconds unacknowledged data may stay in flight. Neither option replaces proof of life:
    # a peer that is alive only in its kernel satisfies both.
    "TCP_USER_TIMEOUT": 20_000,
}


class SocketSet:
    """The sockets of one client, so that they can be dropped without asking anybody."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._closed = False

    def create(self, info: Any) -> socket.socket:
        """aiohttp's socket factory: keepalive on, owned by this set."""
        if self._closed:  # the dial began before the abort
            raise OSError(errno.ESHUTDOWN, "this client is closed")
        family, kind, proto, _, _ = info
        sock = socket.socket(family=family, type=kind, proto=proto)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # Linux has all; others some
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets.add(sock)
        return sock

    def abort(self) -> None:
        """Shut every socket down, now and for good; their transports end at once. Idempotent."""
        self._closed = True
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def closed(self) -> bool:
        """Whether it has been aborted."""
        return self._closed

    @property
    def open(self) -> int:
        """How many sockets are open."""
        return sum(1 for sock in self._sockets if sock.fileno() >= 0)


class HttpClient:
    """An HTTP client on a pool of its own. `close` is polite for a bounded time, then aborts."""

    def __init__(
        self,
        *,
        resolver: AbstractResolver,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver, self._tls = resolver, tls
        self._proxies = Proxies(proxy)
        self._session: aiohttp.ClientSession | None = None
        self._patiences: dict[float, Patience] = {}
        self.sockets = SocketSet()

    def session(self) -> aiohttp.ClientSession:
        """The session, made on first use inside the running loop. Raises HttpFailed once closed."""
        if self.sockets.closed:
            raise HttpFailed(Cause(Kind.LOST, "client_closed", "this client is closed"), sent=False)
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                limit=POOL,
                keepalive_timeout=IDLE_LIMIT,
                socket_factory=self.sockets.create,
                ssl=self._tls or True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
                # For WebSockets; every other request brings its own limits.
                timeout=aiohttp.ClientTimeout(connect=CONNECT_LIMIT, sock_connect=TCP_LIMIT),
                middlewares=(_refuse_redirected_upgrade,),
            )
        return self._session

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        parts: list[Part] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 15.0,
        max_body: int = 32 * 2**20,
    ) -> HttpReply:
        """One request; any status is an answer. Raises HttpFailed; cancelling is safe."""
        sending = dict(headers or {})
        # A stream, as aiohttp warns of large bytes that it writes in one go.
        data: Any = None if body is None else io.BytesIO(body)
        if json is not None:
            data = msgspec.json.encode(json)
            sending.setdefault("Content-Type", "application/json")
        elif form is not None:
            data = dict(form)
        elif parts is not None:
            data = _multipart(parts)
        try:
            asking = self.session().request(
                method,
                url,
                data=data,
                params=query,
                headers=sending,
                proxy=self._proxies(url),
                timeout=_limits(timeout),
                allow_redirects=False,
                middlewares=(),
            )
            # Ours for the whole: the library's own would not end a trickling body.
            return await self._patience(timeout)(_answer(asking, max_body))
        except CancelledInside as error:
            cause = Cause(Kind.LOST, "client_closed", "the client was closed meanwhile")
            raise HttpFailed(cause, sent=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error) from error

    def _patience(self, timeout: float) -> Patience:
        """That of all requests with this limit."""
        found = self._patiences.get(timeout)
        if found is None:
            if len(self._patiences) >= 64:
                self._patiences.clear()  # what runs keeps its own
            found = self._patiences[timeout] = Patience(timeout)
        return found

    async def websocket(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None,
        max_size: int,
        close_code: int,
        alive: Callable[[], None],
        idle: Callable[[], Awaitable[None]] | None = None,
    ) -> LiveWebSocket:
        """Dial a WebSocket. Raises HttpFailed when connect or upgrade fails."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT + UPGRADE_LIMIT):
                ws = await self.session().ws_connect(
                    url,
                    headers=headers,
                    proxy=self._proxies(url),
                    max_msg_size=max_size,
                    autoping=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=POLITE_CLOSE),
                )
        except aiohttp.WSServerHandshakeError as error:
            reply = HttpReply(error.status, error.headers or {}, b"")
            raise HttpFailed(_upgrade_refused(reply), sent=True, reply=reply) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error) from error
        return LiveWebSocket(ws, alive, idle=idle, close_code=close_code)

    async def close(self) -> None:
        """Close politely within `POLITE_CLOSE` seconds, then drop what is left."""
        session, self._session = self._session, None
        try:
            if session is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLITE_CLOSE):
                        await session.close()
        finally:
            self.sockets.abort()

    def abort(self) -> None:
        """Drop every socket, now and for good. `close` afterwards only tidies up."""
        self.sockets.abort()


@dataclass(frozen=True, slots=True)
class Net:
    """How this gateway reaches the world; makes clients."""

    resolver: AbstractResolver
    proxy: str | None = None
    """URL of an HTTP proxy; "" for none, None for what the environment variables say."""
    tls: ssl.SSLContext | None = None

    def client(self) -> HttpClient:
        """A client on a pool of its own."""
        return HttpClient(resolver=self.resolver, proxy=self.proxy, tls=self.tls)


def _multipart(parts: list[Part]) -> aiohttp.FormData:
    form = aiohttp.FormData(default_to_multipart=True)
    for part in parts:
        # Large bytes are handed over as a stream: aiohttp warns of those it would copy on the loop.
        data = io.BytesIO(part.data) if isinstance(part.data, bytes) else part.data
        form.add_field(part.name, data, filename=part.filename, content_type=part.mime)
    return form


@functools.lru_cache(maxsize=64)
def _limits(timeout: float) -> aiohttp.ClientTimeout:
    """Of the connect, so that what never left is known as such before the time is over."""
    share = timeout * CONNECT_SHARE
    return aiohttp.ClientTimeout(
        connect=min(CONNECT_LIMIT, share), sock_connect=min(TCP_LIMIT, share)
    )


async def _answer(asking: AbstractAsyncContextManager[Any], limit: int) -> HttpReply:
    async with asking as answer:
        content = await _read(answer, limit)
    return HttpReply(answer.status, answer.headers, content)


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await answer.content.readany():
        size += len(chunk)
        if size > limit:
            raise HttpFailed(
                Cause(Kind.PROTOCOL, "body_too_large", f"an answer of more than {limit} bytes"),
                sent=True,
            )
        chunks.append(chunk)
    return b"".join(chunks)


async def _refuse_redirected_upgrade(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp would follow the redirect and log in wherever it leads."""
    answer = await handler(request)
    if 300 <= answer.status < 400 and "Upgrade" in request.headers:
        answer.close()
        raise aiohttp.WSServerHandshakeError(
            answer.request_info, answer.history, status=answer.status, headers=answer.headers
        )
    return answer


def _upgrade_refused(reply: HttpReply) -> Cause:
    return Cause(
        Kind.THROTTLED if reply.status == 429 else Kind.UNREACHABLE,
        f"upgrade_{reply.status}",
        f"the WebSocket upgrade was answered with HTTP {reply.status}",
        retry_after=reply.retry_after,
    )


def _failure(error: Exception) -> HttpFailed:
    """What a failed request means, and whether the peer may have seen it.

    No message contains a URL: some platforms carry their token in it.
    """
    match error:
        case aiohttp.ConnectionTimeoutError():
            cause = Cause(Kind.UNREACHABLE, "connect_timeout", "no connection in time")
            return HttpFailed(cause, sent=False)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            cause = Cause(Kind.UNREACHABLE, "tls", f"TLS failed: {error}", _TLS_HINT)
            return HttpFailed(cause, sent=False)
        case aiohttp.ClientConnectorDNSError():
            return HttpFailed(Cause(Kind.UNREACHABLE, "dns", str(error)), sent=False)
        case aiohttp.ClientProxyConnectionError():
            return HttpFailed(Cause(Kind.UNREACHABLE, "proxy", str(error)), sent=False)
        case aiohttp.ClientHttpProxyError():
            text = f"the proxy answered HTTP {error.status}: {error.message}"
            return HttpFailed(Cause(Kind.UNREACHABLE, "proxy", text), sent=False)
        case aiohttp.ClientConnectorError():
            inner = cause_of(error.os_error)
            kind = Kind.LOCAL if inner.kind is Kind.LOCAL else Kind.UNREACHABLE
            return HttpFailed(Cause(kind, inner.code, str(error)), sent=False)
        case aiohttp.InvalidURL() | aiohttp.InvalidUrlClientError():
            cause = Cause(Kind.REFUSED, "bad_url", "a URL is not usable", _URL_HINT)
            return HttpFailed(cause, sent=False)
        case TimeoutError():
            cause = Cause(Kind.TIMEOUT, "http_timeout", "no answer in time")
            return HttpFailed(cause, sent=True)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
            cause = Cause(Kind.LOST, "http_lost", f"the connection ended: {error}")
            return HttpFailed(cause, sent=True)
        case aiohttp.ClientPayloadError():
            cause = Cause(Kind.LOST, "http_cut", f"the answer was cut off: {error}")
            return HttpFailed(cause, sent=True)
        case aiohttp.ClientResponseError():
            cause = Cause(Kind.PROTOCOL, "bad_http", f"not HTTP: {error.message.strip()}")
            return HttpFailed(cause, sent=True)
        case _:
            cause = Cause(Kind.PROTOCOL, "bad_http", f"{type(error).__name__}: {error}")
            return HttpFailed(cause, sent=True)


_TLS_HINT = (
    "Holdfast never falls back to an unverified connection. Check this machine's clock, and "
    "whether something intercepts TLS."
)
_URL_HINT = "Correct the URL in the configuration."
