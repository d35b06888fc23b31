"""The commands of the lab, each a proof that can be repeated."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.exits import CommandFailed, Exit

if TYPE_CHECKING:
    from holdfast.lab.engine import Result


def list_modes(args: argparse.Namespace) -> int:
    """``holdfast lab list``."""
    modes, subjects = _modes(), _subjects()
    if args.json:
        told = {
            name: {
                "group": mode.group,
                "what": mode.what,
                "clock": mode.clock,
                "why": mode.why,
                "real": sorted(mode.real),
                "quick": mode.quick,
                "variants": {v: [step.words for step in mode.variants[v]] for v in mode.variants},
            }
            for name, mode in modes.items()
        }
        print(json.dumps({"modes": told, "subjects": list(subjects)}))
        return Exit.OK
    width = max(map(len, modes))
    for name, mode in modes.items():
        print(f"{name:{width}}  {mode.what}")
    print(f"subjects: {', '.join(subjects)}")
    return Exit.OK


def run(args: argparse.Namespace) -> int:
    """``holdfast lab run``."""
    _known(args.mode, _modes(), "failure mode")
    _ready(args.subject)
    variants = _modes()[args.mode].variants
    if args.variant is not None:
        there = f"there are: {', '.join(variants)}"
        _known(args.variant, variants, f"variant of {args.mode}", there)
    score = import_module("holdfast.lab.score")
    wanted = [
        replace(cell, run=args.seed)
        for cell in score.cells([args.subject], [args.mode], args.platform)
        if args.variant in (None, cell.variant)
    ]
    results = score.score(wanted, lambda result: None if args.json else print(_line(result)))
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
    return _exit(results)


def score(args: argparse.Namespace) -> int:
    """``holdfast lab score``."""
    for name in args.mode:
        _known(name, _modes(), "failure mode")
    subjects = args.subject or ["holdfast"]
    for name in subjects:
        _ready(name)
    if args.out is not None:
        _make(args.out)
    engine = import_module("holdfast.lab.score")
    wanted = list(
        engine.cells(subjects, args.mode, args.platform, quick=args.quick, runs=args.runs)
    )
    return _publish(engine.score(wanted, _counting(len(wanted))), args)


def compare(args: argparse.Namespace) -> int:
    """``holdfast lab compare``."""
    engine = import_module("holdfast.lab.compare")
    subjects = args.subject or engine.OTHERS
    for name in subjects:
        _ready(name)
    wanted = engine.cells(subjects, args.runs)
    try:
        results = engine.compare(wanted, args.out, _counting(len(wanted)))
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{args.out} can not be used: {error}", "", Exit.USAGE) from error
    return _publish(results, args)


def _make(directory: Path) -> None:
    """Before hours of playing. Raises CommandFailed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"{directory} can not be made: {error}", "", Exit.USAGE) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise CommandFailed(f"{directory} is not writable for this user", "", Exit.USAGE)


def _counting(number: int) -> Callable[[Result], None]:
    """Tells of each result as it comes in."""
    done = count(1)

    def told(result: Result) -> None:
        print(f"{next(done)} of {number}: {_line(result)}", file=sys.stderr, flush=True)

    return told


def _publish(results: Sequence[Result], args: argparse.Namespace) -> int:
    page = import_module("holdfast.lab.score_page")
    command = " ".join(["holdfast", *sys.argv[1:]])
    document = page.document(results, command)
    if args.out is not None:
        (args.out / "score.json").write_text(json.dumps(document) + "\n")
        (args.out / "score.md").write_text(page.markdown(results, command))
        html = import_module("holdfast.lab.score_html")
        (args.out / "score.html").write_text(html.page(results, command, document["date"]))
    print(json.dumps(document) if args.json else page.summary(results))
    mine = [result for result in results if result.subject.startswith("holdfast")]
    return Exit.FAILED if _exit(mine) == Exit.FAILED else Exit.OK


def crash(args: argparse.Namespace) -> int:
    """``holdfast lab crash``."""
    quiet = args.json and not sys.stderr.isatty()
    main = import_module("holdfast.lab.crash").main
    return int(main(args.minutes, args.seed, args.platform, quiet=quiet))


def chaos(args: argparse.Namespace) -> int:
    """``holdfast lab chaos``."""
    return _chaos(args, args.minutes * 60, real=args.real)


def soak(args: argparse.Namespace) -> int:
    """``holdfast lab soak``."""
    return _chaos(args, args.hours * 3_600, real=True)


def _chaos(args: argparse.Namespace, seconds: float, *, real: bool) -> int:
    clock = import_module("holdfast.lab.terms").Clock
    main = import_module("holdfast.lab.chaos").main
    chosen = clock.REAL if real else clock.SIMULATED
    quiet = args.json and not sys.stderr.isatty()
    return int(main(seconds, args.seed, args.platform, chosen, quiet=quiet))


def _modes() -> dict[str, Any]:
    return dict(import_module("holdfast.lab.modes").MODES)


def _subjects() -> dict[str, Any]:
    return dict(import_module("holdfast.lab.subjects.registry").SUBJECTS)


def _known(
    name: str, names: Collection[str], what: str, where: str = "`holdfast lab list` names them"
) -> None:
    """Raises CommandFailed for a name that is none of them; ``where`` tells how to find those."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        meant = f"did you mean {near[0]}?" if near else where
        raise CommandFailed(f"there is no {what} {name!r}", meant, Exit.USAGE)


def _ready(name: str) -> None:
    """Raises CommandFailed for a subject that there is not, or that can not be run here."""
    _known(name, _subjects(), "subject")
    clock = import_module("holdfast.lab.terms").Clock.REAL
    registry = import_module("holdfast.lab.subjects.registry")
    if missing := registry.subject(name, clock).missing():
        raise CommandFailed(f"{name} can not be put to the test here", missing, Exit.USAGE)


def _line(result: Result) -> str:
    which = f", run {result.run}" if result.run > 1 else ""
    head = f"{result.mode} ({result.variant}) on {result.platform}, {result.subject}{which}: "
    told = "; ".join(result.reasons)
    return head + result.outcome + (f": {told}" if told else "") + f" [{result.took_s:g} s]"


def _exit(results: Collection[Result]) -> Exit:
    """What several plays come to: one failure fails, one pass passes."""
    outcomes = {str(result.outcome) for result in results}
    if "fail" in outcomes:
        return Exit.FAILED
    return Exit.OK if "pass" in outcomes else Exit.ATTENTION
