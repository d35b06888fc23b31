"""What the Bot API says and what the adapter makes of it, with a server whose answers we choose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from holdfast.adapters.telegram import Telegram
from holdfast.adapters.telegram_api import Update, User, inbound
from holdfast.messages import Inbound, MediaKind, Outbound
from holdfast.supervision import Kind, Published
from tests.harness import running

TOKEN = "123456:AAF-a-token-nobody-may-ever-see-1234"
ME = User(id=123456, is_bot=True, username="gate_test_bot")

# -- from the wire to messages ------------------------------------------------------------------


def message(**fields: Any) -> Inbound | None:
    """What becomes of a group message with these fields."""
    base = {
        "message_id": 7,
        "date": 1,
        "chat": {"id": -5, "type": "supergroup", "title": "Ops"},
        "from": {"id": 9, "first_name": "Ann"},
    }
    raw = msgspec.json.encode({"update_id": 1, "message": base | fields})
    return inbound(msgspec.json.decode(raw, type=Update), ME)


def entity(kind: str, offset: int, length: int, **more: Any) -> list[dict[str, Any]]:
    return [{"type": kind, "offset": offset, "length": length} | more]


@pytest.mark.parametrize(
    ("text", "entities", "mentioned"),
    [
        ("😀😀 @gate_test_bot go", entity("mention", 5, 14), True),  # UTF-16 units
        ("😀😀 @Gate_Test_Bot go", entity("mention", 5, 14), True),
        ("hi @somebody_else", entity("mention", 3, 14), False),
        ("hi @gate_test_bot", [], False),
        ("Gate, look", entity("text_mention", 0, 4, user={"id": 123456}), True),
        ("Ann, look", entity("text_mention", 0, 3, user={"id": 9}), False),
        ("/go", entity("bot_command", 0, 3), True),
        ("/go@gate_test_bot", entity("bot_command", 0, 17), True),
        ("/go@other_bot", entity("bot_command", 0, 13), False),
        ("odd", entity("mention", 50, 10), False),
    ],
)
def test_who_is_mentioned(text: str, entities: list[Any], mentioned: bool) -> None:
    for content in (
        {"text": text, "entities": entities},
        {"caption": text, "caption_entities": entities, "photo": [{"file_id": "x"}]},
    ):
        read = message(**content)
        assert read is not None
        assert (read.text, read.mentioned) == (text, mentioned)


def test_bots_ourselves_and_service_messages_are_dropped() -> None:
    assert message(text="x") is not None
    assert message(text="x", **{"from": {"id": 4, "is_bot": True}}) is None
    assert message(text="x", **{"from": {"id": 123456}}) is None
    assert message(new_chat_title="Ops 2") is None
    assert inbound(Update(update_id=1), ME) is None


def test_an_anonymous_administrator_is_heard_as_the_chat() -> None:
    stand_in = {"id": 1087968824, "is_bot": True}
    read = message(text="x", **{"from": stand_in}, sender_chat={"id": -5, "title": "Ops"})
    assert read is not None
    assert (read.sender, read.sender_name) == ("-5", "Ops")


def test_a_topic_is_a_thread_and_its_beginning_is_not_answered() -> None:
    ours = {"message_id": 42, "chat": {"id": -5}, "from": {"id": 123456, "is_bot": True}}
    in_topic = {"message_thread_id": 42, "is_topic_message": True}
    opened = message(text="x", reply_to_message=ours, **in_topic)
    assert opened is not None
    assert (opened.thread, opened.reply_to, opened.mentioned) == ("42", None, False)
    answered = message(text="x", reply_to_message=ours | {"message_id": 50}, **in_topic)
    assert answered is not None
    assert (answered.thread, answered.reply_to, answered.mentioned) == ("42", "-5:50", True)
    # Elsewhere the same field names a chain of replies.
    chain = message(text="x", reply_to_message=ours, message_thread_id=42)
    assert chain is not None
    assert (chain.thread, chain.reply_to, chain.mentioned) == (None, "-5:42", True)


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("voice", MediaKind.AUDIO),
        ("audio", MediaKind.AUDIO),
        ("video", MediaKind.VIDEO),
        ("video_note", MediaKind.VIDEO),
        ("sticker", MediaKind.IMAGE),
        ("document", MediaKind.FILE),
    ],
)
def test_kinds_of_media(field: str, kind: MediaKind) -> None:
    read = message(**{field: {"file_id": "f", "file_size": 3}})
    assert read is not None
    assert [(a.kind, a.ref, a.size) for a in read.attachments] == [(kind, "f", 3)]


def test_an_animation_is_not_reported_twice() -> None:
    read = message(animation={"file_id": "a"}, document={"file_id": "a"})
    assert read is not None
    assert [a.kind for a in read.attachments] == [MediaKind.VIDEO]


# -- a server that misbehaves -------------------------------------------------------------------


@contextlib.asynccontextmanager
async def scripted(
    answer: Callable[[str, dict[str, str]], Any],
) -> AsyncIterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A Bot API server whose results ``answer`` chooses; yields its URL and the calls made."""
    calls: list[tuple[str, dict[str, str]]] = []

    async def handle(request: web.Request) -> web.Response:
        method = request.match_info["method"]
        params = {
            str(k): str(v) for k, v in (*request.query.items(), *(await request.post()).items())
        }
        calls.append((method, params | {"peer": str(request.get_extra_info("peername"))}))
        if method == "getMe":
            return web.json_response({"ok": True, "result": {"id": 123456, "username": "b"}})
        result = answer(method, params)
        if isinstance(result, web.Response):
            return result
        if result == [] and params.get("timeout", "0") != "0":
            await asyncio.sleep(float(params["timeout"]))
        return web.json_response({"ok": True, "result": result})

    app = web.Application()
    app.router.add_route("*", "/bot{token}/{method}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", calls
    finally:
        await runner.cleanup()


def error(status: int, description: str, **parameters: Any) -> web.Response:
    body = {"ok": False, "error_code": status, "description": description}
    return web.json_response(body | {"parameters": parameters}, status=status)


async def test_bad_updates_are_skipped_and_confirmed() -> None:
    good = {"message_id": 1, "date": 1, "chat": {"id": 9, "type": "private"}, "from": {"id": 9}}
    batch = [
        {"update_id": 5, "message": {"text": "no id"}},
        {"update_id": 6, "message": "not an object"},
        {"no": "update id"},
        {"update_id": 7, "callback_query": {}},
        {"update_id": 8, "message": good | {"text": "good"}},
    ]

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "getWebhookInfo":
            return {"url": ""}
        return batch if int(params["offset"]) < 9 else []

    async with scripted(answer) as (url, calls):
        async with running(Telegram, {"token": TOKEN, "base_url": url}) as seen:
            await asyncio.sleep(100)
            assert [m.text for m in seen.messages] == ["good"]
            assert seen.account.skipped_frames == 3
            assert seen.account.view().published is Published.CONNECTED
            assert seen.account.view().generation == 1
    polls = [params for method, params in calls if method == "getUpdates"]
    assert [p["offset"] for p in polls[:2]] == ["0", "9"]
    assert [p["timeout"] for p in polls[:2]] == ["0", "25"]
    # Each on a connection of its own, so that none meets the end of an old one.
    assert len({p["peer"] for p in polls}) == len(polls) >= 4


async def test_a_batch_that_can_not_be_confirmed_makes_no_hot_loop() -> None:
    def answer(method: str, _: dict[str, str]) -> Any:
        return {"url": ""} if method == "getWebhookInfo" else [{"no": "update id"}]

    async with scripted(answer) as (url, calls):
        async with running(Telegram, {"token": TOKEN, "base_url": url}) as seen:
            await asyncio.sleep(600)
            assert seen.account.view().published is Published.RETRYING
    assert len([method for method, _ in calls if method == "getUpdates"]) < 60


@pytest.mark.parametrize(
    ("status", "description", "kind", "code"),
    [
        (400, "Bad Request: nonsense", Kind.PROTOCOL, "telegram_bad_request"),
        (400, "Logged out", Kind.REFUSED, "telegram_logged_out"),
        (
            401,
            "Unauthorized: invalid api-id/api-hash",
            Kind.REFUSED,
            "telegram_server_setup",
        ),
        (404, "Not Found: method not found", Kind.REFUSED, "telegram_unknown_method"),
        (418, "I'm a teapot", Kind.PROTOCOL, "telegram_http_418"),
        (421, "Misdirected Request", Kind.REFUSED, "telegram_wrong_server"),
        (500, "Internal Server Error: restart", Kind.UNREACHABLE, "telegram_network_error"),
    ],
)
async def test_error_answers(status: int, description: str, kind: Kind, code: str) -> None:
    async with scripted(lambda *_: error(status, description)) as (url, _):
        async with running(Telegram, {"token": TOKEN, "base_url": url}) as seen:
            view = await seen.account.until(lambda view: view.cause is not None)
            assert view.cause is not None
            assert (view.cause.kind, view.cause.code) == (kind, code)
            assert description in view.cause.message


async def test_an_address_telegram_does_not_take_is_for_a_person() -> None:
    def answer(method: str, _: dict[str, str]) -> Any:
        if method == "setWebhook":
            return error(400, "Bad Request: bad webhook: An HTTPS URL must be provided")
        return {"url": ""}

    async with scripted(answer) as (url, _):
        config = {"token": TOKEN, "base_url": url, "mode": "webhook"}
        async with running(Telegram, config) as seen:
            await seen.published(Published.FATAL)
            cause = seen.account.view().cause
            assert cause is not None
            assert (cause.kind, cause.code) == (Kind.REFUSED, "telegram_bad_webhook")
            assert "HTTPS" in cause.advice


async def test_updates_that_wait_while_others_arrive_do_not_wait_in_vain() -> None:
    hook: dict[str, str] = {}

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "setWebhook":
            hook.update(params)
            return True
        return {"url": hook["url"], "pending_update_count": 1}

    async with scripted(answer) as (url, _), aiohttp.ClientSession() as session:
        config = {"token": TOKEN, "base_url": url, "mode": "webhook"}
        async with running(Telegram, config) as seen:
            await seen.connected()
            headers = {"X-Telegram-Bot-Api-Secret-Token": hook["secret_token"]}
            for number in range(30):
                update = {"update_id": number}
                async with session.post(hook["url"], json=update, headers=headers) as reply:
                    assert reply.status == 200
                await asyncio.sleep(10)
            assert seen.account.view().generation == 1
            await asyncio.sleep(150)
            assert seen.account.view().generation > 1


async def test_a_page_that_quotes_the_url_does_not_show_the_token() -> None:
    page = web.Response(status=503, text=f"/bot{TOKEN}/getWebhookInfo is down")
    async with scripted(lambda *_: page) as (url, _):
        async with running(Telegram, {"token": TOKEN, "base_url": url}) as seen:
            view = await seen.account.until(lambda view: view.cause is not None)
            assert view.cause is not None
            assert "/bot<token>/getWebhookInfo is down" in view.cause.message
            assert TOKEN not in " ".join(repr(report.view) for report in seen.reports)


async def test_a_group_that_became_a_supergroup_is_followed() -> None:
    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "getWebhookInfo":
            return {"url": ""}
        if method == "getUpdates":
            return []
        if params["chat_id"] == "-5":
            return error(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-100)
        return {"message_id": 1, "chat": {"id": int(params["chat_id"])}}

    async with scripted(answer) as (url, calls):
        async with running(Telegram, {"token": TOKEN, "base_url": url}) as seen:
            message = Outbound(key="k", chat="-5", text="hi", reply_to="-5:3")
            assert (await seen.adapter.send(message)).id == "-100:1"
            sent = [params for method, params in calls if method == "sendMessage"]
            assert ["reply_parameters" in params for params in sent] == [True, False]


@pytest.mark.parametrize("waiting_for", ["getMe", "getWebhookInfo", "getUpdates", "hold"])
async def test_it_stops_at_once_in_every_step(waiting_for: str) -> None:
    stuck, forever = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        method = request.match_info["method"]
        held = method == "getUpdates" and (await request.post())["timeout"] != "0"
        if waiting_for in (method, "hold" if held else ""):
            stuck.set()
            await forever.wait()
        result = [] if method == "getUpdates" else {"id": 1}
        return web.json_response({"ok": True, "result": result})

    app = web.Application()
    app.router.add_route("*", "/bot{token}/{method}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    loop = asyncio.get_running_loop()
    try:
        config = {"token": TOKEN, "base_url": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        async with running(Telegram, config) as seen:
            await stuck.wait()
            before = loop.time()
            await seen.account.stop()
            assert loop.time() - before < 5.0
            assert seen.account.view().published is Published.STOPPED
    finally:
        await runner.cleanup()
