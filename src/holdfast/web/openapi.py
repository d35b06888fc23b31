"""The OpenAPI document, made of the table of operations and of the types they answer with.

Nothing of it is written by hand, so it can not drift. https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from holdfast import __version__
from holdfast.web.routes import Operation, Query

_PARAMETER = re.compile(r"\{(\w+)\}")

_REF = "#/components/schemas/{name}"


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that could not be carried out."""

    error: str
    hint: str


ABOUT = {
    "name": "an account of the configuration",
    "message": "a message's name, for example in-17",
    "number": "a gap's number",
}
"""The parameters of paths."""


def document(operations: Iterable[Operation], cookie: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of some operations; ``cookie`` is the name of a session's."""
    told = list(operations)
    types = [kind for one in told for kind in (one.answer, one.body) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, Mistake], ref_template=_REF)
    schema_of = dict(zip(map(_key, [*types, Mistake]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in told:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast", "version": __version__, "summary": "The control API."},
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
            },
        },
    }


def _operation(one: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.about,
        "parameters": [
            *(_path_parameter(name) for name in _PARAMETER.findall(one.path)),
            *(_query_parameter(query) for query in one.query),
        ],
        "responses": {
            "200": {
                "description": one.about,
                "content": {one.mime: {"schema": schema_of[_key(one.answer)]}},
            },
            "default": {
                "description": "What is wrong, and how to mend it.",
                "content": {"application/json": {"schema": schema_of[_key(Mistake)]}},
            },
        },
    }
    if one.body is not None:
        content = {"application/json": {"schema": schema_of[_key(one.body)]}}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _path_parameter(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": ABOUT[name],
        "schema": {"type": "string"},
    }


def _query_parameter(query: Query) -> dict[str, Any]:
    schema = msgspec.json.schema(query.kind)
    return {
        "name": query.name,
        "in": "query",
        "description": query.about,
        "schema": {"type": "array", "items": schema} if query.many else schema,
    }


def _key(kind: Any) -> str:
    """Types such as ``list[X]`` are equal without being the same."""
    return repr(kind)
