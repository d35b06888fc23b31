"""The API of the history: incidents, uptimes, and who did what; and the noting of the latter."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import SIZES, Action, History, Incident, Uptime
from holdfast.observe.incidents import HOUR
from holdfast.web.answers import Handler, as_json, limit_of, moment_of, number_of
from holdfast.web.routes import LIMIT, Query, operation, operation_of

WHO = web.RequestKey("who", str)
"""Who sends a request, in words for the history."""

PIECES = 2_160
"""Most pieces of uptime in one answer: 90 days by the hour."""

SINCE = Query("since", "only those that lasted then or began after; Unix seconds", float)
SIZE = Query("size", "seconds of a piece: 60 or 3600 (default)", int)
COUNT = Query("count", f"how many pieces, the newest ones: 1 to {PIECES}; 24 by default", int)


class HistoryApi:
    """The handlers of one gateway; `routes.add_to` puts them into any application."""

    def __init__(self, gateway: Gateway, history: History) -> None:
        self._gateway, self._history = gateway, history

    @operation(
        "GET",
        "/incidents",
        list[Incident],
        "When and why accounts were not connected.",
        query=(SINCE, LIMIT),
    )
    async def _incidents(self, request: web.Request) -> web.Response:
        return as_json(await self._found(request, None))

    @operation(
        "GET",
        "/accounts/{name}/incidents",
        list[Incident],
        "When and why it was not connected.",
        query=(SINCE, LIMIT),
    )
    async def _account_incidents(self, request: web.Request) -> web.Response:
        return as_json(await self._found(request, self._name(request)))

    async def _found(self, request: web.Request, account: str | None) -> list[Incident]:
        since = moment_of(request, "since")
        return await self._history.incidents(account, since=since, limit=limit_of(request))

    @operation(
        "GET",
        "/accounts/{name}/uptime",
        list[Uptime],
        "How long it was connected, piece by piece, the running one last.",
        query=(SIZE, COUNT),
    )
    async def _uptime(self, request: web.Request) -> web.Response:
        size = number_of(request, "size", min(SIZES), max(SIZES), HOUR, SIZES)
        count = number_of(request, "count", 1, PIECES, 24)
        return as_json(await self._history.uptime(self._name(request), size, count))

    @operation("GET", "/actions", list[Action], "Who asked for what.", query=(LIMIT,))
    async def _actions(self, request: web.Request) -> web.Response:
        return as_json(await self._history.actions(limit_of(request)))

    def _name(self, request: web.Request) -> str:
        name = request.match_info["name"]
        self._gateway.desk(name)
        return name


# -- noting ---------------------------------------------------------------------------------------


def noted(history: History, clock: Callable[[], float] = time.time) -> Middleware:
    """A middleware that notes every action with who asked for it and how it ended.

    What is refused by the guard before does not come here: it is counted, or it could fill the
    history.
    """

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        told = operation_of(request)
        if told is not None and told.acts:
            history.act(
                Action(
                    at=clock(),
                    who=request.get(WHO) or local_user(request),
                    what=told.name,
                    path=request.path,
                    status=response.status,
                )
            )
        return response

    return note


def local_user(request: web.Request) -> str:
    """Who is at the other end of a Unix socket, as the kernel knows it."""
    form = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
    transport = request.transport
    end = None if transport is None else transport.get_extra_info("socket")
    if end is None or end.family != socket.AF_UNIX:
        return "unknown"
    _, uid, _ = form.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size))
    return f"uid {uid}"
