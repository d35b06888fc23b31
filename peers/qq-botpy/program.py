"""The echo bots among qq-botpy's examples (demo_c2c_reply_text.py, demo_group_reply_text.py).

Patched: host and scheme are constants of the library, and the address of its tokens is written
into a call.
"""

import os
import types
from typing import Any

import aiohttp
import botpy
import botpy.http
import botpy.robot
from botpy.message import C2CMessage, GroupMessage

botpy.http.Route.SCHEME, _, botpy.http.Route.DOMAIN = os.environ["QQBOT_API_URL"].partition("://")


class TokenSession(aiohttp.ClientSession):
    """Asks for tokens where it is told to."""

    def post(self, url: str, **options: Any) -> Any:
        """The library's only call of it."""
        return super().post(os.environ["QQBOT_TOKEN_URL"], **options)


botpy.robot.aiohttp = types.SimpleNamespace(
    ClientSession=TokenSession, ClientTimeout=aiohttp.ClientTimeout
)


class MyClient(botpy.Client):
    """Says back what it hears."""

    async def on_c2c_message_create(self, message: C2CMessage) -> None:
        """One message of a user."""
        await message.reply(content=f"echo {message.content.strip()}")

    async def on_group_at_message_create(self, message: GroupMessage) -> None:
        """One message in a group that mentions the bot."""
        await message.reply(content=f"echo {message.content.strip()}")


if __name__ == "__main__":
    intents = botpy.Intents(public_messages=True)
    client = MyClient(intents=intents)
    client.run(appid=os.environ["QQBOT_APP_ID"], secret=os.environ["QQBOT_SECRET"])
