"""What becomes of messages that piled up while nobody listened.

Nothing is thrown away: what is passed over is in the journal, with the reason, and is counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast import durations
from holdfast.messages import Inbound

CLOCKS_APART = 5.0
"""Seconds by which the platform's clock and ours may differ before it matters."""

_NEWER = re.compile(r"newer-than (\d{1,9}[smhd])")


@dataclass(frozen=True, slots=True)
class Backlog:
    """The policy of one account; `ALL` handles everything, however old."""

    newer_than: float | None = None
    """Handle only what is younger than so many seconds; 0: only what was said once we listened."""

    @classmethod
    def parse(cls, text: str) -> Backlog:
        """``all``, ``skip`` or ``newer-than 10m`` (s, m, h, d). Raises ValueError."""
        if text == "all":
            return ALL
        if text == "skip":
            return cls(0.0)
        found = _NEWER.fullmatch(text)
        newer_than = 0.0 if found is None else durations.read(found[1])
        if not newer_than:
            raise ValueError(f"{text!r} is none of all, skip, newer-than 10m")
        return cls(newer_than)

    def verdict(self, message: Inbound, now: float, listening_since: float | None) -> str:
        """Why a message is passed over; empty for one that is to be handled.

        ``listening_since`` is when the connection that brought it was ready, None if it is not
        yet (Unix seconds, like ``now``). A message without a date is never passed over.
        """
        if self.newer_than is None or message.at is None:
            return ""
        age = now - message.at
        if self.newer_than > 0:
            late = age > self.newer_than + CLOCKS_APART
            return f"backlog: {age:.0f} s old" if late else ""
        since = now if listening_since is None else listening_since
        if message.at < since - CLOCKS_APART:
            return f"backlog: said {since - message.at:.0f} s before the account listened"
        return ""


ALL = Backlog()
