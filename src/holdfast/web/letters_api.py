"""The control API of the journal: its messages, its gaps and its copies, as HTTP and JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

import msgspec
from aiohttp import web

from holdfast.adapter import Traits
from holdfast.gateway.gateway import Gateway, UnknownAccount
from holdfast.messages import Outbound
from holdfast.store.protocol import Box, Entry, GapEntry, Owed, Store
from holdfast.supervision import Published
from holdfast.web.answers import as_json, limit_of
from holdfast.web.clerk import Clerk
from holdfast.web.letters import MOST, Copy, Filter, GapLine, Letter, Letters, Mended
from holdfast.web.problem import Problem
from holdfast.web.routes import LIMIT, Query, operation

T = TypeVar("T", bound=msgspec.Struct)

ACCOUNT = Query("account", "only of this account")
CHAT = Query("chat", "only of this chat")
STATE = Query("state", "only in this state", many=True)
FILTER = (ACCOUNT, CHAT, STATE)
BEFORE = Query("before", "the page before the message of this name")


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a retry or a drop."""

    names: list[str]


class Speech(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a send."""

    chat: str
    text: str
    anyway: bool = False
    """Also to a chat of which the journal has no message."""


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a backup."""

    path: str


class Attended:
    """`clerk.Hands` of a running gateway: what is given back is taken up at once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def store(self) -> Store:
        """See `Hands`."""
        return self._gateway.store

    def accounts(self) -> Collection[str]:
        """See `Hands`."""
        return self._gateway.desks

    def traits(self, account: str) -> Traits:
        """See `Hands`."""
        return self._gateway.desk(account).account.adapter.traits

    def standing(self, account: str) -> tuple[str, int]:
        """See `Hands`."""
        desk = self._gateway.desks.get(account)
        if desk is None:
            return Published.STOPPED.value, 0
        view = desk.view()
        return view.published.value, view.generation

    async def retry(self, box: Box, row: int) -> Entry:
        """See `Hands`."""
        try:
            return await self._gateway.retry(box, row)
        except UnknownAccount as error:
            hint = "put the account back into the configuration and reload, or drop the message"
            raise Problem(409, str(error), hint) from None

    async def post(self, account: str, messages: Sequence[Outbound]) -> list[Owed]:
        """See `Hands`."""
        return await self._gateway.post(account, messages)

    async def dismiss_gap(self, number: int) -> GapEntry:
        """See `Hands`."""
        return await self._gateway.dismiss_gap(number)


class LettersApi:
    """The handlers of one gateway; `routes.add_to` puts them into any application."""

    def __init__(self, gateway: Gateway) -> None:
        self._clerk = Clerk(Attended(gateway))

    @operation(
        "GET",
        "/inbox",
        Letters,
        "Messages from people, the newest last.",
        query=(*FILTER, LIMIT, BEFORE),
    )
    async def _inbox(self, request: web.Request) -> web.Response:
        return as_json(await self._box(Box.INBOX, request))

    @operation(
        "GET",
        "/outbox",
        Letters,
        "Messages to people, the newest last.",
        query=(*FILTER, LIMIT, BEFORE),
    )
    async def _outbox(self, request: web.Request) -> web.Response:
        return as_json(await self._box(Box.OUTBOX, request))

    async def _box(self, box: Box, request: web.Request) -> Letters:
        before = request.query.get("before")
        return await self._clerk.box(box, _filter(request), limit_of(request), before)

    @operation(
        "GET", "/dead", Letters, "What waits for a person in both boxes.", query=(*FILTER, LIMIT)
    )
    async def _dead(self, request: web.Request) -> web.Response:
        return as_json(await self._clerk.dead(_filter(request), limit_of(request)))

    @operation("GET", "/messages/{message}", Letter, "One message with all of its text.")
    async def _message(self, request: web.Request) -> web.Response:
        return as_json(await self._clerk.letter(request.match_info["message"]))

    @operation(
        "GET",
        "/accounts/{name}/dead",
        Letters,
        "What of an account waits for a person.",
        query=(CHAT, STATE, LIMIT),
    )
    async def _account_dead(self, request: web.Request) -> web.Response:
        wanted = msgspec.structs.replace(_filter(request), account=request.match_info["name"])
        return as_json(await self._clerk.dead(wanted, limit_of(request)))

    @operation(
        "POST",
        "/messages/retry",
        list[Mended],
        "Try 1 to 1000 messages once more, each by itself.",
        body=Names,
    )
    async def _retry(self, request: web.Request) -> web.Response:
        mended: list[Mended] = await self._clerk.retry(await _names(request))
        return as_json(mended)

    @operation(
        "POST",
        "/messages/drop",
        list[Mended],
        "Give 1 to 1000 messages up, each by itself.",
        body=Names,
    )
    async def _drop(self, request: web.Request) -> web.Response:
        mended: list[Mended] = await self._clerk.drop(await _names(request))
        return as_json(mended)

    @operation(
        "GET",
        "/gaps",
        list[GapLine],
        "Gaps that nobody has dismissed, the newest last.",
        query=(ACCOUNT, LIMIT),
    )
    async def _gaps(self, request: web.Request) -> web.Response:
        account = request.query.get("account")
        return as_json(await self._clerk.gaps(account, limit_of(request)))

    @operation("POST", "/gaps/{number}/dismiss", GapLine, "Somebody has seen to a gap.")
    async def _dismiss(self, request: web.Request) -> web.Response:
        text = request.match_info["number"]
        if not text.isdecimal() or len(text) > 18:
            raise Problem(400, f"{text!r} is not the number of a gap", "`holdfast gaps` lists them")
        return as_json(await self._clerk.dismiss(int(text)))

    @operation(
        "POST",
        "/accounts/{name}/send",
        list[Letter],
        "Owe a text to a chat; what comes back is durable.",
        body=Speech,
    )
    async def _send(self, request: web.Request) -> web.Response:
        speech = await _body(request, Speech)
        account = request.match_info["name"]
        sent = await self._clerk.send(account, speech.chat, speech.text, speech.anyway)
        return as_json(sent)

    @operation(
        "POST",
        "/backup",
        Copy,
        "Copy the journal to a new file, at an absolute path.",
        body=Target,
        local=True,
    )
    async def _backup(self, request: web.Request) -> web.Response:
        return as_json(await self._clerk.backup((await _body(request, Target)).path))


def _filter(request: web.Request) -> Filter:
    query = request.query
    return Filter(
        account=query.get("account"),
        chat=query.get("chat"),
        states=tuple(query.getall("state", [])),
    )


async def _names(request: web.Request) -> list[str]:
    names = (await _body(request, Names)).names
    if not 0 < len(names) <= MOST:
        hint = "`holdfast dead list` shows names, such as in-17"
        raise Problem(400, f"{len(names)} names are given, not 1 to {MOST}", hint)
    return names


async def _body(request: web.Request, kind: type[T]) -> T:
    body = await request.read()
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        what = f"can not be understood: {error}" if body else "is empty"
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        hint = f"send a JSON object with {fields}"
        raise Problem(400, f"the request's body {what}", hint) from None
