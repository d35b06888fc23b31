"""What proves that WhatsApp calls us: token, number, subscription and callback are as they must be.

WhatsApp opens no connection and says nothing when it stops calling, so this is asked again and
again. Sources: https://developers.facebook.com/docs/whatsapp/embedded-signup/webhooks/override
(whose address counts), /docs/graph-api/reference/app/subscriptions,
/docs/graph-api/reference/debug_token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import Disconnect
from holdfast.adapters.whatsapp_api import APPS, MANAGER, Graph, Key
from holdfast.supervision import Cause, Kind

SCOPES: Final = ("whatsapp_business_messaging", "whatsapp_business_management")
"""What a token must be allowed: to send, and to be looked after."""

SOON: Final = 14 * 86_400.0
"""Seconds before the end of a token from which `check` speaks of it as urgent."""

_OBJECT = "whatsapp_business_account"
_CALLBACK_HINT = (
    f"At {APPS} > WhatsApp > Configuration, enter the callback URL {{}} with `verify_token` as its "
    "verify token, within 15 s after `holdfast kick ACCOUNT` (the gateway must be there to answer "
    "Meta's question), or set `claim = true`."
)
_FIELD_HINT = f"Subscribe to `messages` at {APPS} > WhatsApp > Configuration > Webhook fields."


class Callback(msgspec.Struct):
    """Addresses by scope; the narrowest counts."""

    phone_number: str = ""
    whatsapp_business_account: str = ""
    application: str = ""

    @property
    def url(self) -> str:
        """The address in force for our number, empty where none is told."""
        return self.phone_number or self.whatsapp_business_account or self.application


class Number(msgspec.Struct):
    """Our phone number."""

    id: str
    display_phone_number: str = ""
    verified_name: str = ""
    status: str = ""
    quality_rating: str = ""
    webhook_configuration: Callback | None = None

    @property
    def title(self) -> str:
        """Name and number, for people."""
        return f"{self.verified_name or 'unnamed'} ({self.display_phone_number or self.id})"


class App(msgspec.Struct):
    """An app that is subscribed to a business account."""

    id: str = ""


class Subscriber(msgspec.Struct):
    """An entry of ``subscribed_apps``."""

    app: App = msgspec.field(name="whatsapp_business_api_data", default_factory=App)
    override_callback_uri: str = ""


class Subscribers(msgspec.Struct):
    """The answer to ``subscribed_apps``."""

    data: list[Subscriber]


class Field(msgspec.Struct):
    """A kind of event an app has asked for."""

    name: str = ""


class Subscription(msgspec.Struct):
    """What an app is told of, and where."""

    object: str = ""
    callback_url: str | None = None
    active: bool = True
    fields: list[Field] = []


class Subscriptions(msgspec.Struct):
    """The answer to ``subscriptions``."""

    data: list[Subscription]


class Token(msgspec.Struct):
    """What ``debug_token`` knows; ``expires_at`` in Unix seconds, 0 for never."""

    expires_at: float = 0.0
    scopes: list[str] = []


class TokenFacts(msgspec.Struct):
    """The answer to ``debug_token``."""

    data: Token


class Deaf(Disconnect):
    """WhatsApp does not call us: what happens meanwhile is lost to us."""


class WrongCallback(Deaf):
    """The address it calls is not ours."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Asks whether what users write comes to ``url``. Raises Disconnect and what `Graph` does."""

    graph: Graph
    number: str
    account: str
    url: str

    async def look(self, step: Callable[[str], None] = lambda name: None) -> Number:
        """Everything a message needs on its way; each failing part is a cause of its own."""
        step("number")
        number = await self.whoami()
        told = number.webhook_configuration
        step("subscription")
        override = await self._subscribed()
        used = told.url if told is not None else override
        if self.graph.app_id:
            step("app")
            used = await self._app_address(used)
        elif told is None:
            return number  # Meta does not say, and without the app nobody can be asked
        self._expect_ours(used)
        return number

    async def glance(self, *, subscription: bool) -> None:
        """What changes most, in one call or two: token, callback in force, subscription."""
        number = await self.whoami()
        if subscription:
            await self._subscribed()
        if number.webhook_configuration is not None:
            self._expect_ours(number.webhook_configuration.url)

    def _expect_ours(self, used: str) -> None:
        if used.rstrip("/") != self.url.rstrip("/"):
            raise self._wrong(used)

    async def whoami(self) -> Number:
        """The number; proves the token."""
        names = "display_phone_number,verified_name,status,quality_rating,webhook_configuration"
        return (await self.graph.call("GET", self.number, query={"fields": names})).decode(Number)

    async def _subscribed(self) -> str:
        """The business account tells our app; its own address for that, if it has one."""
        reply = await self.graph.call("GET", f"{self.account}/subscribed_apps")
        ours = (entry for entry in reply.decode(Subscribers).data if self._is_ours(entry.app))
        found = next(ours, None)
        if found is None:
            message = f"the app is not subscribed to the business account {self.account}"
            hint = (
                f"Subscribe it: POST {self.graph.base}/{self.account}/subscribed_apps with the "
                f"access token, or add the account once more at {APPS} > WhatsApp > API Setup; "
                "then run `holdfast kick ACCOUNT`."
            )
            raise Deaf(Cause(Kind.REFUSED, "whatsapp_not_subscribed", message, hint))
        return found.override_callback_uri if self.graph.app_id else ""

    def _is_ours(self, app: App) -> bool:
        return not self.graph.app_id or app.id == self.graph.app_id

    async def _app_address(self, used: str) -> str:
        """The app asks for messages; its address unless a narrower one is used.

        Proves the app's secret, too.
        """
        path = f"{self.graph.app_id}/subscriptions"
        reply = await self.graph.call("GET", path, key=Key.APP)
        entries = [s for s in reply.decode(Subscriptions).data if s.object == _OBJECT]
        if not entries:
            return used
        entry = entries[0]
        if not entry.active or not any(field.name == "messages" for field in entry.fields):
            message = "the app's web hook is switched off, or is not told of messages"
            raise Deaf(Cause(Kind.REFUSED, "whatsapp_no_messages", message, _FIELD_HINT))
        return used or entry.callback_url or ""

    def _wrong(self, used: str) -> WrongCallback:
        hint = _CALLBACK_HINT.format(self.url)
        if not used:
            message = "no callback URL is set for this number"
            return WrongCallback(Cause(Kind.REFUSED, "whatsapp_no_callback", message, hint))
        # Only the host: a path may be somebody's secret.
        there = urlsplit(used).netloc or "nowhere"
        message = f"the callback URL leads to {there}, not to this gateway"
        if there == urlsplit(self.url).netloc:
            message = "the callback URL leads to another path of this gateway"
        return WrongCallback(Cause(Kind.REPLACED, "whatsapp_callback_elsewhere", message, hint))

    async def take_over(self, verify_token: str) -> None:
        """Have this number's messages sent to us; Meta asks us for the challenge meanwhile."""
        change = {"override_callback_uri": self.url, "verify_token": verify_token}
        await self.graph.call("POST", self.number, json={"webhook_configuration": change})

    # -- what is worth knowing ----------------------------------------------------------------

    async def token(self) -> Token:
        """What the access token may do, and until when."""
        query = {"input_token": self.graph.token.reveal()}
        key = Key.APP if self.graph.app_id else Key.TOKEN
        reply = await self.graph.call("GET", "debug_token", query=query, key=key)
        return reply.decode(TokenFacts).data


def lacking(token: Token) -> Cause | None:
    """The cause of a token that may not do what is needed."""
    missing = [scope for scope in SCOPES if token.scopes and scope not in token.scopes]
    if not missing:
        return None
    message = f"the access token lacks {' and '.join(missing)}"
    return Cause(Kind.REFUSED, "whatsapp_missing_permission", message, Key.TOKEN.hint)


def notes(number: Number, token: Token, app_id: str, now: float) -> Iterator[str]:
    """What works but is worth knowing; ``now`` is in Unix seconds."""
    if token.expires_at:
        end = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(token.expires_at))
        soon = "soon, " if token.expires_at - now < SOON else ""
        yield f"The access token ends {soon}on {end}; one of a system user does not expire."
    if number.status not in ("", "CONNECTED"):
        yield f"The number's status is {number.status}: see {MANAGER} > Phone numbers."
    if number.quality_rating in ("YELLOW", "RED"):
        yield f"The number's quality is {number.quality_rating}: see {MANAGER} > Phone numbers."
    if not app_id:
        yield (
            "Without `app_id` nobody can be asked whether the app secret is right and the app is "
            "told of messages."
        )
    if not app_id and number.webhook_configuration is None:
        yield "Meta does not say where the number's messages go: set `app_id` to have it checked."
