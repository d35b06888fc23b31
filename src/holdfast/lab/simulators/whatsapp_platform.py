"""What every room of the simulated WhatsApp platform shares: the app, its token, the call frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from aiohttp import web

from holdfast.lab.simulator import Handler, Simulator
from holdfast.lab.simulators import whatsapp_rules as rules
from holdfast.lab.simulators.whatsapp_rules import Event, GraphError

Work = Callable[[web.Request], Awaitable[web.Response]]

API_VERSION = "v26.0"


def answer(body: object) -> web.Response:
    """A good answer of the Graph API."""
    return web.json_response(body)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request, empty without a body. Raises GraphError."""
    raw = await request.read()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise rules.parameter("the body is not a JSON object")
    return body


class BusinessPlatform(Simulator):
    """One app, one business account, one phone number; the rooms and the simulator build on it.

    Attributes that tests may change: ``window`` (seconds a user's message may be answered),
    ``throughput`` and ``pair_limit`` (None switches it off), ``statuses`` (what follows a send),
    ``usernames`` (users hide their phone numbers).
    """

    platform: ClassVar[str] = "whatsapp"
    FAULTS: ClassVar = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.app_id, self.app_secret = "670843887433847", "f9c1b8ad2d5e4d6f"
        self.phone_number_id, self.business_account_id = "106540352242922", "102290129340398"
        self.phone_number = "15550783881"
        self.access_token, self.verify_token = "EAAJBtestSystemUserToken", "holdfast-verify"
        self.token_trouble: int | None = None
        """The error subcode of a token that is no longer valid."""
        self.window = rules.WINDOW
        self.throughput = rules.Bucket(rules.PER_SECOND, rules.PER_SECOND)
        self.pair_limit: tuple[float, float] | None = (rules.PAIR_BURST, rules.PAIR_PER_SECOND)
        self.statuses: tuple[str, ...] = ("sent", "delivered", "read")
        self.usernames = False
        self.accepted: list[dict[str, Any]] = []
        """Bodies of the messages that were delivered, in order."""

    @property
    def metadata(self) -> dict[str, str]:
        """The number that a change is about."""
        return {
            "display_phone_number": self.phone_number,
            "phone_number_id": self.phone_number_id,
        }

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this number; ``api_url`` includes the version."""
        return {
            "platform": self.platform,
            "phone_number_id": self.phone_number_id,
            "business_account_id": self.business_account_id,
            "app_id": self.app_id,
            "access_token": self.access_token,
            "app_secret": self.app_secret,
            "verify_token": self.verify_token,
            "api_url": f"{self.url}/{API_VERSION}",
        }

    def occur(self, event: Event) -> None:
        """Something happened that the app is to be told."""
        raise TypeError(f"{type(self).__name__} must push events")

    # -- calls --------------------------------------------------------------------------------

    @property
    def app_token(self) -> str:
        """The access token of the app itself, as ``/oauth/access_token`` issues it."""
        return f"{self.app_id}|{self.app_secret}"

    def check_token(self, token: str, *, app: bool = False) -> None:
        """Raise the refusal of a bad token; ``app`` lets the app's own token in as well."""
        if app and token == self.app_token:
            return
        if token != self.access_token:
            raise rules.token_error(467)
        if self.token_trouble is not None:
            raise rules.token_error(self.token_trouble)

    def api(self, work: Work, *, app: bool = False) -> Handler:
        """A call: faults, authorization, then the work; refusals become error bodies."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (fault := self.faults.take("api_html")) is not None:
                page = "<html><body>Bad Gateway</body></html>"
                status = fault.get("status", 502)
                return web.Response(text=page, content_type="text/html", status=status)
            if self.faults.take("api_hang") is not None:
                await asyncio.Event().wait()
            try:
                self._play_api_faults()
                self.check_token(token_of(request), app=app)
                return await work(request)
            except GraphError as error:
                self.note("refused", path=request.path, code=error.code)
                return web.json_response(
                    error.body(), status=error.status, headers=dict(error.headers)
                )

        return handle

    def _play_api_faults(self) -> None:
        if self.faults.take("api_500") is not None:
            raise GraphError(2, "Service temporarily unavailable", status=500, transient=True)
        if (fault := self.faults.take("api_429")) is not None:
            wait = fault.get("retry_after")
            headers = {} if wait is None else {"Retry-After": str(wait)}
            text = "Application request limit reached"
            raise GraphError(4, text, status=429, headers=headers)
        if (fault := self.faults.take("token_expired")) is not None:
            raise rules.token_error(fault.get("subcode", 463))
        if (fault := self.faults.take("error_in_200")) is not None:
            raise GraphError(fault.get("code", 1), "An unknown error occurred", status=200)

    def play(self, name: str, refusal: GraphError) -> None:
        """Raise the refusal if the fault is armed, with the fault's ``code`` and ``status``."""
        if (fault := self.faults.take(name)) is not None:
            raise GraphError(
                fault.get("code", refusal.code),
                refusal.message,
                status=fault.get("status", refusal.status),
                subcode=refusal.subcode,
                transient=refusal.transient,
            )


def token_of(request: web.Request) -> str:
    """The bearer token of a call, or the one in its query."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return request.query.get("access_token") or (token if scheme == "Bearer" else "")
