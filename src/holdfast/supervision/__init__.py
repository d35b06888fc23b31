"""The supervision core: pure, without I/O, clock or randomness of its own.

One `Supervisor` per account turns events (what happened, and when) into effects (what to do now)
and always knows its next deadline. Everything that decides whether a bot lives is in this package.
"""

from holdfast.supervision.causes import RULES, Cause, Kind, Remedy, Rule, Who
from holdfast.supervision.events import (
    Abandon,
    Abort,
    Alive,
    Beat,
    BeatAcked,
    BeatFailed,
    Budget,
    Close,
    Effect,
    Ended,
    Event,
    GoingAway,
    Kick,
    Memory,
    Open,
    Probe,
    Ready,
    Reconfigured,
    Refused,
    Report,
    Start,
    Step,
    Stop,
    Tick,
    Verified,
    Woke,
)
from holdfast.supervision.machine import Supervisor
from holdfast.supervision.policy import PRESETS, Policy, PolicyError, preset
from holdfast.supervision.states import Breaker, Published, State
from holdfast.supervision.view import View

__all__ = [
    "PRESETS",
    "RULES",
    "Abandon",
    "Abort",
    "Alive",
    "Beat",
    "BeatAcked",
    "BeatFailed",
    "Breaker",
    "Budget",
    "Cause",
    "Close",
    "Effect",
    "Ended",
    "Event",
    "GoingAway",
    "Kick",
    "Kind",
    "Memory",
    "Open",
    "Policy",
    "PolicyError",
    "Probe",
    "Published",
    "Ready",
    "Reconfigured",
    "Refused",
    "Remedy",
    "Report",
    "Rule",
    "Start",
    "State",
    "Step",
    "Stop",
    "Supervisor",
    "Tick",
    "Verified",
    "View",
    "Who",
    "Woke",
    "preset",
]
