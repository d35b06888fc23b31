"""Texts of others, made such that they can always be written down."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.legible import encoded, legible
from holdfast.observe.status import CauseStatus

ANY_TEXT = st.text() | st.text(st.sampled_from("aé\ud800\udce9\udfff\U0001f600\0\n"), max_size=50)
"""With surrogates, which `str` holds and UTF-8 does not."""

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)


def test_a_foreign_byte_is_seen_to_be_one() -> None:
    words = b"Authentification exig\xe9e".decode("utf-8", "surrogateescape")
    assert legible(words) == "Authentification exig\N{REPLACEMENT CHARACTER}e"


@given(ANY_TEXT)
def test_every_text_can_be_encoded_and_good_ones_are_untouched(text: str) -> None:
    assert len(legible(text).encode("utf-8")) >= len(text)
    assert legible(legible(text)) == legible(text)
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert legible(text) == text


@given(VALUES)
def test_every_document_can_be_encoded(value: Any) -> None:
    assert msgspec.json.decode(encoded(value)) == _legible(value)


def _legible(value: Any) -> Any:
    match value:
        case str():
            return legible(value)
        case list():
            return [_legible(part) for part in value]
        case dict():
            return {legible(name): _legible(part) for name, part in value.items()}
        case _:
            return value


def test_structs_keep_their_fields() -> None:
    told = CauseStatus(
        kind="lost", code="a", message="\udce9", who_acts="nobody", hint="", retryable=True
    )
    assert msgspec.json.decode(encoded([told]))[0] == {
        "kind": "lost",
        "code": "a",
        "message": "\N{REPLACEMENT CHARACTER}",
        "who_acts": "nobody",
        "hint": "",
        "retryable": True,
    }


def test_what_is_no_json_stays_an_error() -> None:
    with pytest.raises(TypeError):
        encoded(object())
