"""Feishu's REST API: access tokens, the address of a long connection, calls, files.

Sources: https://open.feishu.cn/document (authentication-management, im-v1, bot-v3), and the
official SDK ``lark-oapi`` 1.7.5 for the endpoint call. What refusals mean is in `feishu_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import msgspec

from holdfast.access_token import AccessToken, Issued
from holdfast.adapter import (
    AdapterError,
    BadFrame,
    Disconnect,
    Http,
    HttpFailed,
    HttpReply,
    Outcome,
    Part,
    Secret,
    SendFailed,
)
from holdfast.adapters import feishu_rules as rules
from holdfast.messages import Attachment, MediaKind
from holdfast.supervision import Cause, Kind
from holdfast.transfer import of_upload

RENEW_BEFORE = 600.0
"""Seconds before its expiry from which a token is not used any more (as the official SDK). A new
one is issued when the old one has less than 30 minutes left."""

TRANSFER_LIMIT = 25.0
"""Seconds for a file up or down; with token and message it stays below a minute."""

MAX_IMAGE, MAX_FILE = 10 * 2**20, 30 * 2**20
"""Bytes of an upload (im-v1/image/create, im-v1/file/create)."""

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tiff", ".bmp", ".ico", ""})
"""Suffixes of what Feishu shows as a picture; without one it is tried."""

DOCUMENTS = {
    ".pdf": "pdf",
    **dict.fromkeys((".doc", ".docx"), "doc"),
    **dict.fromkeys((".xls", ".xlsx"), "xls"),
    **dict.fromkeys((".ppt", ".pptx"), "ppt"),
}
"""Suffix -> ``file_type``, which chooses the icon; "stream" is any other."""


class Token(msgspec.Struct):
    """``auth/v3/tenant_access_token/internal``; the life is in seconds."""

    tenant_access_token: str
    expire: float


class ClientConfig(msgspec.Struct, rename="pascal"):
    """What the server asks of a connection; its reconnect advice is the supervisor's business."""

    ping_interval: float | None = None
    """Seconds."""


class Endpoint(msgspec.Struct):
    """Where to connect, once."""

    url: str = msgspec.field(name="URL")
    config: ClientConfig | None = msgspec.field(name="ClientConfig", default=None)


class _Opened(msgspec.Struct):
    data: Endpoint


class Bot(msgspec.Struct):
    """``bot/v3/info``. ``activate_status`` 2 is an app in use."""

    open_id: str
    app_name: str = ""
    activate_status: int = 2


class _Info(msgspec.Struct):
    bot: Bot


class Posted(msgspec.Struct):
    """A message that was accepted."""

    message_id: str


class _Posted(msgspec.Struct):
    data: Posted


class Uploaded(msgspec.Struct):
    """The key of what was uploaded."""

    image_key: str = ""
    file_key: str = ""


class _Uploaded(msgspec.Struct):
    data: Uploaded


class Api:
    """Calls of one account; `token` is for whoever must be sure of it."""

    def __init__(self, app_id: str, secret: Secret, base: str) -> None:
        self._app_id, self._secret, self._base = app_id, secret, base.rstrip("/")
        self.token = AccessToken(self._issue, renew_before=RENEW_BEFORE)

    async def endpoint(self, http: Http) -> Endpoint:
        """The address of one connection. Raises Disconnect, BadFrame and HttpFailed."""
        body = {"AppID": self._app_id, "AppSecret": self._secret.reveal()}
        reply = await http.request("POST", f"{self._base}/callback/ws/endpoint", json=body)
        refusal = rules.refusal_of(reply)
        if refusal is not None:
            raise Disconnect(rules.endpoint_cause(reply, refusal))
        return reply.decode(_Opened).data

    async def whoami(self, http: Http) -> Bot:
        """The app's bot. Raises Disconnect, BadFrame and HttpFailed."""
        reply = await self.call(http, "GET", "/bot/v3/info")
        refusal = rules.refusal_of(reply)
        if refusal is not None:
            raise Disconnect(rules.account_cause(reply, refusal, "the question who we are"))
        return reply.decode(_Info).bot

    async def _issue(self, http: Http) -> Issued:
        body = {"app_id": self._app_id, "app_secret": self._secret.reveal()}
        url = f"{self._base}/open-apis/auth/v3/tenant_access_token/internal"
        reply = await http.request("POST", url, json=body)
        refusal = rules.refusal_of(reply)
        if refusal is not None:
            raise Disconnect(rules.login_cause(reply, refusal, "the login"))
        got = reply.decode(Token)
        return Issued(got.tenant_access_token, got.expire)

    async def call(
        self,
        http: Http,
        method: str,
        path: str,
        *,
        json: Any = None,
        parts: list[Part] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float = 15.0,
    ) -> HttpReply:
        """A call, repeated once with a new token when Feishu refuses this one's.

        Raises Disconnect without a token, and HttpFailed; refusals are the caller's to read.
        """

        async def ask(token: str) -> HttpReply:
            return await http.request(
                method,
                f"{self._base}/open-apis{path}",
                json=json,
                parts=parts,
                query=query,
                headers={"Authorization": f"Bearer {token}"},
                timeout=timeout,
            )

        return await self.token.call(http, ask, _refuses_token)

    async def upload(self, http: Http, file: Attachment) -> tuple[str, dict[str, str]]:
        """Store a file; ``msg_type`` and content of the message that shows it.

        Raises SendFailed, never UNKNOWN: nobody has seen anything yet.
        """
        suffix = PurePath(file.name).suffix.lower()
        image = file.kind is MediaKind.IMAGE and suffix in IMAGES and len(file.data) <= MAX_IMAGE
        if len(file.data) > MAX_FILE:
            text = f"Feishu takes files of up to {MAX_FILE >> 20} MiB"
            cause = Cause(Kind.REFUSED, "feishu_file_too_large", text)
            raise SendFailed(Outcome.REFUSED, cause)
        kind, path, parts = _image_form(file) if image else _file_form(file, suffix)
        try:
            reply = await self.call(http, "POST", path, parts=parts, timeout=TRANSFER_LIMIT)
            refusal = rules.refusal_of(reply)
            if refusal is None:
                key = reply.decode(_Uploaded).data
                return kind, {"image_key": key.image_key} if image else {"file_key": key.file_key}
        except AdapterError as problem:
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem
        outcome, cause = rules.failure(reply, refusal, "the upload")
        raise SendFailed(of_upload(outcome), cause)

    async def download(self, http: Http, reference: str) -> bytes:
        """The content behind `feishu_wire.reference`. Raises SendFailed or HttpFailed."""
        match reference.split("/"):
            case [message, "image" | "file" as kind, key]:
                pass
            case _:
                text = f"{reference:.80} is no attachment of Feishu"
                cause = Cause(Kind.REFUSED, "feishu_bad_reference", text)
                raise SendFailed(Outcome.REFUSED, cause)
        path = f"/im/v1/messages/{quote(message, safe='')}/resources/{quote(key, safe='')}"
        query = {"type": kind}
        try:
            reply = await self.call(http, "GET", path, query=query, timeout=TRANSFER_LIMIT)
        except Disconnect as problem:
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem
        json = "json" in reply.headers.get("content-type", "")
        if reply.status == 200 and (not json or "content-disposition" in reply.headers):
            return reply.body
        refusal = rules.refusal_of(reply) or rules.Refusal()
        raise SendFailed(*rules.failure(reply, refusal, "the download"))


def posted(reply: HttpReply) -> Posted:
    """What was accepted. Raises BadFrame."""
    return reply.decode(_Posted).data


def upgrade_cause(error: HttpFailed) -> Cause:
    """Why an upgrade failed. Feishu's reasons are in headers."""
    headers = error.reply.headers if error.reply is not None else {}
    status, message, code = (
        headers.get(f"handshake-{name}", "") for name in ("status", "msg", "autherrcode")
    )
    return rules.upgrade_cause(status, message, code, error.cause)


def _refuses_token(reply: HttpReply) -> bool:
    """Never of what is no JSON object, a file for example."""
    if "json" not in reply.headers.get("content-type", ""):
        return False
    try:
        return reply.decode(rules.Refusal).code in rules.BAD_TOKEN
    except BadFrame:
        return False


def _image_form(file: Attachment) -> tuple[str, str, list[Part]]:
    """``msg_type``, path and form of a picture."""
    content = _content("image", file, "image.png")
    return "image", "/im/v1/images", [Part(name="image_type", data="message"), content]


def _file_form(file: Attachment, suffix: str) -> tuple[str, str, list[Part]]:
    """``msg_type``, path and form of anything else; only mp4 and opus have players."""
    if file.kind is MediaKind.VIDEO and suffix == ".mp4":
        kind, form = "media", "mp4"
    elif file.kind is MediaKind.AUDIO and suffix == ".opus":
        kind, form = "audio", "opus"
    else:
        kind, form = "file", DOCUMENTS.get(suffix, "stream")
    name = file.name or "file"
    fields = [Part(name="file_type", data=form), Part(name="file_name", data=name)]
    return kind, "/im/v1/files", [*fields, _content("file", file, name)]


def _content(field: str, file: Attachment, name: str) -> Part:
    return Part(name=field, data=file.data, filename=file.name or name, mime=file.mime or None)
