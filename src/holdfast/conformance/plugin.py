"""The pytest side of the table: ``pytest -p holdfast.conformance --conformance-table FILE``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from holdfast.conformance.table import PROPERTY, Result, Row, to_json, to_markdown


class Collector:
    """Collects the rows of a run and writes them at its end.

    Under pytest-xdist the reports of all workers arrive in the controlling process, and only
    there is anything written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the row of a test, with what really became of it."""
        for name, value in report.user_properties:
            if name != PROPERTY or (report.when != "call" and not report.failed):
                continue
            row = msgspec.convert(value, Row)
            if report.failed:
                row = replace(row, result=Result.FAIL, reason="")
            self.rows[row.platform, row.scenario] = row

    def pytest_sessionfinish(self) -> None:
        """Write JSON, or Markdown to a file whose name ends in ``.md``."""
        write = to_markdown if self.path.suffix == ".md" else to_json
        self.path.write_text(write(self.rows.values()), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("holdfast").addoption(
        "--conformance-table",
        metavar="FILE",
        type=Path,
        default=None,
        help="write the conformance results of this run as JSON, or as Markdown (*.md)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect where the option is given, in the controlling process only."""
    path: Path | None = config.getoption("--conformance-table")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(path), "holdfast-conformance-table")
