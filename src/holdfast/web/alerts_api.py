"""The API of the alerts."""

from __future__ import annotations

from aiohttp import web

from holdfast.gateway.alerting import Tried
from holdfast.gateway.gateway import Gateway
from holdfast.web.answers import as_json
from holdfast.web.routes import operation


class AlertsApi:
    """The handlers of one gateway; `routes.add_to` puts them into any application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @operation("POST", "/alerts/test", list[Tried], "Try every way of the alerts; takes a while.")
    async def _test_alerts(self, request: web.Request) -> web.Response:
        return as_json(await self._gateway.alerting.test())
