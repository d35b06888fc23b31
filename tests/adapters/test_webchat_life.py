"""The chat page's own life, and visitors who misbehave."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from holdfast.adapter import Link, Secret
from holdfast.adapters import webchat_page
from holdfast.adapters import webchat_wire as wire
from holdfast.adapters.webchat import WebChat
from holdfast.adapters.webchat_visitors import BURST, PER_SECOND, TABS
from holdfast.gateway.account import AccountTools
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import Net
from holdfast.lab.simulators.webchat import WebChatSimulator
from holdfast.messages import Outbound
from holdfast.supervision import Kind, Published, State
from tests.adapters.test_webchat import chat, details, failed, met, page
from tests.harness import make_adapter, running

PLANTED = "planted-token-0815"


async def get(
    url: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers of a request."""
    async with aiohttp.ClientSession() as session:
        async with session.request(method, url, headers=headers) as reply:
            return reply.status, await reply.read(), reply.headers


class Deaf(WebChat):
    """Its visits to its own page are led elsewhere."""

    elsewhere: str | None = None

    def _own_url(self, link: Link) -> str:
        return self.elsewhere or super()._own_url(link)


# -- the page itself -----------------------------------------------------------------------------


async def test_the_page_is_whole_and_held_to_its_own_parts() -> None:
    async with chat() as (_, run):
        status, body, headers = await get(page(run))
        assert (status, body) == (200, webchat_page.page())
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert "*" not in policy
        assert headers["Content-Type"] == "text/html"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_the_page_refers_to_no_other_host_and_writes_no_html() -> None:
    text = webchat_page.page().decode()
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"<[^>]+\son\w+=", text)
    assert not re.search(r"<[^>]+\sstyle=", text)
    assert text.count("<script") == text.count("<style") == 1


async def test_other_methods_are_refused() -> None:
    async with chat() as (_, run):
        status, _, headers = await get(page(run), "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


async def test_the_page_is_where_the_settings_say() -> None:
    async with WebChatSimulator() as sim:
        sim.path = "/talk/to-me"
        async with running(WebChat, sim.account()) as run:
            await run.connected()
            await sim.open_page(page(run, "/talk/to-me"))
            assert (await get(page(run)))[0] == 404
            assert run.adapter.identity == "webchat:/talk/to-me"


@pytest.mark.parametrize(
    "wrong", [{"path": "chat"}, {"path": "/a b"}, {"path": "/?x"}, {"keep": 0}, {"tokn": "x"}]
)
def test_unusable_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, WebChat.Settings)


# -- proof of life -------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
async def test_ready_only_once_its_own_page_was_reached(there: bool) -> None:
    async with WebChatSimulator() as sim, running(Deaf, sim.account()) as run:
        assert isinstance(run.adapter, Deaf)
        run.adapter.elsewhere = f"{sim.url}/nowhere"
        if not there:
            await sim.stop()
        await run.published(Published.RETRYING)
        cause = run.account.view().cause
        assert cause is not None
        assert cause.kind is Kind.UNREACHABLE
        assert cause.code == ("webchat_page_unreached" if there else "unreachable")
        assert "hook_listen" in cause.advice
        assert Published.CONNECTED not in run.states()
        run.adapter.elsewhere = None
        await run.connected()


async def test_who_lost_the_page_waits_for_its_listener() -> None:
    async with running(WebChat, WebChatSimulator().account()) as run:
        assert run.adapter.endpoint == ""
        await run.connected()
        assert run.adapter.endpoint == f"http://127.0.0.1:{run.hooks.port}"


async def test_a_quiet_page_proves_itself_by_visits() -> None:
    async with chat() as (_, run):
        await asyncio.sleep(600)
        view = run.account.view()
        assert view.published is Published.CONNECTED
        assert view.beats >= 38
        assert len(run.states()) == 2


async def test_a_listener_that_is_gone_is_noticed_and_opened_again() -> None:
    async with chat() as (sim, run):
        await met(sim, run)
        began = sim.now()
        await run.hooks.stop()
        await run.published(Published.RETRYING)
        assert sim.now() - began <= 61
        assert not sim.listening()
        await run.connected()
        await sim.until(sim.listening)


async def test_a_visitor_is_proof_of_life() -> None:
    async with chat() as (sim, run):
        await asyncio.sleep(7)
        await met(sim, run)
        assert run.account.view().last_proof == sim.now()


async def test_without_any_address_of_its_own_it_serves_all_the_same() -> None:
    async with WebChatSimulator() as sim, running(WebChat, sim.account()) as run:
        run.adapter._tools.hook_url = None  # type: ignore[attr-defined]
        await run.account.pause()
        run.account.resume()
        await run.connected()
        await sim.open_page(page(run))
        await met(sim, run)
        await sim.leave()
        await asyncio.sleep(3600)
        assert run.account.view().published is Published.CONNECTED


async def test_where_people_chat_is_told_by_the_public_address_or_the_listener() -> None:
    async with chat() as (_, run):
        run.adapter._tools.hook_url = "https://bots.example.org/"  # type: ignore[attr-defined]
        assert run.adapter.page == "https://bots.example.org" + urlsplit(page(run)).path
        run.adapter._tools.hook_url = None  # type: ignore[attr-defined]
        assert run.adapter.page == page(run)


@pytest.mark.parametrize("state", ["first visit", "connected", "visited", "frozen"])
async def test_a_stop_ends_within_5_s_with_nothing_left_behind(state: str) -> None:
    async with WebChatSimulator() as sim, running(WebChat, sim.account()) as run:
        if state != "first visit":
            await run.connected()
            await sim.open_page(page(run))
        if state in ("visited", "frozen"):
            await met(sim, run)
        if state == "frozen":
            sim.freeze()
        began = sim.now()
        await run.account.stop()
        assert sim.now() - began < 5
        assert run.account.view().state is State.STOPPED
        assert not [t for t in asyncio.all_tasks() if t.get_name() in ("webchat writer",)]
        if state != "first visit":
            assert (await get(page(run)))[0] == 503


# -- who may come --------------------------------------------------------------------------------


async def test_the_page_of_another_site_may_not_connect() -> None:
    async with chat() as (sim, run):
        sim.faults.arm("forged_origin")
        sim.open_tab()
        await sim.until(lambda: sim.count("dial-failed") == 1)
        assert details(sim, "dial-failed", "status") == [403]
        assert run.account.skipped_frames == 1
        await sim.until(sim.listening)


@pytest.mark.parametrize(
    ("origin", "host", "public", "allowed", "admitted"),
    [
        ("http://a:8070", "a:8070", None, (), True),
        ("https://A.example", "a.example", None, (), True),
        ("https://a.example", "inner:80", "https://a.example", (), True),
        ("https://b.example", "a.example", "https://a.example", (), False),
        ("http://a:8071", "a:8070", None, (), False),
        ("", "a", None, (), False),
        ("null", "a", None, (), False),
        ("", "", None, (), False),
        ("http://[a", "a", None, (), False),
        ("https://b.example", "a", None, ("https://b.example/",), True),
        ("http://a", "a", None, ("https://b.example",), False),
    ],
)
def test_who_may_connect(
    origin: str, host: str, public: str | None, allowed: tuple[str, ...], admitted: bool
) -> None:
    assert webchat_page.admitted(origin, host, public, allowed) is admitted


async def test_a_wrong_token_is_told_and_sent_away() -> None:
    async with chat(token=PLANTED) as (sim, run):
        sim.faults.arm("wrong_token")
        mallory = sim.open_tab("mallory")
        await sim.until(lambda: sim.count("closed") == 1)
        assert mallory.refused == "token"
        assert sim.count("welcome") == 0
        assert run.account.skipped_frames == 1
        await met(sim, run)


async def test_secrets_appear_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with chat(token=PLANTED) as (sim, run):
        for fault in ("wrong_token", "bad_frame"):
            sim.faults.arm(fault)
        sim.faults.arm("bad_hello", text=json.dumps({"op": "hello", "token": PLANTED}))
        sim.open_tab("bob")
        sim.open_tab("carol")
        await sim.until(lambda: sim.count("refused") == 2)
        alice = await met(sim, run)
        await sim.leave()
        error = await failed(run, Outbound(key="k", chat=alice.chat, text="x"))
        health = await run.adapter.check()
        told = f"{run.reports} {run.messages} {error} {health} {run.adapter.identity}"
        for secret in (PLANTED, sim.visitor("alice").id, sim.visitor("bob").id):
            assert secret not in told
            assert secret not in caplog.text
        assert "skipped" in caplog.text


async def test_who_does_not_say_hello_is_sent_away() -> None:
    async with chat() as (sim, run):
        sim.faults.arm("no_hello")
        sim.open_tab()
        await sim.until(lambda: sim.count("open") == 1)
        began = sim.now()
        await sim.until(lambda: sim.count("refused") == 1)
        assert 10 <= sim.now() - began <= 11
        assert run.account.skipped_frames == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"op":"hello"}',
        '{"op":"hello","visitor":"short"}',
        '{"op":"say","id":"a","text":"b"}',
        '{"op":"hello","visitor":"' + "G" * 32 + '"}',
    ],
)
async def test_a_hello_that_is_none_is_sent_away(text: str) -> None:
    async with chat() as (sim, run):
        sim.faults.arm("bad_hello", text=text)
        sim.open_tab()
        await sim.until(lambda: details(sim, "refused", "why") == ["hello"])
        assert run.messages == []


async def test_one_visitor_has_only_so_many_tabs() -> None:
    async with chat() as (sim, run):
        await met(sim, run)
        for _ in range(TABS):
            sim.open_tab()
        await sim.until(lambda: sim.count("welcome") == TABS)
        await sim.until(lambda: details(sim, "refused", "why") == ["tabs"])
        await met(sim, run, "bob")


# -- bad frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "what", "key"),
    [
        ("bad_frame", "bad_frame", None),
        ("binary_frame", "bad_frame", None),
        ("oversize_text", "text_too_long", "long"),
        ("oversize_files", "files_too_large", "big"),
    ],
)
async def test_a_bad_frame_is_answered_counted_and_harms_nobody(
    fault: str, what: str, key: str | None
) -> None:
    async with chat() as (sim, run):
        await met(sim, run, "bob")
        sim.faults.arm(fault)
        sim.say("after it")
        await sim.until(lambda: sim.count("stored") == 2)
        assert details(sim, "error", "error") == [what]
        assert details(sim, "error", "id") == [key]
        assert run.account.skipped_frames == 1
        assert run.messages[-1].text == "after it"
        assert sim.count("closed") == 0


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"sing"}',
        '{"op":"say","id":"x"}',
        '{"op":"say","id":"x","text":"  "}',
        '{"op":"say","id":"../x","text":"a"}',
        '{"op":"say","id":"x","text":7}',
        '{"op":"say","id":"x","files":[{"name":"a","mime":"b","data":"%"}]}',
        '{"op":"say","id":"x","text":"a","age":-1}',
        '{"op":"seen","id":""}',
        '{"op":"hello","visitor":"' + "0" * 32 + '"}',
        '{"op":"say","id":"x","text":"\\ud800"}',
        "[" * 100_000,
    ],
)
async def test_what_is_no_frame_is_skipped(text: str) -> None:
    async with chat() as (sim, run):
        sim.faults.arm("bad_frame", text=text)
        sim.say("fine")
        await sim.until(lambda: sim.count("stored") == 1)
        assert sim.count("error") == 1
        assert [message.text for message in run.messages] == ["fine"]


async def test_a_frame_beyond_all_measure_ends_its_own_socket_only() -> None:
    async with chat() as (sim, run):
        await met(sim, run, "bob")
        sim.faults.arm("oversize_frame")
        sim.say("in the end")
        await sim.until(lambda: sim.count("stored") == 2)
        assert run.messages[-1].text == "in the end"
        assert {record.detail["chat"] for record in sim.log if record.what == "closed"} <= {"alice"}
        assert run.account.view().generation == 1


async def test_a_flood_is_cut_off_and_starves_nobody() -> None:
    async with chat() as (sim, run):
        await met(sim, run, "bob")
        sim.faults.arm("flood", frames=5_000)
        sim.say("and this")
        sim.say("me too", chat="bob")
        await sim.until(lambda: sim.count("refused") == 1)
        assert details(sim, "refused", "why") == ["flood"]
        await sim.until(lambda: sim.count("stored") == 3)
        assert {message.text for message in run.messages[1:]} == {"and this", "me too"}
        assert run.account.view().generation == 1


async def test_a_visitor_may_say_much_but_not_for_ever() -> None:
    async with chat() as (sim, run):
        for number in range(3 * int(BURST)):
            sim.say(f"{number}")
        began = sim.now()
        await sim.until(lambda: sim.count("stored") == 3 * BURST, timeout=120)
        assert sim.now() - began >= BURST / PER_SECOND
        assert [m.text for m in run.messages] == [str(n) for n in range(3 * int(BURST))]


def test_every_word_of_the_gateway_is_known_to_the_page() -> None:
    text = webchat_page.page().decode()
    words = [*wire.Problem, wire.Refusal.HELLO, wire.Refusal.TABS, wire.Refusal.FLOOD]
    for word in words:
        assert len(re.findall(rf"\b{word}: \"", text)) == 2, f"{word} in both languages"
    assert 'why === "token"' in text
    for kind in wire.ToPage.__subclasses__():
        op = json.loads(wire.encode(kind(*[""] * len(kind.__struct_fields__))))["op"]
        assert op == "pong" or f'case "{op}":' in text


# -- check ---------------------------------------------------------------------------------------


async def check(config: Mapping[str, Any], hook_url: str | None) -> Any:
    """What an adapter without a connection says of itself."""
    client = Net(Resolver()).client()
    adapter = make_adapter(WebChat, config, AccountTools(client, hook_url))
    try:
        return await adapter.check()
    finally:
        await client.close()


async def test_a_check_names_the_page_and_who_can_reach_it() -> None:
    async with chat() as (_, run):
        health = await run.adapter.check()
        assert health.cause is None
        assert health.identity == f"the page at {page(run)}"
        assert health.notes == (
            "no `token` is set: whoever can reach the page can talk to the bot",
        )


async def test_a_check_tells_a_foreign_page_from_ours() -> None:
    async with WebChatSimulator(token="t") as sim:
        health = await check(sim.account(), sim.url)
        assert health.cause is not None
        assert health.cause.code == "webchat_not_our_page"
        assert "HTTP 404" in health.cause.message


async def test_a_check_without_a_gateway_is_no_verdict() -> None:
    async with WebChatSimulator(token="t") as sim:
        config, gone = sim.account(), sim.url
    health = await check(config, gone)
    assert health.cause is None
    assert "is the gateway running?" in health.notes[0]
    assert (await check(config, None)).identity == "the page at /chat"


async def test_a_check_says_that_the_page_is_not_served() -> None:
    async with chat(token="t") as (_, run):
        await run.account.pause()
        assert (await run.adapter.check()).notes == (
            "the gateway answers, but its page is not served at the moment",
        )


async def test_an_empty_token_asks_for_none() -> None:
    assert not WebChat.Settings().token  # type: ignore[attr-defined]
    async with chat(token="") as (sim, run):
        sim.token = "whatever"
        await met(sim, run)
        assert isinstance(run.adapter._settings.token, Secret)  # type: ignore[attr-defined]
