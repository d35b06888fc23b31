"""The probes: alive is about us, ready is about the accounts, and strangers learn no names."""

from __future__ import annotations

from pathlib import Path

import msgspec

from holdfast.gateway.gateway import Gateway
from holdfast.observe.status import Status
from tests.web.http import BEARER, flock, guarded, serving


async def test_ready_is_the_truth_of_every_account(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        status, body = await site.ask("/readyz")
        assert (status, body) == (200, {"ready": True, "connected": ["polly", "jack"]})
        await site.gateway.desk("polly").account.pause()
        status, body = await site.ask("/readyz")
        assert status == 503
        assert body["connected"] == ["jack"]
        assert body["not_connected"]["polly"]["state"] == "stopped"
        assert (await site.ask("/readyz?account=jack"))[0] == 200
        assert (await site.ask("/readyz?account=polly"))[0] == 503


async def test_connected_is_not_believed_longer_than_its_evidence(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        true = Gateway.status

        def later(gateway: Gateway) -> Status:
            """As if the loop had been frozen for a day."""
            status = true(gateway)
            return msgspec.structs.replace(status, written_at=status.written_at + 200_000)

        site.gateway.status = later.__get__(site.gateway)  # type: ignore[method-assign]
        status, body = await site.ask("/readyz")
        assert status == 503
        assert body["not_connected"]["polly"]["state"] == "retrying"


async def test_a_paused_account_is_not_waited_for(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        await site.gateway.pause("polly")
        status, body = await site.ask("/readyz")
        assert (status, body["paused"], body["connected"]) == (200, ["polly"], ["jack"])
        status, body = await site.ask("/readyz?account=polly")
        assert (status, body["not_connected"]["polly"]["paused"]) == (503, True)


async def test_an_unknown_account_is_named_to_friends_only(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        status, body = await site.ask("/readyz?account=poly")
        assert (status, body["error"]) == (
            404,
            "there is no account 'poly'; there are: jack, polly",
        )
    async with serving(guarded(tmp_path)) as site:
        assert await site.ask("/readyz?account=poly") == (503, {"ready": False})


async def test_without_the_token_a_probe_is_all_there_is(tmp_path: Path) -> None:
    async with serving(guarded(tmp_path)) as site:
        assert await site.ask("/readyz") == (200, {"ready": True})
        assert await site.ask("/readyz?account=polly") == (200, {"ready": True})
        await site.gateway.desk("polly").account.pause()
        assert await site.ask("/readyz") == (503, {"ready": False})
        status, body = await site.ask("/readyz", headers=BEARER)
        assert (status, list(body["not_connected"])) == (503, ["polly"])
        assert await site.ask("/livez") == (200, {"alive": True})


async def test_alive_is_not_about_the_platforms(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        for name in ("polly", "jack"):
            await site.gateway.desk(name).account.pause()
        assert await site.ask("/livez") == (200, {"alive": True})
        site.gateway.on_time = lambda: False  # type: ignore[method-assign]
        assert await site.ask("/livez") == (503, {"alive": False})
