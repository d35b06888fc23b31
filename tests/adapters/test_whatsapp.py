"""The look at WhatsApp: what it proves, what it finds, and what becomes of the account then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from holdfast.adapter import HttpReply, Secret
from holdfast.adapters import whatsapp_hook
from holdfast.adapters.whatsapp import WhatsApp
from holdfast.adapters.whatsapp_api import Graph
from holdfast.adapters.whatsapp_hook import BEAT, SILENCE
from holdfast.adapters.whatsapp_watch import Token, Watch, notes
from holdfast.gateway.account import AccountTools
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import Net
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.supervision import Cause, Kind, Published
from holdfast.testing import MemoryStore
from tests.adapters.whatsapp_bot import arrived, bot, hook_url, register
from tests.harness import Running, make_adapter, running


def cause_of(run: Running) -> Cause:
    """Why the account is not connected."""
    cause = run.account.view().cause
    assert cause is not None
    return cause


async def ended(run: Running) -> Cause:
    """Wait for the account to leave `connected`; why it did."""
    await run.account.until(lambda view: view.published is not Published.CONNECTED)
    return cause_of(run)


async def in_step(run: Running, step: str) -> None:
    """Wait for a step of the attempt; no report tells of one."""
    for _ in range(100_000):
        if run.account.view().step == step:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"never in step {step}")


async def call(sim: WhatsAppSimulator, path: str, token: str, **change: str) -> None:
    """What an operator changes, past the gateway."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{sim.url}/v26.0/{path}", json=change) as reply,
    ):
        assert await reply.json() == {"success": True}


# -- becoming ready -----------------------------------------------------------------------------


async def test_it_is_ready_only_once_the_callback_is_ours() -> None:
    async with WhatsAppSimulator() as sim, running(WhatsApp, sim.account()) as run:
        await in_step(run, "callback")
        await asyncio.sleep(5)
        assert run.account.view().published is Published.CONNECTING
        await sim.set_webhook(hook_url(run))
        await run.connected()
        assert run.account.view().generation == 1
        assert run.states() == [Published.CONNECTING, Published.CONNECTED]
        assert run.account.last_gap is None


async def test_without_a_callback_it_says_what_to_enter_where() -> None:
    async with WhatsAppSimulator() as sim, running(WhatsApp, sim.account()) as run:
        await run.published(Published.FATAL)
        cause = cause_of(run)
        assert (cause.kind, cause.code) == (Kind.REFUSED, "whatsapp_no_callback")
        assert hook_url(run) in cause.hint
        assert run.account.view().generation == 1
        run.account.kick(operator=True)
        await register(sim, run)
        await run.connected()


async def test_a_claimed_number_needs_no_console() -> None:
    async with WhatsAppSimulator() as sim:
        sim.steal_callback()
        async with running(WhatsApp, sim.account() | {"claim": True}) as run:
            await run.connected()
            assert run.account.view().generation == 1
            sim.say("hello")
            assert [m.text for m in await arrived(run)] == ["hello"]


async def test_without_the_app_the_number_tells_of_the_callback() -> None:
    async with bot(app_id="") as (sim, run):
        assert sim.listening()
        sim.steal_callback()
        assert (await ended(run)).code == "whatsapp_callback_elsewhere"


class Silent:
    """An older Graph API, which does not tell a number's callback."""

    async def request(self, method: str, url: str, **rest: Any) -> HttpReply:
        body = b'{"data":[{}]}' if url.endswith("subscribed_apps") else b'{"id":"1"}'
        return HttpReply(200, {}, body)


async def test_where_meta_does_not_tell_the_callback_it_is_noted_not_guessed() -> None:
    graph = Graph(Silent(), "http://graph", Secret("t"), "", Secret("s"))
    number = await Watch(graph, "1", "2", "http://ours/hook").look()
    said = " ".join(notes(number, Token(), "", 0.0))
    assert "does not say where" in said


async def test_a_callback_verified_but_not_yet_in_force_is_looked_for_again() -> None:
    async with WhatsAppSimulator() as sim, running(WhatsApp, sim.account()) as run:
        await in_step(run, "callback")
        assert (await sim.verify(hook_url(run), sim.verify_token))[0] == 200
        await run.published(Published.RETRYING)
        assert cause_of(run).code == "whatsapp_callback_pending"
        await register(sim, run)
        await run.connected()


# -- what a look finds --------------------------------------------------------------------------


@pytest.mark.slow
async def test_quiet_hours_are_proved_by_looking() -> None:
    async with bot() as (_, run):
        await asyncio.sleep(7200)
        view = run.account.view()
        assert (view.published, view.generation) == (Published.CONNECTED, 1)
        assert view.beats >= 118
        assert view.last_proof is not None
        assert view.at - view.last_proof <= BEAT + 1


async def test_a_look_stamps_the_journal_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with bot(store=store):
        await asyncio.sleep(10)
        first = await store.cursor("bot")
        assert abs(first["seen_at"] - time.time()) < 5
        await asyncio.sleep(2 * BEAT)
        assert await store.cursor("bot") == first
        monkeypatch.setattr(whatsapp_hook, "STAMP_EVERY", 0.0)
        await asyncio.sleep(2 * BEAT)
        assert (await store.cursor("bot"))["seen_at"] > first["seen_at"]


CREDENTIALS: dict[str, tuple[Callable[[WhatsAppSimulator], object], str]] = {
    "expired": (lambda sim: sim.expire_token(463), "expired"),
    "password": (lambda sim: sim.expire_token(460), "password"),
    "other": (lambda sim: sim.set_token("EAAnew"), "not valid"),
}


@pytest.mark.parametrize("how", CREDENTIALS)
async def test_a_bad_token_at_the_start_is_fatal_at_once(how: str) -> None:
    async with WhatsAppSimulator() as sim:
        config = sim.account()
        spoil, why = CREDENTIALS[how]
        spoil(sim)
        async with running(WhatsApp, config) as run:
            await run.published(Published.FATAL)
            cause = cause_of(run)
            assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "whatsapp_bad_token")
            assert why in cause.message
            assert "System users" in cause.hint
            assert run.account.view().generation == 1


async def test_a_token_revoked_while_live_is_confirmed_then_fatal_then_repaired() -> None:
    async with bot() as (sim, run):
        began = sim.now()
        sim.expire_token()
        await run.published(Published.FATAL)
        assert sim.now() - began <= BEAT + 10
        assert cause_of(run).code == "whatsapp_bad_token"
        assert run.account.view().generation == 2  # the second one only checked
        sim.set_token(sim.access_token)
        run.account.kick(operator=True)
        await run.connected()
        assert run.account.last_gap is None


async def test_one_false_refusal_of_the_token_silences_nobody() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("token_expired")
        assert (await ended(run)).code == "whatsapp_bad_token"
        await run.connected()
        assert Published.FATAL not in run.states()


async def test_a_wrong_app_secret_is_told_from_a_wrong_token() -> None:
    async with WhatsAppSimulator() as sim:
        config = sim.account() | {"app_secret": "PLANTED-SECRET"}
        async with running(WhatsApp, config) as run:
            await run.published(Published.FATAL)
            cause = cause_of(run)
            assert (cause.kind, cause.code) == (Kind.CREDENTIALS, "whatsapp_bad_app_secret")
            assert "App settings > Basic" in cause.hint


@pytest.mark.parametrize("setting", ["phone_number_id", "business_account_id", "app_id"])
async def test_a_wrong_id_is_fatal_and_says_where_the_right_one_is(setting: str) -> None:
    async with WhatsAppSimulator() as sim:
        async with running(WhatsApp, sim.account() | {setting: "999"}) as run:
            await run.published(Published.FATAL)
            cause = cause_of(run)
            assert cause.kind in (Kind.REFUSED, Kind.CREDENTIALS)
            assert "https://developers.facebook.com/apps" in cause.hint


@pytest.mark.parametrize("setting", ["app_secret", "verify_token"])
async def test_an_empty_secret_is_refused_before_anybody_can_forge_with_it(setting: str) -> None:
    async with WhatsAppSimulator() as sim:
        async with running(WhatsApp, sim.account() | {setting: ""}) as run:
            await run.published(Published.FATAL)
            assert cause_of(run).code == "whatsapp_no_secret"
            assert sim.count("probe") == 0


async def test_an_app_that_is_not_subscribed_is_found_and_its_gap_reported() -> None:
    async with bot() as (sim, run):
        sim.unsubscribe()
        sim.say("into the void")
        await run.published(Published.FATAL)
        cause = cause_of(run)
        assert (cause.kind, cause.code) == (Kind.REFUSED, "whatsapp_not_subscribed")
        assert "subscribed_apps" in cause.hint
        assert run.account.last_gap is None
        await call(sim, f"{sim.business_account_id}/subscribed_apps", sim.access_token)
        run.account.kick(operator=True)
        await run.connected()
        await asyncio.sleep(1)
        assert run.account.last_gap is not None
        assert "did not call us" in run.account.last_gap.reason
        assert run.messages == []


async def test_a_deafness_found_at_the_start_is_remembered_until_it_is_mended() -> None:
    store, seen = MemoryStore(), time.time() - 3600.0
    await store.receive("bot", [], {"seen_at": seen})
    async with WhatsAppSimulator() as sim:
        sim.unsubscribe()
        async with running(WhatsApp, sim.account(), store=store) as run:
            await run.published(Published.FATAL)
            assert (await store.cursor("bot"))["deaf_since"] == seen


async def test_an_app_that_is_not_told_of_messages_is_found() -> None:
    async with bot() as (sim, run):
        change = {"object": "whatsapp_business_account", "fields": "account_update"}
        change |= {"callback_url": hook_url(run), "verify_token": sim.verify_token}
        await call(sim, f"{sim.app_id}/subscriptions", sim.app_token, **change)
        await run.published(Published.FATAL)
        cause = cause_of(run)
        assert (cause.kind, cause.code) == (Kind.REFUSED, "whatsapp_no_messages")
        assert "Webhook fields" in cause.hint


@pytest.mark.slow
async def test_a_callback_that_leads_elsewhere_is_found_and_its_gap_reported() -> None:
    async with bot() as (sim, run):
        sim.steal_callback("https://elsewhere.example/secret-path")
        sim.say("taken by another")
        cause = await ended(run)
        assert (cause.kind, cause.code) == (Kind.REPLACED, "whatsapp_callback_elsewhere")
        assert "elsewhere.example" in cause.message
        assert "secret-path" not in cause.message
        await run.published(Published.FATAL)
        await register(sim, run)  # while it looks again, without a kick
        await run.connected()
        await asyncio.sleep(1)
        assert run.account.last_gap is not None


async def test_the_gap_of_a_stolen_callback_outlives_the_process() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        sim.steal_callback()
        await ended(run)
        await run.account.stop()
        since = (await store.cursor("bot"))["deaf_since"]
        async with running(WhatsApp, sim.account(), store=store) as again:
            await register(sim, again)
            await again.connected()
            await asyncio.sleep(1)
            assert again.account.last_gap is not None
            assert again.account.last_gap.since == since
            assert "deaf_since" not in await store.cursor("bot")


async def test_a_claimed_number_takes_its_callback_back() -> None:
    async with bot(claim=True) as (sim, run):
        sim.steal_callback()  # of the app; the number's own is narrower, once it is set
        assert (await ended(run)).kind is Kind.REPLACED
        await run.connected()
        sim.steal_callback()
        await asyncio.sleep(600)
        assert run.account.view().published is Published.CONNECTED
        sim.say("still here")
        assert [m.text for m in await arrived(run)] == ["still here"]


async def test_an_outage_longer_than_meta_repeats_is_a_gap() -> None:
    store = MemoryStore()
    week = 8 * 86_400.0
    await store.receive("bot", [], {"seen_at": time.time() - week})
    async with bot(store=store) as (_, run):
        await asyncio.sleep(1)
        assert run.account.last_gap is not None
        assert "7 days" in run.account.last_gap.reason


# -- trouble with the API -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["api_500", "api_html", "api_hang", "error_in_200"])
async def test_an_api_that_fails_is_noticed_in_time_and_recovers(fault: str) -> None:
    async with bot() as (sim, run):
        began = sim.now()
        sim.faults.arm(fault, times=None)
        cause = await ended(run)
        assert cause.kind is Kind.SILENT
        assert sim.now() - began <= SILENCE + 15
        sim.faults.clear()
        await run.connected()
        assert run.account.unknown_errors == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("api_500", Kind.UNREACHABLE),
        ("api_html", Kind.UNREACHABLE),
        ("api_hang", Kind.TIMEOUT),
        ("error_in_200", Kind.UNREACHABLE),
    ],
)
async def test_an_api_that_fails_at_the_start_is_tried_again(fault: str, kind: Kind) -> None:
    async with WhatsAppSimulator() as sim:
        sim.faults.arm(fault)
        async with running(WhatsApp, sim.account()) as run:
            await run.published(Published.RETRYING)
            assert cause_of(run).kind is kind
            await register(sim, run)
            await run.connected()


async def test_a_login_portal_is_no_platform() -> None:
    async with WhatsAppSimulator() as sim:
        sim.faults.arm("api_html", status=200)
        async with running(WhatsApp, sim.account()) as run:
            await run.published(Published.RETRYING)
            assert cause_of(run).code == "whatsapp_unexpected_html"


async def test_one_failed_look_is_no_outage() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("api_500", times=2)
        await asyncio.sleep(600)
        assert run.account.view().published is Published.CONNECTED
        assert run.account.view().generation == 1


async def test_a_throttled_start_waits_as_long_as_it_was_told() -> None:
    async with WhatsAppSimulator() as sim:
        sim.faults.arm("api_429", retry_after=400)
        async with running(WhatsApp, sim.account()) as run:
            await run.published(Published.RETRYING)
            began = sim.now()
            assert (cause_of(run).kind, cause_of(run).retry_after) == (Kind.THROTTLED, 400.0)
            await run.account.until(lambda view: view.generation == 2)
            assert sim.now() - began >= 399


async def test_a_platform_that_is_gone_comes_back() -> None:
    async with bot() as (sim, run):
        began = sim.now()
        await sim.stop()
        assert (await ended(run)).kind is Kind.SILENT
        assert sim.now() - began <= SILENCE + 15
        await sim.start()
        await run.connected()


# -- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["number", "subscription", "app", "callback"])
async def test_it_stops_in_every_step(step: str) -> None:
    async with WhatsAppSimulator() as sim, running(WhatsApp, sim.account()) as run:
        await in_step(run, step)
        began = sim.now()
        await run.account.stop()
        assert sim.now() - began < 5.0
        assert run.account.view().published is Published.STOPPED


async def test_it_stops_while_live_and_asks_meta_to_come_again() -> None:
    async with bot() as (sim, run):
        began = sim.now()
        await run.account.stop()
        assert sim.now() - began < 5.0
        assert (await sim.verify(hook_url(run), sim.verify_token))[0] == 503


# -- check --------------------------------------------------------------------------------------


async def test_the_check_says_whose_number_it_is() -> None:
    async with bot() as (_, run):
        health = await run.adapter.check()
        assert health.cause is None
        assert health.identity == "Holdfast (+15550783881)"
        assert health.notes == ()


async def test_the_check_of_a_claimed_number_names_who_has_it_now() -> None:
    async with bot(claim=True) as (sim, run):
        sim.steal_callback()
        health = await run.adapter.check()
        assert health.cause is None
        assert any("elsewhere.example" in note for note in health.notes)


async def test_the_check_without_the_app_says_what_it_can_not_see() -> None:
    async with bot(app_id="") as (_, run):
        health = await run.adapter.check()
        assert health.cause is None
        assert any("app_id" in note for note in health.notes)


async def test_without_a_public_address_it_says_what_to_configure() -> None:
    client = Net(Resolver()).client()
    async with WhatsAppSimulator() as sim:
        adapter = make_adapter(WhatsApp, sim.account(), AccountTools(client, hook_url=None))
        health = await adapter.check()
        assert health.cause is not None
        assert (health.cause.kind, health.cause.code) == (Kind.REFUSED, "whatsapp_no_hook_url")
        await client.close()


async def test_no_secret_shows_anywhere() -> None:
    async with bot() as (sim, run):
        sim.expire_token()
        await run.published(Published.FATAL)
        health = await run.adapter.check()
        shown = repr([report.view for report in run.reports]) + repr(health) + repr(run.adapter)
        for secret in (sim.access_token, sim.app_secret, sim.verify_token):
            assert secret not in shown
            assert secret not in run.adapter.identity + run.adapter.endpoint
