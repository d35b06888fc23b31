"""Proof of life of one connection: silence, probes and heartbeats. Pure bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Pulse:
    """When the peer last proved to be there, and when it must do so again.

    Any inbound byte is proof of life; as the acknowledgement of a heartbeat only the
    acknowledgement counts (under back-pressure it waits in the peer's buffer behind data).
    """

    now: float
    silence: float
    grace: float
    every: float | None = None
    """Heartbeat interval; None where the platform has none."""
    last: float = field(init=False)
    next_beat: float | None = field(init=False)
    awaiting: bool = field(default=False, init=False)
    missed: int = field(default=0, init=False)
    acked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.grace = min(self.grace, self.silence / 3)
        self.last = self.now
        self.next_beat = None if self.every is None else self.now + self.every

    @property
    def idle_at(self) -> float:
        """When silence becomes doubtful and a probe is due."""
        return self.last + self.silence - self.grace

    @property
    def dead_at(self) -> float:
        """Until when the connection may be believed in without newer evidence."""
        return self.last + self.silence

    def alive(self, now: float) -> None:
        """Something came in."""
        self.last = now

    def ack(self, now: float) -> None:
        """A heartbeat was acknowledged."""
        self.alive(now)
        self.awaiting, self.missed = False, 0
        self.acked += 1

    def beat(self, now: float) -> None:
        """A heartbeat is due; the one before counts as missed if nobody acknowledged it."""
        assert self.every is not None
        if self.awaiting:
            self.missed += 1
        self.awaiting = True
        self.next_beat = now + self.every

    def beat_failed(self) -> None:
        """The heartbeat could not be sent."""
        self.awaiting = False
        self.missed += 1

    def forgive(self) -> None:
        """Our own clock was late: nothing that was missed meanwhile counts."""
        self.awaiting, self.missed = False, 0
