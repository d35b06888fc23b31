"""Installs and removes the unit, step by step, each of which can be told before it is done."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import holdfast
from holdfast.secrets import named
from holdfast.service.unit import MARK, NAME, Scope, Unit, UnitError

PATIENCE = 60.0
"""Seconds a call of systemctl may take; a start waits until the gateway says that it is ready."""

SYSTEM_UNITS = Path("/etc/systemd/system")
"""Where an administrator's units belong (systemd.unit(5))."""

LINGER = Path("/var/lib/systemd/linger")
"""Holds a file for each user whose services run without a session (loginctl(1))."""

Run = Callable[[Sequence[str]], None]
"""Runs a command. Raises UnitError when it fails."""


def run(command: Sequence[str]) -> None:
    """Run a command; what it prints is for people and goes to standard error. Raises UnitError."""
    try:
        subprocess.run(command, check=True, timeout=PATIENCE, stdout=2)
    except FileNotFoundError:
        raise UnitError(
            f"there is no {command[0]} here", "this machine's services are not systemd's"
        ) from None
    except subprocess.TimeoutExpired:
        raise UnitError(
            f"`{' '.join(command)}` took longer than {PATIENCE:g} s",
            f"look at: systemctl status {NAME}",
        ) from None
    except subprocess.CalledProcessError as error:
        raise UnitError(
            f"`{' '.join(command)}` failed with exit code {error.returncode}",
            f"look at: journalctl --unit {NAME}" if command[0] == "systemctl" else "",
        ) from None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    text: str
    do: Callable[[], None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Manager:
    """systemd, of the machine or of one user."""

    scope: Scope
    units: Path
    run: Run = run
    linger: Path = LINGER

    @classmethod
    def of(cls, scope: Scope, environ: Mapping[str, str] = os.environ) -> Manager:
        """The manager of this machine or this user."""
        if scope is Scope.SYSTEM:
            return cls(scope, SYSTEM_UNITS)
        home = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return cls(scope, Path(home) / "systemd" / "user")

    @property
    def path(self) -> Path:
        """The unit file."""
        return self.units / NAME

    def install(self, unit: Unit) -> list[Step]:
        """What has to be done to install and start a unit. Raises UnitError, then nothing was."""
        text = unit.text()
        self._check_ours("replaced")
        return [
            *self._directory(unit),
            Step(f"write {self.path}", lambda: self._write(text)),
            self._call("daemon-reload"),
            self._call("enable", NAME),
            # Not `enable --now`: what runs already would go on with the old unit.
            self._call("restart", NAME),
        ]

    def uninstall(self) -> list[Step]:
        """What has to be done to stop and remove the unit; nothing when there is none.

        Configuration, secrets and state stay. Raises UnitError, then nothing was done.
        """
        if not self.path.exists():
            return []
        self._check_ours("removed")
        return [
            self._call("disable", "--now", NAME),
            Step(f"remove {self.path}", self._remove),
            self._call("daemon-reload"),
        ]

    def advice(self, user: str) -> str:
        """What a user's service still wants, in words; empty for nothing."""
        if self.scope is Scope.SYSTEM or (self.linger / user).exists():
            return ""
        return f"it runs while {user} is logged in; for ever with: loginctl enable-linger {user}"

    def _directory(self, unit: Unit) -> Iterator[Step]:
        """Make the state directory of a confined service: it can not, and does not start without.

        One that is there is somebody's work and is left alone.
        """
        if unit.makes_state or self.scope is Scope.USER or unit.state_dir.exists():
            return
        place = str(unit.state_dir)
        yield self._command("install", "-d", "-m", "700", "-o", unit.run_as, place)

    def _call(self, *arguments: str) -> Step:
        whose = ("--user",) if self.scope is Scope.USER else ()
        return self._command("systemctl", *whose, *arguments)

    def _command(self, *command: str) -> Step:
        return Step(" ".join(command), lambda: self.run(command))

    def _check_ours(self, verb: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not self.path.read_text(encoding="utf-8").startswith(MARK):
                raise UnitError(
                    f"{self.path} was not written by Holdfast and is not {verb}",
                    "move it away first",
                )

    def _write(self, text: str) -> None:
        temporary = self.path.with_name(f".{NAME}.{os.getpid()}")
        try:
            self.units.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o644)
            temporary.replace(self.path)
        except OSError as error:
            hint = "run it with sudo, or install it as yours: --user"
            raise UnitError(
                f"{self.path} can not be written: {error.strerror}",
                hint if isinstance(error, PermissionError) else "",
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise UnitError(f"{self.path} can not be removed: {error.strerror}") from None


# -- what the unit is made of ---------------------------------------------------------------------


def program(argv0: str = sys.argv[0], python: str = sys.executable) -> tuple[str, ...]:
    """The command that is this ``holdfast``, wherever it is started from."""
    script = Path(argv0)
    if script.name == "holdfast" and script.is_file():
        return (str(script.absolute()),)
    return (python, "-m", "holdfast.cli")


def check_account(name: str) -> None:
    """Raise UnitError unless the system has an account of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise UnitError(
            f"there is no account {name!r} for the service to run under",
            f"make it: sudo useradd --system --home-dir /var/lib/{name} {name}, or name another: "
            "--run-as NAME",
        ) from None


def variables(config: Path) -> list[str]:
    """The environment variables that a configuration takes secrets from, in order.

    Looks at no secret. Raises OSError and ValueError for a file that is no configuration.
    """
    return named(_document(config), "env")


def reads(config: Path) -> tuple[Path, ...]:
    """What the service reads beside its configuration: the interpreter, its packages, secrets.

    Looks at no secret. Raises OSError and ValueError for a file that is no configuration.
    """
    files = (config.parent / Path(name).expanduser() for name in named(_document(config), "file"))
    package = Path(holdfast.__file__).parent
    return (Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), package, *files)


def _document(config: Path) -> dict[str, Any]:
    return tomllib.loads(config.read_text(encoding="utf-8-sig"))
