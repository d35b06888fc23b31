"""The Feishu adapter behind a web hook address."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from holdfast.adapter import BadFrame
from holdfast.adapters.feishu import Feishu
from holdfast.adapters.feishu_hook import MAX_AGE, SEEN, Hook
from holdfast.adapters.feishu_intake import MARK, REPEATED_FOR
from holdfast.errors import StoreError
from holdfast.gateway.hooks import Request
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.feishu_hook import encrypt
from holdfast.messages import Outbound
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.adapters.test_feishu import codes, details, until
from tests.harness import Running, running

KEY = "3ncrypt-Holdfast"
"""The simulator's Encrypt Key."""


@asynccontextmanager
async def hooked(
    *, settings: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[FeishuSimulator, Running, str]]:
    """A bot that is called at an address, which the simulator has validated."""
    async with FeishuSimulator() as sim:
        account = sim.account(webhook=True) | (settings or {})
        async with running(Feishu, account, **options) as run:
            await run.connected()
            path = account.get("hook_path") or f"/feishu/{sim.app_id}"
            url = f"http://127.0.0.1:{run.hooks.port}{path}"
            await sim.set_webhook(url)
            yield sim, run, url


async def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Call the bot; status and answer."""
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=body, headers=headers) as response:
            return response.status, await response.read()


def sealed(key: str, payload: object) -> bytes:
    """A request's body as Feishu encrypts it."""
    return json.dumps({"encrypt": encrypt(key, json.dumps(payload).encode())}).encode()


def signed(key: str, body: bytes, moment: str | None = None, nonce: str = "n") -> dict[str, str]:
    """The headers by which Feishu signs a body."""
    moment = str(int(time.time())) if moment is None else moment
    right = hashlib.sha256(f"{moment}{nonce}{key}".encode() + body).hexdigest()
    return {
        "x-lark-request-timestamp": moment,
        "x-lark-request-nonce": nonce,
        "x-lark-signature": right,
    }


def request(body: bytes, headers: dict[str, str]) -> Request:
    return Request("POST", headers, {}, body, asyncio.get_running_loop().create_future())


# -- events -----------------------------------------------------------------------------------


async def test_a_message_is_stored_then_acknowledged_and_answered() -> None:
    async with hooked() as (sim, run, _):
        said = sim.say("hello")
        await until(lambda: sim.count("ack") == 1)
        assert details(sim, "hook", "status") == [200]
        (message,) = run.messages
        assert (message.id, message.text) == (said, "hello")
        await run.adapter.send(Outbound(key="k", chat=message.chat, text="hi"))
        assert [heard.text for heard in sim.heard] == ["hi"]
        assert sim.count("endpoint") == 0


async def test_the_address_has_a_path_of_ones_own_choice() -> None:
    async with hooked(settings={"hook_path": "/bots/lark"}) as (sim, run, url):
        assert url.endswith("/bots/lark")
        sim.say("hello")
        await until(lambda: len(run.messages) == 1)


async def test_an_event_is_proof_of_life() -> None:
    async with hooked() as (sim, run, _):
        await asyncio.sleep(30)
        sim.say("hello")
        await until(lambda: sim.count("ack") == 1)
        assert (run.account.view().last_proof or 0.0) >= sim.now() - 1


@pytest.mark.parametrize("fault", ["dup_event", "dup_after_ack", "dup_message"])
async def test_a_message_called_twice_is_one_message(fault: str) -> None:
    async with hooked() as (sim, run, _):
        sim.faults.arm(fault)
        sim.say("once")
        await until(lambda: sim.count("hook") == 2)
        assert [message.text for message in run.messages] == ["once"]
        assert run.account.skipped_frames == 0


async def test_other_events_are_acknowledged_and_dropped() -> None:
    async with hooked() as (sim, run, _):
        sim.press(sim.say("one"), {"a": 1})
        sim.happen("im.chat.member.bot.added_v1", {})
        sim.happen("im.message.receive_v1", {"sender": 1})
        await until(lambda: sim.count("ack") == 4)
        assert [message.text for message in run.messages] == ["one"]
        assert run.account.skipped_frames == 1


# -- strangers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "hook_forged",
        "hook_unsigned",
        "hook_tampered",
        "hook_plain",
        "hook_wrong_token",
        "hook_garbage",
        "hook_replayed",
    ],
)
async def test_a_strangers_request_is_refused_and_counted(fault: str) -> None:
    async with hooked() as (sim, run, _):
        sim.faults.arm(fault)
        sim.say("real")
        await until(lambda: sim.count("intruded") == 1)
        assert details(sim, "intruded", "accepted") == [False]
        assert run.account.skipped_frames == 1
        await until(lambda: sim.count("ack") == 1)
        assert [message.text for message in run.messages] == ["real"]


async def test_the_very_same_request_is_taken_once() -> None:
    async with hooked() as (sim, run, url):
        body = sealed(sim.encrypt_key, {"header": {"token": sim.verification_token}})
        headers = signed(sim.encrypt_key, body)
        assert await post(url, body, headers) == (200, b"{}")
        assert await post(url, body, headers) == (401, b"")
        assert run.account.skipped_frames == 1


@pytest.mark.parametrize("away", [-MAX_AGE - 5, MAX_AGE + 5])
async def test_a_clock_too_far_off_is_named(away: float) -> None:
    hook, body = Hook("key", ""), b"{}"
    headers = signed("key", body, str(int(time.time() + away)))
    with pytest.raises(BadFrame, match="a clock is wrong"):
        hook.check_signature(request(body, headers), time.time())


@pytest.mark.parametrize("moment", ["", "-1", "²", "1e9", "9" * 5000])
async def test_a_time_that_is_none_is_refused(moment: str) -> None:
    hook, body = Hook("key", ""), b"{}"
    with pytest.raises(BadFrame):
        hook.check_signature(request(body, signed("key", body, moment)), time.time())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"encrypt": "?"}',
        b'{"encrypt": ""}',
        b'{"encrypt": "AAAA"}',
        sealed("another key", {"header": {}}),
        sealed(KEY, "not an event"),
    ],
    ids=["none", "object", "list", "no base64", "empty", "too short", "another key", "no event"],
)
async def test_what_is_not_encrypted_with_our_key_is_refused(body: bytes) -> None:
    async with hooked() as (sim, run, url):
        assert sim.encrypt_key == KEY
        assert (await post(url, body, signed(KEY, body)))[0] == 401
        assert run.account.skipped_frames == 1
        assert codes(run) == []


@pytest.mark.parametrize("name", ["signature", "request-nonce", "request-timestamp"])
async def test_a_header_of_any_bytes_is_merely_a_false_proof(name: str) -> None:
    body = sealed(KEY, {})
    headers = signed(KEY, body) | {f"x-lark-{name}": "\udcff\udcfe"}
    with pytest.raises(BadFrame, match="without a true signature"):
        Hook(KEY, "").check_signature(request(body, headers), time.time())


async def test_memory_for_signatures_is_bounded() -> None:
    hook = Hook("key", "")
    hook._seen.update((str(number), None) for number in range(SEEN))
    body = sealed("key", {"header": {"event_type": "other"}})
    asked = request(body, signed("key", body))
    async with hooked() as (_, run, _url):
        await hook.serve(_LinkOf(run), asked, "ou_1")  # type: ignore[arg-type]
    assert (await asked.answer).status == 200  # type: ignore[union-attr]
    assert len(hook._seen) == SEEN
    assert "0" not in hook._seen


class _LinkOf:
    """The part of a link that an event without a message needs."""

    def __init__(self, run: Running) -> None:
        self.run, self.clock = run, time.time

    def alive(self) -> None:
        """A completed inbound signal."""


# -- the challenge ----------------------------------------------------------------------------


async def test_the_challenge_is_answered_even_unsigned() -> None:
    async with hooked() as (sim, _run, url):
        question = {
            "challenge": "abc",
            "token": sim.verification_token,
            "type": "url_verification",
        }
        status, answer = await post(url, sealed(sim.encrypt_key, question), {})
        assert (status, json.loads(answer)) == (200, {"challenge": "abc"})


async def test_a_challenge_with_a_false_token_is_refused() -> None:
    async with hooked() as (sim, run, url):
        question = {"challenge": "abc", "token": "no", "type": "url_verification"}
        assert await post(url, sealed(sim.encrypt_key, question), {}) == (401, b"")
        assert run.account.skipped_frames == 1


# -- life -------------------------------------------------------------------------------------


async def test_the_api_is_probed_while_nobody_calls() -> None:
    async with hooked() as (sim, run, _):
        await asyncio.sleep(400)
        sim.revoke()
        await run.published(Published.FATAL)
        assert codes(run)[-1] == "feishu_bad_credentials"


async def test_what_the_journal_does_not_take_comes_again() -> None:
    store = MemoryStore()
    async with hooked(store=store) as (sim, run, _):
        store.fail = StoreError("store_full", "the disk is full")
        sim.say("kept")
        await run.published(Published.RETRYING)
        cause = run.reports[-1].view.cause
        assert cause is not None
        assert cause.kind is Kind.LOCAL
        assert sim.count("ack") == 0
        store.fail = None
        await until(lambda: sim.count("ack") == 1)
        assert [message.text for message in run.messages] == ["kept"]


async def test_a_restart_loses_nothing_and_a_long_one_is_a_gap() -> None:
    store = MemoryStore()
    async with hooked(store=store) as (_sim, run, _):
        await asyncio.sleep(61)
        mark = (await store.cursor("bot"))[MARK]
        assert time.time() - mark < 60
    async with hooked(store=store) as (_sim, run, _):
        assert run.account.last_gap is None
    await store.receive("bot", [], {MARK: mark - REPEATED_FOR - 60})
    async with hooked(store=store) as (_sim, run, _):
        assert run.account.last_gap is not None
        assert run.account.last_gap.since == mark - REPEATED_FOR - 60


# -- configuration ----------------------------------------------------------------------------


async def test_without_an_encrypt_key_nothing_is_accepted() -> None:
    async with FeishuSimulator() as sim:
        account = sim.account(webhook=True) | {"encrypt_key": ""}
        async with running(Feishu, account) as run:
            await run.published(Published.FATAL)
            assert codes(run) == ["feishu_no_encrypt_key"]


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    async with FeishuSimulator() as sim, running(Feishu, sim.account(webhook=True)) as run:
        await run.published(Published.RETRYING)
        assert codes(run) == ["feishu_no_cryptography"]


async def test_secrets_appear_in_no_report() -> None:
    async with hooked() as (sim, run, url):
        body = sealed(sim.encrypt_key, {"header": {"token": "false"}})
        await post(url, body, signed(sim.encrypt_key, body))
        told = repr(run.reports) + repr(run.adapter._settings)  # type: ignore[attr-defined]
        assert sim.encrypt_key not in told
        assert sim.verification_token not in told
        assert sim.app_secret not in told
