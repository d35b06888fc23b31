"""Why a connection ended, and the one table that turns a cause into a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Kind(StrEnum):
    """What ended a connection, seen from the account. Published in lower case."""

    UNREACHABLE = "unreachable"
    """No connection could be made: DNS, refused, no route, TLS, a gateway error before login."""
    TIMEOUT = "timeout"
    """A step of the attempt did not finish in its time."""
    LOST = "lost"
    """An established connection ended: closed, reset, or the SDK's task returned."""
    SILENT = "silent"
    """No proof of life within the silence limit, or heartbeats not acknowledged."""
    PROTOCOL = "protocol"
    """The peer sent what the protocol does not allow."""
    LOCAL = "local"
    """Our own side failed: disk full, out of descriptors, a closed store."""
    UNKNOWN = "unknown"
    """An exception nobody classified. Retried, and counted in a metric that should stay at zero."""
    RECYCLED = "recycled"
    """A planned replacement: the server asked for it, or our configuration changed."""
    THROTTLED = "throttled"
    """The platform limits us and may have said until when."""
    SESSION = "session"
    """The session can not be resumed: a fresh login is needed."""
    CREDENTIALS = "credentials"
    """The platform refused the credentials."""
    REFUSED = "refused"
    """The platform refuses this account or a permission: banned, missing scope, sandbox only."""
    REPLACED = "replaced"
    """Another client uses the same credentials."""


OF_THE_NETWORK = frozenset({Kind.UNREACHABLE, Kind.TIMEOUT, Kind.LOST, Kind.SILENT})
"""What a network that comes back may end: news of it is worth a try before its time."""


class Remedy(Enum):
    """What the supervisor does about a cause."""

    BACK_OFF = "back off, then try again"
    RECONNECT = "reconnect at once, within a small budget"
    WAIT = "wait as long as the server said, then try again"
    FRESH_LOGIN = "log in afresh and report the gap"
    PERSON = "stop trying until a person has acted; re-verify slowly"


class Who(StrEnum):
    """Who must act."""

    NOBODY = "nobody"
    """Holdfast mends it by itself."""
    OPERATOR = "operator"
    """Somebody with access to this configuration or to the platform's console."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    remedy: Remedy
    who: Who
    hint: str
    """What to do, in words for a person; an adapter's own hint takes precedence."""


_WAIT = "Nothing to do: Holdfast keeps trying."

RULES: dict[Kind, Rule] = {
    Kind.UNREACHABLE: Rule(
        Remedy.BACK_OFF,
        Who.NOBODY,
        f"{_WAIT} If it lasts, check network, DNS, proxy and the platform's status page.",
    ),
    Kind.TIMEOUT: Rule(
        Remedy.BACK_OFF,
        Who.NOBODY,
        f"{_WAIT} If it lasts, check network and proxy.",
    ),
    Kind.LOST: Rule(Remedy.BACK_OFF, Who.NOBODY, _WAIT),
    Kind.SILENT: Rule(
        Remedy.BACK_OFF,
        Who.NOBODY,
        f"{_WAIT} The connection was dead without a close; a new one is made.",
    ),
    Kind.PROTOCOL: Rule(
        Remedy.BACK_OFF,
        Who.NOBODY,
        f"{_WAIT} If it lasts, something between here and the platform changes its answers "
        "(a proxy or portal), or the platform changed its protocol.",
    ),
    Kind.LOCAL: Rule(
        Remedy.BACK_OFF,
        Who.OPERATOR,
        "This machine is in trouble (disk, descriptors or permissions); it recovers by itself "
        "once that is mended.",
    ),
    Kind.UNKNOWN: Rule(
        Remedy.BACK_OFF,
        Who.NOBODY,
        f"{_WAIT} Please report it: this error has no classification yet.",
    ),
    Kind.RECYCLED: Rule(Remedy.RECONNECT, Who.NOBODY, _WAIT),
    Kind.THROTTLED: Rule(
        Remedy.WAIT,
        Who.NOBODY,
        "Nothing to do: Holdfast waits as long as the platform asked.",
    ),
    Kind.SESSION: Rule(
        Remedy.FRESH_LOGIN,
        Who.NOBODY,
        "Nothing to do: Holdfast logs in afresh; messages of the gap may be missing.",
    ),
    Kind.CREDENTIALS: Rule(
        Remedy.PERSON,
        Who.OPERATOR,
        "Put valid credentials into the configuration, then run `holdfast reload` or "
        "`holdfast kick ACCOUNT`.",
    ),
    Kind.REFUSED: Rule(
        Remedy.PERSON,
        Who.OPERATOR,
        "Grant the missing permission in the platform's console, then run `holdfast kick ACCOUNT`.",
    ),
    Kind.REPLACED: Rule(
        Remedy.PERSON,
        Who.OPERATOR,
        "Stop the other program that uses these credentials; Holdfast looks again every 5 minutes.",
    ),
}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a connection ended, in a form that status, history, metrics and alerts all share."""

    kind: Kind
    code: str
    """Stable identifier for machines, for example ``qq_close_4009``."""
    message: str = ""
    """One sentence for people: what happened, where."""
    hint: str = ""
    """What the operator can do; empty means the kind's own hint."""
    retry_after: float | None = None
    """Seconds the server asked us to wait: a floor, never shortened."""
    step: str = ""
    """The step of the attempt in which it happened, for example ``identify``."""
    final: bool = False
    """Nothing is tried again by itself, whatever the kind."""

    @property
    def rule(self) -> Rule:
        """The row of the remedy table."""
        return RULES[self.kind]

    @property
    def retryable(self) -> bool:
        """Whether Holdfast goes on trying by itself."""
        return not self.final and self.rule.remedy is not Remedy.PERSON

    @property
    def advice(self) -> str:
        """The hint for people: the cause's own, else the kind's."""
        return self.hint or self.rule.hint
