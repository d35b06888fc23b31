"""Texts of others, such that they can always be written down.

Python keeps bytes that are no UTF-8 as lone surrogates (PEP 383): in what aiohttp makes of a reason
phrase or a header, in file names, in the environment. A `str` holds them, but no file, socket or
database takes them. So words of others pass `legible` where they come in, and documents are
`encoded` such that one such word can not keep back all the rest.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_LONE = re.compile("[\ud800-\udfff]")


def legible(text: str) -> str:
    """The text with U+FFFD, the replacement character, for what UTF-8 can not hold."""
    return text if text.isascii() else _LONE.sub("\N{REPLACEMENT CHARACTER}", text)


def encoded(document: Any) -> bytes:
    """The JSON of a document whose texts may hold anything; each is made `legible`.

    Raises TypeError for what is no JSON.
    """
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_all_legible(msgspec.to_builtins(document)))


def _all_legible(value: Any) -> Any:
    match value:
        case str():
            return legible(value)
        case dict():
            return {_all_legible(name): _all_legible(part) for name, part in value.items()}
        case list() | tuple():
            return [_all_legible(part) for part in value]
        case _:
            return value
