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
from holdfast.web.answers import PREFIX, as_json, limit_of
from holdfast.web.clerk import Clerk
from holdfast.web.letters import MOST, Filter, Letters, Mended
from holdfast.web.problem import Problem

T = TypeVar("T")


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
        view = desk.account.view()
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
    """The handlers of one gateway; `add_to` puts them into any application."""

    def __init__(self, gateway: Gateway) -> None:
        self._clerk = Clerk(Attended(gateway))

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.add_routes(
            [
                web.get(PREFIX + "/inbox", self._inbox),
                web.get(PREFIX + "/outbox", self._outbox),
                web.get(PREFIX + "/dead", self._dead),
                web.post(PREFIX + "/messages/retry", self._retry),
                web.post(PREFIX + "/messages/drop", self._drop),
                web.get(PREFIX + "/messages/{message}", self._message),
                web.get(PREFIX + "/gaps", self._gaps),
                web.post(PREFIX + "/gaps/{number}/dismiss", self._dismiss),
                web.post(PREFIX + "/accounts/{name}/send", self._send),
            ]
        )

    def add_local_to(self, app: web.Application) -> None:
        """Add what writes files where the caller says: only for a socket of the own user."""
        app.add_routes([web.post(PREFIX + "/backup", self._backup)])

    async def _inbox(self, request: web.Request) -> web.Response:
        return as_json(await self._box(Box.INBOX, request))

    async def _outbox(self, request: web.Request) -> web.Response:
        return as_json(await self._box(Box.OUTBOX, request))

    async def _box(self, box: Box, request: web.Request) -> Letters:
        before = request.query.get("before")
        return await self._clerk.box(box, _filter(request), limit_of(request), before)

    async def _dead(self, request: web.Request) -> web.Response:
        return as_json(await self._clerk.dead(_filter(request), limit_of(request)))

    async def _message(self, request: web.Request) -> web.Response:
        return as_json(await self._clerk.letter(request.match_info["message"]))

    async def _retry(self, request: web.Request) -> web.Response:
        mended: list[Mended] = await self._clerk.retry(await _names(request))
        return as_json(mended)

    async def _drop(self, request: web.Request) -> web.Response:
        mended: list[Mended] = await self._clerk.drop(await _names(request))
        return as_json(mended)

    async def _gaps(self, request: web.Request) -> web.Response:
        account = request.query.get("account")
        return as_json(await self._clerk.gaps(account, limit_of(request)))

    async def _dismiss(self, request: web.Request) -> web.Response:
        text = request.match_info["number"]
        if not text.isdecimal() or len(text) > 18:
            raise Problem(400, f"{text!r} is not the number of a gap", "`holdfast gaps` lists them")
        return as_json(await self._clerk.dismiss(int(text)))

    async def _send(self, request: web.Request) -> web.Response:
        speech = await _body(request, Speech)
        account = request.match_info["name"]
        sent = await self._clerk.send(account, speech.chat, speech.text, speech.anyway)
        return as_json(sent)

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
        raise Problem(400, f"{len(names)} names are given, not 1 to {MOST}")
    return names


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        raise Problem(400, f"the request's body can not be understood: {error}") from None
