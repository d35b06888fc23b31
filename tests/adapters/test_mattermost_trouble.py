"""Mattermost in trouble: every fault of the way, every end of a token, stopping, checking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.adapter import HttpFailed, Secret, WebSocketClosed
from holdfast.adapters.mattermost import Mattermost, MattermostSettings
from holdfast.gateway.account import AccountTools
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import Net
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.supervision import Cause, Kind, Published, State
from holdfast.testing import MemoryStore
from tests.adapters.test_mattermost import Contrary, again, arrived, bot, codes, trouble
from tests.harness import Running, running


def told(seen: Running) -> Cause:
    """The cause in force."""
    cause = seen.account.view().cause
    assert cause is not None
    return cause


# -- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "code", "kind"),
    [
        ("api_500", {}, "mattermost_http_500", Kind.UNREACHABLE),
        ("api_503", {}, "mattermost_http_503", Kind.UNREACHABLE),
        ("api_html", {}, "mattermost_http_502", Kind.UNREACHABLE),
        ("api_html", {"status": 200}, "mattermost_unexpected_html", Kind.UNREACHABLE),
        ("api_html", {"status": 404}, "mattermost_unexpected_html", Kind.UNREACHABLE),
        ("api_429", {"retry_after": 3}, "mattermost_rate_limited", Kind.THROTTLED),
        ("api_hang", {}, "mattermost_identity_timeout", Kind.TIMEOUT),
        ("ws_refused", {}, "mattermost_upgrade_503", Kind.UNREACHABLE),
        ("ws_refused", {"status": 403}, "mattermost_upgrade_403", Kind.UNREACHABLE),
        ("ws_refused", {"status": 429}, "mattermost_upgrade_429", Kind.THROTTLED),
        ("close_after_accept", {}, "mattermost_close_1001", Kind.LOST),
        ("close_after_accept", {"code": 0}, "mattermost_close_1006", Kind.LOST),
        ("no_hello", {}, "mattermost_hello_timeout", Kind.TIMEOUT),
        ("slow_hello", {"delay": 15.0}, "mattermost_hello_timeout", Kind.TIMEOUT),
        ("ping_fail", {}, "mattermost_socket_denied", Kind.PROTOCOL),
        ("no_ack", {}, "mattermost_hello_timeout", Kind.TIMEOUT),
    ],
)
async def test_an_attempt_that_fails_is_named_and_repeated(
    fault: str, params: dict[str, Any], code: str, kind: Kind
) -> None:
    async with MattermostSimulator() as sim:
        sim.faults.arm(fault, **params)
        async with running(Mattermost, sim.account()) as seen:
            assert await trouble(seen, code) is Published.RETRYING
            assert (told(seen).kind, bool(told(seen).message)) == (kind, True)
            assert told(seen).advice
            await seen.connected()
            sim.say("after")
            await arrived(seen, "after")
            assert Published.FATAL not in seen.states()
            assert seen.account.unknown_errors == 0


@pytest.mark.parametrize("fault", ["slow_hello", "ack_once_late", "split_frame"])
async def test_a_slow_opening_is_an_opening(fault: str) -> None:
    async with MattermostSimulator() as sim:
        sim.faults.arm(fault)
        async with running(Mattermost, sim.account()) as seen:
            await seen.connected()
            sim.say("hello")
            await arrived(seen, "hello")
            assert codes(seen) == set()


async def test_what_is_said_while_the_first_ping_is_out_is_not_lost() -> None:
    async with MattermostSimulator() as sim:
        sim.faults.arm("ack_once_late", delay=5.0)
        async with running(Mattermost, sim.account()) as seen:
            await sim.until(lambda: sim.count("link-open") == 1)
            sim.faults.arm("bad_frame")
            sim.say("early")
            assert seen.account.view().published is not Published.CONNECTED
            await seen.connected()
            await arrived(seen, "early")
            assert seen.account.view().generation == 1


async def test_a_url_that_leads_elsewhere_is_explained() -> None:
    async with MattermostSimulator() as sim:
        config = sim.account() | {"url": f"{sim.url}/chat"}
        async with running(Mattermost, config) as seen:
            await trouble(seen, "mattermost_http_404")
            assert "Site URL" in told(seen).advice
            assert Published.FATAL not in seen.states()


async def test_an_upgrade_that_is_none_ends_the_attempt() -> None:
    async with Contrary() as sim:
        sim.answers = ("/websocket", 200, {})
        async with running(Mattermost, sim.account()) as seen:
            await trouble(seen, "mattermost_upgrade_200")
            sim.answers = ("", 0, None)
            await seen.connected()


async def test_an_answer_that_can_not_be_read_ends_the_attempt() -> None:
    async with Contrary() as sim:
        sim.answers = ("/users/me", 200, [])
        async with running(Mattermost, sim.account()) as seen:
            await trouble(seen, "mattermost_bad_answer")
            assert told(seen).kind is Kind.PROTOCOL
            sim.answers = ("", 0, None)
            await seen.connected()


async def test_a_server_that_is_down_at_the_start_is_waited_for() -> None:
    async with MattermostSimulator() as sim:
        await sim.stop()
        async with running(Mattermost, sim.account()) as seen:
            await seen.published(Published.RETRYING)
            await sim.start()
            await seen.connected()
            assert Published.FATAL not in seen.states()


@pytest.mark.parametrize("fault", ["api_429", "ws_refused"])
async def test_a_wait_the_server_asks_for_is_kept(fault: str) -> None:
    async with MattermostSimulator() as sim:
        more = {"status": 429} if fault == "ws_refused" else {}
        sim.faults.arm(fault, retry_after=40, **more)
        async with running(Mattermost, sim.account()) as seen:
            await seen.published(Published.RETRYING)
            start = sim.now()
            assert (told(seen).kind, told(seen).retry_after) == (Kind.THROTTLED, 40.0)
            await seen.connected()
            assert 40 <= sim.now() - start < 80


# -- while connected ------------------------------------------------------------------------------


async def test_a_silent_socket_is_given_up_and_what_it_hid_is_fetched() -> None:
    async with bot() as (sim, seen):
        start = sim.now()
        sim.half_open()
        sim.say("into the void")
        assert await trouble(seen, "mattermost_silent") is Published.RETRYING
        assert 50 < sim.now() - start < 75
        await again(seen)
        await arrived(seen, "into the void")


async def test_a_mute_first_connection_is_given_up_as_well() -> None:
    async with MattermostSimulator() as sim:
        sim.faults.arm("half_open")
        async with running(Mattermost, sim.account()) as seen:
            await trouble(seen, "mattermost_hello_timeout")
            await seen.connected()


@pytest.mark.parametrize("fault", ["no_ack", "ack_once_late"])
async def test_one_ping_without_an_answer_is_forgiven(fault: str) -> None:
    async with bot() as (sim, seen):
        sim.faults.arm(fault)
        await asyncio.sleep(300)
        assert sim.faults.played[fault] == 1
        assert seen.account.view().generation == 1
        assert sim.count("beat") >= 10


async def test_pings_that_stay_unanswered_end_a_connection_that_talks() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("no_ack", times=4)
        for _ in range(12):
            await asyncio.sleep(10)
            sim.say("still talking")
        assert await trouble(seen, "mattermost_heartbeat_unacked") is Published.RETRYING
        await again(seen)


async def test_an_answer_no_ping_should_get_is_the_peers_breach() -> None:
    async with bot() as (sim, seen):
        await asyncio.sleep(1)
        fail = '{"status": "FAIL", "error": {"id": "bad_seq", "message": "no"}}'
        next(iter(sim._hub.links)).send(fail)
        await trouble(seen, "mattermost_ping_refused")
        assert told(seen).kind is Kind.PROTOCOL
        await again(seen)


# -- credentials ----------------------------------------------------------------------------------


async def test_a_wrong_token_is_fatal_at_the_first_try() -> None:
    async with MattermostSimulator() as sim:
        async with running(Mattermost, sim.account() | {"token": "wrong"}) as seen:
            await seen.published(Published.FATAL)
            assert (told(seen).kind, told(seen).code) == (
                Kind.CREDENTIALS,
                "mattermost_unauthorized",
            )
            assert "Bot Accounts" in told(seen).advice
            assert seen.account.view().generation == 1


async def test_revoked_while_live_is_confirmed_then_fatal_and_a_kick_brings_it_back() -> None:
    async with bot() as (sim, seen):
        sim.say("before")
        await arrived(seen, "before")
        start = sim.now()
        sim.revoke()
        sim.say("unheard")
        await seen.published(Published.FATAL)
        assert sim.now() - start < 60
        assert "mattermost_session_revoked" in codes(seen)
        assert told(seen).code == "mattermost_unauthorized"
        assert seen.account.view().generation == 2  # the second one only checked
        sim.tokens.add(sim.token)
        seen.account.kick(operator=True)
        await seen.connected()
        # The old stream would have hidden it.
        await arrived(seen, "before", "unheard")


async def test_revoked_during_an_outage_is_fatal_and_nothing_of_it_is_lost() -> None:
    store = MemoryStore()
    async with bot(store) as (sim, seen):
        sim.say("before")
        await arrived(seen, "before")
        sim.revoke()
        sim.drop_all()
        await seen.published(Published.FATAL)
        assert "connection" not in await store.cursor("bot")
        sim.say("unheard")
        sim.tokens.add(sim.token)
        seen.account.kick(operator=True)
        await seen.connected()
        await arrived(seen, "before", "unheard")


@pytest.mark.parametrize("fault", ["ping_fail", "api_401"])
async def test_a_verdict_that_was_a_mistake_is_not_fatal(fault: str) -> None:
    async with bot() as (sim, seen):
        sim.faults.arm(fault)
        if fault == "api_401":
            sim.drop_all()
        denied = "mattermost_session_revoked" if fault == "ping_fail" else "mattermost_unauthorized"
        await trouble(seen, denied)
        sim.say("during")
        await again(seen, 3)
        await arrived(seen, "during")
        assert Published.FATAL not in seen.states()


async def test_a_proxys_401_is_no_verdict() -> None:
    async with Contrary() as sim:
        sim.answers = ("/users/me", 401, {"error": "log in to the proxy"})
        async with running(Mattermost, sim.account()) as seen:
            await trouble(seen, "mattermost_http_401")
            assert Published.FATAL not in seen.states()
            sim.answers = ("", 0, None)
            await seen.connected()


async def test_a_forbidden_account_is_left_to_a_person() -> None:
    async with MattermostSimulator() as sim:
        sim.faults.arm("api_403", times=None)
        async with running(Mattermost, sim.account()) as seen:
            await seen.published(Published.FATAL)
            assert (told(seen).kind, told(seen).code) == (Kind.REFUSED, "mattermost_forbidden")


async def test_the_token_is_in_no_report_and_no_error() -> None:
    async with bot() as (sim, seen):
        for fault in ("api_500", "api_html", "api_401", "ws_refused", "close_after_accept"):
            sim.faults.arm(fault)
            sim.drop_all()
            await seen.account.until(lambda v: v.published is not Published.CONNECTED)
            await seen.connected()
        sim.revoke()
        await seen.published(Published.FATAL)
        health = await seen.adapter.check()
        everything = repr([seen.reports, health, seen.adapter.identity, seen.adapter.endpoint])
        assert "mattermost_http_500" in everything
        assert sim.token not in everything


# -- settings, check and stop ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problem"),
    [({"url": "chat.example.org"}, "https://"), ({"token": Secret("")}, "must not be empty")],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any], problem: str) -> None:
    good: dict[str, Any] = {"url": "https://chat.example.org", "token": Secret("t")}
    assert MattermostSettings(**good).url == "https://chat.example.org"
    with pytest.raises(ValueError, match=problem):
        MattermostSettings(**good | fields)


async def test_check_says_who_it_is_or_what_to_do() -> None:
    async with bot() as (sim, seen):
        assert seen.adapter.endpoint == sim.url
        assert seen.adapter.identity.startswith(sim.url)
        health = await seen.adapter.check()
        assert (health.identity, health.cause, health.notes) == (
            f"@holdfast ({sim.bot_id})",
            None,
            (),
        )
        sim.answers = ("/users/me/teams", 200, [])
        (note,) = (await seen.adapter.check()).notes
        assert "no team" in note
        sim.answers = ("/users/me", 200, {"id": "u1", "username": "ann"})
        (note,) = (await seen.adapter.check()).notes
        assert "person" in note
        sim.answers = ("", 0, None)
        sim.revoke()
        cause = (await seen.adapter.check()).cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "mattermost_unauthorized")
        await sim.stop()
        cause = (await seen.adapter.check()).cause
        assert cause is not None
        assert cause.kind is Kind.UNREACHABLE


async def test_two_accounts_with_one_token_are_one_identity() -> None:
    tools = AccountTools(Net(Resolver()).client())

    def identity(url: str, token: str) -> str:
        return Mattermost(MattermostSettings(url=url, token=Secret(token)), tools).identity

    assert identity("https://a/", "t1") == identity("https://a", "t1")
    assert identity("https://a", "t1") != identity("https://a", "t2")


async def test_errors_of_others_are_left_to_the_defaults() -> None:
    async with bot() as (_, seen):
        classify = seen.adapter.classify
        lost = classify(WebSocketClosed(1006))
        assert lost is not None
        assert (lost.kind, lost.code) == (Kind.LOST, "mattermost_close_1006")
        dns = HttpFailed(Cause(Kind.UNREACHABLE, "dns"), sent=False)
        assert classify(dns) is classify(OSError()) is None


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/users/me", "identity"),
        ("/websocket", "connect"),
        ("", "hello"),
        ("/users/me/channels", "channels"),
        ("/posts", ""),
    ],
)
async def test_stop_is_quick_in_every_step(path: str, step: str) -> None:
    async with Contrary() as sim:
        sim.stalled = path
        if step == "hello":
            sim.faults.arm("no_hello")
        store = MemoryStore()
        if not step:
            await store.receive("bot", (), {"since": 1, "start": 1})
            sim.say("missed")
        async with running(Mattermost, sim.account(), store=store) as seen:
            await asyncio.sleep(3)
            assert (seen.account.view().state is State.LIVE) is (not step)
            assert seen.account.view().step == step
            start = sim.now()
            await seen.account.stop()
            assert sim.now() - start < 5
            assert seen.account.view().state is State.STOPPED
