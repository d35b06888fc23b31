"""The Discord gateway: one WebSocket connection after the other, resumed where Discord allows it.

Order and opcodes: https://discord.com/developers/docs/events/gateway#connection-lifecycle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import (
    AdapterError,
    Continuity,
    Disconnect,
    Link,
    WebSocketClosed,
    decode,
)
from holdfast.adapters import discord_wire as wire
from holdfast.adapters.discord_api import Api
from holdfast.adapters.discord_history import catch_up
from holdfast.messages import Inbound
from holdfast.opcode_gateway import Frame, Hello, Op, Pace, StartLimit, Talk, resumable
from holdfast.supervision import Cause, Kind

QUERY = "v=10&encoding=json"

SLACK, GRACE = 20.0, 15.0
"""Seconds by which silence may outlast the heartbeat interval, and in which it is asked about:
a quiet gateway says nothing but the answers to heartbeats."""

LONGEST = 60.0
"""Seconds: no silence is longer, whatever the interval."""

RELOGIN_WAIT = 1.0
"""Seconds after op 9; the documentation once asked for a random 1 to 5."""

CLOSE_CODE = 4000
"""What our own close says: "When you close the connection to the gateway with the close code 1000
or 1001, your session will be invalidated" (gateway#initiating-a-disconnect)."""

_ONLINE = {"READY": Continuity.FRESH, "RESUMED": Continuity.RESUMED}
"""The two proofs of a working login."""

Read = Callable[[Link, str, msgspec.Raw], Inbound | None]
"""The message of an event, if it brings one for us."""


@dataclass(slots=True, kw_only=True)
class _Talk(Talk):
    limit: StartLimit
    beat: float = 0.0


class Gateway:
    """The gateway as one bot sees it.

    Kept over connections: when the next Identify is allowed, and which resume address is on trial.
    """

    def __init__(self, api: Api, token: Callable[[], str], intents: int, read: Read) -> None:
        self._api, self._token, self._intents, self._read = api, token, intents, read
        self._pace = Pace()
        self._on_trial: str | None = None

    async def run(self, link: Link) -> None:
        """One connection, from dial to end. Ready at READY or RESUMED, never before."""
        try:
            talk = await self._dial(link)
            await talk.converse(partial(self._take, talk))
        except WebSocketClosed as closed:
            cause = wire.close_cause(closed.code, closed.reason)
            raise Disconnect(await self._pace.settle(link, cause)) from closed
        except AdapterError as error:
            raise Disconnect(await self._pace.settle(link, error.cause)) from error

    async def _dial(self, link: Link) -> _Talk:
        # An address that has not led to a login since it was last dialled is not dialled again.
        url, limit = link.cursor.get("resume_url"), StartLimit()
        if not resumable(link) or url is None or url == self._on_trial:
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
        return _Talk(link=link, ws=ws, limit=limit)

    async def _ask(self, link: Link) -> wire.Gateway:
        gateway = (await self._api.ask(link.http, "/gateway/bot")).decode(wire.Gateway)
        exhausted = gateway.session_start_limit.exhausted(
            "discord_no_logins_left", "; one more resets the token"
        )
        if exhausted is not None and not resumable(link):
            raise Disconnect(exhausted)
        return gateway

    async def _take(self, talk: _Talk, frame: Frame) -> None:
        """Do what a frame asks for. Raises BadFrame, and Disconnect when it is the end."""
        match frame.op:
            case Op.DISPATCH:
                await self._dispatch(talk, frame)
            case Op.HELLO:
                talk.beat = decode(Hello, bytes(frame.d)).heartbeat_interval / 1000
                await self._log_in(talk)
            case Op.RECONNECT:
                message = "Discord asked for a new connection (op 7)"
                raise Disconnect(Cause(Kind.RECYCLED, "discord_reconnect_requested", message))
            case Op.INVALID_SESSION:
                raise Disconnect(_invalid(resumable=bytes(frame.d) == b"true"))

    async def _log_in(self, talk: _Talk) -> None:
        link, token = talk.link, self._token()
        if resumable(link):
            await talk.send_resume(token)
            return
        self._pace.identify(link, talk.limit)
        names = {"os": sys.platform, "browser": "holdfast", "device": "holdfast"}
        data = {"token": token, "intents": self._intents, "properties": names}
        await talk.send(Op.IDENTIFY, data)

    async def _dispatch(self, talk: _Talk, frame: Frame) -> None:
        """An event. Its number is stored with it, and told in a heartbeat only after that."""
        link, event = talk.link, frame.t
        seq, message = talk.reached(frame), None
        if event == "READY":
            ready = decode(wire.Ready, bytes(frame.d))
            link.cursor.update(
                session=ready.session_id, resume_url=ready.resume_gateway_url, bot=ready.user.id
            )
            await link.commit()
        elif event in wire.MESSAGE_EVENTS:
            if not talk.ready:
                link.step("replay")
            message = self._read(link, event, frame.d)
        await link.take(message, partial(self._stored, talk, seq, event))

    async def _stored(self, talk: _Talk, seq: int, event: str | None) -> None:
        talk.done = seq
        if event in _ONLINE:
            await self._online(talk, _ONLINE[event])

    async def _online(self, talk: _Talk, continuity: Continuity) -> None:
        self._on_trial, talk.ready = None, True
        talk.link.on_beat(talk.send_beat)
        talk.link.on_probe(talk.send_beat)
        silence = min(talk.beat + SLACK, LONGEST)
        talk.link.ready(continuity, beat=talk.beat, silence=silence, grace=GRACE, resumable=True)
        # The first heartbeat is due within one interval of Hello, at a random moment: this one is
        # as random as the moment of the attempt, and those of the supervisor count from here.
        await talk.send_beat()
        if continuity is Continuity.FRESH:
            await catch_up(self._api, talk.link)


def _invalid(*, resumable: bool) -> Cause:
    message = "Discord does not accept this session (op 9)"
    if resumable:
        return Cause(Kind.RECYCLED, "discord_invalid_session", message)
    return Cause(Kind.SESSION, "discord_invalid_session", message, retry_after=RELOGIN_WAIT)
