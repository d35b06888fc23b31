"""Mattermost: events over the reliable WebSocket, all else over REST API v4.

A lost connection is resumed by number for as long as the server keeps it (minutes); after that
the posts themselves are fetched from where we were, so no outage loses a message. Only the
application's own ping shows a revoked session: its socket stays open and falls silent.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from typing import Any, ClassVar, Final

from holdfast.adapter import (
    HISTORY_CHECK,
    Adapter,
    AdapterError,
    BadFrame,
    Disconnect,
    Health,
    HttpReply,
    Link,
    Liveness,
    Outcome,
    Part,
    Rate,
    SendFailed,
    Settings,
    Tools,
    Traits,
    WebSocketClosed,
    decode,
)
from holdfast.adapters.mattermost_api import (
    BAD_ROOT,
    Api,
    MattermostSettings,
    Named,
    Page,
    Post,
    Uploaded,
    User,
    error_of,
    outcome_of,
    path_part,
    way_cause,
)
from holdfast.adapters.mattermost_posts import Desk
from holdfast.adapters.mattermost_stream import BEAT, PAGE, Stream, forget_stream, untold
from holdfast.messages import Attachment, Outbound, Receipt
from holdfast.supervision import Cause, Kind

__all__ = ["Mattermost", "MattermostSettings"]

MARK: Final = "holdfast_key"
"""The post's property (``props``) that keeps our key: ``pending_post_id`` is not stored."""

TRANSFER: Final = 30.0
"""Seconds for a file up or down; with look-up and post a send stays below a minute."""

DOUBTS: Final = 10_000
"""Sends without a good answer that are remembered."""


class Mattermost(Adapter):
    """One bot on one server. Chats are channel ids."""

    platform: ClassVar[str] = "mattermost"
    Settings: ClassVar[type[Settings]] = MattermostSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("the answer to an application ping, or any other frame", every=BEAT),
        max_text=16_383,  # model.PostMessageMaxRunesV2; 4000 only on databases never migrated
        replays=True,
        idempotent=math.inf,  # by the 30 s of a `pending_post_id`, then by `_find`
        edits=True,
        typing=True,
        # The server's default once an administrator turns rate limiting on; a send may take three.
        rate_total=Rate(10.0, burst=30),
        history_check=HISTORY_CHECK,
    )

    def __init__(self, settings: MattermostSettings, tools: Tools) -> None:
        self._settings, self._http = settings, tools.http
        self._api = Api(settings)
        self._desk: Desk | None = None
        self._via = uuid.uuid4().hex[:12]
        """Marks what this process took in: no other process can have answered it."""
        self._doubts: dict[str, None] = {}
        """Keys of sends whose answer is not known to be good."""

    @property
    def endpoint(self) -> str:
        """The server."""
        return self._settings.url

    @property
    def identity(self) -> str:
        """The server and a digest of the token; whose it is, only the server can tell."""
        digest = hashlib.sha256(self._settings.token.reveal().encode()).hexdigest()[:16]
        return f"{self._api.base} {digest}"

    def classify(self, error: BaseException) -> Cause | None:
        """Ends of the socket carry no meaning of their own: the next attempt asks who we are."""
        if isinstance(error, WebSocketClosed):
            text = f"the event socket ended: {error.cause.message}"
            return Cause(Kind.LOST, f"mattermost_close_{error.code}", text)
        return way_cause(error) if isinstance(error, AdapterError) else None

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        link.step("identity")
        try:
            me = await self._api.ask(link.http, "/users/me", User)
        except Disconnect as error:
            if error.cause.kind is Kind.CREDENTIALS:
                await forget_stream(link)
            raise
        if self._desk is None or self._desk.me != me:
            self._desk = Desk(self._api, me)
        await Stream(self._api, link, self._desk, self._via).run()

    async def overlooked(self, link: Link) -> str | None:
        """See `Adapter.overlooked`."""
        return None if self._desk is None else await untold(self._api, link, self._desk)

    async def check(self) -> Health:
        """Ask the server whose token it is, and where the bot can be reached."""
        try:
            me = await self._api.ask(self._http, "/users/me", User)
            teams = await self._api.ask(self._http, "/users/me/teams", list[Named])
        except AdapterError as error:
            return Health(cause=error.cause)
        notes = []
        if not teams:
            notes.append(
                "The bot is in no team, so only direct messages can reach it: invite it with "
                "the team's menu > Invite People."
            )
        if not me.is_bot:
            notes.append(
                "The token is a person's: others see that person answer. A bot account is made "
                "under Integrations > Bot Accounts."
            )
        return Health(f"@{me.username} ({me.id})", notes=tuple(notes))

    # -- to the platform ----------------------------------------------------------------------

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`.

        The server knows a ``pending_post_id`` again for 30 s. Where an earlier try may be older
        than that, its post is looked for first.
        """
        if message.edit_of is not None:
            return await self._edit(message.edit_of, message.text)
        try:
            me = await self._myself()
            if self._perhaps_sent(message) and (post := await self._find(message, me)):
                return Receipt(post)
            body = await self._body(message, me)
        except SendFailed:
            raise
        except AdapterError as error:  # whatever happened, nothing was posted
            raise SendFailed(Outcome.NOT_SENT, error.cause) from error
        self._doubts[message.key] = None
        reply = await self._post(body)
        receipt = Receipt(self._api.accepted(reply, Named).id)
        self._doubts.pop(message.key, None)
        return receipt

    async def _edit(self, post: str, text: str) -> Receipt:
        path = f"/posts/{path_part(post)}/patch"
        reply = await self._api.call(self._http, "PUT", path, json={"message": text})
        return Receipt(self._api.accepted(reply, Named).id)

    async def _myself(self) -> User:
        if self._desk is None:
            return await self._api.ask(self._http, "/users/me", User)
        return self._desk.me

    def _perhaps_sent(self, message: Outbound) -> bool:
        while len(self._doubts) > DOUBTS:
            del self._doubts[next(iter(self._doubts))]
        return message.key in self._doubts or message.context.get("via") != self._via

    async def _find(self, message: Outbound, me: User) -> str | None:
        """The id of the post an earlier try has made. Raises SendFailed and HttpFailed.

        Looks through 200 posts: those behind the message answered, else the newest.
        """
        query = {"per_page": str(PAGE)}
        if "post" in message.context:
            query["after"] = message.context["post"]
        path = f"/channels/{path_part(message.chat)}/posts"
        reply = await self._api.call(self._http, "GET", path, query=query)
        for raw in self._api.accepted(reply, Page, Outcome.NOT_SENT).posts.values():
            try:
                post = decode(Post, bytes(raw))
            except BadFrame:
                continue
            if post.user_id == me.id and (post.props or {}).get(MARK) == message.key:
                return post.id
        return None

    async def _body(self, message: Outbound, me: User) -> dict[str, Any]:
        """A post as the server wants it, its files uploaded."""
        return {
            "channel_id": message.chat,
            "message": message.text,
            # Of a thread only the root may be named; an edit's id is the post's and a date.
            "root_id": message.thread or (message.reply_to or "").partition(".")[0],
            "file_ids": [await self._upload(message.chat, file) for file in message.attachments],
            "props": {MARK: message.key},
            # Keys are the same in every gateway that serves an account of this name.
            "pending_post_id": f"{me.id}:{message.key}",
        }

    async def _upload(self, chat: str, file: Attachment) -> str:
        """Store a file for a chat; its id. Raises SendFailed, never UNKNOWN, and HttpFailed."""
        name = file.name or file.kind.value
        parts = [
            Part(name="channel_id", data=chat),
            Part(name="files", data=file.data, filename=name, mime=file.mime or None),
        ]
        reply = await self._api.call(self._http, "POST", "/files", parts=parts, timeout=TRANSFER)
        infos = self._api.accepted(reply, Uploaded, Outcome.NOT_SENT).file_infos
        if not infos:
            text = f"{self._api.base} took a file, but names none"
            cause = Cause(Kind.PROTOCOL, "mattermost_bad_answer", text)
            raise SendFailed(Outcome.NOT_SENT, cause)
        return infos[0].id

    async def _post(self, body: dict[str, Any]) -> HttpReply:
        reply = await self._api.call(self._http, "POST", "/posts", json=body)
        if error_of(reply).id == BAD_ROOT and body["root_id"]:
            # What it answers is gone; the answer is still wanted.
            body = {**body, "root_id": ""}
            reply = await self._api.call(self._http, "POST", "/posts", json=body)
        return reply

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """See `Adapter.typing`. A busy server refuses it (503), and nobody minds."""
        body = {"channel_id": chat, "parent_id": thread or ""}
        await self._api.call(self._http, "POST", "/users/me/typing", json=body)

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`."""
        path = f"/files/{path_part(attachment.ref)}"
        reply = await self._api.call(self._http, "GET", path, timeout=TRANSFER)
        if reply.status != 200:
            raise SendFailed(outcome_of(reply), self._api.cause(reply))
        return reply.body
