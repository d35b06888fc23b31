"""The unit file, as a pure function of where everything is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from holdfast.errors import HoldfastError

NAME = "holdfast.service"

MARK = "# Written by `holdfast service install`"
"""How our own unit begins; any other is somebody's work and is left alone."""

STATE = Path("/var/lib/holdfast")
"""Where the state of the system's service belongs (file-hierarchy(7))."""

HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""What ``ProtectHome=yes`` hides from a service (systemd.exec(5))."""


TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
"""What ``PrivateTmp=yes`` hides from a service (systemd.exec(5))."""


class Scope(StrEnum):
    """Whose service it is."""

    SYSTEM = "system"
    """The machine's: started at boot, under an account of its own."""
    USER = "user"
    """One user's: started with the user's session, or at boot where lingering is enabled."""


class UnitError(HoldfastError):
    """A unit can not be written, installed or removed."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem + (f" ({hint})" if hint else ""))
        self.problem, self.hint = problem, hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a unit file says. All paths are absolute."""

    scope: Scope
    program: tuple[str, ...]
    """The command that is ``holdfast``."""
    config: Path
    state_dir: Path
    run_as: str = ""
    """The account the system's service runs under."""
    reads: tuple[Path, ...] = ()
    """What else the service reads: the interpreter, secret files."""

    @property
    def secrets(self) -> Path:
        """The file of environment variables beside the configuration, which may be absent."""
        return self.config.parent / "secrets.env"

    @property
    def makes_state(self) -> bool:
        """Whether the manager makes the state directory when it starts the service."""
        return self.scope is Scope.SYSTEM and self.state_dir == STATE

    def text(self) -> str:
        """The unit file. Raises UnitError for a path that no unit can hold."""
        return "\n".join([*self._head(), *self._service(), *self._confinement(), *self._install()])

    def _head(self) -> Iterator[str]:
        yield MARK
        yield from (
            "",
            "[Unit]",
            "Description=Holdfast chat-bot gateway",
            "Documentation=man:systemd.service(5)",
        )
        if self.scope is Scope.SYSTEM:
            yield from (
                "# Not network-online.target: the gateway starts without a network and connects",
                "# when it is there.",
                "After=network.target",
            )
        yield from (
            "# The default, five starts in 10 s, would leave the unit down for good.",
            "StartLimitIntervalSec=0",
            "",
        )

    def _service(self) -> Iterator[str]:
        command = " ".join(map(quoted, (*self.program, "--config", str(self.config))))
        yield from (
            "[Service]",
            "Type=notify",
            "NotifyAccess=main",
            f"ExecStart={command} run",
            "# Answers with what was changed, or fails with the mistake in the configuration.",
            f"ExecReload={command} reload",
            f"EnvironmentFile=-{_path(self.secrets)}",
        )
        if self.scope is Scope.SYSTEM:
            yield f"User={self.run_as}"
        yield from (
            "",
            "# The gateway's own loop feeds the watchdog, and only while no account's deadline is",
            "# overdue.",
            "WatchdogSec=30",
            "Restart=always",
            "RestartSec=1s",
            "# An unusable configuration does not mend itself by another start.",
            "RestartPreventExitStatus=78",
            "# The gateway is gone 5 s after SIGTERM by itself.",
            "TimeoutStopSec=10",
            "KillMode=mixed",
            "LimitNOFILE=65536",
            "UMask=0077",
            "",
        )

    def _confinement(self) -> Iterator[str]:
        yield from ("NoNewPrivileges=yes", "LockPersonality=yes", "RestrictSUIDSGID=yes")
        yield "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK"
        if self.scope is Scope.USER:
            # The rest needs mount namespaces, which a user's manager can not always make.
            yield ""
            return
        yield from (
            "ProtectSystem=strict",
            "PrivateDevices=yes",
            "ProtectKernelTunables=yes",
            "ProtectKernelModules=yes",
            "ProtectControlGroups=yes",
            "CapabilityBoundingSet=",
        )
        if self.makes_state:
            yield from (f"StateDirectory={STATE.name}", "StateDirectoryMode=0700")
        else:
            yield f"ReadWritePaths={_path(self.state_dir)}"
        if not self._needs(TEMPORARY):
            yield "PrivateTmp=yes"
        if not self._needs(HOMES):
            yield "ProtectHome=yes"
        yield ""

    def _needs(self, places: tuple[Path, ...]) -> bool:
        """Whether something the service needs would be hidden with these places.

        What a link leads to is needed as much as the link.
        """
        named = (*map(Path, self.program), self.config, self.state_dir, *self.reads)
        needed = {road for path in named if path.is_absolute() for road in (path, path.resolve())}
        return any(path.is_relative_to(place) for path in needed for place in places)

    def _install(self) -> Iterator[str]:
        target = "multi-user.target" if self.scope is Scope.SYSTEM else "default.target"
        yield from ("[Install]", f"WantedBy={target}", "")


def quoted(word: str) -> str:
    """A word of a command line as systemd reads it (systemd.service(5), "Command lines")."""
    _check(word)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%")
    return f'"{escaped}"' if escaped != word or not word or " " in word or "'" in word else word


def _path(path: Path) -> str:
    """A path as the value of a setting, where only ``%`` is special."""
    _check(str(path))
    if " " in str(path):
        raise UnitError(f"a unit can not name {path}", "move it to a path without spaces")
    return str(path).replace("%", "%%")


def _check(text: str) -> None:
    if any(not char.isprintable() for char in text):
        raise UnitError(f"a unit can not hold {text!r}", "rename it without control characters")
