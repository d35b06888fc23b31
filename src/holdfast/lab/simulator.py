"""What every simulated platform has in common: a port, users who talk, faults, and the truth.

A simulator is a real server on loopback that speaks one platform's protocol well enough that the
platform's official SDK runs on it unmodified. It is also the witness: what users said, what they
received, and when the bot was really able to hear, are recorded here and nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A user's message, as the platform accepted it."""

    id: str
    chat: str
    sender: str
    text: str
    at: float
    """Seconds on the simulator's monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A bot's message, as a user received it."""

    id: str
    chat: str
    text: str
    at: float
    reply_to: str | None = None
    edit_of: str | None = None
    media: str | None = None
    """File name or media kind when the message carries a file."""
    data: bytes = b""

    def document(self) -> dict[str, Any]:
        """As it is told outside of the process: ``data`` is its size."""
        return asdict(self) | {"data": len(self.data)}


@dataclass(frozen=True, slots=True)
class Record:
    """One dated fact of the truth log, for example ``("link-open", {"n": 1})``."""

    at: float
    what: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class UnknownFault(ValueError):
    """A fault name the simulator does not have; the message lists those it has."""


@dataclass(frozen=True, slots=True)
class Arming:
    """A fault was armed."""

    name: str
    times: int | None
    before: int
    """How often it had been played until then."""


class FaultBook:
    """The faults a simulator plays, by name: armed by a test, consumed by the protocol code.

    ``arm(name, times=2, **params)`` makes the next two places that ask for ``name`` misbehave;
    ``times=None`` keeps it armed until ``clear``. The protocol code asks with ``take``.
    """

    def __init__(
        self, known: Mapping[str, str], on_play: Callable[[str], None] = lambda name: None
    ) -> None:
        self._known, self._on_play = dict(known), on_play
        self._armed: dict[str, deque[tuple[int | None, dict[str, Any]]]] = defaultdict(deque)
        self.played: dict[str, int] = defaultdict(int)
        self.armings: list[Arming] = []
        """All of them, in the order of time; clearing takes none away."""

    def arm(self, name: str, *, times: int | None = 1, **params: Any) -> None:
        """Arm a fault. Raises UnknownFault for a name this simulator does not have."""
        if name not in self._known:
            raise UnknownFault(f"no fault {name!r}; known: {', '.join(sorted(self._known))}")
        self._armed[name].append((times, params))
        self.armings.append(Arming(name, times, self.played[name]))

    def take(self, name: str) -> dict[str, Any] | None:
        """The parameters of an armed fault, using up one play; None when it is not armed.

        An armed fault without parameters gives an empty dict: compare with ``is not None``.
        """
        assert name in self._known, f"undeclared fault {name!r}"
        queue = self._armed[name]
        if not queue:
            return None
        times, params = queue[0]
        if times is not None:
            if times <= 1:
                queue.popleft()
            else:
                queue[0] = (times - 1, params)
        self.played[name] += 1
        self._on_play(name)
        return params

    def met(self, armings: Sequence[Arming]) -> bool:
        """Whether faults that were armed together were played: each that was armed for so many
        times, and of those that last one, for they stand in each other's way."""
        struck = [(one.times, self.played[one.name] > one.before) for one in armings]
        lasting = [played for times, played in struck if times is None]
        return all(played for times, played in struck if times is not None) and (
            not lasting or any(lasting)
        )

    def armed(self, name: str) -> bool:
        """Whether the fault would be played now, without using it up."""
        return bool(self._armed[name])

    def clear(self, name: str | None = None) -> None:
        """Disarm one fault, or all of them."""
        if name is None:
            self._armed.clear()
        else:
            self._armed.pop(name, None)


@web.middleware
async def _unless_gone(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A client that is gone before its answer is the lab's daily bread, and no error to log."""
    try:
        return await handler(request)
    except ConnectionResetError:
        return web.Response()  # which nobody reads


class Simulator:
    """A simulated platform on a loopback port. Use as ``async with TelegramSimulator() as sim``.

    Subclasses add routes in ``routes``, name their faults in ``FAULTS``, and implement ``say`` and
    ``account``. ``url`` is known after start.
    """

    platform: ClassVar[str]
    FAULTS: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self.tls: ssl.SSLContext | None = None
        """What it speaks TLS with; None: it speaks in clear. To be set before the start."""
        self.faults = FaultBook(self.FAULTS, lambda name: self.note("fault", name=name))
        self.said: list[Said] = []
        self.heard: list[Heard] = []
        self.log: list[Record] = []
        self.calls: list[float] = []
        """When each request came, of whatever kind: no fact, as most of them make one anyway."""
        self.on_note: Callable[[], None] = lambda: None
        """Called with every fact, which may be half of a change: look at it a moment later."""
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()

    # -- what a subclass provides -------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the platform's routes to the application."""
        raise TypeError(f"{type(self).__name__} must add its routes")

    def say(
        self, text: str, *, chat: str = "alice", sender: str = "alice", group: bool = False
    ) -> str:
        """A user writes to the bot (in a group: mentioning it). Returns the platform's message id.

        Subclasses accept further keywords (images, files, replies). The message is queued as the
        platform would queue it: whether the bot gets it is the protocol's business.
        """
        raise TypeError(f"{type(self).__name__} must let users speak")

    def account(self) -> dict[str, Any]:
        """The gateway's configuration of an account on this simulator (platform, secret, URLs)."""
        raise TypeError(f"{type(self).__name__} must describe its account")

    def listening(self) -> bool:
        """The truth: would an event that occurs now reach the bot over a link it has open?"""
        raise TypeError(f"{type(self).__name__} must know the truth")

    async def on_stop(self) -> None:
        """Close what the subclass opened (sockets, parked polls)."""

    # -- truth --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base address, for example ``http://127.0.0.1:40123``."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{self.host}:{self.port}"

    @staticmethod
    def now() -> float:
        """Seconds on the running loop's clock, so that virtual time works."""
        return asyncio.get_running_loop().time()

    def note(self, what: str, **detail: Any) -> None:
        """Write one fact into the truth log and wake whoever waits for a change."""
        self.log.append(Record(self.now(), what, detail))
        self._changed.set()
        self.on_note()

    def hear(self, heard: Heard) -> None:
        """A user receives a message of the bot."""
        self.heard.append(heard)
        self.note("heard", id=heard.id, chat=heard.chat, text=heard.text[:80])

    def count(self, what: str) -> int:
        """How many facts of one kind the truth log holds."""
        return sum(1 for record in self.log if record.what == what)

    async def until(self, condition: Callable[[], bool], timeout: float | None = 30.0) -> None:
        """Wait until a condition on the truth holds; it is looked at after every noted fact.

        Raises TimeoutError after ``timeout`` seconds of the loop's clock; None waits for ever.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Listen. With port 0 the kernel chooses, and the choice is kept over stop and start."""
        app = web.Application(client_max_size=64 * 2**20, middlewares=[_unless_gone, self._dated])
        self.routes(app)
        app.router.add_post("/_lab/{verb}", self._lab)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self.host, self.port, ssl_context=self.tls, reuse_address=True
        )
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.note("server-up")
        return self

    async def stop(self) -> None:
        """Stop listening and drop every connection. ``start`` afterwards keeps port and memory."""
        if self._runner is not None:
            await self.on_stop()
            await self._runner.cleanup()
            self._runner = None
            self.note("server-down")

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # -- control from outside the process (a frozen server cannot be its own judge) ------------

    @web.middleware
    async def _dated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.calls.append(self.now())
        return await handler(request)

    async def _lab(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        match request.match_info["verb"]:
            case "say":
                return web.json_response({"id": self.say(**body)})
            case "arm":
                self.faults.arm(body.pop("name"), times=body.pop("times", 1), **body)
                return web.json_response({})
            case "clear":
                self.faults.clear(body.get("name"))
                return web.json_response({})
            case "truth":
                return web.json_response(
                    {
                        "said": [asdict(s) for s in self.said],
                        "heard": [h.document() for h in self.heard],
                        "listening": self.listening(),
                    }
                )
            case verb:
                return web.json_response({"error": f"no verb {verb!r}"}, status=404)


def sockets_of(request: web.Request) -> str:
    """Base address of the WebSockets of whom a request was sent to, as secure as the request."""
    return f"{'wss' if request.secure else 'ws'}://{request.host}"


AHEAD: Final = 5.0
"""Seconds by which a platform that dates by the loop is ahead of the machine: while a bot starts,
simulated time stands and the machine's does not."""


def _system() -> float:
    return time.time()


_wall_clock: ContextVar[Callable[[], float]] = ContextVar("wall clock", default=_system)


def wall_clock() -> float:
    """Unix time in seconds, for the dates that platforms put on messages."""
    return _wall_clock.get()()


def date_by_loop() -> None:
    """Let dates pass as the running loop's clock does, in this task and all that it starts."""
    loop = asyncio.get_running_loop()
    offset = time.time() + AHEAD - loop.time()
    _wall_clock.set(lambda: offset + loop.time())
