"""`holdfast run` serves it: a process, its address, and a history that survives a kill."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from holdfast.lab.simulators.telegram import TelegramSimulator
from tests.cli.gateway import LIMIT, Place, Process

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


async def address(process: Process) -> str:
    """Where it listens."""
    await process.logged("listening url=")
    found = re.search(r"listening url=(\S+)/", process.log)
    assert found is not None
    return found[1]


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until every account is connected."""
    async with asyncio.timeout(LIMIT):
        while True:
            async with session.get(url + "/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_a_kill_is_survived_by_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, pages="127.0.0.1:0")
    async with TelegramSimulator() as sim, aiohttp.ClientSession() as session:
        place.write(bot=sim.account())
        async with place.gateway() as process:
            url = await address(process)
            await ready(session, url)
            async with session.get(url + "/metrics") as answer:
                assert 'holdfast_account_up{account="bot"' in await answer.text()
            async with session.post(url + "/api/v1/accounts/bot/pause") as answer:
                assert answer.status == 200
            async with session.get(url + "/api/v1/actions") as answer:
                before = await answer.json()
            assert [one["what"] for one in before] == ["pause"]
            capsys.readouterr()
            assert await place.command("history", "bot", "--incidents", "--json") == 0
            assert json.loads(capsys.readouterr().out) == []
            assert await place.command("history", "bat", "--incidents") == 1
            assert "there is no account 'bat'" in capsys.readouterr().err
            async with session.get(url + "/api/v1/accounts/bot/uptime?count=2") as answer:
                assert sum(one["up"] for one in await answer.json()) > 0
            process.signal(signal.SIGKILL)
            await process.ended()
        async with place.gateway() as process:
            url = await address(process)
            async with session.get(url + "/api/v1/actions") as answer:
                assert await answer.json() == before
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
            with pytest.raises(aiohttp.ClientError):
                await session.get(url + "/livez")
