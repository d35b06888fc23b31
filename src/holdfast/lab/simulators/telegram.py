"""Telegram's Bot API on loopback: ``getUpdates``, web hooks, sends, files, and their faults.

The rules follow the official documentation and the official server, tdlib/telegram-bot-api
(https://core.telegram.org/bots/api, spring 2026). python-telegram-bot runs on it unmodified.

Each section below uses only the sections above it; the last one is the platform itself.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, Self

import aiohttp
from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Said, Simulator, wall_clock
from holdfast.lab.simulators.telegram_hook import WebHook
from holdfast.lab.simulators.telegram_wire import (
    BETWEEN_POLLS,
    BY_SET_WEBHOOK,
    CONFLICT_SPACING,
    FUTURE_OFFSET,
    HOOK_ACTIVE,
    HOOK_DELAY_CEILING,
    MAX_DOWNLOAD,
    MAX_POLL,
    NOT_IN_HOOK_ANSWERS,
    OTHER_POLL,
    RETENTION,
    RIVAL,
    SENDS,
    TOKEN,
    BotApiError,
    Json,
    Params,
    ParkedPoll,
    Update,
    answer,
    bad_request,
    flag,
    hang_up,
    integer,
    merged_parameters,
    page,
    structure,
    throttled,
)
from holdfast.lab.simulators.telegram_world import Outbound, World


class TelegramSimulator(Simulator):
    """One bot on a simulated Bot API server.

    ``account()["base_url"]`` is the server root; clients append ``/bot<token>/<method>`` and
    ``/file/bot<token>/<path>``. Users and groups have names here and stable integer ids there.
    Message ids are unique over all chats (Telegram promises it within a chat only), so that
    ``Said.id`` alone identifies what a ``Heard.reply_to`` answers.
    """

    platform = "telegram"
    username = "gate_test_bot"

    FAULTS: ClassVar[Mapping[str, str]] = {
        "http_502": "any request: 502 with an HTML body",
        "http_504": "any request: 504 with an HTML body",
        "html_200": "any request: 200 with the HTML page of a captive portal",
        "malformed_json": "any request: 200 with a JSON body that is cut off",
        "unauthorized": "any request: 401, as after a revoked token (arm with times=None)",
        "rate_limited": "getUpdates: 429 with retry_after=5 and the header",
        "conflict": "getUpdates: 409, another poller took over",
        "lingering_poll": "getUpdates: 409 for seconds=30, as if the former self still polled",
        "poll_hangs": "getUpdates: accepted and never answered",
        "poll_fails": "getUpdates: 502 with an HTML body",
        "poll_slow": "getUpdates: taken up delay=8 s late",
        "poll_drips": "getUpdates: a byte of white space every=5 s, and never an end",
        "close_before_answer": "getUpdates: closed instead of answered; the updates stay queued",
        "close_after_answer": "getUpdates: closed right after a complete answer",
        "send_answer_lost": "sends and edits: delivered, then closed without an answer",
        "send_429": "sends and edits: 429 with retry_after=5 and the header",
        "send_403": "sends and edits: 403, the bot was blocked by the user",
        "id_jump": "the next update_id is random, or to=<id>; lower only if nothing is queued",
    }

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, token: str = TOKEN, seed: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self.token = token
        self.commands: list[Json] = []
        self._revoked = False
        self._random = random.Random(seed)
        self._world = World(self.username)
        self._queue: list[Update] = []
        self._next_update = 881_204_431
        self._allowed: frozenset[str] = frozenset()
        self._parked: ParkedPoll | None = None
        self._previous_poll = (0, -math.inf)
        self._polled_at = -math.inf
        self._former_until = -math.inf
        self._next_conflict = -math.inf
        self._was_listening = False
        self._judging: asyncio.TimerHandle | None = None
        self._hook: WebHook | None = None
        self._hook_set_at = -math.inf
        outbound = Outbound(
            self._world, bot=self._bot, hear=self.hear, note=self.note, now=self.now
        )
        self._methods = outbound.methods | {
            "getme": self._get_me,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._delete_webhook,
            "getwebhookinfo": self._get_webhook_info,
            "getfile": self._get_file,
            "setmycommands": self._set_my_commands,
            "answercallbackquery": self._answer_callback_query,
        }

    # -- life ---------------------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Methods by GET and POST, and the files."""
        app.router.add_route("*", "/bot{token}/{method}", self._api)
        app.router.add_get("/file/bot{token}/{path:.+}", self._download)

    def account(self) -> dict[str, Any]:
        """Platform, token and server root; polling or web hook is the adapter's choice."""
        return {"platform": "telegram", "token": self.token, "base_url": self.url}

    async def start(self) -> Self:
        """Listen; a web hook set before is served again."""
        await super().start()
        assert self._runner is not None
        assert self._runner.server is not None
        # Without it a poll whose client is gone would stay parked, and the truth would be wrong.
        self._runner.server.handler_cancellation = True
        self._serve_hook()
        self._judge()
        return self

    async def stop(self) -> None:
        """Stop listening; updates, messages, files and the web hook are remembered."""
        await super().stop()
        self._polled_at = -math.inf
        self._judge()

    async def on_stop(self) -> None:
        """End the deliveries to the web hook and close their connections."""
        if self._judging is not None:
            self._judging.cancel()
        if self._hook is not None:
            await asyncio.gather(*self._hook.cancel(), return_exceptions=True)

    def revoke_token(self) -> None:
        """From now on every request gets 401, the parked poll too."""
        self._revoked = True
        if self._parked is not None:
            self._parked.end()
        self._judge()

    def restore(self) -> None:
        """The token is valid again."""
        self._revoked = False
        self._judge()

    def set_token(self, token: str) -> None:
        """A new token replaces the old one, which is unknown from now on."""
        self.revoke_token()
        self.token = token
        self.restore()

    # -- truth --------------------------------------------------------------------------------

    def listening(self) -> bool:
        """A poll of the bot is parked or finished less than 1 s ago, or a web hook is set."""
        if self._runner is None or self._revoked:
            return False
        if self._hook is not None:
            return True
        if self._parked is not None:
            return not self._parked.rival
        return self.now() - self._polled_at < BETWEEN_POLLS

    def pending(self) -> int:
        """The number of updates that the bot has not confirmed and that are not too old."""
        return len(self._fresh())

    def _judge(self) -> None:
        listening = self.listening()
        if listening != self._was_listening:
            self._was_listening = listening
            self.note("link-open" if listening else "link-lost")

    def _poll_finished(self) -> None:
        self._polled_at = self.now()
        self._judge()
        if self._judging is not None:
            self._judging.cancel()
        loop = asyncio.get_running_loop()
        # A hair later than the bound, for a sum of floats may fall short of it.
        self._judging = loop.call_later(BETWEEN_POLLS + 0.001, self._judge)

    # -- users --------------------------------------------------------------------------------

    def chat_id(self, name: str, *, group: bool = False) -> int:
        """The id of a user or group, which the bot may write to from now on."""
        return self._world.chat_id(name, group=group)

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
        thread: int | None = None,
    ) -> str:
        """A user writes; in a group the text mentions the bot, at its start unless it already does.

        ``Said.text`` is the text with the mention. ``thread`` is a forum topic. An edit keeps the
        message id. Raises KeyError when ``reply_to`` or ``edit_of`` is no message of the chat.
        """
        world = self._world
        chat_id = world.chat_id(chat, group=group)
        content: Json = {}
        if image is not None:
            content["photo"] = world.photo(world.store("photos", "photo.jpg", image))
        elif file is not None:
            content["document"] = world.document(world.store("documents", *file))
        content |= world.words(text, group=group, caption=bool(content))
        if thread is not None:
            world.threads.add((chat_id, thread))
            content |= {"message_thread_id": thread, "is_topic_message": True}
        if reply_to is not None:
            content["reply_to_message"] = world.quoted(world.messages[chat_id, int(reply_to)])
        if edit_of is None:
            message = world.post(chat_id, world.user(sender), content)
            self._enqueue("message", message)
        else:
            key = chat_id, int(edit_of)
            message = world.messages[key] | content | {"edit_date": int(wall_clock())}
            world.messages[key] = message
            self._enqueue("edited_message", message)
        said = Said(
            id=str(message["message_id"]),
            chat=chat,
            sender=sender,
            text=str(content.get("text", content.get("caption", ""))),
            at=self.now(),
        )
        self.said.append(said)
        self.note("said", id=said.id, chat=chat, text=said.text[:80])
        return said.id

    # -- every request ------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.StreamResponse:
        rival = request.headers.get("User-Agent") == RIVAL
        if not rival and (played := self._front_door()) is not None:
            return played
        method = request.match_info["method"].lower()
        try:
            self._authorize(request.match_info["token"], faulty=not rival)
            params = await merged_parameters(request)
            if method == "getupdates":
                return await self._get_updates(request, params, rival)
            result = self._call(method, params)
        except BotApiError as error:
            return error.response()
        if method in SENDS and self._fault("send_answer_lost") is not None:
            return hang_up(request)
        return answer(result)

    def _fault(self, name: str) -> dict[str, Any] | None:
        return self.faults.take(name)

    def _front_door(self) -> web.Response | None:
        """What a proxy in front of the Bot API answers in its place."""
        if self._fault("html_200") is not None:
            return page(200, "Welcome to the hotel network")
        if self._fault("http_502") is not None:
            return page(502, "502 Bad Gateway")
        if self._fault("http_504") is not None:
            return page(504, "504 Gateway Time-out")
        if self._fault("malformed_json") is not None:
            return web.Response(text='{"ok":true,"result":[{"upd', content_type="application/json")
        return None

    def _authorize(self, token: str, *, faulty: bool = True) -> None:
        if re.fullmatch(r"\d+:[\w-]+", token) is None:
            raise BotApiError(404, "Not Found")
        unknown = token != self.token or self._revoked
        if unknown or (faulty and self._fault("unauthorized") is not None):
            raise BotApiError(401, "Unauthorized")

    def _call(self, method: str, params: Params) -> Any:
        call = self._methods.get(method)
        if call is None:
            raise BotApiError(404, "Not Found: method not found")
        if method in SENDS:
            if (fault := self._fault("send_429")) is not None:
                raise throttled(int(fault.get("retry_after", 5)))
            if self._fault("send_403") is not None:
                raise BotApiError(403, "Forbidden: bot was blocked by the user")
        return call(params)

    def _bot(self) -> Json:
        bot_id = int(self.token.partition(":")[0])
        return {"id": bot_id, "is_bot": True, "first_name": "Gate", "username": self.username}

    def _get_me(self, params: Params) -> Json:
        self.note("login")
        return self._bot() | {
            "can_join_groups": True,
            "can_read_all_group_messages": False,
            "supports_inline_queries": False,
        }

    def _set_my_commands(self, params: Params) -> bool:
        self.commands = structure(params, "commands") or []
        return True

    def _answer_callback_query(self, params: Params) -> bool:
        self.note("callback-answer", id=params.get("callback_query_id"))
        return True

    # -- files --------------------------------------------------------------------------------

    def _get_file(self, params: Params) -> Json:
        stored = self._world.files.get(str(params.get("file_id")))
        if stored is None:
            raise bad_request("wrong file_id or the file is temporarily unavailable")
        if len(stored.data) > MAX_DOWNLOAD:
            raise bad_request("file is too big")
        return stored.wire() | {"file_path": stored.path}

    async def _download(self, request: web.Request) -> web.StreamResponse:
        if (played := self._front_door()) is not None:
            return played
        try:
            self._authorize(request.match_info["token"])
        except BotApiError as error:
            return error.response()
        for stored in self._world.files.values():
            if stored.path == request.match_info["path"]:
                return web.Response(body=stored.data, content_type="application/octet-stream")
        return BotApiError(404, "Not Found").response()

    # -- updates ------------------------------------------------------------------------------

    def _allow(self, params: Params) -> None:
        """Telegram remembers the kinds for the bot; an empty list means the default set."""
        if "allowed_updates" in params:
            self._allowed = frozenset(structure(params, "allowed_updates") or ())

    def _enqueue(self, kind: str, message: Json) -> None:
        if self._allowed and kind not in self._allowed:
            return
        if (jump := self._fault("id_jump")) is not None:
            # With a queue, a lower id would break the order of ids that confirmation rests on.
            lowest = self._next_update + 1000 if self._queue else 1
            self._next_update = int(jump.get("to", lowest + self._random.randrange(10**9)))
        self._queue.append(Update(self._next_update, kind, message, self.now()))
        self._next_update += 1
        self._serve_hook()
        if self._parked is not None:
            self._parked.end()

    def _fresh(self) -> list[Update]:
        oldest = self.now() - RETENTION
        if self._queue and self._queue[0].at <= oldest:
            self._queue = [update for update in self._queue if update.at > oldest]
        return self._queue

    def _confirm(self, offset: int) -> None:
        """Delete what the offset confirms; an offset of another life is answered from the head."""
        if offset < 0:
            self._queue = self._fresh()[offset:]
        elif offset <= self._next_update + FUTURE_OFFSET:
            self._queue = [update for update in self._fresh() if update.id >= offset]

    async def _get_updates(
        self, request: web.Request, params: Params, rival: bool
    ) -> web.StreamResponse:
        if not rival:
            self.note("polled")
            if (played := await self._poll_fault(request)) is not None:
                return played
        if self._hook is not None:
            raise await self._conflict(HOOK_ACTIVE)
        self._allow(params)
        offset = integer(params, "offset", 0)
        limit = min(max(integer(params, "limit", 100), 1), 100)
        timeout = min(max(integer(params, "timeout", 0), 0), MAX_POLL)
        limit, timeout = self._slow_down(offset, limit, timeout)
        self._confirm(offset)
        if not self._fresh() and timeout > 0:
            await self._park(rival, timeout)
            self._authorize(request.match_info["token"], faulty=not rival)
        batch = self._fresh()[:limit]
        if rival:
            return answer([update.wire() for update in batch])
        return await self._answer_poll(request, offset, batch)

    async def _poll_fault(self, request: web.Request) -> web.StreamResponse | None:
        if (fault := self._fault("rate_limited")) is not None:
            raise throttled(int(fault.get("retry_after", 5)))
        if self._fault("conflict") is not None:
            raise await self._conflict(OTHER_POLL)
        if (fault := self._fault("lingering_poll")) is not None:
            self._former_until = self.now() + float(fault.get("seconds", 30))
        if self.now() < self._former_until:
            raise await self._conflict(OTHER_POLL)
        if self._fault("poll_fails") is not None:
            return page(502, "502 Bad Gateway")
        if (fault := self._fault("poll_slow")) is not None:
            await asyncio.sleep(float(fault.get("delay", 8)))
        if self._fault("poll_hangs") is not None:
            await asyncio.Event().wait()
        if (fault := self._fault("poll_drips")) is not None:
            return await self._drip(request, float(fault.get("every", 5)))
        return None

    @staticmethod
    async def _drip(request: web.Request, every: float) -> web.StreamResponse:
        """Legal JSON white space without end: only a deadline on the whole answer notices."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(every)

    def _slow_down(self, offset: int, limit: int, timeout: int) -> tuple[int, int]:
        """The server's brake on clients that ask for the same offset again and again."""
        previous, at = self._previous_poll
        self._previous_poll = (offset, self.now())
        if offset != previous:
            return limit, timeout
        if self.now() - at < 3.0 and timeout < 3:
            timeout = 3
        return (1 if self.now() - at < 0.5 else limit), timeout

    async def _park(self, rival: bool, timeout: float) -> None:
        """Wait for an update or the timeout; the poll parked before gets its 409."""
        if self._parked is not None:
            self._parked.end(OTHER_POLL)
        poll = self._parked = ParkedPoll(rival)
        self._judge()
        try:
            await asyncio.wait({poll.ended}, timeout=timeout)
        except asyncio.CancelledError:
            if self._parked is poll:
                self._parked = None
                self._polled_at = -math.inf
                self._judge()
            raise
        if self._parked is poll:
            self._parked = None
        if poll.ended.done() and (reason := poll.ended.result()) is not None:
            raise await self._conflict(reason)

    async def _conflict(self, reason: str) -> BotApiError:
        """The 409, held back until it comes at least 3 s after the one before."""
        due = max(self.now(), self._next_conflict)
        self._next_conflict = due + CONFLICT_SPACING
        self._judge()
        await asyncio.sleep(due - self.now())
        return BotApiError(409, f"Conflict: {reason}")

    async def _answer_poll(
        self, request: web.Request, offset: int, batch: list[Update]
    ) -> web.StreamResponse:
        if self._fault("close_before_answer") is not None:
            self._polled_at = -math.inf
            self._judge()
            return hang_up(request)
        response = answer([update.wire() for update in batch])
        if self._fault("close_after_answer") is not None:
            await response.prepare(request)
            await response.write_eof()
            if request.transport is not None:
                request.transport.close()
        self.note("poll", n=len(batch), offset=offset)
        self._poll_finished()
        return response

    @asynccontextmanager
    async def rival(self, *, timeout: int = MAX_POLL) -> AsyncIterator[list[Json]]:
        """A second poller with the same token, over real HTTP; yields the updates it steals.

        It confirms what it gets and comes back 1 s after each 409. With ``timeout=0`` it is a
        silent thief: short polls every 4 s, which never cost the bot a 409. Faults spare it.
        """
        stolen: list[Json] = []
        task = asyncio.create_task(self._steal(stolen, timeout), name="telegram-rival")
        try:
            yield stolen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _steal(self, stolen: list[Json], timeout: int) -> None:
        query = {"offset": 0, "timeout": timeout}
        url = f"{self.url}/bot{self.token}/getUpdates"
        async with aiohttp.ClientSession(headers={"User-Agent": RIVAL}) as session:
            while True:
                updates: list[Json] = []
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url, params=query) as response:
                        updates = (await response.json()).get("result", [])
                if updates:
                    stolen += updates
                    query["offset"] = updates[-1]["update_id"] + 1
                    self.note("stolen", n=len(updates))
                else:
                    # Short polls of one offset within 3 s would be parked by the server.
                    await asyncio.sleep(1.0 if timeout else 4.0)

    # -- web hook -----------------------------------------------------------------------------

    def _set_webhook(self, params: Params) -> bool:
        """Unlike production, plain HTTP and any port are accepted: the bot is on loopback."""
        url, secret = str(params.get("url", "")), params.get("secret_token")
        if not url:
            return self._delete_webhook(params)
        if self.now() - self._hook_set_at < 1.0:
            raise throttled(1)
        if not re.match(r"https?://", url):
            raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
        if secret is not None and re.fullmatch(r"[\w-]{1,256}", str(secret), re.ASCII) is None:
            raise bad_request("secret token contains unallowed characters")
        self._delete_webhook(params)
        self._allow(params)
        self._hook_set_at = self.now()
        self._hook = WebHook(
            url,
            secret,
            min(max(integer(params, "max_connections", 40), 1), 100),
            queue=self._fresh,
            taken=self._hook_took,
            note=self.note,
            ceiling=self._random.uniform(*HOOK_DELAY_CEILING),
        )
        if self._parked is not None:
            self._parked.end(BY_SET_WEBHOOK)
        self.note("hook-set", url=url)
        self._serve_hook()
        self._judge()
        return True

    def _delete_webhook(self, params: Params) -> bool:
        if flag(params, "drop_pending_updates"):
            self._queue = []
        if self._hook is not None:
            self._hook.cancel()
            self._hook = None
            self.note("hook-deleted")
            self._judge()
        return True

    def _get_webhook_info(self, params: Params) -> Json:
        info: Json = {"url": "", "has_custom_certificate": False}
        info["pending_update_count"] = self.pending()
        if self._allowed:
            info["allowed_updates"] = sorted(self._allowed)
        return info if self._hook is None else info | self._hook.info()

    def _serve_hook(self) -> None:
        if self._hook is not None and self._runner is not None:
            self._hook.serve()

    def _hook_took(self, update: Update, answer: bytes) -> None:
        """The answer may be a method call, whose result nobody learns."""
        self._queue = [other for other in self._queue if other is not update]
        try:
            params = json.loads(answer)
            method = str(params.pop("method")).lower()
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if method not in NOT_IN_HOOK_ANSWERS and not method.startswith("get"):
            with suppress(BotApiError):
                self._call(method, params)


if __name__ == "__main__":
    by_hand.run(TelegramSimulator)
