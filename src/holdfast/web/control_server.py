"""The API on the control socket, for the gateway's own user alone."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import History
from holdfast.web import control, routes
from holdfast.web.alerts_api import AlertsApi
from holdfast.web.answers import explain_mistakes
from holdfast.web.api import Api
from holdfast.web.history_api import HistoryApi, noted
from holdfast.web.letters_api import LettersApi

STOP_LIMIT = 0.5
"""Seconds that requests under way may take when the server stops."""


class ControlServer:
    """Serves the API of a gateway on its control socket."""

    def __init__(self, gateway: Gateway, history: History | None = None) -> None:
        """Without a ``history``, what is done is not noted, and nothing is told of the past."""
        self.path = gateway.config.state_dir / control.SOCKET_NAME
        noting = [] if history is None else [noted(history)]
        app = web.Application(middlewares=[*noting, explain_mistakes])
        for owner in handlers(gateway, history):
            routes.add_to(app, owner, local=True)
        self._make_runner = partial(
            web.AppRunner, app, access_log=None, shutdown_timeout=STOP_LIMIT
        )
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the socket can not be made."""
        runner = self._make_runner()
        await runner.setup()
        try:
            await web.SockSite(runner, control.listen(self.path), backlog=control.BACKLOG).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            self.path.unlink(missing_ok=True)
            await runner.cleanup()


def handlers(gateway: Gateway, history: History | None) -> list[object]:
    """What answers on every socket."""
    past = [] if history is None else [HistoryApi(gateway, history)]
    return [Api(gateway), *past, LettersApi(gateway), AlertsApi(gateway)]
