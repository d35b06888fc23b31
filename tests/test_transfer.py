"""Who sees our token, and what the answers of file stores and of the web in between mean."""

from __future__ import annotations

import pytest

from holdfast.adapter import HttpReply, Outcome, SendFailed, http_cause, outcome_of
from holdfast.transfer import content_of, may_see_token, of_upload

API, HOSTS = "https://api.example.org/v1", (".example.com",)


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("https://api.example.org/file", True),
        ("https://API.example.org:8443/file", True),
        ("https://cdn.example.com/file", True),
        ("https://example.com/file", True),
        ("https://example.org/file", False),
        ("https://evil-example.com/file", False),
        ("https://example.com.evil.test/file", False),
        ("https://api.example.org@evil.test/file", False),
        ("https://evil.test/?https://api.example.org", False),
        ("file", False),
        ("", False),
    ],
)
def test_the_token_goes_to_the_api_and_its_stores_alone(url: str, ours: bool) -> None:
    assert may_see_token(url, API, HOSTS) is ours


def test_a_file_is_the_body_of_a_200() -> None:
    assert content_of(HttpReply(200, {}, b"content"), "parrot") == b"content"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (410, Outcome.REFUSED),
        (302, Outcome.NOT_SENT),
        (401, Outcome.NOT_SENT),
        (500, Outcome.NOT_SENT),
    ],
)
def test_what_is_gone_is_refused_for_good(status: int, outcome: Outcome) -> None:
    with pytest.raises(SendFailed) as failed:
        content_of(HttpReply(status, {}, b""), "parrot")
    assert (failed.value.outcome, failed.value.cause.code) == (outcome, f"parrot_file_{status}")


def test_a_store_that_renews_addresses_is_asked_again() -> None:
    with pytest.raises(SendFailed) as failed:
        content_of(HttpReply(404, {}, b""), "parrot", gone=())
    assert failed.value.outcome is Outcome.NOT_SENT


def test_an_upload_is_never_in_doubt() -> None:
    assert [of_upload(outcome) for outcome in (Outcome.UNKNOWN, Outcome.NOT_SENT)] == [
        Outcome.NOT_SENT
    ] * 2
    assert of_upload(Outcome.REFUSED) is Outcome.REFUSED


@pytest.mark.parametrize(
    ("status", "mime", "outcome"),
    [
        (502, "text/html", Outcome.UNKNOWN),
        (500, "application/json", Outcome.UNKNOWN),
        (429, "application/json", Outcome.NOT_SENT),
        (403, "text/html; charset=utf-8", Outcome.NOT_SENT),
        (413, "text/html", Outcome.REFUSED),
        (302, "", Outcome.NOT_SENT),
        (400, "application/json", Outcome.REFUSED),
        (400, "", Outcome.REFUSED),
    ],
)
def test_what_a_plain_refusal_means_for_a_message(status: int, mime: str, outcome: Outcome) -> None:
    reply = HttpReply(status, {"content-type": mime} if mime else {}, b"")
    assert outcome_of(reply) is outcome
    assert reply.is_html is ("html" in mime)


@pytest.mark.parametrize("mime", ["text/html", "application/json"])
def test_what_is_too_large_says_so_and_what_to_do(mime: str) -> None:
    cause = http_cause(HttpReply(413, {"content-type": mime}, b""), "matrix")
    assert (cause.code, "too large" in cause.message) == ("matrix_http_413", True)
    assert "client_max_body_size" in cause.hint
