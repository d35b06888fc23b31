"""Platforms that answer everything and deliver nothing: their histories tell in five minutes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.adapter import Adapter, Link
from holdfast.adapters.discord import Discord
from holdfast.adapters.feishu import Feishu
from holdfast.adapters.mattermost import Mattermost
from holdfast.adapters.slack import Slack
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.messages import Outbound
from holdfast.supervision import Kind, Published
from tests.harness import Running, running

PLATFORMS: list[tuple[type[Adapter], type[Any]]] = [
    (Slack, SlackSimulator),
    (Mattermost, MattermostSimulator),
    (Discord, DiscordSimulator),
    (Feishu, FeishuSimulator),
]

platforms = pytest.mark.parametrize(("kind", "made"), PLATFORMS, ids=lambda it: it.__name__)

FIVE_MINUTES = 300.0


async def until(condition: Callable[[], object], limit: float = 2_000.0) -> None:
    """Wait on virtual time."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110  nobody tells what it waits for
            await asyncio.sleep(0.5)


@asynccontextmanager
async def greeted(kind: type[Adapter], made: type[Any]) -> AsyncIterator[tuple[Any, Running, Any]]:
    """A bot that has been told one message, and what its looks have found."""
    found: list[str | None] = []

    class Watched(kind):  # type: ignore[misc, valid-type]
        async def overlooked(self, link: Link) -> str | None:
            found.append(await super().overlooked(link))
            return found[-1]

    async with made() as sim, running(Watched, sim.account()) as bot:
        await bot.connected()
        sim.say("one")
        await until(lambda: len(bot.messages) == 1)
        yield sim, bot, found


@platforms
async def test_a_deaf_session_is_replaced_and_what_it_missed_comes_once_in_order(
    kind: type[Adapter], made: type[Any]
) -> None:
    async with greeted(kind, made) as (sim, bot, _):
        sim.faults.arm("mute", times=None)
        began = asyncio.get_running_loop().time()
        for text in ("two", "three", "four"):
            sim.say(text)
        await bot.published(Published.RETRYING)
        assert asyncio.get_running_loop().time() - began <= FIVE_MINUTES
        cause = bot.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.SESSION, f"{kind.platform}_deaf")
        sim.faults.clear("mute")
        await until(lambda: len(bot.messages) == 4, 4_000.0)
        texts = [message.text for message in bot.messages]
        if kind is Feishu:  # which repeats each in its own time
            texts[1:] = sorted(texts[1:], key=["two", "three", "four"].index)
        assert texts == ["one", "two", "three", "four"]
        sim.say("five")
        await until(lambda: bot.messages[-1].text == "five")
        assert len(bot.messages) == 5


@platforms
async def test_quiet_people_and_a_talking_bot_are_no_evidence(
    kind: type[Adapter], made: type[Any]
) -> None:
    async with greeted(kind, made) as (sim, bot, found):
        chat, context = bot.messages[0].chat, bot.messages[0].context
        sim.faults.arm("mute", times=None)  # the echo of what we say does not come either
        answer = Outbound(chat=chat, text="hello", key="k1", context=context)
        await bot.adapter.send(answer)
        await until(lambda: len(found) == 3)
        assert found == [None, None, None]
        assert bot.account.view().generation == 1


@platforms
async def test_the_group_counts_as_much_as_the_private_chat(
    kind: type[Adapter], made: type[Any]
) -> None:
    async with greeted(kind, made) as (sim, bot, found):
        sim.say("hello", chat="team", sender="bob", group=True)
        await until(lambda: len(bot.messages) == 2)
        sim.faults.arm("mute", times=None)
        sim.say("again", chat="team", sender="bob", group=True)
        await bot.published(Published.RETRYING)
        assert found[-1] is not None
        sim.faults.clear("mute")
        await until(lambda: len(bot.messages) == 3, 4_000.0)
        last = bot.messages[-1]
        assert (last.text, last.private, last.chat) == ("again", False, bot.messages[1].chat)


async def test_feishu_does_not_hold_an_old_finding_against_a_new_connection() -> None:
    async with greeted(Feishu, FeishuSimulator) as (sim, bot, found):
        sim.faults.arm("mute", times=None)
        sim.say("two")
        await bot.account.until(lambda view: view.generation == 2)
        await bot.connected()
        before = len(found)
        await until(lambda: len(found) == before + 2)
        assert found[before:] == [None, None]
        assert bot.account.view().generation == 2


async def test_feishu_without_the_scope_proves_nothing() -> None:
    async with greeted(Feishu, FeishuSimulator) as (sim, bot, found):
        sim.faults.arm("mute", times=None)
        sim.faults.arm("history_forbidden", times=None)
        sim.say("two")
        await until(lambda: len(found) == 2)
        assert sim.faults.played["history_forbidden"] == 2
        assert found == [None, None]
        assert bot.account.view().generation == 1


async def test_slack_proves_nothing_while_another_program_shares_the_events() -> None:
    async with SlackSimulator() as sim, running(Slack, sim.account()) as first:
        await first.connected()
        async with running(Slack, sim.account()) as second:
            await second.connected()
            while not second.messages:
                sim.say("for one of both")
                await asyncio.sleep(1)
            sim.faults.arm("mute", times=None)
            sim.say("for nobody")
            await asyncio.sleep(2 * FIVE_MINUTES)
            assert second.account.view().generation == 1


async def test_discord_fetches_long_histories_page_by_page() -> None:
    async with greeted(Discord, DiscordSimulator) as (sim, bot, _):
        sim.faults.arm("mute", times=None)
        for number in range(130):
            sim.say(f"{number}")
        await bot.published(Published.RETRYING)
        sim.faults.clear("mute")
        await until(lambda: len(bot.messages) == 131)
        assert [m.text for m in bot.messages[1:]] == [f"{number}" for number in range(130)]
        assert bot.account.last_gap is not None  # there may be channels it knows nothing of


async def test_discord_takes_no_edit_for_the_place_where_it_was() -> None:
    async with DiscordSimulator() as sim:
        old = sim.say("before the bot")
        sim.say("before the bot too")
        async with running(Discord, sim.account()) as bot:
            await bot.connected()
            sim.say("mended", edit_of=old)
            await asyncio.sleep(2 * FIVE_MINUTES)
            assert [message.text for message in bot.messages] == ["mended"]
            assert bot.account.view().generation == 1
            assert bot.account.last_gap is None


async def test_discord_finds_what_was_never_told_before_an_edit() -> None:
    async with greeted(Discord, DiscordSimulator) as (sim, bot, _):
        sim.faults.arm("mute", times=None)
        sim.say("two")
        three = sim.say("three")
        sim.faults.clear("mute")
        sim.say("three, mended", edit_of=three)
        await until(lambda: len(bot.messages) == 4)
        texts = [message.text for message in bot.messages]
        assert texts == ["one", "three, mended", "two", "three, mended"]
