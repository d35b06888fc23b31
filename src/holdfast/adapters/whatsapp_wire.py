"""The words of WhatsApp's web hook: bodies, messages, statuses, signatures. No I/O, no state.

Sources: https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks (components, payload
examples) and /docs/graph-api/webhooks/getting-started (verification and signatures).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec

from holdfast.adapter import BadFrame, decode
from holdfast.messages import Attachment, Inbound, MediaKind

GROUP: Final = "group:"
"""First part of a group's name as a chat; other chats are a user id or a phone number."""

NO_MESSAGES: Final = frozenset({"reaction", "revoke", "system"})
"""Entries of ``messages`` by which nobody says anything."""


# -- bodies -----------------------------------------------------------------------------------


class Change(msgspec.Struct):
    """One entry of ``changes``; only the field ``messages`` has messages and statuses."""

    field: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")


class Entry(msgspec.Struct):
    """The changes of one business account."""

    changes: list[Change] = []


class Body(msgspec.Struct):
    """The envelope of every post."""

    entry: list[Entry]


class Metadata(msgspec.Struct):
    """The number a change is about."""

    phone_number_id: str
    display_phone_number: str = ""


class Profile(msgspec.Struct):
    """How a user calls himself."""

    name: str = ""


class Contact(msgspec.Struct):
    """A user; without ``wa_id`` (the phone number) where he hides it behind a username."""

    wa_id: str = ""
    user_id: str = ""
    profile: Profile = msgspec.field(default_factory=Profile)


class ErrorData(msgspec.Struct):
    """``details`` is the explanation for people."""

    details: str = ""


class Error(msgspec.Struct):
    """A refusal, in the answer to a call or in a web hook; ``code`` decides."""

    code: int
    message: str = ""
    title: str = ""
    error_subcode: int | None = None
    is_transient: bool = False
    error_data: ErrorData | None = None
    fbtrace_id: str = ""

    @property
    def text(self) -> str:
        """What WhatsApp says of it, in one line."""
        said = self.error_data.details if self.error_data else ""
        line = " ".join((said or self.message or self.title or "no reason given").split())
        return f"{line[:200]} (code {self.code})"


class Value(msgspec.Struct):
    """What changed; every entry is decoded by itself, so that a bad one spoils no other."""

    metadata: Metadata
    contacts: list[Contact] = []
    messages: list[msgspec.Raw] = []
    statuses: list[msgspec.Raw] = []
    errors: list[Error] = []


class Status(msgspec.Struct):
    """What became of a message of ours: ``sent``, ``delivered``, ``read`` or ``failed``."""

    id: str
    status: str
    recipient_id: str = ""
    recipient_type: str = ""
    errors: list[Error] = []
    marker: str = msgspec.field(name="biz_opaque_callback_data", default="")
    """The key of the send, which WhatsApp echoes."""

    @property
    def failed(self) -> bool:
        """Whether it will never arrive."""
        return self.status == "failed"


# -- messages ---------------------------------------------------------------------------------


class Text(msgspec.Struct):
    """A text."""

    body: str


class Media(msgspec.Struct):
    """A file, kept by WhatsApp for seven days."""

    id: str
    mime_type: str = ""
    filename: str = ""
    caption: str = ""


class Choice(msgspec.Struct):
    """A button pressed, or a row chosen."""

    title: str = ""


class Interactive(msgspec.Struct):
    """The answer to a message with buttons or a list."""

    button_reply: Choice | None = None
    list_reply: Choice | None = None


class Button(msgspec.Struct):
    """A quick reply to a template."""

    text: str


class Content(msgspec.Struct):
    """What was said; the field named by ``type`` is set."""

    type: str
    text: Text | None = None
    image: Media | None = None
    sticker: Media | None = None
    audio: Media | None = None
    video: Media | None = None
    document: Media | None = None
    interactive: Interactive | None = None
    button: Button | None = None


class Edit(msgspec.Struct):
    """A text that replaces another."""

    original_message_id: str
    message: Content


class Context(msgspec.Struct, rename={"from_": "from"}):
    """The message that is answered, and whose it was."""

    id: str = ""
    from_: str = ""


class Message(Content, rename={"from_": "from"}, kw_only=True):
    """One entry of ``messages``."""

    id: str
    from_: str = ""
    from_user_id: str = ""
    group_id: str = ""
    timestamp: str = ""
    context: Context = msgspec.field(default_factory=Context)
    edit: Edit | None = None


def inbound(raw: bytes, value: Value) -> Inbound | None:
    """An entry of ``messages`` as a message; None for what nobody said. Raises BadFrame."""
    message = decode(Message, raw)
    own = value.metadata.display_phone_number
    sender = message.from_user_id or message.from_
    if message.type in NO_MESSAGES or (own and message.from_ == own):
        return None
    if not (message.id and sender):
        raise BadFrame("a message without id or sender")
    content: Content = message if message.edit is None else message.edit.message
    text, attachments = _said(content)
    group, context = message.group_id, message.context
    return Inbound(
        id=message.id,
        # The user id stays when somebody begins to hide his number; older payloads have none.
        chat=GROUP + group if group else sender,
        sender=sender,
        sender_name=_name(message, value.contacts),
        text=text,
        at=float(message.timestamp) if message.timestamp.isdecimal() else None,
        private=not group,
        # Mentions are not marked up; that a number shown to people is "+1 555..." is undocumented.
        mentioned=bool(group and own) and (f"@{own}" in text or context.from_ == own),
        reply_to=context.id or None,
        edit_of=message.edit.original_message_id if message.edit else None,
        attachments=attachments,
        context={"phone": message.from_} if message.from_ and not group else {},
    )


def _name(message: Message, contacts: list[Contact]) -> str:
    for contact in contacts:
        same = contact.user_id and contact.user_id == message.from_user_id
        if same or (contact.wa_id and contact.wa_id == message.from_):
            return contact.profile.name
    return ""


_KINDS: Final = {
    "image": MediaKind.IMAGE,
    "sticker": MediaKind.IMAGE,
    "audio": MediaKind.AUDIO,
    "video": MediaKind.VIDEO,
}


def _said(content: Content) -> tuple[str, tuple[Attachment, ...]]:
    """Text and files. Raises BadFrame for what is neither (a location, a contact, a poll...)."""
    media = content.image or content.sticker or content.audio or content.video or content.document
    if media is not None:
        kind = _KINDS.get(content.type, MediaKind.FILE)
        # "audio/ogg; codecs=opus"
        mime = media.mime_type.partition(";")[0].strip()
        file = Attachment(kind=kind, name=media.filename, mime=mime, ref=media.id)
        return media.caption, (file,)
    if content.text is not None:
        return content.text.body, ()
    if content.button is not None:
        return content.button.text, ()
    if content.interactive is not None:
        choice = content.interactive.button_reply or content.interactive.list_reply
        if choice is not None:
            return choice.title, ()
    raise BadFrame(f"a message of type {content.type[:40]!r}, which is neither text nor file")


# -- signatures -------------------------------------------------------------------------------


def signature(secret: str, body: bytes) -> str:
    """``X-Hub-Signature-256`` of a body, over its very bytes."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
