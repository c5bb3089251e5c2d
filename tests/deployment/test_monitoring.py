"""deploy/monitoring queries exported metrics only, and every alert has its section in the runbook."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from deploy.telemetry.alert_rules import RULES
from deploy.telemetry.figures import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
RUNBOOK = ROOT / "docs" / "operate.md"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: package prometheus)")
OURS = {figure.series: figure for figure in METRICS.values()}
"""Series -> figure."""
EXPORTED = {*OURS, *(f"ray_{name}" for name in METRICS_GAUGES), "up"}
RAY_LABELS = {"instance", "job", "GpuIndex"}


def alerts() -> list[dict[str, Any]]:
    """All rules of all groups."""
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    """All panels but rows."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Place of a query -> the query, of dashboards and alerts."""
    queries_by_place = {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                queries_by_place[f"{path.name}, {panel['title']}, {target['refId']}"] = target["expr"]
        dashboard = json.loads(path.read_text())
        for annotation in dashboard["annotations"]["list"]:
            queries_by_place[f"{path.name}, annotation {annotation['name']}"] = annotation["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                queries_by_place[f"{path.name}, variable {variable['name']}"] = variable["query"]["query"]
    return queries_by_place


def names_in(query: str) -> set[str]:
    """Metric names of a query: every word that is followed by neither "(" nor "by", stands in no brackets, is no number."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", query)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r",\s*\w+\s*\)$", ")", bare) if bare.startswith("label_values") else bare
    words = re.findall(r"(?<![\w.])([a-zA-Z_]\w*)\b(?!\s*\()", bare)
    return {word for word in words if word not in ("and", "or", "unless", "offset")}


@pytest.mark.parametrize(("place", "query"), queries().items(), ids=queries())
def test_every_metric_of_every_query_is_exported(place: str, query: str) -> None:
    names = names_in(query)
    assert names and names <= EXPORTED, f"{place}: {sorted(names - EXPORTED)} are not exported"


def test_a_misspelt_metric_in_a_query_is_reported() -> None:
    query = 'sum by (run) (rate(ray_tributary_actor_tokenz_total{run=~"$run"}[1m])) / ray_tributary_run_waits > 0.5'
    assert names_in(query) == {"ray_tributary_actor_tokenz_total", "ray_tributary_run_waits"}
    assert not names_in(query) <= EXPORTED


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    queried = set().union(*(names_in(query) for query in queries().values()))
    assert set(OURS) <= queried, f"not queried: {sorted(set(OURS) - queried)}"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_label_in_the_summary_of_an_alert_is_one_of_its_metrics(rule: dict[str, Any]) -> None:
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    metrics = [OURS[name] for name in names_in(rule["expr"]) if name in OURS]
    tags = set().union(*({"run", *metric.tags} for metric in metrics)) if metrics else set()
    assert shown <= tags | RAY_LABELS, f"{shown - tags - RAY_LABELS}"


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    sections = {
        line.removeprefix("### ").strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("### ")
    }
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    assert {s for s in sections if s.startswith("Tributary")} == set(names)
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operate.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_a_rule_without_one_of_its_sides_says_why() -> None:
    for rule in RULES:
        docstring = rule.check.__doc__ or ""
        assert docstring.strip(), rule.id
        assert (rule.query is None) == ("Dashboard only:" in docstring), rule.id
    thresholds = {rule.id for rule in RULES if "Prometheus only:" not in (rule.check.__doc__ or "")}
    assert {"staleness", "canary", "skipped", "quarantine", "priority_ess", "disk", "restarts"} <= thresholds


@needs_promtool
@pytest.mark.parametrize("config", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_promtool_accepts_the_configuration_and_its_rules(config: str) -> None:
    assert PROMTOOL
    for command in (["check", "config", "--syntax-only", config], ["check", "rules", "alerts.yml"]):
        result = subprocess.run([PROMTOOL, *command], cwd=FOLDER, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    assert PROMTOOL
    rules = Path(__file__).parent / "alerts_test.yml"
    result = subprocess.run([PROMTOOL, "test", "rules", str(rules)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rule_tests_let_every_alert_fire() -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    fired = {a["alertname"] for t in tests for a in t["alert_rule_test"] if a.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_every_panel_has_a_description_and_a_unit_and_overlaps_no_other(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    for panel in panels(path):
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_grafana_provisions_its_files() -> None:
    [source] = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/tributary.yml").read_text())["providers"]
    assert source["type"] == "prometheus" and source["access"] == "proxy"
    assert provider["type"] == "file" and provider["options"]["path"].startswith("/")
