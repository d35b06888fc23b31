"""What a simulated Mattermost server knows: users, channels, posts, files, and valid tokens."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from holdfast.lab.simulator import Simulator, wall_clock
from holdfast.lab.simulators import mattermost_rules as rules
from holdfast.lab.simulators.mattermost_rules import Event, Json, new_id

BOT_NAME = "holdfast"
TEAM_ID = new_id("team lab")


@dataclass(slots=True, kw_only=True)
class Channel:
    """A direct (``D``) or public (``O``) channel; ``chat`` is its name in the truth log."""

    id: str
    kind: str
    name: str
    chat: str
    created: int
    posts: list[Json] = field(default_factory=list)

    def wire(self) -> Json:
        """The Channel object."""
        last = max((post["create_at"] for post in self.posts), default=0)
        return {
            "id": self.id,
            "create_at": self.created,
            "update_at": self.created,
            "delete_at": 0,
            "team_id": "" if self.kind == "D" else TEAM_ID,
            "type": self.kind,
            "display_name": "" if self.kind == "D" else self.chat,
            "name": self.name,
            "header": "",
            "purpose": "",
            "last_post_at": last,
            "total_msg_count": len(self.posts),
            "creator_id": "",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An uploaded file and its FileInfo."""

    info: Json
    data: bytes


class MattermostWorld(Simulator):
    """One server with one bot; the rooms of the simulator build on it.

    Attributes that tests may change: ``max_message`` (code points), ``max_file`` (bytes),
    ``since_newest``: which posts an answer to ``since`` holds when there are too many for it. The
    server's query leaves that to its database: those changed first, or last.
    """

    platform: ClassVar[str] = "mattermost"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.token, self.password = new_id("token"), "correct horse"
        self.max_message, self.max_file = rules.MAX_MESSAGE, rules.MAX_FILE
        self.since_newest = False
        self.bot_id = new_id(f"user {BOT_NAME}")
        self.tokens = {self.token}
        """Tokens that are valid now: the bot's own and those of login sessions."""
        self.users = {self.bot_id: BOT_NAME}
        self.channels: dict[str, Channel] = {}
        self.posts: dict[str, Json] = {}
        self.files: dict[str, StoredFile] = {}
        self.publish: Callable[[Event], None] = lambda event: None
        self._last_date = 0

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this bot."""
        return {"platform": self.platform, "url": self.url, "token": self.token}

    def date(self) -> int:
        """The present in ms; no two posts or edits share one."""
        self._last_date = max(self._last_date + 1, int(wall_clock() * 1000))
        return self._last_date

    # -- who and where ------------------------------------------------------------------------

    def user_id(self, name: str) -> str:
        """The id of a user, who exists from now on."""
        key = new_id(f"user {name}")
        self.users[key] = name
        return key

    def user(self, key: str) -> Json:
        """The User object. Raises AppError 404."""
        key = self.bot_id if key == "me" else key
        if key not in self.users:
            raise rules.AppError(404, "app.user.missing_account.const")
        bot = {"is_bot": True, "bot_description": ""} if key == self.bot_id else {}
        return {
            "id": key,
            "create_at": 1,
            "update_at": 1,
            "delete_at": 0,
            "username": self.users[key],
            "nickname": "",
            "first_name": "",
            "last_name": "",
            "email": f"{self.users[key]}@localhost",
            "roles": "system_user",
            "locale": "en",
        } | bot

    def channel_id(self, chat: str, *, group: bool = False) -> str:
        """The id of the chat's channel, which has the bot as a member from now on."""
        if not group:
            return self.direct(self.user_id(chat)).id
        key = new_id(f"channel {chat}")
        if key not in self.channels:
            name = chat.lower().replace(" ", "-")
            self._add(Channel(id=key, kind="O", name=name, chat=chat, created=self.date()))
        return key

    def direct(self, user: str) -> Channel:
        """The direct channel of the bot and a user."""
        name = "__".join(sorted((self.bot_id, user)))
        key = new_id(f"direct {name}")
        if key not in self.channels:
            chat = self.users[user]
            self._add(Channel(id=key, kind="D", name=name, chat=chat, created=self.date()))
        return self.channels[key]

    def _add(self, channel: Channel) -> None:
        self.channels[channel.id] = channel

    # -- posts --------------------------------------------------------------------------------

    def draft(self, author: str, channel: str, message: str, root: str = "", **more: Any) -> Json:
        """A post that exists for nobody yet."""
        date = self.date()
        return {
            "id": new_id(),
            "create_at": date,
            "update_at": date,
            "edit_at": 0,
            "delete_at": 0,
            "is_pinned": False,
            "user_id": author,
            "channel_id": channel,
            "root_id": root,
            "original_id": "",
            "message": message,
            "type": "",
            "props": {},
            "hashtags": "",
            "file_ids": [],
            "pending_post_id": "",
            "remote_id": "",
            "reply_count": 0,
            "last_reply_at": 0,
            "participants": None,
            "metadata": {},
        } | more

    def create(self, post: Json, pending: str = "") -> None:
        """Store a post and announce it; ``pending_post_id`` is announced, not stored.

        An answer changes the date of its thread's root.
        """
        if post["file_ids"]:
            for key in post["file_ids"]:
                self.files[key].info["post_id"] = post["id"]
            post["metadata"] = {"files": [self.files[key].info for key in post["file_ids"]]}
        channel = self.channels[post["channel_id"]]
        channel.posts.append(post)
        self.posts[post["id"]] = post
        if post["root_id"]:
            self.posts[post["root_id"]]["update_at"] = post["create_at"]
        author = self.users[post["user_id"]]
        mentioned = channel.kind == "D" or f"@{BOT_NAME}" in post["message"]
        data = {
            "channel_display_name": f"@{author}" if channel.kind == "D" else channel.chat,
            "channel_name": channel.name,
            "channel_type": channel.kind,
            "sender_name": f"@{author}",
            "set_online": True,
            "team_id": channel.wire()["team_id"],
            "post": json.dumps(post | {"pending_post_id": pending}),
        }
        if mentioned and post["user_id"] != self.bot_id:
            data["mentions"] = json.dumps([self.bot_id])
        if post["file_ids"]:
            image = self.files[post["file_ids"][0]].info["mime_type"].startswith("image/")
            data["image" if image else "otherFile"] = "true"
        self._announce("posted", post, data)

    def edit(self, post: Json, message: str) -> None:
        """Change the text of a post and announce it."""
        date = self.date()
        post |= {"message": message, "edit_at": date, "update_at": date}
        self._announce("post_edited", post, {"post": json.dumps(post)})

    def delete(self, post: Json) -> None:
        """Delete a post and announce it; only ``since`` shows it again."""
        date = self.date()
        post |= {"delete_at": date, "update_at": date}
        self._announce("post_deleted", post, {"post": json.dumps(post)})

    def _announce(self, kind: str, post: Json, data: Json) -> None:
        self.publish(Event(kind=kind, data=data, channel_id=post["channel_id"], post_id=post["id"]))

    # -- files --------------------------------------------------------------------------------

    def store(self, owner: str, channel: str, name: str, data: bytes) -> Json:
        """Keep a file. Returns its FileInfo."""
        date = self.date()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        info: Json = {
            "id": new_id(),
            "user_id": owner,
            "post_id": "",
            "channel_id": channel,
            "create_at": date,
            "update_at": date,
            "delete_at": 0,
            "name": name,
            "extension": name.rpartition(".")[2] if "." in name else "",
            "size": len(data),
            "mime_type": kind,
            "has_preview_image": False,
        }
        if kind == "image/png" and len(data) >= 24:
            width, height = data[16:20], data[20:24]
            info |= {
                "width": int.from_bytes(width, "big"),
                "height": int.from_bytes(height, "big"),
            }
        self.files[info["id"]] = StoredFile(info=info, data=data)
        return info
