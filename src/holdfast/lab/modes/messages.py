"""F. Messages around failures: nothing lost, nothing doubled, nothing out of order."""

from __future__ import annotations

from typing import Final

from holdfast.killpoints import Point
from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.steps import (
    accounted_for,
    again,
    answered,
    connected,
    heal,
    network,
    platform,
    quiet,
    recovered,
    say,
    stop,
    wait,
)
from holdfast.lab.steps_delivery import (
    asked_once,
    back,
    buried,
    charge,
    counted,
    cut_off,
    dies,
    flat,
    newest_answered,
    passed_over,
    renewed,
    repeated,
    survives,
    told_in_parts,
    told_once,
)
from holdfast.lab.steps_owning import disk
from holdfast.lab.terms import BACK, Clock, Expect, Play

BACKFILL: Final = 30.0
"""Seconds from READY in which what was missed must have come (the paper's own figure)."""

PAGE: Final = 90
"""Messages in one outage: more than a page of any platform's history, which is 60 at most."""

FRESH: Final = 600.0
"""Seconds up to which a message of the backlog is handled, where its owner has said so."""

KILLED: Final = "a process must die, at a point of its code, and be started again"

Steps = tuple[Step, ...]


def _well(*more: Step) -> Steps:
    """An account that works, and then more."""
    return (connected(), say(), answered(), *more)


def _still_well(chat: str = "ann") -> Steps:
    return (say(chat=chat), newest_answered(chat, BACKFILL))


def _outage(messages: int, every: float, within: float) -> Steps:
    """A reset while people speak: nobody listens for as long as they do."""
    return _well(
        network("refuse"),
        say(messages, every=every),
        heal(),
        recovered(),
        accounted_for(within),
        *_still_well(),
    )


def _killed_at(point: Point) -> Steps:
    """Death at a point while the first message ever is handled."""
    return (
        charge(point),
        connected(),
        say(ask="#attempt"),
        dies(),
        again(),
        accounted_for(),
        *_still_well(),
        quiet(2.0),
    )


def _reply_killed_at(point: Point) -> Steps:
    """Death while the finished reply is sent: it is the journal's by then, and asked for once."""
    return (
        charge(point),
        connected(),
        say(ask="#attempt"),
        dies(),
        again(),
        answered(10.0),
        asked_once(),
        told_once(),
    )


def _down_for(seconds: float) -> Steps:
    """Three replies are finished while nothing can be sent."""
    return _well(
        say(3, ask="#sleep 2"),
        wait(1.0),
        network("cut"),
        wait(seconds),
        heal(),
        recovered(),
        accounted_for(),
        told_once(),
        *_still_well(),
    )


def _mess(what: Play) -> Steps:
    """Something that can not be taken comes before a message that can."""
    return _well(platform(what, fault=False), *_still_well(), *_still_well())


MODES = (
    Mode(
        id="reconnect-gap-loss",
        group=Group.MESSAGES,
        what="Messages sent between loss and return are never fetched.",
        variants={
            "five": _outage(5, 2.0, BACKFILL),
            # What was missed is answered at the pace the platform allows: once a second in a chat.
            "more than a page": _outage(PAGE, 0.1, BACKFILL + PAGE),
        },
        expect=Expect(recover=BACK),
        quick=True,
    ),
    Mode(
        id="first-after-idle-fails",
        group=Group.MESSAGES,
        what="The first send after idle hits a pooled connection that is dead.",
        variants={
            f"idle for {idle:g} s": _well(
                say(ask=f"#sleep {idle + 1:g}"),
                wait(idle),
                network("hole", fault=False),
                accounted_for(),
                told_once(),
            )
            for idle in (3.0, 30.0, 100.0)
        },
        expect=Expect(recover=None),
        quick=True,
    ),
    Mode(
        id="backlog-dropped-at-start",
        group=Group.MESSAGES,
        what="Start-up discards everything that was queued while the bot was down.",
        variants={"five": _well(stop(), say(5, every=10.0), back(), accounted_for(BACKFILL))},
        quick=True,
    ),
    Mode(
        id="stale-backlog-replied",
        group=Group.MESSAGES,
        what="Messages hours old are answered one by one, in the night.",
        # Design.md decides what becomes of the stale ones: kept, listed and counted, no summary.
        variants={
            "twenty hours": _well(
                stop(),
                say(180, every=380.0),
                wait(FRESH),
                say(20, every=20.0),
                back(),
                newest_answered("ann", BACKFILL + 20.0),
                repeated(),
                passed_over(FRESH),
                accounted_for(),
                quiet(60.0),
            )
        },
        account={"backlog": f"newer-than {FRESH:g}s"},
        only=frozenset({"telegram", "matrix", "whatsapp"}),
        elsewhere="the platform keeps nothing for a bot that is away for hours",
    ),
    Mode(
        id="ack-before-durable",
        group=Group.MESSAGES,
        what="The acknowledgement goes out before the message is stored; a crash loses it.",
        variants={
            point: _killed_at(point)
            for point in ("after-receive", "after-persist", "after-ack", "in-handler")
        },
        clock=Clock.REAL,
        why=KILLED,
    ),
    Mode(
        id="redelivery-duplicate",
        group=Group.MESSAGES,
        what="The platform sends again, and the bot answers twice.",
        variants={
            "twice at once": _well(
                platform(Play.DUPLICATE, fault=False), say(3), answered(), quiet(10.0)
            ),
            "again although acknowledged": _well(
                platform(Play.REDELIVER, fault=False), say(), answered(), quiet(90.0)
            ),
            "again across a restart": _well(
                platform(Play.REDELIVER, fault=False),
                say(),
                answered(3.0),
                stop(),
                back(),
                quiet(90.0),
            ),
            "the acknowledgement lost": _well(
                platform(Play.ACK_LOST, fault=False), say(), answered(), quiet(90.0)
            ),
            "acknowledged 4 s late": _well(
                network("late", 2.0, fault=False), say(3, every=3.0), answered(60.0), quiet(30.0)
            ),
        },
        expect=Expect(recover=None),
        quick=True,
    ),
    Mode(
        id="retry-envelope-dropped",
        group=Group.MESSAGES,
        what="Repeats are discarded to avoid doubles, though the first delivery was lost.",
        variants={
            "lost on its way": _well(
                network("hole"), say(), wait(5.0), heal(), recovered(), answered(BACKFILL + 70.0)
            ),
            # What could not be stored must not be acknowledged: the repeat is the only one left.
            "no room to store it": _well(
                disk(full=True),
                say(),
                wait(5.0),
                disk(full=False),
                answered(BACKFILL + 70.0),
            ),
        },
        expect=Expect(recover=BACK),
        only=frozenset({"slack", "feishu", "whatsapp"}),
        elsewhere="the platform repeats no event of its own accord",
        quick=True,
    ),
    Mode(
        id="history-replayed-at-start",
        group=Group.MESSAGES,
        what="The first sync replays history as if it were new.",
        variants={
            "without a token": (
                platform(Play.HISTORY, fault=False),
                connected(),
                quiet(10.0),
                *_still_well(),
            ),
            "with one": (
                platform(Play.HISTORY, fault=False),
                *_well(stop(), say(2), back(), answered(), quiet(10.0)),
            ),
        },
        quick=True,
    ),
    Mode(
        id="poison-message-loop",
        group=Group.MESSAGES,
        what="One message takes the whole process down each time it is handled.",
        variants={
            "exit": _well(
                say(chat="ben", ask="#exit"),
                dies(),
                survives(deaths=1),
                *_still_well(),
                *_still_well("ben"),
                buried(1),
            )
        },
        clock=Clock.REAL,
        why=KILLED,
    ),
    Mode(
        id="duplicate-handlers",
        group=Group.MESSAGES,
        what="Each reconnect registers handlers again: double and triple replies.",
        variants={
            "100 reconnects": _well(
                # Ten attempts a minute are the most that is ever made.
                wait(10.0),
                counted(),
                *(cut_off(), heal(), recovered(), renewed(), wait(10.0)) * 100,
                flat(),
                say(),
                answered(),
                quiet(10.0),
            )
        },
        # A life of ten seconds must count as a good one, or the ladder would take days.
        policy={"stable_after": 5.0, "quick_life": 1.0},
    ),
    Mode(
        id="callback-kills-listener",
        group=Group.MESSAGES,
        what="One malformed frame or one failing handler ends the receive loop.",
        variants={
            "not understood": _mess(Play.BAD_FRAME),
            "far too large": _mess(Play.HUGE_FRAME),
            "the handler fails": _well(
                say(chat="ben", ask="#fail"), *_still_well(), *_still_well("ben"), buried(1)
            ),
            "the handler fails once": _well(say(ask="#fail-once"), answered(), *_still_well()),
        },
        expect=Expect(recover=None),
        quick=True,
    ),
    Mode(
        id="out-of-order",
        group=Group.MESSAGES,
        what="Parallel handling, retries or split replies change the order inside a chat.",
        variants={
            "handlers of 5, 1, 1, 1, 1 s": _well(
                say(ask="#sleep 5"), say(4, ask="#sleep 1"), answered()
            ),
            "the first of three parts refused": _well(
                platform(Play.SEND_THROTTLED, fault=False),
                say(ask="#parts"),
                # DingTalk has 20 messages a minute, and is left alone for one.
                answered(90.0),
                told_in_parts(),
            ),
        },
        quick=True,
    ),
    Mode(
        id="outbound-dropped-while-down",
        group=Group.MESSAGES,
        what="A reply produced while the connection is down is refused and forgotten.",
        variants={
            "10 s": _down_for(10.0),
            "10 min": _down_for(600.0),
            "3 h": _down_for(10_800.0),
            "finished while it is down": _well(
                say(3, ask="#sleep 10"),
                wait(1.0),
                network("refuse"),
                wait(30.0),
                heal(),
                recovered(),
                accounted_for(),
                told_once(),
                *_still_well(),
            ),
        },
        expect=Expect(recover=BACK),
        quick=True,
        slow=frozenset({"3 h"}),
    ),
    Mode(
        id="outbound-ambiguous",
        group=Group.MESSAGES,
        what="The connection dies after the request left: nobody knows whether it was delivered.",
        variants={
            "stored, then reset": _well(
                platform(Play.LOSE_SEND_ANSWER, fault=False),
                say(),
                answered(),
                wait(30.0),
                told_once(),
            ),
            "no answer comes back": _well(
                say(ask="#sleep 2"),
                wait(1.0),
                network("hole_in", fault=False),
                wait(30.0),
                heal(),
                accounted_for(60.0),
                wait(30.0),
                told_once(),
            ),
        },
        expect=Expect(recover=None, doubles=True),
        quick=True,
    ),
    Mode(
        id="reply-lost-on-crash",
        group=Group.MESSAGES,
        what="The finished reply dies with the process before the platform has accepted it.",
        variants={
            point: _reply_killed_at(point) for point in ("before-send", "after-send-before-record")
        },
        clock=Clock.REAL,
        why=KILLED,
        expect=Expect(doubles=True),
    ),
)
