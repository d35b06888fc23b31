"""`holdfast alerts`: tries the ways by which somebody is told of an account in trouble."""

from __future__ import annotations

import argparse
import sys

import msgspec

from holdfast.cli import tables
from holdfast.cli.control import Control
from holdfast.cli.exits import Exit
from holdfast.cli.tables import Cell, Table, Tone
from holdfast.config import state_dir_of

TEST_LIMIT = 300.0
"""Seconds for the slowest way: a web hook that lets each of its tries wait to the end."""


class _Tried(msgspec.Struct, frozen=True):
    way: str
    worked: bool
    detail: str


def test(args: argparse.Namespace) -> int:
    """``holdfast alerts test``."""
    control = Control(state_dir_of(args.config))
    if sys.stderr.isatty():
        print("holdfast: every way is tried; a slow one takes a minute", file=sys.stderr)
    tried = control.order("alerts/test", list[_Tried], patience=TEST_LIMIT)
    if args.json:
        tables.show_json(tried)
    else:
        table = Table(("WAY", "RESULT", "WHY"))
        for one in tried:
            result = Cell("told", Tone.GOOD) if one.worked else Cell("not told", Tone.BAD)
            table.add(one.way, result, one.detail or "-")
        tables.show(table)
    return Exit.OK if all(one.worked for one in tried) else Exit.FAILED
