"""What the dashboard costs a browser when a gateway has very many accounts.

    python -m bench.dashboard [--accounts 1000] > dashboard.json

A real gateway whose accounts cost nothing, of which some are lost every second, and a headless
Chromium on the same machine. ``update_ms`` is from the arrival of a status to the page's having
taken it in, ``busy`` the share of its main thread's time that the page needs for everything; a
phone is some four to six times slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from playwright.async_api import CDPSession, Page
from tests.e2e.browser import looking

from bench.crowd import Crowd, crowd

WATCHED = 20.0
"""Seconds for which updates are measured."""

LOST = 5
"""Accounts that lose their connection each second meanwhile."""

FIRST = 1_000.0
"""Milliseconds in which the accounts should be seen."""

UPDATE = 50.0
"""Milliseconds of a task that people do not feel (the threshold of a long task, W3C)."""

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


async def measure(count: int) -> dict[str, Any]:
    """Everything."""
    with tempfile.TemporaryDirectory() as name:
        async with crowd(Path(name), count) as site, looking(site.url) as page:
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


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=1_000)
    options = parser.parse_args()
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    print(json.dumps(asyncio.run(measure(options.accounts)), indent=2))


if __name__ == "__main__":
    main()
