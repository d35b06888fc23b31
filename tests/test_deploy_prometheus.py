"""The shipped dashboard and alert rules name what exists, and do what they are for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.observe.exposition import render
from holdfast.observe.metrics import METRICS, Metric, Type
from holdfast.supervision import Breaker, Published
from holdfast.web.guard import Refusal
from tests.observe.test_metrics import entry, reading

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PLAYED = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "holdfast.json"

PROMTOOL = shutil.which("promtool")

with_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing; it is in Debian's package prometheus"
)

PARTS = ("_bucket", "_count", "_sum")

OF_SCRAPE = {"instance", "job"}
"""Labels that Prometheus adds."""

NAME = re.compile(r"\b(?:holdfast_[a-z_]+|process_[a-z_]+)")

SELECTOR = re.compile(r"\b(holdfast_[a-z_]+)\{([^}]*)\}")

MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"')

EXPRESSION = re.compile(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)")


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool where the rules are, so that their test finds them."""
    assert PROMTOOL is not None
    command = [PROMTOOL, *map(str, arguments)]
    return subprocess.run(command, cwd=ALERTS.parent, input=text, capture_output=True, text=True)


def panels() -> list[dict[str, Any]]:
    """Everything on the dashboard, in order."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def dashboard() -> list[str]:
    """Every expression of the dashboard, as Grafana sends it."""
    values = {
        "$__rate_interval": "1m",
        "$__range": "6h",
        "$instance": ".+",
        "$account": ".+",
    }
    found = []
    for panel in panels():
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            found.append(expression)
    return found


def alerts() -> list[str]:
    """Every expression of the alert rules."""
    text = ALERTS.read_text(encoding="utf-8")
    return [block or line for block, line in EXPRESSION.findall(text)]


def exported() -> dict[str, Metric | None]:
    """The names of all samples there can be; the library's own have no row of ours."""
    ours: dict[str, Metric | None] = {}
    for metric in METRICS:
        parts = PARTS if metric.type is Type.HISTOGRAM else ("",)
        ours.update({metric.name + part: metric for part in parts})
    text = render(reading(bot=entry()))[0].decode()
    library = re.findall(r"^(process_[a-z_]+) ", text, re.MULTILINE)
    return {**ours, **dict.fromkeys(library)}


def mistakes(expression: str) -> list[str]:
    """Names, labels and states in an expression that no scrape has."""
    known = exported()
    found = [name for name in NAME.findall(expression) if name not in known]
    for name, matchers in SELECTOR.findall(expression):
        metric = known.get(name)
        if metric is None:
            continue
        labels = {*metric.labels, *OF_SCRAPE, *(["le"] if name.endswith("_bucket") else [])}
        states = {state.value for state in (Breaker if "breaker" in name else Published)}
        for label, value in MATCHER.findall(matchers):
            if label not in labels:
                found.append(f"{name} has no label {label}")
            if label == "state" and not set(value.split("|")) <= states:
                found.append(f"{name} has no state {value}")
            if label == "reason" and not set(value.split("|")) <= set(Refusal):
                found.append(f"{name} has no reason {value}")
            if label == "le" and f'le="{value}"' not in render(reading(bot=entry()))[0].decode():
                found.append(f"{name} has no bucket {value}")
    return found


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("holdfast_account_upp == 1", "holdfast_account_upp"),
        ("rate(process_made_up_total[1m])", "process_made_up_total"),
        ('holdfast_account_up{colour="red"}', "holdfast_account_up has no label colour"),
        ('holdfast_account_state{state="fatal|dead"}', "holdfast_account_state has no state"),
        ('holdfast_web_refused_total{reason="bored"}', "has no reason bored"),
        ('holdfast_detection_seconds_bucket{le="60.0"}', "has no bucket 60.0"),
    ],
)
def test_a_mistake_would_be_found(expression: str, mistake: str) -> None:
    (found,) = mistakes(expression)
    assert mistake in found


# -- alerts ---------------------------------------------------------------------------------------


def test_alerts_name_what_exists() -> None:
    found = alerts()
    assert len(found) == len(names_of_alerts()) > 10
    for expression in found:
        assert mistakes(expression) == []


def names_of_alerts() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_alert_is_played_and_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == names_of_alerts()
    played = re.split(r"- eval_time: .*\n", PLAYED.read_text(encoding="utf-8"))[1:]
    firing = {
        name.group(1)
        for case in played
        if "exp_labels" in case and (name := re.search(r"alertname: (\w+)", case))
    }
    assert firing == set(names_of_alerts())


@with_promtool
@pytest.mark.slow
def test_the_alerts_do_what_they_are_for() -> None:
    checked = promtool("check", "rules", ALERTS.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    played = promtool("test", "rules", PLAYED.name)
    assert played.returncode == 0, played.stdout + played.stderr
    assert "SUCCESS" in played.stdout


@with_promtool
def test_a_broken_alert_would_be_found(tmp_path: Path) -> None:
    text = ALERTS.read_text(encoding="utf-8")
    (tmp_path / ALERTS.name).write_text(text.replace("for: 3m", "for: 30m"), encoding="utf-8")
    outage = re.split(r"^  - name: ", PLAYED.read_text(encoding="utf-8"), flags=re.MULTILINE)[:2]
    path = tmp_path / PLAYED.name
    path.write_text("  - name: ".join(outage), encoding="utf-8")
    played = promtool("test", "rules", path)
    assert played.returncode != 0
    assert "HoldfastAccountDown" in played.stdout + played.stderr


# -- dashboard ------------------------------------------------------------------------------------


def test_the_dashboard_names_what_exists() -> None:
    found = dashboard()
    assert len(found) > 30
    for expression in found:
        assert mistakes(expression) == []
    variables = DASHBOARD.read_text(encoding="utf-8")
    assert {name for name in NAME.findall(variables) if name not in exported()} == set()


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in dashboard() for name in NAME.findall(expression)}
    known = exported()
    assert {metric.name for name in shown if (metric := known[name])} == {m.name for m in METRICS}


def test_the_dashboard_is_whole() -> None:
    found = panels()
    rows = [panel["title"] for panel in found if panel["type"] == "row"]
    assert rows == ["Fleet", "One account", "Delivery", "Process"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    _check_places([panel["gridPos"] for panel in found])


def _check_places(places: list[dict[str, int]]) -> None:
    taken: set[tuple[int, int]] = set()
    for place in places:
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


@with_promtool
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(dashboard())
    ]
    path = tmp_path / "dashboard.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}), encoding="utf-8")
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


# -- exporter -------------------------------------------------------------------------------------


@with_promtool
def test_prometheus_finds_nothing_to_complain_about() -> None:
    checked = promtool("check", "metrics", text=render(reading(bot=entry()))[0].decode())
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == ""
