"""Catching up on Slack: the histories of all chats, read from our place on, as Slack allows.

Sources: https://docs.slack.dev/reference/methods (users.conversations, conversations.history,
conversations.replies) and /apis/web-api/rate-limits. What is still to be read is in the cursor
(`slack_history`), so that neither a refusal nor a restart ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from holdfast.adapter import BadFrame, HttpFailed, Link, Outcome, SendFailed, decode
from holdfast.adapters.slack_api import Api, Bot
from holdfast.adapters.slack_history import (
    OVERLAP,
    TYPES,
    Page,
    overheard_in,
    passed,
    readable,
    remember,
    seconds,
    told,
)
from holdfast.adapters.slack_wire import Message
from holdfast.supervision import Kind

AHEAD: Final = 10.0
"""Seconds in which live events wait in the socket so that each chat keeps its order; an ack later
than 3 s only makes Slack send again, but its pings must not wait for long."""

SIDE_BY_SIDE: Final = 4
"""Chats read at once."""

PAUSE: Final = 60.0
"""Seconds after which what failed is asked again, where Slack does not say: limits are a minute's
(Tier 3: 50 calls and a burst)."""

OVERLAP_UNTIL: Final = 12 * 3600.0
"""Age of a mark, in seconds, from which nothing is read twice: the journal knows ids for a day."""

SHARED_OVERLAP: Final = OVERLAP_UNTIL
"""Seconds before our place that are read where a hello tells of other sockets of the app: they may
have taken events since the last hello, which is some hours ago."""

SHARED_EVERY: Final = 240.0
"""Least seconds between two looks for what they take while they stay."""

PATIENCE: Final = OVERLAP_UNTIL
"""Seconds for which a chat that can not be read is asked again: later the journal would not know
what the stream has brought of it meanwhile."""

THREAD_AGE: Final = 86_400.0
"""Seconds before the mark in which a root message is looked at for new replies."""

ASKED: Final = 100
"""Most chats that may be behind."""

PAGES, PAGE = 5, 200
"""Most requests for one chat or thread, and the messages in each."""

GONE: Final = frozenset(
    f"slack_{error}"
    for error in ("channel_not_found", "not_in_channel", "is_archived", "thread_not_found")
)
"""Refusals of chats and threads that are no longer ours."""


class Chat(msgspec.Struct):
    """A chat we are in."""

    id: str
    is_im: bool = False
    is_mpim: bool = False
    is_private: bool = False

    @property
    def kind(self) -> str:
        """As events have it in ``channel_type``."""
        if self.is_im or self.is_mpim:
            return "im" if self.is_im else "mpim"
        return "group" if self.is_private else "channel"


class Chats(msgspec.Struct):
    """users.conversations."""

    channels: list[Chat]
    response_metadata: dict[str, Any] | None = None


class CatchUp:
    """Delivers what was said since the cursor's mark, chat by chat, until nothing is behind.

    What fails for the moment stays behind, for `go_on` or the next run. What Slack refuses is
    reported as a gap, with the reason. Not found are replies in a thread that is neither among the
    remembered ones nor begun in the last day nor among the newest messages read.

    Where the app is ``shared`` with another program's socket, each event goes to one of them, and
    nothing tells which went there: the histories are read again and again.
    """

    def __init__(self, api: Api, link: Link, me: Bot, *, shared: bool = False) -> None:
        self._api, self._link, self._me = api, link, me
        self._shared, self._overlap = shared, SHARED_OVERLAP if shared else OVERLAP
        self._tried, self._again = asyncio.Event(), asyncio.Event()
        self._not_before = 0.0
        """On the loop's clock."""
        self._trouble: dict[str, str] = {}
        self._lost_since = self._fell_behind_at = ""

    def fall_behind(self) -> None:
        """All chats are to be read from our place on. Stored with the next commit."""
        mark = self._link.cursor["mark"]
        self._fell_behind_at = "" if self._left else mark
        self._link.cursor.setdefault("unlisted", mark)

    def go_on(self) -> None:
        """What failed, or is to be read again, may be, if its time is over."""
        if asyncio.get_running_loop().time() >= self._not_before:
            self._again.set()

    async def ahead(self) -> None:
        """Wait until each chat was read or has failed once, for `AHEAD` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AHEAD):
                await self._tried.wait()

    async def run(self) -> None:
        """Until nothing is behind; for ever where the app is shared.

        Raises StoreError and Disconnect; cancelling is safe.
        """
        while self._left or self._shared:
            try:
                await self._round()
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors
            finally:
                self._report()
            self._tried.set()
            self._again.clear()
            if self._left:
                await self._again.wait()
            elif self._shared:
                self._wait(SHARED_EVERY)
                await self._again.wait()
                self._overlap = OVERLAP
                self.fall_behind()
                self._fell_behind_at = ""  # the connection before has nothing to do with it
        self._tried.set()

    @property
    def _left(self) -> bool:
        cursor = self._link.cursor
        return readable(self._me) and bool("unlisted" in cursor or cursor.get("behind"))

    def _report(self) -> None:
        if self._trouble:
            # What an earlier run left behind may be lost from there on; else the connection before
            # was alive for longer than the mark tells.
            new = self._lost_since == self._fell_behind_at
            since = None if new else seconds(self._lost_since)
            reasons = "; ".join(self._trouble.values())
            self._link.gap(f"Slack does not replay, and: {reasons}", since)
            self._trouble, self._lost_since = {}, ""

    def _missed(self, code: str, reason: str, since: str) -> None:
        """Something since then is lost to us."""
        self._trouble[code] = reason
        self._lost_since = min(self._lost_since or since, since, key=seconds)

    # -- which chats --------------------------------------------------------------------------

    async def _list(self) -> None:
        """Note which chats are behind. Raises SendFailed and HttpFailed: then it is asked again."""
        cursor = self._link.cursor
        if (since := cursor.get("unlisted")) is None:
            return
        self._leave_behind(dict.fromkeys(reversed(cursor.get("chats", ())), ""), since)
        self._leave_behind({chat.id: chat.kind for chat in await self._chats(since)}, since)
        del cursor["unlisted"]

    def _leave_behind(self, chats: Mapping[str, str], since: str) -> None:
        """Note chats, given with their kinds; one that is behind already keeps its place."""
        behind = dict(self._link.cursor.get("behind", {}))
        for chat, kind in chats.items():
            before, known, noted = behind.get(chat, (since, "", self._link.clock()))
            if chat in behind or len(behind) < ASKED:
                behind[chat] = [before, kind or known, noted]
            else:
                self._missed("chats", f"only {ASKED} chats are asked, of {len(chats)}", since)
        self._link.cursor["behind"] = behind

    async def _chats(self, since: str) -> list[Chat]:
        """The chats we are in, as far as we may know them. Raises SendFailed and HttpFailed."""
        scopes = self._me.scopes
        types = [kind for scope, kind in TYPES.items() if _may(scopes, scope, "history", "read")]
        deaf = [s for s in TYPES if _may(scopes, s, "history") and not _may(scopes, s, "read")]
        if deaf:
            missing = ", ".join(f"{scope}:read" for scope in deaf)
            self._missed("read", f"without {missing} chats not yet known can not be found", since)
        if not types:
            return []
        params = {"types": ",".join(types), "exclude_archived": "true", "limit": "999"}
        try:
            page = await self._ask("users.conversations", Chats, params)
        except SendFailed as refused:
            self._refused(refused, since)
            return []
        if (page.response_metadata or {}).get("next_cursor"):
            count = len(page.channels)
            self._missed("chats", f"only {ASKED} chats are asked, of more than {count}", since)
        channels: list[Chat] = page.channels
        return channels

    # -- what was said in them ----------------------------------------------------------------

    async def _round(self) -> None:
        """Look once into each chat that is behind."""
        try:
            await self._list()
        except (SendFailed, HttpFailed) as error:
            self._put_off(error)
            if _for_all(error):
                return
        todo = list(self._link.cursor.get("behind", {}))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(SIDE_BY_SIDE):
                tasks.create_task(self._work(todo), name="slack histories")
        await self._link.commit()

    async def _work(self, todo: list[str]) -> None:
        while todo:
            chat = todo.pop(0)
            since, kind, noted = self._link.cursor["behind"][chat]
            try:
                found = await self._said_in(chat, since)
            except (SendFailed, HttpFailed) as error:
                self._put_off(error)
                if _for_all(error):
                    todo.clear()
                if self._link.clock() - noted > PATIENCE:
                    self._missed(error.cause.code, f"{error}, for {PATIENCE / 3600:.0f} h", since)
                    await self._done(chat, kind, [])
            else:
                await self._done(chat, kind, found)

    async def _done(self, chat: str, kind: str, found: list[Message]) -> None:
        """Hand over what was for us; then the chat is no longer behind."""
        cursor, overheard = self._link.cursor, self._overhears(chat, kind)
        taken = [told(message, chat, self._me, overheard=overheard) for message in found]
        new = [message for message in taken if message is not None]
        for message in new:
            await self._link.take(message)
        if new:
            await self._link.commit()
        # Not before: what another chat stores beside it stores the cursor, too.
        for last in found[-1:]:
            passed(cursor, last)
            if new:
                remember(cursor, last, chat)
        cursor["behind"] = {key: at for key, at in cursor["behind"].items() if key != chat}

    def _overhears(self, chat: str, kind: str) -> bool:
        """Whether the stream brings what does not name us, too, by what it has brought."""
        if self._link.cursor.get("overhears") is True:
            return True  # told without the kind: nothing may be lost for that
        known = overheard_in(self._link.cursor)
        return kind in known or any(chat in chats for chats in known.values())

    async def _said_in(self, chat: str, since: str) -> list[Message]:
        """What is new in a chat and its threads, oldest first. Raises SendFailed, HttpFailed."""
        floor = self._floor(since)
        seen = await self._history(chat, None, since)
        threads = [m.ts for m in seen if seconds(m.latest_reply or "") > floor]
        for key in self._link.cursor.get("threads", ()):
            place, _, thread = key.partition(":")
            if place == chat and thread not in threads:
                threads.append(thread)
        for thread in threads:
            seen += await self._history(chat, thread, since)
        new = {m.ts: m for m in seen if seconds(m.ts) > floor}
        return [new[ts] for ts in sorted(new, key=seconds)]

    def _floor(self, since: str) -> float:
        """Where to read from, by which to know all since then."""
        mark, begun = seconds(since), seconds(self._link.cursor.get("floor", ""))
        overlap = self._overlap if self._link.clock() - mark < OVERLAP_UNTIL else 0.0
        return max(mark - overlap, begun)

    async def _history(self, chat: str, thread: str | None, since: str) -> list[Message]:
        """Messages of a chat from the newest on, or of a thread, back to our place."""
        floor = self._floor(since)
        params = {"channel": chat, "limit": str(PAGE)}
        if thread is None:
            method, oldest = "conversations.history", floor - THREAD_AGE
        else:
            method, oldest = "conversations.replies", floor
            params["ts"] = thread
        params["oldest"] = f"{oldest:.6f}"
        seen: list[Message] = []
        for _ in range(PAGES):
            try:
                page = await self._ask(method, Page, params)
            except SendFailed as refused:
                self._refused(refused, since)
                return seen
            shown = self._decoded(page.messages)
            seen += shown
            reached = thread is None and shown and seconds(shown[-1].ts) <= floor
            if reached or not page.cursor:
                return seen
            params["cursor"] = page.cursor
        self._missed("pages", f"more than {PAGES} pages of messages in one chat", since)
        return seen

    # -- calls --------------------------------------------------------------------------------

    def _refused(self, refused: SendFailed, since: str) -> None:
        """A loss, or a chat that is no longer ours; raises again what may pass by itself."""
        cause = refused.cause
        if refused.outcome is not Outcome.REFUSED:
            raise refused
        if cause.code not in GONE:
            self._missed(cause.code, cause.message, since)

    def _put_off(self, error: SendFailed | HttpFailed) -> None:
        wait = error.cause.retry_after
        self._wait(PAUSE if wait is None else wait)

    def _wait(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        self._not_before = max(self._not_before, until)

    async def _ask(self, method: str, kind: type[Any], params: dict[str, str]) -> Any:
        return await self._api.call(self._link.http, method, kind, params)

    def _decoded(self, raws: list[msgspec.Raw]) -> list[Message]:
        messages: list[Message] = []
        for raw in raws:
            try:
                messages.append(decode(Message, bytes(raw)))
            except BadFrame as error:
                self._link.skip(str(error), bytes(raw))
        return messages


def _for_all(error: SendFailed | HttpFailed) -> bool:
    """Whether the next call would fare no better."""
    return error.cause.kind in (Kind.THROTTLED, Kind.CREDENTIALS)


def _may(scopes: frozenset[str] | None, scope: str, *rights: str) -> bool:
    return scopes is None or all(f"{scope}:{right}" in scopes for right in rights)
