"""The QQ adapter behind a callback address."""

from __future__ import annotations

import asyncio
import builtins
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from holdfast.adapters.qqbot import QQBot
from holdfast.adapters.qqbot_wire import signed, signing_key
from holdfast.errors import StoreError
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.qqbot_rules import callback_headers
from holdfast.messages import Outbound
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, running


@asynccontextmanager
async def hooked(**options: Any) -> AsyncIterator[tuple[QQBotSimulator, Running, str]]:
    """A bot that is called at an address, which the simulator has validated."""
    async with QQBotSimulator() as sim:
        account = sim.account() | {"mode": "webhook"}
        async with running(QQBot, account, **options) as run:
            await run.connected()
            url = f"http://127.0.0.1:{run.hooks.port}/qqbot/{sim.app_id}"
            await sim.set_webhook(url)
            yield sim, run, url


async def post(
    url: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any] | None]:
    """Call the bot; status and JSON answer."""
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=body, headers=headers) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None


def event(text: str, key: str = "ROBOT1.0_x") -> bytes:
    """A callback's body with a private message."""
    data = {"id": key, "author": {"user_openid": "ALICE"}, "content": text}
    return json.dumps({"op": 0, "id": "e", "t": "C2C_MESSAGE_CREATE", "d": data}).encode()


async def test_a_message_is_stored_then_acknowledged_and_answered() -> None:
    async with hooked() as (sim, run, _):
        sim.say("hello")
        await sim.until(lambda: sim.count("callback") == 1)
        assert [r.detail["status"] for r in sim.log if r.what == "callback"] == [200]
        (message,) = run.messages
        assert message.text == "hello"
        await run.adapter.send(
            Outbound(key="k", chat=message.chat, text="hi", context=message.context)
        )
        assert sim.heard[0].reply_to == message.id


async def test_a_callback_is_proof_of_life() -> None:
    async with hooked() as (sim, run, _):
        await asyncio.sleep(30)
        sim.say("hello")
        await sim.until(lambda: sim.count("callback") == 1)
        assert run.account.view().last_proof == sim.now()


async def test_a_message_called_twice_is_one_message() -> None:
    async with hooked() as (sim, run, _):
        sim.faults.arm("dup_event")
        sim.say("once")
        await sim.until(lambda: sim.count("callback") == 2)
        assert [message.text for message in run.messages] == ["once"]


async def test_the_official_validation_value_is_answered() -> None:
    async with hooked() as (_, _run, url):
        question = {"plain_token": "Arq0D5A61EgUu4OxUvOp", "event_ts": "1725442341"}
        status, reply = await post(url, json.dumps({"op": 13, "d": question}).encode())
        assert status == 200
        assert reply is not None
        assert reply["plain_token"] == question["plain_token"]
        assert reply["signature"].startswith("87befc99c42c651b")


async def test_the_validation_signs_nothing_that_could_be_an_event() -> None:
    async with hooked() as (_, run, url):
        for plain, moment in (('{"op":0}', "1725442341"), ("abc", '1{"op":0')):
            question = {"plain_token": plain, "event_ts": moment}
            status, reply = await post(url, json.dumps({"op": 13, "d": question}).encode())
            assert (status, reply) == (400, None)
        assert run.account.skipped_frames == 2


async def test_a_forged_callback_is_refused_and_counted() -> None:
    async with hooked() as (sim, run, _):
        sim.faults.arm("webhook_forged")
        sim.say("real")
        await sim.until(lambda: sim.count("callback") == 1)
        assert [r.detail["accepted"] for r in sim.log if r.what == "forged"] == [False]
        assert run.account.skipped_frames == 1
        assert [message.text for message in run.messages] == ["real"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Signature-Timestamp": "1"},
        {"X-Signature-Ed25519": "zz", "X-Signature-Timestamp": "1"},
        {"X-Signature-Ed25519": "签"},
    ],
)
async def test_a_callback_without_a_signature_is_refused(headers: dict[str, str]) -> None:
    async with hooked() as (_, run, url):
        assert (await post(url, event("fake"), headers))[0] == 401
        assert run.messages == []
        assert run.account.view().published is Published.CONNECTED


@pytest.mark.parametrize("given", ["", "签", "\udcff\udcfe"])
def test_a_signature_of_any_bytes_is_merely_false(given: str) -> None:
    assert not signed(signing_key("secret"), given, b"1700000000{}")


async def test_a_timestamp_that_is_no_moment_is_refused() -> None:
    async with hooked() as (sim, run, url):
        for moment in ("9" * 5000, "9" * 13, "-1", ""):
            headers = callback_headers(sim.app_id, sim.secret, moment, event("fake"))
            assert (await post(url, event("fake"), headers))[0] == 401
        assert run.messages == []
        assert run.account.unknown_errors == 0


@pytest.mark.parametrize("shift", [-301, 301])
async def test_a_replayed_callback_is_refused(shift: int) -> None:
    async with hooked() as (sim, run, url):
        moment, body = str(int(time.time()) + shift), event("old news")
        headers = callback_headers(sim.app_id, sim.secret, moment, body)
        assert (await post(url, body, headers))[0] == 401
        assert run.messages == []
        moment = str(int(time.time()))
        headers = callback_headers(sim.app_id, sim.secret, moment, body)
        assert await post(url, body, headers) == (200, {"op": 12})
        assert [message.text for message in run.messages] == ["old news"]


async def test_signed_junk_is_acknowledged_and_skipped_so_that_it_does_not_come_again() -> None:
    async with hooked() as (sim, run, url):
        body = b'{"op": 0, "t": "C2C_MESSAGE_CREATE", "d": {"id": 7}}'
        headers = callback_headers(sim.app_id, sim.secret, str(int(time.time())), body)
        assert await post(url, body, headers) == (200, {"op": 12})
        assert run.account.skipped_frames == 1


async def test_what_is_no_frame_is_refused() -> None:
    async with hooked() as (_, run, url):
        assert (await post(url, b"<html>"))[0] == 400
        assert run.account.skipped_frames == 1


async def test_what_can_not_be_stored_is_not_acknowledged_and_comes_again() -> None:
    store = MemoryStore()
    async with hooked(store=store) as (sim, run, _):
        store.fail = StoreError("disk_full", "the disk is full")
        sim.say("precious")
        await run.published(Published.RETRYING)
        cause = run.account.view().cause
        assert cause is not None
        assert cause.kind is Kind.LOCAL
        assert run.messages == []
        store.fail = None
        await sim.until(lambda: bool(run.messages), timeout=120)
        assert [message.text for message in run.messages] == ["precious"]


async def test_the_api_is_probed_and_a_revoked_secret_is_found() -> None:
    async with hooked() as (sim, run, _):
        await asyncio.sleep(190)
        assert run.account.view().beats == 7
        sim.revoke()
        await run.published(Published.FATAL)
        cause = run.account.view().cause
        assert cause is not None
        assert cause.code == "qq_bad_credentials"


async def test_an_api_that_is_gone_is_found() -> None:
    async with hooked() as (sim, run, _):
        await sim.stop()
        start = sim.now()
        await run.published(Published.RETRYING)
        assert sim.now() - start <= 190
        await sim.start()
        await run.connected()


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    async with QQBotSimulator() as sim:
        monkeypatch.setattr(builtins, "__import__", without)
        async with running(QQBot, sim.account() | {"mode": "webhook"}) as run:
            await run.published(Published.RETRYING)
            cause = run.account.view().cause
            assert cause is not None
            assert cause.code == "qq_no_cryptography"
            assert "pip install" in cause.advice
            monkeypatch.undo()
            await run.connected()


def test_a_short_secret_is_repeated_to_a_whole_seed() -> None:
    assert signing_key("ab").sign(b"x") == signing_key("ab" * 16).sign(b"x")
