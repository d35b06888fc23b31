"""What is fuzzed: every platform's roads in, as data, and real traffic of each on tape."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.adapter import Adapter, HttpReply
from holdfast.adapters.dingtalk import DingTalk
from holdfast.adapters.discord import Discord
from holdfast.adapters.feishu import Feishu
from holdfast.adapters.feishu_hook import Hook
from holdfast.adapters.matrix import Matrix
from holdfast.adapters.mattermost import Mattermost
from holdfast.adapters.qqbot import QQBot
from holdfast.adapters.slack import Slack
from holdfast.adapters.telegram import Telegram
from holdfast.adapters.webchat import WebChat
from holdfast.adapters.whatsapp import WhatsApp
from holdfast.gateway.account import AccountTools
from holdfast.gateway.hooks import HookServer
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.feishu_frames import Frame
from holdfast.lab.simulators.feishu_hook import SIGNED, encrypt, signature
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.qqbot_rules import callback_headers
from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.simulators.webchat import WebChatSimulator
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.testing import run_virtual
from tests.adapters.fuzzing import Call, FakeLink, Item, Raw, Tape, with_body
from tests.adapters.taping import TapingPort
from tests.harness import make_adapter

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)

Open = Callable[[Any], bytes]
Seal = Callable[[Any, bytes, FakeLink], Item]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One level at which a message can be spoiled: how to get at it, and how to put it back."""

    name: str
    open: Open
    seal: Seal
    fields: bool = True
    """It is JSON, with fields to be spoilt one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """One way by which one platform's messages come in."""

    name: str
    kind: type[Adapter]
    simulator: Callable[[], Simulator]
    layers: tuple[Layer, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    polls: str = ""
    """Part of the address of the long poll, where there is one."""
    hooked: bool = False
    """The simulator calls us."""
    visits: bool = False
    """We call ourselves."""
    at_once: int = 50
    """Spoilt messages played on one connection."""
    says: tuple[Mapping[str, Any], ...] = (
        {"text": "hello"},
        {"text": "hello all", "chat": "team", "group": True},
        {"text": "look", "image": PNG},
    )

    @property
    def repeats(self) -> bool:
        """What belongs to the greeting may come again: it is a frame like any other."""
        return not (self.polls or self.hooked)


# -- frames ---------------------------------------------------------------------------------------


def _bytes(item: Raw) -> bytes:
    return item.encode() if isinstance(item, str) else item


def _frame(item: Raw, raw: bytes, link: FakeLink) -> Raw:
    """A text frame, or a binary one for what can not be a text."""
    if isinstance(item, bytes):
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


FRAMES = Layer(name="frame", open=_bytes, seal=_frame)


def _due(item: Raw, raw: bytes, link: FakeLink) -> Raw:
    """Mattermost counts its events: one of another number is a loss, and rightly the end."""
    try:
        frame = json.loads(raw)
    except (ValueError, RecursionError):
        return _frame(item, raw, link)
    if isinstance(frame, dict) and type(frame.get("seq")) is int:
        raw = json.dumps(frame | {"seq": link.cursor["seq"]}).encode("utf-8", "surrogatepass")
    return _frame(item, raw, link)


def _payload(item: bytes) -> bytes:
    return Frame.decode(item).payload or b""


def _with_payload(item: bytes, raw: bytes, link: FakeLink) -> bytes:
    return dataclasses.replace(Frame.decode(item), payload=raw).encode()


def _headers(item: bytes) -> bytes:
    return json.dumps(dict(Frame.decode(item).headers)).encode()


def _with_headers(item: bytes, raw: bytes, link: FakeLink) -> bytes:
    try:
        found = json.loads(raw)
        pairs = tuple((str(k), str(v)) for k, v in found.items())
        return dataclasses.replace(Frame.decode(item), headers=pairs).encode()
    except (ValueError, AttributeError, RecursionError):
        return raw


# -- long polls -----------------------------------------------------------------------------------


def _update(item: HttpReply) -> bytes:
    updates = json.loads(item.body)["result"]
    return json.dumps(updates[0] if updates else {}).encode()


def _updates(item: HttpReply, raw: bytes, link: FakeLink) -> HttpReply:
    """The spoilt update between good ones; each poll brings new numbers."""
    start = link.cursor.get("offset", 0)
    start = start if 0 <= start < 2**31 else 0
    good = [json.dumps({"update_id": start + n, "message": None}).encode() for n in (0, 5)]
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        update = json.loads(raw)
        if json.loads(_update(item)).get("update_id") == update["update_id"]:
            raw = json.dumps(update | {"update_id": start + 3}).encode("utf-8", "surrogatepass")
    body = b'{"ok":true,"result":[%s,%s,%s]}' % (good[0], raw, good[1])
    return with_body(item, body)


def _event(item: HttpReply) -> bytes:
    for room in json.loads(item.body).get("rooms", {}).get("join", {}).values():
        for event in room["timeline"]["events"]:
            if event["type"] == "m.room.message":
                return json.dumps(event).encode()
    return b"{}"


def _batch(item: HttpReply, raw: bytes, link: FakeLink) -> HttpReply:
    """A sync whose one new event is the spoilt one."""
    rooms = json.loads(item.body).get("rooms", {}).get("join", {})
    room = next(iter(rooms), "!room:lab").encode()
    timeline = b'{"timeline":{"events":[%s],"limited":false}}' % raw
    return with_body(item, b'{"next_batch":"s9","rooms":{"join":{"%s":%s}}}' % (room, timeline))


def _body(item: HttpReply) -> bytes:
    return item.body


def _with_answer(item: HttpReply, raw: bytes, link: FakeLink) -> HttpReply:
    return with_body(item, raw)


# -- web hooks ------------------------------------------------------------------------------------

FEISHU_KEY = "3ncrypt-Holdfast"


def _posted(item: Call) -> bytes:
    return item.body


def _opened(item: Call) -> bytes:
    return Hook(FEISHU_KEY, "").decrypt(item.body)


def telegram_call(body: bytes, age: float = 0.0) -> Call:
    """A post with the secret that was told to Telegram."""
    calls = [item for item in taped("telegram-hook")[0].items if isinstance(item, Call)]
    name = "x-telegram-bot-api-secret-token"
    return Call(body, {name: calls[0].headers[name]})


def qq_call(body: bytes, age: float = 0.0) -> Call:
    """A callback signed so many seconds ago."""
    sim = QQBotSimulator()
    headers = callback_headers(sim.app_id, sim.secret, str(int(time.time() - age)), body)
    proofs = {name.lower(): value for name, value in headers.items() if "Signature" in name}
    return Call(body, proofs)


def feishu_call(body: bytes, age: float = 0.0) -> Call:
    """A web hook signed so many seconds ago."""
    moment, nonce = str(int(time.time() - age)), secrets.token_hex(8)
    right = signature(FEISHU_KEY, moment, nonce, body)
    return Call(body, dict(zip(map(str.lower, SIGNED), (moment, nonce, right), strict=True)))


def feishu_event(body: bytes) -> Call:
    """An event as Feishu encrypts and signs it."""
    return feishu_call(json.dumps({"encrypt": encrypt(FEISHU_KEY, body)}).encode())


def whatsapp_call(body: bytes, age: float = 0.0) -> Call:
    """A signed post."""
    right = hmac.new(WhatsAppSimulator().app_secret.encode(), body, hashlib.sha256).hexdigest()
    return Call(body, {"x-hub-signature-256": f"sha256={right}"})


def _sealed(call: Callable[[bytes], Call]) -> Seal:
    return lambda item, raw, link: call(raw)


# -- the roads ------------------------------------------------------------------------------------

ROADS = (
    Road(name="dingtalk", kind=DingTalk, simulator=DingTalkSimulator, layers=(FRAMES,)),
    Road(
        name="feishu",
        kind=Feishu,
        simulator=FeishuSimulator,
        layers=(
            Layer(name="payload", open=_payload, seal=_with_payload),
            Layer(name="headers", open=_headers, seal=_with_headers),
            dataclasses.replace(FRAMES, fields=False),
        ),
    ),
    Road(name="slack", kind=Slack, simulator=SlackSimulator, layers=(FRAMES,)),
    Road(
        name="mattermost",
        kind=Mattermost,
        simulator=MattermostSimulator,
        layers=(Layer(name="event", open=_bytes, seal=_due),),
    ),
    Road(name="discord", kind=Discord, simulator=DiscordSimulator, layers=(FRAMES,)),
    Road(name="qqbot", kind=QQBot, simulator=QQBotSimulator, layers=(FRAMES,)),
    Road(
        name="telegram",
        kind=Telegram,
        simulator=TelegramSimulator,
        polls="/getUpdates",
        layers=(
            Layer(name="update", open=_update, seal=_updates),
            Layer(name="answer", open=_body, seal=_with_answer),
        ),
    ),
    Road(
        name="matrix",
        kind=Matrix,
        simulator=MatrixSimulator,
        polls="/v3/sync",
        layers=(
            Layer(name="event", open=_event, seal=_batch),
            Layer(name="answer", open=_body, seal=_with_answer),
        ),
    ),
    Road(
        name="webchat",
        kind=WebChat,
        simulator=WebChatSimulator,
        hooked=True,
        visits=True,
        at_once=8,  # more is a flood, and the visitor is sent away
        layers=(FRAMES,),
        says=(
            {"text": "hello"},
            {"text": "an answer", "reply_to": "k-1"},
            {"text": "look", "files": (("a.png", "image/png", PNG),)},
        ),
    ),
    Road(
        name="telegram-hook",
        kind=Telegram,
        simulator=TelegramSimulator,
        settings={"mode": "webhook"},
        hooked=True,
        layers=(Layer(name="post", open=_posted, seal=_sealed(telegram_call)),),
    ),
    Road(
        name="qqbot-hook",
        kind=QQBot,
        simulator=QQBotSimulator,
        settings={"mode": "webhook"},
        hooked=True,
        layers=(Layer(name="post", open=_posted, seal=_sealed(qq_call)),),
    ),
    Road(
        name="feishu-hook",
        kind=Feishu,
        simulator=FeishuSimulator,
        settings={"mode": "webhook", "encrypt_key": FEISHU_KEY},
        hooked=True,
        layers=(
            Layer(name="event", open=_opened, seal=_sealed(feishu_event)),
            Layer(name="body", open=_posted, seal=_sealed(feishu_call)),
        ),
    ),
    Road(
        name="whatsapp",
        kind=WhatsApp,
        simulator=WhatsAppSimulator,
        hooked=True,
        layers=(Layer(name="post", open=_posted, seal=_sealed(whatsapp_call)),),
    ),
)


# -- taping ---------------------------------------------------------------------------------------


@functools.cache
def taped(name: str) -> tuple[Tape, dict[str, Any]]:
    """Real traffic of a road, and the account it was for."""
    road = next(road for road in ROADS if road.name == name)
    return run_virtual(_taped(road))


async def _taped(road: Road) -> tuple[Tape, dict[str, Any]]:
    hooks, tape = HookServer("127.0.0.1", 0), Tape()
    await hooks.start()
    port = TapingPort(tape, hooks, road.polls)
    tape.hook_url = f"http://127.0.0.1:{hooks.port}" if road.hooked else ""
    async with road.simulator() as sim, asyncio.timeout(120):
        config = sim.account() | road.settings
        adapter = make_adapter(road.kind, config, AccountTools(port.client, tape.hook_url or None))
        link = FakeLink(port, tape)
        running = asyncio.create_task(adapter.run(link))
        try:
            await _online(sim, link, road, tape)
            for said in road.says:
                await _said(sim, said, link)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await port.close()
            await hooks.stop()
    if road.visits:
        tape.greeting = next(n for n, item in enumerate(tape.items) if isinstance(item, str)) + 1
    return tape, config


async def _online(sim: Any, link: FakeLink, road: Road, tape: Tape) -> None:
    while not link.online:
        await asyncio.sleep(0.1)
        if road.kind is WhatsApp:
            await called(sim, tape.hook_url + tape.hook_path)
    await called(sim, tape.hook_url + tape.hook_path)


async def called(sim: Any, url: str) -> None:
    """Tell a platform where to call us, where it is told that by hand."""
    with contextlib.suppress(RuntimeError):  # it does not answer yet
        match sim:
            case WebChatSimulator():
                await sim.open_page(url)
            case QQBotSimulator() | FeishuSimulator() | WhatsAppSimulator() if url:
                await sim.set_webhook(url)


async def _said(sim: Any, said: Mapping[str, Any], link: FakeLink) -> None:
    before = len(link.delivered)
    more = dict(said)
    sim.say(more.pop("text"), **more)
    while len(link.delivered) == before:  # noqa: ASYNC110 - the deadline is the caller's
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # what belongs to it comes along
