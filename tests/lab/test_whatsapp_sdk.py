"""The unmodified client pywa on the simulator: proof that the simulator is honest.

pywa's server part is mounted on aiohttp by the three methods it documents for custom servers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from pywa import errors, utils
from pywa_async.client import WhatsApp
from pywa_async.handlers import MessageHandler, MessageStatusHandler

from holdfast.lab.simulators.whatsapp import WebhookRefused, WhatsAppSimulator

pytestmark = pytest.mark.sdk

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


class Bot:
    """Answers every message with its text, and keeps what it got.

    The annotations of the asynchronous pywa name its synchronous types: updates are Any here.
    """

    def __init__(self, sim: WhatsAppSimulator, session: httpx.AsyncClient) -> None:
        self.wa = WhatsApp(
            phone_id=sim.phone_number_id,
            token=sim.access_token,
            waba_id=sim.business_account_id,
            app_id=sim.app_id,
            app_secret=sim.app_secret,
            verify_token=sim.verify_token,
            session=session,
        )
        # The constructor sets the public address, so ours can only come after it.
        session.base_url = httpx.URL(sim.account()["api_url"])
        self.got: list[Any] = []
        self.statuses: list[str] = []
        self.url = ""
        self.wa.add_handlers(MessageHandler(self._answer), MessageStatusHandler(self._status))

    async def _answer(self, _: Any, message: Any) -> None:
        self.got.append(message)
        await message.reply(f"echo {message.text or message.caption}", quote=True)

    async def _status(self, _: Any, status: Any) -> None:
        self.statuses.append(str(status.status.value))

    async def challenge(self, request: web.Request) -> web.Response:
        query = request.query
        text, status = await self.wa.webhook_challenge_handler(
            query.get(utils.HUB_VT), query.get(utils.HUB_CH)
        )
        return web.Response(text=text, status=status)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        refusal = await self.wa.webhook_update_validator(body, request.headers.get(utils.HUB_SIG))
        text, status = refusal or await self.wa.webhook_update_handler(body)
        return web.Response(text=text, status=status)


@contextlib.asynccontextmanager
async def running(*, hook: bool = True) -> AsyncIterator[tuple[WhatsAppSimulator, Bot]]:
    async with WhatsAppSimulator() as sim, httpx.AsyncClient() as session:
        bot, app = Bot(sim, session), web.Application()
        app.router.add_get("/hook", bot.challenge)
        app.router.add_post("/hook", bot.receive)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        bot.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            if hook:
                await sim.set_webhook(bot.url)
            yield sim, bot
        finally:
            await sim.stop()
            await runner.cleanup()


async def test_sdk_answers_and_follows_the_statuses() -> None:
    async with running() as (sim, bot):
        key = sim.say("hello")
        await sim.until(lambda: sim.count("ack") == 4)
        [heard] = sim.heard
        assert (heard.chat, heard.text, heard.reply_to) == ("alice", "echo hello", key)
        assert bot.statuses == ["sent", "delivered", "read"]
        assert bot.got[0].from_user.name == "alice"


async def test_sdk_registers_its_callback_as_its_documentation_says() -> None:
    async with running(hook=False) as (sim, bot):
        api = bot.wa.api
        token = await api.get_app_access_token(
            client_id=int(sim.app_id), client_secret=sim.app_secret
        )
        done = await api.set_app_callback_url(
            app_id=int(sim.app_id),
            access_token=token["access_token"],
            callback_url=bot.url,
            verify_token=sim.verify_token,
            fields=("messages",),
        )
        assert (done, sim.listening()) == ({"success": True}, True)
        apps = await api.get_waba_subscribed_apps(sim.business_account_id)
        assert apps["data"][0]["whatsapp_business_api_data"]["id"] == sim.app_id


async def test_sdk_refuses_a_wrong_verify_token() -> None:
    async with running(hook=False) as (sim, bot):
        sim.verify_token = "another"
        with pytest.raises(WebhookRefused, match="verification with 403"):
            await sim.set_webhook(bot.url)


async def test_sdk_rejects_intruders_and_skips_doubles() -> None:
    async with running() as (sim, bot):
        for name in ("webhook_forged", "webhook_unsigned", "webhook_replayed", "dup_event"):
            sim.faults.arm(name)
        sim.say("real")
        await sim.until(lambda: sim.count("doubled") == 1)
        statuses = {r.what: r.detail["status"] for r in sim.log if "accepted" in r.detail}
        assert statuses == {"forged": 403, "unsigned": 401, "replayed": 403}
        assert [message.text for message in bot.got] == ["real"]


async def test_sdk_downloads_and_uploads_media() -> None:
    async with running() as (sim, bot):
        sim.say("look", image=PNG)
        await sim.until(lambda: len(sim.heard) == 1)
        image = bot.got[0].image
        assert image is not None
        found = await bot.wa.get_media_url(image.id)
        assert await bot.wa.get_media_bytes(found.url) == PNG
        user = bot.got[0].from_user.preferred_id
        await bot.wa.send_document(user, b"report", filename="r.txt", mime_type="text/plain")
        assert (sim.heard[1].media, sim.heard[1].data) == ("r.txt", b"report")


async def test_sdk_types_reads_reacts_and_probes() -> None:
    async with running() as (sim, bot):
        key = sim.say("hello")
        await sim.until(lambda: len(sim.heard) == 1)
        await bot.wa.indicate_typing(key)
        await bot.got[0].react("👍")
        assert (sim.count("typing"), sim.count("read"), sim.count("reaction")) == (1, 1, 1)
        number = await bot.wa.get_business_phone_number()
        assert number.verified_name == "Holdfast"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("pair_limit", errors.TooManyMessages),
        ("rate_limit", errors.RateLimitHit),
        ("waba_limit", errors.RateLimitIssues),
        ("window_closed", errors.ReEngagementMessage),
        ("unavailable", errors.ServiceUnavailable),
        ("token_expired", errors.ExpiredAccessToken),
    ],
)
async def test_sdk_knows_every_refusal(fault: str, kind: type[errors.WhatsAppError]) -> None:
    async with running() as (sim, bot):
        sim.say("hello")
        await sim.until(lambda: len(sim.heard) == 1)
        sim.faults.arm(fault)
        with pytest.raises(kind):
            await bot.wa.send_message(bot.got[0].from_user.preferred_id, "again")
        assert len(sim.heard) == 1


async def test_sdk_sees_only_the_first_message_of_a_batch() -> None:
    async with running() as (sim, bot):
        sim.faults.arm("batch")
        sim.say("one")
        sim.say("two")
        await sim.until(lambda: len(sim.heard) == 1)
        assert [message.text for message in bot.got] == ["one"]
