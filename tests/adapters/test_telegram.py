"""Telegram by long poll, on the real shell, against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.adapter import HttpFailed, Outcome, SendFailed, TextUnit
from holdfast.adapters import telegram
from holdfast.adapters.telegram import Telegram
from holdfast.errors import StoreError
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound
from holdfast.supervision import Kind, Published, State
from holdfast.testing import MemoryStore
from tests.harness import Running, running


@contextlib.asynccontextmanager
async def bot(
    store: MemoryStore | None = None, **settings: Any
) -> AsyncIterator[tuple[TelegramSimulator, Running]]:
    """A connected bot."""
    async with TelegramSimulator() as sim:
        async with running(Telegram, sim.account() | settings, store=store) as seen:
            await seen.connected()
            yield sim, seen


async def arrived(seen: Running, count: int = 1, timeout: float = 120.0) -> list[Inbound]:
    """Wait for so many messages."""
    async with asyncio.timeout(timeout):
        while len(seen.messages) < count:  # noqa: ASYNC110 - no event tells of a message
            await asyncio.sleep(0.25)
    return seen.messages


def shown(seen: Running) -> str:
    """Everything that was reported, as text."""
    return " ".join(repr(report.view) for report in seen.reports)


def codes(seen: Running) -> set[str]:
    return {report.view.cause.code for report in seen.reports if report.view.cause is not None}


async def trouble(seen: Running, code: str) -> None:
    """Wait for the end of a connection by this cause."""
    view = await seen.account.until(lambda v: v.cause is not None and v.cause.code == code)
    assert view.published in (Published.RETRYING, Published.FATAL)


def out(sim: TelegramSimulator, text: str = "hi", **fields: Any) -> Outbound:
    fields.setdefault("chat", str(sim.chat_id("alice")))
    return Outbound(key="k1", text=text, **fields)


# -- receiving ----------------------------------------------------------------------------------


async def test_private_text_comes_in_and_an_answer_quotes_it() -> None:
    async with bot() as (sim, seen):
        said = sim.say("hello")
        (message,) = await arrived(seen)
        assert message.text == "hello"
        assert message.chat == message.sender == str(sim.chat_id("alice"))
        assert message.sender_name == "Alice"
        assert message.private
        assert not message.mentioned
        assert message.at is not None
        assert abs(message.at - time.time()) < 60
        receipt = await seen.adapter.send(out(sim, "hi back", reply_to=message.id))
        (heard,) = sim.heard
        assert (heard.text, heard.reply_to) == ("hi back", said)
        assert receipt.id == f"{message.chat}:{heard.id}"


async def test_a_group_message_mentions_the_bot_and_stays_in_its_topic() -> None:
    async with bot() as (sim, seen):
        sim.say("status?", chat="ops", group=True, thread=42)
        (message,) = await arrived(seen)
        assert message.chat == str(sim.chat_id("ops", group=True))
        assert int(message.chat) < 0
        assert message.sender == str(sim.chat_id("alice"))
        assert (message.private, message.mentioned, message.thread) == (False, True, "42")
        answer = out(sim, "fine", chat=message.chat, thread=message.thread)
        await seen.adapter.send(answer)
        await seen.adapter.typing(message.chat, message.thread)
        assert sim.count("chat-action") == 1
        with pytest.raises(SendFailed, match="thread not found") as failed:
            await seen.adapter.send(out(sim, chat=message.chat, thread="43"))
        assert failed.value.outcome is Outcome.REFUSED


async def test_an_edit_is_a_message_of_its_own_that_names_what_it_replaces() -> None:
    async with bot() as (sim, seen):
        said = sim.say("helo")
        sim.say("hello", edit_of=said)
        sim.say("hello!", edit_of=said)
        first, second, third = await arrived(seen, 3)
        assert second.edit_of == third.edit_of == first.id
        assert len({first.id, second.id, third.id}) == 3
        await seen.adapter.send(out(sim, "yes", reply_to=third.id))
        assert sim.heard[-1].reply_to == said


async def test_a_reply_names_the_message_it_answers_and_addresses_the_bot_if_it_was_ours() -> None:
    async with bot() as (sim, seen):
        receipt = await seen.adapter.send(out(sim, "question?"))
        sim.say("answer", reply_to=sim.heard[-1].id)
        (message,) = await arrived(seen)
        assert message.reply_to == receipt.id
        assert message.mentioned


async def test_pictures_and_files_come_in() -> None:
    async with bot() as (sim, seen):
        sim.say("look", image=b"\xff\xd8 picture")
        sim.say("", file=("log.txt", b"all is well"))
        picture, file = await arrived(seen, 2)
        assert picture.text == "look"
        assert picture.attachments[0].kind is MediaKind.IMAGE
        assert await seen.adapter.fetch(picture.attachments[0]) == b"\xff\xd8 picture"
        assert file.attachments[0].name == "log.txt"
        assert file.attachments[0].mime == "text/plain"
        assert file.attachments[0].size == 11
        assert await seen.adapter.fetch(file.attachments[0]) == b"all is well"
        with pytest.raises(SendFailed, match="wrong file_id"):
            await seen.adapter.fetch(Attachment(kind=MediaKind.FILE, ref="gone"))


# -- sending ------------------------------------------------------------------------------------


async def test_pictures_and_files_go_out_with_a_caption() -> None:
    async with bot() as (sim, seen):
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=b"png")
        file = Attachment(kind=MediaKind.FILE, name="a.csv", mime="text/csv", data=b"1,2")
        await seen.adapter.send(out(sim, "see", attachments=(picture,)))
        await seen.adapter.send(out(sim, "", attachments=(file,)))
        assert [(h.media, h.text, h.data) for h in sim.heard] == [
            ("photo", "see", b"png"),
            ("a.csv", "", b"1,2"),
        ]
        with pytest.raises(SendFailed, match="more than one file") as failed:
            await seen.adapter.send(out(sim, attachments=(picture, file)))
        assert failed.value.outcome is Outcome.REFUSED


async def test_a_picture_too_large_for_a_photo_goes_as_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telegram, "MAX_PHOTO", 3)
    async with bot() as (sim, seen):
        for data in (b"123", b"1234"):
            picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=data)
            await seen.adapter.send(out(sim, attachments=(picture,)))
        assert [h.media for h in sim.heard] == ["photo", "a.png"]


def png(width: int, height: int) -> bytes:
    """The beginning of a picture of that size."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wide.png", png(9_000, 1_001)),
        ("thin.png", png(20, 401)),
        ("plot.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("IMG_1.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    ],
    ids=["wide", "thin", "svg", "heic"],
)
async def test_a_picture_telegram_takes_for_no_photo_goes_as_a_file(name: str, data: bytes) -> None:
    async with bot() as (sim, seen):
        said = sim.say("show me")
        picture = Attachment(kind=MediaKind.IMAGE, name=name, data=data)
        receipt = await seen.adapter.send(out(sim, "here", attachments=(picture,), reply_to=said))
        (heard,) = sim.heard
        assert (heard.media, heard.text, heard.data) == (name, "here", data)
        assert (heard.reply_to, heard.id) == (said, receipt.id.partition(":")[2])


@pytest.mark.parametrize(("width", "height"), [(9_000, 1_000), (20, 400), (400, 20)])
async def test_a_picture_telegram_just_takes_goes_as_a_photo(width: int, height: int) -> None:
    async with bot() as (sim, seen):
        data = png(width, height)
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=data)
        await seen.adapter.send(out(sim, attachments=(picture,)))
        assert [h.media for h in sim.heard] == ["photo"]


async def test_a_photo_for_a_chat_that_is_gone_is_refused_all_the_same() -> None:
    async with bot() as (_, seen):
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=b"png")
        with pytest.raises(SendFailed, match="chat not found") as failed:
            await seen.adapter.send(Outbound(key="k", chat="1", text="", attachments=(picture,)))
        assert failed.value.outcome is Outcome.REFUSED


async def test_an_own_message_is_edited_and_an_unchanged_one_is_no_error() -> None:
    async with bot() as (sim, seen):
        receipt = await seen.adapter.send(out(sim, "one"))
        for text in ("one, two", "one, two"):
            assert await seen.adapter.send(out(sim, text, edit_of=receipt.id)) == receipt
        assert [h.text for h in sim.heard] == ["one", "one, two"]
        with pytest.raises(SendFailed, match="message to edit not found") as failed:
            await seen.adapter.send(out(sim, "x", edit_of="1:1"))
        assert failed.value.outcome is Outcome.REFUSED


async def test_an_answer_to_a_message_that_is_gone_goes_out_all_the_same() -> None:
    async with bot() as (sim, seen):
        for gone in ("1:999", "not an id"):
            await seen.adapter.send(out(sim, "still here", reply_to=gone))
        assert [(h.text, h.reply_to) for h in sim.heard] == [("still here", None)] * 2


async def test_the_declared_limit_is_what_the_server_takes() -> None:
    async with bot() as (sim, seen):
        traits = seen.adapter.traits
        assert traits.text_unit is TextUnit.UTF16  # never longer than the same in characters
        await seen.adapter.send(out(sim, "x" * traits.max_text))
        with pytest.raises(SendFailed, match="too long") as failed:
            await seen.adapter.send(out(sim, "x" * (traits.max_text + 1)))
        assert failed.value.outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("fault", "outcome", "kind", "code"),
    [
        ("send_429", Outcome.NOT_SENT, Kind.THROTTLED, "telegram_rate_limited"),
        ("send_403", Outcome.REFUSED, Kind.REFUSED, "telegram_forbidden"),
        ("http_502", Outcome.UNKNOWN, Kind.UNREACHABLE, "telegram_network_error"),
        ("http_504", Outcome.UNKNOWN, Kind.UNREACHABLE, "telegram_network_error"),
        ("html_200", Outcome.UNKNOWN, Kind.UNREACHABLE, "telegram_network_error"),
        ("malformed_json", Outcome.UNKNOWN, Kind.PROTOCOL, "telegram_network_error"),
        ("unauthorized", Outcome.NOT_SENT, Kind.CREDENTIALS, "telegram_unauthorized"),
    ],
)
async def test_what_is_known_of_a_failed_send(
    fault: str, outcome: Outcome, kind: Kind, code: str
) -> None:
    async with bot() as (sim, seen):
        chat = out(sim)
        await asyncio.sleep(1.0)  # the first held poll is on its way and will not meet the fault
        sim.faults.arm(fault)
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(chat)
        assert failed.value.outcome is outcome
        assert (failed.value.cause.kind, failed.value.cause.code) == (kind, code)
        assert failed.value.cause.retry_after == (5.0 if fault == "send_429" else None)
        assert sim.token not in str(failed.value)


async def test_a_send_whose_answer_is_lost_may_have_arrived() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("send_answer_lost")
        with pytest.raises(HttpFailed) as failed:
            await seen.adapter.send(out(sim, "once"))
        assert failed.value.sent
        assert failed.value.cause.code == "telegram_network_error"
        assert [h.text for h in sim.heard] == ["once"]


async def test_a_send_that_never_left_may_be_repeated() -> None:
    async with bot() as (sim, seen):
        message = out(sim)
        await sim.stop()
        with pytest.raises(HttpFailed) as failed:
            await seen.adapter.send(message)
        assert not failed.value.sent


# -- the connection -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("http_502", Kind.UNREACHABLE),
        ("http_504", Kind.UNREACHABLE),
        ("html_200", Kind.UNREACHABLE),
        ("malformed_json", Kind.PROTOCOL),
        ("close_before_answer", Kind.LOST),
        ("poll_hangs", Kind.TIMEOUT),
        ("poll_drips", Kind.TIMEOUT),
    ],
)
async def test_a_failed_poll_is_published_and_mended(fault: str, kind: Kind) -> None:
    async with bot() as (sim, seen):
        sim.faults.arm(fault, times=None)
        await trouble(seen, "telegram_network_error")
        view = seen.account.view()
        assert view.published is Published.RETRYING
        assert view.cause is not None
        assert view.cause.kind is kind
        assert view.attempt == 1
        assert view.retry_at is not None
        sim.say("meanwhile")
        sim.faults.clear()
        await seen.connected()
        assert [m.text for m in await arrived(seen)] == ["meanwhile"]
        assert codes(seen) == {"telegram_network_error"}


async def test_a_connection_closed_between_two_polls_is_no_failure() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("close_after_answer", times=3)
        for number in range(5):
            sim.say(f"m{number}")
            await arrived(seen, number + 1)
        assert seen.states()[-1] is Published.CONNECTED
        assert not codes(seen)


async def test_a_server_that_is_down_is_retried_until_it_is_back() -> None:
    async with bot() as (sim, seen):
        await sim.stop()
        await trouble(seen, "telegram_network_error")
        sim.say("meanwhile")
        await sim.start()
        await seen.connected()
        assert [m.text for m in await arrived(seen)] == ["meanwhile"]


async def test_connected_is_said_only_after_a_poll_has_succeeded() -> None:
    async with TelegramSimulator() as sim:
        sim.faults.arm("poll_hangs")
        async with running(Telegram, sim.account()) as seen:
            await trouble(seen, "telegram_network_error")
            assert Published.CONNECTED not in seen.states()
            await seen.connected()


@pytest.mark.slow
async def test_quiet_hours_are_proved_by_empty_polls() -> None:
    async with bot() as (sim, seen):
        await asyncio.sleep(3600)
        view = seen.account.view()
        assert view.published is Published.CONNECTED
        assert view.generation == 1
        assert view.last_proof is not None
        assert view.at - view.last_proof <= 26
        assert view.valid_until == view.last_proof + 40  # the poll, its margin, and a grace
        assert 140 <= sim.count("poll") <= 150


async def test_a_limit_of_the_platform_is_waited_for() -> None:
    async with TelegramSimulator() as sim:
        sim.faults.arm("rate_limited", retry_after=90)
        async with running(Telegram, sim.account()) as seen:
            await trouble(seen, "telegram_rate_limited")
            before = sim.now()
            view = seen.account.view()
            assert view.retry_at is not None
            assert view.retry_at - view.at >= 89
            await seen.connected()
            assert sim.now() - before >= 89


async def test_a_second_poller_is_reported_and_after_a_while_left_to_a_person() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("conflict", times=None)
        await trouble(seen, "telegram_conflict")
        cause = seen.account.view().cause
        assert cause is not None
        assert cause.kind is Kind.REPLACED
        assert "other program" in cause.advice
        await seen.published(Published.FATAL)
        sim.faults.clear()
        await seen.connected()  # looks again by itself


async def test_the_former_self_may_linger() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("lingering_poll", seconds=60)
        await trouble(seen, "telegram_conflict")
        await seen.connected()
        assert Published.FATAL not in seen.states()


async def test_a_rival_on_the_same_token_is_noticed() -> None:
    async with bot() as (sim, seen):
        async with sim.rival():
            await trouble(seen, "telegram_conflict")
        await seen.connected()
        assert seen.account.view().state is State.LIVE


async def test_a_leftover_web_hook_is_removed_and_its_updates_are_kept() -> None:
    async with TelegramSimulator() as sim:
        await leave_hook(sim)
        sim.say("waiting")
        async with running(Telegram, sim.account()) as seen:
            await seen.connected()
            assert [m.text for m in await arrived(seen)] == ["waiting"]
            assert sim.count("hook-deleted") == 1
            await asyncio.sleep(2.0)
            await leave_hook(sim)  # somebody sets one while we poll
            await trouble(seen, "telegram_conflict")
            await seen.connected()
            assert sim.count("hook-deleted") == 2


async def leave_hook(sim: TelegramSimulator) -> None:
    url = f"{sim.url}/bot{sim.token}/setWebhook"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data={"url": "http://127.0.0.1:9/old"}) as reply:
            assert reply.status == 200


# -- credentials --------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["123456:AAF-not-the-right-one", "nonsense"])
async def test_a_wrong_token_is_fatal_at_once(token: str) -> None:
    async with TelegramSimulator() as sim:
        async with running(Telegram, sim.account() | {"token": token}) as seen:
            await seen.published(Published.FATAL)
            cause = seen.account.view().cause
            assert cause is not None
            assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "telegram_unauthorized")
            assert "@BotFather" in cause.advice
            assert seen.account.view().generation == 1
            assert token not in shown(seen)
            assert token not in seen.adapter.identity


async def test_a_revoked_token_is_confirmed_then_fatal_and_a_kick_brings_it_back() -> None:
    async with bot() as (sim, seen):
        sim.revoke_token()
        await seen.published(Published.FATAL)
        assert seen.account.view().generation == 2  # one independent check between
        health = await seen.adapter.check()
        assert health.cause is not None
        assert health.cause.code == "telegram_unauthorized"
        sim.restore()
        seen.account.kick(operator=True)
        await seen.connected()
        assert sim.token not in shown(seen)


async def test_one_wrong_refusal_is_not_believed() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("unauthorized")
        sim.say("x")
        await seen.account.until(lambda view: view.cause is not None)
        await seen.connected()
        assert Published.FATAL not in seen.states()


async def test_check_explains_itself() -> None:
    async with bot() as (sim, seen):
        health = await seen.adapter.check()
        assert health.cause is None
        assert health.identity == "@gate_test_bot (bot 123456)"
        assert any("privacy mode" in note for note in health.notes)
        assert seen.adapter.identity == "123456"
        await leave_hook(sim)
        health = await seen.adapter.check()
        assert any("127.0.0.1:9" in note for note in health.notes)
        await sim.stop()
        health = await seen.adapter.check()
        assert health.cause is not None
        assert health.cause.code == "telegram_network_error"
        assert sim.token not in f"{health} {shown(seen)}"


async def test_an_unusable_base_url_is_shown_without_the_token() -> None:
    config = {"token": "123456:AAF-secret", "base_url": "nonsense"}
    async with running(Telegram, config) as seen:
        await seen.account.until(lambda view: view.cause is not None)
        cause = seen.account.view().cause
        assert cause is not None
        assert cause.code == "bad_url"
        assert "AAF-secret" not in shown(seen)


# -- the journal --------------------------------------------------------------------------------


async def test_nothing_is_lost_or_doubled_over_a_restart() -> None:
    store = MemoryStore()
    async with TelegramSimulator() as sim:
        async with running(Telegram, sim.account(), store=store) as seen:
            await seen.connected()
            sim.say("one")
            await arrived(seen)
        sim.say("two")
        async with running(Telegram, sim.account(), store=store) as seen:
            assert [m.text for m in await arrived(seen)] == ["two"]
            await sim.until(lambda: sim.pending() == 0)
        assert [r.message.text for r in store.inbox.values()] == ["one", "two"]


@pytest.mark.slow
async def test_what_could_not_be_stored_is_not_confirmed() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        store.fail = StoreError("disk_full", "no space left", "make room")
        sim.say("keep me")
        await seen.account.until(lambda view: view.cause is not None)
        cause = seen.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.LOCAL, "disk_full")
        await asyncio.sleep(60)
        assert sim.pending() == 1
        store.fail = None
        assert [m.text for m in await arrived(seen)] == ["keep me"]
        await seen.connected()
        await sim.until(lambda: sim.pending() == 0)


async def test_an_offset_beyond_the_server_s_ids_does_no_harm() -> None:
    async with bot() as (sim, seen):
        sim.say("one")
        await arrived(seen)
        await sim.until(lambda: sim.pending() == 0)
        sim.faults.arm("id_jump", to=17)
        for text in ("two", "three"):
            sim.say(text)
        assert [m.text for m in await arrived(seen, 3)] == ["one", "two", "three"]
        await sim.until(lambda: sim.pending() == 0)
        assert seen.account.view().generation == 1


@pytest.mark.parametrize(("age", "gaps"), [(90_000.0, 1), (80_000.0, 0)])
async def test_an_outage_longer_than_the_platform_remembers_is_a_gap(age: float, gaps: int) -> None:
    store = MemoryStore()
    seen_at = time.time() - age
    await store.receive("bot", (), {"offset": 5, "seen_at": seen_at})
    async with bot(store) as (_, seen):
        await asyncio.sleep(60)
        found = await store.gaps("bot")
        assert len(found) == gaps
        assert all(gap.since == seen_at for gap in found)
        assert seen.account.view().published is Published.CONNECTED
        # A quiet account stores the time as well: the next outage is measured from here.
        assert time.time() - (await store.cursor("bot"))["seen_at"] < 60
