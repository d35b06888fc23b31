"""What every handler of the API shares: the prefix, the answers, and mistakes in words."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiohttp import web

from holdfast.errors import ConfigError, StoreError
from holdfast.gateway.gateway import UnknownAccount
from holdfast.legible import encoded
from holdfast.store.protocol import NotMendable
from holdfast.web.problem import Problem

log = logging.getLogger("holdfast.web.answers")
"""Not that of the server, of which every line is told: anybody might call a defect up at will."""

PREFIX = "/api/v1"

LIMIT = 1000
"""Most things in one answer; the journal keeps ten times as many transitions of an account."""

_MOMENT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,18})?")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def explain_mistakes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what handlers raise into JSON; a defect of ours is logged and told without detail."""
    try:
        return await handler(request)
    except Problem as problem:
        return _problem(problem.status, problem.error, problem.hint)
    except UnknownAccount as error:
        return _problem(404, str(error), "run `holdfast status` to see all accounts")
    except ConfigError as error:
        return _problem(422, f"{error.where}: {error.problem}", error.hint)
    except NotMendable as error:
        return _problem(409, error.problem, error.hint)
    except StoreError as error:
        return _problem(503, error.problem, error.hint)
    except web.HTTPException as error:
        hint = f"{PREFIX}/openapi.json names all requests; backup is on the control socket alone"
        return _problem(error.status, f"{error.reason}: {request.method} {request.path}", hint)
    except Exception:
        log.exception("request failed method=%s path=%s", request.method, _route(request))
        return _problem(500, "internal error", "the gateway's log has the details")


def _route(request: web.Request) -> str:
    """The path without what callers choose in it: of the same defects all lines are the same."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def as_json(value: Any, status: int = 200) -> web.Response:
    """An answer."""
    return web.Response(body=encoded(value), status=status, content_type="application/json")


def limit_of(request: web.Request) -> int:
    """How many things are asked for. Raises Problem."""
    return number_of(request, "limit", 1, LIMIT, 100)


def number_of(
    request: web.Request,
    name: str,
    least: int,
    most: int,
    default: int,
    among: Collection[int] = (),
) -> int:
    """A whole number of the query, from ``least`` to ``most``, and one ``among`` those, if any.

    Raises Problem.
    """
    text = request.query.get(name)
    if text is None:
        return default
    number = int(text) if text.isdecimal() and len(text) < 16 else -1
    if not least <= number <= most or (among and number not in among):
        known = " or ".join(map(str, among)) if among else f"a number from {least} to {most}"
        raise Problem(400, f"{name}={text!r} is not {known}", f"without it, it is {default}")
    return number


def moment_of(request: web.Request, name: str) -> float:
    """Unix seconds of the query, whole or not; 0 without them. Raises Problem."""
    text = request.query.get(name, "0")
    if not _MOMENT.fullmatch(text):
        raise Problem(
            400, f"{name}={text!r} is not a number of Unix seconds", "such as 1700000000.5"
        )
    return float(text)


def _problem(status: int, error: str, hint: str) -> web.Response:
    return as_json({"error": error, "hint": hint}, status)
