"""What comes in over the web hook of WhatsApp, on the real shell, against the simulator."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from holdfast.adapters.whatsapp import WhatsApp
from holdfast.adapters.whatsapp_hook import RETENTION
from holdfast.adapters.whatsapp_wire import signature
from holdfast.errors import StoreError
from holdfast.gateway.hooks import HookServer
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.lab.simulators.whatsapp_rules import Person, group_id
from holdfast.messages import MediaKind
from holdfast.supervision import Cause, Kind, Published
from holdfast.testing import MemoryStore
from tests.adapters.whatsapp_bot import arrived, bot, hook_url, register
from tests.harness import Running, running

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


async def post(run: Running, body: bytes, **headers: str) -> int:
    """What somebody who knows the address sends to it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session:
        async with session.post(hook_url(run), data=body, headers=names) as response:
            return response.status


def signed(sim: WhatsAppSimulator, body: bytes) -> dict[str, str]:
    """The header of an honest post."""
    return {"X_Hub_Signature_256": signature(sim.app_secret, body)}


def payload(sim: WhatsAppSimulator, *messages: dict[str, Any], **value: Any) -> bytes:
    """A body as Meta writes it."""
    change = {"metadata": sim.metadata, "messages": messages} | value
    entry = {"id": sim.business_account_id, "changes": [{"field": "messages", "value": change}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def text(key: str, body: str, **more: Any) -> dict[str, Any]:
    """One entry of ``messages``."""
    said = {"id": key, "from": "16505551234", "timestamp": "1795198000", "type": "text"}
    return said | {"text": {"body": body}} | more


# -- messages -----------------------------------------------------------------------------------


async def test_a_private_message_comes_in_whole() -> None:
    async with bot() as (sim, run):
        key = sim.say("grüß dich")
        (message,) = await arrived(run)
        alice = Person("alice")
        assert (message.id, message.text, message.private) == (key, "grüß dich", True)
        assert message.chat == message.sender == alice.user_id
        assert message.sender_name == "alice"
        assert message.context == {"phone": alice.wa_id}
        assert message.at is not None
        await sim.until(lambda: sim.count("ack") == 1)


async def test_a_user_who_hides_his_number_is_known_by_his_id() -> None:
    async with bot() as (sim, run):
        sim.say("before")
        sim.usernames = True
        sim.say("after")
        before, after = await arrived(run, 2)
        assert before.chat == after.chat == Person("alice").user_id
        assert after.context == {}
        assert after.sender_name == "alice"


async def test_a_message_without_a_user_id_is_known_by_its_number() -> None:
    async with bot() as (sim, run):
        body = payload(sim, text("wamid.1", "hi"), contacts=[{"wa_id": "16505551234"}])
        assert await post(run, body, **signed(sim, body)) == 200
        assert (run.messages[0].chat, run.messages[0].at) == ("16505551234", 1795198000.0)


async def test_in_a_group_the_bot_knows_when_it_is_meant() -> None:
    async with bot() as (sim, run):
        sim.say("lunch?", chat="ops", group=True)
        sim.say(f"@{sim.phone_number} status?", chat="ops", group=True, sender="bob")
        chatter, asked = await arrived(run, 2)
        assert (chatter.private, chatter.mentioned, asked.mentioned) == (False, False, True)
        assert chatter.chat == asked.chat == f"group:{group_id('ops')}"
        assert asked.sender == Person("bob").user_id
        sim.say("and now?", chat="ops", group=True, reply_to="wamid.OURS")
        answer = (await arrived(run, 3))[2]
        assert (answer.mentioned, answer.reply_to) == (True, "wamid.OURS")


async def test_files_come_with_caption_and_content() -> None:
    async with bot() as (sim, run):
        sim.say("look", image=PNG)
        sim.say("", file=("log.txt", b"line"))
        picture, paper = await arrived(run, 2)
        (image,), (file,) = picture.attachments, paper.attachments
        assert (picture.text, image.kind, image.mime) == ("look", MediaKind.IMAGE, "image/png")
        assert (file.kind, file.name, file.mime) == (MediaKind.FILE, "log.txt", "text/plain")
        assert await run.adapter.fetch(image) == PNG
        assert await run.adapter.fetch(file) == b"line"


async def test_an_edit_names_what_it_replaces() -> None:
    async with bot() as (sim, run):
        first = sim.say("helo")
        second = sim.say("hello", edit_of=first)
        messages = await arrived(run, 2)
        assert [(m.id, m.text, m.edit_of) for m in messages] == [
            (first, "helo", None),
            (second, "hello", first),
        ]


async def test_a_pressed_button_says_its_title() -> None:
    async with bot() as (sim, run):
        sim.press("yes", reply_to="wamid.OURS")
        quick = {"id": "wamid.q", "from": "1650", "type": "button", "button": {"text": "no"}}
        body = payload(sim, quick)
        assert await post(run, body, **signed(sim, body)) == 200
        assert {m.text for m in await arrived(run, 2)} == {"yes", "no"}


async def test_reactions_deletions_and_statuses_are_no_messages() -> None:
    async with bot() as (sim, run):
        key = sim.say("hello")
        sim.react(key, "👍")
        sim.revoke(key)
        own = payload(sim, text("wamid.own", "echo", **{"from": sim.phone_number}))
        assert await post(run, own, **signed(sim, own)) == 200
        await sim.until(lambda: sim.count("ack") == 3)
        assert [m.text for m in run.messages] == ["hello"]
        assert run.account.skipped_frames == 0


@pytest.mark.parametrize("more", [{"recipient_type": "group"}, {"biz_opaque_callback_data": ""}])
async def test_what_one_of_a_group_or_another_program_s_user_did_not_get_is_counted(
    more: dict[str, str],
) -> None:
    async with bot() as (sim, run):
        status = {"id": "wamid.1", "status": "failed", "biz_opaque_callback_data": "k-1"} | more
        body = payload(sim, statuses=[status])
        told: list[str] = []

        async def undelivered(key: str, receipt: str, cause: Cause) -> None:
            told.append(key)

        run.account._on_undelivered = undelivered
        assert await post(run, body, **signed(sim, body)) == 200
        assert (told, run.account.skipped_frames) == ([], 1)


async def test_several_messages_in_one_post_are_stored_at_once() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        transactions: list[int] = []
        receive = store.receive

        async def counted(account: str, messages: Any, *rest: Any) -> Any:
            transactions.extend([len(messages)] if messages else [])
            return await receive(account, messages, *rest)

        store.receive = counted  # type: ignore[method-assign, assignment]
        sim.faults.arm("batch", size=3)
        for name in ("alice", "bob", "carol"):
            sim.say(f"from {name}", chat=name, sender=name)
        assert [m.sender_name for m in await arrived(run, 3)] == ["alice", "bob", "carol"]
        assert transactions == [3]


async def test_a_message_posted_twice_is_one_message() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("dup_event", delay=60.0)
        sim.faults.arm("ack_lost")
        sim.say("once")
        await sim.until(lambda: sim.count("doubled") == 1, timeout=300)
        assert [m.text for m in run.messages] == ["once"]
        assert run.account.view().generation == 1


def test_a_message_is_known_for_longer_than_meta_posts_it_again() -> None:
    assert WhatsApp.traits.repeats >= RETENTION + 86_400


async def test_a_signed_post_is_proof_of_life() -> None:
    async with bot() as (sim, run):
        await asyncio.sleep(30)
        sim.say("hello")
        await arrived(run)
        assert run.account.view().last_proof == pytest.approx(sim.now(), abs=1)


# -- what is stored, and what is not ------------------------------------------------------------


async def test_what_can_not_be_stored_is_not_acknowledged_and_comes_again() -> None:
    store = MemoryStore()
    async with bot(store=store) as (sim, run):
        await asyncio.sleep(1)
        store.fail = StoreError("disk_full", "the disk is full")
        sim.say("precious")
        await sim.until(lambda: sim.count("callback") == 1)
        assert [r.detail["status"] for r in sim.log if r.what == "callback"] == [503]
        await run.published(Published.RETRYING)
        cause = run.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.LOCAL, "disk_full")
        assert sim.count("ack") == 0
        store.fail = None
        assert [m.text for m in await arrived(run)] == ["precious"]
        await run.connected()


async def test_nothing_is_lost_over_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with WhatsAppSimulator() as sim:
        async with running(WhatsApp, sim.account(), store=store) as run:
            await register(sim, run)
            await run.connected()
            sim.say("one")
            await arrived(run)
            port = run.hooks.port
        sim.say("two")
        await asyncio.sleep(60)
        # As after any restart, the address is the one Meta knows.
        monkeypatch.setattr("tests.harness.HookServer", lambda host, _: HookServer(host, port))
        async with running(WhatsApp, sim.account(), store=store) as run:
            assert [m.text for m in await arrived(run)] == ["two"]
            await run.connected()
            await asyncio.sleep(1)
            assert run.account.last_gap is None
        assert [row.message.text for row in store.inbox.values()] == ["one", "two"]


async def test_nothing_is_lost_while_the_api_is_away() -> None:
    async with bot() as (sim, run):
        await sim.stop()
        await run.published(Published.RETRYING)
        await sim.start()
        sim.say("hello again")
        assert [m.text for m in await arrived(run)] == ["hello again"]
        await run.connected()
        assert run.account.last_gap is None


# -- strangers and nonsense ---------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["webhook_forged", "webhook_unsigned", "webhook_replayed"])
async def test_a_forged_post_is_refused_and_counted(fault: str) -> None:
    async with bot() as (sim, run):
        sim.say("first")
        await arrived(run)
        sim.faults.arm(fault)
        sim.say("second")
        assert [m.text for m in await arrived(run, 2)] == ["first", "second"]
        what = fault.removeprefix("webhook_")
        assert [r.detail["status"] for r in sim.log if r.what == what] == [401]
        assert run.account.skipped_frames == 1
        assert run.account.view().generation == 1


@pytest.mark.parametrize("given", ["", "sha256=", "sha1=00", "sha256=" + "0" * 64, "签"])
async def test_a_false_signature_is_refused(given: str) -> None:
    async with bot() as (sim, run):
        body = payload(sim, text("wamid.x", "I am your boss"))
        assert await post(run, body, X_Hub_Signature_256=given) == 401
        assert run.messages == []
        assert await post(run, body + b" ", **signed(sim, body)) == 401
        assert await post(run, body, **signed(sim, body)) == 200
        assert [m.text for m in run.messages] == ["I am your boss"]


async def test_the_signature_is_over_the_bytes_as_they_came() -> None:
    async with bot() as (sim, run):
        body = payload(sim, text("wamid.x", "grüß dich")).replace(b", ", b",\n ")
        assert b"\\u00fc" in body
        assert await post(run, body, **signed(sim, body)) == 200
        assert run.messages[0].text == "grüß dich"


async def test_another_path_is_not_found() -> None:
    async with bot() as (sim, run):
        body = payload(sim, text("wamid.x", "x"))
        async with aiohttp.ClientSession() as session:
            url = hook_url(run) + "/else"
            async with session.post(url, data=body) as response:
                assert response.status == 404
        assert run.messages == []


async def test_only_who_knows_the_verify_token_is_answered() -> None:
    async with bot() as (sim, run):
        status, answer, challenge = await sim.verify(hook_url(run), sim.verify_token)
        assert (status, answer) == (200, challenge)
        for guess in ("", "guess", "né"):
            status, answer, _ = await sim.verify(hook_url(run), guess)
            assert (status, answer) == (403, "")
        assert run.account.skipped_frames == 3


@pytest.mark.parametrize("fault", ["bad_body", "value_errors", "webhook_foreign"])
async def test_a_signed_post_that_can_not_be_used_is_taken_and_counted(fault: str) -> None:
    async with bot() as (sim, run):
        sim.faults.arm(fault)
        sim.say("fine")
        assert [m.text for m in await arrived(run)] == ["fine"]
        await sim.until(lambda: sim.count("ack") == 1)
        assert run.account.skipped_frames == 1


async def test_a_field_we_do_not_know_is_not_even_counted() -> None:
    async with bot() as (sim, run):
        sim.faults.arm("unknown_field")
        sim.say("fine")
        await arrived(run)
        assert [r.detail["status"] for r in sim.log if r.what == "unknown"] == [200]
        assert run.account.skipped_frames == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 7, "type": "text"},
        {"id": "wamid.l", "from": "1650", "type": "location", "location": {"latitude": 1.0}},
        {"id": "wamid.u", "from": "1650", "type": "unsupported", "errors": [{"code": 131051}]},
        {"id": "", "from": "1650", "type": "text", "text": {"body": "x"}},
        {"id": "wamid.n", "type": "text", "text": {"body": "from nobody"}},
        {"id": "wamid.f", "from": "1650", "type": "interactive", "interactive": {}},
        "nonsense",
    ],
)
async def test_a_bad_message_spoils_no_other(bad: Any) -> None:
    async with bot() as (sim, run):
        body = payload(sim, bad, text("wamid.good", "fine"), statuses=[{"id": 1}])
        assert await post(run, body, **signed(sim, body)) == 200
        assert [m.text for m in run.messages] == ["fine"]
        assert run.account.skipped_frames == 2


async def test_deep_and_empty_bodies_end_nothing() -> None:
    async with bot() as (sim, run):
        for body in (b"", b"[" * 100_000, b'{"entry":1}', b'{"entry":[{"changes":null}]}'):
            assert await post(run, body, **signed(sim, body)) == 200
        assert run.account.skipped_frames == 4
        assert run.account.view().published is Published.CONNECTED
