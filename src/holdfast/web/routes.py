"""The table of what can be asked: written once, served on every socket, and told by OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from aiohttp import web

from holdfast.web.answers import PREFIX
from holdfast.web.problem import Problem

F = TypeVar("F", bound=Callable[..., Awaitable[web.StreamResponse]])

_MARK = "__operation__"


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter after the question mark; all of them may be left out."""

    name: str
    about: str
    kind: type = str
    many: bool = False
    """It may be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path, as people and programs must know it."""

    method: str
    path: str
    """From the root, with ``{parameters}``."""
    answer: Any
    """Type of the document that comes back."""
    about: str
    """A sentence."""
    name: str
    """Unique; also what the history calls it."""
    body: type | None = None
    """Type of the document that is sent."""
    query: tuple[Query, ...] = ()
    mime: str = "application/json"
    """Of the answer."""
    local: bool = False
    """Served only where the caller is the gateway's own user: it writes files where it is told."""

    @property
    def acts(self) -> bool:
        """Whether something is changed: it is noted in the history who asked for it."""
        return self.method != "GET"


LIMIT = Query("limit", "how many, the newest ones: 1 to 1000", int)


def operation(
    method: str,
    path: str,
    answer: Any,
    about: str,
    *,
    body: type | None = None,
    query: tuple[Query, ...] = (),
    mime: str = "application/json",
    local: bool = False,
) -> Callable[[F], F]:
    """Mark a method as the handler of ``method`` on ``path`` below the API's prefix."""

    def mark(handler: F) -> F:
        @wraps(handler)
        async def strict(owner: object, request: web.Request) -> web.StreamResponse:
            _check(request, query)
            return await handler(owner, request)

        told = Operation(
            method=method,
            path=PREFIX + path,
            answer=answer,
            about=about,
            name=handler.__name__.strip("_"),
            body=body,
            query=query,
            mime=mime,
            local=local,
        )
        setattr(strict, _MARK, told)
        return cast(F, strict)

    return mark


def _check(request: web.Request, query: Sequence[Query]) -> None:
    """Raise Problem for a parameter there is not: what it was meant to narrow would not be."""
    known = [one.name for one in query]
    for name in request.query:
        if name not in known:
            hint = f"there are: {', '.join(known)}" if known else "it takes none"
            raise Problem(400, f"{request.path} has no parameter {name!r}", hint)


def operations(owner: type) -> Iterator[tuple[Operation, str]]:
    """The operations of a class with the names of their handlers, in the order of its body."""
    for name, value in vars(owner).items():
        told = getattr(value, _MARK, None)
        if isinstance(told, Operation):
            yield told, name


def operation_of(request: web.Request) -> Operation | None:
    """The operation that a request is served by; None for what is no part of the API."""
    return getattr(request.match_info.handler, _MARK, None)


def add_to(app: web.Application, owner: object, *, local: bool = False) -> None:
    """Add the handlers of an object; those of local operations only if ``local``."""
    for told, name in operations(type(owner)):
        if local or not told.local:
            app.router.add_route(told.method, told.path, getattr(owner, name))
