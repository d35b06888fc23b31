"""Credentials, second owners and the running gateway, in findings."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapter import Health
from holdfast.config import build
from holdfast.doctor import accounts
from holdfast.doctor.accounts import Patient, Reading
from holdfast.doctor.finding import Finding, Verdict, run_all
from holdfast.doctor.machine import text_of
from holdfast.doctor.network import Doors
from holdfast.gateway.dns import Resolver
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.observe import status as documents
from holdfast.web import control
from tests.cli.samples import LOST, REFUSED, account, document

REPLACED = documents.CauseStatus(
    kind="replaced",
    code="telegram_conflict",
    message="another getUpdates",
    who_acts="operator",
    hint="Stop the other program.",
    retryable=False,
)


@contextlib.asynccontextmanager
async def ward(**tables: Mapping[str, Any]) -> AsyncIterator[list[Patient]]:
    """The accounts of a configuration, examined and sent home."""
    config = build({"accounts": tables}, Path("holdfast.toml"))
    found = accounts.patients(config, Resolver(), Doors())
    try:
        yield found
    finally:
        for patient in found:
            await patient.client.close()


async def examined(table: Mapping[str, Any]) -> Finding:
    async with ward(bot=table) as patients:
        (finding,) = await run_all([accounts.credentials(patient) for patient in patients])
    return finding


# -- credentials ----------------------------------------------------------------------------------


async def test_credentials_good_revoked_and_out_of_reach() -> None:
    async with TelegramSimulator() as sim:
        good = await examined(sim.account())
        wrong = await examined(sim.account() | {"token": "99:wrong"})
        away = await examined(sim.account() | {"base_url": "http://127.0.0.1:1"})
    assert good.verdict is Verdict.OK
    assert good.what.startswith("they work: @gate_test_bot")
    assert (wrong.check, wrong.verdict) == ("credentials", Verdict.FAIL)
    assert "@BotFather" in wrong.remedy
    assert away.verdict is Verdict.WARN  # it mends itself


BEHIND_A_PORTAL: dict[str, dict[str, str]] = {
    "telegram": {"token": "1:x", "base_url": ""},
    "qqbot": {"app_id": "1", "secret": "s", "api_url": "", "token_url": ""},
    "dingtalk": {"client_id": "1", "client_secret": "s", "api_url": "", "oapi_url": ""},
    "feishu": {"app_id": "1", "app_secret": "s", "base_url": ""},
    "slack": {"app_token": "xapp-1-A-1-x", "bot_token": "xoxb-1", "api_url": ""},
    "mattermost": {"token": "x" * 26, "url": ""},
    "discord": {"token": "MTIz.x.y", "api_url": ""},
    "matrix": {"user_id": "@a:b", "access_token": "t", "homeserver": ""},
}
"""Accounts whose empty URLs are to be the portal's."""


@pytest.mark.parametrize("platform", BEHIND_A_PORTAL)
async def test_a_login_portal_is_recognised_by_its_page(platform: str) -> None:
    async with HtmlPortal() as portal:
        keys = {k: v or portal.url("http") for k, v in BEHIND_A_PORTAL[platform].items()}
        found = await examined({"platform": platform, **keys})
    assert (found.check, found.verdict) == ("portal", Verdict.FAIL)
    assert "sign in" in found.remedy


def test_what_a_check_notes_is_told() -> None:
    noted = accounts._health("bot", Health("me", notes=("may not send",)))
    assert (noted.verdict, noted.what) == (Verdict.OK, "they work: me; may not send")


# -- a second owner -------------------------------------------------------------------------------


async def test_one_token_twice_in_the_configuration() -> None:
    table = {"platform": "telegram", "token": "77:x"}
    config = build({"accounts": {"a": table, "b": table}}, Path("holdfast.toml"))
    async with ward(a=table, b=table) as patients:
        (found,) = accounts.twins(config, patients)
    assert found.verdict is Verdict.FAIL
    assert found.what == "has the same credentials, or the same page, as [accounts.a]"


@pytest.mark.parametrize(
    ("state", "cause", "verdict"),
    [
        ("fatal", REPLACED, "fail"),
        ("retrying", REPLACED, "fail"),
        ("connected", REPLACED, "warn"),
        ("retrying", LOST, "ok"),
        ("connected", None, "ok"),
    ],
)
def test_what_the_platform_said_of_somebody_else(
    state: str, cause: documents.CauseStatus | None, verdict: str
) -> None:
    found = accounts.owner("bot", account(state, cause=cause), state)
    assert found.verdict == verdict
    assert ("another getUpdates" in found.what) == (verdict != "ok")


def test_other_gateways_on_this_machine_are_named(tmp_path: Path) -> None:
    ours, theirs, hidden = (tmp_path / name for name in ("ours", "theirs", "hidden"))
    theirs.mkdir()
    documents.write(theirs / documents.FILE_NAME, document(bot=account()))
    sockets = "".join(
        f"0000: 00000002 00000000 00010000 0001 01 {n} {place}/.control.sock.{n}\n"
        for n, place in enumerate((ours, theirs, hidden), 40)
    )
    found = list(accounts.neighbours(sockets, ours.resolve(), 40))
    assert [f.verdict for f in found] == [Verdict.OK] * 2
    assert f"{hidden} (process 42), whose accounts this user may not see" in found[0].what
    assert f"{theirs} (process 41), with accounts on telegram" in found[1].what


def test_a_gateway_whose_socket_has_too_long_a_path_is_no_other_one(tmp_path: Path) -> None:
    ours = tmp_path / ("long" * 30)
    ours.mkdir()
    with control.listen(ours / control.SOCKET_NAME):
        sockets = text_of(Path("/proc/net/unix"))
        assert "/proc/self/fd/" in sockets
        found = [f.what for f in accounts.neighbours(sockets, ours, None)]
    assert not [what for what in found if "/proc/self" in what or f"process {os.getpid()})" in what]


def test_who_has_our_directory_is_no_other_gateway(tmp_path: Path) -> None:
    sockets = f"0000: 00000002 00000000 00010000 0001 01 40 {tmp_path}/.control.sock.40\n"
    assert list(accounts.neighbours(sockets, tmp_path / "under another name", 40)) == []
    assert len(list(accounts.neighbours(sockets, tmp_path / "elsewhere", 41))) == 1


# -- the running gateway --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "holder", "verdict", "word"),
    [
        (Reading(trouble="no gateway"), None, "ok", "none runs here"),
        (Reading(trouble="nothing within 2 s"), 42, "fail", "process 42 has the journal"),
        (Reading(document(bot=account()), "nothing within 2 s"), 42, "fail", "no gateway answers"),
        (Reading(document(bot=account())), 42, "warn", "version 9.9, and this is"),
    ],
)
def test_the_gateway_itself(reading: Reading, holder: int | None, verdict: str, word: str) -> None:
    (found,) = accounts.gateway(reading, holder)
    assert found.verdict == verdict
    assert word in found.what


@pytest.mark.parametrize(
    ("state", "changes", "verdict", "what"),
    [
        ("connected", {}, "ok", "connected"),
        ("connected", {"flapping": True}, "ok", "connected, flapping"),
        ("stopped", {"paused": True}, "ok", "paused by an operator"),
        ("connecting", {}, "ok", "connecting"),
        ("retrying", {"cause": LOST}, "warn", "retrying: connection lost [reset]"),
        ("fatal", {"cause": REFUSED}, "fail", "fatal: getMe was answered with 401"),
        ("connected", {"valid_until": 0.0}, "warn", "retrying"),  # too old to be believed
    ],
)
def test_each_account(state: str, changes: dict[str, object], verdict: str, what: str) -> None:
    found, _ = accounts.states(document(bot=account(state, **changes)), time.time())
    assert found.verdict == verdict
    assert found.what.startswith(what)
