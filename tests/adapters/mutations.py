"""Ways to spoil what a peer says: JSON by its structure, even inside of strings, and bytes."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Mutation = Callable[[bytes], bytes]

_DEEP = "\ufdd0"
"""Stands for arrays in arrays, deeper than any recursion, which no encoder would write."""

DEPTH = 20_000

_GONE = object()

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 9, 10, 11, 13, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1),
    *(10**30, 10**300, 10**4000, 0.5, -0.5, 1e308, 1e-308, float("inf"), float("nan")),
    *("", " ", "0", "-1", "1.5", "nan", "inf", "9" * 30, "9" * 400, "9" * 5000, "٣", "²"),
    *("x" * 70_000, "\x00", "\r\n", "😀", "e\u0301" * 20, "\u202e", "../../x", "a:b#c.d/e"),
    *("@_user_1", "null", "[]", '{"a": 1}', "<@!>", "2026-99-99T99:99:99Z"),
    *("0001-01-01T00:00:00", "1969-12-31T00:00:00-99:00"),
    *([], [[]], [None], {}, {"": []}, {"id": None}, [{}], _DEEP),
)

EACH: tuple[Any, ...] = (_GONE, None, -1, 10**30, 10**400, "", "9" * 400, "9" * 5000, [], {}, _DEEP)
"""What every field is in turn."""

FRAGMENTS = (
    *(b"\x00", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\\ud800", b"\\udc00\\ud800"),
    *(b'"', b"{", b"}", b"-", b",", b"\n", b"1e999", b"\xef\xbb\xbf", b"\x89PNG"),
    *(b"[" * DEPTH, b'{"a":' * DEPTH),
)


def mutations() -> st.SearchStrategy[Mutation]:
    """One change to a message, most of them by its structure."""
    place, spot, like = st.integers(0, 10_000), st.integers(0, 1_000_000), st.integers(0, 99)
    values = st.sampled_from(VALUES) | st.text(max_size=6) | st.integers() | st.floats()
    pieces = st.sampled_from(FRAGMENTS) | st.binary(max_size=40)
    return st.one_of(
        st.builds(lambda n, v: _structural(n, lambda old: _like(old, v)), place, like),
        st.builds(lambda n, v: _structural(n, lambda old: _like(old, v)), place, like),
        st.builds(lambda n, v: _structural(n, lambda _: v), place, values),
        st.builds(lambda n: _structural(n, lambda _: _GONE), place),
        st.builds(lambda n: _structural(n, lambda old: [old]), place),
        st.builds(lambda n, v: _structural(n, lambda old: _more(old, v)), place, values),
        st.builds(lambda n: _structural(n, _renamed), place),
        st.builds(_cut, spot),
        st.builds(_inserted, spot, pieces),
        st.builds(_flipped, spot, st.integers(1, 255)),
        st.builds(lambda whole: lambda _: whole, pieces),
    )


def each_in_turn(raw: bytes) -> Iterator[Mutation]:
    """Every field of a message replaced by every value of `EACH`."""
    numbers = itertools.count()
    _walked(json.loads(raw), numbers, -1, _renamed)
    for place in range(next(numbers)):
        for value in EACH:
            yield _structural(place, functools.partial(_replaced, value))


def _replaced(value: Any, old: Any) -> Any:
    return value


def _structural(place: int, change: Callable[[Any], Any]) -> Mutation:
    def mutate(raw: bytes) -> bytes:
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            return raw
        nodes = itertools.count()
        _walked(document, nodes, -1, change)
        changed = _walked(document, itertools.count(), place % next(nodes), change)
        text = json.dumps(None if changed is _GONE else changed, ensure_ascii=False)
        for deep in (json.dumps(_DEEP), _DEEP):
            text = text.replace(deep, "[" * DEPTH)
        return text.encode("utf-8", "surrogatepass")

    return mutate


def _walked(node: Any, numbers: Iterator[int], place: int, change: Callable[[Any], Any]) -> Any:
    """The document with one node changed; nodes are numbered from the root, depth first."""
    if next(numbers) == place:
        return change(node)
    match node:
        case dict():
            items = [(k, _walked(v, numbers, place, change)) for k, v in node.items()]
            return {key: value for key, value in items if value is not _GONE}
        case list():
            values = [_walked(value, numbers, place, change) for value in node]
            return [value for value in values if value is not _GONE]
        case str() if node[:1] in ("{", "["):
            try:
                inner = json.loads(node)
            except (ValueError, RecursionError):
                return node
            changed = _walked(inner, numbers, place, change)
            return "" if changed is _GONE else json.dumps(changed, ensure_ascii=False)
        case _:
            return node


def _like(old: Any, choice: int) -> Any:
    """Another value of the same type, which gets past a decoder."""
    kinds = (int, float) if isinstance(old, int | float) else (type(old),)
    same = [value for value in VALUES if type(value) in kinds] or [None]
    return same[choice % len(same)]


def _more(old: Any, value: Any) -> Any:
    match old:
        case dict():
            return {"surplus": value, "": 0} | old
        case list():
            return [value, *old, *old]
        case str():
            return old + str(value)
        case _:
            return {"was": old}


def _renamed(old: Any) -> Any:
    return {f"{key}_": value for key, value in old.items()} if isinstance(old, dict) else str(old)


def _cut(spot: int) -> Mutation:
    return lambda raw: raw[: spot % (len(raw) + 1)]


def _inserted(spot: int, piece: bytes) -> Mutation:
    def mutate(raw: bytes) -> bytes:
        at = spot % (len(raw) + 1)
        return raw[:at] + piece + raw[at:]

    return mutate


def _flipped(spot: int, bits: int) -> Mutation:
    def mutate(raw: bytes) -> bytes:
        if not raw:
            return raw
        at = spot % len(raw)
        return raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]

    return mutate
