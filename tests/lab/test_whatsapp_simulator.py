"""The WhatsApp simulator as a plain HTTP client and a plain callback see it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import inspect
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from holdfast.lab.simulators import whatsapp_hook, whatsapp_platform, whatsapp_rest
from holdfast.lab.simulators import whatsapp_rules as rules
from holdfast.lab.simulators.whatsapp import WebhookRefused, WhatsAppSimulator

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
DAY = 86_400.0


class Bot:
    """A callback that verifies as the documentation says, and a client without manners."""

    def __init__(self, sim: WhatsAppSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http = sim, http
        self.got: list[dict[str, Any]] = []
        self.token, self.url = sim.access_token, ""
        self.rejected = self.fail = 0

    async def challenge(self, request: web.Request) -> web.Response:
        if request.query["hub.verify_token"] != self.sim.verify_token:
            return web.Response(status=403)
        return web.Response(text=request.query["hub.challenge"])

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        digest = hmac.new(self.sim.app_secret.encode(), body, hashlib.sha256).hexdigest()
        if request.headers.get("X-Hub-Signature-256") != f"sha256={digest}":
            self.rejected += 1
            return web.Response(status=401)
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        try:
            self.got.append(json.loads(body))
        except ValueError:
            return web.Response(status=400)
        return web.Response()

    def values(self, kind: str) -> list[dict[str, Any]]:
        """Every entry of ``messages``, ``statuses`` or ``errors`` received, in order."""
        changes = [c for post in self.got for e in post["entry"] for c in e["changes"]]
        return [entry for c in changes for entry in c["value"].get(kind, [])]

    def texts(self) -> list[str]:
        return [m["text"]["body"] for m in self.values("messages") if "text" in m]

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        url = self.sim.account()["api_url"] + path
        async with self.http.request(method, url, headers=headers, **options) as response:
            return response.status, await response.json()

    async def send(self, chat: str = "alice", **changed: Any) -> tuple[int, Any]:
        """HTTP status, and the wamid or the error code."""
        body = {"messaging_product": "whatsapp", "to": rules.Person(chat).wa_id, "type": "text"}
        body |= {"text": {"body": "hi"}} | changed
        path = f"/{self.sim.phone_number_id}/messages"
        status, reply = await self.call("POST", path, json=body)
        if "error" in reply:
            return status, reply["error"]["code"]
        return status, reply["messages"][0]["id"] if "messages" in reply else reply


@contextlib.asynccontextmanager
async def platform(*, hook: bool = True) -> AsyncIterator[tuple[WhatsAppSimulator, Bot]]:
    async with aiohttp.ClientSession() as http, WhatsAppSimulator() as sim:
        bot, app = Bot(sim, http), web.Application(client_max_size=2**23)
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


def facts(sim: WhatsAppSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]


# -- callbacks ----------------------------------------------------------------------------------


async def test_a_verified_callback_gets_signed_messages() -> None:
    async with platform(hook=False) as (sim, bot):
        lost = sim.say("too early")
        assert (facts(sim, "lost"), sim.listening()) == ([lost], False)
        await sim.set_webhook(bot.url)
        assert sim.listening()
        key = sim.say("grüß dich")
        await sim.until(lambda: facts(sim, "ack") == [key])
        [message] = bot.values("messages")
        assert (message["id"], message["from"]) == (key, rules.Person("alice").wa_id)
        assert (bot.texts(), bot.rejected) == (["grüß dich"], 0)
        await sim.set_webhook(None)
        assert (sim.listening(), sim.count("link-lost")) == (False, 1)


async def test_verification_with_a_wrong_token_is_refused_by_the_bot() -> None:
    async with platform(hook=False) as (sim, bot):
        assert (await sim.verify(bot.url, "guess"))[0] == 403
        sim.verify_token, path = "other", f"/{sim.app_id}/subscriptions"
        body = {"object": "whatsapp_business_account", "callback_url": bot.url, "verify_token": "x"}
        headers = {"Authorization": f"Bearer {sim.app_token}"}
        status, answer = await bot.call("POST", path, json=body, headers=headers)
        assert (status, answer["error"]["code"], sim.listening()) == (400, 2200, False)
        with pytest.raises(WebhookRefused, match="verification with 404"):
            await sim.set_webhook(bot.url + "/nowhere")


async def test_redelivery_grows_and_ends_after_seven_days() -> None:
    async with platform() as (sim, bot):
        bot.fail = 3
        sim.say("in the end")
        await sim.until(lambda: sim.count("ack") == 1)
        times = [record.at for record in sim.log if record.what == "callback"]
        gaps = [round(b - a) for a, b in itertools.pairwise(times)]
        assert (facts(sim, "callback", "status"), gaps) == ([500, 500, 500, 200], [2, 4, 8])
        bot.fail, began = 10_000, sim.now()
        lost = sim.say("never")
        await sim.until(lambda: facts(sim, "lost") == [lost], timeout=8 * DAY)
        assert 6.7 * DAY < sim.now() - began <= 7 * DAY
        assert sim.listening()


async def test_a_stop_of_the_platform_does_not_lose_what_was_not_taken() -> None:
    async with platform() as (sim, bot):
        bot.fail = 1
        sim.say("kept")
        await sim.until(lambda: sim.count("callback") == 1)
        await sim.stop()
        assert not sim.listening()
        await sim.start()
        await sim.until(lambda: bot.texts() == ["kept"])


async def test_intruders_are_posted_before_the_event() -> None:
    async with platform() as (sim, bot):
        sim.say("first")
        await sim.until(lambda: sim.count("ack") == 1)
        for name in ("webhook_forged", "webhook_unsigned", "webhook_replayed"):
            sim.faults.arm(name)
        sim.say("real")
        await sim.until(lambda: sim.count("ack") == 2)
        assert (bot.texts(), bot.rejected) == (["first", "real"], 3)
        for what in ("forged", "unsigned", "replayed"):
            assert facts(sim, what, "accepted") == [False]


async def test_odd_bodies_are_signed_and_precede_the_event() -> None:
    async with platform() as (sim, bot):
        for name in ("webhook_foreign", "unknown_field", "value_errors", "bad_body"):
            sim.faults.arm(name)
        sim.say("after all that")
        await sim.until(lambda: sim.count("ack") == 1)
        changes = [post["entry"][0]["changes"][0] for post in bot.got]
        assert changes[0]["value"]["metadata"]["phone_number_id"] != sim.phone_number_id
        assert changes[1]["field"] == "weather"
        assert bot.values("errors")[0]["code"] == 131000
        assert (facts(sim, "bad-body", "status"), bot.rejected) == ([400], 0)


async def test_doubles_lost_answers_and_overtaking() -> None:
    async with platform() as (sim, bot):
        sim.faults.arm("ack_lost")
        sim.faults.arm("dup_event", delay=3600)
        sim.say("thrice")
        await sim.until(lambda: sim.count("doubled") == 1, timeout=2 * 3600)
        assert bot.texts() == ["thrice"] * 3
        sim.faults.arm("out_of_order")
        sim.say("slow")
        sim.say("fast")
        await sim.until(lambda: sim.count("ack") == 3)
        assert bot.texts()[3:] == ["fast", "slow"]


async def test_a_batch_puts_several_messages_into_one_body() -> None:
    async with platform() as (sim, bot):
        sim.faults.arm("batch", size=3)
        sim.say("one")
        sim.say("two")
        sim.say("three", chat="bob")
        await sim.until(lambda: sim.count("ack") == 3)
        [post] = bot.got
        sizes = [len(c["value"]["messages"]) for c in post["entry"][0]["changes"]]
        assert (sizes, bot.texts()) == ([2, 1], ["one", "two", "three"])
        sim.faults.arm("batch")
        sim.say("alone")
        await sim.until(lambda: sim.count("ack") == 4)
        assert bot.texts()[-1] == "alone"


async def test_a_mute_platform_takes_calls_and_pushes_nothing() -> None:
    async with platform() as (sim, bot):
        sim.faults.arm("mute", times=None)
        key = sim.say("anyone?")
        assert (sim.listening(), facts(sim, "lost")) == (False, [key])
        assert (await bot.send())[0] == 200
        sim.faults.clear("mute")
        assert (sim.listening(), bot.got) == (True, [])


async def test_an_unreachable_callback_is_tried_again() -> None:
    async with platform() as (sim, bot):
        sim.faults.arm("callback_unreachable", times=2)
        sim.say("tunnel")
        assert not sim.listening()
        await sim.until(lambda: sim.count("ack") == 1)
        assert (facts(sim, "callback", "status"), bot.texts()) == ([0, 0, 200], ["tunnel"])


async def test_subscription_and_callback_can_be_seen_and_taken_away() -> None:
    async with platform() as (sim, bot):
        apps, hooks = f"/{sim.business_account_id}/subscribed_apps", f"/{sim.app_id}/subscriptions"
        app = {"Authorization": f"Bearer {sim.app_token}"}
        _, answer = await bot.call("GET", hooks, headers=app)
        assert answer["data"][0]["callback_url"] == bot.url
        sim.unsubscribe()
        assert (await bot.call("GET", apps))[1] == {"data": []}
        assert not sim.listening()
        assert await bot.call("POST", apps) == (200, {"success": True})
        assert sim.listening()
        sim.steal_callback()
        _, answer = await bot.call("GET", hooks, headers=app)
        assert answer["data"][0]["callback_url"] == "https://elsewhere.example/hook"
        sim.say("gone")
        await sim.until(lambda: sim.count("elsewhere") == 1)
        assert (sim.listening(), bot.got) == (False, [])
        override = {"override_callback_uri": bot.url, "verify_token": sim.verify_token}
        assert (await bot.call("POST", apps, json=override))[0] == 200
        assert sim.listening()
        assert (await bot.call("DELETE", apps))[0] == 200
        assert not sim.listening()


# -- the Graph API --------------------------------------------------------------------------------


async def test_a_send_is_heard_and_followed_by_statuses() -> None:
    async with platform() as (sim, bot):
        key = sim.say("hello")
        marks: dict[str, Any] = {
            "context": {"message_id": key},
            "biz_opaque_callback_data": "outbox-1",
        }
        status, wamid = await bot.send(text={"body": "echo"}, **marks)
        await sim.until(lambda: sim.count("ack") == 4)
        [heard] = sim.heard
        assert (status, heard.id, heard.text, heard.reply_to) == (200, wamid, "echo", key)
        got = bot.values("statuses")
        assert [s["status"] for s in got] == ["sent", "delivered", "read"]
        assert {(s["id"], s["biz_opaque_callback_data"]) for s in got} == {(wamid, "outbox-1")}


async def test_failed_reversed_and_swallowed_sends_show_in_their_statuses() -> None:
    async with platform() as (sim, bot):
        sim.say("hello")
        sim.faults.arm("send_failed_later")
        _, first = await bot.send()
        await sim.until(lambda: sim.count("ack") == 2)
        [failed] = bot.values("statuses")
        assert (failed["id"], failed["errors"][0]["code"]) == (first, 131026)
        sim.faults.arm("status_reversed")
        await bot.send()
        await sim.until(lambda: sim.count("ack") == 5)
        assert [s["status"] for s in bot.values("statuses")[1:]] == ["read", "delivered", "sent"]
        sim.faults.arm("send_swallowed")
        assert (await bot.send())[0] == 200
        assert len(sim.heard) == 1


@pytest.mark.parametrize(("name", "refusal"), rules.SEND_REFUSALS.items())
async def test_every_refusal_of_a_send(name: str, refusal: rules.GraphError) -> None:
    async with platform() as (sim, bot):
        sim.say("hello")
        sim.faults.arm(name)
        assert await bot.send() == (refusal.status, refusal.code)
        assert (await bot.send())[0] == 200
        assert len(sim.heard) == 1


async def test_window_pair_limit_and_throughput_are_kept() -> None:
    async with platform() as (sim, bot):
        sim.statuses = ()
        sim.say("hello")
        codes = [(await bot.send())[1] for _ in range(46)]
        assert codes[-1] == 131056
        assert 131056 not in codes[:-1]
        sim.throughput = rules.Bucket(1, 0.001)
        sim.pair_limit = None
        assert [(await bot.send())[0] for _ in range(2)] == [200, 400]
        sim.throughput = rules.Bucket(80, 80)
        sim.window = -1.0
        assert await bot.send() == (400, 131047)
        assert (await bot.send(type="template", template={"name": "hello"}))[0] == 200


async def test_wrong_sends_are_refused_for_good() -> None:
    async with platform() as (sim, bot):
        sim.say("hello")
        assert await bot.send(text={"body": "x" * 4097}) == (400, 100)
        assert await bot.send(text={}) == (400, 131008)
        assert await bot.send(messaging_product="icq") == (400, 100)
        assert await bot.send(status="read", message_id="wamid.unknown") == (400, 131009)
        status, answer = await bot.call("POST", "/42/messages", json={})
        assert (status, answer["error"]["error_subcode"]) == (400, 33)
        assert sim.heard == []


async def test_reading_typing_reacting_and_groups() -> None:
    async with platform() as (sim, bot):
        key = sim.say("hello")
        typing = {"type": "text"}
        mark: dict[str, Any] = {"status": "read", "message_id": key, "typing_indicator": typing}
        assert await bot.send(**mark) == (200, {"success": True})
        assert (facts(sim, "read"), facts(sim, "typing", "chat")) == ([key], ["alice"])
        await bot.send(type="reaction", reaction={"message_id": key, "emoji": "👍"})
        assert facts(sim, "reaction", "emoji") == ["👍"]
        sim.say("all", chat="team", sender="bob", group=True)
        await sim.until(lambda: sim.count("ack") == 2)
        group = bot.values("messages")[1]["group_id"]
        await bot.send(to=group, recipient_type="group")
        assert sim.heard[-1].chat == "team"


async def test_users_reply_edit_revoke_react_press_and_hide_numbers() -> None:
    async with platform() as (sim, bot):
        sim.usernames = True
        key = sim.say("yes", reply_to="wamid.OUT")
        sim.say("yes!", edit_of=key)
        sim.revoke(key)
        sim.react("wamid.OUT", "🎉")
        sim.press("approve", reply_to="wamid.OUT")
        await sim.until(lambda: sim.count("ack") == 5)
        got = {m["type"]: m for m in bot.values("messages")}
        assert got["text"]["context"]["id"] == "wamid.OUT"
        assert got["edit"]["edit"]["message"]["text"]["body"] == "yes!"
        assert got["revoke"]["revoke"]["original_message_id"] == key
        assert got["reaction"]["reaction"]["emoji"] == "🎉"
        assert got["interactive"]["interactive"]["button_reply"]["id"] == "approve"
        assert "from" not in got["text"]
        assert (await bot.send(to=None, recipient=got["text"]["from_user_id"]))[0] == 200


async def test_media_go_both_ways_and_addresses_expire() -> None:
    async with platform() as (sim, bot):
        sim.say("look", image=PNG)
        sim.say("", file=("log.txt", b"lines"))
        await sim.until(lambda: sim.count("ack") == 2)
        image = bot.values("messages")[0]["image"]
        _, found = await bot.call("GET", f"/{image['id']}", headers={"Host": "relay.test:1"})
        assert found["url"].startswith("http://relay.test:1/")
        url = sim.url + found["url"].removeprefix("http://relay.test:1")
        token = {"Authorization": f"Bearer {sim.access_token}"}
        async with bot.http.get(url, headers=token) as response:
            assert await response.read() == PNG
        async with bot.http.get(url) as response:
            assert response.status == 401
        sim.faults.arm("media_expired")
        async with bot.http.get(url, headers=token) as response:
            assert response.status == 404
        sim.faults.arm("media_gone")
        assert (await bot.call("GET", f"/{image['id']}"))[0] == 400
        form = aiohttp.FormData({"messaging_product": "whatsapp", "type": "text/plain"})
        form.add_field("file", b"report", filename="r.txt", content_type="text/plain")
        path = f"/{sim.phone_number_id}/media"
        _, uploaded = await bot.call("POST", path, data=form)
        await bot.send(type="document", document={"id": uploaded["id"], "filename": "x.txt"})
        assert (sim.heard[0].media, sim.heard[0].data) == ("x.txt", b"report")
        sim.faults.arm("upload_failed")
        assert (await bot.call("POST", path))[1]["error"]["code"] == 131053


async def test_tokens_are_probed_and_expire_while_posts_go_on() -> None:
    async with platform() as (sim, bot):
        number, debug = f"/{sim.phone_number_id}", "/debug_token"
        _, facts_ = await bot.call("GET", number, params={"fields": "status"})
        assert facts_ == {"status": "CONNECTED", "id": sim.phone_number_id}
        sim.expire_token()
        status, answer = await bot.call("GET", number)
        assert (status, answer["error"]["code"]) == (401, 190)
        assert answer["error"]["error_subcode"] == 463
        app = {"Authorization": f"Bearer {sim.app_token}"}
        query = {"input_token": sim.access_token}
        _, answer = await bot.call("GET", debug, params=query, headers=app)
        assert (answer["data"]["is_valid"], answer["data"]["error"]["subcode"]) == (False, 463)
        sim.say("still here")
        await sim.until(lambda: sim.count("ack") == 1)
        sim.set_token("fresh")
        assert (await bot.call("GET", number))[0] == 401
        bot.token = "fresh"
        assert (await bot.call("GET", number))[0] == 200
        _, health = await bot.call("GET", f"/{sim.business_account_id}?fields=health_status")
        assert health["health_status"]["can_send_message"] == "AVAILABLE"


async def test_faults_of_any_call() -> None:
    async with platform() as (sim, bot):
        number = f"/{sim.phone_number_id}"
        for name, expected in (("api_500", (500, 2)), ("token_expired", (401, 190))):
            sim.faults.arm(name)
            status, answer = await bot.call("GET", number)
            assert (status, answer["error"]["code"]) == expected
        sim.faults.arm("error_in_200", code=4)
        status, answer = await bot.call("GET", number)
        assert (status, answer["error"]["code"]) == (200, 4)
        sim.faults.arm("api_html")
        sim.faults.arm("api_429", retry_after=7)
        url = sim.account()["api_url"] + number
        async with bot.http.get(url) as response:
            assert (response.status, response.content_type) == (502, "text/html")
        async with bot.http.get(url) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        sim.faults.arm("api_hang")
        with pytest.raises(TimeoutError):
            await bot.call("GET", number, timeout=aiohttp.ClientTimeout(total=5))


async def test_lost_and_slow_answers_come_after_the_delivery() -> None:
    async with platform() as (sim, bot):
        sim.say("hello")
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientError):
            await bot.send()
        sim.faults.arm("send_slow_but_delivered", delay=8)
        began = sim.now()
        assert (await bot.send())[0] == 200
        assert sim.now() - began >= 8
        assert len(sim.heard) == 2


def test_every_fault_is_asked_for_by_the_protocol_code() -> None:
    rooms = (whatsapp_platform, whatsapp_rest, whatsapp_hook)
    source = "".join(map(inspect.getsource, rooms))
    known = set(WhatsAppSimulator.FAULTS) - set(rules.SEND_REFUSALS)
    assert [name for name in known if f'"{name}"' not in source] == []
