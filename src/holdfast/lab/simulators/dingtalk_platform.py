"""What every room of the simulated DingTalk platform shares: the app, its tokens, its chats."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from aiohttp import web

from holdfast.lab.simulator import Handler, Simulator
from holdfast.lab.simulators import dingtalk_rules as rules
from holdfast.lab.simulators.dingtalk_messages import WEBHOOK_LIFE, Chat, staff_id
from holdfast.lab.simulators.dingtalk_rules import Complaint, Refusal

Work = Callable[[web.Request], Awaitable[web.Response]]


async def read_json(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    try:
        # Without this content type the platform does not see the body at all (OpenAPI page).
        body = await request.json() if request.content_type == "application/json" else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal("Missingbody", "body is mandatory for this action.")
    return body


def origin(request: web.Request) -> str:
    """The address a client came by: a relay's, if one stands before the simulator."""
    return f"{request.scheme}://{request.host}"


class OpenPlatform(Simulator):
    """One app with its robot; the rooms and the simulator build on it.

    Attributes that tests may change: ``ping_interval`` (seconds between SYSTEM pings; None for
    none), ``lifetime`` (seconds until a connection is told to disconnect; None for ever),
    ``tickets.lifetime``, ``tokens.lifetime``, ``webhook_life``, ``dice`` (which connection gets a
    push), ``event_retry`` (seconds), ``card_templates`` (None allows all).
    """

    platform: ClassVar[str] = "dingtalk"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.client_id, self.client_secret = "dingholdfast01", "s3cr3t-Holdfast"
        # Third parties saw keepalives every 20 to 30 s; no figure is documented.
        self.ping_interval: float | None = 20.0
        self.lifetime: float | None = None
        self.webhook_life = WEBHOOK_LIFE
        self.event_retry = 10.0
        self.dice = random.Random(0)
        self.tickets, self.tokens = rules.TicketBook(), rules.TokenBook()
        self.card_templates: frozenset[str] | None = None
        self.revoked = False
        """Whether the app is disabled: no connection, no token."""
        self.accepted: list[dict[str, Any]] = []
        """Bodies of the messages that were delivered, in order."""
        self._chats: dict[str, Chat] = {}
        self._users: set[str] = set()

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this app."""
        return {
            "platform": self.platform,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "api_url": self.url,
            "oapi_url": self.url,
        }

    # -- chats --------------------------------------------------------------------------------

    def know(self, name: str, *, group: bool = False) -> Chat:
        """Make a chat known; from now on the bot may write to it. ``id`` is its conversationId."""
        chat = Chat(name=name, group=group)
        self._chats[chat.id] = chat
        if not group:
            self._users.add(name)
        return chat

    def group_of(self, conversation: object) -> Chat | None:
        """The group of a conversationId, if the bot is in it."""
        chat = self._chats.get(str(conversation))
        return chat if chat and chat.group else None

    def user_of(self, staff: object) -> Chat | None:
        """The private chat with a member of the organisation, by staff id."""
        name = next((name for name in self._users if staff_id(name) == staff), None)
        return None if name is None else Chat(name=name, group=False)

    # -- credentials --------------------------------------------------------------------------

    def credentials_good(self, client_id: object, secret: object) -> bool:
        """Whether these are the app's credentials and the app is enabled."""
        good = (client_id, secret) == (self.client_id, self.client_secret)
        return good and not self.revoked

    async def issue_token(self, request: web.Request) -> web.Response:
        """``/v1.0/oauth2/accessToken``."""
        wrong = Refusal("invalidClientIdOrSecret", "无效的clientId或者clientSecret")
        self.play("token_500", Refusal("system.busy", "system busy", status=500))
        self.play("token_400", wrong)
        if self.faults.take("token_hang") is not None:
            await asyncio.Event().wait()
        body = await read_json(request)
        if not self.credentials_good(body.get("appKey"), body.get("appSecret")):
            raise wrong
        token, left = self.tokens.issue(self.now())
        self.note("token", expires_in=left)
        return web.json_response({"accessToken": token, "expireIn": left})

    # -- the frame of a call ------------------------------------------------------------------

    def call(self, work: Work) -> Handler:
        """A call whose refusals become error bodies: HTTP errors, or errcode inside 200."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await work(request)
            except Refusal as refusal:
                self.note("refused", path=request.path, code=refusal.code)
                return web.json_response(
                    refusal.body(), status=refusal.status, headers=refusal.headers()
                )
            except Complaint as complaint:
                self.note("refused", path=request.path, code=complaint.errcode)
                return web.json_response(complaint.body())

        return handle

    def api(self, work: Work) -> Handler:
        """An OpenAPI call: faults and access token first."""

        async def authorized(request: web.Request) -> web.Response:
            if (fault := self.faults.take("api_html")) is not None:
                status = fault.get("status", 502)
                return web.Response(text=rules.HTML_PAGE, content_type="text/html", status=status)
            bad_token = Refusal("InvalidAuthentication", "不合法的access_token", status=401)
            self.play("api_500", Refusal("system.busy", "system busy", status=500))
            self.play("api_401", bad_token)
            self.play("api_403", Refusal(rules.NO_PERMISSION, "permission missing", status=403))
            self.play("api_429", Refusal("Throttling", "too many requests", status=429))
            self.play("api_qps", Refusal(rules.QPS_LIMIT, "qps limit", status=403))
            token = request.headers.get("x-acs-dingtalk-access-token", "")
            if not self.tokens.valid(token, self.now()):
                raise bad_token
            return await work(request)

        return self.call(authorized)

    def play(self, name: str, refusal: Refusal) -> None:
        """Raise the refusal if the fault is armed, with its ``code``, ``status``, retry_after."""
        if (fault := self.faults.take(name)) is not None:
            raise Refusal(
                fault.get("code", refusal.code),
                refusal.message,
                status=fault.get("status", refusal.status),
                retry_after=fault.get("retry_after"),
            )

    def complain(self, name: str, complaint: Complaint) -> None:
        """Raise the complaint if the fault is armed, with the fault's ``errcode``."""
        if (fault := self.faults.take(name)) is not None:
            raise Complaint(fault.get("errcode", complaint.errcode), complaint.errmsg)


def compact(body: object) -> str:
    """JSON as it goes over the socket."""
    return json.dumps(body, ensure_ascii=False)
