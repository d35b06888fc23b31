"""A simulated DingTalk platform in Stream mode: registration, gateway socket, OpenAPI, webhooks.

The official Python SDK (dingtalk-stream 0.24.3) runs on it. Choices that concern the truth:

* Bot messages are fire-and-forget, as documented: one that finds no connection is ``lost`` at once,
  one that was written but not acknowledged when its connection ended is ``unproven``. The Node
  SDK's claim of a redelivery after 60 s without an answer is the fault ``redeliver``.
* From SYSTEM disconnect on a connection gets no push, so it does not count as listening.
* Of several connections one is picked at random for each push (``dice``, seeded).

Addresses follow the Host header of the request (of the socket, for sessionWebhooks), so that a
relay before the simulator stays in the path.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said
from holdfast.lab.simulators import dingtalk_messages as messages
from holdfast.lab.simulators.dingtalk_cards import CardCalls
from holdfast.lab.simulators.dingtalk_gateway import GOODBYE_SILENCE, Gateway
from holdfast.lab.simulators.dingtalk_platform import OpenPlatform
from holdfast.lab.simulators.dingtalk_rest import ChatCalls
from holdfast.lab.simulators.dingtalk_rules import BOT_TOPIC, CARD_TOPIC, Push, millis

__all__ = ["DingTalkSimulator"]


class DingTalkSimulator(OpenPlatform):
    """The DingTalk platform with one app; what tests may change is named in ``OpenPlatform``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._calls = ChatCalls(self)
        self._cards = CardCalls(self)
        self._gateway = Gateway(self, self._cards.answered)

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add registration, the gateway, the OpenAPI, webhooks, media and the file store."""
        add = app.router.add_route
        add("POST", "/v1.0/gateway/connections/open", self.call(self._gateway.open))
        add("POST", "/v1.0/oauth2/accessToken", self.call(self.issue_token))
        add("GET", "/connect", self._gateway.accept)
        for method, path, work in self._calls.table() + self._cards.table():
            add(method, path, self.api(work))
        add("POST", "/robot/sendBySession", self.call(self._calls.webhook))
        add("POST", "/media/upload", self.call(self._calls.upload))
        add("GET", "/_files/{code}", self._calls.file)

    async def on_stop(self) -> None:
        """Reset sockets and forget redeliveries."""
        self._gateway.stop()

    def listening(self) -> bool:
        """Whether a connection that subscribed to bot messages is up, not mute and not frozen."""
        return self._gateway.reaches_bot()

    # -- what users do ------------------------------------------------------------------------

    def say(
        self,
        text: str,
        *,
        chat: str = "alice",
        sender: str = "alice",
        group: bool = False,
        image: bytes | None = None,
        file: tuple[str, bytes] | None = None,
    ) -> str:
        """A user writes to the bot (in a group: mentioning it). Returns ``msgId``.

        A file goes without its text, as on the platform: say the text in a message of its own.
        """
        key = f"msg{secrets.token_urlsafe(12)}=="
        where = self.know(chat, group=group)
        self.know(sender)
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        life = 0.0 if self.faults.take("webhook_expired") is not None else self.webhook_life
        webhook = self._calls.open_session(where, life)
        data = messages.user_message(key, where, sender, self.client_id, webhook, life)
        if self.faults.take("no_staff_id") is not None:
            del data["senderStaffId"]
        # The mention is taken out of a group's text and leaves a blank before it.
        data |= messages.content(
            f" {text}" if group else text,
            self._calls.store("image.png", image) if image is not None else None,
            (file[0], self._calls.store(*file)) if file is not None else None,
        )
        self.note("said", id=key, chat=chat)
        self._gateway.push(Push(id=key, type="CALLBACK", topic=BOT_TOPIC, data=data))
        return key

    def press(self, card: str, action: str, *, sender: str = "alice", **params: str) -> str:
        """A user presses a button of a card, named by outTrackId. Raises KeyError for no card.

        Returns the id under which truth notes name the push. The bot's acknowledgement is noted
        as ``card-answer`` and applied to the card.
        """
        chat = self._cards.cards[card].chat
        private = {"cardPrivateData": {"actionIds": [action], "params": params}}
        data: dict[str, Any] = {
            "type": "actionCallback",
            "outTrackId": card,
            "corpId": messages.CORP,
            "userId": messages.staff_id(sender),
            "userIdType": 1,
            "spaceType": "IM_GROUP" if chat and chat.group else "IM_ROBOT",
            "spaceId": chat.id if chat else "",
            "extension": "{}",
            "content": json.dumps(private),
        }
        key = f"press-{secrets.token_hex(8)}"
        self._gateway.push(Push(id=key, type="CALLBACK", topic=CARD_TOPIC, data=data))
        return key

    def happen(self, kind: str, data: dict[str, Any]) -> str:
        """An organisation event, redelivered until acknowledged. Returns ``eventId``."""
        key = secrets.token_hex(16)
        headers = {
            "eventId": key,
            "eventType": kind,
            "eventCorpId": messages.CORP,
            "eventBornTime": str(millis()),
        }
        self._gateway.push_event(Push(id=key, type="EVENT", topic="*", data=data, headers=headers))
        return key

    # -- trouble on demand --------------------------------------------------------------------

    async def close_all(self, code: int, reason: str = "") -> None:
        """Close every socket with a code; returns when the frames are on their way."""
        links = list(self._gateway.links)
        for link in links:
            self._gateway.close(link, code, reason)
        for link in links:
            await link.flushed()

    async def goodbye(
        self, reason: str = "connection is expired", silence: float = GOODBYE_SILENCE
    ) -> None:
        """SYSTEM disconnect to every client; TCP ends ``silence`` seconds later."""
        links = [link for link in self._gateway.links if link.live]
        for link in links:
            self._gateway.recycle(link, reason, silence)
        for link in links:
            await link.flushed()

    def ping_all(self) -> None:
        """A SYSTEM ping to every client, now."""
        for link in list(self._gateway.links):
            self._gateway.ping(link)

    def drop_all(self) -> None:
        """Reset every socket."""
        for link in list(self._gateway.links):
            self._gateway.reset(link)

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in list(self._gateway.links):
            self._gateway.freeze(link)

    def expire_tokens(self) -> None:
        """Every access token issued so far is invalid (401 InvalidAuthentication)."""
        self.tokens.expire()

    def revoke(self) -> None:
        """Disable the app: no registration (401 authFailed), no token, every socket is reset."""
        self.revoked = True
        self.tokens.expire()
        self.drop_all()

    def set_secret(self, new: str) -> None:
        """Set the secret and undo ``revoke``."""
        self.client_secret, self.revoked = new, False


if __name__ == "__main__":
    by_hand.run(DingTalkSimulator)
