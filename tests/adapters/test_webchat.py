"""The chat page on the real shell, visited by simulated browsers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.adapter import Outcome, SendFailed
from holdfast.adapters.webchat import AHEAD, WebChat
from holdfast.backlog import Backlog
from holdfast.errors import StoreError
from holdfast.gateway.sender import Sender
from holdfast.lab.simulators.webchat import WebChatSimulator
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound
from holdfast.store.protocol import Received
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, running

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@contextlib.asynccontextmanager
async def chat(
    *, token: str = "", store: MemoryStore | None = None, **settings: Any
) -> AsyncIterator[tuple[WebChatSimulator, Running]]:
    """A connected page whose address the visitors know."""
    async with WebChatSimulator(token=token) as sim:
        async with running(WebChat, sim.account() | settings, store=store) as run:
            await run.connected()
            await sim.open_page(page(run))
            yield sim, run


def page(run: Running, path: str = "/chat") -> str:
    """The page's address."""
    return f"http://127.0.0.1:{run.hooks.port}{path}"


async def met(sim: WebChatSimulator, run: Running, name: str = "alice") -> Inbound:
    """A visitor comes and says who he is."""
    before = len(run.messages)
    key = sim.say(f"I am {name}", chat=name)
    await sim.until(lambda: any(r.what == "stored" and r.detail["id"] == key for r in sim.log))
    return run.messages[before]


def details(sim: WebChatSimulator, what: str, key: str) -> list[Any]:
    """One detail of every fact of a kind."""
    return [record.detail[key] for record in sim.log if record.what == what]


async def failed(run: Running, message: Outbound) -> SendFailed:
    """How a send fails."""
    with pytest.raises(SendFailed) as caught:
        await run.adapter.send(message)
    return caught.value


# -- both ways --------------------------------------------------------------------------------


async def test_a_visitor_is_heard_and_answered() -> None:
    async with chat() as (sim, run):
        key = sim.say("hello")
        await sim.until(lambda: sim.count("stored") == 1)
        (message,) = run.messages
        assert message.text == "hello"
        assert message.private
        assert message.id == f"{message.chat}-{key}"
        receipt = await run.adapter.send(
            Outbound(key="k-1", chat=message.chat, text="hi", reply_to=message.id)
        )
        assert receipt.id == "k-1"
        (heard,) = sim.heard
        assert (heard.id, heard.chat, heard.text, heard.reply_to) == ("k-1", "alice", "hi", key)
        assert details(sim, "welcome", "title") == ["Lab"]


async def test_a_message_is_dated_by_our_clock_and_the_time_it_was_kept() -> None:
    store, now = MemoryStore(), 1_700_000_000.0
    async with WebChatSimulator() as sim:
        async with running(WebChat, sim.account(), store=store, clock=lambda: now) as run:
            await run.connected()
            await sim.open_page(page(run))
            await met(sim, run)
            assert run.messages[0].at == pytest.approx(now, abs=2)
            await sim.leave("alice")
            key = sim.visitor("alice").say("kept", ())
            await asyncio.sleep(300)
            sim.say("new")
            await sim.until(lambda: len(run.messages) == 3)
            kept, new = run.messages[1:]
            assert kept.id.endswith(key)
            assert kept.at == pytest.approx(now - 300, abs=2)
            assert new.at == pytest.approx(now, abs=2)


async def test_a_browser_whose_clock_is_slow_is_not_silenced_by_an_old_page() -> None:
    """Which told only its own date; what it says counts as said when it comes."""
    now = 1_700_000_000.0
    async with WebChatSimulator() as sim:
        async with running(WebChat, sim.account(), clock=lambda: now) as run:
            await run.connected()
            await sim.open_page(page(run))
            slow = {"op": "say", "id": "old", "text": "15 minutes slow", "at": now - 900}
            sim.faults.arm("bad_frame", text=json.dumps(slow))
            sim.say("hello")
            await sim.until(lambda: len(run.messages) == 2)
            assert run.messages[0].text == "15 minutes slow"
            policy = Backlog.parse("newer-than 10m")
            assert [policy.verdict(m, now, now) for m in run.messages] == ["", ""]


async def test_visitors_are_kept_apart_and_nobody_can_be_guessed_from_his_chat() -> None:
    async with chat() as (sim, run):
        alice, bob = await met(sim, run, "alice"), await met(sim, run, "bob")
        assert alice.chat != bob.chat
        assert sim.visitor("alice").id not in repr(run.messages)
        await run.adapter.send(Outbound(key="k", chat=bob.chat, text="for bob"))
        assert [heard.chat for heard in sim.heard] == ["bob"]


async def test_one_visitor_can_not_swallow_the_message_of_another() -> None:
    async with chat() as (sim, run):
        key = sim.say("mine", chat="alice")
        sim.visitor("bob").pending[key] = {"op": "say", "id": key, "text": "the same id"}
        sim.open_tab("bob")
        await sim.until(lambda: sim.count("stored") == 2)
        assert {message.text for message in run.messages} == {"mine", "the same id"}


async def test_files_come_in_and_are_kept_over_a_restart() -> None:
    store = MemoryStore()
    async with chat(store=store) as (sim, run):
        sim.say("look", files=[("a.png", "image/png", PNG), ("b.bin", "evil; x", b"\0")])
        await sim.until(lambda: sim.count("stored") == 1)
        picture, other = run.messages[0].attachments
        assert (picture.kind, picture.name, picture.size) == (MediaKind.IMAGE, "a.png", len(PNG))
        assert (other.kind, other.mime) == (MediaKind.FILE, "application/octet-stream")
        config = sim.account()
    async with running(WebChat, config, store=store) as run:
        assert await run.adapter.fetch(picture) == PNG
        assert await run.adapter.fetch(other) == b"\0"


@pytest.mark.parametrize("ref", ["", "https://elsewhere.example/x", "data:a/b;base64,%%%"])
async def test_a_foreign_reference_is_no_file(ref: str) -> None:
    async with chat() as (_, run):
        with pytest.raises(SendFailed) as caught:
            await run.adapter.fetch(Attachment(kind=MediaKind.FILE, ref=ref))
        assert caught.value.outcome is Outcome.REFUSED


async def test_files_go_out() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        picture = Attachment(kind=MediaKind.IMAGE, name="a.png", data=PNG)
        await run.adapter.send(
            Outbound(key="k", chat=alice.chat, text="here", attachments=(picture,))
        )
        assert (sim.heard[0].media, sim.heard[0].data) == ("a.png", PNG)
        huge = Attachment(kind=MediaKind.FILE, name="x", data=bytes(10_000_001))
        error = await failed(run, Outbound(key="k2", chat=alice.chat, attachments=(huge,)))
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "webchat_files_too_large")


async def test_a_file_of_the_largest_size_comes_in() -> None:
    async with chat() as (sim, run):
        sim.say("", files=[("max", "application/zip", bytes(2_500_000))])
        await sim.until(lambda: sim.count("stored") == 1)
        assert run.messages[0].attachments[0].size == 2_500_000


async def test_an_edit_names_what_it_replaces_and_typing_is_shown() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        await run.adapter.typing(alice.chat)
        await sim.until(lambda: sim.count("typing") == 1)
        await run.adapter.send(Outbound(key="k-1", chat=alice.chat, text="dra"))
        await run.adapter.send(Outbound(key="k-2", chat=alice.chat, text="draft", edit_of="k-1"))
        assert [(h.text, h.edit_of) for h in sim.heard] == [("dra", None), ("draft", "k-1")]
        await run.adapter.typing("nobody")


async def test_the_longest_texts_pass_in_both_directions() -> None:
    async with chat() as (sim, run):
        longest = "界" * WebChat.traits.max_text
        sim.say(longest)
        await sim.until(lambda: sim.count("stored") == 1)
        assert run.messages[0].text == longest
        await run.adapter.send(Outbound(key="k", chat=run.messages[0].chat, text=longest))
        assert sim.heard[0].text == longest


# -- nothing lost, nothing doubled ---------------------------------------------------------------


async def test_what_is_said_twice_is_one_message() -> None:
    async with chat() as (sim, run):
        sim.faults.arm("dup_say")
        sim.say("once")
        await sim.until(lambda: sim.count("stored") == 2)
        assert [message.text for message in run.messages] == ["once"]


async def test_what_could_not_be_stored_is_not_acknowledged_and_comes_again() -> None:
    store = MemoryStore()
    async with chat(store=store) as (sim, run):
        await met(sim, run)
        store.fail = StoreError("disk_full", "no space left")
        sim.say("precious")
        await run.published(Published.RETRYING)
        cause = run.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.LOCAL, "disk_full")
        await asyncio.sleep(60)
        assert sim.count("stored") == 1
        store.fail = None
        # Lives that end at once are slowed down, to 300 s at most.
        await sim.until(lambda: sim.count("stored") == 2, timeout=400)
        assert run.messages[-1].text == "precious"
        await run.connected()


async def test_a_disk_that_takes_minutes_turns_no_page_away() -> None:
    class Slow(MemoryStore):
        wait = 0.0

        async def receive(self, *args: Any, **more: Any) -> list[Received]:
            await asyncio.sleep(self.wait)
            return await super().receive(*args, **more)

    store = Slow()
    async with chat(store=store) as (sim, run):
        await met(sim, run)
        store.wait = 300.0
        key = sim.say("into the journal")
        await asyncio.sleep(290)
        assert len(details(sim, "open", "tab")) == 1  # its pings were answered all the time
        assert key not in details(sim, "stored", "id")
        await asyncio.sleep(20)
        assert key in details(sim, "stored", "id")
        assert [m.text for m in run.messages] == ["I am alice", "into the journal"]


async def test_a_page_that_says_more_than_can_wait_is_turned_away_as_a_flood() -> None:
    class Stuck(MemoryStore):
        async def receive(self, *args: Any, **more: Any) -> list[Received]:
            await asyncio.sleep(1_000)
            return await super().receive(*args, **more)

    async with chat(store=Stuck()) as (sim, _run):
        tab = sim.open_tab()
        await sim.until(lambda: tab.served)
        for number in range(AHEAD + 2):
            await tab._send(op="say", id=f"m{number}", text="x")
            await asyncio.sleep(1)
        await sim.until(lambda: details(sim, "refused", "why") == ["flood"])


async def test_nothing_said_during_an_outage_is_lost() -> None:
    async with chat() as (sim, run):
        await met(sim, run)
        await run.account.pause()
        for number in range(5):
            sim.say(f"line {number}")
        await asyncio.sleep(30)
        assert len(run.messages) == 1
        run.account.resume()
        await sim.until(lambda: sim.count("stored") == 6)
        assert [m.text for m in run.messages[1:]] == [f"line {n}" for n in range(5)]
        assert run.account.last_gap is None


async def test_nothing_said_over_a_restart_is_lost() -> None:
    store = MemoryStore()
    async with chat(store=store) as (sim, run):
        await met(sim, run)
        await run.account.stop()
        await run.hooks.stop()
        sim.say("anybody there?")
        await sim.until(lambda: sim.count("dial-failed") > 0)
        async with running(WebChat, sim.account(), store=store) as again:
            await again.connected()
            await sim.open_page(page(again))
            await sim.until(lambda: sim.count("stored") == 2)
            assert [message.text for message in again.messages] == ["anybody there?"]
            assert again.account.last_gap is None


async def test_a_message_is_accepted_only_once_it_was_seen() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        sim.faults.arm("mute_seen")
        message = Outbound(key="k", chat=alice.chat, text="hi")
        error = await failed(run, message)
        assert (error.outcome, error.cause.code) == (Outcome.UNKNOWN, "webchat_not_seen")
        assert (await run.adapter.send(message)).id == "k"
        assert [heard.text for heard in sim.heard] == ["hi"]
        assert sim.count("repeat") == 1


async def test_a_lost_confirmation_is_made_up_for_by_the_next_hello() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        sim.faults.arm("vanish_before_seen")
        message = Outbound(key="k", chat=alice.chat, text="hi")
        error = await failed(run, message)
        assert (error.outcome, error.cause.code) == (Outcome.UNKNOWN, "webchat_visitor_left")
        await sim.until(lambda: sim.count("welcome") == 2)
        assert (await run.adapter.send(message)).id == "k"
        assert (len(sim.heard), sim.count("shown")) == (1, 1)


async def test_a_page_with_an_older_memory_is_shown_nothing_twice() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        sim.faults.arm("vanish_before_seen")
        sim.faults.arm("forgets_seen")
        message = Outbound(key="k", chat=alice.chat, text="hi")
        await failed(run, message)
        await sim.until(lambda: sim.count("welcome") == 2)
        await run.adapter.send(message)
        assert (len(sim.heard), sim.count("repeat")) == (1, 1)


async def test_every_tab_shows_a_message_and_the_first_to_confirm_it_counts() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        sim.open_tab()
        await sim.until(lambda: sim.count("welcome") == 2)
        sim.faults.arm("mute_seen")
        await run.adapter.send(Outbound(key="k", chat=alice.chat, text="hi"))
        await sim.until(lambda: sim.count("shown") == 2)
        assert sorted(details(sim, "shown", "tab")) == [1, 2]
        assert len(sim.heard) == 1


# -- away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["leave", "vanish"])
async def test_an_answer_to_somebody_away_is_not_sent_and_announced_when_he_is_back(
    how: str,
) -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        await getattr(sim, how)()
        await asyncio.sleep(1)
        back: list[float] = []
        run.account._on_recipient_back = lambda _: back.append(sim.now())
        message = Outbound(key="k", chat=alice.chat, text="hi")
        began = sim.now()
        error = await failed(run, message)
        assert (error.outcome, error.cause.code) == (Outcome.NOT_SENT, "webchat_visitor_away")
        assert error.cause.kind is Kind.UNREACHABLE
        assert (error.away, error.cause.retry_after) == (True, None)
        assert sim.now() == began
        await asyncio.sleep(600)
        assert back == []
        sim.open_tab()
        await sim.until(lambda: sim.count("welcome") == 2)
        assert len(back) == 1
        await run.adapter.send(message)
        assert len(sim.heard) == 1


async def test_what_waits_for_somebody_goes_out_the_moment_he_is_back() -> None:
    store = MemoryStore()
    async with chat(store=store) as (sim, run):
        alice = await met(sim, run)
        sender = Sender("bot", run.adapter, store, rand=lambda: 0.5)
        run.account._on_recipient_back = lambda _: sender.recipient_back()
        sender.connected(True)
        await sim.leave()
        owed = [Outbound(key=f"k-{n}", chat=alice.chat, text=f"{n}") for n in range(3)]
        sender.put(await store.post("bot", owed))
        await asyncio.sleep(1_000.5)
        assert (sender.depth, sender.away, sim.heard) == (3, 3, [])
        sim.faults.arm("vanish_before_seen")
        sim.open_tab()
        await sim.until(lambda: len(sim.heard) == 1)
        began = sim.now()
        await sim.until(lambda: len(sim.heard) == 3)
        assert sim.now() - began < 2
        await asyncio.sleep(1)
        assert [heard.text for heard in sim.heard] == ["0", "1", "2"]
        assert (sender.sent, sender.unknown, sim.count("repeat")) == (3, 0, 0)
        await sender.stop(1.0)


async def test_a_visitor_gone_for_good_is_owed_nothing() -> None:
    async with chat(keep=300.0) as (sim, run):
        alice = await met(sim, run)
        await asyncio.sleep(400)
        await sim.leave()
        await asyncio.sleep(290)
        message = Outbound(key="k", chat=alice.chat, text="hi")
        assert (await failed(run, message)).outcome is Outcome.NOT_SENT
        await asyncio.sleep(20)
        error = await failed(run, message)
        assert (error.outcome, error.cause.code) == (Outcome.REFUSED, "webchat_visitor_gone")


async def test_a_visitor_of_a_former_process_is_waited_for_from_its_start() -> None:
    async with chat(keep=300.0) as (_, run):
        message = Outbound(key="k", chat="0" * 24, text="hi")
        assert (await failed(run, message)).outcome is Outcome.NOT_SENT
        await asyncio.sleep(301)
        assert (await failed(run, message)).outcome is Outcome.REFUSED


async def test_a_visitor_whose_socket_is_half_open_is_noticed_and_gone() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        sim.freeze()
        await asyncio.sleep(40)
        error = await failed(run, Outbound(key="k", chat=alice.chat, text="hi"))
        assert error.cause.code == "webchat_visitor_away"
        assert run.account.view().published is Published.CONNECTED


async def test_a_half_open_socket_does_not_keep_the_new_one_from_being_answered() -> None:
    async with chat() as (sim, run):
        alice = await met(sim, run)
        sim.freeze()
        sim.open_tab()
        await sim.until(lambda: sim.count("welcome") == 2)
        await run.adapter.send(Outbound(key="k", chat=alice.chat, text="hi"))
        assert details(sim, "shown", "tab") == [2]
