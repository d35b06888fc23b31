"""Bytes of others that are no UTF-8: wherever they come from, everything can still be written."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.adapter import AdapterError, HttpFailed, Link, Outcome, SendFailed
from holdfast.cli.logs import FORMATS
from holdfast.gateway.classify import classified
from holdfast.messages import Gap, Outbound, Receipt
from holdfast.observe import status as status_file
from holdfast.observe.history import FILE_NAME, Action, History
from holdfast.observe.reporter import transition_of
from holdfast.secrets import Redaction
from holdfast.store.protocol import Box, Transition
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import (
    Cause,
    Ended,
    Kind,
    Open,
    Published,
    Report,
    Start,
    Supervisor,
    preset,
)
from holdfast.testing import run_virtual
from holdfast.web.answers import as_json
from holdfast.web.events import Hub
from tests.gateway.desk import Mouth, Table
from tests.gateway.house import house, parrot, reach
from tests.gateway.parrot import Parrot
from tests.gateway.puppets import Puppet, Strings
from tests.gateway.raw import raw, says
from tests.gateway.tools import now
from tests.store.journal import inbound, outbound

FOREIGN = b"Authentification exig\xe9e".decode("utf-8", "surrogateescape")
SHOWN = "Authentification exig\N{REPLACEMENT CHARACTER}e"

ANY_TEXT = st.text() | st.text(st.sampled_from("aé\ud800\udce9\udfff\U0001f600\0\n"), max_size=30)

NUMBERS = itertools.count()


async def test_a_proxys_latin_1_freezes_no_status(tmp_path: Path) -> None:
    play = says(b"HTTP/1.1 407 Authentification exig\xe9e\r\nContent-Length: 0\r\n\r\n")
    Puppet.strings = {"good": Strings()}
    store = await SqliteStore.open(tmp_path / "j.db")
    async with raw(play) as proxy:
        bad = parrot("bad", "https://parrot.invalid", proxy=proxy.url)
        good = parrot("good", "http://puppet.invalid", kind=Puppet)
        async with house(tmp_path, good, bad, store=store) as gateway:
            await reach(gateway, "good", Published.CONNECTED)
            await asyncio.sleep(600)
            written = status_file.read(gateway._status.path)
            assert 1e9 + now() - written.written_at < status_file.TTL
            cause = written.accounts["bad"].cause
            assert cause is not None
            assert cause.message == f"the proxy answered HTTP 407: {SHOWN}"
            assert written.accounts["good"].state == "connected"
            assert as_json(gateway.status()).status == 200
            assert SHOWN.encode() in Hub(gateway).snapshot()
            assert SHOWN in (await gateway.store.history("bad"))[-1].message
            assert gateway.status().store == "ok"


async def test_a_failed_send_is_tried_again_whatever_the_words(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db", clock=lambda: 1e9 + now())
    table = Table(store=store)  # type: ignore[arg-type]
    cause = Cause(Kind.UNREACHABLE, "proxy", FOREIGN)
    table.mouth.script = [HttpFailed(cause, sent=False), SendFailed(Outcome.REFUSED, cause)]
    table.sender.connected(True)
    owed = [Outbound(key=f"k{n}", chat="c", text=str(n)) for n in range(3)]
    rows = await store.post("bot", owed)
    table.sender.put(rows)
    await table.quiet()
    assert table.mouth.texts() == ["0", "0", "1", "2"]
    refused = await store.entry(Box.OUTBOX, rows[0].row)
    assert refused is not None
    assert refused.reason == f"proxy: {SHOWN}"
    await table.close()
    await store.close()


async def test_a_gap_and_a_step_may_be_called_anything(tmp_path: Path) -> None:
    class Babbler(Parrot):
        async def run(self, link: Link) -> None:
            link.step(FOREIGN)
            link.gap(FOREIGN, since=1e9)
            await asyncio.Event().wait()

    store = await SqliteStore.open(tmp_path / "j.db")
    async with house(tmp_path, parrot("bot", "http://x.invalid", kind=Babbler), store=store) as g:
        await asyncio.sleep(5)
        entry = g.status().accounts["bot"]
        assert (entry.step, (entry.gap or {})["reason"]) == (SHOWN, SHOWN)
        assert [gap.reason for gap in await g.store.gaps("bot")] == [SHOWN]


@given(message=ANY_TEXT, code=ANY_TEXT, hint=ANY_TEXT)
@settings(max_examples=60, deadline=None)
def test_any_words_of_a_cause_can_be_published(message: str, code: str, hint: str) -> None:
    cause = classified(Mouth(), AdapterError(Cause(Kind.LOST, code, message, hint)))
    supervisor = Supervisor(preset("parrot"), lambda: 0.5)
    effects = supervisor.handle(Start(), 0.0)
    generation = next(effect.generation for effect in effects if isinstance(effect, Open))
    reports = [e for e in supervisor.handle(Ended(generation, cause), 1.0) if isinstance(e, Report)]
    entry = status_file.cause_status(reports[-1].view.cause)
    transition = transition_of("bot", reports[-1], 1.0)
    for told in (entry, transition):
        assert msgspec.json.decode(msgspec.json.encode(told)) is not None


@given(words=ANY_TEXT)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_words_can_be_stored(words: str, tmp_path: Path) -> None:
    async def play() -> None:
        store = await SqliteStore.open(tmp_path / "j.db")
        (heard,) = await store.receive("a", [inbound(f"m{next(NUMBERS)}")], None)
        await store.begin(heard.row)
        await store.release(heard.row, words)
        await store.bury(heard.row, words)
        (owed, held) = await store.post("a", [outbound(f"k{next(NUMBERS)}") for _ in range(2)])
        await store.postpone(owed.row, 0.0, words)
        await store.refuse(owed.row, words)
        await store.sent(owed.row, Receipt(words))
        await store.hold(held.row, words)
        await store.record(
            Transition(account="a", at=1.0, state="x", trigger="y", generation=1, message=words)
        )
        await store.add_gap("a", Gap(since=1.0, until=2.0, reason=words))
        assert len(await store.history("a", 1)) == 1
        await store.close()

    run_virtual(play())


@given(words=ANY_TEXT)
@settings(max_examples=30, deadline=None)
def test_any_words_can_be_logged_on_any_stream(words: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "lost code=%s", (words,), None)
    for kind in FORMATS.values():
        line = kind(Redaction()).format(record)
        assert line.encode("utf-8")
    assert json.loads(line)["code"].encode("utf-8") is not None


async def test_an_action_on_a_foreign_path_blocks_no_history(tmp_path: Path) -> None:
    history = History(tmp_path / FILE_NAME)
    await history.start()
    history.act(Action(at=1.0, who="uid 7", what="kick", path=f"/{FOREIGN}", status=404))
    assert [one.path for one in await history.actions()] == [f"/{SHOWN}"]
    assert history.trouble == ""
    await history.stop()
