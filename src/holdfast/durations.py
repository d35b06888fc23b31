"""Spans of time as people write and read them."""

from __future__ import annotations

import re

_WRITTEN = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}

_TEXT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([smhd])")

_SAID = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def read(text: str) -> float:
    """Seconds of what somebody wrote, for example ``36h``. Raises ValueError."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration")
    return float(found[1]) * _WRITTEN[found[2]]


def say(seconds: float, units: int = 2) -> str:
    """A span of time with its largest unit and those next to it, for example ``2 h 5 min``."""
    rest = max(0, round(seconds))
    first = next((i for i, (size, _) in enumerate(_SAID) if rest >= size), len(_SAID) - 1)
    parts: list[str] = []
    for size, unit in _SAID[first : first + units]:
        number, rest = divmod(rest, size)
        if number or not parts:
            parts.append(f"{number} {unit}")
    return " ".join(parts)
