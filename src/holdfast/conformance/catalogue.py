"""The list of scenarios, and when one of them can not happen on a platform."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from holdfast.conformance.bench import Bench, Need

Play = Callable[[Bench[Any]], Awaitable[None]]
Derived = Callable[[Bench[Any]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that every adapter is put through."""

    id: str
    """``C01`` to ``C30``."""
    title: str
    play: Play
    """Runs it on virtual time. Raises `holdfast.conformance.rig.Broken`."""
    needs: frozenset[Need]
    """Faults the bench must be able to play."""
    any_of: bool
    """One of the needs is enough."""
    derived: Derived
    """The reason why it can not happen, from the adapter's traits; None if they give none."""

    certain: Callable[[Bench[Any]], bool]
    """Whether the traits or tables say that it can happen, so that no excuse counts."""

    @property
    def demands(self) -> str:
        """What it demands, in words."""
        return inspect.getdoc(self.play) or ""

    @property
    def test_name(self) -> str:
        """The name of its test function."""
        words = "".join(c if c.isalnum() else " " for c in self.title.lower()).split()
        return f"test_{self.id.lower()}_{'_'.join(words)}"

    def missing(self, bench: Bench[Any]) -> list[Need]:
        """What the bench would have to play and can not."""
        missing = sorted(self.needs - bench.faults.keys(), key=lambda need: need.name)
        return [] if self.any_of and len(missing) < len(self.needs) else missing

    def inexcusable(self, bench: Bench[Any]) -> bool:
        """Whether an excuse is given for what the bench itself says can happen."""
        playable = bool(self.needs) and not self.missing(bench)
        return self.id in bench.not_applicable and (playable or self.certain(bench))

    def excuse(self, bench: Bench[Any]) -> str | None:
        """Why the scenario does not apply: from the traits, or in the author's own words."""
        stated = bench.not_applicable.get(self.id)
        if stated is not None:
            return stated
        return self.derived(bench) if self.missing(bench) else None


SCENARIOS: dict[str, Scenario] = {}
"""All of them by id, in the order of their numbers once `holdfast.conformance` is imported."""


def scenario(
    id: str,
    title: str,
    *needs: Need,
    any_of: bool = False,
    derived: Derived = lambda bench: None,
    certain: Callable[[Bench[Any]], bool] = lambda bench: False,
) -> Callable[[Play], Play]:
    """Enter a function into the catalogue."""

    def enter(play: Play) -> Play:
        assert id not in SCENARIOS, f"{id} is there already"
        SCENARIOS[id] = Scenario(
            id=id,
            title=title,
            play=play,
            needs=frozenset(needs),
            any_of=any_of,
            derived=derived,
            certain=certain,
        )
        return play

    return enter
