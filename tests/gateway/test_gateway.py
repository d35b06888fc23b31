"""Accounts side by side: none waits for another, and each is reloaded, paused, stopped alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from holdfast.adapter import Health, Outcome, SendFailed, Traits
from holdfast.errors import ConfigError
from holdfast.gateway.gateway import Gateway, UnknownAccount
from holdfast.gateway.watchdog import boot_clock
from holdfast.lab.faults.backlog import FullBacklog
from holdfast.messages import Inbound, Outbound, Receipt
from holdfast.store.protocol import Box, Owed
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Cause, Kind, Published, State
from holdfast.testing import MemoryStore
from tests.gateway.house import config, house, parrot, reach
from tests.gateway.parrot import Aviary, Parrot, mute
from tests.gateway.tools import census, now, until


async def loud(message: Inbound) -> str:
    """An agent."""
    return message.text.upper()


LOUD = "python:tests.gateway.test_gateway:loud"


def generation(gateway: Gateway, name: str) -> int:
    """How many connections an account has had."""
    return gateway.desk(name).account.view().generation


async def test_a_message_is_answered(tmp_path: Path) -> None:
    async with Aviary() as aviary, house(tmp_path, parrot("bot", aviary.url)) as gateway:
        await reach(gateway, "bot", Published.CONNECTED)
        await aviary.say("1", "hello")
        await until(lambda: aviary.sent)
        assert aviary.sent[0]["text"] == "echo: hello"
        entry = gateway.status().accounts["bot"]
        assert (entry.state, entry.inbox, entry.outbox) == ("connected", 0, 0)


class Revoked(Parrot):
    """Its token is refused in every call, and its socket lives on."""

    valid = False

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        if not self.valid:
            raise SendFailed(Outcome.NOT_SENT, Cause(Kind.CREDENTIALS, "parrot_revoked"))
        return await super().send(message)

    async def check(self) -> Health:
        """See `Adapter.check`."""
        bad = Cause(Kind.CREDENTIALS, "parrot_revoked", "the token was revoked")
        return Health(cause=None if self.valid else bad)


async def test_a_token_refused_on_a_send_is_fatal_while_its_socket_still_lives(
    tmp_path: Path,
) -> None:
    async with Aviary() as aviary:
        account = parrot("bot", aviary.url, kind=Revoked)
        async with house(tmp_path, account) as gateway:
            await reach(gateway, "bot", Published.CONNECTED)
            await aviary.say("1", "hello")
            await reach(gateway, "bot", Published.FATAL, 60)
            desk = gateway.desk("bot")
            assert isinstance(desk.account.adapter, Revoked)
            desk.account.adapter.valid = True
            gateway.kick("bot")
            await reach(gateway, "bot", Published.CONNECTED)
            await until(lambda: aviary.sent)
            assert aviary.sent[0]["text"] == "echo: hello"


async def test_an_account_that_hangs_at_its_start_holds_up_no_other(tmp_path: Path) -> None:
    async with Aviary() as aviary:
        with FullBacklog() as full:
            hanging = parrot("hangs", f"http://127.0.0.1:{full.port}")
            began = now()
            async with house(tmp_path, hanging, parrot("well", aviary.url)) as gateway:
                await reach(gateway, "well", Published.CONNECTED, 5)
                await aviary.say("1", "hello")
                await until(lambda: aviary.sent, 5)
                assert now() - began < 5
                assert gateway.desk("hangs").account.view().state is State.CONNECTING


class Slept:
    """The machine sleeps between two pulses."""

    def __init__(self, seconds: float) -> None:
        self.naps = [0.0, seconds]

    def slept(self) -> float:
        """See `SuspendDetector.slept`."""
        return self.naps.pop() if self.naps else 0.0


async def test_a_suspend_puts_every_connection_in_doubt(tmp_path: Path) -> None:
    async with Aviary() as aviary:
        accounts = [parrot(name, aviary.url) for name in ("a", "b")]
        async with house(tmp_path, *accounts) as gateway:
            for name in ("a", "b"):
                await reach(gateway, name, Published.CONNECTED)
            heard: list[str] = []
            for name in ("a", "b"):
                account = gateway.desk(name).account
                account._on_report = lambda a, r: heard.append(f"{a.name} {r.trigger}")
            gateway._suspend = Slept(600.0)  # type: ignore[assignment]
            await asyncio.sleep(2)
            assert {"a silence or wake-up", "b silence or wake-up"} <= set(heard)
            assert {"a proof of life", "b proof of life"} <= set(heard)
            assert (generation(gateway, "a"), generation(gateway, "b")) == (1, 1)


async def test_a_night_of_sleep_is_no_slow_detection(tmp_path: Path) -> None:
    async with Aviary() as aviary, house(tmp_path, parrot("a", aviary.url)) as gateway:
        await reach(gateway, "a", Published.CONNECTED)
        gateway._suspend = Slept(28_800.0)  # type: ignore[assignment]
        await asyncio.sleep(10)
        totals = gateway.reading().totals
        assert ("a", "retrying", "") in totals.transitions
        assert totals.detection == {}
        assert totals.recovery["parrot"].counts[-1] == 1


async def test_its_start_is_told_by_the_clock_that_nobody_can_set(tmp_path: Path) -> None:
    before = boot_clock()
    async with house(tmp_path) as gateway:
        began = gateway.status().started_boot
        assert began is not None
        assert before <= began <= boot_clock()
        await asyncio.sleep(3_600)
        assert gateway.status().started_boot == began


# -- reload ---------------------------------------------------------------------------------------


async def test_a_reload_touches_only_what_changed(tmp_path: Path) -> None:
    async with Aviary() as aviary:
        url = aviary.url
        names = ("same", "changed", "gone", "talk")
        async with house(tmp_path, *(parrot(name, url) for name in names)) as gateway:
            for name in names:
                await reach(gateway, name, Published.CONNECTED)
            before = {name: gateway.desk(name).account for name in names}
            done = await gateway.reload(
                config(
                    tmp_path,
                    parrot("same", url),
                    parrot("changed", url, policy={"backoff_cap": 30.0}),
                    parrot("talk", url, agent=LOUD),
                    parrot("new", url),
                )
            )
            assert sorted(done) == [
                "changed: restarted",
                "gone: removed",
                "new: added",
                "talk: agent changed, connection untouched",
            ]
            assert set(gateway.desks) == {"same", "changed", "talk", "new"}
            for name in ("changed", "new"):
                await reach(gateway, name, Published.CONNECTED)
            for name in ("same", "talk"):
                assert gateway.desk(name).account is before[name]
                assert generation(gateway, name) == 1
            assert gateway.desk("changed").account is not before["changed"]
            assert before["gone"].view().state is State.STOPPED
            await until(lambda: aviary.open == 4)
            talk = gateway.desk("talk").account
            await talk.accept((Inbound(id="9", chat="c", sender="u", text="hey"),), {})
            await until(lambda: aviary.sent)
            assert aviary.sent[-1]["text"] == "HEY"


@pytest.mark.parametrize(
    "mistake",
    [{"agent": "python:no.such.module:agent"}, {"agent": "nonsense"}, {"bot": "a"}],
    ids=["module", "agent", "identity"],
)
async def test_a_bad_configuration_changes_nothing(tmp_path: Path, mistake: dict[str, Any]) -> None:
    async with Aviary() as aviary:
        url = aviary.url
        async with house(tmp_path, parrot("a", url), parrot("b", url)) as gateway:
            for name in ("a", "b"):
                await reach(gateway, name, Published.CONNECTED)
            before = await census()
            old = gateway.config
            with pytest.raises(ConfigError):
                await gateway.reload(
                    config(tmp_path, parrot("a", url, agent=LOUD), parrot("b", url, **mistake))
                )
            assert gateway.config is old
            assert [generation(gateway, name) for name in ("a", "b")] == [1, 1]
            assert (await census()).tasks == before.tasks
            await aviary.say("1", "still echo")
            await until(lambda: aviary.sent)
            assert aviary.sent[-1]["text"] == "echo: still echo"


async def test_two_accounts_with_one_credential_do_not_start(tmp_path: Path) -> None:
    before = await census()
    with pytest.raises(ConfigError, match="same credentials"):
        async with house(
            tmp_path, parrot("a", "http://x", bot="one"), parrot("b", "http://x", bot="one")
        ):
            raise AssertionError
    assert await census() == before


# -- operators ------------------------------------------------------------------------------------


async def test_a_pause_survives_a_restart_and_keeps_replies(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Aviary() as aviary:
        accounts = [parrot("a", aviary.url), parrot("b", aviary.url)]
        async with house(tmp_path, *accounts, store=store) as gateway:
            await reach(gateway, "a", Published.CONNECTED)
            await gateway.pause("a")
            assert gateway.status().accounts["a"].paused
        async with house(tmp_path, *accounts, store=store) as gateway:
            await reach(gateway, "b", Published.CONNECTED)
            await asyncio.sleep(60)
            assert gateway.desk("a").account.view().state is State.STOPPED
            account = gateway.desk("a").account
            await account.accept((Inbound(id="1", chat="c", sender="u", text="x"),), {})
            await asyncio.sleep(60)
            assert aviary.sent == []
            await gateway.resume("a")
            await reach(gateway, "a", Published.CONNECTED)
            await until(lambda: aviary.sent)
        async with house(tmp_path, *accounts, store=store) as gateway:
            await reach(gateway, "a", Published.CONNECTED)


async def test_a_resume_that_the_journal_does_not_take_changes_nothing(tmp_path: Path) -> None:
    from holdfast.errors import StoreError

    store = MemoryStore()
    async with Aviary() as aviary, house(tmp_path, parrot("a", aviary.url), store=store) as home:
        await reach(home, "a", Published.CONNECTED)
        await home.pause("a")
        store.fail = StoreError("store_full", "there is no room left")
        with pytest.raises(StoreError):
            await home.resume("a")
        entry = home.status().accounts["a"]
        assert (entry.state, entry.paused) == ("stopped", True)
        store.fail = None
        await home.resume("a")
        await reach(home, "a", Published.CONNECTED)


async def test_a_pause_or_resume_beside_a_reload_is_of_the_new_desk(tmp_path: Path) -> None:
    class Slow(MemoryStore):
        async def remember(self, account: str, key: str, value: bytes) -> None:
            if key == "paused":
                await asyncio.sleep(6)
            await super().remember(account, key, value)

    async with (
        Aviary() as aviary,
        house(tmp_path, parrot("a", aviary.url), store=Slow()) as gateway,
    ):
        await reach(gateway, "a", Published.CONNECTED)
        for paused, policy in ((True, "hold"), (False, "drop")):
            act = gateway.pause if paused else gateway.resume
            acting = asyncio.create_task(act("a"))
            await asyncio.sleep(1)
            await gateway.reload(config(tmp_path, parrot("a", aviary.url, ambiguous=policy)))
            await acting
            await asyncio.sleep(60)
            entry = gateway.status().accounts["a"]
            assert (entry.paused, entry.state == "stopped") == (paused, paused)
            assert aviary.open == (0 if paused else 1)


async def test_a_changed_account_stays_paused_over_its_reload(tmp_path: Path) -> None:
    async with Aviary() as aviary, house(tmp_path, parrot("a", aviary.url)) as gateway:
        await reach(gateway, "a", Published.CONNECTED)
        await gateway.pause("a")
        await gateway.reload(config(tmp_path, parrot("a", aviary.url, ambiguous="hold")))
        await asyncio.sleep(60)
        assert gateway.status().accounts["a"].paused
        assert aviary.open == 0


async def test_what_is_posted_is_sent_whoever_gives_up_waiting(tmp_path: Path) -> None:
    class Slow(MemoryStore):
        async def post(self, account: str, messages: Sequence[Outbound]) -> list[Owed]:
            owed = await super().post(account, messages)
            await asyncio.sleep(5)
            return owed

    async with Aviary() as aviary:
        async with house(tmp_path, parrot("a", aviary.url), store=Slow()) as gateway:
            await reach(gateway, "a", Published.CONNECTED)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await gateway.post("a", [Outbound(key="k", chat="c", text="hello")])
            await asyncio.sleep(10)
            assert [told["text"] for told in aviary.sent] == ["hello"]


async def test_a_kick_ends_a_wait(tmp_path: Path) -> None:
    async with Aviary() as aviary:
        aviary.script.extend([mute] * 3)
        async with house(tmp_path, parrot("a", aviary.url)) as gateway:
            await gateway.desk("a").account.until(lambda v: v.attempt >= 3)
            gateway.kick("a")
            began = now()
            await reach(gateway, "a", Published.CONNECTED)
            assert now() - began < 1
        with pytest.raises(UnknownAccount, match="'nobody'; there are: a"):
            gateway.kick("nobody")


async def test_a_journal_that_fails_disturbs_no_connection_and_is_told(tmp_path: Path) -> None:
    from holdfast.errors import StoreError

    store = MemoryStore()
    async with Aviary() as aviary, house(tmp_path, parrot("a", aviary.url), store=store) as home:
        await reach(home, "a", Published.CONNECTED)
        store.fail = StoreError("disk_full", "no space left")
        await aviary.talks[-1].close()
        await home.desk("a").account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
        await asyncio.sleep(1)
        assert "disk_full" in home.status().store
        store.fail = None
        home.kick("a")
        await home.desk("a").account.until(lambda v: v.generation == 3 and v.state is State.LIVE)
        await asyncio.sleep(1)
        assert home.status().store == "ok"


async def test_a_trouble_of_the_journal_is_told_no_longer_than_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.errors import StoreError

    class Full(MemoryStore):
        prunings = 0

        async def prune(
            self, older_than: float | None = None, longer: Mapping[str, float] | None = None
        ) -> int:
            self.prunings += 1
            raise StoreError("store_full", "there is no room left")

    store = Full()
    async with Aviary() as aviary, house(tmp_path, parrot("a", aviary.url), store=store) as home:
        await reach(home, "a", Published.CONNECTED)
        await asyncio.sleep(10)
        monkeypatch.setattr("holdfast.gateway.gateway.PRUNE_EVERY", 5.0)
        await until(lambda: store.prunings == 3)
        assert home.status().store == "ok"


class Patient(Parrot):
    """A parrot whose platform repeats for days."""

    traits: ClassVar[Traits] = replace(Parrot.traits, repeats=8 * 86_400.0)


async def test_what_a_platform_may_repeat_is_recognised_as_long(tmp_path: Path) -> None:
    wall, said = 1e9, Inbound(id="1", chat="c", sender="s", text="order")
    store = await SqliteStore.open(tmp_path / "j.db", clock=lambda: wall)
    for account in ("a", "b"):
        [row] = await store.receive(account, [said], None)
        await store.finish(row.row, [])
    wall += 2 * 86_400.0

    async def left() -> list[str]:
        return [entry.account for entry in await store.entries(Box.INBOX)]

    async with Aviary() as aviary:
        accounts = parrot("a", aviary.url, kind=Patient), parrot("b", aviary.url)
        async with house(tmp_path, *accounts, store=store):
            async with asyncio.timeout(60):
                while "b" in await left():  # noqa: ASYNC110 - no event tells of a pruning
                    await asyncio.sleep(1)
            assert await left() == ["a"]
            assert await store.receive("a", [said], None) == []
