"""Who may talk to a simulated Matrix homeserver: logins, access tokens, refresh tokens."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from holdfast.lab.simulators.matrix_rooms import Json
from holdfast.lab.simulators.matrix_wire import MatrixError, unknown_token

TOKEN_LIFETIME: Final = 300.0
"""Seconds until a token that can be refreshed expires (Synapse, refreshable_access_token_lifetime:
five minutes)."""


@dataclass(slots=True, kw_only=True)
class Session:
    """What an access token stands for."""

    user_id: str
    device_id: str
    expires_at: float = math.inf
    replaces: str | None = None
    """The refresh token that made this session; it dies when the session is first used."""


class Sessions:
    """The tokens of the server. ``now`` is the clock on which they expire, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_token: dict[str, Session] = {}
        self._by_refresh: dict[str, Session] = {}

    def accept(self, token: str, session: Session) -> None:
        """Let an access token stand for a session from now on, without an end."""
        self._by_token[token] = session

    def find(self, token: str) -> Session:
        """The session of an access token. Raises MatrixError (401) as a homeserver would."""
        if not token:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
        session = self._by_token.get(token)
        if session is None:
            raise unknown_token(soft=False)
        if session.expires_at <= self._now():
            raise unknown_token(soft=True)
        if session.replaces is not None:
            self._by_refresh.pop(session.replaces, None)
        return session

    def grant(self, session: Session, *, refreshable: bool) -> Json:
        """Make tokens for a session: the part of an answer that tells them."""
        access = f"syt_{secrets.token_urlsafe(24)}"
        self._by_token[access] = session
        if not refreshable:
            return {"access_token": access}
        session.expires_at = self._now() + TOKEN_LIFETIME
        refresh = f"syr_{secrets.token_urlsafe(24)}"
        self._by_refresh[refresh] = session
        return {
            "access_token": access,
            "refresh_token": refresh,
            "expires_in_ms": int(TOKEN_LIFETIME * 1000),
        }

    def refresh(self, token: str) -> Json:
        """New tokens for a refresh token, which lives until they are used: answers get lost."""
        session = self._by_refresh.get(token)
        if session is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "invalid refresh token")
        return self.grant(replace(session, replaces=token), refreshable=True)

    def forget(self, device_id: str | None = None) -> None:
        """Make the tokens of one device invalid, or all of them."""
        for tokens in (self._by_token, self._by_refresh):
            for token in [t for t, s in tokens.items() if device_id in (None, s.device_id)]:
                del tokens[token]

    def expire(self) -> None:
        """Let every access token expire; refresh tokens stay good."""
        for session in self._by_token.values():
            session.expires_at = -math.inf
