"""A simulated Slack workspace: Socket Mode, the Web API calls of a chat bot, files.

The official Python SDK (slack-sdk 3.47.0) runs on it. Where the platform's behaviour is not
documented the choice made here is named in a comment. Choices that concern the truth:

* There is no resume. What happens while no socket is up is ``lost`` for the stream at once; what
  was sent and never acked is ``lost`` after the last retry. ``conversations.history`` and
  ``conversations.replies`` know all of it.
* A mention is told by two events, ``app_mention`` and ``message``; it is lost when both are.
* What the bot posts comes back as an event with its ``bot_id``, as on the real platform.

Addresses follow the Host header of the request (of the socket, for files in events), so that a
relay before the simulator stays in the path.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said, wall_clock
from holdfast.lab.simulators.slack_calls import WebCalls
from holdfast.lab.simulators.slack_platform import Token, Workspace
from holdfast.lab.simulators.slack_rules import Event, Goodbye, Json, Occurrence
from holdfast.lab.simulators.slack_socket import Sockets
from holdfast.lab.simulators.slack_world import Channel

__all__ = ["SlackSimulator", "Token"]


class SlackSimulator(Workspace):
    """A workspace with one app; what tests may change is named in ``Workspace``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._sockets = Sockets(self)
        self._calls = WebCalls(self)

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the Web API, the sockets, the upload addresses and the private files."""
        table = {"apps.connections.open": (Token.APP, self._sockets.open)} | self._calls.table()
        call = self.call(table)

        async def api(request: web.Request) -> web.StreamResponse:
            return await self.answer(request, call)

        app.router.add_route("*", "/api/{method}", api)
        app.router.add_get("/link/", self._sockets.accept)
        app.router.add_post("/upload/v1/{key}", self._calls.receive_upload)
        app.router.add_get("/files-pri/{key}/{name}", self._calls.download)

    async def on_stop(self) -> None:
        """Reset every socket; messages, files and unacked events are remembered."""
        self.drop_all()

    def listening(self) -> bool:
        """Whether a socket after hello exists that is neither mute nor frozen nor closing."""
        return self._sockets.reaches_bot()

    def connections(self) -> int:
        """How many sockets are live, frozen ones included."""
        return len(self._sockets.live())

    def channel_id(self, name: str, *, group: bool = False, kind: str = "channel") -> str:
        """The id of a chat, which the bot may write to from now on.

        A new group is of a ``kind``: channel, group (a private channel) or mpim (a group chat).
        """
        return self.world.channel(name, group=group, kind=kind).id

    def user_id(self, name: str) -> str:
        """The id of a user."""
        return self.world.user(name)

    # -- what users do ------------------------------------------------------------------------

    def say(
        self,
        text: str,
        *,
        chat: str = "alice",
        sender: str = "alice",
        group: bool = False,
        mention: bool = True,
        image: bytes | None = None,
        file: tuple[str, bytes] | None = None,
        reply_to: str | None = None,
        edit_of: str | None = None,
    ) -> str:
        """A user writes; in a group the text starts with a mention unless ``mention`` is False.

        Returns the ``ts``, which an edit keeps. ``reply_to`` answers in the thread of a message.
        Raises ApiError when ``reply_to`` or ``edit_of`` is no message of the chat.
        """
        channel, user = self.world.channel(chat, group=group), self.world.user(sender)
        mention = mention and group
        if edit_of is not None:
            key = self._edit(channel, edit_of, user, text)
        else:
            given = [("image.png", image), file or ("", None)]
            files = [self.world.file(n, data).describe() for n, data in given if data is not None]
            content = self.world.by_user(user, text, files, mention=mention)
            message = self.world.post(channel, self.stamp(), content, reply_to)
            key = message["ts"]
            body = dict(message) | ({"subtype": "file_share"} if files else {})
            self._tell(channel, body, Occurrence(key), mention=mention)
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        self.note("said", id=key, chat=chat, text=text[:80])
        return key

    def delete(self, key: str, *, chat: str = "alice", group: bool = False) -> None:
        """A user deletes a message. Raises ApiError when it is no message of the chat."""
        channel = self.world.channel(chat, group=group)
        channel.find(key)
        del channel.messages[key]
        body = {"type": "message", "subtype": "message_deleted", "hidden": True, "deleted_ts": key}
        self._tell(channel, body | {"ts": self.stamp()}, Occurrence(key))

    def echo(self, channel: Channel, body: Json) -> None:
        """The bot's own post, change or deletion comes back as an event."""
        self._tell(channel, body, Occurrence(body["ts"], own=True))

    def _edit(self, channel: Channel, key: str, user: str, text: str) -> str:
        message, ts = channel.find(key), self.stamp()
        content = self.world.by_user(user, text, [], mention=False)
        before = self.world.edit(message, ts, {"text": content["text"]})
        changed = {"subtype": "message_changed", "hidden": True, "previous_message": before}
        body = {"type": "message", "ts": ts, "message": dict(message)} | changed
        self._tell(channel, body, Occurrence(key))
        return key

    def _tell(
        self, channel: Channel, body: Json, occurrence: Occurrence, *, mention: bool = False
    ) -> None:
        """Make the events that the app subscribed to, and send them."""
        body = body | {"channel": channel.id, "event_ts": body["ts"]}
        told = Event(body | {"channel_type": channel.kind}, occurrence, int(wall_clock()))
        events: list[Event] = []
        if mention and "app_mention" in self.subscriptions:
            dropped = {"subtype", "parent_user_id"}
            twin = {k: v for k, v in body.items() if k not in dropped} | {"type": "app_mention"}
            events.append(Event(twin, occurrence, told.at))
        late = self.faults.take("mention_twin") if mention else None
        if late is not None:
            self._sockets.push_later(replace(told), late.get("delay", 0.5))
        elif channel.subscription in self.subscriptions:
            events.append(told)
        self._sockets.push(events)

    # -- trouble on demand --------------------------------------------------------------------

    async def close_all(self, code: int) -> None:
        """Close every socket with a code; returns when the frames are on their way."""
        links = self._sockets.live()
        for link in links:
            self._sockets.hang_up(link, code)
        for link in links:
            await link.flushed()

    async def goodbye(self, reason: str = Goodbye.WARNING) -> None:
        """Announce the end of every socket: 10 s after a warning, at once otherwise."""
        links = self._sockets.live()
        for link in links:
            self._sockets.say_goodbye(link, reason)
        for link in links:
            await link.flushed()

    def drop_all(self) -> None:
        """Reset every socket."""
        for link in list(self._sockets.links):
            self._sockets.detach(link)
            link.abort()

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in self._sockets.live():
            self._sockets.freeze(link)

    async def disable(self) -> None:
        """Switch Socket Mode off: ``link_disabled`` on every socket, also on new ones."""
        self._sockets.enabled = False
        await self.goodbye(Goodbye.DISABLED)

    def enable(self) -> None:
        """Undo ``disable``."""
        self._sockets.enabled = True

    def revoke(self, kind: Token, error: str = "token_revoked") -> None:
        """Calls with this token are refused from now on; sockets stay up (undocumented)."""
        self.token_errors[kind] = error

    def restore(self, kind: Token) -> None:
        """Undo ``revoke``."""
        self.token_errors.pop(kind, None)


if __name__ == "__main__":
    by_hand.run(SlackSimulator)
