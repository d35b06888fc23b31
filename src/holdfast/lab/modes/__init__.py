"""The ninety modes, by id, in the order of the paper that names them."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.lab.mode import Mode
from holdfast.lab.modes import (
    lifecycle,
    messages,
    network,
    observing,
    ownership,
    reconnecting,
    reconnecting_start,
    silent,
    silent_watch,
)

MODES: Mapping[str, Mode] = {
    mode.id: mode
    for mode in (
        *silent.MODES,
        *silent_watch.MODES,
        *reconnecting.MODES,
        *reconnecting_start.MODES,
        *network.MODES,
        *ownership.MODES,
        *observing.MODES,
        *messages.MODES,
        *lifecycle.MODES,
    )
}
