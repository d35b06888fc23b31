"""What is Zulip's own, beyond what the kit asks of every platform."""

import asyncio
import re
from pathlib import Path

import pytest
from zulip_bench import ZULIP

from holdfast.adapter import Disconnect, Outcome, SendFailed
from holdfast.conformance import Result, arm, expected_rows
from holdfast.conformance.rig import rig
from holdfast.messages import Outbound
from holdfast.supervision import Kind

OFFLINE = 3_600.0
"""Seconds, far beyond the life of a queue."""


async def test_an_answer_goes_where_the_message_was() -> None:
    async with rig(ZULIP) as run:
        await run.connect()
        run.server.say("@**bot** tea?", group=True)
        run.server.say("hello")
        await run.server.until(lambda: len(run.server.heard) == 2)
        found = {(heard.chat, heard.reply_to) for heard in run.server.heard}
        assert found == {("stream:5", "tea"), ("private:8", None)}
        group, direct = sorted(
            (row.message for row in run.store.inbox.values()), key=lambda one: one.private
        )
        assert (group.thread, group.mentioned, group.sender_name) == ("tea", True, "User 8")
        assert (direct.private, direct.mentioned) == (True, False)
        # The bot has received its own answers too, and has not answered them.
        assert len(run.server.messages) == 4
        await asyncio.sleep(60)
        assert len(run.server.heard) == 2


async def test_what_was_said_before_the_first_start_is_not_answered() -> None:
    async with rig(ZULIP) as run:
        run.server.say("long ago")
        await run.connect()
        await run.works()
        assert [heard.text for heard in run.server.heard] == ["echo: word 1."]


async def test_a_restart_takes_up_the_queue() -> None:
    async with rig(ZULIP) as run:
        await run.connect()
        await run.works()
        await run.crash()
        run.say()
        await run.start()
        await run.works()
        assert run.server.registered == 1


async def test_what_was_said_while_the_queue_was_lost_is_in_the_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast_zulip.PAGE", 2)
    async with rig(ZULIP) as run:
        await run.connect()
        await run.works()
        await asyncio.sleep(1)
        cursor = await run.store.cursor("bot")
        assert cursor["seen"] == run.server.messages[-1]["id"]  # nothing older is read again
        await run.crash()
        for _ in range(3):
            run.say()
        run.server.messages.append({"id": 900, "content": None})
        run.server.messages.append(run.server.messages[-2] | {"id": 901, "content": "word 9."})
        await asyncio.sleep(OFFLINE)
        await run.start()
        await run.works()
        assert run.server.registered == 2
        assert run.answers("word 9.") == 1
        assert run.gaps() == []
        assert run.life.account.skipped_frames == 1


async def test_a_place_that_the_queue_has_left_behind_costs_a_new_queue() -> None:
    async with rig(ZULIP) as run:
        await run.connect()
        await run.works()
        backup = await run.store.cursor("bot")
        await run.works()
        await run.crash()
        await run.store.receive("bot", [], backup)
        await run.start()
        await run.works()
        assert Kind.SESSION in run.causes()
        assert run.server.registered == 2


async def test_a_heartbeat_that_is_late_is_asked_for() -> None:
    async with rig(ZULIP) as run:
        run.server.heartbeat = 100.0
        await run.connect()
        await asyncio.sleep(OFFLINE)
        assert len(run.opens) == 1
        await run.works()


@pytest.mark.parametrize(
    ("fault", "chat", "outcome", "code"),
    [
        (None, "stream:6", Outcome.REFUSED, "zulip_http_400"),
        (arm("http", status=502), "private:8", Outcome.UNKNOWN, "zulip_http_502"),
        (arm("rate_limited", seconds=9), "private:8", Outcome.NOT_SENT, "zulip_rate_limited"),
    ],
)
async def test_what_is_known_of_a_send_that_failed(
    fault: object, chat: str, outcome: Outcome, code: str
) -> None:
    async with rig(ZULIP) as run:
        if callable(fault):
            fault(run.server)
        with pytest.raises(SendFailed) as failed:
            await run.life.adapter.send(Outbound(key="k", chat=chat, text="x", thread="tea"))
        assert (failed.value.outcome, failed.value.cause.code) == (outcome, code)
        assert run.server.heard == []


async def test_the_check_says_whose_key_it_is() -> None:
    async with rig(ZULIP) as run:
        assert (await run.life.adapter.check()).identity == "bot@example.test"
        run.server.refuse(401, "INVALID_API_KEY")
        with pytest.raises(Disconnect) as refused:
            await run.life.adapter.check()
        assert refused.value.cause.code == "zulip_invalid_api_key"


def test_the_table_of_the_readme_is_what_the_bench_promises() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| (C\d\d) \| .* \| ([\w/]+).* \|$", readme, re.MULTILINE))
    rows = expected_rows(ZULIP)
    words = {Result.NOT_APPLICABLE: "n/a"}
    assert told == {row.scenario: words.get(row.result, row.result.value) for row in rows}
    assert [row.reason for row in rows if row.reason not in readme] == []
