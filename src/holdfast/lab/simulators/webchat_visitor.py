"""One simulated browser on the gateway's chat page: what it keeps, and what its tabs do.

It behaves as a page must: it repeats what was not stored, shows nothing twice, asks every 5 s
whether the gateway is there, and comes back with a growing delay of at most 10 s.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from holdfast.lab.simulator import FaultBook, Heard

Json = dict[str, Any]

PING_EVERY = 5.0
"""Seconds between two questions whether the gateway is there."""

DEAD_AFTER = 13.0
"""Seconds without any frame after which it is not."""

BACKOFF_FIRST, BACKOFF_LAST, STABLE_AFTER = 0.5, 10.0, 5.0
"""Seconds before the next dial, doubled each time, and the life of a socket that starts over."""

KNOWN = 100
"""Latest messages named in a hello."""

MAX_FRAME = 64 * 2**20
"""Bytes; a browser has no limit of its own."""


class Site(Protocol):
    """What a browser needs of the lab."""

    page: str
    token: str
    faults: FaultBook

    @staticmethod
    def now() -> float:
        """Seconds on the loop's clock."""

    def note(self, what: str, **detail: Any) -> None:
        """Write a fact into the truth log."""

    def hear(self, heard: Heard) -> None:
        """A user receives a message of the bot."""


class Tab:
    """One open page of a visitor; at most one socket at a time."""

    def __init__(self, visitor: Visitor, number: int) -> None:
        self.number = number
        self.refused: str | None = None
        """Why the gateway sent it away for good."""
        self._visitor, self._site = visitor, visitor.site
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._welcomed = self._frozen = self._polite = False
        self._ponged = 0.0
        self._under_way: str | None = None
        self._task = asyncio.create_task(self._live(), name=f"lab browser {visitor.name}")

    @property
    def served(self) -> bool:
        """Whether the gateway has let it in and still answers."""
        fresh = self._site.now() - self._ponged <= DEAD_AFTER
        return self._welcomed and fresh and not self._frozen

    async def close(self) -> None:
        """Leave with a proper close."""
        self._polite = True
        await self.vanish()

    async def vanish(self) -> None:
        """Leave without a word: the connection ends, the WebSocket is not closed."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def freeze(self) -> None:
        """Take nothing in and say nothing more, for good; the connection is left open."""
        self._frozen = True
        self._note("frozen")

    # -- its life -----------------------------------------------------------------------------

    async def _live(self) -> None:
        delay = BACKOFF_FIRST
        while self.refused is None and not self._frozen:
            began = self._site.now()
            try:
                await self._visit()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                status = getattr(error, "status", 0)
                self._note("dial-failed", status=status, error=type(error).__name__)
            self._welcomed, self._under_way, self._ws = False, None, None
            if self._site.now() - began > STABLE_AFTER:
                delay = BACKOFF_FIRST
            await asyncio.sleep(delay)
            delay = min(2 * delay, BACKOFF_LAST)

    async def _visit(self) -> None:
        url = urlsplit(self._site.page)
        origin = f"{url.scheme}://{url.netloc}"
        if (params := self._site.faults.take("forged_origin")) is not None:
            origin = params.get("origin", "https://evil.example")
        async with aiohttp.ClientSession() as session:
            ws = await session.ws_connect(
                self._site.page,
                headers={"Origin": origin},
                max_msg_size=MAX_FRAME,
                autoping=False,  # a frozen tab answers nothing
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
            self._ws, self._ponged = ws, self._site.now()
            self._note("open")
            pinger = asyncio.create_task(self._ping(ws), name="lab browser ping")
            try:
                await self._greet(ws)
                code = await self._listen(ws)
                self._note("closed", code=code)
            finally:
                pinger.cancel()
                if not self._polite:
                    _cut(ws)
                await ws.close()

    async def _greet(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        faults = self._site.faults
        if faults.take("no_hello") is not None:
            return
        if (params := faults.take("bad_hello")) is not None:
            await ws.send_str(params.get("text", '{"op":"ping"}'))
            return
        wrong = faults.take("wrong_token") is not None
        forgetful = faults.take("forgets_seen") is not None
        await self._send(
            op="hello",
            visitor=self._visitor.id,
            token="not it" if wrong else self._site.token,
            seen=[] if forgetful else list(self._visitor.latest),
        )

    async def _ping(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            while not self._frozen:
                await asyncio.sleep(PING_EVERY)
                if self._welcomed and not self._frozen:
                    await ws.send_str('{"op":"ping"}')

    async def _listen(self, ws: aiohttp.ClientWebSocketResponse) -> int:
        """Until the end; the code of the close. Raises TimeoutError when the gateway is dead."""
        dead_at = self._site.now() + DEAD_AFTER
        while True:
            try:
                async with asyncio.timeout_at(None if self._frozen else dead_at):
                    frame = await ws.receive()
            except TimeoutError:
                if self._frozen:
                    continue
                raise
            match frame.type:
                case _ if self._frozen:
                    pass
                case aiohttp.WSMsgType.TEXT:
                    dead_at = self._site.now() + DEAD_AFTER
                    await self._take(json.loads(frame.data))
                case aiohttp.WSMsgType.PING:
                    await ws.pong(frame.data)
                case aiohttp.WSMsgType.PONG:
                    pass
                case _:
                    return ws.close_code or 1006
            if ws.closed:
                return ws.close_code or 1006

    async def _send(self, **frame: Any) -> None:
        if self._ws is not None:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await self._ws.send_str(json.dumps(frame))

    def _note(self, what: str, **detail: Any) -> None:
        self._site.note(what, chat=self._visitor.name, tab=self.number, **detail)

    # -- what it is told ----------------------------------------------------------------------

    async def _take(self, frame: Json) -> None:
        match frame["op"]:
            case "welcome":
                self._welcomed = True
                self._note("welcome", title=frame["title"], bot=frame["bot"])
                await self.flush()
            case "stored" if self._site.faults.take("vanish_before_stored") is not None:
                raise ConnectionResetError("gone before it knew")
            case "stored":
                self._visitor.pending.pop(frame["id"], None)
                self._note("stored", id=frame["id"])
                await self._next(frame["id"])
            case "error":
                self._visitor.pending.pop(frame.get("id", ""), None)
                self._note("error", error=frame["what"], id=frame.get("id"))
                await self._next(frame.get("id"))
            case "message":
                await self._receive(frame)
            case "refused":
                self._note("refused", why=frame["what"])
                if frame["what"] != "flood":
                    self.refused = frame["what"]
            case "pong":
                self._ponged = self._site.now()
            case other:
                self._note(other)

    async def _receive(self, frame: Json) -> None:
        self._visitor.show(frame)
        self._note("shown", id=frame["id"])
        if self._site.faults.take("half_open") is not None:
            self.freeze()
        elif self._site.faults.take("vanish_before_seen") is not None:
            raise ConnectionResetError("gone before the confirmation")
        elif self._site.faults.take("mute_seen") is None:
            await self._send(op="seen", id=frame["id"])

    # -- what it says -------------------------------------------------------------------------

    async def flush(self) -> None:
        """Say the next thing, unless the one before is not stored yet."""
        if not self._welcomed or self._under_way is not None or self._frozen:
            return
        saying = next(iter(self._visitor.pending.values()), None)
        if saying is None:
            return
        self._under_way = saying["id"]
        await self._misbehave()
        frame = dict(saying)
        if (written := frame.pop("written", None)) is not None:
            frame["age"] = self._site.now() - written
        await self._send(**frame)
        if self._site.faults.take("dup_say") is not None:
            await self._send(**frame)

    async def _next(self, id: str | None) -> None:
        if id == self._under_way:
            self._under_way = None
        await self.flush()

    async def _misbehave(self) -> None:
        """Play the faults that come before a message."""
        assert self._ws is not None
        faults = self._site.faults
        if (params := faults.take("bad_frame")) is not None:
            await self._ws.send_str(params.get("text", "{nonsense"))
        if faults.take("binary_frame") is not None:
            await self._ws.send_bytes(b"\x00\xff")
        if faults.take("oversize_text") is not None:
            await self._send(op="say", id="long", text="x" * 20_001)
        if faults.take("oversize_files") is not None:
            data = base64.b64encode(bytes(2_500_001)).decode()
            file = {"name": "big", "mime": "application/zip", "data": data}
            await self._send(op="say", id="big", text="", files=[file])
        if (params := faults.take("oversize_frame")) is not None:
            await self._send(op="say", id="huge", text="x" * params.get("size", 5 * 2**20))
        if (params := faults.take("flood")) is not None:
            for _ in range(params.get("frames", 200)):
                await self._send(op="ping")


def _cut(ws: aiohttp.ClientWebSocketResponse) -> None:
    """End the connection under a WebSocket, if that is still open."""
    if not ws.closed:
        ws.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class Visitor:
    """One browser, with its memory and its tabs."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        self.id = secrets.token_hex(16)
        self.pending: dict[str, Json] = {}
        """What was said and not stored, in order; ``written`` is when, on the lab's clock."""
        self.latest: deque[str] = deque(maxlen=KNOWN)
        """Ids of the latest messages of the bot."""
        self.tabs: list[Tab] = []

    def say(self, text: str, files: Iterable[tuple[str, str, bytes]], **more: Any) -> str:
        """Write something: it goes out when a tab is let in."""
        key = secrets.token_hex(16)
        sent = [
            {"name": name, "mime": mime, "data": base64.b64encode(data).decode()}
            for name, mime, data in files
        ]
        frame = {"op": "say", "id": key, "text": text, "files": sent, **more}
        self.pending[key] = frame | {"written": self.site.now()}
        return key

    def show(self, frame: Mapping[str, Any]) -> None:
        """A message comes in, perhaps once more."""
        if frame["id"] in self.latest:
            self.site.note("repeat", id=frame["id"], chat=self.name)
            return
        self.latest.append(frame["id"])
        first = next(iter(frame.get("files", ())), None)
        self.site.hear(
            Heard(
                id=frame["id"],
                chat=self.name,
                text=frame.get("text", ""),
                at=self.site.now(),
                reply_to=frame.get("reply_to"),
                edit_of=frame.get("edit_of"),
                media=first and first["name"],
                data=base64.b64decode(first["data"]) if first else b"",
            )
        )

    def open_tab(self) -> Tab:
        """Look at the page, in one more tab."""
        self.tabs.append(Tab(self, len(self.tabs) + 1))
        return self.tabs[-1]

    async def leave(self, how: Callable[[Tab], Any]) -> None:
        """End every tab, in the given way."""
        tabs, self.tabs = self.tabs, []
        for tab in tabs:
            await how(tab)
