"""Card entities of the simulated Feishu platform (CardKit): create, stream, settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators.feishu_messages import card_text, read_card
from holdfast.lab.simulators.feishu_platform import OpenPlatform, Work, read_json, success
from holdfast.lab.simulators.feishu_rules import Refusal

CONTENT_MAX = 100_000
"""Characters of one element's content (streaming page)."""

STREAM_LIFE = 600.0
"""Seconds after which streaming mode switches itself off (streaming page)."""


@dataclass(slots=True)
class Card:
    """One card entity; ``chat`` and ``message`` are where it was sent, which happens once."""

    body: dict[str, Any]
    streaming_since: float | None
    sequence: int = 0
    chat: str | None = None
    message: str | None = None


class Cards:
    """The CardKit calls of the bot. Each change of a sent card's text is heard as an edit."""

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self.cards: dict[str, Card] = {}

    def table(self) -> list[tuple[str, str, Work]]:
        """Method, path and handler of every call."""
        one = "/cardkit/v1/cards/{card}"
        return [
            ("POST", "/cardkit/v1/cards", self._create),
            ("PUT", f"{one}/elements/{{element}}/content", self._stream),
            ("PATCH", f"{one}/settings", self._settings),
        ]

    def place(self, key: str, message: str, chat: str) -> str:
        """Send an entity. Returns its text. Raises Refusal for one that is unknown or was sent."""
        card = self.cards.get(key)
        if card is None or card.message is not None:
            raise Refusal(230099, "Failed to create card content, ext=ErrCode: 11310; card_id")
        card.message, card.chat = message, chat
        return card_text(card.body)

    # -- calls --------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if body.get("type") != "card_json":
            raise Refusal(300301, "card type is invalid")
        card = read_card(body.get("data"))
        streaming = bool(card.get("config", {}).get("streaming_mode"))
        key = f"73{len(self.cards):017d}"
        self.cards[key] = Card(card, self._lab.now() if streaming else None)
        return success({"card_id": key})

    async def _stream(self, request: web.Request) -> web.Response:
        body, card = await read_json(request), self._find(request)
        content = body.get("content")
        if not isinstance(content, str) or not 0 < len(content) <= CONTENT_MAX:
            raise Refusal(300302, "content is invalid")
        if not self._streaming(card):
            raise Refusal(300309, "streaming mode is closed")
        element = self._element(card, request.match_info["element"])
        self._advance(card, body)
        element["content"] = content
        self._show(card)
        return success()

    async def _settings(self, request: web.Request) -> web.Response:
        body, card = await read_json(request), self._find(request)
        try:
            settings = json.loads(body.get("settings", ""))
            streaming = settings["config"]["streaming_mode"]
        except (ValueError, TypeError, KeyError):
            raise Refusal(300302, "settings are invalid") from None
        self._advance(card, body)
        card.streaming_since = self._lab.now() if streaming else None
        self._lab.note("card-settings", id=card.message, streaming=bool(streaming))
        return success()

    # -- state --------------------------------------------------------------------------------

    def _find(self, request: web.Request) -> Card:
        card = self.cards.get(request.match_info["card"])
        if card is None:
            raise Refusal(300313, "card is not found")
        return card

    def _streaming(self, card: Card) -> bool:
        since = card.streaming_since
        return since is not None and self._lab.now() - since < STREAM_LIFE

    @staticmethod
    def _element(card: Card, key: str) -> dict[str, Any]:
        elements: list[dict[str, Any]] = card.body.get("body", {}).get("elements", [])
        for element in elements:
            if element.get("element_id") == key:
                return element
        raise Refusal(300314, "element is not found")

    @staticmethod
    def _advance(card: Card, body: dict[str, Any]) -> None:
        """``sequence`` increases over all operations on a card."""
        sequence = body.get("sequence")
        if not isinstance(sequence, int) or sequence <= card.sequence:
            raise Refusal(300317, "sequence number compare failed")
        card.sequence = sequence

    def _show(self, card: Card) -> None:
        if card.message is not None and card.chat is not None:
            text, at = card_text(card.body), self._lab.now()
            heard = Heard(id=card.message, chat=card.chat, text=text, at=at, edit_of=card.message)
            self._lab.hear(heard)
