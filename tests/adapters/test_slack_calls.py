"""The Slack adapter's sends, files, refusals and checks, also against odd answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from holdfast.adapter import BadFrame, HttpFailed, HttpReply, Outcome, Part, Secret, SendFailed
from holdfast.adapters.slack import Slack, SlackSettings
from holdfast.adapters.slack_api import Bot
from holdfast.adapters.slack_wire import Message, heard, inbound
from holdfast.gateway.account import AccountTools
from holdfast.lab.simulators.slack import Token
from holdfast.lab.simulators.slack_rules import ApiError
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Receipt
from holdfast.splitting import split
from holdfast.supervision import Kind, Published
from tests.adapters.test_slack import Narrow, bot, calls, until
from tests.harness import Running, running

ME = Bot("UBOT", "gatebot", "T", "T1", "B1")


@asynccontextmanager
async def talking(*, group: bool = False) -> AsyncIterator[tuple[Narrow, Running, Inbound]]:
    """A connected bot that has just been written to."""
    async with bot() as (sim, run):
        sim.say("hello", chat="ops" if group else "alice", group=group)
        await until(lambda: bool(run.messages))
        yield sim, run, run.messages[0]


def answer(to: Inbound, text: str, key: str = "key-1", **more: Any) -> Outbound:
    """An answer to a message."""
    return Outbound(key=key, chat=to.chat, text=text, **more)


async def refused(run: Running, message: Outbound) -> SendFailed:
    """The refusal a send must meet."""
    with pytest.raises(SendFailed) as caught:
        await run.adapter.send(message)
    return caught.value


# -- answers ----------------------------------------------------------------------------------


async def test_a_text_arrives_as_it_was_written() -> None:
    async with talking() as (sim, run, message):
        text = "if a < b && c > d: <!channel> &amp;"
        receipt = await run.adapter.send(answer(message, text))
        assert sim.heard[0].text == text
        assert receipt == Receipt(f"{message.chat}:{sim.heard[0].id}")
        assert "<" not in sim.accepted[0]["text"]
        assert sim.heard[0].reply_to is None


async def test_an_answer_to_a_message_is_in_its_thread() -> None:
    async with talking(group=True) as (sim, run, message):
        await run.adapter.send(answer(message, "hi", reply_to=message.id))
        root = sim.said[0].id
        assert sim.heard[0].reply_to == root
        sim.say("more", chat="ops", group=True, reply_to=root)
        await until(lambda: len(run.messages) == 2)
        second = run.messages[1]
        await run.adapter.send(
            answer(second, "hm", "key-2", thread=second.thread, reply_to=second.id)
        )
        assert sim.heard[1].reply_to == root


async def test_an_edit_is_answered_in_the_thread_of_the_message() -> None:
    async with talking(group=True) as (sim, run, message):
        sim.say("hello!", chat="ops", group=True, edit_of=sim.said[0].id)
        await until(lambda: len(run.messages) == 2)
        await run.adapter.send(answer(message, "hi", reply_to=run.messages[1].id))
        assert sim.heard[0].reply_to == sim.said[0].id


async def test_an_own_message_is_edited() -> None:
    async with talking() as (sim, run, message):
        receipt = await run.adapter.send(answer(message, "thinking"))
        edited = await run.adapter.send(answer(message, "a > b", "key-2", edit_of=receipt.id))
        assert edited == receipt
        assert (sim.heard[1].edit_of, sim.heard[1].text) == (sim.heard[0].id, "a > b")


async def test_files_carry_their_caption_into_the_thread() -> None:
    async with talking(group=True) as (sim, run, message):
        image = Attachment(kind=MediaKind.IMAGE, name="cat.png", data=b"\x89PNG")
        file = Attachment(kind=MediaKind.FILE, data=b"%PDF")
        first = answer(message, "a < cat", attachments=(image,), reply_to=message.id)
        assert await run.adapter.send(first) == Receipt("")
        await run.adapter.send(answer(message, "", "key-2", attachments=(file,)))
        one, two = sim.heard
        assert (one.text, one.media, one.data) == ("a < cat", "cat.png", b"\x89PNG")
        assert (one.reply_to, two.reply_to) == (sim.said[0].id, None)
        assert (two.text, two.media, two.data) == ("", "file", b"%PDF")


async def test_a_long_text_is_split_at_what_slack_recommends() -> None:
    limit = Slack.traits.max_text
    assert limit == 4000
    async with talking() as (sim, run, message):
        text = "&" * 9000
        for number, part in enumerate(split(text, limit, Slack.traits.text_unit)):
            await run.adapter.send(answer(message, part, f"key-{number}"))
        assert "".join(heard.text for heard in sim.heard) == text


async def test_slack_shows_no_typing() -> None:
    async with talking() as (sim, run, message):
        assert not run.adapter.traits.typing
        await run.adapter.typing(message.chat)
        assert sim.count("typing") == 0


# -- doubt ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["send_answer_lost", "send_fatal"])
@pytest.mark.parametrize("threaded", [False, True])
async def test_a_post_of_unknown_outcome_is_found_and_not_repeated(
    fault: str, threaded: bool
) -> None:
    async with talking(group=True) as (sim, run, message):
        sim.faults.arm(fault)
        post = answer(message, "once", reply_to=message.id if threaded else None)
        with pytest.raises((HttpFailed, SendFailed)):
            await run.adapter.send(post)
        receipt = await run.adapter.send(post)
        assert [heard.text for heard in sim.heard] == ["once"]
        assert receipt == Receipt(f"{message.chat}:{sim.heard[0].id}")


async def test_a_post_that_a_proxy_swallowed_is_not_found_and_sent() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_500", status=502)
        error = await refused(run, answer(message, "once"))
        assert (error.outcome, error.cause.code) == (Outcome.UNKNOWN, "slack_http_502")
        await run.adapter.send(answer(message, "once"))
        assert [heard.text for heard in sim.heard] == ["once"]


async def test_a_post_that_may_not_be_looked_for_is_sent_again() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_answer_lost")
        sim.refusals["conversations.history"] = ApiError("missing_scope", needed="im:history")
        with pytest.raises(HttpFailed):
            await run.adapter.send(answer(message, "twice"))
        await run.adapter.send(answer(message, "twice"))
        assert [heard.text for heard in sim.heard] == ["twice", "twice"]


async def test_a_search_that_fails_sends_nothing_and_keeps_the_doubt() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_answer_lost")
        with pytest.raises(HttpFailed):
            await run.adapter.send(answer(message, "once"))
        sim.faults.arm("api_500")
        assert (await refused(run, answer(message, "once"))).outcome is Outcome.NOT_SENT
        await run.adapter.send(answer(message, "once"))
        assert [heard.text for heard in sim.heard] == ["once"]


async def test_what_is_certain_is_not_searched_for() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_error", error="not_in_channel")
        await refused(run, answer(message, "hi"))
        await run.adapter.send(answer(message, "hi"))
        await run.adapter.send(answer(message, "hi"))
        assert calls(sim, "conversations.history") == []
        assert len(sim.heard) == 2


async def test_a_cancelled_post_is_in_doubt() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_slow", delay=8.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await run.adapter.send(answer(message, "once"))
        await run.adapter.send(answer(message, "once"))
        assert [heard.text for heard in sim.heard] == ["once"]


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "kind", "code"),
    [
        ("send_429", {"retry_after": 7}, Outcome.NOT_SENT, Kind.THROTTLED, "slack_rate_limited"),
        ("send_error", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "slack_internal_error"),
        ("send_fatal", {}, Outcome.UNKNOWN, Kind.UNREACHABLE, "slack_fatal_error"),
        ("send_error", {"error": "ratelimited"}, Outcome.NOT_SENT, Kind.THROTTLED, ""),
        ("send_error", {"error": "token_revoked"}, Outcome.NOT_SENT, Kind.CREDENTIALS, ""),
        ("send_error", {"error": "channel_not_found"}, Outcome.REFUSED, Kind.REFUSED, ""),
        ("send_error", {"error": "msg_too_long"}, Outcome.REFUSED, Kind.REFUSED, ""),
        ("send_error", {"error": "brand_new"}, Outcome.REFUSED, Kind.PROTOCOL, ""),
        ("api_html", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "slack_unexpected_html"),
        ("malformed_json", {}, Outcome.UNKNOWN, Kind.PROTOCOL, "slack_bad_answer"),
    ],
)
async def test_refusals_say_what_became_of_the_message(
    fault: str, params: dict[str, Any], outcome: Outcome, kind: Kind, code: str
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, answer(message, "hi"))
        assert (error.outcome, error.cause.kind) == (outcome, kind)
        expected = {"ratelimited": "rate_limited"}.get(params.get("error", ""), "")
        assert error.cause.code == (code or f"slack_{expected or params['error']}")
        assert error.cause.retry_after == params.get("retry_after")


async def test_a_missing_scope_is_named_with_its_place() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_error", error="missing_scope", needed="chat:write", provided="")
        error = await refused(run, answer(message, "hi"))
        assert error.outcome is Outcome.REFUSED
        assert "chat:write" in error.cause.message
        assert "OAuth & Permissions" in error.cause.advice


@pytest.mark.parametrize(
    ("fault", "params", "outcome"),
    [
        ("api_error", {"error": "missing_scope", "needed": "files:write"}, Outcome.REFUSED),
        ("api_500", {}, Outcome.NOT_SENT),
        ("upload_failed", {}, Outcome.NOT_SENT),
        ("send_500", {}, Outcome.UNKNOWN),
    ],
)
async def test_a_file_is_in_doubt_only_at_its_last_step(
    fault: str, params: dict[str, Any], outcome: Outcome
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        file = Attachment(kind=MediaKind.FILE, name="r.pdf", data=b"%PDF")
        error = await refused(run, answer(message, "", attachments=(file,)))
        assert error.outcome is outcome
        assert sim.heard == []


async def test_a_login_page_is_not_taken_for_a_file() -> None:
    async with bot() as (sim, run):
        sim.say("see", image=b"\x89PNG")
        await until(lambda: bool(run.messages))
        sim.faults.arm("file_login_page")
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(run.messages[0].attachments[0])
        assert caught.value.cause.code == "slack_file_login_page"
        assert "files:read" in caught.value.cause.advice
        gone = Attachment(kind=MediaKind.FILE, ref=f"{sim.url}/files-pri/T-F0/none.png")
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(gone)
        assert (caught.value.outcome, caught.value.cause.code) == (
            Outcome.REFUSED,
            "slack_file_404",
        )


# -- check ------------------------------------------------------------------------------------


async def test_check_names_the_bot_and_its_workspace() -> None:
    async with bot() as (_, run):
        health = await run.adapter.check()
        assert health.cause is None
        assert health.identity == "holdfast (UBOT) in Holdfast"
        assert health.notes == ()


@pytest.mark.parametrize("kind", Token)
async def test_check_looks_at_both_tokens_and_tells_no_secret(kind: Token) -> None:
    async with bot() as (sim, run):
        sim.revoke(kind, "token_revoked")
        health = await run.adapter.check()
        assert health.cause is not None
        assert health.cause.code == "slack_token_revoked"
        assert f"{kind.value}_token" in health.cause.message
        told = f"{health} {run.reports} {run.adapter.identity} {run.adapter.endpoint}"
        assert sim.bot_token not in told
        assert sim.app_token not in told


async def test_check_tells_of_another_program_on_the_same_app() -> None:
    async with bot() as (sim, _):
        async with running(Slack, sim.account()) as second:
            await second.connected()
            (note,) = (await second.adapter.check()).notes
            assert "1 other socket" in note


async def test_secrets_are_in_no_report_of_any_trouble() -> None:
    async with bot() as (sim, run):
        for fault in ("open_error", "handshake_refused", "malformed_json", "no_hello"):
            sim.faults.arm(fault)
            sim.drop_all()
            await run.published(Published.RETRYING)
            await asyncio.sleep(60)
            sim.faults.clear()
            run.account.kick(operator=True)
            await run.connected()
        told = f"{run.reports}"
        assert "xoxb" not in told.replace("(xoxb-...)", "")
        assert "xapp" not in told.replace("(xapp-...)", "")
        assert "ticket=" not in told


# -- without a server -------------------------------------------------------------------------


class Recorder:
    """An HTTP client with prepared answers; the last one is repeated."""

    def __init__(self, *replies: HttpReply) -> None:
        self._replies = list(replies)
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.forms: list[Mapping[str, str]] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        parts: list[Part] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 15.0,
        max_body: int = 32 * 2**20,
    ) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        self.asked.append(url)
        self.headers.append(headers or {})
        self.forms.append(form or {})
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


def ok(scopes: str | None = None, **fields: Any) -> HttpReply:
    """A good answer."""
    headers = {"content-type": "application/json"}
    headers |= {} if scopes is None else {"x-oauth-scopes": scopes}
    return HttpReply(200, headers, msgspec.json.encode({"ok": True} | fields))


def offline(http: Recorder, app_token: str = "xapp-1-A0-2-hex") -> Slack:
    """A bot whose server is this recorder."""
    settings = SlackSettings(bot_token=Secret("xoxb-1"), app_token=Secret(app_token))
    return Slack(settings, AccountTools(http))


def who(scopes: str) -> HttpReply:
    """An answer of auth.test."""
    return ok(scopes, user_id="UBOT", user="gatebot", team="T")


async def test_check_lists_the_scopes_that_are_missing_and_what_they_are_for() -> None:
    http = Recorder(who("chat:write,im:history,app_mentions:read"), ok(url="wss://x"))
    health = await offline(http).check()
    assert health.cause is None
    notes = "\n".join(health.notes)
    assert "without files:read" in notes
    assert "without channels:history" in notes
    assert "im:history" not in notes
    assert "OAuth & Permissions" in notes


async def test_check_refuses_a_bot_that_may_not_write() -> None:
    health = await offline(Recorder(who("im:history"), ok(url="wss://x"))).check()
    assert health.cause is not None
    assert (health.cause.kind, health.cause.code) == (Kind.REFUSED, "slack_missing_scope")
    assert "chat:write" in health.cause.advice


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://files.slack.com/files-pri/T1-F1/cat.png", True),
        ("https://slack.com.evil.example/a", False),
        ("https://evilslack.com/a", False),
        ("https://drive.google.com/a", False),
    ],
)
async def test_the_token_is_shown_to_slack_only(url: str, shown: bool) -> None:
    http = Recorder(HttpReply(200, {}, b"data"))
    attachment = Attachment(kind=MediaKind.FILE, ref=url)
    assert await offline(http).fetch(attachment) == b"data"
    assert ("Authorization" in http.headers[0]) is shown


async def test_a_file_of_a_shared_channel_is_looked_up_first() -> None:
    url = "https://files.slack.com/a.png"
    http = Recorder(ok(file={"url_private": url}), HttpReply(200, {}, b"data"))
    assert await offline(http).fetch(Attachment(kind=MediaKind.FILE, ref="F1")) == b"data"
    assert http.asked == ["https://slack.com/api/files.info", url]
    assert http.forms[0] == {"file": "F1"}


def test_the_identity_is_the_app() -> None:
    assert offline(Recorder(ok()), "xapp-1-A0HOLD-1-hex").identity == "slack:A0HOLD"


def test_the_identity_of_an_odd_token_does_not_show_it() -> None:
    one, two = (offline(Recorder(ok()), f"a-b-secret{n}-d").identity for n in (1, 2))
    assert one != two
    assert "secret" not in one


# -- what a message says ----------------------------------------------------------------------


def message(**fields: Any) -> Message:
    """An event as it comes."""
    event = {"type": "message", "channel": "C0OPS", "user": "U2ANN", "text": "hi"}
    event |= {"ts": "1795197151.398088"} | fields
    found = heard(msgspec.json.encode(event))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "UBOT"},
        {"user": "UOTHER", "bot_id": "B9"},
        {"user": "USLACKBOT"},
        {"user": None, "subtype": "bot_message"},
        {"subtype": "channel_join"},
        {"subtype": "message_changed", "message": {"ts": "1795197151.398088", "user": "U2ANN"}},
        {"subtype": "message_deleted", "user": None},
    ],
)
def test_what_no_person_said_is_dropped(fields: dict[str, Any]) -> None:
    assert inbound(message(**fields), "C0OPS", ME) is None


@pytest.mark.parametrize(
    ("text", "shown", "mentioned"),
    [
        ("<@UBOT> status?", "status?", True),
        ("<@UBOT|gatebot>: status?", "status?", True),
        ("ask <@UBOT> &lt;now&gt;", "ask <@UBOT> <now>", True),
        ("&lt;@UBOT&gt; hi", "<@UBOT> hi", False),
        ("&amp;lt; *bold* <https://a.b|c>", "&lt; *bold* <https://a.b|c>", False),
        (None, "", False),
    ],
)
def test_our_name_is_taken_off_and_only_escapes_are_converted(
    text: str | None, shown: str, mentioned: bool
) -> None:
    found = inbound(message(text=text), "C0OPS", ME)
    assert found is not None
    assert (found.text, found.mentioned) == (shown, mentioned)


def test_an_answer_in_our_own_thread_is_meant_for_us() -> None:
    fields = {"thread_ts": "1795197100.000000", "parent_user_id": "UBOT"}
    found = inbound(message(**fields), "C0OPS", ME)
    assert found is not None
    assert found.mentioned


def test_files_without_an_address_are_left_out() -> None:
    files = [
        {"id": "F1", "mode": "tombstone"},
        {"id": "F2", "file_access": "check_file_info"},
        {"id": "F3", "mimetype": "audio/mp4", "url_private": "https://files.slack.com/a"},
    ]
    found = inbound(message(files=files, subtype="file_share"), "C0OPS", ME)
    assert found is not None
    assert [(a.ref, a.kind) for a in found.attachments] == [
        ("F2", MediaKind.FILE),
        ("https://files.slack.com/a", MediaKind.AUDIO),
    ]


@pytest.mark.parametrize("ts", ["", "soon", "1795197151", None, 1795197151.3])
def test_a_message_without_a_usable_time_is_a_bad_frame(ts: Any) -> None:
    with pytest.raises(BadFrame):
        message(ts=ts)


def test_events_of_other_shapes_are_no_messages() -> None:
    raw = b'{"type": "user_change", "user": {"id": "U2ANN"}, "channel": {}}'
    assert heard(raw) is None
