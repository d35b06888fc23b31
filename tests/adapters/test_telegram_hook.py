"""Telegram by web hook, on the real shell, against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.adapters.telegram import Telegram
from holdfast.errors import StoreError
from holdfast.gateway.account import AccountTools
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import Net
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.messages import Inbound, Outbound
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, make_adapter, running

PATH = "/telegram/123456"


@contextlib.asynccontextmanager
async def bot(
    store: MemoryStore | None = None, **settings: Any
) -> AsyncIterator[tuple[TelegramSimulator, Running]]:
    """A connected bot in web hook mode."""
    async with TelegramSimulator() as sim:
        config = sim.account() | {"mode": "webhook"} | settings
        async with running(Telegram, config, store=store) as seen:
            await seen.connected()
            yield sim, seen


async def arrived(seen: Running, count: int = 1, timeout: float = 300.0) -> list[Inbound]:
    """Wait for so many messages."""
    async with asyncio.timeout(timeout):
        while len(seen.messages) < count:  # noqa: ASYNC110 - no event tells of a message
            await asyncio.sleep(0.25)
    return seen.messages


async def post(seen: Running, body: bytes, secret: bytes | None = None) -> int:
    """What somebody who knows the address sends to it: raw, for a secret may be any bytes."""
    proof = b"" if secret is None else b"X-Telegram-Bot-Api-Secret-Token: %s\r\n" % secret
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.hooks.port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n" % PATH.encode()
        + b"Content-Length: %d\r\n%s\r\n%s" % (len(body), proof, body)
    )
    status = (await reader.readline()).split()[1]
    writer.close()
    await writer.wait_closed()
    return int(status)


async def call(sim: TelegramSimulator, method: str, **params: str) -> Any:
    """A call with the bot's token by another program."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{sim.url}/bot{sim.token}/{method}", data=params) as reply,
    ):
        return (await reply.json())["result"]


async def test_messages_come_in_and_answers_go_out() -> None:
    async with bot() as (sim, seen):
        sim.say("hello")
        sim.say("status?", chat="ops", group=True)
        first, second = await arrived(seen, 2)
        assert {first.text, second.text} == {"hello", "@gate_test_bot status?"}
        await sim.until(lambda: sim.count("hook-delivered") == 2)
        await seen.adapter.send(Outbound(key="k", chat=first.chat, text="hi", reply_to=first.id))
        assert sim.heard[0].text == "hi"
        assert sim.count("poll") == 0


async def test_what_could_not_be_stored_is_not_taken() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        store.fail = StoreError("disk_full", "no space left")
        sim.say("keep me")
        view = await seen.account.until(lambda view: view.cause is not None)
        assert view.cause is not None
        assert (view.cause.kind, view.cause.code) == (Kind.LOCAL, "disk_full")
        await asyncio.sleep(60)
        assert sim.pending() == 1
        assert sim.count("hook-delivered") == 0
        store.fail = None
        assert [m.text for m in await arrived(seen)] == ["keep me"]
        await sim.until(lambda: sim.pending() == 0)


async def test_nothing_is_lost_over_a_restart() -> None:
    store = MemoryStore()
    async with TelegramSimulator() as sim:
        config = sim.account() | {"mode": "webhook"}
        async with running(Telegram, config, store=store) as seen:
            await seen.connected()
            sim.say("one")
            await arrived(seen)
        sim.say("two")
        await asyncio.sleep(60)
        async with running(Telegram, config, store=store) as seen:
            assert [m.text for m in await arrived(seen)] == ["two"]
        assert [r.message.text for r in store.inbox.values()] == ["one", "two"]


async def test_waiting_messages_move_from_the_poll_to_the_hook_and_back() -> None:
    store = MemoryStore()
    async with TelegramSimulator() as sim:
        for text, mode in (("one", "poll"), ("two", "webhook"), ("three", "poll")):
            sim.say(text)
            async with running(Telegram, sim.account() | {"mode": mode}, store=store) as seen:
                assert [m.text for m in await arrived(seen)] == [text]
        assert len(store.inbox) == 3


@pytest.mark.parametrize("secret", [None, b"", b"guess", b"\xff\xfe", b"0" * 64])
async def test_a_forged_request_is_refused_and_counted(secret: bytes | None) -> None:
    async with bot() as (sim, seen):
        forged = b'{"update_id":1,"message":{"message_id":1,"date":1,"chat":{"id":9},"text":"x"}}'
        assert await post(seen, forged, secret) == 403
        assert seen.account.skipped_frames == 1
        assert seen.messages == []
        sim.say("genuine")
        assert [m.text for m in await arrived(seen)] == ["genuine"]
        assert seen.account.view().generation == 1


async def test_a_bad_update_is_skipped_and_not_sent_again() -> None:
    async with bot() as (sim, seen):
        digest = hmac.new(sim.token.encode(), b"holdfast web hook", "sha256")
        secret = digest.hexdigest().encode()
        for body in (b"", b"{", b'{"update_id":1,"message":[]}', b"[" * 100_000):
            assert await post(seen, body, secret) == 200
        assert seen.account.skipped_frames == 4
        assert await post(seen, b'{"update_id":1,"poll":{}}', secret) == 200
        assert seen.account.skipped_frames == 4
        assert seen.account.view().published is Published.CONNECTED


@pytest.mark.slow
async def test_quiet_hours_are_proved_by_looking() -> None:
    store = MemoryStore()
    async with bot(store) as (_, seen):
        await asyncio.sleep(3600)
        view = seen.account.view()
        assert view.published is Published.CONNECTED
        assert view.generation == 1
        assert view.beats >= 118
        assert view.last_proof is not None
        assert view.at - view.last_proof <= 31
        assert time.time() - (await store.cursor("bot"))["seen_at"] < 60


async def test_messages_that_wait_in_vain_are_noticed_and_the_hook_is_set_anew() -> None:
    async with bot() as (sim, seen):
        port, seen.hooks.port = seen.hooks.port, 0
        await seen.hooks.stop()  # as if the reverse proxy were down
        sim.say("waiting")
        before = sim.now()
        view = await seen.account.until(lambda view: view.cause is not None)
        assert sim.now() - before < 61
        assert view.published is Published.RETRYING
        assert view.cause is not None
        assert "1 updates wait for the web hook in vain" in view.cause.message
        seen.hooks.port = port
        await seen.hooks.start()
        assert [m.text for m in await arrived(seen)] == ["waiting"]
        await seen.connected()


async def test_a_web_hook_that_leads_elsewhere_is_a_conflict() -> None:
    async with bot() as (sim, seen):
        await asyncio.sleep(2)
        await call(sim, "setWebhook", url="http://elsewhere.invalid/secret-path")
        view = await seen.account.until(lambda view: view.cause is not None)
        assert view.cause is not None
        assert (view.cause.kind, view.cause.code) == (Kind.REPLACED, "telegram_conflict")
        assert "elsewhere.invalid" in view.cause.message
        assert "secret-path" not in view.cause.message
        await seen.connected()
        info = await call(sim, "getWebhookInfo")
        assert info["url"] == f"http://127.0.0.1:{seen.hooks.port}{PATH}"


async def test_an_api_out_of_reach_is_noticed_by_missed_looks() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("http_502", times=None)
        view = await seen.account.until(lambda view: view.cause is not None)
        assert view.cause is not None
        assert view.cause.kind is Kind.SILENT
        assert "HTTP 502" in view.cause.message
        sim.faults.clear()
        await seen.connected()


async def test_a_revoked_token_is_found_by_the_next_look() -> None:
    async with bot() as (sim, seen):
        sim.revoke_token()
        await seen.published(Published.FATAL)
        cause = seen.account.view().cause
        assert cause is not None
        assert cause.code == "telegram_unauthorized"
        sim.restore()
        seen.account.kick(operator=True)
        await seen.connected()
        assert sim.token not in " ".join(repr(report.view) for report in seen.reports)


async def test_without_a_public_address_it_says_what_to_configure() -> None:
    client = Net(Resolver()).client()
    async with TelegramSimulator() as sim:
        config = sim.account() | {"mode": "webhook"}
        adapter = make_adapter(Telegram, config, AccountTools(client, hook_url=None))
        health = await adapter.check()
        assert health.cause is not None
        assert (health.cause.kind, health.cause.code) == (Kind.REFUSED, "telegram_no_hook_url")
        assert "hook_url" in health.cause.message
        await client.close()


async def test_it_stops_at_once_and_leaves_the_hook_for_the_next_start() -> None:
    async with bot() as (sim, seen):
        before = sim.now()
        await seen.account.stop()
        assert sim.now() - before < 5.0
        assert sim.count("hook-deleted") == 0
        assert await post(seen, b"{}") == 503  # so that Telegram tries again
