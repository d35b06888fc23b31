"""Interactive cards of the simulated DingTalk platform: create, deliver, stream, update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators.dingtalk_messages import Chat
from holdfast.lab.simulators.dingtalk_platform import OpenPlatform, Work, read_json
from holdfast.lab.simulators.dingtalk_rules import Push, Refusal

GROUP_SPACE, ROBOT_SPACE = "dtv1.card//IM_GROUP.", "dtv1.card//IM_ROBOT."

STREAM_MAX = 20_000
"""Characters of one variable; the documents say only that more than 3000 are not recommended."""

DONE = {"success": True, "result": True}


@dataclass(slots=True)
class Card:
    """One card: its variables, where it was delivered, and the updates seen by ``guid``."""

    params: dict[str, Any]
    chat: Chat | None = None
    final: bool = False
    guids: set[str] = field(default_factory=set)
    version: int = 0


class CardCalls:
    """The card calls of the bot. A card's text is its variable ``content``.

    Users hear a card when it is delivered, under its outTrackId; each change of the text
    afterwards is heard as an edit of it.
    """

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self.cards: dict[str, Card] = {}

    def table(self) -> list[tuple[str, str, Work]]:
        """Method, path and handler of every call."""
        return [
            ("POST", "/v1.0/card/instances", self._create),
            ("POST", "/v1.0/card/instances/deliver", self._deliver),
            ("POST", "/v1.0/card/instances/createAndDeliver", self._create_and_deliver),
            ("PUT", "/v1.0/card/instances", self._update),
            ("PUT", "/v1.0/card/streaming", self._stream),
        ]

    def answered(self, push: Push, data: Mapping[str, Any]) -> None:
        """Apply the ``response`` object that acknowledges a card action."""
        self._lab.note("card-answer", id=push.id)
        match data:
            case {"response": {"cardData": {"cardParamMap": dict(params)}}}:
                self._change(push.data["outTrackId"], params)

    # -- calls --------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        self._new(body)
        return web.json_response({"success": True, "result": body["outTrackId"]})

    async def _deliver(self, request: web.Request) -> web.Response:
        self._place(await read_json(request))
        return web.json_response(DONE)

    async def _create_and_deliver(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        self._new(body)
        self._place(body)
        return web.json_response(DONE)

    async def _update(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        key, _ = self._card(body)
        self._change(key, self._params(body))
        return web.json_response(DONE)

    async def _stream(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        key, card = self._card(body)
        match body:
            case {"guid": str(guid), "key": str(name), "content": str(text)} if guid and name:
                pass
            case {"guid": str(guid)} if guid:
                raise Refusal("param.stream.contentEmpty", "key and content are mandatory")
            case _:
                raise Refusal("param.stream.guidEmpty", "guid is mandatory")
        self._lab.play("card_too_large", Refusal("param.stream.content", "content is too large"))
        text = text if body.get("isFull") else card.params.get(name, "") + text
        if len(text) > STREAM_MAX:
            raise Refusal("param.stream.content", "content is too large")
        # The guid makes a repeated call harmless.
        if guid not in card.guids and not card.final:
            card.guids.add(guid)
            self._change(key, {name: text})
            card.final = bool(body.get("isFinalize") or body.get("isError"))
            self._lab.note("card-stream", id=key, final=card.final)
        return web.json_response(DONE)

    # -- what they share ----------------------------------------------------------------------

    def _new(self, body: Mapping[str, Any]) -> None:
        self._lab.play("card_busy", Refusal("system.busy", "system busy", status=500))
        missing = Refusal("param.templateNotExist", "template is not exist")
        self._lab.play("card_template_missing", missing)
        allowed = self._lab.card_templates
        if allowed is not None and body.get("cardTemplateId") not in allowed:
            raise missing
        key = body.get("outTrackId")
        if not isinstance(key, str) or not key:
            raise Refusal("param.invalid", "outTrackId is mandatory")
        if key in self.cards:
            raise Refusal("param.cardAlreadyExist", "card already exist")
        self.cards[key] = Card(self._params(body))

    def _card(self, body: Mapping[str, Any]) -> tuple[str, Card]:
        self._lab.play("card_busy", Refusal("system.busy", "system busy", status=500))
        gone = Refusal("param.stream.outTrackId", "card is not exist")
        self._lab.play("card_missing", gone)
        key = str(body.get("outTrackId"))
        if key not in self.cards:
            raise gone
        return key, self.cards[key]

    def _place(self, body: Mapping[str, Any]) -> None:
        """Put a card into the chat that ``openSpaceId`` names."""
        key, card = self._card(body)
        space = str(body.get("openSpaceId"))
        if space.startswith(GROUP_SPACE):
            card.chat = self._lab.group_of(space.removeprefix(GROUP_SPACE))
        elif space.startswith(ROBOT_SPACE):
            card.chat = self._lab.user_of(space.removeprefix(ROBOT_SPACE))
        if card.chat is None:
            raise Refusal("param.invalid", "openSpaceId invalid")
        self._hear(card, key)

    @staticmethod
    def _params(body: Mapping[str, Any]) -> dict[str, Any]:
        match body:
            case {"cardData": {"cardParamMap": dict(params)}}:
                return params
            case _:
                raise Refusal("param.invalid", "cardData is mandatory")

    def _change(self, key: str, params: Mapping[str, Any]) -> None:
        card = self.cards[key]
        before = card.params.get("content")
        card.params |= params
        if card.chat is not None and card.params.get("content") != before:
            card.version += 1
            self._hear(card, f"{key}.{card.version}", edit_of=key)

    def _hear(self, card: Card, key: str, edit_of: str | None = None) -> None:
        assert card.chat is not None
        self._lab.hear(
            Heard(
                id=key,
                chat=card.chat.name,
                text=str(card.params.get("content", "")),
                at=self._lab.now(),
                edit_of=edit_of,
            )
        )
