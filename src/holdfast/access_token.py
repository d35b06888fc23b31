"""Access tokens with an end: fetched when needed, renewed before it, replaced when refused.

Platforms hand out such a token for the credentials proper, and may withdraw it before its time. A
connection and the sends of an account share one, so that a busy account costs its token service
one request per life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from holdfast.adapter import BadFrame, Disconnect, Http, HttpFailed, HttpReply


@dataclass(frozen=True, slots=True)
class Issued:
    """What a token service answered."""

    text: str
    life: float
    """Seconds from now."""


Issue = Callable[[Http], Awaitable[Issued]]
"""Asks the token service. Raises Disconnect, BadFrame and HttpFailed."""


@dataclass(frozen=True, slots=True)
class _Held:
    text: str
    until: float
    """On the loop's clock."""


class AccessToken:
    """One account's token.

    The token service is asked by one caller at a time; the others wait, and take what it got.
    Cancelling any of them is safe: the next in line asks in its place.
    """

    def __init__(self, issue: Issue, *, renew_before: float) -> None:
        """``renew_before``: seconds before its end from which a token is not used any more."""
        self._issue, self._renew_before = issue, renew_before
        self._lock = asyncio.Lock()
        self._held: _Held | None = None

    def forget(self) -> None:
        """The next call asks the token service: for a token in doubt, or to try credentials."""
        self._held = None

    async def get(self, http: Http, *, refused: str = "") -> str:
        """A valid token that is not ``refused``.

        Raises Disconnect, whatever went wrong: what needs the token was not sent then.
        """
        async with self._lock:
            held = self._held
            now = asyncio.get_running_loop().time()
            if held is None or held.text == refused or now >= held.until:
                try:
                    issued = await self._issue(http)
                except (BadFrame, HttpFailed) as error:
                    raise Disconnect(error.cause) from error
                until = now + issued.life - self._renew_before
                self._held = held = _Held(issued.text, until)
            return held.text

    async def call(
        self,
        http: Http,
        ask: Callable[[str], Awaitable[HttpReply]],
        refuses: Callable[[HttpReply], bool],
    ) -> HttpReply:
        """The answer to ``ask(token)``, asked once more with a new token if it refuses this one.

        A call refused for its token was not carried out, so repeating it sends nothing twice. Any
        other refusal, and a second one, is the caller's to read. Raises Disconnect without a
        token, and what ``ask`` and ``refuses`` raise.
        """
        token = await self.get(http)
        reply = await ask(token)
        if refuses(reply):
            reply = await ask(await self.get(http, refused=token))
        return reply
