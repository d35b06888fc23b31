"""A. Silent death and liveness."""

from __future__ import annotations

from holdfast.lab.mode import AT_ONCE, BACK, SILENCE, Expect, Group, Mode, Play
from holdfast.lab.steps import (
    accounted_for,
    answered,
    connected,
    heal,
    network,
    noticed,
    platform,
    recovered,
    say,
    wait,
)

MODES = (
    Mode(
        id="zombie-half-open",
        group=Group.SILENT,
        what="The path is gone, neither side got FIN or RST, and receive waits for ever.",
        variants={
            "hole": (
                connected(),
                say(),
                answered(),
                network("cut"),
                say(3),
                noticed(),
                heal(),
                recovered(),
                accounted_for(),
                say(),
                answered(),
            ),
        },
        expect=Expect(detect=SILENCE, recover=BACK),
        quick=True,
    ),
    Mode(
        id="server-goodbye-ignored",
        group=Group.SILENT,
        what="The server announces the end in-band, delivers nothing more and leaves the socket.",
        variants={
            "notice": (
                connected(),
                say(),
                answered(),
                platform(Play.NOTICE),
                wait(10.0),
                heal(),
                recovered(),
                say(3),
                accounted_for(),
            ),
        },
        expect=Expect(recover=AT_ONCE),
    ),
)
