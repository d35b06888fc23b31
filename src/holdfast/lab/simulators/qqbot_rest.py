"""What the bot does over REST on the simulated QQ bot platform: messages, media, interactions."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import replace

import aiohttp
from aiohttp import web
from yarl import URL

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators.qqbot_messages import (
    FILE_INFO_TTL,
    FILE_KINDS,
    URL_PATTERN,
    Draft,
    Media,
    MessageType,
    openid_of,
    read_draft,
    read_file_data,
)
from holdfast.lab.simulators.qqbot_platform import (
    OpenPlatform,
    Work,
    answer,
    read_json,
    timestamp,
)
from holdfast.lab.simulators.qqbot_rules import Refusal, wrong_request

RECALL_WINDOW = 120.0


class ChatCalls:
    """Everything the bot does in chats, and who may be written to.

    Faults, settings and the truth are those of the platform ``lab``.
    """

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self._names: dict[str, tuple[str, bool]] = {}
        self._media: dict[str, Media] = {}
        self._sent_at: dict[str, tuple[str, float]] = {}
        self._interactions: set[str] = set()

    def table(self) -> list[tuple[str, str, Work]]:
        """Method, path and handler of every call."""
        calls: list[tuple[str, str, Work]] = [("PUT", "/interactions/{id}", self._interaction_done)]
        for scene in ("users", "groups"):
            calls += [
                ("POST", f"/v2/{scene}/{{openid}}/messages", self._send),
                ("POST", f"/v2/{scene}/{{openid}}/files", self._upload),
                ("DELETE", f"/v2/{scene}/{{openid}}/messages/{{id}}", self._recall),
            ]
        return calls

    def openid(self, name: str, *, group: bool) -> str:
        """The openid of a user or group; from now on the bot may write to it."""
        openid = openid_of(self._lab.app_id, "group" if group else "user", name)
        self._names[openid] = name, group
        return openid

    def await_answer(self, interaction: str) -> None:
        """Let the bot acknowledge this interaction, once."""
        self._interactions.add(interaction)

    # -- sending ------------------------------------------------------------------------------

    def _chat(self, request: web.Request) -> tuple[str, str, bool]:
        """The openid of the request's path, its name, and whether it is a group's."""
        openid, group = request.match_info["openid"], request.path.startswith("/v2/groups/")
        name, is_group = self._names.get(openid, ("", not group))
        if is_group != group:
            raise Refusal(40054003, "机器人不在群内") if group else Refusal(40054004, "非好友关系")
        return openid, name, group

    async def _send(self, request: web.Request) -> web.Response:
        openid, chat, group = self._chat(request)
        body = await read_json(request)
        draft = read_draft(body, group=group)
        self._check_content(draft)
        media = self._media_of(draft, group)
        if draft.reply_to is None:
            self._lab.replies.admit_active(openid, self._lab.now())
        else:
            counts = draft.type is not MessageType.TYPING
            self._lab.replies.admit_reply(
                draft.reply_to, openid, draft.seq, self._lab.now(), counts=counts
            )
        if draft.type is MessageType.TYPING:
            self._lab.note("typing", chat=chat)
            return answer({"id": "", "timestamp": timestamp()})
        if self._lab.faults.take("send_swallowed") is not None:
            return answer({"id": self._new_id(openid), "timestamp": timestamp()})
        self._lab.accepted.append(body)
        key = self._deliver(openid, chat, draft.text.strip(), draft.reply_to, media)
        return await self._confirm_send(request, key)

    def _check_content(self, draft: Draft) -> None:
        """Refuse what the content, or a fault, asks to be refused."""
        self._lab.play("send_error", Refusal(50055001, "系统繁忙"))
        self._lab.play("send_22009", Refusal(22009, "消息发送超频", status=429))
        urls = URL_PATTERN.findall(draft.text)
        if urls:
            self._lab.play("url_refused", Refusal(304003, "URL_NOT_ALLOWED"))
        if self._lab.allowed_urls is not None and not all(
            u.startswith(self._lab.allowed_urls) for u in urls
        ):
            raise Refusal(304003, "URL_NOT_ALLOWED")
        limit = self._lab.max_text
        if (fault := self._lab.faults.take("too_long")) is not None:
            limit = fault.get("limit", 0)
        if len(draft.text) > limit:
            raise Refusal(40054007, "消息内容过长")
        if draft.type is MessageType.MARKDOWN:
            refusal = Refusal(50056, "不允许发送原生 markdown")
            self._lab.play("markdown_refused", refusal)
            if not self._lab.markdown_allowed:
                raise refusal

    def _media_of(self, draft: Draft, group: bool) -> Media | None:
        if draft.file_info is None:
            return None
        media = self._media.get(draft.file_info)
        if media is None or media.group != group or self._lab.now() > media.expires:
            raise Refusal(40034004, "富媒体文件无效")
        return media

    def _new_id(self, openid: str) -> str:
        key = f"ROBOT1.0_{secrets.token_urlsafe(24)}"
        self._sent_at[key] = openid, self._lab.now()
        return key

    def _deliver(
        self, openid: str, chat: str, text: str, reply_to: str | None, media: Media | None
    ) -> str:
        key = self._new_id(openid)
        heard = Heard(id=key, chat=chat, text=text, at=self._lab.now(), reply_to=reply_to)
        self._lab.hear(replace(heard, media=media.name, data=media.data) if media else heard)
        return key

    async def _confirm_send(self, request: web.Request, key: str) -> web.Response:
        if self._lab.faults.take("send_202_pending") is not None:
            pending = Refusal(304023, "push message is waiting for audit now")
            audit = {"data": {"message_audit": {"audit_id": str(uuid.uuid4())}}}
            return answer(pending.body(secrets.token_hex(8)) | audit, 202)
        if (fault := self._lab.faults.take("send_slow_but_delivered")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if self._lab.faults.take("send_answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        return answer({"id": key, "timestamp": timestamp()})

    # -- media --------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.Response:
        openid, chat, group = self._chat(request)
        body = await read_json(request)
        self._lab.play("media_failed", Refusal(304082, "富媒体资源拉取失败"))
        kind = FILE_KINDS.get(body.get("file_type") or 0)
        if kind is None:
            raise wrong_request("file_type invalid")
        if body.get("file_data"):
            name, data = str(body.get("file_name") or kind), read_file_data(body["file_data"])
        else:
            name, data = await self._fetch(str(body.get("url") or ""))
        expires = self._lab.now() + FILE_INFO_TTL
        media = Media(name=name, data=data, group=group, expires=expires)
        info = secrets.token_urlsafe(48)
        self._media[info] = media
        reply = {"file_uuid": str(uuid.uuid4()), "file_info": info, "ttl": FILE_INFO_TTL}
        if body.get("srv_send_msg"):
            self._lab.replies.admit_active(openid, self._lab.now())
            reply["id"] = self._deliver(openid, chat, "", None, media)
        return answer(reply)

    async def _fetch(self, address: str) -> tuple[str, bytes]:
        """Fetch a file of loopback; other hosts are believed, since the lab never leaves it."""
        try:
            url = URL(address)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise wrong_request("url invalid")
        if url.host not in ("127.0.0.1", "localhost", "::1"):
            return url.name, b""
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
                session.get(url) as response,
            ):
                return url.name, await response.read()
        except (aiohttp.ClientError, TimeoutError):
            raise Refusal(304082, "富媒体资源拉取失败") from None

    # -- afterwards ---------------------------------------------------------------------------

    async def _recall(self, request: web.Request) -> web.Response:
        openid, chat, _ = self._chat(request)
        key = request.match_info["id"]
        owner, at = self._sent_at.get(key, ("", 0.0))
        if owner != openid:
            raise Refusal(306004, "message not found", status=404)
        if self._lab.now() - at > RECALL_WINDOW:
            raise Refusal(306011, "超过可撤回消息时间")
        del self._sent_at[key]
        self._lab.note("recalled", id=key, chat=chat)
        return answer({})

    async def _interaction_done(self, request: web.Request) -> web.Response:
        key, body = request.match_info["id"], await read_json(request)
        if key not in self._interactions:
            raise Refusal(630006, "interaction not found", status=404)
        self._interactions.discard(key)
        self._lab.note("interaction-done", id=key, code=body.get("code"))
        return web.Response(status=204)
