"""What Zulip's server sends, as far as the adapter reads it.

Names in quotation marks are pages of https://zulip.com/api/.
"""

from typing import Final

import msgspec

from holdfast.adapter import Disconnect, HttpReply, Whole, http_cause
from holdfast.messages import Inbound
from holdfast.supervision import Cause, Kind

VERDICTS: Final = {
    "INVALID_API_KEY": Kind.CREDENTIALS,
    "UNAUTHORIZED": Kind.CREDENTIALS,
    "USER_DEACTIVATED": Kind.REFUSED,
    "REALM_DEACTIVATED": Kind.REFUSED,
}
"""Codes that need a person ("Error handling"); whatever else is said passes by itself."""


Flags = frozenset[str]


class Failure(msgspec.Struct, frozen=True):
    """Any answer that is no success ("Error handling")."""

    code: str = ""
    msg: str = ""


class User(msgspec.Struct, frozen=True):
    """The bot ("Get own user")."""

    user_id: Whole
    email: str


class Queue(msgspec.Struct, frozen=True):
    """A new queue ("Register an event queue")."""

    queue_id: str
    last_event_id: Whole


class Event(msgspec.Struct, frozen=True):
    """One event ("Get events"); ids grow, and may leave some out."""

    id: Whole
    type: str
    message: msgspec.Raw = msgspec.Raw(b"null")
    flags: Flags = Flags()


class Batch(msgspec.Struct, frozen=True):
    """An answered poll ("Get events")."""

    events: list[Event]


class Page(msgspec.Struct, frozen=True):
    """A part of the history, oldest first ("Get messages")."""

    messages: list[msgspec.Raw]


class Numbered(msgspec.Struct, frozen=True):
    """A message of which nothing else need make sense."""

    id: Whole


class Person(msgspec.Struct, frozen=True):
    """One of those who share a direct conversation, the bot included."""

    id: Whole


class Message(msgspec.Struct, frozen=True):
    """A message; its flags are in the history only, an event has them beside it."""

    id: Whole
    sender_id: Whole
    content: str
    display_recipient: str | list[Person]
    """The channel's name, or everybody in a direct conversation."""
    sender_full_name: str = ""
    timestamp: float | None = None
    stream_id: Whole | None = None
    subject: str = ""
    """The topic in the channel."""
    flags: Flags = Flags()

    def inbound(self, me: int, flags: Flags) -> Inbound:
        """As the gateway knows it; ``me`` is the bot's user id, ``flags`` those of its event.

        A chat is ``stream:ID``, its topics being threads, or ``private:IDS`` without the bot's:
        the message types by the names that servers of all versions take ("Send a message").
        """
        direct = not isinstance(self.display_recipient, str)
        people = self.display_recipient if isinstance(self.display_recipient, list) else []
        others = sorted(person.id for person in people if person.id != me)
        return Inbound(
            id=str(self.id),
            chat="private:" + ",".join(map(str, others)) if direct else f"stream:{self.stream_id}",
            sender=str(self.sender_id),
            sender_name=self.sender_full_name,
            text=self.content,
            at=self.timestamp,
            private=len(others) == 1,
            mentioned="mentioned" in self.flags | flags,
            thread=None if direct else self.subject,
        )


class Sent(msgspec.Struct, frozen=True):
    """A message taken ("Send a message")."""

    id: Whole


def cause_of(reply: HttpReply) -> Cause:
    """The cause of an answer that is no success, by the server's own code where it has one."""
    try:
        failure = msgspec.json.decode(reply.body, type=Failure)
    except (msgspec.DecodeError, UnicodeError):
        failure = Failure()
    if (kind := VERDICTS.get(failure.code)) is not None:
        return Cause(kind, f"zulip_{failure.code.lower()}", failure.msg)
    return http_cause(reply, "zulip")


def good(reply: HttpReply) -> HttpReply:
    """The reply itself. Raises Disconnect for any that is no success."""
    if reply.status != 200:
        raise Disconnect(cause_of(reply))
    return reply
