"""A bot on qq-botpy that comes back: `python examples/supervised/qq.py`.

The SDK checks no heartbeat and has no way to close its connection, so it runs in a process of its
own. Credentials come from QQ_APP_ID and QQ_SECRET.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import botpy
import botpy.client

from holdfast.sdk import Life, supervise
from holdfast.supervision import Cause, Kind


class Echo(botpy.Client):  # type: ignore[misc]
    """Says back what it hears."""

    async def on_c2c_message_create(self, message: Any) -> None:
        """One message of a user."""
        await message.reply(content=f"echo {message.content}")


def start(life: Life) -> Any:
    """Build the client and run it; every frame that comes in is proof of life."""

    class Socket(botpy.client.BotWebSocket):  # type: ignore[misc]
        async def on_message(self, ws: Any, message: Any) -> None:
            life.alive()
            await super().on_message(ws, message)

    async def run() -> None:
        botpy.client.BotWebSocket = Socket
        client = Echo(botpy.Intents(public_messages=True), bot_log=None, ext_handlers=False)
        await client.start(os.environ["QQ_APP_ID"], os.environ["QQ_SECRET"])

    return run()


def classify(error: BaseException) -> Cause | None:
    """Refused credentials are for a person to mend: 100016 is the token service's word for them."""
    if "100016" in str(error):
        return Cause(Kind.CREDENTIALS, "qq_bad_credentials", "QQ_APP_ID or QQ_SECRET is wrong")
    return None


if __name__ == "__main__":
    bot = supervise("qq", start, isolation="process", silence=90, classify=classify)
    asyncio.run(bot.run())
