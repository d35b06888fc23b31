"""Each way of an alert takes it, or says in bounded time why not; the table that names them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapter import Secret
from holdfast.config import AccountWay, AlertsConfig, CommandWay, Config, HookWay, build, load
from holdfast.errors import ConfigError
from holdfast.gateway.alert_ways import LAST_WORDS, Undelivered, run_command, signature
from holdfast.gateway.alerting import RETRY, Tried
from holdfast.observe.alerts import Rules
from holdfast.supervision import Published
from tests.gateway.house import reach
from tests.gateway.puppets import GONE, REVOKED, all_up, hooked, stage, via_hook

NAN = float("nan")

# -- web hooks ------------------------------------------------------------------------------------


async def test_a_web_hook_gets_a_signed_document(tmp_path: Path) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    secret = "whsec_" + base64.b64encode(key).decode()
    async with hooked() as hook:
        play = stage(tmp_path, via_hook(hook, secret))
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(60)
            wall = 1e9 + asyncio.get_running_loop().time()
    ((_, headers, body),) = hook.tries
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert headers["content-type"] == "application/json"
    (document,) = hook.taken
    (line,) = document["accounts"]
    assert (line["account"], line["platform"], line["what"]) == ("a", "puppet", "fatal")
    assert line["cause"]["code"] == "puppet_401"
    assert wall - 61 <= line["since"] <= document["at"] <= wall
    assert "a (puppet) needs you" in document["text"]


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks specification's reference libraries.
    assert (
        signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    assert signature("whsec_not base64", "i", 1, b"") != signature("plain", "i", 1, b"")


async def test_a_web_hook_is_tried_again_a_few_times_and_then_left_for_a_minute(
    tmp_path: Path,
) -> None:
    async with hooked() as hook:
        hook.answers = [500, 429, 502, 503, 503]
        play = stage(tmp_path, via_hook(hook))
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(200)
    moments = [at for at, _, _ in hook.tries]
    waits = [round(b - a) for a, b in pairwise(moments)]
    assert waits == [1, 5, 20, round(RETRY) - 26, 1]
    assert len(hook.taken) == 1


async def test_a_web_hook_that_asks_for_time_gets_it(tmp_path: Path) -> None:
    async with hooked() as hook:
        hook.answers, hook.wait = [503, 503], "7"
        play = stage(tmp_path, via_hook(hook))
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(100)
    assert [round(b - a) for a, b in pairwise(at for at, _, _ in hook.tries)] == [7, 7]


async def test_a_web_hook_that_refuses_is_not_pressed(tmp_path: Path) -> None:
    async with hooked() as hook:
        hook.answers = [404]
        play = stage(tmp_path, via_hook(hook), AccountWay(account="b", chat="owner"))
        async with play.playing() as gateway:
            await all_up(gateway)
            play.strings["a"].fail(REVOKED)
            await asyncio.sleep(500)
    assert len(hook.tries) == 1  # the account took the alert
    assert len(play.told("b")) == 1


async def test_neither_log_nor_report_shows_the_address_of_a_web_hook(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hooked() as hook:
        hook.answers = [500] * 100
        play = stage(tmp_path, via_hook(hook, "key of the hook"))
        async with play.playing() as gateway:
            await all_up(gateway)
            (tried,) = await gateway.alerting.test()
    shown = caplog.text + repr(tried) + repr(play.config)
    assert tried == Tried(
        way="web hook at 127.0.0.1", worked=False, detail="answered with HTTP 500"
    )
    assert "secret-path" not in shown
    assert "key of the hook" not in shown


# -- commands -------------------------------------------------------------------------------------


def python(code: str) -> CommandWay:
    return CommandWay(command=[sys.executable, "-c", code])


@pytest.mark.real_time
async def test_a_command_gets_the_document_on_its_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import sys; open({str(out)!r}, 'wb').write(sys.stdin.buffer.read())"
    await run_command(python(code), b"{}" * 100_000)
    assert out.read_bytes() == b"{}" * 100_000


async def test_a_disk_that_takes_no_file_is_told_like_any_other_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the ways after this one would never be tried."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(Undelivered, match="no temporary file can be written: No such file"):
        await run_command(python("pass"), b"{}")


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("way", "problem"),
    [
        (python("import sys; sys.exit('no\\nroute')"), "ended with exit code 1: no route"),
        (python("import os; os.kill(os.getpid(), 9)"), "ended with signal 9"),
        (CommandWay(command=["/nowhere/page"]), "can not be started: No such file or directory"),
        (CommandWay(command=["a\0b"]), "can not be started: embedded null byte"),
    ],
)
async def test_a_command_that_fails_says_why(way: CommandWay, problem: str) -> None:
    with pytest.raises(Undelivered, match=problem):
        await run_command(way, b"{}")


@pytest.mark.real_time
@pytest.mark.parametrize("behind", [0, LAST_WORDS - 10, 2 * LAST_WORDS])
async def test_what_a_command_says_is_cut_after_it_was_redacted(behind: int) -> None:
    way = python(f"import sys; sys.exit('token=' + 'secret' * 5 + '.' * {behind})")
    with pytest.raises(Undelivered) as caught:
        await run_command(way, b"{}", redacted=lambda text: text.replace("secret" * 5, "***"))
    assert "secret" not in str(caught.value)
    assert ("***" in str(caught.value)) == (behind < LAST_WORDS)


@pytest.mark.real_time
@pytest.mark.slow
async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)"
    )
    task = asyncio.create_task(run_command(python(code), b"{}"))
    while not pids.exists() or len(pids.read_text().split()) < 2:  # noqa: ASYNC110  nor is a file
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in map(int, pids.read_text().split()):
        await gone(pid)
    with pytest.raises(Undelivered, match=r"did not end within 0\.1 s and was killed"):
        await run_command(CommandWay(command=["sleep", "600"]), b"{}", limit=0.1)


async def gone(pid: int) -> None:
    """Wait until a process is no more, or waits for its new parent to notice."""
    async with asyncio.timeout(5):
        while alive(pid):  # noqa: ASYNC110  another process's end is no event here
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


# -- trying it ------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_a_test_tries_every_way_and_says_what_happened(tmp_path: Path) -> None:
    async with hooked() as hook:
        ways = (
            AccountWay(account="a", chat="owner"),
            AccountWay(account="b", chat="owner"),
            via_hook(hook),
            CommandWay(command=["false"]),
        )
        play = stage(tmp_path, *ways)
        play.strings["a"].cause = GONE
        async with play.playing() as gateway:
            await reach(gateway, "b", Published.CONNECTED)
            tried = await gateway.alerting.test()
    assert [(one.way, one.worked) for one in tried] == [
        ("account a, chat owner", False),
        ("account b, chat owner", True),
        ("web hook at 127.0.0.1", True),
        ("command false", False),
    ]
    assert tried[0].detail.startswith("the account is not connected but ")
    assert tried[3].detail == "ended with exit code 1"
    assert play.told("b") == ["owner: This is a test of Holdfast's alerts. Nothing is wrong."]
    assert (hook.taken[0]["test"], hook.taken[0]["accounts"]) == (True, [])


# -- the configuration ----------------------------------------------------------------------------


def built(alerts: Any) -> Config:
    accounts = {"bot": {"platform": "telegram", "token": "1:x"}}
    return build({"accounts": accounts, "alerts": alerts}, Path("holdfast.toml"))


def test_a_whole_table_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.example/path")
    made = built(
        {
            "after": "5m",
            "remind": 7200,
            "group_window": "0s",
            "to": [
                {"account": "bot", "chat": "5"},
                {"url": {"env": "HOOK"}, "secret": "s"},
                {"command": ["page", "me"]},
            ],
        }
    )
    assert made.alerts == AlertsConfig(
        Rules(after=300.0, remind=7200.0, group_window=0.0),
        (
            AccountWay(account="bot", chat="5"),
            HookWay(url=Secret("https://hooks.example/path"), secret=Secret("s")),
            CommandWay(command=["page", "me"]),
        ),
    )
    assert any(
        "[alerts] to[1] secret: the secret is written in the file" in w for w in made.warnings
    )


def test_a_single_account_can_not_tell_of_itself() -> None:
    (*_, warning) = built({"to": [{"account": "bot", "chat": "5"}]}).warnings
    assert "nobody is told when bot itself is down; add another way" in warning


@pytest.mark.parametrize(
    ("alerts", "problem"),
    [
        ({}, r"\[alerts\]: the key `to` is missing"),
        (5, r"\[alerts\]: must be a table"),
        ({"to": []}, r"\[alerts\] to: names nobody \(add a table: "),
        ({"to": [{}]}, r"to\[0\]: must be one way to tell somebody"),
        ({"to": [{"url": "https://x", "command": ["x"]}]}, r"to\[0\]: must be one way"),
        ({"to": [{"url": "hooks.example/s3cret"}]}, r"to\[0\] url: this is not a usable URL"),
        (
            {"to": [{"url": {"env": "NOT_SET"}}]},
            r"to\[0\] url: environment variable NOT_SET is not set",
        ),
        ({"to": [{"url": "https://x", "sekret": "s"}]}, r"to\[0\]: .*did you mean `secret`"),
        (
            {"to": [{"account": "bto", "chat": "5"}]},
            r"no enabled account 'bto', did you mean `bot`",
        ),
        ({"to": [{"account": "bot"}]}, r"to\[0\]: the key `chat` is missing"),
        ({"to": [{"account": "bot", "chat": ""}]}, r"to\[0\] chat: is empty"),
        ({"to": [{"command": "page"}]}, r"to\[0\] command: must be a list, not text"),
        ({"to": [{"command": []}]}, r"to\[0\] command: is empty"),
        ({"to": [{"command": ["x"]}], "after": NAN}, r"\[alerts\] after: must be a finite number"),
        ({"to": [{"account": "bot", "chat": 4217}]}, r"chat: must be text.*\(put it in quotes\)"),
        ({"to": [{"command": ["x"]}], "after": "3x"}, r"\[alerts\] after: '3x' is not a duration"),
        (
            {"to": [{"command": ["x"]}], "after": 0},
            r"\[alerts\] after: must be at least 1 \(for",
        ),
        (
            {"to": [{"command": ["x"]}], "remind": "1s"},
            r"\[alerts\] remind: must be at least 60 \(",
        ),
        ({"to": [{"command": ["x"]}], "afer": "3m"}, r"unknown key `afer`, did you mean `after`"),
    ],
)
def test_a_mistake_is_named_with_its_place(alerts: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        built(alerts)
    assert "s3cret" not in str(caught.value)


# -- the page -------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_the_page_is_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TELEGRAM_TOKEN", "QQBOT_SECRET", "HOOK_SECRET"):
        monkeypatch.setenv(name, "1:x")
    path = tmp_path / "holdfast.toml"
    path.write_text(block("toml"), encoding="utf-8")
    config = load(path)
    assert config.alerts is not None
    assert [type(way) for way in config.alerts.to] == [AccountWay, HookWay, CommandWay]
    assert config.warnings == ()


def test_the_check_of_the_page_knows_our_signature() -> None:
    page: dict[str, Any] = {}
    exec(block("python"), page)
    headers = {"webhook-id": "i", "webhook-timestamp": "5"}
    headers["webhook-signature"] = signature("key", "i", 5, b"body")
    assert page["is_ours"](headers, b"body", b"key")
    assert not page["is_ours"](headers, b"other", b"key")
