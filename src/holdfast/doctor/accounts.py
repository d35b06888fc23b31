"""The accounts: whether their credentials work, whether they are ours alone, how they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from aiohttp.abc import AbstractResolver

from holdfast import __version__
from holdfast.adapter import Adapter, Health
from holdfast.config import AccountConfig, Config, check_identities
from holdfast.doctor import machine
from holdfast.doctor.finding import Check, Finding, Found, Verdict
from holdfast.doctor.network import SIGN_IN, Doors
from holdfast.errors import ConfigError
from holdfast.gateway.account import AccountTools
from holdfast.gateway.classify import classified
from holdfast.gateway.net import HttpClient, Net
from holdfast.observe.status import FILE_NAME, AccountStatus, Status, believed, read
from holdfast.supervision import Cause, Kind, Who

ONE_OWNER = (
    "stop the other program, or take the token away from it: have the platform give out a new one"
)


@dataclass(frozen=True, slots=True)
class Patient:
    """An account with its adapter; the client has to be closed."""

    config: AccountConfig
    adapter: Adapter
    client: HttpClient


def patients(config: Config, resolver: AbstractResolver, doors: Doors) -> list[Patient]:
    """All accounts of a configuration. Does no I/O."""
    found = []
    for account in config.accounts.values():
        client = Net(resolver, account.proxy, doors.tls).client()
        tools = AccountTools(client, config.gateway.hook_url)
        found.append(Patient(account, account.adapter(account.settings, tools), client))
    return found


# -- credentials ----------------------------------------------------------------------------------


def credentials(patient: Patient) -> Check:
    """The adapter's own check: a call that disturbs no running connection."""

    async def look() -> Found:
        try:
            health = await patient.adapter.check()
        except TimeoutError:
            raise
        except Exception as error:
            health = Health(cause=classified(patient.adapter, error))
        return [_health(patient.config.name, health)]

    return Check("credentials", patient.config.name, look)


_PAGE = re.compile(r"unexpected_html|<!doctype html|<html", re.IGNORECASE)
"""What an adapter says of a web page where an API was asked: its code, or the page's beginning."""


def _health(account: str, health: Health) -> Finding:
    cause = health.cause
    if cause is None:
        who = f"they work: {health.identity}" if health.identity else "they work"
        return Finding("credentials", account, Verdict.OK, "; ".join([who, *health.notes]))
    what = _said(cause)
    if _PAGE.search(what):
        return Finding("portal", account, Verdict.FAIL, what, SIGN_IN)
    if cause.kind is Kind.REPLACED:
        return Finding("owner", account, Verdict.FAIL, what, ONE_OWNER)
    verdict = Verdict.FAIL if cause.rule.who is Who.OPERATOR else Verdict.WARN
    return Finding("credentials", account, verdict, what, cause.advice)


def _said(cause: Cause) -> str:
    return f"{cause.message or cause.kind.value} [{cause.code}]"


# -- a second owner -------------------------------------------------------------------------------


def twins(config: Config, found: Iterable[Patient]) -> Iterator[Finding]:
    """Two accounts of the configuration with one credential."""
    identities = {p.config.name: (p.adapter.platform, p.adapter.identity) for p in found}
    try:
        check_identities(identities, str(config.path))
    except ConfigError as error:
        yield Finding("owner", error.where, Verdict.FAIL, error.problem, error.hint)


def owner(name: str, account: AccountStatus, state: str) -> Finding:
    """Whether the platform has told of somebody else with the same credentials."""
    find = partial(Finding, "owner", name)
    cause = account.cause
    if cause is None or cause.kind != Kind.REPLACED:
        return find(Verdict.OK, "nobody else has shown up with its credentials")
    what = f"somebody else uses its credentials: {cause.message} [{cause.code}]"
    if state == "connected":
        return find(Verdict.WARN, f"{what}; it is connected again since", ONE_OWNER)
    return find(Verdict.FAIL, what, ONE_OWNER)


def neighbours(sockets: str, ours: Path, holder: int | None) -> Iterator[Finding]:
    """Other gateways on this machine, by the text of /proc/net/unix; ``holder`` has our directory.

    May block.
    """
    for directory, pid, _ in sorted(set(machine.bound(sockets))):
        if pid == holder or directory.resolve() == ours:
            continue
        try:
            accounts = read(directory / FILE_NAME).accounts.values()
        except (OSError, msgspec.DecodeError):
            has = "whose accounts this user may not see"
        else:
            has = "with accounts on " + ", ".join(sorted({a.platform for a in accounts}))
        what = f"another gateway runs on {directory} (process {pid}), {has}; no bot may be on both"
        yield Finding("owner", "", Verdict.OK, what)


# -- the running gateway --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gateway, or its file, says; see `holdfast status`."""

    status: Status | None = None
    trouble: str = ""
    """Why the gateway itself did not answer; empty when it did."""
    doubt: str = ""
    """Why not even the file may be believed."""

    @property
    def answers(self) -> bool:
        """Whether a gateway runs and answers."""
        return self.status is not None and not self.trouble


def gateway(reading: Reading, holder: int | None) -> Iterator[Finding]:
    """Whether a gateway runs and answers; ``holder`` is who has the journal."""
    find = partial(Finding, "gateway", "")
    status = reading.status
    if status is None or reading.trouble:
        if holder is None:
            yield find(Verdict.OK, "none runs here; the rest was examined without it")
            return
        what = f"process {holder} has the journal, but no gateway answers: {reading.trouble}"
        remedy = "look at its log, then restart it: it hangs, or its files are gone"
        yield find(Verdict.FAIL, what, remedy)
        return
    running = f"it runs as process {status.pid}, version {status.version}"
    if status.version != __version__:
        what = f"{running}, and this is version {__version__}"
        yield find(Verdict.WARN, what, "restart it: it runs what was installed before")
    else:
        yield find(Verdict.OK, running)
    if status.store != "ok":
        yield find(Verdict.FAIL, f"its journal: {status.store}", "mend the disk; see `disk`")


def states(status: Status, now: float) -> Iterator[Finding]:
    """How the accounts of a running gateway are, and whether they are ours alone."""
    for name, account in status.accounts.items():
        state = believed(account, now)
        yield _state(name, account, state)
        yield owner(name, account, state)


def _state(name: str, account: AccountStatus, state: str) -> Finding:
    find = partial(Finding, "account", name)
    if account.paused:
        return find(Verdict.OK, "paused by an operator")
    cause = account.escalation or account.cause
    if state == "connected" and not account.attention:
        return find(Verdict.OK, "connected" + (", flapping" if account.flapping else ""))
    if cause is None:
        return find(Verdict.OK if state in ("connecting", "connected") else Verdict.WARN, state)
    person = account.attention or state == "fatal"
    what = f"{state}: {cause.message or cause.kind} [{cause.code}]"
    return find(Verdict.FAIL if person else Verdict.WARN, what, cause.hint)
