"""What the dashboard costs a browser when a gateway has very many accounts, and the gateway.

    python -m bench.dashboard [--accounts 1000] [--rounds 2] [--seconds 30] > dashboard.json

The browser's part: a real gateway whose accounts cost nothing, of which some are lost every second,
and a headless Chromium on the same machine. ``update_ms`` is from the arrival of a status to the
page's having taken it in, ``busy`` the share of its main thread's time that the page needs for
everything; a phone is some four to six times slower.

The gateway's part, ``open``: a gateway in a process of its own, with the accounts, the journal and
the steady load of `bench.road`, once with no page and once with ten in Chromium, in turns. What
counts is the ratio of the seconds of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from playwright.async_api import CDPSession, Page
from tests.e2e.browser import chromium, looking

from bench.crowd import Crowd, crowd
from bench.road import Side, side
from bench.road_platform import PATIENCE

WATCHED = 20.0
"""Seconds for which updates are measured."""

LOST = 5
"""Accounts that lose their connection each second meanwhile."""

FIRST = 1_000.0
"""Milliseconds in which the accounts should be seen."""

UPDATE = 50.0
"""Milliseconds of a task that people do not feel (the threshold of a long task, W3C)."""

PAGES = 10
"""Dashboards that are open at a time: a team, or one person and many forgotten tabs."""

WATCHED_ACCOUNTS = 10
"""Of the gateway they look at; those that are in sight are asked for."""

RATE = 20.0
"""Messages a second that it carries meanwhile."""

SETTLED = 5.0
"""Seconds after which a page has fetched what it fetches but once."""

COUNT = """
    window.updates = [];
    window.tasks = [];
    const listen = EventSource.prototype.addEventListener;
    EventSource.prototype.addEventListener = function (kind, work) {
        listen.call(this, kind, (event) => {
            const began = performance.now();
            work(event);
            if (kind === "status") updates.push(performance.now() - began);
        });
    };
    const note = (list) => tasks.push(...list.getEntries().map((one) => one.duration));
    new PerformanceObserver(note).observe({ type: "longtask" });
"""
"""Runs before the page's own scripts."""

SEARCH = """async (words) => {
    const search = document.getElementById("search");
    const began = performance.now();
    search.value = words;
    search.dispatchEvent(new Event("input"));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - began;
}"""

SEEN = """async () => {
    while (!document.querySelector("article")) await new Promise(requestAnimationFrame);
    return performance.now();
}"""


async def counters(session: CDPSession) -> dict[str, float]:
    """What the browser has counted so far."""
    told = await session.send("Performance.getMetrics")
    return {one["name"]: one["value"] for one in told["metrics"]}


async def updates(site: Crowd, page: Page, session: CDPSession) -> dict[str, float]:
    """What a status costs while accounts come and go."""
    before = await counters(session)
    names = list(site.gateway.desks)
    loop = asyncio.get_running_loop()
    end = loop.time() + WATCHED
    while loop.time() < end:
        for _ in range(LOST):
            site.lose(names[0])
            names.append(names.pop(0))
        await asyncio.sleep(1.0)
    after = await counters(session)
    spent = sorted(await page.evaluate("updates"))
    return {
        "updates": len(spent),
        "update_ms": round(spent[len(spent) // 2], 1),
        "slowest_update_ms": round(spent[-1], 1),
        "busy": round((after["TaskDuration"] - before["TaskDuration"]) / WATCHED, 3),
        "longest_task_ms": round(max(await page.evaluate("tasks"), default=0.0), 1),
    }


async def browsed(directory: Path, count: int) -> dict[str, Any]:
    """The browser's part."""
    async with crowd(directory, count) as site, looking(site.url) as page:
        await page.add_init_script(COUNT)
        await page.reload()
        seen = await page.evaluate(SEEN)
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable")
        found = await updates(site, page, session)
        searched = [await page.evaluate(SEARCH, f"bot 0{number}") for number in range(5)]
        told = await counters(session)
        return {
            "accounts": count,
            "status_kib": len(msgspec.json.encode(site.gateway.status())) // 1024,
            "first_accounts_ms": round(seen, 1),
            "target_first_ms": FIRST,
            **found,
            "target_update_ms": UPDATE,
            "search_ms": round(sorted(searched)[2], 1),
            "cards": await page.locator("article").count(),
            "nodes": int(told["Nodes"]),
            "heap_mib": round(told["JSHeapUsedSize"] / 2**20, 1),
            "within_target": seen < FIRST and found["slowest_update_ms"] < UPDATE,
        }


async def looked_at(gateway: Side, seconds: float) -> float:
    """Seconds of CPU a minute that the gateway needs while `PAGES` dashboards are open."""
    async with contextlib.AsyncExitStack() as stack:
        browser = await stack.enter_async_context(chromium())
        for _ in range(PAGES):
            page = await stack.enter_async_context(looking(gateway.ready["pages"], browser=browser))
            await page.locator("article").first.wait_for()
        await asyncio.sleep(SETTLED)
        return await carried(gateway, seconds)


async def carried(gateway: Side, seconds: float) -> float:
    """Seconds of CPU a minute that the gateway needs for `RATE` messages a second."""
    found = await gateway.load(seconds, RATE)
    return found["cpu_us_per_message"] * found["messages_per_second"] * 60e-6


async def opened(directory: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """The gateway's part."""
    alone, watched = [], []
    timeout = aiohttp.ClientTimeout(total=seconds + 2 * PATIENCE)
    arguments = (str(directory / "gateway"), "--accounts", str(WATCHED_ACCOUNTS))
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        side(session, "bench.road_gateway", *arguments) as gateway,
    ):
        await carried(gateway, 1.0)  # the first messages are dearer
        for _ in range(rounds):
            alone.append(await carried(gateway, seconds))
            watched.append(await looked_at(gateway, seconds))
    ratios = [many / none for many, none in zip(watched, alone, strict=True)]
    none, many = statistics.median(alone), statistics.median(watched)
    return {
        "pages": PAGES,
        "accounts": WATCHED_ACCOUNTS,
        "messages_per_second": RATE,
        "cpu_s_per_minute": {"no_page": round(none, 2), "all_pages": round(many, 2)},
        "ratio": round(many / none, 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


async def measure(accounts: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Everything."""
    with tempfile.TemporaryDirectory() as name:
        found = await browsed(Path(name), accounts)
        return found | {"open": await opened(Path(name), rounds, seconds)}


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=2, help="of no page and of ten, in turns")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of them")
    options = parser.parse_args()
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    found = asyncio.run(measure(options.accounts, options.rounds, options.seconds))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
