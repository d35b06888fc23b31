"""What the conformance kit must know of Zulip: how each fault is played, what can not happen."""

from holdfast_zulip import Zulip
from zulip_server import ZulipServer

from holdfast.conformance import Bench, Ending, Need, arm
from holdfast.supervision import Kind

ZULIP = Bench[ZulipServer](
    adapter=Zulip,
    server=ZulipServer,
    faults={
        Need.STALL_LOGIN: "mute",
        Need.REVOKE: lambda server: server.refuse(401, "INVALID_API_KEY"),
        Need.REPAIR: ZulipServer.heal,
        Need.THROTTLE: arm("rate_limited", seconds=30),
        Need.REFUSE_RESUME: ZulipServer.forget,
        Need.DUPLICATE: "twice",
        Need.BAD_FRAME: "garbage",
        Need.LOSE_SEND_ANSWER: arm("answer_lost", times=1),
    },
    clear=ZulipServer.heal,
    endings=[
        Ending("INVALID_API_KEY", Kind.CREDENTIALS, lambda s: s.refuse(401, "INVALID_API_KEY")),
        Ending("UNAUTHORIZED", Kind.CREDENTIALS, lambda s: s.refuse(401, "UNAUTHORIZED")),
        Ending("USER_DEACTIVATED", Kind.REFUSED, lambda s: s.refuse(401, "USER_DEACTIVATED")),
        Ending("REALM_DEACTIVATED", Kind.REFUSED, lambda s: s.refuse(401, "REALM_DEACTIVATED")),
        Ending("BAD_EVENT_QUEUE_ID", Kind.SESSION, ZulipServer.forget),
        Ending("RATE_LIMIT_HIT", Kind.THROTTLED, arm("rate_limited", seconds=5)),
        Ending("401 of a proxy", Kind.PROTOCOL, arm("http", status=401)),
        Ending("502", Kind.UNREACHABLE, arm("http", status=502)),
    ],
    retry_after=30.0,
    not_applicable={
        "C10": "a server never asks its clients to leave: it dumps the queues and keeps them",
        "C15": "an account may have any number of queues",
        "C19": "the events of a queue are numbered and come in that order",
    },
)
