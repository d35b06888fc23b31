"""A gateway that was killed or frozen: no reader goes on saying that all is well, none hangs."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from holdfast.cli.control import PATIENCE
from holdfast.cli.exits import Exit
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.observe.status import FILE_NAME, TTL
from tests.cli.gateway import Place
from tests.e2e import readers
from tests.e2e.readers import UNKNOWN, Look, Unanswered
from tests.mcp.site import over_stdio
from tests.web.test_run import address

SCRAPE = 5.0
"""Seconds the askers over HTTP wait, as in deploy/kubernetes.yaml; Prometheus waits 10."""

EVERY = 0.2
"""Seconds between two looks of a reader."""

SLACK = 2.0
"""Seconds more that a look may take on a busy machine."""


@dataclass(slots=True)
class Notice:
    """What became of a reader's trust, in seconds from the signal."""

    looks: int = 0
    last_trusted: float = -1.0
    """When the last look began whose answer was not that nobody can tell; -1 for none."""
    longest: float = 0.0
    """How long a single look took at the most."""


async def distrust(look: Look, signalled: float, seconds: float) -> Notice:
    """Look for so many seconds from the signal on."""
    loop = asyncio.get_running_loop()
    notice = Notice()
    while (asked := loop.time()) < signalled + seconds:
        try:
            trusted = set((await look()).values()) != {UNKNOWN}
        except Unanswered:
            trusted = False
        if trusted:
            notice.last_trusted = asked - signalled
        notice.looks += 1
        notice.longest = max(notice.longest, loop.time() - asked)
        await asyncio.sleep(EVERY)
    return notice


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("how", "trusted"),
    [
        pytest.param(signal.SIGKILL, -1.0, id="killed"),
        # Nobody can tell a frozen one from a busy one before his last word is too old.
        pytest.param(signal.SIGSTOP, TTL, id="frozen"),
    ],
)
async def test_every_reader_says_so_within_the_time_to_live(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: signal.Signals, trusted: float
) -> None:
    place = Place(tmp_path, pages="127.0.0.1:0")
    patience = aiohttp.ClientTimeout(total=SCRAPE)
    async with TelegramSimulator() as sim, aiohttp.ClientSession(timeout=patience) as session:
        place.write(bot=sim.account())
        async with place.gateway() as process, over_stdio(tmp_path, limit=90.0) as model:
            url = await address(process)
            looks = {
                "file": readers.of_file(place.state / FILE_NAME),
                "/readyz": readers.of_ready(session, url, ["bot"]),
                "/metrics": readers.of_metrics(session, url),
                "MCP": readers.of_mcp(model),
                "command": readers.of_command(place.config, capsys),
            }
            await readers.agreed(looks.values(), {"bot": "connected"})
            process.signal(how)
            signalled = asyncio.get_running_loop().time()
            if how is signal.SIGKILL:
                await process.ended()
            # Those that are programs of their own say at once that they had to look elsewhere.
            assert await place.command("status", "--json") == Exit.UNANSWERED
            told = json.loads(capsys.readouterr().out)
            assert (told["source"], told["trouble"] != "") == ("file", True)
            freshness = (await model.call("list_accounts"))["freshness"]
            assert freshness["source"] == "status file"
            assert freshness["warning"].startswith("The gateway did not answer: ")
            seconds = max(0.0, trusted) + 2.0 * PATIENCE
            found = await asyncio.gather(
                *(distrust(look, signalled, seconds) for look in looks.values())
            )
    notices = dict(zip(looks, found, strict=True))
    bound = {"file": 0.0, "/readyz": SCRAPE, "/metrics": SCRAPE}
    for name, notice in notices.items():
        assert notice.looks
        assert notice.last_trusted <= trusted, (name, notice)
        assert notice.longest <= bound.get(name, PATIENCE) + SLACK, (name, notice)
