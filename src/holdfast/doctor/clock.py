"""The wall clock: against the platforms' own, and against the clocks that nobody can set."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from holdfast.doctor.finding import Finding, Verdict

WARN_AT = 30.0
"""Seconds off from which signatures and tokens with a short life begin to fail."""

FAIL_AT = 300.0
"""Seconds off at which platforms refuse signed requests: Slack's limit is 5 minutes, and so is
that of Kerberos, which made the number a habit."""

STEPPED = 2.0
"""Seconds by which the wall clock may drift from the monotonic one without having been set."""

SET_CLOCK = "set the clock and keep it right: sudo timedatectl set-ntp true"


def skew(date: str, age: str, sent: float, received: float) -> float | None:
    """Seconds by which our wall clock is ahead of the server's (behind: negative).

    ``date`` and ``age`` are the answer's headers (RFC 9110, section 6.6.1; RFC 9111, section 5.1),
    ``sent`` and ``received`` our Unix seconds around it. What the road and the header's whole
    seconds leave open counts as agreement. None without a usable date.
    """
    try:
        then = parsedate_to_datetime(date).timestamp()
        then += float(age or 0)
    except (TypeError, ValueError, OverflowError):
        return None
    earliest, latest = then, then + 1.0
    if sent > latest:
        return sent - latest
    if received < earliest:
        return received - earliest
    return 0.0


def against_server(subject: str, ahead: float) -> Finding:
    """What a difference to a server's clock means."""
    off = abs(ahead)
    if off < WARN_AT:
        return Finding("clock", subject, Verdict.OK, f"this clock and the server's are {_s(off)}")
    side = "ahead of" if ahead > 0 else "behind"
    verdict = Verdict.FAIL if off >= FAIL_AT else Verdict.WARN
    what = f"this machine's clock is {off:.0f} s {side} the server's"
    return Finding("clock", subject, verdict, what, SET_CLOCK)


def _s(off: float) -> str:
    return "less than a second apart" if off < 1 else f"{off:.0f} s apart"


def steps(wall: tuple[float, float], boot: tuple[float, float]) -> Iterator[Finding]:
    """Whether the wall clock was set between two readings of both clocks (Unix and boot s)."""
    step = (wall[1] - wall[0]) - (boot[1] - boot[0])
    if abs(step) >= STEPPED:
        what = f"the wall clock was moved by {step:+.0f} s during this examination"
        yield Finding("clock", "", Verdict.WARN, what, "find out who sets it; one NTP client only")


def since_start(began: tuple[float, float], now: tuple[float, float]) -> Finding:
    """Whether the wall clock was set since the gateway was started.

    Both are readings of the wall clock and of the boot clock (Unix and boot seconds), the first of
    them the gateway's own at its start.
    """
    moved = (now[0] - began[0]) - (now[1] - began[1])
    if abs(moved) < WARN_AT:
        return Finding("clock", "gateway", Verdict.OK, "the clock was not set since its start")
    verdict = Verdict.FAIL if abs(moved) >= FAIL_AT else Verdict.WARN
    what = f"the wall clock was moved by {moved:+.0f} s since the gateway was started"
    return Finding("clock", "gateway", verdict, what, f"{SET_CLOCK}; then restart the gateway")
