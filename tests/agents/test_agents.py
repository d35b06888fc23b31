"""Agents: how they are found, called, and what they may return."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast.agents import Turn, echo, load, replies, wrap
from holdfast.errors import ConfigError
from holdfast.gateway.lanes import Limits
from holdfast.messages import Attachment, Inbound, MediaKind, Reply
from holdfast.threads import CallsHang
from tests.gateway.desk import Table
from tests.gateway.tools import until

MESSAGE = Inbound(id="1", chat="c", sender="u", text="hello")
TURN = Turn(account="bot", attempt=2, deadline=9.0)


class Callable_:
    """An object with an async ``__call__``."""

    async def __call__(self, message: Inbound) -> str:
        """Answer."""
        return message.text


async def with_turn(message: Inbound, turn: Turn) -> str:
    """Answer with the circumstances."""
    return f"{message.text} {turn.attempt}"


def sync(message: Inbound) -> str:
    """Answer from a thread."""
    return f"{message.text} {threading.current_thread() is threading.main_thread()}"


async def both(prefix: str, message: Inbound) -> str:
    """To be called as a partial."""
    return prefix + message.text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (Callable_(), "hello"),
        (with_turn, "hello 2"),
        (sync, "hello False"),
        (functools.partial(both, "> "), "> hello"),
        (lambda message: message.text, "hello"),
        (lambda message, turn: turn.account, "bot"),
    ],
)
async def test_every_form_of_function_answers(function: Any, text: str) -> None:
    assert await wrap(function, "here")(MESSAGE, TURN) == [Reply(text=text)]


def none() -> None:
    """Takes nothing."""


def three(a: int, b: int, c: int) -> None:
    """Takes too much."""


def needs_keyword(message: Inbound, *, model: str) -> None:
    """Can not be called with positions alone."""


@pytest.mark.parametrize("function", [none, three, needs_keyword, "text", 3, print])
def test_what_can_not_be_called_that_way_is_a_mistake_of_the_configuration(function: Any) -> None:
    with pytest.raises(ConfigError, match="here"):
        wrap(function, "here")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, []),
        ("", []),
        ("a", [Reply(text="a")]),
        (Reply(text="a", quote=True), [Reply(text="a", quote=True)]),
        (["a", Reply(text="b"), None], [Reply(text="a"), Reply(text="b")]),
        (("a", ["b"]), [Reply(text="a"), Reply(text="b")]),
        ([], []),
    ],
)
def test_what_a_handler_may_return(answer: Any, expected: list[Reply]) -> None:
    assert replies(answer) == expected


@pytest.mark.parametrize("answer", [3, b"bytes", {"text": "a"}, [3], object()])
def test_anything_else_is_refused_by_name(answer: Any) -> None:
    inner = answer[0] if isinstance(answer, list) else answer
    with pytest.raises(TypeError, match=type(inner).__name__):
        replies(answer)


async def test_echo() -> None:
    picture = Attachment(kind=MediaKind.IMAGE, name="a.png")
    nameless = Attachment(kind=MediaKind.FILE)
    message = Inbound(id="1", chat="c", sender="u", text="hi", attachments=(picture, nameless))
    assert await load("echo", "here", Path())(message, TURN) == [
        Reply(text="echo: hi [a.png] [file]")
    ]
    assert load("echo", "here", Path()) is echo


async def test_a_module_beside_the_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "polly_agent.py").write_text("def answer(message):\n    return message.text\n")
    path = list(sys.path)
    agent = load("python:polly_agent:answer", "here", tmp_path)
    assert await agent(MESSAGE, TURN) == [Reply(text="hello")]
    assert sys.path == path
    with pytest.raises(ConfigError, match="no 'nothing'"):
        load("python:polly_agent:nothing", "here", tmp_path)
    del sys.modules["polly_agent"]


@pytest.mark.parametrize(
    "source", ["1/0", "raise SystemError('x')", "def broken(:", "import sys; sys.exit(78)"]
)
def test_a_module_that_fails_to_import_says_so(source: str, tmp_path: Path) -> None:
    (tmp_path / "bad_agent.py").write_text(source)
    path = list(sys.path)
    with pytest.raises(ConfigError, match=r"can not be imported: .* \(it was found: mend it\)"):
        load("python:bad_agent:answer", "here", tmp_path)
    assert sys.path == path


def test_whether_the_module_or_what_it_needs_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "needy_agent.py").write_text("import nobody_wrote.this\n")
    with pytest.raises(ConfigError, match=r"\(it was found: install nobody_wrote\)"):
        load("python:needy_agent:answer", "here", tmp_path)
    for name in ("nobody_wrote", "nobody_wrote.this"):
        with pytest.raises(ConfigError, match=r"\(it must be installed, or lie beside"):
            load(f"python:{name}:answer", "here", tmp_path)


@pytest.mark.parametrize("spec", ["", "ech", "python:", "python:module", "python::name", "a:b:c"])
def test_a_specification_that_is_none(spec: str) -> None:
    with pytest.raises(ConfigError, match="is no agent"):
        load(spec, "here", Path())


async def test_an_exception_reaches_the_caller() -> None:
    def fails(message: Inbound) -> str:
        raise LookupError(message.id)

    with pytest.raises(LookupError):
        await wrap(fails, "here")(MESSAGE, TURN)


def leaves(message: Inbound) -> str:
    """Ends the process, as it believes."""
    sys.exit(78)


async def leaves_too(message: Inbound) -> str:
    """Does so on the gateway's loop."""
    raise KeyboardInterrupt


def runs_dry(message: Inbound) -> str:
    """Takes from what is empty: no future can hold that exception."""
    return next(iter(()))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (leaves, "the agent raised SystemExit(78)"),
        (leaves_too, "the agent raised KeyboardInterrupt()"),
        (runs_dry, "StopIteration"),
    ],
)
async def test_what_would_end_the_process_is_a_failure_like_any_other(
    function: Any, reason: str
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match=re.escape(reason)):
            await wrap(function, "here")(MESSAGE, TURN)


async def test_a_cancelled_agent_is_cancelled() -> None:
    async def waits(message: Inbound) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(wrap(waits, "here")(MESSAGE, TURN))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Stuck:
    """A synchronous agent whose calls hang until they are let go."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.calls = 0

    def __call__(self, message: Inbound) -> str:
        """Answer late."""
        self.calls += 1
        self.release.wait(20)
        return "late"

    def threads(self) -> int:
        """How many of its calls have not returned."""
        return sum(thread.name == "call Stuck" for thread in threading.enumerate())


@pytest.mark.real_time
async def test_calls_that_hang_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.agents.HANGING", 3)
    stuck = Stuck()
    agent = wrap(stuck, "here")
    asked = [asyncio.ensure_future(agent(MESSAGE, TURN)) for _ in range(5)]
    await until(lambda: stuck.calls == 5)  # somebody waits for each of them
    for task in asked[:3]:
        task.cancel()
    await asyncio.wait(asked[:3])
    with pytest.raises(CallsHang, match=r"earlier calls of the agent have not returned \(3\)"):
        await agent(MESSAGE, TURN)
    assert stuck.calls == 5
    stuck.release.set()
    assert await asyncio.gather(*asked[3:]) == [[Reply(text="late")]] * 2
    await until(lambda: stuck.threads() == 0)
    assert await agent(MESSAGE, TURN) == [Reply(text="late")]


@pytest.mark.real_time
async def test_a_message_for_an_agent_that_hangs_becomes_a_dead_letter_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.agents.HANGING", 1)
    stuck = Stuck()
    table = Table(agent=wrap(stuck, "here"), limits=Limits(timeout=0.1, attempts=1))
    table.sender.connected(True)
    for number in ("1", "2"):
        await table.hear(number, chat=number)
        await table.quiet()
    assert stuck.calls == 1
    first, second = table.store.inbox.values()
    assert first.reason == "no answer within 0.1 s"
    assert second.reason == "CallsHang: earlier calls of the agent have not returned (1)"
    stuck.release.set()
    await until(lambda: stuck.threads() == 0)
    await table.hear("3", chat="1")
    await table.quiet()
    assert table.mouth.texts() == ["late"]
    await table.close()


@pytest.mark.real_time
async def test_a_sync_function_that_never_returns_holds_nobody() -> None:
    release = threading.Event()

    def stuck(message: Inbound) -> str:
        release.wait(20)
        return "late"

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wrap(stuck, "here")(MESSAGE, TURN)
    assert loop.time() - began < 1
    (thread,) = [t for t in threading.enumerate() if "stuck" in t.name]
    assert thread.daemon  # so the process may end without it
    release.set()
    thread.join(5)
    assert not thread.is_alive()
