"""Curves: decimated without losing a spike or a gap, cut to a range of x, complete as CSV."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dashboard.data.rate_window import WINDOW_S
from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Series, decimate
from deploy.dashboard.data.snapshot_series import SnapshotReader
from deploy.dashboard.views.curves import CurveQuery, curves
from tests.support.fixture_runs import LONG, STEPS, learner_row, make_run

values = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf))


@given(y=st.lists(values, max_size=400), most=st.integers(3, 120))
def test_decimation_keeps_extremes_gaps_and_order_within_its_bound(y, most):
    curve = np.array(y, dtype=np.float64)
    x, shown = decimate(np.arange(len(y), dtype=np.float64), curve, most)
    assert len(x) == len(shown) <= max(most, 3)
    assert x == sorted(x)
    assert [None if not math.isfinite(y[int(k)]) else y[int(k)] for k in x] == shown, "points are points of the curve"
    finite = [value for value in shown if value is not None]
    there = curve[np.isfinite(curve)]
    if len(there):
        assert (min(finite), max(finite)) == (there.min(), there.max())
    assert (None in shown) == (len(there) < len(y))


def test_one_spike_and_one_gap_among_a_hundred_thousand_points_survive():
    y = np.sin(np.arange(LONG) / 1000)
    y[54_321], y[77_777] = 50.0, math.nan
    x, shown = decimate(np.arange(LONG, dtype=np.float64), y, 2000)
    assert len(x) <= 2000
    assert shown[x.index(54_321)] == 50.0 and shown[x.index(77_777)] is None


def test_a_row_without_a_figure_is_no_point_of_its_curve_and_nan_is_one():
    points = Series()
    points.add(1.0, 1, {"a": 1.0, "b": None})
    points.add(2.0, 2, {"a": 2.0})
    assert points.curve("a").step.tolist() == [1.0, 2.0]
    assert points.curve("b").step.tolist() == [1.0] and math.isnan(points.curve("b").y[0])
    assert len(points.curve("nothing").y) == 0
    assert points.since("a", 1.5) == [2.0] and points.newest("a", 5) == [1.0, 2.0]


def test_figures_of_strings_stand_at_the_step_whose_policy_sampled_them_in_order():
    points = Series()
    for step, sampled_step in ((10, 4.0), (11, 9.0), (12, 8.0), (13, None)):
        points.add(float(step), step, {"learner.labels.valid": step / 100, "learner.loss": 1.0}, sampled_step)
    valid = points.curve("learner.labels.valid")
    assert valid.step.tolist() == [4.0, 8.0, 9.0, 13.0] and valid.y.tolist() == [0.10, 0.12, 0.11, 0.13]
    assert points.curve("learner.loss").step.tolist() == [10.0, 11.0, 12.0, 13.0]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "long", "long")


def test_a_long_run_sends_at_most_two_thousand_points_a_curve_and_all_of_them_as_csv(client, long_run):
    with client(long_run) as page:
        answer = page.get("/api/curves?names=learner.loss,learner.var_u").json()
        loss = answer["curves"]["learner.loss"]
        assert loss["points"] == LONG and loss["decimated"] and 1000 < len(loss["x"]) == len(loss["y"]) <= 2000
        assert None in loss["y"], "steps whose loss was not finite are gaps"
        near = page.get("/api/curves?names=learner.loss&from=500&to=700").json()["curves"]["learner.loss"]
        assert near["points"] == len(near["x"]) == 201 and not near["decimated"]
        lines = page.get("/api/curves.csv?names=learner.loss").text.splitlines()
        assert lines[0] == "curve,step,time_s,value" and len(lines) == 1 + LONG
        assert lines[61].startswith('"learner.loss",61,') and lines[61].endswith(","), "NaN is nothing"


def test_new_points_can_be_requested_alone(client, finished):
    with client(finished) as page:
        whole = page.get("/api/curves?names=learner.loss").json()["curves"]["learner.loss"]
        assert whole["x"] == [float(step) for step in range(1, STEPS + 1)]
        new = page.get("/api/curves?names=learner.loss&after=150").json()["curves"]["learner.loss"]
        assert new["x"] == whole["x"][150:] and new["last"] == whole["last"]
        by_time = page.get("/api/curves?names=buffer.size&x=time&after=1000").json()["curves"]["buffer.size"]
        assert by_time["x"] == sorted(by_time["x"]) and min(by_time["x"]) > 1000


def test_a_curve_has_its_title_and_unit_and_an_unknown_one_is_missing(client, finished):
    with client(finished) as page:
        answer = page.get("/api/curves?names=learner.var_u,learner.labels.valid,nonsense&name=a,b").json()
        assert answer["curves"]["learner.var_u"]["title"] == "Var(u)"
        assert answer["curves"]["learner.var_u"]["unit"] == "nats²"
        assert answer["missing"] == ["nonsense", "a,b"]


def test_every_curve_of_the_catalog_has_points_a_title_and_a_group(client, finished):
    with client(finished) as page:
        listed = page.get("/api/catalog").json()["curves"]
        names = [curve["name"] for curve in listed]
        assert {"learner.loss", "learner.log_reward_q50", "learner.terms.base", "prompt.integer.log_z_lower", "buffer.sample_rate",
                "actor.actor-0.tokens_per_s", "reward.reward-0.cache_hits", "system.tokens_per_s"} <= set(names)  # fmt: skip
        assert all(
            curve["title"] and curve["group"] in ("learner", "posterior", "rewards", "buffer", "actors", "system")
            for curve in listed
        )
        for begin in range(0, len(names), 24):
            answer = page.get("/api/curves", params={"name": names[begin : begin + 24]}).json()
            assert answer["missing"] == []
            assert all(curve["points"] > 0 for curve in answer["curves"].values())


def state(seconds: float, tokens: int, drawn: int, trajectories: int = 0, engine_s: float | None = None):
    """The parts of a snapshot that rates are of."""
    actor = {
        "name": "a", "seconds": seconds, "tokens": tokens, "trajectories": trajectories, "version": 3, "versions_skipped": 0,
        "engine_s": seconds / 2 if engine_s is None else engine_s, "waiting_for": None, "canary_difference_max": 0.0,
    }  # fmt: skip
    return {"buffer": {"drawn": drawn, "refused": {}}, "actors": [actor], "rewards": []}


def test_rates_are_differences_and_a_restarted_actor_leaves_a_gap_instead_of_a_negative_rate():
    reader = SnapshotReader()
    reader.values(10.0, state(10.0, 200, 64), 5)
    values = reader.values(14.0, state(14.0, 280, 256), 5)
    assert values["actor.a.tokens_per_s"] == 20.0 and values["actor.a.busy"] == 0.5 and values["actor.a.behind"] == 2
    assert values["buffer.sample_rate"] == 48.0 and values["system.tokens_per_s"] == 20.0
    again = reader.values(15.0, state(1.0, 10, 100), 5)
    assert again["actor.a.tokens_per_s"] is None and again["buffer.sample_rate"] is None
    assert again["system.tokens"] == 290, "the total of the run goes on"
    assert "actor.a.tokens_per_s" not in reader.values(16.0, state(2.0, 30, 148), 5), "too short to tell"
    assert reader.values(20.0, state(6.0, 110, 148), 5)["actor.a.tokens_per_s"] == 20.0


def test_a_counter_that_jumps_by_a_batch_has_its_true_rate_and_no_share_is_above_one():
    """64 trajectories every 1.6 s are 40 a second, and one read a second jumps between 0 and 64."""
    reader, rates, shares = SnapshotReader(), [], []
    for second in range(1, 121):
        batches = int(second / 1.6)
        values = reader.values(float(second), state(second, 0, 0, 64 * batches, engine_s=30.0 * (second // 30)), 0)
        rates.append(values.get("system.trajectories_per_s", 0.0))
        shares.append(values.get("actor.a.busy", 0.0))
    assert all(abs(rate - 40.0) <= 64 / WINDOW_S for rate in rates[20:])
    assert max(shares) == 1.0, "an engine call of 30 s counts when it returns"


def test_along_steps_a_curve_has_one_value_a_step_and_along_samples_it_ends_with_their_number(
    client, finished, tmp_path
):
    run = RunReader(tmp_path, "run", primary=True)
    for at, step, rate in ((1.0, 1, 5.0), (2.0, 1, 7.0), (3.0, 2, 9.0)):
        run.snapshots.add(at, step, {"system.tokens_per_s": rate, "system.trajectories": 64.0 * at})
    for step, sampled, valid in ((1, 0.0, 0.5), (2, 0.0, 1.0), (3, 2.0, math.nan)):
        run.learner.add(float(step), step, {"learner.labels.valid": valid}, sampled)
    answer = curves(run, CurveQuery(["system.tokens_per_s", "learner.labels.valid"]))["curves"]
    assert (answer["system.tokens_per_s"]["x"], answer["system.tokens_per_s"]["y"]) == ([1.0, 2.0], [7.0, 9.0])
    assert (answer["learner.labels.valid"]["x"], answer["learner.labels.valid"]["y"]) == ([0.0, 2.0], [0.75, None])
    answer = curves(run, CurveQuery(["learner.labels.valid", "learner.loss"], x="samples"))
    assert answer["curves"]["learner.labels.valid"]["x"] == [64.0, 128.0, 192.0] and answer["missing"] == [
        "learner.loss"
    ]
    with client(finished) as page:
        loss = page.get("/api/curves?names=learner.loss&x=tokens").json()["curves"]["learner.loss"]
        assert loss["x"] == sorted(loss["x"]) and loss["x"][-1] > 10 * loss["x"][0]


def test_a_figure_that_is_not_defined_any_more_has_no_newest_value(tmp_path):
    run = RunReader(tmp_path, "run", primary=True)
    for step in range(160):
        run.learner.add(
            step, step, {"learner.slope": 0.95 if step < 12 else None, "learner.kl": 0.1 if step == 3 else None}
        )
    answer = curves(run, CurveQuery(["learner.slope", "learner.kl"]))["curves"]
    assert [answer["learner.slope"][name] for name in ("last", "finite", "of")] == [None, 12, 160]
    assert answer["learner.kl"]["last"] == 0.1, "it is read at some steps only"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "0 curves are named"),
        ("names=" + ",".join(f"c{k}" for k in range(25)), "25 curves are named and 1 to 24"),
        ("names=a&x=wall", "x:"),
        ("names=a&points=2001", "points:"),
        ("names=a&points=nan", "points:"),
        ("names=a&from=nan", "from:"),
        ("names=a&after=inf", "after:"),
        ("names=a&after=1&after=2", "after is given more than once"),
        ("names=a&colour=red", "'colour' is not a parameter of this route; use: run, x, from"),
        ("names=" + "a" * 301, "is not a curve name"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_name_and_rule(client, finished, query, message):
    with client(finished) as page:
        answer = page.get(f"/api/curves?{query}")
        assert answer.status_code == 400 and message in answer.json()["error"]


def test_a_run_without_a_history_still_has_its_learners_curves(client, tmp_path):
    with client(make_run(tmp_path / "old", "no_history")) as page:
        loss = page.get("/api/curves?names=learner.loss,learner.labels.valid").json()["curves"]["learner.loss"]
        assert loss["points"] == STEPS and loss["y"][60] is None
        assert page.get("/api/overview").json()["recording"]["ok"] is False
        assert page.get("/api/samples").json()["samples"] == []


def test_the_learners_row_of_the_fixture_is_the_learners_own():
    """The made-up rows carry the names that learner/learner.py and learner/figures.py report, so that pages are tried on what will come."""
    import inspect

    from learner import figures, learner

    source = inspect.getsource(learner) + inspect.getsource(figures)
    for name in set(learner_row(1, 10, np.random.default_rng(0))) - {
        "log_z_lower",
        "log_z_mean",
        "ess",
        "slope",
        "correlation",
        "kl",
    }:
        assert f'"{name}"' in source, name
