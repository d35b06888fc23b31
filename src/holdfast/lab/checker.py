"""From what was said, heard and kept to a verdict: what was lost, doubled, or out of order.

A history comes from three witnesses that do not know each other: the users of a simulator (said and
heard), the gateway's journal (rows and gaps), and nobody else. Nothing here looks at a clock, a
file or a process, so that a planted history has one verdict for ever.

Every question ends with a token of its own, by which its answers and its rows are recognised. An
answer counts in the chat in which the question was said, and nowhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from holdfast.store.protocol import MENDABLE, Box


class Kind(StrEnum):
    """What can be found in a history; the first four must never be."""

    LOST = "lost"
    """Not answered, although the journal had it or the platform keeps what is missed."""
    UNREPORTED = "unreported"
    """Not answered, the platform can not replay, and no gap was reported for the moment."""
    OUT_OF_ORDER = "out_of_order"
    """First answered after what was said, or taken in, later in its chat."""
    DOUBLED = "doubled"
    """Answered once more, and the journal does not know that this may be."""
    AMBIGUOUS = "ambiguous"
    """Answered once more, and the journal has it as perhaps doubled."""
    GAP = "gap"
    """Not answered, and reported as missing by a platform that can not replay."""
    DEAD = "dead"
    """Not answered, and listed for a person among the dead letters."""


BAD: Final = (Kind.LOST, Kind.UNREPORTED, Kind.OUT_OF_ORDER, Kind.DOUBLED)
"""What breaks a promise."""

DEAD_STATES: Final = frozenset(MENDABLE[Box.INBOX] + MENDABLE[Box.OUTBOX])
"""States of rows that wait for a person, and are listed for him."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something a user said, in the order of saying."""

    token: str
    chat: str
    at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Something a user heard, in the order of hearing."""

    token: str
    chat: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the journal, of either half."""

    box: Box
    row: int
    """Its number: inbox rows are numbered in the order in which they were taken in."""
    token: str
    state: str
    maybe_doubled: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, with what is known of it."""

    kind: Kind
    account: str
    question: Question
    rows: tuple[Row, ...]
    note: str = ""

    def __str__(self) -> str:
        """For people: what, where, when, and the journal's rows."""
        rows = ", ".join(
            f"{row.box} {row.row} {row.state}" + (" maybe_doubled" if row.maybe_doubled else "")
            for row in self.rows
        )
        asked = self.question
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.kind}: {self.account} {asked.token} in {asked.chat} said at {asked.at:.3f}"
            f"{note}; journal: {rows or 'nothing'}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that is known of one account at the end."""

    account: str
    said: Sequence[Question]
    heard: Sequence[Answer]
    rows: Iterable[Row] = ()
    gaps: Iterable[tuple[float, float]] = ()
    """Every gap that was ever reported, in Unix seconds: since, until."""
    replays: bool = False
    """The platform keeps what is missed: there no reported gap excuses a loss."""
    kept: Sequence[tuple[float, float]] = ()
    """Times, in Unix seconds, for which it kept what was missed although it does not always."""
    hearing: Sequence[tuple[float, float]] = ()
    """When the bot could truly hear over one and the same connection, in Unix seconds."""
    ordered: bool = True
    """The platform hands messages over in the order in which they were said. Where it does not,
    answers are compared with the order in which the journal took the questions in."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a history showed."""

    account: str
    said: int
    answered: int
    counts: Mapping[Kind, int]
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    """All that is counted, in the order of `Kind`."""

    @property
    def good(self) -> bool:
        """Nothing of `BAD` was found."""
        return not any(self.counts[kind] for kind in BAD)

    @property
    def bad(self) -> tuple[Finding, ...]:
        """The findings that break a promise."""
        return tuple(finding for finding in self.findings if finding.kind in BAD)


def check(history: History) -> Verdict:
    """Judge a history."""
    case = _Case(history)
    findings = [*case.unanswered(), *case.out_of_order(), *case.repeated()]
    kinds = list(Kind)
    findings.sort(key=lambda finding: kinds.index(finding.kind))
    counted = Counter(finding.kind for finding in findings)
    return Verdict(
        account=history.account,
        said=len(history.said),
        answered=case.answered,
        counts={kind: counted[kind] for kind in Kind},
        findings=tuple(findings),
    )


class _Case:
    """A history with its indexes."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._rows: dict[str, list[Row]] = defaultdict(list)
        for row in history.rows:
            self._rows[row.token].append(row)
        self._answers = Counter((heard.chat, heard.token) for heard in history.heard)
        self._gaps = tuple(history.gaps)

    @property
    def answered(self) -> int:
        """Questions that were answered at least once."""
        return sum(1 for asked in self._history.said if self._times(asked))

    def unanswered(self) -> Iterable[Finding]:
        """Each question without an answer, with what excuses it, if anything does."""
        for asked in self._history.said:
            if not self._times(asked):
                yield self._finding(self._fate(asked), asked)

    def repeated(self) -> Iterable[Finding]:
        """Each answer beyond the first."""
        for asked in self._history.said:
            marked = any(row.maybe_doubled for row in self._rows[asked.token])
            for number in range(2, self._times(asked) + 1):
                kind = Kind.AMBIGUOUS if marked else Kind.DOUBLED
                yield self._finding(kind, asked, f"answer {number}")

    def out_of_order(self) -> Iterable[Finding]:
        """Each question whose first answer came after that of a later one of its chat."""
        asked = {(q.chat, q.token): q for q in self._history.said}
        ranks = {key: rank for rank, key in enumerate(asked)}
        newest_said: dict[str, int] = defaultdict(lambda: -1)
        newest_taken: dict[str, int] = defaultdict(lambda: -1)
        for key in dict.fromkeys((heard.chat, heard.token) for heard in self._history.heard):
            if key not in asked:
                continue
            chat, token = key
            rank, taken = ranks[key], self._taken(token)
            if self._history.ordered and rank < newest_said[chat]:
                yield self._finding(Kind.OUT_OF_ORDER, asked[key], "later ones were first")
            elif taken is not None and taken < newest_taken[chat]:
                yield self._finding(Kind.OUT_OF_ORDER, asked[key], "not as taken in")
            newest_said[chat] = max(newest_said[chat], rank)
            newest_taken[chat] = max(newest_taken[chat], -1 if taken is None else taken)

    def _times(self, asked: Question) -> int:
        return self._answers[asked.chat, asked.token]

    def _taken(self, token: str) -> int | None:
        """The number of the first inbox row of a question."""
        return min((r.row for r in self._rows[token] if r.box is Box.INBOX), default=None)

    def _fate(self, asked: Question) -> Kind:
        rows = self._rows[asked.token]
        if any(row.state in DEAD_STATES for row in rows):
            return Kind.DEAD
        # What the journal has taken is Holdfast's to answer, whatever was reported.
        if rows or self._history.replays or _within(asked.at, self._history.kept):
            return Kind.LOST
        if _within(asked.at, self._gaps):
            return Kind.GAP
        return Kind.UNREPORTED

    def _finding(self, kind: Kind, asked: Question, note: str = "") -> Finding:
        rows = tuple(self._rows[asked.token])
        return Finding(kind, self._history.account, asked, rows, note)


def reaches(history: History) -> Iterable[float]:
    """For each reported gap the longest time, in seconds, for which it covers what was well."""
    for since, until in history.gaps:
        covered = (min(until, end) - max(since, began) for began, end in history.hearing)
        yield max(0.0, *covered, 0.0)


def _within(at: float, spans: Iterable[tuple[float, float]]) -> bool:
    return any(since <= at <= until for since, until in spans)
