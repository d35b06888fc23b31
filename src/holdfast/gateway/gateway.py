"""The gateway: all accounts side by side, each as independent of the others as if it were alone."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver

from holdfast import __version__, agents
from holdfast.adapter import Adapter
from holdfast.config import AccountConfig, Config, check_identities, load
from holdfast.errors import StoreError
from holdfast.gateway.account import Account, AccountTools
from holdfast.gateway.alerting import Alerting
from holdfast.gateway.claims import Claims, Owned
from holdfast.gateway.desk import Desk
from holdfast.gateway.dns import Resolver
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.lanes import Lanes, Limits
from holdfast.gateway.net import Net
from holdfast.gateway.notify import ServiceManager
from holdfast.gateway.opening import Opening
from holdfast.gateway.reachability import Reachability
from holdfast.gateway.sender import Sender
from holdfast.gateway.stored import stored
from holdfast.gateway.watchdog import LoopWatchdog, SuspendDetector, boot_clock
from holdfast.gateway.whole import Running, whole
from holdfast.messages import Outbound
from holdfast.observe.ledger import Ledger
from holdfast.observe.metrics import Reading
from holdfast.observe.reporter import Reporter
from holdfast.observe.status import (
    FILE_NAME,
    AccountStatus,
    Status,
    account_status,
    boot_id,
    proof,
)
from holdfast.observe.writer import PERIOD, StatusWriter
from holdfast.store.protocol import Box, Entry, GapEntry, Owed, Received, Store
from holdfast.supervision import Published, Report, State
from holdfast.supervision.states import Trigger

log = logging.getLogger("holdfast.gateway")

PULSE = 1.0
"""Seconds between looks at the clocks and signs of life to the service manager."""

PRUNE_EVERY = 3_600.0
"""Seconds between two prunings of the journal."""

OVERDUE = 5.0
"""Seconds past an account's deadline after which the service manager hears nothing from us."""


class UnknownAccount(KeyError):
    """There is no account of that name; the message lists those there are."""

    def __str__(self) -> str:
        return str(self.args[0])


class Gateway:
    """Runs the accounts of a configuration on one journal."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        resolver: AbstractResolver | None = None,
        rand: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        service: ServiceManager | None = None,
        watchdog: LoopWatchdog | None = None,
        claims: Claims | None = None,
        suspend: SuspendDetector | None = None,
        tls: ssl.SSLContext | None = None,
        pulse: float = PULSE,
        read: Callable[[Path], Config] = load,
    ) -> None:
        """``claims`` keep other gateways of this machine from the accounts; None: nobody is kept.
        ``tls`` says whom to trust, by default whom the system does. ``pulse`` is the time between
        two looks at the clocks and two status writes at most; tests of days slow it. ``read`` reads
        the configuration again, on a thread, when somebody asks for that."""
        self.config, self.store, self.read = config, store, read
        self.desks: dict[str, Desk] = {}
        self.started_at, self._started_boot = clock(), boot_clock()
        self.listeners: list[Callable[[str, Report], None]] = []
        """Called with every report of every account; they must not block or raise."""
        host, _, port = config.gateway.hook_listen.rpartition(":")
        self.hooks = HookServer(host, int(port))
        self.watchdog = watchdog or LoopWatchdog()
        self._resolver, self._tls = resolver or Resolver(), tls
        self._rand, self._clock = rand, clock
        self.alerting = Alerting(self, Net(self._resolver, config.gateway.proxy), clock)
        self._reachability = Reachability(rand=rand)
        self._reporter, self._ledger = Reporter(), Ledger()
        self._status = StatusWriter(
            config.state_dir / FILE_NAME, self.status, period=max(pulse, PERIOD)
        )
        self._pulse_every = pulse
        self._service = service or ServiceManager()
        self._claims = claims
        self._suspend = suspend or SuspendDetector()
        self._pulse: asyncio.Task[None] | None = None
        self._background: Running = set()
        self._reloading = asyncio.Lock()
        self._stopping = False

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring every account on its way and return; none waits for another.

        Raises ConfigError for an agent that can not be loaded or a credential used twice (its
        AccountInUse: by another process), and StoreError when the journal can not be read.
        Whatever ends it early, cancelling too, stops what has begun.
        """
        desks = [self._build(account) for account in self.config.accounts.values()]
        self._check_identities(desks)
        self.desks.update({desk.config.name: desk for desk in desks})
        try:
            await self._begin(desks)
        except BaseException:  # cancelled, too: nobody else knows what has begun
            await self.stop()
            raise
        self._service.send("READY=1", f"STATUS={self.summary()}")

    async def _begin(self, desks: Sequence[Desk]) -> None:
        await self.alerting.start()
        self._reachability.start(self.network_changed)
        self._status.start()
        self.watchdog.start()
        self._pulse = asyncio.create_task(self._beat(), name="gateway pulse")
        for desk in desks:
            desk.opening = self._opening(desk.config.name)
        opened = await asyncio.gather(*(self._open(desk) for desk in desks), return_exceptions=True)
        for error in opened:
            if error is not None:
                raise error

    async def stop(self) -> None:
        """Stop every account within 5 s, write the last status, close the journal."""
        self._stopping = True
        self._service.send("STOPPING=1")
        # The alerts first: that the accounts stop is no news.
        stops = (self._stop_desk(desk) for desk in self.desks.values())
        await asyncio.gather(self.alerting.stop(), *stops)
        await self._reachability.stop()
        await self.hooks.stop()
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.wait([self._pulse])
        if self._background:
            await asyncio.wait(self._background, timeout=0.5)
        await self._status.stop()
        self.watchdog.stop()
        await self.store.close()
        if self._claims is not None:
            self._claims.release()

    async def reload(self, config: Config) -> list[str]:
        """Take over a new configuration; returns what was done, a line per touched account.

        Accounts whose entry did not change keep their connections. Takes as long as the journal
        can not be read, unless a stop ends it. Raises ConfigError, and then nothing was changed.
        """
        async with self._reloading:
            changed = [
                new
                for name, new in config.accounts.items()
                if name not in self.desks
                or self.desks[name].broken
                or replace(new, agent="") != replace(self.desks[name].config, agent="")
            ]
            fresh = [self._build(account, config) for account in changed]
            kept = [
                desk
                for name, desk in self.desks.items()
                if name in config.accounts and name not in {new.name for new in changed}
            ]
            agent_of = {
                desk.config.name: self._agent(config.accounts[desk.config.name], config)
                for desk in kept
            }
            self._check_identities([*kept, *fresh])
            self.config = config
            done: list[str] = []
            for desk in kept:
                new = config.accounts[desk.config.name]
                if new.agent != desk.config.agent:
                    desk.lanes.agent = agent_of[new.name]
                    done.append(f"{new.name}: agent changed, connection untouched")
                desk.config = new
            gone = [name for name in self.desks if name not in config.accounts]
            stopping = [*gone, *(new.name for new in changed if new.name in self.desks)]
            openings = {new.name: self._opening(new.name) for new in changed}
            stops = (self._stop_desk(self.desks[name], openings.get(name)) for name in stopping)
            await asyncio.gather(*stops)
            # However long the disk takes: what lands behind the new desk's back is nobody's.
            await asyncio.gather(*(self.desks[name].account.settled() for name in stopping))
            if self._stopping:
                for opening in openings.values():
                    await opening.cancel()
                return done  # nobody would stop what is opened now
            done += [f"{name}: removed" for name in gone]
            was_paused = {name for name in stopping if self.desks.pop(name).paused}
            for desk in fresh:
                desk.paused = desk.config.name in was_paused
                verb = "restarted" if desk.config.name in stopping else "added"
                done.append(f"{desk.config.name}: {verb}")
            self._status.changed()
            tasks = [self._open_at_last(desk, openings[desk.config.name]) for desk in fresh]
            # Each belongs to its desk: whoever asked for the reload may give up waiting.
            opened = asyncio.gather(*tasks, return_exceptions=True)
            for error in await asyncio.shield(opened):
                if isinstance(error, Exception):
                    raise error
            return done

    # -- what operators want ------------------------------------------------------------------

    def desk(self, name: str) -> Desk:
        """An account's desk. Raises UnknownAccount."""
        try:
            return self.desks[name]
        except KeyError:
            known = ", ".join(sorted(self.desks)) or "none"
            raise UnknownAccount(f"there is no account {name!r}; there are: {known}") from None

    def kick(self, name: str) -> None:
        """Try now, whatever the account waits for. Raises UnknownAccount."""
        self.desk(name).account.kick(operator=True)

    async def pause(self, name: str) -> None:
        """Stop the account's connection, also over restarts; its replies wait."""
        await whole(self._pause(name), "pause", self._background)

    async def _pause(self, name: str) -> None:
        async with self._reloading:  # else another desk may be the account's by then
            desk = self.desk(name)
            await self.store.remember(name, "paused", b"1")
            desk.paused = True
            self._tell(name)
        await desk.account.pause()

    async def resume(self, name: str) -> None:
        """Undo `pause`."""
        await whole(self._resume(name), "resume", self._background)

    async def _resume(self, name: str) -> None:
        async with self._reloading:
            desk = self.desk(name)
            await self.store.remember(name, "paused", b"")
            desk.paused = False
            self._tell(name)
            if desk.opening is None:  # else it is started once it is open
                desk.account.resume()

    async def retry(self, box: Box, row: int) -> Entry:
        """Give a message that waits for a person to its desk once more; see `Store.retry`.

        Raises UnknownAccount, and then nothing was changed. A cancelled caller learns nothing; it
        is done all the same, as with `post`, `pause` and `resume`.
        """
        return await whole(self._retry(box, row), "retry", self._background)

    async def _retry(self, box: Box, row: int) -> Entry:
        async with self._reloading:  # a desk that is opened meanwhile would take it up as well
            found = await self.store.entry(box, row)
            if found is not None:
                self.desk(found.account)
            entry = await self.store.retry(box, row)
            desk = self.desk(entry.account)
            if entry.box is Box.INBOX:
                desk.lanes.put([entry.received()])
            else:
                desk.sender.put([entry.owed()])
            return entry

    def network_changed(self) -> None:
        """The kernel reports a new route or address: every proof of life is in doubt."""
        for desk in self.desks.values():
            desk.account.woke(0.0)

    async def post(self, name: str, messages: Sequence[Outbound]) -> list[Owed]:
        """Owe messages that answer nothing; durable on return.

        A key that is known is owed once: whoever posts it again gets its row as it stands. Raises
        UnknownAccount.
        """
        return await whole(self._post(name, messages), "post", self._background)

    async def _post(self, name: str, messages: Sequence[Outbound]) -> list[Owed]:
        async with self._reloading:
            desk = self.desk(name)
            owed = await self.store.post(name, messages)
            desk.sender.put(owed)
            return owed

    async def dismiss_gap(self, number: int) -> GapEntry:
        """A person has seen to a gap: the status tells it no more. Raises NotMendable."""
        entry = await self.store.dismiss_gap(number)
        desk = self.desks.get(entry.account)
        if desk is not None and desk.account.last_gap == entry.gap:
            desk.account.last_gap = None
            self._status.changed()
        return entry

    # -- telling ------------------------------------------------------------------------------

    def status(self) -> Status:
        """The status document, true now."""
        return Status(
            pid=os.getpid(),
            boot_id=boot_id(),
            started_at=self.started_at,
            started_boot=self._started_boot,
            written_at=self._clock(),
            version=__version__,
            accounts={name: self._account_status(desk) for name, desk in self.desks.items()},
            store=self.store.notice or "ok",
        )

    def reading(self) -> Reading:
        """What the metrics are made of, true now; the journal is not asked."""
        return Reading(
            status=self.status(),
            totals=self._ledger.totals(),
            loop_lag=self.watchdog.lag,
            loop_stalls=self.watchdog.stalls,
            status_writes=self._status.writes,
            status_write_failures=self._status.failures,
        )

    def summary(self) -> str:
        """One line for the service manager."""
        states = [desk.view().published.value for desk in self.desks.values()]
        counts = {state: states.count(state) for state in sorted(set(states))}
        return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no accounts"

    def _account_status(self, desk: Desk) -> AccountStatus:
        account, now = desk.account, self._clock()
        gap = account.last_gap
        return account_status(
            desk.view(),
            account.wall,
            now,
            platform=desk.config.platform,
            paused=desk.paused,
            inbound=proof(account.last_inbound, now),
            outbound=proof(desk.sender.last_sent, now),
            gap=gap and {"since": gap.since, "until": gap.until, "reason": gap.reason},
            inbox=desk.lanes.depth,
            outbox=desk.sender.depth,
            away=desk.sender.away,
            received=account.received,
            sent=desk.sender.sent,
            passed_over=account.passed_over,
            skipped=account.skipped_frames,
            dead=desk.lanes.failed + desk.sender.refused,
            unknown=desk.sender.unknown,
            page=account.adapter.page,
        )

    # -- building -----------------------------------------------------------------------------

    def _build(self, config: AccountConfig, whole: Config | None = None) -> Desk:
        whole = whole or self.config
        net = Net(self._resolver, config.proxy, self._tls)
        client = net.client()
        tools = AccountTools(client, whole.gateway.hook_url, self._clock)
        adapter = config.adapter(config.settings, tools)
        sender = Sender(
            config.name,
            adapter,
            self.store,
            ambiguous=config.ambiguous,
            clock=self._clock,
            rand=self._rand,
            on_credentials=lambda cause: account.refused(cause),
            proof=lambda: account.view().last_proof,
        )
        account = Account(
            config.name,
            adapter,
            config.policy,
            store=self.store,
            net=net,
            hooks=self.hooks,
            send_client=client,
            on_report=self._on_report,
            on_received=self._on_received,
            on_recipient_back=lambda _: sender.recipient_back(),
            on_undelivered=sender.undelivered,
            backlog=config.backlog,
            rand=self._rand,
            clock=self._clock,
        )
        limits = Limits(
            whole.gateway.handlers,
            whole.gateway.handler_timeout,
            whole.gateway.handler_attempts,
        )
        lanes = Lanes(
            config.name,
            adapter,
            self._agent(config, whole),
            self.store,
            limits,
            asyncio.Semaphore(limits.handlers),
            on_owed=sender.put,
            can_type=lambda: account.view().published is Published.CONNECTED,
        )
        account.handlers = lanes
        return Desk(config, account, lanes, sender)

    def _agent(self, config: AccountConfig, whole: Config) -> agents.Agent:
        where = f"{whole.path}: [accounts.{config.name}] agent"
        return agents.load(config.agent, where, whole.path.parent)

    def _check_identities(self, desks: list[Desk]) -> None:
        def identity(adapter: Adapter) -> tuple[str, str]:
            return adapter.platform, adapter.identity

        check_identities(
            {desk.config.name: identity(desk.account.adapter) for desk in desks},
            str(self.config.path),
        )
        if self._claims is not None:
            adapters = {desk.config.name: desk.account.adapter for desk in desks}
            self._claims.hold(
                {
                    # Whoever calls nobody, as a page of ours, takes nothing from anybody.
                    Owned(adapter.platform, adapter.identity, adapter.endpoint): name
                    for name, adapter in adapters.items()
                    if adapter.endpoint
                },
                str(self.config.path),
            )

    async def _open(self, desk: Desk) -> None:
        """Take up what the journal holds for the account, then connect.

        Raises StoreError, and then nothing was taken up.
        """
        name = desk.config.name
        desk.paused = bool(await self.store.recall(name, "paused"))
        if desk.paused:
            self._tell(name)  # nobody waits for it after all
        owed, unhandled = await self.store.owed(name), await self.store.unhandled(name)
        desk.sender.put(owed)
        desk.lanes.put(unhandled)
        if not desk.paused:
            await desk.account.start()
        if desk.opening is not None:
            desk.opening.end()
            desk.opening = None

    def _opening(self, name: str) -> Opening:
        return Opening(name, lambda: self._tell(name))

    async def _stop_desk(self, desk: Desk, successor: Opening | None = None) -> None:
        """Stop a desk for good, or until its ``successor`` is open."""
        opening = desk.opening
        await desk.stop(successor)
        if opening is not None and successor is None and opening.told:
            self._publish(desk.account, Report(desk.view(), Trigger.STOP))

    def _open_at_last(self, desk: Desk, opening: Opening) -> asyncio.Task[None]:
        """Open a desk of a running gateway: a journal in trouble delays an account, ends none."""
        name = desk.config.name
        self.desks[name], desk.opening = desk, opening
        self._tell(name)
        work = opening.watch(stored(name, opening.attempt, partial(self._open, desk)))
        opening.task = asyncio.create_task(work, name=f"{name} opening")
        return opening.task

    # -- what the accounts say ----------------------------------------------------------------

    def _on_received(self, account: Account, rows: list[Received]) -> None:
        desk = self.desks.get(account.name)
        if desk is not None and desk.account is account:
            desk.lanes.put(rows)
        self.alerting.received(account.name, rows)

    def _on_report(self, account: Account, report: Report) -> None:
        self._publish(account, report)
        if report.view.state is State.STOPPED:
            self._tell(account.name)  # it may be on its way to another desk

    def _tell(self, name: str) -> None:
        """Report an account that is not open, as that stands now."""
        desk = self.desks.get(name)
        if desk is None or desk.opening is None:
            return
        news = desk.opening.news(desk.view())
        if news is not None:
            self._publish(desk.account, news)

    def _publish(self, account: Account, report: Report) -> None:
        name, view = account.name, report.view
        desk = self.desks.get(name)
        if desk is not None and desk.account is account:
            desk.sender.connected(view.published is Published.CONNECTED)
        self._reachability.report(
            name, account.adapter.endpoint, account.net, view, partial(account.kick, operator=False)
        )
        self._status.changed()
        self._ledger.report(name, account.adapter.platform, report)
        paused = desk is not None and desk.paused
        self.alerting.report(name, account.adapter.platform, report, paused=paused)
        for listener in self.listeners:
            listener(name, report)
        transition = self._reporter.report(name, report, account.wall(view.at))
        if transition is not None:
            self._spawn(self.store.record(transition), "history")

    # -- the gateway's own pulse --------------------------------------------------------------

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        fed_at = float("-inf")
        pruned_at = float("-inf")  # at once: who is restarted often must prune, too
        while True:
            slept = self._suspend.slept()
            if slept:
                log.warning("the machine slept for %.0f s", slept)
                with self._ledger.waking():
                    for desk in self.desks.values():
                        desk.account.woke(slept)
            interval = self._service.interval
            if interval is not None and loop.time() - fed_at >= interval and self.on_time():
                fed_at = loop.time()
                self._service.send("WATCHDOG=1", f"STATUS={self.summary()}")
            if loop.time() - pruned_at >= PRUNE_EVERY:
                pruned_at = loop.time()
                self._spawn(self._prune(), "prune")
            await asyncio.sleep(min(self._pulse_every, interval or self._pulse_every))

    async def _prune(self) -> None:
        traits = {name: desk.account.adapter.traits for name, desk in self.desks.items()}
        longer = {name: its.repeats for name, its in traits.items() if its.repeats}
        gone = await self.store.prune(longer=longer)
        if gone:
            log.info("pruned messages=%d", gone)

    def on_time(self) -> bool:
        """Whether no account's deadline is overdue: else the loop, or the shell, is broken."""
        now = asyncio.get_running_loop().time()
        deadlines = (desk.account.supervisor.next_deadline() for desk in self.desks.values())
        return all(now - deadline < OVERDUE for deadline in deadlines if deadline is not None)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(self._logged(work, what), name=what)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except StoreError as error:
            log.warning("%s not stored error=%s", what, error)
