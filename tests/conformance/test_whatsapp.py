"""WhatsApp's adapter under the conformance kit."""

from __future__ import annotations

from functools import partial

from holdfast.adapters.whatsapp import WhatsApp
from holdfast.conformance import Bench, Ending, Need, Suite, arm
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.supervision import Kind


class Console(WhatsAppSimulator):
    """The platform with an operator, who has entered our callback address."""

    home = ""

    def enter(self, hook_url: str) -> None:
        """The address is in force, verified long ago."""
        self.home = f"{hook_url}/whatsapp/{self.phone_number_id}"
        self.steal_callback(self.home)

    def repair(self) -> None:
        """The token is good again."""
        self.set_token(self.access_token)

    def mend(self) -> None:
        """End every fault, and enter the address anew."""
        self.faults.clear()
        self.steal_callback(self.home)


NO_CONNECTION = (
    "messages come by web hook, each with a connection of its own: there is none that could die, "
    "flap or be asked to end"
)

WHATSAPP = Bench[Console](
    adapter=WhatsApp,
    server=Console,
    introduce=Console.enter,
    clear=Console.mend,
    faults={
        Need.STALL_LOGIN: "api_hang",
        Need.REVOKE: Console.expire_token,
        Need.REPAIR: Console.repair,
        Need.REPLACED: Console.steal_callback,
        Need.THROTTLE: arm("api_429", retry_after=90),
        Need.DUPLICATE: "dup_event",
        Need.REORDER: arm("out_of_order", times=1, delay=5.0),
        Need.BAD_FRAME: arm("bad_body", times=1),
        Need.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
    },
    endings=[
        *(
            Ending(f"190/{subcode}", Kind.CREDENTIALS, arm("token_expired", subcode=subcode))
            for subcode in (458, 460, 463, 467)
        ),
        Ending("another callback address", Kind.REPLACED, Console.steal_callback),
        Ending("no callback address", Kind.REFUSED, partial(Console.set_webhook, url=None)),
        Ending("4, HTTP 429", Kind.THROTTLED, "api_429"),
        Ending("2, HTTP 500", Kind.UNREACHABLE, "api_500"),
        Ending("1 in HTTP 200", Kind.UNREACHABLE, "error_in_200"),
        Ending("a page of HTML", Kind.UNREACHABLE, "api_html"),
    ],
    retry_after=90.0,
    redelivery=3_600.0,
    not_applicable={
        **dict.fromkeys(("C05", "C09", "C10", "C28"), NO_CONNECTION),
        "C17": "there is no session: Meta posts each message until it is taken, for seven days",
    },
)


class TestWhatsApp(Suite):
    """All scenarios."""

    bench = WHATSAPP
