"""Peers as subjects: a program in an environment of its own, run, killed, frozen and judged."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import main
from holdfast.lab.cast import CAST
from holdfast.lab.compare import OTHERS
from holdfast.lab.engine import Outcome, run
from holdfast.lab.judge import judge_ending
from holdfast.lab.mode import Group, Mode
from holdfast.lab.modes import MODES
from holdfast.lab.record import Ending
from holdfast.lab.score import PEER_RUNS, cells
from holdfast.lab.stage import Stage
from holdfast.lab.steps import answered, connected, say, wait
from holdfast.lab.subjects import Left, Reading
from holdfast.lab.subjects.peers import Lives, Peer, State, environment, hermes_state
from holdfast.lab.subjects.registry import HOLDFAST, subject
from holdfast.lab.terms import Ability, Clock, Expect
from tests.gateway.tools import until

ROOT = Path(__file__).parents[2]
PEERS = sorted(OTHERS)

ECHO = """
import json, os, time, urllib.request

BASE = f"{os.environ['TELEGRAM_BASE_URL']}/bot{os.environ['TELEGRAM_TOKEN']}/"

def call(method, **body):
    request = urllib.request.Request(BASE + method, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["result"]

offset = 0
while True:
    try:
        for update in call("getUpdates", offset=offset, timeout=5):
            offset = update["update_id"] + 1
            message = update["message"]
            call("sendMessage", chat_id=message["chat"]["id"], text=f"echo {message['text']}")
    except (OSError, ValueError):
        time.sleep(0.1)
"""
"""A bot that loses nothing: what it has not confirmed is asked for again."""


def planted(root: Path, program: str, *, state: State | None = None) -> Peer:
    """A peer for Telegram with that program, installed below ``root``."""
    peer = Peer("planted", frozenset({"telegram"}), state=state, root=root)
    for path in (peer.program, peer.python):
        path.parent.mkdir(parents=True)
    peer.program.write_text(program)
    peer.python.symlink_to(sys.executable)
    (peer.environment / ".done").touch()
    return peer


@contextlib.asynccontextmanager
async def playing(peer: Peer, home: Path) -> AsyncIterator[tuple[Lives, Stage]]:
    """It on the stage of a play, not started."""
    async with CAST["telegram"].stage("bot") as stage:
        async with peer.run(home, {"bot": stage}, policy={}, gateway={}) as lives:
            yield lives, stage
        assert not lives.alive


def gone(pid: int) -> bool:
    """Whether a process has ended, be it buried by its parent or not."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"


async def hears(stage: Stage, text: str) -> None:
    """A user says something, and is answered."""
    stage.simulator.say(text)
    await stage.simulator.until(lambda: any(h.text.endswith(text) for h in stage.simulator.heard))


# -- what there is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PEERS)
def test_peers_meet_the_platforms_as_they_are(name: str) -> None:
    assert not subject(name, Clock.REAL).hurried
    assert subject(HOLDFAST, Clock.REAL).hurried


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_is_kept_with_its_program_its_version_and_what_was_patched(name: str) -> None:
    folder = ROOT / "peers" / name.rpartition(":")[2]
    compile((folder / "program.py").read_text(), name, "exec")
    pin = (folder / "requirements.txt").read_text()
    assert pin.count("==") == pin.count("\n") == 1
    assert "://" not in pin
    told = (folder / "README.md").read_text()
    assert "## Patched" in told
    assert "## What it does well" in told


def test_a_subject_knows_the_version_it_is_pinned_to() -> None:
    pin = (ROOT / "peers" / "slack-sdk" / "requirements.txt").read_text().strip()
    peer = Peer("sdk:slack-sdk", frozenset({"slack"}), root=ROOT)
    assert f"slack-sdk=={peer.version}" == pin


def test_a_peer_that_is_not_installed_says_by_what_command_it_is(tmp_path: Path) -> None:
    peer = Peer("sdk:parrot", frozenset({"telegram"}), root=tmp_path)
    assert str(peer.missing()).endswith("play peers from a checkout of Holdfast")
    peer.program.parent.mkdir(parents=True)
    peer.program.touch()
    assert peer.missing() == "parrot is not installed: make peers"
    peer.environment.mkdir(parents=True)
    (peer.environment / ".done").touch()
    assert peer.missing() is None


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "score", "--subject", "sdk:slack-sdk"]) == 2
    assert "play peers from a checkout of Holdfast" in capsys.readouterr().err


def test_a_program_learns_its_account_and_nothing_else_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
    told = environment(tmp_path, {"platform": "slack", "bot_token": "xoxb-1"})
    assert told["SLACK_BOT_TOKEN"] == "xoxb-1"
    assert told["HOME"] == told["PEER_HOME"] == str(tmp_path)
    assert told["PATH"] == os.environ["PATH"]
    assert "HTTPS_PROXY" not in told


# -- which modes -----------------------------------------------------------------------------------


def mode(**more: Any) -> Mode:
    """A mode that is nothing but waiting."""
    steps = more.pop("steps", (wait(1.0),))
    return Mode(id="planted", group=Group.STATUS, what="x", variants={"only": steps}, **more)


@pytest.mark.parametrize(
    ("planned", "asked"),
    [
        (mode(), set()),
        (mode(steps=(wait(90.0), wait(90.0))), set()),
        (mode(steps=(wait(90.0), wait(91.0))), {Ability.HOURS}),
        (mode(accounts=2), {Ability.SEVERAL}),
        (mode(account={"backlog": "skip"}), {Ability.SETTINGS}),
        (mode(policy={"stable_after": 5.0}), set()),
    ],
)
def test_what_a_mode_asks_of_a_subject_follows_from_its_data(
    planned: Mode, asked: set[Ability]
) -> None:
    assert planned.needs("only") == asked


def test_a_mode_that_waits_for_hours_is_not_for_a_peer(tmp_path: Path) -> None:
    result = run(mode(steps=(wait(200.0),)), "only", "telegram", planted(tmp_path, ECHO))
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert result.reasons == ("planted can not be waited for longer than 180 s: its time is real",)


def test_holdfast_can_be_waited_for_whatever_the_clock() -> None:
    lasting = {Ability.HOURS, Ability.SEVERAL, Ability.SETTINGS}
    assert all(lasting <= subject(HOLDFAST, clock).abilities for clock in Clock)


def test_a_peer_is_played_on_its_own_platforms_three_times() -> None:
    of_peer = list(cells(["sdk:slack-sdk"], ["reconnect-missing"]))
    assert {cell.platform for cell in of_peer} == {"slack"}
    assert len(of_peer) == PEER_RUNS * len(MODES["reconnect-missing"].variants)
    assert len(set(of_peer)) == len(of_peer)
    once = list(cells(["sdk:slack-sdk", HOLDFAST], ["reconnect-missing"], ["slack"], runs=1))
    assert len(once) == 2 * len(MODES["reconnect-missing"].variants)


# -- lives -----------------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.slow
async def test_a_peer_lives_dies_and_lives_again(tmp_path: Path) -> None:
    async with playing(planted(tmp_path, ECHO), tmp_path) as (lives, stage):
        await lives.start()
        assert lives.alive
        assert lives.census().descriptors > 0
        assert (lives.publishes, lives.read("bot")) == (False, None)
        await hears(stage, "first")
        await lives.kill()
        assert not lives.alive
        await stage.simulator.until(lambda: not stage.simulator.listening())
        await lives.start()
        await hears(stage, "second")
        took = await lives.stop()
        assert 0 < took < 5
        assert not lives.alive
        assert await lives.stop() < 0.1
        assert lives.accidents() == ()


@pytest.mark.real_time
@pytest.mark.slow
async def test_a_frozen_peer_answers_when_it_is_thawed(tmp_path: Path) -> None:
    async with playing(planted(tmp_path, ECHO), tmp_path) as (lives, stage):
        await lives.start()
        await hears(stage, "before")
        await lives.freeze()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await hears(stage, "meanwhile")
        await lives.thaw()
        await hears(stage, "after")
        assert [heard.text.split()[-1] for heard in stage.simulator.heard] == [
            "before",
            "meanwhile",
            "after",
        ]


@pytest.mark.real_time
async def test_an_end_that_nobody_asked_for_is_told_with_the_last_words(tmp_path: Path) -> None:
    peer = planted(tmp_path, 'raise SystemExit("no token\\n")')
    async with playing(peer, tmp_path) as (lives, _):
        await lives.start()
        await until(lambda: not lives.alive)
        assert lives.log() == "no token\n\n"
        await lives.stop()
        assert lives.accidents() == ("it ended by itself with status 1: no token",)


@pytest.mark.real_time
async def test_whatever_a_peer_has_started_ends_with_it(tmp_path: Path) -> None:
    program = 'import subprocess as s; p = s.Popen(["sleep", "60"]); print(p.pid, flush=True)'
    async with playing(planted(tmp_path, program), tmp_path) as (lives, _):
        await lives.start()
        await until(lambda: not lives.alive)
        child = int(lives.log())
        assert not gone(child)
        await lives.stop()
        await until(lambda: gone(child))


@pytest.mark.slow
def test_a_peer_is_judged_by_the_same_modes_as_holdfast(tmp_path: Path) -> None:
    result = run(MODES["reconnect-missing"], "reset", "telegram", planted(tmp_path, ECHO))
    assert result.reasons == ()
    assert (result.outcome, result.clock, result.subject) == (Outcome.PASS, Clock.REAL, "planted")
    (figures,) = result.figures
    assert figures.said == figures.answered == 4
    assert figures.recovery_s[0] is not None


def test_a_peer_is_given_the_time_for_its_stop_that_a_service_manager_gives() -> None:
    ending = Ending(stop_s=60.0, before=Left(), after=Left())
    assert judge_ending(ending, subject("sdk:slack-sdk", Clock.REAL).stop_limit) == ()
    assert judge_ending(ending, subject(HOLDFAST, Clock.REAL).stop_limit) != ()


@pytest.mark.slow
def test_a_peer_that_says_everything_twice_fails(tmp_path: Path) -> None:
    send = '            call("sendMessage"'
    twice = ECHO.replace(send, f"            for _ in range(2): {send.strip()}")
    planned = mode(steps=(connected(), say(2), answered()), expect=Expect(recover=None))
    result = run(planned, "only", "telegram", planted(tmp_path, twice))
    assert result.outcome is Outcome.FAIL
    assert [reason.split(":")[0] for reason in result.reasons] == ["doubled", "doubled"]


# -- hermes-agent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, None),
        ("{", None),
        ('{"platforms": {}}', None),
        (
            '{"platforms": {"telegram": {"state": "connected", "error_code": null}}}',
            Reading(state="connected"),
        ),
        (
            '{"platforms": {"telegram": {"state": "fatal", "error_code": "bad_token"}}}',
            Reading(state="fatal", code="bad_token"),
        ),
    ],
)
def test_the_state_of_hermes_agent_is_read_as_its_users_read_it(
    tmp_path: Path, written: str | None, read: Reading | None
) -> None:
    (tmp_path / ".hermes").mkdir()
    if written is not None:
        (tmp_path / ".hermes" / "gateway_state.json").write_text(written)
    assert hermes_state(tmp_path, "telegram") == read


@pytest.mark.real_time
async def test_what_a_peer_publishes_counts_only_while_it_lives(tmp_path: Path) -> None:
    def state(home: Path, platform: str) -> Reading | None:
        told = home / "state"
        return Reading(state=f"{platform} {told.read_text()}") if told.exists() else None

    program = "import pathlib, time; pathlib.Path('state').write_text('up'); time.sleep(60)"
    peer = planted(tmp_path, program, state=state)
    assert Ability.STATUS in peer.abilities
    async with playing(peer, tmp_path) as (lives, _):
        assert lives.read("bot") == Reading(state="stopped")
        await lives.start()
        assert lives.read("bot") == Reading(state="connecting")
        await until(lambda: lives.read("bot") == Reading(state="telegram up"))
        await lives.kill()
        assert lives.read("bot") == Reading(state="stopped")


# -- the model -------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[tuple[ModuleType, str]]:
    """The stub of a model, and where it listens."""
    spec = importlib.util.spec_from_file_location("stub_model", ROOT / "peers" / "stub_model.py")
    assert spec is not None
    assert spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    with ThreadingHTTPServer(("127.0.0.1", 0), stub.Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield stub, f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def ask(url: str, body: Mapping[str, Any]) -> str:
    """One completion, as it comes."""
    with urllib.request.urlopen(f"{url}/chat/completions", json.dumps(body).encode()) as response:
        return str(response.read().decode())


def test_the_model_says_back_what_it_was_last_told(model: tuple[ModuleType, str]) -> None:
    stub, url = model
    parts = [{"type": "text", "text": "in"}, {"type": "image_url"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "echo one"},
        {"role": "user", "content": parts},
        {"role": "tool", "content": "three"},
    ]
    whole = json.loads(ask(url, {"model": stub.MODEL, "messages": messages}))
    assert whole["choices"][0]["message"]["content"] == "echo in two"
    streamed = ask(url, {"messages": messages, "stream": True}).split("\n\n")
    first, last, done, _ = (event.removeprefix("data: ") for event in streamed)
    assert json.loads(first)["choices"][0]["delta"]["content"] == "echo in two"
    assert json.loads(last)["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


def test_the_model_has_nothing_but_itself(model: tuple[ModuleType, str]) -> None:
    stub, url = model
    with urllib.request.urlopen(f"{url}/models") as response:
        assert [one["id"] for one in json.load(response)["data"]] == [stub.MODEL]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/props")
