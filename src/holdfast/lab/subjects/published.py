"""What Holdfast publishes, as the lab reads it: the same document for every way to run it."""

from __future__ import annotations

from holdfast.lab.subjects import Reading
from holdfast.observe.status import AccountStatus, believed

AGENT = "python:holdfast.lab.agent:answer"


def reading(entry: AccountStatus, wall: float) -> Reading:
    """What a reader of the status document may believe at that moment."""
    gap = entry.gap
    return Reading(
        state=believed(entry, wall),
        generation=entry.generation,
        kind=entry.cause.kind if entry.cause else "",
        code=entry.cause.code if entry.cause else "",
        message=entry.cause.message if entry.cause else "",
        hint=entry.cause.hint if entry.cause else "",
        attempt=entry.attempt,
        next_retry_at=entry.next_retry_at,
        suspect=entry.suspect,
        flapping=entry.flapping,
        attention=entry.attention,
        inbox=entry.inbox,
        outbox=entry.outbox,
        gap=None if gap is None else (float(gap["since"]), float(gap["until"])),
    )
