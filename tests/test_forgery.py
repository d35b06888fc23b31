"""Whatever strangers present is compared, and nothing they present raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.forgery import as_sent, is_ours, netloc_of


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


@pytest.mark.parametrize(
    ("url", "netloc"),
    [
        ("https://Bots.Example.org:8443", "bots.example.org:8443"),
        ("null", ""),
        ("", ""),
        ("http://[", ""),
        ("http://[::1]:80/", "[::1]:80"),
    ],
)
def test_an_origin_that_is_no_address_is_nobodys(url: str, netloc: str) -> None:
    assert netloc_of(url) == netloc


@given(st.text(st.characters(exclude_categories=())))
def test_no_origin_raises(url: str) -> None:
    netloc_of(url)
