"""The plainest possible QQ bot, for the tests of the simulator."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.qqbot_rules import Intent

INTENTS = int(Intent.GROUP_AND_C2C | Intent.INTERACTION)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (3).to_bytes(4, "big") + (2).to_bytes(4, "big")


class Raw:
    """A client without any manners of its own."""

    def __init__(self, sim: QQBotSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http, self.token = sim, http, ""
        self.sockets: list[Socket] = []

    async def fetch_token(self, secret: str | None = None, app: str | None = None) -> Any:
        body = {"appId": app or self.sim.app_id, "clientSecret": secret or self.sim.secret}
        async with self.http.post(self.sim.account()["token_url"], json=body) as response:
            answer = await response.json() if response.status == 200 else response.status
        if isinstance(answer, dict):
            self.token = answer.get("access_token", self.token)
        return answer

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"QQBot {self.token}"}
        url = self.sim.url + path
        async with self.http.request(method, url, json=body, headers=headers) as response:
            if response.status == 204:
                return 204, None
            assert response.headers["Content-Type"] == "application/json"
            return response.status, await response.json()

    async def send(self, openid: str, group: bool = False, **body: Any) -> tuple[int, Any]:
        scene = "groups" if group else "users"
        path = f"/v2/{scene}/{openid}/messages"
        status, answer = await self.call("POST", path, {"msg_type": 0, "content": "hi"} | body)
        return status, answer.get("code", answer)

    async def connect(self, host: str | None = None) -> Socket:
        """A socket that nothing was sent on; ``host`` is the Host header of a relay's client."""
        headers = {"Host": host} if host else None
        ws = await self.http.ws_connect(self.sim.url + "/websocket", headers=headers)
        self.sockets.append(Socket(ws, self))
        return self.sockets[-1]

    async def live(self, host: str | None = None) -> Socket:
        """A socket that has been identified."""
        if not self.token:
            await self.fetch_token()
        link = await self.connect(host)
        assert (await link.next())["op"] == 10
        await link.identify()
        ready = await link.next()
        assert ready["t"] == "READY", ready
        link.session = ready["d"]["session_id"]
        return link


class Socket:
    """One gateway socket of the raw client."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, raw: Raw) -> None:
        self.ws, self.raw, self.session = ws, raw, ""

    async def put(self, op: int, d: Any = None) -> None:
        await self.ws.send_json({"op": op, "d": d})

    async def identify(self, **changed: Any) -> None:
        d = {"token": f"QQBot {self.raw.token}", "intents": INTENTS, "shard": [0, 1]}
        await self.put(2, d | changed)

    async def resume(self, session: str, seq: int) -> None:
        d = {"token": f"QQBot {self.raw.token}", "session_id": session, "seq": seq}
        await self.put(6, d)

    async def next(self, timeout: float = 5.0) -> Any:
        """The next frame, or ``close code`` as a number; TimeoutError when nothing comes."""
        message = await self.ws.receive(timeout=timeout)
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else message.data

    async def until_resumed(self) -> list[Any]:
        frames = [await self.next()]
        while frames[-1]["t"] != "RESUMED":
            frames.append(await self.next())
        return frames


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[QQBotSimulator, Raw]]:
    async with aiohttp.ClientSession() as http:
        async with QQBotSimulator() as sim:
            raw = Raw(sim, http)
            yield sim, raw
        for link in raw.sockets:
            await link.ws.close()


async def resumed(
    raw: Raw, session: str, seq: int, host: str | None = None
) -> tuple[Socket, list[Any]]:
    link = await raw.connect(host)
    await link.next()
    await link.resume(session, seq)
    return link, await link.until_resumed()


def facts(sim: QQBotSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]
