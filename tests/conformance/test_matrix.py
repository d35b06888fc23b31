"""Matrix's adapter under the conformance kit."""

from __future__ import annotations

from holdfast.adapters.matrix import Matrix
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.supervision import Kind

MATRIX = Bench[MatrixSimulator](
    adapter=Matrix,
    server=MatrixSimulator,
    faults={
        Need.STALL_LOGIN: "sync_hangs",
        Need.REVOKE: MatrixSimulator.revoke,
        Need.REPAIR: MatrixSimulator.restore,
        Need.THROTTLE: arm("rate_limited", retry_after_ms=30_000),
        Need.REFUSE_RESUME: arm("bad_since", times=1),
        Need.BAD_FRAME: arm("malformed_json", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        Ending("M_UNKNOWN_TOKEN", Kind.CREDENTIALS, "unknown_token"),
        Ending("M_USER_LOCKED", Kind.REFUSED, "user_locked"),
        Ending("M_LIMIT_EXCEEDED", Kind.THROTTLED, "rate_limited"),
        Ending("502", Kind.UNREACHABLE, "http_502"),
        Ending("504", Kind.UNREACHABLE, "http_504"),
        Ending("a page of HTML", Kind.UNREACHABLE, "html_200"),
        Ending("no answer", Kind.LOST, "close_before_answer"),
        Ending("M_UNKNOWN, stream token", Kind.SESSION, arm("bad_since", times=1)),
    ],
    retry_after=30.0,
    not_applicable={
        "C10": "a homeserver never asks a client to reconnect",
        "C15": "one token may be used by any number of clients at once",
        "C18": "the stream holds an event once, and the place in it is stored with the message",
        "C19": "one answer of /sync at a time, and each in the order of the stream",
    },
)


class TestMatrix(Suite):
    """All scenarios."""

    bench = MATRIX
