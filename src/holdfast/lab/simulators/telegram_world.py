"""What Telegram stores of users and groups, and the methods with which a bot writes to them."""

from __future__ import annotations

import mimetypes
import re
import zlib
from collections.abc import Callable
from typing import Any

from holdfast.lab.simulator import Heard, wall_clock
from holdfast.lab.simulators.telegram_wire import (
    MAX_CAPTION,
    MAX_PHOTO,
    MAX_TEXT,
    MAX_UPLOAD,
    NOT_MODIFIED,
    BotApiError,
    Json,
    Params,
    StoredFile,
    Upload,
    bad_request,
    flag,
    integer,
    photo_trouble,
    structure,
    utf16_length,
    visible_text,
)


class World:
    """Users and groups with their messages and files, as Telegram stores them."""

    def __init__(self, username: str) -> None:
        self.mention = f"@{username}"
        self.names: dict[int, str] = {}
        self.messages: dict[tuple[int, int], Json] = {}
        self.threads: set[tuple[int, int]] = set()
        self.files: dict[str, StoredFile] = {}
        self._last_message = 5000

    def chat_id(self, name: str, *, group: bool = False) -> int:
        """A stable id: the same name has the same id in every process."""
        number = zlib.crc32(name.encode())
        chat_id = -1_001_000_000_000 - number % 10**9 if group else 10_000 + number
        assert self.names.setdefault(chat_id, name) == name, f"two names share the id {chat_id}"
        return chat_id

    def user(self, name: str) -> Json:
        """A ``User``."""
        user_id = self.chat_id(name)
        return {"id": user_id, "is_bot": False, "first_name": name.capitalize(), "username": name}

    def chat(self, chat_id: int) -> Json:
        """A ``Chat``: private, or a supergroup, which is a forum once a topic was used."""
        name = self.names[chat_id]
        if chat_id > 0:
            private = {"first_name": name.capitalize(), "username": name, "type": "private"}
            return {"id": chat_id} | private
        forum = any(chat == chat_id for chat, _ in self.threads)
        group = {"id": chat_id, "title": name, "type": "supergroup"}
        return group | ({"is_forum": True} if forum else {})

    def post(self, chat_id: int, author: Json, content: Json) -> Json:
        """Store and return a new ``Message``."""
        self._last_message += 1
        message: Json = {
            "message_id": self._last_message,
            "from": author,
            "chat": self.chat(chat_id),
            "date": int(wall_clock()),
        } | content
        self.messages[chat_id, self._last_message] = message
        return message

    @staticmethod
    def quoted(message: Json) -> Json:
        """A message inside a reply to it: Telegram nests one level deep."""
        return {key: value for key, value in message.items() if key != "reply_to_message"}

    def words(self, text: str, *, group: bool, caption: bool) -> Json:
        """Text or caption with its entities; in a group it mentions the bot."""
        if group and self.mention not in text:
            if text.startswith("/"):
                text = re.sub(r"^/\w+", rf"\g<0>{self.mention}", text)
            else:
                text = f"{self.mention} {text}"
        if not text:
            return {}
        entities = []
        if command := re.match(r"/\w+(@\w+)?", text):
            entities.append({"offset": 0, "length": len(command[0]), "type": "bot_command"})
        elif self.mention in text:
            offset = utf16_length(text[: text.index(self.mention)])
            entities.append({"offset": offset, "length": len(self.mention), "type": "mention"})
        content: Json = {"caption" if caption else "text": text}
        if entities:
            content["caption_entities" if caption else "entities"] = entities
        return content

    def store(self, folder: str, name: str, data: bytes) -> StoredFile:
        """Keep a file under a new id and path."""
        number = len(self.files) + 1
        suffix = name.rpartition(".")[2] if "." in name else "bin"
        path = f"{folder}/file_{number}.{suffix}"
        stored = StoredFile(id=f"AgAC{number:08d}", path=path, name=name, data=data)
        self.files[stored.id] = stored
        return stored

    def photo(self, large: StoredFile) -> list[Json]:
        """Sizes from small to large; the small one is no real picture."""
        small = self.store("thumbnails", "thumb.jpg", large.data[:1024])
        return [
            small.wire() | {"width": 90, "height": 67},
            large.wire() | {"width": 1280, "height": 960},
        ]

    @staticmethod
    def document(stored: StoredFile) -> Json:
        """A ``Document``."""
        mime = mimetypes.guess_type(stored.name)[0] or "application/octet-stream"
        return stored.wire() | {"file_name": stored.name, "mime_type": mime}


class Outbound:
    """The methods with which a bot writes to users; ``methods`` has them by lower-case name."""

    def __init__(
        self,
        world: World,
        *,
        bot: Callable[[], Json],
        hear: Callable[[Heard], None],
        note: Callable[..., None],
        now: Callable[[], float],
    ) -> None:
        self._world, self._bot, self._hear, self._note, self._now = world, bot, hear, note, now
        self.methods: dict[str, Callable[[Params], Any]] = {
            "sendmessage": self._send_message,
            "editmessagetext": self._edit_message_text,
            "deletemessage": self._delete_message,
            "sendchataction": self._send_chat_action,
            "sendphoto": self._send_photo,
            "senddocument": self._send_document,
            "setmessagereaction": self._set_message_reaction,
        }

    def _addressed(self, params: Params) -> int:
        if params.get("chat_id") in (None, ""):
            raise bad_request("chat_id is empty")
        try:
            chat_id = int(params["chat_id"])
        except (TypeError, ValueError):
            chat_id = 0
        if chat_id not in self._world.names:
            raise bad_request("chat not found")
        return chat_id

    def _existing(self, params: Params, missing: str) -> Json:
        key = self._addressed(params), integer(params, "message_id", 0)
        if key not in self._world.messages:
            raise bad_request(missing)
        return self._world.messages[key]

    @staticmethod
    def _text(params: Params) -> str:
        text = visible_text(str(params.get("text", "")), params.get("parse_mode"))
        if not text.strip():
            raise bad_request("message text is empty")
        if len(text) > MAX_TEXT:
            raise bad_request("message is too long")
        return text

    def _send_message(self, params: Params) -> Json:
        text = self._text(params)
        return self._deliver_to_user(params, {"text": text}, text=text)

    def _deliver_to_user(
        self,
        params: Params,
        content: Json,
        *,
        text: str,
        media: str | None = None,
        data: bytes = b"",
    ) -> Json:
        chat_id = self._addressed(params)
        if thread := integer(params, "message_thread_id", 0):
            if (chat_id, thread) not in self._world.threads:
                raise bad_request("message thread not found")
            content |= {"message_thread_id": thread, "is_topic_message": True}
        answered = self._answered(params, chat_id)
        if answered is not None:
            content["reply_to_message"] = self._world.quoted(answered)
        message = self._world.post(chat_id, self._bot(), content)
        self._hear(
            Heard(
                id=str(message["message_id"]),
                chat=self._world.names[chat_id],
                text=text,
                at=self._now(),
                reply_to=None if answered is None else str(answered["message_id"]),
                media=media,
                data=data,
            )
        )
        return message

    def _answered(self, params: Params, chat_id: int) -> Json | None:
        """The message replied to: ``reply_parameters``, or the older ``reply_to_message_id``."""
        reply = structure(params, "reply_parameters")
        if reply is None and "reply_to_message_id" in params:
            reply = {
                "message_id": params["reply_to_message_id"],
                "allow_sending_without_reply": flag(params, "allow_sending_without_reply"),
            }
        if not reply:
            return None
        key = int(reply.get("chat_id") or chat_id), integer(reply, "message_id", 0)
        if key not in self._world.messages and not reply.get("allow_sending_without_reply"):
            raise bad_request("message to be replied not found")
        return self._world.messages.get(key)

    def _edit_message_text(self, params: Params) -> Json:
        text = self._text(params)
        message = self._existing(params, "message to edit not found")
        if not message["from"]["is_bot"]:
            raise bad_request("message can't be edited")
        if message.get("text") == text:
            raise bad_request(NOT_MODIFIED)
        message |= {"text": text, "edit_date": int(wall_clock())}
        message_id = str(message["message_id"])
        chat = self._world.names[message["chat"]["id"]]
        self._hear(Heard(id=message_id, chat=chat, text=text, at=self._now(), edit_of=message_id))
        return message

    def _delete_message(self, params: Params) -> bool:
        message = self._existing(params, "message to delete not found")
        chat_id, message_id = message["chat"]["id"], message["message_id"]
        del self._world.messages[chat_id, message_id]
        self._note("deleted", id=str(message_id), chat=self._world.names[chat_id])
        return True

    def _send_chat_action(self, params: Params) -> bool:
        chat = self._world.names[self._addressed(params)]
        self._note("chat-action", chat=chat, action=params.get("action"))
        return True

    def _set_message_reaction(self, params: Params) -> bool:
        message = self._existing(params, "message to react not found")
        emoji = [one.get("emoji") for one in structure(params, "reaction") or []]
        chat = self._world.names[message["chat"]["id"]]
        self._note("reaction", id=str(message["message_id"]), chat=chat, emoji=emoji)
        return True

    def _send_photo(self, params: Params) -> Json:
        sent = self._sent_file(params, "photo", MAX_PHOTO)
        if (trouble := photo_trouble(sent.data)) is not None:
            raise bad_request(trouble)
        content = {"photo": self._world.photo(sent)}
        return self._send_captioned(params, content, "photo", sent.data)

    def _send_document(self, params: Params) -> Json:
        sent = self._sent_file(params, "document", MAX_UPLOAD)
        content = {"document": self._world.document(sent)}
        return self._send_captioned(params, content, sent.name, sent.data)

    def _send_captioned(self, params: Params, content: Json, media: str, data: bytes) -> Json:
        caption = visible_text(str(params.get("caption", "")), params.get("parse_mode"))
        if len(caption) > MAX_CAPTION:
            raise bad_request("message caption is too long")
        if caption:
            content["caption"] = caption
        return self._deliver_to_user(params, content, text=caption, media=media, data=data)

    def _sent_file(self, params: Params, kind: str, limit: int) -> StoredFile:
        """An upload, or the id of a file the server has; URLs are not fetched here."""
        value = params.get(kind)
        if isinstance(value, str) and value.startswith("attach://"):
            value = params.get(value.removeprefix("attach://"))
        if isinstance(value, Upload):
            if len(value.data) > limit:
                raise BotApiError(413, "Request Entity Too Large")
            return self._world.store(f"{kind}s", value.name, value.data)
        if isinstance(value, str) and value in self._world.files:
            return self._world.files[value]
        raise bad_request("wrong file identifier/HTTP URL specified")
