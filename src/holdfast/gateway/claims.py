"""One gateway on a machine for each account: a second one is refused, and told who has it.

The journal's lock keeps two gateways from one state directory. Two with different directories and
one credential would take messages from each other, or answer everything twice, and most platforms
tell neither. So each account is claimed under a name in Linux's abstract socket namespace, which
the kernel frees when its holder dies, however it dies; where there is no such namespace, nothing
is claimed. Containers with a network of their own do not see each other's names.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.errors import AccountInUse

AVAILABLE: Final = sys.platform == "linux"
"""Whether this system has an abstract socket namespace (unix(7))."""

SPACE: Final = "HOLDFAST_CLAIM_SPACE"
"""Environment variable: gateways with different values do not see each other's accounts."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid."""


@dataclass(frozen=True, slots=True)
class Owned:
    """What two gateways can not both have."""

    platform: str
    identity: str
    endpoint: str
    """Two servers of one platform are two worlds."""

    def address(self, space: str) -> str:
        """Its name in the abstract namespace, which anybody on the machine may read."""
        words = "\n".join((space, self.platform, self.identity, self.endpoint))
        return f"\0holdfast-account-{hashlib.sha256(words.encode()).hexdigest()[:32]}"


class Claims:
    """The accounts that this process has. All methods must be called on the loop's thread."""

    def __init__(self, space: str | None = None) -> None:
        """Only claims of one ``space`` meet; by default that of the environment's `SPACE`."""
        self._space = os.environ.get(SPACE, "") if space is None else space
        self._held: dict[Owned, socket.socket] = {}

    def hold(self, wanted: Mapping[Owned, str], where: str) -> None:
        """Have these accounts, thing -> account name, and no others from now on.

        Raises AccountInUse, naming the process, when another one has one of them; then nothing
        has changed.
        """
        new: dict[Owned, socket.socket] = {}
        try:
            for owned in wanted.keys() - self._held.keys() if AVAILABLE else ():
                place = f"{where}: [accounts.{wanted[owned]}]"
                new[owned] = _claim(owned.address(self._space), place)
        except BaseException:
            for sock in new.values():
                sock.close()
            raise
        for sock in new.values():
            asyncio.get_running_loop().add_reader(sock, _greet, sock)
        for owned in self._held.keys() - wanted.keys():
            self._give_up(owned)
        self._held |= new

    def release(self) -> None:
        """Let others have all of them. Idempotent."""
        for owned in list(self._held):
            self._give_up(owned)

    def _give_up(self, owned: Owned) -> None:
        sock = self._held.pop(owned)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()


def _claim(address: str, where: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(address)
        sock.listen()
    except OSError:
        sock.close()
        raise AccountInUse(
            where,
            f"{_holder(address)} on this machine uses the same credentials",
            "stop that gateway, or give each its own bot; if both are wanted all the same, start "
            f"one with the environment variable {SPACE}=other",
        ) from None
    return sock


def _holder(address: str) -> str:
    """Who has it, as the kernel knows."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(address)
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:  # it is just leaving, or too busy
            return "another process"
        return f"process {_CREDENTIALS.unpack(found)[0]}"


def _greet(sock: socket.socket) -> None:
    """Somebody asked who we are; the kernel has told him."""
    try:
        caller, _ = sock.accept()
    except OSError:
        return
    caller.close()
