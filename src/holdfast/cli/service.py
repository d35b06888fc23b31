"""`holdfast service`: the gateway as a service of systemd."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast.cli import tables
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.config import state_dir_of
from holdfast.service.systemd import Manager, Step, check_account, program, reads, variables
from holdfast.service.unit import Scope, Unit, UnitError

RUN_AS = "holdfast"
"""The account of the system's service, unless another is named."""


def install(args: argparse.Namespace) -> int:
    """``holdfast service install``."""
    manager = _manager(args)
    unit = _unit(args, manager.scope)
    try:
        steps = manager.install(unit)
        lacking = _lacking(unit)
        if lacking is not None and not args.dry_run:
            raise lacking
    except UnitError as error:
        raise CommandFailed(error.problem, error.hint) from None
    if args.dry_run and not args.json:
        print(unit.text())
    _carry_out(steps, args.dry_run, args.json, unit.text())
    if lacking is not None:  # a dry run may be for another machine
        _note(str(lacking))
    _note(manager.advice(getpass.getuser()))
    names = variables(unit.config)
    if names and not unit.secrets.exists():
        _note(f"{', '.join(names)} must be in {unit.secrets} (mode 600), as NAME=value lines")
    return Exit.OK


def uninstall(args: argparse.Namespace) -> int:
    """``holdfast service uninstall``."""
    manager = _manager(args)
    try:
        steps = manager.uninstall()
    except UnitError as error:
        raise CommandFailed(error.problem, error.hint) from None
    if not steps:
        other = Scope.SYSTEM if manager.scope is Scope.USER else Scope.USER
        hint = f"the {other} one: holdfast service uninstall --{other}"
        raise CommandFailed(f"there is no {manager.path}", hint)
    _carry_out(steps, args.dry_run, args.json)
    return Exit.OK


def _manager(args: argparse.Namespace) -> Manager:
    system = args.system or (os.geteuid() == 0 and not args.user)
    return Manager.of(Scope.SYSTEM if system else Scope.USER)


def _unit(args: argparse.Namespace, scope: Scope) -> Unit:
    if args.run_as and scope is Scope.USER:
        raise CommandFailed("a user's service runs as that user", "leave out --run-as", Exit.USAGE)
    config: Path = args.config.absolute()
    return Unit(
        scope=scope,
        program=program(),
        config=config,
        state_dir=state_dir_of(config),
        run_as=args.run_as or RUN_AS,
        reads=reads(config),
    )


def _lacking(unit: Unit) -> UnitError | None:
    """That there is no account for a system's service, if there is none."""
    try:
        if unit.scope is Scope.SYSTEM:
            check_account(unit.run_as)
    except UnitError as error:
        return error
    return None


def _carry_out(steps: Sequence[Step], dry_run: bool, as_json: bool, unit: str = "") -> None:
    """Do, or only tell, what has to be done."""
    for step in steps:
        if not as_json:
            tables.say(f"would {step.text}" if dry_run else step.text)
        if not dry_run:
            _do(step)
    if as_json:
        done = {"dry_run": dry_run, "steps": [step.text for step in steps]}
        tables.show_json(done | ({"unit": unit} if unit else {}))


def _do(step: Step) -> None:
    try:
        sys.stdout.flush()  # before what systemctl says
        step.do()
    except UnitError as error:
        raise CommandFailed(error.problem, error.hint) from None


def _note(text: str) -> None:
    if text:
        print(f"holdfast: note: {text}", file=sys.stderr)
