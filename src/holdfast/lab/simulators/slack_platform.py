"""What every room of the simulated Slack shares: the app, its tokens, the frame of the Web API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, ClassVar

from aiohttp import web

from holdfast.lab.simulator import Simulator, wall_clock
from holdfast.lab.simulators import slack_rules as rules
from holdfast.lab.simulators.slack_rules import ApiError, Json
from holdfast.lab.simulators.slack_world import Channel, World


class Token(Enum):
    """The two kinds of token; either may be bad on its own."""

    APP = "app"
    BOT = "bot"


Work = Callable[[web.Request, Json], Awaitable[web.StreamResponse | Json]]
"""A call: the request and its parameters in, the fields of the answer beside ``ok`` out."""


class Workspace(Simulator):
    """One workspace with one app in it; the rooms and the simulator build on it.

    Attributes that tests may change: ``bot_token``, ``app_token``; ``token_errors`` (the error a
    token gets, such as ``token_revoked``); ``subscriptions`` (bot events of the app);
    ``max_sockets``; and in seconds ``ticket_life``, ``connection_life``, ``ping_interval``,
    ``silence_limit``, ``ack_deadline``, ``retry_delays``; ``history_most`` (messages a page).
    """

    platform: ClassVar[str] = "slack"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.bot_token, self.app_token = "xoxb-1-holdfast", "xapp-1-A0HOLD-1-holdfast"
        self.token_errors: dict[Token, str] = {}
        self.world = World()
        self.subscriptions = {"app_mention", "message.channels", "message.im"}
        self.max_sockets = rules.MAX_SOCKETS
        self.connection_life = rules.CONNECTION_LIFE
        self.ack_deadline, self.retry_delays = rules.ACK_DEADLINE, rules.RETRY_DELAYS
        self.history_most = rules.HISTORY_MOST
        # None of these three is documented; a ping comes "every few seconds".
        self.ticket_life, self.ping_interval, self.silence_limit = 30.0, 5.0, 30.0
        self.accepted: list[Json] = []
        """Parameters of the posts that were delivered, in order."""

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this app; ``api_url`` ends with ``/api/``."""
        return {
            "platform": self.platform,
            "bot_token": self.bot_token,
            "app_token": self.app_token,
            "api_url": self.url + "/api/",
        }

    def echo(self, channel: Channel, body: Json) -> None:
        """The bot's own post, change or deletion comes back as an event."""
        raise TypeError(f"{type(self).__name__} must have a stream")

    def stamp(self) -> str:
        """A fresh ``ts``."""
        return self.world.stamp(wall_clock())

    # -- the frame of a call ------------------------------------------------------------------

    def call(self, table: Mapping[str, tuple[Token, Work]]) -> Work:
        """The handler core of ``/api/{method}``: token, then the work the table names."""

        async def perform(request: web.Request, params: Json) -> web.StreamResponse | Json:
            if (entry := table.get(request.match_info["method"])) is None:
                raise ApiError("unknown_method")
            token, work = entry
            self._authorize(request, token)
            return await work(request, params)

        return perform

    async def answer(self, request: web.Request, work: Work) -> web.StreamResponse:
        """Faults of any call, then the work; refusals become bodies with ``ok`` false."""
        try:
            if (played := await self._front_door()) is not None:
                return played
            result = await work(request, await _parameters(request))
        except ApiError as error:
            self.note("refused", path=request.path, error=error.error)
            return web.json_response(error.body(), status=error.status, headers=error.headers)
        if isinstance(result, web.StreamResponse):
            return result
        origin = f"{request.scheme}://{request.host}"
        return web.json_response({"ok": True} | rules.with_origin(result, origin))

    async def _front_door(self) -> web.Response | None:
        """What any call may get in place of its answer."""
        if (fault := self.faults.take("api_slow")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if (fault := self.faults.take("api_html")) is not None:
            page = "<!DOCTYPE html><html><body>Sign in to the hotel network</body></html>"
            status = fault.get("status", 200)
            return web.Response(text=page, status=status, content_type="text/html")
        if self.faults.take("malformed_json") is not None:
            return web.Response(text='{"ok":true,"ur', content_type="application/json")
        if (fault := self.faults.take("api_500")) is not None:
            return server_error(fault)
        if (fault := self.faults.take("api_429")) is not None:
            raise rules.ratelimited(fault, 1)
        self.play("api_error", "internal_error")
        return None

    def play(self, name: str, error: str) -> None:
        """Raise the refusal if the fault is armed: its ``error``, and its other fields beside."""
        if (fault := self.faults.take(name)) is not None:
            extra = {key: value for key, value in fault.items() if key != "error"}
            raise ApiError(fault.get("error", error), **extra)

    def _authorize(self, request: web.Request, kind: Token) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not given:
            raise ApiError("not_authed")
        tokens = {self.app_token: Token.APP, self.bot_token: Token.BOT}
        if given not in tokens:
            raise ApiError("invalid_auth")
        if tokens[given] is not kind:
            raise ApiError("not_allowed_token_type")
        if kind in self.token_errors:
            raise ApiError(self.token_errors[kind])


def server_error(fault: Mapping[str, Any]) -> web.Response:
    """HTTP 5xx of a proxy: no JSON."""
    return web.Response(text="upstream connect error", status=fault.get("status", 500))


async def _parameters(request: web.Request) -> Json:
    """Query and body, form or JSON, in one. Raises ApiError."""
    params: Json = dict(request.query)
    if request.content_type == "application/json":
        try:
            body = json.loads(await request.read() or b"{}")
        except ValueError:
            raise ApiError("invalid_json") from None
        if not isinstance(body, dict):
            raise ApiError("json_not_object")
        return params | body
    return params | dict(await request.post())
