"""What the Mattermost adapter sends, and what it knows when a send fails."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from holdfast.adapter import HttpFailed, HttpReply, Outcome, Secret, SendFailed
from holdfast.adapters import mattermost
from holdfast.adapters.mattermost import Mattermost, MattermostSettings
from holdfast.adapters.mattermost_api import Api, outcome_of
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.messages import Attachment, MediaKind, Outbound
from holdfast.supervision import Kind
from tests.adapters.test_mattermost import arrived, bot
from tests.harness import running


def out(sim: MattermostSimulator, text: str = "hi", *, key: str = "k-1", **fields: Any) -> Outbound:
    fields.setdefault("chat", sim.channel_id("alice"))
    return Outbound(key=key, text=text, **fields)


async def test_text_goes_out_with_its_keys() -> None:
    async with bot() as (sim, seen):
        receipt = await seen.adapter.send(out(sim))
        (heard,) = sim.heard
        assert (heard.id, heard.text, heard.chat, heard.reply_to) == (
            receipt.id,
            "hi",
            "alice",
            None,
        )
        assert sim.posts[receipt.id]["props"]["holdfast_key"] == "k-1"


async def test_an_answer_goes_into_the_thread_of_what_it_answers() -> None:
    async with bot() as (sim, seen):
        root = sim.say("question")
        reply = sim.say("more", reply_to=root)
        edit = f"{root}.1795197471581"
        await seen.adapter.send(out(sim, "to the question", key="1", reply_to=root))
        await seen.adapter.send(out(sim, "to more", key="2", thread=root, reply_to=reply))
        await seen.adapter.send(out(sim, "to the edit", key="3", reply_to=edit))
        assert [heard.reply_to for heard in sim.heard] == [root, root, root]


async def test_an_answer_outlives_the_question() -> None:
    async with bot() as (sim, seen):
        root = sim.say("question")
        sim.erase(root)
        await seen.adapter.send(out(sim, "answer", reply_to=root))
        assert [(heard.text, heard.reply_to) for heard in sim.heard] == [("answer", None)]


async def test_pictures_and_files_go_out_with_their_caption() -> None:
    async with bot() as (sim, seen):
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", mime="image/png", data=b"png")
        notes = Attachment(kind=MediaKind.FILE, data=b"text")
        await seen.adapter.send(out(sim, "look", key="1", attachments=(picture,)))
        await seen.adapter.send(out(sim, "", key="2", attachments=(notes,)))
        assert [(h.text, h.media, h.data) for h in sim.heard] == [
            ("look", "a.png", b"png"),
            ("", "file", b"text"),
        ]


async def test_an_own_message_is_edited() -> None:
    async with bot() as (sim, seen):
        receipt = await seen.adapter.send(out(sim, "draft"))
        assert await seen.adapter.send(out(sim, "final", key="2", edit_of=receipt.id)) == receipt
        assert [(h.text, h.edit_of) for h in sim.heard] == [("draft", None), ("final", receipt.id)]
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim, "x", key="3", edit_of="gone"))
        assert failed.value.outcome is Outcome.REFUSED
        await asyncio.sleep(1)
        assert seen.messages == []  # neither of them comes back as somebody's message


async def test_typing_is_shown_and_a_busy_server_is_no_trouble() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("typing_busy")
        await seen.adapter.typing(sim.channel_id("alice"))
        assert sim.count("typing") == 0
        await seen.adapter.typing(sim.channel_id("alice"), "t1")
        assert [r.detail["chat"] for r in sim.log if r.what == "typing"] == ["alice"]


async def test_the_declared_limit_is_the_servers() -> None:
    async with bot() as (sim, seen):
        longest = "ü" * Mattermost.traits.max_text
        await seen.adapter.send(out(sim, longest, key="1"))
        assert [heard.text for heard in sim.heard] == [longest]
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim, longest + "ü", key="2"))
        assert failed.value.outcome is Outcome.REFUSED


# -- one message, once ----------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 600.0])
async def test_a_repeated_key_is_one_message_even_when_the_answer_was_lost(pause: float) -> None:
    assert Mattermost.traits.idempotent == math.inf
    async with bot() as (sim, seen):
        said = sim.say("question")
        (question,) = await arrived(seen, "question")
        message = out(sim, "once", context=question.context)
        sim.faults.arm("send_answer_lost")
        with pytest.raises(HttpFailed) as failed:
            await seen.adapter.send(message)
        assert failed.value.sent
        await asyncio.sleep(pause)  # past 30 s the server itself has forgotten the key
        receipt = await seen.adapter.send(message)
        assert [heard.id for heard in sim.heard] == [receipt.id]
        assert question.context["post"] == said


async def test_a_new_process_finds_what_the_old_one_may_have_sent() -> None:
    async with MattermostSimulator() as sim:
        async with running(Mattermost, sim.account()) as old:
            await old.connected()
            sim.say("question")
            (question,) = await arrived(old, "question")
            message = out(sim, "once", context=question.context)
            first = await old.adapter.send(message)
        for n in range(250):  # the newest page does not reach back to it
            sim.say(f"chatter {n}")
        await asyncio.sleep(60)
        async with running(Mattermost, sim.account()) as new:
            await new.connected()
            assert await new.adapter.send(message) == first
            await new.adapter.send(out(sim, "unasked", key="k-2"))
            await new.adapter.send(out(sim, "unasked", key="k-2"))
        assert [heard.text for heard in sim.heard] == ["once", "unasked"]


async def test_a_first_try_looks_for_nothing() -> None:
    async with bot() as (sim, seen):
        sim.say("question")
        (question,) = await arrived(seen, "question")
        sim.answers = (f"/channels/{sim.channel_id('alice')}/posts", 500, {})
        await seen.adapter.send(out(sim, context=question.context))
        assert len(sim.heard) == 1
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim, "unasked", key="k-2"))
        assert failed.value.outcome is Outcome.NOT_SENT


async def test_an_unreadable_post_does_not_hide_the_one_looked_for() -> None:
    async with bot() as (sim, seen):
        sim.posts[sim.say("bad")]["message"] = 5
        first = await seen.adapter.send(out(sim))
        await asyncio.sleep(60)
        assert await seen.adapter.send(out(sim)) == first


async def test_only_so_many_doubts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mattermost, "DOUBTS", 3)
    async with bot() as (sim, seen):
        sim.faults.arm("send_error", times=None)
        for n in range(10):
            with pytest.raises(SendFailed):
                await seen.adapter.send(out(sim, key=f"k-{n}"))
        assert len(seen.adapter._doubts) == 4  # type: ignore[attr-defined]


# -- what is known of a failure -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "code"),
    [
        ("send_error", {}, Outcome.REFUSED, "mattermost_http_400"),
        ("send_error", {"status": 403}, Outcome.REFUSED, "mattermost_forbidden"),
        ("send_error", {"status": 501}, Outcome.REFUSED, "mattermost_http_501"),
        ("send_429", {"retry_after": 7}, Outcome.NOT_SENT, "mattermost_rate_limited"),
        ("send_429", {"retry_after": None}, Outcome.NOT_SENT, "mattermost_rate_limited"),
        ("send_pending", {}, Outcome.NOT_SENT, "mattermost_pending"),
        ("api_503", {}, Outcome.NOT_SENT, "mattermost_http_503"),
        ("api_500", {}, Outcome.UNKNOWN, "mattermost_http_500"),
        ("api_401", {}, Outcome.NOT_SENT, "mattermost_unauthorized"),
        ("api_html", {}, Outcome.UNKNOWN, "mattermost_http_502"),
        ("api_html", {"status": 200}, Outcome.NOT_SENT, "mattermost_unexpected_html"),
    ],
)
async def test_failed_sends_say_what_is_known(
    fault: str, params: dict[str, Any], outcome: Outcome, code: str
) -> None:
    async with bot() as (sim, seen):
        sim.say("question")
        (question,) = await arrived(seen, "question")
        sim.faults.arm(fault, **params)
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(out(sim, context=question.context))
        assert (failed.value.outcome, failed.value.cause.code) == (outcome, code)
        if fault == "send_429":
            assert failed.value.cause.retry_after == params["retry_after"]
        assert sim.heard == []
        await seen.adapter.send(out(sim, context=question.context))
        assert len(sim.heard) == 1


async def test_a_send_under_way_on_the_server_is_not_doubled() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("send_slow", delay=5.0)
        first = asyncio.create_task(seen.adapter.send(out(sim)))
        await asyncio.sleep(1)
        with pytest.raises(SendFailed) as pending:
            await seen.adapter.send(out(sim))
        assert (pending.value.outcome, pending.value.cause.retry_after) == (Outcome.NOT_SENT, 1.0)
        receipt = await first
        assert await seen.adapter.send(out(sim)) == receipt
        assert [heard.id for heard in sim.heard] == [receipt.id]


@pytest.mark.parametrize("fault", ["upload_too_large", "api_500", "api_hang"])
async def test_a_failed_upload_never_leaves_a_doubt(fault: str) -> None:
    async with bot() as (sim, seen):
        sim.say("question")
        (question,) = await arrived(seen, "question")
        sim.faults.arm(fault)
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=b"png")
        message = out(sim, attachments=(picture,), context=question.context)
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(message)
        refused = fault == "upload_too_large"
        assert failed.value.outcome is (Outcome.REFUSED if refused else Outcome.NOT_SENT)
        sim.answers = ("/files", 201, {"file_infos": []})
        with pytest.raises(SendFailed) as failed:
            await seen.adapter.send(message)
        assert failed.value.cause.code == "mattermost_bad_answer"
        assert sim.heard == []


async def test_without_a_connection_the_server_is_asked_who_we_are() -> None:
    async with MattermostSimulator() as sim:
        sim.faults.arm("ws_refused", times=None)
        async with running(Mattermost, sim.account()) as seen:
            seen.adapter._desk = None  # type: ignore[attr-defined]
            await seen.adapter.send(out(sim))
            assert len(sim.heard) == 1
            sim.revoke()
            seen.adapter._desk = None  # type: ignore[attr-defined]
            with pytest.raises(SendFailed) as failed:
                await seen.adapter.send(out(sim))
            assert failed.value.outcome is Outcome.NOT_SENT
            assert failed.value.cause.kind is Kind.CREDENTIALS


async def test_a_file_that_is_gone_is_refused() -> None:
    async with bot() as (sim, seen):
        for ref in ("gone", "../users/me"):
            with pytest.raises(SendFailed) as failed:
                await seen.adapter.fetch(Attachment(kind=MediaKind.FILE, ref=ref))
            assert failed.value.outcome is Outcome.REFUSED
        assert sim.count("refused") == 2


@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "wait", "outcome"),
    [
        (413, {"content-type": "text/html"}, b"<html>", "http_413", None, Outcome.REFUSED),
        (429, {"x-ratelimit-reset": "4"}, b"limit", "rate_limited", 4.0, Outcome.NOT_SENT),
        (429, {}, b"limit exceeded", "rate_limited", None, Outcome.NOT_SENT),
        (301, {}, b"", "http_301", None, Outcome.UNKNOWN),
        (403, {"content-type": "text/html"}, b"<html>", "unexpected_html", None, Outcome.NOT_SENT),
    ],
)
def test_answers_that_are_not_mattermosts_own(
    status: int,
    headers: dict[str, str],
    body: bytes,
    code: str,
    wait: float | None,
    outcome: Outcome,
) -> None:
    api = Api(MattermostSettings(url="https://chat.example.org/sub/", token=Secret("t")))
    reply = HttpReply(status, headers, body)
    cause = api.cause(reply)
    assert (cause.code, cause.retry_after) == (f"mattermost_{code}", wait)
    assert outcome_of(reply) is outcome
    assert api.socket == "wss://chat.example.org/sub/api/v4/websocket"
