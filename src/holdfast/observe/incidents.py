"""What the reports of the accounts add up to: incidents, and how long each account was up.

Pure: the clock is the caller's, in Unix seconds, and nothing here waits or writes. A `Chronicle`
holds what is not yet in the file of the history; `take` hands it over and `put_back` takes it
again when it could not be written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import msgspec

from holdfast.observe.status import CauseStatus, cause_status
from holdfast.supervision import Published, Report, View

MINUTE, HOUR = 60, 3_600

SIZES = (MINUTE, HOUR)
"""Seconds of the pieces in which uptime is counted: for the last hour, and for 90 days."""

UNSEEN = 30.0
"""Seconds between two looks beyond which nobody knows how an account was: we were frozen, or the
machine slept. Three times the period in which the history is counted on."""

FIRST, LAST = 10, 10
"""Moments of an incident that are kept: its beginning and its end. A day of tries has thousands."""


class Standing(StrEnum):
    """What a second of an account counts as."""

    UP = "up"
    """Connected, by the account's own evidence."""
    DOWN = "down"
    """Wanted, and not connected."""
    OFF = "off"
    """Not wanted: paused, or the gateway was told to stop."""


class End(StrEnum):
    """How an incident came to its end."""

    RECOVERED = "recovered"
    STOPPED = "stopped"
    """The account was paused, removed, or the gateway was stopped."""
    UNSEEN = "unseen"
    """The gateway was gone: nobody knows how it went on."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One transition within an incident."""

    at: float
    """Unix seconds."""
    state: str
    """Published state after the change."""
    trigger: str
    """What moved it."""
    attempt: int
    """Consecutive failures since the last stable run."""
    code: str
    """The cause's code; empty without a cause."""
    message: str
    """The cause in one sentence."""
    retry_in: float | None
    """Seconds until the next try."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time in which an account was wanted and not connected."""

    number: int
    """Counts all incidents of the gateway, over restarts."""
    account: str
    """Its name in the configuration."""
    since: float
    """When it was lost, in Unix seconds."""
    until: float | None = None
    """When it ended; null while it lasts."""
    end: End | None = None
    """How it ended: recovered, stopped, or unseen (the gateway was gone)."""
    cause: CauseStatus | None = None
    """Why the connection was lost."""
    last_cause: CauseStatus | None = None
    """Why the newest try failed, where that differs."""
    attempts: int = 0
    """Connections that were tried."""
    escalated: bool = False
    """It needed, or needs, a person."""
    life_before: float | None = None
    """The last proof of life before it, in Unix seconds."""
    life_after: float | None = None
    """The proof of life that ended it, in Unix seconds."""
    moments: tuple[Moment, ...] = ()
    """Its first ten transitions and its last ten."""
    omitted: int = 0
    """Transitions between those."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asked the gateway to do."""

    at: float
    """Unix seconds."""
    who: str
    """`uid N` on the control socket; else `token`, `session ID` or `loopback`, and the address."""
    what: str
    """Name of the operation, for example `kick`."""
    path: str
    """The request's path, which names the account or the message."""
    status: int
    """HTTP status of the answer: 200 when it was done."""


class Piece(NamedTuple):
    """Names a piece of time of an account: ``start`` is a multiple of ``size``."""

    account: str
    size: int
    start: int


@dataclass(slots=True)
class Spent:
    """Seconds of a piece by standing; what is missing to its size is not known."""

    up: float = 0.0
    down: float = 0.0
    off: float = 0.0

    def add(self, other: Spent) -> None:
        """Count those seconds too."""
        self.up += other.up
        self.down += other.down
        self.off += other.off

    def spend(self, standing: Standing, seconds: float) -> None:
        """Count seconds of a standing."""
        match standing:
            case Standing.UP:
                self.up += seconds
            case Standing.DOWN:
                self.down += seconds
            case Standing.OFF:
                self.off += seconds


@dataclass(slots=True)
class Batch:
    """What is to be written; pieces are added to what was written of them before."""

    pieces: dict[Piece, Spent] = field(default_factory=dict)
    incidents: dict[int, Incident] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)

    def spent(self, piece: Piece) -> Spent:
        """What is counted of a piece."""
        found = self.pieces.get(piece)
        if found is None:
            found = self.pieces[piece] = Spent()
        return found


@dataclass(slots=True)
class _Line:
    """What is known of one account."""

    at: float
    """Until when its seconds are counted."""
    standing: Standing = Standing.OFF
    generation: int = 0
    life: float | None = None
    """The last proof of life while it was up, in Unix seconds, as of the last report."""
    incident: Incident | None = None


class Chronicle:
    """Folds reports into incidents and counted seconds."""

    def __init__(self, number: int = 0) -> None:
        """``number`` is that of the newest incident there is."""
        self._number = number
        self._lines: dict[str, _Line] = {}
        self._batch = Batch()

    def report(self, account: str, report: Report, now: float) -> None:
        """An account reports."""
        line = self._lines.setdefault(account, _Line(now))
        self._count(account, line, now)
        view = report.view
        standing = standing_of(view.published)
        if Standing.UP in (line.standing, standing):
            # What a peer says to one who is not let in yet is no proof for what follows.
            line.life = _wall(view, view.last_proof, now)
        if standing is Standing.DOWN and (line.incident or _is_loss(line, view)):
            self._goes_on(account, line, report, now)
        elif standing is not Standing.DOWN and line.incident is not None:
            self._ends(line, report, now)
        line.standing, line.generation = standing, view.generation

    def act(self, action: Action) -> None:
        """Somebody did something."""
        self._batch.actions.append(action)

    def look(self, now: float) -> None:
        """Count everybody's seconds until now. To be called every `UNSEEN` / 3 seconds."""
        for account, line in self._lines.items():
            self._count(account, line, now)

    def counted(
        self, account: str, size: int, starts: Iterable[int], now: float
    ) -> dict[int, Spent]:
        """What is not yet taken of an account's pieces, until now, by their start."""
        line = self._lines.get(account)
        if line is not None:
            self._count(account, line, now)
        pieces = self._batch.pieces
        found = ((start, pieces.get(Piece(account, size, start))) for start in starts)
        return {start: replace(spent) for start, spent in found if spent is not None}

    @property
    def has_news(self) -> bool:
        """Whether an incident or an action is not yet taken."""
        return bool(self._batch.incidents or self._batch.actions)

    def take(self, pieces: bool = True) -> Batch:
        """What is new since the last call; without ``pieces``, those are left for a later one."""
        batch, self._batch = self._batch, Batch()
        if not pieces:
            self._batch.pieces, batch.pieces = batch.pieces, {}
        return batch

    def put_back(self, batch: Batch) -> None:
        """Keep what could not be written for later, by the hour only: memory is bounded too."""
        newer, self._batch = self._batch, Batch(incidents=batch.incidents | self._batch.incidents)
        for pieces in (batch.pieces, newer.pieces):
            for piece, spent in pieces.items():
                if piece.size == HOUR:
                    self._batch.spent(piece).add(spent)
        self._batch.actions = [*batch.actions, *newer.actions][-1_000:]
        self._batch.incidents = dict(sorted(self._batch.incidents.items())[-1_000:])

    # -- seconds ------------------------------------------------------------------------------

    def _count(self, account: str, line: _Line, now: float) -> None:
        since, line.at = line.at, now
        if not 0.0 < now - since <= UNSEEN:
            return
        for size in SIZES:
            start = int(since // size) * size
            while start < now:
                seconds = min(now, start + size) - max(since, start)
                self._batch.spent(Piece(account, size, start)).spend(line.standing, seconds)
                start += size

    # -- incidents ----------------------------------------------------------------------------

    def _goes_on(self, account: str, line: _Line, report: Report, now: float) -> None:
        view, incident = report.view, line.incident
        cause = cause_status(view.cause)
        attempt = view.generation != line.generation
        if incident is None:
            self._number += 1
            incident = Incident(
                number=self._number, account=account, since=now, cause=cause, life_before=line.life
            )
            attempt = attempt or line.standing is Standing.DOWN  # the failed one after a start
        first = incident.cause or cause
        line.incident = _with_moment(
            msgspec.structs.replace(
                incident,
                cause=first,
                last_cause=cause if cause != first else incident.last_cause,
                attempts=incident.attempts + attempt,
                escalated=incident.escalated or view.attention,
            ),
            _moment(report, now),
        )
        self._batch.incidents[line.incident.number] = line.incident

    def _ends(self, line: _Line, report: Report, now: float) -> None:
        assert line.incident is not None
        view = report.view
        recovered = view.published is Published.CONNECTED
        ended = msgspec.structs.replace(
            line.incident,
            until=now,
            end=End.RECOVERED if recovered else End.STOPPED,
            attempts=line.incident.attempts + (view.generation != line.generation),
            life_after=_wall(view, view.last_proof, now) if recovered else None,
        )
        self._batch.incidents[ended.number] = _with_moment(ended, _moment(report, now))
        line.incident = None


def standing_of(state: Published) -> Standing:
    """What a published state counts as."""
    match state:
        case Published.CONNECTED:
            return Standing.UP
        case Published.STOPPED | Published.STOPPING:
            return Standing.OFF
        case _:
            return Standing.DOWN


def _is_loss(line: _Line, view: View) -> bool:
    """Whether not being connected is an incident; the first try after a start is none yet."""
    return line.standing is Standing.UP or view.published in (Published.RETRYING, Published.FATAL)


def _wall(view: View, moment: float | None, now: float) -> float | None:
    """A moment on the supervisor's clock in Unix seconds; reports are told as they happen."""
    return None if moment is None else now - (view.at - moment)


def _moment(report: Report, now: float) -> Moment:
    view = report.view
    connected = view.published is Published.CONNECTED
    return Moment(
        at=now,
        state=view.published.value,
        trigger=report.trigger,
        attempt=view.attempt,
        code=view.cause.code if view.cause and not connected else "",
        message=view.cause.message if view.cause and not connected else "",
        retry_in=None if view.retry_at is None else max(0.0, view.retry_at - view.at),
    )


def _with_moment(incident: Incident, moment: Moment) -> Incident:
    moments = (*incident.moments, moment)
    if len(moments) <= FIRST + LAST:
        return msgspec.structs.replace(incident, moments=moments)
    kept = (*moments[:FIRST], *moments[-LAST:])
    return msgspec.structs.replace(incident, moments=kept, omitted=incident.omitted + 1)
