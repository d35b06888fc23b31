"""The options of `holdfast lab`."""

from __future__ import annotations

import argparse
from pathlib import Path

from holdfast.adapters import BUILT_IN

PLATFORM_HELP = "only this one; may be repeated (default: all that can be played)"

SUBJECT_HELP = "who is put to the test; `list` names them (default: holdfast)"


def add(sub: argparse.ArgumentParser, verb: str) -> None:
    """The options of one verb."""
    match verb:
        case "run":
            sub.add_argument("mode", metavar="MODE", help="a failure mode; `list` names them")
            _platforms(sub)
            sub.add_argument("--subject", default="holdfast", metavar="NAME", help=SUBJECT_HELP)
            sub.add_argument("--variant", metavar="NAME", help="only this one (default: all)")
            sub.add_argument(
                "--seed",
                type=int,
                default=1,
                metavar="N",
                help="draw what is left to chance as the N-th run of `score` does (default: 1)",
            )
        case "score":
            _platforms(sub)
            sub.add_argument(
                "--subject",
                action="append",
                default=[],
                metavar="NAME",
                help=f"{SUBJECT_HELP}; may be repeated",
            )
            sub.add_argument(
                "--mode",
                action="append",
                default=[],
                metavar="MODE",
                help="only this one; may be repeated",
            )
            sub.add_argument("--quick", action="store_true", help="only the modes of the quick set")
            sub.add_argument(
                "--runs",
                type=int,
                choices=range(1, 11),
                metavar="N",
                help="play each so often, up to 10 times (default: Holdfast once, others 3 times)",
            )
            sub.add_argument(
                "--out", type=Path, metavar="DIR", help="write score.json, score.md and score.html"
            )
        case "compare":
            sub.add_argument(
                "--subject",
                action="append",
                default=[],
                metavar="NAME",
                help="whom to compare with Holdfast; `list` names them; may be repeated "
                "(default: all)",
            )
            sub.add_argument(
                "--runs",
                type=int,
                default=3,
                choices=range(1, 11),
                metavar="N",
                help="play each so often, up to 10 times (default: 3)",
            )
            sub.add_argument(
                "--out",
                type=Path,
                metavar="DIR",
                required=True,
                help="write score.json, score.md and score.html, and keep what was played in "
                "plays.jsonl: a run that was broken off goes on",
            )
        case "chaos":
            _hours(
                sub, "--minutes", 60.0, "minutes that are played, in simulated time (default: 60)"
            )
            _seed(sub)
            _platforms(sub)
            sub.add_argument(
                "--real",
                action="store_true",
                help="in real time, with Holdfast as a process of its own",
            )
        case "soak":
            _hours(sub, "--hours", 1.0, "hours of real time (default: 1)")
            _seed(sub)
            _platforms(sub)
        case "crash":
            sub.add_argument(
                "--minutes",
                type=length_of_time,
                default=1.0,
                metavar="N",
                help="how long users write (default: 1); the end takes a little longer",
            )
            _seed(sub)
            _platforms(sub)


def length_of_time(text: str) -> float:
    """A number above 0, of whatever unit the option has."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time above 0")
    return number


def _platforms(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--platform",
        action="append",
        default=[],
        choices=sorted(BUILT_IN),
        metavar="PLATFORM",
        help=PLATFORM_HELP,
    )


def _seed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--seed", type=int, metavar="S", help="repeat the choices of another run (default: new)"
    )


def _hours(sub: argparse.ArgumentParser, option: str, default: float, help: str) -> None:
    sub.add_argument(option, type=length_of_time, default=default, metavar="N", help=help)
