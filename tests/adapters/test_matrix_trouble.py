"""Matrix in trouble: every fault, every end of a session, stopping, checking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.adapter import Secret
from holdfast.adapters.matrix import Matrix, MatrixSettings
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.supervision import Kind, Published, State
from holdfast.testing import MemoryStore
from tests.adapters.test_matrix import ME, Contrary, arrived, bot, texts, trouble
from tests.harness import running


def by_password(sim: MatrixSimulator, **more: Any) -> dict[str, Any]:
    account = sim.account() | {"password": sim.password} | more
    del account["access_token"]
    return account


# -- trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "kind"),
    [
        ("http_502", "matrix_network_error", Kind.UNREACHABLE),
        ("http_504", "matrix_network_error", Kind.UNREACHABLE),
        ("html_200", "matrix_network_error", Kind.UNREACHABLE),
        ("malformed_json", "matrix_bad_answer", Kind.PROTOCOL),
        ("close_before_answer", "matrix_network_error", Kind.LOST),
        ("sync_hangs", "matrix_network_error", Kind.TIMEOUT),
        ("sync_drips", "matrix_network_error", Kind.TIMEOUT),
    ],
)
async def test_passing_trouble_is_named_and_passes(fault: str, code: str, kind: Kind) -> None:
    async with bot() as (sim, seen):
        # The library itself repeats a GET once when a reused connection is cut.
        sim.faults.arm(fault, times=2 if fault == "close_before_answer" else 1)
        assert await trouble(seen, code) is Published.RETRYING
        cause = seen.account.view().cause
        assert cause is not None
        assert (cause.kind, bool(cause.message)) == (kind, True)
        sim.say("after")
        await seen.connected()
        await arrived(seen)
        assert texts(seen) == ["after"]


async def test_a_server_that_is_down_at_the_start_is_waited_for() -> None:
    async with MatrixSimulator() as sim:
        await sim.stop()
        async with running(Matrix, sim.account()) as seen:
            await trouble(seen, "matrix_network_error")
            await sim.start()
            await seen.connected()
            assert Published.FATAL not in seen.states()


async def test_a_silent_first_sync_is_a_timeout() -> None:
    async with MatrixSimulator() as sim:
        sim.faults.arm("sync_hangs")
        async with running(Matrix, sim.account()) as seen:
            view = await seen.account.until(lambda v: v.cause is not None)
            assert view.cause is not None
            assert view.cause.kind is Kind.TIMEOUT
            await seen.connected()


async def test_a_rate_limit_is_obeyed() -> None:
    async with bot() as (sim, seen):
        sim.faults.arm("rate_limited", retry_after_ms=40_000)
        await trouble(seen, "matrix_rate_limited")
        start = sim.now()
        await seen.connected()
        assert 39 <= sim.now() - start < 90


# -- credentials ----------------------------------------------------------------------------------


async def test_a_wrong_token_is_fatal_at_the_first_try() -> None:
    async with MatrixSimulator() as sim:
        config = sim.account() | {"access_token": "syt_wrong"}
        async with running(Matrix, config) as seen:
            await seen.published(Published.FATAL)
            view = seen.account.view()
            assert view.cause is not None
            assert view.cause.code == "matrix_unknown_token"
            assert "access token" in view.cause.advice
            assert view.generation == 1


async def test_a_token_of_somebody_else_is_fatal() -> None:
    async with MatrixSimulator() as sim:
        config = sim.account() | {"user_id": "@other:sim.local"}
        async with running(Matrix, config) as seen:
            await seen.published(Published.FATAL)
            assert await trouble(seen, "matrix_wrong_user") is Published.FATAL


async def test_revoked_while_live_is_confirmed_then_fatal_and_a_kick_brings_it_back() -> None:
    async with bot() as (sim, seen):
        sim.revoke()
        await seen.published(Published.FATAL)
        assert await trouble(seen, "matrix_unknown_token") is Published.FATAL
        assert seen.account.view().generation == 2  # the second one only checked
        sim.restore()
        seen.account.kick(operator=True)
        await seen.connected()
        sim.say("welcome back")
        await arrived(seen)


@pytest.mark.parametrize("fault", ["unknown_token", "soft_logout", "user_locked"])
async def test_a_verdict_that_was_a_mistake_is_not_fatal(fault: str) -> None:
    async with bot() as (sim, seen):
        sim.faults.arm(fault)
        code = "matrix_user_locked" if fault == "user_locked" else "matrix_unknown_token"
        await trouble(seen, code)
        await seen.connected()
        assert sim.count("login") == 0
        assert Published.FATAL not in seen.states()


async def test_a_locked_account_is_left_to_a_person() -> None:
    async with MatrixSimulator() as sim:
        sim.faults.arm("user_locked", times=None)
        async with running(Matrix, sim.account()) as seen:
            await seen.published(Published.FATAL)
            cause = seen.account.view().cause
            assert cause is not None
            assert (cause.kind, cause.code) == (Kind.REFUSED, "matrix_user_locked")
            assert "administrator" in cause.hint


async def test_with_a_password_an_expired_session_is_renewed_on_the_same_device() -> None:
    store = MemoryStore()
    async with MatrixSimulator() as sim, running(Matrix, by_password(sim), store=store) as seen:
        await seen.connected()
        sim.say("one")
        await arrived(seen)
        for end in (sim.expire, sim.revoke):
            end()
            await trouble(seen, "matrix_session_expired")
            await seen.connected()
        sim.say("two")
        await arrived(seen, 2)
        logins = [record.detail["device"] for record in sim.log if record.what == "login"]
        assert len(logins) == 3
        assert len(set(logins)) == 1
        assert logins[0].startswith("HOLDFAST_")
        assert Published.FATAL not in seen.states()
        assert set(await store.cursor("bot")) == {"since", "invites"}


async def test_a_token_that_ends_is_renewed_by_password_on_its_own_device() -> None:
    async with bot(password=MatrixSimulator.password) as (sim, seen):
        assert sim.count("login") == 0
        sim.expire()
        await trouble(seen, "matrix_session_expired")
        await seen.connected()
        logins = [record.detail["device"] for record in sim.log if record.what == "login"]
        assert logins == [sim.device_id]


async def test_a_wrong_password_is_fatal() -> None:
    async with MatrixSimulator() as sim:
        async with running(Matrix, by_password(sim, password="hunter2")) as seen:
            await seen.published(Published.FATAL)
            assert await trouble(seen, "matrix_bad_password") is Published.FATAL
            assert seen.account.view().generation == 1


async def test_no_secret_is_ever_shown(caplog: pytest.LogCaptureFixture) -> None:
    secrets = [MatrixSimulator.password]
    async with MatrixSimulator() as sim:
        secrets.append(sim.token)
        config = sim.account() | {"password": sim.password}
        async with running(Matrix, config) as seen:
            await seen.connected()
            for fault in ("http_502", "rate_limited", "soft_logout", "close_before_answer"):
                sim.faults.arm(fault, times=2)
                await seen.account.until(lambda v: v.state is not State.LIVE)
                await seen.connected()
            health = await seen.adapter.check()
            await sim.stop()
            failed = await seen.adapter.check()
            reports = f"{seen.reports} {health} {failed} {vars(seen.adapter)['_settings']}"
    for secret in secrets:
        assert secret not in reports + caplog.text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"access_token": None}, "access_token or password"),
        ({"user_id": "bot"}, "@bot:example.org"),
        ({"homeserver": "example.org"}, "https://"),
        ({"sync_timeout": 0.0}, "between 1 and 120"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any], problem: str) -> None:
    good: dict[str, Any] = {"homeserver": "https://hs", "user_id": "@bot:hs"}
    good["access_token"] = Secret("t")
    assert MatrixSettings(**good).msgtype == "m.notice"
    with pytest.raises(ValueError, match=problem):
        MatrixSettings(**good | fields)


# -- check and stop -------------------------------------------------------------------------------


async def test_check_says_who_it_is_or_what_to_do() -> None:
    async with bot() as (sim, seen):
        assert seen.adapter.identity == ME
        health = await seen.adapter.check()
        assert (health.identity, health.cause, health.notes) == (ME, None, ())
        sim.revoke()
        cause = (await seen.adapter.check()).cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "matrix_unknown_token")
        assert "new access token" in cause.advice
        await sim.stop()
        cause = (await seen.adapter.check()).cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.UNREACHABLE, "matrix_network_error")
        assert sim.url in cause.message


@pytest.mark.parametrize(
    ("path", "step"), [("whoami", "login"), ("profile", "profile"), ("sync", "sync"), ("", "")]
)
async def test_stop_is_quick_in_every_step(path: str, step: str) -> None:
    async with Contrary() as sim:
        sim.stalled = path
        async with running(Matrix, sim.account()) as seen:
            await asyncio.sleep(3)
            assert (seen.account.view().state is State.LIVE) is (not path)
            assert seen.account.view().step == step
            start = sim.now()
            await seen.account.stop()
            assert sim.now() - start < 5
            assert seen.account.view().state is State.STOPPED


async def test_a_join_that_hangs_is_tried_again_and_ends_nothing() -> None:
    async with Contrary() as sim, running(Matrix, sim.account()) as seen:
        await seen.connected()
        sim.stalled = "/join"
        sim.say("let me in")
        await asyncio.sleep(100)
        assert seen.messages == []
        assert seen.account.view().published is Published.CONNECTED
        sim.stalled = ""
        await arrived(seen)
        assert seen.account.view().generation == 1


@pytest.mark.parametrize("status", [429, 502])
async def test_a_join_the_server_cannot_do_now_is_tried_again(status: int) -> None:
    async with Contrary() as sim, running(Matrix, sim.account()) as seen:
        await seen.connected()
        sim.refused = ("/join", status)
        sim.say("let me in")
        await asyncio.sleep(35)
        sim.refused = ("", 0)
        await arrived(seen)
        assert seen.account.skipped_frames == 0


async def test_who_is_thrown_out_at_once_still_hears_the_message() -> None:
    async with Contrary() as sim, running(Matrix, sim.account()) as seen:
        await seen.connected()
        sim.refused = ("/joined_members", 403)
        sim.say("hello and goodbye")
        (message,) = await arrived(seen)
        assert (message.private, message.sender_name) == (False, "")
