"""The options of every command, and the reference made of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from holdfast import __version__
from holdfast.adapters import BUILT_IN
from holdfast.cli import lab_arguments
from holdfast.cli.catalogue import ALERTS, BOXES, COMMANDS, LAB, SERVICE, VERBS, Command, Verb
from holdfast.cli.lab_arguments import length_of_time

__all__ = ["COMMANDS", "arguments", "build", "reference", "verbs_of"]

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

FORMATS = ("kv", "json")


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line; sets ``command``, ``run``, ``config``."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "holdfast", description=DESCRIPTION, epilog=EPILOG, formatter_class=shape
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--version", action="version", version=f"holdfast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.text,
            epilog=f"example: {command.example}",
        )
        if verbs := verbs_of(command.name):
            _add_verbs(sub, command, verbs)
        else:
            _add_config(sub)
            sub.set_defaults(run=command.run)
            _add_arguments(sub, command.name)
    return parser


def _add_config(sub: argparse.ArgumentParser) -> None:
    """Also after the command; without a default, or it would undo the one before it."""
    sub.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=CONFIG_HELP
    )


# -- commands that have verbs: the boxes and the lab ----------------------------------------------


def verbs_of(command: str) -> dict[str, Verb]:
    """What follows a command's name; nothing for most."""
    own = {"lab": LAB, "alerts": ALERTS, "service": SERVICE}
    return own.get(command, VERBS if command in BOXES else {})


def _add_verbs(sub: argparse.ArgumentParser, command: Command, verbs: dict[str, Verb]) -> None:
    parsers = sub.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for name, verb in verbs.items():
        one = parsers.add_parser(name, help=verb.help, description=verb.text)
        _add_config(one)
        one.set_defaults(run=f"{command.run.partition(':')[0]}:{verb.function}")
        _add_verb_arguments(one, command.name, name)


def _add_verb_arguments(sub: argparse.ArgumentParser, command: str, verb: str) -> None:
    if command == "lab":
        lab_arguments.add(sub, verb)
    elif command == "service":
        _add_service(sub, verb)
    elif command in BOXES:
        _add_box(sub, command, verb)
    _add_json(sub)


def _add_box(sub: argparse.ArgumentParser, box: str, verb: str) -> None:
    if verb == "show":
        sub.add_argument("names", nargs="+", metavar="NAME", help=NAMES_HELP)
    if verb in ("retry", "drop"):
        sub.add_argument("names", nargs="*", metavar="NAME", help=NAMES_HELP)
        sub.add_argument(
            "--all",
            action="store_true",
            help="all that wait for a person, or those that the filters let through",
        )
        sub.add_argument("--yes", action="store_true", help="do not ask whether --all is meant")
    if verb != "show":
        _add_filters(sub, box)
    if verb == "list":
        sub.add_argument(
            "--limit", type=_count, default=50, metavar="N", help="messages at most (default: 50)"
        )


def _add_service(sub: argparse.ArgumentParser, verb: str) -> None:
    sub.add_argument(
        "--dry-run", action="store_true", help="only print what would be written and done"
    )
    whose = sub.add_mutually_exclusive_group()
    whose.add_argument(
        "--system", action="store_true", help="the machine's service (default for root)"
    )
    whose.add_argument(
        "--user", action="store_true", help="a service of this user's own (default for others)"
    )
    if verb == "install":
        sub.add_argument(
            "--run-as",
            metavar="NAME",
            help="the account that the machine's service runs under (default: holdfast)",
        )


NAMES_HELP = "a message's name as `list` prints it, for example in-17 or out-4"


def _add_filters(sub: argparse.ArgumentParser, box: str) -> None:
    sub.add_argument("--account", metavar="ACCOUNT", help="only messages of this account")
    sub.add_argument("--chat", metavar="CHAT", help="only messages of this chat")
    sub.add_argument(
        "--state",
        action="append",
        default=[],
        choices=BOXES[box],
        metavar="STATE",
        help=f"only messages in this state: {', '.join(BOXES[box])}; may be repeated",
    )


# -- the arguments of the others ------------------------------------------------------------------


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
            sub.add_argument(
                "--incidents",
                action="store_true",
                help="a line for each time without connection; asks the running gateway",
            )
        case "kick":
            which = sub.add_mutually_exclusive_group(required=True)
            which.add_argument("account", nargs="?", metavar="ACCOUNT", help="its name")
            which.add_argument("--all", action="store_true", help="every account but paused ones")
        case "gaps":
            sub.add_argument(
                "account", nargs="?", metavar="ACCOUNT", help="only this one (default: all)"
            )
            sub.add_argument(
                "--dismiss",
                type=_number,
                action="append",
                metavar="NUMBER",
                help="tell this gap no more; may be repeated",
            )
            sub.add_argument(
                "--limit", type=_count, default=50, metavar="N", help="gaps at most (default: 50)"
            )
        case "send":
            sub.add_argument("account", metavar="ACCOUNT", help="who sends it")
            sub.add_argument("chat", metavar="CHAT", help="the platform's id of the chat")
            sub.add_argument("text", metavar="TEXT", help="what is said; - reads standard input")
            sub.add_argument(
                "--anyway",
                action="store_true",
                help="also to a chat of which the journal has no message",
            )
        case "mcp":
            _add_mcp(sub)
        case "backup":
            sub.add_argument("file", type=Path, metavar="FILE", help="what to write; must be new")
        case "demo":
            sub.add_argument(
                "--seconds",
                type=length_of_time,
                metavar="N",
                help="end after so long (default: Ctrl-C)",
            )
            sub.add_argument(
                "--port", type=_port, default=0, metavar="P", help="for its page (default: any)"
            )
    if command not in ("run", "mcp"):
        _add_json(sub)


def _add_json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_mcp(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--read-only", action="store_true", help="leave out the tools that change anything"
    )
    sub.add_argument(
        "--listen",
        type=_address,
        metavar="HOST:PORT",
        help="serve over HTTP; any host but this machine's own demands a token",
    )
    sub.add_argument(
        "--token-file", type=Path, metavar="FILE", help="holds what callers over HTTP must show"
    )


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"log what is at least so grave: {', '.join(LEVELS)} (default: info)",
    )
    sub.add_argument(
        "--log-format",
        choices=FORMATS,
        default="kv",
        metavar="FORMAT",
        help="log lines as key=value pairs (kv, the default) or as JSON objects (json)",
    )
    sub.add_argument(
        "--no-uvloop", action="store_true", help="use Python's own event loop, not uvloop"
    )


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return number


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a gap")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


# -- the reference --------------------------------------------------------------------------------


def reference() -> str:
    """The commands and options in Markdown; ``docs/cli.md`` holds exactly this text."""
    return "\n".join(line for command in COMMANDS.values() for line in _section(command))


def arguments(command: str, verb: str = "") -> list[argparse.Action]:
    """The arguments of a command or of one of its verbs, without those that all commands share."""
    sub = argparse.ArgumentParser(add_help=False)
    if verb:
        _add_verb_arguments(sub, command, verb)
    else:
        _add_arguments(sub, command)
    return sub._actions


def _section(command: Command) -> Iterator[str]:
    yield from (f"### `holdfast {command.name}`", "", command.text, "")
    verbs = verbs_of(command.name)
    for name, verb in verbs.items():
        yield from (f"#### `holdfast {command.name} {name}`", "", verb.text, "")
        yield from _table(arguments(command.name, name))
    if not verbs:
        yield from _table(arguments(command.name))
    yield from (f"Example: `{command.example}`", "")


def _table(rows: list[argparse.Action]) -> Iterator[str]:
    if rows:
        yield from ("| Argument | Meaning |", "|---|---|")
        yield from (f"| `{_spelling(row)}` | {row.help} |" for row in rows)
        yield ""


def _spelling(action: argparse.Action) -> str:
    value = action.metavar if action.nargs != 0 else None
    return " ".join(str(part) for part in (*action.option_strings, value) if part)
