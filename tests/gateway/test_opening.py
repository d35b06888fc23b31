"""An account whose desk is not open yet is wanted: everybody hears that it is down, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.config import AlertsConfig, Config
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.opening import LIMIT
from holdfast.gateway.stored import RETRY
from holdfast.observe.alerts import Rules
from holdfast.observe.incidents import Chronicle, End, Incident
from holdfast.observe.status import AccountStatus
from holdfast.store.protocol import Store
from holdfast.supervision import Published, Report
from holdfast.testing import MemoryStore
from tests.gateway.house import config, house, parrot, reach
from tests.gateway.puppets import Puppet, Strings, hooked, via_hook
from tests.gateway.test_reload import READS, Unreadable
from tests.gateway.tools import now, until


class Hanging(MemoryStore):
    """A journal that answers a question only once it is told to."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.answers.set()
        ask = getattr(self, question)

        async def hanging(*args: Any) -> Any:
            await self.answers.wait()
            return await ask(*args)

        setattr(self, question, hanging)


class Defective(MemoryStore):
    """A journal whose reading meets a defect."""

    defect: Exception | None = None

    async def owed(self, account: str) -> Any:
        """See `Store.owed`."""
        if self.defect is not None:
            raise self.defect
        return await super().owed(account)


def two(home: Path, *names: str) -> Config:
    """A configuration in which ``b`` is another than at the start, and further accounts."""
    accounts = [parrot(name, "http://puppet2.invalid", kind=Puppet) for name in ("b", *names)]
    return config(home, parrot("a", "http://puppet.invalid", kind=Puppet), *accounts)


def entry(gateway: Gateway, name: str) -> AccountStatus:
    """An account as it is published now."""
    return gateway.status().accounts[name]


def standing(gateway: Gateway, name: str) -> tuple[str, bool, str]:
    """State, whether a person should look, and the cause's code."""
    found = entry(gateway, name)
    return found.state, found.attention, found.cause.code if found.cause else ""


class Witness:
    """Hears all reports, and folds them as the history does."""

    def __init__(self, gateway: Gateway) -> None:
        self.states: list[tuple[str, str]] = []
        self.incidents: dict[int, Incident] = {}
        self.chronicle = Chronicle()
        gateway.listeners.append(self._heard)

    def _heard(self, account: str, report: Report) -> None:
        self.states.append((account, report.view.published.value))
        self.chronicle.report(account, report, now())
        self.incidents |= self.chronicle.take().incidents

    def of(self, account: str) -> list[tuple[str, End | None]]:
        """Causes and ends of an account's incidents."""
        found = (one for one in self.incidents.values() if one.account == account)
        return [(one.cause.code if one.cause else "", one.end) for one in found]


Play = Callable[[Gateway, Witness], Awaitable[None]]


async def play(home: Path, store: Store, act: Play) -> None:
    """Let something happen at a gateway whose accounts a and b are connected."""
    Puppet.strings = {name: Strings() for name in "abc"}
    accounts = [parrot(name, "http://puppet.invalid", kind=Puppet) for name in "ab"]
    async with house(home, *accounts, store=store) as gateway:
        for name in "ab":
            await reach(gateway, name, Published.CONNECTED)
        await act(gateway, Witness(gateway))


@pytest.mark.parametrize("question", READS)
async def test_a_journal_that_can_not_be_read_is_why_accounts_are_down(
    tmp_path: Path, question: str
) -> None:
    store = Unreadable(question)

    async def act(gateway: Gateway, witness: Witness) -> None:
        store.failures = 1_000_000
        reloading = asyncio.create_task(gateway.reload(two(tmp_path, "c")))
        await asyncio.sleep(20)
        for name in "bc":
            assert standing(gateway, name) == ("retrying", False, "journal_unreadable")
            found = entry(gateway, name)
            assert found.cause is not None
            assert (found.cause.kind, found.cause.retryable) == ("local", True)
            assert found.next_retry_at is not None
            assert found.outage_since == found.since
            assert abs(found.next_retry_at - gateway.status().written_at) <= RETRY
            assert witness.of(name) == [("journal_unreadable", None)]
        assert gateway.summary() == "1 connected, 2 retrying"
        store.failures = 0
        await reloading
        for name in "bc":
            await reach(gateway, name, Published.CONNECTED)
            assert witness.of(name) == [("journal_unreadable", End.RECOVERED)]

    await play(tmp_path, store, act)


@pytest.mark.parametrize("question", [*READS, "receive"])
async def test_a_journal_that_hangs_is_told_after_ten_seconds(
    tmp_path: Path, question: str
) -> None:
    store = Hanging(question)

    async def act(gateway: Gateway, witness: Witness) -> None:
        store.answers.clear()
        reloading = asyncio.create_task(gateway.reload(two(tmp_path)))
        await until(lambda: ("b", "connecting") in witness.states)
        assert standing(gateway, "b") == ("connecting", False, "")
        await asyncio.sleep(LIMIT)
        assert standing(gateway, "b") == ("retrying", False, "journal_unreadable")
        assert witness.of("b") == [("journal_unreadable", None)]
        store.answers.set()
        await reloading
        await reach(gateway, "b", Published.CONNECTED)
        assert witness.of("b") == [("journal_unreadable", End.RECOVERED)]

    await play(tmp_path, store, act)


async def test_a_journal_that_hangs_at_the_start_is_told(tmp_path: Path) -> None:
    Puppet.strings = {"a": Strings()}
    store = Hanging("unhandled")
    store.answers.clear()
    whole = config(tmp_path, parrot("a", "http://puppet.invalid", kind=Puppet))
    gateway = Gateway(whole, store)
    starting = asyncio.create_task(gateway.start())
    await asyncio.sleep(LIMIT + 1)
    assert standing(gateway, "a") == ("retrying", False, "journal_unreadable")
    store.answers.set()
    await starting
    await reach(gateway, "a", Published.CONNECTED)
    await gateway.stop()


async def test_a_desk_that_can_not_be_opened_needs_a_person(tmp_path: Path) -> None:
    store = Defective()

    async def act(gateway: Gateway, witness: Witness) -> None:
        store.defect = ZeroDivisionError("a defect")
        with pytest.raises(ZeroDivisionError):
            await gateway.reload(two(tmp_path))
        assert standing(gateway, "b") == ("fatal", True, "opening_failed")
        cause = entry(gateway, "b").cause
        assert cause is not None
        assert (cause.retryable, cause.who_acts) == (False, "operator")
        assert "ZeroDivisionError: a defect" in cause.message
        assert "holdfast reload" in cause.hint
        await gateway.pause("b")
        assert standing(gateway, "b")[0] == "stopped"
        assert witness.of("b") == [("opening_failed", End.STOPPED)]
        await gateway.resume("b")
        assert standing(gateway, "b") == ("fatal", True, "opening_failed")
        store.defect = None
        await gateway.reload(two(tmp_path))
        await reach(gateway, "b", Published.CONNECTED)
        assert witness.of("b")[1:] == [("opening_failed", End.RECOVERED)]

    await play(tmp_path, store, act)


async def test_what_is_taken_out_unopened_is_down_no_more(tmp_path: Path) -> None:
    store = Defective()

    async def act(gateway: Gateway, witness: Witness) -> None:
        store.defect = ZeroDivisionError("a defect")
        with pytest.raises(ZeroDivisionError):
            await gateway.reload(two(tmp_path))
        await gateway.reload(config(tmp_path, parrot("a", "http://puppet.invalid", kind=Puppet)))
        assert witness.states[-1] == ("b", "stopped")
        assert witness.of("b") == [("opening_failed", End.STOPPED)]

    await play(tmp_path, store, act)


async def test_a_gateway_that_stops_leaves_no_account_retrying(tmp_path: Path) -> None:
    store = Unreadable("owed")

    async def act(gateway: Gateway, witness: Witness) -> None:
        store.failures = 1_000_000
        reloading = asyncio.create_task(gateway.reload(two(tmp_path, "c")))
        await asyncio.sleep(20)
        await gateway.stop()
        assert {one.state for one in gateway.status().accounts.values()} == {"stopped"}
        assert [witness.of(name)[0][1] for name in "bc"] == [End.STOPPED] * 2
        reloading.cancel()
        await asyncio.wait([reloading])

    await play(tmp_path, store, act)


@pytest.mark.parametrize("question", ["owed", "unhandled"])
async def test_a_paused_account_is_off_whatever_the_journal_does(
    tmp_path: Path, question: str
) -> None:
    store = Unreadable(question)

    async def act(gateway: Gateway, witness: Witness) -> None:
        await gateway.pause("b")
        await store.remember("c", "paused", b"1")
        told = len(witness.states)
        store.failures = 10
        await gateway.reload(two(tmp_path, "c"))
        for name in "bc":
            assert (entry(gateway, name).state, entry(gateway, name).paused) == ("stopped", True)
            assert not witness.of(name)
        states = witness.states[told:]
        assert ("b", "retrying") not in states
        assert [state for name, state in states if name == "c"] == ["connecting", "stopped"]

    await play(tmp_path, store, act)


async def test_the_owner_is_told_of_both_with_the_cause(tmp_path: Path) -> None:
    store = Unreadable("owed")

    async def act(gateway: Gateway, witness: Witness) -> None:
        async with hooked() as hook:
            store.failures = 1_000_000
            alerts = AlertsConfig(Rules(), (via_hook(hook),))
            new = replace(two(tmp_path, "c"), alerts=alerts)
            reloading = asyncio.create_task(gateway.reload(new))
            await asyncio.sleep(300)
            (letter,) = hook.taken
            lines = {line["account"]: line["cause"]["code"] for line in letter["accounts"]}
            assert lines == {"b": "journal_unreadable", "c": "journal_unreadable"}
            store.failures = 0
            await reloading

    await play(tmp_path, store, act)
