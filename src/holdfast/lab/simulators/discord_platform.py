"""What every room of the simulated Discord shares: the bot, its token, the frame of a REST call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from aiohttp import web

from holdfast.lab.simulator import Handler, Simulator, wall_clock
from holdfast.lab.simulators import discord_rules as rules
from holdfast.lab.simulators.discord_rules import Json, Refusal, Window
from holdfast.lab.simulators.discord_world import APPLICATION, World

Work = Callable[[web.Request], Awaitable[web.Response]]

PREFIX = "/api/v10"
GLOBAL_PER_SECOND = 50
"""Requests per second and bot, over all routes [documentation]."""


def answer(body: object, status: int = 200) -> web.Response:
    """An API answer; discord.py wants exactly this content type, without a charset."""
    if status == 204:
        return web.Response(status=status)
    headers = {"Content-Type": "application/json"}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers)


def page(status: int, title: str) -> web.Response:
    """What something between the client and the API answers: HTML."""
    html = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return web.Response(status=status, text=html, content_type="text/html")


def hang_up(request: web.Request) -> web.Response:
    """Drop the connection; the returned answer is never written."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def origin(request: web.Request) -> str:
    """The address the client came by."""
    return f"{request.scheme}://{request.host}"


async def read_json(request: web.Request) -> Json:
    """The JSON object of a request. Raises Refusal (50109)."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(50109, "The request body contains invalid JSON.")
    return body


class DiscordPlatform(Simulator):
    """One bot with its token; the rooms and the simulator build on it.

    Attributes that tests may change: ``heartbeat_interval`` and ``resume_window`` (seconds),
    ``limit`` (identifies per day, concurrency), ``allowed_intents`` (privileged ones that are
    switched on), ``per_channel`` (calls and seconds of each channel's buckets; observed, not
    promised by Discord).
    """

    platform: ClassVar[str] = "discord"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.token = "MTEx.GateLab.0123456789abcdefghijklmnopq"
        self.revoked = False
        """Whether the token was reset and no new one was set."""
        self.heartbeat_interval, self.resume_window = 41.25, 180.0
        self.limit = rules.StartLimit()
        self.allowed_intents = int(rules.PRIVILEGED)
        self.per_channel = (5, 5.0)
        self.world = World(self.now)
        self._everywhere = Window(GLOBAL_PER_SECOND, 1.0)
        self._windows: dict[str, Window] = {}

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this bot; the gateway's address is asked for."""
        return {"platform": self.platform, "token": self.token, "api_url": self.url + PREFIX}

    def token_valid(self, token: object) -> bool:
        """Whether this is the bot's token, with or without the scheme of the REST API."""
        known = isinstance(token, str) and token.removeprefix("Bot ") == self.token
        return known and not self.revoked

    def application(self) -> Json:
        """The bot's application; its flags show whether it may read contents."""
        content = self.allowed_intents & rules.Intent.MESSAGE_CONTENT
        return APPLICATION | {"flags": rules.CONTENT_FLAG if content else 0}

    def fault(self, name: str) -> dict[str, Any] | None:
        """Take a fault from the book."""
        return self.faults.take(name)

    def api(self, work: Work, *, public: bool = False) -> Handler:
        """A REST call: faults, authorization, limits, then the work; refusals become bodies."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (played := self._front_door()) is not None:
                return played
            if (slow := self.fault("api_slow")) is not None:
                await asyncio.sleep(slow.get("delay", 8.0))
            if self.fault("api_hang") is not None:
                await asyncio.Event().wait()
            bucket = self._bucket(request)
            window = self._windows.setdefault(bucket, Window(*self._allowance(bucket)))
            try:
                self._admit(request, window, public=public)
                response = await work(request)
            except Refusal as refusal:
                self.note("refused", path=request.path, code=refusal.code, status=refusal.status)
                response = answer(refusal.body, refusal.status)
                response.headers.update(refusal.headers)
            response.headers.update(window.headers(self.now(), wall_clock(), bucket))
            return response

        return handle

    def _front_door(self) -> web.Response | None:
        """What something in front of the API answers in its place."""
        if (fault := self.fault("api_html")) is not None:
            return page(fault.get("status", 502), "Bad Gateway")
        if self.fault("api_200_html") is not None:
            return page(200, "Welcome to the hotel network")
        if self.fault("cloudflare_ban") is not None:
            return page(429, "Access denied | Error 1015")
        if self.fault("api_malformed") is not None:
            headers = {"Content-Type": "application/json"}
            return web.Response(body=b'{"id":"11100', headers=headers)
        return None

    @staticmethod
    def _bucket(request: web.Request) -> str:
        """Buckets are per method, route and channel."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else request.path
        return f"{request.method} {route} {request.match_info.get('channel', '')}"

    def _allowance(self, bucket: str) -> tuple[int, float]:
        return self.per_channel if not bucket.endswith(" ") else (GLOBAL_PER_SECOND, 1.0)

    def _admit(self, request: web.Request, window: Window, *, public: bool) -> None:
        if (fault := self.fault("api_500")) is not None:
            raise Refusal(0, "500: Internal Server Error", status=fault.get("status", 500))
        self.play_throttle("api_429")
        if self.fault("api_429_bare") is not None:
            raise Refusal(
                0, "You are being rate limited.", status=429, headers={"Via": "1.1 google"}
            )
        if not public and (
            not self.token_valid(request.headers.get("Authorization"))
            or not request.headers["Authorization"].startswith("Bot ")
            or self.fault("api_401") is not None
        ):
            raise rules.unauthorized()
        now = self.now()
        if not self._everywhere.take(now):
            raise rules.throttled(self._everywhere.left(now), everywhere=True)
        if not window.take(now):
            raise rules.throttled(window.left(now))

    def play_throttle(self, name: str) -> None:
        """Raise the 429 of an armed fault."""
        if (fault := self.fault(name)) is not None:
            raise rules.throttled(
                fault.get("retry_after", 1.0),
                everywhere=fault.get("global", False),
                scope=fault.get("scope", "user"),
            )
