"""`holdfast alerts test`: every way is tried, and what became of it is said."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.cli.exits import Exit
from holdfast.config import AccountWay, AlertsConfig, CommandWay, Config, Way
from holdfast.observe.alerts import Rules
from tests.web.gateway import parrots
from tests.web.site import serving

GOOD = AccountWay(account="polly", chat="owner")
BAD = CommandWay(command=["false"])


def place(home: Path, *ways: Way) -> Config:
    """A gateway's directory, with a file for the command and a configuration for the gateway."""
    (home / "holdfast.toml").write_text('[gateway]\nstate_dir = "."\n')
    alerts = AlertsConfig(Rules(), ways) if ways else None
    return replace(parrots(home, polly="oak"), alerts=alerts)


async def alerts(home: Path, *options: str) -> int:
    words = ["--config", str(home / "holdfast.toml"), "alerts", "test", *options]
    return await asyncio.to_thread(main, words)


@pytest.mark.real_time
async def test_all_ways_are_tried_and_one_failure_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(place(tmp_path, GOOD, BAD)):
        assert await alerts(tmp_path) == Exit.FAILED
        told, failed = capsys.readouterr().out.splitlines()[1:]
        assert "account polly, chat owner" in told
        assert "told" in told
        assert "not told" not in told
        assert "command false" in failed
        assert "not told" in failed
        assert "ended with exit code 1" in failed
        assert await alerts(tmp_path, "--json") == Exit.FAILED
        first, second = json.loads(capsys.readouterr().out)
        assert first == {"way": "account polly, chat owner", "worked": True, "detail": ""}
        assert second["worked"] is False


@pytest.mark.real_time
async def test_ways_that_all_work_are_a_success(tmp_path: Path) -> None:
    async with serving(place(tmp_path, GOOD)) as site:
        assert await alerts(tmp_path) == Exit.OK
        assert (await site.get("/outbox"))["messages"][0]["chat"] == "owner"


@pytest.mark.real_time
async def test_without_a_table_it_says_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(place(tmp_path)):
        assert await alerts(tmp_path) == Exit.CONFIG
    assert "[alerts]: there is no such table (see docs/alerts.md)" in capsys.readouterr().err


async def test_without_a_gateway_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(tmp_path, GOOD)
    assert await alerts(tmp_path) == Exit.UNANSWERED
    assert "no gateway is running" in capsys.readouterr().err
