"""Files up and down: who may see our token, and what a file store's refusal means.

Attachments come as addresses, which anybody who can write to the bot may have a say in: a token
that followed every address would be theirs for the asking.
"""

from __future__ import annotations

from collections.abc import Container
from urllib.parse import urlsplit

from holdfast.adapter import HttpReply, Outcome, SendFailed
from holdfast.supervision import Cause, Kind

GONE = frozenset({403, 404, 410})
"""HTTP statuses of an address that has expired, or of a file that was deleted."""


def may_see_token(url: str, base: str, hosts: tuple[str, ...]) -> bool:
    """Whether ``url`` is on the API's own host or below one of ``hosts`` (with a leading dot)."""
    host = urlsplit(url).hostname or ""
    return host == urlsplit(base).hostname or f".{host}".endswith(hosts)


def content_of(reply: HttpReply, label: str, *, gone: Container[int] = GONE) -> bytes:
    """The file in a file store's answer.

    Raises SendFailed with the code ``<label>_file_<status>``: REFUSED where the status is among
    ``gone``, since it will never be there again, and NOT_SENT otherwise.
    """
    if reply.status == 200:
        return reply.body
    text = f"the file store answered HTTP {reply.status}"
    cause = Cause(Kind.UNREACHABLE, f"{label}_file_{reply.status}", text)
    raise SendFailed(Outcome.REFUSED if reply.status in gone else Outcome.NOT_SENT, cause)


def of_upload(outcome: Outcome) -> Outcome:
    """The outcome of a send whose upload failed with ``outcome``; never UNKNOWN.

    A file is shown by the message after it, so of a lost upload nobody has seen anything yet.
    """
    return Outcome.NOT_SENT if outcome is Outcome.UNKNOWN else outcome
