"""The API of the lab's cables, so that a person can pull one from the dashboard.

Only a server that was given a `Switchboard` has it: it is no part of the API of a gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from holdfast.web import routes
from holdfast.web.answers import PREFIX, as_json
from holdfast.web.problem import Problem
from holdfast.web.routes import operation

HEADER = "Holdfast-Lab"
"""On the front page of a server with cables: its value is where they are found."""

PATH = "/lab/cables"


class Switchboard(Protocol):
    """Cables between a gateway and its platforms."""

    def cables(self) -> Mapping[str, bool]:
        """Account -> whether its cable is out."""

    def pull(self, name: str) -> None:
        """Pull the cable of an account until it is put back. Idempotent."""

    def put_back(self, name: str) -> None:
        """Put the cable of an account back. Idempotent."""


class CableApi:
    """An `Extra` of the HTTP server; who pulls what is noted in the history like every action."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board

    def add_to(self, app: web.Application) -> None:
        """Add the routes, and the header that tells the dashboard of them."""
        routes.add_to(app, self)
        app.on_response_prepare.append(_tell)

    @operation("GET", PATH, dict[str, bool], "Whether each account's cable is out.")
    async def _cables(self, request: web.Request) -> web.Response:
        return as_json(dict(self._board.cables()))

    @operation("POST", PATH + "/{name}/pull", dict[str, bool], "Pull a cable until it is put back.")
    async def _pull_cable(self, request: web.Request) -> web.Response:
        self._board.pull(self._name(request))
        return await self._cables(request)

    @operation("POST", PATH + "/{name}/heal", dict[str, bool], "Put a cable back.")
    async def _heal_cable(self, request: web.Request) -> web.Response:
        self._board.put_back(self._name(request))
        return await self._cables(request)

    def _name(self, request: web.Request) -> str:
        name, known = request.match_info["name"], self._board.cables()
        if name not in known:
            hint = f"there is one for each of {', '.join(known)}" if known else "there are none"
            raise Problem(404, f"{name!r} has no cable", hint)
        return name


async def _tell(request: web.Request, response: web.StreamResponse) -> None:
    if request.path == "/":
        response.headers[HEADER] = PREFIX + PATH
