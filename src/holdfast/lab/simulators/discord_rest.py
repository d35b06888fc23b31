"""What the bot does over REST on the simulated Discord: messages, files, channels, threads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from multidict import MultiDictProxy

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators import discord_rules as rules
from holdfast.lab.simulators.discord_platform import (
    DiscordPlatform,
    Work,
    answer,
    hang_up,
    origin,
    read_json,
)
from holdfast.lab.simulators.discord_rules import Event, Intent, Json, Refusal, invalid_form
from holdfast.lab.simulators.discord_world import (
    BOT,
    BOT_ID,
    GUILD_ID,
    GUILD_TEXT,
    Channel,
    timestamp,
)

MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as the bot wants to send it."""

    content: str
    nonce: str | None
    enforce_nonce: bool
    reference: Json | None
    files: list[tuple[str, bytes]]


class ChatCalls:
    """Everything the bot does in channels. ``push`` tells the gateway what happened."""

    def __init__(self, lab: DiscordPlatform, push: Callable[[Event], None]) -> None:
        self._lab, self._push = lab, push
        self._nonces: dict[str, tuple[float, Channel, Json]] = {}

    def table(self) -> list[tuple[str, str, Work]]:
        """Method, path and handler of every call."""
        messages = "/channels/{channel}/messages"
        one = messages + "/{message}"
        return [
            ("GET", "/users/@me", self._me),
            ("GET", "/oauth2/applications/@me", self._application),
            ("GET", "/applications/@me", self._application),
            ("POST", "/users/@me/channels", self._open_dm),
            ("GET", "/channels/{channel}", self._channel_info),
            ("POST", "/channels/{channel}/typing", self._typing),
            ("GET", messages, self._history),
            ("POST", messages, self._send),
            ("GET", one, self._one),
            ("PATCH", one, self._edit),
            ("DELETE", one, self._delete),
            ("POST", one + "/threads", self._start_thread),
            ("PUT", one + "/reactions/{emoji}/@me", self._react),
            ("DELETE", one + "/reactions/{emoji}/@me", self._unreact),
        ]

    # -- the bot and its channels -------------------------------------------------------------

    async def _me(self, _: web.Request) -> web.Response:
        return answer(BOT | {"flags": 0, "mfa_enabled": False, "locale": "en-US"})

    async def _application(self, _: web.Request) -> web.Response:
        return answer(self._lab.application())

    def _channel(self, request: web.Request) -> Channel:
        return self._lab.world.channel(request.match_info["channel"])

    def _addressed(self, request: web.Request) -> tuple[Channel, Json]:
        channel = self._channel(request)
        return channel, self._lab.world.message(channel, request.match_info["message"])

    async def _channel_info(self, request: web.Request) -> web.Response:
        return answer(self._lab.world.channel_object(self._channel(request)))

    async def _open_dm(self, request: web.Request) -> web.Response:
        recipient = str((await read_json(request)).get("recipient_id", ""))
        name = self._lab.world.users.get(int(recipient)) if recipient.isdecimal() else None
        if name is None:
            raise invalid_form("recipient_id", "Unknown user.")
        return answer(self._lab.world.channel_object(self._lab.world.direct(name)))

    async def _typing(self, request: web.Request) -> web.Response:
        self._lab.note("typing", chat=self._channel(request).name)
        return answer(None, 204)

    async def _start_thread(self, request: web.Request) -> web.Response:
        channel, message = self._addressed(request)
        name = (await read_json(request)).get("name")
        if channel.type != GUILD_TEXT:
            raise Refusal(50024, "Cannot execute action on this channel type")
        if not isinstance(name, str) or not 1 <= len(name) <= 100:
            raise invalid_form("name", "Must be between 1 and 100 in length.")
        if int(message["id"]) in self._lab.world.channels:
            raise Refusal(160004, "A thread has already been created for this message")
        thread = self._lab.world.thread(channel, name, int(message["id"]))
        body = self._lab.world.channel_object(thread)
        news = body | {"newly_created": True}
        self._push(Event(type="THREAD_CREATE", intent=Intent.GUILDS, data=news, guild=GUILD_ID))
        return answer(body, 201)

    # -- reading ------------------------------------------------------------------------------

    async def _one(self, request: web.Request) -> web.Response:
        return answer(self._lab.world.shown(self._addressed(request)[1], origin(request)))

    async def _history(self, request: web.Request) -> web.Response:
        """``before``, ``after`` and ``around`` exclude each other; the newest comes first."""
        channel, query = self._channel(request), request.query
        limit = query.get("limit", "50")
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_PAGE:
            raise invalid_form("limit", f"Must be between 1 and {MAX_PAGE}.")
        ids, count = sorted(channel.messages), int(limit)
        try:
            if "after" in query:
                chosen = [i for i in ids if i > int(query["after"])][:count]
            elif "around" in query:
                near = sorted(ids, key=lambda i: abs(i - int(query["around"])))
                chosen = sorted(near[:count])
            else:
                chosen = [i for i in ids if i < int(query.get("before", 2**63))][-count:]
        except ValueError:
            raise invalid_form("after", "Value is not snowflake.") from None
        self._lab.note("history", chat=channel.name, ids=[str(i) for i in chosen])
        shown = [self._lab.world.shown(channel.messages[i], origin(request)) for i in chosen[::-1]]
        # Only events say which server a message is in.
        return answer([{k: v for k, v in one.items() if k != "guild_id"} for one in shown])

    # -- sending ------------------------------------------------------------------------------

    async def _send(self, request: web.Request) -> web.Response:
        channel = self._channel(request)
        draft = await read_draft(request)
        self._play_refusals()
        if (earlier := self._same_nonce(draft)) is not None:
            self._lab.note("nonce-repeated", id=earlier["id"])
            return await self._confirm(request, earlier)
        quoted = self._quoted(channel, draft)
        if self._lab.fault("send_swallowed") is not None:
            elsewhere = Channel(id=channel.id, name=channel.name, type=channel.type)
            return await self._confirm(request, self._post(elsewhere, draft, quoted))
        message = self._post(channel, draft, quoted)
        if draft.nonce is not None:
            self._nonces[draft.nonce] = self._lab.now(), channel, message
        name, data = draft.files[0] if draft.files else (None, b"")
        heard = Heard(
            id=message["id"],
            chat=channel.name,
            text=draft.content,
            at=self._lab.now(),
            reply_to=None if quoted is None else quoted["id"],
            media=name,
            data=data,
        )
        self._lab.hear(heard)
        self.tell("MESSAGE_CREATE", channel, message)
        return await self._confirm(request, message)

    def _play_refusals(self) -> None:
        if (fault := self._lab.fault("send_error")) is not None:
            code, status = fault.get("code", 50013), fault.get("status", 403)
            raise Refusal(code, "Missing Permissions", status=status)
        self._lab.play_throttle("send_429")

    def _same_nonce(self, draft: Draft) -> Json | None:
        """The message that the bot sent with this nonce in the past few minutes."""
        if not draft.enforce_nonce or draft.nonce not in self._nonces:
            return None
        at, channel, message = self._nonces[draft.nonce]
        fresh = self._lab.now() - at < rules.NONCE_MEMORY
        return message if fresh and int(message["id"]) in channel.messages else None

    def _quoted(self, channel: Channel, draft: Draft) -> Json | None:
        if draft.reference is None:
            return None
        key = str(draft.reference.get("message_id", ""))
        found = channel.messages.get(int(key)) if key.isdecimal() else None
        if found is None and draft.reference.get("fail_if_not_exists", True):
            raise invalid_form("message_reference", "Unknown message")
        return found

    def _post(self, channel: Channel, draft: Draft, quoted: Json | None) -> Json:
        message = self._lab.world.post(channel, BOT, draft.content, to=quoted)
        for name, data in draft.files:
            self._lab.world.attach(message, name, data)
        if draft.nonce is not None:
            message["nonce"] = draft.nonce
        return message

    async def _confirm(self, request: web.Request, message: Json) -> web.Response:
        if (fault := self._lab.fault("send_slow")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if self._lab.fault("send_answer_lost") is not None:
            return hang_up(request)
        return answer(self._lab.world.shown(message, origin(request)))

    def tell(self, kind: str, channel: Channel, data: Json, *, said: str | None = None) -> None:
        """Let the gateway carry a message event, the bot's own messages included."""
        direct = channel.guild is None
        intent = Intent.DIRECT_MESSAGES if direct else Intent.GUILD_MESSAGES
        extra = {"channel_type": channel.type}
        self._push(Event(type=kind, intent=intent, data=data | extra, id=said, guild=channel.guild))

    # -- afterwards ---------------------------------------------------------------------------

    async def _edit(self, request: web.Request) -> web.Response:
        channel, message = self._addressed(request)
        body = await read_json(request)
        self._play_refusals()
        if message["author"]["id"] != str(BOT_ID):
            text = "Cannot edit a message authored by another user"
            raise Refusal(50005, text, status=403)
        content = read_content(body) or ""
        if not content and not message["attachments"]:
            raise Refusal(50006, "Cannot send an empty message")
        message |= {"content": content, "edited_timestamp": timestamp()}
        key, now = message["id"], self._lab.now()
        self._lab.hear(Heard(id=key, chat=channel.name, text=content, at=now, edit_of=key))
        self.tell("MESSAGE_UPDATE", channel, message)
        return await self._confirm(request, message)

    async def _delete(self, request: web.Request) -> web.Response:
        channel, message = self._addressed(request)
        if message["author"]["id"] != str(BOT_ID):
            raise Refusal(50003, "Cannot execute action on a DM channel", status=403)
        del channel.messages[int(message["id"])]
        self._lab.note("deleted", id=message["id"], chat=channel.name)
        self.tell("MESSAGE_DELETE", channel, channel.where() | {"id": message["id"]})
        return answer(None, 204)

    async def _react(self, request: web.Request) -> web.Response:
        return self._reaction(request, "reaction")

    async def _unreact(self, request: web.Request) -> web.Response:
        return self._reaction(request, "reaction-removed")

    def _reaction(self, request: web.Request, what: str) -> web.Response:
        channel, message = self._addressed(request)
        emoji = unquote(request.match_info["emoji"])
        self._lab.note(what, id=message["id"], chat=channel.name, emoji=emoji)
        return answer(None, 204)


# -- reading bodies ---------------------------------------------------------------------------


def read_content(body: Json) -> str | None:
    """The text of a body. Raises Refusal (50035)."""
    content = body.get("content")
    if content is not None and not isinstance(content, str):
        raise invalid_form("content", "Could not interpret value as string.")
    if len(content or "") > rules.MAX_CONTENT:
        raise invalid_form("content", f"Must be {rules.MAX_CONTENT} or fewer in length.")
    return content


async def read_draft(request: web.Request) -> Draft:
    """The message of a JSON or multipart body. Raises Refusal."""
    files: list[tuple[str, bytes]] = []
    if request.content_type == "multipart/form-data":
        form = await request.post()
        body, files = _payload(form.get("payload_json")), _uploads(form)
    else:
        body = await read_json(request)
    content, nonce = read_content(body) or "", body.get("nonce")
    if not content.strip() and not files and not body.get("embeds"):
        raise Refusal(50006, "Cannot send an empty message")
    if nonce is not None and (
        not isinstance(nonce, str | int) or len(str(nonce)) > rules.MAX_NONCE
    ):
        raise invalid_form("nonce", f"Must be {rules.MAX_NONCE} or fewer in length.")
    return Draft(
        content=content,
        nonce=None if nonce is None else str(nonce),
        enforce_nonce=body.get("enforce_nonce") is True,
        reference=body.get("message_reference"),
        files=files,
    )


def _payload(text: object) -> Json:
    try:
        body = json.loads(text) if isinstance(text, str | bytes | bytearray) else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(50109, "The request body contains invalid JSON.")
    return body


def _uploads(form: MultiDictProxy[Any]) -> list[tuple[str, bytes]]:
    """The ``files[n]`` parts, in the order of the form."""
    uploads = []
    for name, value in form.items():
        if name.startswith("files[") and isinstance(value, web.FileField):
            with value.file as stream:
                uploads.append((value.filename, stream.read()))
    if any(len(data) > rules.MAX_UPLOAD for _, data in uploads):
        raise Refusal(40005, "Request entity too large", status=413)
    return uploads
