"""A real browser without a screen, and what a page must never do in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, Request, async_playwright

CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

VISIBILITY = """
let hidden = false;
for (const [name, of] of [["hidden", () => hidden],
                          ["visibilityState", () => (hidden ? "hidden" : "visible")]])
  Object.defineProperty(Document.prototype, name, { get: of });
globalThis.turn = (away) => {
  hidden = away;
  document.dispatchEvent(new Event("visibilitychange"));
};
"""
"""Lets a test hide a page. Without a screen every page is visible to Chromium: neither another page
in front, nor an end of the emulated focus, nor a minimised window hides one."""

LIMIT_MS = 20_000
"""For whatever a page is to show; the machine may be busy."""

SERIOUS = frozenset({"serious", "critical"})
"""Impacts of what axe finds that no page may have."""


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser."""
    async with async_playwright() as tools:
        assert CHROMIUM is not None
        browser = await tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def looking(
    url: str, *, quiet: bool = True, browser: Browser | None = None, **options: Any
) -> AsyncIterator[Page]:
    """A page that is open at an address.

    At the end no request has gone to another host, no script has failed, and, if ``quiet``, the
    console is empty. ``options`` are those of a browser's context.
    """
    async with contextlib.AsyncExitStack() as stack:
        if browser is None:
            browser = await stack.enter_async_context(chromium())
        context = await browser.new_context(**{"locale": "en-GB", **options})
        stack.push_async_callback(context.close)
        page = await context.new_page()
        page.set_default_timeout(LIMIT_MS)
        asked: list[str] = []
        failed: list[str] = []
        said: list[str] = []

        def on_request(request: Request) -> None:
            asked.append(request.url)

        context.on("request", on_request)
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        await page.goto(url)
        yield page
        hosts = {urlsplit(address).hostname for address in asked}
        assert not failed, failed
        assert not (quiet and said), said
        assert hosts == {urlsplit(url).hostname}, hosts


async def hide(page: Page) -> None:
    """Another tab is looked at; the page was opened after `VISIBILITY` was given to its context."""
    await page.evaluate("turn(true)")


async def show(page: Page) -> None:
    """The tab is looked at again."""
    await page.evaluate("turn(false)")


async def flaws(page: Page) -> list[str]:
    """What axe finds serious on a page as it is now, with where it is."""
    found = await Axe().run(page)
    return [
        f"{one['id']}: {one['help']} at {[node['target'] for node in one['nodes']]}"
        for one in found.response["violations"]
        if one["impact"] in SERIOUS
    ]
