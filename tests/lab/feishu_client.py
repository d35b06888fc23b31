"""The plainest possible Feishu client, for the tests of the simulator."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from yarl import URL

from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.feishu_frames import Frame

ENDPOINT = "/callback/ws/endpoint"
TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"
IM = "/open-apis/im/v1"


class Raw:
    """A client without any manners of its own."""

    def __init__(self, sim: FeishuSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http, self.token = sim, http, ""

    async def call(
        self, path: str, body: Any = None, *, method: str = "POST", **options: Any
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        if body is not None:
            options["json"] = body
        url = self.sim.url + path
        async with self.http.request(method, url, headers=headers, **options) as response:
            self.headers = response.headers
            if "json" in response.content_type:
                return response.status, await response.json()
            return response.status, await response.read()

    async def login(self) -> Any:
        body = {"app_id": self.sim.app_id, "app_secret": self.sim.app_secret}
        _, answer = await self.call(TOKEN, body)
        self.token = answer.get("tenant_access_token", self.token)
        return answer

    async def endpoint(self, **options: Any) -> tuple[int, Any]:
        body = {"AppID": self.sim.app_id, "AppSecret": self.sim.app_secret}
        return await self.call(ENDPOINT, body, **options)

    async def live(self) -> Socket:
        known = self.sim.count("link-open")
        _, answer = await self.endpoint()
        ws = await self.http.ws_connect(answer["data"]["URL"], autoping=False)
        await self.sim.until(lambda: self.sim.count("link-open") > known)
        return Socket(ws, int(URL(answer["data"]["URL"]).query["service_id"]))

    async def send(self, text: str = "hi", **more: Any) -> tuple[int, Any]:
        chat = more.pop("chat", None) or self.sim.know("alice").id
        body = {"receive_id": chat, "msg_type": "text", "content": json.dumps({"text": text})}
        status, answer = await self.call(
            f"{IM}/messages?receive_id_type={more.pop('kind', 'chat_id')}", body | more
        )
        return status, answer

    async def reply(self, key: str, text: str = "re", **more: Any) -> tuple[int, Any]:
        body = {"msg_type": "text", "content": json.dumps({"text": text})} | more
        return await self.call(f"{IM}/messages/{key}/reply", body)


class Socket:
    """One long connection of the raw client."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, service: int) -> None:
        self.ws, self.service = ws, service

    async def next(self, timeout: float = 2.0) -> Any:
        """The next frame, a text, or the close code; TimeoutError when nothing comes."""
        message = await self.ws.receive(timeout=timeout)
        return Frame.decode(message.data) if isinstance(message.data, bytes) else message.data

    async def event(self) -> Any:
        return (await self.next()).json()

    async def put(self, frame: Frame) -> None:
        await self.ws.send_bytes(frame.encode())

    async def ack(self, frame: Frame, code: int = 200, data: Any = None, **changed: Any) -> None:
        answer: dict[str, Any] = {"code": code}
        if data is not None:
            answer["data"] = base64.b64encode(json.dumps(data).encode()).decode()
        fields = {name: getattr(frame, name) for name in Frame.__slots__}
        fields |= {"payload": json.dumps(answer).encode()}
        fields["headers"] = (*frame.headers, ("biz_rt", "-14"))
        await self.put(Frame(**(fields | changed)))


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[FeishuSimulator, Raw]]:
    async with aiohttp.ClientSession() as http, FeishuSimulator() as sim:
        yield sim, Raw(sim, http)


def facts(sim: FeishuSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]
