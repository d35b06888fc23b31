"""Care for the journal, and a word of one's own: gaps, backup and send."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from holdfast import durations
from holdfast.cli import tables, words
from holdfast.cli.control import Query, account_path
from holdfast.cli.exits import Exit
from holdfast.cli.journal import Answer, Journal, usage
from holdfast.cli.tables import Table
from holdfast.web.letters import Copy, GapLine, Letter

COPY_LIMIT = 3600.0
"""Seconds a copy may take: a journal of gigabytes on a slow disk."""


# -- gaps -----------------------------------------------------------------------------------------


def gaps(args: argparse.Namespace) -> int:
    """``holdfast gaps``."""
    journal = Journal(args)
    if args.dismiss:
        return _dismiss(journal, args.dismiss, args.json)
    account: str | None = args.account
    query: Query = [("limit", str(args.limit))]
    if account is not None:
        query = [*query, ("account", account)]
    answer = journal.look(
        lambda control: control.ask("gaps", list[GapLine], query),
        lambda clerk: clerk.gaps(account, args.limit),
    )
    if args.json:
        tables.show_json({"source": answer.source, "gaps": answer.value})
    elif not answer.value:
        tables.say("no gap that was not dismissed")
    else:
        tables.show(tables.fitted(_table(answer.value, time.time())))
    return Exit.OK


def _table(found: list[GapLine], now: float) -> Table:
    table = Table(("NUMBER", "ACCOUNT", "FROM", "LASTED", "AGE", "WHY"))
    for gap in found:
        table.add(
            str(gap.number),
            tables.cut(gap.account, 12),
            words.clock(gap.since),
            durations.say(gap.until - gap.since, units=1),
            durations.say(now - gap.until, units=1),
            gap.reason,
        )
    return table


def _dismiss(journal: Journal, numbers: list[int], as_json: bool) -> int:
    answers = [_dismissed(journal, number) for number in dict.fromkeys(numbers)]
    found = [answer.value for answer in answers]
    if as_json:
        tables.show_json({"source": answers[0].source, "gaps": found})
        return Exit.OK
    for gap in found:
        since, until = words.clock(gap.since), words.clock(gap.until)
        tables.say(f"gap {gap.number} of {gap.account}, {since} to {until}: dismissed")
    return Exit.OK


def _dismissed(journal: Journal, number: int) -> Answer[GapLine]:
    return journal.change(
        lambda control: control.order(f"gaps/{number}/dismiss", GapLine),
        lambda clerk: clerk.dismiss(number),
    )


# -- backup ---------------------------------------------------------------------------------------


def backup(args: argparse.Namespace) -> int:
    """``holdfast backup``."""
    path = str(Path(args.file).absolute())
    answer = Journal(args).look(
        lambda control: control.order("backup", Copy, {"path": path}, COPY_LIMIT),
        lambda clerk: clerk.backup(path),
    )
    if args.json:
        tables.show_json(answer.value)
    else:
        tables.say(f"wrote {answer.value.path}, {answer.value.bytes} bytes")
    return Exit.OK


# -- send -----------------------------------------------------------------------------------------


def send(args: argparse.Namespace) -> int:
    """``holdfast send``."""
    text = _standard_input() if args.text == "-" else args.text
    body = {"chat": args.chat, "text": text, "anyway": args.anyway}
    answer = Journal(args).change(
        lambda control: control.order(account_path(args.account, "send"), list[Letter], body),
        lambda clerk: clerk.send(args.account, args.chat, text, args.anyway),
        begin=True,
    )
    if args.json:
        tables.show_json({"source": answer.source, "messages": answer.value})
    else:
        for message in answer.value:
            print(message.name)
    return Exit.OK


def _standard_input() -> str:
    try:
        text = sys.stdin.read()
        text.encode()  # some locales let pass what is not
    except UnicodeError:
        raise usage("the text on standard input is not UTF-8") from None
    return text
