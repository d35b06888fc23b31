"""Matrix by long polls, on the real shell, against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from holdfast.adapter import HttpFailed, HttpReply, Outcome, Secret, SendFailed, TextUnit
from holdfast.adapters.matrix import Matrix, MatrixSettings
from holdfast.adapters.matrix_api import Event, MatrixApi, entrance, outcome_of
from holdfast.adapters.matrix_stream import PAGE, PAGES, TIMELINE
from holdfast.errors import StoreError
from holdfast.lab.simulator import Handler
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.matrix_rooms import mxid
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, running

ME = mxid("bot")


@contextlib.asynccontextmanager
async def bot(
    store: MemoryStore | None = None, *, greeted: bool = True, **settings: Any
) -> AsyncIterator[tuple[MatrixSimulator, Running]]:
    """A connected bot; greeted, it is in alice's room and has seen her first words."""
    async with (
        MatrixSimulator() as sim,
        running(Matrix, sim.account() | settings, store=store) as seen,
    ):
        await seen.connected()
        if greeted:
            sim.say("first words")
            await arrived(seen)
            seen.messages.clear()
        yield sim, seen


class Contrary(MatrixSimulator):
    """Never answers calls to one path, and refuses those to another."""

    stalled = ""
    refused: tuple[str, int] = ("", 0)

    def routes(self, app: web.Application) -> None:
        super().routes(app)
        app.middlewares.append(self._contradict)

    @web.middleware
    async def _contradict(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path, status = self.refused
        if self.stalled and self.stalled in request.path:
            await asyncio.Event().wait()
        if path and path in request.path:
            return web.json_response({"errcode": "M_FORBIDDEN", "error": "no"}, status=status)
        return await handler(request)


async def arrived(seen: Running, count: int = 1, timeout: float = 120.0) -> list[Inbound]:
    """Wait for so many messages."""
    async with asyncio.timeout(timeout):
        while len(seen.messages) < count:  # noqa: ASYNC110 - no event tells of a message
            await asyncio.sleep(0.25)
    return seen.messages


async def quiet(sim: MatrixSimulator, seconds: float = 65.0) -> None:
    """Time for everything that is on its way to arrive: two polls and more."""
    await asyncio.sleep(seconds)
    assert sim.pending() == 0


async def trouble(seen: Running, code: str) -> Published:
    """Wait for the end of a connection by this cause."""
    async with asyncio.timeout(300):
        view = await seen.account.until(lambda v: v.cause is not None and v.cause.code == code)
    return view.published


def texts(seen: Running) -> list[str]:
    return [message.text for message in seen.messages]


def out(sim: MatrixSimulator, text: str = "hi", *, key: str = "k1", **fields: Any) -> Outbound:
    fields.setdefault("chat", sim.room_id("alice"))
    return Outbound(key=key, text=text, **fields)


# -- receiving ------------------------------------------------------------------------------------


async def test_private_text_comes_in_and_a_reply_goes_out() -> None:
    async with bot() as (sim, seen):
        said = sim.say("hello")
        (message,) = await arrived(seen)
        assert (message.id, message.chat) == (said, sim.room_id("alice"))
        assert (message.sender, message.sender_name) == ("@alice:sim.local", "alice")
        assert (message.text, message.private, message.mentioned) == ("hello", True, False)
        assert message.at is not None
        receipt = await seen.adapter.send(out(sim, reply_to=said))
        (heard,) = sim.heard
        assert (heard.id, heard.text, heard.reply_to) == (receipt.id, "hi", said)


async def test_a_group_message_tells_whether_it_is_for_the_bot() -> None:
    async with bot(greeted=False) as (sim, seen):
        sim.say("ready?", chat="team", group=True)
        for body in ("lunch?", "robots unite", "Bot: lunch?", f"and {ME}?"):
            sim.emit("m.room.message", {"msgtype": "m.text", "body": body}, chat="team")
        await arrived(seen, 5)
        assert [m.mentioned for m in seen.messages] == [True, False, False, True, True]
        assert not any(m.private for m in seen.messages)


async def test_a_private_room_becomes_a_group_when_a_third_person_joins() -> None:
    async with bot() as (sim, seen):
        sim.say("just us")
        await arrived(seen)
        carol = {"membership": "join", "displayname": "Carol"}
        room = sim._rooms.chats["alice"]
        sim._rooms.append(
            room, "m.room.member", "@carol:sim.local", carol, state_key="@carol:sim.local"
        )
        sim.say("hi all", sender="carol")
        await arrived(seen, 2)
        assert [(m.private, m.sender_name) for m in seen.messages] == [
            (True, "alice"),
            (False, "Carol"),
        ]


async def test_replies_threads_and_edits_are_told_apart() -> None:
    async with bot() as (sim, seen):
        root = sim.said[0].id
        sim.say("> <@bot:sim.local> hi\n> there\n\nanswer", reply_to=root)
        sim.say("aside", thread=root)
        sim.say("aside answered", thread=root, reply_to="$other")
        sim.say("corrected", edit_of=root)
        reply, aside, answered, edit = await arrived(seen, 4)
        assert (reply.text, reply.reply_to, reply.mentioned) == ("answer", root, True)
        assert (aside.thread, aside.reply_to) == (root, None)
        assert (answered.thread, answered.reply_to) == (root, "$other")
        assert (edit.text, edit.edit_of, edit.reply_to) == ("corrected", root, None)
        assert edit.id != root


async def test_pictures_and_files_come_in_and_can_be_fetched() -> None:
    async with bot() as (sim, seen):
        sim.say("look", image=b"png bytes")
        sim.say("", file=("notes.txt", b"text"))
        picture, file = await arrived(seen, 2)
        assert (picture.text, file.text) == ("look", "")
        (image,), (notes,) = picture.attachments, file.attachments
        assert (image.kind, image.mime, image.size) == (MediaKind.IMAGE, "image/png", 9)
        assert (notes.kind, notes.name) == (MediaKind.FILE, "notes.txt")
        assert await seen.adapter.fetch(image) == b"png bytes"
        assert await seen.adapter.fetch(notes) == b"text"
        for ref in ("mxc://sim.local/gone", "mxc://../../client/v3/sync", "https://evil/x"):
            with pytest.raises(SendFailed) as failed:
                await seen.adapter.fetch(Attachment(kind=MediaKind.FILE, ref=ref))
            assert failed.value.outcome is Outcome.REFUSED


async def test_nobodys_business_is_not_taken_in() -> None:
    async with bot(msgtype="m.text") as (sim, seen):
        await seen.adapter.send(out(sim, "own echo"))
        sim.emit("m.room.message", {"msgtype": "m.notice", "body": "another bot"})
        sim.emit("m.room.message", {})  # what is left of a redacted message
        sim.emit("m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "key": "+1"}})
        sim.say("for you")
        await arrived(seen)
        assert texts(seen) == ["for you"]
        assert seen.account.skipped_frames == 0


async def test_bad_and_encrypted_messages_are_skipped_and_the_room_is_named() -> None:
    async with bot() as (sim, seen):
        sim.emit("m.room.message", {"msgtype": "m.text", "body": 5})
        sim.emit("m.room.message", {"msgtype": "m.text", "body": "x", "m.relates_to": []})
        sim.emit("m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"})
        sim.say("still here")
        await arrived(seen)
        assert texts(seen) == ["still here"]
        assert seen.account.skipped_frames == 3
        assert seen.account.view().generation == 1
        (note,) = (await seen.adapter.check()).notes
        assert "encrypted" in note
        assert sim.room_id("alice") in note


# -- invitations and history ----------------------------------------------------------------------


async def test_what_was_said_with_an_invitation_is_answered_once_and_the_past_never() -> None:
    store = MemoryStore()
    async with MatrixSimulator() as sim:
        sim._old_messages("bob", 3)
        sim.say("while you were away")  # invited before the account first came up
        for _ in range(2):
            async with running(Matrix, sim.account(), store=store) as seen:
                await seen.connected()
                sim.say("and now")
                await arrived(seen)
                await quiet(sim)
        assert [r.message.text for r in store.inbox.values()] == [
            "while you were away",
            "and now",
            "and now",
        ]


async def test_after_an_invitation_even_many_words_are_found() -> None:
    async with bot(greeted=False) as (sim, seen):
        sim.faults.arm("close_before_answer")  # they pile up while the bot reconnects
        for n in range(TIMELINE + PAGE + 30):
            sim.say(f"m{n}")
        await arrived(seen, TIMELINE + PAGE + 30)
        assert texts(seen) == [f"m{n}" for n in range(TIMELINE + PAGE + 30)]
        assert seen.account.last_gap is None


async def test_what_was_said_before_the_invitation_is_not_for_the_bot() -> None:
    async with bot(greeted=False) as (sim, seen):
        alice = "@alice:sim.local"
        room = sim._rooms.create("old", alice)
        for n in range(3):
            content = {"msgtype": "m.text", "body": f"between us {n}"}
            sim._rooms.append(room, "m.room.message", alice, content)
        sim.say("come in", chat="old")
        await arrived(seen)
        await quiet(sim)
        assert texts(seen) == ["come in"]


async def test_a_second_invitation_does_not_bring_the_past_back() -> None:
    async with bot() as (sim, seen):
        sim.kick("alice")
        await asyncio.sleep(1)
        sim.say("come back")
        await arrived(seen)
        await quiet(sim)
        assert texts(seen) == ["come back"]


async def test_invitations_wait_until_auto_join_is_on() -> None:
    store = MemoryStore()
    async with MatrixSimulator() as sim:
        async with running(Matrix, sim.account() | {"auto_join": False}, store=store) as seen:
            await seen.connected()
            sim.say("hello?")
            await asyncio.sleep(65)
            assert (sim.count("joined"), seen.messages) == (0, [])
        async with running(Matrix, sim.account(), store=store) as seen:
            await arrived(seen)
            assert texts(seen) == ["hello?"]


async def test_an_invitation_that_was_withdrawn_is_skipped() -> None:
    store = MemoryStore()
    await store.receive("bot", (), {"since": "s0_1_0_1", "invites": ["!gone"]})
    async with MatrixSimulator() as sim, running(Matrix, sim.account(), store=store) as seen:
        sim.say("hello")
        await arrived(seen)
        assert seen.account.skipped_frames == 1
        assert seen.account.view().published is Published.CONNECTED
        await quiet(sim)
        assert (await store.cursor("bot"))["invites"] == []


@pytest.mark.parametrize("fault", ["replay_history", "stale_next_batch"])
async def test_history_is_not_answered(fault: str) -> None:
    async with MatrixSimulator() as sim:
        sim.faults.arm(fault)
        if fault == "stale_next_batch":
            sim._old_messages("alice", 8)
        async with running(Matrix, sim.account()) as seen:
            await seen.connected()
            sim.say("new")
            await arrived(seen)
            await quiet(sim)
            assert texts(seen) == ["new"]


def member(kind: str, user: str = ME, before: str = "") -> Event:
    unsigned = {"prev_content": {"membership": before}} if before else {}
    return msgspec.convert(
        {"type": "m.room.member", "sender": user, "event_id": "$m", "state_key": user}
        | {"content": msgspec.Raw(msgspec.json.encode({"membership": kind}))}
        | {"unsigned": {k: msgspec.Raw(msgspec.json.encode(v)) for k, v in unsigned.items()}},
        Event,
    )


@pytest.mark.parametrize(
    ("events", "place"),
    [
        ([member("invite"), member("join")], (0, True)),
        ([member("invite"), member("join"), member("join", before="join")], (0, True)),
        ([member("leave"), member("join"), member("join", "@a:b")], (1, True)),
        ([member("join"), member("leave"), member("invite"), member("join")], (2, True)),
        ([member("invite", "@a:b"), member("join")], (1, False)),
        ([], (0, False)),
    ],
)
def test_where_a_stay_begins(events: list[Event], place: tuple[int, bool]) -> None:
    assert entrance(events, ME) == place


# -- the stream -----------------------------------------------------------------------------------


async def test_a_limited_answer_is_filled_from_the_history() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("limited_timeline")
        for n in range(6):
            sim.say(f"m{n}")
        await arrived(seen, 6)
        assert texts(seen) == [f"m{n}" for n in range(6)]
        assert sim.faults.played["limited_timeline"] == 1
        assert seen.account.last_gap is None


async def test_a_history_that_is_refused_is_a_gap() -> None:
    async with Contrary() as sim, running(Matrix, sim.account()) as seen:
        await seen.connected()
        sim.say("first words")
        await arrived(seen)
        sim.refused = ("/messages", 403)
        sim.faults.arm("limited_timeline")
        for n in range(3):
            sim.say(f"m{n}")
        await arrived(seen, 2)
        assert texts(seen) == ["first words", "m2"]
        assert seen.account.last_gap is not None
        assert "refused" in seen.account.last_gap.reason
        assert seen.account.view().generation == 1


async def test_more_than_can_be_fetched_is_a_gap() -> None:
    async with bot() as (sim, seen):
        many = PAGES * PAGE + TIMELINE + 40
        for n in range(many):
            sim.emit("m.room.message", {"msgtype": "m.text", "body": f"m{n}"})
        await arrived(seen, many - 40)
        assert texts(seen) == [f"m{n}" for n in range(40, many)]
        assert seen.account.last_gap is not None
        assert sim.room_id("alice") in seen.account.last_gap.reason


async def test_nothing_is_lost_or_doubled_over_losses_and_restarts() -> None:
    store = MemoryStore()
    async with MatrixSimulator() as sim:
        for n in range(3):
            async with running(Matrix, sim.account(), store=store) as seen:
                await seen.connected()
                sim.say(f"live {n}")
                await sim.stop()
                sim.say(f"lost connection {n}")
                await seen.published(Published.RETRYING)
                await sim.start()
                await arrived(seen, 2)
                await quiet(sim)
            sim.say(f"process down {n}")
        async with running(Matrix, sim.account(), store=store) as seen:
            await arrived(seen)
        stored = [row.message.text for row in store.inbox.values()]
        assert stored == [said.text for said in sim.said]
        assert await store.gaps("bot") == []


async def test_what_is_not_stored_is_not_acknowledged() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        store.fail = StoreError("disk_full", "the disk is full")
        sim.say("keep me")
        assert await trouble(seen, "disk_full") is Published.RETRYING
        cause = seen.account.view().cause
        assert cause is not None
        assert cause.kind is Kind.LOCAL
        assert sim.pending() == 1
        store.fail = None
        await arrived(seen)
        await quiet(sim)
        assert texts(seen) == ["keep me"]


async def test_a_stored_place_that_is_no_good_is_tried_once() -> None:
    store = MemoryStore()
    await store.receive("bot", (), {"since": "garbage"})
    async with MatrixSimulator() as sim, running(Matrix, sim.account(), store=store) as seen:
        async with asyncio.timeout(30):
            await seen.connected()
        places = [record.detail["since"] for record in sim.log if record.what == "sync"]
        assert places[0] is None  # the place refused before it is noted
        assert seen.account.view().generation == 2


async def test_an_unknown_place_is_given_up_and_reported_as_a_gap() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("bad_since")
        await trouble(seen, "matrix_bad_since")
        await seen.connected()
        assert seen.account.last_gap is not None
        assert "place in the stream" in seen.account.last_gap.reason
        sim.say("after")
        await arrived(seen)
        assert texts(seen) == ["after"]


# -- sending --------------------------------------------------------------------------------------


async def test_threads_edits_and_notices_are_what_people_see() -> None:
    async with bot() as (sim, seen):
        root = sim.said[0].id
        first = await seen.adapter.send(out(sim, "draft", key="1", thread=root))
        await seen.adapter.send(out(sim, "final", key="2", edit_of=first.id))
        draft, final = sim.heard
        assert (draft.text, draft.reply_to) == ("draft", root)
        assert (final.text, final.edit_of) == ("final", first.id)
        events = [event.content for event in sim._rooms.chats["alice"].events[-2:]]
        assert [content["msgtype"] for content in events] == ["m.notice", "m.notice"]
        assert events[0]["m.relates_to"]["rel_type"] == "m.thread"
        assert events[1]["body"] == "* final"


async def test_pictures_and_files_go_out_with_their_caption() -> None:
    async with bot() as (sim, seen):
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", mime="image/png", data=b"png")
        await seen.adapter.send(out(sim, "look", key="1", attachments=(picture,)))
        notes = Attachment(kind=MediaKind.FILE, name="notes.txt", data=b"text")
        await seen.adapter.send(out(sim, "", key="2", attachments=(notes,)))
        assert [(h.text, h.media, h.data) for h in sim.heard] == [
            ("look", "a.png", b"png"),
            ("notes.txt", "notes.txt", b"text"),
        ]


async def test_typing_is_shown() -> None:
    async with bot() as (sim, seen):
        await seen.adapter.typing(sim.room_id("alice"))
        assert [r.detail for r in sim.log if r.what == "typing"] == [{"chat": "alice", "on": True}]


async def test_a_repeated_key_is_one_message_even_when_the_answer_was_lost() -> None:
    assert Matrix.traits.idempotent == 1_800.0
    async with bot() as (sim, seen):
        sim.faults.arm("send_answer_lost", times=2)  # the library itself repeats a PUT once
        with pytest.raises(HttpFailed) as failed:
            await seen.adapter.send(out(sim, "once"))
        assert failed.value.sent
        await seen.adapter.send(out(sim, "once"))
        assert [heard.text for heard in sim.heard] == ["once"]


async def test_failed_sends_say_what_is_known() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("send_429", retry_after_ms=3000)
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim))
        assert failed.value.outcome is Outcome.NOT_SENT
        assert failed.value.cause.retry_after == 3.0
        sim.faults.arm("send_502")
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim))
        assert failed.value.outcome is Outcome.UNKNOWN
        assert failed.value.cause.code == "matrix_network_error"
        for message in (out(sim, chat="!elsewhere"), out(sim, "x" * 70_000)):
            with pytest.raises(SendFailed) as failed:
                await seen.adapter.send(message)
            assert failed.value.outcome is Outcome.REFUSED
        sim.revoke()
        picture = Attachment(kind=MediaKind.IMAGE, data=b"png")
        for message in (out(sim), out(sim, attachments=(picture,))):
            with pytest.raises(SendFailed) as failed:
                await seen.adapter.send(message)
            assert failed.value.outcome is Outcome.NOT_SENT
        await sim.stop()
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim, attachments=(picture,)))
        assert failed.value.outcome is Outcome.NOT_SENT
        assert sim.heard == []


async def test_the_declared_limit_fits_an_event_even_as_an_edit() -> None:
    assert Matrix.traits.text_unit is TextUnit.BYTES
    async with bot() as (sim, seen):
        longest = "ü" * (Matrix.traits.max_text // 2)
        receipt = await seen.adapter.send(out(sim, longest, key="1"))
        await seen.adapter.send(out(sim, longest, key="2", edit_of=receipt.id))
        assert [heard.text for heard in sim.heard] == [longest, longest]


@pytest.mark.parametrize(
    ("status", "body", "code", "outcome"),
    [
        (403, b'{"errcode":"M_USER_SUSPENDED"}', "matrix_user_suspended", Outcome.NOT_SENT),
        (403, b'{"errcode":"M_FORBIDDEN"}', "matrix_forbidden", Outcome.REFUSED),
        (429, b"slow down", "matrix_rate_limited", Outcome.NOT_SENT),
        (403, b"<html>blocked</html>", "matrix_http_403", Outcome.UNKNOWN),
        (413, b"<html>Request Entity Too Large</html>", "matrix_http_413", Outcome.REFUSED),
        (500, b'{"errcode":"M_UNKNOWN"}', "matrix_network_error", Outcome.UNKNOWN),
    ],
)
def test_error_answers(status: int, body: bytes, code: str, outcome: Outcome) -> None:
    settings = MatrixSettings(homeserver="http://hs", user_id="@b:hs", access_token=Secret("t"))
    reply = HttpReply(status, {}, body)
    cause = MatrixApi(settings).cause(reply)
    assert (cause.code, outcome_of(reply)) == (code, outcome)
    assert (cause.retry_after == 5.0) is (status == 429)
