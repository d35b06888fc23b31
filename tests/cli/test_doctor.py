"""`holdfast doctor` as people call it: beside a gateway, and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.cli.exits import Exit
from holdfast.doctor.examine import ORDER
from holdfast.lab.simulators.telegram import TelegramSimulator
from tests.cli.gateway import Place

SECRET = "4242:a-secret-that-must-not-leak"


@pytest.mark.real_time
async def test_without_a_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator(token=SECRET) as sim:
        place.write(bot=sim.account())
        assert await place.command("doctor") == Exit.OK
        shown = capsys.readouterr().out
        assert "none runs here" in shown
        assert "bot: they work: @gate_test_bot" in shown
        assert shown.splitlines()[-1].startswith("0 fail, 1 warn, ")  # the secret in the file
        sim.revoke_token()
        assert await place.command("doctor", "--json") == Exit.FAILED
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "fail"
    assert {"holdfast", "python", "system"} <= report.keys()
    (failed,) = (f for f in report["findings"] if f["verdict"] == "fail")
    assert (failed["check"], failed["subject"]) == ("credentials", "bot")
    assert "@BotFather" in failed["remedy"]
    assert SECRET not in shown + str(report)


@pytest.mark.real_time
async def test_beside_a_running_gateway_it_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator(token=SECRET) as sim:
        place.write(bot=sim.account())
        async with place.gateway() as process:
            assert await place.command("doctor", "--json") == Exit.OK
            report = json.loads(capsys.readouterr().out)
    told = {finding["check"]: finding for finding in report["findings"]}
    assert f"it runs as process {process.process.pid}" in told["gateway"]["what"]
    assert told["account"]["subject"] == told["owner"]["subject"] == "bot"
    assert told["files"]["subject"] == "gateway"
    assert "in use" in told["files"]["what"]


def test_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.toml"), "doctor"]) == Exit.FAILED
    shown = capsys.readouterr().out
    assert "there is no such file" in shown
    assert "do: make one with `holdfast init`" in shown


def test_every_check_is_on_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(ORDER)
