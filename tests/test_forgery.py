"""Whatever strangers present is compared, and nothing they present raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.forgery import as_sent, is_ours


@given(presented=st.text(st.characters(exclude_categories=())), ours=st.text())
def test_any_text_is_compared_as_text(presented: str, ours: str) -> None:
    assert is_ours(presented, ours) is (presented == ours)
    assert is_ours(ours, ours)


@pytest.mark.parametrize("forged", ["", "se", "secret ", "Secret", "s\udce9cret", "\ud800"])
def test_a_forgery_is_no_error(forged: str) -> None:
    assert not is_ours(forged, "secret")


@given(st.binary())
def test_a_header_is_signed_as_it_came(raw: bytes) -> None:
    assert as_sent(raw.decode("utf-8", "surrogateescape")) == raw
