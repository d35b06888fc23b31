"""The control socket: a Unix socket in the state directory that only its owner can use."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

SOCKET_NAME = "control.sock"

BACKLOG = 16
"""Commands that may wait to be accepted; people type slowly."""

_LONGEST = 107
"""Bytes of a path in ``sockaddr_un`` on Linux, without its final zero (unix(7))."""


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path`` with mode 0600. Raises OSError.

    The socket gets its name only once its mode is right, so there is no moment in which another
    user could connect; the socket of a gateway that died is replaced.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with _address(temporary) as address:
            sock.bind(address)
        temporary.chmod(0o600)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        temporary.replace(path)
    except BaseException:
        sock.close()
        temporary.unlink(missing_ok=True)
        raise
    return sock


def connect(path: Path, timeout: float) -> socket.socket:
    """A socket connected to ``path``; no call on it takes longer than ``timeout`` seconds.

    Raises OSError: FileNotFoundError and ConnectionRefusedError when nobody listens.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with _address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for ``path``; one that is too long is reached through an open directory."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
