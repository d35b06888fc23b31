"""Messages of the simulated Feishu platform, both ways: users' events and the bot's drafts."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.lab.simulators.feishu_rules import TENANT, Refusal, wrong_parameter

BOT_NAME, BOT_OPEN_ID = "holdfast", "ou_b0700000000000000000000000000000"

TEXT_MAX, CARD_MAX = 150 * 1024, 30 * 1024
"""Bytes of the content of a text, and of a post or card (send page)."""

AT = re.compile(r'<at user_id="([^"]*)">([^<]*)</at>')


def digest(name: str) -> str:
    """32 hexadecimal digits that stand for a name in ids."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def new_message_id() -> str:
    """A ``message_id``."""
    return f"om_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the tenant, and the ids under which the bot may know him."""

    name: str

    @property
    def open_id(self) -> str:
        """The id of the user for this app."""
        return f"ou_{digest(self.name)}"

    @property
    def union_id(self) -> str:
        """The id of the user for all apps of one developer."""
        return f"on_{digest(self.name)}"

    @property
    def user_id(self) -> str:
        """The employee id, shown to apps with the scope for it."""
        return f"u-{self.name}"

    @property
    def email(self) -> str:
        """An address that may be written to, too."""
        return f"{self.name}@example.com"

    def ids(self) -> dict[str, str]:
        """The three ids, as events carry them."""
        return {"open_id": self.open_id, "union_id": self.union_id, "user_id": self.user_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation; a private one has a chat_id too."""

    name: str
    group: bool

    @property
    def id(self) -> str:
        """``chat_id``."""
        return f"oc_{digest(f'{self.group}/{self.name}')}"


@dataclass(slots=True, kw_only=True)
class Posted:
    """A message that the platform keeps, whoever wrote it."""

    id: str
    chat: Chat
    text: str
    own: bool
    """Whether the bot wrote it."""
    author: str = ""
    """The open_id of the person who did otherwise."""
    msg_type: str = "text"
    content: str = ""
    root: str = ""
    parent: str = ""
    thread: str = ""
    created: str = ""
    edits: int = 0
    recalled: bool = False

    def view(self, app_id: str) -> dict[str, Any]:
        """The message as answers show it."""
        by_app = {"id": app_id, "id_type": "app_id", "sender_type": "app"}
        by_user = {"id": self.author, "id_type": "open_id", "sender_type": "user"}
        called = {"key": "@_user_1", "id": BOT_OPEN_ID, "id_type": "open_id", "name": BOT_NAME}
        return {
            "message_id": self.id,
            "root_id": self.root,
            "parent_id": self.parent,
            "thread_id": self.thread,
            "msg_type": self.msg_type,
            "chat_id": self.chat.id,
            "create_time": self.created,
            "update_time": self.created,
            "deleted": self.recalled,
            "updated": self.edits > 0,
            "sender": (by_app if self.own else by_user) | {"tenant_key": TENANT},
            "body": {"content": self.content},
            "mentions": [called | {"tenant_key": TENANT}] if self.calls_bot else [],
        }

    @property
    def calls_bot(self) -> bool:
        """Whether it mentions the bot, as a text of a user in a group does here."""
        return self.chat.group and not self.own and self.msg_type == "text"


# -- what users write -------------------------------------------------------------------------


def user_content(
    text: str, image: str | None = None, file: tuple[str, str] | None = None
) -> tuple[str, dict[str, Any]]:
    """``message_type`` and content; ``image`` is a key, ``file`` a name and a key.

    Text beside an image makes it a post. Text beside a file is dropped: the platform sends a file
    alone.
    """
    if file is not None:
        name, key = file
        return "file", {"file_key": key, "file_name": name}
    if image is None:
        return "text", {"text": text}
    if not text:
        return "image", {"image_key": image}
    line = [{"tag": "text", "text": text, "style": []}]
    return "post", {"title": "", "content": [line, [{"tag": "img", "image_key": image}]]}


def user_event(
    posted: Posted, sender: Person, kind: str, content: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of ``im.message.receive_v1``; in a group the bot is mentioned in a text."""
    body, mention = dict(content), posted.calls_bot and kind == "text"
    if mention:
        body["text"] = f"@_user_1 {body['text']}"
    message: dict[str, Any] = {
        "message_id": posted.id,
        "create_time": posted.created,
        "update_time": posted.created,
        "chat_id": posted.chat.id,
        "chat_type": "group" if posted.chat.group else "p2p",
        "message_type": kind,
        "content": json.dumps(body, ensure_ascii=False),
        "user_agent": "",
    }
    relations = {"root_id": posted.root, "parent_id": posted.parent, "thread_id": posted.thread}
    message |= {key: value for key, value in relations.items() if value}
    if mention:
        message["mentions"] = [
            {
                "key": "@_user_1",
                "name": BOT_NAME,
                "id": {"open_id": BOT_OPEN_ID, "union_id": "on_bot", "user_id": ""},
                "mentioned_type": "bot",
                "tenant_key": TENANT,
            }
        ]
    who = {"sender_id": sender.ids(), "sender_type": "user", "tenant_key": TENANT}
    return {"sender": who, "message": message}


# -- what the bot writes ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a user will see of a message of the bot; ``card`` is the id of a card entity."""

    text: str
    media: str | None = None
    card: str | None = None


def read_draft(msg_type: object, content: object) -> Draft:
    """The draft of ``msg_type`` and ``content``. Raises Refusal."""
    body: dict[str, Any] = _decode(content) or {}
    size = len(str(content).encode())
    if size > (TEXT_MAX if msg_type == "text" else CARD_MAX):
        raise Refusal(230025, "The length of the message content reaches its limit")
    match msg_type, body:
        case "text", {"text": str(text)} if text:
            return Draft(text=AT.sub(r"@\2", text))
        case "post", _ if body:
            return Draft(text="\n".join(_lines(_post(body))))
        case "image", {"image_key": str(key)}:
            return Draft(text="", media=key)
        case "file" | "audio" | "media", {"file_key": str(key)}:
            return Draft(text="", media=key)
        case "interactive", {"type": "card", "data": {"card_id": str(key)}}:
            return Draft(text="", card=key)
        case "interactive", _ if body:
            return Draft(text=card_text(body))
    raise wrong_parameter(f"msg_type {msg_type!r} or its content")


def _decode(content: object) -> dict[str, Any] | None:
    try:
        body = json.loads(content) if isinstance(content, str) else None
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def read_card(content: object) -> dict[str, Any]:
    """A card in a JSON string. Raises Refusal: 230099."""
    card = _decode(content)
    if card is None or len(str(content).encode()) > CARD_MAX:
        raise Refusal(230099, "Failed to create card content, ext=ErrCode: 200621; parse error")
    return card


def card_text(card: Mapping[str, Any]) -> str:
    """The texts of a card, of either schema, line by line."""
    body = card.get("body")
    elements = body.get("elements") if isinstance(body, dict) else card.get("elements")
    texts = []
    for element in elements or []:
        content = element.get("content") or element.get("text", {}).get("content", "")
        texts.append(content)
    return "\n".join(text for text in texts if text)


def _post(locales: Mapping[str, Any]) -> Mapping[str, Any]:
    # Outbound posts have a locale level, inbound ones do not.
    post = next(iter(locales.values()))
    if not isinstance(post, dict) or not isinstance(post.get("content"), list):
        raise wrong_parameter("post without a locale")
    return post


def _lines(post: Mapping[str, Any]) -> Iterator[str]:
    if post.get("title"):
        yield post["title"]
    for line in post["content"]:
        yield "".join(part.get("text", part.get("user_name", "")) for part in line)
