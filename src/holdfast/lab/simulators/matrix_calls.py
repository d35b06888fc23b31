"""The calls of a Matrix client about rooms, messages, its own data and files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from holdfast.lab.simulator import Heard, Simulator
from holdfast.lab.simulators.matrix_rooms import (
    SERVER_NAME,
    Json,
    Room,
    Rooms,
    display_name,
    parse_token,
    stream_token,
)
from holdfast.lab.simulators.matrix_sessions import Session
from holdfast.lab.simulators.matrix_wire import (
    MatrixError,
    body_of,
    forbidden,
    html,
    number,
    reset,
    too_many,
)

V3: Final = "/_matrix/client/v3"

PAGE: Final = 10
"""Events of one page of history when the client does not say (specification, /messages)."""

MAX_EVENT: Final = 65_536
"""Bytes of one event, everything included (specification, size limits)."""

ENVELOPE: Final = 1000
"""Bytes of it set aside for what the server adds to the content."""

MAX_UPLOAD: Final = 50 * 2**20
"""Bytes of one file (Synapse, max_upload_size)."""


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file."""

    name: str
    kind: str
    data: bytes


Call = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


class RoomCalls:
    """Everything a signed-in client does in rooms.

    Faults and the truth are those of the simulator ``lab``; ``fetched`` is told the id of each
    event that the bot reads from a room's history.
    """

    def __init__(self, lab: Simulator, rooms: Rooms, fetched: Callable[[str], None]) -> None:
        self._lab = lab
        self._rooms = rooms
        self._fetched = fetched
        self._files: dict[str, File] = {}
        self._transactions: dict[tuple[str, ...], str] = {}

    def table(self) -> list[tuple[str, str, Call]]:
        """Method, path and handler of every call."""
        room, media = f"{V3}/rooms/{{room}}", "/_matrix/client/v1/media"
        data = f"{V3}/user/{{user}}/account_data/{{type}}"
        return [
            ("POST", f"{V3}/createRoom", self._create_room),
            ("POST", f"{V3}/join/{{room}}", self._join),
            ("POST", f"{room}/join", self._join),
            ("POST", f"{room}/leave", self._leave),
            ("GET", f"{V3}/joined_rooms", self._joined_rooms),
            ("GET", f"{room}/joined_members", self._joined_members),
            ("GET", f"{room}/messages", self._messages),
            ("GET", f"{room}/event/{{event}}", self._event),
            ("PUT", f"{room}/send/{{type}}/{{txn}}", self._send),
            ("PUT", f"{room}/redact/{{event}}/{{txn}}", self._redact),
            ("PUT", f"{room}/typing/{{user}}", self._typing),
            ("POST", f"{room}/receipt/{{type}}/{{event}}", self._receipt),
            ("GET", data, self._get_account_data),
            ("PUT", data, self._put_account_data),
            ("POST", f"{V3}/keys/upload", self._keys_upload),
            ("POST", "/_matrix/media/v3/upload", self._upload),
            ("GET", f"{media}/download/{{server}}/{{media}}", self._download),
            ("GET", f"{media}/download/{{server}}/{{media}}/{{name}}", self._download),
            ("GET", f"{media}/config", self._media_config),
        ]

    # -- rooms --------------------------------------------------------------------------------

    def _room(self, request: web.Request, session: Session, *, why: str = "") -> Room:
        """The room of the path. Raises MatrixError when the caller is not in it."""
        name = request.match_info["room"]
        room = self._rooms.get(name)
        if room is None or room.membership(session.user_id) != "join":
            raise forbidden(f"User {session.user_id} not in room {name}{why}")
        return room

    async def _join(self, request: web.Request, session: Session) -> web.Response:
        room = self._rooms.get(request.match_info["room"])
        if room is None:
            text = "Can't join remote room because no servers that are in the room are known."
            raise MatrixError(404, "M_UNKNOWN", text)
        if room.membership(session.user_id) == "leave":
            raise forbidden("You are not invited to this room.")
        if room.membership(session.user_id) == "invite":
            self._rooms.member(room, session.user_id, "join")
            self._lab.note("joined", chat=room.chat)
        return web.json_response({"room_id": room.id})

    async def _leave(self, request: web.Request, session: Session) -> web.Response:
        room = self._rooms.get(request.match_info["room"])
        if room is None:
            raise MatrixError(404, "M_UNKNOWN", "Not a known room")
        if room.membership(session.user_id) != "leave":
            self._rooms.member(room, session.user_id, "leave")
            self._lab.note("left", chat=room.chat)
        return web.json_response({})

    async def _create_room(self, request: web.Request, session: Session) -> web.Response:
        body = await body_of(request)
        invited, direct = list(body.get("invite", ())), bool(body.get("is_direct"))
        chat = display_name(invited[0]) if direct and invited else ""
        if not chat or chat in self._rooms.chats:
            chat = f"room {len(self._rooms.chats) + 1}"
        room = self._rooms.create(chat, session.user_id, name=body.get("name"))
        for user in invited:
            self._rooms.member(room, user, "invite", by=session.user_id, direct=direct)
            self._rooms.member(room, user, "join")
        return web.json_response({"room_id": room.id})

    async def _joined_rooms(self, _: web.Request, session: Session) -> web.Response:
        return web.json_response({"joined_rooms": self._rooms.joined_by(session.user_id)})

    async def _joined_members(self, request: web.Request, session: Session) -> web.Response:
        room = self._room(request, session, why=", and room previews are disabled")
        members = {user: {"display_name": display_name(user)} for user in room.joined()}
        return web.json_response({"joined": members})

    async def _messages(self, request: web.Request, session: Session) -> web.Response:
        """A page of history, backwards from ``from`` (or the newest event) down to ``to``."""
        room = self._room(request, session, why=", and room previews are disabled")
        if request.query.get("dir") != "b":
            raise MatrixError(400, "M_INVALID_PARAM", "The simulator reads backwards only")
        start = self._place(request, "from", self._rooms.position)
        found = room.between(self._place(request, "to", 0), start)[::-1]
        chunk = found[: number(request, "limit", PAGE)]
        for event in chunk:
            self._fetched(event.id)
        answer: Json = {"start": stream_token(start)}
        answer["chunk"] = [event.shown(session.device_id, room.id) for event in chunk]
        if len(chunk) < len(found):
            answer["end"] = stream_token(found[len(chunk)].position)
        return web.json_response(answer)

    def _place(self, request: web.Request, name: str, default: int) -> int:
        token = request.query.get(name)
        place = default if token is None else parse_token(token)
        if place is None:
            raise MatrixError(400, "M_UNKNOWN", f"'{name}' parameter is invalid")
        return place

    async def _event(self, request: web.Request, session: Session) -> web.Response:
        room = self._room(request, session)
        for event in room.events:
            if event.id == request.match_info["event"]:
                return web.json_response(event.shown(session.device_id, room.id))
        raise MatrixError(404, "M_NOT_FOUND", "Event not found.")

    # -- what the bot sends -------------------------------------------------------------------

    async def _send(self, request: web.Request, session: Session) -> web.StreamResponse:
        content, kind = await body_of(request), request.match_info["type"]
        if (params := self._lab.faults.take("send_429")) is not None:
            raise too_many(params)
        if self._lab.faults.take("send_502") is not None:
            return html(502, "Bad gateway")
        room = self._room(request, session)
        if len(json.dumps(content, ensure_ascii=False).encode()) > MAX_EVENT - ENVELOPE:
            raise MatrixError(413, "M_TOO_LARGE", "event too large")
        event, new = self._once(request, session, room, kind, content)
        if new and kind == "m.room.message":
            self._message(room, content, event)
        elif new:
            self._lab.note("event", id=event, chat=room.chat, type=kind)
        if self._lab.faults.take("send_answer_lost") is not None:
            return reset(request)
        return web.json_response({"event_id": event})

    def _once(
        self,
        request: web.Request,
        session: Session,
        room: Room,
        kind: str,
        content: Json,
        **more: Any,
    ) -> tuple[str, bool]:
        """The id of the event, and whether this is the first time.

        A transaction id belongs to one device and one path; a repetition gets the first answer,
        whatever its body says.
        """
        key = (session.user_id, session.device_id, request.path)
        known = self._transactions.get(key)
        if known is not None:
            self._lab.note("repeated", id=known)
            return known, False
        transaction = (session.device_id, request.match_info["txn"])
        event = self._rooms.append(
            room, kind, session.user_id, content, transaction=transaction, **more
        )
        self._transactions[key] = event.id
        return event.id, True

    def _message(self, room: Room, content: Json, event: str) -> None:
        relation = content.get("m.relates_to", {})
        edit = relation.get("event_id") if relation.get("rel_type") == "m.replace" else None
        shown = content.get("m.new_content", content) if edit else content
        text = str(shown.get("body", ""))
        file = self._files.get(content.get("url", ""))
        self._lab.hear(
            Heard(
                id=event,
                chat=room.chat,
                text=text,
                at=self._lab.now(),
                reply_to=relation.get("m.in_reply_to", {}).get("event_id"),
                edit_of=edit,
                media=content.get("filename", text) if file else None,
                data=file.data if file else b"",
            )
        )

    async def _redact(self, request: web.Request, session: Session) -> web.Response:
        room, target = self._room(request, session), request.match_info["event"]
        content = await body_of(request) | {"redacts": target}
        event, new = self._once(request, session, room, "m.room.redaction", content, redacts=target)
        if new:
            self._rooms.redact(room, target, event)
            self._lab.note("redacted", id=target, chat=room.chat)
        return web.json_response({"event_id": event})

    async def _typing(self, request: web.Request, session: Session) -> web.Response:
        room, body = self._room(request, session), await body_of(request)
        if request.match_info["user"] != session.user_id:
            raise MatrixError(400, "M_FORBIDDEN", "Cannot set another user's typing state")
        self._lab.note("typing", chat=room.chat, on=bool(body.get("typing")))
        return web.json_response({})

    async def _receipt(self, request: web.Request, session: Session) -> web.Response:
        room = self._room(request, session)
        self._lab.note("receipt", chat=room.chat, id=request.match_info["event"])
        return web.json_response({})

    # -- the account's own data, and files ----------------------------------------------------

    async def _get_account_data(self, request: web.Request, session: Session) -> web.Response:
        owner = own(request, session, "Cannot get account data for other users.")
        content = self._rooms.account_data(owner, request.match_info["type"])
        if content is None:
            raise MatrixError(404, "M_NOT_FOUND", "Account data not found")
        return web.json_response(content)

    async def _put_account_data(self, request: web.Request, session: Session) -> web.Response:
        owner = own(request, session, "Cannot add account data for other users.")
        self._rooms.put_account_data(owner, request.match_info["type"], await body_of(request))
        return web.json_response({})

    async def _keys_upload(self, _: web.Request, __: Session) -> web.Response:
        return web.json_response({"one_time_key_counts": {"signed_curve25519": 0}})

    async def _upload(self, request: web.Request, _: Session) -> web.Response:
        data = await request.read()
        if len(data) > MAX_UPLOAD:
            raise MatrixError(413, "M_TOO_LARGE", "Upload request body is too large")
        name = request.query.get("filename", "")
        uri = self.keep(File(name, request.content_type, data))
        return web.json_response({"content_uri": uri})

    def keep(self, file: File) -> str:
        """Store a file and return its mxc address."""
        uri = f"mxc://{SERVER_NAME}/{secrets.token_urlsafe(18)}"
        self._files[uri] = file
        return uri

    async def _download(self, request: web.Request, _: Session) -> web.Response:
        names = request.match_info
        file = self._files.get(f"mxc://{names['server']}/{names['media']}")
        if file is None:
            raise MatrixError(404, "M_NOT_FOUND", f"Not found '{request.path}'")
        return web.Response(body=file.data, content_type=file.kind)

    async def _media_config(self, _: web.Request, __: Session) -> web.Response:
        return web.json_response({"m.upload.size": MAX_UPLOAD})


def own(request: web.Request, session: Session, refusal: str) -> str:
    """The user in the path. Raises MatrixError when it is somebody else."""
    if request.match_info["user"] != session.user_id:
        raise forbidden(refusal)
    return session.user_id
