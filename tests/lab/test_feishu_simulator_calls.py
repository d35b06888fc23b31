"""The Feishu simulator: calls, web hooks, and whether every fault it names is played."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from holdfast.lab.simulators import (
    feishu,
    feishu_delivery,
    feishu_gateway,
    feishu_hook,
    feishu_platform,
    feishu_rest,
)
from holdfast.lab.simulators.feishu import FeishuSimulator, WebhookRefused
from holdfast.lab.simulators.feishu_rules import ENDPOINT_CODES
from tests.lab.feishu_client import IM, TOKEN, facts, platform

# -- calls --------------------------------------------------------------------------------------


async def test_tokens_stay_the_same_until_half_an_hour_is_left() -> None:
    async with platform() as (sim, raw):
        first = await raw.login()
        assert (first["code"], first["expire"]) == (0, 7200)
        await asyncio.sleep(5399)
        assert (await raw.login())["tenant_access_token"] == first["tenant_access_token"]
        await asyncio.sleep(2)
        second = await raw.login()
        assert second["tenant_access_token"] != first["tenant_access_token"]
        raw.token = first["tenant_access_token"]
        assert (await raw.send())[0] == 200
        sim.expire_tokens()
        assert (await raw.send())[1]["code"] == 99991663
        raw.token = ""
        assert (await raw.send())[1]["code"] == 99991661


@pytest.mark.parametrize(
    ("fault", "params", "status", "code"),
    [
        ("token_error", {"code": 10015}, 200, 10015),
        ("token_429", {"reset": 3}, 429, 99991400),
        ("token_500", {}, 500, 10100),
    ],
)
async def test_token_faults(fault: str, params: Any, status: int, code: int) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault, **params)
        body = {"app_id": sim.app_id, "app_secret": sim.app_secret}
        got, answer = await raw.call(TOKEN, body)
        assert (got, answer["code"]) == (status, code)
        assert raw.headers.get("x-ogw-ratelimit-reset") == (str(params.get("reset", "")) or None)
        assert (await raw.login())["code"] == 0
        assert facts(sim, "refused", "code") == [code]


async def test_a_token_call_may_hang() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("token_hang")
        with pytest.raises(TimeoutError):
            await raw.call(TOKEN, {}, timeout=aiohttp.ClientTimeout(total=60))


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("api_token_invalid", 400, 99991663),
        ("api_scope", 400, 99991672),
        ("api_429", 429, 99991400),
        ("api_old_limit", 400, 99991400),
        ("api_500", 500, 2200),
        ("send_refused", 400, 230001),
        ("send_code_in_200", 200, 230001),
        ("send_frequency", 400, 230020),
    ],
)
async def test_refused_sends_are_delivered_to_nobody(fault: str, status: int, code: int) -> None:
    async with platform() as (sim, raw):
        await raw.login()
        sim.faults.arm(fault)
        got, answer = await raw.send()
        assert (got, answer["code"], sim.heard) == (status, code, [])
        assert (await raw.send())[1]["code"] == 0


async def test_sends_whose_answer_misleads() -> None:
    async with platform() as (sim, raw):
        await raw.login()
        sim.faults.arm("send_swallowed")
        assert ((await raw.send())[1]["code"], len(sim.heard)) == (0, 0)
        sim.faults.arm("send_pending")
        assert ((await raw.send())[1]["code"], len(sim.heard)) == (230049, 1)
        sim.faults.arm("send_slow_but_delivered", delay=30)
        began = sim.now()
        await raw.send()
        assert (sim.now() - began >= 30, len(sim.heard)) == (True, 2)
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientError):
            await raw.send(uuid="one")
        assert ((await raw.send(uuid="one"))[1]["code"], len(sim.heard)) == (0, 3)
        await asyncio.sleep(3601)
        assert ((await raw.send(uuid="one"))[1]["code"], len(sim.heard)) == (0, 4)
        sim.faults.arm("api_html")
        assert b"<html>" in (await raw.send())[1]


async def test_replies_edits_and_recalls() -> None:
    async with platform() as (sim, raw):
        await raw.login()
        key = sim.say("hello")
        _, answer = await raw.reply(key)
        own = answer["data"]["message_id"]
        assert (sim.heard[0].reply_to, answer["data"]["root_id"]) == (key, key)
        edit = {"msg_type": "text", "content": json.dumps({"text": "new"})}
        path = f"{IM}/messages/{own}"
        codes = [(await raw.call(path, edit, method="PUT"))[1]["code"] for _ in range(21)]
        assert codes == [0] * 20 + [230072]
        assert (sim.heard[-1].text, sim.heard[-1].edit_of) == ("new", own)
        assert (await raw.call(path, method="DELETE"))[1]["code"] == 0
        assert (await raw.call(path, edit, method="PUT"))[1]["code"] == 230011
        sim.recall(key)
        assert (await raw.reply(key))[1]["code"] == 230011
        assert (await raw.reply("om_none"))[1]["code"] == 231003
        for fault, code in (("reply_recalled", 230011), ("reply_missing", 231003)):
            sim.faults.arm(fault)
            assert (await raw.reply(sim.say("again")))[1]["code"] == code


async def test_wrong_sends() -> None:
    async with platform() as (sim, raw):
        await raw.login()
        assert (await raw.send(chat="oc_nobody"))[1]["code"] == 230034
        assert (await raw.send(kind="phone"))[1]["code"] == 230001
        assert (await raw.send(content="no json"))[1]["code"] == 230001
        assert (await raw.send("x" * 160_000))[1]["code"] == 230025
        assert (await raw.send(uuid="x" * 51))[1]["code"] == 230001
        assert sim.heard == []
        user = sim.person("bob").open_id
        assert (await raw.send(chat=user, kind="open_id"))[1]["code"] == 0
        assert sim.heard[0].chat == "bob"


async def test_files_of_users_are_bound_to_their_message() -> None:
    async with platform() as (sim, raw):
        await raw.login()
        link, key = await raw.live(), sim.say("", file=("a.pdf", b"%PDF"))
        content = json.loads((await link.event())["event"]["message"]["content"])
        path = f"{IM}/messages/{{}}/resources/{content['file_key']}?type="
        assert (await raw.call(path.format(key) + "file", method="GET"))[1] == b"%PDF"
        for wrong in (path.format(key) + "image", path.format("om_other") + "file"):
            assert (await raw.call(wrong, method="GET"))[1]["code"] == 234001
        sim.faults.arm("resource_refused", code=234003)
        assert (await raw.call(path.format(key) + "file", method="GET"))[1]["code"] == 234003
        sim.faults.arm("upload_refused", code=234007)
        assert (await raw.call(f"{IM}/images", data={"image_type": "message"}))[1]["code"] == 234007
        form = aiohttp.FormData({"image_type": "message"})
        form.add_field("image", b"", filename="empty.png")
        assert (await raw.call(f"{IM}/images", data=form))[1]["code"] == 234010


async def test_a_streamed_card_is_heard_as_edits() -> None:
    async with platform() as (sim, raw):
        await raw.login()
        element = {"tag": "markdown", "element_id": "md1", "content": ""}
        card = {"config": {"streaming_mode": True}, "body": {"elements": [element]}}
        made = {"type": "card_json", "data": json.dumps(card)}
        _, answer = await raw.call("/open-apis/cardkit/v1/cards", made)
        key = answer["data"]["card_id"]
        content = json.dumps({"type": "card", "data": {"card_id": key}})
        sim.faults.arm("card_refused")
        codes = [
            (await raw.send(msg_type="interactive", content=content))[1]["code"] for _ in range(3)
        ]
        assert codes == [230099, 0, 230099]
        one = f"/open-apis/cardkit/v1/cards/{key}"
        codes = []
        for sequence, text in ((1, "half"), (1, "again"), (2, "whole")):
            body = {"content": text, "sequence": sequence}
            _, answer = await raw.call(f"{one}/elements/md1/content", body, method="PUT")
            codes.append(answer["code"])
        assert codes == [0, 300317, 0]
        assert [h.text for h in sim.heard] == ["", "half", "whole"]
        done = {"settings": json.dumps({"config": {"streaming_mode": False}}), "sequence": 3}
        assert (await raw.call(f"{one}/settings", done, method="PATCH"))[1]["code"] == 0
        late = {"content": "late", "sequence": 4}
        _, answer = await raw.call(f"{one}/elements/md1/content", late, method="PUT")
        assert answer["code"] == 300309


# -- web hooks ----------------------------------------------------------------------------------


class Callback:
    """A bot behind an address, verifying as the documentation says."""

    def __init__(self, sim: FeishuSimulator) -> None:
        self.sim = sim
        self.key = sim.encrypt_key
        self.got: list[Any] = []
        self.rejected: list[str] = []
        self.fail = 0

    def decrypt(self, secret: str) -> Any:
        raw = base64.b64decode(secret)
        key = hashlib.sha256(self.key.encode()).digest()
        cipher = Cipher(algorithms.AES(key), modes.CBC(raw[:16])).decryptor()
        plain = cipher.update(raw[16:]) + cipher.finalize()
        return json.loads(plain[: -plain[-1]])

    def signed(self, request: web.Request, body: bytes) -> bool:
        names = ("X-Lark-Request-Timestamp", "X-Lark-Request-Nonce")
        head = "".join(request.headers.get(name, "") for name in names) + self.key
        expected = hashlib.sha256(head.encode() + body).hexdigest()
        return request.headers.get("X-Lark-Signature") == expected

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            payload = json.loads(body)
            payload = self.decrypt(payload["encrypt"]) if self.key else payload
            if self.key and not self.signed(request, body):
                raise ValueError("signature")
        except (ValueError, KeyError) as error:
            self.rejected.append(type(error).__name__)
            return web.Response(status=401)
        token = payload.get("token") or payload["header"]["token"]
        if token != self.sim.verification_token:
            self.rejected.append("token")
            return web.Response(status=401)
        if payload.get("type") == "url_verification":
            return web.json_response({"challenge": payload["challenge"]})
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        self.got.append((payload, request.headers.get("X-Lark-Request-Timestamp", "0")))
        return web.json_response({"toast": {"content": "ok"}})


@contextlib.asynccontextmanager
async def callback(sim: FeishuSimulator) -> AsyncIterator[tuple[Callback, str]]:
    bot, app = Callback(sim), web.Application()
    app.router.add_post("/feishu", bot.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield bot, f"http://127.0.0.1:{runner.addresses[0][1]}/feishu"
    finally:
        await runner.cleanup()


def test_encryption_matches_the_documented_example() -> None:
    secret = "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk="
    bot = Callback(FeishuSimulator())
    bot.key = "test key"
    raw = base64.b64decode(secret)
    cipher = Cipher(
        algorithms.AES(hashlib.sha256(b"test key").digest()), modes.CBC(raw[:16])
    ).decryptor()
    assert cipher.update(raw[16:]) + cipher.finalize() == b"hello world" + bytes([5]) * 5
    assert feishu_hook.encrypt("test key", b"hello world", raw[:16]) == secret


async def test_webhook_is_challenged_then_gets_events_with_redelivery() -> None:
    async with platform() as (sim, raw), callback(sim) as (bot, url):
        await sim.set_webhook(url)
        assert sim.listening()
        bot.fail = 2
        began, key = sim.now(), sim.say("hello")
        await sim.until(lambda: facts(sim, "ack") == [key], timeout=None)
        assert facts(sim, "hook", "status") == [500, 500, 200]
        assert sim.now() - began == pytest.approx(315, abs=1)
        [(payload, _)] = bot.got
        assert payload["event"]["message"]["message_id"] == key
        await raw.login()
        pressed = sim.press((await raw.send())[1]["data"]["message_id"], {})
        await sim.until(lambda: pressed in facts(sim, "ack"))
        assert facts(sim, "card-answer", "answer") == [{"toast": {"content": "ok"}}]
        await sim.set_webhook(None)
        assert not sim.listening()


async def test_strangers_before_an_event_and_a_replay_after_it() -> None:
    async with platform() as (sim, _), callback(sim) as (bot, url):
        await sim.set_webhook(url)
        strangers = [name for name in sim.FAULTS if name.startswith("hook_")]
        for name in strangers:
            sim.faults.arm(name)
        sim.say("hello")
        await sim.until(lambda: sim.count("intruded") == len(strangers))
        assert facts(sim, "intruded", "fault") == strangers
        assert facts(sim, "intruded", "accepted") == [False] * 6 + [True]
        assert len(bot.rejected) == 6
        (first, then), (again, replayed) = bot.got
        assert first == again
        assert int(then) - int(replayed) == pytest.approx(7200, abs=2)


async def test_webhooks_without_encryption_carry_the_token_only() -> None:
    async with platform() as (sim, _):
        sim.encrypt_key = ""
        async with callback(sim) as (bot, url):
            await sim.set_webhook(url)
            sim.faults.arm("hook_wrong_token")
            sim.say("hello")
            await sim.until(lambda: sim.count("ack") == 1)
            assert (bot.rejected, len(bot.got)) == (["token"], 1)


async def test_webhook_with_the_wrong_key_fails_the_challenge() -> None:
    async with platform() as (sim, _), callback(sim) as (bot, url):
        bot.key = "another key"
        with pytest.raises(WebhookRefused, match="answered the challenge with 401"):
            await sim.set_webhook(url)
        assert not sim.listening()


def test_accounts_are_described_for_both_modes() -> None:
    sim = FeishuSimulator()
    socket, hook = sim.account(), sim.account(webhook=True)
    assert set(socket) == {"platform", "app_id", "app_secret", "base_url"}
    assert hook.items() >= socket.items()
    assert set(hook) - set(socket) == {"mode", "verification_token", "encrypt_key"}


# -- the book of faults ---------------------------------------------------------------------------


def test_every_fault_is_asked_for_by_the_protocol_code() -> None:
    rooms = (
        feishu,
        feishu_delivery,
        feishu_gateway,
        feishu_hook,
        feishu_platform,
        feishu_rest,
    )
    source = "".join(map(inspect.getsource, rooms))
    unasked = [name for name in FeishuSimulator.FAULTS if f'"{name}"' not in source]
    assert set(unasked) <= set(ENDPOINT_CODES)
