"""The bot of discord.py's quickstart (https://discordpy.readthedocs.io), saying everything back.

Patched: the library has the addresses of the platform as constants, and no setting for them.
"""

import os

import discord
import yarl

API = os.environ["DISCORD_API_URL"]
discord.http.Route.BASE = API
discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(API).origin().with_scheme("ws") / "gw"

intents = discord.Intents.default()
intents.message_content = True
client = discord.Client(intents=intents)


@client.event
async def on_message(message: discord.Message) -> None:
    """One message of a user: say it back."""
    if message.author != client.user:
        await message.channel.send(f"echo {message.clean_content}")


if __name__ == "__main__":
    client.run(os.environ["DISCORD_TOKEN"])
