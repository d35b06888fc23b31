"""Every mistake is one line with place and remedy; what is right is taken over unchanged."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapters import BUILT_IN
from holdfast.config import (
    Config,
    GatewaySettings,
    build,
    check_identities,
    check_state_dir,
    load,
    state_dir_of,
)
from holdfast.errors import ConfigError
from holdfast.supervision import preset

NAN = float("nan")

TOKEN = "123456:a-secret-that-nobody-may-see-0123"

GOOD = f"""
[accounts.bot]
platform = "telegram"
token = "{TOKEN}"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "holdfast.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def account(**keys: Any) -> dict[str, Any]:
    return {"accounts": {"bot": {"platform": "telegram", "token": TOKEN, **keys}}}


def webchat(**keys: Any) -> dict[str, Any]:
    return {"accounts": {"page": {"platform": "webchat", **keys}}}


def gateway(**keys: Any) -> dict[str, Any]:
    return {**account(), "gateway": keys}


def mistake(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(document, Path("holdfast.toml"))
    text = str(caught.value)
    assert "\n" not in text
    assert TOKEN not in text
    return text


# -- what is right --------------------------------------------------------------------------------


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    bot = config.accounts["bot"]
    assert (bot.platform, bot.agent, bot.proxy, bot.ambiguous) == (
        "telegram",
        "echo",
        None,
        "resend",
    )
    assert bot.policy == preset("telegram")
    assert bot.settings.token.reveal() == TOKEN  # type: ignore[attr-defined]
    assert config.gateway == GatewaySettings()
    assert config.state_dir == tmp_path / "state"


def test_state_dir_is_relative_to_the_file_not_to_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, '[gateway]\nstate_dir = "var/bots"\n' + GOOD)
    monkeypatch.chdir("/")
    assert load(path).state_dir == tmp_path / "var" / "bots"
    assert state_dir_of(path) == tmp_path / "var" / "bots"


def test_an_account_overrides_the_gateway(tmp_path: Path) -> None:
    text = """
    [gateway]
    agent = "python:mine:answer"
    proxy = "http://127.0.0.1:3128"
    [accounts.a]
    platform = "telegram"
    token = "1:a"
    [accounts.b]
    platform = "telegram"
    token = "2:b"
    agent = "echo"
    proxy = ""
    ambiguous = "hold"
    policy = { backoff_cap = 30.0, escalate_after = 3 }
    [accounts.c]
    platform = "telegram"
    token = "3:c"
    enabled = false
    """
    accounts = load(write(tmp_path, text)).accounts
    assert list(accounts) == ["a", "b"]
    assert (accounts["a"].agent, accounts["a"].proxy) == (
        "python:mine:answer",
        "http://127.0.0.1:3128",
    )
    assert (accounts["b"].agent, accounts["b"].proxy, accounts["b"].ambiguous) == (
        "echo",
        "",
        "hold",
    )
    assert accounts["b"].policy.backoff_cap == 30.0
    assert accounts["b"].policy.escalate_after == 3


def test_secrets_come_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_TOKEN", "1:env")
    (tmp_path / "token").write_text("2:file\n")
    monkeypatch.chdir("/")
    text = """
    [accounts.a]
    platform = "telegram"
    token = { env = "BOT_TOKEN" }
    [accounts.b]
    platform = "telegram"
    token = { file = "token" }
    """
    config = load(write(tmp_path, text))
    tokens = [a.settings.token.reveal() for a in config.accounts.values()]  # type: ignore[attr-defined]
    assert tokens == ["1:env", "2:file"]
    assert config.warnings == ()


def test_an_absolute_secret_file_is_taken_as_it_is(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    secret.write_text("2:file")
    config = build(account(token={"file": str(secret)}), Path("/etc/holdfast.toml"))
    assert config.accounts["bot"].settings.token.reveal() == "2:file"  # type: ignore[attr-defined]


def test_a_secret_in_a_readable_file_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert [w.rpartition(": ")[2] for w in load(path).warnings] == [
        "the secret is written in the file"
    ]
    path.chmod(0o644)
    assert "chmod 600" in load(path).warnings[-1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_no_representation_shows_a_secret(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    assert TOKEN not in repr(config)
    assert TOKEN not in repr(config.accounts["bot"].settings)


def test_the_state_directory_is_known_without_any_secret(tmp_path: Path) -> None:
    path = write(tmp_path, '[accounts.bot]\nplatform = "nothing"\ntoken = { env = "UNSET" }')
    assert state_dir_of(path) == tmp_path / "state"


# -- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "parts"),
    [
        ({}, ["no account", "[accounts.NAME]"]),
        ({"accounts": {}}, ["no account"]),
        ({"accounts": {"bot": 1}}, ["tables", "[accounts.my-bot]"]),
        ({"acounts": {}}, ["[acounts]", "[accounts.*]"]),
        ({"accounts": {"My Bot": {}}}, ["[accounts.My Bot]", "a-z"]),
        ({"accounts": {"bot": {}}}, ["[accounts.bot]", "`platform`", "qqbot"]),
        ({"accounts": {"bot": {"platform": "irc"}}}, ["irc", "telegram"]),
        ({"accounts": {"bot": {"platform": 5}}}, ["bot] platform: must be text, not a whole"]),
        ({"accounts": {"bot": {"platform": "telegram"}}}, ["[accounts.bot]", "`token`"]),
        (account(enabled=False), ["enabled = false"]),
        (account(tokne="x"), ["[accounts.bot]", "`tokne`", "did you mean `token`"]),
        (account(polcy={}), ["did you mean `policy`"]),
        (account(something_else=1), ["`something_else`", "known are", "token"]),
        (account(token={"env": "HOLDFAST_UNSET"}), ["token", "HOLDFAST_UNSET", "set"]),
        (account(token={"file": "/nowhere/token"}), ["/nowhere/token", "No such file"]),
        (account(token={"evn": "X"}), ["token", '{ env = "NAME" }']),
        (account(token=17), ["token", '{ env = "NAME" }']),
        (account(token=""), ["token", "empty"]),
        (account(base_url="api.telegram.org"), ["base_url", "https://"]),
        (account(base_url="http://host:99999"), ["base_url", "not a usable URL"]),
        (account(proxy="socks://x"), ["proxy", "not a usable URL", "http://HOST:PORT"]),
        (
            {"accounts": {"my": {"bot": {"platform": "telegram", "token": TOKEN}}}},
            ["[accounts.my.bot]", "must be quoted", '(write [accounts."my.bot"])'],
        ),
        (
            account(b={"c": {"platform": "telegram", "token": TOKEN}}),
            ["[accounts.bot.b.c]", '(write [accounts."bot.b.c"])'],
        ),
        (account(poll_timeout="long"), ["a whole number, not text (write it without quotes)"]),
        (account(poll_timeout=500), ["poll_timeout", "must be at most 50"]),
        (account(poll_timeout=NAN), ["poll_timeout: must be a finite number"]),
        (account(mode="push"), ["mode: 'push' is none of poll, webhook"]),
        (account(mode="webhook"), ["[accounts.bot]: ", "no [gateway] hook_url", "set hook_url"]),
        (account(mode=["poll"]), ["mode: must be text, not a list"]),
        (webchat(path="chat"), ["path: can not be used", 'it begins with /, for example "/chat"']),
        (webchat(path=7), ["path: must be text, not a whole number (put it in quotes)"]),
        (webchat(keep=float("inf")), ["keep: must be a finite number"]),
        (webchat(keep=0), ["keep: must be above 0"]),
        (webchat(keep=1e300), ["keep: must be at most 31536000"]),
        (webchat(allowed_origins=["a", 1]), ["allowed_origins[1]: must be text"]),
        (account(ambiguous="maybe"), ["ambiguous", "resend, hold, drop"]),
        (account(policy={"backof_cap": 3}), ["policy", "did you mean `backoff_cap`"]),
        (account(policy={"backoff_cap": "1m"}), ["policy: backoff_cap", "finite number"]),
        (account(policy={"backoff_cap": True}), ["policy: backoff_cap", "finite number"]),
        (account(policy={"silence_limit": NAN}), ["policy.silence_limit: must be a finite number"]),
        (account(policy={"beat_misses": 1.5}), ["policy: beat_misses", "whole number"]),
        (account(policy={"backoff_first": 90.0}), ["backoff_first", "must not exceed"]),
        (account(policy={"label": "x"}), ["unknown key `label`"]),
        (account(policy=3), ["policy", "must be a table, not a whole number"]),
        ({**account(), "gateway": {"hadlers": 3}}, ["[gateway]", "did you mean `handlers`"]),
        (gateway(state_dir=""), ["[gateway] state_dir: names no directory"]),
        (gateway(state_dir="a\0b"), ["[gateway] state_dir: names no directory"]),
        ({**account(), "gateway": {"handlers": 0}}, ["[gateway] handlers: must be at least 1"]),
        (gateway(handlers="64"), ["[gateway] handlers", "a whole number, not text"]),
        (gateway(handlers=100_000_000), ["[gateway] handlers: must be at most 10000"]),
        (gateway(handlers=1.5), ["[gateway] handlers: must be a whole number"]),
        (gateway(handler_attempts=0), ["[gateway] handler_attempts: must be at least 1"]),
        (gateway(handler_timeout=NAN), ["[gateway] handler_timeout: must be a finite number"]),
        (gateway(handler_timeout=1e-9), ["[gateway] handler_timeout: must be at least 1"]),
        (gateway(handler_timeout=1e9), ["[gateway] handler_timeout: must be at most 86400"]),
        (gateway(handler_timeout=True), ["[gateway] handler_timeout: must be a number, not true"]),
        ({**account(), "gateway": {"hook_listen": "8070"}}, ["hook_listen", "HOST:PORT"]),
        ({**account(), "gateway": {"hook_listen": "a:70000"}}, ["hook_listen", "HOST:PORT"]),
        ({**account(), "gateway": {"hook_url": "bots.example"}}, ["hook_url", "https://"]),
        ({**account(), "gateway": 3}, ["[gateway]", "table"]),
    ],
)
def test_a_mistake_names_place_and_remedy(document: dict[str, Any], parts: list[str]) -> None:
    text = mistake(document)
    assert text.startswith("holdfast.toml: ")
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("hooks", "web", "good"),
    [
        ("127.0.0.1:18790", "127.0.0.1:18790", False),
        ("localhost:18790", "127.0.0.1:18790", False),
        ("0.0.0.0:18790", "127.0.0.1:18790", False),
        ("127.0.0.1:8787", None, False),
        ("127.0.0.2:18790", "127.0.0.1:18790", True),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("127.0.0.1:18790", "", True),
    ],
)
def test_two_servers_need_two_addresses(hooks: str, web: str | None, good: bool) -> None:
    document = gateway(hook_listen=hooks) | ({} if web is None else {"web": {"listen": web}})
    if good:
        build(document, Path("holdfast.toml"))
    else:
        told = mistake(document)
        assert told.startswith(
            f"holdfast.toml: [gateway] hook_listen: {hooks} is what [web] listen"
        )
        assert "port of its own" in told


def test_files_that_can_not_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*holdfast init"):
        load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="can not be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        load(write(tmp_path, "[gateway\n"))
    (tmp_path / "latin").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeff" + GOOD)).accounts.keys() == {"bot"}


def test_a_state_directory_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "state" / "journal.db").mkdir(parents=True)
    for name, problem in {
        "/proc/x/y": "/proc/x/y can not be made: ",
        "/etc/passwd": "/etc/passwd is no directory",
        "file/state": f"{tmp_path}/file is no directory",
        "loop": f"{tmp_path}/loop is no directory",
        "state": f"{tmp_path}/state/journal.db is a directory",
    }.items():
        config = load(write(tmp_path, f'[gateway]\nstate_dir = "{name}"\n' + GOOD))
        with pytest.raises(ConfigError, match=problem) as caught:
            check_state_dir(config.state_dir, "here")
        assert caught.value.hint


def test_a_state_directory_that_is_to_come_is_not_made_yet(tmp_path: Path) -> None:
    check_state_dir(tmp_path / "not" / "yet", "here")
    assert not list(tmp_path.iterdir())
    check_state_dir(tmp_path, "here")


def test_a_full_disk_is_no_mistake_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    check_state_dir(tmp_path / "state", "here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(path)


def test_one_credential_for_two_accounts_is_refused() -> None:
    identities = {"a": ("telegram", "1"), "b": ("qqbot", "1"), "c": ("telegram", "1")}
    with pytest.raises(ConfigError, match=r"\[accounts.c\].*\[accounts.a\].*enabled = false"):
        check_identities(identities, "holdfast.toml")
    del identities["c"]
    pages = {"a": ("webchat", "webchat:/chat"), "b": ("webchat", "webchat:/chat")}
    with pytest.raises(ConfigError, match=r"same page, as \[accounts.a\] .*another `path`"):
        check_identities(pages, "holdfast.toml")
    check_identities(identities, "holdfast.toml")


@pytest.mark.parametrize("text", ["", "=", "[accounts]", "[[accounts]]", "accounts = 1", "\x00"])
def test_no_text_is_too_odd_for_one_line(tmp_path: Path, text: str) -> None:
    config: Config | None = None
    with contextlib.suppress(ConfigError):
        config = load(write(tmp_path, text))
    assert config is None


@pytest.mark.parametrize("platform", BUILT_IN)
def test_only_the_configured_platforms_are_imported(platform: str) -> None:
    code = (
        "import sys; from holdfast.platforms import find; "
        f"find({platform!r}, 'here'); "
        "print({m.split('.')[2].split('_')[0] for m in sys.modules "
        "if m.startswith('holdfast.adapters.')})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == str({platform})
