"""The control API: what an operator may ask of a running gateway, as HTTP and JSON.

Every answer is JSON. A mistake is ``{"error": what is wrong, "hint": how to mend it}`` with a
status that says whose it is: 4xx the caller's, 503 the journal's, 500 ours. The handlers know
nothing of the socket they are served on.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import msgspec
from aiohttp import web

from holdfast.config import GatewaySettings
from holdfast.errors import ConfigError
from holdfast.gateway.gateway import Gateway
from holdfast.observe.status import AccountStatus, Status
from holdfast.store.protocol import Transition
from holdfast.supervision import Published
from holdfast.threads import DAEMONS
from holdfast.web.answers import PREFIX, as_json, limit_of
from holdfast.web.problem import Problem
from holdfast.web.routes import LIMIT, operation

__all__ = ["PREFIX", "Api", "Done", "Reloaded", "reload"]

log = logging.getLogger("holdfast.web")

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


async def reload(gateway: Gateway) -> Reloaded:
    """Read the configuration file again and take it over.

    Raises ConfigError; then nothing was changed.
    """
    old = gateway.config
    loop = asyncio.get_running_loop()
    new = await loop.run_in_executor(DAEMONS, gateway.read, old.path)
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
    if new.web != old.web:
        later.append("[web]: takes effect at the next start")
    done = await gateway.reload(new)
    return Reloaded(done=done, warnings=[*later, *new.warnings])


# -- the handlers ---------------------------------------------------------------------------------


class Api:
    """The handlers of one gateway; `routes.add_to` puts them into any application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @operation("GET", "/status", Status, "The whole status document.")
    async def _status(self, request: web.Request) -> web.Response:
        return as_json(self._gateway.status())

    @operation("GET", "/accounts", dict[str, AccountStatus], "Every account, as in the status.")
    async def _accounts(self, request: web.Request) -> web.Response:
        return as_json(self._gateway.status().accounts)

    @operation("GET", "/accounts/{name}", AccountStatus, "One account.")
    async def _account(self, request: web.Request) -> web.Response:
        return as_json(self._entry(self._name(request)))

    @operation(
        "GET",
        "/history",
        list[Transition],
        "Transitions of all accounts, the newest last.",
        query=(LIMIT,),
    )
    async def _history(self, request: web.Request) -> web.Response:
        return as_json(await self._gateway.store.history(None, limit_of(request)))

    @operation(
        "GET", "/accounts/{name}/history", list[Transition], "Its transitions.", query=(LIMIT,)
    )
    async def _account_history(self, request: web.Request) -> web.Response:
        lines = await self._gateway.store.history(self._name(request), limit_of(request))
        return as_json(lines)

    @operation("POST", "/accounts/{name}/kick", Done, "Try now; 409 when it is paused.")
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
            config = await loop.run_in_executor(DAEMONS, self._gateway.read, old.path)
            new = config.accounts.get(name)
            if new is None or new == old.accounts[name]:
                return False
            await self._gateway.reload(replace(old, accounts={**old.accounts, name: new}))
        except ConfigError as error:
            log.warning("kicked with the old entry account=%s error=%s", name, error)
            return False
        return True

    @operation("POST", "/accounts/{name}/pause", Done, "Disconnect until resumed; done on return.")
    async def _pause(self, request: web.Request) -> web.Response:
        name = self._name(request)
        await self._gateway.pause(name)
        return self._did(name, "paused")

    @operation("POST", "/accounts/{name}/resume", Done, "Connect again.")
    async def _resume(self, request: web.Request) -> web.Response:
        name = self._name(request)
        await self._gateway.resume(name)
        return self._did(name, "resumed")

    @operation("POST", "/reload", Reloaded, "Read the configuration file again.")
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
