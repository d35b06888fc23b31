"""Slack's adapter under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.slack import Slack
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.slack import SlackSimulator, Token
from holdfast.supervision import Kind


async def remove(simulator: SlackSimulator) -> None:
    """The app is removed from the workspace: no token is good, every socket is told."""
    for token in Token:
        simulator.revoke(token)
    await simulator.disable()


def reinstall(simulator: SlackSimulator) -> None:
    """The app is back, with the same tokens."""
    for token in Token:
        simulator.restore(token)
    simulator.enable()


def crowd(simulator: SlackSimulator) -> None:
    """Other programs hold as many sockets of the app as Slack allows."""
    simulator.faults.arm("disconnect_for_hello", times=None, reason="too_many_websockets")
    simulator.drop_all()


def refuse(error: str, kind: Kind) -> Ending[SlackSimulator]:
    """No more sockets are opened."""
    return Ending(error, kind, arm("open_error", error=error))


SLACK = Bench[SlackSimulator](
    adapter=Slack,
    server=SlackSimulator,
    faults={
        Need.STALL_LOGIN: "no_hello",
        Need.REVOKE: remove,
        Need.REPAIR: reinstall,
        Need.REPLACED: crowd,
        Need.THROTTLE: arm("open_429", retry_after=30),
        Need.GOODBYE: partial(SlackSimulator.goodbye, reason="refresh_requested"),
        Need.NOTICE: SlackSimulator.goodbye,
        Need.DUPLICATE: "dup_event",
        Need.REORDER: arm("out_of_order", times=1),
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        Ending(
            "refresh_requested",
            Kind.RECYCLED,
            partial(SlackSimulator.goodbye, reason="refresh_requested"),
        ),
        Ending(
            "link_disabled", Kind.REFUSED, partial(SlackSimulator.goodbye, reason="link_disabled")
        ),
        Ending("too_many_websockets", Kind.REPLACED, "disconnect_for_hello"),
        Ending("1001", Kind.LOST, partial(SlackSimulator.close_all, code=1001)),
        Ending("reset", Kind.LOST, SlackSimulator.drop_all),
        refuse("invalid_auth", Kind.CREDENTIALS),
        refuse("not_authed", Kind.CREDENTIALS),
        refuse("account_inactive", Kind.CREDENTIALS),
        refuse("token_revoked", Kind.CREDENTIALS),
        refuse("token_expired", Kind.CREDENTIALS),
        refuse("user_removed_from_team", Kind.CREDENTIALS),
        refuse("team_disabled", Kind.CREDENTIALS),
        refuse("missing_scope", Kind.REFUSED),
        refuse("internal_error", Kind.UNREACHABLE),
        Ending("429", Kind.THROTTLED, "open_429"),
        Ending("500", Kind.UNREACHABLE, "open_500"),
        Ending("a page of HTML", Kind.UNREACHABLE, "api_html"),
        Ending("408 to the upgrade", Kind.UNREACHABLE, "handshake_refused"),
    ],
    retry_after=30.0,
    not_applicable={
        "C17": "a socket has no session that could be refused: each begins with a new ticket, and "
        "what was missed is read from the histories (C16)",
    },
)


class TestSlack(Suite):
    """All scenarios."""

    bench = SLACK
