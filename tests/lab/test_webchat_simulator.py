"""The simulated browsers against a chat page that is written here, by the protocol's words."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from holdfast.lab.simulator import UnknownFault
from holdfast.lab.simulators.webchat import PageRefused, WebChatSimulator

PING = {"op": "ping"}


class Gateway:
    """A chat page that notes what browsers say, and answers as it is told."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.origins: list[str] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.deaf = self.mute = False
        """Deaf: nothing is answered at all. Mute: nothing said is acknowledged."""
        self.refuse: str | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/chat", self._answer)
        app.router.add_get("/other", self._other)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def say(self, **frame: Any) -> None:
        """A frame to every open socket."""
        for ws in self.sockets:
            await ws.send_json(frame)

    def said(self, op: str) -> list[Any]:
        """Frames of a kind, in order."""
        return [f for f in self.frames if isinstance(f, dict) and f.get("op") == op]

    async def _other(self, request: web.Request) -> web.Response:
        return _text("not here")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "Upgrade" not in request.headers:
            return _text("<!doctype html><html></html>")
        self.origins.append(request.headers["Origin"])
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        self.sockets.append(ws)
        async for message in ws:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.frames.append(message.data)
                continue
            try:
                frame = json.loads(message.data)
            except ValueError:
                frame = message.data
            self.frames.append(frame)
            if not self.deaf and isinstance(frame, dict):
                await self._reply(ws, frame)
        self.sockets.remove(ws)
        return ws

    async def _reply(self, ws: web.WebSocketResponse, frame: dict[str, Any]) -> None:
        match frame["op"]:
            case "hello" if self.refuse is not None:
                await ws.send_json({"op": "refused", "what": self.refuse})
                await ws.close()
            case "hello":
                await ws.send_json({"op": "welcome", "title": "T", "bot": "B"})
            case "ping":
                await ws.send_json({"op": "pong"})
            case "say" if not self.mute:
                await ws.send_json({"op": "stored", "id": frame["id"]})


def _text(body: str) -> web.Response:
    return web.Response(text=body, content_type="text/html")


async def opened(gateway: Gateway, sim: WebChatSimulator) -> None:
    """A visitor is let in."""
    await sim.open_page(f"{gateway.base}/chat")
    before = sim.count("welcome")
    if not sim.visitor("alice").tabs:
        sim.open_tab()
    await sim.until(lambda: sim.count("welcome") == before + 1)


async def test_a_visitor_says_hello_and_speaks() -> None:
    async with Gateway() as gateway, WebChatSimulator(token="t") as sim:
        await opened(gateway, sim)
        key = sim.say("hi", files=[("a", "image/png", b"\x89")], reply_to="k")
        await sim.until(lambda: sim.count("stored") == 1)
        (hello,) = gateway.said("hello")
        assert (hello["visitor"], hello["token"], hello["seen"]) == (
            sim.visitor("alice").id,
            "t",
            [],
        )
        (said,) = gateway.said("say")
        assert (said["id"], said["text"], said["reply_to"]) == (key, "hi", "k")
        assert said["files"] == [{"name": "a", "mime": "image/png", "data": "iQ=="}]
        assert gateway.origins == [gateway.base]
        assert (sim.said[0].id, sim.said[0].chat) == (key, "alice")


async def test_a_message_is_shown_once_and_confirmed_each_time() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await opened(gateway, sim)
        data = base64.b64encode(b"abc").decode()
        files = [{"name": "f", "mime": "x/y", "data": data}]
        for _ in range(2):
            await gateway.say(op="message", id="k", text="hi", files=files, edit_of="e")
        await sim.until(lambda: sim.count("repeat") == 1)
        (heard,) = sim.heard
        assert (heard.id, heard.chat, heard.text, heard.edit_of) == ("k", "alice", "hi", "e")
        assert (heard.media, heard.data) == ("f", b"abc")
        await asyncio.sleep(1)
        assert gateway.said("seen") == [{"op": "seen", "id": "k"}] * 2
        await sim.vanish()
        await opened(gateway, sim)
        assert gateway.said("hello")[-1]["seen"] == ["k"]


async def test_what_was_not_stored_is_said_again_in_order() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        gateway.mute = True
        await opened(gateway, sim)
        sim.say("one")
        sim.say("two")
        await asyncio.sleep(1)
        assert [say["text"] for say in gateway.said("say")] == ["one"]
        gateway.mute = False
        await sim.vanish()
        await opened(gateway, sim)
        await sim.until(lambda: sim.count("stored") == 2)
        assert [say["text"] for say in gateway.said("say")] == ["one", "one", "two"]


async def test_listening_is_the_truth() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        assert not sim.listening()
        await opened(gateway, sim)
        assert sim.listening()
        await asyncio.sleep(60)
        assert sim.listening()
        assert len(gateway.said("ping")) in (11, 12)
        gateway.deaf = True
        await asyncio.sleep(15)
        assert not sim.listening()
        assert sim.count("dial-failed") == 1
        gateway.deaf = False
        await sim.until(sim.listening)
        sim.freeze()
        assert not sim.listening()


async def test_a_frozen_visitor_leaves_his_socket_open_and_silent() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await opened(gateway, sim)
        sim.freeze()
        pings = len(gateway.said("ping"))
        await gateway.say(op="message", id="k", text="hi")
        await asyncio.sleep(100)
        assert len(gateway.said("ping")) == pings
        assert (len(gateway.sockets), sim.heard) == (1, [])


async def test_leaving_says_so_and_vanishing_does_not() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        for leave, code in ((sim.leave, 1000), (sim.vanish, None)):
            await opened(gateway, sim)
            (socket,) = gateway.sockets
            await leave()
            await asyncio.sleep(0.1)
            assert gateway.sockets == []
            assert (socket.close_code == 1000) == (code == 1000)
        assert not sim.listening()


async def test_who_is_refused_does_not_come_again_but_a_flood_does() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await sim.open_page(f"{gateway.base}/chat")
        for why, hellos in (("token", 1), ("flood", 4)):
            gateway.refuse, gateway.frames = why, []
            tab = sim.open_tab()
            await asyncio.sleep(5)
            assert len(gateway.said("hello")) == hellos
            assert tab.refused == (None if why == "flood" else why)
            await sim.vanish()


async def test_the_page_must_be_one() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        sim.say("kept until there is a page")
        for path in ("/other", "/nowhere"):
            with pytest.raises(PageRefused, match="answered"):
                await sim.open_page(gateway.base + path)
        await sim.open_page(f"{gateway.base}/chat")
        await sim.until(lambda: sim.count("stored") == 1)


async def test_the_page_can_be_told_from_another_process() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim, aiohttp.ClientSession() as caller:
        for path, status in (("/other", 502), ("/chat", 200)):
            url = {"url": gateway.base + path}
            async with caller.post(f"{sim.url}/open", json=url) as reply:
                assert reply.status == status
        async with caller.post(f"{sim.url}/_lab/say", json={"text": "hi"}) as reply:
            key = (await reply.json())["id"]
        await sim.until(lambda: sim.count("stored") == 1)
        assert gateway.said("say")[0]["id"] == key


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("dup_say", {"op": "say", "text": "hi"}),
        ("bad_frame", "{nonsense"),
        ("binary_frame", b"\x00\xff"),
        ("oversize_text", {"op": "say", "id": "long"}),
        ("oversize_files", {"op": "say", "id": "big"}),
        ("oversize_frame", {"op": "say", "id": "huge"}),
        ("flood", PING),
    ],
)
async def test_faults_that_come_with_a_message(fault: str, first: Any) -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await opened(gateway, sim)
        gateway.frames.clear()
        sim.faults.arm(fault)
        sim.say("hi")
        sim.say("well again")
        await sim.until(lambda: not sim.visitor("alice").pending)
        got = gateway.frames[0]
        assert got == first or all(got[key] == value for key, value in first.items())
        texts = [say["text"] for say in gateway.said("say") if say["id"] not in ("long", "huge")]
        assert texts[-1] == "well again"
        assert "hi" in texts
        assert texts.count("hi") == (2 if fault == "dup_say" else 1)
        assert len(gateway.said("ping")) == (200 if fault == "flood" else 0)


@pytest.mark.parametrize(
    ("fault", "hellos"), [("wrong_token", 1), ("no_hello", 0), ("bad_hello", 0)]
)
async def test_faults_of_the_hello(fault: str, hellos: int) -> None:
    async with Gateway() as gateway, WebChatSimulator(token="t") as sim:
        await sim.open_page(f"{gateway.base}/chat")
        sim.faults.arm(fault)
        sim.open_tab()
        await asyncio.sleep(1)
        assert len(gateway.said("hello")) == hellos
        assert all(hello["token"] != "t" for hello in gateway.said("hello"))
        assert gateway.frames or fault == "no_hello"


async def test_a_forged_origin_is_another_site() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        sim.faults.arm("forged_origin")
        await opened(gateway, sim)
        assert gateway.origins == ["https://evil.example"]


@pytest.mark.parametrize(
    ("fault", "sockets"), [("mute_seen", 1), ("vanish_before_seen", 0), ("half_open", 1)]
)
async def test_faults_of_the_confirmation(fault: str, sockets: int) -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await opened(gateway, sim)
        sim.faults.arm(fault)
        await gateway.say(op="message", id="k", text="hi")
        await asyncio.sleep(0.2)
        assert (len(sim.heard), gateway.said("seen"), len(gateway.sockets)) == (1, [], sockets)
        assert sim.listening() == (fault == "mute_seen")


async def test_an_older_memory_names_nothing_as_seen() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await opened(gateway, sim)
        await gateway.say(op="message", id="k", text="hi")
        await sim.until(lambda: sim.count("shown") == 1)
        sim.faults.arm("forgets_seen")
        sim.open_tab()
        await sim.until(lambda: sim.count("welcome") == 2)
        assert gateway.said("hello")[-1]["seen"] == []


async def test_unknown_faults_and_groups_are_refused() -> None:
    async with WebChatSimulator() as sim:
        with pytest.raises(UnknownFault):
            sim.faults.arm("nonsense")
        with pytest.raises(ValueError, match="no groups"):
            sim.say("hi", group=True)
        assert sim.account() == {"platform": "webchat", "path": "/chat", "title": "Lab"}


async def test_a_visitor_who_misses_the_confirmation_says_it_again() -> None:
    async with Gateway() as gateway, WebChatSimulator() as sim:
        await opened(gateway, sim)
        sim.faults.arm("vanish_before_stored")
        sim.say("hello")
        await sim.until(lambda: sim.count("stored") == 1)
        assert [said["text"] for said in gateway.said("say")] == ["hello", "hello"]
