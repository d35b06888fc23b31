"""Whether a gateway can keep its files in a directory, asked before one is started there."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from holdfast.errors import ConfigError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
PASSING = frozenset({*_NO_ROOM, errno.EIO, errno.ESTALE})
"""What mends itself, or is mended elsewhere: no mistake in the configuration, so that a service
manager goes on trying."""

FILES = ("journal.db", "journal.db.lock", "history.db", "gateway_state.json")
"""The gateway's files, of which none can be a directory."""


def check_state_dir(directory: Path, where: str) -> None:
    """Refuse a state directory that is none, or can not be made. Nothing is left behind.

    Raises ConfigError. One that is there and can not be written is told by the journal.
    """
    hint = "name a directory on a local disk, in which this user can write"
    try:
        place = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
        if not place.is_dir():
            raise ConfigError(where, f"{place} is no directory", hint)
        if place != directory:
            # Rights would tell less: nobody, root included, can make one in /proc.
            Path(tempfile.mkdtemp(dir=place)).rmdir()
        for name in FILES:
            if (directory / name).is_dir():
                problem = f"{directory / name} is a directory"
                raise ConfigError(where, problem, "move it away: the gateway keeps a file there")
    except OSError as error:
        if place == directory or error.errno in PASSING:
            return
        problem = f"{directory} can not be made: {error.strerror}"
        raise ConfigError(where, problem, hint) from None
