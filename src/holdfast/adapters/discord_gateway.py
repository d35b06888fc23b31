"""The Discord gateway: one WebSocket connection after the other, resumed where Discord allows it.

Order and opcodes: https://discord.com/developers/docs/events/gateway#connection-lifecycle.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import (
    AdapterError,
    BadFrame,
    Continuity,
    Disconnect,
    Link,
    WebSocket,
    WebSocketClosed,
    decode,
)
from holdfast.adapters import discord_wire as wire
from holdfast.adapters.discord_api import Api
from holdfast.adapters.discord_wire import Op
from holdfast.supervision import Cause, Kind

QUERY = "v=10&encoding=json"

SLACK, GRACE = 20.0, 15.0
"""Seconds by which silence may outlast the heartbeat interval, and in which it is asked about:
a quiet gateway says nothing but the answers to heartbeats."""

IDENTIFY_WINDOW = 5.0
"""Seconds in which ``max_concurrency`` Identify calls are allowed (gateway#rate-limiting)."""

RELOGIN_WAIT = 1.0
"""Seconds after op 9; the documentation once asked for a random 1 to 5."""

CLOSE_CODE = 4000
"""What our own close says: "When you close the connection to the gateway with the close code 1000
or 1001, your session will be invalidated" (gateway#initiating-a-disconnect)."""

_ONLINE = {"READY": Continuity.FRESH, "RESUMED": Continuity.RESUMED}
"""The two proofs of a working login."""

Deliver = Callable[[Link, str, msgspec.Raw], Awaitable[None]]
"""Stores the message of an event, durably."""


@dataclass(slots=True)
class _Talk:
    """What one gateway connection has come to know."""

    link: Link
    ws: WebSocket
    limit: wire.StartLimit
    done: int | None = None
    """The last ``s`` whose event is stored: a heartbeat never claims more."""
    beat: float = 0.0
    ready: bool = False

    async def send(self, op: Op, data: object) -> None:
        await self.ws.send(msgspec.json.encode({"op": int(op), "d": data}).decode())

    async def send_beat(self) -> None:
        await self.send(Op.HEARTBEAT, self.done)


class Gateway:
    """The gateway as one bot sees it.

    Kept over connections: when the next Identify is allowed, and which resume address is on trial.
    """

    def __init__(self, api: Api, token: Callable[[], str], intents: int, deliver: Deliver) -> None:
        self._api, self._token, self._intents, self._deliver = api, token, intents, deliver
        self._identify_from = float("-inf")
        self._on_trial: str | None = None

    async def run(self, link: Link) -> None:
        """One connection, from dial to end. Ready at READY or RESUMED, never before."""
        try:
            await self._converse(await self._dial(link))
        except WebSocketClosed as closed:
            cause = wire.close_cause(closed.code, closed.reason)
            raise Disconnect(await self._end(link, cause)) from closed
        except AdapterError as error:
            raise Disconnect(await self._end(link, error.cause)) from error

    async def _dial(self, link: Link) -> _Talk:
        # An address that has not led to a login since it was last dialled is not dialled again.
        url, limit = link.cursor.get("resume_url"), wire.StartLimit()
        if not _resumable(link) or url is None or url == self._on_trial:
            link.step("gateway")
            gateway = await self._ask(link)
            url, limit = gateway.url, gateway.session_start_limit
        else:
            self._on_trial = url
        link.step("connect")
        parts = urlsplit(url)
        address = parts._replace(path=parts.path or "/", query=QUERY).geturl()
        ws = await link.websocket(address, close_code=CLOSE_CODE)
        link.step("hello")
        return _Talk(link, ws, limit)

    async def _ask(self, link: Link) -> wire.Gateway:
        gateway = (await self._api.ask(link.http, "/gateway/bot")).decode(wire.Gateway)
        limit = gateway.session_start_limit
        if limit.remaining <= 0 and not _resumable(link):
            message = f"all {limit.total} logins of the day are spent; one more resets the token"
            wait = limit.reset_after / 1000
            cause = Cause(Kind.THROTTLED, "discord_no_logins_left", message, retry_after=wait)
            raise Disconnect(cause)
        return gateway

    async def _converse(self, talk: _Talk) -> None:
        async for raw in talk.ws:
            try:
                frame = decode(wire.Frame, raw)
            except BadFrame as error:
                talk.link.skip(str(error), raw)
                continue
            match frame.op:
                case Op.DISPATCH:
                    await self._dispatch(talk, frame)
                case Op.HELLO:
                    talk.beat = decode(wire.Hello, bytes(frame.d)).heartbeat_interval / 1000
                    await self._log_in(talk)
                case Op.HEARTBEAT:
                    await talk.send_beat()
                case Op.HEARTBEAT_ACK:
                    talk.link.acked()
                case Op.RECONNECT:
                    message = "Discord asked for a new connection (op 7)"
                    raise Disconnect(Cause(Kind.RECYCLED, "discord_reconnect_requested", message))
                case Op.INVALID_SESSION:
                    raise Disconnect(_invalid(resumable=bytes(frame.d) == b"true"))

    async def _log_in(self, talk: _Talk) -> None:
        link, token = talk.link, self._token()
        if _resumable(link):
            link.step("resume")
            talk.done = link.cursor["seq"]
            session = link.cursor["session"]
            await talk.send(Op.RESUME, {"token": token, "session_id": session, "seq": talk.done})
            return
        link.step("identify")
        link.cursor.clear()  # in memory: what is stored changes with the new session
        limit = talk.limit
        link.logged_in(limit.remaining - 1, limit.total, limit.reset_after / 1000)
        spacing = IDENTIFY_WINDOW / max(1, limit.max_concurrency)
        self._identify_from = asyncio.get_running_loop().time() + spacing
        names = {"os": sys.platform, "browser": "holdfast", "device": "holdfast"}
        data = {"token": token, "intents": self._intents, "properties": names}
        await talk.send(Op.IDENTIFY, data)

    async def _dispatch(self, talk: _Talk, frame: wire.Frame) -> None:
        """An event. Its number is stored with it, and told in a heartbeat only after that."""
        link, event = talk.link, frame.t
        link.cursor["seq"] = seq = max(frame.s or 0, talk.done or 0)
        if event == "READY":
            ready = decode(wire.Ready, bytes(frame.d))
            link.cursor.update(
                session=ready.session_id, resume_url=ready.resume_gateway_url, bot=ready.user.id
            )
            await link.commit()
        elif event in wire.MESSAGE_EVENTS:
            if not talk.ready:
                link.step("replay")
            await self._deliver(link, event, frame.d)
        talk.done = seq
        if event in _ONLINE:
            await self._online(talk, _ONLINE[event])

    async def _online(self, talk: _Talk, continuity: Continuity) -> None:
        self._on_trial, talk.ready = None, True
        talk.link.on_beat(talk.send_beat)
        talk.link.on_probe(talk.send_beat)
        silence = talk.beat + SLACK
        talk.link.ready(continuity, beat=talk.beat, silence=silence, grace=GRACE, resumable=True)
        # The first heartbeat is due within one interval of Hello, at a random moment: this one is
        # as random as the moment of the attempt, and those of the supervisor count from here.
        await talk.send_beat()

    async def _end(self, link: Link, cause: Cause) -> Cause:
        """What the end of a connection leaves behind for the next one."""
        if cause.kind is Kind.SESSION:
            link.cursor.clear()
            await link.commit()
        spacing = self._identify_from - asyncio.get_running_loop().time()
        if "session" in link.cursor or spacing <= (cause.retry_after or 0.0):
            return cause
        return replace(cause, retry_after=spacing)


def _resumable(link: Link) -> bool:
    return link.resume and {"session", "seq"} <= link.cursor.keys()


def _invalid(*, resumable: bool) -> Cause:
    message = "Discord does not accept this session (op 9)"
    if resumable:
        return Cause(Kind.RECYCLED, "discord_invalid_session", message)
    return Cause(Kind.SESSION, "discord_invalid_session", message, retry_after=RELOGIN_WAIT)
