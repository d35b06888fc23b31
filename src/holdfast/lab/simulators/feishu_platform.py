"""What every room of the simulated Feishu platform shares: the app, its tokens, its chats."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from aiohttp import web

from holdfast.lab.simulator import Handler, Simulator
from holdfast.lab.simulators import feishu_rules as rules
from holdfast.lab.simulators.feishu_messages import BOT_NAME, BOT_OPEN_ID, Chat, Person
from holdfast.lab.simulators.feishu_rules import Refusal

Work = Callable[[web.Request], Awaitable[web.Response]]


def success(data: Mapping[str, Any] | None = None) -> web.Response:
    """The answer of a call that worked."""
    return web.json_response({"code": 0, "msg": "success", "data": dict(data or {})})


async def read_json(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    try:
        # Whatever the content type: the SDK's token call has none.
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(9499, "Bad Request")
    return body


class OpenPlatform(Simulator):
    """One self-built app with its bot; the rooms and the simulator build on it.

    Attributes that tests may change: ``ping_interval``, ``reconnect_interval``,
    ``reconnect_nonce`` (whole seconds) and ``reconnect_count`` of the ClientConfig,
    ``idle_intervals`` (ping intervals of silence until a connection is dropped), ``max_links``,
    ``ack_within`` (seconds), ``redelivery`` (seconds before each repeat), ``dice`` (which
    connection gets a push, and the order of split parts), ``tokens.lifetime``.
    """

    platform: ClassVar[str] = "feishu"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.app_id, self.app_secret = "cli_a0000000000000aa", "s3cr3t-Holdfast"
        self.verification_token, self.encrypt_key = "v3rify-Holdfast", "3ncrypt-Holdfast"
        self.ping_interval, self.reconnect_interval = 120, 120
        self.reconnect_nonce, self.reconnect_count = 30, -1
        # The server's own timeout is not documented.
        self.idle_intervals = 3.0
        self.max_links = 50
        self.ack_within = 3.0
        self.redelivery: tuple[float, ...] = (15.0, 300.0, 3600.0, 21_600.0)
        self.dice = random.Random(0)
        self.tokens = rules.TokenBook()
        self.revoked = False
        """Whether the app is disabled: no connection, no token."""
        self.accepted: list[dict[str, Any]] = []
        """Bodies of the messages that were delivered, in order."""
        self._chats: dict[str, Chat] = {}
        self._people: dict[str, Person] = {}

    def account(self, *, webhook: bool = False) -> dict[str, Any]:
        """The configuration of an account of this app; ``webhook`` for one without a socket."""
        table = {
            "platform": self.platform,
            "app_id": self.app_id,
            "app_secret": self.app_secret,
            "base_url": self.url,
        }
        if not webhook:
            return table
        return table | {
            "mode": "webhook",
            "verification_token": self.verification_token,
            "encrypt_key": self.encrypt_key,
        }

    def client_config(self) -> dict[str, int]:
        """ClientConfig; always whole, since the SDK takes a missing field for null."""
        return {
            "ReconnectCount": self.reconnect_count,
            "ReconnectInterval": self.reconnect_interval,
            "ReconnectNonce": self.reconnect_nonce,
            "PingInterval": self.ping_interval,
        }

    # -- chats --------------------------------------------------------------------------------

    def know(self, name: str, *, group: bool = False) -> Chat:
        """Make a chat known; from now on the bot may write to it."""
        chat = Chat(name=name, group=group)
        self._chats[chat.id] = chat
        if not group:
            self.person(name)
        return chat

    def person(self, name: str) -> Person:
        """Make a user known."""
        person = Person(name)
        for key in (person.open_id, person.union_id, person.user_id, person.email):
            self._people[key] = person
        return person

    def find_chat(self, kind: str, key: object) -> Chat:
        """The chat of a ``receive_id``. Raises Refusal: 230034 for an id that is none."""
        if kind == "chat_id":
            chat = self._chats.get(str(key))
        else:
            person = self._people.get(str(key))
            chat = Chat(name=person.name, group=False) if person else None
        if chat is None:
            raise Refusal(230034, f"The receive_id is invalid, ext={kind}")
        return chat

    # -- credentials --------------------------------------------------------------------------

    def credentials_good(self, app_id: object, secret: object) -> bool:
        """Whether these are the app's credentials and the app is enabled."""
        return (app_id, secret) == (self.app_id, self.app_secret) and not self.revoked

    async def issue_token(self, request: web.Request) -> web.Response:
        """``auth/v3/tenant_access_token/internal``; its failures come inside HTTP 200."""
        self.play("token_429", rules.rate_limit())
        self.play("token_500", Refusal(10100, "internal error", status=500))
        if self.faults.take("token_hang") is not None:
            await asyncio.Event().wait()
        self.play("token_error", Refusal(10014, "app secret invalid", status=200))
        body = await read_json(request)
        if body.get("app_id") != self.app_id:
            raise Refusal(10003, "invalid app_id", status=200)
        if not self.credentials_good(self.app_id, body.get("app_secret")):
            raise Refusal(10014, "app secret invalid", status=200)
        token, left = self.tokens.issue(self.now())
        self.note("token", expires_in=left)
        answer = {"code": 0, "msg": "ok", "tenant_access_token": token, "expire": left}
        return web.json_response(answer)

    async def bot_info(self, _: web.Request) -> web.Response:
        """``bot/v3/info``: the bot stands beside ``code``, not in ``data``."""
        self.note("whoami")
        bot = {
            "activate_status": 2,
            "app_name": BOT_NAME,
            "open_id": BOT_OPEN_ID,
            "ip_white_list": [],
        }
        return web.json_response({"code": 0, "msg": "ok", "bot": bot})

    # -- the frame of a call ------------------------------------------------------------------

    def call(self, work: Work) -> Handler:
        """A call whose refusals become error bodies."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await work(request)
            except Refusal as refusal:
                self.note("refused", path=request.path, code=refusal.code)
                return web.json_response(
                    refusal.body(), status=refusal.status, headers=refusal.headers()
                )

        return handle

    def api(self, work: Work) -> Handler:
        """An API call: faults and access token first."""

        async def authorized(request: web.Request) -> web.Response:
            if (fault := self.faults.take("api_html")) is not None:
                status = fault.get("status", 502)
                return web.Response(text=rules.HTML_PAGE, content_type="text/html", status=status)
            self.play("api_500", Refusal(2200, "internal error", status=500))
            self.play("api_token_invalid", Refusal(99991663, "Invalid access token"))
            self.play("api_scope", Refusal(99991672, "Access denied. scope required: im:message"))
            self.play("api_429", rules.rate_limit())
            self.play("api_old_limit", rules.rate_limit(400))
            self.tokens.check(request.headers.get("Authorization", ""), self.now())
            return await work(request)

        return self.call(authorized)

    def play(self, name: str, refusal: Refusal) -> None:
        """Raise the refusal if the fault is armed, with its ``code``, ``status`` and ``reset``."""
        if (fault := self.faults.take(name)) is not None:
            raise Refusal(
                fault.get("code", refusal.code),
                refusal.msg,
                status=fault.get("status", refusal.status),
                reset=fault.get("reset"),
            )
