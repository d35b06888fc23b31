"""A simulated WhatsApp Cloud API: the Graph API and the pushing side, with one phone number.

The client pywa 4.5.0 runs on it. The platform has no link to a bot, only an address it posts to;
choices made here that concern the truth:

* ``link-open`` and ``link-lost`` are noted when the address in force changes, ``ack`` when a post
  with an event was answered 200, ``lost`` when an event will never be posted (again).
* A callback that answers errors still counts as listening: what occurs now is posted to it. One
  that cannot be reached (fault ``callback_unreachable``), or belongs to someone else, does not.
* An address outside loopback is someone else's; nothing is sent there, the event is lost to the
  bot, noted as ``elsewhere``.

Media addresses follow the Host header of the lookup, so that a relay stays in the path.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said, wall_clock
from holdfast.lab.simulators import whatsapp_rules as rules
from holdfast.lab.simulators.whatsapp_account import AccountCalls
from holdfast.lab.simulators.whatsapp_hook import Callbacks, Scope, WebhookRefused
from holdfast.lab.simulators.whatsapp_platform import BusinessPlatform, Work
from holdfast.lab.simulators.whatsapp_rest import ChatCalls
from holdfast.lab.simulators.whatsapp_rules import Event

__all__ = ["WebhookRefused", "WhatsAppSimulator"]

VERSION = r"/{version:v\d+\.\d+}"
_MAGIC = ((b"\x89PNG", "image/png", "image.png"), (b"\xff\xd8", "image/jpeg", "image.jpg"))


class WhatsAppSimulator(BusinessPlatform):
    """The Cloud API with one number; what tests may change is named in ``BusinessPlatform``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._callbacks = Callbacks(self)
        self._chats = ChatCalls(self)
        self._account = AccountCalls(self, self._chats, self._callbacks)

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the Graph API, in any version, and the store of media."""
        account, chats = self._account, self._chats

        def add(method: str, path: str, work: Work, *, app_token: bool = False) -> None:
            app.router.add_route(method, VERSION + path, self.api(work, app=app_token))

        app.router.add_get(VERSION + "/oauth/access_token", account.access_token)
        add("GET", "/debug_token", account.debug_token, app_token=True)
        add("POST", "/{id}/messages", self._of_number(chats.messages))
        add("POST", "/{id}/media", self._of_number(chats.upload))
        add("GET", "/{id}/subscribed_apps", account.subscribed_apps)
        add("POST", "/{id}/subscribed_apps", account.subscribe)
        add("DELETE", "/{id}/subscribed_apps", account.unsubscribe)
        add("GET", "/{id}/subscriptions", account.subscriptions, app_token=True)
        add("POST", "/{id}/subscriptions", account.set_subscription, app_token=True)
        add("DELETE", "/{id}/subscriptions", account.end_subscription, app_token=True)
        for path in ("/{id}", "/{id}/"):
            add("GET", path, account.get_node)
            add("POST", path, account.post_node)
            add("DELETE", path, account.delete_node)
        download = self.api(chats.download)
        app.router.add_get("/whatsapp_business/attachments/{ticket}", download)

    def _of_number(
        self, work: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            self._account.must_be_number(request)
            return await work(request)

        return handle

    async def start(self) -> Self:
        """Listen; deliveries that a stop interrupted are taken up again."""
        await super().start()
        self._callbacks.resume()
        return self

    async def on_stop(self) -> None:
        """Interrupt deliveries and statuses; addresses and media are remembered."""
        await self._chats.stop()
        await self._callbacks.stop()

    async def set_webhook(self, url: str | None) -> None:
        """Set the app's callback after the verification with ``verify_token``; None removes it.

        Raises WebhookRefused when the verification fails; the address before stays in force.
        """
        if url is None:
            self._callbacks.put(Scope.APP, None)
        else:
            await self._callbacks.use(url, self.verify_token)

    async def verify(self, url: str, token: str) -> tuple[int, str, str]:
        """Ask an address with any verify token: HTTP status, answer, challenge sent."""
        return await self._callbacks.verify(url, token)

    def listening(self) -> bool:
        """Whether an event that occurs now is posted to an address that can be the bot's."""
        return self._runner is not None and self._callbacks.reaches_bot()

    def occur(self, event: Event) -> None:
        """Push a message or status to the callback."""
        self._callbacks.push(event)

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
        edit_of: str | None = None,
    ) -> str:
        """A user writes to the bot. Returns the wamid; an edit has a new one of its own.

        An image or a file carries the text as its caption; a message has one of them at most.
        """
        content = self._content(text, image, file)
        if edit_of is not None:
            edit = {"original_message_id": edit_of, "message": content}
            content = {"type": "edit", "edit": edit}
        if reply_to is not None:
            content["context"] = {"from": self.phone_number, "id": reply_to}
        key = rules.new_wamid()
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        self.note("said", id=key, chat=chat)
        return self._write(key, content, chat, sender, group)

    def react(self, message: str, emoji: str, *, chat: str = "alice") -> str:
        """A user reacts to a message; an empty emoji takes the reaction back."""
        reaction = {"message_id": message, "emoji": emoji}
        content = {"type": "reaction", "reaction": reaction}
        return self._write(rules.new_wamid(), content, chat, chat, False)

    def revoke(self, message: str, *, chat: str = "alice") -> str:
        """A user deletes a message."""
        content = {"type": "revoke", "revoke": {"original_message_id": message}}
        return self._write(rules.new_wamid(), content, chat, chat, False)

    def press(self, button: str, *, reply_to: str, chat: str = "alice") -> str:
        """A user presses the reply button of this id under a message of the bot."""
        reply = {"type": "button_reply", "button_reply": {"id": button, "title": button}}
        content = {"type": "interactive", "interactive": reply}
        content["context"] = {"from": self.phone_number, "id": reply_to}
        return self._write(rules.new_wamid(), content, chat, chat, False)

    def _content(
        self, text: str, image: bytes | None, file: tuple[str, bytes] | None
    ) -> dict[str, Any]:
        if image is not None:
            found = (entry[1:] for entry in _MAGIC if image.startswith(entry[0]))
            mime, name = next(found, ("image/jpeg", "image.jpg"))
            return {"type": "image", "image": self._attach(text, name, mime, image)}
        if file is not None:
            mime = "text/plain" if re.search(r"\.(txt|log|md)$", file[0]) else "application/pdf"
            entry = self._attach(text, file[0], mime, file[1])
            return {"type": "document", "document": {"filename": file[0]} | entry}
        return {"type": "text", "text": {"body": text}}

    def _attach(self, caption: str, name: str, mime: str, data: bytes) -> dict[str, Any]:
        media = self._chats.store(name, mime, data, rules.INBOUND_MEDIA_KEPT)
        entry = {"mime_type": mime, "sha256": media.sha256, "id": media.id}
        return entry | ({"caption": caption} if caption else {})

    def _write(self, key: str, content: dict[str, Any], chat: str, sender: str, group: bool) -> str:
        person = rules.Person(sender if group else chat)
        room = self._chats.chat(chat, group=group)
        room.last = self.now()
        self._chats.inbound[key] = chat, self.now()
        head = {"id": key, "timestamp": str(int(wall_clock())), "from_user_id": person.user_id}
        if not self.usernames:
            head["from"] = person.wa_id
        if room.group is not None:
            head["group_id"] = room.group
        contact = person.contact(username=self.usernames)
        self.occur(Event(id=key, kind="messages", data=head | content, contact=contact))
        return key

    # -- trouble on demand --------------------------------------------------------------------

    def expire_token(self, subcode: int = 463) -> None:
        """The access token is no longer valid: 401, code 190 with this subcode. Posts go on."""
        self.token_trouble = subcode

    def set_token(self, new: str) -> None:
        """Set the access token and undo ``expire_token``."""
        self.access_token, self.token_trouble = new, None

    def unsubscribe(self) -> None:
        """Someone ends the app's subscription to the business account."""
        self._callbacks.subscribe(False)

    def steal_callback(self, url: str = "https://elsewhere.example/hook") -> None:
        """Someone sets the app's callback to another address."""
        self._callbacks.put(Scope.APP, url)


if __name__ == "__main__":
    by_hand.run(WhatsAppSimulator)
