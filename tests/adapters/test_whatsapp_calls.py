"""What goes out to WhatsApp: messages, files, typing, and what refusals mean."""

from __future__ import annotations

import asyncio
import json

import pytest

from holdfast.adapter import HttpFailed, HttpReply, Outcome, SendFailed
from holdfast.adapters.whatsapp import MAX_CAPTION, WhatsApp
from holdfast.adapters.whatsapp_api import Key, refusal
from holdfast.adapters.whatsapp_fates import PATIENCE, REMEMBERED, Fates
from holdfast.adapters.whatsapp_watch import Number, Token, lacking, notes
from holdfast.adapters.whatsapp_wire import Status
from holdfast.gateway.sender import Sender
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.lab.simulators.whatsapp_rules import Person
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound
from holdfast.store.protocol import Box, OutboxState
from holdfast.supervision import Kind, Published
from tests.adapters.whatsapp_bot import arrived, bot
from tests.harness import Running

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


async def asked(sim: WhatsAppSimulator, run: Running, **said: object) -> Inbound:
    """A user has written; free messages to him are allowed now."""
    sim.say("hello", **said)  # type: ignore[arg-type]
    return (await arrived(run, len(run.messages) + 1))[-1]


def answer(message: Inbound, text: str = "hi", **more: object) -> Outbound:
    """An answer as the gateway composes it."""
    fields = {"key": "k-1", "chat": message.chat, "text": text, "context": message.context}
    return Outbound(**fields | more)  # type: ignore[arg-type]


async def refused(run: Running, message: Outbound) -> SendFailed:
    """Send what can not be sent."""
    with pytest.raises(SendFailed) as caught:
        await run.adapter.send(message)
    return caught.value


# -- messages -----------------------------------------------------------------------------------


async def test_an_answer_quotes_what_it_answers() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        receipt = await run.adapter.send(answer(message, reply_to=message.id))
        (heard,) = sim.heard
        assert (heard.id, heard.text, heard.reply_to) == (receipt.id, "hi", message.id)
        assert heard.chat == "alice"
        assert sim.accepted[0]["to"] == Person("alice").wa_id


async def test_without_a_number_the_user_id_is_the_address() -> None:
    async with bot() as (sim, run):
        sim.usernames = True
        message = await asked(sim, run)
        await run.adapter.send(answer(message))
        assert "to" not in sim.accepted[0]
        assert sim.accepted[0]["recipient"] == Person("alice").user_id


async def test_a_number_of_an_operator_s_own_is_an_address() -> None:
    async with bot() as (sim, run):
        await asked(sim, run)
        await run.adapter.send(Outbound(key="k", chat="+" + Person("alice").wa_id, text="news"))
        assert [heard.text for heard in sim.heard] == ["news"]


async def test_a_group_is_answered_as_a_group() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run, chat="ops", group=True)
        await run.adapter.send(answer(message, reply_to=message.id))
        assert [heard.chat for heard in sim.heard] == ["ops"]
        assert sim.accepted[0]["recipient_type"] == "group"


async def test_the_declared_length_is_taken_and_one_more_is_not() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        limit = WhatsApp.traits.max_text
        await run.adapter.send(answer(message, "x" * limit))
        assert len(sim.heard[0].text) == limit
        failed = await refused(run, answer(message, "x" * (limit + 1), key="k-2"))
        assert (failed.outcome, failed.cause.code) == (Outcome.REFUSED, "whatsapp_api_100")


async def test_what_whatsapp_can_not_do_is_refused_before_it_is_sent() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        picture = Attachment(kind=MediaKind.IMAGE, data=PNG)
        voice = Attachment(kind=MediaKind.AUDIO, mime="audio/ogg", data=b"OggS")
        for code, more in (
            ("whatsapp_no_edits", {"edit_of": "wamid.OURS"}),
            ("whatsapp_many_files", {"attachments": (picture, picture)}),
            ("whatsapp_no_captions", {"attachments": (voice,)}),
            (
                "whatsapp_caption_too_long",
                {"attachments": (picture,), "text": "x" * (MAX_CAPTION + 1)},
            ),
        ):
            failed = await refused(run, answer(message, **more))
            assert (failed.outcome, failed.cause.code) == (Outcome.REFUSED, code)
        assert sim.heard == []


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "name"),
    [
        (Attachment(kind=MediaKind.IMAGE, data=PNG, name="a.png"), "image", "a.png"),
        (Attachment(kind=MediaKind.IMAGE, data=b"\xff\xd8\xff", name=""), "image", "image"),
        # What WhatsApp does not show as a picture, or not at this size, goes as a document.
        (Attachment(kind=MediaKind.IMAGE, data=b"GIF89a", name="a.gif"), "document", "a.gif"),
        (
            Attachment(kind=MediaKind.IMAGE, data=PNG + bytes(5 * 2**20), name="big.png"),
            "document",
            "big.png",
        ),
        (Attachment(kind=MediaKind.AUDIO, data=b"OggS", mime="audio/ogg"), "audio", "audio"),
        (Attachment(kind=MediaKind.VIDEO, data=b"mp4", mime="video/mp4"), "video", "video"),
        (Attachment(kind=MediaKind.FILE, data=b"line", name="log.txt"), "document", "log.txt"),
    ],
)
async def test_files_arrive_as_what_they_are(file: Attachment, kind: str, name: str) -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        await run.adapter.send(answer(message, "", attachments=(file,)))
        (heard,) = sim.heard
        assert (heard.media, heard.data) == (name, file.data)
        assert sim.accepted[0]["type"] == kind


async def test_a_caption_goes_with_its_file() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        picture = Attachment(kind=MediaKind.IMAGE, data=PNG)
        await run.adapter.send(answer(message, "see this", attachments=(picture,)))
        assert [(h.text, h.data) for h in sim.heard] == [("see this", PNG)]


async def test_a_lost_upload_is_certainly_not_sent() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        picture = Attachment(kind=MediaKind.IMAGE, data=PNG)
        sim.faults.arm("api_html")
        failed = await refused(run, answer(message, attachments=(picture,)))
        assert failed.outcome is Outcome.NOT_SENT
        sim.faults.arm("upload_failed")
        failed = await refused(run, answer(message, attachments=(picture,)))
        assert (failed.outcome, failed.cause.code) == (Outcome.REFUSED, "whatsapp_api_131053")


async def test_a_file_that_is_gone_is_told_from_one_to_ask_for_again() -> None:
    async with bot() as (sim, run):
        (file,) = (await asked(sim, run, image=PNG)).attachments
        sim.faults.arm("media_expired")
        with pytest.raises(SendFailed) as again:
            await run.adapter.fetch(file)
        assert again.value.outcome is Outcome.NOT_SENT
        assert await run.adapter.fetch(file) == PNG
        sim.faults.arm("media_gone")
        with pytest.raises(SendFailed) as gone:
            await run.adapter.fetch(file)
        assert gone.value.outcome is Outcome.REFUSED


# -- typing -------------------------------------------------------------------------------------


async def test_typing_marks_the_last_message_of_the_chat_as_read() -> None:
    async with bot() as (sim, run):
        await run.adapter.typing("16505550000")  # nobody has written there
        assert sim.count("typing") == 0
        await asked(sim, run)
        last = await asked(sim, run)
        await run.adapter.typing(last.chat)
        assert [r.detail["id"] for r in sim.log if r.what == "read"] == [last.id]
        assert sim.count("typing") == 1
        assert run.adapter.traits.typing_every < 25.0


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome", "kind", "code"),
    [
        ("window_closed", Outcome.REFUSED, Kind.REFUSED, "whatsapp_api_131047"),
        ("rate_limit", Outcome.NOT_SENT, Kind.THROTTLED, "whatsapp_api_130429"),
        ("pair_limit", Outcome.NOT_SENT, Kind.THROTTLED, "whatsapp_api_131056"),
        ("waba_limit", Outcome.NOT_SENT, Kind.THROTTLED, "whatsapp_api_80007"),
        ("app_limit", Outcome.NOT_SENT, Kind.THROTTLED, "whatsapp_api_4"),
        ("unavailable", Outcome.NOT_SENT, Kind.UNREACHABLE, "whatsapp_api_131016"),
        ("token_expired", Outcome.NOT_SENT, Kind.CREDENTIALS, "whatsapp_bad_token"),
        ("send_error", Outcome.UNKNOWN, Kind.UNREACHABLE, "whatsapp_api_131000"),
        ("api_html", Outcome.UNKNOWN, Kind.UNREACHABLE, "whatsapp_http_502"),
        ("error_in_200", Outcome.UNKNOWN, Kind.UNREACHABLE, "whatsapp_api_1"),
        ("api_429", Outcome.NOT_SENT, Kind.THROTTLED, "whatsapp_api_4"),
    ],
)
async def test_a_refusal_says_what_is_known(
    fault: str, outcome: Outcome, kind: Kind, code: str
) -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        sim.faults.arm(fault)
        failed = await refused(run, answer(message))
        assert (failed.outcome, failed.cause.kind, failed.cause.code) == (outcome, kind, code)
        assert sim.heard == []
        assert run.account.view().published is Published.CONNECTED
        await run.adapter.send(answer(message))
        assert [heard.text for heard in sim.heard] == ["hi"]


async def test_past_the_window_it_says_what_can_be_done() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        sim.window = 10.0
        await asyncio.sleep(11)
        failed = await refused(run, answer(message))
        assert failed.cause.code == "whatsapp_api_131047"
        assert "24 hours" in failed.cause.hint
        assert "template" in failed.cause.hint


def reply(status: int, **error: object) -> HttpReply:
    """A refusal as the Graph API writes it."""
    return HttpReply(status, {}, json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("code", "outcome", "kind"),
    [
        (3, Outcome.REFUSED, Kind.REFUSED),
        (10, Outcome.REFUSED, Kind.REFUSED),
        (200, Outcome.REFUSED, Kind.REFUSED),
        (299, Outcome.REFUSED, Kind.REFUSED),
        (131005, Outcome.REFUSED, Kind.REFUSED),
        (131042, Outcome.NOT_SENT, Kind.REFUSED),
        (131031, Outcome.NOT_SENT, Kind.REFUSED),
        (131026, Outcome.REFUSED, Kind.REFUSED),
        (131062, Outcome.REFUSED, Kind.REFUSED),
        (132001, Outcome.REFUSED, Kind.REFUSED),
        (100, Outcome.REFUSED, Kind.PROTOCOL),
        (77, Outcome.REFUSED, Kind.PROTOCOL),
    ],
)
def test_codes_the_simulator_does_not_play(code: int, outcome: Outcome, kind: Kind) -> None:
    failed = refusal(reply(400, code=code, message="no"), "the message")
    assert failed is not None
    assert (failed.outcome, failed.cause.kind) == (outcome, kind)
    if code in (3, 10, 200, 299, 131005):
        assert "whatsapp_business_messaging" in failed.cause.hint
    transient = refusal(reply(400, code=77, message="no", is_transient=True), "the message")
    assert transient is not None
    assert (transient.outcome, transient.cause.kind) == (Outcome.NOT_SENT, Kind.UNREACHABLE)


def test_an_unknown_code_with_a_server_error_leaves_it_open() -> None:
    failed = refusal(reply(503, code=77), "the message")
    assert failed is not None
    assert (failed.outcome, failed.cause.code) == (Outcome.UNKNOWN, "whatsapp_http_503")


def test_the_platform_s_own_words_about_a_token_are_not_repeated() -> None:
    said = reply(400, code=190, message="Malformed access token EAAPLANTED")
    failed = refusal(said, "GET 1", Key.TOKEN)
    assert failed is not None
    assert "EAAPLANTED" not in repr(failed.cause)


def test_the_server_s_own_wait_is_a_floor() -> None:
    said = reply(429, code=131056, message="slow")
    for header, wait in (({"retry-after": "90"}, 90.0), ({"retry-after": "1"}, 6.0)):
        failed = refusal(HttpReply(said.status, header, said.body), "the message")
        assert failed is not None
        assert failed.cause.retry_after == wait


# -- sends whose answer was lost ----------------------------------------------------------------


@pytest.mark.parametrize("fault", ["send_answer_lost", "send_slow_but_delivered"])
async def test_a_lost_answer_is_settled_by_the_status(fault: str) -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        sim.faults.arm(fault, delay=30.0)
        receipt = await run.adapter.send(answer(message))
        assert [heard.id for heard in sim.heard] == [receipt.id]


async def test_a_status_that_comes_late_keeps_the_next_try_from_doubling() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        sim.faults.arm("send_answer_lost")
        sim.faults.arm("mute", times=3)
        began = sim.now()
        with pytest.raises(HttpFailed):
            await run.adapter.send(answer(message))
        assert sim.now() - began <= PATIENCE + 16
        (heard,) = sim.heard
        late = Status(id=heard.id, status="delivered", marker="k-1")
        run.adapter._fates.tell(late)  # type: ignore[attr-defined]
        assert (await run.adapter.send(answer(message))).id == heard.id
        assert len(sim.heard) == 1


async def test_a_send_that_failed_later_is_reported() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        sender = Sender("bot", run.adapter, run.store)
        run.account._on_undelivered = sender.undelivered
        sender.connected(True)
        sim.faults.arm("send_failed_later", code=131047)
        sender.put(await run.store.post("bot", [answer(message), answer(message, key="k-2")]))
        await sim.until(lambda: len(sim.heard) == 1 and sim.count("ack") >= 3)
        good, bad = await run.store.entries(Box.OUTBOX)
        assert (good.state, bad.state) == (OutboxState.SENT, OutboxState.DEAD)
        assert "24 hours" in bad.reason
        assert (sender.refused, run.account.skipped_frames) == (1, 0)
        assert run.account.view().published is Published.CONNECTED
        await sender.stop(1.0)


async def test_of_a_lost_answer_a_failed_status_tells_why() -> None:
    async with bot() as (sim, run):
        message = await asked(sim, run)
        sim.faults.arm("send_answer_lost")
        sim.faults.arm("send_failed_later", code=131026)
        failed = await refused(run, answer(message))
        assert (failed.outcome, failed.cause.code) == (Outcome.REFUSED, "whatsapp_api_131026")
        await run.adapter.send(answer(message))
        assert len(sim.heard) == 1


def test_a_failure_is_final_and_memory_is_bounded() -> None:
    fates = Fates()
    fates.tell(Status(id="w", status="failed", marker="k"))
    fates.tell(Status(id="w", status="sent", marker="k"))
    assert fates.settled("k") is None
    fates.tell(Status(id="v", status="sent"))
    for number in range(REMEMBERED + 1):
        fates.tell(Status(id=f"w{number}", status="read", marker=f"k{number}"))
    assert fates.settled("k0") is None
    assert fates.settled("k1") is not None


# -- what check adds ----------------------------------------------------------------------------


def test_a_token_that_ends_and_a_number_in_trouble_are_named() -> None:
    number = Number(id="1", status="FLAGGED", quality_rating="RED")
    said = " ".join(notes(number, Token(expires_at=1.0), "app", 0.0))
    for word in ("1970-01-01", "FLAGGED", "RED"):
        assert word in said
    assert list(notes(Number(id="1", status="CONNECTED"), Token(), "app", 0.0)) == []


def test_a_token_without_a_permission_is_a_cause() -> None:
    cause = lacking(Token(scopes=["whatsapp_business_management"]))
    assert cause is not None
    assert cause.code == "whatsapp_missing_permission"
    assert "whatsapp_business_messaging" in cause.message
    assert lacking(Token()) is None
