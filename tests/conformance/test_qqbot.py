"""QQ's adapter under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.qqbot import QQBot
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.supervision import Kind

CLOSES = {
    4001: Kind.REFUSED,
    4002: Kind.REFUSED,
    4003: Kind.SESSION,
    4004: Kind.LOST,
    4005: Kind.SESSION,
    4006: Kind.SESSION,
    4007: Kind.SESSION,
    4008: Kind.THROTTLED,
    4009: Kind.RECYCLED,
    4010: Kind.REFUSED,
    4011: Kind.REFUSED,
    4012: Kind.REFUSED,
    4013: Kind.REFUSED,
    4014: Kind.REFUSED,
    4900: Kind.SESSION,
    4913: Kind.SESSION,
    4914: Kind.REFUSED,
    4915: Kind.REFUSED,
    1000: Kind.LOST,
}
"""https://bot.q.qq.com/wiki/develop/api-v2/openapi/error/error.html: codes of the WebSocket."""


def close_with(code: int) -> Ending[QQBotSimulator]:
    """Every socket is closed with a code."""
    return Ending(str(code), CLOSES[code], partial(QQBotSimulator.close_all, code=code))


def throttle(simulator: QQBotSimulator) -> None:
    """Resume and Identify are too frequent."""
    simulator.faults.arm("close_on_resume", times=None, code=4008)
    simulator.faults.arm("close_after_identify", times=None, code=4008)


def repair(simulator: QQBotSimulator) -> None:
    """The secret is good again."""
    simulator.set_secret(simulator.secret)


QQBOT = Bench[QQBotSimulator](
    adapter=QQBot,
    server=QQBotSimulator,
    faults={
        Need.STALL_LOGIN: "no_ready",
        Need.REVOKE: QQBotSimulator.revoke,
        Need.REPAIR: repair,
        Need.THROTTLE: throttle,
        Need.GOODBYE: QQBotSimulator.goodbye,
        Need.REFUSE_RESUME: arm("refuse_resume", times=1),
        Need.DUPLICATE: "dup_event",
        Need.REORDER: arm("out_of_order", times=1, delay=5.0),
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[close_with(code) for code in CLOSES],
    not_applicable={
        "C15": "QQ lets a second session of a bot live beside the first; no close code names it",
    },
)


class TestQQBot(Suite):
    """All scenarios."""

    bench = QQBOT
