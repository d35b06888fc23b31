"""One connection to Mattermost's event socket, and what it must fetch because it missed it.

Protocol: https://developers.mattermost.com/api-documentation/ ("WebSocket") and the server's
source (server/channels/app/platform/web_conn.go, web_hub.go: "reliable WebSockets").

The cursor holds ``connection`` and ``seq``, the stream and the number of its next event; ``since``,
a date up to which all has been taken in; ``start``, when the account first came up: what is older
is history; and ``behind``, the channels still to be fetched, each with a ``since`` of its own.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from holdfast.adapter import BadFrame, Continuity, Disconnect, Link, WebSocket, Whole, decode
from holdfast.adapters.mattermost_api import (
    TOKEN_HINT,
    Api,
    Channel,
    Error,
    Page,
    Post,
    path_part,
    withheld,
)
from holdfast.adapters.mattermost_posts import Desk
from holdfast.messages import Inbound
from holdfast.supervision import Cause, Kind

BEAT: Final = 30.0
"""Seconds between two pings, as in the official JavaScript client."""

SILENCE: Final = 60.0
"""Two pings unanswered, and no ping of the server's, which come every 60 s."""

OVERLAP: Final = 60_000
"""Milliseconds fetched again: events of posts made at once come in any order, in a cluster late.
What is known is dropped by the journal."""

OVERLAP_UNTIL: Final = 12 * 3_600_000
"""Milliseconds after which nothing is fetched twice: the journal knows ids for a day."""

SINCE_PAGE: Final = 1000
"""Posts in an answer to ``since``, not counting the roots of their threads. Which ones, when more
were changed, is up to the server's database (GetPostsSince)."""

PAGE, PAGES = 200, 50
"""Most posts in any other answer, and such answers read of one channel."""

LOOKS: Final = 10
"""Channels with new posts looked at while the stream is quiet, and posts in each."""

NOT_AUTHENTICATED: Final = "api.web_socket_router.not_authenticated.app_error"

PROXY_HINT: Final = (
    "The token itself is good. The proxy in front of Mattermost must pass on the Authorization "
    "header of WebSocket upgrades."
)


class Frame(msgspec.Struct):
    """An event, or with ``status`` an answer to a request of ours."""

    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")
    seq: Whole | None = None
    status: str = ""
    error: Error = msgspec.field(default_factory=Error)


class Hello(msgspec.Struct):
    """First event of a new stream."""

    connection_id: str


class Pong(msgspec.Struct):
    """The answer to a ping."""

    server_time: Whole


class Posted(msgspec.Struct):
    """``posted`` and, with the post alone, ``post_edited``; JSON inside of JSON."""

    post: str
    channel_type: str = ""
    sender_name: str = ""
    mentions: str = "[]"


class Stream:
    """One event socket, from dial to end."""

    def __init__(self, api: Api, link: Link, desk: Desk, via: str) -> None:
        self._api, self._link, self._desk, self._via = api, link, desk, via
        self._number = itertools.count(1)
        self._now = 0
        """When the stream was opened, by the server's clock: the date of the first pong."""
        self._unsaved = False
        """Events have passed that brought nothing to store, so their numbers are not stored."""

    async def run(self) -> None:
        """Ready at the answer to a ping, by which time it is known whether the stream resumed."""
        link, cursor = self._link, self._link.cursor
        resuming = link.resume and {"connection", "seq"} <= cursor.keys()
        link.step("connect")
        ws = await link.websocket(self._address(resuming), headers=self._api.headers)
        link.step("hello")
        resumed, held = await self._open(ws, resuming)
        if not resumed:
            link.step("channels")
            await self._fall_behind()
        link.on_beat(lambda: self._ping(ws))
        link.on_probe(lambda: self._ping(ws))
        how = Continuity.RESUMED if resumed else Continuity.CAUGHT_UP
        link.ready(how, beat=BEAT, silence=SILENCE, resumable=True)
        # Before any event, so that each channel keeps its order.
        await self._catch_up()
        for frame in held:
            await self._take(frame)
        async for raw in ws:
            if (read := self._read(raw)) is not None:
                await self._take(read)

    def _address(self, resuming: bool) -> str:
        if not resuming:
            return self._api.socket
        stream, seq = self._link.cursor["connection"], self._link.cursor["seq"]
        query = urlencode({"connection_id": stream, "sequence_number": seq})
        return f"{self._api.socket}?{query}"

    async def _ping(self, ws: WebSocket) -> None:
        await ws.send(msgspec.json.encode({"seq": next(self._number), "action": "ping"}).decode())

    async def _open(self, ws: WebSocket, resuming: bool) -> tuple[bool, list[Frame]]:
        """Whether the old stream goes on, and the events that came meanwhile.

        A new stream begins with hello; an old one says nothing at all when nothing was missed,
        and our ping is answered either way. Raises Disconnect.
        """
        cursor, held = self._link.cursor, list[Frame]()
        resumed, pong = resuming, None
        greeted = resuming
        await self._ping(ws)
        while pong is None or not greeted:
            frame = self._read(await ws.receive())
            if frame is None:
                continue
            if frame.event == "hello":
                stream = decode(Hello, bytes(frame.data)).connection_id
                cursor.update(connection=stream, seq=(frame.seq or 0) + 1)
                resumed, greeted = False, True
            elif frame.event:
                held.append(frame)
            else:
                pong = self._pong(frame, opening=True)
        self._now = pong.server_time
        return resumed, held

    # -- events -------------------------------------------------------------------------------

    def _read(self, raw: str | bytes) -> Frame | None:
        try:
            frame = decode(Frame, raw)
        except BadFrame as error:
            self._link.skip(str(error), raw)
            return None
        if frame.status or (frame.event and frame.seq is not None):
            return frame
        self._link.skip("neither an event nor an answer", raw)
        return None

    async def _take(self, frame: Frame) -> None:
        """An event, whose number is stored with what it brought, or an answer to a ping."""
        link, cursor = self._link, self._link.cursor
        if not frame.event:
            if frame.error.id == NOT_AUTHENTICATED:
                await forget_stream(link)
            try:
                self._pong(frame)
            except BadFrame as error:  # an answer all the same
                link.skip(str(error), bytes(frame.data))
            if self._unsaved:
                await link.commit()
                self._unsaved = False
            return
        if frame.seq != cursor["seq"]:
            text = f"event {frame.seq} came where {cursor['seq']} was due: some are lost"
            raise Disconnect(Cause(Kind.SESSION, "mattermost_seq_gap", text))
        try:
            message = await self._message(frame)
        except BadFrame as error:
            link.skip(str(error), bytes(frame.data))
            message = None
        cursor["seq"] += 1
        self._unsaved = message is None
        await link.take(message)

    def _pong(self, frame: Frame, *, opening: bool = False) -> Pong:
        """The server's answer to a ping. Raises Disconnect when it denies us."""
        if frame.status == "OK":
            self._link.acked()
            return decode(Pong, bytes(frame.data))
        said = f"a ping was answered {frame.error.id or frame.status}: {frame.error.message}"
        if frame.error.id != NOT_AUTHENTICATED:
            raise Disconnect(Cause(Kind.PROTOCOL, "mattermost_ping_refused", said))
        if opening:
            text = f"the token is good for calls, but not on the event socket: {said}"
            raise Disconnect(Cause(Kind.PROTOCOL, "mattermost_socket_denied", text, PROXY_HINT))
        raise Disconnect(Cause(Kind.CREDENTIALS, "mattermost_session_revoked", said, TOKEN_HINT))

    async def _message(self, frame: Frame) -> Inbound | None:
        """The message an event brings, if it brings one for us. Raises BadFrame."""
        if frame.event not in ("posted", "post_edited"):
            return None
        news = decode(Posted, bytes(frame.data))
        post = decode(Post, news.post)
        edit = frame.event == "post_edited"
        date = post.edit_at if edit else post.create_at
        self._link.cursor["since"] = max(self._link.cursor["since"], date)
        # A post is also "edited" when it is pinned or gets a preview.
        if not self._desk.concerns(post) or (edit and not post.edit_at):
            return None
        if news.channel_type:
            self._desk.learn(Channel(id=post.channel_id, type=news.channel_type))
        if news.sender_name:
            self._desk.learn_name(post.user_id, news.sender_name.removeprefix("@"))
        notified = f'"{self._desk.me.id}"' in news.mentions
        return await self._desk.message(
            self._link.http, post, via=self._via, edit=edit, notified=notified
        )

    # -- what was missed ----------------------------------------------------------------------

    async def _fall_behind(self) -> None:
        """A new stream: note what has to be fetched, durably, before anything of it is taken."""
        cursor = self._link.cursor
        start = cursor.setdefault("start", self._now)
        since, cursor["since"] = cursor.get("since", start), self._now
        behind: dict[str, int] = dict(cursor.get("behind", {}))
        for channel in await self._api.ask(self._link.http, "/users/me/channels", list[Channel]):
            self._desk.learn(channel)
            if channel.last_post_at > self._floor(since):
                behind.setdefault(channel.id, since)
        cursor["behind"] = behind
        await self._link.commit()

    def _floor(self, since: int) -> int:
        """The date to fetch from, by which to know all up to ``since``."""
        overlap = OVERLAP if self._now - since < OVERLAP_UNTIL else 0
        floor: int = max(since - overlap, self._link.cursor["start"])
        return floor

    async def _catch_up(self) -> None:
        """Fetch channel by channel; what is done stays done when the connection ends meanwhile."""
        cursor = self._link.cursor
        for channel, since in dict(cursor.get("behind", {})).items():
            messages = await self._missed(channel, since)
            cursor["behind"] = {k: v for k, v in cursor["behind"].items() if k != channel}
            await self._link.deliver(*messages)

    async def _missed(self, channel: str, since: int) -> list[Inbound]:
        """What people wrote since then, oldest first; what is known already may be among it."""
        floor = self._floor(since)
        found: list[Inbound] = []
        for post in await self._posts(channel, floor):
            if self._desk.entered(post):
                found.clear()  # what was said before we came in is not for us
            elif self._desk.concerns(post):
                found += await self._versions(post, floor, since)
        return found

    async def _versions(self, post: Post, floor: int, since: int) -> list[Inbound]:
        """A post nobody told us of is new as it is; one we may know is perhaps an edit."""
        messages: list[Inbound] = []
        http, via = self._link.http, self._via
        if post.create_at > floor:
            messages.append(await self._desk.message(http, post, via=via))
        if post.create_at <= since and post.edit_at > floor:
            messages.append(await self._desk.message(http, post, via=via, edit=True))
        return messages

    async def _posts(self, channel: str, floor: int) -> list[Post]:
        """All that was made or changed since, oldest first; a gap when that is too much."""
        changed, order = await self._page(channel, {"since": str(floor)}, floor)
        if len(order) < SINCE_PAGE:
            return changed
        made, whole = await self._newest(channel, floor)
        if whole:
            lost = f"so much changed in channel {channel} that edits of older posts may be missing"
        else:
            lost = f"too many posts in channel {channel} to fetch them all"
        self._link.gap(lost, floor / 1000)
        known = {post.id: post for post in changed + made}
        return sorted(known.values(), key=lambda post: post.create_at)

    async def _newest(self, channel: str, floor: int) -> tuple[list[Post], bool]:
        """The newest posts back to the floor, and whether it was reached."""
        query, posts = {"per_page": str(PAGE)}, list[Post]()
        for _ in range(PAGES):
            page, order = await self._page(channel, query, floor)
            posts += page
            if len(order) < PAGE or any(post.create_at <= floor for post in page):
                return posts, True
            query["before"] = order[-1]
        return posts, False

    async def _page(
        self, channel: str, query: dict[str, str], floor: int
    ) -> tuple[list[Post], list[str]]:
        """The readable posts of one answer, oldest first, and the ids of all, newest first."""
        path = f"/channels/{path_part(channel)}/posts"
        reply = await self._api.call(self._link.http, "GET", path, query=query)
        self._link.alive()
        if withheld(reply):
            cause = self._api.cause(reply)
            reason = f"the history of channel {channel} is refused: {cause.message}"
            self._link.gap(reason, floor / 1000)
            return [], []
        page = self._api.read(reply, Page)
        posts: list[Post] = []
        for raw in (page.posts.get(key) for key in reversed(page.order)):
            try:
                posts += [decode(Post, bytes(raw))] if raw is not None else []
            except BadFrame as error:
                self._link.skip(str(error), bytes(raw or b""))
        return posts, page.order


async def untold(api: Api, link: Link, desk: Desk) -> str | None:
    """A person's post later than all that the stream told. Raises Disconnect and HttpFailed."""
    since = link.cursor["since"]
    channels = await api.ask(link.http, "/users/me/channels", list[Channel])
    channels.sort(key=lambda channel: channel.last_post_at, reverse=True)
    for channel in channels[:LOOKS]:
        if channel.last_post_at <= since:
            break
        path = f"/channels/{path_part(channel.id)}/posts"
        reply = await api.call(link.http, "GET", path, query={"per_page": str(LOOKS)})
        if reply.status in (403, 404):
            continue  # not for us to read
        page = api.read(reply, Page)
        for raw in (page.posts.get(key) for key in page.order):
            with contextlib.suppress(BadFrame):
                post = decode(Post, bytes(raw or b""))
                if post.create_at <= since or desk.entered(post):
                    break
                if desk.concerns(post):
                    return f"post {post.id}"
    return None


async def forget_stream(link: Link) -> None:
    """Give the stream up: the server keeps nothing for one whose token was not valid.

    Resumed once the token is good again, it would hide the loss.
    """
    cursor: dict[str, Any] = link.cursor
    if cursor.pop("connection", None) is not None:
        await link.commit()
