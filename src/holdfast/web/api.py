"""The control API: what an operator may ask of a running gateway, as HTTP and JSON.

Every answer is JSON. A mistake is ``{"error": what is wrong, "hint": how to mend it}`` with a
status that says whose it is: 4xx the caller's, 503 the journal's, 500 ours. The handlers know
nothing of the socket they are served on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web

from holdfast.config import Config, GatewaySettings, load
from holdfast.errors import ConfigError
from holdfast.gateway.gateway import Gateway
from holdfast.observe.status import AccountStatus
from holdfast.store.protocol import Transition
from holdfast.supervision import Published
from holdfast.threads import DAEMONS
from holdfast.web import control
from holdfast.web.answers import PREFIX, as_json, explain_mistakes, limit_of
from holdfast.web.letters_api import LettersApi
from holdfast.web.problem import Problem

__all__ = ["PREFIX", "Api", "ControlServer", "Done", "Reloaded", "reload"]

log = logging.getLogger("holdfast.web")

STOP_LIMIT = 0.5
"""Seconds that requests under way may take when the server stops."""

AT_START = tuple(
    name for name in GatewaySettings.__struct_fields__ if name not in ("state_dir", "agent")
)
"""Gateway settings that a running gateway does not take over."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request to act on an account."""

    account: str
    done: str
    """kicked, paused or resumed."""
    status: AccountStatus


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a reload: a line per change, and what is worth a warning."""

    done: list[str]
    warnings: list[str]


# -- reload, which a signal asks for as well ------------------------------------------------------


async def reload(gateway: Gateway, read: Callable[[Path], Config] = load) -> Reloaded:
    """Read the configuration file again and take it over.

    Raises ConfigError; then nothing was changed.
    """
    old = gateway.config
    loop = asyncio.get_running_loop()
    new = await loop.run_in_executor(DAEMONS, read, old.path)
    if new.state_dir != old.state_dir:
        raise ConfigError(
            f"{new.path}: [gateway] state_dir",
            "can not change while the gateway runs",
            "restart the gateway to move its state",
        )
    later = [
        f"[gateway] {name}: takes effect at the next start"
        for name in AT_START
        if getattr(new.gateway, name) != getattr(old.gateway, name)
    ]
    done = await gateway.reload(new)
    return Reloaded(done=done, warnings=[*later, *new.warnings])


# -- the handlers ---------------------------------------------------------------------------------


class Api:
    """The handlers of one gateway; `add_to` puts them into any application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        account = PREFIX + "/accounts/{name}"
        app.add_routes(
            [
                web.get(PREFIX + "/status", self._status),
                web.get(PREFIX + "/history", self._history),
                web.post(PREFIX + "/reload", self._reload),
                web.get(PREFIX + "/accounts", self._accounts),
                web.get(account, self._account),
                web.get(account + "/history", self._history),
                web.post(account + "/kick", self._kick),
                web.post(account + "/pause", self._pause),
                web.post(account + "/resume", self._resume),
            ]
        )

    async def _status(self, request: web.Request) -> web.Response:
        return as_json(self._gateway.status())

    async def _accounts(self, request: web.Request) -> web.Response:
        return as_json(self._gateway.status().accounts)

    async def _account(self, request: web.Request) -> web.Response:
        return as_json(self._entry(self._name(request)))

    async def _history(self, request: web.Request) -> web.Response:
        account = self._name(request) if "name" in request.match_info else None
        lines: list[Transition] = await self._gateway.store.history(account, limit_of(request))
        return as_json(lines)

    async def _kick(self, request: web.Request) -> web.Response:
        name = self._name(request)
        if self._gateway.desk(name).paused:
            raise Problem(409, f"account {name!r} is paused", f"run `holdfast resume {name}`")
        if not await self._repaired(name):
            self._gateway.kick(name)
        return self._did(name, "kicked")

    async def _repaired(self, name: str) -> bool:
        """Take up the entry of an account that is not connected if it was mended; whether it was.

        Whoever kicks it may have acted on its secret. Other accounts keep what
        they have, and a file that can not be used now must not hinder the kick.
        """
        old = self._gateway.config
        if self._entry(name).state == Published.CONNECTED:
            return False
        loop = asyncio.get_running_loop()
        try:
            new = (await loop.run_in_executor(DAEMONS, load, old.path)).accounts.get(name)
            if new is None or new == old.accounts[name]:
                return False
            await self._gateway.reload(replace(old, accounts={**old.accounts, name: new}))
        except ConfigError as error:
            log.warning("kicked with the old entry account=%s error=%s", name, error)
            return False
        return True

    async def _pause(self, request: web.Request) -> web.Response:
        name = self._name(request)
        await self._gateway.pause(name)
        return self._did(name, "paused")

    async def _resume(self, request: web.Request) -> web.Response:
        name = self._name(request)
        await self._gateway.resume(name)
        return self._did(name, "resumed")

    async def _reload(self, request: web.Request) -> web.Response:
        return as_json(await reload(self._gateway))

    def _name(self, request: web.Request) -> str:
        name = request.match_info["name"]
        self._gateway.desk(name)
        return name

    def _entry(self, name: str) -> AccountStatus:
        return self._gateway.status().accounts[name]

    def _did(self, name: str, done: str) -> web.Response:
        log.info("%s account=%s by=operator", done, name)
        return as_json(Done(account=name, done=done, status=self._entry(name)))


# -- the server on the control socket -------------------------------------------------------------


class ControlServer:
    """Serves the API of a gateway on its control socket."""

    def __init__(self, gateway: Gateway) -> None:
        self.path = gateway.config.state_dir / control.SOCKET_NAME
        app = web.Application(middlewares=[explain_mistakes])
        Api(gateway).add_to(app)
        letters = LettersApi(gateway)
        letters.add_to(app)
        letters.add_local_to(app)
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
