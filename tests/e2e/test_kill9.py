"""Row P3: `kill -9` at every step of a message's way, and what is true after a restart.

Each message is said while the gateway is down, so that the first thing the doomed process receives
is that message, and the named point is reached by it and by nothing else.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from holdfast.killpoints import Point
from holdfast.lab.simulator import Simulator
from tests.e2e.process import LIMIT, PLATFORMS, Home, answers
from tests.e2e.scene import scene, warm_up

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(180)]

on_every_platform = pytest.mark.parametrize("platform", PLATFORMS)

RECOGNISES_REPEATS = ("qqbot", "matrix")
"""QQ refuses a used ``msg_seq``, Matrix a used transaction id. Telegram has no key at all."""

MARKS_DOUBT = ("telegram", "qqbot")
"""Where a trait of the adapter says that not every message is recognised when it is repeated."""


async def dies_and_answers(platform: str, directory: Path, point: Point) -> tuple[int, int]:
    """Kill the process at a point of a message's way and start it again.

    Returns how often users heard the answer, and how many answers the journal marks as doubtful.
    """
    home = Home(directory)
    async with PLATFORMS[platform]() as simulator:
        home.write(simulator.account())
        await first_life(home, simulator)
        simulator.say("are you there?")
        async with home.running(kill_at=point) as gateway:
            assert await gateway.ended() == -signal.SIGKILL, gateway.stderr
            assert f"holdfast: killed at {point}, pass 1" in gateway.stderr
        heard_before = answers(simulator)["echo: are you there?"]
        assert heard_before == (1 if point == "after-send-before-record" else 0)
        async with home.running() as gateway:
            await simulator.until(lambda: answers(simulator)["echo: are you there?"] > 0, LIMIT)
            # With nothing left to answer or to send, nothing can be heard twice any more.
            await gateway.settled()
            assert (await gateway.terminate()).code == 0
    assert answers(simulator).keys() == {"echo: warm-up", "echo: are you there?"}
    assert answers(simulator)["echo: warm-up"] == 1
    return answers(simulator)["echo: are you there?"], home.marked()


async def first_life(home: Home, simulator: Simulator) -> None:
    """A first life: chats are known, a session exists, and a place in the stream is stored."""
    async with home.running() as gateway:
        await gateway.connected()
        simulator.say("warm-up")
        await simulator.until(lambda: len(simulator.heard) == 1, LIMIT)
        await gateway.settled()
        assert (await gateway.terminate()).code == 0


@on_every_platform
async def test_kill9_after_receive(platform: str, tmp_path: Path) -> None:
    """Between receive and acknowledge: the message is answered after the restart."""
    assert await dies_and_answers(platform, tmp_path, "after-receive") == (1, 0)


@on_every_platform
async def test_kill9_after_persist(platform: str, tmp_path: Path) -> None:
    """Stored and not acknowledged: the platform's redelivery is recognised."""
    assert await dies_and_answers(platform, tmp_path, "after-persist") == (1, 0)


@on_every_platform
async def test_kill9_in_handler(platform: str, tmp_path: Path) -> None:
    """The agent is asked again."""
    assert await dies_and_answers(platform, tmp_path, "in-handler") == (1, 0)


@on_every_platform
async def test_kill9_before_send(platform: str, tmp_path: Path) -> None:
    """The answer is in the journal; that it never left, the next life can not know."""
    marked = int(platform in MARKS_DOUBT)
    assert await dies_and_answers(platform, tmp_path, "before-send") == (1, marked)


@on_every_platform
async def test_kill9_after_send_before_record(platform: str, tmp_path: Path) -> None:
    """The one double there may be, and only where the platform can not tell; it is marked."""
    heard = 1 if platform in RECOGNISES_REPEATS else 2
    marked = int(platform in MARKS_DOUBT)
    assert await dies_and_answers(platform, tmp_path, "after-send-before-record") == (heard, marked)


@on_every_platform
@pytest.mark.parametrize("arrives", [True, False], ids=["arrived", "not-arrived"])
async def test_kill9_in_the_middle_of_a_send(platform: str, arrives: bool, tmp_path: Path) -> None:
    """The platform has the answer and its confirmation is lost, or it never got the answer."""
    async with scene(tmp_path, platform, agent="python:slow:waiting") as play:
        (tmp_path / "go").touch()
        await warm_up(play, "answer")
        (tmp_path / "go").unlink()
        (tmp_path / "begun").unlink()
        async with play.home.running() as gateway:
            await gateway.connected()
            play.say("hello")
            await gateway.appeared(tmp_path / "begun")
            (play.stage.relay.hole_in if arrives else play.stage.relay.stall)(new=True)
            (tmp_path / "go").touch()
            if arrives:
                await play.answered("hello", "answer")
            else:
                await gateway.owes("sending")
            await gateway.kill9()
        play.unplugged()
        async with play.home.running() as gateway:
            await gateway.settled()
            await play.stops(gateway)
        doubled = arrives and platform not in RECOGNISES_REPEATS
        assert answers(play.stage.simulator)["answer: hello"] == 1 + doubled
        assert play.home.marked() == int(platform in MARKS_DOUBT)


@on_every_platform
async def test_kill9_in_a_burst(platform: str, tmp_path: Path) -> None:
    """Thirty messages in three chats: nothing is lost, and each chat keeps its order."""
    home = Home(tmp_path)
    chats = ("ann", "bob", "cleo")
    async with PLATFORMS[platform]() as simulator:
        home.write(simulator.account())
        async with home.running() as gateway:
            await gateway.connected()
            for chat in chats:
                simulator.say(f"{chat} hello", chat=chat, sender=chat)
            await simulator.until(lambda: len(simulator.heard) == len(chats), LIMIT)
            await gateway.settled()
            for number in range(10):
                for chat in chats:
                    simulator.say(f"{chat} {number}", chat=chat, sender=chat)
            await simulator.until(lambda: len(simulator.heard) >= 8, LIMIT)
            assert await gateway.kill9() == -signal.SIGKILL
        assert len(answers(simulator)) < 33, "the burst was over before the kill"
        async with home.running() as gateway:
            await simulator.until(lambda: len(answers(simulator)) == 33, 2 * LIMIT)
            await gateway.settled()
            assert (await gateway.terminate()).code == 0
    said = [f"echo: {said.text}" for said in simulator.said]
    doubled = {text: count - 1 for text, count in answers(simulator).items() if count > 1}
    assert answers(simulator).keys() == set(said)
    assert all(more == 1 for more in doubled.values())
    assert len(doubled) <= home.marked() <= len(chats), "a double that the journal does not mark"
    assert not doubled or platform not in RECOGNISES_REPEATS
    for chat in chats:
        heard = dict.fromkeys(h.text for h in simulator.heard if f" {chat} " in h.text)
        assert list(heard) == [text for text in said if f" {chat} " in text]


async def test_kill9_leaves_a_qq_session_that_is_resumed(tmp_path: Path) -> None:
    """QQ replays to a resumed session only: what was said meanwhile hangs on the stored cursor."""
    home = Home(tmp_path)
    async with PLATFORMS["qqbot"]() as simulator:
        home.write(simulator.account())
        async with home.running() as gateway:
            await gateway.connected()
            simulator.say("before")
            await simulator.until(lambda: len(simulator.heard) == 1, LIMIT)
            await gateway.kill9()
        await simulator.until(lambda: not simulator.listening(), LIMIT)
        simulator.say("meanwhile")
        simulator.say("in the team", chat="team", group=True)
        async with home.running() as gateway:
            await simulator.until(lambda: len(answers(simulator)) == 3, LIMIT)
            entry = await gateway.connected()
            assert entry.gap is None
            await gateway.settled()
            assert (await gateway.terminate()).code == 0
    assert (simulator.count("identify"), simulator.count("resumed")) == (1, 1)
    assert simulator.count("lost") == simulator.count("unproven") == 0
    assert Counter(answers(simulator).values()) == {1: 3}
    assert home.rows("SELECT count(*) FROM gaps") == [(0,)]
