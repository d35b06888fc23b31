"""A bot on dingtalk-stream that comes back: `python examples/supervised/dingtalk.py`.

The SDK swallows cancellation, has no stop call and blocks its loop while it asks for a connection,
so it runs in a process of its own. Credentials come from DINGTALK_ID and DINGTALK_SECRET.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import dingtalk_stream
from dingtalk_stream import AckMessage, CallbackMessage, ChatbotMessage

from holdfast.sdk import Life, supervise


class Echo(dingtalk_stream.ChatbotHandler):  # type: ignore[misc]
    """Says back what it hears."""

    async def process(self, callback: CallbackMessage) -> tuple[int, str]:
        """One message of a user."""
        message = ChatbotMessage.from_dict(callback.data)
        self.reply_text(f"echo {message.text.content.strip()}", message)
        return AckMessage.STATUS_OK, "OK"


def start(life: Life) -> Any:
    """Build the client and run it; every frame that comes in is proof of life."""

    class Client(dingtalk_stream.DingTalkStreamClient):  # type: ignore[misc]
        async def route_message(self, json_message: Any) -> Any:
            life.alive()
            return await super().route_message(json_message)

    client = Client(
        dingtalk_stream.Credential(os.environ["DINGTALK_ID"], os.environ["DINGTALK_SECRET"])
    )
    client.register_callback_handler(ChatbotMessage.TOPIC, Echo())
    return client.start()


if __name__ == "__main__":
    asyncio.run(supervise("dingtalk", start, isolation="process", silence=120).run())
