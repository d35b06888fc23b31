"""Who may ask what over TCP: hosts, tokens, sessions, origins and bodies, each refusal counted.

Without a token the server listens on loopback only, and every program of this machine may act.
Three things still keep strange web pages out, which a browser on this machine would let in: names
that are not ours are refused (DNS rebinding), requests that change something must come from our own
pages, and nothing is ever allowed across origins.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from urllib.parse import urlsplit

from aiohttp import web

from holdfast.config import WebSettings, is_loopback
from holdfast.forgery import netloc_of
from holdfast.web.answers import Handler, as_json
from holdfast.web.history_api import WHO
from holdfast.web.routes import operation_of
from holdfast.web.sessions import SESSION_LIFE, Guesses, Session, Sessions, same

log = logging.getLogger("holdfast.web")

MAX_BODY = 256 * 1024
"""Bytes of a request's body; the longest text any platform takes is below 100 KiB."""

BODY_LIMIT = 10.0
"""Seconds in which a body must have come."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing (RFC 9110, 9.2.1); of the others of that kind none is served."""

OPEN = frozenset({"/livez", "/readyz", "/login"})
"""What needs no token; the probes say no more than their status without one."""

STATIC = "/static/"
"""Below it are the files of the program itself, the same for everybody: open as well."""


class Refusal(StrEnum):
    """Why a request or a connection was refused; the label of the counter."""

    TOKEN = "token"
    """A wrong one."""
    GUESSES = "guesses"
    """Too many wrong ones from there, or in all."""
    ANONYMOUS = "anonymous"
    """No token at all, and no session."""
    HOST = "host"
    """A name that is not ours."""
    ORIGIN = "origin"
    """An action asked for by a foreign page."""
    BODY = "body"
    """Too large, too slow, broken, or given up by its sender."""
    HTTP = "http"
    """What came was no HTTP."""
    PATH = "path"
    """Nothing is there."""
    SLOW = "slow"
    """Connections whose request did not come in time."""
    CONNECTIONS = "connections"
    """Connections that were one too many."""


class Guard:
    """Decides on every request before anything else looks at it."""

    def __init__(self, settings: WebSettings, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds that only grow."""
        self.refused: Counter[Refusal] = Counter()
        self.sessions = Sessions(clock)
        self._guesses = Guesses(clock)
        self._token = settings.token
        self._url = urlsplit(settings.url or "")
        host = settings.listen.rpartition(":")[0]
        self._names = _names(host, self._url.hostname) if is_loopback(host) else None
        self.cookie = "__Host-holdfast" if self.secure else "holdfast"

    @property
    def secure(self) -> bool:
        """Whether people reach us by https."""
        return self._url.scheme == "https"

    # -- every request ------------------------------------------------------------------------

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, or let the handlers know who asks (`WHO`) and hand over the whole body."""
        if self._names is not None and _host(request) not in self._names:
            what = f"{request.headers.get('Host', '')!r} is not a name of this gateway"
            return self.refuse(Refusal.HOST, 421, what, "set [web] url to the name it is called by")
        if (wait := self.wait(request)) and "Authorization" in request.headers:
            return self.too_often(wait)
        who = self._who(request)
        if who is None and not is_open(request.path):
            return self._stranger(request)
        if request.method not in SAFE and not self._is_own(request):
            what, hint = "this comes from a foreign page", "use the gateway's own, or a token"
            return self.refuse(Refusal.ORIGIN, 403, what, hint)
        if (refusal := await self._body(request)) is not None:
            return refusal
        request[WHO] = who or f"stranger {_address(request)}"
        request[KNOWN] = who is not None
        request[ADMITTED] = lambda: self._is_still_known(request)
        response = await handler(request)
        if response.status == 404 and operation_of(request) is None:
            self.refused[Refusal.PATH] += 1
        return response

    def refuse(
        self, why: Refusal, status: int, error: str, hint: str, **headers: str
    ) -> web.Response:
        """Count, and say why."""
        self.refused[why] += 1
        response = as_json({"error": error, "hint": hint}, status)
        response.headers.update({name.replace("_", "-"): text for name, text in headers.items()})
        return response

    def _stranger(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
            return web.Response(status=303, headers={"Location": "/login"})
        tried = _bearer(request) is not None
        why = Refusal.TOKEN if tried else Refusal.ANONYMOUS
        what = "the token is wrong" if tried else "this needs the token of [web]"
        hint = "send it as `Authorization: Bearer TOKEN`, or log in at /login"
        return self.refuse(why, 401, what, hint, WWW_Authenticate="Bearer")

    # -- who ----------------------------------------------------------------------------------

    def _who(self, request: web.Request) -> str | None:
        address = _address(request)
        if self._token is None:
            return f"loopback {address}"
        if _bearer(request) is not None:
            return f"token {address}" if self.knock(request, _bearer(request) or "") else None
        session = self._session(request)
        return f"session {session.id} {address}" if session is not None else None

    def _session(self, request: web.Request) -> Session | None:
        return self.sessions.find(request.cookies.get(self.cookie, ""))

    def _is_still_known(self, request: web.Request) -> bool:
        """Whether who was known once still is: the token stays the same, a session ends."""
        shown = self._token is None or _bearer(request) is not None
        return shown or self._session(request) is not None

    def wait(self, request: web.Request) -> float:
        """Seconds until the caller may try a token again."""
        return 0.0 if self._token is None else self._guesses.wait(_address(request))

    def knock(self, request: web.Request, token: str) -> bool:
        """Whether a token is the right one; a wrong one counts as a guess."""
        assert self._token is not None
        address = _address(request)
        if same(token, self._token.reveal()):
            self._guesses.right(address)
            return True
        self._guesses.wrong(address)
        log.warning("wrong token address=%s path=%s", address, request.path)
        return False

    def too_often(self, wait: float) -> web.Response:
        """What a guesser gets."""
        seconds = math.ceil(wait)
        what = "too many wrong tokens"
        hint = f"wait {seconds} s"
        return self.refuse(Refusal.GUESSES, 429, what, hint, Retry_After=str(seconds))

    @property
    def needs_token(self) -> bool:
        """Whether there is a token at all."""
        return self._token is not None

    # -- sessions -----------------------------------------------------------------------------

    def log_in(self, request: web.Request, response: web.StreamResponse) -> None:
        """Begin a session with the browser that gets this answer."""
        log.info("logged in address=%s", _address(request))
        response.set_cookie(
            self.cookie,
            self.sessions.begin(),
            max_age=int(SESSION_LIFE),
            httponly=True,
            samesite="Strict",
            secure=self.secure,
            path="/",
        )

    def log_out(self, request: web.Request, response: web.StreamResponse) -> None:
        """End the caller's session."""
        self.sessions.end(request.cookies.get(self.cookie, ""))
        response.del_cookie(self.cookie, path="/", secure=self.secure, httponly=True)

    # -- origins and bodies -------------------------------------------------------------------

    def _is_own(self, request: web.Request) -> bool:
        """Whether an action is asked for by a page of ours, or by no page at all.

        Browsers say where a request comes from, and pages can not forge it; programs say nothing.
        The order is that of Go's ``http.CrossOriginProtection``.
        """
        if _bearer(request) is not None:
            return True  # no browser adds it by itself
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None:
            return site == "same-origin"
        origin = request.headers.get("Origin")
        if origin is not None:
            ours = {request.headers.get("Host", "").lower(), self._url.netloc.lower()} - {""}
            return netloc_of(origin) in ours
        return self.cookie not in request.cookies

    async def _body(self, request: web.Request) -> web.Response | None:
        """Read it as a whole, so that no handler ever waits for a caller."""
        if not request.body_exists:
            return None
        try:
            if (request.content_length or 0) <= MAX_BODY:
                async with asyncio.timeout(BODY_LIMIT):
                    await request.read()
                return None
        except web.HTTPRequestEntityTooLarge:
            pass
        except TimeoutError:
            return self._cut(request, 408, f"the body did not come within {BODY_LIMIT:g} s")
        except (web.RequestPayloadError, OSError):  # or its sender has left
            return self._cut(request, 400, "the body is broken")
        return self._cut(request, 413, f"the body is larger than {MAX_BODY} bytes")

    def _cut(self, request: web.Request, status: int, error: str) -> web.Response:
        response = self.refuse(Refusal.BODY, status, error, "", Connection="close")
        response.force_close()
        return response


KNOWN = web.RequestKey("known", bool)
"""Whether the caller may see details."""

ADMITTED: web.RequestKey[Callable[[], bool]] = web.RequestKey("admitted")
"""Whether a caller who was let in would still be, for answers that take days."""


def is_open(path: str) -> bool:
    """Whether a path needs no token."""
    return path in OPEN or path.startswith(STATIC)


def _names(host: str, public: str | None) -> frozenset[str]:
    return frozenset({"localhost", "127.0.0.1", "::1", host.strip("[]").lower(), public or "::1"})


def _host(request: web.Request) -> str:
    try:
        return urlsplit("//" + request.headers.get("Host", "")).hostname or ""
    except ValueError:
        return ""


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _address(request: web.Request) -> str:
    """Whom guesses are counted for: an IPv6 caller has a whole /64 to itself."""
    try:
        address = ipaddress.ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return request.remote or "unknown"
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
