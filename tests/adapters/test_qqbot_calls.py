"""The QQ adapter's sends, files, refusals and credentials, also against odd answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from holdfast.adapter import HttpFailed, HttpReply, Outcome, Secret, SendFailed, WebSocketClosed
from holdfast.adapters.qqbot import QQBot, QQBotSettings
from holdfast.adapters.qqbot_wire import inbound
from holdfast.gateway.account import AccountTools
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Receipt
from holdfast.supervision import Cause, Kind, Published
from tests.adapters.test_qqbot import bot, codes, heard_texts, until
from tests.harness import Running, running

OK = HttpReply(200, {"content-type": "application/json"}, b'{"id": "ROBOT1.0_out"}')


@asynccontextmanager
async def talking(*, group: bool = False) -> AsyncIterator[tuple[QQBotSimulator, Running, Inbound]]:
    """A connected bot that has just been written to."""
    async with QQBotSimulator() as sim, running(QQBot, sim.account()) as run:
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


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [False, True])
async def test_an_answer_names_the_message_and_its_own_number(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        receipt = await run.adapter.send(answer(message, "hi", seq=2))
        (heard,) = sim.heard
        assert receipt == Receipt(heard.id)
        assert (heard.text, heard.reply_to) == ("hi", message.id)
        assert sim.accepted[0]["msg_seq"] == 2


async def test_without_a_message_to_answer_it_is_an_active_message() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(Outbound(key="k", chat=message.chat, text="good morning"))
        assert sim.accepted == [{"content": "good morning", "msg_type": 0}]


@pytest.mark.parametrize("group", [False, True])
async def test_files_carry_their_caption(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        image = Attachment(kind=MediaKind.IMAGE, name="cat.png", data=b"\x89PNG")
        file = Attachment(kind=MediaKind.FILE, name="r.pdf", data=b"%PDF")
        await run.adapter.send(answer(message, "a cat", attachments=(image,)))
        await run.adapter.send(answer(message, "", attachments=(file,), seq=2))
        first, second = sim.heard
        assert (first.text, first.media, first.data) == ("a cat", "cat.png", b"\x89PNG")
        assert (second.text, second.media, second.data) == ("", "r.pdf", b"%PDF")


async def test_the_declared_limit_is_accepted_and_one_more_is_not() -> None:
    async with talking() as (sim, run, message):
        limit = QQBot.traits.max_text
        await run.adapter.send(answer(message, "字" * limit))
        assert len(sim.heard) == 1
        error = await refused(run, answer(message, "字" * (limit + 1), seq=2))
        assert error.outcome is Outcome.REFUSED
        assert error.cause.code == "qq_api_40054007"


async def test_a_closed_reply_window_makes_it_active_at_once() -> None:
    async with talking(group=True) as (sim, run, message):
        await asyncio.sleep(301)
        await run.adapter.send(answer(message, "late"))
        assert [body.get("msg_id") for body in sim.accepted] == [None]


async def test_the_sixth_answer_is_active() -> None:
    async with talking() as (sim, run, message):
        for seq in range(1, 7):
            await run.adapter.send(answer(message, f"{seq}", seq=seq))
        assert [heard.text for heard in sim.heard] == ["1", "2", "3", "4", "5", "6"]
        assert ["msg_id" in body for body in sim.accepted] == [True] * 5 + [False]


async def test_a_lost_answer_is_unknown_and_the_repeat_is_recognised() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_answer_lost")
        with pytest.raises(HttpFailed) as caught:
            await run.adapter.send(answer(message, "once"))
        assert caught.value.sent
        assert await run.adapter.send(answer(message, "once")) == Receipt("")
        assert [heard.text for heard in sim.heard] == ["once"]


async def test_a_slow_answer_is_waited_for() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_slow_but_delivered", delay=8.0)
        assert (await run.adapter.send(answer(message, "slow"))).id == sim.heard[0].id


async def test_waiting_for_an_audit_is_accepted() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_202_pending")
        assert await run.adapter.send(answer(message, "hm")) == Receipt("")
        assert len(sim.heard) == 1


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "kind", "code"),
    [
        ("send_22009", {}, Outcome.NOT_SENT, Kind.THROTTLED, "qq_api_22009"),
        ("send_error", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "qq_api_50055001"),
        ("send_error", {"code": 304023}, Outcome.REFUSED, Kind.REFUSED, "qq_api_304023"),
        ("send_error", {"code": 40054002}, Outcome.REFUSED, Kind.REFUSED, "qq_api_40054002"),
        ("send_error", {"code": 304049}, Outcome.REFUSED, Kind.REFUSED, "qq_api_304049"),
        ("send_error", {"code": 11253}, Outcome.REFUSED, Kind.REFUSED, "qq_api_11253"),
        ("send_error", {"code": 11265}, Outcome.NOT_SENT, Kind.REFUSED, "qq_api_11265"),
        ("send_error", {"code": 11251}, Outcome.NOT_SENT, Kind.CREDENTIALS, "qq_api_11251"),
        ("url_refused", {}, Outcome.REFUSED, Kind.REFUSED, "qq_api_304003"),
        ("too_long", {}, Outcome.REFUSED, Kind.REFUSED, "qq_api_40054007"),
        ("api_500", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "qq_api_500"),
        ("api_html", {}, Outcome.UNKNOWN, Kind.UNREACHABLE, "qq_http_502"),
        ("api_html", {"status": 200}, Outcome.NOT_SENT, Kind.UNREACHABLE, "qq_unexpected_html"),
    ],
)
async def test_the_body_of_a_refusal_decides(
    fault: str, params: dict[str, Any], outcome: Outcome, kind: Kind, code: str
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, answer(message, "see https://example.org"))
        assert (error.outcome, error.cause.kind, error.cause.code) == (outcome, kind, code)
        assert sim.heard == []


async def test_a_refused_address_says_where_to_allow_it() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("url_refused")
        error = await refused(run, answer(message, "https://example.org"))
        assert "console" in error.cause.advice


async def test_an_active_message_too_many_is_refused_and_says_why() -> None:
    async with talking() as (sim, run, message):
        sim.replies.active_per_minute = 0
        error = await refused(run, Outbound(key="k", chat=message.chat, text="hey"))
        assert error.outcome is Outcome.REFUSED
        assert "active" in error.cause.hint


async def test_an_expired_token_is_renewed_within_the_send() -> None:
    async with talking() as (sim, run, message):
        sim.expire_tokens()
        await run.adapter.send(answer(message, "hi"))
        assert len(sim.heard) == 1


async def test_without_a_token_nothing_was_sent() -> None:
    async with talking() as (sim, run, message):
        sim.expire_tokens()
        sim.faults.arm("token_500")
        error = await refused(run, answer(message, "hi"))
        assert error.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("fault", ["media_failed", "api_html"])
async def test_a_failed_upload_has_sent_nothing(fault: str) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault)
        image = Attachment(kind=MediaKind.IMAGE, name="cat.png", data=b"\x89PNG")
        error = await refused(run, answer(message, "", attachments=(image,)))
        assert error.outcome is Outcome.NOT_SENT
        assert sim.heard == []


async def test_a_file_too_large_is_refused_before_it_travels() -> None:
    async with talking() as (_, run, message):
        file = Attachment(kind=MediaKind.FILE, name="big", data=bytes(10 * 2**20 + 1))
        error = await refused(run, answer(message, "", attachments=(file,)))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "qq_file_too_large")


async def test_a_chat_of_another_platform_is_refused() -> None:
    async with talking() as (_, run, _message):
        error = await refused(run, Outbound(key="k", chat="12345", text="hey"))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "qq_bad_chat")


async def test_what_was_said_can_not_be_changed() -> None:
    async with talking() as (sim, run, message):
        error = await refused(run, answer(message, "better", edit_of="earlier"))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "qq_no_edits")
        assert sim.heard == []


async def test_an_attachment_that_is_gone_is_refused() -> None:
    async with talking() as (sim, run, _):
        gone = Attachment(kind=MediaKind.IMAGE, ref=f"{sim.url}/_files/none/a.png")
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(gone)
        assert (caught.value.outcome, caught.value.cause.code) == (Outcome.REFUSED, "qq_file_404")


# -- credentials ------------------------------------------------------------------------------


async def test_wrong_credentials_are_final_within_one_attempt() -> None:
    async with QQBotSimulator() as sim:
        account = sim.account() | {"secret": "wrong-secret-0815"}
        async with running(QQBot, account) as run:
            await run.published(Published.FATAL)
            cause = run.account.view().cause
            assert cause is not None
            assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "qq_bad_credentials")
            assert "AppSecret" in cause.advice
            assert sim.count("ws-open") == 0
            assert "wrong-secret-0815" not in repr(run.reports)


async def test_an_unknown_bot_is_final_too() -> None:
    async with QQBotSimulator() as sim:
        async with running(QQBot, sim.account() | {"app_id": "1"}) as run:
            await run.published(Published.FATAL)
            assert codes(run) == ["qq_bad_credentials"]


async def test_an_expired_token_is_renewed_and_the_session_resumed() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.expire_tokens()
        await sim.close_all(4004)
        sim.say("meanwhile")
        await heard_texts(run, "meanwhile")
        assert codes(run) == ["qq_close_4004"]
        assert sim.count("token") == 2


async def test_a_token_the_gateway_refuses_is_not_used_again_and_tried_on_the_api_first() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.faults.arm("gateway_429")
        await sim.close_all(4004)
        await until(lambda: sim.count("resumed") == 1)
        assert codes(run) == ["qq_close_4004", "qq_api_429"]
        assert sim.count("token") == 2


async def test_a_secret_that_was_reset_is_found_although_the_token_still_works() -> None:
    async with bot() as (sim, run):
        sim.set_secret("a-new-secret")
        health = await run.adapter.check()
        assert health.cause is not None
        assert health.cause.code == "qq_bad_credentials"


async def test_a_token_is_renewed_in_its_last_minute() -> None:
    async with bot() as (sim, _):
        await asyncio.sleep(7200 - 59)
        await sim.goodbye()
        await until(lambda: sim.count("resumed") == 1)
        assert [r.detail["expires_in"] for r in sim.log if r.what == "token"] == [7200, 7200]


async def test_a_revoked_secret_is_confirmed_then_final_and_repaired_by_hand() -> None:
    async with bot() as (sim, run):
        secret = sim.secret
        sim.revoke()
        await run.published(Published.FATAL)
        assert codes(run)[-1] == "qq_bad_credentials"
        health = await run.adapter.check()
        assert health.cause is not None
        assert "AppSecret" in health.cause.advice
        sim.set_secret(secret)
        run.account.kick(operator=True)
        await run.connected()


async def test_no_secret_and_no_token_is_ever_shown() -> None:
    async with bot() as (sim, run):
        token = sim.tokens._current
        assert token is not None
        sim.faults.arm("api_401", times=None)
        health = await run.adapter.check()
        assert health.cause is not None
        sim.revoke()
        await run.published(Published.FATAL)
        shown = repr((run.reports, health, await run.adapter.check(), run.adapter.identity))
        assert sim.secret not in shown
        assert token not in shown


async def test_check_names_the_bot() -> None:
    async with bot() as (_, run):
        health = await run.adapter.check()
        assert health.cause is None
        assert "holdfast" in health.identity
        assert run.adapter.identity == "qqbot:102000001"


# -- typing -----------------------------------------------------------------------------------


async def test_typing_is_shown_in_private_chats_and_takes_no_answers_number() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.typing(message.chat)
        await run.adapter.typing(message.chat)
        assert sim.count("typing") == 2
        await run.adapter.send(answer(message, "done"))
        assert len(sim.heard) == 1


async def test_typing_in_groups_and_in_trouble_is_nothing() -> None:
    async with talking(group=True) as (sim, run, message):
        await run.adapter.typing(message.chat)
        sim.say("hi")
        await until(lambda: len(run.messages) == 2)
        await sim.stop()
        await run.adapter.typing(run.messages[1].chat)
        assert sim.count("typing") == 0


# -- odd answers, and guilds, which the simulator does not have ---------------------------------


class Recorder:
    """An HTTP client that answers from a list and remembers the requests; tokens are free."""

    def __init__(self, *answers: HttpReply) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        if url.endswith("getAppAccessToken"):
            return HttpReply(200, {}, b'{"access_token": "secret-token", "expires_in": "7200"}')
        self.asked.append((method, url, options.get("json")))
        self.headers.append(dict(options.get("headers") or {}))
        return self.answers.pop(0)


def offline_bot(http: Any) -> QQBot:
    """An adapter that talks to a recorder only."""
    return QQBot(QQBotSettings(app_id="1", secret=Secret("s3cret")), AccountTools(http))


@pytest.mark.parametrize(
    ("chat", "path"), [("channel:200020", "/channels/200020"), ("dms:1880", "/dms/1880")]
)
async def test_guild_messages_go_to_their_own_paths(chat: str, path: str) -> None:
    http = Recorder(OK)
    message = Outbound(
        key="k", chat=chat, text="hi", reply_to="08ff", context={"msg_id": "08ff"}, seq=3
    )
    assert await offline_bot(http).send(message) == Receipt("ROBOT1.0_out")
    body = {"content": "hi", "msg_id": "08ff", "message_reference": {"message_id": "08ff"}}
    assert http.asked == [("POST", f"https://api.sgroup.qq.com{path}/messages", body)]


async def test_guilds_take_no_files() -> None:
    file = Attachment(kind=MediaKind.IMAGE, name="a.png", data=b"x")
    with pytest.raises(SendFailed, match="qq_no_guild_files"):
        await offline_bot(Recorder()).send(
            Outbound(key="k", chat="channel:1", text="", attachments=(file,))
        )


async def test_an_id_can_not_leave_its_path() -> None:
    http = Recorder(OK)
    await offline_bot(http).send(Outbound(key="k", chat="c2c:../x?y", text="hi"))
    assert http.asked[0][1].endswith("/v2/users/..%2Fx%3Fy/messages")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://multimedia.nt.qq.com.cn/download?rkey=1", True),
        ("https://qq.com.evil.example/a", False),
        ("https://evilqq.com/a", False),
    ],
)
async def test_the_token_is_shown_to_qq_only(url: str, shown: bool) -> None:
    http = Recorder(OK)
    await offline_bot(http).fetch(Attachment(kind=MediaKind.FILE, ref=url))
    assert ("Authorization" in http.headers[0]) is shown


async def test_an_answer_that_can_not_be_read_leaves_doubt_and_an_empty_one_does_not() -> None:
    message = Outbound(key="k", chat="c2c:1", text="hi")
    with pytest.raises(SendFailed) as caught:
        await offline_bot(Recorder(HttpReply(200, {}, b"okay!"))).send(message)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert await offline_bot(Recorder(HttpReply(204, {}, b""))).send(message) == Receipt("")


async def test_a_bare_429_waits_as_long_as_it_says() -> None:
    http = Recorder(HttpReply(429, {"retry-after": "7"}, b""))
    with pytest.raises(SendFailed) as caught:
        await offline_bot(http).send(Outbound(key="k", chat="c2c:1", text="hi"))
    assert (caught.value.outcome, caught.value.cause.retry_after) == (Outcome.NOT_SENT, 7.0)


@pytest.mark.parametrize(
    ("kind", "mime", "number"),
    [
        (MediaKind.IMAGE, "image/png", 1),
        (MediaKind.VIDEO, "video/mp4", 2),
        (MediaKind.AUDIO, "audio/silk", 3),
        (MediaKind.AUDIO, "audio/mpeg", 4),
        (MediaKind.FILE, "", 4),
    ],
)
async def test_files_go_as_what_qq_can_play(kind: MediaKind, mime: str, number: int) -> None:
    http = Recorder(HttpReply(200, {}, b'{"file_info": "info"}'), OK)
    file = Attachment(kind=kind, mime=mime, data=b"data")
    await offline_bot(http).send(Outbound(key="k", chat="group:G", attachments=(file,)))
    (_, path, upload), (_, _, posted) = http.asked
    assert path.endswith("/v2/groups/G/files")
    assert upload["file_type"] == number
    assert posted == {"content": " ", "msg_type": 7, "media": {"file_info": "info"}}


def test_a_close_is_classified_wherever_it_is_met() -> None:
    cause = offline_bot(Recorder()).classify(WebSocketClosed(4009, "Session timed out"))
    assert cause is not None
    assert (cause.kind, cause.code) == (Kind.RECYCLED, "qq_close_4009")
    assert offline_bot(Recorder()).classify(ValueError()) is None


class HalfToken(Recorder):
    """A token service whose answer can not be read."""

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        return HttpReply(200, {}, b'{"access_token": "secret-token", "expires_in": "soon"}')


async def test_an_unreadable_token_is_not_quoted() -> None:
    health = await offline_bot(HalfToken()).check()
    assert health.cause is not None
    assert health.cause.code == "qq_no_token"
    assert "secret-token" not in repr(health)


class Cut(Recorder):
    """A network on which the token service's answer is lost."""

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        raise HttpFailed(Cause(Kind.LOST, "http_lost", "the connection ended"), sent=True)


async def test_a_lost_token_answer_leaves_no_doubt_about_the_message() -> None:
    with pytest.raises(SendFailed) as caught:
        await offline_bot(Cut()).send(Outbound(key="k", chat="c2c:1", text="hi"))
    assert caught.value.outcome is Outcome.NOT_SENT
    with pytest.raises(SendFailed) as caught:
        await offline_bot(Cut()).fetch(Attachment(kind=MediaKind.FILE, ref="https://a.qq.com/x"))
    assert caught.value.outcome is Outcome.NOT_SENT
    file = Attachment(kind=MediaKind.FILE, data=b"x")
    with pytest.raises(SendFailed) as caught:
        await offline_bot(Cut()).send(Outbound(key="k", chat="c2c:1", attachments=(file,)))
    assert caught.value.outcome is Outcome.NOT_SENT


# -- what a message says ----------------------------------------------------------------------


def event(**fields: Any) -> msgspec.Raw:
    """``d`` of a guild message."""
    message: dict[str, Any] = {
        "id": "08ffee",
        "channel_id": "200020",
        "guild_id": "1880",
        "content": "<@!42> hi",
        "author": {"id": "555", "username": "lilei", "bot": False},
        "mentions": [{"id": "42", "username": "mybot", "bot": True}],
        "timestamp": "2026-11-20T15:14:58+08:00",
    }
    return msgspec.Raw(msgspec.json.encode(message | fields))


def test_a_guild_message_loses_the_bots_name() -> None:
    message = inbound("MESSAGE_CREATE", event(), "42")
    assert message is not None
    assert (message.chat, message.text, message.sender_name) == ("channel:200020", "hi", "lilei")
    assert message.mentioned
    assert not message.private
    assert message.at == 1_795_158_898


def test_a_guild_message_that_names_nobody_is_no_mention() -> None:
    message = inbound("MESSAGE_CREATE", event(content="hi", mentions=None), "42")
    assert message is not None
    assert not message.mentioned


def test_a_direct_message_is_private_and_may_quote() -> None:
    reference = {"message_id": "08aa"}
    data = event(message_reference=reference, timestamp="soon")
    message = inbound("DIRECT_MESSAGE_CREATE", data, "42")
    assert message is not None
    assert (message.chat, message.private) == ("dms:1880", True)
    assert (message.reply_to, message.at) == ("08aa", None)


@pytest.mark.parametrize("author", [{"id": "42"}, {"id": "7", "bot": True}])
def test_own_messages_and_other_bots_are_dropped(author: dict[str, Any]) -> None:
    assert inbound("AT_MESSAGE_CREATE", event(author=author), "42") is None


def test_voice_is_taken_in_its_playable_form() -> None:
    voice = {"content_type": "voice", "url": "//a.qq.com/v.amr", "voice_wav_url": "b.qq.com/v.wav"}
    plain = {"content_type": "image/png", "url": "//a.qq.com/p.png", "filename": "p.png"}
    message = inbound("AT_MESSAGE_CREATE", event(attachments=[voice, plain]), "42")
    assert message is not None
    heard, seen = message.attachments
    assert (heard.kind, heard.mime, heard.ref) == ("audio", "audio/wav", "https://b.qq.com/v.wav")
    assert (seen.kind, seen.mime, seen.ref) == ("image", "image/png", "https://a.qq.com/p.png")
