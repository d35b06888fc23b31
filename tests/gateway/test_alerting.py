"""Alerts reach their owner through another account, a web hook or a command, whatever is down."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.adapter import Continuity
from holdfast.config import AccountWay, AlertsConfig
from holdfast.errors import ConfigError, StoreError
from holdfast.messages import Inbound, Outbound
from holdfast.observe.alerts import Rules
from holdfast.store.protocol import OutboxState
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Cause, Kind, Published
from holdfast.testing import MemoryStore
from tests.gateway.house import reach
from tests.gateway.puppets import GONE, REVOKED, Stage, all_up, hooked, stage, via_hook


class Kept(MemoryStore):
    """A journal that writes down what it is to remember."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    async def remember(self, account: str, key: str, value: bytes) -> None:
        """See `Store.remember`."""
        self.kept.append(key)
        await super().remember(account, key, value)


# -- through another account ----------------------------------------------------------------------


async def test_a_lost_account_is_told_by_another_one_and_so_is_its_return(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(GONE)
        await asyncio.sleep(170)
        assert play.told("b") == []
        await asyncio.sleep(60)
        (down,) = play.told("b")
        assert down.startswith("owner: a (puppet) is down, for 3 min 30 s; why: nobody is there")
        await asyncio.sleep(500)
        play.strings["a"].mend()
        gateway.kick("a")
        wall = 1e9 + asyncio.get_running_loop().time()
        await reach(gateway, "a", Published.CONNECTED)
        link = play.strings["a"].links[-1]
        for i in range(37):
            await link.deliver(Inbound(id=f"m{i}", chat="c", sender="u", text="?", at=wall - 100))
        await link.deliver(Inbound(id="new", chat="c", sender="u", text="?", at=wall + 2))
        await asyncio.sleep(100)
        assert play.told("b")[1:] == [
            "owner: a (puppet) is back after 12 min 10 s, 37 messages caught up"
        ]
        assert not any("puppet" in said for said in play.told("a"))


async def test_an_account_never_tells_of_itself_and_the_next_one_does(tmp_path: Path) -> None:
    ways = [AccountWay(account=name, chat="owner") for name in ("a", "b", "c")]
    play = stage(tmp_path, *ways, accounts=("a", "b", "c"))
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(60)
        assert play.told("a") == []
        assert len(play.told("b")) == 1
        assert "a (puppet) needs you" in play.told("b")[0]
        play.strings["b"].fail(REVOKED)
        await asyncio.sleep(60)
        assert len(play.told("b")) == 1
        assert "b (puppet) needs you" in play.told("c")[0]


async def test_a_chat_that_the_platform_refuses_is_passed_over(tmp_path: Path) -> None:
    ways = [AccountWay(account=name, chat="owner") for name in ("b", "c")]
    play = stage(tmp_path, *ways, accounts=("a", "b", "c"))
    play.strings["b"].refuses = Cause(Kind.REFUSED, "puppet_chat", "there is no such chat")
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(60)
        assert "a (puppet) needs you" in play.told("c")[0]
        states = [row.state for row in play.store.outbox.values()]
        assert sorted(states) == [OutboxState.DEAD, OutboxState.SENT]


async def test_a_test_that_is_refused_leaves_nothing_to_clear_up(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    play.strings["b"].refuses = Cause(Kind.REFUSED, "puppet_chat", "there is no such chat")
    async with play.playing() as gateway:
        await all_up(gateway)
        (tried,) = await gateway.alerting.test()
        assert not tried.worked
        assert "there is no such chat" in tried.detail
        assert [row.state for row in play.store.outbox.values()] == [OutboxState.DROPPED]


async def test_an_account_that_is_back_meanwhile_does_not_say_that_it_is_down(
    tmp_path: Path,
) -> None:
    ways = [AccountWay(account=name, chat="owner") for name in ("b", "a", "c")]
    play = stage(tmp_path, *ways, accounts=("a", "b", "c"))
    play.strings["b"].hangs = True
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(40)
        play.strings["a"].mend()
        gateway.kick("a")
        await asyncio.sleep(40)
        assert "a (puppet) needs you" in play.told("c")[0]
        assert not any("needs you" in said for said in play.told("a"))


async def test_what_the_platform_does_not_replay_is_told_with_the_end(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    play.strings["a"].continuity = Continuity.FRESH
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(60)
        play.strings["a"].mend()
        gateway.kick("a")
        await asyncio.sleep(100)
        assert play.told("b")[1].endswith(
            "messages of that time may be missing, see `holdfast gaps`"
        )


async def test_accounts_that_fall_together_are_one_message(tmp_path: Path) -> None:
    names = tuple(f"a{i}" for i in range(10))
    play = stage(tmp_path, AccountWay(account="ops", chat="owner"), accounts=(*names, "ops"))
    async with play.playing() as gateway:
        await all_up(gateway)
        for name in names:
            play.strings[name].fail(GONE)
            await asyncio.sleep(1)
        await asyncio.sleep(400)
        (said,) = play.told("ops")
        assert said.count(" is down, for ") == 10


async def test_when_nobody_can_be_told_only_the_end_is_told(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    async with play.playing() as gateway:
        await all_up(gateway)
        for strings in play.strings.values():
            strings.fail(GONE)
        await asyncio.sleep(3600)
        assert play.told("b") == []
        for name, strings in play.strings.items():
            strings.mend()
            gateway.kick(name)
        await asyncio.sleep(120)
        (said,) = play.told("b")
        assert said.splitlines() == [
            "owner: a (puppet) is back after 1 h",
            "b (puppet) is back after 1 h",
        ]


async def test_an_alert_waits_for_an_account_and_is_told_at_once_when_it_is_there(
    tmp_path: Path,
) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    async with play.playing() as gateway:
        await all_up(gateway)
        await gateway.pause("b")
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(1000)
        assert play.told("b") == []
        await gateway.resume("b")
        await reach(gateway, "b", Published.CONNECTED)
        await asyncio.sleep(5)
        assert "a (puppet) needs you" in play.told("b")[0]


# -- what is no alert -----------------------------------------------------------------------------


async def test_a_pause_a_reload_and_a_stop_tell_nothing(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    async with play.playing() as gateway:
        await all_up(gateway)
        await gateway.pause("a")
        await asyncio.sleep(4000)
        await gateway.resume("a")
        await gateway.reload(replace(play.config, accounts={"b": play.config.accounts["b"]}))
        await asyncio.sleep(4000)
    assert play.told("b") == []
    assert await play.store.recall("", "alerts") is not None


async def test_an_account_that_was_removed_begins_anew(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(60)
        assert len(play.told("b")) == 1
        await gateway.reload(replace(play.config, accounts={"b": play.config.accounts["b"]}))
        await asyncio.sleep(60)
        play.strings["a"].mend()
        await gateway.reload(play.config)
        await asyncio.sleep(600)
        assert len(play.told("b")) == 1


async def test_without_a_table_nothing_is_told_and_a_reload_begins_it(tmp_path: Path) -> None:
    play = stage(tmp_path)
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(4000)
        assert play.told("b") == []
        with pytest.raises(ConfigError, match=r"\[alerts\].*there is no such table"):
            await gateway.alerting.test()
        to = (AccountWay(account="b", chat="owner"),)
        await gateway.reload(replace(play.config, alerts=AlertsConfig(Rules(), to)))
        await asyncio.sleep(120)
        assert "a (puppet) needs you" in play.told("b")[0]


async def test_what_changes_nothing_is_not_written(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    play.store = store = Kept()
    async with play.playing() as gateway:
        await all_up(gateway)
        await asyncio.sleep(10)
        store.kept.clear()
        for _ in range(20):
            gateway.desk("a").account.woke(0.0)
            await asyncio.sleep(5)
            play.strings["a"].links[-1].alive()
            await asyncio.sleep(5)
        assert "alerts" not in store.kept


# -- restarts -------------------------------------------------------------------------------------


async def test_a_restart_tells_nothing_twice_and_still_tells_the_end(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(GONE)
        await asyncio.sleep(300)
    assert len(play.told("b")) == 1
    await asyncio.sleep(60)
    async with play.playing() as gateway:
        await asyncio.sleep(1800)
        assert len(play.told("b")) == 1
        play.strings["a"].mend()
        gateway.kick("a")
        await asyncio.sleep(120)
    assert play.told("b")[1:] == ["owner: a (puppet) is back after 36 min"]


async def test_an_alert_that_was_not_delivered_is_by_the_next_process_under_its_id(
    tmp_path: Path,
) -> None:
    async with hooked() as hook:
        play = stage(tmp_path, via_hook(hook))
        hook.answers = [503] * 8
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(100)
        assert len(hook.tries) >= 4
        hook.answers = []
        async with play.playing():
            await asyncio.sleep(100)
    assert [one["accounts"][0]["what"] for one in hook.taken] == ["fatal"]
    assert len({headers["webhook-id"] for _, headers, _ in hook.tries}) == 1


async def test_an_alert_is_in_the_journal_before_it_leaves_and_gone_afterwards(
    tmp_path: Path,
) -> None:
    async with hooked() as hook:
        play = stage(tmp_path, via_hook(hook))
        hook.store = play.store
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(60)
            afterwards = await play.store.recall("", "alerts")
    (kept,) = hook.kept
    assert hook.tries[0][1]["webhook-id"].encode() in kept
    assert b"puppet_401" in kept
    assert afterwards is not None
    assert b"puppet_401" not in afterwards


async def take_journal(play: Stage, path: Path) -> None:
    """A real one, whose clock is the gateway's."""
    loop = asyncio.get_running_loop()
    journal = await SqliteStore.open(path, clock=lambda: 1e9 + loop.time())
    play.store = journal  # type: ignore[assignment]


async def test_an_alert_that_waits_for_long_is_sent_once_and_holds_up_nobody(
    tmp_path: Path,
) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    await take_journal(play, tmp_path / "j.db")
    play.strings["b"].busy = 200.0
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(150)  # it was delivered again after a minute, and after two
        assert gateway.status().accounts["b"].outbox == 1
        play.strings["b"].busy = 0.0
        await asyncio.sleep(300)
        await gateway.post("b", [Outbound(key="later", chat="owner", text="later")])
        await asyncio.sleep(60)
        assert gateway.status().accounts["b"].outbox == 0
    alert, later = play.told("b")
    assert alert.startswith("owner: a (puppet) needs you")
    assert later == "owner: later"


async def test_an_alert_that_a_restart_finds_in_the_outbox_is_sent_once(tmp_path: Path) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    await take_journal(play, tmp_path / "j.db")
    play.strings["b"].busy = 45.0
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(45)
    await take_journal(play, tmp_path / "j.db")
    play.strings["b"].busy = 0.0
    async with play.playing() as gateway:
        await reach(gateway, "b", Published.CONNECTED)
        await asyncio.sleep(600)
        await gateway.post("b", [Outbound(key="later", chat="owner", text="later")])
        await asyncio.sleep(60)
        assert gateway.status().accounts["b"].outbox == 0
    assert [told[:17] for told in play.told("b")] == ["owner: a (puppet)", "owner: later"]


async def test_what_is_kept_of_another_version_is_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    play = stage(tmp_path, AccountWay(account="b", chat="owner"))
    await play.store.remember("", "alerts", b"\xc1")
    async with play.playing() as gateway:
        await all_up(gateway)
        play.strings["a"].fail(REVOKED)
        await asyncio.sleep(60)
    assert len(play.told("b")) == 1
    assert "what was told before is not known" in caplog.text


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_journal_in_trouble_does_not_keep_an_alert_back(
    tmp_path: Path, hangs: bool
) -> None:
    class Troubled(MemoryStore):
        async def remember(self, account: str, key: str, value: bytes) -> None:
            if hangs:
                await asyncio.Event().wait()
            raise StoreError("store_full", "the disk is full")

    async with hooked() as hook:
        play = stage(tmp_path, via_hook(hook))
        play.store = Troubled()
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(60)
            assert len(hook.taken) == 1
