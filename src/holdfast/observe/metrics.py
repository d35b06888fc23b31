"""Every metric, as one table: its name, its labels, what it means, and where it is read.

Gauges and most counters are read from the same document as the status file, so they can not
disagree with it; what only events tell comes from the ledger. Names follow Prometheus: base units,
``_total`` for counters. Labels have few values: account, platform, state, code (a bounded number
per account), reason, version. Whatever has an age has it in seconds, so that no reader compares
clocks.

The client library is not needed here, only where a reading is written out (`exposition`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from holdfast.observe.ledger import Spread, Totals
from holdfast.observe.status import AccountStatus, Status, believed
from holdfast.store.protocol import Counts
from holdfast.supervision import Breaker, Published

Sample = tuple[tuple[str, ...], float | Spread]
"""Values of the labels, and the value."""


class Type(StrEnum):
    """How a metric is to be read."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the HTTP server tells of itself and of the history it shows."""

    refused: Mapping[str, int]
    """Requests and connections, by the reason; every reason is there."""
    streams: int
    """Streams of events that are open now."""
    streams_refused: int
    streams_dropped: int
    history_ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All that the metrics are made of, read in one turn of the loop."""

    status: Status
    totals: Totals
    waiting: Mapping[str, Counts] | None = None
    """What waits in the journal; None when it could not be asked."""
    loop_lag: float
    """Seconds the event loop took to answer when it was last asked."""
    loop_stalls: int
    status_writes: int
    status_write_failures: int
    served: Served | None = None
    """None where there is no server to ask."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: a row of the table."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Reading], Iterable[Sample]]


# -- where values come from -----------------------------------------------------------------------

ACCOUNT = ("account", "platform")


def _of_account(
    value: Callable[[AccountStatus, float], float | None],
) -> Callable[[Reading], Iterable[Sample]]:
    """A value per account, from its entry and the moment it was made; None is no sample."""

    def samples(reading: Reading) -> Iterable[Sample]:
        now = reading.status.written_at
        for name, entry in reading.status.accounts.items():
            found = value(entry, now)
            if found is not None:
                yield (name, entry.platform), found

    return samples


def _one_of(
    names: Iterable[str], current: Callable[[AccountStatus, float], str]
) -> Callable[[Reading], Iterable[Sample]]:
    """A value per account and name: 1 for the current one, 0 for all others."""
    every = tuple(names)

    def samples(reading: Reading) -> Iterable[Sample]:
        now = reading.status.written_at
        for name, entry in reading.status.accounts.items():
            found = current(entry, now)
            for one in every:
                yield (name, entry.platform, one), float(one == found)

    return samples


def _of_journal(value: Callable[[Counts], int]) -> Callable[[Reading], Iterable[Sample]]:
    """What waits in the journal, per configured account; nothing when it could not be asked."""

    def samples(reading: Reading) -> Iterable[Sample]:
        if reading.waiting is not None:
            for name, entry in reading.status.accounts.items():
                yield (name, entry.platform), value(reading.waiting.get(name, _NOTHING))

    return samples


def _of_process(value: Callable[[Reading], float]) -> Callable[[Reading], Iterable[Sample]]:
    return lambda reading: [((), value(reading))]


def _of_server(value: Callable[[Served], float]) -> Callable[[Reading], Iterable[Sample]]:
    return lambda reading: [] if reading.served is None else [((), value(reading.served))]


def _refused(reading: Reading) -> Iterable[Sample]:
    if reading.served is not None:
        for reason, count in reading.served.refused.items():
            yield (reason,), count


def _spread(
    spreads: Callable[[Totals], Mapping[str, Spread]],
) -> Callable[[Reading], Iterable[Sample]]:
    """A histogram per platform that is configured, from the start: a first value is an increase."""

    def samples(reading: Reading) -> Iterable[Sample]:
        found = spreads(reading.totals)
        for platform in sorted({entry.platform for entry in reading.status.accounts.values()}):
            yield (platform,), found.get(platform, _NO_SPREAD)

    return samples


def _transitions(reading: Reading) -> Iterable[Sample]:
    for (name, state, code), count in reading.totals.transitions.items():
        entry = reading.status.accounts.get(name)
        if entry is not None:
            yield (name, entry.platform, state, code), count


def _ends(reading: Reading) -> Iterable[Sample]:
    for (name, code), count in reading.totals.ends.items():
        entry = reading.status.accounts.get(name)
        if entry is not None:
            yield (name, entry.platform, code), count


def _unknown(reading: Reading) -> Iterable[Sample]:
    for name, entry in reading.status.accounts.items():
        yield (name, entry.platform), reading.totals.unknown.get(name, 0)


def _cause(reading: Reading) -> Iterable[Sample]:
    now = reading.status.written_at
    for name, entry in reading.status.accounts.items():
        if entry.cause is not None and believed(entry, now) in _TROUBLE:
            yield (name, entry.platform, entry.cause.code), 1.0


_NOTHING = Counts()

_NO_SPREAD = Spread()

_TROUBLE = frozenset({Published.CONNECTING, Published.RETRYING, Published.FATAL})
"""States whose cause is why they are so; a stopped account's is that of another day."""


def _up(entry: AccountStatus, now: float) -> float:
    return float(believed(entry, now) == Published.CONNECTED)


def _gauge(name: str, help: str, value: Callable[[AccountStatus, float], float | None]) -> Metric:
    return Metric(f"holdfast_account_{name}", Type.GAUGE, help, ACCOUNT, _of_account(value))


def _counter(name: str, help: str, value: Callable[[AccountStatus, float], float]) -> Metric:
    return Metric(f"holdfast_{name}_total", Type.COUNTER, help, ACCOUNT, _of_account(value))


# -- the table ------------------------------------------------------------------------------------

STATE: tuple[Metric, ...] = (
    _gauge("up", "1 while the account is connected and its evidence for that lasts.", _up),
    Metric(
        "holdfast_account_state",
        Type.GAUGE,
        "1 for the state the account may be believed to be in, 0 for all others.",
        (*ACCOUNT, "state"),
        _one_of((state.value for state in Published), believed),
    ),
    _gauge(
        "state_age_seconds",
        "Since when the published state is what it is.",
        lambda entry, now: max(0.0, now - entry.since),
    ),
    _gauge(
        "proof_age_seconds",
        "Age of the last proof of life of the platform; missing as long as there was none.",
        lambda entry, now: entry.transport.age,
    ),
    _gauge(
        "outage_seconds",
        "How long the running outage has lasted; it ends with a stable run. 0 without one.",
        lambda entry, now: (
            0.0 if entry.outage_since is None else max(0.0, now - entry.outage_since)
        ),
    ),
    _gauge(
        "consecutive_failures",
        "Failed attempts since the last stable run.",
        lambda entry, now: entry.attempt,
    ),
    _gauge(
        "retry_in_seconds",
        "Time until the next attempt; missing when none is planned.",
        lambda entry, now: (
            None if entry.next_retry_at is None else max(0.0, entry.next_retry_at - now)
        ),
    ),
    _gauge(
        "missed_heartbeats",
        "Heartbeats in a row that were not sent or not acknowledged.",
        lambda entry, now: entry.missed_beats,
    ),
    _gauge("suspect", "1 while a silent platform is asked for proof.", lambda e, _: e.suspect),
    _gauge("rotating", "1 while a connection is replaced as planned.", lambda e, _: e.rotating),
    _gauge("flapping", "1 while connections die within seconds.", lambda e, _: e.flapping),
    _gauge("attention", "1 while a person should look.", lambda e, _: e.attention),
    _gauge("paused", "1 while an operator keeps the account stopped.", lambda e, _: e.paused),
    Metric(
        "holdfast_account_breaker",
        Type.GAUGE,
        "1 for the state of the circuit breaker, 0 for all others.",
        (*ACCOUNT, "state"),
        _one_of((state.value for state in Breaker), lambda entry, _: entry.breaker),
    ),
    Metric(
        "holdfast_account_cause",
        Type.GAUGE,
        "1 for the code of the cause why the account is not connected.",
        (*ACCOUNT, "code"),
        _cause,
    ),
)

EVENTS: tuple[Metric, ...] = (
    _counter(
        "connections_opened",
        "Connections begun, failed attempts included.",
        lambda entry, _: entry.generation,
    ),
    Metric(
        "holdfast_connections_ended_total",
        Type.COUNTER,
        "Connections and attempts that ended, by the code of their cause.",
        (*ACCOUNT, "code"),
        _ends,
    ),
    Metric(
        "holdfast_transitions_total",
        Type.COUNTER,
        "Changes of the published state, by the new state and the code of the cause.",
        (*ACCOUNT, "state", "code"),
        _transitions,
    ),
    Metric(
        "holdfast_unknown_causes_total",
        Type.COUNTER,
        "Connections ended by an error nobody has classified; should stay at zero.",
        ACCOUNT,
        _unknown,
    ),
    Metric(
        "holdfast_detection_seconds",
        Type.HISTOGRAM,
        "From the last proof of life to the news of the loss: the longest it can have been deaf. "
        "Losses that the machine slept through are left out.",
        ("platform",),
        _spread(lambda totals: totals.detection),
    ),
    Metric(
        "holdfast_recovery_seconds",
        Type.HISTOGRAM,
        "From the news of a loss to the next working connection; waits for a person are left out.",
        ("platform",),
        _spread(lambda totals: totals.recovery),
    ),
)

DELIVERY: tuple[Metric, ...] = (
    _gauge("inbox_messages", "Messages waiting for their answer.", lambda e, _: e.inbox),
    _gauge(
        "outbox_messages",
        "Messages waiting to be sent, without those that wait only for their recipient.",
        lambda entry, _: entry.outbox - entry.away,
    ),
    _gauge(
        "away_messages",
        "Messages that can be sent once their recipient is there again.",
        lambda entry, _: entry.away,
    ),
    _gauge(
        "inbound_age_seconds",
        "Age of the last message taken in; missing as long as there was none.",
        lambda entry, now: entry.inbound.age,
    ),
    _gauge(
        "outbound_age_seconds",
        "Age of the last message the platform accepted; missing as long as there was none.",
        lambda entry, now: entry.outbound.age,
    ),
    _counter("messages_received", "Messages taken in, without doubles.", lambda e, _: e.received),
    _counter("messages_sent", "Messages the platform accepted.", lambda e, _: e.sent),
    _counter(
        "messages_passed_over",
        "Messages that the backlog policy left unhandled.",
        lambda entry, _: entry.passed_over,
    ),
    _counter(
        "messages_skipped",
        "Messages of the platform that could not be understood.",
        lambda entry, _: entry.skipped,
    ),
    _counter(
        "dead_letters",
        "Messages given up: no agent could answer, or the platform refused them for good.",
        lambda entry, _: entry.dead,
    ),
    _counter(
        "ambiguous_sends",
        "Tries to send after which nobody could tell whether the message had arrived.",
        lambda entry, _: entry.unknown,
    ),
    Metric(
        "holdfast_account_dead_messages",
        Type.GAUGE,
        "Dead letters in the journal that wait for a person.",
        ACCOUNT,
        _of_journal(lambda counts: counts.dead + counts.refused),
    ),
    Metric(
        "holdfast_account_held_messages",
        Type.GAUGE,
        "Messages in the journal that may have arrived and wait for a person.",
        ACCOUNT,
        _of_journal(lambda counts: counts.held),
    ),
    Metric(
        "holdfast_account_open_gaps",
        Type.GAUGE,
        "Stretches of time whose messages may be missing, and that nobody has dismissed.",
        ACCOUNT,
        _of_journal(lambda counts: counts.gaps),
    ),
)

PROCESS: tuple[Metric, ...] = (
    Metric(
        "holdfast_build_info",
        Type.GAUGE,
        "Always 1; the label says which version runs.",
        ("version",),
        lambda reading: [((reading.status.version,), 1.0)],
    ),
    Metric(
        "holdfast_loop_lag_seconds",
        Type.GAUGE,
        "Time the event loop took to answer when it was last asked, once a second.",
        (),
        _of_process(lambda reading: reading.loop_lag),
    ),
    Metric(
        "holdfast_loop_stalls_total",
        Type.COUNTER,
        "Times the event loop did not answer for 5 seconds; the log has its stack.",
        (),
        _of_process(lambda reading: reading.loop_stalls),
    ),
    Metric(
        "holdfast_journal_ok",
        Type.GAUGE,
        "1 while there is nothing that people must know of the journal.",
        (),
        _of_process(lambda reading: reading.status.store == "ok"),
    ),
    Metric(
        "holdfast_status_writes_total",
        Type.COUNTER,
        "Times the status file was replaced.",
        (),
        _of_process(lambda reading: reading.status_writes),
    ),
    Metric(
        "holdfast_status_write_failures_total",
        Type.COUNTER,
        "Times the status file could not be replaced.",
        (),
        _of_process(lambda reading: reading.status_write_failures),
    ),
)

SERVER: tuple[Metric, ...] = (
    Metric(
        "holdfast_web_refused_total",
        Type.COUNTER,
        "Requests and connections that the HTTP server refused, by the reason.",
        ("reason",),
        _refused,
    ),
    Metric(
        "holdfast_web_streams",
        Type.GAUGE,
        "Streams of events that are open.",
        (),
        _of_server(lambda served: served.streams),
    ),
    Metric(
        "holdfast_web_streams_refused_total",
        Type.COUNTER,
        "Streams of events that were one too many.",
        (),
        _of_server(lambda served: served.streams_refused),
    ),
    Metric(
        "holdfast_web_streams_dropped_total",
        Type.COUNTER,
        "Streams of events that were ended because their reader took no byte.",
        (),
        _of_server(lambda served: served.streams_dropped),
    ),
    Metric(
        "holdfast_history_ok",
        Type.GAUGE,
        "1 while the history of incidents and uptimes can be written.",
        (),
        _of_server(lambda served: served.history_ok),
    ),
)

METRICS: tuple[Metric, ...] = (*STATE, *EVENTS, *DELIVERY, *PROCESS, *SERVER)
