"""mattermostdriver, unmodified, on the simulator: proof that the simulator is honest.

The driver's calls block, so they run in threads; its socket runs on the test's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mattermostdriver import Driver
from mattermostdriver.exceptions import (
    InvalidOrMissingParameters,
    NoAccessTokenProvided,
    NotEnoughPermissions,
)
from mattermostdriver.websocket import Websocket

from holdfast.lab.simulators.mattermost import MattermostSimulator

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (3).to_bytes(4, "big") + (2).to_bytes(4, "big")


def driver_of(sim: MattermostSimulator, **changed: Any) -> Any:
    options = {"scheme": "http", "url": sim.host, "port": sim.port, "token": sim.token}
    more = {"keepalive": True, "keepalive_delay": 0.05, "timeout": 0.2, "request_timeout": 5}
    return Driver(options | more | changed)


class Bot:
    """Answers every post that is not its own with its text."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.posts: list[dict[str, Any]] = []

    async def handle(self, message: str) -> None:
        frame = json.loads(message)
        if frame.get("event") != "posted":
            return
        post = json.loads(frame["data"]["post"])
        if post["user_id"] == self.driver.client.userid:
            return
        self.posts.append(post)
        reply = {
            "channel_id": post["channel_id"],
            "message": f"echo {post['message']}",
            "root_id": post["root_id"] or post["id"],
        }
        await asyncio.to_thread(self.driver.posts.create_post, reply)


@contextlib.asynccontextmanager
async def running(sim: MattermostSimulator) -> AsyncIterator[Bot]:
    """A logged-in bot of the driver with its socket, which is cancelled at the end."""
    driver = driver_of(sim)
    await asyncio.to_thread(driver.login)
    bot = Bot(driver)
    socket = Websocket(driver.options, driver.client.token)
    task = asyncio.create_task(socket.connect(bot.handle))
    try:
        await sim.until(sim.listening, timeout=2)
        yield bot
    finally:
        socket.disconnect()
        task.cancel()
        await asyncio.wait([task])


async def test_driver_logs_in_and_answers_in_private_and_in_a_channel() -> None:
    async with MattermostSimulator() as sim, running(sim) as bot:
        assert bot.driver.client.username == "holdfast"
        private = sim.say("hello")
        await sim.until(lambda: len(sim.heard) == 1, timeout=2)
        group = sim.say("status?", chat="team", sender="bob", group=True)
        await sim.until(lambda: len(sim.heard) == 2, timeout=2)
        assert [(h.chat, h.text, h.reply_to) for h in sim.heard] == [
            ("alice", "echo hello", private),
            ("team", "echo @holdfast status?", group),
        ]


async def test_driver_reconnects_and_finds_what_it_missed_by_rest() -> None:
    async with MattermostSimulator() as sim, running(sim) as bot:
        first = sim.say("one")
        await sim.until(lambda: len(sim.heard) == 1, timeout=2)
        sim.drop_all()
        missed = sim.say("missed")
        await sim.until(sim.listening, timeout=2)
        sim.say("after")
        await sim.until(lambda: len(sim.heard) == 2, timeout=2)
        assert [post["message"] for post in bot.posts] == ["one", "after"]
        page = await asyncio.to_thread(
            bot.driver.posts.get_posts_for_channel,
            sim.channel_id("alice"),
            {"since": sim.posts[first]["update_at"]},
        )
        assert missed in page["order"]
        assert first not in page["order"]
        assert sim.count("login") == 2


async def test_driver_reads_a_message_in_fragments() -> None:
    async with MattermostSimulator() as sim, running(sim):
        sim.faults.arm("split_frame", parts=4)
        sim.say("größer " * 60)
        await sim.until(lambda: len(sim.heard) == 1, timeout=2)
        assert sim.heard[0].text == "echo " + "größer " * 60


async def test_driver_files_edits_and_channels() -> None:
    def work(driver: Any, alice: str) -> Any:
        driver.login()
        team = driver.teams.get_user_teams("me")[0]["id"]
        channel = driver.channels.create_direct_message_channel([driver.client.userid, alice])
        listed = driver.channels.get_channels_for_user("me", team)
        uploaded = driver.files.upload_file(channel["id"], {"files": ("cat.png", PNG)})
        file = uploaded["file_infos"][0]["id"]
        post = driver.posts.create_post(
            {"channel_id": channel["id"], "message": "look", "file_ids": [file]}
        )
        driver.posts.patch_post(post["id"], {"message": "see"})
        return channel, listed, driver.files.get_file(file).content

    async with MattermostSimulator() as sim:
        alice = sim.user_id("alice")
        channel, listed, content = await asyncio.to_thread(work, driver_of(sim), alice)
        assert channel["id"] in [entry["id"] for entry in listed]
        assert content == PNG
        assert [(h.text, h.media, h.data) for h in sim.heard] == [
            ("look", "cat.png", PNG),
            ("see", "cat.png", PNG),
        ]
        assert sim.heard[1].edit_of == sim.heard[0].id


async def test_driver_logs_in_with_a_password() -> None:
    async with MattermostSimulator() as sim:
        login = {"token": None, "login_id": "holdfast", "password": sim.password}
        driver = driver_of(sim, **login)
        assert (await asyncio.to_thread(driver.login))["id"] == sim.bot_id
        assert driver.client.token in sim.tokens
        assert driver.client.token != sim.token


async def test_driver_tells_errors_apart() -> None:
    async with MattermostSimulator() as sim:
        with pytest.raises(NoAccessTokenProvided, match="session"):
            await asyncio.to_thread(driver_of(sim, token="wrong").login)
        driver = driver_of(sim)
        await asyncio.to_thread(driver.login)
        post = {"channel_id": sim.channel_id("alice"), "message": "x" * 16_384}
        with pytest.raises(InvalidOrMissingParameters, match="too long"):
            await asyncio.to_thread(driver.posts.create_post, post)
        with pytest.raises(NotEnoughPermissions, match="permissions"):
            await asyncio.to_thread(driver.channels.get_channel, "nowhere")
