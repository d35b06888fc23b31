"""D. Identity, ownership, credentials: who else has the account, and whether it is still ours."""

from __future__ import annotations

from typing import Final

from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.steps import (
    accounted_for,
    again,
    answered,
    attempts,
    blocked,
    connected,
    heal,
    kill,
    network,
    noticed,
    order,
    platform,
    quiet,
    recovered,
    say,
    start,
    stays,
    stop,
    untouched,
    up,
    wait,
)
from holdfast.lab.steps_connecting import end_connection, stays_down
from holdfast.lab.steps_delivery import never, told_once
from holdfast.lab.steps_owning import disk, second, torn
from holdfast.lab.terms import AT_ONCE, BACK, Clock, Expect, Play

MINUTE: Final = 60.0

GRACE: Final = 90.0
"""Seconds in which another owner may be the bot's own former self (design, section 3)."""

RECHECK: Final = 300.0
"""Seconds between two looks whether the other owner has gone."""

SLOW_CAP, ATTEMPT = 300.0, 30.0
"""Seconds of the longest back-off at all, and of a whole attempt."""

LINGER: Final = 40.0
"""Seconds in which the bot's own former session must be got over (the paper's own figure)."""

Steps = tuple[Step, ...]

WELL: Final[Steps] = (connected(), say(), answered())
"""A connection that has proven itself both ways."""

PARTING: Final[Steps] = (say(), answered())
"""The proof that it is well again."""

HEALED: Final[Steps] = (heal(), recovered(), accounted_for(), *PARTING)

BLOCKED_UNTIL_KICK: Final[Steps] = (
    stays_down(30 * MINUTE),
    attempts(20),
    heal(),
    order("kick"),
    recovered(),
    accounted_for(),
    *PARTING,
)
"""Looked at slowly, and let in again when its owner has acted."""


def _restarted(every: float) -> Steps:
    """The code comes ten times; it is never taken for a refusal."""
    again_and_again = (platform(Play.RESTART_CODE), wait(every), heal()) * 10
    return (*again_and_again, never("fatal"), recovered(), accounted_for())


MODES = (
    Mode(
        id="conflict-two-pollers",
        group=Group.OWNERSHIP,
        what="Two processes use one account, and take it from each other in turn.",
        clock=Clock.REAL,
        why="there are two processes, and the kernel knows who holds what",
        variants={
            "on one state directory": (*WELL, second(shared=True), *PARTING, quiet(2.0)),
            "on another state directory": (*WELL, second(shared=False), *PARTING, quiet(2.0)),
            "somewhere else": (
                *WELL,
                platform(Play.REPLACED),
                end_connection(),
                blocked(GRACE + MINUTE),
                attempts(20),
                heal(),
                order("kick"),
                recovered(),
                *PARTING,
                told_once(),
            ),
        },
        # A reader of the status file dates an attempt up to a second late.
        expect=Expect(recover=BACK, opens=(10, 58.0)),
    ),
    Mode(
        id="conflict-after-own-restart",
        group=Group.OWNERSHIP,
        what="The bot's own former session lingers at the platform and keeps the new one out.",
        variants={
            "for 30 s": (
                *WELL,
                stop(),
                platform(Play.LINGERING, fault=False),
                say(2),
                start(),
                up(LINGER),
                never("fatal"),
                accounted_for(),
                *PARTING,
            ),
        },
        quick=True,
    ),
    Mode(
        id="events-split-two-clients",
        group=Group.OWNERSHIP,
        what="The platform deals events out to all clients of an account, one of which is not us.",
        variants={
            "every other one": (
                *WELL,
                wait(MINUTE),
                platform(Play.SPLIT, fault=False),
                say(6, every=2.0),
                wait(30.0),
                network("rst"),
                *HEALED,
            ),
        },
    ),
    Mode(
        id="ghost-registration",
        group=Group.OWNERSHIP,
        what="The platform goes on delivering to the connection that is dead.",
        variants={
            "for a minute": (
                *WELL,
                network("hole"),
                noticed(),
                up(BACK),
                say(6, every=10.0),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
        },
    ),
    Mode(
        id="webhook-blocks-polling",
        group=Group.OWNERSHIP,
        what="A web hook that somebody has left behind keeps polls out.",
        variants={
            "at the start": (platform(Play.FOREIGN_HOOK, fault=False), connected(10.0), *PARTING),
            "two calls fail": (
                platform(Play.FOREIGN_HOOK, fault=False),
                platform(Play.ERROR_ONCE, fault=False),
                platform(Play.ERROR_ONCE, fault=False),
                connected(10.0),
                *PARTING,
            ),
            "under way": (
                *WELL,
                platform(Play.FOREIGN_HOOK),
                say(3),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
            "again and again": (
                *WELL,
                *(platform(Play.FOREIGN_HOOK), wait(30.0)) * 8,
                blocked(MINUTE),
                heal(),
                order("kick"),
                recovered(),
                *PARTING,
            ),
        },
        expect=Expect(recover=10.0),
    ),
    Mode(
        id="session-invalidated",
        group=Group.OWNERSHIP,
        what="The login itself is dead: logged out, removed, or taken over for good.",
        variants={
            "logged out": (
                *WELL,
                say(ask="#sleep 5"),
                wait(1.0),
                platform(Play.LOGGED_OUT),
                end_connection(),
                blocked(MINUTE),
                *BLOCKED_UNTIL_KICK,
            ),
            "taken over": (
                *WELL,
                platform(Play.REPLACED),
                end_connection(),
                blocked(GRACE + 2 * MINUTE),
                *BLOCKED_UNTIL_KICK,
            ),
        },
        expect=Expect(recover=BACK, kinds=frozenset({"credentials", "refused", "replaced"})),
    ),
    Mode(
        id="expected-restart-code",
        group=Group.OWNERSHIP,
        what="A code that means `connect again now` is taken for a failure.",
        variants={
            "once": (
                *WELL,
                platform(Play.RESTART_CODE),
                wait(0.1),
                up(AT_ONCE),
                heal(),
                say(3),
                accounted_for(),
                *PARTING,
            ),
            "ten times, one each 10 s": (*WELL, *_restarted(10.0), *PARTING),
            "ten times in a row": (*WELL, *_restarted(3.0), *PARTING),
        },
        # Three lives under 5 s in a row are flapping: then one try each 300 s.
        expect=Expect(recover=SLOW_CAP + ATTEMPT),
    ),
    Mode(
        id="credential-store-torn",
        group=Group.OWNERSHIP,
        what="What the bot keeps is torn by a crash or a full disk, and it forgets who it was.",
        clock=Clock.REAL,
        why="a process must die, and write to a disk that is full",
        variants={
            "half a page": (
                *WELL,
                say(3),
                answered(),
                kill(),
                torn(),
                again(),
                say(),  # DingTalk may push it to the life before, and tell nobody: that is a gap
                accounted_for(),
            ),
            "a full disk": (
                *WELL,
                disk(full=True),
                say(3),
                wait(10.0),
                disk(full=False),
                recovered(),
                accounted_for(MINUTE),
                *PARTING,
            ),
            "two writers": (*WELL, second(shared=True), *PARTING),
        },
    ),
    Mode(
        id="cross-account-state",
        group=Group.OWNERSHIP,
        what="What belongs to one account is shared: one breaks the other, or speaks as it.",
        accounts=2,
        variants={
            "one is refused": (
                *WELL,
                say(seat=1),
                answered(),
                platform(Play.REVOKE),
                network("rst", fault=False),
                blocked(),
                say(3, seat=1),
                stays("fatal", 10 * MINUTE),
                untouched(seat=1),
                platform(Play.REPAIR, fault=False),
                heal(),
                order("kick"),
                recovered(),
                say(3),
                say(3, seat=1),
                answered(),
            ),
            "one is lost": (
                *WELL,
                say(seat=1),
                network("cut"),
                say(3, seat=1),
                noticed(),
                wait(MINUTE),
                untouched(seat=1),
                heal(),
                recovered(),
                say(3),
                say(3, seat=1),
                accounted_for(),
                answered(),
            ),
        },
        quick=True,
    ),
    Mode(
        id="self-echo-loop",
        group=Group.OWNERSHIP,
        what="The bot does not know who it is, and answers what it has said itself.",
        variants={
            "not told at first": (
                platform(Play.IDENTITY_FAILS, fault=False),
                connected(10.0),
                *PARTING,
                quiet(MINUTE),
            ),
            "not told after a restart": (
                *WELL,
                stop(),
                platform(Play.IDENTITY_FAILS, fault=False),
                say(3),
                connected(10.0),
                accounted_for(),
                *PARTING,
                quiet(MINUTE),
            ),
        },
    ),
)
