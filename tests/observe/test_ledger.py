"""What the ledger counts of the reports, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.observe.ledger import BOUNDS, MOST_CODES, OTHER, Ledger, Spread
from holdfast.supervision import Cause, Kind, Published, Report, Supervisor, View, preset
from holdfast.supervision.states import Trigger
from tests.gateway.parrot import Aviary, Parrot
from tests.harness import Running, running

LOST = Cause(Kind.LOST, "reset", "connection lost")
RECYCLED = Cause(Kind.RECYCLED, "kicked", "reconnected by the operator")
REFUSED = Cause(Kind.CREDENTIALS, "parrot_unauthorized", "wrong token")


def view(published: Published, at: float, **changes: object) -> View:
    fresh = Supervisor(preset("telegram"), lambda: 0.5).view(at)
    return replace(fresh, published=published, **changes)  # type: ignore[arg-type]


def tell(ledger: Ledger, seen: View, trigger: str = Trigger.ENDED, account: str = "bot") -> None:
    ledger.report(account, "parrot", Report(seen, trigger))


def connected(ledger: Ledger, at: float) -> None:
    tell(ledger, view(Published.CONNECTED, at, cause=LOST, last_proof=at), Trigger.READY)


def lost(ledger: Ledger, at: float, proof: float, cause: Cause | None = LOST) -> None:
    tell(ledger, view(Published.RETRYING, at, cause=cause, last_proof=proof))


def measured(spread: Spread | None) -> tuple[int, float]:
    """How many values, and their sum."""
    return (spread.counts[-1], spread.sum) if spread else (0, 0.0)


def test_a_loss_is_measured_from_the_last_proof_and_to_the_next_connection() -> None:
    ledger = Ledger()
    connected(ledger, 100)
    lost(ledger, 130, proof=118)
    lost(ledger, 132, proof=118)  # a failed attempt is no second loss
    connected(ledger, 137)
    totals = ledger.totals()
    assert measured(totals.detection["parrot"]) == (1, 12.0)
    assert measured(totals.recovery["parrot"]) == (1, 7.0)
    assert totals.ends == {("bot", "reset"): 2}
    assert totals.transitions == {
        ("bot", "connected", ""): 2,
        ("bot", "retrying", "reset"): 1,
    }


def test_values_are_counted_up_to_their_bounds() -> None:
    ledger = Ledger()
    for at, proof in ((200, 195.0), (300, 240.0), (9_000, 400.0)):
        connected(ledger, at - 100)
        lost(ledger, at, proof)
    spread = ledger.totals().detection["parrot"]
    by_bound = dict(zip(BOUNDS, spread.counts, strict=False))
    assert (by_bound[2.0], by_bound[5.0], by_bound[45.0], by_bound[65.0]) == (0, 1, 1, 2)
    assert (by_bound[600.0], spread.counts[-1]) == (2, 3)


def test_a_first_connection_is_neither_loss_nor_recovery() -> None:
    ledger = Ledger()
    tell(ledger, view(Published.CONNECTING, 90), Trigger.DUE)
    lost(ledger, 95, proof=90)
    connected(ledger, 100)
    assert ledger.totals().detection == ledger.totals().recovery == {}


def test_a_planned_replacement_is_no_loss() -> None:
    ledger = Ledger()
    connected(ledger, 100)
    lost(ledger, 130, proof=129, cause=RECYCLED)
    connected(ledger, 131)
    assert ledger.totals().detection == ledger.totals().recovery == {}
    assert ledger.totals().ends == {("bot", "kicked"): 1}


def test_what_the_machine_slept_through_was_not_noticed_late() -> None:
    ledger = Ledger()
    connected(ledger, 100)
    with ledger.waking():
        tell(ledger, view(Published.RETRYING, 130, last_proof=130 - 28_800), Trigger.DOUBT)
    connected(ledger, 133)
    lost(ledger, 145, proof=140)
    totals = ledger.totals()
    assert measured(totals.detection["parrot"]) == (1, 5.0)
    assert measured(totals.recovery["parrot"]) == (1, 3.0)


def test_evidence_that_ran_out_is_a_loss_whatever_was_before() -> None:
    ledger = Ledger()
    connected(ledger, 100)
    doubted = view(Published.RETRYING, 190, cause=RECYCLED, last_proof=100)
    tell(ledger, doubted, Trigger.DOUBT)
    assert measured(ledger.totals().detection["parrot"]) == (1, 90.0)


@pytest.mark.parametrize("interlude", [Published.FATAL, Published.STOPPED])
def test_what_waits_for_a_person_is_no_recovery(interlude: Published) -> None:
    ledger = Ledger()
    connected(ledger, 100)
    lost(ledger, 130, proof=120)
    tell(ledger, view(interlude, 140, cause=REFUSED), Trigger.VERDICT)
    connected(ledger, 5_000)
    assert measured(ledger.totals().detection["parrot"]) == (1, 10.0)
    assert ledger.totals().recovery == {}


def test_a_verdict_at_once_is_a_loss() -> None:
    ledger = Ledger()
    connected(ledger, 100)
    seen = view(Published.FATAL, 130, cause=REFUSED, last_proof=125)
    tell(ledger, seen, Trigger.VERDICT)
    assert measured(ledger.totals().detection["parrot"]) == (1, 5.0)
    assert ledger.totals().ends == {("bot", "parrot_unauthorized"): 1}


def test_only_unclassified_errors_are_unknown() -> None:
    ledger = Ledger()
    lost(ledger, 100, proof=90)
    lost(ledger, 101, proof=90, cause=Cause(Kind.UNKNOWN, "unknown", "KeyError: 1"))
    assert ledger.totals().unknown == {"bot": 1}


def test_a_platform_that_invents_codes_does_not_fill_the_memory() -> None:
    ledger = Ledger()
    for code in range(3 * MOST_CODES):
        lost(ledger, 100, proof=90, cause=Cause(Kind.LOST, f"close_{code}"))
    lost(ledger, 100, proof=90, cause=Cause(Kind.LOST, "close_7"))
    tell(ledger, view(Published.RETRYING, 100, cause=LOST), account="other bot")
    ends = ledger.totals().ends
    assert len(ends) == MOST_CODES + 2
    assert ends["bot", OTHER] == 2 * MOST_CODES
    assert ends["bot", "close_7"] == 2
    assert ends["other bot", "reset"] == 1


def test_totals_stand_still() -> None:
    ledger = Ledger()
    connected(ledger, 100)
    lost(ledger, 110, proof=100)
    before = ledger.totals()
    connected(ledger, 120)
    lost(ledger, 130, proof=120)
    assert before.ends == {("bot", "reset"): 1}
    assert measured(before.detection["parrot"]) == (1, 10.0)


# -- on real connections --------------------------------------------------------------------------


def counted(seen: Running) -> Ledger:
    ledger = Ledger()
    for report in seen.reports:
        ledger.report("bot", "parrot", report)
    return ledger


async def test_a_cut_connection_moves_both_histograms() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as seen:
        await seen.connected()
        await aviary.talks[-1].close(code=1011)
        await seen.published(Published.RETRYING)
        cut = counted(seen).totals()
        assert measured(cut.detection["parrot"])[0] == 1
        assert cut.recovery == {}
        await seen.connected()
        count, seconds = measured(counted(seen).totals().recovery["parrot"])
        view = seen.account.view()
        assert view.outage_since is not None
        assert count == 1
        assert seconds == pytest.approx(view.since - view.outage_since)
        assert 0.5 <= seconds < 2


async def test_a_silent_death_is_measured_up_to_the_silence_limit() -> None:
    async with Aviary(beat=10.0) as aviary, running(Parrot, aviary.config) as seen:
        await seen.connected()
        aviary.acks = False
        await seen.published(Published.RETRYING)
        count, seconds = measured(counted(seen).totals().detection["parrot"])
        assert count == 1
        assert 30 <= seconds <= 61
