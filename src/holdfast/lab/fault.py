"""A fault that was inflicted on an account, and how it went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Fault:
    """Times on the loop's clock; what has not happened yet is None."""

    name: str
    began: float
    healed: float | None = None
    noticed: float | None = None
    recovered: float | None = None

    @property
    def detection(self) -> float | None:
        """Seconds until the status said otherwise than connected; None if it never did."""
        return None if self.noticed is None else self.noticed - self.began

    @property
    def recovery(self) -> float | None:
        """Seconds from the healing until connected and listening; None if it never was."""
        if self.recovered is None or self.healed is None:
            return None
        return max(0.0, self.recovered - self.healed)
