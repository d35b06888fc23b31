"""Messages of the simulated DingTalk platform, both ways: users' data and the bot's drafts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.lab.simulators.dingtalk_rules import Complaint, Refusal, millis

CORP = "ding0123456789abcdef"
BOT_USER = "$:LWCP_v1:$holdfastBot=="

WEBHOOK_LIFE = 5400.1
"""Seconds a sessionWebhook is valid, from the official example."""

WEBHOOK_MAX, PARAM_MAX = 20_000, 15_000
"""Bytes of a webhook message (errcode 460101) and of ``msgParam`` (OpenAPI page)."""


def staff_id(name: str) -> str:
    """The organisation's id of a user."""
    return f"staff-{name}"


def conversation_id(name: str, *, group: bool) -> str:
    """The id of a chat; a private chat has one too, and it is not the user's."""
    return f"cid{'Group' if group else 'Single'}-{name}=="


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation that the bot has heard from, or that a test made known."""

    name: str
    group: bool

    @property
    def id(self) -> str:
        """``conversationId``."""
        return conversation_id(self.name, group=self.group)


def content(
    text: str, image: str | None = None, file: tuple[str, str] | None = None
) -> dict[str, Any]:
    """``msgtype`` and its content; ``image`` and ``file`` (with its name) are download codes.

    Text beside an image makes it rich text. Text beside a file is dropped: the platform sends a
    file alone.
    """
    if file is not None:
        name, code = file
        entry = {"fileName": name, "fileId": "42", "spaceId": "99", "downloadCode": code}
        return {"msgtype": "file", "content": entry}
    if image is None:
        return {"msgtype": "text", "text": {"content": text}}
    picture = {"downloadCode": image, "pictureDownloadCode": image}
    if not text:
        return {"msgtype": "picture", "content": picture}
    parts = [{"text": text}, {"type": "picture"} | picture]
    return {"msgtype": "richText", "content": {"richText": parts}}


def user_message(
    key: str, chat: Chat, sender: str, robot: str, webhook: str, expires_in: float
) -> dict[str, Any]:
    """The data of a message without its content; ``webhook`` is a path."""
    now = millis()
    data: dict[str, Any] = {
        "msgId": key,
        "createAt": now,
        "conversationType": "2" if chat.group else "1",
        "conversationId": chat.id,
        "chatbotCorpId": CORP,
        "chatbotUserId": BOT_USER,
        "robotCode": robot,
        "senderId": f"$:LWCP_v1:${sender}==",
        "senderNick": sender,
        "senderCorpId": CORP,
        "senderStaffId": staff_id(sender),
        "isAdmin": False,
        "sessionWebhook": webhook,
        "sessionWebhookExpiredTime": now + int(expires_in * 1000),
    }
    if chat.group:
        data["conversationTitle"] = chat.name
        data["isInAtList"] = True
        data["atUsers"] = [{"dingtalkId": BOT_USER}]
    return data


# -- the bot's drafts -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """A message of the bot as users will see it; ``media`` is a media id or an address."""

    text: str
    media: str | None = None
    name: str | None = None


def read_webhook(body: Mapping[str, Any]) -> Draft:
    """The message in a body posted to a sessionWebhook. Raises Complaint."""
    match body:
        case {"msgtype": "text", "text": {"content": str(text)}}:
            draft = Draft(text)
        case {"msgtype": "markdown", "markdown": {"title": str(), "text": str(text)}}:
            draft = Draft(text)
        case {"msgtype": "image", "image": {"media_id": str(media)}}:
            draft = Draft("", media)
        case {"msgtype": "file", "file": {"mediaId": str(media), **rest}}:
            draft = Draft("", media, str(rest.get("fileName", "")) or None)
        case _:
            raise Complaint(40035, "不合法的参数")
    if len(json.dumps(body, ensure_ascii=False).encode()) > WEBHOOK_MAX:
        raise Complaint(460101, "message too long, exceed 20000 bytes")
    if not draft.text.strip() and draft.media is None:
        raise Complaint(40035, "content is empty")
    return draft


def read_openapi(body: Mapping[str, Any]) -> Draft:
    """The message in ``msgKey`` and ``msgParam`` of an OpenAPI send. Raises Refusal."""
    raw = body.get("msgParam")
    try:
        param = json.loads(raw) if isinstance(raw, str) else None
    except ValueError:
        param = None
    if not isinstance(raw, str) or not isinstance(param, dict):
        raise Refusal("invalidParameter.msgParam.invalid", "msgParam is not JSON in a string")
    if len(raw.encode()) > PARAM_MAX:
        raise Refusal("invalidParameter.msgParam.tooLong", "msgParam is too long")
    match body.get("msgKey"), param:
        case "sampleText", {"content": str(text)}:
            return Draft(text)
        case "sampleMarkdown", {"title": str(), "text": str(text)}:
            return Draft(text)
        case "sampleImageMsg", {"photoURL": str(photo)}:
            return Draft("", photo)
        case "sampleFile", {"mediaId": str(media), "fileName": str(name), "fileType": str()}:
            return Draft("", media, name)
        case "sampleAudio", {"mediaId": str(media), "duration": str() | int()}:
            return Draft("", media)
        case "sampleVideo", {"videoMediaId": str(media), "videoType": str()}:
            return Draft("", media)
        case None | "", _:
            raise Refusal("invalidParameter.msgKey.empty", "msgKey is mandatory")
        case str(key), _ if key.startswith("sample"):
            raise Refusal("invalidParameter.msgParam.invalid", f"msgParam does not fit {key}")
        case _:
            raise Refusal("invalidParameter.msgKey.invalid", "msgKey is unknown")
