"""What the app does over the Web API of the simulated Slack: chats, histories, users, files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from aiohttp import web

from holdfast.lab.simulator import Heard
from holdfast.lab.simulators import slack_rules as rules
from holdfast.lab.simulators.slack_platform import Token, Work, Workspace, server_error
from holdfast.lab.simulators.slack_rules import BOT_ID, BOT_USER, TEAM, ApiError, Json
from holdfast.lab.simulators.slack_world import Channel, File, World


class WebCalls:
    """Every call of the bot token. Faults, settings and the truth are those of ``lab``."""

    def __init__(self, lab: Workspace) -> None:
        self._lab = lab
        self._reactions: set[tuple[str, str, str]] = set()

    def table(self) -> dict[str, tuple[Token, Work]]:
        """The calls by name, with the token each one wants."""
        calls: dict[str, Work] = {
            "chat.postMessage": self._sending(self._post),
            "chat.update": self._sending(self._update),
            "files.completeUploadExternal": self._sending(self._complete_upload),
        }
        for name, work in self._plain().items():
            calls[name] = _waitless(work)
        return {name: (Token.BOT, work) for name, work in calls.items()}

    def _plain(self) -> dict[str, Callable[[web.Request, Json], Json]]:
        return {
            "auth.test": self._auth_test,
            "chat.delete": self._delete,
            "conversations.history": self._history,
            "conversations.info": self._channel_info,
            "conversations.open": self._open_chat,
            "conversations.replies": self._replies,
            "users.conversations": self._channels,
            "users.info": self._user_info,
            "reactions.add": self._react,
            "assistant.threads.setStatus": self._set_status,
            "files.getUploadURLExternal": self._reserve_upload,
            "files.info": self._file_info,
        }

    @property
    def _world(self) -> World:
        return self._lab.world

    # -- who ----------------------------------------------------------------------------------

    def _auth_test(self, request: web.Request, _: Json) -> Json:
        self._lab.play("auth_error", "invalid_auth")
        self._lab.note("auth-test")
        return {
            "url": f"{request.scheme}://{request.host}/",
            "team": "Holdfast",
            "user": self._world.users[BOT_USER],
            "team_id": TEAM,
            "user_id": BOT_USER,
            "bot_id": BOT_ID,
            "is_enterprise_install": False,
        }

    def _user_info(self, _: web.Request, params: Json) -> Json:
        key = str(params.get("user"))
        if (name := self._world.users.get(key)) is None:
            raise ApiError("user_not_found")
        profile = {"display_name": name, "real_name": name}
        user = {"id": key, "team_id": TEAM, "name": name, "real_name": name, "deleted": False}
        return {"user": user | {"profile": profile, "is_bot": key == BOT_USER}}

    # -- where --------------------------------------------------------------------------------

    def _channel(self, params: Json, key: str = "channel") -> Channel:
        return self._world.resolve(params.get(key))

    @staticmethod
    def _describe(channel: Channel) -> Json:
        kind: Json = {"id": channel.id, "is_im": not channel.group, "is_channel": channel.group}
        kind |= {"is_mpim": channel.kind == "mpim", "is_group": channel.kind == "group"}
        kind |= {"is_private": channel.kind != "channel"}
        if channel.group:
            return kind | {"name": channel.name, "is_member": True, "is_archived": False}
        return kind | {"user": "U" + channel.id[1:], "is_open": True}

    def _channel_info(self, _: web.Request, params: Json) -> Json:
        return {"channel": self._describe(self._channel(params))}

    def _channels(self, _: web.Request, params: Json) -> Json:
        wanted = str(params.get("types") or "public_channel").split(",")
        kinds = {"channel": "public_channel", "group": "private_channel", "mpim": "mpim"}
        kinds |= {"im": "im"}
        found = [c for c in self._world.channels.values() if kinds[c.kind] in wanted]
        page = {"response_metadata": {"next_cursor": ""}}
        return {"channels": [self._describe(channel) for channel in found]} | page

    def _open_chat(self, _: web.Request, params: Json) -> Json:
        user = str(params.get("users"))
        if user == BOT_USER or user not in self._world.users:
            raise ApiError("user_not_found")
        return {"channel": {"id": self._world.resolve(user).id}}

    def _history(self, _: web.Request, params: Json) -> Json:
        return self._world.history(self._channel(params), params, self._lab.history_most)

    def _replies(self, _: web.Request, params: Json) -> Json:
        return self._world.replies(self._channel(params), params, self._lab.history_most)

    # -- sending ------------------------------------------------------------------------------

    def _sending(self, work: Callable[[Json], Json]) -> Work:
        """A call that users notice, with the faults of such calls."""

        async def send(request: web.Request, params: Json) -> web.StreamResponse | Json:
            faults = self._lab.faults
            if (fault := faults.take("send_500")) is not None:
                return server_error(fault)
            if (fault := faults.take("send_429")) is not None:
                raise rules.ratelimited(fault, 1)
            self._lab.play("send_error", "internal_error")
            answer = work(params)
            self._lab.accepted.append(params)
            if faults.take("send_answer_lost") is not None and request.transport is not None:
                request.transport.abort()
            if faults.take("send_fatal") is not None:
                raise ApiError("fatal_error")
            if (fault := faults.take("send_slow")) is not None:
                await asyncio.sleep(fault.get("delay", 8.0))
            return answer

        return send

    def _post(self, params: Json) -> Json:
        channel = self._channel(params)
        text = rules.visible_text(params)
        metadata = rules.structure(params.get("metadata"))
        blocks = rules.structure(params.get("blocks"))
        content = World.by_bot(text, {"metadata": metadata, "blocks": blocks})
        message = self._publish(channel, content, params)
        return {"channel": channel.id, "ts": message["ts"], "message": message}

    def _publish(
        self, channel: Channel, content: Json, params: Json, file: File | None = None
    ) -> Json:
        thread = params.get("thread_ts") or None
        if thread and rules.flag(params.get("reply_broadcast")):
            content = content | {"subtype": "thread_broadcast"}
        message = self._world.post(channel, self._lab.stamp(), content, thread)
        heard = Heard(
            id=message["ts"],
            chat=channel.name,
            text=rules.unescape(message["text"]),
            at=self._lab.now(),
            reply_to=thread,
        )
        if file is not None:
            heard = replace(heard, media=file.name, data=file.data or b"")
        self._lab.hear(heard)
        self._lab.echo(channel, dict(message))
        return message

    def _own(self, params: Json, refusal: str) -> tuple[Channel, Json]:
        channel = self._channel(params)
        message = channel.find(params.get("ts"))
        if message.get("bot_id") != BOT_ID:
            raise ApiError(refusal)
        return channel, message

    def _update(self, params: Json) -> Json:
        channel, message = self._own(params, "cant_update_message")
        text, ts = rules.visible_text(params), self._lab.stamp()
        before = self._world.edit(message, ts, {"text": text})
        key = message["ts"]
        shown = rules.unescape(text)
        self._lab.hear(
            Heard(id=key, chat=channel.name, text=shown, at=self._lab.now(), edit_of=key)
        )
        changed = {"subtype": "message_changed", "hidden": True, "previous_message": before}
        self._lab.echo(channel, {"type": "message", "ts": ts, "message": dict(message)} | changed)
        return {"channel": channel.id, "ts": key, "text": text}

    def _delete(self, _: web.Request, params: Json) -> Json:
        channel, message = self._own(params, "cant_delete_message")
        key = message["ts"]
        del channel.messages[key]
        self._lab.note("deleted", id=key, chat=channel.name)
        gone = {"subtype": "message_deleted", "hidden": True, "deleted_ts": key}
        self._lab.echo(channel, {"type": "message", "ts": self._lab.stamp()} | gone)
        return {"channel": channel.id, "ts": key}

    def _react(self, _: web.Request, params: Json) -> Json:
        channel = self._channel(params)
        key = str(channel.find(params.get("timestamp"))["ts"])
        if not (name := str(params.get("name") or "")):
            raise ApiError("invalid_name")
        if (channel.id, key, name) in self._reactions:
            raise ApiError("already_reacted")
        self._reactions.add((channel.id, key, name))
        self._lab.note("reaction", id=key, chat=channel.name, name=name)
        return {}

    def _set_status(self, _: web.Request, params: Json) -> Json:
        channel = self._channel(params, "channel_id")
        channel.find(params.get("thread_ts"), "thread_not_found")
        self._lab.note("typing", chat=channel.name, status=str(params.get("status", "")))
        return {}

    # -- files --------------------------------------------------------------------------------

    def _reserve_upload(self, request: web.Request, params: Json) -> Json:
        name, length = str(params.get("filename") or ""), str(params.get("length") or "")
        if not name or not length.isdigit():
            raise ApiError("invalid_arguments")
        file = self._world.file(name)
        url = f"{request.scheme}://{request.host}/upload/v1/{file.upload_key}"
        return {"upload_url": url, "file_id": file.id}

    async def receive_upload(self, request: web.Request) -> web.Response:
        """POST of the raw bytes, or of a form with one file, to an upload address."""
        key = request.match_info["key"]
        file = next((f for f in self._world.files.values() if f.upload_key == key), None)
        if file is None:
            return web.Response(status=404, text="not found")
        if (fault := self._lab.faults.take("upload_failed")) is not None:
            return server_error(fault)
        if request.content_type == "multipart/form-data":
            part = next(iter((await request.post()).values()), None)
            data = part.file.read() if isinstance(part, web.FileField) else b""
        else:
            data = await request.read()
        file.data = data
        return web.Response(text=f"OK - {len(data)}")

    def _complete_upload(self, params: Json) -> Json:
        wanted = rules.structure(params.get("files"))
        if not isinstance(wanted, list) or not wanted:
            raise ApiError("invalid_arguments")
        files = [self._file(entry.get("id")) for entry in wanted if isinstance(entry, dict)]
        if any(file.data is None for file in files):
            raise ApiError("file_not_found")
        described = [file.describe() for file in files]
        if params.get("channel_id"):
            channel = self._channel(params, "channel_id")
            content = World.by_bot(str(params.get("initial_comment") or ""), {"files": described})
            # A user sees one message; the truth log keeps the bytes of its first file.
            self._publish(channel, content | {"subtype": "file_share"}, params, files[0])
        return {"files": described}

    def _file(self, key: object) -> File:
        if (file := self._world.files.get(str(key))) is None:
            raise ApiError("file_not_found")
        return file

    def _file_info(self, _: web.Request, params: Json) -> Json:
        return {"file": self._file(params.get("file")).describe()}

    async def download(self, request: web.Request) -> web.Response:
        """A private file; without a good bot token it is an HTML login page and HTTP 200."""
        good = request.headers.get("Authorization") == f"Bearer {self._lab.bot_token}"
        refused = Token.BOT in self._lab.token_errors or not good
        if refused or self._lab.faults.take("file_login_page") is not None:
            page = "<!DOCTYPE html><html><body>Sign in to your workspace</body></html>"
            return web.Response(text=page, content_type="text/html")
        key = request.match_info["key"].removeprefix(f"{TEAM}-")
        file = self._world.files.get(key)
        if file is None or file.data is None:
            return web.Response(status=404)
        return web.Response(body=file.data, content_type=file.describe()["mimetype"])


def _waitless(work: Callable[[web.Request, Json], Json]) -> Work:
    async def perform(request: web.Request, params: Json) -> Json:
        return work(request, params)

    return perform
