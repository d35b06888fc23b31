"""G. Lifecycle and resources: ends that end, lives that leave nothing, work that goes on."""

from __future__ import annotations

from typing import Final

from holdfast.lab.judge import STOP
from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.steps import (
    accounted_for,
    again,
    answered,
    connected,
    heal,
    kill,
    network,
    platform,
    quiet,
    recovered,
    say,
    stop,
    wait,
)
from holdfast.lab.steps_connecting import waits
from holdfast.lab.steps_delivery import (
    back,
    counted,
    cut_off,
    flat,
    never,
    newest_answered,
    renewed,
    silent_server,
)
from holdfast.lab.steps_owning import exhausted
from holdfast.lab.steps_telling import logged
from holdfast.lab.terms import BACK, Clock, Expect, Play

Steps = tuple[Step, ...]

LIVELY: Final = {"stable_after": 5.0, "quick_life": 1.0}
"""A life of ten seconds must count as a good one, or hundreds of reconnects would take days."""

EXPIRY: Final = 30.0
"""Seconds for which the platform holds a former session (`Play.LINGERING`)."""


def _starved(*, fault: bool) -> Steps:
    """The descriptors run out while the connection is down: it can not have its own back."""
    return (
        network("refuse", fault=fault),
        wait(3.0),
        exhausted(),
        network("pass", fault=False),
    )


def _well(*more: Step) -> Steps:
    """An account that works, and then more."""
    return (connected(), say(), answered(), *more)


def _and_back(*before: Step) -> Steps:
    """A stop in the middle of something, and a life after it that answers what was said."""
    return _well(*before, stop(), heal(), silent_server(), say(), back(), accounted_for(60.0))


RECONNECT: Final = (cut_off(), heal(), recovered(BACK), renewed(), wait(10.0))
"""One connection after another, ten seconds each."""

MODES = (
    Mode(
        id="sleep-blocks-shutdown",
        group=Group.LIFECYCLE,
        what="The end waits for back-off sleeps, hung polls or blocking teardown.",
        # Five seconds for every stop are a law of all modes, see `holdfast.lab.judge`.
        variants={
            "a long wait to try again": _and_back(network("refuse"), waits(2 * STOP)),
            "while it waits to try again": _and_back(network("refuse"), wait(15.0)),
            "in a connect that hangs": _and_back(
                network("refuse"),
                wait(3.0),
                network("cut", fault=False),
                # DingTalk's first wait is 20 s at the longest.
                wait(20.0),
            ),
            "in an open poll": _and_back(wait(5.0)),
            "with an agent at work": _and_back(say(ask="#sleep 15"), wait(1.0)),
            "with the loop blocked": _and_back(say(ask="#block 3"), wait(0.5)),
        },
        expect=Expect(recover=None),
        why="a signal ends a process, and only a process",
        real=frozenset(
            {
                "while it waits to try again",
                "in a connect that hangs",
                "in an open poll",
                "with an agent at work",
                "with the loop blocked",
            }
        ),
        quick=True,
    ),
    Mode(
        id="stop-does-not-stop",
        group=Group.LIFECYCLE,
        what="A stop leaves a socket or a thread alive, and the old one goes on receiving.",
        variants={
            "20 times": _well(
                wait(10.0),
                # QQ limits how often a bot may ask where to connect.
                *(stop(), silent_server(), say(), quiet(30.0), back()) * 20,
                accounted_for(60.0),
                say(),
                newest_answered("ann", 60.0),
                quiet(10.0),
            ),
        },
    ),
    Mode(
        id="leak-per-reconnect",
        group=Group.LIFECYCLE,
        what="Every reconnect leaves a socket, a task or a buffer behind.",
        variants={
            "500 reconnects": _well(
                wait(10.0),
                counted(),
                *RECONNECT * 500,
                flat(),
                say(),
                answered(),
            ),
            "no descriptor is left": _well(
                *_starved(fault=True),
                say(3),
                wait(20.0),
                logged("too many open files"),
                heal(),
                recovered(),
                accounted_for(60.0),
                say(),
                answered(),
                # And the end needs none, either.
                *_starved(fault=False),
                wait(5.0),
                stop(),
            ),
            "100 reconnects": _well(
                wait(10.0),
                counted(),
                *RECONNECT * 100,
                flat(),
            ),
        },
        policy=LIVELY,
        # Nothing tells a process that it may open descriptors again.
        expect=Expect(recover=10.0, ladder=True),
        why="the kernel gives no descriptor to a process, and another one has limits of its own",
        real=frozenset({"no descriptor is left"}),
    ),
    Mode(
        id="exit-leaks-server-session",
        group=Group.LIFECYCLE,
        what="An unclean end leaves a session at the platform that keeps the next login out.",
        variants={
            "killed 3 times": _well(
                *(
                    kill(),
                    platform(Play.LINGERING, fault=False),
                    again(EXPIRY + 10.0),
                    never("fatal"),
                )
                * 3,
                say(),
                answered(),
            )
        },
        # Each life has a ladder of its own, and two of them begin within a minute.
        expect=Expect(opens=(20, 60.0)),
        clock=Clock.REAL,
        why="only a process can be killed",
    ),
    Mode(
        id="restart-hurts-work",
        group=Group.LIFECYCLE,
        what="The recovery of one account aborts work that runs, or starts everything anew.",
        variants={
            "another account is lost": _well(
                say(ask="#sleep 60"),
                wait(5.0),
                network("refuse", seat=1),
                wait(30.0),
                heal(),
                # It was asked 35 s ago: begun anew, it would take until 60 s from now.
                newest_answered("ann", 40.0),
            ),
            "its own is lost": _well(
                say(ask="#sleep 60"),
                wait(5.0),
                network("refuse"),
                wait(30.0),
                heal(),
                recovered(),
                newest_answered("ann", 40.0),
            ),
        },
        accounts=2,
        expect=Expect(recover=BACK),
        quick=True,
    ),
)
