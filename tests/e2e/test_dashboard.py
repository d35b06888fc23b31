"""The dashboard in a real browser: it tells the truth at once, and everybody can use it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bench.crowd import Crowd, crowd
from playwright.async_api import Locator, Page, expect

from holdfast.adapter import Secret
from holdfast.adapters import BUILT_IN
from holdfast.lab.cast import CAST
from holdfast.lab.configured import free_port
from holdfast.lab.demo import demo, served
from holdfast.lab.faults.relay import Relay
from holdfast.lab.play import Demo
from holdfast.lab.stage import SAMPLE
from holdfast.messages import Inbound
from holdfast.observe.status import TTL
from holdfast.store.protocol import Box
from holdfast.supervision import Kind, Published
from tests.e2e.browser import VISIBILITY, chromium, flaws, hide, looking, needs_chromium, show
from tests.e2e.process import Home

pytestmark = [
    needs_chromium,
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]

NOTICED_MS = 90_000
"""A platform that calls us tells nobody of its death; its way in is looked at within a minute."""

expect.set_options(timeout=20_000)


def card(page: Page, name: str) -> Locator:
    """The card of an account."""
    return page.get_by_role("article", name=name, exact=True)


def button(page: Page, label: str) -> Locator:
    """A button by its whole name."""
    return page.get_by_role("button", name=label, exact=True)


async def confirm(page: Page, answer: str) -> None:
    """Answer the question that the page asks."""
    await page.get_by_role("dialog").get_by_role("button", name=answer).click()


@asynccontextmanager
async def playing(*names: str) -> AsyncIterator[tuple[Demo, str]]:
    """The demo of some platforms with its watcher and without its faults; all are connected."""
    async with demo({name: CAST[name] for name in names}) as play, served(play) as url:
        for name in names:
            account = play.gateway.desk(name).account
            await account.until(lambda view: view.published is Published.CONNECTED)
        yield play, url


# -- the truth ------------------------------------------------------------------------------------


async def test_the_cable_of_every_platform_is_pulled_and_put_back() -> None:
    tall = {"width": 1280, "height": 4000}  # all cards are in sight, in trouble, too
    async with playing(*BUILT_IN) as (_, url), looking(url, viewport=tall) as page:
        summary = page.locator(".summary h1")
        await expect(summary).to_have_text(f"All {len(BUILT_IN)} accounts are connected.")
        for name in BUILT_IN:
            await expect(card(page, name)).to_contain_text("connected for")
            await button(page, f"Pull the cable {name}").click()
        for name in BUILT_IN:
            lost = card(page, name)
            await expect(lost).to_contain_text("not connected", timeout=NOTICED_MS)
            for told in ("Why", "Who must act", "What to do", "Next try"):
                await expect(lost.get_by_text(told, exact=True)).to_be_visible()
        await expect(summary).to_have_text(
            f"{len(BUILT_IN)} of {len(BUILT_IN)} not connected; Holdfast is on it."
        )
        await expect(page).to_have_title(re.compile("^10 of 10 not connected"))
        for name in BUILT_IN:
            await button(page, f"Put the cable back {name}").click()
        await expect(summary).to_have_text(
            f"All {len(BUILT_IN)} accounts are connected.", timeout=NOTICED_MS
        )
        await expect(page).to_have_title("Holdfast")


@pytest.mark.parametrize(
    ("locale", "label"), [("en-GB", "Open chat webchat"), ("zh-CN", "打开聊天 webchat")]
)
async def test_the_chat_page_is_one_step_from_its_card(locale: str, label: str) -> None:
    async with (
        playing("webchat", "telegram") as (play, url),
        looking(url, locale=locale) as page,
    ):
        link = card(page, "webchat").get_by_role("link", name=label, exact=True)
        await expect(link).to_have_attribute("href", play.gateway.status().accounts["webchat"].page)
        await expect(card(page, "telegram").get_by_text(label.split(" webchat")[0])).to_be_hidden()
        assert await flaws(page) == []
        async with page.expect_popup() as opening:
            await link.click()
        chat = await opening.value
        await expect(chat.get_by_role("textbox").first).to_be_visible()
        await play.gateway.pause("webchat")
        await expect(link).to_be_hidden()


async def test_a_page_of_another_machines_loopback_is_not_offered(tmp_path: Path) -> None:
    """Whoever looks from elsewhere would be led to nowhere."""
    async with crowd(tmp_path, 1) as site, looking(site.url) as page:
        told = await page.evaluate(
            """async () => {
                const { chatOf } = await import("/static/model.js");
                const at = (page) => ({ page, state: "connected" });
                const near = at("http://127.0.0.1:8070/chat");
                const far = at("https://bots.example.org/chat");
                const hosts = ["localhost", "gateway.lan"];
                return [near, far, at("")].map((one) => hosts.map((host) => chatOf(one, host)));
            }"""
        )
    near, far = "http://127.0.0.1:8070/chat", "https://bots.example.org/chat"
    assert told == [[near, ""], [far, far], ["", ""]]


async def test_only_what_somebody_paused_is_off(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, looking(site.url) as page:
        told = await page.evaluate(
            """async () => {
                const { needOf } = await import("/static/model.js");
                const states = ["stopped", "stopping", "connecting", "retrying", "fatal"];
                const need = (state, paused) => needOf({ state, paused, attention: false }, 0);
                return [true, false].map((paused) => states.map((state) => need(state, paused)));
            }"""
        )
    assert told == [["off"] * 5, ["down", "connecting", "connecting", "down", "person"]]


async def test_a_page_that_hears_nothing_says_so_and_never_connected(tmp_path: Path) -> None:
    """The stream stays open and mute: what the gateway knows of its own links holds here, too."""
    async with crowd(tmp_path, 3) as site, Relay("127.0.0.1", site.server.port) as relay:
        async with looking(relay.url("http"), quiet=False) as page:
            await expect(card(page, "bot-0001")).to_contain_text("connected for")
            relay.hole(new=True)
            await expect(page.locator("#alarm")).to_contain_text("not heard any more")
            for name in ("bot-0000", "bot-0001", "bot-0002"):
                told = await card(page, name).locator(".state").inner_text()
                assert told == "unknown it was connected when last heard of"
            await expect(page.locator(".summary h1")).to_have_text(
                "How the accounts are is unknown."
            )
            assert "nothing heard for" in await page.locator("#link").inner_text()
            relay.heal()
            await expect(page.locator("#alarm")).to_be_hidden(timeout=4_000 * TTL)
            await expect(card(page, "bot-0001")).to_contain_text("connected for")


async def test_the_eighth_tab_tells_and_acts(tmp_path: Path) -> None:
    """A browser opens six connections to a host; hidden tabs hold at most one of them."""
    async with crowd(tmp_path, 1) as site, looking(site.url) as page:
        await page.context.add_init_script(VISIBILITY)
        await page.reload()
        for _ in range(7):
            await expect(card(page, "bot-0000")).to_contain_text("connected for")
            await hide(page)
            page = await page.context.new_page()
            await page.goto(site.url)
        site.lose("bot-0000", Kind.CREDENTIALS)
        await expect(card(page, "bot-0000")).to_contain_text("refused for")
        generation = site.gateway.desk("bot-0000").account.view().generation
        await button(page, "Try now bot-0000").click()
        await confirm(page, "Try now")
        async with asyncio.timeout(20):
            await site.gateway.desk("bot-0000").account.until(
                lambda view: view.generation > generation
            )
        await expect(page.get_by_role("log")).to_contain_text("bot-0000")


async def test_a_hidden_tab_claims_nothing_and_is_back_at_once(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, Relay("127.0.0.1", site.server.port) as relay:
        async with looking(relay.url("http"), quiet=False) as watching:
            await watching.context.add_init_script(VISIBILITY)
            await watching.reload()
            await expect(watching).to_have_title("Holdfast")
            await hide(watching)
            await watching.wait_for_function(
                "navigator.locks.query().then((all) => all.held.length === 1)"
            )
            page = await watching.context.new_page()
            await page.goto(relay.url("http"))
            await expect(page).to_have_title("Holdfast")
            await hide(page)
            await expect(page).to_have_title("How the accounts are is unknown. – Holdfast")
            site.lose("bot-0000", Kind.CREDENTIALS)
            await expect(watching).to_have_title(re.compile("^1 account needs you"))
            relay.hole(new=True)
            async with page.expect_request("**/api/v1/events?last=*"):
                await show(page)
            link = page.locator("#link")
            await expect(link).to_contain_text("connecting to the gateway, last heard")
            state = card(page, "bot-0000").locator(".state")
            assert await state.inner_text() == "unknown it was connected when last heard of"
            await expect(page.locator("#alarm")).to_contain_text("not heard any more")
            assert await state.inner_text() == "unknown it was connected when last heard of"
            relay.heal()
            await expect(card(page, "bot-0000")).to_contain_text("refused for", timeout=4_000 * TTL)
            await expect(link).to_contain_text("live, heard")


async def test_a_page_lives_without_its_stream(tmp_path: Path) -> None:
    """Some proxies hold streams back until they end."""
    async with crowd(tmp_path, 1) as site, looking(site.url, quiet=False) as page:
        await page.route("**/api/v1/events*", lambda route: route.abort())
        await page.reload()
        await expect(card(page, "bot-0000")).to_contain_text("connected for")
        site.lose("bot-0000", Kind.CREDENTIALS)
        await expect(card(page, "bot-0000")).to_contain_text("refused for")
        await expect(page.locator("#alarm")).to_be_hidden()


async def test_evidence_that_has_run_out_is_not_believed(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, looking(site.url) as page:
        await expect(card(page, "bot-0000")).to_contain_text("connected for")
        told = await page.evaluate(
            """async () => {
                const { believed } = await import("/static/model.js");
                const one = { state: "connected", valid_until: 100 };
                const told = [[99, false], [101, false], [99, true]];
                return told.map(([now, stale]) => believed(one, now, stale));
            }"""
        )
        assert told == ["connected", "retrying", "unknown"]


async def test_who_must_act_and_what_to_type(tmp_path: Path) -> None:
    async with crowd(tmp_path, 5) as site, looking(site.url) as page:
        site.lose("bot-0003", Kind.CREDENTIALS)
        refused = card(page, "bot-0003")
        await expect(refused).to_contain_text("refused for")
        await expect(refused).to_contain_text(
            "The platform refused the credentials: shown the door"
        )
        await expect(refused).to_contain_text("you, or whoever runs this account")
        assert await refused.locator("code").all_inner_texts() == [
            "holdfast reload",
            "holdfast kick bot-0003",
        ]
        first = page.get_by_role("article").first
        assert await first.get_attribute("aria-label") == "bot-0003"
        await expect(page.locator(".summary h1")).to_have_text(
            "1 account needs you; 1 of 5 not connected."
        )


async def test_the_next_try_counts_down(tmp_path: Path) -> None:
    async with playing("telegram") as (play, url), looking(url) as page:
        play.pull("telegram")
        waiting = card(page, "telegram").get_by_text(re.compile(r"^in \d+ s, after [3-9] failures"))
        await waiting.wait_for()
        seen = set()
        for _ in range(20):
            seen.add((await card(page, "telegram").inner_text()).partition("Next try")[2][:8])
            await asyncio.sleep(SAMPLE)
        assert len(seen) > 1


async def test_an_incident_is_told_as_a_time_line() -> None:
    async with playing("qqbot") as (play, url), looking(url) as page:
        account = play.gateway.desk("qqbot").account
        play.pull("qqbot")
        await account.until(lambda view: view.attempt >= 2)
        play.put_back("qqbot")
        await account.until(lambda view: view.published is Published.CONNECTED)
        await page.get_by_role("link", name="qqbot", exact=True).click()
        line = page.locator("details.incident summary")
        await expect(line).to_contain_text("recovered after")
        await line.click()
        steps = await page.locator(".timeline li").all_inner_texts()
        kinds = ["last proof of life before", "lost", "trying again", "proof of life", "recovered"]
        found = [next(i for i, step in enumerate(steps) if kind in step) for kind in kinds[:3]]
        assert found == sorted(found)
        assert "proof of life" in steps[-2]
        assert "recovered after" in steps[-1]
        for bar in ("Last hour", "90 days"):
            picture = page.get_by_role("img", name=re.compile(bar))
            await expect(picture).to_have_accessible_name(re.compile(r"\d % of the .* known\. Not"))


async def test_a_chat_goes_on_over_a_restart_of_the_gateway(tmp_path: Path) -> None:
    """In the chat page a person sees every answer once, and what he said meanwhile is answered."""
    port = free_port()
    home = Home(tmp_path)
    settings = f'[gateway]\nhook_listen = "127.0.0.1:{port}"\n[web]\nlisten = "127.0.0.1:0"\n'
    home.write({"platform": "webchat", "agent": "echo"})
    home.config.write_text(settings + home.config.read_text())
    async with chromium() as browser:
        async with home.running() as gateway:
            await gateway.connected()
            context = await browser.new_context()
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{port}/chat")
            await chat(page, "before")
            await expect(page.locator(".message")).to_have_count(2)
            await gateway.kill9()
        await chat(page, "meanwhile")
        async with home.running() as gateway:
            await gateway.connected()
            await expect(page.locator(".message")).to_have_count(4, timeout=60_000)
            await chat(page, "after")
            await expect(page.locator(".message")).to_have_count(6)
            told = await page.locator(".message").all_inner_texts()
            shown = [text.partition("\n")[0] for text in told]
            said = ["before", "meanwhile", "after"]
            assert shown == [text for word in said for text in (word, f"echo: {word}")]
            await context.close()


async def chat(page: Page, text: str) -> None:
    """Say something to the bot."""
    await page.locator("#text").fill(text)
    await page.locator("#send").click()


# -- acting ---------------------------------------------------------------------------------------


async def test_kick_pause_and_resume_are_confirmed_and_noted() -> None:
    async with playing("telegram") as (play, url), looking(url) as page:
        account = play.gateway.desk("telegram").account
        await button(page, "Pause telegram").click()
        await confirm(page, "Cancel")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        assert account.view().published is Published.CONNECTED
        await button(page, "Pause telegram").click()
        await confirm(page, "Pause")
        await expect(card(page, "telegram")).to_contain_text("paused for")
        assert play.gateway.desk("telegram").paused
        await expect(page.get_by_role("log")).to_contain_text("telegram is paused.")
        await button(page, "Resume telegram").click()
        await confirm(page, "Resume")
        await expect(card(page, "telegram")).to_contain_text("connected for")
        play.pull("telegram")
        await account.until(lambda view: view.attempt >= 2)
        generation = account.view().generation
        await button(page, "Try now telegram").click()
        await confirm(page, "Try now")
        await account.until(lambda view: view.generation > generation)
        await page.get_by_role("link", name="Actions").click()
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(3)
        for row, deed in enumerate(("Try now", "Resume", "Pause")):
            await expect(rows.nth(row)).to_contain_text(f"{deed}: telegram")
            await expect(rows.nth(row)).to_contain_text("loopback 127.0.0.1")
            await expect(rows.nth(row)).to_contain_text("done")


async def test_what_is_refused_is_told_with_a_hint(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, looking(site.url, quiet=False) as page:
        site.lose("bot-0000", Kind.CREDENTIALS)
        await button(page, "Try now bot-0000").click()
        await site.gateway.pause("bot-0000")
        await confirm(page, "Try now")
        await expect(page.get_by_role("log")).to_contain_text("account 'bot-0000' is paused")
        await expect(page.get_by_role("log")).to_contain_text("holdfast resume bot-0000")


async def test_names_that_decode_to_nothing_break_no_view(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, looking(site.url + "#/account/%", quiet=False) as page:
        await expect(page.locator("h1")).to_contain_text("%")
        await page.get_by_role("link", name="Accounts", exact=True).click()
        await expect(card(page, "bot-0000")).to_contain_text("connected for")
        kick = "fetch('/api/v1/accounts/100%25/kick', {method: 'POST'}).then((one) => one.status)"
        assert await page.evaluate(kick) == 404
        await page.get_by_role("link", name="Actions").click()
        await expect(page.locator("tbody tr")).to_contain_text("Try now: 100%")


async def test_a_dead_letter_is_retried_and_another_dropped(tmp_path: Path) -> None:
    async with crowd(tmp_path, 2) as site, looking(site.url + "#/letters") as page:
        await expect(page.get_by_text("No message waits for a person.")).to_be_visible()
        letters = [Inbound(id=id, chat="den", sender="ann", text=f"<b>{id}</b>") for id in "ab"]
        rows = await site.gateway.store.receive("bot-0001", letters, None)
        for row in rows:
            await site.gateway.store.bury(row.row, "the agent gave up")
        await page.reload()
        await expect(page.locator("#dead-count")).to_have_text("2")
        first = page.get_by_role("listitem").filter(has_text="<b>a</b>")
        await expect(first).to_contain_text("the agent gave up")
        await first.get_by_role("checkbox").check()
        await button(page, "Retry").click()
        await confirm(page, "Retry")
        await expect(first).to_have_count(0)
        await page.get_by_role("checkbox").check()
        await button(page, "Drop").click()
        await confirm(page, "Drop")
        await expect(page.get_by_text("No message waits for a person.")).to_be_visible()
        await expect(page.locator("#dead-count")).to_be_hidden()
        states = {}
        for row in rows:
            entry = await site.gateway.store.entry(Box.INBOX, row.row)
            states[row.message.id] = entry.state if entry else None
        assert states == {"a": "done", "b": "dropped"}


# -- for everybody --------------------------------------------------------------------------------


VIEWS = ("#/", "#/account/bot-0002", "#/letters", "#/incidents", "#/actions")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
async def test_axe_finds_nothing_serious(scheme: str, locale: str, tmp_path: Path) -> None:
    phone = {"width": 360, "height": 740}
    async with crowd(tmp_path, 4) as site, chromium() as browser:
        site.lose("bot-0002")
        site.lose("bot-0003", Kind.CREDENTIALS)
        await site.until("bot-0003", Published.FATAL)
        await site.gateway.pause("bot-0001")
        letter = Inbound(id="a", chat="den", sender="ann", text="hello")
        (row,) = await site.gateway.store.receive("bot-0002", [letter], None)
        await site.gateway.store.bury(row.row, "the agent gave up")
        looks: dict[str, Any] = {"color_scheme": scheme, "locale": locale, "viewport": phone}
        async with looking(site.url, browser=browser, **looks) as page:
            for view in VIEWS:
                await page.goto(site.url + view)
                await page.locator("h1").first.wait_for()
                for details in await page.locator("details").all():
                    await details.locator("summary").click()
                assert await flaws(page) == [], view
                wide = await page.evaluate("document.documentElement.scrollWidth")
                assert wide <= phone["width"], f"{view} is {wide} pixels wide"
            await page.goto(site.url)
            assert await page.locator("html").get_attribute("lang") == locale[:2]
            await card(page, "bot-0000").get_by_role("button").first.click()
            await page.get_by_role("dialog").wait_for()
            assert await flaws(page) == []


async def test_by_keyboard_alone(tmp_path: Path) -> None:
    async with crowd(tmp_path, 3) as site, looking(site.url) as page:
        await expect(card(page, "bot-0001")).to_be_visible()
        focused = page.locator(":focus")
        await page.keyboard.press("Tab")
        await expect(focused).to_have_text("Skip to the content")
        await page.keyboard.press("/")
        await expect(focused).to_have_attribute("id", "search")
        await page.keyboard.type("0001")
        await expect(page.get_by_role("article")).to_have_count(1)
        for _ in range(2):  # over the filter, which is one stop
            await page.keyboard.press("Tab")
        await expect(focused).to_have_text("bot-0001")
        await page.keyboard.press("Tab")
        await expect(focused).to_have_accessible_name("Pause bot-0001")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(focused).to_have_accessible_name("Pause bot-0001")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await site.until("bot-0001", Published.STOPPED)


async def test_the_focus_stays_where_it_is_while_the_list_sorts(tmp_path: Path) -> None:
    async with crowd(tmp_path, 200) as site, looking(site.url) as page:
        await button(page, "Pause bot-0002").focus()
        for name in ("bot-0150", "bot-0160", "bot-0170"):
            site.lose(name, Kind.CREDENTIALS)
            await expect(card(page, name)).to_contain_text("refused")
        await page.evaluate("scrollTo(0, document.body.scrollHeight)")
        await expect(card(page, "bot-0199")).to_be_visible()
        await expect(page.locator(":focus")).to_have_accessible_name("Pause bot-0002")


async def test_both_languages_have_words_for_everything(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, looking(site.url) as page:
        words = await page.evaluate(
            """async () => {
                const of = async (name) => Object.keys((await import(name)).default);
                return [await of("/static/words.en.js"), await of("/static/words.zh.js")];
            }"""
        )
        english, chinese = map(set, words)
        hints = {f"hint.{kind}" for kind in Kind}
        assert chinese - english == hints
        assert english - chinese == set()
        assert {f"kind.{kind}" for kind in Kind} <= english
        assert {f"state.{state}" for state in Published} <= english
        await page.get_by_label("Language").select_option("zh")
        await expect(page.locator(".summary h1")).to_have_text("全部 1 个账号均已连接。")
        await page.reload()
        await expect(page.get_by_role("link", name="账号", exact=True)).to_be_visible()


async def test_the_colours_can_be_chosen(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1) as site, looking(site.url, color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(ground)
        await page.get_by_label("Colours").select_option("dark")
        dark = await page.evaluate(ground)
        assert light != dark
        await page.reload()
        assert await page.evaluate(ground) == dark


async def test_who_needs_a_token_logs_in_and_out(tmp_path: Path) -> None:
    token = Secret("open sesame")
    async with crowd(tmp_path, 1, token=token) as site, looking(site.url, quiet=False) as page:
        await page.get_by_label("Token of this gateway").fill(token.reveal())
        await page.get_by_role("button", name="Log in").click()
        await expect(card(page, "bot-0000")).to_contain_text("connected for")
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Token of this gateway")).to_be_visible()


# -- very many ------------------------------------------------------------------------------------


async def found(site: Crowd, page: Page, words: str) -> list[str]:
    """The accounts that a search leaves."""
    await page.get_by_role("searchbox").fill(words)
    await page.wait_for_function("document.querySelectorAll('article').length < 5")
    labels = [
        await one.get_attribute("aria-label") for one in await page.get_by_role("article").all()
    ]
    return [label or "" for label in labels]


async def test_a_thousand_accounts_are_searched_and_filtered(tmp_path: Path) -> None:
    async with crowd(tmp_path, 1_000) as site, looking(site.url) as page:
        await expect(page.locator(".summary h1")).to_have_text("All 1000 accounts are connected.")
        assert await page.get_by_role("article").count() < 40
        item = page.locator(".list > li").first
        assert await item.get_attribute("aria-setsize") == "1000"
        assert await found(site, page, "crowd 0777") == ["bot-0777"]
        await page.get_by_role("searchbox").fill("")
        site.lose("bot-0500", Kind.CREDENTIALS)
        await expect(page.get_by_role("article").first).to_have_accessible_name("bot-0500")
        await page.get_by_role("radio", name="Need you 1").check()
        await expect(page.get_by_text("1 of 1000 accounts shown")).to_be_visible()
        await expect(page.get_by_role("article")).to_have_count(1)
        await page.get_by_role("radio", name="All 1000").check()
        await expect(card(page, "bot-0000")).to_be_visible()
        await page.evaluate("scrollTo(0, document.body.scrollHeight)")
        await expect(card(page, "bot-0999")).to_be_visible()
        assert await page.get_by_role("article").count() < 40
