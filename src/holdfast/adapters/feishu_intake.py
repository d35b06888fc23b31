"""What the long connection and the web hook do alike: take events in, and know what was missed.

Feishu repeats an event that nobody acknowledged (https://open.feishu.cn/document,
event-subscription-guide/overview), so that an outage loses something only when it was longer than
all repeats together. How long it was is told by a mark in the cursor.
"""

from __future__ import annotations

from holdfast.adapter import BadFrame, Continuity, Link, decode
from holdfast.adapters import feishu_wire as wire
from holdfast.adapters.feishu_history import remember
from holdfast.messages import Inbound

REPEATED_FOR = 15.0 + 300.0 + 3_600.0 + 21_600.0
"""Seconds from an event's first push to its last: four repeats, each after one of these pauses."""

MARK = "heard"
"""Key in the cursor: Unix seconds of the last proof that events reach us."""


def continuity(link: Link) -> Continuity:
    """How this connection continues the last one."""
    return Continuity.RESUMED if MARK in link.cursor else Continuity.FRESH


async def heard(link: Link) -> None:
    """Events reach us now: report what is lost for good, and remember the moment."""
    now = link.clock()
    since = link.cursor.get(MARK, now)
    if now - since > REPEATED_FOR:
        away, kept = (now - since) / 3600, REPEATED_FOR / 3600
        reason = f"away for {away:.1f} h: Feishu repeats an event for {kept:.1f} h only"
        link.gap(reason, since)
    link.cursor[MARK] = now
    await link.commit()


def message_of(link: Link, envelope: wire.Envelope, own_id: str) -> Inbound | None:
    """The message of an event, to be stored before the event is acknowledged.

    What can not be read is skipped, and acknowledged too: a repeat would be no more legible.
    """
    if envelope.header.event_type != wire.MESSAGE:
        return None
    try:
        message = wire.inbound(envelope.event, own_id)
    except BadFrame as error:
        link.skip(str(error), bytes(envelope.event))
        return None
    if message is not None:
        remember(link.cursor, message)
    return message


def message_in(link: Link, payload: bytes, own_id: str) -> Inbound | None:
    """The same for the JSON text of an event."""
    try:
        envelope = decode(wire.Envelope, payload)
    except BadFrame as error:
        link.skip(str(error), payload)
        return None
    return message_of(link, envelope, own_id)
