"""The Slack adapter on the real shell against the simulator: Socket Mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from holdfast.adapters.slack import Slack
from holdfast.lab.simulators.slack import SlackSimulator, Token
from holdfast.lab.simulators.slack_platform import Work
from holdfast.lab.simulators.slack_rules import ApiError
from holdfast.messages import Outbound
from holdfast.supervision import Cause, Kind, Published
from tests.harness import Running, running


class Narrow(SlackSimulator):
    """A workspace that refuses some calls and does not answer others, by method."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: dict[str, ApiError] = {}
        """By method, or by method and channel with a space between."""
        self.hanging: set[str] = set()
        self.slow = 0.0
        """Seconds for every call that reads or lists chats."""
        self.scopes: str | None = None
        """What auth.test tells of the bot token's scopes."""

    def call(self, table: Mapping[str, tuple[Any, Work]]) -> Work:
        """See `Workspace.call`."""
        perform = super().call(table)

        async def refusing(request: Any, params: Any) -> Any:
            method = request.match_info["method"]
            self.note("call", method=method, params=dict(params))
            if method in self.hanging:
                await asyncio.Event().wait()
            if method.startswith(("conversations.", "users.")):
                await asyncio.sleep(self.slow)
            here = f"{method} {params.get('channel')}"
            if (error := self.refusals.get(method) or self.refusals.get(here)) is not None:
                raise error
            answer = await perform(request, params)
            if method != "auth.test" or self.scopes is None or not isinstance(answer, dict):
                return answer
            return web.json_response({"ok": True} | answer, headers={"X-OAuth-Scopes": self.scopes})

        return refusing


@asynccontextmanager
async def bot(**options: Any) -> AsyncIterator[tuple[Narrow, Running]]:
    """A connected bot on a simulator of its own."""
    async with Narrow() as sim, running(Slack, sim.account(), **options) as run:
        await run.connected()
        yield sim, run


def codes(run: Running) -> list[str]:
    """The causes of all reports in order, without repeats."""
    found = [report.view.cause.code for report in run.reports if report.view.cause is not None]
    return [code for i, code in enumerate(found) if i == 0 or code != found[i - 1]]


def cause(run: Running) -> Cause:
    """The cause that is published now."""
    found = run.account.view().cause
    assert found is not None
    return found


async def until(condition: Callable[[], bool], timeout: float = 400.0) -> None:
    """Wait on virtual time; the step is small against every limit of the protocol."""
    for _ in range(round(timeout / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the condition did not come true in {timeout} s")


async def heard_texts(run: Running, *texts: str) -> None:
    """Wait for exactly these texts, in this order, and for nothing after them."""
    await until(lambda: len(run.messages) >= len(texts))
    await asyncio.sleep(1.0)
    assert [message.text for message in run.messages] == list(texts)


def calls(sim: Narrow, method: str) -> list[dict[str, Any]]:
    """The parameters of all calls of a method."""
    return [r.detail["params"] for r in sim.log if r.detail.get("method") == method]


# -- messages ---------------------------------------------------------------------------------


async def test_a_direct_message_comes_in_and_is_acknowledged() -> None:
    async with bot() as (sim, run):
        said = sim.say("a < b & c")
        await heard_texts(run, "a < b & c")
        (message,) = run.messages
        assert message.id == f"{sim.channel_id('alice')}:{said}"
        assert message.chat == sim.channel_id("alice")
        assert message.sender == sim.user_id("alice")
        assert message.at == float(said)
        assert message.private
        assert not message.mentioned
        assert sim.count("ack") == 1


async def test_a_mention_is_told_twice_and_delivered_once() -> None:
    async with bot() as (sim, run):
        sim.say("status?", chat="ops", group=True)
        await heard_texts(run, "status?")
        (message,) = run.messages
        assert message.chat == sim.channel_id("ops", group=True)
        assert message.mentioned
        assert not message.private
        assert sim.count("ack") == 2


async def test_what_names_nobody_is_no_mention() -> None:
    async with bot() as (sim, run):
        sim.say("lunch?", chat="ops", group=True, mention=False)
        sim.say("<@U2ANN> lunch?", chat="ops", group=True, mention=False)
        await heard_texts(run, "lunch?", "<@U2ANN> lunch?")
        assert [message.mentioned for message in run.messages] == [False, False]


async def test_an_answer_in_a_thread_names_the_thread() -> None:
    async with bot() as (sim, run):
        root = sim.say("root", chat="ops", group=True)
        sim.say("and now?", chat="ops", group=True, reply_to=root, mention=False)
        await heard_texts(run, "root", "and now?")
        first, second = run.messages
        assert (first.thread, first.reply_to) == (None, None)
        assert (second.thread, second.reply_to) == (root, first.id)


async def test_images_and_files_are_fetched_by_reference() -> None:
    async with bot() as (sim, run):
        sim.say("see", image=b"\x89PNG-picture", file=("report.pdf", b"%PDF"))
        await heard_texts(run, "see")
        image, file = run.messages[0].attachments
        assert (image.kind, image.mime) == ("image", "image/png")
        assert (file.kind, file.name, file.size) == ("file", "report.pdf", 4)
        assert await run.adapter.fetch(image) == b"\x89PNG-picture"
        assert await run.adapter.fetch(file) == b"%PDF"


async def test_an_edit_names_what_it_replaces() -> None:
    async with bot() as (sim, run):
        said = sim.say("helo")
        sim.say("hello", edit_of=said)
        await heard_texts(run, "helo", "hello")
        first, second = run.messages
        assert second.edit_of == first.id
        assert second.id not in (first.id, "")


async def test_own_echoes_and_deletions_are_acknowledged_and_dropped() -> None:
    async with bot() as (sim, run):
        said = sim.say("one")
        await heard_texts(run, "one")
        chat = run.messages[0].chat
        receipt = await run.adapter.send(Outbound(key="k", chat=chat, text="two"))
        await run.adapter.send(Outbound(key="k2", chat=chat, text="three", edit_of=receipt.id))
        sim.delete(said)
        await until(lambda: sim.count("ack") == 2 and sim.count("ack-echo") == 2, timeout=5)
        await heard_texts(run, "one")


@pytest.mark.parametrize("fault", ["dup_event", "out_of_order", "split_frame", "unknown_frame"])
async def test_odd_frames_change_nothing(fault: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault)
        sim.say("one")
        await heard_texts(run, "one")
        assert run.account.skipped_frames == 0
        assert sim.count("ws-open") == 1


@pytest.mark.parametrize(
    "raw",
    [
        "{not json",
        "[]",
        '{"envelope_id": "e1", "type": "events_api", "payload": {"event": {"type": "message"}}}',
        '{"envelope_id": "e1", "type": "events_api", "payload": {"event": {"type": "message", '
        '"ts": "1795197151.398088", "user": "U2ANN", "text": "hi"}}}',
    ],
)
async def test_a_message_that_can_not_be_read_is_skipped_and_counted(raw: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm("bad_frame", raw=raw)
        sim.say("one")
        await heard_texts(run, "one")
        assert run.account.skipped_frames == 1
        assert codes(run) == []
        assert sim.count("ack-stray") == ("e1" in raw)


@pytest.mark.parametrize("kind", ["slash_commands", "interactive"])
async def test_what_is_not_for_us_gets_its_receipt(kind: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm("bad_frame", raw=f'{{"envelope_id": "e1", "type": "{kind}"}}')
        sim.say("one")
        await heard_texts(run, "one")
        assert [r.detail["envelope"] for r in sim.log if r.what == "ack-stray"] == ["e1"]
        assert run.account.skipped_frames == 0


async def test_a_lost_acknowledgement_doubles_nothing() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("ack_lost", times=2)
        sim.say("once")
        await until(lambda: sim.count("ack") == 1, timeout=120)
        await heard_texts(run, "once")


# -- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "code"),
    [
        ("auth_error", {"error": "internal_error"}, "slack_internal_error"),
        ("open_error", {"error": "service_unavailable"}, "slack_service_unavailable"),
        ("open_error", {"error": "what now?"}, "slack_refused"),
        ("open_500", {}, "slack_http_500"),
        ("open_hangs", {}, "slack_open_timeout"),
        ("api_500", {}, "slack_http_500"),
        ("api_html", {}, "slack_unexpected_html"),
        ("malformed_json", {}, "slack_bad_answer"),
        ("handshake_refused", {"status": 409}, "upgrade_409"),
        ("handshake_hangs", {}, "slack_connect_timeout"),
        ("close_after_accept", {}, "slack_close_1001"),
        ("no_hello", {}, "slack_hello_timeout"),
        ("disconnect_for_hello", {}, "slack_too_many_websockets"),
        ("disconnect_for_hello", {"reason": "warning"}, "slack_warning"),
        ("close_after_hello", {}, "slack_close_1001"),
    ],
)
async def test_a_failed_opening_is_named_and_recovers(
    fault: str, params: dict[str, Any], code: str
) -> None:
    async with SlackSimulator() as sim:
        sim.faults.arm(fault, **params)
        async with running(Slack, sim.account()) as run:
            await run.published(Published.RETRYING)
            assert codes(run) == [code]
            await run.connected()
            sim.say("after all")
            await heard_texts(run, "after all")


@pytest.mark.parametrize("fault", ["open_429", "api_429"])
async def test_a_throttled_opening_waits_as_long_as_slack_says(fault: str) -> None:
    async with SlackSimulator() as sim:
        sim.faults.arm(fault, retry_after=70)
        start = sim.now()
        async with running(Slack, sim.account()) as run:
            await run.connected()
            assert codes(run) == ["slack_rate_limited"]
            assert sim.now() - start >= 70


@pytest.mark.parametrize("error", ["invalid_auth", "account_inactive", "team_disabled"])
@pytest.mark.parametrize("kind", Token)
async def test_bad_tokens_are_final_at_once_and_say_which_one(kind: Token, error: str) -> None:
    async with SlackSimulator() as sim:
        sim.revoke(kind, error)
        async with running(Slack, sim.account()) as run:
            await run.published(Published.FATAL)
            assert codes(run) == [f"slack_{error}"]
            assert cause(run).kind is Kind.CREDENTIALS
            assert ("xoxb-" if kind is Token.BOT else "xapp-") in cause(run).advice
            assert sim.count("ws-open") == 0
            asked = sim.count("refused")
            await asyncio.sleep(200)
            assert sim.count("refused") == asked
            sim.restore(kind)
            run.account.kick(operator=True)
            await run.connected()


async def test_swapped_tokens_are_named() -> None:
    async with SlackSimulator() as sim:
        account = sim.account()
        account["bot_token"], account["app_token"] = account["app_token"], account["bot_token"]
        async with running(Slack, account) as run:
            await run.published(Published.FATAL)
            assert cause(run).code == "slack_not_allowed_token_type"
            assert "xoxb-" in cause(run).advice


async def test_socket_mode_switched_off_is_looked_at_again_slowly() -> None:
    async with bot() as (sim, run):
        await sim.disable()
        await run.published(Published.FATAL)
        assert set(codes(run)) == {"slack_link_disabled"}
        assert "Socket Mode" in cause(run).advice
        opened = sim.count("ws-open")
        await asyncio.sleep(250)
        assert sim.count("ws-open") == opened
        sim.enable()
        await asyncio.sleep(400)
        assert run.account.view().published is Published.CONNECTED


async def test_a_revoked_app_token_is_confirmed_and_then_final() -> None:
    async with bot() as (sim, run):
        sim.revoke(Token.APP)
        sim.drop_all()
        await run.published(Published.FATAL)
        assert codes(run) == ["slack_close_1006", "slack_token_revoked"]
        assert sim.count("auth-test") >= 3
        sim.restore(Token.APP)
        run.account.kick(operator=True)
        await run.connected()


async def test_a_revoked_bot_token_is_found_by_slacks_own_notice() -> None:
    async with bot() as (sim, run):
        sim.revoke(Token.BOT)
        notice = '{"envelope_id": "e", "type": "events_api", "payload": {"event": %s}}'
        sim.faults.arm("bad_frame", raw=notice % '{"type": "tokens_revoked"}')
        sim.say("hello")
        await run.published(Published.FATAL)
        assert set(codes(run)) == {"slack_token_revoked"}


async def test_a_false_alarm_about_tokens_changes_nothing() -> None:
    async with bot() as (sim, run):
        notice = '{"envelope_id": "e", "type": "events_api", "payload": {"event": %s}}'
        sim.faults.arm("bad_frame", raw=notice % '{"type": "tokens_revoked", "tokens": {}}')
        sim.say("hello")
        await heard_texts(run, "hello")
        assert sim.count("auth-test") == 2
        assert codes(run) == []


# -- life and ends ----------------------------------------------------------------------------


async def test_a_half_open_link_is_found_within_its_silence_and_nothing_is_lost() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        sim.half_open()
        sim.say("into the void")
        start = sim.now()
        await run.published(Published.RETRYING)
        assert sim.now() - start <= 46
        assert codes(run) == ["slack_silent"]
        await heard_texts(run, "into the void")


async def test_a_socket_without_pings_is_asked_and_lives() -> None:
    async with bot() as (sim, run):
        sim.silence_limit = 1e9
        sim.faults.arm("no_ping", times=None)
        await asyncio.sleep(600)
        assert sim.count("beat") >= 10
        assert codes(run) == []


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_a_close_reconnects_and_what_was_said_meanwhile_is_read(code: int) -> None:
    async with bot() as (sim, run):
        sim.say("before")
        await heard_texts(run, "before")
        await sim.close_all(code)
        sim.say("meanwhile")
        sim.say("you too", chat="ops", group=True)
        await until(lambda: len(run.messages) == 3)
        assert {m.text for m in run.messages} == {"before", "meanwhile", "you too"}
        assert codes(run) == [f"slack_close_{code}"]
        assert run.account.last_gap is None


@pytest.mark.parametrize("reason", ["warning", "refresh_requested", "something_new"])
async def test_an_announced_end_loses_nothing_and_is_no_failure(reason: str) -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(20)
        await sim.goodbye(reason)
        for number in range(12):
            sim.say(f"{number}")
            await asyncio.sleep(1)
        await until(lambda: len(run.messages) == 12)
        # After a warning the successor is there before the end: nothing was missed.
        assert (calls(sim, "users.conversations") == []) is (reason == "warning")
        assert [m.text for m in run.messages] == [str(n) for n in range(12)]
        assert run.account.last_gap is None
        assert all(report.view.attempt == 0 for report in run.reports)


async def test_a_planned_end_without_room_for_a_successor_is_named() -> None:
    async with bot(policy={"recycle_limit": 1}) as (sim, run):
        for _ in range(2):
            await sim.goodbye("refresh_requested")
            await asyncio.sleep(5)
        await run.connected()
        assert codes(run) == ["slack_refresh_requested"]


async def test_events_on_the_socket_that_goes_are_still_taken() -> None:
    async with bot() as (sim, run):
        await sim.goodbye()
        await asyncio.sleep(5)
        for number in range(8):  # each goes to any of the sockets that are open
            sim.say(f"{number}")
        await until(lambda: sim.count("ack") == 8, timeout=2)
        await asyncio.sleep(30)
        assert sorted(m.text for m in run.messages) == [str(n) for n in range(8)]
        assert sim.connections() == 1


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["open_hangs", "handshake_hangs", "no_hello", "half_open", "goodbye", None]
)
async def test_stop_ends_within_five_seconds_in_every_step(fault: str | None) -> None:
    async with SlackSimulator() as sim:
        if fault is not None:
            sim.faults.arm(fault, times=None)
        async with running(Slack, sim.account()) as run:
            await asyncio.sleep(2)
            start = sim.now()
            await run.account.stop()
            assert sim.now() - start <= 5
            assert run.account.view().published is Published.STOPPED
