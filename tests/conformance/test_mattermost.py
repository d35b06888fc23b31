"""Mattermost's adapter under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.mattermost import Mattermost
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.supervision import Kind


def repair(simulator: MattermostSimulator) -> None:
    """The token is good again."""
    simulator.set_token(simulator.token)


def skip_event(simulator: MattermostSimulator) -> None:
    """An event is numbered and never sent, as the next one shows."""
    simulator.faults.arm("seq_gap")
    for word in ("unsent", "sent"):
        simulator.say(word, chat="bob", sender="bob")


MATTERMOST = Bench[MattermostSimulator](
    adapter=Mattermost,
    server=MattermostSimulator,
    faults={
        Need.STALL_LOGIN: "no_hello",
        Need.REVOKE: MattermostSimulator.revoke,
        Need.REPAIR: repair,
        Need.THROTTLE: arm("api_429", retry_after=30),
        Need.REFUSE_RESUME: arm("refuse_resume", times=1),
        Need.DUPLICATE: "dup_event",
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        Ending("1000", Kind.LOST, partial(MattermostSimulator.close_all, code=1000)),
        Ending("1001", Kind.LOST, MattermostSimulator.close_all),
        Ending("end of the stream", Kind.LOST, partial(MattermostSimulator.close_all, code=0)),
        Ending("restart", Kind.LOST, MattermostSimulator.restart),
        Ending("a number left out", Kind.SESSION, skip_event),
        Ending("FAIL, the token being good", Kind.PROTOCOL, arm("ping_fail", times=1)),
        Ending("401", Kind.CREDENTIALS, "api_401"),
        Ending("403", Kind.REFUSED, "api_403"),
        Ending("429", Kind.THROTTLED, "api_429"),
        Ending("500", Kind.UNREACHABLE, "api_500"),
        Ending("503", Kind.UNREACHABLE, "api_503"),
        Ending("a page of HTML", Kind.UNREACHABLE, "api_html"),
        Ending("503 to the upgrade", Kind.UNREACHABLE, "ws_refused"),
    ],
    retry_after=30.0,
    not_applicable={
        "C10": "a server never asks a client to reconnect: it announces a shutdown by its close "
        "alone (1001, C08)",
        "C15": "any number of sockets may be open with one token at once, and each gets all events",
        "C19": "events are numbered and written in order; one whose number is not the next is a "
        "loss, after which the posts are fetched",
    },
)


class TestMattermost(Suite):
    """All scenarios."""

    bench = MATTERMOST
