"""B. Reconnect logic: that it goes on for ever, and never too fast."""

from __future__ import annotations

from typing import Final

from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.profile import ASKED
from holdfast.lab.steps import (
    accounted_for,
    answered,
    attempts,
    blocked,
    connected,
    heal,
    network,
    noticed,
    order,
    platform,
    recovered,
    say,
    start,
    stop,
    up,
    wait,
)
from holdfast.lab.steps_connecting import (
    ATTEMPT,
    causes,
    end_connection,
    flaps,
    hardly_tries,
    keeps_trying,
    logins,
    met,
    spread,
    stays_down,
)
from holdfast.lab.steps_delivery import cut_off, renewed
from holdfast.lab.steps_throttled import in_its_time, none_before_its_time, refused, throttle
from holdfast.lab.terms import BACK, SILENCE, Expect, Play

MINUTE, HALF_AN_HOUR, HOUR = 60.0, 1_800.0, 3_600.0

STABLE: Final = 300.0
"""Seconds of a run after which a failure is the first again (design, section 3; mission, M1.3)."""

CAP: Final = 60.0
"""Seconds of the longest back-off after an error that is nobody's fault."""

SLOW_CAP: Final = 300.0
"""Seconds of the longest back-off at all."""

GROWN: Final = 10.0
"""Seconds of a life that is not quick: what follows it is no flapping."""

WELL = (connected(), say(), answered())
"""Every play begins on a good connection that has proven itself both ways."""

PROVEN = (recovered(), accounted_for(), say(), answered())
"""And ends on one."""

BACK_AGAIN = (heal(), recovered(BACK), accounted_for(), say(), answered())
"""The network is back, and reachability tells of it however long the outage was."""


def cycles(times: int, *steps: Step) -> tuple[Step, ...]:
    """The same again and again."""
    return steps * times


MODES = (
    Mode(
        id="reconnect-missing",
        group=Group.RECONNECTING,
        what="Nothing reconnects: the connection ends and the process idles.",
        variants={
            "reset": (*WELL, network("rst"), heal(), recovered(), say(3), accounted_for()),
            "end of stream": (*WELL, network("fin"), heal(), recovered(), say(3), accounted_for()),
        },
        expect=Expect(recover=BACK),
        quick=True,
    ),
    Mode(
        id="retry-budget-exhausted",
        group=Group.RECONNECTING,
        what="A finite count of retries ends in a long outage, and nothing ever tries again.",
        variants={
            "10 s": (*WELL, network("cut"), wait(10.0), *BACK_AGAIN),
            "10 min": (*WELL, network("cut"), noticed(), wait(10 * MINUTE), *BACK_AGAIN),
            "2 h": (
                *WELL,
                network("refuse"),
                say(3),
                noticed(),
                keeps_trying(2 * HOUR),
                *BACK_AGAIN,
            ),
        },
        expect=Expect(recover=BACK),
    ),
    Mode(
        id="reconnect-chain-broken",
        group=Group.RECONNECTING,
        what="The next attempt hangs on a call-back of the thing that was just stopped.",
        variants={
            "different errors in a row": (
                *WELL,
                platform(Play.ERROR_ONCE, fault=False),
                platform(Play.MALFORMED_ONCE, fault=False),
                network("refuse"),
                noticed(),
                wait(3.0),
                network("cut", fault=False),
                wait(ATTEMPT),
                network("pass", fault=False),
                up(CAP + ATTEMPT),
                causes(3),
                *BACK_AGAIN,
            ),
        },
        expect=Expect(recover=None),
    ),
    Mode(
        id="reconnect-hangs",
        group=Group.RECONNECTING,
        what="An attempt blocks for ever, often with a lock in its hand.",
        variants={
            "the network swallows the dial": (
                *WELL,
                network("cut"),
                noticed(),
                keeps_trying(5 * MINUTE),
                *BACK_AGAIN,
            ),
            "the login is never answered": (
                *WELL,
                platform(Play.STALL_LOGIN),
                end_connection(),
                keeps_trying(5 * MINUTE),
                heal(),
                met(),
                *PROVEN,
            ),
        },
        expect=Expect(detect=SILENCE, recover=SLOW_CAP + ATTEMPT),
    ),
    Mode(
        id="fatal-handoff-lost",
        group=Group.RECONNECTING,
        what="The adapter gives up, and the supervisor never learns of it.",
        variants={
            "refused, then accepted again": (
                *WELL,
                platform(Play.FORBID),
                end_connection(),
                blocked(),
                heal(),
                order("kick"),
                recovered(),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=BACK),
        quick=True,
    ),
    Mode(
        id="recovery-path-untested",
        group=Group.RECONNECTING,
        what="Code that runs only after a failure is broken.",
        variants={
            # Each from a stable run: how the ladder grows without one is another mode's matter.
            "three resets": (
                *WELL,
                *cycles(3, cut_off(), heal(), recovered(), renewed(), *PROVEN, wait(STABLE + 10.0)),
            ),
        },
        expect=Expect(recover=BACK),
        quick=True,
    ),
    Mode(
        id="quick-disconnect-loop",
        group=Group.RECONNECTING,
        what="The login succeeds and the peer ends it at once, again and again.",
        variants={
            "for five minutes": (
                *WELL,
                platform(Play.CLOSE_AT_ONCE),
                end_connection(),
                wait(5 * MINUTE),
                attempts(15),
                flaps(),
                heal(),
                *PROVEN,
            ),
            "for an hour": (
                *WELL,
                platform(Play.CLOSE_AT_ONCE),
                end_connection(),
                wait(10 * MINUTE),
                attempts(20),
                flaps(),
                # One each 300 s; each 60 s where the mission sets that cap (Feishu, M3.1).
                hardly_tries(50 * MINUTE),
                heal(),
                *PROVEN,
            ),
        },
        expect=Expect(recover=SLOW_CAP + ATTEMPT),
        quick=True,
        slow=frozenset({"for an hour"}),
    ),
    Mode(
        id="backoff-reset-early",
        group=Group.RECONNECTING,
        what="The counter starts anew when the socket opens, and back-off never bites.",
        variants={
            "ended before the login": (
                *WELL,
                platform(Play.ACCEPT_ONLY),
                end_connection(),
                wait(10 * MINUTE),
                attempts(15),
                heal(),
                *PROVEN,
            ),
            "the login is never finished": (
                *WELL,
                platform(Play.STALL_LOGIN),
                end_connection(),
                wait(10 * MINUTE),
                attempts(15),
                heal(),
                *PROVEN,
            ),
        },
        expect=Expect(recover=SLOW_CAP + ATTEMPT),
    ),
    Mode(
        id="resume-loop-stale",
        group=Group.RECONNECTING,
        what="A session is continued for ever that the server no longer honours.",
        variants={
            "every continuation is ended": (
                *WELL,
                wait(GROWN),
                platform(Play.RESUME_BROKEN),
                end_connection(),
                say(2),
                up(ATTEMPT),
                heal(),
                *PROVEN,
            ),
            "the place is unknown": (
                *WELL,
                wait(GROWN),
                platform(Play.REFUSE_RESUME),
                end_connection(),
                up(ATTEMPT),
                heal(),
                recovered(),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=BACK, gap=True),
    ),
    Mode(
        id="login-quota-burn",
        group=Group.RECONNECTING,
        what="Reconnects spend the day's logins until the platform resets the token.",
        variants={
            "none left": (
                *WELL,
                platform(Play.QUOTA),
                platform(Play.RESUME_BROKEN, fault=False),
                end_connection(),
                wait(HOUR),
                attempts(20),
                heal(),
                # What the server said is a lower bound, and no kick goes below it.
                order("kick"),
                stays_down(HALF_AN_HOUR),
                up(HOUR),
                *PROVEN,
            ),
            # A session is continued over restarts: they cost nothing.
            "fifty restarts": (*WELL, *cycles(50, wait(20.0), stop(), connected()), logins(1)),
            "none left, and a restart": (
                *WELL,
                platform(Play.QUOTA),
                platform(Play.RESUME_BROKEN, fault=False),
                end_connection(),
                wait(10 * MINUTE),
                stop(),
                start(),
                stays_down(HOUR),
                attempts(20),
                heal(),
                up(2 * HOUR),
                *PROVEN,
            ),
        },
        expect=Expect(recover=None, gap=True),
    ),
    Mode(
        id="retry-after-ignored",
        group=Group.RECONNECTING,
        what="The server says how long to wait, and the client waits less.",
        variants={
            "at login": (
                *WELL,
                throttle(Play.THROTTLE),
                end_connection(),
                refused(2),
                heal(),
                in_its_time(),
                *PROVEN,
                none_before_its_time(),
            ),
            "at login, and a restart": (
                *WELL,
                throttle(Play.THROTTLE),
                end_connection(),
                refused(1),
                wait(5.0),
                stop(),
                start(),
                refused(2),
                heal(),
                in_its_time(),
                *PROVEN,
                none_before_its_time(),
            ),
            "at a send": (
                *WELL,
                throttle(Play.SEND_THROTTLED),
                say(3),
                refused(2),
                heal(),
                in_its_time(),
                none_before_its_time(),
            ),
            "at a send, and a restart": (
                *WELL,
                throttle(Play.SEND_THROTTLED),
                say(3),
                refused(1),
                wait(5.0),
                stop(),
                connected(),
                refused(2),
                heal(),
                in_its_time(),
                none_before_its_time(),
            ),
            # For those whose time is real: at the least nothing is lost.
            "at a send, once": (
                *WELL,
                platform(Play.SEND_THROTTLED, fault=False),
                say(3),
                answered(2 * MINUTE),
            ),
        },
        expect=Expect(recover=ASKED + SLOW_CAP + ATTEMPT),
        quick=True,
        # Hours of heartbeats: one that says it in words, one in a header, one that does not.
        quick_on=frozenset({"telegram", "slack", "qqbot"}),
        slow=frozenset({"at login, and a restart", "at a send, and a restart", "at a send, once"}),
    ),
    Mode(
        id="thundering-herd",
        group=Group.RECONNECTING,
        what="All accounts connect anew at the same instant after a shared outage.",
        accounts=20,
        variants={
            "20 accounts, a minute": (
                connected(2 * MINUTE),
                network("refuse", everywhere=True),
                wait(MINUTE),
                heal(),
                recovered(),
                spread(bucket=0.1, most=3),
            ),
        },
        # All back within 90 s (failure-modes): they do not log in at once.
        expect=Expect(recover=90.0),
    ),
)
