"""T3: a listening socket whose backlog is full, so that a TCP connect to it hangs."""

from __future__ import annotations

import select
import socket
from typing import Self

_FILLERS = 16
"""Connects tried before giving up; Linux needs two after ``listen(0)``."""


def has_v6() -> bool:
    """Whether this machine has ``::1``; containers often do not."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class FullBacklog:
    """A port on which connects hang until the caller's own limit. Use as ``with FullBacklog()``.

    ``host`` is ``127.0.0.1`` or ``::1``; port 0 lets the kernel choose. Works because Linux drops
    the SYN to a listener whose accept queue is full. Leaving closes the listener: connects that
    still hang are then refused at their next SYN.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self._sockets: list[socket.socket] = []

    def start(self) -> Self:
        """Listen and fill the queue.

        Raises OSError when the address is not there or taken, RuntimeError when the kernel lets
        every connect through.
        """
        try:
            listener = self._socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            self.port = listener.getsockname()[1]
            listener.listen(0)
            self._fill()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close everything."""
        while self._sockets:
            self._sockets.pop().close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _fill(self) -> None:
        for _ in range(_FILLERS):
            filler = self._socket()
            filler.setblocking(False)
            filler.connect_ex((self.host, self.port))
            # A loopback handshake is over before connect returns: not writable means not answered.
            if not select.select([], [filler], [], 0)[1]:
                return
        raise RuntimeError(f"{_FILLERS} connects did not fill the backlog of {self.host}")

    def _socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        return sock
