"""What Feishu has not told: a live connection is proved by the histories of its chats.

Source: https://open.feishu.cn/document (im-v1/message/list). An app reads private chats with the
scope ``im:message`` or its read-only form, and groups with ``im:message.group_msg`` besides; a
chat it may not read proves nothing. The cursor holds ``chats``: for each chat where people wrote
last, the newest at the end, the date of the last message in milliseconds, and whether it is
private.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from holdfast.adapter import BadFrame, Disconnect, Link, decode
from holdfast.adapters import feishu_rules as rules
from holdfast.adapters.feishu_api import Api
from holdfast.adapters.feishu_wire import MOMENT
from holdfast.messages import Inbound
from holdfast.supervision import Kind

CHATS: Final = 20
"""Chats remembered: the cursor is stored with every message."""

LOOKS: Final = 5
"""Chats looked at while nothing comes in."""

PAGE: Final = 20
"""Messages looked at in each."""


class Named(msgspec.Struct):
    """Who wrote, or who is mentioned; ``sender_type`` is "user" for people."""

    id: str = ""
    sender_type: str = ""


class Item(msgspec.Struct):
    """A message of a history. Unlike an event's it names people by one id, not by three."""

    message_id: str
    sender: Named
    create_time: str = ""
    deleted: bool = False
    mentions: list[Named] | None = None

    @property
    def at(self) -> int:
        """Unix milliseconds; 0 for what is no date."""
        return int(self.create_time) if MOMENT.fullmatch(self.create_time) else 0


class _Items(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _Listed(msgspec.Struct):
    data: _Items


def remember(cursor: dict[str, Any], message: Inbound) -> None:
    """A message is being taken in."""
    if message.at is None:
        return
    chats: dict[str, list[Any]] = dict(cursor.get("chats", {}))
    last, _ = chats.pop(message.chat, (0, False))
    chats[message.chat] = [max(last, round(message.at * 1000)), message.private]
    cursor["chats"] = dict(list(chats.items())[-CHATS:])


class Lookout:
    """Looks for messages that were not told to one account's connections."""

    def __init__(self, api: Api) -> None:
        self._api, self._own_id = api, ""
        self._found = self._old = 0
        """Dates of the newest finding on this connection, and on those before it."""

    def begin(self, own_id: str) -> None:
        """A new connection. What the last one was not told is repeated by Feishu in its own time,
        and no evidence against this one."""
        self._own_id, self._old = own_id, self._found

    async def untold(self, link: Link) -> str | None:
        """A message for us that no connection was told of. Raises AdapterError."""
        chats: dict[str, list[Any]] = link.cursor.get("chats", {})
        for chat, (last, private) in list(chats.items())[-LOOKS:]:
            for item in await self._items(link, chat, last):
                if item.at > max(last, self._old) and self._for_us(item, private):
                    self._found = max(self._found, item.at)
                    return f"message {item.message_id}"
        return None

    def _for_us(self, item: Item, private: bool) -> bool:
        """In groups most apps are told only what mentions them."""
        if item.deleted or item.sender.sender_type != "user":
            return False
        return private or any(who.id == self._own_id for who in item.mentions or ())

    async def _items(self, link: Link, chat: str, last: int) -> list[Item]:
        """The newest messages of a chat, none where we may not read them."""
        query = {
            "container_id_type": "chat",
            "container_id": chat,
            "start_time": str(last // 1000),  # in seconds here
            "sort_type": "ByCreateTimeDesc",
            "page_size": str(PAGE),
        }
        reply = await self._api.call(link.http, "GET", "/im/v1/messages", query=query)
        if (refusal := rules.refusal_of(reply)) is not None:
            _, cause = rules.failure(reply, refusal, "reading a chat's history")
            if cause.kind is Kind.REFUSED:
                return []
            raise Disconnect(cause)
        found: list[Item] = []
        for raw in reply.decode(_Listed).data.items or ():
            with contextlib.suppress(BadFrame):
                found.append(decode(Item, bytes(raw)))
        return found
