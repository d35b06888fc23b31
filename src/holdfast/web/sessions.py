"""Who may come in: the token, the sessions that a log-in begins, and how often one may guess."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

SESSIONS = 64
"""Sessions at a time; the one that was begun first gives way."""

SESSION_LIFE = 7 * 86_400.0
"""Seconds after its log-in in which a session ends, as a week-old tab on a lost laptop should."""

PER_ADDRESS = 5
"""Wrong tokens of one address in `WINDOW`."""

OVERALL = 30
"""Wrong tokens of all addresses in `WINDOW`; a guess at 128 bits then takes longer than the sun."""

WINDOW = 60.0
"""Seconds in which wrong tokens are counted."""

ADDRESSES = 1_024
"""Addresses that are remembered."""


def same(given: str, token: str) -> bool:
    """Whether two secrets are equal, in a time that tells neither their lengths nor contents."""
    return hmac.compare_digest(_hash(given), _hash(token))


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has logged in."""

    id: str
    """Names it in the history; no secret."""
    until: float


class Sessions:
    """Open sessions by the hash of their cookie: a dump of our memory opens no door."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self) -> str:
        """A new session; its cookie, which is unguessable (256 bits)."""
        cookie = secrets.token_urlsafe(32)
        while len(self._open) >= SESSIONS:
            self._open.popitem(last=False)
        self._open[_hash(cookie)] = Session(secrets.token_hex(4), self._clock() + SESSION_LIFE)
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, while it lasts."""
        session = self._open.get(_hash(cookie))
        return session if session is not None and session.until > self._clock() else None

    def end(self, cookie: str) -> None:
        """Log out. Idempotent."""
        self._open.pop(_hash(cookie), None)


class Guesses:
    """Limits wrong tokens, by address and overall.

    Once a limit is reached, nothing is compared any more: a right token is refused as well, or the
    limit would not slow a guesser down. Only addresses from which the right one came before are
    spared the overall limit, so that strangers can not lock the owner out.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all: deque[float] = deque(maxlen=OVERALL)
        self._of: OrderedDict[str, deque[float]] = OrderedDict()
        self._good: OrderedDict[str, None] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may guess again; 0 when it may now."""
        theirs = self._left(self._of.get(address), PER_ADDRESS)
        return theirs if address in self._good else max(theirs, self._left(self._all, OVERALL))

    def wrong(self, address: str) -> None:
        """A wrong token came from there."""
        now = self._clock()
        self._all.append(now)
        self._of.setdefault(address, deque(maxlen=PER_ADDRESS)).append(now)
        self._of.move_to_end(address)
        _trim(self._of)

    def right(self, address: str) -> None:
        """The right token came from there."""
        self._good[address] = None
        self._good.move_to_end(address)
        _trim(self._good)

    def _left(self, guesses: deque[float] | None, most: int) -> float:
        if guesses is None or len(guesses) < most:
            return 0.0
        return max(0.0, guesses[0] + WINDOW - self._clock())


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _trim(known: OrderedDict[str, deque[float]] | OrderedDict[str, None]) -> None:
    while len(known) > ADDRESSES:
        known.popitem(last=False)
