"""A simulated Discord: Gateway v10, REST v10 and attachments, for one bot in one guild.

The Python SDK (discord.py 2.7.1) runs on it. Choices that concern the truth:

* An event is numbered by every session that it concerns, and waits in those whose socket is lost
  for ``resume_window`` seconds. When a session ends, what no socket ever carried is noted as
  ``lost``; what was carried without being confirmed by a heartbeat or Resume as ``unproven``.
* An event that finds no session is lost to the gateway at once; the channel's history has it.
* The bot's own messages are dispatched too, as on Discord; the truth does not follow them.

Addresses follow the Host header of the request (of the socket, for resume and attachments), so
that a relay before the simulator stays in the path.
"""

from __future__ import annotations

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said
from holdfast.lab.simulators.discord_gateway import Gateway
from holdfast.lab.simulators.discord_platform import PREFIX, DiscordPlatform
from holdfast.lab.simulators.discord_rest import ChatCalls
from holdfast.lab.simulators.discord_rules import Close, Event, Intent, Json, Op
from holdfast.lab.simulators.discord_world import (
    BOT_ID,
    DM,
    GUILD_ID,
    Channel,
    member,
    timestamp,
)

__all__ = ["DiscordSimulator"]


class DiscordSimulator(DiscordPlatform):
    """Discord with one bot; what tests may change is named in ``DiscordPlatform``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._gateway = Gateway(self)
        self._calls = ChatCalls(self, self._gateway.push)

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the REST API, the gateway and the attachments."""
        add = app.router.add_route
        add("GET", PREFIX + "/gateway", self.api(self._gateway.call, public=True))
        add("GET", PREFIX + "/gateway/bot", self.api(self._gateway.call))
        for method, path, call in self._calls.table():
            add(method, PREFIX + path, self.api(call))
        for path in ("/gw", "/gw/", "/gw-resume"):
            add("GET", path, self._gateway.accept)
        add("GET", "/attachments/{channel}/{id}/{name}", self._attachment)

    async def on_stop(self) -> None:
        """Reset every socket; sessions stay resumable."""
        self.drop_all()

    def listening(self) -> bool:
        """Whether a READY or RESUMED link exists that is neither mute nor frozen.

        Events wait for no one here: a session waiting to be resumed does not count.
        """
        return self._gateway.reaches_bot()

    def channel_id(self, name: str, *, group: bool = False) -> str:
        """The id of the DM with a user, or of a text channel; the bot may write to it."""
        return str((self._text_channel(name) if group else self.world.direct(name)).id)

    def _text_channel(self, name: str) -> Channel:
        known = len(self.world.channels)
        channel = self.world.text_channel(name)
        if len(self.world.channels) > known:
            self._announce("CHANNEL_CREATE", channel)
        return channel

    def _thread(self, parent: Channel, name: str) -> Channel:
        known = len(self.world.channels)
        thread = self.world.thread(parent, name)
        if len(self.world.channels) > known:
            self._announce("THREAD_CREATE", thread)
        return thread

    def _announce(self, kind: str, channel: Channel) -> None:
        data = self.world.channel_object(channel)
        self._gateway.push(Event(type=kind, intent=Intent.GUILDS, data=data, guild=GUILD_ID))

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
        thread: str | None = None,
        mention: bool = True,
    ) -> str:
        """A user writes; in a group the text begins with a mention unless ``mention`` is False.

        ``thread`` is the name of a thread in the group, whose chat is called "chat/thread". An
        edit keeps the message id. Raises KeyError when ``reply_to`` or ``edit_of`` is unknown.
        """
        if group and mention:
            text = f"<@{BOT_ID}> {text}"
        if edit_of is not None:
            channel, message = self.world.find(edit_of)
            message |= {"content": text, "edited_timestamp": timestamp()}
            kind = "MESSAGE_UPDATE"
        else:
            channel = self._text_channel(chat) if group else self.world.direct(chat)
            if thread is not None:
                channel = self._thread(channel, thread)
            quoted = None if reply_to is None else channel.messages[int(reply_to)]
            message = self.world.post(channel, self.world.user(sender), text, to=quoted)
            kind = "MESSAGE_CREATE"
        for name, data in (("image.png", image), file or ("", None)):
            if data is not None:
                self.world.attach(message, name, data)
        return self._said(kind, channel, message, sender)

    def forward(self, message_id: str, *, chat: str = "alice", sender: str = "alice") -> str:
        """A user forwards a message into the private chat. Returns the new message's id.

        Raises KeyError when the message is unknown.
        """
        origin, told = self.world.find(message_id)
        channel = self.world.direct(chat)
        message = self.world.post(channel, self.world.user(sender), "", copy_of=(origin, told))
        return self._said("MESSAGE_CREATE", channel, message, sender)

    def _said(self, kind: str, channel: Channel, message: Json, sender: str) -> str:
        key, text = str(message["id"]), str(message["content"])
        self.said.append(Said(id=key, chat=channel.name, sender=sender, text=text, at=self.now()))
        self.note("said", id=key, chat=channel.name)
        data = message if channel.type == DM else message | {"member": member()}
        self._calls.tell(kind, channel, data, said=key)
        if self.fault("link_unfurl") is not None:
            card = {"embeds": [{"type": "link", "url": "https://example.org/"}]}
            self._calls.tell("MESSAGE_UPDATE", channel, data | card | {"edited_timestamp": None})
        return key

    def delete(self, message_id: str) -> None:
        """A user deletes a message. Raises KeyError when it is unknown."""
        channel, _ = self.world.find(message_id)
        del channel.messages[int(message_id)]
        self._calls.tell("MESSAGE_DELETE", channel, channel.where() | {"id": message_id})

    async def _attachment(self, request: web.Request) -> web.Response:
        stored = self.world.signed_file(request.query.get("hm", ""))
        if stored is None:
            return web.Response(status=404, text="This content is no longer available.")
        return web.Response(body=stored.data, content_type="application/octet-stream")

    # -- trouble on demand --------------------------------------------------------------------

    async def close_all(self, code: int, reason: str = "") -> None:
        """Close every socket with a code; returns when the frames are on their way."""
        links = list(self._gateway.links)
        for link in links:
            self._gateway.hang_up(link, code, reason)
        for link in links:
            await link.flushed()

    async def goodbye(self, code: int | None = None, silence: float = 0.0) -> None:
        """Ask every client to reconnect (op 7); with a code the sockets are closed as well.

        With ``silence`` they are closed so many seconds later, and carry no event meanwhile.
        """
        links = list(self._gateway.links)
        for link in links:
            self._gateway.goodbye(link, code, silence)
        for link in links:
            await link.flushed()

    async def invalidate(self, resumable: bool = False) -> None:
        """Tell live links that their session is gone (op 9); the sockets stay open."""
        links = [link for link in self._gateway.links if link.session]
        for link in links:
            session = link.session
            self._gateway.detach(link)
            link.send({"op": Op.INVALID_SESSION, "d": resumable, "s": None, "t": None})
            if session and not resumable:
                self._gateway.forget(session, "invalidated")
        for link in links:
            await link.flushed()

    def drop_all(self) -> None:
        """Reset every socket."""
        for link in list(self._gateway.links):
            self._gateway.drop(link)

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in list(self._gateway.links):
            self._gateway.freeze(link)

    def revoke(self) -> None:
        """The owner resets the token: REST answers 401, sockets are closed with 4004."""
        self.revoked = True
        for link in list(self._gateway.links):
            self._gateway.hang_up(link, Close.AUTHENTICATION_FAILED, "Authentication failed.")

    def set_token(self, new: str) -> None:
        """The bot's token from now on; it undoes ``revoke``."""
        self.token, self.revoked = new, False


if __name__ == "__main__":
    by_hand.run(DiscordSimulator)
