"""Feishu's adapter, on its long connection, under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.feishu import Feishu
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.supervision import Kind


def repair(simulator: FeishuSimulator) -> None:
    """The app is enabled again."""
    simulator.set_secret(simulator.app_secret)


def close_with(code: int) -> Ending[FeishuSimulator]:
    """Every socket is closed with a code, none of which means anything here."""
    return Ending(str(code), Kind.LOST, partial(FeishuSimulator.close_all, code=code))


FEISHU = Bench[FeishuSimulator](
    adapter=Feishu,
    server=FeishuSimulator,
    faults={
        Need.STALL_LOGIN: "no_pong",
        Need.REVOKE: FeishuSimulator.revoke,
        Need.REPAIR: repair,
        Need.THROTTLE: arm("endpoint_429", reset=30),
        Need.DUPLICATE: "dup_event",
        Need.REORDER: arm("out_of_order", times=1, delay=5.0),
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        close_with(1000),
        close_with(1001),
        close_with(1011),
        Ending("reset", Kind.LOST, FeishuSimulator.drop_all),
        Ending("endpoint 1", Kind.UNREACHABLE, "endpoint_busy"),
        Ending("endpoint 403", Kind.REFUSED, "endpoint_forbidden"),
        Ending("endpoint 514", Kind.CREDENTIALS, "endpoint_auth_failed"),
        Ending("endpoint 1000040343", Kind.UNREACHABLE, "endpoint_internal"),
        Ending("endpoint 1000040345", Kind.CREDENTIALS, "endpoint_invalid"),
        Ending("endpoint 1000040350", Kind.THROTTLED, "endpoint_too_many"),
        Ending("endpoint, an unknown code", Kind.PROTOCOL, "endpoint_code"),
        Ending("endpoint HTTP 429", Kind.THROTTLED, "endpoint_429"),
        Ending("endpoint HTTP 500", Kind.UNREACHABLE, "endpoint_http"),
        Ending("upgrade without Handshake", Kind.UNREACHABLE, "upgrade_rejected"),
        Ending("upgrade 500", Kind.UNREACHABLE, "upgrade_busy"),
        Ending("upgrade 403", Kind.REFUSED, "upgrade_forbidden"),
        Ending("upgrade 514", Kind.UNREACHABLE, "upgrade_auth_failed"),
        Ending("upgrade 514/1000040350", Kind.THROTTLED, "upgrade_too_many"),
    ],
    retry_after=30.0,
    redelivery=3_600.0,
    not_applicable={
        "C10": "the platform never asks a client to reconnect: every close, of any code, is a loss",
        "C17": "there is no session: Feishu pushes each event again until it is acknowledged, for "
        "seven hours",
        "C15": "an app may have 50 connections, of which each gets a part of the events; none is "
        "told of the others",
    },
)


class TestFeishu(Suite):
    """All scenarios."""

    bench = FEISHU
