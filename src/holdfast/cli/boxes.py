"""The boxes of the journal: inbox, outbox, and dead, which is what waits for a person in both."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from holdfast import durations
from holdfast.cli import tables, words
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.cli.journal import Answer, Journal, usage
from holdfast.cli.tables import Cell, Table, Tone
from holdfast.store.protocol import Box
from holdfast.web.letters import DEAD, MOST, File, Filter, Letter, Letters, Mended, place_of
from holdfast.web.problem import Problem

if TYPE_CHECKING:
    from holdfast.web.clerk import Clerk

AT_ONCE = 20
"""Messages in one order: each costs a commit, and the gateway's answer is waited for."""

ACCOUNT_WIDTH, CHAT_WIDTH = 12, 14
"""Columns of a table for names; `show` and ``--json`` have all of them."""

MEANINGS = {
    (Box.INBOX, "received"): "it waits for the agent",
    (Box.INBOX, "handling"): "the agent has it",
    (Box.INBOX, "done"): "the agent has answered",
    (Box.INBOX, "dead"): "the agent failed; it waits for a person",
    (Box.INBOX, "dropped"): "given up by a person",
    (Box.OUTBOX, "owed"): "it waits to be sent",
    (Box.OUTBOX, "sending"): "it is being sent",
    (Box.OUTBOX, "ambiguous"): "nobody knows whether it arrived; it waits for a person",
    (Box.OUTBOX, "sent"): "the platform has accepted it",
    (Box.OUTBOX, "dead"): "it could not be sent; it waits for a person",
    (Box.OUTBOX, "dropped"): "given up by a person",
}
"""Every state of a message."""

TONES = {
    "dead": Tone.BAD,
    "ambiguous": Tone.BAD,
    "done": Tone.GOOD,
    "sent": Tone.GOOD,
    "dropped": Tone.FAINT,
}


# -- list -----------------------------------------------------------------------------------------


def list_messages(args: argparse.Namespace) -> int:
    """``holdfast inbox list``, and of the other boxes."""
    answer = _page(Journal(args), args.command, _filter(args), args.limit)
    page = answer.value
    if args.json:
        tables.show_json({"source": answer.source, "messages": page.messages, "more": page.more})
    elif not page.messages:
        tables.say("nothing waits for a person" if args.command == "dead" else "no message")
    else:
        if page.more:
            tables.say(f"the newest {len(page.messages)} only; see --limit", Tone.FAINT)
        tables.show(tables.fitted(_table(page.messages, args.command == "dead", time.time())))
    return Exit.OK


def _filter(args: argparse.Namespace) -> Filter:
    return Filter(account=args.account, chat=args.chat, states=tuple(args.state))


def _page(
    journal: Journal, box: str, wanted: Filter, limit: int, before: str | None = None
) -> Answer[Letters]:
    query = [("state", state) for state in wanted.states]
    others = {"account": wanted.account, "chat": wanted.chat, "before": before}
    query += [(key, value) for key, value in others.items() if value is not None]
    query.append(("limit", str(limit)))

    async def alone(clerk: Clerk) -> Letters:
        if box == "dead":
            return await clerk.dead(wanted, limit)
        return await clerk.box(Box(box), wanted, limit, before)

    return journal.look(lambda control: control.ask(box, Letters, query), alone)


def _table(messages: Sequence[Letter], dead: bool, now: float) -> Table:
    """A line each; of what is dead the reason matters more than the text."""
    table = Table(("NAME", "ACCOUNT", "CHAT", "STATE", "AGE", "WHY" if dead else "TEXT"))
    for message in messages:
        table.add(
            message.name,
            tables.cut(message.account, ACCOUNT_WIDTH),
            tables.cut(tables.printable(message.chat), CHAT_WIDTH),
            Cell(message.state, TONES.get(message.state, Tone.BUSY)),
            durations.say(now - message.at, units=1),
            message.reason if dead else _one_line(message),
        )
    return table


def _one_line(message: Letter) -> str:
    files = [f"[{file.name or file.kind}]" for file in message.files]
    return " ".join([*message.text.split(), *files])


# -- show -----------------------------------------------------------------------------------------


def show(args: argparse.Namespace) -> int:
    """``holdfast inbox show``, and of the other boxes."""
    journal = Journal(args)
    names = _named(args)
    answers = [_message(journal, name) for name in names]
    if args.json:
        found = [answer.value for answer in answers]
        tables.show_json({"source": answers[0].source, "messages": found})
        return Exit.OK
    for answer in answers:
        message = answer.value
        tables.say(message.name, TONES.get(message.state, Tone.PLAIN))
        for label, text in _sentences(message, time.time()):
            tables.say(f"  {label + ': ':<12}{text}".rstrip())
        for line in message.text.splitlines():
            tables.say(f"    {line}")
    return Exit.OK


def _message(journal: Journal, name: str) -> Answer[Letter]:
    return journal.look(
        lambda control: control.ask(f"messages/{name}", Letter), lambda clerk: clerk.letter(name)
    )


def _sentences(message: Letter, now: float) -> Iterator[tuple[str, str]]:
    inbound = message.box is Box.INBOX
    yield "Account", message.account
    yield "Chat", message.chat + (f", thread {message.thread}" if message.thread else "")
    if inbound:
        yield "From", message.sender
    yield "State", f"{message.state}: {MEANINGS[message.box, message.state]}"
    if message.settled_at is not None:
        yield "Since", _when(message.settled_at, now)
    if message.reason:
        yield "Why" if message.mendable else "Last trouble", message.reason
    if message.mendable:
        yield "What to do", _advice(message)
    yield "Received" if inbound else "Written", _when(message.at, now)
    yield "Attempts", str(message.attempts)
    if message.state == "owed" and message.not_before is not None and message.not_before > now:
        yield "Next try", f"in {durations.say(message.not_before - now)}"
    if message.maybe_doubled:
        yield "Doubled", "perhaps: it was sent again although an earlier try may have arrived"
    yield "Id" if inbound else "Key", message.id
    if message.receipt:
        yield "Sent as", message.receipt
    for file in message.files:
        yield "File", _described(file)
    yield "Text", "" if message.text else "none"


def _advice(message: Letter) -> str:
    again, give_up = (f"`holdfast dead {verb} {message.name}`" for verb in ("retry", "drop"))
    if message.state == "ambiguous":
        return f"look into the chat: if it did not arrive, {again}, else {give_up}"
    return f"mend the reason, then {again}; {give_up} gives it up"


def _when(at: float, now: float) -> str:
    return f"{words.clock(at)} ({words.ago(at, now)})"


def _described(file: File) -> str:
    facts = [file.kind, file.name, file.mime, "" if file.size is None else f"{file.size} bytes"]
    return ", ".join(fact for fact in facts if fact)


# -- retry and drop -------------------------------------------------------------------------------


def retry(args: argparse.Namespace) -> int:
    """``holdfast inbox retry``, and of the other boxes."""
    return _mend(args, "retry", "retried")


def drop(args: argparse.Namespace) -> int:
    """``holdfast inbox drop``, and of the other boxes."""
    return _mend(args, "drop", "dropped")


def _mend(args: argparse.Namespace, verb: str, done: str) -> int:
    journal = Journal(args)
    names = _all(journal, args, verb) if args.all else _named(args)
    results: list[Mended] = []
    source = "gateway"
    for some in _batches(names):
        answer = _order(journal, verb, some)
        source = answer.source
        results += answer.value
        if not args.json:
            _show_mended(answer.value, done)
    if args.json:
        tables.show_json({"source": source, "results": results})
    elif not names:
        tables.say("nothing waits for a person")
    return Exit.FAILED if any(result.error for result in results) else Exit.OK


def _order(journal: Journal, verb: str, names: Sequence[str]) -> Answer[list[Mended]]:
    async def alone(clerk: Clerk) -> list[Mended]:
        return await (clerk.retry(names) if verb == "retry" else clerk.drop(names))

    return journal.change(
        lambda control: control.order(f"messages/{verb}", list[Mended], {"names": names}), alone
    )


def _show_mended(results: Sequence[Mended], done: str) -> None:
    for result in results:
        message = result.message
        if message is None:
            hint = f" ({result.hint})" if result.hint else ""
            text = tables.printable(f"{result.name} is not {done}: {result.error}{hint}")
            print(f"holdfast: {text}", file=sys.stderr)
            continue
        renamed = "" if message.name == result.name else f" as {message.name}"
        tables.say(f"{result.name}: {done}{renamed}, now {message.state}")


def _named(args: argparse.Namespace) -> list[str]:
    """The names on the command line. Raises CommandFailed for those that do not belong there."""
    if not args.names:
        raise usage("which messages? Name them as `list` does, or say --all")
    for name in args.names:
        try:
            box, _ = place_of(name)
        except Problem as problem:
            raise usage(problem.error, problem.hint) from None
        if args.command not in ("dead", box.value):
            raise usage(f"{name} is in the {box.value}", f"run `holdfast {box.value} ...`")
    return list(dict.fromkeys(args.names))


def _all(journal: Journal, args: argparse.Namespace, verb: str) -> list[str]:
    """The names of all that the filters let through, the oldest first, once that is confirmed."""
    if args.names:
        raise usage("name messages, or say --all: not both")
    boxes = list(Box) if args.command == "dead" else [Box(args.command)]
    found = [message for box in boxes for message in _waiting(journal, box, _filter(args))]
    found.sort(key=lambda message: message.at)
    if found and not args.yes:
        _confirm(found, verb)
    return [message.name for message in found]


def _waiting(journal: Journal, box: Box, wanted: Filter) -> list[Letter]:
    """All messages of a box that wait for a person and that the filters let through, in order."""
    states = tuple(state for state in DEAD[box] if state in (wanted.states or DEAD[box]))
    if not states:
        return []
    narrowed = Filter(account=wanted.account, chat=wanted.chat, states=states)
    page = _page(journal, box.value, narrowed, MOST).value
    found = list(page.messages)
    while page.more:
        page = _page(journal, box.value, narrowed, MOST, page.messages[0].name).value
        found = [*page.messages, *found]
    return found


def _confirm(messages: Sequence[Letter], verb: str) -> None:
    accounts = ", ".join(sorted({message.account for message in messages}))
    number = words.counted(len(messages), "message", "messages")
    oldest = words.ago(messages[0].at, time.time())
    if not sys.stdin.isatty():
        raise usage(f"{verb} of {number} ({accounts}) is to be confirmed", "add --yes")
    print(f"{verb} {number} ({accounts}), the oldest of {oldest}? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("nothing was changed")


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]
