"""Exit codes, and the error that ends a command with one of them."""

from __future__ import annotations

from enum import IntEnum

from holdfast.errors import HoldfastError


class Exit(IntEnum):
    """What a command's exit code says. 75 and 78 are those of sysexits(3)."""

    OK = 0
    """It worked."""
    FAILED = 1
    """It did not; standard error says why."""
    USAGE = 2
    """The command line was wrong."""
    ATTENTION = 3
    """An account needs a person."""
    UNANSWERED = 4
    """The gateway is not running, or does not answer."""
    IN_USE = 75
    """Another gateway runs on the same state directory, or uses an account of this one."""
    CONFIG = 78
    """The configuration can not be used; starting again will not help."""


class CommandFailed(HoldfastError):
    """A command can not do what it was asked for, for a reason worth one line."""

    def __init__(self, problem: str, hint: str = "", exit: Exit = Exit.FAILED) -> None:
        super().__init__(problem + (f" ({hint})" if hint else ""))
        self.problem, self.exit = problem, exit
