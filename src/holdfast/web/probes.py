"""What machines ask: is the process alive (``/livez``), are the accounts connected (``/readyz``).

A failed ``/livez`` means: restart the process. It looks at the loop and its deadlines only, never
at the platforms, or an outage of theirs would make a restart loop here. ``/readyz`` tells the truth
of the accounts as `believed` tells it, and is no reason to restart anything.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from holdfast.gateway.gateway import Gateway
from holdfast.observe.status import AccountStatus, believed
from holdfast.web.answers import as_json
from holdfast.web.guard import KNOWN


class NotReady(msgspec.Struct, frozen=True, kw_only=True):
    """Why an account is not connected."""

    state: str
    """What may be believed now: connecting, retrying, fatal, stopping or stopped."""
    paused: bool
    """An operator has stopped it."""
    since: float
    """When this state began, in Unix seconds."""
    code: str
    """The cause's code; empty where there is none."""
    message: str
    """The cause in one sentence."""
    who_acts: str
    """nobody or operator; empty without a cause."""
    hint: str
    """What to do, in words."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of ``/readyz``."""

    ready: bool
    """Whether nobody is missing."""
    connected: list[str] = []
    """Accounts; this and what follows only for who may know."""
    not_connected: dict[str, NotReady] = {}
    """Accounts that are wanted, or were asked for, and are not connected."""
    paused: list[str] = []
    """Accounts an operator has paused: nobody waits for them, so they do not count."""


class Probes:
    """The handlers of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.add_routes([web.get("/livez", self._livez), web.get("/readyz", self._readyz)])

    async def _livez(self, request: web.Request) -> web.Response:
        alive = self._gateway.on_time()
        return as_json({"alive": alive}, 200 if alive else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        wanted = request.query.get("account")
        known = request.get(KNOWN, False)
        if wanted is not None and wanted not in self._gateway.desks:
            # Strangers learn no names: not there and not connected are one answer to them.
            if known:
                self._gateway.desk(wanted)
            return as_json(Readiness(ready=False), 503)
        status = self._gateway.status()
        found = _readiness(status.accounts, wanted, status.written_at)
        answer = found if known else Readiness(ready=found.ready)
        return as_json(answer, 200 if found.ready else 503)


def _readiness(accounts: dict[str, AccountStatus], wanted: str | None, now: float) -> Readiness:
    """Of all accounts that are not paused, or of the one that is asked for."""
    connected, paused = [], []
    missing: dict[str, NotReady] = {}
    for name, account in accounts.items():
        if wanted not in (None, name):
            continue
        state = believed(account, now)
        if state == "connected":
            connected.append(name)
        elif account.paused and wanted is None:
            paused.append(name)
        else:
            missing[name] = _not_ready(account, state)
    return Readiness(ready=not missing, connected=connected, not_connected=missing, paused=paused)


def _not_ready(account: AccountStatus, state: str) -> NotReady:
    cause = account.escalation or account.cause
    return NotReady(
        state=state,
        paused=account.paused,
        since=account.since,
        code=cause.code if cause else "",
        message=cause.message if cause else "",
        who_acts=cause.who_acts if cause else "",
        hint=cause.hint if cause else "",
    )
