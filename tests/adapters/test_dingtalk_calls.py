"""The DingTalk adapter's sends, files, refusals and credentials, also against odd answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from holdfast.adapter import BadFrame, HttpFailed, HttpReply, Outcome, Secret, SendFailed
from holdfast.adapters.dingtalk import DingTalk, DingTalkSettings
from holdfast.gateway.account import AccountTools
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.dingtalk_rules import NO_PERMISSION, QPS_LIMIT
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Receipt
from holdfast.supervision import Cause, Kind, Published
from tests.adapters.test_dingtalk import bot, codes, heard_texts, until
from tests.harness import Running, running

IMAGE = Attachment(kind=MediaKind.IMAGE, name="cat.png", mime="image/png", data=b"\x89PNG")
FILE = Attachment(kind=MediaKind.FILE, name="r.pdf", data=b"%PDF")


@asynccontextmanager
async def talking(
    *, group: bool = False, **settings: Any
) -> AsyncIterator[tuple[DingTalkSimulator, Running, Inbound]]:
    """A connected robot that has just been written to."""
    async with (
        DingTalkSimulator() as sim,
        running(DingTalk, sim.account() | settings) as run,
    ):
        await run.connected()
        await until(sim.listening)
        sim.say("hello", chat="team" if group else "alice", group=group)
        await until(lambda: bool(run.messages))
        yield sim, run, run.messages[0]


def answer(to: Inbound, text: str, **more: Any) -> Outbound:
    """An answer to a message."""
    return Outbound(key="key-1", chat=to.chat, text=text, context=to.context, **more)


def unasked(to: Inbound, text: str, **more: Any) -> Outbound:
    """A message of the robot's own accord."""
    return Outbound(key="key-1", chat=to.chat, text=text, **more)


async def refused(run: Running, message: Outbound) -> SendFailed:
    """The refusal a send must meet."""
    with pytest.raises(SendFailed) as caught:
        await run.adapter.send(message)
    return caught.value


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [False, True])
async def test_an_answer_goes_through_the_session_webhook_without_a_token(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        assert await run.adapter.send(answer(message, "hi")) == Receipt("")
        assert [(h.chat, h.text) for h in sim.heard] == [("team" if group else "alice", "hi")]
        assert sim.accepted == [{"msgtype": "text", "text": {"content": "hi"}}]
        assert sim.count("token") == 0


async def test_a_quoting_answer_in_a_group_mentions_who_asked() -> None:
    async with talking(group=True) as (sim, run, message):
        await run.adapter.send(answer(message, "hi", reply_to=message.id))
        assert sim.accepted[0]["at"] == {"atUserIds": ["staff-alice"]}


@pytest.mark.parametrize(
    ("group", "place"),
    [
        (False, {"userIds": ["staff-alice"]}),
        (True, {"openConversationId": "cidGroup-team=="}),
    ],
)
async def test_without_a_webhook_the_robot_sends(group: bool, place: dict[str, Any]) -> None:
    async with talking(group=group) as (sim, run, message):
        receipt = await run.adapter.send(unasked(message, "good morning"))
        (heard,) = sim.heard
        assert (heard.text, receipt) == ("good morning", Receipt(heard.id))
        sent = {"robotCode": sim.client_id, "msgKey": "sampleText"}
        assert sim.accepted == [sent | place | {"msgParam": '{"content":"good morning"}'}]


@pytest.mark.parametrize("group", [False, True])
async def test_a_webhook_that_is_over_is_replaced_by_the_robot(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        await asyncio.sleep(5_500)
        receipt = await run.adapter.send(answer(message, "late"))
        assert [heard.text for heard in sim.heard] == ["late"]
        assert receipt.id == sim.heard[0].id


async def test_a_webhook_that_was_over_from_the_start_is_not_asked() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("webhook_expired")
        sim.say("hello")
        await heard_texts(run, "hello")
        sim.faults.arm("webhook_error", times=None)
        assert (await run.adapter.send(answer(run.messages[0], "hi"))).id
        assert [heard.text for heard in sim.heard] == ["hi"]


async def test_a_webhook_that_dingtalk_forgot_is_replaced_by_the_robot() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("webhook_gone")
        await run.adapter.send(answer(message, "hi"))
        assert "msgKey" in sim.accepted[0]


async def test_markdown_has_a_title_on_both_roads() -> None:
    text = "# Weather today in Hangzhou\n\n**sunny**"
    async with talking(group=True, markdown=True) as (sim, run, message):
        await run.adapter.send(answer(message, text, reply_to=message.id))
        await run.adapter.send(unasked(message, text))
        direct, own = sim.accepted
        assert direct["msgtype"] == "markdown"
        assert direct["markdown"]["text"] == f"@staff-alice {text}"
        assert own["msgKey"] == "sampleMarkdown"
        title = "Weather today in Han"
        assert msgspec.json.decode(own["msgParam"]) == {"title": title, "text": text}


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("text", ["字" * 2_333, '"' * 7_000, "\n" * 6_999 + "x"])
async def test_the_declared_limit_is_taken_on_both_roads(text: str, markdown: bool) -> None:
    assert 6_999 <= len(text.encode()) <= DingTalk.traits.max_text
    async with talking(markdown=markdown) as (sim, run, message):
        await run.adapter.send(answer(message, text))
        await run.adapter.send(unasked(message, text))
        assert len(sim.heard) == 2


async def test_what_is_too_long_is_refused_for_good() -> None:
    async with talking() as (sim, run, message):
        for make in (answer, unasked):
            error = await refused(run, make(message, "x" * 20_001))
            assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "dingtalk_too_long")
        assert sim.heard == []


@pytest.mark.parametrize("group", [False, True])
async def test_files_and_images_are_uploaded_and_sent_by_the_robot(group: bool) -> None:
    async with talking(group=group) as (sim, run, message):
        await run.adapter.send(answer(message, "", attachments=(IMAGE,)))
        await run.adapter.send(answer(message, "", attachments=(FILE,), seq=2))
        first, second = sim.heard
        assert (first.media, first.data) == ("cat.png", b"\x89PNG")
        assert (second.media, second.data) == ("r.pdf", b"%PDF")
        assert [body["msgKey"] for body in sim.accepted] == ["sampleImageMsg", "sampleFile"]
        assert msgspec.json.decode(sim.accepted[1]["msgParam"])["fileType"] == "pdf"


async def test_an_image_shares_one_message_with_its_caption() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(answer(message, "a cat", attachments=(IMAGE,)))
        (heard,) = sim.heard
        assert heard.text.startswith("a cat\n\n![](@")
        error = await refused(run, answer(message, "a file", attachments=(FILE,)))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "dingtalk_no_captions")


async def test_a_file_without_a_name_gets_one() -> None:
    async with talking() as (sim, run, message):
        nameless = Attachment(kind=MediaKind.AUDIO, data=b"x")
        await run.adapter.send(answer(message, "", attachments=(nameless,)))
        param = msgspec.json.decode(sim.accepted[0]["msgParam"])
        assert (param["fileName"], param["fileType"]) == ("file", "file")


async def test_a_slow_answer_is_waited_for() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_slow_but_delivered", delay=8.0)
        await run.adapter.send(answer(message, "slow"))
        assert len(sim.heard) == 1


@pytest.mark.parametrize("make", [answer, unasked])
async def test_a_lost_answer_leaves_doubt(make: Any) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_answer_lost")
        with pytest.raises(HttpFailed) as caught:
            await run.adapter.send(make(message, "once"))
        assert caught.value.sent
        assert len(sim.heard) == 1


async def test_a_chat_of_another_platform_is_refused() -> None:
    async with talking() as (_, run, _message):
        for chat in ("12345", "user:", "c2c:1"):
            error = await refused(run, Outbound(key="k", chat=chat, text="hey"))
            assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "dingtalk_bad_chat")


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "kind", "code"),
    [
        ("webhook_error", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "dingtalk_busy"),
        ("webhook_error", {"errcode": 310000}, Outcome.REFUSED, Kind.REFUSED, "dingtalk_refused"),
        ("webhook_error", {"errcode": 460101}, Outcome.REFUSED, Kind.REFUSED, "dingtalk_too_long"),
        ("webhook_too_fast", {}, Outcome.NOT_SENT, Kind.THROTTLED, "dingtalk_rate_limited"),
        ("send_429", {}, Outcome.NOT_SENT, Kind.THROTTLED, "dingtalk_rate_limited"),
        ("send_500", {}, Outcome.UNKNOWN, Kind.UNREACHABLE, "dingtalk_busy"),
    ],
)
async def test_an_errcode_inside_200_is_a_failure(
    fault: str, params: dict[str, Any], outcome: Outcome, kind: Kind, code: str
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, answer(message, "hi"))
        assert (error.outcome, error.cause.kind, error.cause.code) == (outcome, kind, code)
        assert sim.heard == []


@pytest.mark.parametrize(
    ("fault", "params", "outcome", "kind", "code"),
    [
        ("send_refused", {}, Outcome.REFUSED, Kind.REFUSED, "refused"),
        ("send_refused", {"code": "group.disbanded"}, Outcome.REFUSED, Kind.REFUSED, "refused"),
        (
            "send_refused",
            {"code": "unknown.send.result"},
            Outcome.UNKNOWN,
            Kind.UNREACHABLE,
            "busy",
        ),
        (
            "send_refused",
            {"code": "staffId.notExisted"},
            Outcome.REFUSED,
            Kind.REFUSED,
            "unknown_user",
        ),
        ("send_flow_controlled", {}, Outcome.NOT_SENT, Kind.THROTTLED, "rate_limited"),
        ("api_403", {}, Outcome.REFUSED, Kind.REFUSED, "permission_missing"),
        (
            "api_403",
            {"code": "Forbidden.AccessDenied.IpNotInWhiteList"},
            Outcome.NOT_SENT,
            Kind.REFUSED,
            "ip_not_allowed",
        ),
        (
            "api_403",
            {"code": "Forbidden.AccessDenied.ApiCountLimitForOrg"},
            Outcome.REFUSED,
            Kind.THROTTLED,
            "quota_used_up",
        ),
        ("api_qps", {}, Outcome.NOT_SENT, Kind.THROTTLED, "rate_limited"),
        ("api_500", {"code": "x"}, Outcome.UNKNOWN, Kind.UNREACHABLE, "http_500"),
        ("api_html", {}, Outcome.UNKNOWN, Kind.UNREACHABLE, "http_502"),
        ("api_html", {"status": 200}, Outcome.NOT_SENT, Kind.UNREACHABLE, "unexpected_html"),
        ("api_html", {"status": 401}, Outcome.NOT_SENT, Kind.UNREACHABLE, "unexpected_html"),
        ("token_500", {}, Outcome.NOT_SENT, Kind.UNREACHABLE, "busy"),
        ("token_hang", {}, Outcome.NOT_SENT, Kind.TIMEOUT, ""),
    ],
)
async def test_the_code_of_a_refusal_decides(
    fault: str, params: dict[str, Any], outcome: Outcome, kind: Kind, code: str
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, unasked(message, "hi"))
        expected = f"dingtalk_{code}" if code else "http_timeout"
        assert (error.outcome, error.cause.kind, error.cause.code) == (outcome, kind, expected)
        assert sim.heard == []


async def test_a_throttled_send_waits_as_long_as_it_is_told() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("send_429", retry_after=7)
        assert (await refused(run, answer(message, "hi"))).cause.retry_after == 7
        sim.faults.arm("webhook_too_fast")
        assert (await refused(run, answer(message, "hi"))).cause.retry_after == 60
        sim.faults.arm("api_qps")
        assert (await refused(run, unasked(message, "hi"))).cause.retry_after == 1


async def test_somebody_dingtalk_does_not_know_is_refused_with_the_reason() -> None:
    async with talking() as (sim, run, _):
        stranger = Outbound(key="k", chat="user:$:LWCP_v1:$mallory==", text="hi")
        error = await refused(run, stranger)
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "dingtalk_unknown_user")
        assert "outside the organisation" in error.cause.advice
        assert sim.heard == []


async def test_an_expired_token_is_renewed_within_the_send_and_within_the_upload() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(unasked(message, "one"))
        sim.expire_tokens()
        await run.adapter.send(unasked(message, "two"))
        sim.expire_tokens()
        await run.adapter.send(unasked(message, "", attachments=(FILE,)))
        assert len(sim.heard) == 3
        assert sim.count("token") == 3


async def test_a_token_that_is_refused_twice_is_given_up() -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm("api_401", times=2)
        error = await refused(run, unasked(message, "hi"))
        assert (error.outcome, error.cause.code) == (Outcome.NOT_SENT, "dingtalk_token_refused")


async def test_a_token_is_renewed_five_minutes_before_its_end() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(unasked(message, "one"))
        await asyncio.sleep(6_890)
        await run.adapter.send(unasked(message, "two"))
        assert sim.count("token") == 1
        await asyncio.sleep(15)
        await run.adapter.send(unasked(message, "three"))
        assert sim.count("token") == 2


@pytest.mark.parametrize(
    ("fault", "params", "outcome"),
    [
        ("upload_error", {}, Outcome.NOT_SENT),
        ("upload_error", {"errcode": 40035}, Outcome.REFUSED),
        ("token_400", {}, Outcome.NOT_SENT),
    ],
)
async def test_a_failed_upload_has_sent_nothing(
    fault: str, params: dict[str, Any], outcome: Outcome
) -> None:
    async with talking() as (sim, run, message):
        sim.faults.arm(fault, **params)
        error = await refused(run, answer(message, "", attachments=(IMAGE,)))
        assert error.outcome is outcome
        assert sim.heard == []


async def test_a_file_too_large_is_refused_before_it_travels() -> None:
    async with talking() as (sim, run, message):
        file = Attachment(kind=MediaKind.FILE, name="big", data=bytes(20 * 2**20 + 1))
        error = await refused(run, answer(message, "", attachments=(file,)))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "dingtalk_file_too_large")
        assert sim.count("token") == 0


async def test_a_download_code_that_is_over_is_refused() -> None:
    async with talking() as (_, run, _message):
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(Attachment(kind=MediaKind.IMAGE, ref="gone"))
        assert caught.value.outcome is Outcome.REFUSED


# -- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{"client_secret": "wrong-0815"}, {"client_id": "ding0"}])
async def test_wrong_credentials_are_final_within_one_attempt(changed: dict[str, str]) -> None:
    async with DingTalkSimulator() as sim, running(DingTalk, sim.account() | changed) as run:
        await run.published(Published.FATAL)
        cause = run.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "dingtalk_bad_credentials")
        assert "Client Secret" in cause.advice
        assert (sim.count("open"), sim.count("ws-open")) == (1, 0)
        assert "wrong-0815" not in repr(run.reports)


async def test_a_single_false_401_does_not_silence_a_robot() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("open_401")
        sim.drop_all()
        await until(lambda: "dingtalk_bad_credentials" in codes(run))
        await until(sim.listening)
        assert Published.FATAL not in run.states()


async def test_a_disabled_app_is_confirmed_then_final_and_repaired_by_hand() -> None:
    async with bot() as (sim, run):
        secret = sim.client_secret
        sim.revoke()
        await run.published(Published.FATAL)
        assert codes(run) == ["dingtalk_close_1006", "dingtalk_bad_credentials"]
        assert sim.count("open") == 2
        assert [r.detail["path"] for r in sim.log if r.what == "refused"] == [
            "/v1.0/gateway/connections/open",
            "/v1.0/oauth2/accessToken",
        ]
        sim.set_secret(secret)
        run.account.kick(operator=True)
        await run.connected()
        await until(sim.listening)


async def test_no_secret_no_token_and_no_webhook_is_ever_shown() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(unasked(message, "hi"))
        token = sim.tokens._current
        assert token is not None
        sim.faults.arm("webhook_error", errcode=310000)
        error = await refused(run, answer(message, "hi"))
        sim.faults.arm("api_401", times=None)
        health = await run.adapter.check()
        sim.revoke()
        await run.published(Published.FATAL)
        again = await run.adapter.check()
        assert again.cause is not None
        shown = repr((run.reports, health, again, run.adapter.identity, error, str(error)))
        session = message.context["webhook"].partition("session=")[2]
        for secret in (sim.client_secret, token, session):
            assert secret not in shown


async def test_check_names_the_app_and_leaves_no_trace() -> None:
    async with bot() as (sim, run):
        health = await run.adapter.check()
        assert (health.cause, health.notes) == (None, ())
        assert sim.client_id in health.identity
        assert run.adapter.identity == f"dingtalk:{sim.client_id}"
        assert run.adapter.endpoint == sim.url
        assert sim.heard == []
        assert sim.count("ws-open") == 1


async def test_check_finds_a_missing_permission_and_says_where_to_grant_it() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("api_403")
        health = await run.adapter.check()
        assert health.cause is None
        assert "权限管理" in health.notes[0]


async def test_check_finds_a_withdrawn_secret_although_the_token_still_works() -> None:
    async with talking() as (sim, run, message):
        await run.adapter.send(unasked(message, "hi"))
        sim.set_secret("another")
        health = await run.adapter.check()
        assert health.cause is not None
        assert health.cause.code == "dingtalk_bad_credentials"


async def test_check_finds_an_app_that_may_not_open_a_stream() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("open_401")
        health = await run.adapter.check()
        assert health.cause is not None
        assert "Stream" in health.cause.advice


# -- odd answers ------------------------------------------------------------------------------


class Recorder:
    """An HTTP client that answers from a list and remembers the requests; tokens are free."""

    def __init__(self, *answers: HttpReply) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        if url.endswith("accessToken"):
            return HttpReply(200, {}, b'{"accessToken": "secret-token", "expireIn": 7200}')
        self.asked.append(url)
        return self.answers.pop(0)


def offline_bot(http: Any) -> DingTalk:
    """An adapter that talks to a recorder only."""
    settings = DingTalkSettings(client_id="ding1", client_secret=Secret("s3cret"))
    return DingTalk(settings, AccountTools(http))


def reply(http_status: int = 200, /, **body: Any) -> HttpReply:
    """An answer in JSON."""
    return HttpReply(http_status, {"content-type": "application/json"}, msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("webhook", "used"),
    [
        ("https://oapi.dingtalk.com/robot/sendBySession?session=1", True),
        ("https://oapi.dingtalk.io/robot/sendBySession?session=1", True),
        ("https://dingtalk.com.evil.example/robot", False),
        ("https://evildingtalk.com/robot", False),
        ("http://169.254.169.254/latest", False),
        ("", False),
    ],
)
async def test_answers_go_to_dingtalk_only(webhook: str, used: bool) -> None:
    http = Recorder(reply(errcode=0, processQueryKey="k"))
    context = {"webhook": webhook, "until": "99999999999"}
    await offline_bot(http).send(Outbound(key="k", chat="user:s", text="hi", context=context))
    assert (http.asked == [webhook]) is used
    assert http.asked[0].endswith("batchSend") is not used


async def test_a_missing_scope_is_named() -> None:
    http = Recorder(
        reply(403, code=NO_PERMISSION, accessdenieddetail={"requiredScopes": ["Robot.Send"]})
    )
    with pytest.raises(SendFailed) as caught:
        await offline_bot(http).send(Outbound(key="k", chat="user:s", text="hi"))
    assert "Robot.Send" in caught.value.cause.hint


@pytest.mark.parametrize(
    ("body", "outcome", "code"),
    [
        ({"filteredStaffIdList": ["s"]}, Outcome.REFUSED, "dingtalk_filtered"),
        ({"errcode": 88, "errmsg": "90018"}, Outcome.NOT_SENT, "dingtalk_rate_limited"),
        ({"code": QPS_LIMIT}, Outcome.NOT_SENT, "dingtalk_rate_limited"),
        ({"status": 1111, "wait": 300}, Outcome.NOT_SENT, "dingtalk_ip_banned"),
    ],
)
async def test_a_200_is_no_success_by_itself(
    body: dict[str, Any], outcome: Outcome, code: str
) -> None:
    with pytest.raises(SendFailed) as caught:
        await offline_bot(Recorder(reply(**body))).send(Outbound(key="k", chat="user:s", text="hi"))
    assert (caught.value.outcome, caught.value.cause.code) == (outcome, code)


@pytest.mark.parametrize(
    ("answers", "outcome", "code"),
    [
        ([HttpReply(404, {}, b"nope")], Outcome.REFUSED, "dingtalk_http_404"),
        ([HttpReply(429, {"retry-after": "7"}, b"")], Outcome.NOT_SENT, "dingtalk_rate_limited"),
        ([reply(401, code="new")] * 2, Outcome.NOT_SENT, "dingtalk_token_refused"),
    ],
)
async def test_where_no_code_is_known_the_status_decides(
    answers: list[HttpReply], outcome: Outcome, code: str
) -> None:
    with pytest.raises(SendFailed) as caught:
        await offline_bot(Recorder(*answers)).send(Outbound(key="k", chat="user:s", text="hi"))
    assert (caught.value.outcome, caught.value.cause.code) == (outcome, code)


async def test_check_is_content_with_a_platform_that_takes_an_empty_message() -> None:
    stream = reply(endpoint="wss://stream/connect", ticket="t")
    health = await offline_bot(Recorder(stream, reply(processQueryKey=""))).check()
    assert (health.cause, health.notes) == (None, ())


async def test_a_success_that_can_not_be_read_leaves_doubt() -> None:
    with pytest.raises(BadFrame):
        await offline_bot(Recorder(HttpReply(200, {}, b"okay!"))).send(
            Outbound(key="k", chat="group:g", text="hi")
        )


async def test_a_file_store_that_is_down_is_asked_again_later() -> None:
    for status, outcome in ((404, Outcome.REFUSED), (503, Outcome.NOT_SENT)):
        http = Recorder(reply(downloadUrl="https://files.example/a"), HttpReply(status, {}, b""))
        with pytest.raises(SendFailed) as caught:
            await offline_bot(http).fetch(Attachment(kind=MediaKind.FILE, ref="code"))
        assert caught.value.outcome is outcome
        assert caught.value.cause.code == f"dingtalk_file_{status}"


class HalfToken(Recorder):
    """A platform whose tokens can not be read."""

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        return HttpReply(200, {}, b'{"accessToken": "secret-token", "expireIn": "soon"}')


class Cut(Recorder):
    """A network on which the answer with the token is lost."""

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        raise HttpFailed(Cause(Kind.LOST, "http_lost", "the connection ended"), sent=True)


@pytest.mark.parametrize("kind", [HalfToken, Cut])
async def test_without_a_token_nothing_was_sent(kind: type[Recorder]) -> None:
    robot = offline_bot(kind())
    for attachments in ((), (FILE,)):
        message = Outbound(key="k", chat="user:s", text="", attachments=attachments)
        with pytest.raises(SendFailed) as caught:
            await robot.send(message)
        assert caught.value.outcome is Outcome.NOT_SENT
    health = await robot.check()
    assert health.cause is not None
    assert "secret-token" not in repr((health, caught.value))
