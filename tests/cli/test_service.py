"""`holdfast service`: what is written, what is done, and what is left alone."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import main, service
from holdfast.cli.exits import Exit
from holdfast.service.systemd import Manager, check_account, program, reads, run, variables
from holdfast.service.unit import HOMES, MARK, STATE, TEMPORARY, Scope, Unit, UnitError, quoted

CONFIG = """\
[gateway]
state_dir = "var"
[accounts.bot]
platform = "telegram"
token = { env = "BOT_TOKEN" }
[accounts.other]
platform = "qqbot"
app_id = "1"
secret = { env = "QQ_SECRET" }
"""


def unit(scope: Scope = Scope.SYSTEM, **others: object) -> Unit:
    fields: dict[str, object] = {
        "scope": scope,
        "program": ("/usr/local/bin/holdfast",),
        "config": Path("/etc/holdfast/holdfast.toml"),
        "state_dir": STATE,
        "run_as": "holdfast",
    }
    return Unit(**(fields | others))  # type: ignore[arg-type]


class Systemd:
    """A manager on a directory of the test, which notes what it is told."""

    def __init__(self, home: Path, scope: Scope = Scope.USER) -> None:
        self.called: list[str] = []
        self.manager = Manager(scope, home / "units", run=self.run, linger=home / "linger")

    def run(self, command: Sequence[str]) -> None:
        """Note a command."""
        assert self.manager.path.exists()
        self.called.append(" ".join(command))


# -- the unit -------------------------------------------------------------------------------------


def test_the_machines_service_is_confined() -> None:
    lines = unit().text().splitlines()
    assert lines[0] == MARK
    for line in (
        "User=holdfast",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "StateDirectory=holdfast",
        "WantedBy=multi-user.target",
    ):
        assert line in lines


@pytest.mark.parametrize("home", HOMES, ids=str)
@pytest.mark.parametrize("key", ["program", "config", "state_dir"])
def test_what_it_needs_is_not_hidden_from_it(key: str, home: Path) -> None:
    place = home / "bot" / "holdfast"
    changes: dict[str, Any] = {key: (str(place),) if key == "program" else place}
    assert "ProtectHome=yes" not in unit(**changes).text().splitlines()


@pytest.mark.parametrize("place", TEMPORARY, ids=str)
@pytest.mark.parametrize("key", ["program", "config", "state_dir"])
def test_what_it_needs_may_be_a_temporary_file(key: str, place: Path) -> None:
    file = place / "bot" / "holdfast"
    changes: dict[str, Any] = {key: (str(file),) if key == "program" else file}
    assert "PrivateTmp=yes" not in unit(**changes).text().splitlines()
    assert "PrivateTmp=yes" in unit().text().splitlines()


@pytest.mark.parametrize("home", HOMES, ids=str)
def test_an_interpreter_or_a_secret_in_a_home_is_not_hidden(home: Path) -> None:
    lines = unit(reads=(Path("/etc/token"), home / "me" / "venv")).text().splitlines()
    assert "ProtectHome=yes" not in lines
    assert "ProtectHome=yes" in unit(reads=(Path("/etc/token"),)).text().splitlines()


@pytest.mark.parametrize("key", ["program", "config", "state_dir", "reads"])
def test_a_link_into_a_home_counts_as_what_it_leads_to(tmp_path: Path, key: str) -> None:
    link = tmp_path / "holdfast"
    link.symlink_to("/home/me/.local/share/pipx/venvs/holdfast/bin/holdfast")
    changes: dict[str, Any] = {key: {"program": (str(link),), "reads": (link,)}.get(key, link)}
    assert "ProtectHome=yes" not in unit(**changes).text().splitlines()


def test_the_service_reads_its_interpreter_and_the_files_of_its_secrets(tmp_path: Path) -> None:
    config = tmp_path / "holdfast.toml"
    config.write_text(
        '[accounts.a]\ntoken = { file = "/home/me/token" }\nsecret = { file = "near" }\n'
        'other = { env = "TOKEN" }\n'
    )
    found = reads(config)
    assert {Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix)} <= {*found}
    assert found[-2:] == (Path("/home/me/token"), tmp_path / "near")


def test_another_state_directory_is_made_writable() -> None:
    lines = unit(state_dir=Path("/srv/100%")).text().splitlines()
    assert "ReadWritePaths=/srv/100%%" in lines
    assert not any(line.startswith("StateDirectory") for line in lines)


def test_a_users_service_needs_no_rights() -> None:
    text = unit(Scope.USER).text()
    for key in ("User=", "ProtectSystem", "PrivateDevices", "CapabilityBoundingSet"):
        assert key not in text
    assert "WantedBy=default.target" in text
    assert "StartLimitIntervalSec=0" in text


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/usr/bin/holdfast", "/usr/bin/holdfast"),
        ("/my bots/h", '"/my bots/h"'),
        ("/a%b$c", '"/a%%b$$c"'),
        ('/a"b\\c', '"/a\\"b\\\\c"'),
    ],
)
def test_words_reach_the_program_as_they_are(word: str, written: str) -> None:
    assert quoted(word) == written


@pytest.mark.parametrize("path", ["/a\nExecStart=/bin/sh", "/srv/my bots"])
def test_a_path_that_no_unit_can_hold_is_refused(path: str) -> None:
    with pytest.raises(UnitError):
        unit(state_dir=Path(path)).text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("directory", ["/var/lib/holdfast", "/srv/100%"])
def test_systemd_understands_it(tmp_path: Path, scope: Scope, directory: str) -> None:
    shown = unit(
        scope,
        program=(sys.executable, "-m", "it's 100% $HOME"),
        state_dir=Path(directory),
        run_as="root",
    )
    path = tmp_path / "holdfast.service"
    path.write_text(shown.text(), encoding="utf-8")
    verify = ["systemd-analyze", f"--{scope}", "--man=no", "verify", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "holdfast.service" in line]
    assert complaints == []


# -- install and uninstall ------------------------------------------------------------------------


def test_install_and_uninstall_leave_nothing_behind(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    for step in systemd.manager.install(unit(Scope.USER)):
        step.do()
    assert systemd.manager.path.read_text(encoding="utf-8") == unit(Scope.USER).text()
    assert systemd.called == [
        "systemctl --user daemon-reload",
        "systemctl --user enable holdfast.service",
        "systemctl --user restart holdfast.service",
    ]
    assert [path.name for path in systemd.manager.units.iterdir()] == ["holdfast.service"]
    steps = systemd.manager.uninstall()
    assert [step.text for step in steps] == [
        "systemctl --user disable --now holdfast.service",
        f"remove {systemd.manager.path}",
        "systemctl --user daemon-reload",
    ]
    steps[0].do()
    steps[1].do()
    assert list(systemd.manager.units.iterdir()) == []
    assert systemd.manager.uninstall() == []


def test_another_state_directory_is_made_for_the_services_account(tmp_path: Path) -> None:
    manager = Systemd(tmp_path, Scope.SYSTEM).manager
    place = tmp_path / "etc" / "state"
    first = manager.install(unit(state_dir=place, run_as="bots"))[0]
    assert first.text == f"install -d -m 700 -o bots {place}"
    place.mkdir(parents=True)
    for others in (unit(state_dir=place), unit()):  # it is there, or systemd makes it
        assert manager.install(others)[0].text == f"write {manager.path}"
    mine = unit(Scope.USER, state_dir=tmp_path / "mine")
    systemd = Systemd(tmp_path)
    assert systemd.manager.install(mine)[0].text == f"write {systemd.manager.path}"


def test_the_state_directory_is_there_before_the_service_starts(tmp_path: Path) -> None:
    place = tmp_path / "etc" / "state"
    called: list[str] = []

    def carry_out(command: Sequence[str]) -> None:
        called.append(command[0])
        if command[0] == "install":
            run(command)
        else:
            assert place.stat().st_mode & 0o777 == 0o700

    manager = Manager(Scope.SYSTEM, tmp_path / "units", run=carry_out)
    me = getpass.getuser()
    for step in manager.install(unit(state_dir=place, run_as=me)):
        step.do()
    assert called == ["install", *["systemctl"] * 3]


def test_somebody_elses_unit_is_left_alone(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    systemd.manager.units.mkdir()
    systemd.manager.path.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(UnitError, match="was not written by Holdfast and is not replaced"):
        systemd.manager.install(unit())
    with pytest.raises(UnitError, match="was not written by Holdfast and is not removed"):
        systemd.manager.uninstall()


def test_a_directory_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "units").touch()
    with pytest.raises(UnitError, match="can not be written: File exists"):
        Systemd(tmp_path).manager.install(unit())[0].do()


def test_lingering_is_advised_until_it_is_on(tmp_path: Path) -> None:
    manager = Systemd(tmp_path).manager
    assert "loginctl enable-linger me" in manager.advice("me")
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / "me").touch()
    assert manager.advice("me") == ""
    assert Systemd(tmp_path, Scope.SYSTEM).manager.advice("you") == ""


@pytest.mark.parametrize(
    ("command", "problem"),
    [(["false"], "failed with exit code 1"), (["no-such-systemctl"], "there is no no-such")],
)
def test_a_failing_systemctl_is_told(command: list[str], problem: str) -> None:
    with pytest.raises(UnitError, match=problem):
        run(command)


def test_the_account_must_exist() -> None:
    check_account("root")
    with pytest.raises(UnitError, match="sudo useradd --system"):
        check_account("nobody-has-this-name")


def test_which_program_it_is(tmp_path: Path) -> None:
    script = tmp_path / "holdfast"
    script.touch()
    assert program(str(script)) == (str(script),)
    assert program("/usr/lib/pytest", "/usr/bin/python3") == (
        "/usr/bin/python3",
        "-m",
        "holdfast.cli",
    )


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, and a home for units."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    path = tmp_path / "holdfast.toml"
    path.write_text(CONFIG, encoding="utf-8")
    assert variables(path) == ["BOT_TOKEN", "QQ_SECRET"]
    return path


def test_a_dry_run_writes_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(config), "service", "install", "--user", "--dry-run"]
    assert main(arguments) == Exit.OK
    shown = capsys.readouterr()
    assert f"--config {config} run\n" in shown.out
    assert f"would write {config.parent}/home/systemd/user/holdfast.service" in shown.out
    assert "BOT_TOKEN, QQ_SECRET must be in" in shown.err
    assert not (config.parent / "home").exists()
    assert main([*arguments, "--json"]) == Exit.OK
    report = json.loads(capsys.readouterr().out)
    assert report["dry_run"]
    assert report["unit"].startswith(MARK)
    assert len(report["steps"]) == 4


def test_a_dry_run_tells_of_a_missing_account(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["service", "install", "--system", "--run-as", "nobody-has-this", "--dry-run"]
    assert main(["--config", str(config), *command]) == Exit.OK
    shown = capsys.readouterr()
    assert "User=nobody-has-this" in shown.out
    assert "note: there is no account 'nobody-has-this' for the service to run" in shown.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["install", "--user", "--run-as", "me"], "leave out --run-as"),
        (["install", "--system", "--run-as", "nobody-has-this"], "there is no account"),
        (["uninstall", "--user"], "service uninstall --system"),
    ],
)
def test_mistakes(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main(["--config", str(config), "service", *arguments]) != Exit.OK
    assert problem in capsys.readouterr().err


def test_a_bad_configuration_is_not_installed(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[gateway]\nstate_dri = 1\n")
    command = ["--config", str(config), "service", "install", "--user", "--dry-run"]
    assert main(command) == Exit.CONFIG
    assert "did you mean `state_dir`?" in capsys.readouterr().err


def test_the_services_account_has_a_name() -> None:
    assert f"User={service.RUN_AS}" in unit().text()
