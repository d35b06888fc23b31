"""A platform of an afternoon passes: whatever `test_kit` sees failing fails for its defect."""

from __future__ import annotations

from holdfast.conformance import Suite
from tests.conformance.parrot import PARROT


class TestParrot(Suite):
    """All scenarios."""

    bench = PARROT
