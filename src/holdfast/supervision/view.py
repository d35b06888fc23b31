"""The one reading of a supervisor that everything published is made of."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.supervision.causes import Cause
from holdfast.supervision.states import Breaker, Published, State


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A frozen reading of one account's supervision; all times on the supervisor's clock."""

    at: float
    state: State
    published: Published
    since: float
    """When the published state began."""
    generation: int
    attempt: int
    """Consecutive failures since the last stable run."""
    retry_at: float | None
    """When the next attempt is due, in BACKOFF and BLOCKED."""
    cause: Cause | None
    """Why the account is not connected, or why it last was not."""
    escalation: Cause | None
    """The error published past the escalation threshold; retries go on."""
    step: str
    """The step of the running attempt."""
    suspect: bool
    """Silent past its idle limit: a probe is out."""
    rotating: bool
    """A successor is being dialled, as the peer has announced the end of this connection."""
    flapping: bool
    """Connections keep dying within seconds of their opening."""
    attention: bool
    """A person should look: blocked, or past the escalation threshold."""
    breaker: Breaker
    last_proof: float | None
    """When the peer last proved to be there, on any connection."""
    valid_until: float | None
    """Until when ``connected`` may be believed without newer evidence."""
    outage_since: float | None
    """First loss after the last stable run; attempts do not renew it."""
    missed_beats: int
    beats: int
    """Heartbeats acknowledged on this connection."""
    stale_events: int
    """Events of former connections that were dropped."""
    abandoned: int
    """Connections that ignored their abort."""
