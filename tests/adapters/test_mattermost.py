"""Mattermost on the real shell against the simulator: what comes in, and what was missed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from holdfast.adapters import mattermost_stream
from holdfast.adapters.mattermost import Mattermost
from holdfast.errors import StoreError
from holdfast.lab.simulator import Handler
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.messages import Inbound, MediaKind
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, running


class Contrary(MattermostSimulator):
    """Never answers calls to one path, and answers those to another in its own way."""

    stalled = ""
    answers: tuple[str, int, Any] = ("", 0, None)

    def routes(self, app: web.Application) -> None:
        super().routes(app)
        app.middlewares.append(self._contradict)

    @web.middleware
    async def _contradict(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path, status, body = self.answers
        if self.stalled and request.path.endswith(self.stalled):
            await asyncio.Event().wait()
        if path and request.path.endswith(path):
            return web.json_response(body, status=status)
        return await handler(request)


@contextlib.asynccontextmanager
async def bot(store: MemoryStore | None = None) -> AsyncIterator[tuple[Contrary, Running]]:
    """A connected bot on a simulator of its own."""
    async with Contrary() as sim, running(Mattermost, sim.account(), store=store) as seen:
        await seen.connected()
        yield sim, seen


async def arrived(seen: Running, *texts: str) -> list[Inbound]:
    """Wait for exactly these texts, in this order, and for nothing after them."""
    async with asyncio.timeout(400):
        while len(seen.messages) < len(texts):  # noqa: ASYNC110 - no event tells of a message
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert [message.text for message in seen.messages] == list(texts)
    return seen.messages


async def trouble(seen: Running, code: str) -> Published:
    """Wait for the end of a connection by this cause."""
    async with asyncio.timeout(700):
        view = await seen.account.until(lambda v: v.cause is not None and v.cause.code == code)
    return view.published


async def again(seen: Running, generation: int = 2) -> None:
    """Wait until a later connection is up."""
    async with asyncio.timeout(700):
        await seen.account.until(
            lambda v: v.published is Published.CONNECTED and v.generation >= generation
        )


def codes(seen: Running) -> set[str]:
    """The causes of all reports."""
    return {report.view.cause.code for report in seen.reports if report.view.cause is not None}


# -- what people write ----------------------------------------------------------------------------


async def test_a_private_message_comes_in() -> None:
    async with bot() as (sim, seen):
        said = sim.say("hello")
        (message,) = await arrived(seen, "hello")
        assert (message.id, message.chat) == (said, sim.channel_id("alice"))
        assert (message.sender, message.sender_name) == (sim.user_id("alice"), "alice")
        assert (message.private, message.mentioned) == (True, False)
        assert (message.thread, message.reply_to, message.edit_of) == (None, None, None)
        assert message.at == sim.posts[said]["create_at"] / 1000


async def test_in_a_group_the_leading_mention_is_address_and_not_text() -> None:
    async with bot() as (sim, seen):
        sim.say("status?", chat="team", sender="bob", group=True)
        channel, bob = sim.channel_id("team", group=True), sim.user_id("bob")
        for text in ("lunch?", "ask @Holdfast.", "@holdfast-two and @holdfast.b", "x@holdfast"):
            sim.create(sim.draft(bob, channel, text))
        messages = await arrived(
            seen,
            "status?",
            "lunch?",
            "ask @Holdfast.",
            "@holdfast-two and @holdfast.b",
            "x@holdfast",
        )
        assert [m.mentioned for m in messages] == [True, False, True, False, False]
        assert not any(m.private for m in messages)
        assert {m.chat for m in messages} == {channel}


async def test_answers_belong_to_the_thread_of_what_they_answer() -> None:
    async with bot() as (sim, seen):
        root = sim.say("first")
        reply = sim.say("second", reply_to=root)
        sim.say("third", reply_to=reply)
        messages = await arrived(seen, "first", "second", "third")
        assert [m.thread for m in messages] == [None, root, root]
        assert [m.reply_to for m in messages] == [None, root, root]


async def test_files_are_fetched_by_reference() -> None:
    async with bot() as (sim, seen):
        sim.say("look", image=b"\x89PNG", file=("report.pdf", b"%PDF"))
        (message,) = await arrived(seen, "look")
        image, file = message.attachments
        assert (image.kind, image.mime) == (MediaKind.IMAGE, "image/png")
        assert (file.kind, file.name, file.size) == (MediaKind.FILE, "report.pdf", 4)
        assert await seen.adapter.fetch(image) == b"\x89PNG"
        assert await seen.adapter.fetch(file) == b"%PDF"


async def test_a_post_without_metadata_still_names_its_files() -> None:
    async with bot() as (sim, seen):
        alice, channel = sim.user_id("alice"), sim.channel_id("alice")
        info = sim.store(alice, channel, "a.bin", b"data")
        post = sim.draft(alice, channel, "bare", file_ids=[info["id"]])
        sim.create(post)
        post["metadata"] = None
        sim.edit(post, "bare again")
        messages = await arrived(seen, "bare", "bare again")
        assert [m.attachments[0].ref for m in messages] == [info["id"]] * 2


async def test_an_edit_is_a_message_of_its_own_that_names_what_it_replaces() -> None:
    async with bot() as (sim, seen):
        said = sim.say("teh", chat="team", group=True)
        sim.say("the", chat="team", group=True, edit_of=said)
        first, edit = await arrived(seen, "teh", "the")
        assert (edit.edit_of, edit.mentioned, edit.private) == (said, True, False)
        assert edit.id != first.id
        assert edit.chat == first.chat


async def test_an_edit_in_a_channel_never_heard_of_asks_what_it_is() -> None:
    async with MattermostSimulator() as sim:
        said = sim.say("before the bot", sender="carol", chat="carol")
        async with running(Mattermost, sim.account()) as seen:
            await seen.connected()
            seen.adapter._desk._kinds.clear()  # type: ignore[attr-defined]
            sim.say("after", sender="carol", chat="carol", edit_of=said)
            (message,) = await arrived(seen, "after")
            assert (message.private, message.sender_name) == (True, "carol")


@pytest.mark.parametrize("status", [403, 404])
async def test_an_edit_in_a_channel_that_we_left_is_skipped(status: int) -> None:
    store = MemoryStore()
    async with Contrary() as sim:
        async with running(Mattermost, sim.account(), store=store) as seen:
            await seen.connected()
            said = sim.say("before", chat="team", group=True)
            await arrived(seen, "before")
        error = {"id": "api.context.permissions.app_error", "message": "no"}
        sim.answers = (f"/channels/{sim.channel_id('team', group=True)}", status, error)
        sim.say("after", chat="team", group=True, edit_of=said)
        async with running(Mattermost, sim.account(), store=store) as seen:
            await seen.connected()
            sim.say("live")
            await arrived(seen, "live")
            assert seen.account.skipped_frames == 1
            assert seen.account.view().generation == 1
        assert (sim.count("login"), sim.count("resumed")) == (1, 1)


async def test_nobodys_business_is_not_taken_in() -> None:
    async with bot() as (sim, seen):
        channel, bob = sim.channel_id("team", group=True), sim.user_id("bob")
        sim.create(sim.draft(sim.bot_id, channel, "own echo"))
        sim.create(sim.draft(bob, channel, "another bot", props={"from_bot": "true"}))
        sim.create(sim.draft(bob, channel, "a hook", props={"from_webhook": "true"}))
        sim.create(sim.draft(bob, channel, "bob joined", type="system_join_channel"))
        pinned = sim.draft(bob, channel, "pinned")
        sim.create(pinned)
        sim._announce("post_edited", pinned, {"post": json.dumps(pinned)})  # as a pin does
        sim.erase(pinned["id"])
        sim.say("for you")
        await arrived(seen, "pinned", "for you")
        assert seen.account.skipped_frames == 0


async def test_a_thread_reply_that_the_server_notifies_us_of_is_for_us() -> None:
    async with bot() as (sim, seen):
        channel, bob = sim.channel_id("team", group=True), sim.user_id("bob")
        root = sim.draft(sim.bot_id, channel, "shall I?")
        sim.create(root)
        # The simulator mentions whom it finds in the text.
        sim.create(sim.draft(bob, channel, "yes, says x@holdfast", root["id"]))
        sim.create(sim.draft(bob, channel, "all: x@holdfast"))
        first, second = await arrived(seen, "yes, says x@holdfast", "all: x@holdfast")
        assert (first.mentioned, second.mentioned) == (True, False)


@pytest.mark.parametrize(
    ("fault", "raw", "skipped"),
    [
        ("unknown_event", None, 0),
        ("dup_event", None, 0),
        ("split_frame", None, 0),
        ("bad_frame", None, 1),
        ("bad_frame", "[]", 1),
        ("bad_frame", '{"event": "posted", "data": {}}', 1),
        ("bad_frame", '{"seq": "x"}', 1),
        ("bad_frame", '{"status": "OK", "seq_reply": 9, "data": {"server_time": "now"}}', 1),
    ],
)
async def test_odd_frames_end_nothing(fault: str, raw: str | None, skipped: int) -> None:
    async with bot() as (sim, seen):
        params: dict[str, Any] = {"raw": raw} if raw else {}
        sim.faults.arm(fault, **params)
        sim.say("one")
        sim.say("two")
        await arrived(seen, "one", "two")
        assert seen.account.skipped_frames == skipped
        assert seen.account.view().generation == 1


@pytest.mark.parametrize("raw", ["{not json", "{}", "5", '{"id": 7}'])
async def test_a_post_that_can_not_be_read_is_skipped_and_counted(raw: str) -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("bad_post", raw=raw)
        sim.say("bad")
        sim.say("good")
        await arrived(seen, "good")
        assert seen.account.skipped_frames == 1
        assert seen.account.view().generation == 1


# -- losses that the stream mends -----------------------------------------------------------------


async def test_a_lost_connection_is_resumed_where_the_journal_ends() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        first = sim.say("one")
        await arrived(seen, "one")
        cursor = await store.cursor("bot")
        sim.drop_all()
        sim.say("two")
        await again(seen)
        await arrived(seen, "one", "two")
        (resume,) = [record.detail for record in sim.log if record.what == "resume"]
        assert resume["seq"] == cursor["seq"]
        assert first in [record.detail["id"] for record in sim.log if record.what == "ack"]
        assert (sim.count("login"), sim.count("fetched")) == (1, 0)
        assert await store.gaps("bot") == []


async def test_a_close_is_resumed_as_well() -> None:
    async with bot() as (sim, seen):
        sim.close_all(1001)
        assert await trouble(seen, "mattermost_close_1001") is Published.RETRYING
        sim.say("during")
        await again(seen)
        await arrived(seen, "during")
        assert sim.count("resumed") == 1


async def test_a_resume_replays_even_where_nothing_was_missed() -> None:
    async with bot() as (sim, seen):
        sim.drop_all()
        await again(seen)
        sim.say("after")
        await arrived(seen, "after")
        assert (sim.count("resumed"), sim.count("login")) == (1, 1)


async def test_a_restart_of_the_process_resumes_too() -> None:
    store = MemoryStore()
    async with MattermostSimulator() as sim:
        for n in range(3):
            async with running(Mattermost, sim.account(), store=store) as seen:
                await seen.connected()
                await arrived(seen, *([f"down {n - 1}"] if n else []))
                sim.say(f"live {n}")
                await arrived(seen, *([f"down {n - 1}"] if n else []), f"live {n}")
            sim.say(f"down {n}")
        stored = [row.message.text for row in store.inbox.values()]
        assert stored == ["live 0", "down 0", "live 1", "down 1", "live 2"]
        assert (sim.count("login"), sim.count("resumed")) == (1, 2)


async def test_numbers_of_events_without_messages_are_stored_with_the_next_ping() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        sim.create(sim.draft(sim.bot_id, sim.channel_id("alice"), "own"))
        await asyncio.sleep(1)
        before = (await store.cursor("bot"))["seq"]
        await asyncio.sleep(mattermost_stream.BEAT)
        assert (await store.cursor("bot"))["seq"] == before + 1
        assert seen.account.view().generation == 1


# -- the journal ----------------------------------------------------------------------------------


async def test_what_is_not_stored_is_not_acknowledged() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        store.fail = StoreError("disk_full", "the disk is full")
        said = sim.say("keep me")
        assert await trouble(seen, "disk_full") is Published.RETRYING
        cause = seen.account.view().cause
        assert cause is not None
        assert cause.kind is Kind.LOCAL
        await asyncio.sleep(20)
        assert said not in [record.detail["id"] for record in sim.log if record.what == "ack"]
        store.fail = None
        await again(seen)
        await arrived(seen, "keep me")
