"""Row P4: SIGTERM in every state a gateway can be in. It is gone within 5 s, and nothing is lost.

Every connection leads through a relay, so that the test can break it and count what is left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.process import LIMIT, PLATFORMS, PROMISE, answers
from tests.e2e.scene import scene, warm_up

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(180)]

on_every_platform = pytest.mark.parametrize("platform", PLATFORMS)


@on_every_platform
async def test_sigterm_while_connecting(platform: str, tmp_path: Path) -> None:
    """The platform accepts the connection and never says a word."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        play.stage.relay.cut()
        play.say("hello")
        accepted = play.stage.relay.accepted
        async with play.home.running() as gateway:
            entry = await gateway.until(lambda _: play.stage.relay.accepted > accepted)
            assert entry.state == "connecting"
            await play.stops(gateway)
        await play.answers_after_a_restart("hello")


@on_every_platform
async def test_sigterm_while_live(platform: str, tmp_path: Path) -> None:
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        async with play.home.running() as gateway:
            await gateway.connected()
            await play.stops(gateway)
        play.say("hello")
        await play.answers_after_a_restart("hello")


@on_every_platform
async def test_sigterm_in_a_long_back_off(platform: str, tmp_path: Path) -> None:
    """Our own wait ends with the process; only one that a server asked for outlives it."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        patience = {"backoff_first": 300.0, "backoff_cap": 300.0, "backoff_slow_cap": 300.0}
        play.write(policy=patience)
        play.stage.relay.refuse()
        play.say("hello")
        async with play.home.running() as gateway:
            entry = await gateway.until(lambda entry: entry.state == "retrying")
            assert entry.next_retry_at is not None
            assert entry.next_retry_at - entry.since > 100.0
            await play.stops(gateway)
        await play.answers_after_a_restart("hello")


async def test_sigterm_without_a_free_descriptor(tmp_path: Path) -> None:
    """The last status can not be written and the loop not closed: it still leaves as one that did
    what it was told."""
    async with scene(tmp_path, "telegram") as play:
        await warm_up(play)
        async with play.home.running() as gateway:
            await gateway.connected()
            _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (0, hard))
            stopped = await gateway.terminate()
            assert stopped.code == 0, gateway.stderr
            assert stopped.seconds < PROMISE
            assert "status file not written" in gateway.stderr
            assert "Traceback" not in gateway.stderr
        play.say("hello")
        await play.answers_after_a_restart("hello")


async def test_sigterm_while_the_peer_ignores_our_goodbye(tmp_path: Path) -> None:
    """A zombie socket: the close frame gets no answer, and nobody waits for one for long."""
    async with scene(tmp_path, "qqbot") as play:
        await warm_up(play)
        async with play.home.running() as gateway:
            await gateway.connected()
            play.stage.relay.hole(new=True)
            play.say("hello")
            await play.stops(gateway)
        await play.answers_after_a_restart("hello")


@pytest.mark.parametrize("agent", ["patient", "blocking"])
@on_every_platform
async def test_sigterm_while_an_agent_is_busy(platform: str, agent: str, tmp_path: Path) -> None:
    """It is cancelled, or left to its daemon thread, and asked again."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        play.write(agent=f"python:slow:{agent}")
        async with play.home.running() as gateway:
            await gateway.connected()
            play.say("hello")
            await gateway.appeared(tmp_path / "begun")
            await play.stops(gateway)
        assert answers(play.stage.simulator)["answer: hello"] == 0
        await play.answers_after_a_restart("hello", "answer")


@on_every_platform
async def test_sigterm_while_sending(platform: str, tmp_path: Path) -> None:
    """The platform's network takes the answer and does not pass it on."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        play.write(agent="python:slow:waiting")
        async with play.home.running() as gateway:
            await gateway.connected()
            play.say("hello")
            await gateway.appeared(tmp_path / "begun")
            play.stage.relay.stall(new=True)
            (tmp_path / "go").touch()
            await gateway.owes("sending")
            await play.stops(gateway)
        assert answers(play.stage.simulator)["answer: hello"] == 0
        await play.answers_after_a_restart("hello", "answer")


@on_every_platform
async def test_sigterm_while_the_journal_is_busy(platform: str, tmp_path: Path) -> None:
    """Another program holds SQLite's lock: what can not be stored stays with the platform."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        with contextlib.closing(sqlite3.connect(play.home.journal, isolation_level=None)) as other:
            async with play.home.running() as gateway:
                await gateway.connected()
                other.execute("BEGIN IMMEDIATE")
                before = play.stage.relay.to_client.delivered
                play.say("hello")
                async with asyncio.timeout(LIMIT):
                    while play.stage.relay.to_client.delivered == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await play.stops(gateway)
                other.execute("ROLLBACK")
        await play.answers_after_a_restart("hello")
