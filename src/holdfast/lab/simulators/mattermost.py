"""A simulated Mattermost server: REST API v4, event WebSocket with resume, files.

The Python client mattermostdriver 7.3.2 runs on it. Choices that concern the truth:

* A post is in the database whether or not a socket brought it. ``lost`` means lost to every
  socket: only ``GET /channels/{id}/posts`` brings it now, which is noted as ``fetched``.
* A client proves what it has only by the ``sequence_number`` of a resume, noted as ``ack``.
* Stopping the server forgets every connection id, as the end of its process does; posts stay.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said
from holdfast.lab.simulators.mattermost_gateway import Hub
from holdfast.lab.simulators.mattermost_rest import Calls
from holdfast.lab.simulators.mattermost_world import BOT_NAME, MattermostWorld

__all__ = ["MattermostSimulator"]


class MattermostSimulator(MattermostWorld):
    """The server with one bot; what tests may change is named in ``MattermostWorld``."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self._hub = Hub(self)
        self._calls = Calls(self, self._hub.seen)
        self.publish = self._hub.push

    def routes(self, app: web.Application) -> None:
        """Add the event socket and the REST API."""
        app.router.add_get("/api/v4/websocket", self._hub.accept)
        self._calls.add_to(app)

    async def on_stop(self) -> None:
        """Reset sockets and forget connection ids."""
        self._hub.stop()

    def listening(self) -> bool:
        """Whether an authenticated socket exists that is neither mute, frozen nor revoked."""
        return self._hub.reaches_bot()

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
        """A user writes to the bot, or with ``edit_of`` changes a post. Returns the post's id.

        ``reply_to`` may name any post of a thread; in a group the bot is mentioned.
        """
        message = f"@{BOT_NAME} {text}" if group else text
        if edit_of is not None:
            self.note("said", id=edit_of, chat=chat)
            self.edit(self.posts[edit_of], message)
            return edit_of
        author, channel = self.user_id(sender), self.channel_id(chat, group=group)
        root = "" if reply_to is None else self.posts[reply_to]["root_id"] or reply_to
        files = [("image.png", image)] if image is not None else []
        infos = [
            self.store(author, channel, name, data)
            for name, data in files + ([] if file is None else [file])
        ]
        more: dict[str, Any] = {"file_ids": [info["id"] for info in infos]}
        post = self.draft(author, channel, message, root, **more)
        self.said.append(Said(id=post["id"], chat=chat, sender=sender, text=text, at=self.now()))
        self.note("said", id=post["id"], chat=chat)
        self.create(post)
        return str(post["id"])

    def erase(self, post: str) -> None:
        """A user deletes a post."""
        self.delete(self.posts[post])

    # -- trouble on demand --------------------------------------------------------------------

    def close_all(self, code: int = 1001) -> None:
        """Close every socket with a code, by default as a server that shuts down; 0 ends TCP."""
        for link in list(self._hub.links):
            self._hub.hang_up(link, code)

    def drop_all(self) -> None:
        """Reset every socket; connections stay resumable."""
        for link in list(self._hub.links):
            self._hub.detach(link)
            link.reset()

    def restart(self) -> None:
        """Reset every socket and forget every connection id; posts stay."""
        self._hub.stop()

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in list(self._hub.links):
            self._hub.freeze(link)

    def revoke(self) -> None:
        """Invalidate every token: sockets stay open and silent, pings FAIL, REST answers 401."""
        self.tokens.clear()

    def set_token(self, new: str) -> None:
        """Set the bot's token and undo ``revoke``."""
        self.tokens.discard(self.token)
        self.token = new
        self.tokens.add(new)


if __name__ == "__main__":
    by_hand.run(MattermostSimulator)
