"""The unmodified official SDK (lark-oapi) on the simulator: proof that it is honest.

Its WebSocket client runs an event loop of its own, kept in a variable of its module, and has no
stop: it gets a thread and a fresh loop, which is stopped under it. Its REST client blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import json
import threading
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from holdfast.lab.simulators.feishu import FeishuSimulator

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]

lark: Any = None
"""The SDK: seconds to import, so not before the first test here needs it."""


@pytest.fixture(autouse=True, scope="module")
def sdk() -> None:
    """Import the SDK, and close the loop that it makes on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        globals()["lark"] = importlib.import_module("lark_oapi")
        importlib.import_module("lark_oapi.api.im.v1")
        module = importlib.import_module("lark_oapi.ws.client")
    module.loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library of the SDK obeys the environment's proxies."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def no_cached_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK caches tokens for the process, by app_id."""
    manager = importlib.import_module("lark_oapi.core.token.manager").TokenManager
    monkeypatch.setattr(manager, "cache", type(manager.cache)())


def rest(sim: FeishuSimulator, secret: str | None = None) -> Any:
    builder = lark.Client.builder().app_id(sim.app_id).app_secret(secret or sim.app_secret)
    return builder.domain(sim.url).log_level(lark.LogLevel.CRITICAL).build()


def answer(api: Any, message: Any, text: str) -> Any:
    im = lark.im.v1
    body = im.ReplyMessageRequestBody.builder().msg_type("text")
    body = body.content(json.dumps({"text": text})).uuid(message.message_id).build()
    request = im.ReplyMessageRequest.builder().message_id(message.message_id)
    response = api.im.v1.message.reply(request.request_body(body).build())
    assert response.success(), response.msg
    return response.data


class Bot:
    """The SDK's WebSocket client in its thread, answering what it hears."""

    def __init__(self, sim: FeishuSimulator, secret: str | None = None) -> None:
        self.sim, self.api, self.secret = sim, rest(sim), secret or sim.app_secret
        self.got: list[Any] = []
        self.fail = 0
        self.error: BaseException | None = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def dispatcher(self, encrypt_key: str = "", token: str = "") -> Any:
        builder = lark.EventDispatcherHandler.builder(encrypt_key, token)
        builder = builder.register_p2_im_message_receive_v1(self._message)
        return builder.register_p2_card_action_trigger(self._press).build()

    def _message(self, data: Any) -> None:
        if self.fail:
            self.fail -= 1
            raise RuntimeError("the handler fails")
        message = data.event.message
        self.got.append(data)
        answer(self.api, message, f"echo {message.content}")

    def _press(self, data: Any) -> Any:
        module = importlib.import_module("lark_oapi.event.callback.model.p2_card_action_trigger")
        decision = data.event.action.value["decision"]
        return module.P2CardActionTriggerResponse({"toast": {"content": decision}})

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        module: Any = importlib.import_module("lark_oapi.ws.client")
        module.loop = self.loop
        try:
            # It makes a task in its constructor, so that must run on the loop.
            self.client = self.loop.run_until_complete(self._client())
            self.client.start()
        except BaseException as error:
            self.error = error
        finally:
            self.loop.run_until_complete(self._clean_up())
            self.loop.close()

    async def _clean_up(self) -> None:
        # Its tasks first: on a close they would connect again.
        tasks = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.client._conn is not None:
            await self.client._conn.close()

    async def _client(self) -> Any:
        return lark.ws.Client(
            self.sim.app_id,
            self.secret,
            log_level=lark.LogLevel.CRITICAL,
            event_handler=self.dispatcher(),
            domain=self.sim.url,
        )

    async def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self.thread.join, 5.0)
        assert not self.thread.is_alive()


@contextlib.asynccontextmanager
async def running(sim: FeishuSimulator, secret: str | None = None) -> AsyncIterator[Bot]:
    sim.reconnect_nonce = sim.reconnect_interval = 0
    bot = Bot(sim, secret)
    try:
        await sim.until(lambda: sim.count("endpoint") > 0, timeout=5)
        yield bot
    finally:
        await bot.stop()


def facts(sim: FeishuSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]


async def test_sdk_beats_answers_in_both_scenes_and_acknowledges() -> None:
    async with FeishuSimulator() as sim, running(sim) as bot:
        await sim.until(lambda: sim.count("beat") == 1)
        keys = [sim.say("hello"), sim.say("summarize", chat="team", sender="bob", group=True)]
        await sim.until(lambda: sim.count("ack") == 2)
        assert {d.event.message.message_id for d in bot.got} == set(keys) == set(facts(sim, "ack"))
        assert {(h.chat, h.text, h.reply_to) for h in sim.heard} == {
            ("alice", 'echo {"text": "hello"}', keys[0]),
            ("team", 'echo {"text": "@_user_1 summarize"}', keys[1]),
        }
        assert sim.count("bad-frame") == 0


async def test_sdk_takes_over_the_ping_interval_of_a_pong() -> None:
    async with FeishuSimulator() as sim:
        sim.ping_interval = 0.2  # type: ignore[assignment]
        async with running(sim):
            await sim.until(lambda: facts(sim, "beat", "kind").count("frame") >= 4, timeout=5)
            assert sim.count("link-lost") == 0


async def test_sdk_joins_a_shuffled_split_event_and_survives_odd_frames() -> None:
    async with FeishuSimulator() as sim, running(sim) as bot:
        await sim.until(sim.listening)
        for fault in ("server_ping", "bad_frame", "text_frame", "future_frame", "card_frame"):
            sim.faults.arm(fault)
        sim.faults.arm("split_event", parts=4, order=[3, 0, 2, 1])
        key = sim.say("still here")
        await sim.until(lambda: sim.count("ack") == 1)
        assert [d.event.message.message_id for d in bot.got] == [key]
        assert (sim.count("link-lost"), sim.count("bad-frame")) == (0, 0)


async def test_sdk_gets_an_event_again_after_its_handler_failed() -> None:
    async with FeishuSimulator() as sim, running(sim) as bot:
        await sim.until(sim.listening)
        sim.redelivery, bot.fail = (0.3,), 1
        key = sim.say("again")
        await sim.until(lambda: sim.count("ack") == 1)
        assert facts(sim, "nack", "reason") == [500]
        assert (facts(sim, "pushed"), len(bot.got)) == ([key, key], 1)


async def test_sdk_does_not_acknowledge_events_nobody_handles() -> None:
    async with FeishuSimulator() as sim, running(sim):
        await sim.until(sim.listening)
        key = sim.happen("im.hologram.projected_v1", {})
        await sim.until(lambda: sim.count("nack") == 1)
        assert (facts(sim, "nack"), facts(sim, "nack", "reason")) == ([key], [500])


@pytest.mark.parametrize("code", [1000, 1001, 1011])
async def test_sdk_reconnects_by_a_new_endpoint_call(code: int) -> None:
    async with FeishuSimulator() as sim, running(sim) as bot:
        await sim.until(sim.listening)
        await sim.close_all(code)
        await sim.until(lambda: sim.count("link-open") == 2)
        sim.say("after")
        await sim.until(lambda: sim.count("ack") == 1)
        assert (sim.count("login"), len(bot.got)) == (2, 1)


async def test_sdk_answers_a_button() -> None:
    async with FeishuSimulator() as sim, running(sim):
        await sim.until(sim.listening)
        sim.say("draw")
        await sim.until(lambda: sim.count("ack") == 1)
        sim.press(sim.heard[0].id, {"decision": "approve"})
        await sim.until(lambda: sim.count("ack") == 2)
        [reply] = facts(sim, "card-answer", "answer")
        assert reply["toast"]["content"] == "approve"


@pytest.mark.parametrize(
    ("fault", "code"),
    [("endpoint_forbidden", 403), ("endpoint_too_many", 1000040350), ("upgrade_forbidden", 403)],
)
async def test_sdk_gives_up_on_fatal_answers(fault: str, code: int) -> None:
    async with FeishuSimulator() as sim:
        sim.faults.arm(fault)
        async with running(sim) as bot:
            await asyncio.to_thread(bot.thread.join, 3.0)
            assert type(bot.error).__name__ == "ClientException"
            assert getattr(bot.error, "code", None) == code
            assert sim.count("link-open") == 0


async def test_sdk_is_refused_with_a_wrong_secret() -> None:
    async with FeishuSimulator() as sim, running(sim, secret="wrong") as bot:
        await asyncio.to_thread(bot.thread.join, 3.0)
        assert "1000040345" in str(bot.error)
        with pytest.raises(Exception, match="app secret invalid"):
            await asyncio.to_thread(answer, rest(sim, "wrong"), _Unknown, "hi")


class _Unknown:
    message_id = "om_unknown"


async def test_sdk_sends_uploads_edits_and_downloads() -> None:
    async with FeishuSimulator() as sim:
        key, api, im = sim.say("", image=b"photo"), rest(sim), lark.im.v1

        def work() -> bytes:
            body = im.CreateImageRequestBody.builder().image_type("message")
            body = body.image(io.BytesIO(b"drawing")).build()
            made = api.im.v1.image.create(
                im.CreateImageRequest.builder().request_body(body).build()
            )
            assert made.success(), made.msg
            upload = im.CreateFileRequestBody.builder().file_type("stream").file_name("a.txt")
            upload = upload.file(io.BytesIO(b"paper")).build()
            filed = api.im.v1.file.create(
                im.CreateFileRequest.builder().request_body(upload).build()
            )
            assert filed.success(), filed.msg
            for kind, content in (
                ("image", {"image_key": made.data.image_key}),
                ("file", {"file_key": filed.data.file_key}),
                ("text", {"text": "first"}),
            ):
                message = im.CreateMessageRequestBody.builder().msg_type(kind)
                message = message.receive_id(sim.know("alice").id).content(json.dumps(content))
                request = im.CreateMessageRequest.builder().receive_id_type("chat_id")
                sent = api.im.v1.message.create(request.request_body(message.build()).build())
                assert sent.success(), sent.msg
            change = im.UpdateMessageRequestBody.builder().msg_type("text")
            change = change.content(json.dumps({"text": "second"})).build()
            edit = im.UpdateMessageRequest.builder().message_id(sent.data.message_id)
            assert api.im.v1.message.update(edit.request_body(change).build()).success()
            shown = api.im.v1.message.get(im.GetMessageRequest.builder().message_id(key).build())
            image = json.loads(shown.data.items[0].body.content)["image_key"]
            fetch = im.GetMessageResourceRequest.builder().message_id(key).file_key(image)
            return bytes(api.im.v1.message_resource.get(fetch.type("image").build()).file.read())

        assert await asyncio.to_thread(work) == b"photo"
        assert [(h.text, h.data) for h in sim.heard] == [
            ("", b"drawing"),
            ("", b"paper"),
            ("first", b""),
            ("second", b""),
        ]
        assert sim.heard[3].edit_of == sim.heard[2].id
        assert sim.count("token") == 1


async def test_sdk_verifies_web_hooks_and_rejects_strangers() -> None:
    async with FeishuSimulator() as sim, running(sim) as bot:
        await sim.until(sim.listening)
        dispatcher = bot.dispatcher(sim.encrypt_key, sim.verification_token)

        async def handle(request: web.Request) -> web.Response:
            raw = lark.RawRequest()
            raw.uri, raw.body, raw.headers = request.path, await request.read(), request.headers
            done = await asyncio.to_thread(dispatcher.do, raw)
            return web.Response(
                status=done.status_code, body=done.content, content_type="application/json"
            )

        app = web.Application()
        app.router.add_post("/feishu", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await sim.set_webhook(f"http://127.0.0.1:{runner.addresses[0][1]}/feishu")
            strangers = {"hook_forged", "hook_unsigned", "hook_tampered", "hook_wrong_token"}
            for fault in strangers:
                sim.faults.arm(fault)
            key = sim.say("by web")
            await sim.until(lambda: sim.count("ack") == 1)
        finally:
            await runner.cleanup()
        assert set(facts(sim, "intruded", "fault")) == strangers
        assert facts(sim, "intruded", "accepted") == [False] * 4
        assert [d.event.message.message_id for d in bot.got] == [key]
