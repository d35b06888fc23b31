"""A platform that exists only here: JSON over one WebSocket, sends over HTTP, scripted misdeeds.

``Parrot`` is what an adapter of about a hundred lines looks like; ``Aviary`` is its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, Self

from aiohttp import WSMsgType, web

from holdfast.adapter import (
    Adapter,
    Continuity,
    Disconnect,
    Health,
    Link,
    Liveness,
    Outcome,
    Secret,
    SendFailed,
    Settings,
    Traits,
    WebSocketClosed,
    decode,
    http_cause,
)
from holdfast.messages import Inbound, Outbound, Receipt
from holdfast.supervision import Cause, Kind

Talk = web.WebSocketResponse
Script = Callable[["Aviary", Talk], Awaitable[None]]


class ParrotSettings(Settings, frozen=True, kw_only=True):
    """The settings of a parrot."""

    url: str
    token: Secret = Secret("polly-secret")
    bot: str = "polly"


class Parrot(Adapter):
    """Identify, be ready, repeat."""

    platform = "parrot"
    traits: ClassVar[Traits] = Traits(liveness=Liveness("any frame", 30.0), max_text=100)
    Settings = ParrotSettings
    HUMAN: ClassVar[dict[int, Kind]] = {4004: Kind.CREDENTIALS, 4008: Kind.THROTTLED}

    def __init__(self, settings: ParrotSettings, tools: Any) -> None:
        super().__init__(settings, tools)
        self.settings = settings

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        ws = await link.websocket(self.settings.url.replace("http", "ws") + "/ws")
        link.step("hello")
        beat = json.loads(await ws.receive())["beat"]
        link.step("ready")
        link.logged_in()
        await ws.send(json.dumps({"op": "identify", "resume": link.resume, **link.cursor}))
        json.loads(await ws.receive())

        async def send_beat() -> None:
            await ws.send(json.dumps({"op": "beat"}))

        if beat:
            link.on_beat(send_beat)
        link.ready(Continuity.RESUMED if link.resume else Continuity.FRESH, beat=beat)
        async for raw in ws:
            frame = decode(dict[str, Any], raw)
            match frame["op"]:
                case "ack":
                    link.acked()
                case "bye":
                    raise Disconnect(Cause(Kind(frame["kind"]), "parrot_bye", "the peer said bye"))
                case "leaving":
                    link.going_away("the peer is about to leave")
                case "say":
                    link.cursor["seq"] = frame["id"]
                    stored = json.dumps({"op": "stored", "id": frame["id"]})
                    await link.take(
                        Inbound(id=frame["id"], chat=frame["chat"], sender="u", text=frame["text"]),
                        partial(ws.send, stored),
                    )

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        reply = await self.tools.http.request(
            "POST",
            f"{self.settings.url}/send",
            json={"chat": message.chat, "text": message.text, "key": message.key},
        )
        if reply.status != 200:
            raise SendFailed(Outcome.NOT_SENT, http_cause(reply, "parrot"))
        return Receipt(reply.decode(dict[str, str])["id"])

    async def check(self) -> Health:
        """See `Adapter.check`."""
        return Health(identity=self.settings.bot)

    def classify(self, error: BaseException) -> Cause | None:
        """See `Adapter.classify`."""
        if isinstance(error, WebSocketClosed) and error.code in self.HUMAN:
            after = 120.0 if error.code == 4008 else None
            kind = self.HUMAN[error.code]
            return Cause(kind, f"parrot_close_{error.code}", str(error), retry_after=after)
        return None

    @property
    def endpoint(self) -> str:
        """See `Adapter.endpoint`."""
        return self.settings.url

    @property
    def identity(self) -> str:
        """See `Adapter.identity`."""
        return self.settings.bot


class Aviary:
    """The parrots' server. ``script`` holds what the next connections meet; then `good`."""

    def __init__(self, *, beat: float | None = None) -> None:
        self.beat = beat
        self.acks = True
        self.script: deque[Script] = deque()
        self.talks: list[Talk] = []
        self.open = 0
        self.opened = 0
        self.logins: list[dict[str, Any]] = []
        self.beats: list[tuple[int, float]] = []
        """Connection number and moment of every heartbeat."""
        self.stored: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Awaitable[web.Response | None]] | None = None
        self.url = ""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of an account here."""
        return {"platform": "parrot", "url": self.url}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/ws", self._talk)
        app.router.add_post("/send", self._send)
        app.router.add_route("*", "/", self._root)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def say(self, id: str, text: str = "hi", chat: str = "c") -> None:
        """A user says something on the newest connection."""
        frame = {"op": "say", "id": id, "chat": chat, "text": text}
        await self.talks[-1].send_str(json.dumps(frame))

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        talk = Talk(timeout=0.1)
        await talk.prepare(request)
        self.talks.append(talk)
        self.opened += 1
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError):
                await (self.script.popleft() if self.script else good)(self, talk)
        finally:
            self.open -= 1
        return talk

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text="parrots")

    async def _send(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.answer is not None and (reply := await self.answer(body)) is not None:
            return reply
        self.sent.append(body)
        return web.json_response({"id": f"s{len(self.sent)}"})


async def good(aviary: Aviary, talk: Talk) -> None:
    """Log in and listen for as long as the other side wants."""
    number = aviary.opened
    await talk.send_json({"op": "hello", "beat": aviary.beat})
    aviary.logins.append(await talk.receive_json())
    await talk.send_json({"op": "ready"})
    async for message in talk:
        if message.type is not WSMsgType.TEXT:
            continue
        frame = json.loads(message.data)
        if frame["op"] == "beat":
            aviary.beats.append((number, asyncio.get_running_loop().time()))
            if aviary.acks:
                await talk.send_json({"op": "ack"})
        elif frame["op"] == "stored":
            aviary.stored.append(frame["id"])


async def mute(aviary: Aviary, talk: Talk) -> None:
    """Accept, and never say a word."""
    async for _ in talk:
        pass


def closes(code: int) -> Script:
    """Close at once with a code."""

    async def script(aviary: Aviary, talk: Talk) -> None:
        await talk.send_json({"op": "hello", "beat": None})
        await talk.receive()
        await talk.close(code=code)

    return script
