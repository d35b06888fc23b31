"""Mission rows M5: the gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from holdfast.config import load
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from holdfast.observe import status
from holdfast.supervision import Cause, Kind, Report
from holdfast.testing import MemoryStore
from tests.theatre import theatre, toml

SIMULATORS: dict[str, type[Simulator]] = {
    "telegram": TelegramSimulator,
    "qqbot": QQBotSimulator,
    "matrix": MatrixSimulator,
}


def bad_token(name: str) -> dict[str, str]:
    """What makes an account's credentials wrong."""
    return {
        "telegram": {"token": "42:wrong"},
        "qqbot": {"secret": "wrong"},
        "matrix": {"access_token": "wrong"},
    }[name]


@pytest.mark.parametrize("name", SIMULATORS)
async def test_m5_1_one_fatal_path_for_every_platform(tmp_path: Path, name: str) -> None:
    stage = Stage(name, SIMULATORS[name]())
    async with stage, theatre(tmp_path, stage, accounts={name: bad_token(name)}) as play:
        play.gateway.listeners.clear()  # it works with no handler registered
        await play.until(name, "fatal", timeout=10)
        entry = play.entry(name)
        assert entry.cause is not None
        assert entry.cause.kind == "credentials"
        assert entry.cause.code
        assert entry.cause.message
        assert entry.cause.retryable is False
        assert entry.cause.who_acts == "operator"


@pytest.mark.parametrize("name", SIMULATORS)
async def test_m5_2_wrong_token_stops_that_account_alone(tmp_path: Path, name: str) -> None:
    other = "qqbot" if name == "telegram" else "telegram"
    stage, healthy = Stage(name, SIMULATORS[name]()), Stage(other, SIMULATORS[other]())
    async with stage, healthy:
        # One account of each kind; the first one's secret is in a file that a person will mend.
        secret = tmp_path / "secret"
        key, wrong = next(iter(bad_token(name).items()))
        secret.write_text(wrong)
        right = stage.simulator.account()[key]
        accounts = {name: {key: {"file": str(secret)}}}
        async with theatre(tmp_path, stage, healthy, accounts=accounts) as play:
            await play.until(other, "connected")
            await play.until(name, "fatal", timeout=10)
            assert play.view(name).generation == 1, "fatal within one attempt"
            hint = play.entry(name).cause
            assert hint is not None
            assert hint.hint
            await asyncio.sleep(120)
            assert play.entry(name).state == "fatal"
            assert play.view(name).generation == 1, "nobody asks again for minutes"
            healthy.say()
            await healthy.all_answered()
            assert play.view(other).generation == 1
            # The person mends the secret and reloads: connected, without a restart.
            secret.write_text(right)
            tables = {
                name: {**stage.account(), key: {"file": str(secret)}},
                other: healthy.account(),
            }
            path = tmp_path / "holdfast.toml"
            path.write_text(toml(tables))
            await play.gateway.reload(load(path))
            await play.until(name, "connected", timeout=10)
            assert play.view(other).generation == 1, "the other account was not touched"
            stage.say()
            await play.answered()


@pytest.mark.parametrize("name", SIMULATORS)
async def test_m5_2_revoked_then_restored_and_kicked(tmp_path: Path, name: str) -> None:
    stage = Stage(name, SIMULATORS[name]())
    simulator = stage.simulator
    async with stage, theatre(tmp_path, stage) as play:
        await play.until(name, "connected")
        restore = revoke(simulator)
        await play.until(name, "fatal", timeout=120)
        restore()
        play.gateway.kick(name)
        await play.until(name, "connected", timeout=5)
        stage.say()
        await play.answered()


def revoke(simulator: Simulator) -> Callable[[], object]:
    """Make the credentials invalid; returns how to make the same ones valid again."""
    match simulator:
        case TelegramSimulator():
            simulator.revoke_token()
            return simulator.restore
        case QQBotSimulator():
            secret = simulator.account()["secret"]
            simulator.revoke()
            return lambda: simulator.set_secret(secret)
        case MatrixSimulator():
            token = simulator.token
            simulator.revoke()
            return lambda: simulator.restore(token)
        case _:
            raise TypeError(simulator)


async def test_m5_3_no_name_service_at_start(tmp_path: Path) -> None:
    resolver = LabResolver({"platform.test": ["127.0.0.1"]})
    resolver.fail()
    stages = [Stage(name, simulator()) for name, simulator in SIMULATORS.items()]
    async with stages[0], stages[1], stages[2]:
        accounts = {
            stage.name: {
                key: value.replace("127.0.0.1", "platform.test")
                for key, value in stage.account().items()
                if isinstance(value, str)
            }
            for stage in stages
        }
        async with theatre(tmp_path, *stages, accounts=accounts, resolver=resolver) as play:
            for stage in stages:
                await play.until(stage.name, "retrying", timeout=1)
                view = play.view(stage.name)
                assert view.cause is not None
                assert view.cause.kind is Kind.UNREACHABLE
                assert view.retry_at is not None
                assert view.retry_at - view.at <= 30
            for stage in stages:
                stage.say()
            await asyncio.sleep(90)
            resolver.heal()
            for stage in stages:
                await play.until(stage.name, "connected", timeout=6)
            for stage in stages:
                stage.say()
            await stages[0].all_answered()


async def test_m5_3_back_off_is_exponential_and_capped(tmp_path: Path) -> None:
    async with Stage("mx", MatrixSimulator()) as stage:
        stage.relay.refuse()
        async with theatre(tmp_path, stage, rand=lambda: 1.0, every=5.0) as play:
            waits: list[float] = []
            for attempt in range(1, 14):
                await play.until("mx", "retrying", attempt=attempt, timeout=400)
                view = play.view("mx")
                assert view.retry_at is not None
                waits.append(round(view.retry_at - view.at))
            assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 300, 300, 300, 300]


async def test_m5_4_the_breaker_opens_probes_slowly_and_closes_by_itself(tmp_path: Path) -> None:
    stage = Stage("mx", MatrixSimulator())
    async with stage, theatre(tmp_path, stage, every=5.0) as play:
        await play.until("mx", "connected")
        # Reachable, but broken behind its front door: only attempts can show when it is mended.
        stage.simulator.faults.arm("http_502", times=None)
        await play.until("mx", "retrying", attempt=10, timeout=1_200)
        entry = play.entry("mx")
        assert entry.breaker == "open"
        assert entry.attention
        generation = entry.generation
        await asyncio.sleep(3_600)
        assert 10 <= play.entry("mx").generation - generation <= 14, "one probe each 5 minutes"
        stage.simulator.faults.clear()
        await play.until("mx", "connected", timeout=310)
        assert play.entry("mx").breaker == "half-open"
        await asyncio.sleep(305)
        assert play.entry("mx").breaker == "closed"
        assert play.entry("mx").attempt == 0


async def test_m5_5_the_status_file_is_true(tmp_path: Path) -> None:
    async with Stage("tg", TelegramSimulator()) as stage, theatre(tmp_path, stage) as play:
        path = play.gateway.config.state_dir / status.FILE_NAME
        await play.until("tg", "connected")
        await asyncio.sleep(1)
        document = status.read(path)
        entry = document.accounts["tg"]
        assert entry.state == "connected"
        assert entry.valid_until is not None
        assert status.doubt(document, play.wall()) is None
        assert document.pid == os.getpid()
        stage.relay.refuse()
        await play.until("tg", "retrying", timeout=2)
        await asyncio.sleep(0.1)
        entry = status.read(path).accounts["tg"]
        assert entry.state == "retrying"
        assert entry.attempt == 1
        assert entry.cause is not None
        assert entry.next_retry_at is not None
        assert entry.transport.at is not None
        # Stale-proof: a reader distrusts an old document, a dead writer, and lapsed evidence.
        assert status.doubt(document, now=document.written_at + document.ttl + 1) is not None
        dead = msgspec.structs.replace(document, pid=2**22 + 1)
        assert status.doubt(dead, play.wall()) is not None
        rebooted = msgspec.structs.replace(document, boot_id="another")
        assert status.doubt(rebooted, play.wall()) is not None
        connected = document.accounts["tg"]
        assert connected.valid_until is not None
        assert status.believed(connected, connected.valid_until - 1) == "connected"
        assert status.believed(connected, connected.valid_until + 1) == "retrying"
        assert not list(path.parent.glob("*.tmp")), "written by rename"


HOT: list[tuple[str, str, dict[str, object]]] = [
    ("telegram", "http_502", {}),
    ("telegram", "close_before_answer", {}),
    ("telegram", "malformed_json", {}),
    ("telegram", "conflict", {}),
    ("telegram", "rate_limited", {"retry_after": 1}),
    ("qqbot", "close_after_accept", {"code": 1000}),
    ("qqbot", "close_after_identify", {"code": 4009, "ready": True}),
    ("qqbot", "invalid_session", {"resumable": True}),
    ("qqbot", "invalid_session", {"resumable": False}),
    ("qqbot", "token_500", {}),
    ("matrix", "close_before_answer", {}),
    ("matrix", "bad_since", {}),
    ("matrix", "soft_logout", {}),
    ("matrix", "rate_limited", {"retry_after_ms": 1}),
]


@pytest.mark.parametrize(
    ("name", "fault", "params"),
    HOT,
    ids=[f"{n}-{f}-{len(p)}-{i}" for i, (n, f, p) in enumerate(HOT)],
)
async def test_m5_7_no_hot_loop_on_any_path(
    tmp_path: Path, name: str, fault: str, params: dict[str, object]
) -> None:
    stage = Stage(name, SIMULATORS[name]())
    async with stage, theatre(tmp_path, stage, every=5.0) as play:
        opens: list[float] = []

        def listen(_: str, report: Report) -> None:
            if report.trigger == "retry due":
                opens.append(report.view.at)

        play.gateway.listeners.append(listen)
        await play.until(name, "connected")
        stage.simulator.faults.arm(fault, times=None, **params)
        if isinstance(stage.simulator, QQBotSimulator):  # make the fault's place be reached
            stage.simulator.faults.arm("refuse_resume", times=None)
            stage.simulator.expire_tokens()
        for _ in range(30):
            await asyncio.sleep(60)
            play.gateway.kick(name)  # an impatient operator does not help the hammer either
        worst = max(sum(1 for o in opens if at <= o < at + 60) for at in opens)
        assert worst <= 10
        assert stage.simulator.faults.played[fault] >= 1


async def test_m5_7_other_accounts_are_not_slowed_by_a_storm(tmp_path: Path) -> None:
    sick, well = Stage("telegram", TelegramSimulator()), Stage("matrix", MatrixSimulator())
    async with sick, well, theatre(tmp_path, sick, well) as play:
        sick.simulator.faults.arm("http_502", times=None)
        await play.until("matrix", "connected", timeout=5)
        for _ in range(20):
            began = play.now()
            well.say()
            await well.all_answered()
            assert play.now() - began < 3
            await asyncio.sleep(3)
        assert play.view("matrix").generation == 1


async def test_m5_7_the_waits_of_a_server_survive_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Stage("telegram", TelegramSimulator()) as stage:
        stage.simulator.faults.arm("rate_limited", times=1, retry_after=6_775)
        async with theatre(tmp_path, stage, store=store) as play:
            await play.until("telegram", "retrying", timeout=5)
            view = play.view("telegram")
            assert view.retry_at is not None
            assert view.retry_at - view.at > 6_700
            play.gateway.kick("telegram")
            await asyncio.sleep(100)
            assert play.view("telegram").generation == 1, "a kick does not break the server's word"
        async with theatre(tmp_path, stage, store=store) as play:
            await asyncio.sleep(60)
            view = play.view("telegram")
            assert view.generation == 0
            assert view.retry_at is not None
            assert view.retry_at - view.at > 6_000


def test_m5_1_every_fatal_kind_says_what_to_do() -> None:
    for kind in Kind:
        cause = Cause(kind, "x")
        assert cause.advice
        assert cause.retryable is (kind not in (Kind.CREDENTIALS, Kind.REFUSED, Kind.REPLACED))
