"""What the bot does over HTTP on the simulated Feishu platform: sends, edits, recalls, files."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, web

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators.feishu_cards import Cards
from holdfast.lab.simulators.feishu_messages import (
    Chat,
    Draft,
    Posted,
    card_text,
    new_message_id,
    read_card,
    read_draft,
)
from holdfast.lab.simulators.feishu_platform import OpenPlatform, Work, read_json, success
from holdfast.lab.simulators.feishu_rules import Refusal, millis, wrong_parameter

UUID_LIFE = 3600.0
"""Seconds in which a ``uuid`` is recognised (send page)."""

UUID_MAX = 50
MAX_EDITS = 20
IMAGE_MAX, FILE_MAX = 10 * 2**20, 30 * 2**20
"""Bytes of one upload (upload pages)."""

IMAGE_TYPES = frozenset({"message"})
FILE_TYPES = frozenset({"opus", "mp4", "pdf", "doc", "xls", "ppt", "stream"})
RECEIVE_ID_TYPES = frozenset({"chat_id", "open_id", "union_id", "user_id", "email"})

PAGE_MAX = 50
"""Messages in an answer (im-v1/message/list)."""

UNREADABLE = Refusal(230027, "Lack of necessary permissions, ext=im:message.group_msg")
GONE = Refusal(231003, "The message is not found")
RECALLED = Refusal(230011, "The message was recalled")


@dataclass(frozen=True, slots=True)
class Stored:
    """An uploaded file; ``message`` is the user's message it came with."""

    name: str
    data: bytes
    image: bool
    message: str | None = None


class ChatCalls:
    """Everything the bot does in chats, and the messages and files of both sides.

    Faults, settings and the truth are those of the platform ``lab``.
    """

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self.cards = Cards(lab)
        self.messages: dict[str, Posted] = {}
        self._files: dict[str, Stored] = {}
        self._uuids: dict[str, tuple[float, str]] = {}

    def table(self) -> list[tuple[str, str, Work]]:
        """Method, path and handler of every call."""
        one = "/im/v1/messages/{message}"
        return [
            ("GET", "/im/v1/messages", self._history),
            ("POST", "/im/v1/messages", self._create),
            ("POST", f"{one}/reply", self._reply),
            ("GET", one, self._show),
            ("PUT", one, self._edit),
            ("PATCH", one, self._patch),
            ("DELETE", one, self._recall),
            ("POST", f"{one}/reactions", self._react),
            ("GET", f"{one}/resources/{{key}}", self._resource),
            ("POST", "/im/v1/images", self._upload_image),
            ("POST", "/im/v1/files", self._upload_file),
            *self.cards.table(),
        ]

    # -- messages -----------------------------------------------------------------------------

    def add(self, posted: Posted) -> None:
        """Keep a message, so that it can be replied to and shown."""
        self.messages[posted.id] = posted

    def _find(self, request: web.Request, *, own: bool = False) -> Posted:
        posted = self.messages.get(request.match_info["message"])
        if posted is None or (own and not posted.own):
            raise GONE
        if posted.recalled:
            raise RECALLED
        return posted

    async def _create(self, request: web.Request) -> web.Response:
        kind = request.query.get("receive_id_type", "")
        if kind not in RECEIVE_ID_TYPES:
            raise wrong_parameter("receive_id_type")
        body = await read_json(request)
        return await self._send(
            request, body, lambda: (self._lab.find_chat(kind, body.get("receive_id")), None)
        )

    async def _reply(self, request: web.Request) -> web.Response:
        self._lab.play("reply_recalled", RECALLED)
        self._lab.play("reply_missing", GONE)
        body = await read_json(request)

        def place() -> tuple[Chat, Posted]:
            target = self._find(request)
            return target.chat, target

        return await self._send(request, body, place)

    async def _send(
        self,
        request: web.Request,
        body: dict[str, Any],
        place: Callable[[], tuple[Chat, Posted | None]],
    ) -> web.Response:
        self._play_send_faults(body)
        known = self._by_uuid(body.get("uuid"))
        if known is not None:
            self._lab.note("same-uuid", id=known.id)
            return success(known.view(self._lab.app_id))
        chat, target = place()
        draft = read_draft(body.get("msg_type"), body.get("content"))
        media = self._media(draft)
        posted = self._post(body, chat, draft, target)
        if body.get("uuid"):
            self._uuids[body["uuid"]] = self._lab.now() + UUID_LIFE, posted.id
        if self._lab.faults.take("send_swallowed") is None:
            self._lab.accepted.append(body)
            reply_to = target.id if target else None
            text, at = posted.text, self._lab.now()
            heard = Heard(
                id=posted.id, chat=chat.name, text=text, at=at, reply_to=reply_to, **media
            )
            self._lab.hear(heard)
        return await self._confirm(request, posted)

    def _by_uuid(self, uuid: object) -> Posted | None:
        if uuid is None or uuid == "":
            return None
        if not isinstance(uuid, str) or len(uuid) > UUID_MAX:
            raise wrong_parameter("uuid")
        until, key = self._uuids.get(uuid, (0.0, ""))
        return self.messages[key] if self._lab.now() < until else None

    def _post(
        self, body: dict[str, Any], chat: Chat, draft: Draft, target: Posted | None
    ) -> Posted:
        posted = Posted(
            id=new_message_id(),
            chat=chat,
            text=draft.text,
            own=True,
            msg_type=body["msg_type"],
            content=body["content"],
            created=millis(),
        )
        if draft.card is not None:
            posted.text = self.cards.place(draft.card, posted.id, chat.name)
        if target is not None:
            posted.parent, posted.root = target.id, target.root or target.id
            if body.get("reply_in_thread"):
                target.thread = target.thread or f"omt_{secrets.token_hex(8)}"
            posted.thread = target.thread
        self.add(posted)
        return posted

    def _media(self, draft: Draft) -> dict[str, Any]:
        if draft.media is None:
            return {}
        if (stored := self._files.get(draft.media)) is None:
            raise wrong_parameter("no such key")
        return {"media": stored.name, "data": stored.data}

    def _play_send_faults(self, body: dict[str, Any]) -> None:
        refusal = wrong_parameter("refused by fault")
        self._lab.play("send_refused", refusal)
        self._lab.play("send_code_in_200", Refusal(refusal.code, refusal.msg, status=200))
        self._lab.play("send_frequency", Refusal(230020, "This operation triggers the frequency"))
        if body.get("msg_type") == "interactive":
            failed = "Failed to create card content, ext=ErrCode: 11310; "
            self._lab.play("card_refused", Refusal(230099, failed))

    async def _confirm(self, request: web.Request, posted: Posted) -> web.Response:
        faults = self._lab.faults
        if (fault := faults.take("send_slow_but_delivered")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if faults.take("send_answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        self._lab.play("send_pending", Refusal(230049, "The message is being sent"))
        return success(posted.view(self._lab.app_id))

    # -- what is done to messages -------------------------------------------------------------

    async def _show(self, request: web.Request) -> web.Response:
        posted = self.messages.get(request.match_info["message"])
        if posted is None:
            raise GONE
        return success({"items": [posted.view(self._lab.app_id)]})

    async def _history(self, request: web.Request) -> web.Response:
        """A chat's messages from ``start_time`` (in seconds) on, one page of them."""
        query = request.query
        if query.get("container_id_type") != "chat":
            raise wrong_parameter("container_id_type")
        size, since = query.get("page_size", "20"), query.get("start_time", "0")
        if not (since.isdecimal() and size.isdecimal() and 1 <= int(size) <= PAGE_MAX):
            raise wrong_parameter("page_size, start_time")
        self._lab.play("history_forbidden", UNREADABLE)
        chat = self._lab.find_chat("chat_id", query.get("container_id"))
        found = [
            posted.view(self._lab.app_id)
            for posted in self.messages.values()
            if posted.chat == chat and int(posted.created) >= int(since) * 1000
        ]
        if query.get("sort_type") == "ByCreateTimeDesc":
            found.reverse()
        items = found[: int(size)]
        self._lab.note("history", chat=chat.name, ids=[item["message_id"] for item in items])
        return success({"has_more": len(found) > len(items), "items": items})

    async def _edit(self, request: web.Request) -> web.Response:
        body, posted = await read_json(request), self._find(request, own=True)
        if body.get("msg_type") not in ("text", "post"):
            raise wrong_parameter("msg_type")
        if posted.edits >= MAX_EDITS:
            # The page lists the limit but not its own code; 230072 is what it says on edits.
            raise Refusal(230072, "The message has reached the number of times it can be edited")
        self._change(posted, read_draft(body["msg_type"], body.get("content")).text)
        posted.msg_type, posted.content = body["msg_type"], body["content"]
        return success(posted.view(self._lab.app_id))

    async def _patch(self, request: web.Request) -> web.Response:
        body, posted = await read_json(request), self._find(request, own=True)
        if posted.msg_type != "interactive":
            raise Refusal(230001, "This message is NOT a card.")
        self._change(posted, card_text(read_card(body.get("content"))))
        posted.content = body["content"]
        return success()

    def _change(self, posted: Posted, text: str) -> None:
        posted.edits += 1
        posted.text = text
        where, at = posted.chat.name, self._lab.now()
        self._lab.hear(Heard(id=posted.id, chat=where, text=text, at=at, edit_of=posted.id))

    async def _recall(self, request: web.Request) -> web.Response:
        posted = self._find(request, own=True)
        posted.recalled = True
        self._lab.note("recalled", id=posted.id, chat=posted.chat.name)
        return success()

    async def _react(self, request: web.Request) -> web.Response:
        posted = self._find(request)
        match await read_json(request):
            case {"reaction_type": {"emoji_type": str(emoji)}}:
                self._lab.note("reaction", id=posted.id, chat=posted.chat.name, emoji=emoji)
                return success({"reaction_id": secrets.token_urlsafe(16)})
        raise wrong_parameter("reaction_type")

    # -- files --------------------------------------------------------------------------------

    def store(self, name: str, data: bytes, *, image: bool, message: str | None = None) -> str:
        """Keep a file. Returns its key."""
        key = f"{'img' if image else 'file'}_v3_{secrets.token_hex(16)}"
        self._files[key] = Stored(name, data, image, message)
        return key

    async def _resource(self, request: web.Request) -> web.Response:
        """A file of a user's message; the type must fit."""
        wrong = Refusal(234001, "Invalid request param.")
        self._lab.play("resource_refused", wrong)
        stored = self._files.get(request.match_info["key"])
        kind = request.query.get("type")
        if stored is None or stored.message != request.match_info["message"]:
            raise wrong
        if kind not in ("image", "file") or stored.image != (kind == "image"):
            raise wrong
        headers = {"Content-Disposition": f'attachment; filename="{stored.name}"'}
        return web.Response(
            body=stored.data, content_type="application/octet-stream", headers=headers
        )

    async def _upload_image(self, request: web.Request) -> web.Response:
        key = await self._upload(request, "image", IMAGE_MAX)
        return success({"image_key": key})

    async def _upload_file(self, request: web.Request) -> web.Response:
        key = await self._upload(request, "file", FILE_MAX)
        return success({"file_key": key})

    async def _upload(self, request: web.Request, field: str, limit: int) -> str:
        wrong, image = Refusal(234001, "Invalid request param."), field == "image"
        self._lab.play("upload_refused", wrong)
        form, name = await _read_form(request)
        kind = form.get("image_type" if image else "file_type", b"").decode()
        name = name if image else form.get("file_name", b"").decode()
        if field not in form or not (name or image):
            raise wrong
        if kind not in (IMAGE_TYPES if image else FILE_TYPES):
            raise wrong
        if not form[field]:
            raise Refusal(234010, "File's size can't be 0.")
        if len(form[field]) > limit:
            raise Refusal(234006, "The file size exceed the max value.")
        return self.store(name or "image", form[field], image=image)


async def _read_form(request: web.Request) -> tuple[dict[str, bytes], str]:
    """The parts of an upload by name, and the last file name told.

    Part by part, since the SDK sends files without a file name, which ``request.post`` takes for
    texts.
    """
    if request.content_type != "multipart/form-data":
        raise Refusal(234001, "Invalid request param.")
    form, name = {}, ""
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader):
            form[part.name or ""] = bytes(await part.read())
            name = part.filename or name
    return form, name
