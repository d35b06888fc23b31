"""The unmodified usual Python SDK (discord.py) on the simulator: the simulator is honest.

The SDK beats from a thread of its own, so these tests run on the real clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import warnings
from collections.abc import AsyncIterator

import pytest
import yarl

from holdfast.lab.simulators.discord import DiscordSimulator

with warnings.catch_warnings():
    # Its voice part, which is imported with the rest.
    warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
    import discord

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
PATIENCE = 10.0
"""Seconds until a test that hangs is given up; none needs more than two."""


class Bot(discord.Client):
    """Answers every message of a user with its text, and keeps what it got."""

    def __init__(self) -> None:
        intents = discord.Intents(guilds=True, messages=True, message_content=True)
        super().__init__(intents=intents, guild_ready_timeout=0.01)
        self.got: list[discord.Message] = []
        self.resumed = 0

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Without the SDK's five seconds between two identifies."""

    async def on_resumed(self) -> None:
        self.resumed += 1

    async def on_message(self, message: discord.Message) -> None:
        if message.author != self.user:
            self.got.append(message)
            await message.reply(f"echo {message.clean_content}")


@contextlib.asynccontextmanager
async def running(
    patch: pytest.MonkeyPatch, *, token: str | None = None, ready: bool = True
) -> AsyncIterator[tuple[DiscordSimulator, Bot, asyncio.Task[None]]]:
    """A simulator that is in a hurry, and a bot of the SDK that is pointed at it."""
    async with DiscordSimulator() as sim:
        sim.limit.max_concurrency = 10
        patch.setattr(discord.http.Route, "BASE", sim.account()["api_url"])
        gateway = yarl.URL(sim.url.replace("http", "ws")) / "gw"
        patch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
        bot = Bot()
        task = asyncio.create_task(bot.start(token or sim.token))
        try:
            if ready:
                await sim.until(sim.listening, PATIENCE)
            yield sim, bot, task
        finally:
            await bot.close()
            task.cancel()
            await asyncio.wait({task})


async def heard(sim: DiscordSimulator, count: int) -> list[str]:
    await sim.until(lambda: len(sim.heard) >= count, PATIENCE)
    return [h.text for h in sim.heard]


async def test_sdk_logs_in_beats_and_answers_in_dm_and_guild(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as (sim, bot, _):
        private = sim.say("hello")
        await heard(sim, 1)
        grouped = sim.say("summarize", chat="team", sender="bob", group=True)
        await heard(sim, 2)
        assert [(h.chat, h.text, h.reply_to) for h in sim.heard] == [
            ("alice", "echo hello", private),
            ("team", "echo @gatebot summarize", grouped),
        ]
        assert isinstance(bot.got[0].channel, discord.DMChannel)
        assert isinstance(bot.got[1].channel, discord.TextChannel)
        assert bot.got[1].channel.name == "team"
        opened = await bot.got[1].author.create_dm()
        assert str(opened.id) == sim.channel_id("bob")
        thread = await bot.got[1].create_thread(name="topic")
        assert thread.id == bot.got[1].id
        await thread.send("inside")
        assert (sim.heard[2].chat, sim.heard[2].text) == ("team/topic", "inside")
        assert (sim.count("login"), sim.count("beat") >= 1) == (1, True)


async def test_sdk_reads_split_zlib_payloads_and_beats_on_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as (sim, bot, _):
        sim.faults.arm("split_frame", pieces=5)
        sim.say("in five pieces")
        assert await heard(sim, 1) == ["echo in five pieces"]
        sim.heartbeat_interval = 0.05
        await sim.goodbye()
        await sim.until(lambda: sim.count("beat") >= 6, PATIENCE)
        assert bot.latency < PATIENCE
        # The last link does not beat, so that no thread is busy when the loop ends.
        sim.heartbeat_interval = 41.25
        await sim.goodbye()
        await sim.until(lambda: sim.count("resumed") == 2, PATIENCE)


async def test_sdk_resumes_after_reset_goodbye_and_close_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as (sim, bot, _):
        await sim.goodbye()
        await sim.until(lambda: sim.count("resumed") == 1, PATIENCE)
        for n, code in enumerate((4000, 4009, 1000), start=2):
            await sim.close_all(code)
            sim.say(f"missed by {code}")
            await sim.until(lambda n=n: sim.count("resumed") == n, PATIENCE)  # type: ignore[misc]
        assert await heard(sim, 3) == [f"echo missed by {code}" for code in (4000, 4009, 1000)]
        assert (sim.count("login"), sim.count("lost"), bot.resumed) == (1, 0, 4)
        paths = [r.detail["path"] for r in sim.log if r.what == "ws-open"]
        assert paths == ["/gw"] + ["/gw-resume"] * 4


async def test_sdk_identifies_after_a_refused_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (sim, bot, _):
        sim.faults.arm("refuse_resume")
        await sim.close_all(4000)
        lost = sim.say("dies with the session")
        await sim.until(lambda: sim.count("login") == 2, PATIENCE)
        sim.say("after all")
        assert await heard(sim, 1) == ["echo after all"]
        assert [r.detail["id"] for r in sim.log if r.what == "lost"] == [lost]
        assert bot.resumed == 0


async def test_sdk_waits_out_a_429_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (sim, _, _task):
        sim.faults.arm("send_429", retry_after=0.2)
        before = sim.now()
        sim.say("slowly")
        assert await heard(sim, 1) == ["echo slowly"]
        assert sim.now() - before >= 0.2


async def test_sdk_gives_up_on_a_ban_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (sim, bot, _):
        sim.say("hello")
        await heard(sim, 1)
        sim.faults.arm("cloudflare_ban")
        with pytest.raises(discord.HTTPException) as caught:
            await bot.got[0].channel.send("again")
        assert (caught.value.status, len(sim.heard)) == (429, 1)


@pytest.mark.slow
async def test_sdk_repeats_a_send_after_a_502(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (sim, _, _task):
        sim.faults.arm("api_html")
        sim.say("once")
        assert await heard(sim, 1) == ["echo once"]
        assert sim.faults.played["api_html"] == 1


async def test_sdk_edits_uploads_types_and_reads_history(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (sim, bot, _):
        key = sim.say("look", image=PNG)
        await heard(sim, 1)
        [attachment] = bot.got[0].attachments
        assert (attachment.filename, await attachment.read()) == ("image.png", PNG)
        channel = bot.got[0].channel
        async with channel.typing():
            sent = await channel.send("report", file=discord.File(io.BytesIO(b"pdf"), "r.pdf"))
        await sent.edit(content="final report")
        await sent.add_reaction("\N{THUMBS UP SIGN}")
        assert (sim.heard[1].media, sim.heard[1].data) == ("r.pdf", b"pdf")
        assert (sim.heard[2].text, sim.heard[2].edit_of) == ("final report", str(sent.id))
        assert sim.count("typing") == sim.count("reaction") == 1
        after = discord.Object(int(key))
        assert [m.content async for m in channel.history(after=after)] == [
            "echo look",
            "final report",
        ]
        assert (await channel.fetch_message(sent.id)).content == "final report"
        await sent.delete()
        assert [r.detail["id"] for r in sim.log if r.what == "deleted"] == [str(sent.id)]
        with pytest.raises(discord.NotFound, match="10008"):
            await channel.fetch_message(sent.id)


@pytest.mark.parametrize(
    ("code", "error"), [(4004, discord.ConnectionClosed), (4014, discord.PrivilegedIntentsRequired)]
)
async def test_sdk_ends_on_fatal_close_codes(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    async with running(monkeypatch) as (sim, _, task):
        await sim.close_all(code)
        with pytest.raises(error):
            await asyncio.wait_for(task, PATIENCE)


async def test_sdk_refuses_a_wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, token="wrong", ready=False) as (sim, _, task):
        with pytest.raises(discord.LoginFailure, match="Improper token"):
            await asyncio.wait_for(task, PATIENCE)
        assert sim.count("ws-open") == 0
