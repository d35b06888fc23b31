"""Web chat: a page served by the gateway itself, so that a bot can be tried with no account.

Its words are in `webchat_wire`, its visitors in `webchat_visitors`, the page in `webchat_page`.
Nothing is lost in either direction: the page repeats what was not stored, and the outbox repeats
what was not seen. The page must be reachable to be alive: the gateway visits it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

import msgspec

from holdfast.adapter import (
    Adapter,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
    HookRequest,
    Http,
    HttpFailed,
    Link,
    Liveness,
    Outcome,
    Secret,
    SendFailed,
    Settings,
    Tools,
    Traits,
    WebSocket,
    WebSocketClosed,
)
from holdfast.adapters import webchat_page as html
from holdfast.adapters import webchat_wire as wire
from holdfast.adapters.webchat_visitors import Tab, Visitor, Visitors
from holdfast.adapters.webchat_wire import Problem, Refusal
from holdfast.forgery import is_ours
from holdfast.messages import Attachment, Outbound, Receipt
from holdfast.supervision import Cause, Kind

BEAT, SILENCE, GRACE = 15.0, 60.0, 20.0
"""Seconds between two visits to our own page, and the longest time without a good one."""

HELLO_LIMIT = 10.0
"""Seconds a new WebSocket has to say who it is."""

AHEAD = 40
"""Messages of one page that may wait for the journal; a page of ours says one at a time."""

FAREWELL_LIMIT = 1.0
"""Seconds for the word why a page is sent away."""

SEEN_LIMIT, SLOWEST, LONGEST = 10.0, 200_000, 50.0
"""Seconds in which a page confirms a message, and bytes a second that a slow one takes in; below
the sender's own limit in any case."""

_UNREACHED = (
    "The gateway must reach its own page at `hook_listen`. If a proxy is in the way, set "
    '`proxy = ""` for this account.'
)


PATH = 'it begins with /, for example "/chat"; of signs it may hold / _ . ~ -'


class WebChatSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a chat page."""

    path: Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9/_.~-]*$", description=PATH)] = "/chat"
    """Path of the page on the gateway's web hook server; each account needs its own."""
    title: str = "Chat"
    """Title of the page."""
    bot: str = "Bot"
    """Name shown above the bot's messages."""
    token: Secret = Secret("")
    """What a visitor must know; the page asks for it, or takes it from ``?token=``. Without one,
    whoever can reach the page can talk to the bot."""
    allowed_origins: tuple[str, ...] = ()
    """The sites whose pages may connect, for example ``https://chat.example.org``; empty means the
    site the page itself comes from."""
    keep: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] = 86_400.0
    """Seconds for which answers wait for a visitor who is away; then they are dead letters."""


class WebChat(Adapter):
    """One chat page. Each browser is a private chat, named by a hash of its secret."""

    platform: ClassVar[str] = "webchat"
    Settings: ClassVar[type[Settings]] = WebChatSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("a visit to our own page, or any frame of a visitor", every=BEAT),
        max_text=wire.MAX_TEXT,
        replays=True,
        idempotent=math.inf,  # the page names what it has: the latest `wire.KNOWN` ids
        edits=True,
        typing=True,
    )

    def __init__(self, settings: WebChatSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._visitors = Visitors()
        self._listener = ""

    @property
    def endpoint(self) -> str:
        """The listener that serves the page, as far as it has been seen."""
        return self._listener

    @property
    def page(self) -> str:
        """Below the public address, or at the listener's own where there is no such address."""
        base = self._tools.hook_url or self._listener
        return base.rstrip("/") + self._settings.path if base else ""

    @property
    def identity(self) -> str:
        """The path: one page can not lead to two bots."""
        return f"webchat:{self._settings.path}"

    def _own_url(self, link: Link) -> str:
        return link.hooks_url + self._settings.path

    # -- the page -----------------------------------------------------------------------------

    async def run(self, link: Link) -> None:
        """See `Adapter.run`. Ready once the page has been reached over its own listener."""
        self._visitors.open(_now())
        proof, proven = secrets.token_hex(16), False
        async with link.hooks(self._settings.path) as requests, asyncio.TaskGroup() as tasks:
            self._listener = link.hooks_url
            visit = partial(_visit, link.http, self._own_url(link), proof)
            link.on_beat(visit)
            link.on_probe(visit)
            link.step("visit own page")
            tasks.create_task(visit(), name="webchat first visit")
            async for request in requests:
                link.alive()
                if request.query.get("ping") == proof:
                    request.respond(204)
                    if proven:
                        link.acked()
                    else:
                        link.ready(Continuity.CAUGHT_UP, beat=BEAT, silence=SILENCE, grace=GRACE)
                        proven = True
                elif self._wants_to_talk(link, request):
                    tasks.create_task(self._host(link, request, tasks), name="webchat visitor")

    def _wants_to_talk(self, link: Link, request: HookRequest) -> bool:
        """Whether it asks for a WebSocket and may have it; everything else is answered here."""
        if request.method not in ("GET", "HEAD"):
            request.respond(405, headers={"Allow": "GET, HEAD"})
        elif request.headers.get("upgrade", "").lower() != "websocket":
            request.respond(200, html.page(), "text/html", headers=html.headers())
        else:
            host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
            allowed = self._settings.allowed_origins
            if html.admitted(origin, host, self._tools.hook_url, allowed):
                return True
            link.skip("a WebSocket asked for by the page of another site")
            request.respond(403, b"This page may not connect: see `allowed_origins`.")
        return False

    # -- its visitors -------------------------------------------------------------------------

    async def _host(self, link: Link, request: HookRequest, tasks: asyncio.TaskGroup) -> None:
        """One page from its arrival to its end, whatever it does."""
        with contextlib.suppress(WebSocketClosed):
            ws = await request.upgrade()
            try:
                hello = await self._greeted(link, ws)
                if hello is not None:
                    await self._attend(link, ws, hello, tasks)
            finally:
                await ws.close()

    async def _greeted(self, link: Link, ws: WebSocket) -> wire.Hello | None:
        """Who is there; None if it had to be sent away."""
        hello: wire.FromPage | None = None
        with contextlib.suppress(TimeoutError, BadFrame):
            async with asyncio.timeout(HELLO_LIMIT):
                hello = wire.parse(await ws.receive())
        # A hello holds secrets: nothing of it may get into a log.
        if not isinstance(hello, wire.Hello):
            link.skip("a WebSocket that did not begin with a proper hello")
            await _send_away(ws, Refusal.HELLO)
            return None
        token = self._settings.token.reveal()
        if token and not is_ours(hello.token, token):
            link.skip("a visitor with a wrong token")
            await _send_away(ws, Refusal.TOKEN)
            return None
        return hello

    async def _attend(
        self, link: Link, ws: WebSocket, hello: wire.Hello, tasks: asyncio.TaskGroup
    ) -> None:
        chat, tab = wire.chat_of(hello.visitor), Tab(ws)
        visitor = self._visitors.enter(chat, tab, _now())
        if visitor is None:
            await _send_away(ws, Refusal.TABS)
            return
        visitor.saw(hello.seen)
        settings = self._settings
        tab.put(wire.Welcome(settings.title, settings.bot, wire.MAX_TEXT, wire.MAX_IN))
        said: asyncio.Queue[wire.Say] = asyncio.Queue(AHEAD)
        helpers = [
            tasks.create_task(tab.write(), name="webchat writer"),
            tasks.create_task(self._take_all(link, chat, tab, said), name="webchat intake"),
        ]
        try:
            link.recipient_back()
            async for raw in ws:
                link.alive()
                if not visitor.bucket.take(len(raw), _now()) or said.full():
                    link.skip("a flood of frames from one visitor")
                    await _send_away(ws, Refusal.FLOOD)
                    return
                self._hear(link, visitor, tab, said, raw)
        finally:
            for helper in helpers:
                helper.cancel()
            self._visitors.leave(chat, tab, _now(), settings.keep)

    def _hear(
        self,
        link: Link,
        visitor: Visitor,
        tab: Tab,
        said: asyncio.Queue[wire.Say],
        raw: str | bytes,
    ) -> None:
        try:
            frame = wire.parse(raw)
        except BadFrame:
            frame = None
        match frame:
            case wire.Say():
                said.put_nowait(frame)
            case wire.Seen(id=key):
                visitor.saw([key])
            case wire.Ping():
                tab.put(wire.Pong())
            case _:  # no sample for the log: it may hold the visitor's secret
                link.skip("a frame that is none of the page's")
                tab.put(wire.Error(Problem.FRAME))

    async def _take_all(
        self, link: Link, chat: str, tab: Tab, said: asyncio.Queue[wire.Say]
    ) -> None:
        """One after the other. A disk may take its time: meanwhile the page's pings are answered,
        or it would come again and again until it is one too many."""
        while (say := await said.get()) is not None:
            await self._take(link, chat, tab, say)

    async def _take(self, link: Link, chat: str, tab: Tab, say: wire.Say) -> None:
        """Store what a visitor says, then tell the page that it is safe."""
        problem = wire.problem(say)
        if problem is not None:
            link.skip(f"a visitor's message: {problem}")
            tab.put(wire.Error(problem, say.id))
            return
        await link.deliver(wire.inbound(chat, say, link.clock()))
        tab.put(wire.Stored(say.id))

    # -- to the visitors ----------------------------------------------------------------------

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. Accepted is what a page of the visitor has in its transcript."""
        frame = wire.message(message)
        visitor = self._visitors.get(message.chat)
        if visitor is not None and frame.id in visitor.seen:
            return Receipt(frame.id)
        if visitor is None or not visitor.tabs:
            raise self._absent(message.chat)
        size = sum(len(file.data) for file in frame.files)
        await visitor.show(frame, min(LONGEST, SEEN_LIMIT + size / SLOWEST))
        return Receipt(frame.id)

    def _absent(self, chat: str) -> SendFailed:
        away = self._visitors.away(chat, _now())
        if away <= self._settings.keep:
            text = "the visitor has no page open; the answer waits for him"
            cause = Cause(Kind.UNREACHABLE, "webchat_visitor_away", text)
            return SendFailed(Outcome.NOT_SENT, cause, away=True)
        text = f"the visitor has not been there for {away / 3600:.1f} hours"
        hint = "`keep` says how long answers wait."
        return SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, "webchat_visitor_gone", text, hint))

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """See `Adapter.typing`."""
        visitor = self._visitors.get(chat)
        for tab in visitor.tabs if visitor is not None else ():
            tab.put(wire.Typing())

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`. A file carries its content in its reference."""
        try:
            return wire.content(attachment)
        except BadFrame as error:
            cause = Cause(Kind.REFUSED, "webchat_no_such_file", f"{error}")
            raise SendFailed(Outcome.REFUSED, cause) from error

    async def check(self) -> Health:
        """See `Adapter.check`. There are no credentials, only an address that must be ours."""
        notes: list[str] = []
        if not self._settings.token:
            notes.append("no `token` is set: whoever can reach the page can talk to the bot")
        if self._tools.hook_url is None:
            return Health(f"the page at {self._settings.path}", notes=tuple(notes))
        url = self._tools.hook_url.rstrip("/") + self._settings.path
        try:
            reply = await self._tools.http.request("GET", url)
        except HttpFailed as error:
            notes.append(f"nobody answers there ({error.cause.message}): is the gateway running?")
            return Health(f"the page at {url}", notes=tuple(notes))
        if reply.status == 503:
            notes.append("the gateway answers, but its page is not served at the moment")
        elif reply.body != html.page():
            text = f"{url} is not our page: {reply.summary}"
            return Health(cause=Cause(Kind.UNREACHABLE, "webchat_not_our_page", text, _UNREACHED))
        return Health(f"the page at {url}", notes=tuple(notes))


async def _visit(http: Http, url: str, proof: str) -> None:
    """Ask for our own page over its real listener; the request's arrival is what counts."""
    try:
        reply = await http.request("GET", url, query={"ping": proof}, timeout=BEAT - 5.0)
    except HttpFailed as error:
        cause = replace(error.cause, hint=error.cause.hint or _UNREACHED)
        raise Disconnect(cause) from error
    if reply.status != 204:
        text = f"our own page was not reached: {reply.summary}"
        raise Disconnect(Cause(Kind.UNREACHABLE, "webchat_page_unreached", text, _UNREACHED))


async def _send_away(ws: WebSocket, why: Refusal) -> None:
    """Say why and let the caller close: the closing code is not ours to choose."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_LIMIT):
            await ws.send(wire.encode(wire.Refused(why)))


def _now() -> float:
    return asyncio.get_running_loop().time()
