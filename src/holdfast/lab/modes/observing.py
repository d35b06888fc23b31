"""E. Status and observability: what is said of an account, and whether anybody gets to know."""

from __future__ import annotations

from typing import Final

from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.steps import (
    accounted_for,
    again,
    answered,
    blocked,
    connected,
    heal,
    kill,
    network,
    noticed,
    order,
    platform,
    recovered,
    say,
    stall,
    wait,
)
from holdfast.lab.steps_connecting import end_connection, resolver
from holdfast.lab.steps_owning import disk
from holdfast.lab.steps_telling import (
    asked,
    few_lines,
    listen_to_log,
    listen_to_status,
    met,
    reused_pid,
    supervised,
    tells_all,
)
from holdfast.lab.terms import BACK, NAME, SILENCE, Clock, Expect, Play

MINUTE, HOUR = 60.0, 3_600.0

LONGEST: Final = 300.0
"""Seconds of the longest back-off."""

TTL: Final = 10.0
"""Seconds after which a status file that was not replaced says nothing any more."""

WATCHDOG: Final = 10.0
"""Seconds after which the service manager of these plays restarts what has fallen silent."""

Steps = tuple[Step, ...]

WELL: Final[Steps] = (connected(), say(), answered())
"""A connection that has proven itself both ways."""

PARTING: Final[Steps] = (say(), answered())
"""The proof that it is well again."""

HEALED: Final[Steps] = (heal(), recovered(), accounted_for(), *PARTING)


def _fault(switch: str) -> Steps:
    """One more fault of a row, until the status tells of it, and its healing."""
    return (network(switch), noticed(), wait(20.0), *HEALED, wait(30.0))


def _why(*what: Step) -> Steps:
    """A failure, and what log and status say of it until it is over."""
    return (*WELL, listen_to_log(), *what, noticed(), wait(5.0), met(), tells_all(), *HEALED)


def _why_once(what: Play) -> Steps:
    """A single failure of a login, over in a second perhaps, and what status and log say of it.

    The network is refused first: who knows an address from before dials it without a call that
    could fail.
    """
    return (
        *WELL,
        listen_to_log(),
        platform(what, fault=False),
        network("refuse"),
        noticed(),
        wait(5.0),
        listen_to_status(),
        network("pass", fault=False),
        met(),
        tells_all(),
        *HEALED,
    )


def _hour(*what: Step) -> Steps:
    """An hour of it, told in a few lines."""
    return (
        *WELL,
        listen_to_log(),
        *what,
        wait(HOUR),
        heal(),
        recovered(),
        few_lines(20),
        accounted_for(),
        *PARTING,
    )


MODES = (
    Mode(
        id="status-lie-connected",
        group=Group.STATUS,
        what="The status says connected while nothing arrives.",
        variants={
            # The law itself is judged in every mode; here it meets one fault after another.
            "one fault after another": (
                *WELL,
                *(step for switch in ("cut", "refuse", "freeze") for step in _fault(switch)),
            ),
            "a blocked loop, then a dead path": (
                *WELL,
                stall(45.0),
                *PARTING,
                *_fault("cut"),
            ),
        },
        expect=Expect(detect=SILENCE, recover=BACK),
        quick=True,
    ),
    Mode(
        id="status-stale-file",
        group=Group.STATUS,
        what="A status file outlives its writer, and is believed.",
        clock=Clock.REAL,
        why="a process must die, and its status be asked from outside",
        variants={
            "killed": (
                *WELL,
                asked("connected"),
                kill(),
                asked("is gone", well=False),
                again(),
                *PARTING,
            ),
            "killed, and its number is another's": (
                *WELL,
                kill(),
                reused_pid(),
                wait(TTL),
                asked("has not written", well=False),
                again(),
                *PARTING,
            ),
            "the disk is full": (
                *WELL,
                disk(full=True),
                wait(TTL + 5.0),
                asked(""),
                disk(full=False),
                wait(2.0),
                *PARTING,
            ),
        },
        expect=Expect(recover=None),
    ),
    Mode(
        id="supervisor-blind",
        group=Group.STATUS,
        what="The service manager sees a process that lives, so nobody restarts what hangs.",
        clock=Clock.REAL,
        why="the service manager is another process, and ends this one",
        variants={
            "the loop hangs, watched": (
                supervised(WATCHDOG),
                *WELL,
                say(ask="#block-once 600", chat="ben"),
                say(3),
                accounted_for(3 * WATCHDOG + 30.0),
                *PARTING,
            ),
            "the loop hangs, unwatched": (
                *WELL,
                say(ask="#block 25"),
                wait(TTL + 5.0),
                asked("has not written", well=False),
                wait(15.0),
                accounted_for(),
                *PARTING,
            ),
        },
        expect=Expect(recover=None),
    ),
    Mode(
        id="error-without-cause",
        group=Group.STATUS,
        what="The reason is lost: an empty text, a discarded code, a wrapper that says nothing.",
        host=NAME,
        variants={
            "refused": _why(network("refuse")),
            "reset": _why(network("rst"), network("refuse", fault=False)),
            "silence": _why(network("cut")),
            "no name": (
                *WELL,
                listen_to_log(),
                resolver("fail"),
                end_connection(),
                noticed(),
                wait(5.0),
                tells_all(),
                resolver("ok"),
                *HEALED,
            ),
            "a server error": _why_once(Play.ERROR_ONCE),
            "an answer that breaks off": _why_once(Play.MALFORMED_ONCE),
            "a rate limit": _why(platform(Play.THROTTLE), end_connection()),
            "credentials revoked": (
                *WELL,
                listen_to_log(),
                platform(Play.REVOKE),
                end_connection(),
                blocked(),
                tells_all(),
                heal(),
                order("kick"),
                recovered(),
                *PARTING,
            ),
            "not allowed": (
                *WELL,
                listen_to_log(),
                platform(Play.FORBID),
                end_connection(),
                blocked(),
                tells_all(),
                heal(),
                order("kick"),
                recovered(),
                *PARTING,
            ),
        },
        expect=Expect(recover=LONGEST),
    ),
    Mode(
        id="log-flood",
        group=Group.STATUS,
        what="A loop of reconnects writes until the disk is full.",
        variants={
            "nothing passes": _hour(network("cut")),
            "refused": _hour(network("refuse")),
            "the login ends at once": _hour(platform(Play.CLOSE_AT_ONCE), end_connection()),
            "the login is never finished": _hour(platform(Play.STALL_LOGIN), end_connection()),
        },
        expect=Expect(recover=LONGEST + 30.0),
    ),
)
