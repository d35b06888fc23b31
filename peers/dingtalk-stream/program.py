"""The echo bot among dingtalk-stream's examples (examples/echo_bot.py).

The SDK reads its address from a variable of the environment when it is imported: nothing is
patched.
"""

import logging
import os

os.environ["DINGTALK_OPENAPI_ENDPOINT"] = os.environ["DINGTALK_API_URL"]

import dingtalk_stream
from dingtalk_stream import AckMessage


class EchoBotHandler(dingtalk_stream.ChatbotHandler):
    """Says back what it hears."""

    async def process(self, callback: dingtalk_stream.CallbackMessage) -> tuple[int, str]:
        """One message of a user."""
        message = dingtalk_stream.ChatbotMessage.from_dict(callback.data)
        self.reply_text(f"echo {message.text.content.strip()}", message)
        return AckMessage.STATUS_OK, "OK"


def main() -> None:
    """Listen until told to stop."""
    credential = dingtalk_stream.Credential(
        os.environ["DINGTALK_CLIENT_ID"], os.environ["DINGTALK_CLIENT_SECRET"]
    )
    client = dingtalk_stream.DingTalkStreamClient(credential)
    client.register_callback_handler(dingtalk_stream.chatbot.ChatbotMessage.TOPIC, EchoBotHandler())
    client.start_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
