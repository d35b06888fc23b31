"""What the bot does over HTTP on the simulated DingTalk platform: sends, files, recalls."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators.dingtalk_messages import Chat, Draft, read_openapi, read_webhook
from holdfast.lab.simulators.dingtalk_platform import OpenPlatform, Work, origin, read_json
from holdfast.lab.simulators.dingtalk_rules import Complaint, Refusal, millis

MAX_USERS = 20
"""Recipients of one private OpenAPI send (OpenAPI page)."""

UPLOAD_KINDS = frozenset({"image", "voice", "video", "file"})

Act = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Session:
    """What a sessionWebhook stands for: a chat, until a time of the simulator's clock."""

    chat: Chat
    expires: float


class ChatCalls:
    """Everything the bot does in chats but cards, and the files both sides have sent.

    Faults, settings and the truth are those of the platform ``lab``.
    """

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self._sessions: dict[str, Session] = {}
        self._files: dict[str, tuple[str, bytes]] = {}
        self._sent: dict[str, Chat] = {}
        self._numbers = 0

    def table(self) -> list[tuple[str, str, Work]]:
        """Method, path and handler of every OpenAPI call."""
        robot = "/v1.0/robot"
        return [
            ("POST", f"{robot}/groupMessages/send", self._send(self._to_group)),
            ("POST", f"{robot}/oToMessages/batchSend", self._send(self._to_users)),
            ("POST", f"{robot}/groupMessages/recall", self._recall),
            ("POST", f"{robot}/otoMessages/batchRecall", self._recall),
            ("POST", f"{robot}/messageFiles/download", self._download),
        ]

    # -- files --------------------------------------------------------------------------------

    def store(self, name: str, data: bytes) -> str:
        """Keep a user's file. Returns its downloadCode."""
        code = secrets.token_urlsafe(24)
        self._files[code] = name, data
        return code

    async def _download(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        self._check_robot(body)
        code = str(body.get("downloadCode"))
        if code not in self._files:
            raise Refusal("invalidParameter.param.invalid", "downloadCode invalid")
        return web.json_response({"downloadUrl": f"{origin(request)}/_files/{code}"})

    async def file(self, request: web.Request) -> web.Response:
        """The plain GET of a downloadUrl."""
        name, data = self._files.get(request.match_info["code"], ("", None))
        if data is None:
            return web.Response(status=404)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return web.Response(body=data, content_type="application/octet-stream", headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        """``/media/upload`` of the old API; the kind comes in the query or in the form."""
        self._lab.complain("upload_error", Complaint(-1, "系统繁忙"))
        if not self._lab.tokens.valid(request.query.get("access_token", ""), self._lab.now()):
            raise Complaint(40014, "不合法的access_token")
        form = await request.post()
        kind, media = request.query.get("type", form.get("type")), form.get("media")
        if kind not in UPLOAD_KINDS or not isinstance(media, web.FileField):
            raise Complaint(40035, "不合法的参数")
        media_id = f"@{secrets.token_urlsafe(24)}"
        self._files[media_id] = media.filename, media.file.read()
        answer = {"media_id": media_id, "type": kind, "created_at": millis() // 1000}
        return web.json_response({"errcode": 0, "errmsg": "ok"} | answer)

    # -- sessionWebhook -----------------------------------------------------------------------

    def open_session(self, chat: Chat, life: float) -> str:
        """A sessionWebhook of a chat, as a path, valid for ``life`` seconds."""
        key = secrets.token_hex(16)
        self._sessions[key] = Session(chat, self._lab.now() + life)
        return f"/robot/sendBySession?session={key}"

    async def webhook(self, request: web.Request) -> web.Response:
        """``/robot/sendBySession``: no token; errors come inside HTTP 200; no id is returned."""
        self._play_send_faults()
        self._lab.complain("webhook_error", Complaint(-1, "系统繁忙"))
        self._lab.complain("webhook_too_fast", Complaint(130101, "send too fast, exceed 20 times"))
        self._lab.complain("webhook_gone", Complaint(300001, "session 不存在"))
        session = self._sessions.get(request.query.get("session", ""))
        if session is None or self._lab.now() >= session.expires:
            raise Complaint(300001, "session 不存在")
        body = await read_json(request)
        draft = read_webhook(body)
        self._deliver([session.chat], draft, body)
        return await self._confirm(request, {"errcode": 0, "errmsg": "ok"})

    # -- OpenAPI sends ------------------------------------------------------------------------

    def _send(self, act: Act) -> Work:
        async def handle(request: web.Request) -> web.Response:
            self._play_send_faults()
            refusal = Refusal("invalidParameter.param.invalid", "refused by fault")
            self._lab.play("send_refused", refusal)
            body = await read_json(request)
            self._check_robot(body)
            return await self._confirm(request, act(body))

        return handle

    def _to_group(self, body: dict[str, Any]) -> dict[str, Any]:
        if not body.get("openConversationId"):
            raise Refusal("miss.openConversationId", "openConversationId is mandatory")
        chat = self._lab.group_of(body["openConversationId"])
        if chat is None:
            raise Refusal("invalid.openConversationId", "openConversationId is invalid")
        key = self._deliver([chat], read_openapi(body), body)
        return {"processQueryKey": key}

    def _to_users(self, body: dict[str, Any]) -> dict[str, Any]:
        users = body.get("userIds")
        if not isinstance(users, list) or not users:
            raise Refusal("invalidParameter.userIds.empty", "userIds is mandatory")
        if len(users) > MAX_USERS:
            raise Refusal("invalidParameter.userIds.overMax", "too many userIds")
        draft = read_openapi(body)
        # HTTP 200 does not mean delivered: the three lists tell who was left out, and why.
        limited = users if self._lab.faults.take("send_flow_controlled") is not None else []
        chats = {user: self._lab.user_of(user) for user in users}
        known = [chat for user, chat in chats.items() if chat and user not in limited]
        return {
            "processQueryKey": self._deliver(known, draft, body),
            "invalidStaffIdList": [user for user, chat in chats.items() if chat is None],
            "flowControlledStaffIdList": limited,
            "filteredStaffIdList": [],
        }

    def _check_robot(self, body: Mapping[str, Any]) -> None:
        if not body.get("robotCode"):
            raise Refusal("invalidParameter.robotCode.empty", "robotCode is mandatory")
        if body["robotCode"] != self._lab.client_id:
            raise Refusal("invalidParameter.robotCode.auth", "robotCode is not of this app")

    async def _recall(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        self._check_robot(body)
        failed, done = {}, []
        for key in body.get("processQueryKeys") or []:
            if (chat := self._sent.pop(key, None)) is None:
                failed[key] = "message not found"
            else:
                done.append(key)
                self._lab.note("recalled", id=key, chat=chat.name)
        return web.json_response({"successResult": done, "failedResult": failed})

    # -- delivery -----------------------------------------------------------------------------

    def _play_send_faults(self) -> None:
        self._lab.play("send_429", Refusal("Throttling", "too many requests", status=429))
        self._lab.play("send_500", Refusal("system.busy", "system busy", status=500))

    def _deliver(self, chats: list[Chat], draft: Draft, body: dict[str, Any]) -> str:
        """Let users hear a draft. Returns its processQueryKey, which webhooks do not tell."""
        self._numbers += 1
        key = f"pqk{self._numbers}="
        if not chats or self._lab.faults.take("send_swallowed") is not None:
            return key
        self._lab.accepted.append(body)
        for chat in chats:
            self._sent[key] = chat
            heard = Heard(id=key, chat=chat.name, text=draft.text.strip(), at=self._lab.now())
            self._lab.hear(replace(heard, **self._media(draft)) if draft.media else heard)
        return key

    def _media(self, draft: Draft) -> dict[str, Any]:
        """File name and bytes of uploaded media; an address elsewhere is kept as its name."""
        name, data = self._files.get(str(draft.media), (str(draft.media), b""))
        return {"media": draft.name or name, "data": data}

    async def _confirm(self, request: web.Request, body: Mapping[str, Any]) -> web.Response:
        if (fault := self._lab.faults.take("send_slow_but_delivered")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if self._lab.faults.take("send_answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        return web.json_response(body)
