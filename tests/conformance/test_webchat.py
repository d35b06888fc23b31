"""The chat page under the conformance kit: the platform is the gateway itself."""

from __future__ import annotations

from holdfast.adapters.webchat import WebChat
from holdfast.conformance import Bench, Need, Suite, arm
from holdfast.lab.simulators.webchat import WebChatSimulator

NO_CREDENTIALS = "the page belongs to the gateway: there are no credentials that could be refused"
NO_CONNECTION = (
    "the gateway holds no connection that could die or flap: browsers come to it, and come back; "
    "that its page can be reached is asked anew each time"
)


def visit(simulator: WebChatSimulator, hook_url: str) -> None:
    """Somebody looks at the page, from now on and for good."""
    simulator.page = hook_url + simulator.path
    simulator.open_tab("ann")


WEBCHAT = Bench[WebChatSimulator](
    adapter=WebChat,
    server=WebChatSimulator,
    introduce=visit,
    faults={
        Need.DUPLICATE: "dup_say",
        Need.BAD_FRAME: arm("bad_frame", times=1),
        Need.LOSE_SEND_ANSWER: arm("vanish_before_seen", times=1),
    },
    not_applicable={
        **dict.fromkeys(("C05", "C09", "C28"), NO_CONNECTION),
        "C08": "nobody refuses the page or ends it: it is up as long as the gateway",
        "C10": "there is no peer that could ask for a reconnect",
        "C11": "there is no peer that could set a limit",
        "C12": NO_CREDENTIALS,
        "C13": NO_CREDENTIALS,
        "C14": NO_CREDENTIALS,
        "C15": "only one account of a gateway can have the page's path, by its configuration",
        "C17": "there is no session: a browser repeats what was not stored",
        "C19": "a browser says the next thing only when the one before is stored",
        "C27": "nothing is dialled but the gateway's own address",
    },
)


class TestWebChat(Suite):
    """All scenarios."""

    bench = WEBCHAT
