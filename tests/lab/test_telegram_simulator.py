"""The Telegram simulator, spoken to over raw HTTP: each rule of the Bot API that we rely on."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.simulators.telegram_wire import TOKEN
from tests.lab.telegram_client import bot, clock, parked, texts

# -- requests -----------------------------------------------------------------------------------


async def test_getme_names_the_bot_and_is_noted_as_a_login() -> None:
    async with bot() as (sim, client):
        me = await client.call("getMe")
        assert me["id"] == 123456
        assert me["is_bot"] is True
        assert me["username"] == sim.username
        assert sim.count("login") == 1


@pytest.mark.parametrize("method", ["getme", "GETME", "gEtMe"])
async def test_method_names_are_case_insensitive(method: str) -> None:
    async with bot() as (_, client):
        assert (await client.call(method))["id"] == 123456


async def test_parameters_come_by_query_form_json_and_multipart() -> None:
    async with bot() as (sim, client):
        chat = sim.chat_id("alice")
        url = f"{sim.url}/bot{TOKEN}/sendMessage"
        multipart = aiohttp.MultipartWriter("form-data")
        for name, value in (("chat_id", str(chat)), ("text", "multipart")):
            part = multipart.append(value)
            part.set_content_disposition("form-data", name=name)
        session = client.session
        for request in (
            session.get(url, params={"chat_id": chat, "text": "query"}),
            session.post(url, data={"chat_id": chat, "text": "form"}),
            session.post(url, json={"chat_id": chat, "text": "json"}),
            session.post(url, data=multipart),
        ):
            async with request as response:
                assert response.status == 200, await response.text()
        assert [heard.text for heard in sim.heard] == ["query", "form", "json", "multipart"]


@pytest.mark.parametrize(
    ("token", "method", "expected"),
    [
        ("999:unknown", "getMe", "401 Unauthorized"),
        ("nonsense", "getMe", "404 Not Found"),
        (TOKEN, "makeCoffee", "404 Not Found: method not found"),
    ],
)
async def test_wrong_token_and_wrong_method(token: str, method: str, expected: str) -> None:
    async with bot() as (sim, client):
        async with client.session.get(f"{sim.url}/bot{token}/{method}") as response:
            body = await response.json()
            assert f"{response.status} {body['description']}" == expected


async def test_bad_json_is_a_bad_request() -> None:
    async with bot() as (sim, client):
        url = f"{sim.url}/bot{TOKEN}/getUpdates"
        headers = {"Content-Type": "application/json"}
        async with client.session.post(url, data=b"{", headers=headers) as response:
            assert response.status == 400
        assert (await client.refused("getUpdates", offset="x")).startswith("400 Bad Request")


# -- getUpdates ---------------------------------------------------------------------------------


async def test_an_offset_confirms_what_lies_below_it() -> None:
    async with bot() as (sim, client):
        for text in ("a", "b", "c"):
            sim.say(text)
        first = await client.poll()
        assert texts(first) == ["a", "b", "c"]
        ids = [update["update_id"] for update in first]
        assert ids == list(range(ids[0], ids[0] + 3))
        assert sim.pending() == 3
        assert texts(await client.poll(ids[1])) == ["b", "c"]
        assert sim.pending() == 2
        assert await client.poll(ids[2] + 1, timeout=5) == []
        assert sim.pending() == 0


async def test_a_negative_offset_keeps_only_the_last() -> None:
    async with bot() as (sim, client):
        for text in ("a", "b", "c"):
            sim.say(text)
        assert texts(await client.poll(-1)) == ["c"]
        assert sim.pending() == 1


async def test_limit_cuts_the_batch() -> None:
    async with bot() as (sim, client):
        for text in ("a", "b", "c"):
            sim.say(text)
        assert texts(await client.poll(limit=2)) == ["a", "b"]
        assert sim.pending() == 3


async def test_an_offset_of_another_life_is_answered_from_the_head() -> None:
    """Such an offset confirms nothing, and a client that only ever raises it is stuck."""
    async with bot() as (sim, client):
        sim.say("a")
        assert texts(await client.poll(2_000_000_000)) == ["a"]
        assert sim.pending() == 1


async def test_a_poll_without_updates_is_answered_empty_at_its_timeout() -> None:
    async with bot() as (sim, client):
        began = clock()
        assert await client.poll(timeout=20) == []
        assert clock() - began == pytest.approx(20, abs=0.1)
        assert sim.count("poll") == 1


async def test_the_timeout_is_clamped_to_50_seconds() -> None:
    async with bot() as (_, client):
        began = clock()
        assert await client.poll(timeout=300) == []
        assert clock() - began == pytest.approx(50, abs=0.1)


async def test_a_parked_poll_is_answered_as_soon_as_a_user_speaks() -> None:
    async with bot() as (sim, client), parked(client) as poll:
        await asyncio.sleep(7)
        sim.say("hello")
        spoken = clock()
        _, body, _ = await poll
        assert texts(body["result"]) == ["hello"]
        assert clock() - spoken < 0.1


async def test_updates_expire_after_a_day() -> None:
    async with bot() as (sim, client):
        sim.say("old")
        await asyncio.sleep(86_000)
        sim.say("young")
        await asyncio.sleep(500)
        assert sim.pending() == 1
        assert texts(await client.poll()) == ["young"]


async def test_allowed_updates_is_remembered_and_filters_only_later_updates() -> None:
    async with bot() as (sim, client):
        first = sim.say("before")
        sim.say("edited before", edit_of=first)
        await client.poll(allowed_updates=["message"])
        sim.say("edited after", edit_of=first)
        kinds = [set(update) - {"update_id"} for update in await client.poll()]
        assert kinds == [{"message"}]  # a repeated offset within 0.5 s: one at a time
        assert sim.pending() == 2


async def test_a_spinning_client_is_braked() -> None:
    async with bot() as (_, client):
        assert await client.poll(7) == []
        began = clock()
        assert await client.poll(7) == []
        assert clock() - began == pytest.approx(3, abs=0.1)


# -- conflicts ----------------------------------------------------------------------------------


async def test_a_newer_poll_ends_the_older_one_with_409() -> None:
    async with bot() as (sim, client), parked(client) as older:
        newer = asyncio.create_task(client.raw("getUpdates", timeout=50))
        status, body, _ = await older
        assert status == 409
        assert "terminated by other getUpdates request" in body["description"]
        sim.say("for the newer")
        _, body, _ = await newer
        assert texts(body["result"]) == ["for the newer"]


async def test_conflicts_come_at_least_three_seconds_apart() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("conflict", times=2)
        began = clock()
        assert (await client.refused("getUpdates")).startswith("409 Conflict: terminated by other")
        assert clock() - began < 0.1
        await client.refused("getUpdates")
        assert clock() - began == pytest.approx(3, abs=0.1)


async def test_a_short_poll_steals_without_a_409() -> None:
    async with bot() as (sim, client), parked(client) as poll:
        assert await client.poll(sim._next_update) == []
        assert not poll.done()


async def test_a_web_hook_ends_the_parked_poll_and_forbids_further_ones() -> None:
    async with bot() as (_, client), parked(client) as poll:
        await client.call("setWebhook", url="http://127.0.0.1:9/hook")
        _, body, _ = await poll
        assert body["description"] == "Conflict: terminated by setWebhook request"
        assert "webhook is active" in await client.refused("getUpdates")
        await client.call("deleteWebhook")
        assert await client.poll() == []


@pytest.mark.parametrize("timeout", [50, 0])
async def test_a_rival_steals_updates(timeout: int) -> None:
    async with bot() as (sim, client), sim.rival(timeout=timeout) as stolen:
        await asyncio.sleep(1)
        sim.say("mine")
        await sim.until(lambda: bool(stolen))
        assert texts(stolen) == ["mine"]
        await asyncio.sleep(5)
        assert sim.pending() == 0
        assert sim.listening() is False
        assert await client.poll(1) == []


async def test_a_parked_rival_and_the_bot_throw_each_other_out() -> None:
    async with bot() as (sim, client), sim.rival():
        await asyncio.sleep(1)
        async with parked(client) as poll:
            status, body, _ = await poll
            assert (status, body["error_code"]) == (409, 409)
        assert sim.listening() is False


# -- the truth ----------------------------------------------------------------------------------


async def test_listening_means_a_parked_poll_or_one_finished_less_than_a_second_ago() -> None:
    async with bot() as (sim, client):
        assert sim.listening() is False
        async with parked(client, timeout=10) as poll:
            assert sim.listening() is True
            await poll
        assert sim.listening() is True
        await asyncio.sleep(0.9)
        assert sim.listening() is True
        await asyncio.sleep(0.2)
        assert sim.listening() is False
        assert [r.what for r in sim.log if r.what.startswith("link")] == ["link-open", "link-lost"]


async def test_polls_in_succession_are_one_link() -> None:
    async with bot() as (sim, client):
        for _ in range(5):
            await client.poll(timeout=10)
            await asyncio.sleep(0.5)
        assert (sim.count("poll"), sim.count("link-open"), sim.count("link-lost")) == (5, 1, 0)


async def test_a_client_that_goes_away_is_not_listening() -> None:
    async with bot() as (sim, client):
        async with parked(client):
            pass
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert sim.listening() is False
        sim.say("kept")
        assert texts(await client.poll(1)) == ["kept"]


async def test_stop_and_start_keep_port_and_updates() -> None:
    async with bot() as (sim, client):
        url = sim.url
        async with parked(client) as poll:
            await sim.stop()
            with pytest.raises(aiohttp.ClientError):
                await poll
        assert sim.listening() is False
        sim.say("meanwhile")
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.poll()
        await sim.start()
        assert sim.url == url
        assert texts(await client.poll()) == ["meanwhile"]


async def test_the_account_is_what_a_client_needs() -> None:
    async with bot() as (sim, _):
        assert sim.account() == {"platform": "telegram", "token": TOKEN, "base_url": sim.url}


# -- what users say -----------------------------------------------------------------------------


async def test_a_private_message() -> None:
    async with bot() as (sim, client):
        said = sim.say("hello", chat="ann", sender="ann")
        [update] = await client.poll()
        message = update["message"]
        assert said == str(message["message_id"]) == sim.said[0].id
        assert message["chat"]["type"] == "private"
        assert message["chat"]["id"] == message["from"]["id"] == sim.chat_id("ann")
        assert message["from"]["is_bot"] is False
        assert "entities" not in message


@pytest.mark.parametrize("text", ["check", "😀 @gate_test_bot again", "@gate_test_bot go"])
async def test_a_group_message_mentions_the_bot_in_utf16_units(text: str) -> None:
    async with bot() as (sim, client):
        sim.say(text, chat="ops", sender="ann", group=True)
        [update] = await client.poll()
        message = update["message"]
        assert message["chat"]["type"] == "supergroup"
        assert message["chat"]["id"] < -1_000_000_000_000
        [entity] = message["entities"]
        units = message["text"].encode("utf-16-le")
        start, end = entity["offset"] * 2, (entity["offset"] + entity["length"]) * 2
        assert units[start:end].decode("utf-16-le") == "@gate_test_bot"
        assert sim.said[0].text == message["text"]


async def test_commands_are_marked() -> None:
    async with bot() as (sim, client):
        sim.say("/start now")
        [update] = await client.poll()
        assert update["message"]["entities"] == [{"offset": 0, "length": 6, "type": "bot_command"}]


async def test_a_command_in_a_group_names_the_bot() -> None:
    async with bot() as (sim, client):
        sim.say("/start now", chat="ops", group=True)
        [update] = await client.poll()
        assert update["message"]["text"] == "/start@gate_test_bot now"
        [entity] = update["message"]["entities"]
        assert entity == {"offset": 0, "length": 20, "type": "bot_command"}


async def test_replies_edits_and_topics() -> None:
    async with bot() as (sim, client):
        first = sim.say("one", chat="ops", group=True, thread=42)
        second = sim.say("two", chat="ops", group=True, reply_to=first)
        assert sim.say("one!", chat="ops", group=True, edit_of=first) == first
        topic, reply, edit = await client.poll()
        assert topic["message"]["message_thread_id"] == 42
        assert topic["message"]["chat"]["is_forum"] is True
        assert reply["message"]["message_id"] == int(second)
        assert reply["message"]["reply_to_message"]["message_id"] == int(first)
        assert edit["edited_message"]["message_id"] == int(first)
        assert edit["edited_message"]["text"].endswith("one!")
        assert "edit_date" in edit["edited_message"]


async def test_pictures_and_files_are_fetched_through_getfile() -> None:
    async with bot() as (sim, client):
        sim.say("look", image=b"\x89PNG" + bytes(5000))
        sim.say("", file=("log.txt", b"all is well"))
        photo, document = (update["message"] for update in await client.poll())
        assert photo["caption"] == "look"
        assert [size["width"] for size in photo["photo"]] == [90, 1280]
        assert document["document"]["file_name"] == "log.txt"
        assert document["document"]["mime_type"] == "text/plain"
        for file_id, data in (
            (photo["photo"][-1]["file_id"], b"\x89PNG" + bytes(5000)),
            (document["document"]["file_id"], b"all is well"),
        ):
            got = await client.call("getFile", file_id=file_id)
            assert got["file_size"] == len(data)
            url = f"{sim.url}/file/bot{TOKEN}/{got['file_path']}"
            async with client.session.get(url) as response:
                assert await response.read() == data
        assert "wrong file_id" in await client.refused("getFile", file_id="nonsense")
        for url, status in ((f"/file/bot{TOKEN}/no/such", 404), ("/file/bot1:x/photos/a", 401)):
            async with client.session.get(sim.url + url) as response:
                assert response.status == status


async def test_names_have_stable_ids() -> None:
    one, other = TelegramSimulator(), TelegramSimulator()
    assert one.chat_id("alice") == other.chat_id("alice")
    assert one.chat_id("alice") != one.chat_id("bob")
    assert one.chat_id("alice", group=True) != one.chat_id("alice")


async def test_a_poll_fails_or_is_slow_while_other_calls_go_on() -> None:
    async with bot() as (sim, client):
        sim.faults.arm("poll_fails", times=None)
        with pytest.raises(aiohttp.ContentTypeError, match="502"):
            await client.raw("getUpdates")
        assert (await client.call("getMe"))["id"] == 123456
        sim.faults.clear()
        sim.faults.arm("poll_slow", delay=30)
        began = sim.now()
        assert await client.poll() == []
        assert sim.now() - began >= 30
        assert sim.count("polled") == 2
