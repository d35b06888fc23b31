"""A simulated Feishu (Lark) platform: long connections, web hooks, REST API, cards.

The official Python SDK (lark-oapi 1.7.5) runs on it. Choices that concern the truth:

* An event is pushed to one connection picked at random (``dice``, seeded) or posted to the web
  hook. Without an acknowledgement within ``ack_within`` seconds it is repeated as documented;
  only after the last repeat is it ``lost``. A try that finds no connection is noted as
  ``undelivered``.
* An acknowledgement over the socket counts only if it is the received frame given back.
* The documents name event types that are held back until the one before is acknowledged; messages
  are not among those simulated.

Socket addresses follow the Host header of the endpoint call, so that a relay before the simulator
stays in the path.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said
from holdfast.lab.simulators import feishu_messages as messages
from holdfast.lab.simulators.feishu_delivery import Deliveries
from holdfast.lab.simulators.feishu_gateway import Gateway
from holdfast.lab.simulators.feishu_hook import Hook, WebhookRefused
from holdfast.lab.simulators.feishu_platform import OpenPlatform
from holdfast.lab.simulators.feishu_rest import ChatCalls
from holdfast.lab.simulators.feishu_rules import TENANT, Event, millis

__all__ = ["FeishuSimulator", "WebhookRefused"]

MESSAGE = "im.message.receive_v1"


class FeishuSimulator(OpenPlatform):
    """The Feishu platform with one app; what tests may change is named in ``OpenPlatform``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._calls = ChatCalls(self)
        self._deliveries = Deliveries(self, self._attempt)
        self._gateway = Gateway(self, self._deliveries, self._card_answered)
        self._hook = Hook(self, self._deliveries, self._card_answered)

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the endpoint call, the socket, the token service and the REST API."""
        add = app.router.add_route
        add("POST", "/callback/ws/endpoint", self.call(self._gateway.endpoint))
        add("GET", "/ws/v2", self._gateway.accept)
        token = "/open-apis/auth/v3/tenant_access_token/internal"
        add("POST", token, self.call(self.issue_token))
        add("GET", "/open-apis/bot/v3/info", self.api(self.bot_info))
        for method, path, work in self._calls.table():
            add(method, f"/open-apis{path}", self.api(work))

    async def on_stop(self) -> None:
        """Reset sockets, stop requests, forget what was to be repeated."""
        self._deliveries.stop()
        await self._hook.stop()
        self.drop_all()

    async def set_webhook(self, url: str | None) -> None:
        """Switch events to the web hook at ``url`` after its challenge; None switches back.

        Raises WebhookRefused when the challenge fails; the address before stays in force.
        """
        await self._hook.use(url)

    def listening(self) -> bool:
        """Whether a connection that is neither mute nor frozen, or a web hook, exists."""
        return self._hook.url is not None or self._gateway.reaches_bot()

    def _attempt(self, event: Event) -> None:
        (self._gateway if self._hook.url is None else self._hook).attempt(event)

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
        reply_to: str | None = None,
    ) -> str:
        """A user writes to the bot (in a group: mentioning it). Returns ``message_id``.

        A file goes without its text, as on the platform: say the text in a message of its own.
        ``reply_to`` names a message of either side. Raises KeyError for an unknown one.
        """
        where = self.know(chat, group=group)
        posted = messages.Posted(
            id=messages.new_message_id(),
            chat=where,
            text=text,
            own=False,
            author=self.person(sender).open_id,
            created=millis(),
        )
        if reply_to is not None:
            target = self._calls.messages[reply_to]
            posted.parent, posted.root = target.id, target.root or target.id
            posted.thread = target.thread
        store, key = self._calls.store, posted.id
        kind, content = messages.user_content(
            text,
            store("image.png", image, image=True, message=key) if image is not None else None,
            (file[0], store(*file, image=False, message=key)) if file is not None else None,
        )
        posted.msg_type, posted.content = kind, json.dumps(content, ensure_ascii=False)
        self._calls.add(posted)
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        self.note("said", id=key, chat=chat)
        self._occur(posted, sender, kind, content)
        return key

    def _occur(
        self, posted: messages.Posted, sender: str, kind: str, content: dict[str, Any]
    ) -> None:
        if self.faults.take("unknown_message") is not None:
            kind, content = "hologram", {"hologram_key": "holo_1"}
        data = messages.user_event(posted, self.person(sender), kind, content)
        if self.faults.take("no_user_id") is not None:
            del data["sender"]["sender_id"]["user_id"]
        if self.faults.take("unknown_event") is not None:
            self.happen("im.hologram.projected_v1", {"hologram_id": "holo_1"})
        self._deliveries.begin(Event(key=posted.id, type=MESSAGE, data=data))
        if self.faults.take("dup_message") is not None:
            self._deliveries.begin(Event(key=posted.id, type=MESSAGE, data=data))

    def press(self, message: str, value: dict[str, Any], *, sender: str = "alice") -> str:
        """A user presses a button of a card message of the bot. Raises KeyError for no message.

        Returns the id under which truth notes name the press. The bot's answer is noted as
        ``card-answer``, with the JSON object it held.
        """
        posted, person = self._calls.messages[message], self.person(sender)
        data = {
            "operator": person.ids() | {"tenant_key": TENANT},
            "token": f"c-{messages.digest(message)}",
            "host": "im_message",
            "action": {"tag": "button", "value": value, "name": "button"},
            "context": {"open_message_id": message, "open_chat_id": posted.chat.id},
        }
        key = f"press-{messages.new_message_id()}"
        event = Event(key=key, type="card.action.trigger", data=data, callback=True)
        self._deliveries.begin(event)
        return key

    def _card_answered(self, event: Event, answer: Any) -> None:
        self.note("card-answer", id=event.key, answer=answer)

    def recall(self, message: str) -> str:
        """A user recalls a message: replies to it get 230011. Returns the event's id."""
        posted = self._calls.messages[message]
        posted.recalled = True
        data = {
            "message_id": message,
            "chat_id": posted.chat.id,
            "recall_time": millis(),
            "recall_type": "message_owner",
        }
        return self.happen("im.message.recalled_v1", data)

    def happen(self, kind: str, data: dict[str, Any]) -> str:
        """Any other event. Returns its event_id, under which truth notes name it."""
        event = Event(key="", type=kind, data=data)
        event = Event(key=event.id, type=kind, data=data, id=event.id)
        self._deliveries.begin(event)
        return event.id

    # -- trouble on demand --------------------------------------------------------------------

    async def close_all(self, code: int, reason: str = "") -> None:
        """Close every socket with a code; returns when the frames are on their way."""
        links = list(self._gateway.links)
        for link in links:
            self._gateway.close(link, code, reason)
        for link in links:
            await link.flushed()

    def drop_all(self) -> None:
        """Reset every socket."""
        for link in list(self._gateway.links):
            self._gateway.reset(link)

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in list(self._gateway.links):
            self._gateway.freeze(link)

    def expire_tokens(self) -> None:
        """Every access token issued so far is invalid (99991663)."""
        self.tokens.expire()

    def revoke(self) -> None:
        """Disable the app: no endpoint (1000040345), no token (10014), every socket is reset."""
        self.revoked = True
        self.tokens.expire()
        self.drop_all()

    def set_secret(self, new: str) -> None:
        """Set the secret and undo ``revoke``; tokens issued before stay as they are."""
        self.app_secret, self.revoked = new, False


if __name__ == "__main__":
    by_hand.run(FeishuSimulator)
