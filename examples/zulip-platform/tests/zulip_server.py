"""A small Zulip server: event queues, history, sends, and the faults that the bench plays.

It follows ``zerver/tornado/event_queue.py``: a poll is answered at once when there is something to
tell, else by the next event or a heartbeat; a second poll of a queue ends the first; a queue that
nobody has asked for ten minutes is forgotten.
"""

import asyncio
import itertools
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from aiohttp import web

from holdfast.lab.simulator import Heard, Said, Simulator

EMAIL, KEY, BOT, ANN = "bot@example.test", "k3y", 7, 8
HEARTBEAT: Final = 50.0
"""Seconds; real servers take 45 to 55."""
FORGOTTEN: Final = 600.0
"""DEFAULT_EVENT_QUEUE_TIMEOUT_SECS of the server."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Queue:
    """One event queue."""

    asked_at: float
    pruned: int = -1
    events: list[dict[str, Any]] = field(default_factory=list)
    ids: "itertools.count[int]" = field(default_factory=itertools.count)
    waiting: asyncio.Future[None] | None = None

    def push(self, kind: str, **rest: Any) -> None:
        """Add an event, and answer with it."""
        self.events.append({"id": next(self.ids), "type": kind, **rest})
        self.answer()

    def answer(self) -> None:
        """End the poll that waits."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class ZulipServer(Simulator):
    """An organization with a bot and Ann."""

    platform = "zulip"
    FAULTS: ClassVar = {
        "mute": "a request is never answered",
        "rate_limited": "a request is answered 429 with Retry-After `seconds`",
        "http": "a request is answered with `status` and no JSON",
        "twice": "a message comes as two events",
        "garbage": "an event with a message that makes no sense precedes a message",
        "answer_lost": "a message of the bot is taken, then the connection is cut",
    }

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.refusal: tuple[int, str] | None = None
        """Status and code that answer every request from now on."""
        self.messages: list[dict[str, Any]] = []
        self.queues: dict[str, Queue] = {}
        self.registered = 0
        self.heartbeat = HEARTBEAT

    def routes(self, app: web.Application) -> None:
        """Those the adapter calls, and one of Zulip's own client."""
        for method, path, handler in (
            ("GET", "users/me", self._me),
            ("POST", "register", self._register),
            ("GET", "events", self._events),
            ("GET", "messages", self._history),
            ("POST", "messages", self._send),
        ):
            app.router.add_route(method, f"/api/v1/{path}", self._guarded(handler))
        app.router.add_get("/api/v1/server_settings", self._settings)

    def account(self) -> dict[str, Any]:
        """See `Simulator.account`."""
        return {"platform": "zulip", "url": self.url, "email": EMAIL, "api_key": KEY}

    def listening(self) -> bool:
        """See `Simulator.listening`."""
        return any(queue.waiting is not None for queue in self.queues.values())

    # -- users and faults -------------------------------------------------------------------------

    def say(self, text: str, *, chat: str = "ann", sender: str = "ann", group: bool = False) -> str:
        """Ann writes to the bot, in a group on the topic "tea" of the channel "general"."""
        where: dict[str, Any] = {"display_recipient": [{"id": BOT}, {"id": ANN}], "type": "private"}
        if group:
            where = {"display_recipient": "general", "type": "stream", "stream_id": 5}
            where["subject"] = "tea"
        said = self._add(ANN, text, ["mentioned"] if group else [], **where)
        self.said.append(Said(id=said, chat=chat, sender=sender, text=text, at=self.now()))
        return said

    def _add(self, sender: int, text: str, flags: list[str], **where: Any) -> str:
        id = len(self.messages) + 101
        message = {"id": id, "sender_id": sender, "content": text, "timestamp": 1_700_000_000 + id}
        message |= {"sender_full_name": f"User {sender}", **where}
        self.messages.append(message | {"flags": flags})
        for queue in self.queues.values():
            if self.faults.take("garbage") is not None:
                queue.push("message", message={"id": "?"}, flags=[])
            for _ in range(1 if self.faults.take("twice") is None else 2):
                queue.push("message", message=message, flags=flags)
        return str(id)

    def refuse(self, status: int, code: str) -> None:
        """Answer every request with an error from now on."""
        self.refusal = status, code

    def heal(self) -> None:
        """End every fault."""
        self.refusal = None
        self.faults.clear()

    def forget(self) -> None:
        """Lose all queues, as a server does that was started anew without its dump."""
        self.queues.clear()

    # -- calls ------------------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            word = request.headers.get("authorization", "").removeprefix("Basic ")
            if self.faults.take("mute") is not None:
                await asyncio.Event().wait()
            if (fault := self.faults.take("rate_limited")) is not None:
                headers = {"Retry-After": str(fault["seconds"])}
                return failed(429, "RATE_LIMIT_HIT", headers)
            if (fault := self.faults.take("http")) is not None:
                return web.Response(status=fault["status"], text="trouble")
            if self.refusal is not None:
                return failed(*self.refusal)
            if b64decode(word) != f"{EMAIL}:{KEY}".encode():
                return failed(401, "INVALID_API_KEY")
            return await handler(request)

        return guarded

    async def _settings(self, request: web.Request) -> web.StreamResponse:
        """Zulip's own Python client asks for it before anything else."""
        return good(zulip_version="10.0", zulip_feature_level=371)

    async def _me(self, request: web.Request) -> web.StreamResponse:
        return good(user_id=BOT, email=EMAIL)

    async def _register(self, request: web.Request) -> web.StreamResponse:
        self.registered += 1
        queue = f"q{self.registered}"
        self.queues[queue] = Queue(self.now())
        return good(queue_id=queue, last_event_id=-1)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        queue = self.queues.get(request.query["queue_id"])
        if queue is None or (queue.waiting is None and self.now() - queue.asked_at > FORGOTTEN):
            return failed(400, "BAD_EVENT_QUEUE_ID")
        last = int(request.query["last_event_id"])
        if last < queue.pruned:
            return failed(400, "BAD_REQUEST")
        queue.pruned = last
        queue.events = [event for event in queue.events if event["id"] > last]
        queue.answer()
        if not queue.events and "dont_block" not in request.query:
            await self._wait(queue)
        return good(events=queue.events)

    async def _wait(self, queue: Queue) -> None:
        mine = queue.waiting = asyncio.get_running_loop().create_future()
        self.note("poll")
        try:
            async with asyncio.timeout(self.heartbeat):
                await mine
        except TimeoutError:
            queue.push("heartbeat")
        finally:
            if queue.waiting is mine:
                queue.waiting, queue.asked_at = None, self.now()

    async def _history(self, request: web.Request) -> web.StreamResponse:
        before, after = int(request.query["num_before"]), int(request.query["num_after"])
        if request.query["anchor"] == "newest":
            return good(messages=self.messages[-before:])
        anchor = int(request.query["anchor"])
        found = [message for message in self.messages if message["id"] >= anchor]
        return good(messages=found[: after + 1])

    async def _send(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        chat = f"{form['type']}:{form['to'].strip('[]')}"
        if form["type"] == "stream" and chat != "stream:5":
            return failed(400, "STREAM_DOES_NOT_EXIST")
        where = {"display_recipient": [{"id": BOT}, {"id": ANN}], "type": "private"}
        id = self._add(BOT, form["content"], ["read"], **where)
        topic = form.get("topic")
        self.hear(Heard(id=id, chat=chat, text=form["content"], at=self.now(), reply_to=topic))
        if self.faults.take("answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        return good(id=int(id))


def good(**fields: Any) -> web.Response:
    """A success."""
    return web.json_response({"result": "success", "msg": "", **fields})


def failed(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error in Zulip's words."""
    body = {"result": "error", "msg": code.replace("_", " ").lower(), "code": code}
    return web.json_response(body, status=status, headers=headers)
