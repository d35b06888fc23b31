"""The workspace of the simulated Slack without I/O: users, channels, messages, files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.lab.simulators.slack_rules import (
    BOT_ID,
    BOT_USER,
    TEAM,
    ApiError,
    Json,
    escape,
    flag,
    page_size,
)

SUBSCRIPTIONS: Mapping[str, str] = {
    "channel": "message.channels",
    "group": "message.groups",
    "mpim": "message.mpim",
    "im": "message.im",
}
"""Bot events by ``channel_type`` (https://docs.slack.dev/reference/events/message)."""

_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"))


@dataclass(slots=True)
class Channel:
    """A direct chat or a channel: its name in the lab, and its messages by ``ts`` in order."""

    id: str
    name: str
    kind: str
    """``channel_type`` of events, one of `SUBSCRIPTIONS`."""
    messages: dict[str, Json] = field(default_factory=dict)

    @property
    def group(self) -> bool:
        """Whether it is more than a chat of two."""
        return self.kind != "im"

    @property
    def subscription(self) -> str:
        """The bot event an app subscribes to for messages of such channels."""
        return SUBSCRIPTIONS[self.kind]

    def find(self, ts: object, error: str = "message_not_found") -> Json:
        """A message of the channel. Raises ApiError."""
        message = self.messages.get(str(ts))
        if message is None:
            raise ApiError(error)
        return message


@dataclass(slots=True)
class File:
    """A file: reserved by the bot or shared by a user; ``data`` is None until it is uploaded."""

    id: str
    name: str
    data: bytes | None = None
    upload_key: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @property
    def path(self) -> str:
        """Where the bytes are, below the simulator's address."""
        return f"/files-pri/{TEAM}-{self.id}/{self.name}"

    def describe(self) -> Json:
        """The file object of messages and answers."""
        data = self.data or b""
        kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
        return {
            "id": self.id,
            "name": self.name,
            "title": self.name,
            "mimetype": f"image/{kind}" if kind else "application/octet-stream",
            "filetype": kind or "binary",
            "size": len(data),
            "mode": "hosted",
            "is_external": False,
            "url_private": self.path,
            "url_private_download": self.path,
        }


class World:
    """Everything the workspace remembers. Names are the lab's, ids are stable hashes of them.

    A ``ts`` is unique over the workspace (Slack promises it within a channel only), so that
    ``Said.id`` alone identifies what a ``Heard.reply_to`` answers.
    """

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.users: dict[str, str] = {BOT_USER: "holdfast"}
        self.files: dict[str, File] = {}
        self._last_ts = 0

    def user(self, name: str) -> str:
        """The id of a user, who exists from now on."""
        key = _id("U", name)
        self.users[key] = name
        return key

    def channel(self, name: str, *, group: bool, kind: str = "channel") -> Channel:
        """The chat of this name, which exists from now on; a direct one belongs to a user.

        ``kind`` is what a group becomes that does not exist yet.
        """
        key = _id("C" if group else "D", name)
        if not group:
            self.user(name)
        return self.channels.setdefault(key, Channel(key, name, kind if group else "im"))

    def resolve(self, key: object) -> Channel:
        """The channel of an id; a user's id means the direct chat. Raises ApiError."""
        if str(key) in self.users and key != BOT_USER:
            return self.channel(self.users[str(key)], group=False)
        channel = self.channels.get(str(key))
        if channel is None:
            raise ApiError("channel_not_found")
        return channel

    def file(self, name: str, data: bytes | None = None) -> File:
        """A new file."""
        file = File("F" + secrets.token_hex(5).upper(), name, data)
        self.files[file.id] = file
        return file

    def stamp(self, now: float) -> str:
        """A fresh ``ts``: Unix time in seconds, later than every one before."""
        self._last_ts = max(self._last_ts + 1, int(now * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    # -- messages -----------------------------------------------------------------------------

    def post(self, channel: Channel, ts: str, content: Json, thread: str | None) -> Json:
        """Store a message, in the thread of ``thread`` if given. Raises ApiError."""
        message = {"type": "message", "ts": ts, "team": TEAM} | content
        if thread is not None:
            root = channel.find(thread, "thread_not_found")
            root = channel.find(root.get("thread_ts", root["ts"]), "thread_not_found")
            message |= {"thread_ts": root["ts"], "parent_user_id": root["user"]}
            root |= {"thread_ts": root["ts"], "latest_reply": ts}
            root["reply_count"] = root.get("reply_count", 0) + 1
        channel.messages[ts] = message
        return message

    def by_user(self, user: str, text: str, files: list[Json], *, mention: bool) -> Json:
        """The content of a user's message; a mention stands at the start of the text."""
        spoken = f"<@{BOT_USER}> {escape(text)}" if mention else escape(text)
        elements: list[Json] = [{"type": "text", "text": f" {text}" if mention else text}]
        if mention:
            elements.insert(0, {"type": "user", "user_id": BOT_USER})
        section = {"type": "rich_text_section", "elements": elements}
        block = {"type": "rich_text", "block_id": secrets.token_hex(2), "elements": [section]}
        content: Json = {
            "user": user,
            "text": spoken,
            "client_msg_id": str(uuid.uuid4()),
            "blocks": [block],
        }
        return content | ({"files": files, "upload": False} if files else {})

    @staticmethod
    def by_bot(text: str, params: Mapping[str, Any]) -> Json:
        """The content of the bot's message; ``client_msg_id`` of a bot has no effect."""
        kept = {key: params[key] for key in ("blocks", "metadata", "files") if params.get(key)}
        return {"user": BOT_USER, "bot_id": BOT_ID, "text": text} | kept

    @staticmethod
    def edit(message: Json, ts: str, content: Json) -> Json:
        """Change a message in place. Returns what it was before."""
        before = dict(message)
        message |= content | {"edited": {"user": message["user"], "ts": ts}}
        return before

    # -- reading ------------------------------------------------------------------------------

    def history(self, channel: Channel, params: Mapping[str, Any], most: int) -> Json:
        """A page of ``conversations.history``: newest first, without the replies of threads."""
        found = [m for m in channel.messages.values() if m.get("thread_ts", m["ts"]) == m["ts"]]
        found += [m for m in channel.messages.values() if m.get("subtype") == "thread_broadcast"]
        found = [m for m in found if _in_range(m["ts"], params)]
        found.sort(key=lambda m: _number(m["ts"]), reverse=True)
        return _page(found, params, most)

    def replies(self, channel: Channel, params: Mapping[str, Any], most: int) -> Json:
        """A page of ``conversations.replies``: the root first, then its replies in order."""
        root = channel.find(params.get("ts"), "thread_not_found")
        found = [
            m
            for m in channel.messages.values()
            if m.get("thread_ts") == root["ts"] and m is not root and _in_range(m["ts"], params)
        ]
        return _page([root, *found], params, most)


def _page(found: list[Json], params: Mapping[str, Any], most: int) -> Json:
    size, start = min(page_size(params.get("limit")), most), _offset(params.get("cursor"))
    shown, more = found[start : start + size], len(found) > start + size
    if not flag(params.get("include_all_metadata")):
        shown = [{k: v for k, v in m.items() if k != "metadata"} for m in shown]
    answer: Json = {"messages": shown, "has_more": more}
    if more:
        cursor = base64.b64encode(f"next:{start + size}".encode()).decode()
        answer["response_metadata"] = {"next_cursor": cursor}
    return answer


def _offset(cursor: object) -> int:
    if not cursor:
        return 0
    try:
        return int(base64.b64decode(str(cursor)).removeprefix(b"next:"))
    except (ValueError, binascii.Error):
        raise ApiError("invalid_cursor") from None


def _in_range(ts: str, params: Mapping[str, Any]) -> bool:
    value, inclusive = _number(ts), flag(params.get("inclusive"))
    oldest, latest = params.get("oldest"), params.get("latest")
    low = _number(oldest) if oldest else -1
    high = _number(latest) if latest else value + 1
    return low < value < high or (inclusive and value in (low, high))


def _number(ts: object) -> int:
    """Microseconds of a ``ts``; a float would not keep them. Raises ApiError."""
    seconds, _, fraction = str(ts).partition(".")
    try:
        return int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, "0"))
    except ValueError:
        raise ApiError("invalid_ts_oldest") from None


def _id(letter: str, name: str) -> str:
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return letter + digest[:10].upper()
