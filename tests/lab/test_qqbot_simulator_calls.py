"""The QQ bot simulator's token service and API frame, and the addresses it gives out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.lab.qqbot_client import PNG, platform, resumed

# -- token and gateway call ---------------------------------------------------------------------


async def test_token_is_the_same_until_its_last_minute_and_then_overlaps() -> None:
    async with platform() as (sim, raw):
        sim.tokens.lifetime = 100
        first = await raw.fetch_token()
        assert first["expires_in"] == "100"
        await asyncio.sleep(30)
        assert (await raw.fetch_token())["access_token"] == first["access_token"]
        await asyncio.sleep(15)
        second = await raw.fetch_token()
        assert second["access_token"] != first["access_token"]
        raw.token = first["access_token"]
        assert (await raw.call("GET", "/users/@me"))[0] == 200
        await asyncio.sleep(56)
        status, body = await raw.call("GET", "/users/@me")
        assert (status, body["code"], body["err_code"]) == (401, 11244, 11244)
        raw.token = second["access_token"]
        assert (await raw.call("GET", "/users/@me"))[0] == 200


async def test_token_call_refuses_bad_credentials_with_status_200() -> None:
    async with platform() as (sim, raw):
        assert (await raw.fetch_token(secret="no"))["code"] == 100016
        assert (await raw.fetch_token(app="no"))["code"] == 100007
        sim.set_secret("new")
        assert "access_token" in await raw.fetch_token(secret="new")
        sim.revoke()
        assert (await raw.fetch_token(secret="new"))["code"] == 100016
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11244


async def test_token_faults() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("token_error", code=100001)
        assert (await raw.fetch_token())["code"] == 100001
        sim.faults.arm("token_500")
        assert await raw.fetch_token() == 500
        sim.faults.arm("expires_in_number")
        assert (await raw.fetch_token())["expires_in"] == 7200
        sim.faults.arm("token_hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.fetch_token(), 60)


async def test_api_tells_missing_wrong_and_expired_tokens_apart() -> None:
    async with platform() as (sim, raw):
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11241
        raw.token = "made-up"
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11243
        await raw.fetch_token()
        assert (await raw.call("GET", "/users/@me"))[1]["id"].isdigit()
        sim.ban()
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11265
        sim.unban()
        assert (await raw.call("GET", "/users/@me"))[0] == 200


@pytest.mark.parametrize(
    ("fault", "params", "status", "code"),
    [
        ("api_500", {}, 500, 500),
        ("api_401", {"code": 11251}, 401, 11251),
        ("gateway_401", {}, 401, 11244),
        ("gateway_429", {}, 429, 429),
    ],
)
async def test_api_and_gateway_faults(
    fault: str, params: dict[str, Any], status: int, code: int
) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm(fault, **params)
        got, body = await raw.call("GET", "/gateway/bot")
        assert (got, body["code"]) == (status, code)
        assert (await raw.call("GET", "/gateway/bot"))[0] == 200


async def test_api_html_is_no_json() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("api_html")
        async with raw.http.get(sim.url + "/users/@me") as response:
            assert (response.status, response.content_type) == (502, "text/html")


async def test_gateway_counts_sessions_and_limits_its_own_calls() -> None:
    async with platform() as (sim, raw):
        await raw.live()
        _, body = await raw.call("GET", "/gateway/bot")
        assert body["url"] == sim.url.replace("http", "ws") + "/websocket"
        limit = body["session_start_limit"]
        assert (limit["total"], limit["remaining"], limit["max_concurrency"]) == (1000, 999, 1)
        statuses = [(await raw.call("GET", "/gateway"))[0] for _ in range(10)]
        assert statuses == [200] * 9 + [429]
        await asyncio.sleep(31)
        assert (await raw.call("GET", "/gateway"))[0] == 200


async def test_no_sessions_left_until_the_reset() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("no_sessions_left", reset_after=600)
        _, body = await raw.call("GET", "/gateway/bot")
        assert body["session_start_limit"] | {"total": 0} == {
            "total": 0,
            "remaining": 0,
            "reset_after": 600_000,
            "max_concurrency": 1,
        }
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert [await link.next(), await link.next()] == [{"op": 9, "d": False}, 4903]
        await asyncio.sleep(600)
        assert (await raw.live()).session


# -- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/gateway", "/gateway/bot"])
async def test_gateway_stays_on_the_host_that_was_asked(path: str) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        headers = {"Authorization": f"QQBot {raw.token}", "Host": "relay.test:8443"}
        async with raw.http.get(sim.url + path, headers=headers) as response:
            assert (await response.json())["url"] == "ws://relay.test:8443/websocket"


async def test_attachments_stay_on_the_host_their_socket_came_by() -> None:
    async with platform() as (sim, raw):
        link = await raw.live(host="relay.test:8443")
        sim.say("picture", image=PNG)
        [picture] = (await link.next())["d"]["attachments"]
        assert picture["url"].startswith("http://relay.test:8443/_files/")
        sim.drop_all()
        _, [replayed, _] = await resumed(raw, link.session, 1, host="other.test")
        [again] = replayed["d"]["attachments"]
        assert again["url"] == picture["url"].replace("relay.test:8443", "other.test")
        async with raw.http.get(again["url"].replace("http://other.test", sim.url)) as response:
            assert await response.read() == PNG
