"""The benchmark of open dashboards runs, and says what its page of the documentation names."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import dashboard

from tests.e2e.browser import needs_chromium


@needs_chromium
@pytest.mark.slow
@pytest.mark.real_time
async def test_the_gateway_is_measured_without_a_page_and_with_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "PAGES", 2)
    monkeypatch.setattr(dashboard, "SETTLED", 0.0)
    found = await dashboard.opened(tmp_path, rounds=1, seconds=1.0)
    assert (found["pages"], found["accounts"], found["messages_per_second"]) == (2, 10, 20.0)
    cpu = found["cpu_s_per_minute"]
    assert 0.0 < cpu["no_page"] < 60.0
    assert 0.0 < cpu["all_pages"] < 60.0
    assert found["ratio"] == pytest.approx(cpu["all_pages"] / cpu["no_page"], rel=0.02)
    assert found["spread"] == [found["ratio"], found["ratio"]]
