"""A platform that exists only here: its test server, adapter and bench, an afternoon's work.

JSON over one WebSocket. The server keeps a message until it is acknowledged and sends what is left
after each login; sends go over HTTP and are recognised by their key.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, ClassVar

from aiohttp import web

from holdfast.adapter import (
    Adapter,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
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
    decode,
    http_cause,
)
from holdfast.conformance import Bench, Ending, Need, arm
from holdfast.lab.simulator import Heard, Said, Simulator
from holdfast.messages import Inbound, Outbound, Receipt
from holdfast.supervision import Cause, Kind

BEAT = 15.0
CODES = {4001: Kind.CREDENTIALS, 4002: Kind.REPLACED, 4003: Kind.THROTTLED}

NOTICE_PERIOD = 3.0
"""Seconds between the announcement of an end and the end."""


class Perch(Simulator):
    """The parrots' server."""

    platform = "parrot"
    FAULTS = {  # noqa: RUF012  annotated in the base class
        "mute_login": "a login is never answered",
        "refuse": "a login is closed with `code`",
        "twice": "a message is sent twice",
        "late": "a message is overtaken by the next one",
        "noise": "what is not JSON precedes a message",
        "answer_lost": "a send is taken, then the connection is cut",
    }

    def __init__(self) -> None:
        super().__init__()
        self.links: list[web.WebSocketResponse] = []
        self.revoked = False
        self._kept: dict[str, dict[str, Any]] = {}
        self._late: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()

    def routes(self, app: web.Application) -> None:
        """One WebSocket and one call."""
        app.router.add_get("/ws", self._talk)
        app.router.add_post("/send", self._send)
        app.router.add_get("/me", self._me)

    def account(self) -> dict[str, Any]:
        """One URL and a secret."""
        return {"platform": "parrot", "url": self.url, "token": "cracker"}

    def listening(self) -> bool:
        """Whether a link is logged in."""
        return any(not link.closed for link in self.links)

    async def on_stop(self) -> None:
        """End what runs."""
        for task in self._work:
            task.cancel()

    # -- users and faults -------------------------------------------------------------------------

    def say(self, text: str, *, chat: str = "ann", sender: str = "ann", group: bool = False) -> str:
        """A user writes."""
        said = Said(id=f"m{len(self.said) + 1}", chat=chat, sender=sender, text=text, at=self.now())
        self.said.append(said)
        frame = {"op": "say", "id": said.id, "chat": chat, "text": text}
        self._kept[said.id] = frame
        if self.faults.take("late") is not None:
            self._late.append(frame)
            return said.id
        frames = [frame, *self._late]
        self._late.clear()
        for link in self.links[-1:]:
            self._spawn(self._give(link, frames))
        return said.id

    def revoke(self) -> None:
        """The token is bad from now on."""
        self.revoked = True
        self.close_all(4001)

    def restore(self) -> None:
        """The token is good again."""
        self.revoked = False

    def close_all(self, code: int) -> None:
        """End every link."""
        for link in self.links:
            self._spawn(_close(link, code))

    def forget(self) -> None:
        """Keep nothing of what was said."""
        self._kept.clear()

    def goodbye(self) -> None:
        """Ask for a reconnect and close."""
        for link in self.links:
            self._spawn(_goodbye(link, 0.0))

    def notice(self) -> None:
        """Announce the end."""
        for link in self.links[-1:]:
            self._spawn(_goodbye(link, NOTICE_PERIOD))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _give(self, link: web.WebSocketResponse, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            if self.faults.take("noise") is not None:
                await _tell(link, "{polly wants")
            for _ in range(1 if self.faults.take("twice") is None else 2):
                await _tell(link, json.dumps(frame))

    # -- calls ------------------------------------------------------------------------------------

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        link = web.WebSocketResponse(timeout=0.5)
        await link.prepare(request)
        login = await link.receive()
        if login.type is not web.WSMsgType.TEXT:
            return link
        if self.faults.take("mute_login") is not None:
            await link.receive()
        elif self.revoked:
            await link.close(code=4001)
        elif (fault := self.faults.take("refuse")) is not None:
            await link.close(code=fault["code"])
        else:
            await self._converse(link, skip=json.loads(login.data).get("skip", False))
        return link

    async def _converse(self, link: web.WebSocketResponse, *, skip: bool) -> None:
        await _tell(link, json.dumps({"op": "ready"}))
        self.links.append(link)
        try:
            if skip:
                self._kept.clear()
            await self._give(link, list(self._kept.values()))
            async for message in link:
                match json.loads(message.data):
                    case {"op": "ping"}:
                        await _tell(link, json.dumps({"op": "pong"}))
                    case {"op": "ack", "id": id}:
                        self._kept.pop(id, None)
        finally:
            self.links.remove(link)

    async def _send(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["key"] not in self._keys:
            self._keys.add(body["key"])
            self.hear(Heard(id=body["key"], chat=body["chat"], text=body["text"], at=self.now()))
        if self.faults.take("answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        return web.json_response({"id": body["key"]})

    async def _me(self, request: web.Request) -> web.Response:
        return web.Response(status=401 if self.revoked else 200)


async def _tell(link: web.WebSocketResponse, text: str) -> None:
    if not link.closed:
        await link.send_str(text)


async def _close(link: web.WebSocketResponse, code: int) -> None:
    await link.close(code=code)


async def _goodbye(link: web.WebSocketResponse, notice: float) -> None:
    await _tell(link, json.dumps({"op": "leaving" if notice else "bye"}))
    await asyncio.sleep(notice)
    await link.close(code=1001)


class ParrotSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a parrot."""

    url: str
    token: Secret


class Parrot(Adapter):
    """The adapter."""

    platform = "parrot"
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("a pong", BEAT), max_text=100, replays=True, idempotent=math.inf
    )
    Settings = ParrotSettings
    continuity = Continuity.CAUGHT_UP

    def __init__(self, settings: ParrotSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        self.settings = settings

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        link.step("connect")
        ws = await link.websocket(self.settings.url.replace("http", "ws") + "/ws")
        link.step("login")
        await ws.send(json.dumps(self.login()))
        decode(dict[str, Any], await ws.receive())

        async def beat() -> None:
            await ws.send(json.dumps({"op": "ping"}))

        link.on_beat(beat)
        link.on_probe(beat)
        link.ready(self.continuity, beat=BEAT, silence=3 * BEAT)
        async for raw in ws:
            try:
                frame = decode(dict[str, Any], raw)
            except BadFrame as error:
                self.bad(link, error)
            else:
                await self.take(link, ws, frame)

    def login(self) -> dict[str, Any]:
        """The first frame."""
        return {"op": "login", "token": self.settings.token.reveal()}

    def bad(self, link: Link, error: BadFrame) -> None:
        """A frame that makes no sense."""
        link.skip(str(error))

    async def take(self, link: Link, ws: WebSocket, frame: dict[str, Any]) -> None:
        """One frame."""
        match frame["op"]:
            case "pong":
                link.acked()
            case "bye":
                raise Disconnect(Cause(Kind.RECYCLED, "parrot_bye", "the parrots are moving"))
            case "leaving":
                link.going_away("the parrots will be moving")
            case "say":
                await self.message(link, ws, frame)

    async def message(self, link: Link, ws: WebSocket, frame: dict[str, Any]) -> None:
        """Store, then acknowledge."""
        await link.deliver(self.inbound(frame))
        await ws.send(json.dumps({"op": "ack", "id": frame["id"]}))

    def inbound(self, frame: dict[str, Any]) -> Inbound:
        """A message as the gateway knows it."""
        return Inbound(id=frame["id"], chat=frame["chat"], sender="u", text=frame["text"])

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
        reply = await self.tools.http.request("GET", f"{self.settings.url}/me")
        good = reply.status == 200
        return Health("polly", None if good else Cause(Kind.CREDENTIALS, "parrot_401"))

    def classify(self, error: BaseException) -> Cause | None:
        """See `Adapter.classify`."""
        if isinstance(error, WebSocketClosed) and error.code in CODES:
            return Cause(CODES[error.code], f"parrot_close_{error.code}", str(error))
        return None

    @property
    def identity(self) -> str:
        """See `Adapter.identity`."""
        return "polly"


def bench(
    adapter: type[Parrot] = Parrot, server: type[Perch] = Perch, **others: Any
) -> Bench[Perch]:
    """The bench of an adapter on a perch."""
    return Bench[Perch](
        adapter=adapter,
        server=server,
        faults={
            Need.STALL_LOGIN: "mute_login",
            Need.REVOKE: Perch.revoke,
            Need.REPAIR: Perch.restore,
            Need.REPLACED: replace,
            Need.THROTTLE: arm("refuse", code=4003),
            Need.GOODBYE: Perch.goodbye,
            Need.NOTICE: Perch.notice,
            Need.DUPLICATE: "twice",
            Need.REORDER: arm("late", times=1),
            Need.BAD_FRAME: "noise",
            Need.LOSE_SEND_ANSWER: arm("answer_lost", times=1),
        },
        endings=[
            *(Ending(str(c), kind, arm("refuse", code=c)) for c, kind in CODES.items()),
            Ending("1001", Kind.LOST, lambda perch: perch.close_all(1001)),
        ],
        **others,
    )


def replace(perch: Perch) -> None:
    """Another client takes the account over, and again at every login."""
    perch.faults.arm("refuse", times=None, code=4002)
    perch.close_all(4002)


PARROT = bench()
