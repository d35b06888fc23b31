"""Mission rows M2: the QQ bot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.stage import Stage
from holdfast.supervision import Report
from tests.theatre import Theatre, theatre

DAY = 86_400.0


class Opens:
    """Dates of every attempt of an account."""

    def __init__(self, play: Theatre, name: str = "qq") -> None:
        self.at: list[float] = []
        self._name = name
        play.gateway.listeners.append(self._listen)

    def _listen(self, name: str, report: Report) -> None:
        if name == self._name and report.trigger == "retry due":
            self.at.append(report.view.at)

    def most_in(self, window: float) -> int:
        """The largest number of attempts in any window of so many seconds."""
        return max(
            (sum(1 for other in self.at if at <= other < at + window) for at in self.at),
            default=0,
        )


def arm_throttled(stage: Stage) -> None:
    for moment in ("close_after_identify", "close_on_resume"):
        stage.simulator.faults.arm(moment, times=None, code=4008)
    stage.relay.rst()


def arm_close_code(stage: Stage) -> None:
    stage.simulator.faults.arm("close_after_accept", times=None, code=4900)
    stage.relay.rst()


def arm_exception(stage: Stage) -> None:
    stage.relay.refuse()


PATHS = [
    pytest.param(arm_throttled, "qq_close_4008", id="rate-limit"),
    pytest.param(arm_close_code, "qq_close_4900", id="close-code"),
    pytest.param(arm_exception, "unreachable", id="exception"),
]


@pytest.mark.parametrize(("inflict", "code"), PATHS)
async def test_m2_1_whatever_ends_the_listen_loop_is_heard(
    tmp_path: Path, inflict: Callable[[Stage], None], code: str
) -> None:
    async with Stage("qq", QQBotSimulator()) as stage, theatre(tmp_path, stage) as play:
        await play.until("qq", "connected")
        began = play.now()
        inflict(stage)
        await play.until("qq", "retrying", timeout=2)
        await play.until("qq", "retrying", attempt=3, timeout=900)
        entry = play.entry("qq")
        assert entry.cause is not None
        assert code in entry.cause.code + entry.cause.message
        assert entry.cause.retryable
        stage.simulator.faults.clear()
        stage.relay.heal()
        await play.until("qq", "connected", timeout=310)
        assert "fatal" not in play.seen("qq", began)
        stage.say()
        await play.answered()


@pytest.mark.slow
@pytest.mark.parametrize(("inflict", "code"), PATHS)
async def test_m2_2_exhaustion_is_published_and_the_retries_go_on(
    tmp_path: Path, inflict: Callable[[Stage], None], code: str
) -> None:
    async with Stage("qq", QQBotSimulator()) as stage:
        async with theatre(tmp_path, stage, every=60.0) as play:
            await play.until("qq", "connected")
            inflict(stage)
            await play.until("qq", "retrying", attempt=99, timeout=DAY)
            before = play.entry("qq").escalation
            assert before is None or before.code != "qq_reconnect_exhausted"
            await play.until("qq", "retrying", attempt=100, timeout=3_600)
            entry = play.entry("qq")
            assert entry.escalation is not None
            assert entry.escalation.code == "qq_reconnect_exhausted"
            assert entry.escalation.retryable
            assert code in entry.escalation.message
            assert entry.attention
            assert entry.state == "retrying"
            await play.until("qq", "retrying", attempt=110, timeout=2 * 3_600)


QUICK = [
    pytest.param({"code": 4009, "ready": True}, id="recycled"),
    pytest.param({"code": 4900, "ready": True}, id="session"),
    pytest.param({"code": 1000, "ready": True}, id="normal-close"),
]


@pytest.mark.parametrize("params", QUICK)
async def test_m2_3_quick_disconnects_reset_nothing_and_are_a_fault(
    tmp_path: Path, params: dict[str, object]
) -> None:
    async with Stage("qq", QQBotSimulator()) as stage, theatre(tmp_path, stage, every=5.0) as play:
        stage.simulator.faults.arm("close_after_identify", times=None, **params)
        stage.simulator.faults.arm("close_on_resume", times=None, code=params["code"])
        opens = Opens(play)
        attempts: list[int] = []
        play.gateway.listeners.append(lambda _, report: attempts.append(report.view.attempt))
        async with asyncio.timeout(600):
            await play.gateway.desk("qq").account.until(lambda view: view.flapping)
        entry = play.entry("qq")
        assert entry.flapping
        assert entry.escalation is not None
        assert entry.escalation.code == "qq_quick_disconnect"
        assert f"qq_close_{params['code']}" in entry.escalation.message
        await asyncio.sleep(3_600)
        assert attempts == sorted(attempts), "a counter was reset by a mere connect"
        last_hour = [at for at in opens.at if at > play.now() - 3_000]
        assert len(last_hour) <= 12, "retries were not slowed down"


@pytest.mark.slow
async def test_m2_3_a_day_of_accept_and_close_stays_within_every_budget(tmp_path: Path) -> None:
    async with Stage("qq", QQBotSimulator()) as stage:
        async with theatre(tmp_path, stage, every=60.0) as play:
            stage.simulator.faults.arm("close_after_identify", times=None, code=4900, ready=True)
            opens = Opens(play)
            await asyncio.sleep(DAY)
            assert opens.most_in(60.0) <= 10
            assert len(opens.at) >= 250, "it must go on trying"
            assert stage.simulator.count("identify") <= 1_000
            stage.simulator.faults.clear()
            await play.until("qq", "connected", timeout=310)


async def test_m2_4_a_stale_connection_is_ended(tmp_path: Path) -> None:
    simulator = QQBotSimulator()
    simulator.faults.arm("half_open", times=1)
    async with Stage("qq", simulator) as stage, theatre(tmp_path, stage) as play:
        await play.until("qq", "connected")
        seconds = await play.until("qq", "retrying", timeout=125)
        assert seconds <= 61
        entry = play.entry("qq")
        assert entry.cause is not None
        assert entry.cause.code == "qq_silent"
        assert await play.until("qq", "connected", timeout=5) <= 5
        stage.say()
        await play.answered()
        assert stage.lie == 0


async def test_m2_5_three_unacknowledged_heartbeats_end_it(tmp_path: Path) -> None:
    simulator = QQBotSimulator()
    async with Stage("qq", simulator) as stage, theatre(tmp_path, stage) as play:
        await play.until("qq", "connected")
        simulator.faults.arm("no_ack", times=None)
        beats = simulator.count("beat")

        async def chatter() -> None:
            while True:  # cancelled below: inbound bytes, but never an acknowledgement
                stage.say()
                await asyncio.sleep(9.0)

        talk = asyncio.create_task(chatter())
        await play.until("qq", "retrying", timeout=130)
        talk.cancel()
        entry = play.entry("qq")
        assert entry.cause is not None
        assert entry.cause.code == "qq_heartbeat_unacked"
        assert simulator.count("beat") - beats == 3
        simulator.faults.clear()
        await play.until("qq", "connected", timeout=5)
        await play.answered()
        assert simulator.count("identify") == 1, "the session was resumed, not thrown away"


async def test_m2_6_every_connection_has_its_own_heartbeat(tmp_path: Path) -> None:
    simulator = QQBotSimulator()
    async with Stage("qq", simulator) as stage, theatre(tmp_path, stage, every=2.0) as play:
        for _ in range(4):
            await play.until("qq", "connected")
            await asyncio.sleep(100)
            stage.relay.rst()
            await play.until("qq", "retrying", timeout=5)
        await play.until("qq", "connected")
        await asyncio.sleep(100)
        beats = [record for record in simulator.log if record.what == "beat"]
        ended = {r.detail["n"]: r.at for r in simulator.log if r.what == "ws-closed"}
        opened = [r.detail["n"] for r in simulator.log if r.what == "ws-open"]
        assert len(opened) == 5
        for n in opened:
            assert sum(1 for beat in beats if beat.detail["n"] == n) >= 2
        assert all(b.at <= ended.get(b.detail["n"], b.at) for b in beats)


async def test_m2_7_heartbeats_are_visible_to_a_patrol(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulator = QQBotSimulator()
    caplog.set_level(logging.INFO, "holdfast")
    async with Stage("qq", simulator) as stage, theatre(tmp_path, stage, every=10.0) as play:
        await play.until("qq", "connected")
        oldest = 0.0
        for _ in range(720):
            await asyncio.sleep(10)
            entry = play.entry("qq")
            assert entry.state == "connected"
            assert entry.transport.age is not None
            oldest = max(oldest, entry.transport.age)
        # Two silent hours: no message, no reconnect, and a proof never older than a heartbeat.
        assert oldest <= 31
        assert entry.generation == 1
        assert entry.beats >= 230
        assert play.seen("qq", 1_001) == ["connected"]
        lines = [r.getMessage() for r in caplog.records if "alive" in r.getMessage()]
        assert 12 <= len(lines) <= 60


async def test_m2_8_session_timeout_resumes_and_never_spins(tmp_path: Path) -> None:
    simulator = QQBotSimulator()
    async with Stage("qq", simulator) as stage, theatre(tmp_path, stage, every=5.0) as play:
        opens = Opens(play)
        await play.until("qq", "connected")
        for _ in range(6):  # the scheduled end of a session, about every 30 min
            await asyncio.sleep(1_800)
            stage.say()
            await simulator.close_all(4009, "Session timed out")
            stage.say()
            assert await play.until("qq", "retrying", timeout=1) <= 1
            assert await play.until("qq", "connected", timeout=2) <= 2
            await play.answered()
        assert simulator.count("identify") == 1
        assert simulator.count("resumed") == 6
        # And as a storm: every resume is answered by the same close.
        simulator.faults.arm("close_on_resume", times=None, code=4009)
        await simulator.close_all(4009, "Session timed out")
        await asyncio.sleep(3_600)
        assert opens.most_in(60.0) <= 10
        simulator.faults.clear()
        await play.until("qq", "connected", timeout=310)
        assert stage.verdict("qqbot").doubled == 0


async def test_m2_back_within_5_s_after_an_outage_of_2_h(tmp_path: Path) -> None:
    async with Stage("qq", QQBotSimulator()) as stage:
        async with theatre(tmp_path, stage, every=5.0) as play:
            await play.until("qq", "connected")
            fault = stage.strike("cut", stage.relay.cut, limit=60)
            await play.until("qq", "retrying", timeout=61)
            began = play.now()
            await asyncio.sleep(7_200)
            assert play.seen("qq", began) == ["retrying"]
            stage.heal(fault)
            assert await play.until("qq", "connected", timeout=5) <= 5
            stage.say()
            await play.answered()
            assert stage.lie == 0
            gap = play.entry("qq").gap
            assert gap is not None, "QQ can not replay two hours: the gap must be reported"
            assert float(gap["until"]) - float(gap["since"]) >= 7_200
