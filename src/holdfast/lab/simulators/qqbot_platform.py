"""What every room of the simulated QQ bot platform shares: the bot, its tokens, the API frame."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

from aiohttp import web

from holdfast.lab.simulator import Handler, Simulator, wall_clock
from holdfast.lab.simulators import qqbot_rules as rules
from holdfast.lab.simulators.qqbot_messages import ReplyBook
from holdfast.lab.simulators.qqbot_rules import Refusal

Work = Callable[[web.Request], Awaitable[web.Response]]

BOT = {"id": "1234567890123456789", "username": "holdfast", "bot": True}
CHINA = timezone(timedelta(hours=8))
GATEWAY_BURST, GATEWAY_PER_SECOND = 10, 2 / 60
"""Limit of /gateway and /gateway/bot, from third parties."""


def answer(body: object, status: int = 200) -> web.Response:
    """An API answer; the SDK wants exactly this content type, without a charset."""
    headers = {"Content-Type": "application/json", "X-Tps-trace-Id": secrets.token_hex(8)}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers)


def timestamp() -> str:
    """The present as the platform writes it on messages."""
    return datetime.fromtimestamp(wall_clock(), CHINA).isoformat(timespec="seconds")


async def read_json(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise rules.wrong_request("body is not a JSON object")
    return body


class OpenPlatform(Simulator):
    """One bot, its credentials and the token service; the rooms and the simulator build on it.

    Attributes that tests may change: ``heartbeat_interval`` and ``resume_window`` (seconds),
    ``tokens.lifetime``, ``replies.window_scale``, ``limit`` (daily sessions, concurrency),
    ``allowed_intents``, ``max_text`` (characters; undocumented, adapters cut at 4000),
    ``markdown_allowed``, ``allowed_urls`` (prefixes; None allows all).
    """

    platform: ClassVar[str] = "qqbot"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.app_id, self.secret = "102000001", "DG5g3B4j9X2KOErG"
        self.heartbeat_interval, self.resume_window = 41.25, 60.0
        self.tokens, self.replies = rules.TokenBook(), ReplyBook()
        self.limit = rules.StartLimit()
        self.gateway_bucket = rules.Bucket(GATEWAY_BURST, GATEWAY_PER_SECOND)
        self.allowed_intents = rules.KNOWN_INTENTS & ~rules.PRIVATE_DOMAIN
        self.max_text, self.markdown_allowed = 4000, True
        self.allowed_urls: tuple[str, ...] | None = None
        self.accepted: list[dict[str, Any]] = []
        """Bodies of the messages that were delivered, in order."""
        self.banned: int | None = None
        """The close code of a bot that may not connect."""
        self.revoked = False
        """Whether the secret is no longer taken."""

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this bot."""
        return {
            "platform": self.platform,
            "app_id": self.app_id,
            "secret": self.secret,
            "api_url": self.url,
            "token_url": self.url + "/app/getAppAccessToken",
        }

    async def issue_token(self, request: web.Request) -> web.Response:
        """The token service."""
        if self.faults.take("token_500") is not None:
            return answer({"message": "internal error"}, 500)
        if self.faults.take("token_hang") is not None:
            await asyncio.Event().wait()
        if (fault := self.faults.take("token_error")) is not None:
            return answer({"code": fault.get("code", 100016), "message": "refused by fault"})
        body = await read_json(request)
        if body.get("appId") != self.app_id:
            return answer({"code": 100007, "message": "appid invalid"})
        if self.revoked or body.get("clientSecret") != self.secret:
            return answer({"code": 100016, "message": "invalid appid or secret"})
        token, left = self.tokens.issue(self.now())
        number = self.faults.take("expires_in_number") is not None
        self.note("token", expires_in=left)
        return answer({"access_token": token, "expires_in": left if number else str(left)})

    async def me(self, _: web.Request) -> web.Response:
        """The call that names the bot."""
        return answer(BOT | {"avatar": ""})

    def api(self, work: Work) -> Handler:
        """An API call: faults, authorization, then the work; refusals become error bodies."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (fault := self.faults.take("api_html")) is not None:
                page = "<html><body>Bad Gateway</body></html>"
                return web.Response(
                    text=page, content_type="text/html", status=fault.get("status", 502)
                )
            if self.faults.take("api_malformed") is not None:
                return web.Response(body=b'{"url":"ws', content_type="application/json")
            try:
                self.play("api_500", Refusal(500, "internal error", status=500))
                self.play("api_401", Refusal(11244, "token not exist or expire", status=401))
                self._authorize(request)
                return await work(request)
            except Refusal as refusal:
                self.note("refused", path=request.path, code=refusal.code)
                return answer(refusal.body(secrets.token_hex(8)), refusal.status)

        return handle

    def play(self, name: str, refusal: Refusal) -> None:
        """Raise the refusal if the fault is armed, with the fault's ``code`` and ``status``."""
        if (fault := self.faults.take(name)) is not None:
            code, status = fault.get("code", refusal.code), fault.get("status", refusal.status)
            raise Refusal(code, refusal.message, status=status)

    def _authorize(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        self.tokens.check(token if scheme == "QQBot" else "", self.now())
        if request.headers.get("X-Union-Appid", self.app_id) != self.app_id:
            raise Refusal(11251, "appid 不匹配", status=401)
        if self.banned:
            raise Refusal(11265, "机器人已被封禁", status=401)
