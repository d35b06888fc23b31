"""The Feishu adapter's sends, files, refusals and credentials."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast.adapter import BadFrame, HttpFailed, HttpReply, Outcome, SendFailed
from holdfast.adapters import feishu_rules as rules
from holdfast.adapters.feishu import Feishu, _may_send, _notes
from holdfast.adapters.feishu_api import MAX_FILE, MAX_IMAGE, Bot
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound
from holdfast.supervision import Kind, Published
from tests.adapters.test_feishu import bot, codes, until
from tests.harness import Running, running

IMAGE = Attachment(kind=MediaKind.IMAGE, name="cat.png", mime="image/png", data=b"\x89PNG")
FILE = Attachment(kind=MediaKind.FILE, name="r.pdf", data=b"%PDF")


@asynccontextmanager
async def talking(
    *, group: bool = False, **settings: Any
) -> AsyncIterator[tuple[FeishuSimulator, Running, Inbound]]:
    """A connected bot that has just been written to."""
    async with FeishuSimulator() as sim, running(Feishu, sim.account() | settings) as run:
        await run.connected()
        sim.say("hello", chat="team" if group else "alice", group=group)
        await until(lambda: bool(run.messages))
        yield sim, run, run.messages[0]


def answer(to: Inbound, text: str, **more: Any) -> Outbound:
    """An answer to a message."""
    return Outbound(key="key-1", chat=to.chat, text=text, context=to.context, **more)


async def refused(run: Running, message: Outbound) -> SendFailed:
    """The refusal a send must meet."""
    with pytest.raises(SendFailed) as caught:
        await run.adapter.send(message)
    return caught.value


# -- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [False, True])
async def test_a_text_is_sent_to_the_chat(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        receipt = await run.adapter.send(answer(message, 'say "hi" \\ 你好 👋'))
        (heard,) = sim.heard
        assert (heard.id, heard.text) == (receipt.id, 'say "hi" \\ 你好 👋')
        assert (heard.chat, heard.reply_to) == ("team" if group else "alice", None)
        assert sim.accepted[0]["uuid"] == "key-1"


async def test_a_quoting_answer_is_a_reply_outside_of_a_thread() -> None:
    async with talking(group=True) as (sim, run, message):
        await run.adapter.send(answer(message, "hi", reply_to=message.id))
        assert sim.heard[0].reply_to == message.id
        assert sim.accepted[0]["reply_in_thread"] is False


async def test_an_answer_in_a_thread_stays_there() -> None:
    async with talking(group=True) as (sim, run, message):
        await run.adapter.send(answer(message, "hi", thread="omt_1"))
        assert sim.heard[0].reply_to == message.id
        assert sim.accepted[0]["reply_in_thread"] is True


@pytest.mark.parametrize("fault", ["reply_recalled", "reply_missing"])
async def test_an_answer_to_what_is_gone_goes_to_the_chat(fault: str) -> None:
    async with talking(group=True) as (sim, run, message):
        sim.faults.arm(fault)
        await run.adapter.send(answer(message, "hi", reply_to=message.id))
        assert [(h.chat, h.text, h.reply_to) for h in sim.heard] == [("team", "hi", None)]


async def test_markdown_is_sent_as_a_post_if_wished() -> None:
    async with talking(markdown=True) as (sim, run, message):
        await run.adapter.send(answer(message, "**hi**"))
        assert sim.heard[0].text == "**hi**"
        assert sim.accepted[0]["msg_type"] == "post"
        content = json.loads(sim.accepted[0]["content"])
        assert content["zh_cn"]["content"] == [[{"tag": "md", "text": "**hi**"}]]


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize(
    "text", ['"' * Feishu.traits.max_text, "中" * (Feishu.traits.max_text // 3)]
)
async def test_the_longest_texts_are_taken(markdown: bool, text: str) -> None:
    async with talking(markdown=markdown) as (sim, run, message):
        await run.adapter.send(answer(message, text))
        assert sim.heard[0].text == text


async def test_a_text_is_edited_twenty_times_and_then_no_more() -> None:
    async with talking() as (sim, run, message):
        sent = await run.adapter.send(answer(message, "a"))
        for number in range(20):
            receipt = await run.adapter.send(answer(message, f"a{number}", edit_of=sent.id))
            assert receipt == sent
        assert (sim.heard[-1].edit_of, sim.heard[-1].text) == (sent.id, "a19")
        error = await refused(run, answer(message, "b", edit_of=sent.id))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "feishu_refused")
        assert "230072" in error.cause.message


async def test_a_repeated_send_is_one_message_however_long_its_key() -> None:
    async with talking() as (sim, run, message):
        for key in ("k" * 50, "k" * 64, "k" * 63 + "x"):
            one = Outbound(key=key, chat=message.chat, text=key)
            assert await run.adapter.send(one) == await run.adapter.send(one)
        assert len({body["uuid"] for body in sim.accepted}) == len(sim.heard) == 3


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "code"),
    [
        ("send_refused", {}, Outcome.REFUSED, "feishu_bad_message"),
        ("send_refused", {"code": 230002}, Outcome.REFUSED, "feishu_not_in_chat"),
        ("send_refused", {"code": 230006}, Outcome.NOT_SENT, "feishu_bot_disabled"),
        ("send_refused", {"code": 230025}, Outcome.REFUSED, "feishu_too_long"),
        ("send_refused", {"code": 230027}, Outcome.REFUSED, "feishu_scope_missing"),
        ("send_refused", {"code": 230053}, Outcome.REFUSED, "feishu_refused"),
        ("send_code_in_200", {}, Outcome.REFUSED, "feishu_bad_message"),
        ("send_frequency", {}, Outcome.NOT_SENT, "feishu_rate_limited"),
        ("send_pending", {}, Outcome.UNKNOWN, "feishu_pending"),
        ("api_429", {"reset": 7}, Outcome.NOT_SENT, "feishu_rate_limited"),
        ("api_old_limit", {}, Outcome.NOT_SENT, "feishu_rate_limited"),
        ("api_scope", {}, Outcome.REFUSED, "feishu_scope_missing"),
        ("api_500", {}, Outcome.UNKNOWN, "feishu_http_500"),
        ("api_html", {}, Outcome.UNKNOWN, "feishu_http_502"),
        ("api_html", {"status": 200}, Outcome.NOT_SENT, "feishu_unexpected_html"),
    ],
)
async def test_a_refused_send_is_judged(
    fault: str, params: dict[str, Any], outcome: Outcome, code: str
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, answer(message, "hi"))
        assert (error.outcome, error.cause.code) == (outcome, code)
        assert codes(run) == []
        await run.adapter.send(answer(message, "hi"))
        assert [heard.text for heard in sim.heard] == ["hi"]


async def test_a_limit_waits_as_long_as_feishu_says() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("api_429", reset=7)
        assert (await refused(run, answer(message, "hi"))).cause.retry_after == 7.0


async def test_an_unknown_chat_is_refused_for_good() -> None:
    async with bot() as (_, run):
        error = await refused(run, Outbound(key="k", chat="oc_nobody", text="hi"))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "feishu_unknown_chat")


@pytest.mark.parametrize(
    ("fault", "params"), [("send_answer_lost", {}), ("send_slow_but_delivered", {"delay": 30.0})]
)
async def test_a_send_without_an_answer_is_doubtful_and_can_be_repeated(
    fault: str, params: dict[str, Any]
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        with pytest.raises(HttpFailed) as caught:
            await run.adapter.send(answer(message, "hi"))
        assert caught.value.sent
        await run.adapter.send(answer(message, "hi"))
        assert [heard.text for heard in sim.heard] == ["hi"]


def reply(status: int, body: bytes, mime: str = "application/json") -> HttpReply:
    return HttpReply(status, {"content-type": mime}, body)


def test_a_success_that_can_not_be_read_is_a_documented_error() -> None:
    with pytest.raises(BadFrame):
        rules.refusal_of(reply(200, b"[]"))


def test_a_file_too_large_for_a_proxy_is_refused() -> None:
    page = reply(413, b"<html>", "text/html")
    refusal = rules.refusal_of(page)
    assert refusal is not None
    outcome, cause = rules.failure(page, refusal, "the upload")
    assert (outcome, cause.code) == (Outcome.REFUSED, "feishu_http_413")


def test_a_stranger_to_the_error_table_passes_by_itself() -> None:
    odd = rules.refusal_of(reply(200, b'{"code": 424242, "msg": "?"}'))
    assert odd is not None
    cause = rules.account_cause(reply(200, b""), odd, "it")
    assert (cause.kind, cause.code) == (Kind.PROTOCOL, "feishu_code_424242")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (10003, Kind.CREDENTIALS),
        (10012, Kind.REFUSED),
        (10014, Kind.CREDENTIALS),
        (10015, Kind.CREDENTIALS),
        (99991400, Kind.THROTTLED),
        (10100, Kind.PROTOCOL),
    ],
)
def test_codes_of_the_login(code: int, kind: Kind) -> None:
    refusal = rules.Refusal(code, "no")
    assert rules.login_cause(reply(200, b""), refusal, "the login").kind is kind


# -- tokens -----------------------------------------------------------------------------------


async def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    async with talking() as (sim, run, message):
        await asyncio.sleep(6_000)
        await run.adapter.send(answer(message, "one"))
        assert sim.count("token") == 1
        await asyncio.sleep(700)
        await run.adapter.send(Outbound(key="k2", chat=message.chat, text="two"))
        assert sim.count("token") == 2


async def test_parallel_calls_share_one_new_token() -> None:
    async with talking() as (sim, run, message):
        sim.expire_tokens()
        sends = [Outbound(key=f"k{n}", chat=message.chat, text=f"{n}") for n in range(5)]
        await asyncio.gather(*map(run.adapter.send, sends))
        assert (len(sim.heard), sim.count("token")) == (5, 2)


async def test_a_token_refused_twice_is_the_end_of_the_try() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("api_token_invalid", times=2)
        error = await refused(run, answer(message, "hi"))
        assert (error.outcome, error.cause.code) == (Outcome.NOT_SENT, "feishu_token_refused")
        assert sim.faults.played["api_token_invalid"] == 2


async def test_without_a_token_nothing_was_sent() -> None:
    async with talking() as (sim, run, message):
        sim.expire_tokens()
        sim.faults.arm("token_error", times=2)
        for again in (answer(message, "hi"), answer(message, "", attachments=(FILE,))):
            error = await refused(run, again)
            assert (error.outcome, error.cause.code) == (
                Outcome.NOT_SENT,
                "feishu_bad_credentials",
            )


# -- files ------------------------------------------------------------------------------------


async def test_a_picture_is_shown_and_so_is_its_caption() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(answer(message, "", attachments=(IMAGE,)))
        assert (sim.heard[0].media, sim.heard[0].data) == ("cat.png", b"\x89PNG")
        captioned = Outbound(key="k2", chat=message.chat, text="a cat", attachments=(IMAGE,))
        await run.adapter.send(captioned)
        assert sim.heard[1].text.strip() == "a cat"
        lines = json.loads(sim.accepted[1]["content"])["zh_cn"]["content"]
        assert [line[0]["tag"] for line in lines] == ["text", "img"]


@pytest.mark.parametrize(
    ("kind", "name", "msg_type"),
    [
        (MediaKind.FILE, "r.pdf", "file"),
        (MediaKind.FILE, "", "file"),
        (MediaKind.VIDEO, "v.mp4", "media"),
        (MediaKind.VIDEO, "v.avi", "file"),
        (MediaKind.AUDIO, "a.opus", "audio"),
        (MediaKind.AUDIO, "a.mp3", "file"),
        (MediaKind.IMAGE, "i.svg", "file"),
    ],
)
async def test_files_are_sent_as_what_feishu_can_show(
    kind: MediaKind, name: str, msg_type: str
) -> None:
    async with talking() as (sim, run, message):
        file = Attachment(kind=kind, name=name, data=b"data")
        await run.adapter.send(answer(message, "", attachments=(file,)))
        assert (sim.heard[0].media, sim.heard[0].data) == (name or "file", b"data")
        assert sim.accepted[0]["msg_type"] == msg_type


async def test_a_picture_too_large_for_one_is_sent_as_a_file() -> None:
    async with talking() as (sim, run, message):
        large = Attachment(kind=MediaKind.IMAGE, name="l.png", data=bytes(MAX_IMAGE + 1))
        await run.adapter.send(answer(message, "", attachments=(large,)))
        assert sim.accepted[0]["msg_type"] == "file"


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        (FILE, "a caption", "feishu_no_captions"),
        (Attachment(kind=MediaKind.FILE, data=b""), "", "feishu_refused"),
        (Attachment(kind=MediaKind.FILE, data=bytes(MAX_FILE + 1)), "", "feishu_file_too_large"),
    ],
)
async def test_files_that_can_not_be_sent_are_refused(
    file: Attachment, text: str, code: str
) -> None:
    async with talking() as (sim, run, message):
        error = await refused(run, answer(message, text, attachments=(file,)))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, code)
        assert sim.heard == []


@pytest.mark.parametrize("fault", ["api_500", "api_html", "api_429"])
async def test_a_failed_upload_was_seen_by_nobody(fault: str) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault)
        error = await refused(run, answer(message, "", attachments=(FILE,)))
        assert error.outcome is Outcome.NOT_SENT


async def test_a_file_that_feishu_does_not_hand_out_is_refused() -> None:
    async with bot() as (sim, run):
        sim.say("", file=("a.json", b'{"code": 5}'))
        await until(lambda: bool(run.messages))
        (file,) = run.messages[0].attachments
        assert await run.adapter.fetch(file) == b'{"code": 5}'
        sim.faults.arm("resource_refused")
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(file)
        assert caught.value.outcome is Outcome.REFUSED
        sim.expire_tokens()
        sim.faults.arm("token_error")
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(file)
        assert caught.value.outcome is Outcome.NOT_SENT


async def test_a_reference_that_is_none_of_ours_is_refused() -> None:
    async with bot() as (_, run):
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(Attachment(kind=MediaKind.FILE, ref="../../secret"))
        assert caught.value.outcome is Outcome.REFUSED


# -- credentials ------------------------------------------------------------------------------


async def test_a_good_check_says_whose_credentials_these_are() -> None:
    async with bot() as (sim, run):
        health = await run.adapter.check()
        assert (health.cause, health.notes) == (None, ())
        assert "holdfast (ou_b07" in health.identity
        assert sim.heard == []


@pytest.mark.parametrize(
    ("fault", "code", "hint"),
    [
        ("token_error", "feishu_bad_credentials", "Credentials & Basic Info"),
        ("endpoint_forbidden", "feishu_forbidden", "persistent connection"),
        ("api_scope", "feishu_scope_missing", "Permissions & Scopes"),
    ],
)
async def test_a_check_says_what_is_wrong_and_where_to_mend_it(
    fault: str, code: str, hint: str
) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault)
        cause = (await run.adapter.check()).cause
        assert cause is not None
        assert (cause.code, hint in cause.hint) == (code, True)
        assert (await run.adapter.check()).cause is None


@pytest.mark.parametrize(
    ("code", "expected"), [(230027, "feishu_scope_missing"), (230006, "feishu_bot_disabled")]
)
def test_the_empty_message_of_a_check_tells_of_permissions(code: int, expected: str) -> None:
    cause = _may_send(reply(400, json.dumps({"code": code, "msg": "no"}).encode()))
    assert cause is not None
    assert cause.code == expected
    assert _may_send(reply(400, b'{"code": 230001, "msg": "no receive_id"}')) is None


def test_an_app_out_of_use_is_noted() -> None:
    (note,) = _notes(Bot("ou_1", activate_status=1))
    assert "activate_status 1" in note
    assert _notes(Bot("ou_1")) == ()


async def test_names_for_the_gateway() -> None:
    async with bot() as (sim, run):
        assert run.adapter.endpoint == sim.url
        assert run.adapter.identity == f"feishu:{sim.app_id}"
        assert run.states() == [Published.CONNECTING, Published.CONNECTED]
