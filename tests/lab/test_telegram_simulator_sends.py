"""The Telegram simulator: what a bot sends, its web hook, and the faults, over raw HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web

from holdfast.lab.simulator import UnknownFault
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.simulators.telegram_wire import TOKEN, BotApiError, utf16_length, visible_text
from tests.lab.telegram_client import Json, bot, clock, parked, texts

# -- what the bot says --------------------------------------------------------------------------


async def test_a_reply_is_heard_with_the_id_it_answers() -> None:
    async with bot() as (sim, client):
        said = sim.say("ping", chat="ops", sender="ann", group=True, thread=42)
        sent = await client.call(
            "sendMessage",
            chat_id=sim.chat_id("ops", group=True),
            text="pong",
            message_thread_id=42,
            reply_parameters={"message_id": int(said)},
        )
        assert sent["message_thread_id"] == 42
        assert sent["reply_to_message"]["message_id"] == int(said)
        [heard] = sim.heard
        assert (heard.chat, heard.text, heard.reply_to) == ("ops", "pong", said)
        assert heard.id == str(sent["message_id"])


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"text": "x", "chat_id": ""}, "400 Bad Request: chat_id is empty"),
        ({"text": "x", "chat_id": 77}, "400 Bad Request: chat not found"),
        ({"text": "x", "chat_id": "@nobody"}, "400 Bad Request: chat not found"),
        ({"text": " "}, "400 Bad Request: message text is empty"),
        ({"text": "x" * 4097}, "400 Bad Request: message is too long"),
        ({"text": "x", "message_thread_id": 9}, "400 Bad Request: message thread not found"),
        (
            {"text": "x", "reply_parameters": {"message_id": 1}},
            "400 Bad Request: message to be replied not found",
        ),
        ({"text": "x", "reply_to_message_id": 1}, "400 Bad Request: message to be replied"),
        ({"text": "<b>x", "parse_mode": "HTML"}, "400 Bad Request: can't parse entities"),
    ],
)
async def test_refused_messages_are_not_heard(params: Json, expected: str) -> None:
    async with bot() as (sim, client):
        params = {"chat_id": sim.chat_id("alice")} | params
        assert (await client.refused("sendMessage", **params)).startswith(expected)
        assert sim.heard == []


async def test_the_text_limit_counts_characters_not_utf16_units() -> None:
    async with bot() as (sim, client):
        await client.call("sendMessage", chat_id=sim.chat_id("alice"), text="😀" * 4096)
        assert len(sim.heard[0].text) == 4096


async def test_a_reply_to_a_lost_message_may_be_allowed() -> None:
    async with bot() as (sim, client):
        reply = {"message_id": 1, "allow_sending_without_reply": True}
        await client.call(
            "sendMessage",
            chat_id=sim.chat_id("alice"),
            text="x",
            reply_parameters=json.dumps(reply),
        )
        assert sim.heard[0].reply_to is None


@pytest.mark.parametrize(
    ("source", "mode", "visible"),
    [
        ("<b>a</b> &lt; <a href='x'>b</a>", "HTML", "a < b"),
        ("*a* _b_ \\. `c.d` [e](http://f) ||g||\n> h", "MarkdownV2", "a b . c.d e g\n h"),
        ("plain <b> *", None, "plain <b> *"),
    ],
)
def test_formatted_text(source: str, mode: str | None, visible: str) -> None:
    assert visible_text(source, mode) == visible


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        ("a < b", "HTML"),
        ("<script>x</script>", "HTML"),
        ("<b>x</i>", "HTML"),
        ("</b>", "HTML"),
        ("end.", "MarkdownV2"),
        ("*open", "MarkdownV2"),
        ("[open", "MarkdownV2"),
        ("x](y)", "MarkdownV2"),
        ("x", "RichText"),
    ],
)
def test_unparsable_text(source: str, mode: str) -> None:
    with pytest.raises(BotApiError, match="400 Bad Request"):
        visible_text(source, mode)


def test_utf16_units() -> None:
    assert [utf16_length(text) for text in ("", "a", "ü", "😀")] == [0, 1, 1, 2]


async def test_edits_and_deletions() -> None:
    async with bot() as (sim, client):
        chat = sim.chat_id("alice")
        mine = int(sim.say("hello"))
        sent = await client.call("sendMessage", chat_id=chat, text="one")
        target = {"chat_id": chat, "message_id": sent["message_id"]}
        edited = await client.call("editMessageText", **target, text="two")
        assert edited["message_id"] == sent["message_id"]
        assert (sim.heard[-1].text, sim.heard[-1].edit_of) == ("two", str(sent["message_id"]))
        for message_id, text, expected in (
            (sent["message_id"], "two", "message is not modified"),
            (mine, "three", "message can't be edited"),
            (1, "three", "message to edit not found"),
        ):
            refused = await client.refused(
                "editMessageText", chat_id=chat, message_id=message_id, text=text
            )
            assert expected in refused
        assert await client.call("deleteMessage", **target) is True
        assert "message to delete not found" in await client.refused("deleteMessage", **target)
        assert sim.count("deleted") == 1


async def test_typing_reactions_callbacks_and_commands() -> None:
    async with bot() as (sim, client):
        chat, said = sim.chat_id("alice"), int(sim.say("hello"))
        assert await client.call("sendChatAction", chat_id=chat, action="typing") is True
        reaction = [{"type": "emoji", "emoji": "👍"}]
        await client.call("setMessageReaction", chat_id=chat, message_id=said, reaction=reaction)
        await client.call("answerCallbackQuery", callback_query_id="9")
        await client.call("setMyCommands", commands=[{"command": "a", "description": "b"}])
        facts = {record.what: record.detail for record in sim.log}
        assert facts["chat-action"] == {"chat": "alice", "action": "typing"}
        assert facts["reaction"]["emoji"] == ["👍"]
        assert facts["callback-answer"] == {"id": "9"}
        assert sim.commands == [{"command": "a", "description": "b"}]


async def test_uploads() -> None:
    async with bot() as (sim, client):
        said = sim.say("send me something")
        url = f"{sim.url}/bot{TOKEN}"
        form = aiohttp.FormData({"chat_id": str(sim.chat_id("alice")), "caption": "here"})
        form.add_field("reply_parameters", json.dumps({"message_id": int(said)}))
        form.add_field("photo", b"\x89PNG", filename="cat.png", content_type="image/png")
        async with client.session.post(f"{url}/sendPhoto", data=form) as response:
            photo = (await response.json())["result"]["photo"]
        form = aiohttp.FormData({"chat_id": str(sim.chat_id("alice")), "document": "attach://f"})
        form.add_field("f", b"text", filename="log.txt")
        async with client.session.post(f"{url}/sendDocument", data=form) as response:
            document = (await response.json())["result"]["document"]
        await client.call("sendPhoto", chat_id=sim.chat_id("alice"), photo=photo[-1]["file_id"])
        assert document["file_name"] == "log.txt"
        heard = [(h.text, h.media, h.data, h.reply_to) for h in sim.heard]
        assert heard == [
            ("here", "photo", b"\x89PNG", said),
            ("", "log.txt", b"text", None),
            ("", "photo", b"\x89PNG", None),
        ]
        chat = {"chat_id": sim.chat_id("alice")}
        assert "wrong file" in await client.refused("sendPhoto", **chat, photo="nonsense")
        assert "caption is too long" in await client.refused(
            "sendPhoto", **chat, photo=photo[-1]["file_id"], caption="x" * 1025
        )


@pytest.mark.slow
async def test_an_upload_beyond_the_limit_is_413() -> None:
    async with bot() as (sim, client):
        form = aiohttp.FormData({"chat_id": str(sim.chat_id("alice"))})
        form.add_field("photo", io.BytesIO(bytes(10 * 2**20 + 1)), filename="cat.png")
        async with client.session.post(f"{sim.url}/bot{TOKEN}/sendPhoto", data=form) as response:
            assert response.status == 413
        assert sim.heard == []


# -- web hook -----------------------------------------------------------------------------------


class Hook:
    """A bot's web hook: answers from a script, then 200, and records what it got."""

    def __init__(self, *answers: web.Response) -> None:
        self.answers = list(answers)
        self.got: list[tuple[float, str, str | None]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        secret = request.headers.get("X-Telegram-Bot-Api-Secret-Token")
        body = await request.json()
        self.got.append((clock(), body["message"]["text"], secret))
        return self.answers.pop(0) if self.answers else web.Response()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/hook", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield
        finally:
            await runner.cleanup()


async def test_a_web_hook_gets_each_update_once_with_the_secret() -> None:
    hook = Hook()
    async with bot() as (sim, client), hook.serving():
        sim.say("queued before")
        await client.call("setWebhook", url=hook.url, secret_token="s3cret", max_connections=4)
        assert sim.listening() is True
        sim.say("then", chat="ops", group=True)
        await sim.until(lambda: sim.count("hook-delivered") == 2)
        assert {secret for _, _, secret in hook.got} == {"s3cret"}
        assert sorted(text for _, text, _ in hook.got) == ["@gate_test_bot then", "queued before"]
        assert sim.pending() == 0
        info = await client.call("getWebhookInfo")
        assert (info["url"], info["pending_update_count"]) == (hook.url, 0)
        assert info["max_connections"] == 4
        await client.call("deleteWebhook")
        assert (await client.call("getWebhookInfo"))["url"] == ""
        assert sim.listening() is False


async def test_redelivery_doubles_from_one_second_and_keeps_the_order_of_a_chat() -> None:
    hook = Hook(*(web.Response(status=500) for _ in range(3)))
    async with bot() as (sim, client), hook.serving():
        await client.call("setWebhook", url=hook.url)
        sim.say("a")
        sim.say("b")
        await sim.until(lambda: sim.count("hook-delivered") == 2)
        assert [text for _, text, _ in hook.got] == ["a", "a", "a", "a", "b"]
        times = [at for at, _, _ in hook.got]
        gaps = [round(later - at) for at, later in pairwise(times)]
        assert gaps == [1, 2, 4, 0]
        info = await client.call("getWebhookInfo")
        assert "500 Internal Server Error" in info["last_error_message"]


async def test_retry_after_of_the_hook_is_honoured() -> None:
    hook = Hook(web.Response(status=503, headers={"Retry-After": "30"}))
    async with bot() as (sim, client), hook.serving():
        await client.call("setWebhook", url=hook.url)
        sim.say("a")
        await sim.until(lambda: sim.count("hook-delivered") == 1, timeout=60)
        assert hook.got[1][0] - hook.got[0][0] == pytest.approx(30, abs=0.1)


async def test_a_dead_hook_is_tried_again_also_after_a_restart_of_the_server() -> None:
    hook = Hook()
    async with bot() as (sim, client):
        async with hook.serving():
            url = hook.url
        await client.call("setWebhook", url=url)
        sim.say("a")
        await sim.until(lambda: sim.count("hook-failed") == 2)
        assert sim.pending() == 1
        await sim.stop()
        failures = sim.count("hook-failed")
        await asyncio.sleep(300)
        assert sim.count("hook-failed") == failures
        await sim.start()
        await sim.until(lambda: sim.count("hook-failed") == failures + 1)


async def test_the_answer_of_a_hook_may_be_a_method_call() -> None:
    async with bot() as (sim, client):
        call = {"method": "sendMessage", "chat_id": sim.chat_id("alice"), "text": "hi"}
        hook = Hook(web.json_response(call), web.json_response({"method": "deleteWebhook"}))
        async with hook.serving():
            await client.call("setWebhook", url=hook.url)
            sim.say("a")
            sim.say("b")
            await sim.until(lambda: sim.count("hook-delivered") == 2)
            assert [heard.text for heard in sim.heard] == ["hi"]
            assert (await client.call("getWebhookInfo"))["url"] == hook.url


async def test_setwebhook_refuses_nonsense_and_haste() -> None:
    async with bot() as (sim, client):
        assert "HTTPS URL" in await client.refused("setWebhook", url="gopher://x")
        url = "http://127.0.0.1:9/"
        assert "unallowed" in await client.refused("setWebhook", url=url, secret_token="a b")
        await client.call("setWebhook", url=url)
        assert (await client.refused("setWebhook", url=url)).startswith("429")
        sim.say("a")
        await client.call("setWebhook", url="", drop_pending_updates=True)
        assert sim.pending() == 0
        assert sim.listening() is False


# -- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("http_502", 502, "text/html"),
        ("http_504", 504, "text/html"),
        ("html_200", 200, "text/html"),
        ("malformed_json", 200, "application/json"),
        ("unauthorized", 401, "application/json"),
    ],
)
async def test_front_faults_play_on_every_endpoint(fault: str, status: int, kind: str) -> None:
    async with bot() as (sim, client):
        sim.faults.arm(fault, times=3)
        for path in (f"/bot{TOKEN}/getMe", f"/bot{TOKEN}/getUpdates", f"/file/bot{TOKEN}/x"):
            async with client.session.get(sim.url + path) as response:
                assert (response.status, response.content_type) == (status, kind)
                text = await response.text()
        if fault == "malformed_json":
            with pytest.raises(ValueError, match="Unterminated"):
                json.loads(text)
        assert (await client.call("getMe"))["is_bot"] is True


@pytest.mark.parametrize(
    ("fault", "method"), [("rate_limited", "getUpdates"), ("send_429", "sendMessage")]
)
async def test_429_carries_retry_after_in_body_and_header(fault: str, method: str) -> None:
    async with bot() as (sim, client):
        params = {"chat_id": sim.chat_id("alice"), "text": "x"}
        sim.faults.arm(fault, retry_after=7)
        status, body, response = await client.raw(method, **params)
        assert status == 429
        assert body["parameters"] == {"retry_after": 7}
        assert response.headers["Retry-After"] == "7"
        assert sim.heard == []
        await client.call(method, **params)


async def test_a_hanging_poll_is_never_answered_and_is_not_listening() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("poll_hangs")
        sim.say("kept")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(250):
                await client.raw("getUpdates", timeout=10)
        assert sim.count("poll") == 0
        assert texts(await client.poll()) == ["kept"]


async def test_a_dripping_poll_sends_bytes_without_end() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("poll_drips", every=3)
        url = f"{sim.url}/bot{TOKEN}/getUpdates"
        async with client.session.get(url) as response:
            assert response.status == 200
            began = clock()
            assert await response.content.readexactly(5) == b"     "
            assert clock() - began == pytest.approx(12, abs=0.1)
        assert sim.listening() is False


async def test_closed_before_the_answer_keeps_the_update() -> None:
    async with bot() as (sim, client), parked(client) as poll:
        sim.faults.arm("close_before_answer")
        sim.say("kept")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await poll
        assert sim.listening() is False
        assert texts(await client.poll(1)) == ["kept"]


async def test_closed_after_the_answer_redelivers_until_confirmed() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("close_after_answer")
        sim.say("twice")
        [first] = await client.poll()
        await asyncio.sleep(1)  # let the client's pool see the end of the connection
        [again] = await client.poll()
        assert first == again
        assert sim.faults.played["close_after_answer"] == 1


async def test_a_lost_send_answer_is_delivered_nevertheless() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.raw("sendMessage", chat_id=sim.chat_id("alice"), text="once")
        assert [heard.text for heard in sim.heard] == ["once"]


async def test_a_blocked_bot_gets_403() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("send_403")
        refused = await client.refused("sendMessage", chat_id=sim.chat_id("alice"), text="x")
        assert refused == "403 Forbidden: bot was blocked by the user"


@pytest.mark.parametrize("to", [7, None])
async def test_the_update_id_may_jump(to: int | None) -> None:
    async with bot() as (sim, client):
        sim.say("a")
        [first] = await client.poll()
        await client.poll(first["update_id"] + 1, timeout=1)
        sim.faults.arm("id_jump", **({} if to is None else {"to": to}))
        sim.say("b")
        [second] = await client.poll(first["update_id"] + 1)
        assert second["update_id"] not in range(first["update_id"], first["update_id"] + 100)
        assert await client.poll(second["update_id"] + 1, timeout=1) == []
        assert sim.pending() == 0


async def test_a_lingering_poll_of_the_former_self_conflicts_for_a_while() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("lingering_poll", seconds=40)
        began = clock()
        answers = []
        for _ in range(10):
            answers.append(((await client.raw("getUpdates"))[0], clock() - began < 40))
            await asyncio.sleep(6)
        assert set(answers) == {(409, True), (200, False)}


async def test_a_revoked_token_ends_the_parked_poll() -> None:
    async with bot() as (sim, client):
        async with parked(client) as poll:
            sim.revoke_token()
            assert (await poll)[0] == 401
        assert sim.listening() is False
        assert await client.refused("getMe") == "401 Unauthorized"
        sim.restore()
        assert (await client.call("getMe"))["id"] == 123456


async def test_a_new_token_makes_the_old_one_unknown() -> None:
    async with bot() as (sim, client):
        sim.set_token("123456:another")
        assert sim.account()["token"] == "123456:another"
        assert (await client.call("getMe"))["id"] == 123456
        async with client.session.get(f"{sim.url}/bot{TOKEN}/getMe") as response:
            assert response.status == 401


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(UnknownFault, match="no fault"):
        TelegramSimulator().faults.arm("earthquake")


@pytest.mark.real_time
@pytest.mark.slow
async def test_it_runs_as_a_process_of_its_own() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "holdfast.lab.simulators.telegram"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession() as session:
            said = {"text": "hello", "chat": "ops", "group": True}
            async with session.post(f"{ready['url']}/_lab/say", json=said) as response:
                message_id = (await response.json())["id"]
            async with session.get(f"{ready['url']}/bot{TOKEN}/getUpdates") as response:
                [update] = (await response.json())["result"]
            assert str(update["message"]["message_id"]) == message_id
            async with session.post(f"{ready['url']}/_lab/truth") as response:
                assert (await response.json())["listening"] is True
    finally:
        process.terminate()
        assert await process.wait() == 0
