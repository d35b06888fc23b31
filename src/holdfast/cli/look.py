"""Commands that look: status, explain and history."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from holdfast import durations
from holdfast.cli import tables, words
from holdfast.cli.control import Control, account_path
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.cli.journal import Journal
from holdfast.cli.tables import Cell, Table, Tone
from holdfast.config import state_dir_of
from holdfast.observe.incidents import Incident
from holdfast.observe.status import (
    FILE_NAME,
    SCHEMA,
    AccountStatus,
    CauseStatus,
    Status,
    believed,
    doubt,
    read,
)
from holdfast.store.protocol import Transition

WATCH_EVERY = 1.0
"""Seconds between two looks of ``--watch``."""


WHY_WIDTH = 72
"""Characters of a cause in the table."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The status document, where it is from, and what is wrong with that."""

    status: Status
    source: str
    """``gateway`` or ``file``."""
    trouble: str = ""
    """Why the gateway itself could not be asked."""
    doubt: str = ""
    """Why not even the file may be believed."""

    def exit(self, names: Iterable[str]) -> Exit:
        """What the state of these accounts means for the exit code."""
        if self.trouble:
            return Exit.UNANSWERED
        accounts = [self.status.accounts[name] for name in names]
        return Exit.ATTENTION if any(map(words.needs_person, accounts)) else Exit.OK


def take(directory: Path, now: Callable[[], float] = time.time) -> Reading:
    """Ask the gateway, else its file. Raises CommandFailed when neither says anything."""
    try:
        return Reading(Control(directory).ask("status", Status), "gateway")
    except CommandFailed as failed:
        status = _from_file(directory, failed)
        why = doubt(status, now())
        return Reading(status, "file", str(failed), why.reason if why else "")


def _from_file(directory: Path, failed: CommandFailed) -> Status:
    try:
        status = read(directory / FILE_NAME)
    except OSError:
        raise failed from None
    except msgspec.DecodeError as error:
        raise CommandFailed(
            f"{failed}, and {directory / FILE_NAME} is not a status file: {error}",
            exit=Exit.UNANSWERED,
        ) from None
    if status.schema != SCHEMA:
        raise CommandFailed(
            f"{failed}, and {directory / FILE_NAME} has schema {status.schema}, not {SCHEMA}",
            "use the version of Holdfast that wrote it",
            Exit.UNANSWERED,
        )
    return status


# -- status ---------------------------------------------------------------------------------------


def status(args: argparse.Namespace, pause: Callable[[float], None] = time.sleep) -> int:
    """``holdfast status``; ``--watch`` ends with Ctrl-C."""
    directory = state_dir_of(args.config)
    if not args.watch:
        return _status(take(directory), args.json)
    code = Exit.OK
    try:
        while True:
            code = _look_again(directory, args.json)
            pause(WATCH_EVERY)
    except KeyboardInterrupt:
        return code


def _look_again(directory: Path, as_json: bool) -> Exit:
    """One round of the watch; a gateway that is away may come back."""
    try:
        reading = take(directory)
    except CommandFailed as failed:
        tables.clear()
        if as_json:
            tables.show_json({"error": str(failed)})
        else:
            tables.say(f"{words.clock(time.time())}  {failed}", Tone.BAD)
        return failed.exit
    if not as_json:
        tables.clear()
    return _status(reading, as_json)


def _status(reading: Reading, as_json: bool) -> Exit:
    now = time.time()
    if as_json:
        tables.show_json(_status_json(reading, now))
    else:
        _show_status(reading, now)
    return reading.exit(reading.status.accounts)


def _status_json(reading: Reading, now: float) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(reading.status)
    for name, account in reading.status.accounts.items():
        document["accounts"][name]["believed"] = (
            "unknown" if reading.doubt else believed(account, now)
        )
    return document | {
        "source": reading.source,
        "trouble": reading.trouble,
        "doubt": reading.doubt,
    }


def _show_status(reading: Reading, now: float) -> None:
    status = reading.status
    if reading.trouble:
        _show_trouble(reading, now)
    else:
        up = durations.say(now - status.started_at)
        tables.say(f"gateway {status.version}, pid {status.pid}, up for {up}", Tone.FAINT)
    if status.store != "ok":
        tables.say(f"the journal is in trouble: {status.store}", Tone.BAD)
    table = Table(("ACCOUNT", "PLATFORM", "STATE", "FOR", "LIFE", "NEXT TRY", "IN/OUT", "WHY"))
    for name, account in sorted(status.accounts.items()):
        table.add(*_row(name, account, now, bool(reading.doubt)))
    tables.show(table)
    for name, account in sorted(status.accounts.items()):
        worst = account.escalation or account.cause
        if worst is not None and words.needs_person(account) and not reading.doubt:
            tables.say(f"{name} needs attention: {worst.hint}", Tone.BAD)


def _show_trouble(reading: Reading, now: float) -> None:
    tables.say(reading.trouble, Tone.BAD)
    written = words.ago(reading.status.written_at, now)
    tables.say(f"what follows is its status file, written {written}", Tone.BUSY)
    if reading.doubt:
        tables.say(f"it can not be believed: {reading.doubt}", Tone.BAD)


def _row(name: str, account: AccountStatus, now: float, doubted: bool) -> list[Cell | str]:
    state = words.shown_state(account, now, doubted)
    connected = state == "connected"
    waits = account.next_retry_at is not None and state in ("retrying", "fatal")
    wait = max(0.0, (account.next_retry_at or now) - now)
    cause = account.cause
    return [
        name,
        account.platform,
        tables.state_cell(state, [] if doubted else words.flags(account)),
        durations.say(now - account.since, units=1),
        words.ago(account.transport.at, now),
        f"in {durations.say(wait)} (#{account.attempt + 1})" if waits else "-",
        f"{account.inbox}/{account.outbox}",
        Cell("-", Tone.FAINT) if cause is None or connected else _short(cause),
    ]


def _short(cause: CauseStatus) -> str:
    """A cause in one cell; `explain` has all of it."""
    text = f"{cause.code}: {cause.message}".rstrip(": ")
    return text if len(text) <= WHY_WIDTH else text[: WHY_WIDTH - 1] + "…"


# -- explain --------------------------------------------------------------------------------------


def explain(args: argparse.Namespace) -> int:
    """``holdfast explain``."""
    reading, now = take(state_dir_of(args.config)), time.time()
    account = reading.status.accounts.get(args.account)
    if account is None:
        known = ", ".join(sorted(reading.status.accounts)) or "none"
        raise CommandFailed(f"there is no account {args.account!r}; there are: {known}")
    sentences = words.explanation(account, now, reading.doubt)
    if args.json:
        tables.show_json(
            {
                "account": args.account,
                "believed": "unknown" if reading.doubt else believed(account, now),
                "source": reading.source,
                "trouble": reading.trouble,
                "doubt": reading.doubt,
                "explanation": dict(sentences),
                "status": account,
            }
        )
    else:
        if reading.trouble:
            _show_trouble(reading, now)
        tables.say(f"{args.account} ({account.platform})")
        for label, text in sentences:
            tables.say_under(f"  {label + ':':<18}", text)
    return reading.exit([args.account])


# -- history --------------------------------------------------------------------------------------


def history(args: argparse.Namespace) -> int:
    """``holdfast history``: from the gateway, or from the journal when none is running."""
    if args.incidents:
        return _incidents(args)
    account, limit = args.account, args.limit
    resource = "history" if account is None else account_path(account, "history")
    answer = Journal(args).look(
        lambda control: control.ask(f"{resource}?limit={limit}", list[Transition]),
        lambda clerk: clerk.history(account, limit),
    )
    lines = answer.value
    if args.json:
        tables.show_json(lines)
        return Exit.OK
    table = Table(("TIME", "ACCOUNT", "STATE", "EVENT", "GENERATION", "RETRY IN", "WHY"))
    for line in lines:
        table.add(
            words.clock(line.at),
            line.account,
            tables.state_cell(line.state),
            line.trigger,
            str(line.generation),
            "-" if line.retry_in is None else durations.say(line.retry_in),
            f"{line.code}: {line.message}" if line.code else "-",
        )
    tables.show(table)
    return Exit.OK


def _incidents(args: argparse.Namespace) -> int:
    """The times without connection. Raises CommandFailed when no gateway answers."""
    path = "incidents" if args.account is None else account_path(args.account, "incidents")
    control = Control(state_dir_of(args.config))
    found = control.ask(f"{path}?limit={args.limit}", list[Incident])
    if args.json:
        tables.show_json(found)
        return Exit.OK
    now = time.time()
    table = Table(("LOST", "ACCOUNT", "FOR", "END", "TRIES", "WHY"))
    for one in found:
        cause = one.cause
        table.add(
            words.clock(one.since),
            one.account,
            durations.say((one.until or now) - one.since),
            one.end.value if one.end else Cell("lasts", Tone.BAD),
            str(one.attempts),
            "-" if cause is None else _short(cause),
        )
    tables.show(table)
    return Exit.OK
