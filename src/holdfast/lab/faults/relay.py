"""T1: a byte relay between a client and a server whose network can be broken while it runs.

    async with Relay("127.0.0.1", server_port) as relay:
        connect(relay.url("ws"))
        relay.hole()        # the live connections turn into zombies
        relay.heal()        # the path is back; the zombies are reset

Some modes shape the path, for live and new connections alike: `late`, `drip`, `cut`, `refuse`.
Others strike the connections that are alive at that moment: `hole`, `hole_in`, `stall`, `rst`,
`fin`. New connections then pass, as after a NAT lost its table; with ``new=True`` every new
connection suffers the same. One mode rules at a time: entering one leaves the one before.

A hole keeps reading both sockets and throws the bytes away, FIN and RST included: the kernels
acknowledge everything, so only a proof from above TCP can show the death. A stream that has lost
bytes cannot be mended: it stays silent until `heal` resets it. `stall` stops reading instead, and
its bytes are delivered, in order, when the stall ends.

Delays use the running loop's clock, so virtual time works. Memory is bounded (see `splice`).
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections import deque
from dataclasses import dataclass
from typing import Literal, Self

from holdfast.lab.faults.splice import Shape, Splice, Traffic

LOG_SIZE = 1_000
"""Entries of the log that are kept; the oldest go first."""

BACKLOG = 128
"""The kernel's queue of connections not yet accepted; asyncio's servers use 100."""

ACCEPT_RETRY = 1.0
"""Seconds until accepting is tried again without descriptors, as in asyncio's own servers."""

STOP_TIMEOUT = 5.0
"""Seconds in which all aborted sockets must be gone; the limit for a stop in the lab's rules."""

_PLAIN = Shape()
_STALLED = Shape(stalled=True)


class Mode(enum.Enum):
    """What a relay does with its connections."""

    PASS = "pass"
    HOLE = "hole"
    HOLE_IN = "hole-in"
    STALL = "stall"
    RST = "rst"
    FIN = "fin"
    LATE = "late"
    DRIP = "drip"
    CUT = "cut"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Change:
    """One dated entry of a relay's log."""

    at: float
    """Seconds on the loop's clock."""
    what: str
    """A mode's value, ``heal``, ``idle-drop``, ``forgotten``, ``retarget`` or ``unreachable``."""
    detail: str = ""


class Relay:
    """A TCP relay on loopback with faults on demand. Use as an asynchronous context manager.

    All switches are plain calls that take effect before they return, so they can be given to
    ``loop.call_later``. ``connections`` counts the open ones, holed ones included; ``accepted``
    counts all there ever were; ``to_server`` and ``to_client`` count bytes delivered and lost.
    """

    def __init__(
        self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.target = (target_host, target_port)
        self.host, self.port = host, port
        self.mode = Mode.PASS
        self.accepted = 0
        self.to_server = Traffic()
        self.to_client = Traffic()
        self.log: deque[Change] = deque(maxlen=LOG_SIZE)
        self._shape = _PLAIN
        self._strikes_new = False
        self._idle: tuple[float | None, bool] = (None, False)
        self._socket: socket.socket | None = None
        self._listening = False
        self._retry: asyncio.TimerHandle | None = None
        self._splices: dict[Splice, asyncio.Task[None] | None] = {}
        self._empty = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Listen. Port 0 lets the kernel choose; the choice is kept over stop and start."""
        self._loop = asyncio.get_running_loop()
        self._socket = self._bind()
        self.port = self._socket.getsockname()[1]
        if self.mode is not Mode.REFUSE:
            self._listen()
        return self

    async def stop(self) -> None:
        """Stop listening, reset every connection, and return when their sockets are closed."""
        if self._socket is None:
            return
        self._unlisten()
        self._socket.close()
        self._socket = None
        tasks = [task for task in self._splices.values() if task is not None]
        for splice, task in list(self._splices.items()):
            splice.reset()
            if task is not None:
                task.cancel()
        async with asyncio.timeout(STOP_TIMEOUT):
            await asyncio.gather(*tasks, return_exceptions=True)
            while self._splices:
                self._empty.clear()
                await self._empty.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def url(self, scheme: str, path: str = "") -> str:
        """The relay's address as a URL, for example ``ws://127.0.0.1:40123``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{path}"

    @property
    def connections(self) -> int:
        """How many connections are open on at least one side."""
        return len(self._splices)

    # -- switches -----------------------------------------------------------------------------

    def pass_(self) -> None:
        """Carry new bytes again. Connections that lost bytes stay silent; see `heal`."""
        self._enter(Mode.PASS)

    def heal(self) -> None:
        """Back to pass, and RST for every connection that lost bytes or may have."""
        self._note("heal")
        self._reset([splice for splice in self._splices if splice.broken])
        self._enter(Mode.PASS)

    def hole(self, *, new: bool = False) -> None:
        """Lose all bytes both ways and keep both sockets open."""
        self._strike(Mode.HOLE, new)

    def hole_in(self, *, new: bool = False) -> None:
        """Lose what the server sends; what the client sends arrives."""
        self._strike(Mode.HOLE_IN, new)

    def stall(self, *, new: bool = False) -> None:
        """Stop reading both ways: bytes wait in the senders' kernels until the stall ends."""
        self._strike(Mode.STALL, new)

    def rst(self, *, new: bool = False) -> None:
        """RST to both sides of every live connection. Without ``new`` the mode stays as it was."""
        self._strike(Mode.RST, new)

    def fin(self, *, new: bool = False) -> None:
        """Half close: the client reads end-of-file, and what it still sends arrives.

        What the server sends afterwards is lost. Without ``new`` the mode stays as it was.
        """
        self._strike(Mode.FIN, new)

    def late(self, seconds: float) -> None:
        """Deliver everything ``seconds`` late, each way. The TCP handshake itself is not late."""
        self._enter(Mode.LATE, Shape(delay=seconds), detail=f"{seconds:g} s")

    def drip(self, rate: float = 1.0) -> None:
        """Deliver one byte at a time, ``rate`` bytes a second, in each direction."""
        self._enter(Mode.DRIP, Shape(rate=rate), detail=f"{rate:g} B/s")

    def cut(self) -> None:
        """Pull the cable: live connections are holes, new ones are accepted and never answered.

        New connections do not reach the server.
        """
        self._strike(Mode.CUT, new=True)

    def refuse(self) -> None:
        """Refuse new connections and reset the live ones. The port stays reserved."""
        self._reset(list(self._splices))
        self._enter(Mode.REFUSE)

    def idle_drop(self, seconds: float | None, then: Literal["hole", "rst"] = "hole") -> None:
        """Forget any connection that carried no byte for ``seconds``, as a NAT does; None: never.

        ``hole``: it is silent from then on. ``rst``: silent too, until the client's next byte is
        answered with RST; the server is never told. Independent of the mode.
        """
        self._idle = (seconds, then == "rst")
        self._note("idle-drop", "never" if seconds is None else f"{seconds:g} s, {then}")
        for splice in self._splices:
            self._watch_idle(splice)

    def retarget(self, host: str, port: int) -> None:
        """Send new connections to another server."""
        self.target = (host, port)
        self._note("retarget", f"{host}:{port}")

    # -- modes --------------------------------------------------------------------------------

    def _enter(self, mode: Mode, shape: Shape = _PLAIN, detail: str = "") -> None:
        self.mode = mode
        self._shape = _PLAIN if mode is Mode.STALL else shape
        self._strikes_new = False
        self._note(mode.value, detail)
        for splice in list(self._splices):
            splice.shape(shape)
        if self._socket is None:
            return
        if mode is Mode.REFUSE:
            self._unlisten()
        else:
            self._listen()

    def _strike(self, mode: Mode, new: bool) -> None:
        # Hit first: entering a mode delivers what an earlier stall or delay still holds.
        for splice in list(self._splices):
            self._hit(splice, mode)
        if new or mode not in (Mode.RST, Mode.FIN):
            shape = _STALLED if mode is Mode.STALL else _PLAIN
            self._enter(mode, shape, detail="new ones too" if new else "")
            self._strikes_new = new
        else:
            self._note(mode.value)

    def _hit(self, splice: Splice, mode: Mode) -> None:
        match mode:
            case Mode.HOLE | Mode.CUT:
                splice.hole()
            case Mode.HOLE_IN:
                splice.to_client.lose()
            case Mode.STALL:
                splice.shape(_STALLED)
            case Mode.FIN:
                splice.to_client.end()
            case Mode.RST:
                splice.reset()

    def _reset(self, splices: list[Splice]) -> None:
        for splice in splices:
            splice.reset()

    def _watch_idle(self, splice: Splice) -> None:
        seconds, reset = self._idle
        splice.watch_idle(seconds, reset, lambda: self._note("forgotten"))

    def _note(self, what: str, detail: str = "") -> None:
        at = asyncio.get_running_loop().time()
        self.log.append(Change(at, what, detail))

    # -- connections --------------------------------------------------------------------------

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # With the protocol named, asyncio sets TCP_NODELAY on what is accepted; without it
        # TLS over the relay stalls for 40 ms, which virtual time would jump over.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _listen(self) -> None:
        if self._socket is not None and not self._listening:
            self._socket.listen(BACKLOG)
            self._listening = True
            self._watch_accept()

    def _watch_accept(self) -> None:
        self._retry = None
        assert self._socket is not None
        self._loop.add_reader(self._socket, self._accept)

    def _unlisten(self) -> None:
        """Refuse connects. A bound socket that does not listen keeps the port ours meanwhile."""
        if not self._listening:
            return
        assert self._socket is not None
        self._listening = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = self._bind()

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            # Out of descriptors: the socket stays readable, and a watched one would spin.
            self._loop.remove_reader(self._socket)
            self._retry = self._loop.call_later(ACCEPT_RETRY, self._watch_accept)
            return
        sock.setblocking(False)
        self._splice(sock)

    def _splice(self, sock: socket.socket) -> None:
        self.accepted += 1
        splice = Splice(self.to_server, self.to_client, self._forget)
        self._splices[splice] = None
        splice.shape(self._shape)
        self._watch_idle(splice)
        task = self._loop.create_task(self._join(splice, sock), name=f"relay-{self.accepted}")
        self._splices[splice] = task

        def joined(task: asyncio.Task[None]) -> None:
            if not splice.client.made:
                # Cancelled before its first step: nobody else owns the socket.
                sock.close()
            if not task.cancelled() and (error := task.exception()):
                self._note("unreachable", str(error))
                splice.reset()

        task.add_done_callback(joined)

    async def _join(self, splice: Splice, sock: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: splice.client, sock)
        if self._strikes_new:
            self._hit(splice, self.mode)
        if self.mode is Mode.CUT or splice.dead:
            return
        await self._loop.create_connection(lambda: splice.server, *self.target)

    def _forget(self, splice: Splice) -> None:
        task = self._splices.pop(splice)
        if task is not None and not task.done():
            task.cancel()
        if not self._splices:
            self._empty.set()
