"""init and check: from nothing to credentials that are known to work."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from holdfast.adapters import BUILT_IN
from holdfast.cli import main
from holdfast.cli.exits import Exit
from holdfast.cli.journal import JOURNAL
from holdfast.cli.starter import ACCOUNTS, starter
from holdfast.config import load
from holdfast.lab.simulators.telegram import TelegramSimulator
from tests.cli.gateway import Place

VARIABLE = re.compile(r'env = "(\w+)"')


# -- init -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("platforms", [[name] for name in BUILT_IN] + [list(BUILT_IN)])
def test_what_init_writes_loads_once_the_secrets_are_there(
    tmp_path: Path, platforms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bots.toml"
    options = [word for name in platforms for word in ("--platform", name)]
    assert main(["init", str(path), *options]) == Exit.OK
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for name in VARIABLE.findall(path.read_text(encoding="utf-8")):
        monkeypatch.setenv(name, "1:x")
    # Some platforms need the public address, which only its owner knows.
    path.write_text(path.read_text(encoding="utf-8").replace("# hook_url", "hook_url"))
    config = load(path)
    assert sorted(config.accounts[name].platform for name in config.accounts) == sorted(platforms)
    assert not config.warnings  # no secret in the file


def test_every_built_in_platform_has_a_template() -> None:
    assert ACCOUNTS.keys() >= BUILT_IN.keys()


def test_a_platform_without_a_template_still_gets_a_table() -> None:
    text = starter(["irc", "irc"])
    assert text.count('platform = "irc"') == 1


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "holdfast.toml"
    path.write_text("precious")
    assert main(["--config", str(path), "init"]) == Exit.FAILED
    assert "exists and is left as it is" in capsys.readouterr().err
    assert path.read_text() == "precious"


def test_init_says_why_it_can_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "no" / "where.toml")]) == Exit.FAILED
    assert "No such file or directory" in capsys.readouterr().err


def test_init_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "holdfast.toml"
    assert main(["init", "--json", str(path)]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {"written": str(path)}


# -- check ----------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_check_tells_good_from_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator() as sim:
        wrong = sim.account() | {"token": "99:wrong"}
        away = sim.account() | {"token": "98:x", "base_url": "http://127.0.0.1:1"}
        place.write(good=sim.account(), wrong=wrong, away=away)
        assert await place.command("check", "good") == Exit.OK
        shown = capsys.readouterr()
        assert "@gate_test_bot" in shown.out
        assert "good" in shown.out
        assert "the secret is written in the file" in shown.err

        assert await place.command("check", "--json") == Exit.FAILED
        verdicts = {v["account"]: v for v in json.loads(capsys.readouterr().out)}
        assert verdicts["good"]["good"]
        assert verdicts["wrong"]["cause"]["kind"] == "credentials"
        assert "@BotFather" in verdicts["wrong"]["cause"]["hint"]
        assert verdicts["away"]["cause"]["kind"] == "unreachable"

        assert await place.command("check") == Exit.FAILED
        assert "bad: telegram_unauthorized" in capsys.readouterr().out
        assert not place.state.exists()

        assert await place.command("check", "bad") == Exit.FAILED
        assert "there are: away, good, wrong" in capsys.readouterr().err


@pytest.mark.real_time
@pytest.mark.slow
async def test_a_damaged_journal_is_told_until_somebody_has_taken_it_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    damaged = b"not a journal " * 1000
    async with TelegramSimulator() as sim:
        place.write(bot=sim.account())
        place.state.mkdir()
        (place.state / JOURNAL).write_bytes(damaged)
        assert await place.command("check") == Exit.FAILED
        shown = capsys.readouterr()
        assert str(place.state / JOURNAL) in shown.err
        assert "good" in shown.out
        async with place.gateway() as process:
            assert "journal damaged, set aside" in process.log
            assert await place.command("gaps", "--json") == Exit.OK
            (gap,) = json.loads(capsys.readouterr().out)["gaps"]
            assert "was damaged and set aside" in gap["reason"]
            assert await place.command("check") == Exit.FAILED
            assert "a damaged journal was set aside" in capsys.readouterr().err
            (aside,) = place.state.glob(f"{JOURNAL}.damaged-*")
            assert aside.read_bytes() == damaged
            aside.rename(tmp_path / "taken away")
            assert await place.command("check") == Exit.OK


@pytest.mark.parametrize(
    ("two", "parts"),
    [
        ({"token": "1:x"}, ["[accounts.two]", "[accounts.one]"]),
        ({"token": "2:x", "agent": "missing"}, ["[accounts.two] agent", "echo"]),
    ],
)
def test_check_finds_what_only_the_whole_shows(
    tmp_path: Path, two: dict[str, str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    place.write(one={"platform": "telegram", "token": "1:x"}, two={"platform": "telegram"} | two)
    assert main(["--config", str(place.config), "check"]) == Exit.CONFIG
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(part in error for part in parts)
