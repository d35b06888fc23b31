"""The QQ bot simulator: callbacks, and whether every fault it names is played."""

from __future__ import annotations

import contextlib
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from holdfast.lab.simulators import qqbot_gateway, qqbot_hook, qqbot_platform, qqbot_rest
from holdfast.lab.simulators import qqbot_rules as rules
from holdfast.lab.simulators.qqbot import QQBotSimulator, WebhookRefused
from tests.lab.qqbot_client import facts, platform

# -- callbacks ----------------------------------------------------------------------------------


class Callback:
    """A bot behind a callback address, verifying as the documentation says."""

    def __init__(self, secret: str) -> None:
        self.key = rules.signing_key(secret)
        self.got: list[dict[str, Any]] = []
        self.rejected = 0
        self.fail = 0

    async def handle(self, request: web.Request) -> web.Response:
        body, moment = await request.read(), request.headers["X-Signature-Timestamp"]
        expected = self.key.sign(moment.encode() + body).hex()
        if request.headers["X-Signature-Ed25519"] != expected:
            self.rejected += 1
            return web.Response(status=401)
        payload = json.loads(body)
        if payload["op"] == 13:
            plain, at = payload["d"]["plain_token"], payload["d"]["event_ts"]
            signed = self.key.sign((at + plain).encode()).hex()
            return web.json_response({"plain_token": plain, "signature": signed})
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        self.got.append(payload)
        return web.json_response({"op": 12})


@contextlib.asynccontextmanager
async def callback(secret: str) -> AsyncIterator[tuple[Callback, str]]:
    bot, app = Callback(secret), web.Application()
    app.router.add_post("/qq", bot.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield bot, f"http://127.0.0.1:{runner.addresses[0][1]}/qq"
    finally:
        await runner.cleanup()


def test_signature_matches_the_official_value() -> None:
    signed = rules.signature("DG5g3B4j9X2KOErG", "1725442341", b"Arq0D5A61EgUu4OxUvOp")
    assert signed.startswith("87befc99c42c651b")


async def test_webhook_is_validated_then_gets_events_with_redelivery() -> None:
    async with platform() as (sim, _), callback(sim.secret) as (bot, url):
        await sim.set_webhook(url)
        assert sim.listening()
        bot.fail = 2
        key = sim.say("hello")
        await sim.until(lambda: facts(sim, "callback", "status") == [500, 500, 200])
        [payload] = bot.got
        assert (payload["op"], payload["t"], payload["d"]["id"]) == (0, "C2C_MESSAGE_CREATE", key)
        sim.faults.arm("webhook_forged")
        sim.faults.arm("dup_event")
        sim.say("again")
        await sim.until(lambda: len(bot.got) == 3)
        assert (bot.rejected, facts(sim, "forged", "accepted")) == (1, [False])
        bot.fail = 99
        lost = sim.say("never")
        await sim.until(lambda: facts(sim, "lost") == [lost], timeout=120)
        await sim.set_webhook(None)
        assert not sim.listening()


async def test_webhook_with_the_wrong_secret_fails_validation() -> None:
    async with platform() as (sim, _), callback("another secret") as (_, url):
        with pytest.raises(WebhookRefused, match="answered the validation with 401"):
            await sim.set_webhook(url)
        assert not sim.listening()


async def test_attachments_of_callbacks_are_on_the_simulator_itself() -> None:
    async with platform() as (sim, raw), callback(sim.secret) as (bot, url):
        await sim.set_webhook(url)
        sim.say("paper", file=("a.pdf", b"%PDF"))
        await sim.until(lambda: sim.count("callback") == 1)
        [paper] = bot.got[0]["d"]["attachments"]
        async with raw.http.get(paper["url"]) as response:
            assert await response.read() == b"%PDF"


WITHOUT_CRYPTOGRAPHY = """
import asyncio, sys
sys.modules["cryptography"] = None
from holdfast.lab.simulators.qqbot import QQBotSimulator

async def main():
    async with QQBotSimulator() as sim:
        sim.say("hello")
        try:
            await sim.set_webhook(sim.url)
        except ImportError as error:
            print(error.name.partition(".")[0], sim.listening())

asyncio.run(main())
"""


@pytest.mark.slow
def test_cryptography_is_needed_for_a_web_hook_only() -> None:
    command = [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.split(), done.stderr) == (["cryptography", "False"], "")


# -- the book of faults ---------------------------------------------------------------------------


def test_every_fault_is_asked_for_by_the_protocol_code() -> None:
    rooms = (qqbot_platform, qqbot_gateway, qqbot_rest, qqbot_hook)
    source = "".join(map(inspect.getsource, rooms))
    assert [name for name in QQBotSimulator.FAULTS if f'"{name}"' not in source] == []
