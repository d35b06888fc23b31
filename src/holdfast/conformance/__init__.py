"""The conformance kit: thirty scenarios that any adapter can be put through, by its own author.

    from holdfast.conformance import Bench, Need, Suite

    class TestParrot(Suite):
        bench = Bench[ParrotServer](
            adapter=Parrot,
            server=ParrotServer,
            faults={Need.REVOKE: ParrotServer.revoke, Need.BAD_FRAME: "bad_frame"},
            not_applicable={"C15": "parrots may be many"},
        )

Each scenario runs one account of the real gateway on virtual time, between a user and the author's
test server, with a relay in the middle. The laws hold in all of them: noticed within the silence
limit, never `connected` while deaf for longer, nothing lost without a reported gap, nothing
answered twice without a mark, at most ten attempts a minute, one connection at a time, stopped
within five seconds, no task and no socket left behind.

``pytest -p holdfast.conformance --conformance-table FILE`` writes the results as a table.
"""

from holdfast.conformance.bench import Bench, BenchError, Ending, Need, Server
from holdfast.conformance.catalogue import SCENARIOS, Scenario
from holdfast.conformance.plugin import pytest_addoption, pytest_configure
from holdfast.conformance.rig import Broken
from holdfast.conformance.suite import Suite, expected_rows, judge
from holdfast.conformance.table import Result, Row, from_json, to_json, to_markdown
from holdfast.lab.injection import arm

__all__ = [
    "SCENARIOS",
    "Bench",
    "BenchError",
    "Broken",
    "Ending",
    "Need",
    "Result",
    "Row",
    "Scenario",
    "Server",
    "Suite",
    "arm",
    "expected_rows",
    "from_json",
    "judge",
    "pytest_addoption",
    "pytest_configure",
    "to_json",
    "to_markdown",
]
