"""`holdfast doctor`: what is wrong, and what to do about it; safe to show to others."""

from __future__ import annotations

import argparse
import asyncio
import platform
import ssl
from collections.abc import Sequence
from pathlib import Path

from holdfast import __version__
from holdfast.cli import look, tables
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.cli.tables import Tone
from holdfast.config import state_dir_of
from holdfast.doctor.accounts import Reading
from holdfast.doctor.examine import Room, examine
from holdfast.doctor.finding import Finding, Verdict, worst
from holdfast.doctor.network import Doors
from holdfast.errors import ConfigError

TONES = {Verdict.OK: Tone.GOOD, Verdict.WARN: Tone.BUSY, Verdict.FAIL: Tone.BAD}


def doctor(args: argparse.Namespace) -> int:
    """``holdfast doctor``."""
    state_dir = _state_dir(args.config)
    room = Room(
        config=args.config.absolute(),
        state_dir=state_dir,
        reading=_reading(state_dir),
        doors=Doors(public=_public()),
    )
    findings = asyncio.run(examine(room))
    if args.json:
        tables.show_json(_machine() | {"verdict": worst(findings), "findings": findings})
    else:
        _show(findings)
    return Exit.FAILED if worst(findings) is Verdict.FAIL else Exit.OK


def _state_dir(config: Path) -> Path | None:
    try:
        return state_dir_of(config)
    except ConfigError:
        return None  # a finding of its own


def _reading(state_dir: Path | None) -> Reading:
    """What the gateway says, or why it says nothing."""
    if state_dir is None:
        return Reading(trouble="the configuration can not be read")
    try:
        found = look.take(state_dir)
    except CommandFailed as failed:
        return Reading(trouble=failed.problem)
    return Reading(found.status, found.trouble, found.doubt)


def _public() -> ssl.SSLContext | None:
    """What trusts the public authorities alone, when their list is installed."""
    try:
        import certifi
    except ImportError:
        return None
    return ssl.create_default_context(cafile=certifi.where())


def _machine() -> dict[str, str]:
    """What a bug report should begin with."""
    return {
        "holdfast": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _show(findings: Sequence[Finding]) -> None:
    tables.say(", ".join(f"{name} {value}" for name, value in _machine().items()))
    for finding in findings:
        subject = f"{finding.subject}: " if finding.subject else ""
        head = f"{finding.verdict:<4}  {finding.check:<13}  "
        tables.say_under(head, f"{subject}{finding.what}", TONES[finding.verdict])
        if finding.remedy:
            tables.say_under(f"{'':21}do: ", finding.remedy)
    counts = [f"{sum(f.verdict is v for f in findings)} {v}" for v in reversed(Verdict)]
    tables.say(", ".join(counts))
