"""DingTalk's adapter under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.dingtalk import DingTalk
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.supervision import Kind


def repair(simulator: DingTalkSimulator) -> None:
    """The app is enabled again."""
    simulator.set_secret(simulator.client_secret)


def close_with(code: int, kind: Kind) -> Ending[DingTalkSimulator]:
    """Every socket is closed with a code."""
    return Ending(str(code), kind, partial(DingTalkSimulator.close_all, code=code))


DINGTALK = Bench[DingTalkSimulator](
    adapter=DingTalk,
    server=DingTalkSimulator,
    faults={
        Need.STALL_LOGIN: "open_hang",
        Need.REVOKE: DingTalkSimulator.revoke,
        Need.REPAIR: repair,
        Need.THROTTLE: arm("open_429", retry_after=30),
        Need.GOODBYE: partial(DingTalkSimulator.goodbye, silence=0.0),
        Need.NOTICE: DingTalkSimulator.goodbye,
        Need.DUPLICATE: "dup_event",
        Need.REORDER: arm("out_of_order", times=1, delay=5.0),
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        close_with(1000, Kind.RECYCLED),
        close_with(1001, Kind.RECYCLED),
        close_with(1011, Kind.LOST),
        Ending("reset", Kind.LOST, DingTalkSimulator.drop_all),
        Ending("401 authFailed", Kind.CREDENTIALS, "open_401"),
        Ending("403 QpsLimit", Kind.THROTTLED, "open_403"),
        Ending("429", Kind.THROTTLED, "open_429"),
        Ending("1111, banned address", Kind.THROTTLED, "ip_banned"),
        Ending("503", Kind.UNREACHABLE, "open_503"),
        Ending("a page of HTML", Kind.UNREACHABLE, "open_html"),
        Ending("an answer without ticket", Kind.PROTOCOL, "open_fields_missing"),
        Ending("503 to the upgrade", Kind.UNREACHABLE, "upgrade_rejected"),
    ],
    retry_after=30.0,
    not_applicable={
        "C15": "any number of clients may connect with one app's credentials; each push goes to "
        "one of them, and none is told of the others",
        "C16": "there is neither session nor replay: DingTalk drops what is said to a robot "
        "without a connection, and the time is reported as a gap",
        "C17": "there is no session that could be refused: each connection begins with a new "
        "ticket",
    },
)


class TestDingTalk(Suite):
    """All scenarios."""

    bench = DINGTALK
