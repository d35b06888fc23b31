"""Every command: what it is called, what it does, where its function is."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.store.protocol import Box
from holdfast.web.letters import DEAD, STATES


@dataclass(frozen=True, slots=True)
class Command:
    """A command's place, help and example."""

    name: str
    run: str
    """Where its function is: ``module:function``; a module alone has one for each verb."""
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
            "without connecting the bot, and look whether the journal is whole. A running gateway "
            "is not disturbed. Exits with 1 when any account is bad, or the journal.",
            "holdfast check",
        ),
        Command(
            "doctor",
            _HERE + "doctor:doctor",
            "find out what is wrong with machine, network and accounts",
            "Look at clock, names, IPv6, proxy, TLS, portals, limits, disk, permissions and at who "
            "else uses a token, and say what to do. Contacts only servers of the configuration, "
            "shows no secret, takes some 5 seconds. Exits with 1 when something does not work "
            "until somebody mends it.",
            "holdfast doctor",
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
            "inbox",
            _HERE + "boxes",
            "look after the messages people wrote",
            "Look after the messages people wrote: `list` them with the newest last, `show` some "
            "with all that is known, and `retry` or `drop` those that no agent could answer. A "
            "retried one goes to the end of its chat. Works without a running gateway, on its "
            "journal.",
            "holdfast inbox list --account my-bot --state received",
        ),
        Command(
            "outbox",
            _HERE + "boxes",
            "look after the messages to be sent",
            "Look after our own messages: `list` them with the newest last, `show` some with all "
            "that is known, and `retry` or `drop` those that were refused, or of which nobody "
            "knows whether they arrived. Works without a running gateway, on its journal.",
            "holdfast outbox show out-4",
        ),
        Command(
            "dead",
            _HERE + "boxes",
            "look after the messages that wait for a person",
            "Look after what waits for a person in both boxes: messages that no agent could "
            "answer, answers that were refused, and sends of which nobody knows whether they "
            "arrived (a retry of those may double them, and is marked so). Mend the reason first.",
            "holdfast dead retry in-17 out-4",
        ),
        Command(
            "gaps",
            _HERE + "care:gaps",
            "list the times whose messages may be missing",
            "List the stretches of time whose messages may be missing, the newest last, until "
            "somebody has seen to them and dismissed them.",
            "holdfast gaps --dismiss 3",
        ),
        Command(
            "send",
            _HERE + "care:send",
            "send a message that answers none",
            "Put a message into the outbox and print its name. Once the command returns it is on "
            "disk and will be sent, also when no gateway is running now. `holdfast outbox show` "
            "tells what became of it.",
            "holdfast send my-bot 4217 'The backup is done.'",
        ),
        Command(
            "alerts",
            _HERE + "alerts:test",
            "try the ways by which you are told of trouble",
            "`test` makes the running gateway send a harmless alert on every way of the table "
            "`[alerts]`, and says what became of it. Exits with 1 when any of them failed.",
            "holdfast alerts test",
        ),
        Command(
            "mcp",
            _HERE + "mcp:mcp",
            "let a language model look after the accounts",
            "Serve the Model Context Protocol on standard input and output, or over streamable "
            "HTTP with --listen. It asks the running gateway on its control socket, and says so "
            "when there is none.",
            "holdfast mcp --read-only",
        ),
        Command(
            "backup",
            _HERE + "care:backup",
            "copy the journal, also while the gateway runs",
            "Write a consistent copy of the journal to a new file that only its owner can read. "
            "The gateway goes on meanwhile; when one runs, it is the one that writes the file.",
            "holdfast backup /var/backups/holdfast.db",
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
            "service",
            _HERE + "service:install",
            "run the gateway as a service of systemd",
            "`install` writes a unit for this configuration and starts it, `uninstall` stops and "
            "removes it; configuration, secrets and state stay. Root gets a service of the "
            "machine, anybody else one of their own.",
            "holdfast service install --dry-run",
        ),
        Command(
            "demo",
            _HERE + "setup:demo",
            "watch it heal; needs no account and no network",
            "Run a gateway on a simulation of every platform, cut their connections in several "
            "ways and show how they heal. Exits with 0 only if all was healed and nothing was "
            "lost, doubled or lied about.",
            "holdfast demo --seconds 60",
        ),
        Command(
            "lab",
            _HERE + "lab:crash",
            "prove what is promised; needs no account and no network",
            "Prove what is promised, on simulated platforms: `run` plays one of ninety ways to "
            "die, `score` all of them, `compare` does it to other programs, `chaos` and `soak` "
            "play many at once, `crash` kills a gateway every few seconds. Exits with 0 only if "
            "every promise was kept.",
            "holdfast lab run zombie-half-open --platform qqbot",
        ),
        Command(
            "version",
            _HERE + "setup:version",
            "print the version",
            "Print the version, as `holdfast --version` does.",
            "holdfast version",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Verb:
    """What can be done with messages."""

    function: str
    help: str
    text: str


VERBS = {
    "list": Verb(
        "list_messages",
        "list messages, the newest last",
        "List messages, the newest last; a text is cut to fit the screen.",
    ),
    "show": Verb(
        "show",
        "show all that is known of messages",
        "Show all that is known of messages, and what can be done.",
    ),
    "retry": Verb(
        "retry",
        "try messages once more",
        "Give messages that wait for a person to the agent or the sender once more. Exits with 1 "
        "when that is impossible for any of them; the others are retried.",
    ),
    "drop": Verb(
        "drop",
        "give messages up",
        "Give up messages that wait for a person; they are forgotten with the settled ones. Exits "
        "with 1 when that is impossible for any of them; the others are dropped.",
    ),
}

LAB = {
    "list": Verb(
        "list_modes",
        "list the failure modes and the subjects",
        "List the failure modes, what each is, and who can be put to the test.",
    ),
    "run": Verb(
        "run",
        "play one failure mode",
        "Play one failure mode and judge what came of it. Exits with 0 when every promise was "
        "kept, with 1 when one was broken, with 3 when the mode can not happen there.",
    ),
    "score": Verb(
        "score",
        "play every failure mode on every platform",
        "Play the failure modes on the platforms, for each subject, and write the table of what "
        "was survived. Exits with 1 when Holdfast failed anywhere.",
    ),
    "compare": Verb(
        "compare",
        "play other programs under the same faults, beside Holdfast",
        "Play the failure modes with other programs (`make peers` installs them) and with "
        "Holdfast, all as processes on the real clock, each mode with the first of its variants "
        "that can happen there. That takes hours. Exits with 1 when Holdfast failed anywhere.",
    ),
    "chaos": Verb(
        "chaos",
        "let a nemesis loose on all platforms at once",
        "Break networks and let platforms misbehave by chance, on all of them at once, and judge "
        "every account by the laws. A failure is played again with ever fewer moves until the "
        "shortest plan that shows it is found. Ends with a line of JSON.",
    ),
    "soak": Verb(
        "soak",
        "the same for hours, and watch for leaks",
        "Let the nemesis loose on Holdfast as a process, in real time, and watch its use of "
        "memory, descriptors and threads for slopes. Ends with a line of JSON.",
    ),
    "crash": Verb(
        "crash",
        "kill a gateway every few seconds and look for losses and doubles",
        "Run a gateway on a simulation of every platform, kill it with SIGKILL every few seconds, "
        "break its network and let the platforms repeat themselves; then compare what users said "
        "and heard with the journal. Everything by chance comes from the seed.",
    ),
}
"""What the lab can prove."""

SERVICE = {
    "install": Verb(
        "install",
        "write the unit and start it",
        "Write the unit of systemd that runs the gateway with this configuration, and start it, "
        "now and at each boot. A unit that Holdfast did not write is left alone.",
    ),
    "uninstall": Verb(
        "uninstall",
        "stop it and remove the unit",
        "Stop the service and remove its unit. Configuration, secrets and state stay.",
    ),
}
"""What can be done with the service."""

ALERTS = {
    "test": Verb(
        "test",
        "send a test on every way",
        "Send a harmless alert on every way, and say what became of it. A web hook that does not "
        "answer takes minutes.",
    ),
}
"""What can be done with alerts."""

BOXES = {
    "inbox": STATES[Box.INBOX],
    "outbox": STATES[Box.OUTBOX],
    "dead": tuple(dict.fromkeys(state for states in DEAD.values() for state in states)),
}
"""The commands that have verbs, with the states their messages may be filtered by."""
