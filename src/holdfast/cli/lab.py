"""The commands of the lab, each a proof that can be repeated."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module


def crash(args: argparse.Namespace) -> int:
    """``holdfast lab crash``."""
    quiet = args.json and not sys.stderr.isatty()
    main = import_module("holdfast.lab.crash").main
    return int(main(args.minutes, args.seed, args.platform, quiet=quiet))
