"""Dead letters as an operator has them: a real gateway process, a simulated platform, commands."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.exits import Exit
from holdfast.lab.simulators.telegram import TelegramSimulator
from tests.cli.gateway import LIMIT, Place
from tests.cli.test_run import connected, output

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

FRAIL = """
from pathlib import Path

def answer(message):
    if not Path(__file__).with_name("mended").exists():
        raise RuntimeError("the model is down")
    return f"now I know: {message.text}"
"""

Output = pytest.CaptureFixture[str]


def frail(directory: Path, sim: TelegramSimulator, **others: Any) -> Place:
    """A bot whose agent fails until the file ``mended`` is there."""
    (directory / "frail.py").write_text(FRAIL)
    place = Place(directory, settings={"handler_attempts": 1})
    place.write(bot=sim.account() | {"agent": "python:frail:answer"} | others)
    return place


async def listed(place: Place, capsys: Output, *words: str, wanted: int) -> list[dict[str, Any]]:
    """Wait until a list has so many messages."""
    async with asyncio.timeout(LIMIT):
        while True:
            capsys.readouterr()
            assert await place.command(*words, "list", "--json") == Exit.OK
            document = output(capsys)
            assert document["source"] == "gateway"
            if len(document["messages"]) == wanted:
                return list(document["messages"])
            await asyncio.sleep(0.05)


async def texts(sim: TelegramSimulator, number: int) -> Sequence[str]:
    """What the bot has said, once it has said so much."""
    await sim.until(lambda: len(sim.heard) >= number, LIMIT)
    return [heard.text for heard in sim.heard]


async def test_a_failing_agent_is_mended_and_its_dead_letter_answered(
    tmp_path: Path, capsys: Output
) -> None:
    async with TelegramSimulator() as sim:
        place = frail(tmp_path, sim)
        async with place.gateway():
            await connected(place)
            sim.say("what is a holdfast?")
            (letter,) = await listed(place, capsys, "dead", wanted=1)
            name = letter["name"]
            assert (letter["state"], letter["account"]) == ("dead", "bot")

            assert await place.command("dead", "list") == Exit.OK
            shown = capsys.readouterr()
            assert "RuntimeError: the model is down" in shown.out
            assert shown.err == ""
            assert await place.command("explain", "bot") == Exit.OK
            assert "`holdfast dead list`" in capsys.readouterr().out
            assert await place.command("inbox", "show", name) == Exit.OK
            told = capsys.readouterr().out
            assert "Why:        RuntimeError: the model is down" in told
            assert "what is a holdfast?" in told

            (tmp_path / "mended").touch()
            assert await place.command("dead", "retry", name) == Exit.OK
            assert capsys.readouterr().out == f"{name}: retried, now received\n"
            assert await texts(sim, 1) == ["now I know: what is a holdfast?"]
            await listed(place, capsys, "dead", wanted=0)
            (answered,) = await listed(place, capsys, "inbox", wanted=1)
            assert (answered["name"], answered["state"]) == (name, "done")
            assert await place.command("dead", "retry", name) == Exit.FAILED
            assert f"{name} is not retried" in capsys.readouterr().err
            assert await place.command("history", "bot", "--json") == Exit.OK
            triggers = [line["trigger"] for line in output(capsys)]
            assert triggers.count(f"operator: retried {name}") == 1


async def test_a_held_send_is_retried_and_marked(tmp_path: Path, capsys: Output) -> None:
    async with TelegramSimulator() as sim:
        place = Place(tmp_path)
        place.write(bot=sim.account() | {"ambiguous": "hold"})
        async with place.gateway():
            await connected(place)
            sim.faults.arm("send_answer_lost")
            sim.say("hello")
            (held,) = await listed(place, capsys, "dead", wanted=1)
            assert (held["state"], held["maybe_doubled"]) == ("ambiguous", False)
            assert await place.command("outbox", "retry", "--all", "--yes") == Exit.OK
            assert await texts(sim, 2) == ["echo: hello", "echo: hello"]
            await listed(place, capsys, "dead", wanted=0)
            (sent,) = await listed(place, capsys, "outbox", wanted=1)
            assert (sent["name"], sent["maybe_doubled"]) == (held["name"], True)


async def test_a_dropped_letter_stays_dropped_after_a_restart(
    tmp_path: Path, capsys: Output
) -> None:
    async with TelegramSimulator() as sim:
        place = frail(tmp_path, sim)
        async with place.gateway() as process:
            await connected(place)
            sim.say("first")
            sim.say("second", chat="bob", sender="bob")
            first, second = await listed(place, capsys, "dead", wanted=2)
            assert await place.command("dead", "drop", first["name"]) == Exit.OK
            process.signal(signal.SIGKILL)
            await process.ended()
        # What is retried while none runs is taken up by the next gateway.
        (tmp_path / "mended").touch()
        assert await place.command("dead", "retry", second["name"]) == Exit.OK
        async with place.gateway():
            assert await texts(sim, 1) == ["now I know: " + second["text"]]
            await listed(place, capsys, "dead", wanted=0)
            assert await place.command("inbox", "list", "--state", "dropped", "--json") == Exit.OK
            (dropped,) = output(capsys)["messages"]
            assert dropped["name"] == first["name"]
            # Everything said after it is answered; it would have come first.
            sim.say("third")
            assert (await texts(sim, 2))[1] == "now I know: third"


async def test_retries_of_many_keep_the_order_of_their_chat(tmp_path: Path, capsys: Output) -> None:
    async with TelegramSimulator() as sim:
        place = frail(tmp_path, sim)
        async with place.gateway():
            await connected(place)
            said = [f"number {n}" for n in range(5)]
            for text in said:
                sim.say(text)
            await listed(place, capsys, "dead", wanted=5)
            (tmp_path / "mended").touch()
            assert await place.command("dead", "retry", "--all", "--yes") == Exit.OK
            assert await texts(sim, 5) == [f"now I know: {text}" for text in said]


async def test_sending_and_copying_beside_a_running_gateway(tmp_path: Path, capsys: Output) -> None:
    async with TelegramSimulator() as sim:
        place = Place(tmp_path)
        place.write(bot=sim.account())
        chat = str(sim.chat_id("alice"))
        async with place.gateway() as process:
            await connected(place)
            assert await place.command("send", "bot", chat, "news") == Exit.FAILED
            assert "--anyway" in capsys.readouterr().err
            assert await place.command("send", "bot", chat, "news", "--anyway") == Exit.OK
            name = capsys.readouterr().out.strip()
            assert await texts(sim, 1) == ["news"]
            (sent,) = await listed(place, capsys, "outbox", wanted=1)
            assert sent["name"] == name
            copy = tmp_path / "copy.db"
            assert await place.command("backup", str(copy)) == Exit.OK
            assert f"wrote {copy}" in capsys.readouterr().out
            # While it is paused a message waits, and is sent after the restart.
            assert await place.command("pause", "bot") == Exit.OK
            assert await place.command("send", "bot", chat, "more news") == Exit.OK
            process.signal(signal.SIGTERM)
            assert await process.ended() == Exit.OK
        async with place.gateway():
            assert await place.command("resume", "bot") == Exit.OK
            assert await texts(sim, 2) == ["news", "more news"]
    with sqlite3.connect(copy) as kept:
        assert kept.execute("SELECT count(*) FROM outbox").fetchone() == (1,)
    kept.close()
