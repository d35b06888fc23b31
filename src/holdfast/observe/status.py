"""The status document: one schema for the file, the API and every reader.

A reader must be able to tell that the writer is dead, and must never believe `connected` longer
than the evidence for it lasts. So the document carries its writer's pid and boot id, the time it
was written and for how long it holds, and per account until when `connected` may be believed.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from holdfast.legible import encoded
from holdfast.supervision import Cause, View

SCHEMA = 1
TTL = 10.0
"""Seconds after which a document that was not replaced says nothing any more."""

FILE_NAME = "gateway_state.json"


class CauseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Why an account is, or last was, not connected."""

    kind: str
    """One of the cause kinds."""
    code: str
    """Stable identifier for machines, for example ``telegram_unauthorized``."""
    message: str
    """One sentence for people."""
    who_acts: str
    """``nobody`` (Holdfast mends it by itself) or ``operator``."""
    hint: str
    """What to do, in words."""
    retryable: bool
    """Whether Holdfast goes on trying by itself."""


class ProofStatus(msgspec.Struct, frozen=True, kw_only=True):
    """When something last proved to work; Unix seconds and the age when written."""

    at: float | None
    """Unix seconds; null when it never did."""
    age: float | None
    """Seconds from then to the writing of the document."""


class AccountStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One account. Times are Unix seconds."""

    platform: str
    """As in the configuration."""
    state: str
    """connecting, connected, retrying, fatal, stopping or stopped."""
    since: float
    """When this state began."""
    generation: int
    """Number of the newest connection of this process, from 1."""
    attempt: int
    """Consecutive failures since the last stable run."""
    next_retry_at: float | None
    """When the next try is due."""
    step: str
    """The step of the running attempt, for example ``get me``."""
    suspect: bool
    """Silent for longer than usual: a probe is out."""
    rotating: bool
    """The connection is being replaced as planned."""
    flapping: bool
    """Connections die within seconds of their opening."""
    attention: bool
    """A person should look."""
    paused: bool
    """Stopped by an operator until resumed, also over restarts."""
    breaker: str
    """The circuit breaker: closed, open or half-open."""
    cause: CauseStatus | None
    """Why it is not connected, or why it last was not."""
    escalation: CauseStatus | None
    """The error published after many failures; tries go on."""
    valid_until: float | None
    """Until when `connected` may be believed without a newer document."""
    transport: ProofStatus
    """The last proof of life of the peer."""
    inbound: ProofStatus
    """The last message received."""
    outbound: ProofStatus
    """The last message accepted by the platform."""
    outage_since: float | None
    """When the running outage began; attempts do not renew it."""
    beats: int
    """Heartbeats acknowledged on this connection."""
    missed_beats: int
    """Heartbeats in a row not sent or not acknowledged."""
    gap: dict[str, float | str] | None
    """The last stretch of time whose messages may be missing: since, until, reason."""
    inbox: int
    """Messages waiting for their answer."""
    outbox: int
    """Messages waiting to be sent."""
    received: int
    """Messages taken in by this process."""
    sent: int
    """Messages sent by this process."""
    passed_over: int
    """Messages that the backlog policy left unhandled, in this process."""
    skipped: int
    """Messages of the platform that could not be understood."""
    dead: int
    """Dead letters of this process."""
    unknown: int
    """Sends whose fate was unknown, by this process."""
    away: int = 0
    """Messages waiting to be sent for which only their recipient is missing; part of `outbox`."""
    page: str = ""
    """URL at which people chat with it in a browser; empty where Holdfast serves no page."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: int = SCHEMA
    """Changes when a field changes its meaning or goes."""
    pid: int
    """Process that wrote it."""
    boot_id: str
    """Names the boot of the machine on which that process ran."""
    started_at: float
    """When the gateway was started, in Unix seconds."""
    started_boot: float | None = None
    """The same in seconds since the machine was booted, on a clock that nobody can set."""
    written_at: float
    """When the document was written, in Unix seconds."""
    ttl: float = TTL
    """Seconds after which a document that was not replaced says nothing any more."""
    version: str
    """Version of Holdfast."""
    accounts: dict[str, AccountStatus]
    """The accounts by name."""
    store: str = "ok"
    """`ok`, or why the journal can not be written."""


def cause_status(cause: Cause | None) -> CauseStatus | None:
    """A cause, as published."""
    if cause is None:
        return None
    return CauseStatus(
        kind=cause.kind.value,
        code=cause.code,
        message=cause.message,
        who_acts=cause.rule.who.value,
        hint=cause.advice,
        retryable=cause.retryable,
    )


def proof(at: float | None, now: float) -> ProofStatus:
    """A dated proof with its age; both None when there has been none."""
    return ProofStatus(at=at, age=None if at is None else max(0.0, now - at))


@functools.cache
def boot_id() -> str:
    """Names this boot of the machine, so that a pid of another boot is not believed."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Doubt(msgspec.Struct, frozen=True):
    """Why a document must not be believed."""

    reason: str
    last_seen: float


def doubt(status: Status, now: float | None = None) -> Doubt | None:
    """None when the document may be believed now; else why not."""
    now = time.time() if now is None else now
    age = now - status.written_at
    if status.boot_id != boot_id():
        return Doubt("written before this machine was started", status.written_at)
    if not _alive(status.pid):
        return Doubt(f"the gateway (pid {status.pid}) is gone", status.written_at)
    if age > status.ttl:
        return Doubt(
            f"the gateway (pid {status.pid}) has not written for {age:.0f} s: "
            "it hangs or is frozen",
            status.written_at,
        )
    if age < -status.ttl:
        return Doubt(
            f"written {-age:.0f} s in the future: the clock was set back, and the gateway "
            f"(pid {status.pid}) has not written since",
            status.written_at,
        )
    return None


def believed(account: AccountStatus, now: float | None = None) -> str:
    """The state a reader may believe now: `connected` only while its evidence lasts."""
    now = time.time() if now is None else now
    if account.state == "connected" and (account.valid_until or 0.0) < now:
        return "retrying"
    return account.state


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read(path: Path) -> Status:
    """Read a status file. Raises OSError, or msgspec.DecodeError for a foreign schema."""
    return msgspec.json.decode(path.read_bytes(), type=Status)


_writes = itertools.count()
"""Two writes never share a temporary file, even when one hangs in a thread."""


def write(path: Path, status: Status) -> None:
    """Replace the file atomically; a reader sees the old or the new one. Raises OSError."""
    temporary = path.with_suffix(f".{os.getpid()}-{next(_writes)}.tmp")
    try:
        temporary.write_bytes(msgspec.json.format(encoded(status), indent=1))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def account_status(
    view: View, wall: Callable[[float], float], now: float, **others: object
) -> AccountStatus:
    """An account's entry from its supervision and what else is known of it."""

    def at(moment: float | None) -> float | None:
        return None if moment is None else wall(moment)

    entry = {
        "state": view.published.value,
        "since": wall(view.since),
        "generation": view.generation,
        "attempt": view.attempt,
        "next_retry_at": at(view.retry_at),
        "step": view.step,
        "suspect": view.suspect,
        "rotating": view.rotating,
        "flapping": view.flapping,
        "attention": view.attention,
        "breaker": view.breaker.value,
        "cause": cause_status(view.cause),
        "escalation": cause_status(view.escalation),
        "valid_until": at(view.valid_until),
        "transport": proof(at(view.last_proof), now),
        "outage_since": at(view.outage_since),
        "beats": view.beats,
        "missed_beats": view.missed_beats,
        **others,
    }
    return AccountStatus(**entry)  # type: ignore[arg-type]
