"""What is told of accounts, when, and how often: once per incident, together, and never a storm."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.observe.alert_words import MOST_LINES, document, text
from holdfast.observe.alerts import BURST, REFILL, Alert, Alerts, Line, Rules, What
from holdfast.supervision import Cause, Kind, Published, State, View
from holdfast.supervision.states import Breaker

RULES = Rules(after=180.0, remind=3600.0, group_window=30.0)

LOST = Cause(Kind.LOST, "parrot_lost", "the connection ended")
REVOKED = Cause(Kind.CREDENTIALS, "parrot_401", "the token was refused", "Make a new token.")
EXHAUSTED = Cause(Kind.LOST, "parrot_reconnect_exhausted", "10 attempts in a row failed")

TROUBLES = (What.DOWN, What.FLAPPING, What.FATAL)


def view(
    published: Published,
    cause: Cause | None = None,
    *,
    flapping: bool = False,
    rotating: bool = False,
    escalation: Cause | None = None,
) -> View:
    """A reading of which only a few fields matter here."""
    return View(
        at=0.0,
        state=State.LIVE,
        published=published,
        since=0.0,
        generation=1,
        attempt=3,
        retry_at=None,
        cause=cause,
        escalation=escalation,
        step="",
        suspect=False,
        rotating=rotating,
        flapping=flapping,
        attention=False,
        breaker=Breaker.CLOSED,
        last_proof=None,
        valid_until=None,
        outage_since=None,
        missed_beats=0,
        beats=0,
        stale_events=0,
        abandoned=0,
    )


UP = view(Published.CONNECTED)
DOWN = view(Published.RETRYING, LOST)
FATAL = view(Published.FATAL, REVOKED)
STOPPED = view(Published.STOPPED)


class Owner:
    """Calls the alerts exactly when they ask for it, and keeps what they say."""

    def __init__(self, alerts: Alerts | None = None, now: float = 0.0) -> None:
        self.alerts = alerts or Alerts(RULES)
        self.now = now
        self.told: list[tuple[float, Alert]] = []

    def until(self, now: float) -> None:
        """Let time pass."""
        for _ in range(100_000):
            deadline = self.alerts.next_deadline()
            if deadline is None or deadline > now:
                break
            self.now = max(self.now, deadline)
            alert = self.alerts.due(self.now)
            assert alert is not None, "a deadline at which nothing is to be told"
            self.told.append((self.now, alert))
        self.now = now

    def says(
        self, at: float, account: str, said: View, platform: str = "parrot", paused: bool = False
    ) -> None:
        """An account reports at a moment."""
        self.until(at)
        self.alerts.notice(account, platform, said, at, paused=paused)

    @property
    def words(self) -> list[tuple[float, str, What]]:
        return [(at, line.account, line.what) for at, alert in self.told for line in alert.lines]


# -- one account ----------------------------------------------------------------------------------


def test_an_account_down_for_three_minutes_is_told_once_and_its_return_as_well() -> None:
    owner = Owner()
    owner.says(0, "a", UP)
    owner.says(1000, "a", DOWN)
    for at in range(1010, 1700, 10):  # each failed try is a report
        owner.says(at, "a", DOWN)
    owner.says(1720, "a", UP)
    owner.says(1740, "a", UP)  # a report that changes nothing
    owner.until(9000)
    assert owner.words == [(1210, "a", What.DOWN), (1780, "a", What.BACK)]
    (_, down), (_, back) = owner.told
    assert (down.lines[0].lasted, back.lines[0].lasted) == (210, 720)
    assert "a (parrot) is down, for 3 min 30 s; why: the connection ended" in text(down)
    assert text(back) == "a (parrot) is back after 12 min"


def test_a_short_outage_is_told_neither_at_its_begin_nor_at_its_end() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(179, "a", UP)
    owner.until(9000)
    assert owner.words == []


def test_an_account_that_never_connects_is_told() -> None:
    owner = Owner()
    owner.says(0, "a", view(Published.CONNECTING))
    owner.until(9000)
    assert owner.words == [(210, "a", What.DOWN)]


def test_short_moments_of_connection_do_not_begin_the_count_anew() -> None:
    owner = Owner()
    for at in range(0, 400, 60):
        owner.says(at, "a", DOWN)
        owner.says(at + 40, "a", UP)  # holds for 20 s
    owner.says(440, "a", DOWN)
    owner.until(441)
    assert [what for _, _, what in owner.words] == [What.DOWN]


def test_a_connection_that_held_begins_the_count_anew() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(100, "a", UP)
    owner.says(140, "a", DOWN)
    owner.says(300, "a", UP)
    owner.until(1000)
    assert owner.words == []


def test_a_fatal_account_is_told_at_once_and_again_each_hour() -> None:
    owner = Owner()
    owner.says(100, "a", FATAL)
    owner.says(200, "a", view(Published.FATAL, REVOKED))  # verified again
    owner.until(100 + 3 * 3600)
    assert owner.words == [
        (130, "a", What.FATAL),
        (130 + 3630, "a", What.STILL_FATAL),
        (130 + 7260, "a", What.STILL_FATAL),
    ]
    assert "Make a new token." in text(owner.told[0][1])
    assert "still needs you: it has been down for 1 h 1 min" in text(owner.told[1][1])
    owner.says(20_000, "a", UP)
    owner.until(90_000)
    assert [what for _, _, what in owner.words[-2:]] == [What.STILL_FATAL, What.BACK]


def test_only_a_fatal_account_is_told_of_again() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.until(86_400)
    assert len(owner.words) == 1


def test_a_down_account_that_turns_fatal_is_told_again() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(500, "a", FATAL)
    owner.says(600, "a", DOWN)  # kicked
    owner.says(601, "a", FATAL)
    owner.until(1000)
    assert [what for _, _, what in owner.words] == [What.DOWN, What.FATAL]


def test_a_flapping_account_is_told_before_three_minutes_are_over() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(1, "a", UP)
    owner.says(3, "a", view(Published.RETRYING, LOST, flapping=True))
    owner.until(60)
    assert owner.words == [(33, "a", What.FLAPPING)]


def test_moments_of_connection_do_not_put_off_what_is_told_of_flapping() -> None:
    owner = Owner()
    flapping = view(Published.RETRYING, LOST, flapping=True)
    for at in range(0, 60, 10):
        owner.says(at, "a", flapping)
        owner.says(at + 2, "a", UP)
    assert owner.words == [(30, "a", What.FLAPPING)]


def test_an_error_that_was_escalated_is_told_before_three_minutes_are_over() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(20, "a", view(Published.RETRYING, LOST, escalation=EXHAUSTED))
    owner.until(60)
    assert owner.words == [(50, "a", What.DOWN)]


def test_a_planned_replacement_is_not_told() -> None:
    owner = Owner()
    owner.says(0, "a", UP)
    owner.says(10, "a", view(Published.CONNECTED, rotating=True))
    owner.says(500, "a", UP)
    recycled = Cause(Kind.RECYCLED, "parrot_bye", "the peer said bye")
    owner.says(1000, "a", view(Published.CONNECTING, recycled))
    owner.says(1001, "a", UP)
    owner.until(9000)
    assert owner.words == []


@pytest.mark.parametrize("said", [DOWN, FATAL])
def test_an_account_that_is_paused_is_told_of_no_more(said: View) -> None:
    owner = Owner()
    owner.says(0, "a", said)
    owner.until(300)
    before = len(owner.words)
    owner.says(301, "a", STOPPED, paused=True)
    owner.says(20_000, "a", view(Published.CONNECTING))
    owner.says(20_001, "a", UP)
    owner.until(50_000)
    assert len(owner.words) == before == 1


def test_a_stop_for_a_new_configuration_does_not_end_the_incident() -> None:
    owner = Owner()
    owner.says(0, "a", FATAL)
    owner.says(100, "a", STOPPED)
    owner.says(101, "a", view(Published.CONNECTING))
    owner.says(102, "a", UP)
    owner.until(500)
    assert [what for _, _, what in owner.words] == [What.FATAL, What.BACK]


def test_an_account_that_stays_stopped_though_nobody_paused_it_is_told() -> None:
    owner = Owner()
    owner.says(0, "a", UP)
    owner.says(1000, "a", view(Published.STOPPING))
    owner.says(1003, "a", STOPPED)
    owner.until(9000)
    assert owner.words == [(1213, "a", What.DOWN)]
    assert text(owner.told[0][1]).startswith("a (parrot) is down, for 3 min 30 s")


def test_an_account_that_was_removed_is_forgotten() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(0, "b", DOWN)
    owner.alerts.retain({"b"})
    owner.until(1000)
    assert [account for _, account, _ in owner.words] == ["b"]


def test_a_relapse_is_told_once_more_and_then_only_a_connection_that_holds() -> None:
    owner = Owner()
    at = 0.0
    for _ in range(20):  # down for 4 minutes, up for 2
        owner.says(at, "a", DOWN)
        owner.says(at + 240, "a", UP)
        at += 360
    owner.until(at + 1000)
    assert [what for _, _, what in owner.words] == [What.DOWN, What.BACK, What.DOWN, What.BACK]
    assert "is down again" in text(owner.told[2][1])


def test_a_short_relapse_is_not_told() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(300, "a", UP)
    owner.says(400, "a", DOWN)
    owner.says(500, "a", UP)
    owner.until(5000)
    assert [what for _, _, what in owner.words] == [What.DOWN, What.BACK]


def test_messages_of_the_outage_are_counted_and_no_others() -> None:
    owner = Owner()
    owner.says(0, "a", UP)
    owner.says(100, "a", DOWN)
    owner.says(820, "a", UP)
    for written in (50, 100, 400, 820, 821):
        owner.alerts.arrived("a", written)
    owner.alerts.arrived("nobody", 400)
    owner.until(1000)
    assert text(owner.told[-1][1]) == "a (parrot) is back after 12 min, 3 messages caught up"


# -- several accounts -----------------------------------------------------------------------------


def test_accounts_that_fall_within_seconds_are_one_alert_that_names_the_network() -> None:
    owner = Owner()
    for i in range(10):
        owner.says(0, f"a{i}", UP)
    for i in range(10):
        owner.says(100 + i * 5, f"a{i}", DOWN)
    for i in range(10):
        owner.says(1000 + i, f"a{i}", UP)
    owner.until(5000)
    assert [(at, len(alert.lines)) for at, alert in owner.told] == [(310, 10), (1060, 10)]
    assert owner.told[0][1].shared == "network"
    assert text(owner.told[0][1]).startswith("No account is connected, 10 were lost together")


def test_accounts_of_one_platform_point_at_it() -> None:
    owner = Owner()
    owner.says(0, "other", UP, platform="telegram")
    owner.says(0, "a", DOWN)
    owner.says(0, "b", DOWN)
    owner.until(300)
    assert owner.told[0][1].shared == "parrot"
    assert "All 2 accounts of parrot were lost together; the others work." in text(owner.told[0][1])


@pytest.mark.parametrize(
    "other", [view(Published.RETRYING, Cause(Kind.PROTOCOL, "x")), view(Published.RETRYING)]
)
def test_causes_that_are_not_the_network_are_not_blamed_on_it(other: View) -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(0, "b", other)
    owner.until(300)
    assert owner.told[0][1].shared == ""


def test_reminders_of_several_accounts_come_together() -> None:
    owner = Owner()
    owner.says(0, "a", FATAL)
    owner.says(900, "b", FATAL)
    owner.until(900 + 4 * 3600)
    assert [len(alert.lines) for _, alert in owner.told] == [1, 1, 2, 2, 2, 2]


def test_a_storm_is_told_in_few_alerts_and_nothing_of_it_is_forgotten() -> None:
    owner = Owner()
    for i in range(100):
        owner.says(i * 60, f"a{i:03}", FATAL)
    owner.until(100 * 60 + REFILL)
    assert len(owner.told) <= BURST + 1 + (100 * 60 + REFILL) / REFILL
    assert {account for _, account, what in owner.words if what is What.FATAL} == {
        f"a{i:03}" for i in range(100)
    }


def test_a_long_alert_names_some_accounts_and_counts_the_others() -> None:
    lines = [
        Line(account=f"a{i:02}", platform="parrot", what=What.DOWN, since=0, lasted=200)
        for i in range(MOST_LINES + 5)
    ]
    lines.append(Line(account="z", platform="parrot", what=What.FATAL, since=0, lasted=200))
    said = text(Alert(lines=tuple(lines))).splitlines()
    assert said[0].startswith("z (parrot) needs you")
    assert said[-1] == "and 6 more; `holdfast status` shows all"
    assert len(said) == MOST_LINES + 1


# -- delivery that takes its time, and restarts ---------------------------------------------------


def test_an_alert_that_waits_keeps_only_what_is_still_true() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(0, "b", DOWN)
    owner.until(220)
    ((_, alert),) = owner.told
    owner.says(300, "a", UP)
    kept = owner.alerts.current(alert, 400)
    assert kept is not None
    assert [(line.account, line.lasted) for line in kept.lines] == [("b", 400)]
    owner.says(500, "b", FATAL)
    assert owner.alerts.current(alert, 500) is None


def test_what_was_told_is_not_told_again_by_the_next_process() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.says(0, "f", FATAL)
    owner.says(400, "new", DOWN)
    owner.until(500)
    told = {name: one.shifted(1e6) for name, one in owner.alerts.told().items()}
    assert set(told) == {"a", "f"}
    heir = Owner(Alerts(RULES, told), now=1e6 + 600)
    for name in ("a", "f", "new"):
        heir.says(1e6 + 600, name, view(Published.CONNECTING))
    heir.says(1e6 + 605, "f", FATAL)
    heir.says(1e6 + 720, "a", UP)
    heir.says(1e6 + 720, "new", UP)
    heir.until(1e6 + 3700)
    assert [(account, what) for _, account, what in heir.words] == [
        ("a", What.BACK),
        ("f", What.STILL_FATAL),
    ]
    assert heir.told[0][1].lines[0].lasted == 720


def test_an_incident_that_was_not_told_is_not_kept() -> None:
    owner = Owner()
    owner.says(0, "a", DOWN)
    owner.until(100)
    assert owner.alerts.told() == {}


# -- laws -----------------------------------------------------------------------------------------

VIEWS = [
    UP,
    DOWN,
    FATAL,
    STOPPED,
    view(Published.CONNECTING),
    view(Published.RETRYING, LOST, flapping=True),
    view(Published.RETRYING, LOST, escalation=EXHAUSTED),
]

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 10.0, 40.0, 200.0, 400.0, 4000.0]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, len(VIEWS) - 1),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_no_history_breaks_the_laws(events: list[tuple[float, str, int, bool]]) -> None:
    owner = Owner()
    now = 0.0
    paused: dict[str, list[int]] = defaultdict(list)  # how much had been told by then
    for wait, account, which, pauses in events:
        now += wait
        paused_now = pauses and VIEWS[which] is STOPPED
        owner.says(now, account, VIEWS[which], paused=paused_now)
        if paused_now:
            paused[account].append(len(owner.words))
    owner.until(now + 3600)

    moments = [at for at, _ in owner.told]
    for i, at in enumerate(moments):  # never a storm, in any stretch of time
        later = [m for m in moments[i:] if m <= at + 3600]
        assert len(later) <= BURST + 1 + 3600 / REFILL
    for account in ("a", "b", "c"):
        open_trouble: What | None = None
        told_at, last = float("-inf"), -1
        for number, (at, name, what) in enumerate(owner.words):
            if name != account:
                continue
            if any(last < told <= number for told in paused[account]):
                open_trouble = None  # whoever paused it knows
            if what is What.BACK:
                assert open_trouble is not None, "back, and nobody knew that it was away"
                open_trouble = None
            elif what is What.STILL_FATAL:
                assert open_trouble is What.FATAL
                assert at - told_at >= RULES.remind / 2
            else:
                assert what in TROUBLES
                assert open_trouble is None or (what, open_trouble) != (what, what)
                assert open_trouble is None or what is What.FATAL
                open_trouble = what
            told_at, last = at, number


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.floats(0.0, 5_000.0))
def test_nothing_is_told_before_it_is_due(
    events: list[tuple[float, str, int, bool]], early: float
) -> None:
    alerts, now = Alerts(RULES), 0.0
    for wait, account, which, _ in events:
        now += wait
        alerts.notice(account, "parrot", VIEWS[which], now)
        deadline = alerts.next_deadline()
        looked = now if deadline is None else min(now + early, deadline - 1e-3)
        if looked >= now:
            assert alerts.due(looked) is None


# -- words ----------------------------------------------------------------------------------------


def test_what_a_platform_said_is_one_short_line() -> None:
    cause = Cause(Kind.LOST, "x", "a\nb" + "c" * 1000)
    line = Line(account="a", platform="p", what=What.DOWN, since=0, lasted=200, cause=cause)
    said = text(Alert(lines=(line,)))
    assert len(said.splitlines()) == 1
    assert "a bccc" in said
    assert len(said) < 600


def test_the_document_has_unix_seconds_and_the_cause_of_the_status() -> None:
    line = Line(account="a", platform="p", what=What.FATAL, since=5, lasted=9, cause=REVOKED)
    letter = document("id", Alert(lines=(line,)), 1e9 + 14, lambda at: 1e9 + at)
    (entry,) = letter.accounts
    assert (letter.id, letter.at, entry.since) == ("id", 1e9 + 14, 1e9 + 5)
    assert entry.cause is not None
    assert (entry.cause.code, entry.cause.who_acts) == ("parrot_401", "operator")
    assert entry.cause.hint == "Make a new token."
