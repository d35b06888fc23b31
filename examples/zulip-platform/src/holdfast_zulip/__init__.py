"""Zulip: an event queue on the server, read by long polls.

A queue holds what the bot has not acknowledged yet, and is forgotten when nobody has asked for ten
minutes. What was said in the meantime is then read from the message history: Zulip keeps all
messages, so no outage loses one. What was said before the account first came up is not answered.
"""

from base64 import b64encode
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any, Final

from holdfast.adapter import (
    Adapter,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
    Http,
    HttpReply,
    Link,
    Liveness,
    Outcome,
    Secret,
    SendFailed,
    Settings,
    Tools,
    Traits,
    decode,
)
from holdfast.messages import Outbound, Receipt
from holdfast.supervision import Cause, Kind
from holdfast_zulip import wire
from holdfast_zulip.wire import Batch, Flags, Message, cause_of, good

HEARTBEAT: Final = 55.0
"""Seconds after which the server ends a poll at the latest, by a heartbeat: 45, and up to 10 more
(HEARTBEAT_MIN_FREQ_SECS in its event_queue.py)."""

SILENCE, GRACE = 60.0, 4.0
"""A dead connection must be noticed within 60 s; a heartbeat that is late is asked for before."""

PAGE: Final = 1_000
"""Messages in one answer of the history; more are advised against ("Get messages")."""


class ZulipSettings(Settings, frozen=True, kw_only=True):
    """One bot of a Zulip organization, as its ``zuliprc`` file describes it."""

    url: str
    """Address of the organization, such as ``https://example.zulipchat.com``."""
    email: str
    """The bot's email address."""
    api_key: Secret
    """The bot's API key."""


class Zulip(Adapter):
    """One Zulip bot.

    The cursor holds ``queue`` and ``last``, our place in the event queue, and ``seen``, the newest
    message known, for when the queue is gone.
    """

    platform = "zulip"
    Settings = ZulipSettings
    traits = Traits(
        liveness=Liveness("an answered GET /events", every=HEARTBEAT),
        max_text=10_000,  # MAX_MESSAGE_LENGTH of the server
        replays=True,
    )

    def __init__(self, settings: ZulipSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        self._settings, self._api = settings, f"{settings.url.rstrip('/')}/api/v1"
        word = f"{settings.email}:{settings.api_key.reveal()}".encode()
        self._headers = {"authorization": f"Basic {b64encode(word).decode()}"}

    @property
    def endpoint(self) -> str:
        """The organization's server."""
        return self._settings.url

    @property
    def identity(self) -> str:
        """The bot's address, which another organization may have too."""
        return f"{self._settings.email} at {self._settings.url}"

    async def run(self, link: Link) -> None:
        """Take up the old queue or register one, then poll; see `Adapter.run`."""
        link.step("profile")
        me = (await self._get(link.http, "/users/me")).decode(wire.User).user_id
        resuming = link.resume and "queue" in link.cursor
        if not resuming:
            await self._register(link, me)

        async def ask() -> None:  # it ends the poll that waits
            await self._poll(link, wait=False)

        link.on_probe(ask)
        link.step("first poll")
        for wait in chain([False], repeat(True)):
            batch = await self._poll(link, wait=wait)
            if wait:
                link.alive()
            else:
                continuity = Continuity.RESUMED if resuming else Continuity.CAUGHT_UP
                link.ready(continuity, silence=SILENCE, grace=GRACE, resumable=True)
            for event in batch.events:
                link.cursor["last"] = max(link.cursor["last"], event.id)
            told = [event for event in batch.events if event.type == "message"]
            await self._deliver(link, me, [(bytes(one.message), one.flags) for one in told])

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. Zulip does not recognise a repeated send."""
        kind, _, to = message.chat.partition(":")
        form = {"type": kind, "to": f"[{to}]" if kind == "private" else to, "content": message.text}
        form |= {} if message.thread is None else {"topic": message.thread}
        reply = await self._request(self.tools.http, "POST", "/messages", form=form)
        match reply.status:
            case 200:
                return Receipt(str(reply.decode(wire.Sent).id))
            case 400:
                outcome = Outcome.REFUSED
            case status:  # a proxy's 502 may stand for a message that has been taken
                outcome = Outcome.UNKNOWN if status >= 500 else Outcome.NOT_SENT
        raise SendFailed(outcome, cause_of(reply))

    async def check(self) -> Health:
        """Ask the server whose key it is."""
        return Health((await self._get(self.tools.http, "/users/me")).decode(wire.User).email)

    # -- the stream -------------------------------------------------------------------------------

    async def _register(self, link: Link, me: int) -> None:
        """A new queue, and what was said since the newest message known.

        The three questions overlap: what is said between two of them is in the history, in the
        queue, or in both, and the journal drops what it has already.
        """
        if "seen" not in link.cursor:
            link.step("newest message")
            newest = await self._history(link.http, anchor="newest", num_before=1, num_after=0)
            link.cursor["seen"] = max(newest, default=0)
        link.step("queue")
        form = {"event_types": '["message"]', "apply_markdown": "false"}
        reply = await self._request(link.http, "POST", "/register", form=form)
        queue = good(reply).decode(wire.Queue)
        link.step("history")
        while page := await self._missed(link):
            link.cursor["seen"] = max(page)
            await self._deliver(link, me, [(raw, Flags()) for raw in page.values()])
            link.step("history")
        link.cursor |= {"queue": queue.queue_id, "last": queue.last_event_id}
        await link.commit()

    async def _missed(self, link: Link) -> dict[int, bytes]:
        """The next messages after the newest one known; the answer begins with that one itself."""
        seen = link.cursor["seen"]
        page = await self._history(link.http, anchor=seen, num_before=0, num_after=PAGE)
        return {number: raw for number, raw in page.items() if number > seen}

    async def _history(self, http: Http, **query: str | int) -> dict[int, bytes]:
        """Messages around an anchor, oldest first, by their ids."""
        text = {name: str(value) for name, value in query.items()} | {"apply_markdown": "false"}
        page = (await self._get(http, "/messages", query=text)).decode(wire.Page)
        return {decode(wire.Numbered, bytes(raw)).id: bytes(raw) for raw in page.messages}

    async def _poll(self, link: Link, *, wait: bool) -> Batch:
        """One answered GET /events; it acknowledges everything up to ``last``."""
        query = {"queue_id": link.cursor["queue"], "last_event_id": str(link.cursor["last"])}
        query |= {} if wait else {"dont_block": "true"}
        limit = SILENCE + GRACE if wait else 10.0
        reply = await self._request(link.http, "GET", "/events", query=query, timeout=limit)
        if reply.status == 400:  # the queue is gone, or it knows nothing of our place in it
            raise Disconnect(Cause(Kind.SESSION, "zulip_queue_gone", cause_of(reply).message))
        return good(reply).decode(Batch)

    async def _deliver(self, link: Link, me: int, found: Iterable[tuple[bytes, Flags]]) -> None:
        """Store messages of others together with our place."""
        messages = []
        for raw, flags in found:
            try:
                message = decode(Message, raw)
            except BadFrame as error:
                link.skip(str(error), raw)
                continue
            link.cursor["seen"] = max(link.cursor["seen"], message.id)
            if message.sender_id != me:
                messages.append(message.inbound(me, flags))
        await link.deliver(*messages)

    # -- calls ------------------------------------------------------------------------------------

    async def _get(self, http: Http, path: str, **options: Any) -> HttpReply:
        return good(await self._request(http, "GET", path, **options))

    async def _request(self, http: Http, method: str, path: str, **options: Any) -> HttpReply:
        return await http.request(method, self._api + path, headers=self._headers, **options)
