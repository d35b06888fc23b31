"""Commands that act on a running gateway: kick, pause, resume and reload."""

from __future__ import annotations

import argparse
import sys

import msgspec

from holdfast.cli import tables, words
from holdfast.cli.control import Control, account_path
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.config import state_dir_of
from holdfast.observe.status import AccountStatus


class _Done(msgspec.Struct, frozen=True):
    account: str
    done: str
    status: AccountStatus


class _Reloaded(msgspec.Struct, frozen=True):
    done: list[str]
    warnings: list[str]


def kick(args: argparse.Namespace) -> int:
    """``holdfast kick``."""
    control = _control(args)
    if args.all:
        accounts = control.ask("accounts", dict[str, AccountStatus])
        names = [name for name, account in accounts.items() if not account.paused]
        if not names:
            raise CommandFailed("every account is paused", "run `holdfast resume ACCOUNT`")
    else:
        names = [args.account]
    return _act(control, names, "kick", args.json)


def pause(args: argparse.Namespace) -> int:
    """``holdfast pause``."""
    return _act(_control(args), [args.account], "pause", args.json)


def resume(args: argparse.Namespace) -> int:
    """``holdfast resume``."""
    return _act(_control(args), [args.account], "resume", args.json)


def reload(args: argparse.Namespace) -> int:
    """``holdfast reload``."""
    answer = _control(args).order("reload", _Reloaded)
    if args.json:
        tables.show_json(answer)
        return Exit.OK
    for line in answer.done or ["nothing has changed"]:
        tables.say(line)
    for warning in answer.warnings:
        print(f"holdfast: warning: {warning}", file=sys.stderr)
    return Exit.OK


def _control(args: argparse.Namespace) -> Control:
    return Control(state_dir_of(args.config))


def _act(control: Control, names: list[str], verb: str, as_json: bool) -> int:
    answers = [control.order(account_path(name, verb), _Done) for name in names]
    if as_json:
        tables.show_json(answers)
        return Exit.OK
    for answer in answers:
        state = ", ".join([answer.status.state, *words.flags(answer.status)])
        tables.say(f"{answer.account}: {answer.done}, now {state}")
    return Exit.OK
