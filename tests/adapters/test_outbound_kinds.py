"""Every kind of answer on every platform, on the whole road: agent, journal, sender, adapter.

What a platform does not have is asserted as such: it must say so, not send something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapter import Adapter, Outcome, SendFailed
from holdfast.agents import Turn
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulator import Heard, Simulator
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.simulators.webchat import WebChatSimulator
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.lab.stage import Stage
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Reply
from holdfast.splitting import measure
from holdfast.store.protocol import OutboxState, Owed
from holdfast.testing import MemoryStore
from tests.theatre import Theatre, theatre

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
IMAGE = Attachment(kind=MediaKind.IMAGE, name="plot.png", mime="image/png", data=PNG)
FILE = Attachment(kind=MediaKind.FILE, name="log.txt", mime="text/plain", data=b"line\n" * 99)

Fault = tuple[str, Mapping[str, Any]]


def answers(sim: Simulator, heard: Heard, key: str) -> bool:
    """Whether the platform shows an answer as one to this message."""
    return heard.reply_to is not None and key.rpartition(":")[2] == heard.reply_to


def mentions(sim: Any, heard: Heard, key: str) -> bool:
    """DingTalk has no quotes for robots: in groups it names whom it answers."""
    return bool(sim.accepted[-1]["at"]["atUserIds"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A platform as far as its answers differ from the others'."""

    simulator: Callable[[], Simulator]
    passing: tuple[Fault, ...]
    """Refusals that pass: the answer is sent again."""
    final: tuple[Fault, ...] = ()
    """Refusals for good: the answer becomes a dead letter."""
    groups: bool = True
    quoted: Callable[[Any, Heard, str], bool] = answers
    edits: bool = False
    typing: str = ""
    """The fact by which the simulator tells of typing; empty where bots can not show it."""


PLATFORMS = {
    "telegram": Platform(
        simulator=TelegramSimulator,
        passing=(("send_429", {}),),
        final=(("send_403", {}),),
        edits=True,
        typing="chat-action",
    ),
    "qqbot": Platform(
        simulator=QQBotSimulator,
        passing=(("send_error", {"status": 200}), ("send_22009", {})),
        final=(("send_error", {"status": 200, "code": 304003}),),
        typing="typing",
    ),
    "dingtalk": Platform(
        simulator=DingTalkSimulator,
        passing=(("webhook_error", {}), ("webhook_too_fast", {}), ("webhook_gone", {})),
        final=(("webhook_error", {"errcode": 40035}),),
        quoted=mentions,
    ),
    "feishu": Platform(
        simulator=FeishuSimulator,
        passing=(("send_code_in_200", {"code": 230020}), ("send_frequency", {})),
        final=(("send_code_in_200", {"code": 230001}),),
        edits=True,
    ),
    "slack": Platform(
        simulator=SlackSimulator,
        passing=(
            ("send_error", {"error": "ratelimited"}),
            ("malformed_json", {}),
            ("api_html", {}),
        ),
        final=(("send_error", {"error": "channel_not_found"}),),
        edits=True,
    ),
    "mattermost": Platform(
        simulator=MattermostSimulator,
        passing=(("api_html", {"status": 200}), ("send_429", {})),
        final=(("send_error", {}),),
        edits=True,
        typing="typing",
    ),
    "discord": Platform(
        simulator=DiscordSimulator,
        passing=(("api_200_html", {}), ("api_malformed", {}), ("send_429", {})),
        final=(("send_error", {}),),
        edits=True,
        typing="typing",
    ),
    "matrix": Platform(
        simulator=MatrixSimulator,
        passing=(("send_429", {}), ("send_502", {})),
        edits=True,
        typing="typing",
    ),
    "whatsapp": Platform(
        simulator=WhatsAppSimulator,
        passing=(("error_in_200", {"code": 131016}), ("error_in_200", {"code": 4})),
        final=(("error_in_200", {"code": 131047}),),
        typing="typing",
    ),
    "webchat": Platform(
        simulator=WebChatSimulator,
        passing=(("vanish_before_seen", {}),),
        groups=False,
        edits=True,
        typing="typing",
    ),
}

platforms = pytest.mark.parametrize("name", PLATFORMS)


@dataclass
class Scene:
    """A gateway with one account, and what its agent is to answer."""

    name: str
    platform: Platform
    stage: Stage
    play: Theatre
    store: MemoryStore
    reply: Any = ""
    before: Callable[[], Any] = lambda: None
    think: float = 0.0
    messages: list[Inbound] = field(default_factory=list)

    @property
    def sim(self) -> Any:
        """The platform."""
        return self.stage.simulator

    @property
    def adapter(self) -> Adapter:
        """The adapter the gateway runs."""
        return self.play.gateway.desk(self.name).account.adapter

    @property
    def owed(self) -> list[Owed]:
        """Every answer the journal knows, in order."""
        return [self.store.outbox[row] for row in sorted(self.store.outbox)]

    async def agent(self, message: Inbound, turn: Turn) -> list[Reply]:
        """Answers as the test wants it."""
        self.messages.append(message)
        if self.think:
            await asyncio.sleep(self.think)
        self.before()
        return [self.reply if isinstance(self.reply, Reply) else Reply(text=self.reply)]

    async def ask(self, *, group: bool = False, reply: Any = None) -> str:
        """A user says something; the id his platform gives it."""
        self.reply = self.reply if reply is None else reply
        more = {"chat": "team", "sender": "ann"} if group else {}
        key: str = self.sim.say("a question", group=group, **more)
        return key

    async def settled(self) -> list[Heard]:
        """Wait until nothing is owed any more; what users have heard by then."""
        done = (OutboxState.SENT, OutboxState.DEAD)
        async with asyncio.timeout(1_800):
            while not (self.owed and all(row.state in done for row in self.owed)):  # noqa: ASYNC110
                await asyncio.sleep(0.25)
        heard: list[Heard] = self.sim.heard
        return heard


@contextlib.asynccontextmanager
async def scene(name: str, home: Path) -> AsyncIterator[Scene]:
    """A connected account whose answers are the test's."""
    platform, store = PLATFORMS[name], MemoryStore()
    async with Stage(name, platform.simulator()) as stage, Relay("127.0.0.1", 9) as door:
        base = f"http://127.0.0.1:{door.port}"
        settings = {"hook_url": base} if name in ("whatsapp", "webchat") else {}
        async with theatre(home, stage, store=store, gateway=settings, every=5.0) as play:
            shown = Scene(name, platform, stage, play, store)
            play.gateway.desk(name).lanes.agent = shown.agent
            await _connected(shown, door, base)
            yield shown


async def _connected(shown: Scene, door: Relay, base: str) -> None:
    async with asyncio.timeout(900):
        while shown.play.entry(shown.name).state != "connected":
            await asyncio.sleep(0.5)
            door.target = ("127.0.0.1", shown.play.gateway.hooks.port or 9)
            if isinstance(shown.sim, WhatsAppSimulator):
                with contextlib.suppress(RuntimeError):
                    await shown.sim.set_webhook(f"{base}/whatsapp/{shown.sim.phone_number_id}")
    if isinstance(shown.sim, WebChatSimulator):
        await shown.sim.open_page(f"{base}/chat")


# -- long texts -----------------------------------------------------------------------------------

WHOLE = ("👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇯🇵", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥", "e\u0301", "한글", "𝒳", "🧑🏿‍🚀")
"""What one person sees as one sign each, and a careless cut tears."""

FENCE = re.compile(r"^```.*$", re.MULTILINE)


def long_text() -> str:
    """20,000 characters: prose, words without blanks, code, in several scripts."""
    prose = (
        "这是一段没有空格的长文字，用来检验分割。" * 3 + " Ein Satz mit " + " ".join(WHOLE) + ". "
    )
    glued = "".join(WHOLE) * 9
    code = "```python\nfor x in range(9):\n    print('日本語', x)  # " + glued[:40] + "\n```"
    text = ""
    while len(text) < 20_000:
        lines = "\n".join(f"    value_{n} = '{WHOLE[n % len(WHOLE)]}'" for n in range(60))
        text += f"{prose * 3}\n\n{glued}\n\n{code}\n\n```\nstart\n{lines}\n```\n\n"
    return (text[:20_000].rpartition("\n\n")[0] + "\n\nend of it").ljust(20_000, "终")


def essence(text: str) -> str:
    """A text without what the splitter may change: blanks at cuts, and repaired fences."""
    return re.sub(r"\s+", "", FENCE.sub("", text))


def begins_torn(part: str) -> bool:
    """Whether the first sign of a part belongs to one before it."""
    first = part[0]
    return first in "\u200d\ufe0f" or "🏻" <= first <= "🏿" or bool(unicodedata.combining(first))


@platforms
async def test_a_long_text_arrives_whole_and_in_order(name: str, tmp_path: Path) -> None:
    text = long_text()
    async with scene(name, tmp_path) as shown:
        await shown.ask(reply=text)
        parts = [heard.text for heard in await shown.settled()]
        assert [row.state for row in shown.owed] == [OutboxState.SENT] * len(parts)
        assert len(parts) > 1 or shown.adapter.traits.max_text >= len(text)
        assert essence("\n".join(parts)) == essence(text)
        traits = shown.adapter.traits
        for part in parts:
            assert measure(part, traits.text_unit) <= traits.max_text
            assert part.encode().decode() == part, "a surrogate is torn"
            assert len(FENCE.findall(part)) % 2 == 0, "a fence is left open"
            assert not begins_torn(part)
            assert not part.endswith("\u200d")
        for sign in WHOLE:
            assert sum(part.count(sign) for part in parts) == text.count(sign), sign


# -- kinds ----------------------------------------------------------------------------------------


@platforms
@pytest.mark.parametrize("file", [IMAGE, FILE], ids=["image", "file"])
async def test_a_file_arrives_with_its_content(name: str, tmp_path: Path, file: Attachment) -> None:
    async with scene(name, tmp_path) as shown:
        await shown.ask(reply=Reply(text="here it is", attachments=(file,)))
        words, media = await shown.settled()
        assert (words.text, words.media) == ("here it is", None)
        assert media.data == file.data
        assert media.media
        assert all(row.state is OutboxState.SENT for row in shown.owed)


@platforms
async def test_an_answer_refers_to_what_it_answers(name: str, tmp_path: Path) -> None:
    async with scene(name, tmp_path) as shown:
        key = await shown.ask(group=shown.platform.groups, reply=Reply(text="yes", quote=True))
        (heard,) = await shown.settled()
        assert heard.text == "yes"
        assert shown.platform.quoted(shown.sim, heard, key), heard


@platforms
async def test_an_own_message_can_be_changed_where_the_platform_can(
    name: str, tmp_path: Path
) -> None:
    async with scene(name, tmp_path) as shown:
        await shown.ask(reply="first")
        await shown.settled()
        (row,) = shown.owed
        change = Outbound(
            key="edit-1",
            chat=row.message.chat,
            text="second",
            edit_of=row.receipt or "an id",
            context=row.message.context,
        )
        assert shown.adapter.traits.edits is shown.platform.edits
        if shown.platform.edits:
            await shown.adapter.send(change)
            first, second = shown.sim.heard
            assert (second.text, second.edit_of) == ("second", first.id)
        else:
            with pytest.raises(SendFailed) as refused:
                await shown.adapter.send(change)
            assert refused.value.outcome is Outcome.REFUSED
            assert refused.value.cause.code.endswith("_no_edits")
            assert [heard.text for heard in shown.sim.heard] == ["first"]


@platforms
async def test_typing_is_shown_while_the_agent_thinks(name: str, tmp_path: Path) -> None:
    async with scene(name, tmp_path) as shown:
        shown.think = 2.0
        await shown.ask(reply="done")
        await shown.settled()
        assert shown.adapter.traits.typing is bool(shown.platform.typing)
        known = {record.what for record in shown.sim.log}
        if shown.platform.typing:
            assert shown.sim.count(shown.platform.typing) == 1
        else:
            await shown.adapter.typing(shown.messages[0].chat)
            assert not known & {"typing", "chat-action"}
        assert [heard.text for heard in shown.sim.heard] == ["done"]


# -- refusals -------------------------------------------------------------------------------------

PASSING = [(name, fault) for name, platform in PLATFORMS.items() for fault in platform.passing]
FINAL = [(name, fault) for name, platform in PLATFORMS.items() for fault in platform.final]


@pytest.mark.parametrize(("name", "fault"), PASSING, ids=lambda value: str(value))
async def test_a_refusal_that_passes_is_not_taken_for_an_acceptance(
    name: str, fault: Fault, tmp_path: Path
) -> None:
    async with scene(name, tmp_path) as shown:
        kind, params = fault
        shown.before = lambda: shown.sim.faults.arm(kind, times=1, **params)
        await shown.ask(reply="at last")
        while not shown.sim.faults.played[kind]:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        # An expired webhook is no refusal of the message: the robot's own call takes it at once.
        assert kind == "webhook_gone" or shown.play.gateway.desk(name).sender.sent == 0
        heard = await shown.settled()
        assert shown.play.gateway.desk(name).sender.sent == 1
        assert [row.state for row in shown.owed] == [OutboxState.SENT]
        assert [one.text for one in heard] == ["at last"]


@pytest.mark.parametrize(("name", "fault"), FINAL, ids=lambda value: str(value))
async def test_a_refusal_for_good_becomes_a_dead_letter(
    name: str, fault: Fault, tmp_path: Path
) -> None:
    async with scene(name, tmp_path) as shown:
        kind, params = fault
        shown.before = lambda: shown.sim.faults.arm(kind, times=1, **params)
        await shown.ask(reply="in vain")
        assert await shown.settled() == []
        (row,) = shown.owed
        assert row.state is OutboxState.DEAD
        assert row.reason
        assert shown.play.gateway.desk(name).sender.sent == 0
        assert shown.play.entry(name).state == "connected"
