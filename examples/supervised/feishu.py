"""A bot on lark-oapi that comes back: `python examples/supervised/feishu.py`.

The SDK has no stop, keeps its event loop in a variable of its module, and falls silent for good
when its retries are used up or it gets a refusal it does not expect; so it runs in a process of its
own. Credentials come from FEISHU_APP_ID and FEISHU_APP_SECRET; FEISHU_URL is another address, for
Lark.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from holdfast.sdk import Life, supervise
from holdfast.supervision import Cause, Kind


def start(life: Life) -> Any:
    """Build the client and run it; every frame that comes in is proof of life."""
    import lark_oapi as lark  # takes seconds, and makes an event loop: only where it will run
    from lark_oapi.api.im.v1 import ReplyMessageRequest, ReplyMessageRequestBody

    who = os.environ["FEISHU_APP_ID"], os.environ["FEISHU_APP_SECRET"]
    url = os.environ.get("FEISHU_URL", lark.FEISHU_DOMAIN)
    api = lark.Client.builder().app_id(who[0]).app_secret(who[1]).domain(url).build()

    def echo(data: Any) -> None:
        message = data.event.message
        text = json.dumps({"text": f"echo {json.loads(message.content)['text']}"})
        body = ReplyMessageRequestBody.builder().msg_type("text").content(text).build()
        request = ReplyMessageRequest.builder().message_id(message.message_id)
        api.im.v1.message.reply(request.request_body(body).build())

    class Client(lark.ws.Client):  # type: ignore[misc]
        async def _handle_message(self, msg: bytes) -> None:
            life.alive()
            await super()._handle_message(msg)

    events = lark.EventDispatcherHandler.builder("", "").register_p2_im_message_receive_v1(echo)
    Client(*who, event_handler=events.build(), domain=url).start()


def classify(error: BaseException) -> Cause | None:
    """Refused credentials are for a person to mend."""
    if any(f"ClientException: {code}" in str(error) for code in (514, 1000040345)):
        hint = "FEISHU_APP_ID or FEISHU_APP_SECRET is wrong"
        return Cause(Kind.CREDENTIALS, "feishu_bad_credentials", hint)
    return None


if __name__ == "__main__":
    bot = supervise("feishu", start, isolation="process", silence=300, classify=classify)
    asyncio.run(bot.run())
