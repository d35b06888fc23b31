"""The echo bot of Feishu's documentation for lark-oapi, over its long connection.

Its address is a setting of the library: nothing is patched.
"""

import json
import os

import lark_oapi as lark
from lark_oapi.api.im.v1 import (
    P2ImMessageReceiveV1,
    ReplyMessageRequest,
    ReplyMessageRequestBody,
)

APP = os.environ["FEISHU_APP_ID"], os.environ["FEISHU_APP_SECRET"]
URL = os.environ["FEISHU_BASE_URL"]

client = lark.Client.builder().app_id(APP[0]).app_secret(APP[1]).domain(URL).build()


def echo(data: P2ImMessageReceiveV1) -> None:
    """One message of a user: say it back."""
    message = data.event.message
    content = json.dumps({"text": f"echo {json.loads(message.content)['text']}"})
    body = ReplyMessageRequestBody.builder().content(content).msg_type("text").build()
    request = ReplyMessageRequest.builder().message_id(message.message_id).request_body(body)
    response = client.im.v1.message.reply(request.build())
    if not response.success():
        raise RuntimeError(f"reply failed: {response.code} {response.msg}")


def main() -> None:
    """Listen until told to stop."""
    handler = lark.EventDispatcherHandler.builder("", "").register_p2_im_message_receive_v1(echo)
    lark.ws.Client(*APP, event_handler=handler.build(), domain=URL).start()


if __name__ == "__main__":
    main()
