"""The messages of the journal as operators see them: the same over HTTP and on the command line.

Nothing here tells what a platform gave us to answer with (`Inbound.context`, an attachment's
handle): some of it opens a door to the chat for whoever reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from holdfast.messages import Attachment, Inbound, Outbound
from holdfast.store.protocol import MENDABLE, Box, Entry, GapEntry, InboxState, OutboxState, name_of
from holdfast.web.problem import Problem

LIST_TEXT = 200
"""Characters of a text in a list; a single message is told with all of its text."""

MOST = 1000
"""Messages in one answer at most, and names in one request."""

STATES: dict[Box, tuple[str, ...]] = {
    Box.INBOX: tuple(state.value for state in InboxState),
    Box.OUTBOX: tuple(state.value for state in OutboxState),
}
"""What a message can be filtered by."""

DEAD: dict[Box, tuple[str, ...]] = {
    box: tuple(str(state) for state in states) for box, states in MENDABLE.items()
}
"""What waits for a person: dead letters, and sends of which nobody knows whether they arrived."""

_NAME = re.compile(r"(in|out)-([1-9][0-9]{0,17})")


class File(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment, by its description."""

    kind: str
    name: str
    mime: str
    size: int | None
    """Bytes, where they are known."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the journal. Times are Unix seconds."""

    name: str
    """What `show`, `retry` and `drop` call it, for example ``in-17``."""
    box: Box
    """inbox: from a person; outbox: to one."""
    account: str
    chat: str
    thread: str | None
    sender: str
    """Who wrote it; empty for our own."""
    state: str
    """received, handling, done; owed, sending, ambiguous, sent; dead or dropped."""
    mendable: bool
    """It waits for a person, who may retry or drop it."""
    id: str
    """The platform's id of an inbound message, the idempotency key of an outbound one."""
    text: str
    """Cut in lists."""
    files: tuple[File, ...]
    attempts: int
    """Since it was received, or last retried."""
    at: float
    """When it was received, or first owed."""
    settled_at: float | None
    """When it came into a state in which nobody works on it."""
    not_before: float | None
    """Outbox: when it is tried next, while that is not at once."""
    reason: str
    """Why it is dead or held, or why the last try failed."""
    maybe_doubled: bool
    """Outbox: it was sent again although an earlier try may have arrived."""
    receipt: str
    """Outbox: the platform's id of what was sent."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages are meant; what is not set excludes none."""

    account: str | None = None
    chat: str | None = None
    states: tuple[str, ...] = ()


class Letters(msgspec.Struct, frozen=True, kw_only=True):
    """Some messages, the newest last."""

    messages: tuple[Letter, ...]
    more: bool
    """There are older ones."""


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """What a retry or a drop came to for one message."""

    name: str
    """As it was asked for."""
    message: Letter | None = None
    """What it is now; None when nothing was changed."""
    error: str = ""
    """Why nothing was changed."""
    hint: str = ""
    """How to mend that."""


class GapLine(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time whose messages may be missing. Times are Unix seconds."""

    number: int
    account: str
    since: float
    until: float
    reason: str


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of the journal that was made."""

    path: str
    bytes: int


def place_of(name: str) -> tuple[Box, int]:
    """Where the message of a name is. Raises Problem when it is no name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Problem(
            400, f"{name!r} is not the name of a message", "names are like in-17 and out-4"
        )
    return Box.INBOX if found[1] == "in" else Box.OUTBOX, int(found[2])


def letter(entry: Entry, longest: int | None = None) -> Letter:
    """An entry for people; its text has at most ``longest`` characters (None: all of it)."""
    message = entry.message
    return Letter(
        name=name_of(entry.box, entry.row),
        box=entry.box,
        account=entry.account,
        chat=entry.chat,
        thread=message.thread,
        sender=_sender(message),
        state=entry.state,
        mendable=entry.state in DEAD[entry.box],
        id=message.id if isinstance(message, Inbound) else message.key,
        text=cut(message.text, longest),
        files=tuple(_file(attachment) for attachment in message.attachments),
        attempts=entry.attempts,
        at=entry.at,
        settled_at=entry.settled_at,
        not_before=entry.not_before or None,
        reason=entry.reason,
        maybe_doubled=entry.maybe_doubled,
        receipt=entry.receipt,
    )


def letters(newest_first: Sequence[Entry], limit: int) -> Letters:
    """At most ``limit`` of some entries, the newest ones."""
    kept = reversed(newest_first[:limit])
    return Letters(
        messages=tuple(letter(entry, LIST_TEXT) for entry in kept),
        more=len(newest_first) > limit,
    )


def gap_line(entry: GapEntry) -> GapLine:
    """A gap for people."""
    gap = entry.gap
    return GapLine(
        number=entry.id,
        account=entry.account,
        since=gap.since,
        until=gap.until,
        reason=gap.reason,
    )


def check_states(states: Iterable[str], known: Iterable[str]) -> None:
    """Raise Problem for a state that no such message is ever in."""
    for state in states:
        if state not in known:
            raise Problem(
                400, f"{state!r} is no state of these messages", f"known are {', '.join(known)}"
            )


def cut(text: str, longest: int | None) -> str:
    """The beginning of a text, with a sign where something is left out."""
    if longest is None or len(text) <= longest:
        return text
    return text[: longest - 1] + "…"


def _sender(message: Inbound | Outbound) -> str:
    if not isinstance(message, Inbound):
        return ""
    if not message.sender_name or message.sender_name == message.sender:
        return message.sender
    return f"{message.sender_name} ({message.sender})"


def _file(attachment: Attachment) -> File:
    size = len(attachment.data) if attachment.data else attachment.size
    return File(kind=attachment.kind.value, name=attachment.name, mime=attachment.mime, size=size)
