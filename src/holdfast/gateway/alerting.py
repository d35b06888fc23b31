"""Tells people of accounts in trouble: through other accounts, web hooks and commands.

What is to be told is decided by `observe.alerts`; here it is delivered and kept over restarts. An
alert is in the journal before it is delivered, and gone from it afterwards: a process that dies in
between delivers it again under the same id, which no account sends twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from holdfast.adapter import Secret
from holdfast.config import AccountWay, AlertsConfig, CommandWay, Config, HookWay, Way
from holdfast.errors import ConfigError, StoreError
from holdfast.gateway.alert_ways import Undelivered, call_hook, name_of, run_command, send
from holdfast.messages import Outbound
from holdfast.observe.alert_words import AlertDocument, document
from holdfast.observe.alerts import Alert, Alerts, Incident, Line, Rules, What
from holdfast.secrets import Redaction
from holdfast.splitting import split
from holdfast.store.protocol import Owed, Received, Store
from holdfast.supervision import Published, Report

if TYPE_CHECKING:
    from holdfast.gateway.desk import Desk
    from holdfast.gateway.net import HttpClient, Net

log = logging.getLogger("holdfast.alerts")

TURN = 1.0
"""Seconds between two looks at what is to be told, however much is reported meanwhile."""

RETRY = 60.0
"""Seconds after which an alert that nobody took is tried again; at once when an account that may
tell it is connected."""

SAVE_LIMIT = 0.5
"""Seconds the journal is waited for: neither an alert nor a stop hangs with it."""

KEY = "alerts"
"""What the journal remembers it by, under no account."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an alert on one way."""

    way: str
    """The way, in words."""
    worked: bool
    detail: str = ""
    """Why it did not."""


class _Saved(msgspec.Struct, frozen=True):
    """What survives a restart, in Unix seconds."""

    incidents: dict[str, Incident]
    id: str = ""
    outgoing: Alert | None = None


def _redacted(config: Config, way: CommandWay, text: str) -> str:
    """A text without the secrets of the configuration, and without the command's own arguments:
    for many programs a token is one of them."""
    return Redaction(config, tuple(map(Secret, way.command[1:]))).clean(text)


class Host(Protocol):
    """What the alerts need of the gateway."""

    @property
    def config(self) -> Config:
        """As it is now."""

    @property
    def store(self) -> Store:
        """The journal."""

    @property
    def desks(self) -> Mapping[str, Desk]:
        """By the account's name."""

    async def post(self, name: str, messages: Sequence[Outbound]) -> list[Owed]:
        """Owe messages that answer nothing."""


class Alerting:
    """The alerts of one gateway. Without ``[alerts]`` in its configuration it tells nobody."""

    def __init__(self, gateway: Host, net: Net, clock: Callable[[], float]) -> None:
        self._gateway, self._net, self._clock = gateway, net, clock
        self._alerts = Alerts(Rules())
        self._id = ""
        self._outgoing: Alert | None = None
        """Told as far as `Alerts` knows, but not yet delivered."""
        self._retry_at = float("-inf")
        self._kept: object = None
        """What is in the journal, as `_save` compares it."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was told before; call it before any account reports."""
        await self._restore()
        self._task = asyncio.create_task(self._run(), name="alerts")

    async def stop(self) -> None:
        """Tell nothing any more from its first step on: accounts may stop meanwhile. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        await self._save()

    # -- what the gateway says ----------------------------------------------------------------

    def report(self, account: str, platform: str, report: Report, *, paused: bool) -> None:
        """An account reports. Never blocks or raises."""
        if self._task is None:
            return
        now = asyncio.get_running_loop().time()
        self._alerts.notice(account, platform, report.view, now, paused=paused)
        if self._outgoing is not None and report.view.published is Published.CONNECTED:
            if any(way.account == account for way in self._account_ways()):
                self._retry_at = now
        self._changed.set()

    def received(self, account: str, rows: Sequence[Received]) -> None:
        """Messages came in; some may be of an outage."""
        ahead = self._ahead()
        for row in rows:
            if row.message.at is not None:
                self._alerts.arrived(account, row.message.at - ahead)

    # -- trying it ----------------------------------------------------------------------------

    async def test(self) -> list[Tried]:
        """Send a harmless alert on every way by itself, and tell what became of it.

        Raises ConfigError when there is none. Takes as long as the slowest way: a minute or two.
        """
        config = self._gateway.config
        if config.alerts is None:
            where = f"{config.path}: [alerts]"
            raise ConfigError(where, "there is no such table", "see docs/alerts.md")
        letter = AlertDocument(
            id=secrets.token_hex(8),
            at=self._clock(),
            test=True,
            text="This is a test of Holdfast's alerts. Nothing is wrong.",
        )
        async with self._client() as client:
            tries = (self._try(way, letter, client, ()) for way in config.alerts.to)
            return await asyncio.gather(*tries)

    # -- the loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            try:
                deadline = await self._step(loop.time())
            except Exception:
                log.exception("alerts failed")
                deadline = loop.time() + RETRY
            await asyncio.sleep(TURN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()

    async def _step(self, now: float) -> float | None:
        """Tell what is due; returns when to look again at the latest."""
        config = self._gateway.config
        self._alerts.retain(config.accounts)
        if config.alerts is None:
            self._outgoing = None
            return now + RETRY  # a reload may bring the table
        self._alerts.rules = config.alerts.rules
        if self._outgoing is not None:
            self._outgoing = self._alerts.current(self._outgoing, now)
        if self._outgoing is None and (alert := self._alerts.due(now)) is not None:
            self._id, self._outgoing = secrets.token_hex(8), alert
            self._retry_at = now
        await self._save()
        if self._outgoing is None:
            return self._alerts.next_deadline()
        if now >= self._retry_at:
            self._retry_at = now + RETRY
            if await self._deliver(config.alerts, self._outgoing):
                self._outgoing = None
                return now
        return self._retry_at

    async def _deliver(self, config: AlertsConfig, alert: Alert) -> bool:
        """Tell it on every web hook and command, and by one account; whether anybody took it."""
        alert = replace(alert, lines=tuple(map(self._with_gap, alert.lines)))
        letter = document(self._id, alert, self._clock(), lambda at: at + self._ahead())
        down = {line.account for line in alert.lines if line.what is not What.BACK}
        async with self._client() as client:
            tries = [
                self._try(way, letter, client, down)
                for way in config.to
                if not isinstance(way, AccountWay)
            ]
            results = await asyncio.gather(self._by_account(letter, client, down), *tries)
        worked = [tried.way for tried in results if tried is not None and tried.worked]
        log.log(
            logging.INFO if worked else logging.ERROR,
            "alert %s id=%s accounts=%d ways=%r text=%r",
            "told" if worked else "not told",
            letter.id,
            len(alert.lines),
            worked,
            letter.text,
        )
        return bool(worked)

    async def _by_account(
        self, letter: AlertDocument, client: HttpClient, down: Collection[str]
    ) -> Tried | None:
        """By the first account that can; None when there is none in the configuration."""
        tried = None
        for way in self._account_ways():
            tried = await self._try(way, letter, client, down)
            if tried.worked:
                break
        return tried

    async def _try(
        self, way: Way, letter: AlertDocument, client: HttpClient, down: Collection[str]
    ) -> Tried:
        try:
            match way:
                case AccountWay():
                    await self._send(way, letter, down)
                case HookWay():
                    body = msgspec.json.encode(letter)
                    await call_hook(client, way, letter.id, letter.at, body)
                case CommandWay():
                    redacted = partial(_redacted, self._gateway.config, way)
                    await run_command(way, msgspec.json.encode(letter), redacted=redacted)
        except Undelivered as error:
            log.warning("alert not taken id=%s way=%r error=%s", letter.id, name_of(way), error)
            return Tried(way=name_of(way), worked=False, detail=str(error))
        return Tried(way=name_of(way), worked=True)

    async def _send(self, way: AccountWay, letter: AlertDocument, down: Collection[str]) -> None:
        desk = self._gateway.desks.get(way.account)
        if desk is None or way.account in down:
            raise Undelivered("the alert is about this account" if desk else "it is not running")
        state = desk.view().published
        if state is not Published.CONNECTED:
            raise Undelivered(f"the account is not connected but {state.value}")
        traits = desk.account.adapter.traits
        parts = split(letter.text, traits.max_text, traits.text_unit)
        messages = [
            Outbound(key=f"alert-{letter.id}-{seq}", chat=way.chat, text=part, seq=seq)
            for seq, part in enumerate(parts, 1)
        ]
        post = partial(self._gateway.post, way.account, messages)
        # Of a test its answer tells all: nobody should have to clear up after it.
        await send(post, self._gateway.store, keep=not letter.test)

    def _account_ways(self) -> list[AccountWay]:
        config = self._gateway.config.alerts
        ways = config.to if config is not None else ()
        return [way for way in ways if isinstance(way, AccountWay)]

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[HttpClient]:
        client = self._net.client()
        try:
            yield client
        finally:
            await client.close()

    def _with_gap(self, line: Line) -> Line:
        """Whoever is back may not have got everything."""
        desk = self._gateway.desks.get(line.account)
        gap = desk.account.last_gap if desk is not None else None
        missed = gap is not None and gap.until >= line.since + self._ahead()
        return replace(line, gap=missed and line.what is What.BACK)

    # -- over restarts ------------------------------------------------------------------------

    def _ahead(self) -> float:
        """Seconds by which the wall clock is ahead of the loop's."""
        return self._clock() - asyncio.get_running_loop().time()

    async def _save(self) -> None:
        """Keep what was told, unless that is what was kept last."""
        told = self._alerts.told()
        lines = self._outgoing.lines if self._outgoing is not None else ()
        state = (self._id, [(line.account, line.what) for line in lines], told)
        if state == self._kept:
            return
        ahead = self._ahead()
        saved = _Saved(
            incidents={name: one.shifted(ahead) for name, one in told.items()},
            id=self._id,
            outgoing=self._outgoing and self._outgoing.shifted(ahead),
        )
        try:
            async with asyncio.timeout(SAVE_LIMIT):
                await self._gateway.store.remember("", KEY, msgspec.msgpack.encode(saved))
            self._kept = state
        except (StoreError, TimeoutError) as error:
            log.warning("alerts not stored error=%r", error)

    async def _restore(self) -> None:
        try:
            stored = await self._gateway.store.recall("", KEY)
            saved = msgspec.msgpack.decode(stored, type=_Saved) if stored else _Saved({})
        except (StoreError, msgspec.DecodeError) as error:
            log.warning("what was told before is not known error=%s", error)
            return
        behind = -self._ahead()
        told = {name: one.shifted(behind) for name, one in saved.incidents.items()}
        self._alerts = Alerts(Rules(), told)
        self._id = saved.id
        self._outgoing = saved.outgoing and saved.outgoing.shifted(behind)
