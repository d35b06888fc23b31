"""The numbers and the remedy table."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from holdfast.supervision import PRESETS, RULES, Cause, Kind, Policy, PolicyError, Remedy, preset
from holdfast.supervision.backoff import rung


def test_the_defaults_are_the_design() -> None:
    policy = Policy()
    assert (policy.attempt_timeout, policy.step_timeout) == (30.0, 10.0)
    assert (policy.backoff_first, policy.backoff_factor) == (1.0, 2.0)
    assert (policy.backoff_cap, policy.backoff_slow_cap) == (60.0, 300.0)
    assert (policy.stable_after, policy.quick_life, policy.flap_after) == (300.0, 5.0, 3)
    assert (policy.silence_limit, policy.probe_grace, policy.beat_misses) == (60.0, 20.0, 3)
    assert (policy.escalate_after, policy.breaker_after) == (10, 10)
    assert (policy.opens_limit, policy.opens_window) == (10, 60.0)
    assert (policy.conflict_grace, policy.conflict_recheck) == (90.0, 300.0)
    assert (policy.verify_first, policy.verify_cap) == (300.0, 3_600.0)
    assert policy.close_timeout + policy.abort_timeout < 5.0


@pytest.mark.parametrize(
    "name",
    [field.name for field in fields(Policy) if field.name not in ("label", "fresh_limit")],
)
@pytest.mark.parametrize("value", [0, -1])
def test_every_number_must_be_above_0(name: str, value: int) -> None:
    with pytest.raises(PolicyError, match=f"{name} must be above 0"):
        Policy().with_({name: value})


@pytest.mark.parametrize("name", [field.name for field in fields(Policy) if field.name != "label"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "60", True])
def test_a_number_that_is_none_is_refused(name: str, value: Any) -> None:
    """One that is compared with nothing would hold up an account for good."""
    with pytest.raises(PolicyError, match=rf"^{name} must be a (finite|whole) number \(it is "):
        Policy().with_({name: value})


@pytest.mark.parametrize("name", ["beat_misses", "escalate_after", "fresh_limit", "resume_tries"])
@pytest.mark.parametrize("value", [1.5, 3.0, float("nan")])
def test_what_is_counted_is_whole(name: str, value: float) -> None:
    with pytest.raises(PolicyError, match=f"^{name} must be a whole number"):
        Policy().with_({name: value})


@pytest.mark.parametrize("name", ["backoff_slow_cap", "escalate_after", "attempt_timeout"])
def test_a_number_has_an_end(name: str) -> None:
    """The time of the next attempt is shown as a date, and no date is later than the year 9999."""
    with pytest.raises(PolicyError, match=f"{name} must be at most 31536000"):
        Policy().with_({name: 10**400})


def test_the_ladder_stays_a_number() -> None:
    with pytest.raises(PolicyError, match="backoff_factor must be from 1 to 1000"):
        Policy(backoff_factor=1001.0)
    policy = Policy(backoff_factor=1000.0)
    wait = rung(10_000, first=policy.backoff_first, factor=policy.backoff_factor, cap=60.0)
    assert wait == 60.0


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("backoff_first", "backoff_cap"),
        ("backoff_cap", "backoff_slow_cap"),
        ("step_timeout", "attempt_timeout"),
        ("probe_grace", "silence_limit"),
        ("quick_life", "stable_after"),
        ("recycle_limit", "opens_limit"),
        ("conflict_cap", "conflict_grace"),
        ("verify_first", "verify_cap"),
    ],
)
def test_pairs_must_not_contradict(small: str, large: str) -> None:
    with pytest.raises(PolicyError, match=f"{small} .* must not exceed {large}"):
        Policy().with_({small: getattr(Policy(), large) + 1})


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(backoff_factor=0.5, silence_limit=20.0, close_timeout=5.0)
    assert len(caught.value.problems) == 3
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_a_policy_is_a_value() -> None:
    policy = Policy()
    with pytest.raises(FrozenInstanceError):
        policy.label = "x"  # type: ignore[misc]
    assert policy.with_({"label": "x"}) != policy == Policy()


@pytest.mark.parametrize("platform", [*PRESETS, "unheard-of"])
def test_presets_are_valid_and_the_user_has_the_last_word(platform: str) -> None:
    numbers: dict[str, Any] = {"backoff_first": 3.0}
    policy = preset(platform, numbers)
    assert policy.backoff_first == 3.0
    assert policy.label == PRESETS.get(platform, {}).get("label", platform)


def test_a_preset_with_nonsense_is_refused() -> None:
    with pytest.raises(PolicyError, match="backoff_first"):
        preset("telegram", {"backoff_first": 61.0})


def test_qq_and_discord_have_their_documented_limits() -> None:
    assert (preset("qqbot").escalate_after, preset("qqbot").fresh_limit) == (100, 1000)
    assert preset("discord").fresh_limit == 1000


def test_every_kind_has_a_remedy_and_a_hint() -> None:
    assert set(RULES) == set(Kind)
    assert all(rule.hint for rule in RULES.values())
    persons = {kind for kind, rule in RULES.items() if rule.remedy is Remedy.PERSON}
    assert persons == {Kind.CREDENTIALS, Kind.REFUSED, Kind.REPLACED}


@pytest.mark.parametrize("kind", list(Kind))
def test_a_causes_own_hint_takes_precedence(kind: Kind) -> None:
    assert Cause(kind, "x", hint="do this").advice == "do this"
    assert Cause(kind, "x").advice == RULES[kind].hint
    assert Cause(kind, "x").retryable == (RULES[kind].remedy is not Remedy.PERSON)
