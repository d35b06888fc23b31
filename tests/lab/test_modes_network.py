"""Words of the modes about the world, ownership and status: they object when they must."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.lab.engine import Outcome, run
from holdfast.lab.fault import Fault
from holdfast.lab.faults.forward_proxy import ForwardProxy
from holdfast.lab.mode import Step
from holdfast.lab.modes import MODES
from holdfast.lab.record import Moment, Record
from holdfast.lab.steps_owning import first_life, second
from holdfast.lab.steps_telling import asked, few_lines, listen_to_log, logged, tells_all
from holdfast.lab.steps_world import by_proxy, explains
from holdfast.lab.subjects import Left, Reading, Told
from holdfast.lab.subjects.inprocess import InProcess


class Talker:
    """A subject that says what it is told to say."""

    def __init__(self, lines: Sequence[str] = (), told: Told | None = None, **reading: Any) -> None:
        self.lines, self.told = [*lines], told
        self.reading = Reading(state="retrying", **reading)

    def log(self) -> str:
        return "\n".join(self.lines)

    def read(self, account: str) -> Reading:
        return self.reading

    async def ask(self) -> Told | None:
        return self.told

    async def second(self, *, shared: bool) -> Told | None:
        return self.told

    def census(self) -> Left:
        return Left(tasks=len(self.lines))


async def objections(
    running: Any, *steps: Step, state: str = "retrying", **notes: Any
) -> list[str]:
    """What steps object to, of a subject that has just said this."""
    record = Record("bot", faults=[Fault("cut", 1.0, noticed=2.0)])
    record.moments = [Moment(at=0.0, state=state, deaf=False)]
    told = [running.reading] if state == "retrying" else []
    seat = SimpleNamespace(name="bot", record=record, told=told)
    notes = {"log": 0, "told": 0, "since": 1.0, **notes}
    scene: Any = SimpleNamespace(running=running, seat=seat, notes=notes, now=lambda: 1.0)
    scene.object = record.broken.append
    for step in steps:
        await step.do(scene)
    return record.broken


RESTORED = "restored account=bot generation=2 after=3600.0s attempts=60"


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([RESTORED], 0),
        (["lost account=bot"] * 19 + [RESTORED], 0),
        (["lost account=bot"] * 20 + [RESTORED], 1),
        (["x" * 1_001, RESTORED], 1),
        (["lost account=bot"], 1),
        ([RESTORED, RESTORED], 1),
    ],
)
async def test_an_hour_is_told_in_few_lines(lines: list[str], wrong: int) -> None:
    assert len(await objections(Talker(lines), few_lines(20))) == wrong


async def test_what_was_logged_before_is_not_looked_at() -> None:
    talker = Talker(["old"] * 50)
    assert len(await objections(talker, listen_to_log(), few_lines(20))) == 1  # no end was told


async def test_why_must_be_in_the_log() -> None:
    talker = Talker(["lost account=bot message='[Errno 24] Too many open files'"])
    assert await objections(talker, logged("too many open files")) == []
    assert await objections(talker, logged("no space")) == ["the log does not say 'no space'"]


async def test_a_failure_without_words_is_no_answer() -> None:
    line = "lost account=bot code=reset message='the connection was reset'"
    whole: dict[str, Any] = {
        "kind": "lost",
        "code": "reset",
        "message": "reset by peer",
        "hint": "wait",
    }
    assert await objections(Talker([line], **whole), tells_all()) == []
    assert len(await objections(Talker([line], **{**whole, "code": "unknown"}), tells_all())) == 1
    assert len(await objections(Talker([line], **{**whole, "message": ""}), tells_all())) == 1
    assert len(await objections(Talker([], **whole), tells_all())) == 1
    written = line.replace("lost ", "time=2026-01-01T00:00:00Z level=warning event=lost ")
    assert await objections(Talker([written], **whole), tells_all()) == []
    vague = "lost account=bot code=reset message=''"
    assert len(await objections(Talker([vague], **whole), tells_all())) == 1


async def test_a_loss_of_which_nothing_was_told_is_no_answer() -> None:
    line = "lost account=bot code=reset message='the connection was reset'"
    talker = Talker([line], kind="lost", code="reset", message="by peer", hint="wait")
    nothing = ["the status names no cause"]
    assert await objections(talker, tells_all(), told=1) == nothing
    assert await objections(talker, tells_all(), state="connecting") == nothing
    assert await objections(talker, tells_all(), state="connected") == []


async def test_words_that_must_be_said() -> None:
    talker = Talker(message="TLS failed: certificate has expired")
    assert await objections(talker, explains("certificate")) == []
    assert len(await objections(talker, explains("proxy"))) == 1


async def test_the_answer_and_its_exit_status_both_count() -> None:
    talker = Talker(told=Told(4, "the gateway (pid 7) is gone"))
    assert await objections(talker, asked("is gone", well=False)) == []
    assert len(await objections(talker, asked("is gone"))) == 1
    assert len(await objections(talker, asked("connected", well=False))) == 1


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (Told(75, "in use by process 12"), 0),
        (Told(75, "in use"), 1),
        (Told(0, "in use by process 12"), 1),
        (None, 1),
    ],
)
async def test_a_second_one_gives_up_and_says_why(told: Told | None, wrong: int) -> None:
    assert len(await objections(Talker(told=told), second(shared=True))) == wrong


async def test_whether_a_proxy_was_asked_is_known() -> None:
    unasked, used = ForwardProxy(), ForwardProxy()
    used.count = 3
    assert await objections(Talker(), by_proxy(True), proxy=used) == []
    assert len(await objections(Talker(), by_proxy(True), proxy=unasked)) == 1
    assert len(await objections(Talker(), by_proxy(False), proxy=used)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "variant"),
    [
        ("ipv6-blackhole", "at the start"),
        ("proxy-mismatch", "a tunnel"),
        ("sleep-wake", "8 h, and no names for 20 s"),
        ("tls-verify-failure", "an unknown issuer"),
        ("captive-html", "status 403"),
    ],
)
def test_the_world_can_be_played(mode: str, variant: str) -> None:
    result = run(MODES[mode], variant, "telegram", InProcess())
    assert (result.outcome, result.reasons) == (Outcome.PASS, ())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["--- 1.0 no kill point", "connected"], []),
        (
            ["--- 1.0 no kill point", "--- 9.0 no kill point"],
            ["a healthy process was ended: 2 lives"],
        ),
        ([], ["a healthy process was ended: 0 lives"]),
    ],
)
async def test_the_end_of_a_healthy_process_is_found(lines: list[str], said: list[str]) -> None:
    assert await objections(Talker(lines), first_life()) == said
