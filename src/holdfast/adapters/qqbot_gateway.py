"""The QQ gateway: one WebSocket connection after the other, resumed where QQ allows it.

Opcodes and order: https://bot.q.qq.com/wiki (api-v2/dev-prepare/interface-framework/event-emit).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from holdfast.adapter import (
    AdapterError,
    Continuity,
    Disconnect,
    Link,
    WebSocketClosed,
    decode,
)
from holdfast.adapters import qqbot_wire as wire
from holdfast.adapters.qqbot_api import Api
from holdfast.adapters.qqbot_wire import Close
from holdfast.messages import Inbound
from holdfast.opcode_gateway import Frame, Hello, Op, Pace, Talk, resumable
from holdfast.supervision import Cause, Kind

BEAT, SILENCE = 30.0, 60.0
"""Seconds. The official Python SDK beats every 30 s whatever Hello says, and QQ tolerates it."""

LAST_WORD = 1.0
"""Seconds in which a close code may follow op 9 (in production at once): it says more."""

Read = Callable[[Link, str, msgspec.Raw], Inbound | None]
"""The message of an event, if it brings one for us."""


@dataclass(slots=True, kw_only=True)
class _Talk(Talk):
    address: wire.Gateway
    token: str
    intents: int
    beat: float = BEAT
    identified: bool = False
    rejected: bool = False
    """Op 9 came and did not offer to resume."""


class Gateway:
    """The gateway as one bot sees it.

    Kept over connections: the address while it serves, when the next Identify is allowed, and
    whether the last one was refused for its intents.
    """

    def __init__(self, api: Api, intents: int, read: Read) -> None:
        self._api, self._intents, self._read = api, intents, read
        self._address: wire.Gateway | None = None
        self._pace = Pace()
        self._degrade = False
        self.degraded = False
        """Whether the last login got fewer intents than the configuration asks for."""

    async def run(self, link: Link) -> None:
        """One connection, from dial to end. Ready at READY or RESUMED, never before."""
        talk = None
        try:
            talk = await self._dial(link)
            await talk.converse(partial(self._take, talk))
        except WebSocketClosed as closed:
            cause = wire.close_cause(closed.code, closed.reason)
            raise Disconnect(await self._end(link, talk, cause)) from closed
        except AdapterError as error:
            raise Disconnect(await self._end(link, talk, error.cause)) from error

    async def _dial(self, link: Link) -> _Talk:
        link.step("token")
        token = await self._api.token.get(link.http)
        # Taken out until it has led to a login: an address that fails is asked for anew.
        address, self._address = self._address, None
        if address is None:
            link.step("gateway")
            address = await self._ask(link)
        link.step("connect")
        ws = await link.websocket(address.url)
        link.step("hello")
        intents = self.fewer if self._degrade else self._intents
        return _Talk(link=link, ws=ws, address=address, token=token, intents=intents)

    async def _ask(self, link: Link) -> wire.Gateway:
        gateway = (await self._api.ask(link.http, "/gateway/bot")).decode(wire.Gateway)
        limit = gateway.session_start_limit
        exhausted = limit.exhausted("qq_no_logins_left") if limit else None
        if exhausted is not None and not resumable(link):
            raise Disconnect(exhausted)
        return gateway

    async def _take(self, talk: _Talk, frame: Frame) -> None:
        """Do what a frame asks for. Raises BadFrame, and Disconnect when it is the end."""
        match frame.op:
            case Op.DISPATCH:
                await self._dispatch(talk, frame)
            case Op.HELLO:
                interval = decode(Hello, bytes(frame.d)).heartbeat_interval
                talk.beat = min(BEAT, interval / 1000)
                await self._log_in(talk)
            case Op.RECONNECT:
                message = "QQ asked for a new connection (op 7)"
                raise Disconnect(Cause(Kind.RECYCLED, "qq_reconnect_requested", message))
            case Op.INVALID_SESSION:
                talk.rejected = bytes(frame.d) != b"true"
                raise Disconnect(await _last_word(talk))

    async def _log_in(self, talk: _Talk) -> None:
        link, token = talk.link, f"QQBot {talk.token}"
        if resumable(link):
            await talk.send_resume(token)
            return
        self._pace.identify(link, talk.address.session_start_limit)
        self._degrade, talk.identified = False, True
        data = {"token": token, "intents": talk.intents, "shard": [0, 1], "properties": {}}
        await talk.send(Op.IDENTIFY, data)

    async def _dispatch(self, talk: _Talk, frame: Frame) -> None:
        """An event. Its number is stored with it, and told in a heartbeat only after that."""
        link, event = talk.link, frame.t
        seq, message = talk.reached(frame), None
        if event == "READY":
            ready = decode(wire.Ready, bytes(frame.d))
            link.cursor.update(session=ready.session_id, bot=ready.user.id)
            await link.commit()
        elif event in wire.SCENES:
            if not talk.ready:
                link.step("replay")
            message = self._read(link, event, frame.d)
        await link.take(message, partial(self._stored, talk, seq, event))

    async def _stored(self, talk: _Talk, seq: int, event: str | None) -> None:
        talk.done = seq
        if event == "READY":
            self.degraded = talk.intents != self._intents
            self._online(talk, Continuity.FRESH)
        elif event == "RESUMED":
            self._online(talk, Continuity.RESUMED)

    def _online(self, talk: _Talk, continuity: Continuity) -> None:
        # It serves; what it said of the login limit is old from now on.
        self._address = wire.Gateway(talk.address.url)
        talk.ready = True
        talk.link.on_beat(talk.send_beat)
        talk.link.on_probe(talk.send_beat)
        talk.link.ready(continuity, beat=talk.beat, silence=SILENCE, resumable=True)

    # -- the end ------------------------------------------------------------------------------

    async def _end(self, link: Link, talk: _Talk | None, cause: Cause) -> Cause:
        """What the end of a connection leaves behind for the next one."""
        if talk is not None and talk.identified and not talk.ready:
            cause = self._judge_intents(talk, cause)
        if cause.code == f"qq_close_{Close.BAD_TOKEN}":
            self._api.token.forget()
            self._address = None  # so that the next token is tried on the API first
        return await self._pace.settle(link, cause)

    @property
    def fewer(self) -> int:
        """The intents of the degraded try."""
        return self._intents & wire.ESSENTIAL

    def _judge_intents(self, talk: _Talk, cause: Cause) -> Cause:
        """A refused Identify may be about its intents: the next one asks for fewer, once."""
        about = (f"qq_close_{Close.BAD_INTENT}", f"qq_close_{Close.INTENT_DENIED}")
        maybe = cause.code in about or (talk.rejected and cause.kind is Kind.SESSION)
        if not maybe or self.fewer in (0, talk.intents):
            return cause
        self._degrade = True
        message = f"the login was refused ({cause.code}); trying once with fewer intents"
        return Cause(Kind.SESSION, "qq_intents_refused", message)


async def _last_word(talk: _Talk) -> Cause:
    """Why op 9 came: the close code behind it, if one comes and is documented."""
    kind = Kind.SESSION if talk.rejected else Kind.RECYCLED
    cause = Cause(kind, "qq_invalid_session", "QQ does not accept this session (op 9)")
    try:
        async with asyncio.timeout(LAST_WORD):
            await talk.ws.receive()
    except WebSocketClosed as closed:
        last = wire.close_cause(closed.code, closed.reason)
        # An unnamed close after op 9 adds nothing to it; 4009 would resume what is gone.
        return cause if last.kind in (Kind.LOST, Kind.RECYCLED) else last
    except TimeoutError:
        pass
    return cause
