"""Slack: events over Socket Mode, answers over the Web API.

Protocol: https://docs.slack.dev/apis/events-api/using-socket-mode. Each socket has a ticket of its
own and lives for some hours; Slack announces its end and takes the next one beside it. Nothing is
resumed: what was said while no socket was up is read from the histories (`slack_history`).
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from typing import Any, ClassVar, Final

import msgspec

from holdfast.adapter import (
    HISTORY_CHECK,
    Adapter,
    AdapterError,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
    HttpFailed,
    Link,
    Liveness,
    Outcome,
    Rate,
    Secret,
    SendFailed,
    Settings,
    Tools,
    Traits,
    WebSocket,
    WebSocketClosed,
    decode,
)
from holdfast.adapters import slack_wire as wire
from holdfast.adapters.slack_api import SCOPE_HINT, Answer, Api, Bot, Posted
from holdfast.adapters.slack_catchup import CatchUp
from holdfast.adapters.slack_history import (
    OVERLAP,
    Page,
    begin,
    overhear,
    readable,
    remember,
    untold,
)
from holdfast.messages import Attachment, Inbound, Outbound, Receipt
from holdfast.supervision import Cause, Kind

SILENCE, GRACE = 45.0, 15.0
"""Seconds. Slack pings every few seconds, at times every 30; the official Node SDK gives up after
30 s and is known for it, so a question goes out then and the answer has 15 s."""

HELLO: Final = 15.0
"""Seconds from the upgrade to hello."""

WANTED: Final = {
    "app_mentions:read": "mentions in channels do not arrive",
    "im:history": "direct messages do not arrive and are not caught up",
    "channels:history": "messages in public channels are not caught up after an outage",
    "groups:history": "messages in private channels are not caught up after an outage",
    "im:read": "direct messages of people new to the bot are not caught up after an outage",
    "files:read": "files that people share can not be read",
    "files:write": "files can not be sent",
}
"""Scopes the bot can do without, and what it then lacks."""

DOUBTS = 1000
"""Sends of unknown outcome that are remembered."""

EVENT_TYPE: Final = "holdfast_message"
"""``metadata.event_type`` of what we post."""


class SlackSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a Slack app."""

    bot_token: Secret
    """Bot User OAuth Token (``xoxb-...``); everything but opening sockets is done with it."""
    app_token: Secret
    """App-level token (``xapp-...``) with the scope ``connections:write``."""
    api_url: str = "https://slack.com/api/"
    """Base of the Web API."""


class Slack(Adapter):
    """One Slack app in one workspace. Chats are channel ids; message ids are ``CHANNEL:TS``."""

    platform: ClassVar[str] = "slack"
    Settings: ClassVar[type[Settings]] = SlackSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("a WebSocket ping or any other frame of Slack", every=30.0),
        # Recommended for a post, whose limit is 40,000, and demanded of an edit (chat.update).
        max_text=4000,
        edits=True,
        rate_chat=Rate(1.0, 3),  # "one message per second per channel", short bursts allowed
        history_check=HISTORY_CHECK,
    )

    def __init__(self, settings: SlackSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._api = Api(settings.api_url, settings.bot_token, settings.app_token)
        self._me: Bot | None = None
        self._catch_up: CatchUp | None = None
        """Of the newest connection."""
        self._readers = 0
        """Connections that take in events right now; two while one replaces the other."""
        self._others = 0
        """Sockets of other programs, by the word of the last hello."""
        self._doubts: dict[str, float] = {}
        """Keys of posts that may have arrived, and the Unix time of the first try."""

    @property
    def endpoint(self) -> str:
        """The Web API, which names the socket's address."""
        return self._settings.api_url

    @property
    def identity(self) -> str:
        """The app id: two users of one app's token take messages from each other."""
        token = self._settings.app_token.reveal()
        match token.split("-"):
            case ["xapp", _, app, _, *_]:
                return f"slack:{app}"
            case _:
                return f"slack:{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    def classify(self, error: BaseException) -> Cause | None:
        """A close has no meaning of its own here: the disconnect frame before it has."""
        if isinstance(error, WebSocketClosed):
            return Cause(Kind.LOST, f"slack_close_{error.code}", error.cause.message)
        return None

    # -- the connection -----------------------------------------------------------------------

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        link.step("auth")
        self._me = me = await self._api.whoami(link.http)
        link.step("open")
        url = await self._api.open(link.http)
        link.step("connect")
        ws = await link.websocket(url)
        link.step("hello", HELLO)
        hello = await _hello(link, ws)
        self._others = max(0, hello.num_connections - 1 - self._readers)
        relieved, known = self._readers > 0, "mark" in link.cursor
        shared = self._others > 0
        self._catch_up = catch_up = CatchUp(self._api, link, me, shared=shared)
        if not known:
            begin(link)
            await link.commit()
        elif shared or not relieved:
            catch_up.fall_behind()
        self._readers += 1
        try:
            link.ready(_continuity(me, relieved, known), silence=SILENCE, grace=GRACE)
            async with asyncio.TaskGroup() as tasks:
                missed = tasks.create_task(catch_up.run(), name="slack catch-up")
                await catch_up.ahead()
                try:
                    await self._read(link, ws, me, catch_up)
                finally:
                    missed.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            self._readers -= 1

    async def _read(self, link: Link, ws: WebSocket, me: Bot, catch_up: CatchUp) -> None:
        """Frames until the end. Raises Disconnect; WebSocketClosed for an end without notice."""
        planned: Cause | None = None
        try:
            async for raw in ws:
                frame = _frame(link, raw)
                if frame.type == "disconnect":
                    planned = wire.goodbye(frame.reason)
                    if planned.kind is not Kind.RECYCLED:
                        raise Disconnect(planned)
                    link.going_away(planned.message)
                elif frame.envelope_id:
                    # Commands and clicks are not for us, but Slack wants a receipt for them too.
                    events = frame.type == "events_api"
                    message = await self._heard(link, frame, me) if events else None
                    receipt = msgspec.json.encode({"envelope_id": frame.envelope_id}).decode()
                    await link.take(message, partial(ws.send, receipt))
                    catch_up.go_on()
        except WebSocketClosed as closed:
            if planned is None:
                raise
            raise Disconnect(planned) from closed

    async def _heard(self, link: Link, frame: wire.Frame, me: Bot) -> Inbound | None:
        """The message of an event, noted in the cursor; None when it brings none for us."""
        try:
            event = decode(wire.Payload, bytes(frame.payload)).event
            if decode(wire.Event, bytes(event)).type in wire.ENDS:
                await link.commit()  # what came before does not wait for the answer
                await self._api.whoami(link.http)
            if (message := wire.heard(event)) is None:
                return None
            taken = wire.inbound(message, message.channel, me)
        except BadFrame as error:
            link.skip(str(error), bytes(frame.payload))
            return None
        if taken is not None:
            remember(link.cursor, message, message.channel)
            overhear(link.cursor, message, message.channel)
        return taken

    async def overlooked(self, link: Link) -> str | None:
        """See `Adapter.overlooked`. What another socket of the app may have got proves nothing."""
        if self._catch_up is not None:
            self._catch_up.go_on()  # where nothing comes in, nothing else would
        if self._me is None or self._others or not readable(self._me):
            return None
        return await untold(self._api, link, self._me)

    # -- calls --------------------------------------------------------------------------------

    async def check(self) -> Health:
        """Ask whose bot token it is, then for a socket with the app token; look at the scopes."""
        http, name = self._tools.http, ""
        try:
            me = await self._api.whoami(http)
            name = f"{me.user} ({me.user_id}) in {me.team}"
            await self._api.open(http)  # a ticket that is not used expires
        except AdapterError as error:
            return Health(name, error.cause)
        if me.scopes is not None and "chat:write" not in me.scopes:
            text = "the bot may not write: its token lacks the scope chat:write"
            hint = SCOPE_HINT.format("chat:write")
            return Health(name, Cause(Kind.REFUSED, "slack_missing_scope", text, hint))
        return Health(name, notes=tuple(self._notes(me)))

    def _notes(self, me: Bot) -> list[str]:
        scopes = WANTED.keys() if me.scopes is None else me.scopes
        missing = [scope for scope in WANTED if scope not in scopes]
        notes = [f"without {scope} {WANTED[scope]}" for scope in missing]
        if missing:
            notes.append(SCOPE_HINT.format("what you need of these"))
        if self._others:
            notes.append(
                f"{self._others} other socket(s) of this app are open: another program takes a "
                "part of the messages, or Slack has not yet noticed an end"
            )
        return notes

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. A repeat after an unknown outcome first looks for the message."""
        if message.edit_of:
            params = {"channel": message.chat, "ts": wire.ts_of(message.edit_of)}
            return await self._say("chat.update", params | {"text": wire.escape(message.text)})
        if message.attachments:
            return await self._share(message)
        if message.key in self._doubts and (found := await self._posted(message)):
            del self._doubts[message.key]
            return found
        self._doubt(message.key)
        metadata = {"event_type": EVENT_TYPE, "event_payload": {"key": message.key}}
        params = _place("channel", message) | {"text": wire.escape(message.text)}
        params["metadata"] = msgspec.json.encode(metadata).decode()
        try:
            receipt = await self._say("chat.postMessage", params)
        except (SendFailed, HttpFailed) as error:
            if not _unknown(error):
                del self._doubts[message.key]
            raise
        del self._doubts[message.key]
        return receipt

    async def _say(self, method: str, params: dict[str, str]) -> Receipt:
        posted = await self._api.call(self._tools.http, method, Posted, params)
        return Receipt(f"{posted.channel}:{posted.ts}")

    def _doubt(self, key: str) -> None:
        self._doubts.setdefault(key, self._tools.clock())
        if len(self._doubts) > DOUBTS:
            del self._doubts[next(iter(self._doubts))]

    async def _posted(self, message: Outbound) -> Receipt | None:
        """What became of an earlier try: Slack has no key for a post, but keeps its metadata.

        None when it is not there or may not be looked for. Raises SendFailed (NOT_SENT).
        """
        params = _place("channel", message)
        thread = params.pop("thread_ts", None)
        method = "conversations.history" if thread is None else "conversations.replies"
        params |= {"ts": thread} if thread else {}
        oldest = self._doubts[message.key] - OVERLAP  # our clocks may differ
        params |= {"oldest": f"{oldest:.6f}", "include_all_metadata": "true", "limit": "200"}
        try:
            page = await self._api.call(self._tools.http, method, Page, params)
        except AdapterError as error:
            if isinstance(error, SendFailed) and error.outcome is Outcome.REFUSED:
                return None
            raise SendFailed(Outcome.NOT_SENT, error.cause) from error
        for raw in page.messages:
            if (ts := _ours(bytes(raw), message.key)) is not None:
                return Receipt(f"{message.chat}:{ts}")
        return None

    async def _share(self, message: Outbound) -> Receipt:
        """Send a file. Slack does not tell the id of the message that shows it."""
        file = message.attachments[0]
        key = await self._api.upload(self._tools.http, file)
        files = msgspec.json.encode([{"id": key, "title": file.name or file.kind.value}]).decode()
        params = _place("channel_id", message) | {"files": files}
        params |= {"initial_comment": wire.escape(message.text)} if message.text else {}
        await self._api.call(self._tools.http, "files.completeUploadExternal", Answer, params)
        return Receipt("")

    async def fetch(self, attachment: Attachment) -> bytes:
        """The content of an inbound attachment. Raises SendFailed or HttpFailed."""
        return await self._api.download(self._tools.http, attachment)


async def _hello(link: Link, ws: WebSocket) -> wire.Frame:
    """Slack's word that events come from now on. Raises Disconnect and WebSocketClosed."""
    frame = wire.Frame()
    while frame.type != "hello":
        frame = _frame(link, await ws.receive())
        if frame.type == "disconnect":
            raise Disconnect(wire.goodbye(frame.reason))
    return frame


def _frame(link: Link, raw: str | bytes) -> wire.Frame:
    """A frame; an empty one for what can not be read."""
    try:
        return decode(wire.Frame, raw)
    except BadFrame as error:
        link.skip(str(error), raw)
        return wire.Frame()


def _continuity(me: Bot, relieved: bool, known: bool) -> Continuity:
    if relieved:
        return Continuity.RESUMED  # the connection before is still there
    return Continuity.CAUGHT_UP if known and readable(me) else Continuity.FRESH


def _place(name: str, message: Outbound) -> dict[str, str]:
    """Channel and thread. In Slack an answer to a message is a message in its thread."""
    place = {name: message.chat}
    thread = message.thread or (wire.ts_of(message.reply_to) if message.reply_to else None)
    return place | ({"thread_ts": thread} if thread else {})


def _unknown(error: SendFailed | HttpFailed) -> bool:
    return error.sent if isinstance(error, HttpFailed) else error.outcome is Outcome.UNKNOWN


def _ours(raw: bytes, key: str) -> str | None:
    """The ``ts`` of a message in a history if its metadata has this key."""
    try:
        post: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    match post:
        case {"ts": str(ts), "metadata": {"event_payload": {"key": str(found)}}} if found == key:
            return ts
        case _:
            return None
