"""REST API v4 of the simulated Mattermost server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from holdfast.lab.simulator import Handler, Heard
from holdfast.lab.simulators import mattermost_rules as rules
from holdfast.lab.simulators.mattermost_rules import AppError, Json, answer, new_id
from holdfast.lab.simulators.mattermost_world import BOT_NAME, TEAM_ID, MattermostWorld

Work = Callable[[web.Request], Awaitable[web.Response]]
OK = {"status": "OK"}


async def read_json(request: web.Request) -> Any:
    """The JSON body of a request. Raises AppError 400."""
    try:
        return json.loads(await request.read())
    except ValueError:
        raise rules.invalid("body") from None


async def read_object(request: web.Request) -> Json:
    """The JSON object of a request. Raises AppError 400."""
    body = await read_json(request)
    if not isinstance(body, dict):
        raise rules.invalid("body")
    return body


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """A number of the query. Raises AppError 400."""
    try:
        return int(query.get(name) or default)
    except ValueError:
        raise rules.invalid(name) from None


class Calls:
    """The API calls of the bot. Faults and the truth are those of the server ``lab``.

    ``active`` is called for each authorized call: it keeps inactive connections alive.
    """

    def __init__(self, lab: MattermostWorld, active: Callable[[], None]) -> None:
        self._lab, self._active = lab, active
        self._pending: dict[str, tuple[float, str | None]] = {}

    def add_to(self, app: web.Application) -> None:
        """Add every call; what is not known is answered 404 in the server's way."""
        table: list[tuple[str, str, Work]] = [
            ("GET", "/users/username/{name}", self._user_by_name),
            ("GET", "/users/{user}", self._user),
            ("POST", "/users/{user}/typing", self._typing),
            ("GET", "/users/{user}/teams", self._teams),
            ("GET", "/users/{user}/channels", self._my_channels),
            ("GET", "/users/{user}/teams/{team}/channels", self._my_channels),
            ("POST", "/channels/direct", self._open_direct),
            ("GET", "/channels/{channel}", self._channel),
            ("GET", "/channels/{channel}/posts", self._channel_posts),
            ("POST", "/posts", self._create),
            ("GET", "/posts/{post}", self._post),
            ("PUT", "/posts/{post}/patch", self._patch),
            ("DELETE", "/posts/{post}", self._delete),
            ("POST", "/reactions", self._react),
            ("POST", "/files", self._upload),
            ("GET", "/files/{file}", self._file),
            ("GET", "/files/{file}/info", self._file_info),
        ]
        add = app.router.add_route
        add("GET", "/api/v4/system/ping", self._call(self._ping, authorized=False))
        add("POST", "/api/v4/users/login", self._call(self._login, authorized=False))
        for method, path, work in table:
            add(method, f"/api/v4{path}", self._call(work))
        add("*", "/api/v4/{tail:.*}", self._call(self._unknown, authorized=False))

    def _call(self, work: Work, *, authorized: bool = True) -> Handler:
        """An API call: faults, authorization, then the work; refusals become error bodies."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (spoilt := await self._spoilt()) is not None:
                return spoilt
            try:
                self._play_refusals()
                if authorized:
                    self._authorize(request)
                return await work(request)
            except AppError as error:
                self._lab.note("refused", path=request.path, id=error.id)
                return answer(error.body(), error.status)

        return handle

    async def _spoilt(self) -> web.Response | None:
        """Answers that do not come from the API itself."""
        take = self._lab.faults.take
        if take("api_hang") is not None:
            await asyncio.Event().wait()
        if take("api_malformed") is not None:
            return web.Response(body=b'{"id":"', content_type="application/json")
        if (fault := take("api_html")) is not None:
            page, status = "<html><body>Bad Gateway</body></html>", fault.get("status", 502)
            return web.Response(text=page, content_type="text/html", status=status)
        if (fault := take("api_429")) is not None:
            return rules.limit_exceeded(fault.get("retry_after", 1))
        return None

    def _play_refusals(self) -> None:
        self._play("api_500", AppError(500, "app.internal_error"))
        self._play("api_503", AppError(503, "api.context.server_busy.app_error"))
        self._play("api_401", rules.expired())
        self._play("api_403", rules.forbidden())

    def _play(self, name: str, error: AppError) -> None:
        if (fault := self._lab.faults.take(name)) is not None:
            raise AppError(fault.get("status", error.status), fault.get("id", error.id))

    def _authorize(self, request: web.Request) -> None:
        if rules.bearer(request.headers.get("Authorization", "")) not in self._lab.tokens:
            raise rules.expired()
        self._active()

    # -- the server and its users -------------------------------------------------------------

    async def _ping(self, _: web.Request) -> web.Response:
        return answer(OK | {"AndroidLatestVersion": "", "IosLatestVersion": ""})

    async def _unknown(self, _: web.Request) -> web.Response:
        raise AppError(404, "api.context.404.app_error", "Sorry, we could not find the page.")

    async def _login(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if (body.get("login_id"), body.get("password")) != (BOT_NAME, self._lab.password):
            raise AppError(401, "api.user.login.invalid_credentials_email_username")
        token = new_id()
        self._lab.tokens.add(token)
        response = answer(self._lab.user("me"))
        response.headers["Token"] = token
        return response

    def _myself(self, request: web.Request) -> None:
        if request.match_info["user"] not in ("me", self._lab.bot_id):
            raise rules.forbidden()

    async def _user(self, request: web.Request) -> web.Response:
        return answer(self._lab.user(request.match_info["user"]))

    async def _user_by_name(self, request: web.Request) -> web.Response:
        known = {name: key for key, name in self._lab.users.items()}
        return answer(self._lab.user(known.get(request.match_info["name"], "")))

    async def _typing(self, request: web.Request) -> web.Response:
        self._myself(request)
        self._play("typing_busy", AppError(503, "api.context.server_busy.app_error"))
        body = await read_object(request)
        self._lab.note("typing", chat=self._channel_of(body).chat)
        return answer(OK)

    async def _teams(self, request: web.Request) -> web.Response:
        self._myself(request)
        return answer([{"id": TEAM_ID, "name": "lab", "display_name": "Lab", "type": "O"}])

    # -- channels -----------------------------------------------------------------------------

    def _channel_of(self, body: Mapping[str, Any]) -> Any:
        channel = self._lab.channels.get(str(body.get("channel_id")))
        if channel is None:
            raise rules.forbidden()
        return channel

    async def _my_channels(self, request: web.Request) -> web.Response:
        self._myself(request)
        if request.match_info.get("team", TEAM_ID) != TEAM_ID:
            raise rules.forbidden()
        return answer([channel.wire() for channel in self._lab.channels.values()])

    async def _open_direct(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, list) or len(body) != 2 or self._lab.bot_id not in body:
            raise rules.invalid("user_ids")
        other = body[0] if body[1] == self._lab.bot_id else body[1]
        self._lab.user(other)
        return answer(self._lab.direct(other).wire(), 201)

    async def _channel(self, request: web.Request) -> web.Response:
        channel = self._channel_of({"channel_id": request.match_info["channel"]})
        return answer(channel.wire())

    async def _channel_posts(self, request: web.Request) -> web.Response:
        """Posts newest first: ``since`` by update time with deleted ones, or a page of ids."""
        self._play("posts_error", AppError(500, "app.post.get_posts.app_error"))
        channel = self._channel_of({"channel_id": request.match_info["channel"]})
        query = request.query
        if since := number(query, "since", 0):
            return self._list(self._changed(channel.posts, since))
        size = max(1, min(number(query, "per_page", 60), 200))
        skip = size * number(query, "page", 0)
        posts = [post for post in channel.posts if not post["delete_at"]]
        ids = [post["id"] for post in posts]
        if (after := query.get("after")) in ids:
            start = ids.index(after) + 1 + skip
            stop = start + size
        else:
            stop = (ids.index(query["before"]) if query.get("before") in ids else len(ids)) - skip
            start = max(0, stop - size)
        return self._list(
            posts[start : max(0, stop)],
            older=ids[start - 1] if 0 < start <= len(ids) else "",
            newer=ids[stop] if 0 <= stop < len(ids) else "",
        )

    def _changed(self, posts: list[Json], since: int) -> list[Json]:
        """As many of the posts changed since as one answer holds, with the roots of their threads
        that changed too."""
        changed = sorted(
            (post for post in posts if post["update_at"] > since),
            key=lambda post: post["update_at"],
            reverse=self._lab.since_newest,
        )
        chosen = changed[: rules.MAX_SINCE]
        ids = {key for post in chosen for key in (post["id"], post["root_id"])}
        return [post for post in posts if post["id"] in ids and post["update_at"] > since]

    def _list(self, posts: list[Json], *, older: str = "", newer: str = "") -> web.Response:
        for post in posts:
            if post["user_id"] != self._lab.bot_id:
                self._lab.note("fetched", id=post["id"])
        return answer(
            {
                "order": [post["id"] for post in reversed(posts)],
                "posts": {post["id"]: post for post in posts},
                "next_post_id": newer,
                "prev_post_id": older,
            }
        )

    # -- posts --------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if (fault := self._lab.faults.take("send_429")) is not None:
            return rules.limit_exceeded(fault.get("retry_after", 1))
        self._play("send_error", AppError(400, "api.context.invalid_body_param.app_error"))
        self._play("send_pending", rules.pending())
        key = str(body.get("pending_post_id") or "")
        if (first := self._repeated(key)) is not None:
            return answer(first | {"pending_post_id": key}, 201)
        post = self._draft(body)
        if self._lab.faults.take("send_swallowed") is not None:
            return answer(post | {"pending_post_id": key}, 201)
        await self._create_once(post, key)
        return await self._confirm(request, answer(post | {"pending_post_id": key}, 201))

    def _repeated(self, key: str) -> Json | None:
        """The post made with this pending_post_id. Raises AppError while it is in flight."""
        since, post = self._pending.get(key, (float("-inf"), ""))
        if self._lab.now() - since > rules.DEDUPE_WINDOW:
            return None
        if post is None:
            raise rules.pending()
        return self._lab.posts[post]

    async def _create_once(self, post: Json, key: str) -> None:
        if (fault := self._lab.faults.take("send_slow")) is not None:
            self._remember(key, None)
            try:
                await asyncio.sleep(fault.get("delay", 5.0))
            finally:
                self._pending.pop(key, None)
        self._lab.create(post, key)
        self._remember(key, post["id"])
        self._hear(post)

    def _remember(self, key: str, post: str | None) -> None:
        if key:
            self._pending[key] = self._lab.now(), post

    def _draft(self, body: Json) -> Json:
        """The post a body asks for. Raises AppError."""
        channel, message = self._channel_of(body), str(body.get("message") or "")
        self._check_length(message)
        root, files = str(body.get("root_id") or ""), body.get("file_ids") or []
        if root:
            parent = self._lab.posts.get(root)
            if parent is None or parent["root_id"] or parent["delete_at"]:
                raise AppError(
                    400, "api.post.create_post.root_id.app_error", "Invalid RootId parameter."
                )
            if parent["channel_id"] != channel.id:
                raise AppError(400, "api.post.create_post.channel_root_id.app_error")
        if len(files) > rules.MAX_FILES or any(file not in self._lab.files for file in files):
            raise rules.invalid("file_ids")
        return self._lab.draft(
            self._lab.bot_id,
            channel.id,
            message,
            root,
            file_ids=files,
            props=(body.get("props") or {}) | {"from_bot": "true"},
        )

    def _check_length(self, message: str) -> None:
        if len(message) > self._lab.max_message:
            raise AppError(400, "model.post.is_valid.msg.app_error", "Post message is too long.")

    def _hear(self, post: Json, edit_of: str | None = None) -> None:
        files = [self._lab.files[key] for key in post["file_ids"]]
        self._lab.hear(
            Heard(
                id=post["id"],
                chat=self._lab.channels[post["channel_id"]].chat,
                text=post["message"],
                at=self._lab.now(),
                reply_to=post["root_id"] or None,
                edit_of=edit_of,
                media=files[0].info["name"] if files else None,
                data=files[0].data if files else b"",
            )
        )

    async def _confirm(self, request: web.Request, done: web.Response) -> web.Response:
        if (fault := self._lab.faults.take("send_slow_but_delivered")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if self._lab.faults.take("send_answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        return done

    def _known(self, request: web.Request, *, own: bool = False) -> Json:
        post = self._lab.posts.get(request.match_info["post"])
        if post is None or post["delete_at"]:
            raise AppError(404, "app.post.get.app_error", "Unable to get the post.")
        if own and post["user_id"] != self._lab.bot_id:
            raise rules.forbidden()
        return post

    async def _post(self, request: web.Request) -> web.Response:
        return answer(self._known(request))

    async def _patch(self, request: web.Request) -> web.Response:
        post, body = self._known(request, own=True), await read_object(request)
        message = str(body.get("message", post["message"]))
        self._check_length(message)
        self._lab.edit(post, message)
        self._hear(post, edit_of=post["id"])
        return answer(post)

    async def _delete(self, request: web.Request) -> web.Response:
        post = self._known(request, own=True)
        self._lab.delete(post)
        self._lab.note("deleted", id=post["id"])
        return answer(OK)

    async def _react(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if body.get("post_id") not in self._lab.posts or not body.get("emoji_name"):
            raise rules.invalid("reaction")
        self._lab.note("reaction", id=body["post_id"], emoji=body["emoji_name"])
        return answer(body | {"create_at": self._lab.date()}, 201)

    # -- files --------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        channel = self._channel_of({"channel_id": form.get("channel_id")})
        too_large = AppError(413, "api.file.upload_file.too_large_detailed.app_error")
        self._play("upload_too_large", too_large)
        infos = []
        for part in form.values():
            if isinstance(part, web.FileField):
                with part.file as stream:
                    data = stream.read()
                if len(data) > self._lab.max_file:
                    raise too_large
                infos.append(self._lab.store(self._lab.bot_id, channel.id, part.filename, data))
        if not infos:
            raise rules.invalid("files")
        return answer({"file_infos": infos, "client_ids": form.getall("client_ids", [])}, 201)

    def _stored(self, request: web.Request) -> Any:
        file = self._lab.files.get(request.match_info["file"])
        if file is None:
            raise AppError(404, "app.file_info.get.app_error")
        return file

    async def _file(self, request: web.Request) -> web.Response:
        file = self._stored(request)
        return web.Response(body=file.data, content_type=file.info["mime_type"])

    async def _file_info(self, request: web.Request) -> web.Response:
        return answer(self._stored(request).info)
