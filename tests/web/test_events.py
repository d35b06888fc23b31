"""Server-sent events: the newest status, every transition once, also for who was away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from holdfast.lab.faults.blocker import stall_virtual
from holdfast.observe.status import TTL, Status
from holdfast.supervision import Report
from holdfast.web import events, sessions
from tests.web.http import BEARER, TOKEN, Site, flock, guarded, serving


@dataclass
class Event:
    """One event as a browser has it."""

    kind: str = "message"
    id: str = ""
    data: Any = None


@dataclass
class Stream:
    """A browser's ``EventSource``, as far as the standard describes it."""

    answer: aiohttp.ClientResponse
    last: str = ""
    seen: list[Event] = field(default_factory=list)

    async def next(self, kind: str) -> Event:
        """The next event of a kind; all are noted."""
        event = Event()
        while True:
            line = (await self.answer.content.readline()).decode()
            assert line, "the stream has ended"
            name, _, value = line.rstrip("\n").partition(": ")
            match name:
                case "event":
                    event.kind = value
                case "id":
                    event.id = self.last = value
                case "data":
                    event.data = msgspec.json.decode(value)
                case "" if event.data is not None:
                    self.seen.append(event)
                    if event.kind == kind:
                        return event
                    event = Event()

    def moved(self) -> list[tuple[str, str]]:
        """Accounts and states of the transitions seen so far."""
        told = [one.data["transition"] for one in self.seen if one.kind == "transition"]
        return [(one["account"], one["state"]) for one in told]


@contextlib.asynccontextmanager
async def stream(site: Site, last: str = "") -> AsyncIterator[Stream]:
    """An open stream."""
    headers = {"Last-Event-ID": last} if last else {}
    async with site.session.get(site.url + "/api/v1/events", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        yield Stream(answer, last)


async def kicked(site: Site, name: str) -> None:
    """An account loses its connection and has a new one."""
    account = site.gateway.desk(name).account
    before = account.view().generation
    site.gateway.kick(name)
    await account.until(lambda v: v.generation > before and v.published == "connected")


async def test_the_status_comes_at_once_and_as_it_changes(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site, stream(site) as reader:
        first = await reader.next("status")
        assert set(first.data["status"]["accounts"]) == {"polly", "jack"}
        await site.gateway.pause("polly")
        began = asyncio.get_running_loop().time()
        while True:
            newer = await reader.next("status")
            if newer.data["status"]["accounts"]["polly"]["state"] == "stopped":
                break
        assert asyncio.get_running_loop().time() - began <= events.SNAPSHOT_EVERY + 0.5
        assert ("polly", "stopped") in reader.moved()


async def test_a_quiet_status_is_never_older_than_its_time_to_live(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site, stream(site) as reader:
        for _ in range(5):
            began = asyncio.get_running_loop().time()
            await reader.next("status")
            assert asyncio.get_running_loop().time() - began < TTL


async def test_who_comes_back_gets_what_it_missed_once(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        async with stream(site) as reader:
            last = (await reader.next("status")).id
        await kicked(site, "polly")
        async with stream(site, last) as reader:
            await reader.next("status")
            assert reader.moved()[-1] == ("polly", "connected")
            assert {name for name, _ in reader.moved()} == {"polly"}
            assert "missed" not in {one.kind for one in reader.seen}
            ids = [one.id for one in reader.seen if one.kind == "transition"]
            assert len(set(ids)) == len(ids)
            middle, after = ids[0], reader.moved()[1:]
        async with stream(site, middle) as reader:
            await reader.next("status")
            assert reader.moved() == after
        async with stream(site, ids[-1]) as reader:
            await reader.next("status")
            assert reader.moved() == []


async def test_what_the_ring_no_longer_holds_is_told_as_missed(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        hub = site.server.hub
        before = f"{hub.epoch}-{hub.newest}"
        report = Report(view=site.gateway.desk("polly").account.view(), trigger="kick")
        for _ in range(events.RING + 7):
            for listener in site.gateway.listeners:
                listener("polly", report)
        async with stream(site, before) as reader:
            assert (await reader.next("missed")).data == {"missed": 7}
            await reader.next("status")
            assert len(reader.moved()) == events.RING


@pytest.mark.parametrize("last", ["0badcafe-7", "nonsense", "-", "x" * 5_000])
async def test_an_id_of_another_process_is_told_as_missed(tmp_path: Path, last: str) -> None:
    async with serving(flock(tmp_path)) as site:
        await kicked(site, "jack")
        async with stream(site, last) as reader:
            assert (await reader.next("missed")).data == {"missed": 0}
            await reader.next("status")
            assert ("jack", "connected") in reader.moved()


async def test_streams_are_bounded(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site, contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(stream(site)) for _ in range(events.READERS)]
        status, body = await site.ask("/api/v1/events")
        assert (status, site.server.hub.refused) == (503, 1)
        assert str(events.READERS) in body["error"]
        await kicked(site, "polly")
        for reader in readers:
            await reader.next("transition")


async def test_a_reader_that_takes_nothing_is_dropped(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        hub = site.server.hub
        # The kernel takes some megabytes for a reader before anybody notices.
        hub.snapshot = lambda: b'"' + b"x" * 2**20 + b'"'  # type: ignore[method-assign]
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port, limit=1)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(600)
        assert (hub.readers, hub.dropped) == (0, 1)
        assert site.generations() == {1}
        assert (await site.ask("/livez"))[0] == 200
        writer.close()
        del reader


async def test_a_snapshot_that_takes_long_still_comes_within_its_time_to_live(
    tmp_path: Path,
) -> None:
    async with serving(flock(tmp_path)) as site, stream(site) as reader:
        loop, status = asyncio.get_running_loop(), site.gateway.status
        made: list[float] = []

        def slow() -> Status:
            stall_virtual(loop, 0.5)
            made.append(loop.time())
            return status()

        site.gateway.status = slow  # type: ignore[method-assign]
        await kicked(site, "polly")
        while len(made) < 4:
            await reader.next("status")
        assert max(b - a for a, b in pairwise(made)) < TTL


async def test_a_stop_ends_the_streams_at_once(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site, stream(site) as reader:
        await reader.next("status")
        began = asyncio.get_running_loop().time()
        await site.server.stop()
        assert asyncio.get_running_loop().time() - began <= 1.0
        assert site.server.hub.readers == 0
        assert site.server.hub._reported not in site.gateway.listeners


async def log_out(site: Site) -> None:
    """The browser's session ends by its own wish."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with site.session.post(site.url + "/logout", headers=headers) as answer:
        assert answer.status == 200


async def outlive(site: Site) -> None:
    """The browser's session ends by its age."""
    site.server.guard.sessions._clock = lambda: (
        asyncio.get_running_loop().time() + sessions.SESSION_LIFE
    )


@pytest.mark.parametrize("end", [log_out, outlive])
async def test_a_stream_ends_with_its_session(
    tmp_path: Path, end: Callable[[Site], Awaitable[None]]
) -> None:
    async with serving(guarded(tmp_path)) as site:
        await site.session.post(site.url + "/login", data={"token": TOKEN})
        async with stream(site) as reader:
            await reader.next("status")
            await end(site)
            await asyncio.gather(kicked(site, "polly"), kicked(site, "jack"))
            began = asyncio.get_running_loop().time()
            rest = await reader.answer.content.read()
            assert asyncio.get_running_loop().time() - began <= events.HEARTBEAT
            assert b"data:" not in rest
        assert site.server.hub.readers == 0


async def test_a_stream_of_a_token_outlives_sessions(tmp_path: Path) -> None:
    async with serving(guarded(tmp_path)) as site:
        url = site.url + "/api/v1/events"
        async with site.session.get(url, headers=BEARER) as answer:
            reader = Stream(answer)
            await reader.next("status")
            await outlive(site)
            await kicked(site, "polly")
            await reader.next("transition")
