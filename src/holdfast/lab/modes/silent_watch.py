"""A. Silent death, continued: what blocks, what watches, and what floods."""

from __future__ import annotations

from typing import Final

from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.modes.silent import GREETED, HOURS, PARTING, often
from holdfast.lab.steps import (
    accounted_for,
    answered,
    connected,
    crowd,
    freeze,
    heal,
    network,
    noticed,
    order,
    platform,
    recovered,
    say,
    stall,
    stays,
    untouched,
    up,
    wait,
)
from holdfast.lab.steps_owning import first_life, slow_disk, stuck
from holdfast.lab.steps_telling import supervised
from holdfast.lab.terms import BACK, SILENCE, Clock, Expect, Play

PROMPT: Final = 5.0
"""Seconds in which a user is answered whatever another one's handler does."""

POOL: Final = 4
"""Requests that hang at once."""


def blocked_loop(seconds: float) -> tuple[Step, ...]:
    """Everything stands still; users go on talking."""
    return (*GREETED, say(3), stall(seconds), up(30.0), say(3), accounted_for(), *PARTING)


def late_replies(times: int, every: int) -> tuple[Step, ...]:
    """Replies that will be sent one after the other, so many seconds apart."""
    asked = (say(chat=f"user{n}", ask=f"#sleep {n * every}") for n in range(1, times + 1))
    return (*asked, wait(1.0))


WATCHDOG: Final = 30.0
"""Seconds of silence after which the service manager ends the bot, as in its unit file."""

BRIEF: Final = 7.0
"""Seconds for which it stands still: longer than its own watchdog takes for normal, and short
enough for its manager, for the readers of its status, and for every platform."""

MODES = (
    Mode(
        id="pool-exhausted",
        group=Group.SILENT,
        what="Dead connections fill the pool of an HTTP client, and every call waits for a place.",
        variants={
            "sends": (
                *GREETED,
                crowd(POOL),
                answered(),
                crowd(POOL, ask="#sleep 2"),
                wait(1.0),
                network("hole"),
                wait(SILENCE + BACK),
                up(30.0),
                heal(),
                accounted_for(),
                *PARTING,
            ),
        },
    ),
    Mode(
        id="handler-blocks-intake",
        group=Group.SILENT,
        what="Intake waits for handlers, and one that never ends stops every later message.",
        variants={
            "hangs": (
                *GREETED,
                say(ask="#hang"),
                say(2),
                say(3, chat="ben"),
                answered(PROMPT, chat="ben"),
                stays("connected", 600.0),
                say(chat="ben"),
                answered(PROMPT, chat="ben"),
            ),
        },
        expect=Expect(undisturbed=True),
        # The stuck run ends at its own limit, and is not tried again here: its chat goes on then.
        gateway={"handler_timeout": 60.0, "handler_attempts": 1},
    ),
    Mode(
        id="loop-blocked",
        group=Group.SILENT,
        what="A synchronous call on the event loop starves the heartbeats of every account.",
        variants={f"stall-{seconds}": blocked_loop(seconds) for seconds in (12, 45, 90)},
    ),
    Mode(
        id="task-hung-loop-alive",
        group=Group.SILENT,
        what="One account makes no progress, the loop is well, and so nobody sees it.",
        variants={
            "stall": (
                *GREETED,
                network("stall"),
                say(3),
                say(seat=1),
                noticed(),
                heal(),
                recovered(),
                accounted_for(),
                untouched(seat=1),
                *PARTING,
            ),
        },
        expect=Expect(detect=SILENCE),
        accounts=2,
    ),
    Mode(
        id="watchdog-kills-healthy",
        group=Group.SILENT,
        what="Nobody says anything, and what is healthy is restarted for it.",
        variants={
            "after-a-message": (*GREETED, stays("connected", HOURS), *PARTING),
            "never-a-message": (connected(), stays("connected", HOURS), *PARTING),
        },
        expect=Expect(undisturbed=True),
    ),
    Mode(
        id="watchdog-wrong-signal",
        group=Group.SILENT,
        what="The watchdog is fed by something else than what comes in: sends, starts, other runs.",
        variants={
            "sends-go-on": (
                *GREETED,
                *late_replies(6, 10),
                network("hole_in"),
                say(3),
                noticed(),
                heal(),
                recovered(),
                wait(60.0),
                accounted_for(),
                *PARTING,
            ),
            "poll-hangs": (
                *GREETED,
                *late_replies(6, 10),
                platform(Play.POLL_HANGS),
                noticed(),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
            "poll-fails": (
                *GREETED,
                *late_replies(6, 10),
                platform(Play.POLL_FAILS),
                say(),  # ends the poll that is under way
                noticed(within=PROMPT),
                wait(15.0),
                heal(),
                recovered(),
                accounted_for(60.0),
                *PARTING,
            ),
        },
        # Replies are on their way when the hole opens.
        expect=Expect(detect=SILENCE, recover=20.0, doubles=True),
    ),
    Mode(
        id="watchdog-livelock",
        group=Group.SILENT,
        what="A recovery is begun anew before it can end, or its first step fails or hangs.",
        variants={
            "slow-login": (
                *GREETED,
                platform(Play.SLOW_LOGIN, fault=False),
                network("rst"),
                wait(1.0),
                up(15.0),  # the login is 8 s late
                heal(),
                accounted_for(),
                *PARTING,
            ),
            "mute-close": (*GREETED, network("hole"), order("kick"), up(10.0), heal(), *PARTING),
        },
        expect=Expect(recover=10.0),
    ),
    Mode(
        id="watchdog-self-harm",
        group=Group.SILENT,
        what="What watches over the process blocks it, or kills it although it is healthy.",
        variants={
            "starved": (
                supervised(WATCHDOG),
                *GREETED,
                *often((freeze(3.0),), 3, 1.0),
                *often((freeze(BRIEF),), 3, 1.0),
                untouched(),
                *PARTING,
                first_life(),
            ),
            "the loop stands still": (
                supervised(WATCHDOG),
                *GREETED,
                *often((say(ask=f"#block {BRIEF:g}", chat="ben"), wait(BRIEF)), 2, 5.0),
                untouched(),
                *PARTING,
                first_life(),
            ),
            "an fsync takes two minutes": (
                slow_disk(),
                supervised(WATCHDOG),
                *GREETED,
                stuck(120.0),
                first_life(),
                accounted_for(60.0),
                *PARTING,
                first_life(),
            ),
        },
        clock=Clock.REAL,
        why="a process gets less of processor and disk than it asks for, and is not told",
    ),
    Mode(
        id="slow-consumer",
        group=Group.SILENT,
        what="More arrives than is handled: heartbeats queue behind data, and buffers grow.",
        variants={
            "flood": (
                *GREETED,
                crowd(100, times=15, ask="#sleep 1", every=1 / 2_000),
                stays("connected", 60.0),
                accounted_for(1_800.0),
                *PARTING,
            ),
        },
        expect=Expect(undisturbed=True),
    ),
    Mode(
        id="frame-too-big-loop",
        group=Group.SILENT,
        what="A frame beyond the client's limit ends the connection, and comes again each time.",
        variants={
            "huge": (
                *GREETED,
                platform(Play.HUGE_FRAME, fault=False),
                say(3),
                accounted_for(SILENCE),
                stays("connected", 300.0),
                *PARTING,
            ),
        },
    ),
)
