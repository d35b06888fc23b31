"""Secrets come in by three doors, and leave by none."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.adapter import Adapter, Disconnect, Health, Secret, Settings
from holdfast.adapters import BUILT_IN
from holdfast.cli import logs, main
from holdfast.cli.exits import Exit
from holdfast.config import build
from holdfast.errors import ConfigError
from holdfast.gateway.classify import classified
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from holdfast.messages import Outbound, Receipt
from holdfast.platforms import find
from holdfast.secrets import KeyringLocked, Redaction, redaction_of, resolve
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Cause, Kind
from tests.theatre import theatre, toml

MARK = "must-not-leak"


# -- where they come from -------------------------------------------------------------------------


def test_from_the_environment_a_file_or_the_keyring(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" from a file \n", encoding="utf-8")

    def ask(value: Any) -> str:
        asked: dict[tuple[str, str], str] = {("my/service", "bot"): "from a keyring"}
        found = resolve(
            value,
            "here",
            tmp_path,
            environ={"TOKEN": "from the environment"},
            keyring=lambda service, name: asked[service, name],
        )
        return found.reveal()

    assert ask({"env": "TOKEN"}) == "from the environment"
    assert ask({"file": "token"}) == "from a file"
    assert ask({"keyring": "my/service/bot"}) == "from a keyring"
    assert ask("in place") == "in place"


def no_backend(service: str, name: str) -> str | None:
    raise RuntimeError("No recommended backend was available")


def locked(service: str, name: str) -> str | None:
    raise KeyringLocked


def no_library(service: str, name: str) -> str | None:
    raise ImportError(name)


@pytest.mark.parametrize(
    ("value", "keyring", "problem"),
    [
        ({"keyring": "bot"}, None, "'bot' names no keyring entry (write { keyring"),
        ({"keyring": "holdfast/"}, None, "names no keyring entry"),
        ({"keyring": "holdfast/bot"}, no_backend, "can not be read: RuntimeError (a service has"),
        ({"keyring": "holdfast/bot"}, locked, "the system keyring is locked (unlock it; a service"),
        ({"keyring": "holdfast/bot"}, no_library, "pip install 'holdfast[keyring]'"),
        ({"keyring": "holdfast/bot"}, lambda *_: None, "(run: keyring set holdfast bot)"),
        ({"keyring": "holdfast/bot"}, lambda *_: "", "empty: keyring entry holdfast/bot"),
        ({"env": "NOT_SET"}, None, "environment variable NOT_SET is not set (set it for the"),
        ({"env": "EMPTY"}, None, "the secret is empty: environment variable EMPTY (set env"),
        ({"file": "none"}, None, "file none can not be read: No such file or directory (create"),
        ({"file": "a", "env": "b"}, None, "must be a secret (write { env"),
        (MARK.encode(), None, "must be a secret"),
    ],
)
def test_mistakes_say_how_to_mend_them(
    tmp_path: Path, value: Any, keyring: Any, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(value, "here", tmp_path, environ={"EMPTY": ""}, keyring=keyring)
    assert str(caught.value).startswith("here: ")
    assert problem in str(caught.value)
    assert MARK not in str(caught.value)


def test_bytes_that_are_no_text_are_refused_where_they_are_read(tmp_path: Path) -> None:
    environ = {"TOKEN": b"exig\xe9e".decode("utf-8", "surrogateescape")}
    with pytest.raises(ConfigError, match="no UTF-8 text: environment variable TOKEN"):
        resolve({"env": "TOKEN"}, "here", tmp_path, environ=environ)


def test_a_file_holds_one_secret_and_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin").write_bytes(b"\xe9" + MARK.encode())
    (tmp_path / "two").write_text(f"{MARK}\n{MARK}\n")
    (tmp_path / "large").write_text(MARK * 10_000)
    (tmp_path / "blank").write_text(" \n")
    for name, problem in {
        "fifo": "file fifo is no regular file (put the secret into a file",
        "/dev/zero": "file /dev/zero is no regular file",
        "directory": "file directory is no regular file",
        "latin": "file latin is not UTF-8 text (save it as UTF-8)",
        "two": "file two has several lines (it should hold the secret and nothing else",
        "large": "file large is larger than 64 KiB",
        "blank": "the secret is empty: file blank",
        "nul\0": "can not be read: embedded null byte",
        "blank/x": "file blank/x can not be read: Not a directory",
    }.items():
        with pytest.raises(ConfigError) as caught:
            resolve({"file": name}, "here", tmp_path)
        assert problem in str(caught.value)
        assert MARK not in str(caught.value)


def test_links_lead_to_a_secret(tmp_path: Path) -> None:
    """As in Kubernetes, which changes a secret by changing where a link leads."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "token").write_text("\ufefffrom a file\r\n", encoding="utf-8")
    (tmp_path / "token").symlink_to("..data/token")
    assert resolve({"file": "token"}, "here", tmp_path).reveal() == "from a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "token").touch(mode=0o000)
    with pytest.raises(ConfigError, match=r"Permission denied \(let the user who runs Holdfast"):
        resolve({"file": "token"}, "here", tmp_path)


def test_a_keyring_that_waits_for_somebody_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.secrets.KEYRING_LIMIT", 0.01)
    unlocked = threading.Event()

    def waiting(service: str, name: str) -> str:
        unlocked.wait(60)
        return ""

    with pytest.raises(ConfigError, match=r"did not answer within 0\.01 s \(unlock it"):
        resolve({"keyring": "holdfast/bot"}, "here", tmp_path, keyring=waiting)
    unlocked.set()


def test_the_systems_own_keyring_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    backend = pytest.importorskip("keyring.backend")

    class Plain(backend.KeyringBackend):  # type: ignore[name-defined,misc]
        priority = 1

        def get_password(self, service: str, name: str) -> str | None:
            return f"123:{service}-{name}"

        def set_password(self, *others: object) -> None: ...

        def delete_password(self, *others: object) -> None: ...

    before = keyring.get_keyring()
    keyring.set_keyring(Plain())
    try:
        entry = {"platform": "telegram", "token": {"keyring": "holdfast/bot"}}
        config = build({"accounts": {"bot": entry}}, Path("holdfast.toml"))
    finally:
        keyring.set_keyring(before)
    assert config.accounts["bot"].settings.token == Secret("123:holdfast-bot")  # type: ignore[attr-defined]
    assert config.warnings == ()


# -- what hides them ------------------------------------------------------------------------------


def test_every_spelling_is_hidden() -> None:
    plain = 'pä ss"wo/rd\\'
    redaction = Redaction([Secret(plain)])
    for text in (plain, json.dumps(plain), repr(plain), json.dumps(plain, ensure_ascii=False)):
        assert "wo/rd" not in redaction.clean(f"<{text}>")
    assert redaction.clean("http://x/p%C3%A4%20ss%22wo%2Frd%5C/me") == "http://x/***/me"


def test_the_longer_secret_is_hidden_whole() -> None:
    redaction = Redaction({"a": Secret("abcd"), "b": Secret("abcd-tail")})
    assert redaction.clean("abcd-tail abcd") == "*** ***"


def test_passwords_of_urls_are_hidden() -> None:
    redaction = Redaction(["http://me:p%40ss@proxy:1", "no://url@all", "http://[bad@"])
    assert redaction.clean("p%40ss p@ss me") == "*** *** me"


def test_a_secret_url_is_hidden_by_its_parts_too() -> None:
    redaction = Redaction(
        Secret(f"https://me:pass-{MARK}@hooks.example/services/{MARK}?key={MARK}")
    )
    for told in (
        f"https://hooks.example/services/{MARK}?key={MARK}",
        f"POST /services/{MARK}?key={MARK} HTTP/1.1",
        f"no route to /services/{MARK}",
        f"wrong password pass-{MARK} of me",
    ):
        assert MARK not in redaction.clean(told)
    assert redaction.clean("no answer from hooks.example") == "no answer from hooks.example"


def test_a_short_path_of_a_secret_url_shreds_no_text() -> None:
    assert Redaction(Secret("https://x/hook")).clean("GET /hook of https://x/hook") == (
        "GET /hook of ***"
    )


@pytest.mark.parametrize("text", ["https://[bad", "77:abc", "x:/y", "https:///no-host-at-all/none"])
def test_a_secret_that_is_no_url_is_hidden_whole(text: str) -> None:
    assert Redaction(Secret(text)).clean(f"<{text}> /no-host-at-all/none") == (
        "<***> /no-host-at-all/none"
    )


def test_what_is_too_short_to_be_one_shreds_no_text() -> None:
    assert Redaction([Secret("abc")]).clean("alphabc") == "alphabc"
    assert Redaction([Secret("abcd")]).clean("alphabcd") == "alph***"


def test_nothing_to_hide_changes_nothing() -> None:
    assert Redaction(Secret(""), 3, None).clean("as it is") == "as it is"


def test_a_secret_that_was_replaced_stays_hidden() -> None:
    redaction = Redaction(Secret("old-one"))
    redaction.hide(Secret("new-one"))
    assert redaction.clean("old-one new-one") == "*** ***"


def test_an_objects_attributes_are_searched_once() -> None:
    class Owner:
        def __init__(self) -> None:
            self.settings = {"deep": [Secret("hidden-here")]}

    owner = Owner()
    assert redaction_of(owner).clean("hidden-here") == "***"
    assert redaction_of(owner) is redaction_of(owner)


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        (f"socks://me:{MARK}@host", "'socks://***@host'"),
        (f"me:{MARK}@host:3128", "'***@host:3128'"),
        (f"http://me:{MARK}@[host", "'http://***@[host'"),
        (f"http://me:{MARK}/2@host", "'http://***@host'"),
        (f"http://me:a@{MARK}@host:0", "'http://***@host:0'"),
    ],
)
def test_a_bad_proxy_is_refused_without_its_password(proxy: str, shown: str) -> None:
    entry = {"platform": "telegram", "token": "1:x", "proxy": proxy}
    with pytest.raises(ConfigError) as caught:
        build({"accounts": {"bot": entry}}, Path("holdfast.toml"))
    assert f"{shown} is not a usable URL" in str(caught.value)
    assert MARK not in str(caught.value)


def test_an_address_for_others_without_a_token_is_refused_without_its_password() -> None:
    document = {
        "accounts": {"bot": {"platform": "telegram", "token": "1:x"}},
        "web": {"url": f"https://me:{MARK}@bots.example.org"},
    }
    with pytest.raises(ConfigError, match="lets other machines in") as caught:
        build(document, Path("holdfast.toml"))
    assert MARK not in str(caught.value)


@pytest.mark.parametrize("platform", BUILT_IN)
def test_every_secret_field_of_a_platform_is_hidden(platform: str) -> None:
    kind = find(platform, "").Settings
    planted = {
        field.name: Secret(f"{field.name}-{MARK}")
        for field in msgspec.structs.fields(kind)
        if "Secret" in str(field.type)
    }
    shapes = {"url": "https://x", "homeserver": "https://x", "user_id": "@a:b"}
    others = {
        field.name: shapes.get(field.name, "x")
        for field in msgspec.structs.fields(kind)
        if field.required and field.name not in planted
    }
    settings = kind(**planted, **others)
    text = " ".join(secret.reveal() for secret in planted.values())
    assert MARK not in Redaction(settings).clean(text)
    assert MARK not in repr(settings) + str(settings)


# -- where they could get out ---------------------------------------------------------------------


class QuoterSettings(Settings, frozen=True, kw_only=True):
    """An account whose platform quotes what it is sent."""

    token: Secret
    second: Secret


class Quoter(Adapter):
    """Its errors hold every secret it has."""

    platform = "quoter"
    Settings = QuoterSettings

    def __init__(self, settings: QuoterSettings, tools: Any) -> None:
        self._settings = settings

    def _quoted(self) -> str:
        return f"bad token {self._settings.token.reveal()} and {self._settings.second.reveal()!r}"

    async def run(self, link: object) -> None:
        code = f"quoted_{self._settings.token.reveal()}"
        raise Disconnect(Cause(Kind.REFUSED, code, self._quoted(), hint=self._quoted()))

    async def send(self, message: Outbound) -> Receipt:
        raise ValueError(self._quoted())

    async def check(self) -> Health:
        return Health(cause=Cause(Kind.REFUSED, "quoted", self._quoted()))

    @property
    def identity(self) -> str:
        return "one"


async def test_no_cause_holds_a_secret_whatever_the_platform_says() -> None:
    settings = QuoterSettings(token=Secret(f"1-{MARK}"), second=Secret(f'2-"{MARK}"'))
    adapter = Quoter(settings, None)
    for act in (adapter.run(None), adapter.send(Outbound(chat="c", text="t", key="k"))):
        with pytest.raises(Exception, match=MARK) as caught:
            await act
        cause = classified(adapter, caught.value)
        assert "bad token ***" in cause.message
        assert MARK not in f"{dataclasses.asdict(cause)}"


async def test_a_server_that_echoes_the_token_reaches_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor status, history or log, of an account that gets its token quoted."""
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with HtmlPortal() as portal, Stage("well", TelegramSimulator()) as stage:
        portal.page = f"unknown token {MARK}"
        quoted = {
            "platform": "matrix",
            "user_id": "@bot:b",
            "access_token": MARK,
            "homeserver": portal.url("http"),
        }
        async with theatre(tmp_path, stage, store=store, accounts={"bot": quoted}) as play:
            await play.until("bot", "retrying", attempt=2)
            entry = play.entry("bot")
            (line, *_) = await store.history("bot", 1)
    assert portal.count
    assert entry.cause is not None
    assert "unknown token ***" in entry.cause.message
    assert "unknown token ***" in line.message
    assert "unknown token ***" in caplog.text
    assert MARK not in caplog.text
    files = _files(tmp_path)
    assert {"journal.db", "gateway_state.json"} <= files.keys()
    assert not [name for name, content in files.items() if MARK.encode() in content]


def _files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.real_time
async def test_every_command_keeps_what_is_planted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands that need no gateway, on a configuration with a secret wherever one can stand."""
    async with TelegramSimulator(token=f"77:{MARK}") as sim, HtmlPortal() as portal:
        portal.page = f"unknown token {MARK}"
        tables = {
            "bot": sim.account() | {"proxy": ""},
            "wrong": sim.account() | {"token": f"78:{MARK}"},
            "away": sim.account() | {"token": f"79:{MARK}", "base_url": "http://127.0.0.1:1"},
            "quoted": {
                "platform": "matrix",
                "user_id": "@bot:b",
                "access_token": MARK,
                "homeserver": portal.url("http"),
            },
            "hidden": sim.account()
            | {"token": f"80:{MARK}", "proxy": f"http://u:{MARK}@127.0.0.1:1"},
        }
        path = tmp_path / "holdfast.toml"
        path.write_text(toml(tables), encoding="utf-8")
        for line in (
            ["check"],
            ["check", "--json"],
            ["doctor"],
            ["doctor", "--json"],
            ["service", "install", "--user", "--dry-run"],
            ["status"],
        ):
            await asyncio.to_thread(main, ["--config", str(path), *line])
    shown = capsys.readouterr()
    assert shown.out.count("unknown token ***") == 4
    assert MARK not in shown.out + shown.err
    assert await asyncio.to_thread(main, ["--config", str(path), "check", "bot"]) == Exit.FAILED


@pytest.mark.parametrize("format", logs.Format)
def test_a_crash_dump_holds_no_secret_and_is_one_line_in_the_log(
    format: logs.Format, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    for owner, name in ((root, "handlers"), (sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        logs.set_up("info", format).hide([Secret(MARK)])
        try:
            raise RuntimeError(f"token={MARK}")
        except RuntimeError as error:
            sys.excepthook(type(error), error, error.__traceback__)

        def die() -> None:
            raise RuntimeError(f"token={MARK}")

        thread = threading.Thread(target=die, name="worker")
        thread.start()
        thread.join()
    finally:
        root.setLevel(level)
    shown = capsys.readouterr().err
    assert MARK not in shown
    assert shown.count("RuntimeError: token=***") == 2
    begun = [line for line in shown.splitlines() if not line.startswith("  ")]
    assert len(begun) == 2
    assert "worker" in begun[1]
