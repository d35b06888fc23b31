"""`GET /metrics` over HTTP: what a scraper gets, whatever state the journal is in."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from holdfast.errors import StoreError
from holdfast.gateway.gateway import Gateway
from holdfast.store.protocol import Counts
from holdfast.supervision import Published
from holdfast.testing import MemoryStore
from holdfast.web import events
from holdfast.web.answers import explain_mistakes
from holdfast.web.metrics_api import JOURNAL_LIMIT, MetricsApi
from tests.cli.gateway import Place
from tests.gateway.house import house, parrot, reach
from tests.gateway.parrot import Aviary
from tests.gateway.tools import now
from tests.web.http import flock, serving


class Scraper:
    """Asks like Prometheus."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def ask(self, accept: str = "text/plain") -> tuple[int, str, str]:
        """Status, content type and text of an answer."""
        async with self._session.get(self._url, headers={"Accept": accept}) as answer:
            return answer.status, answer.headers["Content-Type"], await answer.text()

    async def values(self) -> dict[str, float]:
        """The value of each sample of the account "bot", and of those of no account."""
        status, _, text = await self.ask()
        assert status == 200
        return {
            one.name + one.labels.get("le", "") + one.labels.get("state", ""): one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.labels.get("account", "bot") == "bot"
        }


@contextlib.asynccontextmanager
async def scraping(gateway: Gateway) -> AsyncIterator[Scraper]:
    """A server with nothing but the metrics of a gateway."""
    app = web.Application(middlewares=[explain_mistakes])
    MetricsApi(gateway).add_to(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Scraper(f"http://127.0.0.1:{runner.addresses[0][1]}/metrics", session)
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def watched(
    home: Path, store: MemoryStore | None = None
) -> AsyncIterator[tuple[Aviary, Gateway, Scraper]]:
    """A connected account and its scraper."""
    async with (
        Aviary() as aviary,
        house(home, parrot("bot", aviary.url), store=store) as gateway,
        scraping(gateway) as scraper,
    ):
        await reach(gateway, "bot", Published.CONNECTED)
        yield aviary, gateway, scraper


@pytest.mark.parametrize(
    ("accept", "kind", "last"),
    [
        ("text/plain", "text/plain; version=0.0.4", "\n"),
        ("*/*", "text/plain; version=0.0.4", "\n"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text; version=1.0.0",
            "# EOF\n",
        ),
    ],
)
async def test_the_scraper_chooses_the_format(
    tmp_path: Path, accept: str, kind: str, last: str
) -> None:
    async with watched(tmp_path) as (_, _, scraper):
        status, content_type, text = await scraper.ask(accept)
    assert status == 200
    assert content_type.startswith(kind)
    assert 'holdfast_account_up{account="bot",platform="parrot"} 1.0\n' in text
    assert text.endswith(last)


async def test_every_scrape_is_a_new_reading(tmp_path: Path) -> None:
    async with watched(tmp_path) as (aviary, gateway, scraper):
        before = await scraper.values()
        await aviary.talks[-1].close(code=1011)
        await reach(gateway, "bot", Published.RETRYING)
        cut = await scraper.values()
        await reach(gateway, "bot", Published.CONNECTED)
        after = await scraper.values()

    def told(name: str) -> list[float]:
        return [values.get(name, 0.0) for values in (before, cut, after)]

    assert told("holdfast_account_up") == [1, 0, 1]
    assert told("holdfast_account_cause") == [0, 1, 0]
    assert told("holdfast_transitions_totalretrying") == [0, 1, 1]
    assert told("holdfast_connections_ended_total") == [0, 1, 1]
    assert told("holdfast_connections_opened_total") == [1, 1, 2]
    assert told("holdfast_detection_seconds_count") == [0, 1, 1]
    assert told("holdfast_recovery_seconds_count") == [0, 0, 1]
    assert told("holdfast_recovery_seconds_bucket5.0") == [0, 0, 1]


class FailingStore(MemoryStore):
    """A journal that can not count."""

    async def counts(self, account: str | None = None) -> dict[str, Counts]:
        """See `Store.counts`."""
        raise StoreError("store_full", "the disk is full")


class SlowStore(MemoryStore):
    """A journal that counts slowly, or never."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.counting = self.most = 0

    async def counts(self, account: str | None = None) -> dict[str, Counts]:
        """See `Store.counts`."""
        self.counting += 1
        self.most = max(self.most, self.counting)
        try:
            await asyncio.sleep(self.seconds)
            return await super().counts(account)
        finally:
            self.counting -= 1


@pytest.mark.parametrize("store", [FailingStore(), SlowStore(3_600.0)], ids=["full", "hanging"])
async def test_a_journal_in_trouble_hides_nothing_else(tmp_path: Path, store: MemoryStore) -> None:
    async with watched(tmp_path, store) as (_, _, scraper):
        began = now()
        values = await scraper.values()
        assert now() - began < JOURNAL_LIMIT + 0.5
    assert values["holdfast_account_up"] == 1
    assert "holdfast_account_inbox_messages" in values
    assert "holdfast_account_dead_messages" not in values


async def test_the_journal_is_counted(tmp_path: Path) -> None:
    async with watched(tmp_path) as (_, _, scraper):
        values = await scraper.values()
    assert values["holdfast_account_dead_messages"] == 0
    assert values["holdfast_account_open_gaps"] == 0


async def test_scrapers_take_turns(tmp_path: Path) -> None:
    store = SlowStore(0.5)
    async with watched(tmp_path, store) as (_, _, scraper):
        answers = await asyncio.gather(*(scraper.ask() for _ in range(5)))
    assert [status for status, _, _ in answers] == [200] * 5
    assert store.most == 1


async def test_without_the_library_the_answer_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "holdfast.observe.exposition", raising=False)
    async with watched(tmp_path) as (_, gateway, scraper):
        status, kind, text = await scraper.ask()
        assert gateway.status().accounts["bot"].state == "connected"
    assert (status, kind) == (501, "application/json")
    assert "install holdfast[metrics]" in text


async def test_streams_and_the_history_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "READERS", 1)
    async with serving(flock(tmp_path)) as site:
        scraper = Scraper(site.url + "/metrics", site.session)
        async with site.session.get(site.url + "/api/v1/events"):
            assert (await site.ask("/api/v1/events"))[0] == 503
            site.history.trouble = "kept in memory only: the disk is full"
            site.server.hub.dropped = 3
            values = await scraper.values()
        assert values["holdfast_web_streams"] == 1
        assert values["holdfast_web_streams_refused_total"] == 1
        assert values["holdfast_web_streams_dropped_total"] == 3
        assert values["holdfast_history_ok"] == 0
        site.history.trouble = ""
        await asyncio.sleep(events.HEARTBEAT + 1)
        values = await scraper.values()
        assert (values["holdfast_web_streams"], values["holdfast_history_ok"]) == (0, 1)


@pytest.mark.real_time
@pytest.mark.slow
async def test_a_gateway_that_was_just_started_is_scraped(tmp_path: Path) -> None:
    place = Place(tmp_path, pages="127.0.0.1:0")
    nobody = {"platform": "telegram", "token": "77:nobody", "base_url": "http://127.0.0.1:1"}
    place.write(bot=nobody)
    async with place.gateway() as process, aiohttp.ClientSession() as session:
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.log)
        assert found is not None, process.log
        values = await Scraper(found[0] + "metrics", session).values()
        assert values["holdfast_account_up"] == 0
        assert values["holdfast_connections_opened_total"] >= 1
        assert values["process_open_fds"] > 5
