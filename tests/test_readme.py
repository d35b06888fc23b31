"""What the README says of the product is so: commands, promises, platforms, figures."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.adapters import BUILT_IN
from holdfast.cli import main
from holdfast.cli.exits import Exit
from holdfast.gateway.hooks import HookServer
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.simulators.webchat import WebChatSimulator
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.lab.stage import Stage
from holdfast.observe import status
from tests.theatre import Theatre, theatre, toml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SIMULATORS: dict[str, type[Simulator]] = {
    "telegram": TelegramSimulator,
    "qqbot": QQBotSimulator,
    "dingtalk": DingTalkSimulator,
    "feishu": FeishuSimulator,
    "slack": SlackSimulator,
    "mattermost": MattermostSimulator,
    "discord": DiscordSimulator,
    "whatsapp": WhatsAppSimulator,
    "webchat": WebChatSimulator,
    "matrix": MatrixSimulator,
}

NEEDS = {"whatsapp": {"claim": True}}
"""Settings beyond the simulator's own: here nobody enters the callback URL in Meta's console."""

PROMISES = (
    "Never silently dead",
    "The status never lies",
    "Nothing lost, nothing doubled",
    "Stops when told",
)


def rows(begin: str) -> list[str]:
    """The table rows whose first cell begins so."""
    return [line for line in README.splitlines() if line.startswith(f"| {begin}")]


def named_tests(text: str) -> list[tuple[str, str]]:
    """Every ``tests/....py::test_...`` of a text, as file and function."""
    return re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", text)


def functions(file: str) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def section(title: str) -> str:
    """What stands under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


# -- what is shown --------------------------------------------------------------------------------


def test_it_is_short_and_begins_with_what_matters() -> None:
    lines = README.splitlines()
    assert len(lines) < 150
    first_screen = "\n".join(lines[:16])
    for needed in ("docs/picture.svg", "make demo", "make test", *PROMISES):
        assert needed in first_screen


def test_the_two_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_names_tests(promise: str) -> None:
    (row,) = rows(f"**{promise}.**")
    assert named_tests(row)


def test_every_test_named_anywhere_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {found for page in pages for found in named_tests(page.read_text(encoding="utf-8"))}
    assert len(named) > 10
    for file, function in sorted(named):
        assert function in functions(file), f"{file} has no {function}"


def test_the_platforms_are_those_there_are() -> None:
    table = section("Platforms")
    assert re.findall(r"^\| \[(\w+)\]\(docs/platforms/\1\.md\)", table, re.MULTILINE) == list(
        BUILT_IN
    )


@contextlib.asynccontextmanager
async def connected(
    home: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Theatre, Relay]]:
    """A gateway that has just connected, and the cable to its web hook server."""
    async with Relay("127.0.0.1", 0) as hooks, stage:
        # How a page of our own finds itself: by the cable, as everybody else does.
        monkeypatch.setattr(HookServer, "url", property(lambda _: hooks.url("http")))
        needs = {stage.name: NEEDS.get(stage.name, {})}
        public = {"hook_url": hooks.url("http")}
        async with theatre(home, stage, accounts=needs, gateway=public) as play:
            await play.gateway.hooks.start()
            hooks.target = ("127.0.0.1", play.gateway.hooks.port)
            await play.until(stage.name, "connected")
            if isinstance(stage.simulator, WebChatSimulator):  # whose visitors tell if it is deaf
                await stage.simulator.open_page(hooks.url("http", stage.simulator.path))
                stage.simulator.open_tab()
                await stage.simulator.until(stage.simulator.listening)
            yield play, hooks


@pytest.mark.parametrize("name", BUILT_IN)
async def test_a_silent_death_is_noticed_when_the_readme_says(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = rows(f"[{name}]")
    said = re.search(r"\| (\d+) s \|$", row)
    assert said is not None
    stage = Stage(name, SIMULATORS[name]())
    async with connected(tmp_path, stage, monkeypatch) as (play, hooks):
        # The worst moment: the peer has just proved that it lives.
        hooks.cut()
        fault = stage.strike("silent hole", stage.relay.cut, limit=60.0)
        await play.until(name, "retrying", timeout=90)
        noticed = play.now() - fault.began
        assert int(said[1]) - 1 < noticed < int(said[1]) + 0.1
        assert noticed < 60.1
        await asyncio.sleep(1)
        assert stage.lie == 0


# -- the example ----------------------------------------------------------------------------------


AGENT = """
def answer(message):
    return message.text.upper()

"""


@pytest.mark.real_time
@pytest.mark.slow
async def test_the_library_example_answers_is_asked_and_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "program.py").write_text(AGENT + example, encoding="utf-8")
    async with TelegramSimulator() as simulator:
        table = {"my-bot": {**simulator.account(), "agent": "python:__main__:answer"}}
        (tmp_path / "holdfast.toml").write_text(toml(table), encoding="utf-8")
        program = await asyncio.create_subprocess_exec(
            sys.executable, "program.py", cwd=tmp_path, stderr=asyncio.subprocess.PIPE
        )
        try:
            simulator.say("hello")
            await simulator.until(lambda: bool(simulator.heard))
            assert [heard.text for heard in simulator.heard] == ["HELLO"]
            for words in ("status", "reload", "inbox list", "check"):
                line = ["--config", str(tmp_path / "holdfast.toml"), *words.split()]
                assert await asyncio.to_thread(main, line) == Exit.OK
            assert "its agent was not looked at" in capsys.readouterr().out
            program.send_signal(signal.SIGINT)
            async with asyncio.timeout(5):
                await program.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
    # `stop` was reached: the last status says so.
    left = status.read(tmp_path / "state" / status.FILE_NAME)
    assert left.accounts["my-bot"].state == "stopped"
