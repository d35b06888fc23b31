"""The examples of the documents run, their links lead somewhere, and their picture is fresh."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, Self
from xml.etree import ElementTree

import msgspec
import pytest
from aiohttp import web
from tools import check_adapters, draw_picture

from holdfast import agents
from holdfast.adapter import Adapter, HttpFailed, Outcome, SendFailed
from holdfast.cli import parser
from holdfast.cli.starter import starter
from holdfast.config import build
from holdfast.lab.faults.relay import Relay
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Reply
from holdfast.observe import status
from holdfast.supervision import Kind, Published, Report
from holdfast.testing import MemoryStore
from tests.gateway.tools import until
from tests.harness import running

ROOT = Path(__file__).parents[1]

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

PYTHON_EXAMPLES = {
    "README.md": 1,  # tests/test_readme.py
    "CONTRIBUTING.md": 1,
    "docs/agents.md": 3,
    "docs/alerts.md": 1,  # tests/gateway/test_alert_ways.py
    "docs/lab.md": 1,
    "docs/quickstart.md": 1,
    "docs/sdk.md": 1,  # tests/test_sdk.py
    "docs/status.md": 1,
}
"""How many each page has; every one of them is run here or where the comment says."""


def name(page: Path) -> str:
    """A page's path as people write it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, also those inside lists."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in fenced]


def example(page: str) -> str:
    """The only Python example of a page."""
    (code,) = blocks(ROOT / page, "python")
    return code


def load(code: str, home: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> ModuleType:
    """An example as a module of its own, forgotten after the test."""
    (home / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, module, raising=False)
    loaded = importlib.import_module(module)
    monkeypatch.setitem(sys.modules, module, loaded)
    return loaded


# -- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors GitHub makes of a page's headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{name(page)} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "README.md":
            assert f"({page.relative_to(ROOT / 'docs').as_posix()})" in index, name(page)


# -- commands -------------------------------------------------------------------------------------


def mistake(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says of a command; empty if it is one."""
    words = shlex.split(re.split(r" (?:\d?>|[&|;])", command)[0], comments=True)[1:]
    with contextlib.suppress(SystemExit):
        parser.build().parse_args(words)
    return capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_there_is(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^ {4,}(?:\$ )?(?:\S*/)?(holdfast [a-z-].*)$", text, re.MULTILINE):
        assert not mistake(line, capsys), f"{name(page)}: {line}"
    for command in re.findall(r"`(holdfast [a-z-][^`|]*)`", text):
        # In a sentence it may stand without what it is done to.
        told = mistake(command, capsys)
        assert not told or "required" in told, f"{name(page)}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_is_one_there_is(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in re.findall(r"^    make .*$|`make [^`]*`", page.read_text(encoding="utf-8"), re.M):
        target = line.strip("` ").split()[1]
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{name(page)}: {line}"
        # The target has an end of its own.
        assert target != "demo" or "Ctrl-C" not in line, f"{name(page)}: {line}"


def test_the_quick_start_stays_with_the_account_it_begins_with() -> None:
    text = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    (begun,) = tomllib.loads(starter(["telegram"]))["accounts"]
    for block in blocks(ROOT / "docs/quickstart.md", "toml"):
        assert list(tomllib.loads(block)["accounts"]) == [begun]
    assert re.findall(r"holdfast explain (\S+)", text) == [begun]


# -- files ----------------------------------------------------------------------------------------

ROOMS = "src|tests|tools|docs|deploy|examples|bench|peers"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_is_one_there_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{ROOMS})/[\w./-]+)`", text):
        places = (ROOT / path, ROOT / "examples/zulip-platform" / path)
        there = any(place.exists() for place in places)
        assert there or re.search("NAME|PLATFORM", path), f"{name(page)}: {path}"
    for word, path in re.findall(rf"`(\w+)`\s+in\s+`((?:{ROOMS})/[\w/]+\.py)`", text):
        assert f"\n{word}" in (ROOT / path).read_text(), f"{name(page)}: {word} in {path}"


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_table_tells_of_a_thing_twice(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        things = [row.split(" | ")[0] for row in table.splitlines()]
        if "..." in table:  # an indented row goes on with the one above it
            continue
        assert len(set(things)) == len(things), name(page)


# -- configurations -------------------------------------------------------------------------------


def test_every_complete_configuration_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = [
        (page, block)
        for page in PAGES
        for block in blocks(page, "toml")
        if block.startswith("# holdfast.toml\n")
    ]
    assert {name(page) for page, _ in complete} >= {"README.md", "docs/quickstart.md"}
    for page, block in complete:
        for variable in re.findall(r'env = "(\w+)"', block):
            monkeypatch.setenv(variable, "1:x")
        config = build(tomllib.loads(block), page.with_name("holdfast.toml"))
        assert config.accounts
        assert not config.warnings


# -- Python ---------------------------------------------------------------------------------------


def test_every_python_example_is_run() -> None:
    # Pages of docs/examples quote programs that have tests of their own.
    pages = [page for page in PAGES if page.parent.name != "examples"]
    found = {name(page): len(blocks(page, "python")) for page in pages}
    assert {page: count for page, count in found.items() if count} == PYTHON_EXAMPLES


REPORT = Attachment(kind=MediaKind.FILE, name="report.csv", mime="text/csv", data=b"a,b\n1,2\n")

ANSWERS: dict[str, list[Reply]] = {
    "answer": [Reply(text="You said: hello")],
    "answer_slowly": [Reply(text="my-bot took its time (attempt 2)")],
    "answer_with_a_file": [
        Reply(text="Here it is."),
        Reply(attachments=(REPORT,), quote=True),
    ],
    "answer_only_when_asked": [Reply(text="Yes?")],
}
"""What the examples' agents answer to a private "hello"."""


async def test_the_agents_of_the_examples_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [*blocks(ROOT / "docs/agents.md", "python"), example("docs/quickstart.md")]
    hello = Inbound(id="1", chat="ann", sender="ann", text="hello")
    deadline = asyncio.get_running_loop().time() + 120
    turn = agents.Turn(account="my-bot", attempt=2, deadline=deadline)
    seen: set[str] = set()
    for number, code in enumerate(examples):
        module = load(code, tmp_path, monkeypatch, f"example_{number}")
        for function in (one for one in vars(module) if one.startswith("answer")):
            agent = agents.load(f"python:{module.__name__}:{function}", "here", tmp_path)
            assert await agent(hello, turn) == ANSWERS[function]
            seen.add(function)
    assert seen == ANSWERS.keys()


async def test_the_echo_answers_as_it_is_told() -> None:
    echo = agents.load("echo", "here", ROOT)
    hello = Inbound(id="1", chat="ann", sender="ann", text="hello")
    [reply] = await echo(hello, agents.Turn(account="my-bot", attempt=1, deadline=1e9))
    page = (ROOT / "docs/agents.md").read_text(encoding="utf-8")
    assert f"| `echo` | `{reply.text}` to `hello`" in page


async def test_the_reserved_agent_is_silent_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(c for c in blocks(ROOT / "docs/agents.md", "python") if "only_when_asked" in c)
    module = load(code, tmp_path, monkeypatch, "reserved")
    said = Inbound(id="1", chat="team", sender="ann", text="hello", private=False)
    assert module.answer_only_when_asked(said) is None
    called = msgspec.structs.replace(said, mentioned=True)
    assert module.answer_only_when_asked(called) == "Yes?"


def test_the_fields_of_a_message_are_those_there_are() -> None:
    text = (ROOT / "docs/agents.md").read_text(encoding="utf-8")
    table = text.split("`holdfast.messages.Inbound`:")[1].split("`holdfast.agents.Turn`")[0]
    told = {field for row in re.findall(r"^\| (`.*?) \|", table, re.M) for field in row.split(", ")}
    assert told == {f"`{field}`" for field in Inbound.__struct_fields__ if field != "context"}


def run_example(page: str, home: Path) -> str:
    """Run a page's example as a program in a directory; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example(page)],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_reader_of_the_status_believes_no_dead_writer(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    file = tmp_path / "state" / status.FILE_NAME
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    written = status.Status(
        pid=dead.pid,
        boot_id=status.boot_id(),
        started_at=0.0,
        written_at=2e9,
        version="0",
        accounts={},
    )
    status.write(file, written)
    assert run_example("docs/status.md", tmp_path).startswith("unknown: the gateway (pid ")


@pytest.mark.slow
def test_the_simulator_example_runs(tmp_path: Path) -> None:
    printed = run_example("docs/lab.md", tmp_path)
    assert "base_url = http://127.0.0.1:" in printed
    assert "'platform': 'telegram'" in printed


# -- the example adapter --------------------------------------------------------------------------


class Pigeonry:
    """The server of the example's platform. It keeps its events, port and messages over a stop."""

    def __init__(self) -> None:
        self.token = "coo"
        self.events: list[dict[str, Any]] = []
        self.messages: dict[str, dict[str, Any]] = {}
        self.port = 0
        self._news = asyncio.Event()

    @property
    def account(self) -> dict[str, Any]:
        """The configuration of an account here."""
        return {"url": f"http://127.0.0.1:{self.port}", "bot": "walter", "token": "coo"}

    def say(self, text: str) -> None:
        """A user says something."""
        event = {"n": len(self.events) + 1, "chat": "ann", "sender": "ann", "text": text}
        self.events.append(event)
        self._news.set()

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/events", self._poll)
        app.router.add_post("/messages", self._post)
        app.router.add_get("/me", self._me)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Drop everybody."""
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _admit(self, request: web.Request) -> None:
        if request.headers.get("authorization") != self.token:
            raise web.HTTPUnauthorized(text="who are you?")

    async def _poll(self, request: web.Request) -> web.Response:
        self._admit(request)
        after = int(request.query["after"])
        try:
            async with asyncio.timeout(float(request.query["hold"])):
                while len(self.events) <= after:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return web.json_response(self.events[after:])

    async def _post(self, request: web.Request) -> web.Response:
        self._admit(request)
        body = await request.json()
        if not body["text"]:
            raise web.HTTPBadRequest(text="nothing said")
        self.messages.setdefault(body["key"], body)
        return web.json_response({"id": body["key"]})

    async def _me(self, request: web.Request) -> web.Response:
        self._admit(request)
        return web.json_response({"name": "walter"})


@pytest.fixture
def pigeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Adapter]:
    """The adapter of CONTRIBUTING.md."""
    module = load(example("CONTRIBUTING.md"), tmp_path, monkeypatch, "holdfast_pigeon")
    kind: type[Adapter] = module.Pigeon
    return kind


def test_the_example_adapter_keeps_the_rules(pigeon: type[Adapter], tmp_path: Path) -> None:
    file = tmp_path / "holdfast_pigeon.py"
    assert check_adapters.problems(file) == []
    code = file.read_text(encoding="utf-8")
    assert sum(1 for line in code.splitlines() if line.strip()) < 80
    # All rules but the one that would write each imported name on a line of its own.
    rules = ["--config", str(ROOT / "pyproject.toml"), "--ignore", "I001"]
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *rules, file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


async def test_the_example_adapter_loses_and_doubles_nothing(pigeon: type[Adapter]) -> None:
    store = MemoryStore()
    async with Pigeonry() as platform:
        platform.say("before")
        async with running(pigeon, platform.account, store=store) as bot:
            await bot.connected()
            platform.say("hello")
            await until(lambda: len(bot.messages) == 2)
            await asyncio.sleep(300)  # quiet polls prove life
            assert bot.states() == [Published.CONNECTING, Published.CONNECTED]
            await platform.stop()
            await bot.published(Published.RETRYING)
            platform.say("while down")
            await asyncio.sleep(600)
            await platform.start()
            await bot.connected()
            await until(lambda: len(bot.messages) == 3)
        platform.say("between")
        async with running(pigeon, platform.account, store=store) as again:
            await until(lambda: bool(again.messages))
            await asyncio.sleep(60)
            assert [message.text for message in again.messages] == ["between"]
    texts = [row.message.text for row in store.inbox.values()]
    assert texts == ["before", "hello", "while down", "between"]
    assert store.duplicates == 0
    assert await store.gaps("bot") == []


async def test_the_example_adapter_sends_and_says_what_failed(pigeon: type[Adapter]) -> None:
    async with Pigeonry() as platform:
        async with running(pigeon, platform.account) as bot:
            await bot.connected()
            hello = Outbound(key="k-1", chat="ann", text="hello")
            for _ in range(2):
                assert (await bot.adapter.send(hello)).id == "k-1"
            assert [message["text"] for message in platform.messages.values()] == ["hello"]
            with pytest.raises(SendFailed) as refused:
                await bot.adapter.send(Outbound(key="k-2", chat="ann"))
            assert refused.value.outcome is Outcome.REFUSED
            assert (await bot.adapter.check()).identity == "walter"
            await platform.stop()
            with pytest.raises(HttpFailed):
                await bot.adapter.send(Outbound(key="k-3", chat="ann", text="x"))


async def test_the_example_adapter_stops_at_a_wrong_token(pigeon: type[Adapter]) -> None:
    async with Pigeonry() as platform:
        platform.token = "another"
        async with running(pigeon, platform.account) as bot:
            await bot.published(Published.FATAL)
            report: Report = bot.reports[-1]
            assert report.view.cause is not None
            assert report.view.cause.kind is Kind.CREDENTIALS
            assert report.view.cause.code == "pigeon_bad_token"
            platform.token = "coo"
            bot.account.kick(operator=True)
            await bot.connected()


# -- the lab's page and the picture ---------------------------------------------------------------


def test_the_lab_page_names_what_there_is() -> None:
    text = (ROOT / "docs/lab.md").read_text(encoding="utf-8")
    cable = text.split("## The cable")[1].split("\n## ")[0]
    calls = re.findall(r"`(\w+)\([^`]*\)`", cable)
    assert len(calls) >= 10
    for call in calls:
        assert callable(getattr(Relay, call)), call
    others = text.split("## Other faults")[1].split("\n## ")[0]
    modules = re.findall(r"^\| `(\w+)` \|", others, re.MULTILINE)
    there = {path.stem for path in (ROOT / "src/holdfast/lab/faults").glob("*.py")}
    assert {*modules, "relay", "splice", "__init__"} == there


def test_the_picture_is_what_its_script_draws() -> None:
    drawn = draw_picture.FILE.read_text(encoding="utf-8")
    assert drawn == draw_picture.picture(), "run python tools/draw_picture.py"
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg")
    references = [key for element in root.iter() for key in element.attrib if "href" in key]
    assert references == []
    assert "url(" not in drawn
    assert "prefers-color-scheme: dark" in drawn
