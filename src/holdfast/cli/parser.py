"""Every command and option, and the reference made of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.adapters import BUILT_IN

DESCRIPTION = """\
A chat-bot gateway whose platform connections never silently die.

Begin with:
  holdfast demo                 watch it heal; needs no account and no network
  holdfast init                 write a configuration to fill in
  holdfast check                find out whether the credentials work
  holdfast run                  run the gateway
  holdfast status               see how every account is
"""

EPILOG = """\
exit codes: 0 it worked, 1 it failed, 2 wrong command line, 3 an account needs a person,
4 the gateway is not running or does not answer, 75 another gateway runs on the same state,
78 the configuration can not be used
"""

CONFIG_HELP = "the configuration (default: $HOLDFAST_CONFIG, else ./holdfast.toml)"

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Command:
    """A command's place, help and example."""

    name: str
    run: str
    """Where its function is: ``module:function``."""
    help: str
    text: str
    example: str


_HERE = "holdfast.cli."

COMMANDS = {
    command.name: command
    for command in (
        Command(
            "init",
            _HERE + "setup:init",
            "write a configuration to fill in",
            "Write a commented configuration that only you can read. An existing file is never "
            "overwritten.",
            "holdfast init --platform telegram --platform matrix",
        ),
        Command(
            "check",
            _HERE + "setup:check",
            "find out whether configuration and credentials work",
            "Read the whole configuration, then ask every platform whether the credentials work, "
            "without connecting the bot. A running gateway is not disturbed. Exits with 1 when "
            "any account is bad.",
            "holdfast check",
        ),
        Command(
            "run",
            _HERE + "run:run",
            "run the gateway in the foreground",
            "Run the gateway until SIGTERM or Ctrl-C, which end it within 5 seconds (a second one "
            "at once). SIGHUP reads the configuration again; accounts that did not change keep "
            "their connections. The log goes to standard error.",
            "holdfast run --log-level warning",
        ),
        Command(
            "status",
            _HERE + "look:status",
            "see how every account is",
            "Ask the running gateway how every account is. When it does not answer, its status "
            "file is read instead, and what can no longer be believed is shown as unknown. Exits "
            "with 3 when an account needs a person, with 4 when the gateway does not answer.",
            "holdfast status --watch",
        ),
        Command(
            "explain",
            _HERE + "look:explain",
            "say in plain words what an account does and why",
            "Say in plain words in which state an account is, since when and why, who must act "
            "and what to do, when it is tried next, and what waits.",
            "holdfast explain my-bot",
        ),
        Command(
            "history",
            _HERE + "look:history",
            "list what happened to the accounts",
            "List the changes of state of all accounts or one, the newest last. Works without a "
            "running gateway, from its journal.",
            "holdfast history my-bot --limit 20",
        ),
        Command(
            "kick",
            _HERE + "act:kick",
            "make an account try now",
            "Make an account try now, whatever it waits for; for example after new credentials, "
            "or when the network is back. A connected account is connected anew; any other first "
            "takes up what was changed in its table of the configuration.",
            "holdfast kick my-bot",
        ),
        Command(
            "pause",
            _HERE + "act:pause",
            "disconnect an account until it is resumed",
            "Disconnect an account; it stays so over restarts. Replies that are ready wait in "
            "the journal.",
            "holdfast pause my-bot",
        ),
        Command(
            "resume",
            _HERE + "act:resume",
            "connect a paused account again",
            "Connect a paused account again and send what waited.",
            "holdfast resume my-bot",
        ),
        Command(
            "reload",
            _HERE + "act:reload",
            "make the gateway read its configuration again",
            "Make the running gateway read its configuration again. Only accounts whose entry "
            "changed are connected anew; a configuration with a mistake changes nothing.",
            "holdfast reload",
        ),
        Command(
            "demo",
            _HERE + "setup:demo",
            "watch it heal; needs no account and no network",
            "Run a gateway on simulated platforms, cut their connections in several ways and show "
            "how they heal and what was lost.",
            "holdfast demo --seconds 60",
        ),
        Command(
            "version",
            _HERE + "setup:version",
            "print the version",
            "Print the version.",
            "holdfast version",
        ),
    )
}


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line; sets ``command``, ``run``, ``config``."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "holdfast", description=DESCRIPTION, epilog=EPILOG, formatter_class=shape
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.text,
            epilog=f"example: {command.example}",
        )
        # Also after the command; without a default, or it would undo the one before it.
        sub.add_argument(
            "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=CONFIG_HELP
        )
        sub.set_defaults(run=command.run)
        _add_arguments(sub, command.name)
    return parser


def _add_arguments(sub: argparse.ArgumentParser, command: str) -> None:
    match command:
        case "init":
            sub.add_argument(
                "file",
                nargs="?",
                type=Path,
                metavar="FILE",
                help="what to write (default: the configuration)",
            )
            sub.add_argument(
                "--platform",
                action="append",
                choices=sorted(BUILT_IN),
                metavar="PLATFORM",
                help=f"prepare an account for {', '.join(sorted(BUILT_IN))}; may be repeated "
                "(default: telegram)",
            )
        case "check":
            sub.add_argument(
                "accounts", nargs="*", metavar="ACCOUNT", help="accounts to check (default: all)"
            )
        case "run":
            _add_run(sub)
        case "status":
            sub.add_argument(
                "--watch", action="store_true", help="show it anew every second until Ctrl-C"
            )
        case "explain" | "pause" | "resume":
            sub.add_argument("account", metavar="ACCOUNT", help="its name in the configuration")
        case "history":
            sub.add_argument(
                "account", nargs="?", metavar="ACCOUNT", help="only this one (default: all)"
            )
            sub.add_argument(
                "--limit", type=_count, default=50, metavar="N", help="lines at most (default: 50)"
            )
        case "kick":
            which = sub.add_mutually_exclusive_group(required=True)
            which.add_argument("account", nargs="?", metavar="ACCOUNT", help="its name")
            which.add_argument("--all", action="store_true", help="every account but paused ones")
        case "demo":
            sub.add_argument(
                "--seconds", type=_seconds, metavar="N", help="end after so long (default: Ctrl-C)"
            )
            sub.add_argument(
                "--port", type=_port, default=0, metavar="P", help="for its page (default: any)"
            )
    if command != "run":
        sub.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"log what is at least so grave: {', '.join(LEVELS)} (default: info)",
    )
    sub.add_argument("--log-json", action="store_true", help="log lines as JSON objects")
    sub.add_argument(
        "--no-uvloop", action="store_true", help="use Python's own event loop, not uvloop"
    )


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return number


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


# -- the reference --------------------------------------------------------------------------------


def reference() -> str:
    """The commands and options in Markdown; ``docs/cli.md`` holds exactly this text."""
    return "\n".join(line for command in COMMANDS.values() for line in _section(command))


def arguments(command: str) -> list[argparse.Action]:
    """The arguments of a command, without those that all commands share."""
    sub = argparse.ArgumentParser(add_help=False)
    _add_arguments(sub, command)
    return sub._actions


def _section(command: Command) -> Iterator[str]:
    yield from (f"### `holdfast {command.name}`", "", command.text, "")
    rows = arguments(command.name)
    if rows:
        yield from ("| Argument | Meaning |", "|---|---|")
        yield from (f"| `{_spelling(row)}` | {row.help} |" for row in rows)
        yield ""
    yield from (f"Example: `{command.example}`", "")


def _spelling(action: argparse.Action) -> str:
    value = action.metavar if action.nargs != 0 else None
    return " ".join(str(part) for part in (*action.option_strings, value) if part)
