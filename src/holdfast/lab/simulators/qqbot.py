"""A simulated QQ bot platform: token service, REST API, gateway socket and callbacks.

The official Python SDK (qq-botpy 1.2.1) runs on it. Where the platform's behaviour is not
documented the choice made here is named in a comment. Choices that concern the truth:

* An event goes to every session that has a socket, and waits in those that have lost theirs for
  ``resume_window`` seconds. A fresh Identify ends the waiting sessions of its shard: what waited
  only there is noted as ``lost``; what was written to a socket without ever being confirmed by a
  heartbeat or Resume is noted as ``unproven``.
* An event that finds no session and no callback address is lost at once.

Addresses follow the Host header of the request (of the socket, for attachments), so that a relay
before the simulator stays in the path; callbacks, which no request precedes, name the simulator.
"""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from aiohttp import web
from yarl import URL

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said
from holdfast.lab.simulators import qqbot_messages as messages
from holdfast.lab.simulators.qqbot_gateway import Gateway
from holdfast.lab.simulators.qqbot_hook import Callbacks, WebhookRefused
from holdfast.lab.simulators.qqbot_platform import OpenPlatform, timestamp
from holdfast.lab.simulators.qqbot_rest import ChatCalls
from holdfast.lab.simulators.qqbot_rules import Close, Event, Intent, Op

__all__ = ["QQBotSimulator", "WebhookRefused"]


class QQBotSimulator(OpenPlatform):
    """The QQ bot platform with one bot; what tests may change is named in ``OpenPlatform``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._gateway = Gateway(self)
        self._calls = ChatCalls(self)
        self._callbacks = Callbacks(self)
        self._files: dict[str, tuple[str, bytes]] = {}

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the token service, the REST API, the gateway and the file store."""
        add = app.router.add_route
        add("POST", "/app/getAppAccessToken", self.issue_token)
        add("GET", "/users/@me", self.api(self.me))
        add("GET", "/gateway", self.api(self._gateway.call))
        add("GET", "/gateway/bot", self.api(self._gateway.call))
        add("GET", "/websocket", self._gateway.accept)
        for method, path, call in self._calls.table():
            add(method, path, self.api(call))
        add("GET", "/_files/{key}/{name}", self._file)

    async def on_stop(self) -> None:
        """Reset sockets and stop redelivering callbacks; sessions stay resumable."""
        self.drop_all()
        await self._callbacks.stop()

    async def set_webhook(self, url: str | None) -> None:
        """Switch events to callbacks at ``url`` after the op 13 validation; None switches back.

        Raises WebhookRefused when the validation fails; the address before stays in force.
        """
        await self._callbacks.use(url)

    def listening(self) -> bool:
        """Whether a READY or RESUMED link that is neither mute nor frozen, or a callback, exists.

        Events wait for no one here: a session waiting to be resumed does not count.
        """
        return self._callbacks.url is not None or self._gateway.reaches_bot()

    def openid(self, name: str, *, group: bool = False) -> str:
        """The openid of a user or group; from now on the bot may write to it."""
        return self._calls.openid(name, group=group)

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
        """A user writes to the bot. Returns ``d.id``; ``reply_to`` quotes a message by its id."""
        key = f"ROBOT1.0_{secrets.token_urlsafe(24)}"
        openid = self.openid(chat, group=group)
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        self.replies.open(key, openid, self.now(), group=group)
        data = messages.user_message(key, openid, sender, text, timestamp(), group=group)
        data["attachments"] = self._attach(image, file)
        if reply_to is not None:
            texts = {s.id: s.text for s in self.said} | {h.id: h.text for h in self.heard}
            data |= messages.quotation(reply_to, texts.get(reply_to, ""))
        kind = "GROUP_AT_MESSAGE_CREATE" if group else "C2C_MESSAGE_CREATE"
        self.note("said", id=key, chat=chat)
        self._occur(Event(id=key, type=kind, intent=Intent.GROUP_AND_C2C, data=data))
        return key

    def press(self, button: str, *, chat: str = "alice", group: bool = False) -> str:
        """A user presses a button. Returns the interaction's id, to be answered by PUT."""
        key, openid = str(uuid.uuid4()), self.openid(chat, group=group)
        data = messages.interaction(key, openid, button, timestamp(), group=group)
        event = Event(id=key, type="INTERACTION_CREATE", intent=Intent.INTERACTION, data=data)
        self._calls.await_answer(key)
        self.replies.open(event.dispatch_id, openid, self.now(), group=group)
        self._occur(event)
        return key

    def _attach(self, image: bytes | None, file: tuple[str, bytes] | None) -> list[dict[str, Any]]:
        entries = []
        for name, data in (("image.png", image), file or ("", None)):
            if data is not None:
                key = secrets.token_hex(16)
                self._files[key] = name, data
                path = str(URL("/_files") / key / name)
                entries.append(messages.attachment(name, data, path, image=data is image))
        return entries

    def _occur(self, event: Event) -> None:
        (self._gateway if self._callbacks.url is None else self._callbacks).push(event)

    async def _file(self, request: web.Request) -> web.Response:
        stored = self._files.get(request.match_info["key"])
        if stored is None:
            return web.Response(status=404)
        return web.Response(body=stored[1], content_type="application/octet-stream")

    # -- trouble on demand --------------------------------------------------------------------

    async def close_all(self, code: int, reason: str = "") -> None:
        """Close every socket with a code; returns when the frames are on their way."""
        links = list(self._gateway.links)
        for link in links:
            self._gateway.hang_up(link, code, reason)
        for link in links:
            await link.flushed()

    async def goodbye(self, close: bool = True, silence: float = 0.0) -> None:
        """Ask every client to reconnect (op 7), by default closing with 4009 at once.

        With ``silence`` the sockets are closed so many seconds later, and carry no event meanwhile.
        """
        links = list(self._gateway.links)
        for link in links:
            if silence:
                self._gateway.say_goodbye(link, silence)
                continue
            link.send({"op": Op.RECONNECT})
            if close:
                self._gateway.hang_up(link, Close.EXPIRED, "Session timed out")
        for link in links:
            await link.flushed()

    async def invalidate(self, resumable: bool = False) -> None:
        """Tell live links that their session is gone (op 9); the sockets stay open."""
        links = [link for link in self._gateway.links if link.session]
        for link in links:
            session = link.session
            self._gateway.detach(link)
            link.send({"op": Op.INVALID_SESSION, "d": resumable})
            if session and not resumable:
                self._gateway.forget(session, "invalidated")
        for link in links:
            await link.flushed()

    def drop_all(self) -> None:
        """Reset every socket."""
        for link in list(self._gateway.links):
            self._gateway.detach(link)
            link.abort()

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in list(self._gateway.links):
            self._gateway.freeze(link)

    def expire_tokens(self) -> None:
        """Every access token issued so far is expired (401, 11244; close 4004)."""
        self.tokens.expire()

    def ban(self, code: int = Close.BANNED) -> None:
        """Ban the bot (4915) or take it offline (4914): no socket, no login, no call any more."""
        self.banned = code
        for link in list(self._gateway.links):
            self._gateway.hang_up(link, code, "bot banned")

    def unban(self) -> None:
        """Undo ``ban``."""
        self.banned = None

    def revoke(self) -> None:
        """Withdraw the secret: no token is issued or valid, sockets are closed with 4004."""
        self.revoked = True
        self.tokens.expire()
        for link in list(self._gateway.links):
            self._gateway.hang_up(link, Close.AUTHENTICATION_FAILED, "authentication failed")

    def set_secret(self, new: str) -> None:
        """Set the secret and undo ``revoke``; tokens issued before stay as they are."""
        self.secret, self.revoked = new, False


if __name__ == "__main__":
    by_hand.run(QQBotSimulator)
