"""What the simulated Discord stores: users, one guild, channels, messages, attachments."""

from __future__ import annotations

import mimetypes
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.lab.simulator import wall_clock
from holdfast.lab.simulators.discord_rules import ATTACHMENT_LIFE, Json, unknown

EPOCH_MS = 1_420_070_400_000
"""Snowflakes count milliseconds from the first second of 2015."""
BOT_ID = 111_000_000_000_000_111
GUILD_ID = 333_000_000_000_000_333
DM, GUILD_TEXT, THREAD = 1, 0, 11
DEFAULT, REPLY = 0, 19
FORWARD = 1
"""Type of the reference to a forwarded message."""
HAS_SNAPSHOT = 1 << 14
"""Flag of a message that forwards one."""
SNAPSHOT_FIELDS = (
    "type",
    "content",
    "embeds",
    "attachments",
    "timestamp",
    "edited_timestamp",
    "flags",
    "mentions",
    "mention_roles",
    "components",
)
"""What a forwarded message shows of the original one: not who wrote it."""

BOT: Json = {
    "id": str(BOT_ID),
    "username": "gatebot",
    "discriminator": "0",
    "global_name": None,
    "avatar": None,
    "bot": True,
}
APPLICATION: Json = {
    "id": str(BOT_ID),
    "name": "gatebot",
    "icon": None,
    "description": "",
    "bot_public": False,
    "bot_require_code_grant": False,
    "verify_key": "00" * 32,
    "flags": 0,
    "owner": BOT,
    "team": None,
    "summary": "",
}


def timestamp() -> str:
    """The present as Discord writes it on messages."""
    return datetime.fromtimestamp(wall_clock(), UTC).isoformat(timespec="microseconds")


def stable_id(kind: int, name: str) -> int:
    """The same name has the same id in every process; ``kind`` keeps the ranges apart."""
    return kind * 10**17 + (zlib.crc32(name.encode()) << 22)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A DM, a text channel of the guild, or a thread in one."""

    id: int
    name: str
    type: int
    parent: int | None = None
    messages: dict[int, Json] = field(default_factory=dict, hash=False)

    @property
    def guild(self) -> int | None:
        """The guild's id; a DM has none."""
        return None if self.type == DM else GUILD_ID

    def where(self) -> Json:
        """The fields by which a message names its place."""
        place: Json = {"channel_id": str(self.id)}
        return place if self.guild is None else place | {"guild_id": str(self.guild)}


@dataclass(frozen=True, slots=True)
class Stored:
    """An attachment's name and bytes."""

    name: str
    data: bytes


class World:
    """Users and channels have names outside and snowflakes inside. ``now`` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last_id = 0
        self.channels: dict[int, Channel] = {}
        self.users: dict[int, str] = {}
        self.files: dict[int, Stored] = {}
        self._signatures: dict[str, tuple[int, float]] = {}

    # -- ids and people -----------------------------------------------------------------------

    def new_id(self) -> int:
        """A snowflake later than all before."""
        stamp = (int(wall_clock() * 1000) - EPOCH_MS) << 22
        self._last_id = max(self._last_id + 1, stamp)
        return self._last_id

    def user(self, name: str) -> Json:
        """A user object."""
        user_id = stable_id(2, name)
        self.users[user_id] = name
        who = {"id": str(user_id), "username": name, "global_name": name.capitalize()}
        return who | {"discriminator": "0", "avatar": None}

    # -- channels -----------------------------------------------------------------------------

    def direct(self, name: str) -> Channel:
        """The DM channel with a user."""
        self.user(name)
        return self._keep(Channel(id=stable_id(3, name), name=name, type=DM))

    def text_channel(self, name: str) -> Channel:
        """A text channel of the guild."""
        return self._keep(Channel(id=stable_id(4, name), name=name, type=GUILD_TEXT))

    def thread(self, parent: Channel, name: str, thread_id: int | None = None) -> Channel:
        """A thread of a text channel; one started from a message has the message's id."""
        full = f"{parent.name}/{name}"
        key = stable_id(5, full) if thread_id is None else thread_id
        return self._keep(Channel(id=key, name=full, type=THREAD, parent=parent.id))

    def _keep(self, channel: Channel) -> Channel:
        kept = self.channels.setdefault(channel.id, channel)
        assert kept.name == channel.name, f"two names share the id {channel.id}"
        return kept

    def channel(self, key: str) -> Channel:
        """A channel by its id. Raises Refusal (10003)."""
        found = self.channels.get(int(key)) if key.isdecimal() else None
        if found is None:
            raise unknown(10003, "Channel")
        return found

    def channel_object(self, channel: Channel) -> Json:
        """The channel as the API shows it."""
        body: Json = {"id": str(channel.id), "type": channel.type, "flags": 0}
        body["last_message_id"] = str(max(channel.messages)) if channel.messages else None
        if channel.type == DM:
            return body | {"recipients": [self.user(channel.name)]}
        body |= {"guild_id": str(GUILD_ID), "name": channel.name.rpartition("/")[2]}
        if channel.type == THREAD:
            archive = {"archived": False, "auto_archive_duration": 1440, "locked": False}
            meta = archive | {"archive_timestamp": timestamp()}
            counts = {"message_count": len(channel.messages), "member_count": 1}
            owner = {"parent_id": str(channel.parent), "owner_id": str(BOT_ID)}
            return body | owner | counts | {"thread_metadata": meta, "rate_limit_per_user": 0}
        place = {"position": 0, "parent_id": None, "topic": None, "nsfw": False}
        return body | place | {"permission_overwrites": [], "rate_limit_per_user": 0}

    def guild_object(self) -> Json:
        """The guild as GUILD_CREATE shows it."""
        kinds: dict[int, list[Json]] = {GUILD_TEXT: [], THREAD: [], DM: []}
        for channel in self.channels.values():
            kinds[channel.type].append(self.channel_object(channel))
        everyone: Json = {"id": str(GUILD_ID), "name": "@everyone", "permissions": str(2**51 - 1)}
        everyone |= {"color": 0, "hoist": False, "position": 0, "managed": False, "flags": 0}
        empty = ("emojis", "stickers", "features", "presences", "voice_states", "stage_instances")
        return {
            "id": str(GUILD_ID),
            "name": "lab",
            "owner_id": str(stable_id(2, "owner")),
            "unavailable": False,
            "large": False,
            "member_count": 2,
            "joined_at": "2025-01-01T00:00:00+00:00",
            "preferred_locale": "en-US",
            "roles": [everyone | {"mentionable": False}],
            "members": [member() | {"user": BOT}],
            "channels": kinds[GUILD_TEXT],
            "threads": kinds[THREAD],
            "guild_scheduled_events": [],
            "soundboard_sounds": [],
        } | {key: [] for key in empty}

    # -- messages -----------------------------------------------------------------------------

    def post(
        self,
        channel: Channel,
        author: Json,
        content: str,
        *,
        to: Json | None = None,
        copy_of: tuple[Channel, Json] | None = None,
    ) -> Json:
        """Store and return a new message.

        ``to`` is the message it replies to, ``copy_of`` the one it forwards and where that is.
        """
        key = self.new_id()
        mention = f"<@{BOT_ID}>" in content
        message: Json = channel.where() | {
            "id": str(key),
            "author": author,
            "content": content,
            "timestamp": timestamp(),
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": False,
            "mentions": [BOT] if mention else [],
            "mention_roles": [],
            "attachments": [],
            "embeds": [],
            "components": [],
            "pinned": False,
            "type": DEFAULT,
            "flags": 0,
        }
        if to is not None:
            reference: Json = {k: to[k] for k in ("channel_id", "guild_id") if k in to}
            reference |= {"type": 0, "message_id": to["id"]}
            quoted = {k: v for k, v in to.items() if k != "referenced_message"}
            message |= {"type": REPLY, "message_reference": reference}
            message["referenced_message"] = quoted
        if copy_of is not None:
            origin, told = copy_of
            reference = origin.where() | {"type": FORWARD, "message_id": told["id"]}
            copy = {key: told[key] for key in SNAPSHOT_FIELDS}
            message |= {"message_reference": reference, "flags": HAS_SNAPSHOT}
            message["message_snapshots"] = [{"message": copy}]
        channel.messages[key] = message
        return message

    def message(self, channel: Channel, key: str) -> Json:
        """A message by its id. Raises Refusal (10008)."""
        found = channel.messages.get(int(key)) if key.isdecimal() else None
        if found is None:
            raise unknown(10008, "Message")
        return found

    def find(self, key: str) -> tuple[Channel, Json]:
        """A message by its id alone. Raises KeyError."""
        for channel in self.channels.values():
            if int(key) in channel.messages:
                return channel, channel.messages[int(key)]
        raise KeyError(key)

    # -- attachments --------------------------------------------------------------------------

    def attach(self, message: Json, name: str, data: bytes) -> None:
        """Add a file to a message."""
        key = self.new_id()
        self.files[key] = Stored(name, data)
        entry: Json = {"id": str(key), "filename": name, "size": len(data)}
        entry["content_type"] = mimetypes.guess_type(name)[0] or "application/octet-stream"
        message["attachments"].append(entry)

    def shown(self, message: Json, origin: str) -> Json:
        """The message with freshly signed attachment addresses behind ``origin``."""
        channel = message["channel_id"]
        shown = self._signed(message, channel, origin)
        if copies := message.get("message_snapshots"):
            signed = [{"message": self._signed(it["message"], channel, origin)} for it in copies]
            shown["message_snapshots"] = signed
        if quoted := message.get("referenced_message"):
            shown["referenced_message"] = self.shown(quoted, origin)
        return shown

    def _signed(self, said: Json, channel: str, origin: str) -> Json:
        files = [self._signed_entry(file, channel, origin) for file in said["attachments"]]
        return said | {"attachments": files}

    def _signed_entry(self, entry: Json, channel: str, origin: str) -> Json:
        key = secrets.token_hex(16)
        self._signatures[key] = int(entry["id"]), self._now() + ATTACHMENT_LIFE
        ends = int(wall_clock() + ATTACHMENT_LIFE)
        path = f"{origin}/attachments/{channel}/{entry['id']}/{entry['filename']}"
        url = f"{path}?ex={ends:x}&is={ends - int(ATTACHMENT_LIFE):x}&hm={key}"
        return entry | {"url": url, "proxy_url": url}

    def signed_file(self, key: str) -> Stored | None:
        """The file of a signature, unless it is unknown or over a day old."""
        file_id, ends = self._signatures.get(key, (0, 0.0))
        return self.files.get(file_id) if self._now() < ends else None


def member() -> Json:
    """The guild membership that comes with a guild message."""
    joined = {"joined_at": "2025-01-01T00:00:00+00:00", "deaf": False, "mute": False, "flags": 0}
    return {"nick": None, "roles": []} | joined


def without_content(message: Json) -> Json:
    """A guild message as a bot without the MESSAGE_CONTENT intent sees it.

    "except in DMs, in messages that mention the bot, and own messages"
    """
    own = message["author"]["id"] == str(BOT_ID)
    if "guild_id" not in message or own or any(m["id"] == str(BOT_ID) for m in message["mentions"]):
        return message
    return message | {"content": "", "embeds": [], "attachments": [], "components": []}
