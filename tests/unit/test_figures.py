"""The registry of figures: complete, used, and the one place to edit for a new figure."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from buffer.store.statistics import BufferStats
from deploy.cluster.metrics import Meter, help_text
from deploy.commands.buffer_table import stats_table
from deploy.dashboard.data import snapshot_series
from deploy.dashboard.data.series import learner_values
from deploy.dashboard.data.snapshot_series import SnapshotReader
from deploy.telemetry import figures
from deploy.telemetry.figure import Figure
from deploy.telemetry.figures import FIGURES, METRICS, describe, in_room, rates_in
from deploy.telemetry.generated_files import ROOT, curve_table, generated_files, metric_table
from deploy.telemetry.snapshot import HISTOGRAMS, buffer_totals
from tests.support.fixture_runs import learner_row, snapshot_row, stats, summary

RNG = np.random.default_rng(0)
GRAFANA = ROOT / "deploy/monitoring/grafana/dashboards/tributary.json"
GRAFANA_UNITS = {"s": "s", "share": "percentunit"}


class Recorded:
    """A metric of Ray's that keeps what it is given."""

    def __init__(self, into: dict[str, Any], figure: Figure) -> None:
        self._into, self._name = into, figure.metric

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._into[self._name] = tags

    inc = set


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Metric -> its labels, of a Meter that every kind of process has reported to."""
    into: dict[str, Any] = {}
    monkeypatch.setattr(Meter, "_metric", lambda self, figure: Recorded(into, figure))
    return into


def report(meter: Meter) -> None:
    """What all processes of a run report."""
    state = snapshot_row(50, 50.0, RNG, silent=True)
    meter.actor(state["actors"][0])
    meter.reward(state["rewards"][0])
    meter.learner([learner_row(50, 160, RNG) | summary(50, 160, RNG) | {"skipped_steps": 1, "log_reward": -1.0}])
    meter.buffer(stats(50, 50.0, RNG))
    meter.members({"actor": 1}, {"actor": 2}, 0)
    meter.restart("actor")


def curves() -> dict[str, float | None]:
    """Curve -> value, of a run that reports everything."""
    row = learner_row(50, 160, RNG) | summary(50, 160, RNG) | {"total_variation": 0.1, "kl": 0.1}
    reader = SnapshotReader()
    reader.values(45.0, snapshot_row(45, 45.0, RNG), 45)
    return learner_values(row) | reader.values(50.0, snapshot_row(50, 50.0, RNG), 50)


@pytest.mark.parametrize("path_and_content", generated_files(), ids=lambda pair: pair[0].name)
def test_generated_files_are_up_to_date(path_and_content: tuple[Any, str]) -> None:
    path, content = path_and_content
    assert path.read_text() == content, "run `python -m deploy.telemetry.generated_files`"


def test_every_entry_has_a_title_a_sentence_and_a_name_of_its_own() -> None:
    assert len(METRICS) == sum(bool(figure.metric) for figure in FIGURES.values())
    for name, figure in FIGURES.items():
        assert figure.title and figure.meaning.endswith("."), name
        assert figure.metric or figure.curve or figure.room == "buffer", f"{name} is shown nowhere"
        assert ("{}" in figure.title) == any(part in ("NAME", "ID", "REASON") for part in name.split(".")), name
        if figure.rate_of:
            assert figure.rate_of in {other.field for other in in_room(figure.room)}, name


def test_every_curve_of_a_run_has_an_entry_and_every_entry_a_curve() -> None:
    described = {name: describe(name) for name in curves()}
    assert [name for name, figure in described.items() if not figure.meaning] == []
    meanings = {figure.meaning for figure in described.values()}
    assert [f.name for f in FIGURES.values() if f.curve and f.meaning not in meanings] == []


def test_the_metrics_of_all_processes_are_the_exported_entries(exported: dict[str, Any]) -> None:
    report(Meter("demo", "actor-0"))
    assert set(exported) == set(METRICS)
    for name, tags in exported.items():
        assert set(tags) == set(METRICS[name].tags), name


def test_ray_takes_every_metric() -> None:
    meter = Meter("demo", "actor-0")
    report(meter)
    assert set(meter._metrics) == set(METRICS)
    assert help_text(METRICS["tributary_learner_var_u"]).endswith("[nats^2]")


def test_a_total_that_starts_again_keeps_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    increases: list[float] = []

    class Count:
        def inc(self, value: float, tags: dict[str, str]) -> None:
            increases.append(value)

        def set(self, value: float, tags: dict[str, str]) -> None:
            pass

    monkeypatch.setattr(Meter, "_metric", lambda self, figure: Count())
    meter = Meter("demo", "learner-0")
    row = {"wait_s": 0.0, "loss": math.nan}
    for total in (2, 5, 1):
        meter.learner([row | {"skipped_steps": total}])
    assert increases == [1.0, 2.0, 1.0, 3.0, 1.0, 1.0], "a step each, and 2, 3 and 1 skipped ones"


def test_every_statistic_of_the_buffer_has_an_entry_and_a_place_in_the_table() -> None:
    totals = buffer_totals(stats(50, 50.0, RNG))
    assert totals is not None
    computed = set(totals) | set(rates_in("buffer"))
    assert computed == {figure.field for figure in in_room("buffer")}
    assert {field.name for field in fields(BufferStats)} <= computed | set(HISTOGRAMS)
    labels = {str(cell) for cell in stats_table(stats(50, 50.0, RNG), []).columns[0].cells}
    assert {FIGURES["buffer.priority_ess"].label, FIGURES["buffer.expired"].label} <= labels


def test_the_title_of_a_curve_has_its_name_filled_in() -> None:
    assert describe("actor.actor-0.busy").title == "actor-0: engine busy"
    assert describe("prompt.a.b.log_z_mean").title == "log Z of a.b, mean estimate"
    assert describe("learner.labels.log_z_lower").title == "log_z_lower"
    assert describe("learner.unheard_of") == Figure("learner.unheard_of", "unheard_of", "", "", page="learner")


def panels() -> Iterator[tuple[str, dict[str, Any], list[Figure]]]:
    """(title, settings, figures) of the panels in Grafana whose queries are our gauges as they are."""
    series = {figure.series: figure for figure in METRICS.values()}
    for panel in json.loads(GRAFANA.read_text())["panels"]:
        queries = [target["expr"] for target in panel.get("targets", ())]
        shown = [series.get(re.sub(r"\{[^}]*\}|^max by \(run\) \(|\)$", "", query)) for query in queries]
        if shown and all(shown):
            yield panel["title"], panel["fieldConfig"]["defaults"], [figure for figure in shown if figure]


def test_grafana_shows_gauges_in_their_unit_and_on_their_axis() -> None:
    assert len(list(panels())) > 15
    for title, settings, shown in panels():
        assert {settings["unit"]} == {GRAFANA_UNITS.get(figure.unit, "none") for figure in shown}, title
        if "custom" in settings:
            wanted = "log" if any(figure.axis == "log" for figure in shown) else "linear"
            assert settings["custom"]["scaleDistribution"]["type"] == wanted, title


def test_a_new_figure_is_one_entry_and_the_place_that_computes_it(
    monkeypatch: pytest.MonkeyPatch, exported: dict[str, Any]
) -> None:
    new = Figure("buffer.novelty", "novelty", "share", "Share of novel strings.", metric="tributary_buffer_novelty")
    rate = Figure("buffer.novelty_rate", "novelty per second", "1/s", "Its growth.", "curve", rate_of="novelty")
    monkeypatch.setitem(FIGURES, new.name, new)
    monkeypatch.setitem(FIGURES, rate.name, rate)
    for cached in (figures.in_room, figures.rates_in, snapshot_series._kept):
        cached.cache_clear()
    try:
        Meter("demo", "driver-0")._export("buffer", {"novelty": 0.5})
        assert exported == {"tributary_buffer_novelty": {"run": "demo"}}
        reader = SnapshotReader()
        reader.values(0.0, {"buffer": {"novelty": 1.0, "refused": {}}}, 0)
        assert reader.values(4.0, {"buffer": {"novelty": 5.0, "refused": {}}}, 0) == {
            "buffer.novelty": 5.0,
            "buffer.novelty_rate": 1.0,
        } | {f"buffer.{name}": None for name in rates_in("buffer") if name != "novelty_rate"}
        assert describe("buffer.novelty").as_dict()["title"] == "novelty"
        assert "Share of novel strings." in curve_table() and "Share of novel strings." in metric_table()
    finally:
        for cached in (figures.in_room, figures.rates_in, snapshot_series._kept):
            cached.cache_clear()
