"""T4: silent packet loss on a wire of its own: two network namespaces and a pair of interfaces.

    with Wire() as wire:
        Child(wire.inside(Side.SERVER, [sys.executable, "-m", "server", wire.server_address]))
        Child(wire.inside(Side.CLIENT, [sys.executable, "-m", "client", wire.server_address]))
        wire.drop(port)     # no FIN, no RST, no ICMP: the kernels retransmit into nothing
        wire.heal()

This is the one tool under which the kernels notice nothing acknowledged, as on a real dead path;
every other one loses bytes above TCP. It needs Linux, root, ``ip`` and ``nft`` (the packages
iproute2 and nftables); `available` says what is missing. Its addresses exist only inside its
namespaces. Switches are synchronous and take some 10 ms each.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

COMMAND_TIMEOUT = 10.0
"""Seconds one ``ip`` or ``nft`` command may take."""

_INTERFACE = "wire0"
_NUMBERS = itertools.count(1)


class WireError(RuntimeError):
    """A command failed; the message holds the command and what it said."""


class Side(enum.Enum):
    """The two ends of the wire."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether the tool works here; true or false, with the reason for false."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


def available() -> Availability:
    """Whether a `Wire` can be made here. Tries it, because containers refuse in many ways."""
    if sys.platform != "linux":
        return Availability(False, "network namespaces need Linux")
    if os.geteuid() != 0:
        return Availability(False, "network namespaces need root")
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return Availability(False, f"not installed: {', '.join(missing)}")
    try:
        with Wire() as wire:
            wire.drop()
    except WireError as error:
        return Availability(False, str(error))
    return Availability(True)


class Wire:
    """A server's and a client's namespace, joined by one wire. A context manager.

    Every wire has namespaces of its own, so the same addresses serve all of them.
    """

    server_address = "10.203.0.1"
    client_address = "10.203.0.2"

    def __init__(self) -> None:
        stem = f"holdfast-{os.getpid()}-{next(_NUMBERS)}"
        self._namespaces = {side: f"{stem}-{side.value}" for side in Side}

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Make the namespaces and bring the wire up. Raises WireError; then nothing is left."""
        server, client = self._namespaces[Side.SERVER], self._namespaces[Side.CLIENT]
        try:
            for namespace in (server, client):
                _run("ip", "netns", "add", namespace)
            # Both interfaces are born inside: the host's own namespace never sees them.
            _run(
                *("ip", "link", "add", "name", _INTERFACE, "netns", server, "type", "veth"),
                *("peer", "name", _INTERFACE, "netns", client),
            )
            self._bring_up(server, self.server_address)
            self._bring_up(client, self.client_address)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Delete both namespaces; processes still inside keep theirs, without the wire's peer."""
        for namespace in self._namespaces.values():
            with contextlib.suppress(WireError):
                _run("ip", "netns", "del", namespace)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def inside(self, side: Side, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` in a side's namespace, under the process id it gets."""
        return ["ip", "netns", "exec", self._namespaces[side], *argv]

    # -- switches -----------------------------------------------------------------------------

    def drop(self, port: int | None = None) -> None:
        """Drop, without a word, all that goes to and comes from a TCP port; None: everything."""
        to_port = "drop" if port is None else f"tcp dport {port} drop"
        from_port = "drop" if port is None else f"tcp sport {port} drop"
        self._rules(to_port, from_port)

    def reject_rst(self, port: int) -> None:
        """Answer everything sent to the server's TCP ``port`` with RST; the server is not told."""
        # Nothing is dropped on the way out: the RST itself comes from the port.
        self._rules(f"tcp dport {port} reject with tcp reset", "accept")

    def heal(self) -> None:
        """No rules: whatever the kernels still retransmit arrives."""
        self._nft("flush ruleset")

    def link_down(self) -> None:
        """Take the server's interface down: the client's is up still, without a carrier."""
        self._link(Side.SERVER, "down")

    def link_up(self) -> None:
        """Bring it up again; addresses are kept."""
        self._link(Side.SERVER, "up")

    # -- within -------------------------------------------------------------------------------

    def _bring_up(self, namespace: str, address: str) -> None:
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "addr", "add", f"{address}/30", "dev", _INTERFACE)
        _run("ip", "-n", namespace, "link", "set", _INTERFACE, "up")

    def _link(self, side: Side, state: str) -> None:
        _run("ip", "-n", self._namespaces[side], "link", "set", _INTERFACE, state)

    def _rules(self, incoming: str, outgoing: str) -> None:
        # One transaction: no packet slips through between the old rules and the new.
        self._nft(
            f"""flush ruleset
            table inet holdfast {{
                chain incoming {{ type filter hook input priority 0; {incoming}; }}
                chain outgoing {{ type filter hook output priority 0; {outgoing}; }}
            }}"""
        )

    def _nft(self, script: str) -> None:
        _run(*self.inside(Side.SERVER, ["nft", "-f", "-"]), stdin=script)


def _run(*argv: str, stdin: str = "") -> None:
    try:
        subprocess.run(
            argv, input=stdin, text=True, capture_output=True, check=True, timeout=COMMAND_TIMEOUT
        )
    except subprocess.CalledProcessError as error:
        raise WireError(f"{' '.join(argv)}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WireError(f"{' '.join(argv)}: {error}") from error
