"""Gateways of numbered operations over a WebSocket: the protocol Discord made and QQ took over.

Hello asks for a login, which is a Resume of the last session or a fresh Identify; events carry a
sequence number, heartbeats acknowledge the last one, and a Resume has all later ones replayed.
Identify calls are counted by the day and spaced.

Sources: https://discord.com/developers/docs/events/gateway and
https://bot.q.qq.com/wiki/develop/api-v2/dev-prepare/interface-framework/event-emit.html.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Annotated, Any, Final

import msgspec

from holdfast.adapter import BadFrame, Link, WebSocket, Whole, decode
from holdfast.supervision import Cause, Kind

IDENTIFY_WINDOW = 5.0
"""Seconds in which ``max_concurrency`` Identify calls are allowed (gateway#rate-limiting)."""


KEPT: Final = "chats"
"""Key of the cursor that outlives sessions: a platform's own note of where each chat was."""


class Op(IntEnum):
    """Operation codes that both have."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    RECONNECT = 7
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


TOO_FAST = 4008
"""Close code: frames or Identify calls came too fast."""

TOO_FAST_WAIT = 60.0
"""Seconds after it: Discord's limit is 120 frames in 60 s, QQ's documentation names no number."""


def close_cause(
    name: str, table: Mapping[int, tuple[Kind, str, str]], code: int, reason: str = ""
) -> Cause:
    """What a close code means by the table of the platform called ``name``: kind, words, hint.

    Codes that are not documented are a loss like any other.
    """
    kind, what, hint = table.get(code, (Kind.LOST, "the connection was lost", ""))
    return Cause(
        kind,
        f"{name.lower()}_close_{code}",
        f"{name} closed the gateway with {code}: {what}" + (f" ({reason})" if reason else ""),
        hint,
        retry_after=TOO_FAST_WAIT if code == TOO_FAST else None,
    )


class Frame(msgspec.Struct):
    """The envelope of every frame."""

    op: int
    s: Whole | None = None
    t: str | None = None
    d: msgspec.Raw = msgspec.Raw(b"null")


class Hello(msgspec.Struct):
    """``heartbeat_interval`` in milliseconds."""

    heartbeat_interval: Annotated[float, msgspec.Meta(gt=0)]


class StartLimit(msgspec.Struct):
    """How many Identify calls are left, ``reset_after`` in milliseconds."""

    total: Whole = 1000
    remaining: Whole = 1000
    reset_after: float = 0.0
    max_concurrency: Whole = 1
    """Identify calls per 5 s."""

    def exhausted(self, code: str, more: str = "") -> Cause | None:
        """Why there can be no fresh login before the next day; None if there can."""
        if self.remaining > 0:
            return None
        message = f"all {self.total} logins of the day are spent{more}"
        return Cause(Kind.THROTTLED, code, message, retry_after=self.reset_after / 1000)


def resumable(link: Link) -> bool:
    """Whether there is a session to resume, and a fresh login is not demanded."""
    return link.resume and {"session", "seq"} <= link.cursor.keys()


def forget(cursor: dict[str, Any]) -> None:
    """Take the session out of the cursor."""
    for key in cursor.keys() - {KEPT}:
        del cursor[key]


@dataclass(slots=True, kw_only=True)
class Talk:
    """What one connection has come to know. Cancelling any call is safe."""

    link: Link
    ws: WebSocket
    done: int | None = None
    """The last ``s`` whose event is stored: a heartbeat never claims more."""
    ready: bool = False

    async def send(self, op: Op, data: object) -> None:
        """One frame. Raises WebSocketClosed."""
        await self.ws.send(msgspec.json.encode({"op": int(op), "d": data}).decode())

    async def send_beat(self) -> None:
        """A heartbeat. Raises WebSocketClosed."""
        await self.send(Op.HEARTBEAT, self.done)

    async def send_resume(self, token: str) -> None:
        """Ask for the stored session to go on; for `resumable` links. Raises WebSocketClosed."""
        self.link.step("resume")
        self.done = self.link.cursor["seq"]
        session = self.link.cursor["session"]
        await self.send(Op.RESUME, {"token": token, "session_id": session, "seq": self.done})

    def reached(self, frame: Frame) -> int:
        """Put an event's number into the cursor, to be stored with it, and return it.

        It becomes `done` by the caller's hand, once the event is stored.
        """
        known: int = self.link.cursor.get("seq", 0)
        self.link.cursor["seq"] = seq = max(frame.s or 0, known)
        return seq

    async def converse(self, take: Callable[[Frame], Awaitable[None]]) -> None:
        """Frame after frame to ``take``, until it raises or the peer closes (WebSocketClosed).

        Heartbeats are answered, and their acknowledgements noted, without it. What can not be
        understood is skipped; a BadFrame of ``take`` before `ready` is raised, since a handshake
        that can not be read leads nowhere.
        """
        async for raw in self.ws:
            try:
                frame = decode(Frame, raw)
            except BadFrame as error:
                self.link.skip(str(error), raw)
                continue
            try:
                match frame.op:
                    case Op.HEARTBEAT:
                        await self.send_beat()
                    case Op.HEARTBEAT_ACK:
                        self.link.acked()
                    case _:
                        await take(frame)
            except BadFrame as error:
                if not self.ready:
                    raise
                self.link.skip(str(error), raw)


class Pace:
    """When the next Identify is allowed; one for all connections of an account."""

    def __init__(self) -> None:
        self._free_from = float("-inf")

    def identify(self, link: Link, limit: StartLimit | None) -> None:
        """A fresh login begins now: it is counted, and the old session is out of the cursor.

        Only in memory: what is stored changes with the new session.
        """
        link.step("identify")
        forget(link.cursor)
        if limit is None:
            link.logged_in()
        else:
            link.logged_in(limit.remaining - 1, limit.total, limit.reset_after / 1000)
        spacing = IDENTIFY_WINDOW / max(1, limit.max_concurrency if limit else 1)
        self._free_from = asyncio.get_running_loop().time() + spacing

    async def settle(self, link: Link, cause: Cause) -> Cause:
        """What the end of a connection leaves for the next one, and ``cause`` with its wait.

        A session that is over is taken out of the journal; where no session is left, the next
        attempt waits until it may identify. Raises StoreError.
        """
        if cause.kind is Kind.SESSION:
            forget(link.cursor)
            await link.commit()
        spacing = self._free_from - asyncio.get_running_loop().time()
        if "session" in link.cursor or spacing <= (cause.retry_after or 0.0):
            return cause
        return replace(cause, retry_after=spacing)
