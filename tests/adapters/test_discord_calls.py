"""The Discord adapter's sends, files, refusals and credentials, also against odd answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from holdfast.adapter import (
    BadFrame,
    Health,
    HttpFailed,
    HttpReply,
    Outcome,
    Secret,
    SendFailed,
    WebSocketClosed,
)
from holdfast.adapters.discord import Discord, DiscordSettings
from holdfast.adapters.discord_wire import DEFAULT_INTENTS, Intent, Message, inbound, message_of
from holdfast.gateway.account import AccountTools
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Receipt
from holdfast.supervision import Cause, Kind, Published
from tests.adapters.test_discord import bot, codes, heard_texts, until
from tests.harness import Running, running

OK = HttpReply(200, {"content-type": "application/json"}, b'{"id": "1310"}')
MUTED = int(DEFAULT_INTENTS & ~Intent.MESSAGE_CONTENT)


@asynccontextmanager
async def talking(
    *, group: bool = False, thread: str | None = None
) -> AsyncIterator[tuple[DiscordSimulator, Running, Inbound]]:
    """A connected bot that has just been written to."""
    async with bot() as (sim, run):
        sim.say("hello", chat="team" if group else "alice", group=group, thread=thread)
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


# -- answers ----------------------------------------------------------------------------------


async def test_an_answer_goes_where_the_message_was_said() -> None:
    async with talking() as (sim, run, message):
        receipt = await run.adapter.send(answer(message, "hi"))
        (heard,) = sim.heard
        assert receipt == Receipt(heard.id)
        assert (heard.chat, heard.text, heard.reply_to) == ("alice", "hi", None)


async def test_an_answer_in_a_server_quotes_and_one_in_a_thread_stays_there() -> None:
    async with talking(group=True, thread="plans") as (sim, run, message):
        await run.adapter.send(answer(message, "hi", reply_to=message.id))
        (heard,) = sim.heard
        assert (heard.chat, heard.reply_to) == ("team/plans", message.id)


async def test_an_answer_to_an_edit_quotes_the_message() -> None:
    async with talking() as (sim, run, message):
        sim.say("hello again", edit_of=message.id)
        await until(lambda: len(run.messages) == 2)
        await run.adapter.send(answer(message, "hi", reply_to=run.messages[1].id))
        assert sim.heard[0].reply_to == message.id


async def test_an_answer_to_a_deleted_message_is_sent_without_it() -> None:
    async with talking() as (sim, run, message):
        sim.delete(message.id)
        await run.adapter.send(answer(message, "too late", reply_to=message.id))
        assert [(h.text, h.reply_to) for h in sim.heard] == [("too late", None)]


async def test_an_answer_in_another_thread_goes_there() -> None:
    async with talking(group=True) as (sim, run, message):
        sim.say("aside", chat="team", group=True, thread="plans")
        await until(lambda: len(run.messages) == 2)
        await run.adapter.send(answer(message, "hi", thread=run.messages[1].chat))
        assert sim.heard[0].chat == "team/plans"


async def test_own_messages_come_back_and_are_dropped() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(answer(message, "echo"))
        sim.say("bye")
        await heard_texts(run, "hello", "bye")


async def test_an_own_message_is_edited() -> None:
    async with talking() as (sim, run, message):
        receipt = await run.adapter.send(answer(message, "thinking"))
        edit = Outbound(key="key-2", chat=message.chat, text="done", edit_of=receipt.id)
        assert await run.adapter.send(edit) == receipt
        assert [(h.text, h.edit_of) for h in sim.heard] == [
            ("thinking", None),
            ("done", receipt.id),
        ]


@pytest.mark.parametrize("group", [False, True])
async def test_files_carry_their_caption(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        image = Attachment(kind=MediaKind.IMAGE, name="cat.png", mime="image/png", data=b"\x89PNG")
        file = Attachment(kind=MediaKind.FILE, data=b"%PDF")
        await run.adapter.send(answer(message, "a cat", attachments=(image,), reply_to=message.id))
        await run.adapter.send(Outbound(key="key-2", chat=message.chat, attachments=(file,)))
        first, second = sim.heard
        assert (first.text, first.media, first.data) == ("a cat", "cat.png", b"\x89PNG")
        assert first.reply_to == message.id
        assert (second.text, second.media, second.data) == ("", "file", b"%PDF")


async def test_the_declared_limit_is_accepted_and_one_more_is_not() -> None:
    async with talking() as (sim, run, message):
        limit = Discord.traits.max_text
        await run.adapter.send(answer(message, "ü" * limit))
        assert len(sim.heard) == 1
        error = await refused(run, Outbound(key="2", chat=message.chat, text="ü" * (limit + 1)))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "discord_api_50035")


@pytest.mark.parametrize("files", [(), (Attachment(kind=MediaKind.FILE, name="a", data=b"a"),)])
async def test_a_lost_answer_is_repeated_without_a_second_message(
    files: tuple[Attachment, ...],
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_answer_lost")
        once = answer(message, "once", attachments=files)
        with pytest.raises(HttpFailed) as caught:
            await run.adapter.send(once)
        assert caught.value.sent
        assert (await run.adapter.send(once)).id == sim.heard[0].id
        assert [heard.text for heard in sim.heard] == ["once"]


async def test_two_messages_of_equal_text_are_two() -> None:
    async with talking() as (sim, run, message):
        for key in ("a" * 64, "a" * 63 + "b"):
            await run.adapter.send(Outbound(key=key, chat=message.chat, text="same"))
        assert len(sim.heard) == 2


async def test_a_slow_answer_is_waited_for() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_slow", delay=8.0)
        assert (await run.adapter.send(answer(message, "slow"))).id == sim.heard[0].id


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "kind", "code"),
    [
        ("send_error", {}, Outcome.REFUSED, Kind.REFUSED, "discord_api_50013"),
        ("send_error", {"code": 50007}, Outcome.REFUSED, Kind.REFUSED, "discord_api_50007"),
        ("send_error", {"code": 200000}, Outcome.REFUSED, Kind.REFUSED, "discord_api_200000"),
        ("send_error", {"code": 20016}, Outcome.NOT_SENT, Kind.THROTTLED, "discord_api_20016"),
        ("send_error", {"code": 130000}, Outcome.NOT_SENT, Kind.UNREACHABLE, "discord_api_130000"),
        ("send_429", {}, Outcome.NOT_SENT, Kind.THROTTLED, "discord_rate_limited"),
        ("cloudflare_ban", {}, Outcome.NOT_SENT, Kind.THROTTLED, "discord_edge_ban"),
        ("api_401", {}, Outcome.NOT_SENT, Kind.CREDENTIALS, "discord_bad_token"),
        ("api_500", {}, Outcome.UNKNOWN, Kind.UNREACHABLE, "discord_http_500"),
        ("api_html", {}, Outcome.UNKNOWN, Kind.UNREACHABLE, "discord_http_502"),
        *(
            (
                "api_html",
                {"status": status},
                Outcome.NOT_SENT,
                Kind.UNREACHABLE,
                "discord_unexpected_html",
            )
            for status in (401, 403)
        ),
        ("api_200_html", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "discord_unexpected_html"),
        ("api_malformed", {}, Outcome.UNKNOWN, Kind.PROTOCOL, "bad_frame"),
    ],
)
async def test_a_refusal_says_what_it_means_for_the_message(
    fault: str, params: dict[str, Any], outcome: Outcome, kind: Kind, code: str
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, answer(message, "hi"))
        assert (error.outcome, error.cause.kind, error.cause.code) == (outcome, kind, code)
        assert sim.heard == []


async def test_a_refused_edit_says_why() -> None:
    async with talking() as (sim, run, message):
        error = await refused(run, answer(message, "mine now", edit_of=message.id))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "discord_api_50005")
        assert sim.heard == []


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_throttled_send_waits_the_bodys_seconds_or_the_headers(everywhere: bool) -> None:
    async with talking() as (sim, run, message):
        params: dict[str, Any] = {"retry_after": 2.4, "global": everywhere}
        sim.faults.arm("send_429", **params)
        error = await refused(run, answer(message, "hi"))
        assert error.cause.retry_after == 2.4
        assert ("whole bot" in error.cause.message) is everywhere
        sim.faults.arm("send_429", retry_after=0.2)
        assert (await refused(run, answer(message, "hi"))).cause.retry_after == 1.0


async def test_a_missing_permission_is_named_with_its_place() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_error")
        error = await refused(run, answer(message, "hi"))
        assert "Send Messages" in error.cause.advice


async def test_a_reply_that_may_not_quote_is_sent_without() -> None:
    async with talking(group=True) as (sim, run, message):
        sim.faults.arm("send_error", code=160002)
        await run.adapter.send(answer(message, "hi", reply_to=message.id))
        assert [(h.text, h.reply_to) for h in sim.heard] == [("hi", None)]


async def test_an_unknown_channel_is_refused() -> None:
    async with talking() as (_, run, _message):
        error = await refused(run, Outbound(key="k", chat="42", text="hey"))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "discord_api_10003")


@pytest.mark.parametrize("chat", ["c2c:1", "", "../users/@me", "²"])
async def test_a_chat_that_is_no_id_never_travels(chat: str) -> None:
    async with talking() as (sim, run, _):
        error = await refused(run, Outbound(key="k", chat=chat, text="hey"))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "discord_bad_id")
        assert sim.count("refused") == 0


async def test_an_expired_attachment_is_refused() -> None:
    async with talking() as (sim, run, _):
        gone = Attachment(kind=MediaKind.IMAGE, ref=f"{sim.url}/attachments/1/2/a.png?hm=0")
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(gone)
        assert (caught.value.outcome, caught.value.cause.code) == (
            Outcome.REFUSED,
            "discord_file_404",
        )


# -- credentials ------------------------------------------------------------------------------


async def test_a_wrong_token_is_final_within_one_attempt_and_wastes_no_identify() -> None:
    async with DiscordSimulator() as sim:
        account = sim.account() | {"token": "MTEx.wrong.secret0815"}
        async with running(Discord, account) as run:
            await run.published(Published.FATAL)
            cause = run.account.view().cause
            assert cause is not None
            assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "discord_bad_token")
            assert "developer portal" in cause.advice
            assert sim.count("ws-open") == 0
            assert "secret0815" not in repr(run.reports)


async def test_a_revoked_token_is_confirmed_then_final_and_repaired_by_hand() -> None:
    async with bot() as (sim, run):
        token = sim.token
        sim.revoke()
        await run.published(Published.FATAL)
        assert codes(run) == ["discord_close_4004", "discord_bad_token"]
        sim.set_token(token)
        run.account.kick(operator=True)
        await run.connected()


async def test_a_close_4004_that_a_call_does_not_confirm_is_a_passing_error() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.close_all(4004)
        await until(lambda: sim.count("resumed") == 1)
        await run.connected()
        assert Published.FATAL not in run.states()


async def test_no_token_is_ever_shown() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("api_401", times=None)
        health = await run.adapter.check()
        assert health.cause is not None
        sim.revoke()
        await run.published(Published.FATAL)
        error = await refused(run, Outbound(key="k", chat="1", text="x"))
        shown = repr((run.reports, health, str(error), error.cause, run.adapter.identity))
        assert sim.token not in shown
        assert sim.token.rpartition(".")[2] not in shown


async def test_check_names_the_bot() -> None:
    async with bot() as (_, run):
        assert await run.adapter.check() == Health("gatebot (111000000000000111)")
        assert run.adapter.identity == "discord:111"


def test_a_token_of_another_form_is_named_by_its_hash() -> None:
    names = set()
    for token in ("nonsense", "ünsinn", "MTEx", ""):
        settings = DiscordSettings(token=Secret(token))
        names.add(Discord(settings, AccountTools(Recorder())).identity)
        assert not token or token not in repr(names)
    assert len(names) == 4
    assert "discord:111" in names


async def test_a_page_of_a_proxy_is_no_word_on_the_token() -> None:
    async with DiscordSimulator() as sim:
        sim.faults.arm("api_html", status=401, times=2)
        async with running(Discord, sim.account()) as run:
            cause = (await run.adapter.check()).cause
            assert cause is not None
            assert (cause.kind, cause.code) == (Kind.UNREACHABLE, "discord_unexpected_html")
            await run.connected()
            assert codes(run) == ["discord_unexpected_html"]


# -- the content of messages ------------------------------------------------------------------


async def test_an_intent_that_is_switched_off_is_final_and_explained_by_check_too() -> None:
    async with DiscordSimulator() as sim:
        sim.allowed_intents = 0
        async with running(Discord, sim.account()) as run:
            await run.published(Published.FATAL)
            assert codes(run) == ["discord_close_4014"]
            health = await run.adapter.check()
            for cause in (run.account.view().cause, health.cause):
                assert cause is not None
                assert cause.kind is Kind.REFUSED
                assert "Message Content Intent" in cause.advice
            sim.allowed_intents = int(Intent.MESSAGE_CONTENT)
            assert (await run.adapter.check()).cause is None
            run.account.kick(operator=True)
            await run.connected()


async def test_without_the_intent_empty_messages_are_passed_over_and_explained() -> None:
    async with DiscordSimulator() as sim:
        async with running(Discord, sim.account() | {"intents": MUTED}) as run:
            await run.connected()
            sim.say("not for us", chat="team", group=True, mention=False)
            sim.say("for us", chat="team", group=True)
            await heard_texts(run, "for us")
            assert run.messages[0].mentioned
            health = await run.adapter.check()
            assert health.cause is None
            asked, blank = health.notes
            assert "MESSAGE_CONTENT" in asked
            assert blank.endswith("passed over: 1.")


# -- typing -----------------------------------------------------------------------------------


async def test_typing_is_shown_in_chats_and_threads() -> None:
    async with talking(group=True) as (sim, run, message):
        await run.adapter.typing(message.chat)
        await run.adapter.typing("1", thread=message.chat)
        assert [r.detail["chat"] for r in sim.log if r.what == "typing"] == ["team", "team"]
        with pytest.raises(SendFailed, match="discord_api_10003"):
            await run.adapter.typing("1")


# -- odd answers, and what the simulator does not have ------------------------------------------


class Recorder:
    """An HTTP client that answers from a list and remembers the requests."""

    def __init__(self, *answers: HttpReply) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        self.asked.append((method, url, options.get("json")))
        self.headers.append(dict(options.get("headers") or {}))
        return self.answers.pop(0)


def offline_bot(http: Any) -> Discord:
    """An adapter that talks to a recorder only."""
    return Discord(DiscordSettings(token=Secret("MTEx.x.s3cret")), AccountTools(http))


async def test_a_message_calls_nobody_and_says_who_sends_it() -> None:
    http = Recorder(OK)
    await offline_bot(http).send(Outbound(key="k" * 64, chat="7", text="@everyone hi"))
    ((method, url, body),) = http.asked
    assert (method, url) == ("POST", "https://discord.com/api/v10/channels/7/messages")
    assert body["allowed_mentions"] == {"parse": [], "replied_user": False}
    assert (len(body["nonce"]), body["enforce_nonce"]) == (25, True)
    assert http.headers[0]["Authorization"] == "Bot MTEx.x.s3cret"
    assert http.headers[0]["User-Agent"].startswith("DiscordBot (")


async def test_the_file_store_is_not_shown_the_token() -> None:
    http = Recorder(HttpReply(200, {}, b"data"))
    ref = "https://cdn.discordapp.com/attachments/4/9/cat.png?ex=1"
    assert await offline_bot(http).fetch(Attachment(kind=MediaKind.FILE, ref=ref)) == b"data"
    assert "Authorization" not in http.headers[0]


async def test_a_file_store_in_trouble_is_asked_again_later() -> None:
    http = Recorder(HttpReply(503, {"retry-after": "5"}, b""))
    with pytest.raises(SendFailed) as caught:
        await offline_bot(http).fetch(Attachment(kind=MediaKind.FILE, ref="https://cdn/x"))
    assert (caught.value.outcome, caught.value.cause.retry_after) == (Outcome.NOT_SENT, 5.0)


async def test_a_plain_404_is_refused() -> None:
    http = Recorder(HttpReply(404, {}, b'{"message": "404: Not Found", "code": 0}'))
    with pytest.raises(SendFailed) as caught:
        await offline_bot(http).send(Outbound(key="k", chat="7", text="hi"))
    assert (caught.value.outcome, caught.value.cause.code) == (Outcome.REFUSED, "discord_http_404")


async def test_a_bot_without_a_server_is_told_how_to_join_one() -> None:
    me = HttpReply(200, {}, b'{"id": "111", "username": "gatebot", "bot": true}')
    lonely = HttpReply(200, {}, b'{"flags": 524288, "approximate_guild_count": 0}')
    health = await offline_bot(Recorder(me, lonely)).check()
    assert health.cause is None
    assert "invite" in health.notes[0]


def test_a_close_is_classified_wherever_it_is_met() -> None:
    cause = offline_bot(Recorder()).classify(WebSocketClosed(4014, "Disallowed intent(s)."))
    assert cause is not None
    assert (cause.kind, cause.code) == (Kind.REFUSED, "discord_close_4014")
    assert offline_bot(Recorder()).classify(ValueError()) is None
    assert isinstance(cause, Cause)


# -- what a message says ----------------------------------------------------------------------


def event(**fields: Any) -> msgspec.Raw:
    """``d`` of a message in a server."""
    message: dict[str, Any] = {
        "id": "1310",
        "channel_id": "444",
        "guild_id": "333",
        "author": {"id": "7", "username": "ann", "global_name": None},
        "content": "hi",
        "timestamp": "2026-11-20T18:00:05.000000+00:00",
        "edited_timestamp": None,
        "type": 0,
        "mentions": [],
        "attachments": [],
    }
    return msgspec.Raw(msgspec.json.encode(message | fields))


def read(event_name: str = "MESSAGE_CREATE", **fields: Any) -> Inbound:
    """The message of an event."""
    message = message_of(event_name, event(**fields), "111")
    assert isinstance(message, Message)
    return inbound(message, "111")


@pytest.mark.parametrize(
    "fields",
    [
        {"author": {"id": "111"}},
        {"author": {"id": "8", "bot": True}},
        {"webhook_id": "9"},
        {"type": 7},
    ],
)
def test_bots_hooks_and_notices_are_dropped(fields: dict[str, Any]) -> None:
    assert message_of("MESSAGE_CREATE", event(**fields), "111") is None


def test_an_update_that_nobody_wrote_is_dropped_even_without_author() -> None:
    assert message_of("MESSAGE_UPDATE", event(author=None), "111") is None
    with pytest.raises(BadFrame):
        message_of("MESSAGE_CREATE", event(author=None), "111")


def test_a_reply_to_us_is_addressed_to_us() -> None:
    reference = {"message_id": "1309", "type": 0}
    ours = {"author": {"id": "111", "bot": True}}
    message = read(type=19, message_reference=reference, referenced_message=ours)
    assert (message.mentioned, message.reply_to) == (True, "1309")
    other = read(type=19, message_reference=reference, referenced_message=None)
    assert (other.mentioned, other.reply_to) == (False, "1309")


def test_a_forwarded_message_is_no_reply() -> None:
    assert read(message_reference={"message_id": "1309", "type": 1}).reply_to is None


def test_a_name_in_what_is_forwarded_calls_nobody() -> None:
    copy = {"content": "ask <@111>", "mentions": [{"id": "111"}], "type": 0}
    message = read(content="", message_snapshots=[{"message": copy}])
    assert (message.text, message.mentioned) == ("ask", False)


def test_both_forms_of_our_name_are_taken_out() -> None:
    us = {"id": "111", "username": "gatebot", "bot": True}
    message = read(content="<@!111> ask <@8> and <@111>", mentions=[us])
    assert (message.text, message.mentioned) == ("ask <@8> and", True)


def test_each_edit_has_an_id_of_its_own() -> None:
    edits = [
        read("MESSAGE_UPDATE", edited_timestamp=f"2026-11-20T18:00:2{second}.500000+00:00")
        for second in (0, 1)
    ]
    assert [edit.id for edit in edits] == ["1310e1795197620500", "1310e1795197621500"]
    assert {edit.edit_of for edit in edits} == {"1310"}
    assert edits[0].at == 1_795_197_620.5


@pytest.mark.parametrize(
    ("mime", "kind"),
    [
        (None, "file"),
        ("image/png", "image"),
        ("video/mp4", "video"),
        ("audio/ogg", "audio"),
        ("text/x", "file"),
    ],
)
def test_attachments_are_what_their_type_says(mime: str | None, kind: str) -> None:
    file = {"id": "9", "filename": "a", "content_type": mime, "url": "https://cdn/a"}
    (attachment,) = read(attachments=[file]).attachments
    assert (attachment.kind, attachment.mime, attachment.size) == (kind, mime or "", None)


def test_a_date_that_can_not_be_read_is_none() -> None:
    assert read(timestamp="soon").at is None
