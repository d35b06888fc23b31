"""Discord's adapter under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.discord import Discord
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.supervision import Kind

CLOSES = {
    1000: Kind.LOST,
    1001: Kind.LOST,
    4000: Kind.LOST,
    4001: Kind.PROTOCOL,
    4002: Kind.PROTOCOL,
    4003: Kind.SESSION,
    4004: Kind.CREDENTIALS,
    4005: Kind.LOST,
    4007: Kind.SESSION,
    4008: Kind.THROTTLED,
    4009: Kind.LOST,
    4010: Kind.REFUSED,
    4011: Kind.REFUSED,
    4012: Kind.REFUSED,
    4013: Kind.REFUSED,
    4014: Kind.REFUSED,
}
"""https://discord.com/developers/docs/topics/opcodes-and-status-codes: close codes."""


def close_with(code: int) -> Ending[DiscordSimulator]:
    """Every socket is closed with a code."""
    return Ending(str(code), CLOSES[code], partial(DiscordSimulator.close_all, code=code))


def throttle(simulator: DiscordSimulator) -> None:
    """Resume and Identify are too frequent."""
    simulator.faults.arm("close_on_resume", times=None, code=4008)
    simulator.faults.arm("close_after_identify", times=None, code=4008)


def repair(simulator: DiscordSimulator) -> None:
    """The token is good again."""
    simulator.set_token(simulator.token)


DISCORD = Bench[DiscordSimulator](
    adapter=Discord,
    server=DiscordSimulator,
    faults={
        Need.STALL_LOGIN: "no_ready",
        Need.REVOKE: DiscordSimulator.revoke,
        Need.REPAIR: repair,
        Need.THROTTLE: throttle,
        Need.GOODBYE: DiscordSimulator.goodbye,
        Need.REFUSE_RESUME: arm("refuse_resume", times=1),
        Need.DUPLICATE: "dup_event",
        Need.REORDER: arm("out_of_order", times=1, delay=5.0),
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        *(close_with(code) for code in CLOSES),
        Ending("op 7", Kind.RECYCLED, DiscordSimulator.goodbye),
        Ending("op 9", Kind.SESSION, DiscordSimulator.invalidate),
        Ending("op 9 true", Kind.RECYCLED, partial(DiscordSimulator.invalidate, resumable=True)),
        Ending("reset", Kind.LOST, DiscordSimulator.drop_all),
        Ending("503 to the upgrade", Kind.UNREACHABLE, "upgrade_refused"),
    ],
    not_applicable={
        "C15": "any number of sessions may run with one token, each gets all events, and no close "
        "code names another",
    },
)


class TestDiscord(Suite):
    """All scenarios."""

    bench = DISCORD
