"""What people wrote on Mattermost: posts, from events and from pages, made into messages."""

from __future__ import annotations

import re
from typing import Final

from holdfast.adapter import BadFrame, Http
from holdfast.adapters.mattermost_api import (
    Api,
    Channel,
    FileInfo,
    Post,
    User,
    path_part,
    withheld,
)
from holdfast.messages import Attachment, Inbound, MediaKind

MACHINES: Final = ("from_bot", "from_webhook", "from_plugin")
"""``props`` of posts that no person wrote."""

ENTRANCES: Final = ("system_join_channel", "system_add_to_channel")
"""``type`` of the posts that tell who came into a channel."""

NAMES: Final = 10_000
"""Users and channels that are remembered; past it, all are asked for anew."""


class Desk:
    """Makes messages of posts, as one bot reads them.

    The kinds of channels and the names of users, which only ``posted`` events bring along, are
    asked for once and kept over connections.
    """

    def __init__(self, api: Api, me: User) -> None:
        self._api, self.me = api, me
        self._names: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        # "@bot." ends a sentence, "@bot.two" is another user.
        name = rf"@{re.escape(me.username)}(?![\w-]|\.\w)"
        self._called = re.compile(rf"(?<![\w@.-]){name}", re.IGNORECASE)
        self._prefix = re.compile(rf"\A\s*{name}[\s,:]*", re.IGNORECASE)

    def learn(self, channel: Channel) -> None:
        """Remember the kind of a channel."""
        _keep(self._kinds, channel.id, channel.type)

    def learn_name(self, user: str, name: str) -> None:
        """Remember the name of a user."""
        _keep(self._names, user, name)

    def concerns(self, post: Post) -> bool:
        """Whether a post is a person's: not ours, nor another bot's, nor the server's."""
        props = post.props or {}
        machine = props and any(str(props.get(name)).lower() == "true" for name in MACHINES)
        own = post.user_id == self.me.id
        return not (own or machine or post.delete_at or post.type.startswith("system_"))

    def entered(self, post: Post) -> bool:
        """Whether this is the server's note that we came into the channel."""
        if post.type not in ENTRANCES:
            return False
        return self.me.id in (post.user_id, (post.props or {}).get("addedUserId"))

    async def message(
        self, http: Http, post: Post, *, via: str, edit: bool = False, notified: bool = False
    ) -> Inbound:
        """The message a post is, or with ``edit`` what it has become.

        ``notified`` says that the server counts us among those the post is meant for. Raises
        BadFrame for a channel that is not ours to see any more, Disconnect and HttpFailed.
        """
        private = await self._kind(http, post.channel_id) == "D"
        called = self._called.search(post.message) is not None
        return Inbound(
            id=f"{post.id}.{post.edit_at}" if edit else post.id,
            chat=post.channel_id,
            sender=post.user_id,
            sender_name=await self._name(http, post.user_id),
            text=self._prefix.sub("", post.message),
            at=(post.edit_at if edit else post.create_at) / 1000,
            private=private,
            # Outside of threads people are notified of @all too, which is nobody's name.
            mentioned=called or (notified and bool(post.root_id) and not private),
            thread=post.root_id or None,
            reply_to=post.root_id or None,
            edit_of=post.id if edit else None,
            attachments=_attachments(post),
            context={"via": via, "post": post.id},
        )

    async def _kind(self, http: Http, channel: str) -> str:
        if channel not in self._kinds:
            reply = await self._api.call(http, "GET", f"/channels/{path_part(channel)}")
            if withheld(reply):
                raise BadFrame(f"a post in channel {channel}, which the server does not show us")
            self.learn(self._api.read(reply, Channel))
        return self._kinds[channel]

    async def _name(self, http: Http, user: str) -> str:
        if user not in self._names:
            reply = await self._api.call(http, "GET", f"/users/{path_part(user)}")
            name = "" if withheld(reply) else self._api.read(reply, User).username
            self.learn_name(user, name)
        return self._names[user]


def _keep(known: dict[str, str], key: str, value: str) -> None:
    if len(known) >= NAMES:
        known.clear()
    known[key] = value


def _attachments(post: Post) -> tuple[Attachment, ...]:
    files = (post.metadata.files if post.metadata else None) or [
        FileInfo(id=key) for key in post.file_ids or ()
    ]
    return tuple(
        Attachment(
            kind=_media_kind(file.mime_type),
            name=file.name,
            mime=file.mime_type,
            size=file.size,
            ref=file.id,
        )
        for file in files
    )


def _media_kind(mime: str) -> MediaKind:
    try:
        return MediaKind(mime.partition("/")[0])
    except ValueError:
        return MediaKind.FILE
