"""What the bot does over the Graph API of the simulated WhatsApp platform: messages and media."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from holdfast.lab.simulator import Heard, wall_clock
from holdfast.lab.simulators import whatsapp_rules as rules
from holdfast.lab.simulators.whatsapp_platform import BusinessPlatform, answer, read_object
from holdfast.lab.simulators.whatsapp_rules import Event, GraphError, Person, parameter

MEDIA_KINDS = tuple(rules.MAX_BYTES)
STATUS_GAP = 0.05
"""Seconds between two statuses of a send; not documented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A stored file. ``expires`` is on the loop's clock."""

    id: str
    name: str
    mime: str
    data: bytes
    expires: float

    @property
    def sha256(self) -> str:
        """Digest in base64, as messages and lookups show it."""
        return base64.b64encode(hashlib.sha256(self.data).digest()).decode()


@dataclass(slots=True)
class Chat:
    """A user or a group, and when a user last wrote there (loop's clock)."""

    name: str
    person: Person | None
    group: str | None = None
    last: float = float("-inf")
    bucket: rules.Bucket | None = None


class ChatCalls:
    """Everything the bot does in chats. Faults, settings and the truth are those of ``lab``."""

    def __init__(self, lab: BusinessPlatform) -> None:
        self._lab = lab
        self._chats: dict[str, Chat] = {}
        self._media: dict[str, Media] = {}
        self._downloads: dict[str, tuple[str, float]] = {}
        self.inbound: dict[str, tuple[str, float]] = {}
        """Message of a user: its chat's name and when it was written."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Forget the statuses that are still to come."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def chat(self, name: str, *, group: bool) -> Chat:
        """The chat of this name; from now on the bot may write to it."""
        if group:
            key = rules.group_id(name)
            return self._chats.setdefault(key, Chat(name, None, group=key))
        person = Person(name)
        chat = self._chats.setdefault(person.wa_id, Chat(name, person))
        self._chats[person.user_id] = chat
        return chat

    # -- messages -----------------------------------------------------------------------------

    async def messages(self, request: web.Request) -> web.Response:
        """``POST /{phone_number_id}/messages``: a message, or a mark as read with typing."""
        body = await read_object(request)
        if body.get("messaging_product") != "whatsapp":
            raise parameter("messaging_product must be 'whatsapp'")
        if body.get("status") == "read":
            return self._read(body)
        return await self._send(request, body)

    def _read(self, body: Mapping[str, Any]) -> web.Response:
        key = str(body.get("message_id"))
        name, at = self.inbound.get(key, ("", float("-inf")))
        if self._lab.now() - at > rules.TYPING_WINDOW:
            raise GraphError(131009, "Parameter value is not valid: message_id")
        self._lab.note("read", id=key, chat=name)
        if body.get("typing_indicator"):
            self._lab.note("typing", chat=name)
        return answer({"success": True})

    async def _send(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        for name, refusal in rules.SEND_REFUSALS.items():
            self._lab.play(name, refusal)
        recipient = str(body.get("to") or body.get("recipient") or "").removeprefix("+")
        if not recipient:
            raise GraphError(131008, "Required parameter is missing: to")
        kind = str(body.get("type") or "text")
        text, media = await self._content(kind, body)
        chat = self._chats.get(recipient)
        self._admit(chat, kind)
        key = rules.new_wamid()
        if self._lab.faults.take("send_swallowed") is None:
            self._accept(key, chat, recipient, kind, body, text, media)
        if (fault := self._lab.faults.take("send_slow_but_delivered")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if self._lab.faults.take("send_answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        contact = {"input": recipient}
        if chat is None or chat.person is not None:
            contact["wa_id"] = chat.person.wa_id if chat and chat.person else recipient
        return answer(
            {"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": key}]}
        )

    def _admit(self, chat: Chat | None, kind: str) -> None:
        """Raise the refusal of a limit or of the customer service window."""
        lab, now = self._lab, self._lab.now()
        if not lab.throughput.take(now):
            raise rules.SEND_REFUSALS["rate_limit"]
        if chat is None:
            return
        # The sheet knows 131047 in answers and in statuses; refusing at once is our choice.
        if kind != "template" and now - chat.last > lab.window:
            raise rules.SEND_REFUSALS["window_closed"]
        if lab.pair_limit is not None and chat.person is not None:
            chat.bucket = chat.bucket or rules.Bucket(*lab.pair_limit)
            if not chat.bucket.take(now):
                raise rules.SEND_REFUSALS["pair_limit"]

    async def _content(self, kind: str, body: Mapping[str, Any]) -> tuple[str, Media | None]:
        """The text a user sees, and the file. Raises GraphError."""
        part = body.get(kind)
        if not isinstance(part, dict):
            raise GraphError(131008, f"Required parameter is missing: {kind}")
        match kind:
            case "text":
                return _bounded(part.get("body"), rules.MAX_TEXT, "text['body']"), None
            case "interactive":
                text = (part.get("body") or {}).get("text")
                return _bounded(text, rules.MAX_INTERACTIVE, "interactive['body']"), None
            case "template":
                return str(part.get("name")), None
            case "reaction":
                return str(part.get("emoji") or ""), None
            case _ if kind in MEDIA_KINDS:
                caption = str(part.get("caption") or "")
                if len(caption) > rules.MAX_CAPTION:
                    raise parameter(f"caption must be at most {rules.MAX_CAPTION} characters")
                return caption, await self._attachment(kind, part)
            case _:
                return json.dumps(part, ensure_ascii=False), None

    async def _attachment(self, kind: str, part: Mapping[str, Any]) -> Media:
        if part.get("link"):
            media = await self._fetch(str(part["link"]))
        else:
            stored = self._media.get(str(part.get("id")))
            if stored is None or self._lab.now() > stored.expires:
                raise rules.no_object(str(part.get("id")))
            media = stored
        if len(media.data) > rules.MAX_BYTES[kind]:
            raise GraphError(131053, "Media upload error: file too large")
        name = str(part.get("filename") or media.name or kind)
        return Media(id=media.id, name=name, mime=media.mime, data=media.data, expires=0)

    async def _fetch(self, address: str) -> Media:
        """Fetch a file of loopback; other hosts are believed, since the lab never leaves it."""
        url = URL(address)
        if url.host not in ("127.0.0.1", "localhost", "::1"):
            return Media(id="", name=url.name, mime="", data=b"", expires=0)
        try:
            async with (
                aiohttp.ClientSession(raise_for_status=True) as session,
                session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as response,
            ):
                data, mime = await response.read(), response.content_type
        except (aiohttp.ClientError, TimeoutError):
            raise GraphError(131053, "Media upload error: link not reachable") from None
        return Media(id="", name=url.name, mime=mime, data=data, expires=0)

    # -- what becomes of a message ------------------------------------------------------------

    def _accept(
        self,
        key: str,
        chat: Chat | None,
        recipient: str,
        kind: str,
        body: dict[str, Any],
        text: str,
        media: Media | None,
    ) -> None:
        failure = None if chat else 131026
        if (fault := self._lab.faults.take("send_failed_later")) is not None:
            failure = int(fault.get("code", 131026))
        if failure is None and chat is not None:
            self._lab.accepted.append(body)
            self._deliver(key, chat.name, kind, body, text, media)
        if kind != "reaction":
            task = asyncio.create_task(
                self._report(key, chat, recipient, body, failure), name="whatsapp-status"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _deliver(
        self, key: str, chat: str, kind: str, body: Mapping[str, Any], text: str, file: Media | None
    ) -> None:
        if kind == "reaction":
            target = body["reaction"].get("message_id")
            self._lab.note("reaction", id=target, chat=chat, emoji=text)
            return
        reply_to = (body.get("context") or {}).get("message_id")
        name, data = (file.name, file.data) if file else (None, b"")
        at = self._lab.now()
        self._lab.hear(
            Heard(id=key, chat=chat, text=text, at=at, reply_to=reply_to, media=name, data=data)
        )

    async def _report(
        self, key: str, chat: Chat | None, to: str, body: Mapping[str, Any], failure: int | None
    ) -> None:
        steps = self._lab.statuses if failure is None else ("failed",)
        if self._lab.faults.take("status_reversed") is not None:
            steps = steps[::-1]
        head: dict[str, Any] = {"recipient_id": to}
        if chat is not None and chat.person is not None:
            head = {"recipient_id": chat.person.wa_id, "recipient_user_id": chat.person.user_id}
        elif chat is not None:
            head["recipient_type"] = "group"
        if failure is not None:
            error = GraphError(failure, "Message undeliverable").report()
            head["errors"] = [error]
        if "biz_opaque_callback_data" in body:
            head["biz_opaque_callback_data"] = body["biz_opaque_callback_data"]
        # The older examples show no contact on statuses; pywa 4.5.0 cannot read one without.
        contact: dict[str, Any] | None = {"wa_id": to}
        if chat is not None:
            person, hidden = chat.person, self._lab.usernames
            contact = person.contact(username=hidden) if person else None
        for step in steps:
            await asyncio.sleep(STATUS_GAP)
            data = {"id": key, "status": step, "timestamp": str(int(wall_clock()))} | head
            self._lab.occur(Event(id=f"{key}/{step}", kind="statuses", data=data, contact=contact))

    # -- media --------------------------------------------------------------------------------

    def store(self, name: str, mime: str, data: bytes, kept: float) -> Media:
        """Keep a file for ``kept`` seconds."""
        key = str(10**15 + secrets.randbelow(10**15))
        media = Media(id=key, name=name, mime=mime, data=data, expires=self._lab.now() + kept)
        self._media[key] = media
        return media

    async def upload(self, request: web.Request) -> web.Response:
        """``POST /{phone_number_id}/media``, multipart."""
        self._lab.play("upload_failed", GraphError(131053, "Media upload error"))
        form = await request.post()
        file = form.get("file")
        if form.get("messaging_product") != "whatsapp" or not isinstance(file, web.FileField):
            raise parameter("messaging_product and file are required")
        mime = str(form.get("type") or file.content_type)
        media = self.store(file.filename, mime, file.file.read(), rules.MEDIA_KEPT)
        return answer({"id": media.id})

    def lookup(self, request: web.Request, key: str) -> web.Response:
        """``GET /{media_id}``: where to download it, for five minutes."""
        self._lab.play("media_gone", rules.no_object(key))
        media = self._media.get(key)
        if media is None or self._lab.now() > media.expires:
            raise rules.no_object(key)
        ticket = secrets.token_urlsafe(16)
        self._downloads[ticket] = key, self._lab.now() + rules.MEDIA_URL_KEPT
        facts = {"mime_type": media.mime, "sha256": media.sha256, "file_size": len(media.data)}
        url = f"{request.scheme}://{request.host}/whatsapp_business/attachments/{ticket}"
        return answer({"messaging_product": "whatsapp", "id": key, "url": url} | facts)

    def delete(self, key: str) -> web.Response:
        """``DELETE /{media_id}``."""
        if self._media.pop(key, None) is None:
            raise rules.no_object(key)
        return answer({"success": True})

    async def download(self, request: web.Request) -> web.Response:
        """The bytes behind the address that a lookup gave."""
        key, until = self._downloads.get(request.match_info["ticket"], ("", 0.0))
        media = self._media.get(key)
        expired = self._lab.faults.take("media_expired") is not None
        if media is None or expired or self._lab.now() > until:
            return web.Response(status=404)
        return web.Response(body=media.data, content_type=media.mime)


def _bounded(value: object, limit: int, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise GraphError(131008, f"Required parameter is missing: {name}")
    if len(value) > limit:
        raise parameter(f"{name} must be at most {limit} characters long")
    return value
