"""The whole examination: nothing hidden, nothing told twice, no secret, no foreign host."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.doctor.accounts import Reading
from holdfast.doctor.examine import Room, examine
from holdfast.doctor.finding import Finding, Verdict
from holdfast.doctor.network import Doors
from holdfast.gateway.watchdog import boot_clock
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.simulators.telegram import TelegramSimulator
from tests.cli.samples import LOST, account, document
from tests.theatre import toml

SECRET = "4242:a-secret-that-must-not-leak"


def room(tmp_path: Path, text: str, **others: Any) -> Room:
    path = tmp_path / "holdfast.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    others.setdefault("environ", {})
    others.setdefault("proc", _own_proc(tmp_path))
    return Room(config=path, state_dir=tmp_path / "state", **others)


def _own_proc(tmp_path: Path) -> Path:
    """What the system tells of itself and this process, but of no gateway beside the test."""
    proc = tmp_path / "proc"
    (proc / "net").mkdir(parents=True)
    (proc / "net" / "unix").touch()
    for name in ("locks", "mounts", str(os.getpid())):
        (proc / name).symlink_to(Path("/proc") / name)
    return proc


def checks(findings: list[Finding], verdict: Verdict) -> list[str]:
    return [finding.check for finding in findings if finding.verdict is verdict]


async def test_all_is_well(tmp_path: Path) -> None:
    async with TelegramSimulator(token=SECRET) as sim:
        text = toml({"bot": sim.account() | {"token": {"file": "token"}}})
        (tmp_path / "token").write_text(SECRET)
        (tmp_path / "token").chmod(0o600)
        findings = await examine(room(tmp_path, text))
    assert not checks(findings, Verdict.FAIL), findings
    assert not checks(findings, Verdict.WARN), findings
    assert {finding.check for finding in findings} == {
        *("configuration", "gateway", "credentials", "clock", "dns", "connect", "ipv6"),
        *("proxy", "http", "files", "disk", "permissions"),
    }
    assert len(set(findings)) == len(findings)


async def test_only_the_configured_servers_are_asked_and_no_secret_is_told(
    tmp_path: Path,
) -> None:
    resolver = LabResolver()
    text = toml(
        {
            "bot": {
                "platform": "telegram",
                "token": SECRET,
                "base_url": "https://platform.test",
                "proxy": "http://me:a-password-that-must-not-leak@proxy.test:3128",
            },
            "other": {"platform": "telegram", "token": {"env": "NOT_SET_HERE"}},
        }
    )
    status = document(bot=account("retrying", cause=LOST), ghost=account())
    findings = await examine(
        room(
            tmp_path,
            text,
            doors=Doors(resolver=resolver),
            reading=Reading(status),
            environ={"https_proxy": "http://x:must-not-leak@a", "HTTPS_PROXY": "http://b"},
        )
    )
    assert set(resolver.asked) == {"proxy.test"}
    assert not any("must-not-leak" in repr(finding) for finding in findings)
    told = {(finding.check, finding.subject.rpartition(": ")[2]) for finding in findings}
    # What can not be read does not keep the rest from being examined.
    assert ("configuration", "[accounts.other] token") in told
    assert {("dns", "platform.test"), ("account", "bot"), ("owner", "ghost")} <= told
    assert ("credentials", "bot") in told


async def test_the_first_words_are_about_the_configuration(tmp_path: Path) -> None:
    findings = await examine(room(tmp_path, "[accounts]\nbot = 3\n"))
    assert findings[0].check == "configuration"
    assert findings[0].verdict is Verdict.FAIL
    assert "tables like [accounts.my-bot]" in findings[0].what
    assert "disk" in checks(findings, Verdict.OK)


async def test_a_warning_names_its_file_once_and_how_to_mend_it(tmp_path: Path) -> None:
    here = room(tmp_path, toml({"page": {"platform": "webchat", "token": SECRET}}))
    here.config.chmod(0o644)
    found = [f for f in await examine(here) if f.verdict is Verdict.WARN]
    assert [(f.subject, f.what, f.remedy) for f in found if f.check == "configuration"] == [
        (
            str(here.config),
            "[accounts.page] token: the secret is written in the file",
            "see docs/secrets.md",
        ),
        (
            str(here.config),
            "holds secrets and is readable by others",
            f"run: chmod 600 {here.config}",
        ),
    ]


async def test_a_configuration_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = room(tmp_path, "")

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", denied)
        found = (await examine(here))[0]
    assert found.what == "can not be read: Permission denied"
    assert found.remedy.startswith("let the user who runs Holdfast read it")


async def test_a_world_that_hangs_takes_about_5_s(tmp_path: Path) -> None:
    resolver = LabResolver()
    resolver.hang()
    accounts = {
        f"bot{n}": {"platform": "telegram", "token": f"{n}:x", "base_url": f"https://h{n}.test"}
        for n in range(5)
    }
    loop = asyncio.get_running_loop()
    began = loop.time()
    findings = await examine(room(tmp_path, toml(accounts), doors=Doors(resolver=resolver)))
    assert loop.time() - began <= 7.0
    assert checks(findings, Verdict.FAIL).count("dns") == 5


@pytest.mark.parametrize(("moved", "verdict"), [(0.0, "ok"), (4_000.0, "fail")])
async def test_the_running_gateways_process_is_examined(
    tmp_path: Path, moved: float, verdict: str
) -> None:
    """This very process stands in for it, as it was before the gateway in it was started."""
    status = document(bot=account())
    status = msgspec.structs.replace(
        status, started_at=time.time() - 10 - moved, started_boot=boot_clock() - 10
    )
    findings = await examine(room(tmp_path, "", reading=Reading(status)))
    clock = [finding for finding in findings if finding.check == "clock"]
    assert [finding.verdict for finding in clock] == [verdict]
    assert [finding.subject for finding in findings if finding.check == "files"] == ["gateway"]
