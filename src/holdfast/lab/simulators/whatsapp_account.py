"""The administrative calls of the simulated WhatsApp platform: probes, tokens, subscriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from holdfast.lab.simulators import whatsapp_rules as rules
from holdfast.lab.simulators.whatsapp_hook import Callbacks, Scope, WebhookRefused
from holdfast.lab.simulators.whatsapp_platform import BusinessPlatform, answer, read_object
from holdfast.lab.simulators.whatsapp_rest import ChatCalls
from holdfast.lab.simulators.whatsapp_rules import GraphError

APP_NAME = "Holdfast"
FIELDS = ("messages",)


class AccountCalls:
    """What an operator asks or changes: the number, the account, the app and its callbacks."""

    def __init__(self, lab: BusinessPlatform, chats: ChatCalls, callbacks: Callbacks) -> None:
        self._lab, self._chats, self._callbacks = lab, chats, callbacks
        self.health = "AVAILABLE"
        self._fields: tuple[str, ...] = FIELDS

    # -- nodes --------------------------------------------------------------------------------

    async def get_node(self, request: web.Request) -> web.Response:
        """``GET /{id}``: the phone number, the business account, or a media."""
        key = request.match_info["id"]
        if key == self._lab.phone_number_id:
            self._lab.note("probe")
            return answer(_selected(request, self._number()))
        if key == self._lab.business_account_id:
            return answer(_selected(request, self._business()))
        return self._chats.lookup(request, key)

    async def post_node(self, request: web.Request) -> web.Response:
        """``POST /{phone_number_id}``: the callback of this number only."""
        self.must_be_number(request)
        change = (await read_object(request)).get("webhook_configuration")
        if not isinstance(change, dict):
            raise rules.parameter("webhook_configuration is required")
        return await self._override(Scope.PHONE, change)

    async def delete_node(self, request: web.Request) -> web.Response:
        """``DELETE /{media_id}``."""
        return self._chats.delete(request.match_info["id"])

    def must_be_number(self, request: web.Request) -> None:
        """Raise the refusal of a phone number id that is not ours."""
        if request.match_info["id"] != self._lab.phone_number_id:
            raise rules.no_object(request.match_info["id"])

    def _number(self) -> dict[str, Any]:
        urls = self._callbacks.urls
        return {
            "verified_name": APP_NAME,
            "display_phone_number": f"+{self._lab.phone_number}",
            "quality_rating": "GREEN",
            "status": "CONNECTED",
            "throughput": {"level": "STANDARD"},
            "webhook_configuration": {_SCOPE_FIELD[scope]: url for scope, url in urls.items()},
            "id": self._lab.phone_number_id,
        }

    def _business(self) -> dict[str, Any]:
        entities = (
            ("PHONE_NUMBER", self._lab.phone_number_id),
            ("WABA", self._lab.business_account_id),
            ("APP", self._lab.app_id),
        )
        health = {
            "can_send_message": self.health,
            "entities": [
                {"entity_type": kind, "id": key, "can_send_message": self.health}
                for kind, key in entities
            ],
        }
        return {"id": self._lab.business_account_id, "name": APP_NAME, "health_status": health}

    # -- tokens -------------------------------------------------------------------------------

    async def debug_token(self, request: web.Request) -> web.Response:
        """``GET /debug_token?input_token=``: whether a token is valid, and why not."""
        facts: dict[str, Any] = {
            "app_id": self._lab.app_id,
            "application": APP_NAME,
            "type": "SYSTEM_USER",
            "expires_at": 0,
            "is_valid": True,
            "scopes": ["whatsapp_business_management", "whatsapp_business_messaging"],
        }
        try:
            self._lab.check_token(request.query.get("input_token", ""), app=True)
        except GraphError as error:
            reason = {"code": error.code, "message": error.message, "subcode": error.subcode}
            facts |= {"is_valid": False, "error": reason, "scopes": []}
        return answer({"data": facts})

    async def access_token(self, request: web.Request) -> web.StreamResponse:
        """``GET /oauth/access_token``: the app's own token for id and secret."""
        query = request.query
        asked = query.get("client_id"), query.get("client_secret")
        if asked != (self._lab.app_id, self._lab.app_secret):
            error = GraphError(1, "Error validating client secret")
            return web.json_response(error.body(), status=error.status)
        return answer({"access_token": self._lab.app_token, "token_type": "bearer"})

    # -- subscription of the app to the business account ----------------------------------------

    def _must_be_business(self, request: web.Request) -> None:
        if request.match_info["id"] != self._lab.business_account_id:
            raise rules.no_object(request.match_info["id"])

    async def subscribed_apps(self, request: web.Request) -> web.Response:
        """``GET /{waba_id}/subscribed_apps``."""
        self._must_be_business(request)
        link = f"https://www.facebook.com/games/?app_id={self._lab.app_id}"
        api = {"link": link, "name": APP_NAME, "id": self._lab.app_id}
        entry: dict[str, Any] = {"whatsapp_business_api_data": api}
        if Scope.WABA in self._callbacks.urls:
            entry["override_callback_uri"] = self._callbacks.urls[Scope.WABA]
        return answer({"data": [entry] if self._callbacks.subscribed else []})

    async def subscribe(self, request: web.Request) -> web.Response:
        """``POST /{waba_id}/subscribed_apps``; without an override the app's address counts."""
        self._must_be_business(request)
        change = await read_object(request)
        self._callbacks.subscribe(True)
        return await self._override(Scope.WABA, change)

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """``DELETE /{waba_id}/subscribed_apps``."""
        self._must_be_business(request)
        self._callbacks.subscribe(False)
        return answer({"success": True})

    async def _override(self, scope: Scope, change: Mapping[str, Any]) -> web.Response:
        url = change.get("override_callback_uri")
        if not url:
            self._callbacks.put(scope, None)
            return answer({"success": True})
        return await self._take(scope, str(url), str(change.get("verify_token", "")))

    async def _take(self, scope: Scope, url: str, token: str) -> web.Response:
        try:
            await self._callbacks.use(url, token, scope)
        except WebhookRefused as refused:
            text = f"Callback verification failed: {refused}"
            raise GraphError(2200, text) from None
        return answer({"success": True})

    # -- callback of the app ------------------------------------------------------------------

    def _must_be_app(self, request: web.Request) -> None:
        if request.match_info["id"] != self._lab.app_id:
            raise rules.no_object(request.match_info["id"])

    async def subscriptions(self, request: web.Request) -> web.Response:
        """``GET /{app_id}/subscriptions``: the callback of the app as it is now."""
        self._must_be_app(request)
        url = self._callbacks.urls.get(Scope.APP)
        entry = {
            "object": "whatsapp_business_account",
            "callback_url": url,
            "active": True,
            "fields": [{"name": name, "version": "v26.0"} for name in self._fields],
        }
        return answer({"data": [entry] if url else []})

    async def set_subscription(self, request: web.Request) -> web.Response:
        """``POST /{app_id}/subscriptions``: verify and take a callback."""
        self._must_be_app(request)
        asked = {**request.query, **await read_object(request)}
        if asked.get("object") != "whatsapp_business_account" or not asked.get("callback_url"):
            raise rules.parameter("object and callback_url are required")
        url, token = str(asked["callback_url"]), str(asked.get("verify_token", ""))
        done = await self._take(Scope.APP, url, token)
        self._fields = tuple(str(asked.get("fields") or ",".join(FIELDS)).split(","))
        return done

    async def end_subscription(self, request: web.Request) -> web.Response:
        """``DELETE /{app_id}/subscriptions``."""
        self._must_be_app(request)
        self._callbacks.put(Scope.APP, None)
        return answer({"success": True})


_SCOPE_FIELD: Mapping[Scope, str] = {
    Scope.APP: "application",
    Scope.WABA: "whatsapp_business_account",
    Scope.PHONE: "phone_number",
}


def _selected(request: web.Request, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields a call asks for, and always the id; all without a choice."""
    asked = request.query.get("fields")
    if asked is None:
        return dict(facts)
    names = {*asked.split(","), "id"}
    return {name: value for name, value in facts.items() if name in names}
