"""Does what a model asks for, as the commands do it: by the control API, else by what is left.

Every call is bounded by the limits of `cli.control`; all of them block and belong on a thread.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from holdfast.cli import words
from holdfast.cli.control import Control, account_path
from holdfast.cli.exits import CommandFailed
from holdfast.cli.journal import Journal
from holdfast.cli.look import take
from holdfast.config import state_dir_of
from holdfast.mcp import answers
from holdfast.observe.status import AccountStatus
from holdfast.store.protocol import Transition
from holdfast.web.letters import Filter, Letter, Letters, Mended


class _Done(msgspec.Struct, frozen=True):
    account: str
    done: str
    status: AccountStatus


class Desk:
    """The desk of one gateway, which need not run.

    Its methods raise CommandFailed, in words that say what to do, and ConfigError.
    """

    def __init__(self, config: Path, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock = config, clock

    # -- looking ------------------------------------------------------------------------------

    def accounts(self) -> answers.Accounts:
        """All accounts, those in trouble first."""
        reading = take(state_dir_of(self._config), self._clock)
        return answers.accounts(reading, self._clock())

    def explain(self, name: str) -> answers.Explanation:
        """One account with all that is known."""
        reading, now = take(state_dir_of(self._config), self._clock), self._clock()
        status = reading.status.accounts.get(name)
        if status is None:
            known = ", ".join(sorted(reading.status.accounts)) or "none"
            raise CommandFailed(f"there is no account {name!r}; there are: {known}")
        return answers.Explanation(
            freshness=answers.freshness(reading, now),
            account=answers.account(name, status, now, reading.doubt),
            sentences=dict(words.explanation(status, now, reading.doubt)),
        )

    def history(self, name: str | None, limit: int) -> answers.History:
        """What happened to an account or to all; from the journal when no gateway runs."""
        resource = "history" if name is None else account_path(name, "history")
        found = self._journal().look(
            lambda control: control.ask(f"{resource}?limit={limit}", list[Transition]),
            lambda clerk: clerk.history(name, limit),
        )
        return answers.History(
            freshness=answers.fresh(found.source, self._clock()),
            changes=[answers.change(line) for line in found.value],
        )

    def dead(self, name: str | None, limit: int) -> answers.Messages:
        """What waits for a person; from the journal when no gateway runs."""
        query = [("limit", str(limit)), *([("account", name)] if name is not None else [])]
        found = self._journal().look(
            lambda control: control.ask("dead", Letters, query),
            lambda clerk: clerk.dead(Filter(account=name), limit),
        )
        return self._messages(found.value.messages, found.source, found.value.more)

    # -- acting -------------------------------------------------------------------------------

    def act(self, name: str, verb: str) -> answers.Done:
        """Kick, pause or resume an account; only a running gateway can."""
        control = Control(state_dir_of(self._config))
        answer = control.order(account_path(name, verb), _Done)
        now = answers.account(answer.account, answer.status, self._clock())
        return answers.Done(done=answer.done, account=now)

    def send(self, name: str, chat: str, text: str, anyway: bool) -> answers.Messages:
        """Owe a message; it is durable on return, and sent as soon as the account can."""
        body = {"chat": chat, "text": text, "anyway": anyway}
        owed = self._journal().change(
            lambda control: control.order(account_path(name, "send"), list[Letter], body),
            lambda clerk: clerk.send(name, chat, text, anyway),
            begin=True,
        )
        return self._messages(owed.value, owed.source, False)

    def retry(self, names: Sequence[str]) -> answers.Outcomes:
        """Try messages once more."""
        found = self._journal().change(
            lambda control: control.order("messages/retry", list[Mended], {"names": names}),
            lambda clerk: clerk.retry(names),
        )
        return self._outcomes(found.value, found.source)

    def drop(self, names: Sequence[str]) -> answers.Outcomes:
        """Give messages up."""
        found = self._journal().change(
            lambda control: control.order("messages/drop", list[Mended], {"names": names}),
            lambda clerk: clerk.drop(names),
        )
        return self._outcomes(found.value, found.source)

    def _journal(self) -> Journal:
        return Journal(Namespace(config=self._config))

    def _messages(self, letters: Sequence[Letter], source: str, more: bool) -> answers.Messages:
        return answers.Messages(
            freshness=answers.fresh(source, self._clock()),
            messages=[answers.message(letter) for letter in letters],
            more=more,
        )

    def _outcomes(self, results: Sequence[Mended], source: str) -> answers.Outcomes:
        return answers.Outcomes(
            freshness=answers.fresh(source, self._clock()),
            outcomes=[answers.outcome(result) for result in results],
        )
