"""When the owner of an account is told of it, and when not. No clock, no I/O.

An *incident* reaches from the loss of a connection to one that holds. Of each the owner hears once
that it is there, once that it is over, and hourly while only a person can end it. What happens to
several accounts within seconds is one alert. All times are seconds on the caller's clock, which
must not run backwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from holdfast.supervision import Cause, Kind, Published, View

SETTLE = 30.0
"""Seconds a connection must hold before it is said to be back."""

STEADY = 300.0
"""Seconds after which a loss is a new incident: the supervision's stable run. Whoever relapsed
before is said to be back only then."""

BURST, REFILL = 10, 300.0
"""Alerts in a row, and the seconds after which there may be one more. What has to wait is told in
one alert with all that came meanwhile."""

NETWORK = frozenset({Kind.UNREACHABLE, Kind.TIMEOUT, Kind.LOST, Kind.SILENT})
"""Causes that several accounts share when the network is what failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When to tell, in seconds."""

    after: float = 180.0
    """How long an account must be down; mautrix waits as long."""
    remind: float = 3600.0
    """How often it is said again that a person must act."""
    group_window: float = 30.0
    """How long an alert waits for others to join it."""


class What(StrEnum):
    """What is told of an account."""

    DOWN = "down"
    """Not connected for longer than `Rules.after`, or tried too often; Holdfast keeps trying."""
    FLAPPING = "flapping"
    """Connected again and again, each time for seconds."""
    FATAL = "fatal"
    """Only a person can mend it."""
    STILL_FATAL = "still-fatal"
    """The reminder of that."""
    BACK = "back"
    """Connected again, and it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is told of one account."""

    account: str
    platform: str
    what: What
    since: float
    """When the incident began."""
    lasted: float
    """Seconds from then until now, or until the account was back."""
    again: bool = False
    """It was said to be back in the same incident."""
    cause: Cause | None = None
    attempts: int = 0
    """Failures in a row."""
    caught_up: int = 0
    """Messages written while the account was down and received once it was back."""
    gap: bool = False
    """The platform does not replay all of what was missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Everything that is told at one time; at least one line."""

    lines: tuple[Line, ...]
    shared: str = ""
    """What the accounts that are down have in common: ``network``, a platform, or nothing."""

    def shifted(self, by: float) -> Alert:
        """The same on a clock that is ahead by so many seconds."""
        lines = tuple(replace(line, since=line.since + by) for line in self.lines)
        return replace(self, lines=lines)


@dataclass(slots=True, kw_only=True)
class Incident:
    """An account's trouble from the first loss on."""

    since: float
    down_at: float
    """The latest loss."""
    up_at: float | None = None
    """Connected since then; None while it is not."""
    loud_at: float | None = None
    """When the account first flapped, or its error was escalated."""
    told: What | None = None
    """The last word on it."""
    told_at: float = 0.0
    backs: int = 0
    """How often it was said to be back."""
    caught_up: int = 0

    def shifted(self, by: float) -> Incident:
        """The same on a clock that is ahead by so many seconds."""
        return replace(
            self,
            since=self.since + by,
            down_at=self.down_at + by,
            up_at=None if self.up_at is None else self.up_at + by,
            loud_at=None if self.loud_at is None else self.loud_at + by,
            told_at=self.told_at + by,
        )


class _Condition(Enum):
    UNKNOWN = "not reported yet"
    OFF = "being stopped"
    DOWN = "not connected"
    FATAL = "waits for a person"
    UP = "connected"


@dataclass(slots=True)
class _Watched:
    platform: str = ""
    condition: _Condition = _Condition.UNKNOWN
    entered: float = 0.0
    cause: Cause | None = None
    attempts: int = 0
    flapping: bool = False
    incident: Incident | None = None


class Alerts:
    """What is known of all accounts, and what of it was told."""

    def __init__(self, rules: Rules, told: Mapping[str, Incident] | None = None) -> None:
        """``told`` are the incidents of a former process: what was told is not told again."""
        self.rules = rules
        self._accounts = {name: _Watched(incident=one) for name, one in (told or {}).items()}
        self._tokens, self._tokens_at = float(BURST), float("-inf")

    # -- what happens -------------------------------------------------------------------------

    def notice(
        self, account: str, platform: str, view: View, now: float, *, paused: bool = False
    ) -> None:
        """An account reports. When it is ``paused``, its owner knows: its incident is over.

        One that is stopped without that (for a new configuration) is down: it must come back.
        """
        watched = self._accounts.setdefault(account, _Watched())
        watched.platform = platform
        condition = _condition(view)
        if condition is not watched.condition:
            watched.condition, watched.entered = condition, now
        watched.attempts, watched.flapping = view.attempt, view.flapping
        if paused:
            watched.incident = None
        elif condition is _Condition.UP and watched.incident is not None:
            if watched.incident.up_at is None:
                watched.incident.up_at = now
        elif condition in (_Condition.DOWN, _Condition.FATAL):
            watched.cause = view.cause
            incident = watched.incident = _lost(watched.incident, now)
            loud = view.flapping or view.escalation is not None
            if loud and incident.loud_at is None:
                incident.loud_at = now

    def arrived(self, account: str, written: float) -> None:
        """A message came in that was written at a moment; it may be one that was missed."""
        incident = self._incident(account)
        if incident is not None and written >= incident.since:
            incident.caught_up += incident.up_at is None or written <= incident.up_at

    def retain(self, accounts: Collection[str]) -> None:
        """Forget all accounts but these."""
        self._accounts = {n: one for n, one in self._accounts.items() if n in accounts}

    def told(self) -> dict[str, Incident]:
        """Copies of the incidents of which the owner knows, to be kept over a restart."""
        return {
            name: replace(watched.incident)
            for name, watched in self._accounts.items()
            if watched.incident is not None and watched.incident.told is not None
        }

    # -- what is to be told -------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `due` is worth a call; None as long as nothing more is reported."""
        waiting = [at for _, at in self._pending().values()]
        if not waiting:
            return None
        short = max(0.0, 1.0 - self._tokens) * REFILL
        return max(min(waiting) + self.rules.group_window, self._tokens_at + short)

    def due(self, now: float) -> Alert | None:
        """What is to be told now, which then counts as told; None when there is nothing."""
        self._expire(now)
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None
        chosen = {
            name: what
            for name, (what, at) in self._pending().items()
            if at <= now + self._early(what)
        }
        lines = tuple(self._line(name, what, now) for name, what in sorted(chosen.items()))
        for name, what in chosen.items():
            _tell(self._accounts[name], what, now)
        refilled = (now - self._tokens_at) / REFILL
        self._tokens, self._tokens_at = min(BURST, self._tokens + refilled) - 1.0, now
        return Alert(lines=lines, shared=self._shared(lines))

    def current(self, alert: Alert, now: float) -> Alert | None:
        """What of an alert that could not be delivered yet is still true; None for nothing."""
        lines = []
        for line in alert.lines:
            watched = self._accounts.get(line.account)
            if watched is not None and _holds(line.what, watched):
                lasted = line.lasted if line.what is What.BACK else now - line.since
                lines.append(replace(line, lasted=lasted))
        return replace(alert, lines=tuple(lines)) if lines else None

    def _pending(self) -> dict[str, tuple[What, float]]:
        """What is untold of each account, and the moment from which it may be told."""
        found = {name: self._untold(watched) for name, watched in self._accounts.items()}
        return {name: untold for name, untold in found.items() if untold is not None}

    def _untold(self, watched: _Watched) -> tuple[What, float] | None:
        incident = watched.incident
        if incident is None:
            return None
        trouble_told = incident.told not in (None, What.BACK)
        match watched.condition:
            case _Condition.UP if trouble_told and incident.up_at is not None:
                return What.BACK, incident.up_at + (STEADY if incident.backs else SETTLE)
            case _Condition.FATAL if incident.told is What.FATAL:
                return What.STILL_FATAL, incident.told_at + self.rules.remind
            case _Condition.FATAL:
                return What.FATAL, watched.entered
            case _Condition.DOWN if not trouble_told:
                began = incident.since if incident.told is None else incident.down_at
                by = began + self.rules.after
                if incident.loud_at is not None:
                    by = min(by, incident.loud_at)
                return (What.FLAPPING if watched.flapping else What.DOWN), by
            case _:
                return None

    def _early(self, what: What) -> float:
        """Seconds before its time at which something joins an alert that is sent anyway."""
        match what:
            case What.DOWN:
                return min(self.rules.group_window, self.rules.after / 2)
            case What.STILL_FATAL:
                return self.rules.remind / 2
            case _:
                return 0.0

    def _line(self, name: str, what: What, now: float) -> Line:
        watched = self._accounts[name]
        incident = watched.incident
        assert incident is not None
        back = what is What.BACK
        until = incident.up_at if back and incident.up_at is not None else now
        return Line(
            account=name,
            platform=watched.platform,
            what=what,
            since=incident.since,
            lasted=until - incident.since,
            again=incident.backs > 0,
            cause=watched.cause,
            attempts=watched.attempts,
            caught_up=incident.caught_up if back else 0,
        )

    def _shared(self, lines: Collection[Line]) -> str:
        down = [line for line in lines if line.what is What.DOWN]
        if len(down) < 2 or not all(line.cause and line.cause.kind in NETWORK for line in down):
            return ""
        up = [one.platform for one in self._accounts.values() if one.condition is _Condition.UP]
        platforms = {line.platform for line in down}
        if not up:
            return "network"
        return platforms.pop() if len(platforms) == 1 and not platforms & set(up) else ""

    def _incident(self, account: str) -> Incident | None:
        watched = self._accounts.get(account)
        return watched.incident if watched is not None else None

    def _expire(self, now: float) -> None:
        """Incidents of which nothing is left to tell."""
        for watched in self._accounts.values():
            if watched.incident is not None and _over(watched.incident, now):
                watched.incident = None


def _condition(view: View) -> _Condition:
    match view.published:
        case Published.CONNECTED:
            return _Condition.UP
        case Published.FATAL:
            return _Condition.FATAL
        case Published.STOPPING:
            return _Condition.OFF
        case _:
            return _Condition.DOWN


def _lost(incident: Incident | None, now: float) -> Incident:
    """The incident a loss belongs to: a connection that held has ended the one before."""
    if incident is None or _over(incident, now):
        return Incident(since=now, down_at=now)
    if incident.up_at is not None:
        incident.down_at, incident.up_at = now, None
        if incident.told is What.BACK:
            incident.loud_at = None
    return incident


def _over(incident: Incident, now: float) -> bool:
    if incident.up_at is None or incident.told not in (None, What.BACK):
        return False
    return now - incident.up_at >= (SETTLE if incident.told is None else STEADY)


def _tell(watched: _Watched, what: What, now: float) -> None:
    incident = watched.incident
    assert incident is not None
    incident.told = What.FATAL if what is What.STILL_FATAL else what
    incident.told_at = now
    if what is What.BACK:
        incident.backs += 1


def _holds(what: What, watched: _Watched) -> bool:
    if watched.incident is None:
        return False
    match what:
        case _ if watched.condition is _Condition.UNKNOWN:
            return True
        case What.FATAL | What.STILL_FATAL:
            return watched.condition is _Condition.FATAL
        case What.BACK:
            return watched.condition is _Condition.UP
        case _:
            return watched.condition is _Condition.DOWN
