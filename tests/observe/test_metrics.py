"""The exporter says what the status says, in a form that Prometheus' own parser takes."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from holdfast.observe.exposition import render
from holdfast.observe.ledger import Spread, Totals
from holdfast.observe.metrics import METRICS, Reading, Served, Type
from holdfast.observe.status import AccountStatus, Status, account_status, believed, proof
from holdfast.store.protocol import Counts
from holdfast.supervision import Breaker, Published, Supervisor, preset
from tests.gateway.house import house, parrot, reach
from tests.gateway.parrot import Aviary, closes
from tests.gateway.tools import until

NOW = 1_000.0

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(reading: Reading, accept: str = "") -> Samples:
    """Every sample by its name and labels, as a scraper understands it."""
    text = render(reading, accept)[0].decode()
    families = (parse_open_metrics if accept else parse_text)(text)
    found = [
        ((one.name, frozenset(one.labels.items())), one.value)
        for family in families
        for one in family.samples
        if not one.name.endswith("_created")
    ]
    assert len(found) == len(dict(found)), "a sample stands there twice"
    return dict(found)


def get(found: Samples, name: str, **labels: str) -> float | None:
    """The value of a sample; None when it is missing."""
    return found.get((f"holdfast_{name}", frozenset(labels.items())))


def entry(platform: str = "parrot", **changes: Any) -> AccountStatus:
    """A stopped account, changed."""
    view = Supervisor(preset(platform), lambda: 0.5).view(NOW)
    never = proof(None, NOW)
    numbers = dict.fromkeys(
        (
            "inbox",
            "outbox",
            "received",
            "sent",
            "passed_over",
            "skipped",
            "dead",
            "unknown",
        ),
        0,
    )
    fresh = account_status(
        view,
        lambda moment: moment,
        NOW,
        platform=platform,
        paused=False,
        inbound=never,
        outbound=never,
        gap=None,
        **numbers,
    )
    return msgspec.structs.replace(fresh, **changes)


def reading(totals: Totals | None = None, store: str = "ok", **accounts: AccountStatus) -> Reading:
    """A reading of these accounts at `NOW`."""
    return Reading(
        status=Status(
            pid=1,
            boot_id="",
            started_at=0.0,
            written_at=NOW,
            version="1.2.3",
            accounts=accounts,
            store=store,
        ),
        totals=totals or Totals(transitions={}, ends={}, unknown={}, detection={}, recovery={}),
        loop_lag=0.25,
        loop_stalls=2,
        status_writes=3,
        status_write_failures=4,
    )


# -- the table ------------------------------------------------------------------------------------


def test_names_and_labels_keep_the_rules() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"holdfast_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.type is Type.COUNTER)
        assert metric.help.endswith(".")
        assert set(metric.labels) <= {"account", "platform", "state", "code", "reason", "version"}


def test_every_metric_is_written_out_and_nothing_else_of_ours() -> None:
    text = render(reading(bot=entry()))[0].decode()
    written = re.findall(r"^# TYPE (holdfast_\w+) (\w+)$", text, re.MULTILINE)
    assert written == [(metric.name, metric.type.value) for metric in METRICS]


def test_both_formats_say_the_same() -> None:
    made = reading(bot=entry(state="retrying"), other=entry("telegram"))
    plain, open_metrics = samples(made), samples(made, OPEN_METRICS)

    def ours(found: Samples) -> Samples:
        return {key: value for key, value in found.items() if key[0].startswith("holdfast_")}

    assert ours(plain) == ours(open_metrics)
    assert len(ours(plain)) > 90


# -- what the values are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("valid_until", "up", "state"),
    [(NOW + 1, 1.0, "connected"), (NOW - 1, 0.0, "retrying"), (None, 0.0, "retrying")],
)
def test_nobody_is_up_for_longer_than_the_evidence(
    valid_until: float | None, up: float, state: str
) -> None:
    found = samples(reading(bot=entry(state="connected", valid_until=valid_until)))
    assert get(found, "account_up", account="bot", platform="parrot") == up
    states = {
        name.value: get(found, "account_state", account="bot", platform="parrot", state=name)
        for name in Published
    }
    assert states == {name.value: float(name == state) for name in Published}


def test_what_is_not_known_is_missing() -> None:
    found = samples(reading(bot=entry()))
    for name in ("proof_age_seconds", "inbound_age_seconds", "retry_in_seconds", "dead_messages"):
        assert get(found, f"account_{name}", account="bot", platform="parrot") is None


def test_the_journal_counts_every_account() -> None:
    made = replace(
        reading(bot=entry(), calm=entry()),
        waiting={"bot": Counts(dead=2, refused=3, held=4, gaps=5), "gone": Counts(dead=9)},
    )
    found = samples(made)
    for account, values in {"bot": (5, 4, 5), "calm": (0, 0, 0)}.items():
        for name, value in zip(
            ("dead_messages", "held_messages", "open_gaps"), values, strict=True
        ):
            assert get(found, f"account_{name}", account=account, platform="parrot") == value
    assert "gone" not in str(found)


def test_accounts_that_are_gone_are_not_told() -> None:
    totals = Totals(
        transitions={("gone", "retrying", "reset"): 1, ("bot", "retrying", "reset"): 2},
        ends={("gone", "reset"): 3, ("bot", "reset"): 4},
        unknown={"gone": 5},
        detection={},
        recovery={},
    )
    found = samples(reading(totals, bot=entry()))
    labels = {"account": "bot", "platform": "parrot", "code": "reset"}
    assert get(found, "transitions_total", state="retrying", **labels) == 2
    assert get(found, "connections_ended_total", **labels) == 4
    assert get(found, "unknown_causes_total", account="bot", platform="parrot") == 0
    assert "gone" not in str(found)


def test_histograms_begin_at_zero_and_are_cumulative() -> None:
    spread = Spread((0, 1, 1, *(2,) * 12), 6.5)
    totals = Totals(transitions={}, ends={}, unknown={}, detection={"parrot": spread}, recovery={})
    found = samples(reading(totals, bot=entry()))
    for limit, count in {"0.5": 0, "1.0": 1, "2.0": 1, "5.0": 2, "+Inf": 2}.items():
        assert get(found, "detection_seconds_bucket", platform="parrot", le=limit) == count
    assert get(found, "detection_seconds_sum", platform="parrot") == 6.5
    assert get(found, "detection_seconds_count", platform="parrot") == 2
    assert get(found, "recovery_seconds_count", platform="parrot") == 0


def test_the_process_tells_of_itself() -> None:
    found = samples(reading(store="store_full: the disk is full"))
    assert get(found, "build_info", version="1.2.3") == 1
    assert get(found, "loop_lag_seconds") == 0.25
    assert get(found, "loop_stalls_total") == 2
    assert get(found, "status_writes_total") == 3
    assert get(found, "status_write_failures_total") == 4
    assert get(found, "journal_ok") == 0
    assert get(samples(reading()), "journal_ok") == 1
    assert found["process_open_fds", frozenset()] > 2


def test_the_server_tells_of_itself() -> None:
    served = Served(
        refused={"token": 3, "host": 0},
        streams=2,
        streams_refused=5,
        streams_dropped=7,
        history_ok=False,
    )
    found = samples(replace(reading(), served=served))
    assert get(found, "web_refused_total", reason="token") == 3
    assert get(found, "web_refused_total", reason="host") == 0
    assert get(found, "web_streams") == 2
    assert get(found, "web_streams_refused_total") == 5
    assert get(found, "web_streams_dropped_total") == 7
    assert get(found, "history_ok") == 0
    assert not any("web" in name for name, _ in samples(reading()))


# -- a real gateway -------------------------------------------------------------------------------

OF_STATUS: dict[str, Callable[[AccountStatus, float], float | None]] = {
    "account_up": lambda e, now: float(believed(e, now) == "connected"),
    "account_state_age_seconds": lambda e, now: now - e.since,
    "account_proof_age_seconds": lambda e, now: e.transport.age,
    "account_inbound_age_seconds": lambda e, now: e.inbound.age,
    "account_outbound_age_seconds": lambda e, now: e.outbound.age,
    "account_outage_seconds": lambda e, now: now - e.outage_since if e.outage_since else 0.0,
    "account_retry_in_seconds": lambda e, now: e.next_retry_at and e.next_retry_at - now,
    "account_consecutive_failures": lambda e, now: e.attempt,
    "account_missed_heartbeats": lambda e, now: e.missed_beats,
    "account_suspect": lambda e, now: e.suspect,
    "account_rotating": lambda e, now: e.rotating,
    "account_flapping": lambda e, now: e.flapping,
    "account_attention": lambda e, now: e.attention,
    "account_paused": lambda e, now: e.paused,
    "account_inbox_messages": lambda e, now: e.inbox,
    "account_outbox_messages": lambda e, now: e.outbox - e.away,
    "account_away_messages": lambda e, now: e.away,
    "connections_opened_total": lambda e, now: e.generation,
    "messages_received_total": lambda e, now: e.received,
    "messages_sent_total": lambda e, now: e.sent,
    "messages_passed_over_total": lambda e, now: e.passed_over,
    "messages_skipped_total": lambda e, now: e.skipped,
    "dead_letters_total": lambda e, now: e.dead,
    "ambiguous_sends_total": lambda e, now: e.unknown,
}
"""What the document says, per metric that is read from it alone."""


def test_who_waits_for_his_recipient_does_not_wait_for_us() -> None:
    found = samples(reading(bot=entry(outbox=5, away=3)))
    labels = {"account": "bot", "platform": "parrot"}
    assert get(found, "account_outbox_messages", **labels) == 2
    assert get(found, "account_away_messages", **labels) == 3


async def test_the_exporter_agrees_with_the_status(tmp_path: Path) -> None:
    async with Aviary() as well, Aviary() as ill, Aviary() as strict:
        ill.script.extend([closes(1011)] * 50)
        strict.script.extend([closes(4004)] * 50)
        accounts = (
            parrot("well", well.url),
            parrot("ill", ill.url),
            parrot("fatal", strict.url),
            parrot("paused", ill.url),
        )
        async with house(tmp_path, *accounts) as gateway:
            await reach(gateway, "well", Published.CONNECTED)
            await gateway.pause("paused")
            await reach(gateway, "fatal", Published.FATAL, 600)
            await reach(gateway, "ill", Published.RETRYING)
            await well.say("m1")
            await until(lambda: gateway.status().accounts["well"].sent)
            made = gateway.reading()

    status = made.status
    assert {name: one.state for name, one in status.accounts.items()} == {
        "well": "connected",
        "ill": "retrying",
        "fatal": "fatal",
        "paused": "stopped",
    }
    found = samples(made)
    for account, one in status.accounts.items():
        labels = {"account": account, "platform": "parrot"}
        for name, value in OF_STATUS.items():
            wanted, told = value(one, status.written_at), get(found, name, **labels)
            assert (wanted is None) == (told is None), (account, name)
            if wanted is not None and told is not None:
                assert math.isclose(told, wanted, abs_tol=1e-6), (account, name)
        for breaker in Breaker:
            told = get(found, "account_breaker", state=breaker.value, **labels)
            assert told == float(one.breaker == breaker)
    told_causes = [dict(labels) for name, labels in found if name == "holdfast_account_cause"]
    causes = {labels["account"]: labels["code"] for labels in told_causes}
    assert causes == {"ill": "close_1011", "fatal": "parrot_close_4004"}


def test_nobody_who_does_not_ask_loads_the_library() -> None:
    code = (
        "import sys, holdfast.web.metrics_api, holdfast.gateway.gateway\n"
        "print(any(name.startswith('prometheus_client') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
