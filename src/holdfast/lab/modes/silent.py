"""A. Silent death: connections, heartbeats and polls that end without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.steps import (
    accounted_for,
    answered,
    attempts,
    beats,
    connected,
    heal,
    network,
    noticed,
    order,
    platform,
    recovered,
    say,
    stall,
    stays,
    unacked,
    up,
    wait,
)
from holdfast.lab.steps_delivery import counted, flat
from holdfast.lab.terms import BACK, SILENCE, Expect, Play

HOURS: Final = 7_200.0
"""Seconds for which an account that nobody talks to must stay as it is."""

STEADY: Final = 10.0
"""Seconds after which an account that has just begun is as it stays."""

DRAINED: Final = 30.0
"""Seconds after which a former connection that was left open for what it may still bring is gone,
and before an attempt that nobody waits for has reached its limit."""

POLLERS: Final = frozenset({"telegram", "matrix"})
SOCKETS: Final = "there is no poll: the platform pushes"

GREETED: Final = (connected(), say(), answered())
"""A healthy account that has proved it."""

PARTING: Final = (say(), answered())
"""The proof that it is healthy again."""


def pulled(switch: str) -> tuple[Step, ...]:
    """The path goes without a word, three messages are lost on it, and it comes back."""
    return (
        *GREETED,
        network(switch),
        say(3),
        noticed(),
        heal(),
        recovered(),
        accounted_for(),
        *PARTING,
    )


def idle(seconds: float, then: str) -> tuple[Step, ...]:
    """A NAT forgets what was quiet for so long; beats that come sooner keep it.

    The strictest is played for hours, the others for some times their own limit.
    """
    return (
        *GREETED,
        network("idle_drop", seconds, then, fault=False),
        stays("connected", HOURS if seconds <= SILENCE else 4 * seconds),
        *PARTING,
    )


def often(what: Sequence[Step], times: int, every: float) -> tuple[Step, ...]:
    """The same again and again."""
    return (*what, wait(every)) * times


MODES = (
    Mode(
        id="zombie-half-open",
        group=Group.SILENT,
        what="The path is gone, neither side got FIN or RST, and receive waits for ever.",
        variants={"cut": pulled("cut"), "frozen": pulled("freeze")},
        expect=Expect(detect=SILENCE),
        quick=True,
    ),
    Mode(
        id="nat-idle-drop",
        group=Group.SILENT,
        what="A box on the way forgets a connection that was idle, and drops what follows.",
        variants={
            f"{then}-{seconds}": idle(seconds, then)
            for seconds in (60, 100, 270, 350)
            for then in ("hole", "rst")
        }
        | {
            # Few heartbeats of platforms come as often. The account dies once a minute, so that a
            # message may have to wait for the notice and for the longest back-off after it.
            f"{then}-30": (
                *GREETED,
                network("idle_drop", 30, then, fault=False),
                *often((wait(180.0), say(), accounted_for(2 * SILENCE + BACK)), 3, 1.0),
                network("idle_drop", None, then, fault=False),
                wait(SILENCE),
                up(SILENCE + BACK),
                heal(),
                *PARTING,
            )
            for then in ("hole", "rst")
        },
    ),
    Mode(
        id="logical-zombie",
        group=Group.SILENT,
        what="The connection is healthy, and the platform delivers nothing over it any more.",
        variants={
            "mute": (
                *GREETED,
                wait(300.0),
                platform(Play.ZOMBIE),
                say(3, every=1.0),
                noticed(),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
        },
        # No heartbeat can tell: a look at the history, every five minutes, is what is asked for.
        expect=Expect(detect=300.0, silence=300.0),
    ),
    Mode(
        id="server-goodbye-ignored",
        group=Group.SILENT,
        what="The server announces the end in-band, delivers nothing more and leaves the socket.",
        variants={
            # Healed at once: the replacement must not wait for the end that was announced.
            "notice": (
                *GREETED,
                wait(STEADY),
                counted(),
                platform(Play.NOTICE),
                heal(),
                say(3, every=0.3),
                recovered(),
                accounted_for(),
                wait(DRAINED),
                attempts(1),
                flat(),
                *PARTING,
            ),
        },
        expect=Expect(recover=3.0),
        quick=True,
    ),
    Mode(
        id="heartbeat-unacked",
        group=Group.SILENT,
        what="Heartbeats are sent, and nobody checks that they are acknowledged.",
        variants={
            # The design asks for three in a row, not for two.
            "no-ack": (
                *GREETED,
                platform(Play.NO_ACK),
                say(),
                answered(),
                unacked(),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
            "one-way": (
                *GREETED,
                network("hole_in"),
                say(3),
                noticed(within=SILENCE + 1.0),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
        },
    ),
    Mode(
        id="heartbeat-task-lost",
        group=Group.SILENT,
        what="What beats dies, or is not made anew after a reconnect, and the rest carries on.",
        variants={
            "after-reconnect": (
                *GREETED,
                network("rst"),
                heal(),
                recovered(),
                beats(),
                stays("connected", 600.0),
                beats(),
                *PARTING,
            ),
            "after-kick": (
                *GREETED,
                order("kick"),
                up(BACK),
                beats(),
                stays("connected", 600.0),
                *PARTING,
            ),
        },
        quick=True,
        slow=frozenset({"after-kick"}),
    ),
    Mode(
        id="heartbeat-too-tight",
        group=Group.SILENT,
        what="Limits shorter than ordinary delays kill healthy connections.",
        variants={
            **{
                f"stall-{seconds}": (*GREETED, *often((stall(seconds),), 12, 300.0), *PARTING)
                for seconds in (2, 5, 8)
            },
            "late-ack": (
                *GREETED,
                *often((platform(Play.ACK_LATE, fault=False),), 12, 300.0),
                *PARTING,
            ),
            "late-network": (
                *GREETED,
                network("late", 4.0, fault=False),
                stays("connected", 3_600.0),
                network("late", 0.0, fault=False),
                *PARTING,
            ),
        },
        expect=Expect(undisturbed=True),
    ),
    Mode(
        id="keepalive-off-by-default",
        group=Group.SILENT,
        what="What finds out that the peer is dead comes switched off.",
        variants={"default": pulled("cut")},
        expect=Expect(detect=SILENCE),
    ),
    Mode(
        id="reader-not-woken",
        group=Group.SILENT,
        what="Something knows that the connection is dead, and whoever reads it is not told.",
        variants={
            "hole": (
                *GREETED,
                network("hole"),
                say(3),
                noticed(),
                up(BACK),
                heal(),
                accounted_for(),
                *PARTING,
            ),
        },
        expect=Expect(detect=SILENCE),
    ),
    Mode(
        id="poll-stuck-forever",
        group=Group.SILENT,
        what="A poll has no deadline of the client's own, and never returns.",
        variants={
            "hangs": (
                *GREETED,
                platform(Play.POLL_HANGS),
                say(3),
                noticed(),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
            "drips": (
                *GREETED,
                platform(Play.POLL_DRIPS),
                say(3),
                noticed(),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
            "hole": pulled("hole"),
        },
        only=POLLERS,
        elsewhere=SOCKETS,
        # The server holds an empty poll for 30 s at most: that and 15 s, and the poll that was
        # under way when the fault began.
        expect=Expect(detect=45.0, recover=5.0),
    ),
    Mode(
        id="poll-silent-retry",
        group=Group.SILENT,
        what="Polls fail and are tried again out of sight: no error, no log, no progress.",
        variants={
            "wedged": pulled("cut"),
            "fails": (
                *GREETED,
                platform(Play.POLL_FAILS),
                say(3),
                noticed(),
                wait(15.0),
                heal(),
                recovered(),
                accounted_for(),
                *PARTING,
            ),
        },
        only=POLLERS,
        elsewhere=SOCKETS,
        expect=Expect(detect=45.0, recover=20.0),
    ),
)
