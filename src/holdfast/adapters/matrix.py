"""Matrix: long polls of ``/sync`` on the client-server API.

The place in the stream is ``next_batch``, stored with the messages it came with; asking again for
an old place is always allowed, so nothing is lost. What was said before the account first came up
is history and is not answered.
"""

from __future__ import annotations

import re
from typing import Any, Final

from holdfast.adapter import (
    Adapter,
    Continuity,
    Disconnect,
    Health,
    HttpFailed,
    Link,
    Liveness,
    Outcome,
    SendFailed,
    TextUnit,
    Tools,
    Traits,
)
from holdfast.adapters.matrix_api import (
    V3,
    MatrixApi,
    MatrixSettings,
    Member,
    Sent,
    Uploaded,
    network_cause,
    outcome_of,
    path_part,
)
from holdfast.adapters.matrix_stream import FIRST_SYNC, Intake
from holdfast.messages import Attachment, Outbound, Receipt
from holdfast.supervision import Cause, Kind

__all__ = ["Matrix", "MatrixSettings"]

SILENCE_SLACK: Final = 15.0
"""An idle poll, with the joins before it taking all their time, is no silence yet."""

GRACE: Final = 5.0
"""There is no question a long poll could be asked: doubt is published, then the end."""

TRANSFER: Final = 60.0
"""Seconds for a file up or down."""

MXC: Final = re.compile(r"mxc://([\w.:\[\]-]+)/([\w-]+)", re.ASCII)
"""A file's address ("Matrix Content (mxc://) URIs"); whoever sends one may write anything."""


class Matrix(Adapter):
    """One Matrix account."""

    platform = "matrix"
    Settings = MatrixSettings
    traits = Traits(
        liveness=Liveness("a completed /sync", every=45.0),
        # An event holds 65,536 bytes ("Size limits"), and an edit holds its text twice.
        max_text=16_000,
        text_unit=TextUnit.BYTES,
        replays=True,
        # The specification does not say how long. Synapse keeps transaction ids for 24 h, Dendrite
        # for 30 minutes (DefaultCleanupPeriod); of other servers nothing shorter is known.
        idempotent=1_800.0,
        edits=True,
        typing=True,
        typing_every=8.0,
    )

    def __init__(self, settings: MatrixSettings, tools: Tools) -> None:
        self._settings, self._api = settings, MatrixApi(settings)
        self._http = tools.http
        self._encrypted: set[str] = set()
        """Rooms seen to be encrypted."""

    @property
    def endpoint(self) -> str:
        """The homeserver."""
        return self._settings.homeserver

    @property
    def identity(self) -> str:
        """The user id."""
        return self._settings.user_id

    async def run(self, link: Link) -> None:
        """Sign in, then poll; see `holdfast.adapter.Adapter.run`."""
        hold = self._settings.sync_timeout
        link.step("login")
        me = await self._api.sign_in(link.http)
        link.step("profile")
        reply = await self._api.call(link.http, "GET", f"{V3}/profile/{path_part(me)}")
        name = self._api.read(reply, Member).displayname if reply.status == 200 else None
        encrypted = self._encrypted
        intake = Intake(self._api, link, me=me, name=name or "", encrypted=encrypted)
        link.step("sync", FIRST_SYNC)
        batch = await intake.poll(0)
        link.ready(Continuity.CAUGHT_UP, silence=hold + SILENCE_SLACK, grace=GRACE)
        while batch.next_batch:
            await intake.take(batch)
            await intake.accept_invitations()
            batch = await intake.poll(hold)

    async def send(self, message: Outbound) -> Receipt:
        """See `holdfast.adapter.Adapter.send`; the key is the transaction id."""
        content: dict[str, Any] = {"msgtype": self._settings.msgtype, "body": message.text}
        if message.attachments:
            content = await self._upload(message.attachments[0], message.text)
        # Without this field, servers look for names in the text and notify people by mistake.
        content["m.mentions"] = {}
        if message.edit_of:
            content = {**content, "body": f"* {content['body']}", "m.new_content": content}
        content |= _relation(message)
        path = f"{V3}/rooms/{path_part(message.chat)}/send/m.room.message/{path_part(message.key)}"
        reply = await self._api.call(self._http, "PUT", path, json=content)
        return Receipt(self._api.accepted(reply, Sent).event_id)

    async def check(self) -> Health:
        """Ask the server whose token it is; logs in when only a password can tell."""
        try:
            me = await self._api.sign_in(self._http)
        except (HttpFailed, Disconnect) as error:
            return Health(self.identity, self.classify(error) or error.cause)
        notes = (
            f"{len(self._encrypted)} encrypted room(s), whose messages can not be read: "
            f"{', '.join(sorted(self._encrypted)[:5])}",
        )
        return Health(me, notes=notes if self._encrypted else ())

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """See `holdfast.adapter.Adapter.typing`."""
        path = f"{V3}/rooms/{path_part(chat)}/typing/{path_part(self._settings.user_id)}"
        body = {"typing": True, "timeout": 10_000}
        await self._api.call(self._http, "PUT", path, json=body)

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `holdfast.adapter.Adapter.fetch`."""
        address = MXC.fullmatch(attachment.ref)
        if address is None:
            text = f"{attachment.ref!r} is no address of a file"
            raise SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, "matrix_bad_mxc", text))
        path = f"/_matrix/client/v1/media/download/{address[1]}/{address[2]}"
        reply = await self._api.call(self._http, "GET", path, timeout=TRANSFER)
        if reply.status != 200:
            raise SendFailed(outcome_of(reply), self._api.cause(reply))
        return reply.body

    def classify(self, error: BaseException) -> Cause | None:
        """Trouble on the way keeps its kind and has one code; everything else says its own."""
        return network_cause(self._api.base, error) if isinstance(error, HttpFailed) else None

    # -- sending ----------------------------------------------------------------------------------

    async def _upload(self, attachment: Attachment, caption: str) -> dict[str, Any]:
        """The content of a message that shows a file."""
        mime, name = attachment.mime or "application/octet-stream", attachment.name or "file"
        try:
            reply = await self._api.call(
                self._http,
                "POST",
                "/_matrix/media/v3/upload",
                query={"filename": name},
                body=attachment.data,
                headers={"Content-Type": mime},
                timeout=TRANSFER,
            )
        except HttpFailed as error:
            # Whatever became of the file, no message has been sent.
            cause = self.classify(error) or error.cause
            raise SendFailed(Outcome.NOT_SENT, cause) from error
        return {
            "msgtype": f"m.{attachment.kind.value}",
            "body": caption or name,
            "filename": name,
            "url": self._api.accepted(reply, Uploaded, Outcome.NOT_SENT).content_uri,
            "info": {"mimetype": mime, "size": len(attachment.data)},
        }


def _relation(message: Outbound) -> dict[str, Any]:
    """``m.relates_to`` ("Rich replies", "Threading", "Event replacements")."""
    answered = {"m.in_reply_to": {"event_id": message.reply_to or message.thread}}
    if message.edit_of:
        relation: dict[str, Any] = {"rel_type": "m.replace", "event_id": message.edit_of}
    elif message.thread:
        falling_back = message.reply_to is None
        relation = {"rel_type": "m.thread", "event_id": message.thread, **answered}
        relation["is_falling_back"] = falling_back
    else:
        relation = answered if message.reply_to else {}
    return {"m.relates_to": relation} if relation else {}
