"""deploy/monitoring asks only for metrics that are exported, and every alarm says what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from deploy.cluster.metrics import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
RUNBOOK = ROOT / "docs" / "operate.md"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: package prometheus)")
OURS = {f"ray_{name}_total" if metric.kind == "counter" else f"ray_{name}": metric for name, metric in METRICS.items()}
"""As Prometheus sees them."""
KNOWN = {*OURS, *(f"ray_{name}" for name in METRICS_GAUGES), "up"}
RAYS_LABELS = {"instance", "job", "GpuIndex"}


def alarms() -> list[dict[str, Any]]:
    """All rules of all groups."""
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    """All panels that show something."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Where a query stands -> the query, of dashboards and alarms."""
    found = {f"alarm {rule['alert']}": rule["expr"] for rule in alarms()}
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                found[f"{path.name}, {panel['title']}, {target['refId']}"] = target["expr"]
        dashboard = json.loads(path.read_text())
        for annotation in dashboard["annotations"]["list"]:
            found[f"{path.name}, annotation {annotation['name']}"] = annotation["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                found[f"{path.name}, variable {variable['name']}"] = variable["query"]["query"]
    return found


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
    assert names and names <= KNOWN, f"{place}: {sorted(names - KNOWN)} are not exported"


def test_a_misspelt_metric_in_a_query_is_seen() -> None:
    query = 'sum by (run) (rate(ray_tributary_actor_tokenz_total{run=~"$run"}[1m])) / ray_tributary_run_waits > 0.5'
    assert names_in(query) == {"ray_tributary_actor_tokenz_total", "ray_tributary_run_waits"}
    assert not names_in(query) <= KNOWN


def test_every_metric_is_on_a_dashboard_or_in_an_alarm() -> None:
    asked = set().union(*(names_in(query) for query in queries().values()))
    assert set(OURS) <= asked, f"nobody looks at {sorted(set(OURS) - asked)}"


@pytest.mark.parametrize("rule", alarms(), ids=lambda rule: rule["alert"])
def test_every_label_that_an_alarm_shows_is_one_of_its_metrics(rule: dict[str, Any]) -> None:
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    metrics = [OURS[name] for name in names_in(rule["expr"]) if name in OURS]
    tags = set().union(*({"run", *metric.tags} for metric in metrics)) if metrics else set()
    assert shown <= tags | RAYS_LABELS, f"{shown - tags - RAYS_LABELS}"


def test_every_alarm_has_a_section_in_the_runbook_and_every_section_an_alarm() -> None:
    sections = {
        line.removeprefix("### ").strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("### ")
    }
    names = [rule["alert"] for rule in alarms()]
    assert len(set(names)) == len(names)
    assert {s for s in sections if s.startswith("Tributary")} == set(names)
    for rule in alarms():
        assert rule["annotations"]["runbook"] == f"docs/operate.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


@needs_promtool
@pytest.mark.parametrize("config", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_promtool_accepts_the_configuration_and_its_rules(config: str) -> None:
    assert PROMTOOL
    for command in (["check", "config", "--syntax-only", config], ["check", "rules", "alerts.yml"]):
        result = subprocess.run([PROMTOOL, *command], cwd=FOLDER, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_each_alarm_fires_when_it_should_and_only_then() -> None:
    assert PROMTOOL
    rules = Path(__file__).parent / "alerts_test.yml"
    result = subprocess.run([PROMTOOL, "test", "rules", str(rules)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rule_tests_let_every_alarm_fire() -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    fired = {a["alertname"] for t in tests for a in t["alert_rule_test"] if a.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in alarms()}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_every_panel_says_what_it_shows_in_which_unit_and_overlaps_no_other(path: Path) -> None:
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


def test_grafana_is_told_where_its_files_are() -> None:
    [source] = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/tributary.yml").read_text())["providers"]
    assert source["type"] == "prometheus" and source["access"] == "proxy"
    assert provider["type"] == "file" and provider["options"]["path"].startswith("/")
