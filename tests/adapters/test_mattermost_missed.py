"""Mattermost, when the stream could not be resumed: what was missed is fetched, in order, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.adapters import mattermost_posts, mattermost_stream
from holdfast.adapters.mattermost import Mattermost
from holdfast.lab.simulators import mattermost_rules
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.supervision import Published
from holdfast.testing import MemoryStore
from tests.adapters.test_mattermost import again, arrived, bot, trouble
from tests.harness import running


def age(sim: MattermostSimulator) -> None:
    """All that was posted so far is an hour older."""
    for post in sim.posts.values():
        for date in ("create_at", "update_at"):
            post[date] -= 3_600_000


async def test_a_server_that_forgot_the_stream_is_asked_for_the_posts() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        sim.say("one")
        sim.say("all here?", chat="team", sender="bob", group=True)
        await arrived(seen, "one", "all here?")
        sim.restart()
        await sim.stop()
        sim.say("two")
        sim.say("new chat", chat="carol", sender="carol")
        sim.say("three", image=b"png")
        sim.say("and?", chat="team", sender="bob", group=True)
        await seen.published(Published.RETRYING)
        await sim.start()
        await again(seen)
        sim.say("live")
        await asyncio.sleep(2)
        by_chat: dict[str, list[str]] = {}
        for message in seen.messages:
            by_chat.setdefault(message.chat, []).append(message.text)
        assert by_chat == {
            sim.channel_id("alice"): ["one", "two", "three", "live"],
            sim.channel_id("team", group=True): ["all here?", "and?"],
            sim.channel_id("carol"): ["new chat"],
        }
        found = {message.text: message for message in seen.messages}
        assert (found["and?"].mentioned, found["and?"].private) == (True, False)
        assert (found["new chat"].sender_name, found["new chat"].private) == ("carol", True)
        assert len(found["three"].attachments) == 1
        assert await store.gaps("bot") == []
        assert (await store.cursor("bot"))["behind"] == {}


async def test_nothing_is_lost_or_doubled_over_losses_and_restarts() -> None:
    store = MemoryStore()
    async with MattermostSimulator() as sim:
        for n in range(3):
            async with running(Mattermost, sim.account(), store=store) as seen:
                await seen.connected()
                sim.say(f"live {n}")
                await asyncio.sleep(1)
                await sim.stop()
                sim.say(f"lost connection {n}")
                await seen.published(Published.RETRYING)
                await sim.start()
                await again(seen)
                await asyncio.sleep(2)
            sim.restart()
            sim.say(f"process down {n}")
        async with running(Mattermost, sim.account(), store=store) as seen:
            await seen.connected()
            await asyncio.sleep(2)
        stored = [row.message.text for row in store.inbox.values()]
        assert stored == [said.text for said in sim.said]
        assert await store.gaps("bot") == []


async def test_a_gap_in_the_numbers_is_fetched() -> None:
    async with bot() as (sim, seen):
        sim.say("one")
        await arrived(seen, "one")
        sim.faults.arm("seq_gap")
        sim.say("two")
        await asyncio.sleep(2 * mattermost_stream.BEAT)  # pings do not hide it
        sim.say("three")
        assert await trouble(seen, "mattermost_seq_gap") is Published.RETRYING
        await again(seen)
        await arrived(seen, "one", "two", "three")
        assert (sim.count("resume"), sim.count("login")) == (0, 2)


async def test_a_refused_resume_is_caught_up() -> None:
    async with bot() as (sim, seen):
        sim.say("one")
        await arrived(seen, "one")
        sim.faults.arm("refuse_resume")
        sim.drop_all()
        sim.say("two")
        await again(seen)
        await arrived(seen, "one", "two")
        assert (sim.count("resume"), sim.count("resumed"), sim.count("login")) == (1, 0, 2)


async def test_more_events_than_the_server_keeps_are_fetched() -> None:
    async with bot() as (sim, seen):
        sim.drop_all()
        for n in range(300):
            sim.say(f"m{n}")
        await again(seen)
        await arrived(seen, *(f"m{n}" for n in range(300)))


async def test_history_before_the_first_start_is_not_answered() -> None:
    store = MemoryStore()
    async with MattermostSimulator() as sim:
        sim.say("long ago")
        await asyncio.sleep(0)
        async with running(Mattermost, sim.account(), store=store) as seen:
            await seen.connected()
            sim.restart()
            await again(seen)
            sim.say("now")
            await arrived(seen, "now")
        assert len(store.inbox) == 1


async def test_edits_made_meanwhile_come_as_edits_and_deleted_posts_not_at_all() -> None:
    async with bot() as (sim, seen):
        known = sim.say("teh")
        await arrived(seen, "teh")
        sim.restart()
        sim.say("the", edit_of=known)
        fresh = sim.say("hlelo")
        sim.say("hello", edit_of=fresh)
        sim.erase(sim.say("oops"))
        await again(seen)
        _, edit, new = await arrived(seen, "teh", "the", "hello")
        assert (edit.edit_of, new.edit_of, new.id) == (known, None, fresh)


async def test_what_was_said_before_the_bot_was_added_is_not_for_it() -> None:
    async with bot() as (sim, seen):
        sim.restart()
        channel, bob = sim.channel_id("team", group=True), sim.user_id("bob")
        sim.create(sim.draft(bob, channel, "between us"))
        added: dict[str, Any] = {"type": "system_add_to_channel"}
        added["props"] = {"addedUserId": sim.bot_id}
        sim.create(sim.draft(bob, channel, "bot added", **added))
        sim.create(sim.draft(bob, channel, "welcome"))
        await again(seen)
        await arrived(seen, "welcome")


async def test_a_long_absence_is_fetched_page_by_page() -> None:
    async with bot() as (sim, seen):
        await sim.stop()
        for n in range(1_450):
            sim.say(f"m{n}")
        await seen.published(Published.RETRYING)
        await sim.start()
        await again(seen)
        await arrived(seen, *(f"m{n}" for n in range(1_450)))


@pytest.mark.parametrize("newest", [False, True])
async def test_a_full_answer_to_since_is_no_place_to_page_from(newest: bool) -> None:
    async with bot() as (sim, seen):
        sim.since_newest = newest
        first, topic = sim.say("first"), sim.say("topic")
        await arrived(seen, "first", "topic")
        age(sim)
        await sim.stop()
        for n in range(1_450):
            sim.say(f"m{n}")
        sim.say("first, mended", edit_of=first)
        sim.say("on topic", reply_to=topic)
        await seen.published(Published.RETRYING)
        await sim.start()
        await again(seen)
        texts = [f"m{n}" for n in range(1_450)]
        await arrived(seen, "first", "topic", "first, mended", *texts, "on topic")


@pytest.mark.parametrize(("newest", "found"), [(False, []), (True, ["first, mended"])])
async def test_edits_that_a_full_answer_may_have_left_out_are_a_gap(
    newest: bool, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mattermost_rules, "MAX_SINCE", 30)
    monkeypatch.setattr(mattermost_stream, "SINCE_PAGE", 30)
    monkeypatch.setattr(mattermost_stream, "PAGE", 10)
    async with bot() as (sim, seen):
        sim.since_newest = newest
        first = sim.say("first")
        old, new = ([f"{age} {n}" for n in range(35)] for age in ("old", "new"))
        for text in old:
            sim.say(text)
        await arrived(seen, "first", *old)
        age(sim)
        await sim.stop()
        for text in new:
            sim.say(text)
        sim.say("first, mended", edit_of=first)
        await seen.published(Published.RETRYING)
        await sim.start()
        await again(seen)
        await arrived(seen, "first", *old, *found, *new)
        assert seen.account.last_gap is not None
        assert "edits" in seen.account.last_gap.reason
        assert sim.channel_id("alice") in seen.account.last_gap.reason


async def test_pages_that_can_not_be_read_do_not_hide_what_is_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mattermost_rules, "MAX_SINCE", 20)
    monkeypatch.setattr(mattermost_stream, "SINCE_PAGE", 20)
    monkeypatch.setattr(mattermost_stream, "PAGE", 10)
    async with bot() as (sim, seen):
        sim.since_newest = True
        sim.restart()
        for n in range(15):
            sim.say(f"m{n}")
        for _ in range(10):
            sim.posts[sim.say("bad")]["message"] = 5
        await again(seen)
        await arrived(seen, *(f"m{n}" for n in range(15)))


async def test_what_is_too_much_to_fetch_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mattermost_stream, "PAGES", 2)
    async with bot() as (sim, seen):
        sim.since_newest = True
        await sim.stop()
        for n in range(1_300):
            sim.say(f"m{n}")
        await seen.published(Published.RETRYING)
        await sim.start()
        await again(seen)
        await arrived(seen, *(f"m{n}" for n in range(300, 1_300)))
        assert seen.account.last_gap is not None
        assert sim.channel_id("alice") in seen.account.last_gap.reason


async def test_a_history_that_is_refused_is_a_gap_and_ends_nothing() -> None:
    async with bot() as (sim, seen):
        error = {"id": "api.context.permissions.app_error", "message": "no"}
        sim.answers = (f"/channels/{sim.channel_id('alice')}/posts", 403, error)
        sim.restart()
        sim.say("behind closed doors")
        await again(seen)
        sim.say("live")
        await arrived(seen, "live")
        assert seen.account.last_gap is not None
        assert "refused" in seen.account.last_gap.reason
        assert seen.account.view().generation == 2


async def test_a_history_that_only_a_proxy_refuses_is_asked_for_again() -> None:
    async with bot() as (sim, seen):
        sim.answers = (f"/channels/{sim.channel_id('alice')}/posts", 403, None)
        sim.restart()
        sim.say("behind a proxy")
        await asyncio.sleep(30)
        assert "behind a proxy" not in [message.text for message in seen.messages]
        sim.answers = ("", 0, None)
        await arrived(seen, "behind a proxy")
        assert seen.account.last_gap is None


async def test_a_post_whose_event_came_late_is_found_by_the_next_catch_up() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("mute")
        sim.say("unannounced")
        sim.say("announced")
        await arrived(seen, "announced")
        sim.restart()
        await again(seen)
        await arrived(seen, "announced", "unannounced")


async def test_what_was_missed_comes_before_what_is_said_now() -> None:
    async with bot() as (sim, seen):
        await asyncio.sleep(1)  # the first ping is answered
        sim.faults.arm("ack_once_late", delay=5.0)
        sim.restart()
        sim.say("missed")
        await sim.until(lambda: sim.count("link-open") == 2)
        sim.say("early")
        assert seen.account.view().published is not Published.CONNECTED
        await again(seen)
        await arrived(seen, "missed", "early")


async def test_what_the_journal_has_forgotten_is_not_fetched_again() -> None:
    store = MemoryStore()
    async with MattermostSimulator() as sim:
        async with running(Mattermost, sim.account(), store=store) as seen:
            await seen.connected()
            said = sim.say("live")
            sim.say("corrected", edit_of=said)
            await arrived(seen, "live", "corrected")
            sim.restart()
            sim.say("missed")
            await again(seen)
            await arrived(seen, "live", "corrected", "missed")
        store.inbox.clear()
        for cursor in store._cursors.values():
            for date in ("since", "start"):
                cursor[date] -= 86_400_000
        for post in sim.posts.values():
            for date in ("create_at", "update_at", "edit_at"):
                post[date] -= 86_400_000 if post[date] else 0
        sim.restart()
        sim.say("a day later")
        async with running(Mattermost, sim.account(), store=store) as seen:
            await seen.connected()
            await arrived(seen, "a day later")


async def test_an_old_post_that_was_edited_before_we_knew_it_stays_history() -> None:
    async with MattermostSimulator() as sim:
        old = sim.say("long ago")
        sim.posts[old]["create_at"] -= 3_600_000
        async with running(Mattermost, sim.account()) as seen:
            await seen.connected()
            sim.restart()
            sim.say("changed", edit_of=old)
            sim.say("new")
            await again(seen)
            edit, new = await arrived(seen, "changed", "new")
            assert (edit.edit_of, new.edit_of) == (old, None)


async def test_names_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mattermost_posts, "NAMES", 2)
    async with bot() as (sim, seen):
        for n in range(5):
            sim.say("hi", chat=f"user {n}", sender=f"user {n}")
        messages = await arrived(seen, *(["hi"] * 5))
        assert [m.sender_name for m in messages] == [f"user {n}" for n in range(5)]
        assert len(seen.adapter._desk._names) <= 2  # type: ignore[attr-defined]


async def test_an_unreadable_post_in_a_page_is_skipped_alone() -> None:
    async with bot() as (sim, seen):
        sim.restart()
        sim.posts[sim.say("bad")]["message"] = 5
        sim.say("good")
        await again(seen)
        await arrived(seen, "good")
        assert seen.account.skipped_frames == 1


async def test_a_catch_up_that_fails_half_way_goes_on_where_it_was() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        sim.restart()
        sim.say("from alice")
        sim.say("from carol", chat="carol", sender="carol")
        sim.answers = (f"/channels/{sim.channel_id('carol')}/posts", 500, {})
        await trouble(seen, "mattermost_http_500")
        assert list((await store.cursor("bot"))["behind"]) == [sim.channel_id("carol")]
        sim.answers = ("", 0, None)
        await again(seen, 3)
        sim.say("live")
        await arrived(seen, "from alice", "from carol", "live")
        assert (await store.cursor("bot"))["behind"] == {}
        assert sim.count("resumed") >= 1  # the new stream itself was not lost


@pytest.mark.parametrize("status", [403, 404])
async def test_a_user_who_is_gone_or_hidden_has_no_name(status: int) -> None:
    async with bot() as (sim, seen):
        sim.restart()
        sim.say("goodbye")
        error = {"id": "app.user.missing_account.const", "message": "gone"}
        sim.answers = (f"/users/{sim.user_id('alice')}", status, error)
        seen.adapter._desk._names.clear()  # type: ignore[attr-defined]
        await again(seen)
        (message,) = await arrived(seen, "goodbye")
        assert message.sender_name == ""
