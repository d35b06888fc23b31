"""Hypothesis profiles for the core.

The default is the same search on every run. To search elsewhere, and longer::

    HYPOTHESIS_PROFILE=random pytest tests/supervision/test_properties.py
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_MACHINES = [HealthCheck.too_slow]

settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    stateful_step_count=50,
    suppress_health_check=_SLOW_MACHINES,
)
settings.register_profile(
    "quick", settings.get_profile("fixed"), max_examples=25, stateful_step_count=30
)
settings.register_profile(
    "random",
    settings.get_profile("fixed"),
    derandomize=False,
    max_examples=2_000,
    stateful_step_count=80,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
