"""The lab's cables over HTTP, and the hand that holds one while the play goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from holdfast.config import Config
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.notify import ServiceManager
from holdfast.lab.cast import CAST
from holdfast.lab.demo import demo
from holdfast.store.protocol import Store
from holdfast.supervision import Published
from holdfast.web.cable_api import HEADER, CableApi
from tests.theatre import NoWatchdog
from tests.web.http import flock, serving


class Board:
    """Two cables of which one leads to nowhere."""

    def __init__(self) -> None:
        self.out = {"polly": False, "jack": False}

    def cables(self) -> dict[str, bool]:
        """See `Switchboard`."""
        return self.out

    def pull(self, name: str) -> None:
        """See `Switchboard`."""
        self.out[name] = True

    def put_back(self, name: str) -> None:
        """See `Switchboard`."""
        self.out[name] = False


async def test_a_cable_is_pulled_and_put_back_and_both_are_noted(tmp_path: Path) -> None:
    board = Board()
    async with serving(flock(tmp_path), [CableApi(board)]) as site:
        pulled = await site.ask("/api/v1/lab/cables/polly/pull", "POST")
        assert pulled == (200, {"polly": True, "jack": False})
        assert board.out["polly"]
        assert await site.get("/lab/cables") == {"polly": True, "jack": False}
        healed = await site.ask("/api/v1/lab/cables/polly/heal", "POST")
        assert healed == (200, {"polly": False, "jack": False})
        assert [one["what"] for one in await site.get("/actions")] == ["pull_cable", "heal_cable"]


async def test_a_cable_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    async with serving(flock(tmp_path), [CableApi(Board())]) as site:
        assert await site.ask("/api/v1/lab/cables/pully/pull", "POST") == (
            404,
            {"error": "'pully' has no cable", "hint": "there is one for each of polly, jack"},
        )


async def test_a_foreign_page_pulls_nothing(tmp_path: Path) -> None:
    board = Board()
    async with serving(flock(tmp_path), [CableApi(board)]) as site:
        evil = {"Origin": "https://evil.example"}
        status, _ = await site.ask("/api/v1/lab/cables/polly/pull", "POST", headers=evil)
        assert (status, board.out["polly"]) == (403, False)


async def test_only_a_server_with_cables_says_it_has_them(tmp_path: Path) -> None:
    for extras, told in (([CableApi(Board())], "/api/v1/lab/cables"), ([], None)):
        async with serving(flock(tmp_path), extras) as site:
            async with site.session.head(site.url + "/") as answer:
                assert (answer.status, answer.headers.get(HEADER)) == (200, told)
            status, _ = await site.ask("/api/v1/lab/cables")
            assert status == (404 if told is None else 200)


def on_this_clock(config: Config, store: Store) -> Gateway:
    """A gateway whose wall clock passes as the loop's does."""
    loop = asyncio.get_running_loop()
    offset = time.time() - loop.time()
    return Gateway(
        config,
        store,
        clock=lambda: offset + loop.time(),
        service=ServiceManager({}),
        watchdog=NoWatchdog(),
    )


async def test_the_play_leaves_a_cable_alone_that_a_person_holds() -> None:
    async with demo({"telegram": CAST["telegram"]}, on_this_clock) as play:
        playing = asyncio.create_task(play.play(90))
        account = play.gateway.desk("telegram").account
        await account.until(lambda view: view.published is Published.CONNECTED)
        play.pull("telegram")
        play.pull("telegram")
        await account.until(lambda view: view.published is Published.RETRYING)
        await asyncio.sleep(40)
        assert play.cables() == {"telegram": True}
        assert account.view().published is Published.RETRYING
        play.put_back("telegram")
        play.put_back("telegram")
        assert play.cables() == {"telegram": False}
        await playing
        (verdict,) = play.verdicts()
        assert verdict.good, verdict
        assert verdict.faults > 1


async def test_at_the_end_of_the_play_every_cable_is_put_back() -> None:
    async with demo({"telegram": CAST["telegram"]}, on_this_clock) as play:
        playing = asyncio.create_task(play.play(20))
        await asyncio.sleep(5)
        play.pull("telegram")
        await playing
        assert play.cables() == {"telegram": False}
        (verdict,) = play.verdicts()
        assert verdict.good, verdict
