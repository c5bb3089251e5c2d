"""The headline figures and the result of a run: pooled, with intervals, and of the newest evaluation."""

import json
import math
import os

import numpy as np
import pytest

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.headline import POOLED_SAMPLES, headline, pooled
from tests.support.fixture_runs import make_run


def test_a_rare_success_reads_its_rate_and_not_zero(tmp_path):
    """Ten readings of 7 to 13 samples whose median is 0: the rate is 3.5 %, and the interval says how sure that is."""
    run = RunReader(tmp_path, "run", primary=True)
    accuracies = [1 / 11, 0, 0, 0, 1 / 13, 1 / 11, 1 / 11, 0, 0, 0]
    samples = [11, 11, 12, 13, 13, 11, 11, 10, 11, 12]
    for step, (accuracy, n) in enumerate(zip(accuracies * 6, samples * 6, strict=True)):
        run.learner.add(step, step, {"learner.var_u": 1.0, "learner.labels.accuracy": accuracy, "learner.on_policy": n})
    (tile,) = [one for one in headline(run, None) if one["name"] == "valid"]
    assert tile["value"] == pytest.approx(4 / 115, rel=0.2) and tile["unit"] == "share"
    assert 0 < tile["low"] < 4 / 115 < tile["high"] < 0.1 and POOLED_SAMPLES <= tile["samples"] < POOLED_SAMPLES + 13
    assert tile["before"] == pytest.approx(4 / 115, rel=0.2)


def test_without_labels_the_reward_of_ones_own_is_the_headline(tmp_path):
    run = RunReader(tmp_path, "run", primary=True)
    for step in range(20):
        terms = {"learner.terms.base": -20.0, "learner.terms._note": 1.0, "learner.terms.accuracy": 0.25}
        run.learner.add(step, step, {"learner.var_u": 1.0, "learner.on_policy": 8, **terms})
    result = {"rows": [{"name": "mean_accuracy", "before": None, "after": None}]}
    (tile,) = [one for one in headline(run, result) if one["name"] == "valid"]
    assert tile["title"] == "accuracy, mean" and tile["unit"] == "share" and tile["value"] == 0.25
    assert tile["evaluated"]["name"] == "mean_accuracy"


def test_pooled_means_weigh_steps_by_their_samples_and_know_their_error():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        sizes = rng.integers(4, 12, 40)
        steps = np.array([rng.normal(2.0, 3.0, n).mean() for n in sizes])
        interval, n = pooled(steps, sizes.astype(float), is_share=False)
        assert n == sizes.sum()
        covered.append(interval.low < 2.0 < interval.high)
    assert 0.9 <= np.mean(covered) <= 0.99
    mean, _ = pooled(np.array([1.0, 0.0]), np.array([1.0, 3.0]), is_share=True)
    assert mean.value == 0.25 and 0 < mean.low < 0.25 < mean.high < 1
    assert pooled(np.zeros(0), np.zeros(0), is_share=True)[1] == 0
    assert math.isnan(pooled(np.ones(1), np.ones(1), is_share=False)[0].low), "one step has no spread"


def test_the_overview_has_each_headline_with_its_beginning_and_the_evaluations_figure(client, finished):
    with client(finished) as page:
        view = page.get("/api/overview").json()
        figures = {figure["name"]: figure for figure in view["figures"]}
        assert figures["var_u"]["value"] < 1.0 < figures["var_u"]["before"]
        valid = figures["valid"]
        assert (
            valid["title"] == "valid"
            and valid["unit"] == "share"
            and valid["before"] < 0.5 < valid["low"] < valid["high"]
        )
        assert valid["evaluated"]["after"] == {"value": 0.998, "low": 0.995, "high": 0.999, "side": None}
        assert 0 < figures["diversity"]["value"] <= 1 and figures["log_reward"]["value"] < 0
        assert view["result"]["verdicts"]["after"].startswith("samples the posterior")
        rows = {row["name"]: row for row in view["result"]["rows"]}
        assert rows["log_z_low"]["target"] == pytest.approx(math.log(101)) and rows["gap"]["target"] == 0.0
        assert rows["slope"]["after"]["value"] is None and rows["ess"]["after"]["side"] == "at most"


def test_the_result_is_of_the_newest_evaluation_and_damaged_files_are_passed_over(client, tmp_path):
    folder = make_run(tmp_path / "live", "live")
    picture = b"\x89PNG\r\n\x1a\n"
    with client(folder) as page:
        assert page.get("/api/overview").json()["result"] is None
        assert page.get("/api/result.png").status_code == 404
        certificate = {"before": {"text": "too flat"}, "after": {"text": "close to the posterior"}}
        evaluation = {"certificate": certificate, "metrics": {"before": {"valid": 0.1}, "after": {"valid": 0.9}}}
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        result = page.get("/api/overview").json()["result"]
        assert (
            result["verdicts"] == {"before": "too flat", "after": "close to the posterior"} and result["plot"] is None
        )
        (folder / "summary.json").write_text(json.dumps({"metrics": {"before": None, "after": {"valid": 0.95}}}))
        os.utime(folder / "evaluation.json", (1, 1))
        assert page.get("/api/overview").json()["result"]["rows"][0]["after"]["value"] == 0.95
        (folder / "summary.json").write_text('{"certificate": [1], "metrics": 3}')
        assert page.get("/api/overview").json()["result"]["source"] == "evaluation.json"
        line = {"step": 40, "version": 40, "split": "test", "figures": {"valid": 0.7}, "best": True}
        (folder / "evaluations.jsonl").write_text(json.dumps(line) + "\n" + '{"step": 5')
        result = page.get("/api/overview").json()["result"]
        assert (result["source"], result["split"], result["steps"]) == ("evaluations.jsonl", "test", 40)
        assert result["rows"][0]["after"]["value"] == 0.7 and result["rows"][0]["before"]["value"] is None
        (folder / "plots").mkdir(exist_ok=True)
        (folder / "plots" / "histogram.png").write_bytes(picture)
        answer = page.get("/api/result.png")
        assert answer.content == picture and answer.headers["content-type"] == "image/png"
        (folder / "plots" / "histogram.png").rename(tmp_path / "elsewhere.png")
        (folder / "plots" / "histogram.png").symlink_to(tmp_path / "elsewhere.png")
        assert page.get("/api/result.png").status_code == 404, "links are not followed"
        (folder / "plots" / "histogram.png").unlink()
        (folder / "plots").rename(tmp_path / "plots")
        (tmp_path / "elsewhere.png").rename(tmp_path / "plots" / "histogram.png")
        (folder / "plots").symlink_to(tmp_path / "plots")
        assert page.get("/api/result.png").status_code == 404, "not to a folder either"
