"""Telegram's adapter under the conformance kit."""

from __future__ import annotations

from holdfast.adapters.telegram import Telegram
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.supervision import Kind

TELEGRAM = Bench[TelegramSimulator](
    adapter=Telegram,
    server=TelegramSimulator,
    faults={
        Need.STALL_LOGIN: "poll_hangs",
        Need.REVOKE: TelegramSimulator.revoke_token,
        Need.REPAIR: TelegramSimulator.restore,
        Need.REPLACED: "conflict",
        Need.THROTTLE: arm("rate_limited", retry_after=30),
        Need.BAD_FRAME: arm("malformed_json", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        Ending("401", Kind.CREDENTIALS, "unauthorized"),
        Ending("409", Kind.REPLACED, "conflict"),
        Ending("429", Kind.THROTTLED, "rate_limited"),
        Ending("502", Kind.UNREACHABLE, "http_502"),
        Ending("504", Kind.UNREACHABLE, "http_504"),
        Ending("a page of HTML", Kind.UNREACHABLE, "html_200"),
        Ending("no answer", Kind.LOST, "close_before_answer"),
    ],
    retry_after=30.0,
    not_applicable={
        "C10": "the Bot API never asks a poller to reconnect",
        "C18": "an update is handed out again only until its offset is confirmed, and the offset "
        "is stored together with the message",
        "C19": "updates come in the order of the offset, in one answer at a time",
    },
)


class TestTelegram(Suite):
    """All scenarios."""

    bench = TELEGRAM
