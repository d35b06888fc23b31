"""Telling the platform from a forger: texts that strangers present, compared with ours.

Whoever finds the address of a web hook can send to it. Bytes that are no UTF-8 reach an adapter as
surrogates (PEP 383), which neither `str.encode` nor `hmac.compare_digest` takes: an adapter that
let their errors through would have its connection ended by anyone, at will.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit


def as_sent(header: str) -> bytes:
    """The bytes of a header as they came, whatever they were: what a signature is made over.

    Any text of an HTTP request is taken; of others those with surrogates of their own raise
    UnicodeEncodeError.
    """
    return header.encode("utf-8", "surrogateescape")


def is_ours(presented: str, ours: str) -> bool:
    """Whether a stranger's text is ours, in a time that tells nothing of ours but its length.

    Raises nothing, whatever the text.
    """
    return hmac.compare_digest(presented.encode("utf-8", "surrogatepass"), ours.encode())


def netloc_of(url: str) -> str:
    """Host and port of an address in lower case, as of a header ``Origin``; empty without any."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:  # a bracket without its other
        return ""
