"""What the gateway did not tell: channels have histories, and we know where we were in each.

Source: https://discord.com/developers/docs/resources/message#get-channel-messages. The cursor holds
``chats``: for each channel where people wrote last, the newest at the end, the id of the last
message and the server it is in (empty for private chats). It outlives the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any, Final

import msgspec

from holdfast.adapter import AdapterError, BadFrame, Disconnect, Link, decode
from holdfast.adapters import discord_wire as wire
from holdfast.adapters.discord_api import Api, failure, refused
from holdfast.messages import Inbound
from holdfast.opcode_gateway import KEPT

SNOWFLAKE: Final = re.compile(r"[0-9]{1,20}")
"""An id: 64 bits in decimal digits, https://discord.com/developers/docs/reference#snowflakes."""

CHATS: Final = 20
"""Channels remembered: the cursor is stored with every message."""

LOOKS: Final = 5
"""Channels looked at while the gateway is quiet."""

PAGE, PAGES = 100, 5
"""Messages in an answer (the most there is), and answers read of one channel."""

LIMIT: Final = 10.0
"""Seconds for all of them; live events wait meanwhile, so that each chat keeps its order."""


def remember(cursor: dict[str, Any], message: wire.Message) -> None:
    """A new message of the gateway, or one of a history, is being taken in."""
    chats: dict[str, list[str]] = dict(cursor.get(KEPT, {}))
    if not (SNOWFLAKE.fullmatch(message.channel_id) and SNOWFLAKE.fullmatch(message.id)):
        return  # nothing one could ask for
    last, _ = chats.pop(message.channel_id, ("0", ""))
    newest = max(last, message.id, key=int)  # an event may be overtaken
    chats[message.channel_id] = [newest, message.guild_id or ""]
    cursor[KEPT] = dict(list(chats.items())[-CHATS:])


async def untold(api: Api, link: Link) -> str | None:
    """A person's message later than all that the gateway told. Raises AdapterError."""
    chats: dict[str, list[str]] = link.cursor.get(KEPT, {})
    for channel, (last, guild) in list(chats.items())[-LOOKS:]:
        page = await _page(api, link, channel, last)
        if people := _people(page, guild, link.cursor.get("bot", "")):
            return f"message {people[-1].id} in channel {channel}"
    return None


async def catch_up(api: Api, link: Link) -> None:
    """Deliver what was said in the channels we remember, each in its order. Raises StoreError.

    A fresh session is a gap in any case, for there may be channels we know nothing of; this makes
    it smaller. Cancelling is safe.
    """
    chats: dict[str, list[str]] = link.cursor.get(KEPT, {})
    try:
        async with asyncio.timeout(LIMIT):
            for channel, (last, guild) in chats.items():
                await _fetch(api, link, channel, last, guild)
    except TimeoutError:
        link.gap(f"a fresh login, and reading the histories took more than {LIMIT:.0f} s")
    except AdapterError as error:
        link.gap(f"a fresh login, and histories were not read: {error}")


async def _fetch(api: Api, link: Link, channel: str, last: str, guild: str) -> None:
    own_id = link.cursor.get("bot", "")
    for _ in range(PAGES):
        if not (page := await _page(api, link, channel, last)):
            return
        found: list[Inbound] = []
        for message in _people(page, guild, own_id):
            remember(link.cursor, message)
            if wire.says_something(taken := wire.inbound(message, own_id)):
                found.append(taken)
        await link.deliver(*found)
        last = page[0].id


async def _page(api: Api, link: Link, channel: str, after: str) -> list[wire.Message]:
    """The messages that follow one, newest first; none of a channel we may not read.

    Raises Disconnect, HttpFailed and BadFrame.
    """
    path = f"/channels/{channel}/messages?after={after}&limit={PAGE}"
    reply = await api.call(link.http, "GET", path)
    if reply.status in (403, 404):
        return []
    if refused(reply):
        raise Disconnect(failure(reply, "reading a channel's messages")[1])
    found: list[wire.Message] = []
    for raw in reply.decode(list[msgspec.Raw]):
        with contextlib.suppress(BadFrame):
            found.append(decode(wire.Message, bytes(raw)))
    return found


def _people(page: list[wire.Message], guild: str, own_id: str) -> list[wire.Message]:
    """What people wrote, oldest first, as an event would have told it: a history does not say which
    server it is of, and what was edited meanwhile is new to us."""
    more: dict[str, Any] = {"guild_id": guild or None, "edited_timestamp": None}
    return [
        msgspec.structs.replace(message, **more)
        for message in reversed(page)
        if wire.is_a_persons(message, own_id)
    ]
