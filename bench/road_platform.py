"""The platform and the people at both ends of `bench.road`, in a process of their own.

    python -m bench.road_platform

Speaks what a Mattermost server says to one bot (hello, pong, ``posted`` on the WebSocket; ``POST
/posts``), and nothing it could do without: no router, no checks. So it leaves the machine to what
is measured. Prints its URL; ``POST /load`` with a `Load` lets people write and answers a `Result`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections import defaultdict, deque

import msgspec
from aiohttp import WSMsgType, web

from bench.idle import Footprint

BOT = "b" * 26
PERSON = "p" * 26
"""Ids of users; all of Mattermost's ids are 26 letters and digits."""

CHATS = 256
"""Channels between the person and the bot. Performance.md's floor has as many in flight."""

WARM_UP = 0.5
"""Seconds of load before the clock of a measurement starts."""

PATIENCE = 20.0
"""Seconds the last answers may take; one that takes longer is lost, and so is the benchmark."""

TEXT = "x" * 120
"""Makes a frame of about 500 bytes; half of it is Mattermost's own envelope."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """People who write."""

    seconds: float
    """How long is measured, after `WARM_UP`."""
    pid: int
    """The process that answers, whose CPU clock is read."""
    rate: float | None = None
    """Messages a second, on time whatever is answered; None: every chat writes when answered."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a load."""

    answered: int
    """Messages answered in the measured time."""
    seconds: float
    cpu: float
    """Seconds of CPU the answering process spent in the measured time, all its threads."""
    p50_ms: float
    p99_ms: float
    """From the frame written to the answer's request read."""
    asked: int
    """Messages of the whole load, warm-up and drain included. All were answered."""


class Answer(msgspec.Struct):
    """What is read of a bot's post."""

    channel_id: str
    message: str


class Platform:
    """The server, its one bot and its one person in `CHATS` channels."""

    def __init__(self) -> None:
        self.bot: web.WebSocketResponse | None = None
        self._seq = itertools.count(1)
        """Of the events on the newest socket; the bot reconnects when one is missing."""
        self._receipts = itertools.count(1)
        self._said: defaultdict[str, deque[float]] = defaultdict(deque)
        """Channel -> when each message was written that waits for its answer there."""
        self._waits: list[float] = []
        """Seconds each answer took."""
        self._news = asyncio.Event()
        self._asked = self._answered = 0
        self._again = False
        self._answer = msgspec.json.Decoder(Answer)

    # -- HTTP -------------------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        match request.path.removeprefix("/api/v4"):
            case "/posts":
                return await self._post(request)
            case "/websocket":
                return await self._socket(request)
            case "/users/me":
                return web.json_response({"id": BOT, "username": "bot", "is_bot": True})
            case "/users/me/channels" | "/users/me/teams":
                return web.json_response([])
            case "/load":
                load = msgspec.json.decode(await request.read(), type=Load)
                return web.Response(body=msgspec.json.encode(await self.load(load)))
            case _:
                return web.Response(status=404)

    async def _post(self, request: web.BaseRequest) -> web.Response:
        post = self._answer.decode(await request.read())
        self._waits.append(time.perf_counter() - self._said[post.channel_id].popleft())
        self._answered += 1
        self._news.set()
        if self._again:
            await self._say(post.channel_id)
        body = msgspec.json.encode({"id": f"{next(self._receipts):026d}"})
        return web.Response(body=body, status=201, content_type="application/json")

    async def _socket(self, request: web.BaseRequest) -> web.StreamResponse:
        bot = web.WebSocketResponse(compress=False)
        await bot.prepare(request)
        hello = {"event": "hello", "data": {"connection_id": "c" * 26}, "seq": 0}
        await bot.send_json(hello)
        self._seq = itertools.count(1)
        self.bot = bot
        async for message in bot:
            if message.type is WSMsgType.TEXT:
                data = {"text": "pong", "server_time": int(time.time() * 1000)}
                seq = json.loads(message.data)["seq"]
                await bot.send_json({"status": "OK", "data": data, "seq_reply": seq})
        return bot

    # -- people -----------------------------------------------------------------------------------

    async def load(self, load: Load) -> Result:
        """Let people write, and measure the answers."""
        chats = [f"{number:026d}" for number in range(CHATS)]
        asked = self._asked
        if load.rate is None:
            self._again = True
            for chat in chats:
                await self._say(chat)
            writing = None
        else:
            writing = asyncio.create_task(self._steadily(chats, load.rate))
        await asyncio.sleep(WARM_UP)
        result = await self._measured(load)
        self._again = False
        if writing is not None:
            writing.cancel()
            await asyncio.wait([writing])
        await self._drained()
        return msgspec.structs.replace(result, asked=self._asked - asked)

    async def _measured(self, load: Load) -> Result:
        self._waits.clear()
        cpu, began = Footprint.of(load.pid).cpu, time.perf_counter()
        await asyncio.sleep(load.seconds)
        seconds, cpu = time.perf_counter() - began, Footprint.of(load.pid).cpu - cpu
        waits = self._waits.copy()
        cuts = statistics.quantiles(waits, n=100)
        return Result(
            answered=len(waits),
            seconds=seconds,
            cpu=cpu,
            p50_ms=cuts[49] * 1e3,
            p99_ms=cuts[98] * 1e3,
            asked=0,
        )

    async def _steadily(self, chats: list[str], rate: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in itertools.count():
            await asyncio.sleep(began + number / rate - loop.time())
            await self._say(chats[number % len(chats)])

    async def _drained(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self._answered < self._asked:
                self._news.clear()
                await self._news.wait()

    async def _say(self, chat: str) -> None:
        assert self.bot is not None
        self._asked += 1
        seq = next(self._seq)
        now = int(time.time() * 1000)
        post = {
            "id": f"{now:013d}{seq:013d}",
            "create_at": now,
            "update_at": now,
            "edit_at": 0,
            "delete_at": 0,
            "user_id": PERSON,
            "channel_id": chat,
            "root_id": "",
            "message": TEXT,
            "type": "",
            "props": {},
        }
        data = {
            "channel_type": "D",
            "sender_name": "@person",
            "mentions": "[]",
            "post": msgspec.json.encode(post).decode(),
        }
        frame = msgspec.json.encode({"event": "posted", "data": data, "seq": seq}).decode()
        self._said[chat].append(time.perf_counter())
        await self.bot.send_str(frame)


async def serve() -> None:
    """Listen until standard input ends."""
    platform = Platform()
    runner = web.ServerRunner(web.Server(platform.handle, access_log=None), shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def loop_factory() -> asyncio.AbstractEventLoop:
    """uvloop's loop when it is installed, as `holdfast run` takes it."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve())
