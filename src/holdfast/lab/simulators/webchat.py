"""Simulated visitors of the gateway's chat page.

Here the platform is the gateway itself: what is simulated are the browsers. They are told the
page's address with `WebChatSimulator.open_page` and speak its WebSocket protocol; their chats are
called by their names, which the gateway never learns. The truth log holds, per visitor and tab,
``open``, ``welcome``, ``stored``, ``shown``, ``repeat``, ``typing``, ``error``, ``refused``,
``closed`` and ``dial-failed``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import aiohttp
from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said, Simulator
from holdfast.lab.simulators.webchat_visitor import Tab, Visitor

__all__ = ["PageRefused", "WebChatSimulator"]


class PageRefused(RuntimeError):
    """There is no chat page at the address."""


class WebChatSimulator(Simulator):
    """Browsers with one chat page open. A visitor who speaks comes to the page by himself."""

    platform: ClassVar[str] = "webchat"
    FAULTS: ClassVar[Mapping[str, str]] = {
        "forged_origin": "the next dial comes from the page of another site (param origin)",
        "no_hello": "the next socket says nothing at all",
        "bad_hello": "the next socket begins with something else (param text)",
        "wrong_token": "the next hello has another token",
        "forgets_seen": "the next hello names no message as seen",
        "mute_seen": "the next message is shown and not confirmed",
        "vanish_before_seen": "the next message is shown, then the connection is lost",
        "vanish_before_stored": "the next confirmation is lost, and the connection with it",
        "half_open": "after the next message the tab reads and says nothing, the socket stays",
        "dup_say": "the next thing said is said twice",
        "bad_frame": "before the next thing said comes a frame that is no JSON (param text)",
        "binary_frame": "before the next thing said comes a binary frame",
        "oversize_text": "before the next thing said comes a text that is too long",
        "oversize_files": "before the next thing said comes a file that is too large",
        "oversize_frame": "before the next thing said comes a frame of 5 MiB (param size)",
        "flood": "before the next thing said come 200 pings at once (param frames)",
    }

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, token: str = "") -> None:
        super().__init__(host=host, port=port)
        self.token = token
        """What the visitors know."""
        self.page = ""
        """Address of the page, once they were told it."""
        self.path = "/chat"
        self._visitors: dict[str, Visitor] = {}
        self._errands: set[asyncio.Task[None]] = set()

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Nothing but a way to tell browsers in another process where the page is."""
        app.router.add_post("/open", self._open)

    def account(self) -> dict[str, Any]:
        """The gateway's configuration of the page."""
        secret = {"token": self.token} if self.token else {}
        return {"platform": self.platform, "path": self.path, "title": "Lab", **secret}

    def listening(self) -> bool:
        """Whether the gateway has let somebody in, and answers him."""
        return any(tab.served for visitor in self._visitors.values() for tab in visitor.tabs)

    async def on_stop(self) -> None:
        """Every browser is switched off; what they keep is kept."""
        for errand in self._errands:
            errand.cancel()
        for visitor in self._visitors.values():
            await visitor.leave(Tab.vanish)

    async def open_page(self, url: str) -> str:
        """Tell the visitors the address of the page; returns the page. Raises PageRefused."""
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            text = await reply.text()
        if reply.status != 200 or "<html" not in text:
            raise PageRefused(f"{url} answered {reply.status}: {text[:80]!r}")
        self.page = url
        self.note("page", policy=reply.headers.get("Content-Security-Policy", ""))
        for visitor in self._visitors.values():
            self._come(visitor)
        return text

    async def _open(self, request: web.Request) -> web.Response:
        """``{"url": ...}``: as `open_page`."""
        try:
            await self.open_page((await request.json())["url"])
        except PageRefused as error:
            return web.json_response({"error": str(error)}, status=502)
        return web.json_response({})

    # -- visitors -----------------------------------------------------------------------------

    def visitor(self, name: str) -> Visitor:
        """A browser by its owner's name; it keeps its memory for good."""
        return self._visitors.setdefault(name, Visitor(self, name))

    def open_tab(self, name: str = "alice") -> Tab:
        """A visitor opens the page, once more if he has it open."""
        return self.visitor(name).open_tab()

    async def leave(self, name: str = "alice") -> None:
        """A visitor closes all his tabs."""
        await self.visitor(name).leave(Tab.close)

    async def vanish(self, name: str = "alice") -> None:
        """A visitor is gone without a close."""
        await self.visitor(name).leave(Tab.vanish)

    def freeze(self, name: str = "alice") -> None:
        """A visitor's tabs fall silent for good, with their sockets open; a new tab is well."""
        for tab in self.visitor(name).tabs:
            tab.freeze()

    def say(
        self,
        text: str,
        *,
        chat: str = "alice",
        sender: str = "alice",
        group: bool = False,
        files: Iterable[tuple[str, str, bytes]] = (),
        reply_to: str | None = None,
    ) -> str:
        """A visitor writes (``files``: name, MIME type, content); ``chat`` is his name.

        Returns the id his page gave the message. Raises ValueError for a group: there are none.
        """
        if group:
            raise ValueError("a chat page has no groups")
        visitor = self.visitor(chat)
        more = {} if reply_to is None else {"reply_to": reply_to}
        key = visitor.say(text, files, **more)
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        self.note("said", id=key, chat=chat)
        self._come(visitor)
        return key

    def _come(self, visitor: Visitor) -> None:
        if not self.page:
            return
        if not visitor.tabs and visitor.pending:
            visitor.open_tab()
        for tab in visitor.tabs:
            self._run(tab.flush)

    def _run(self, work: Callable[[], Any]) -> None:
        errand = asyncio.create_task(work(), name="lab browser errand")
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)


if __name__ == "__main__":
    by_hand.run(WebChatSimulator)
