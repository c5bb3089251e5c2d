"""Every script of tests/benchmarks runs with --small and prints the figures that its docstring names."""

import ast
import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmark import ROOT, run_python

pytestmark = pytest.mark.slow

SCRIPTS = sorted(path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py"))
LIMIT_S = 900.0


def run_small(name: str) -> dict[str, Any]:
    """The JSON object in the last line of a benchmark's output."""
    output = run_python([f"tests/benchmarks/{name}.py", "--small", "--json"], LIMIT_S)
    result = json.loads(output.splitlines()[-1])
    assert isinstance(result, dict)
    return result


def promised_figures(docstring: str) -> list[str]:
    """Names at the start of the lines after "Figures, ...:", separated by commas; `*` stands for any text."""
    _, _, table = re.split(r"^(Figures, .*:)$", docstring, maxsplit=1, flags=re.MULTILINE)
    rows = re.findall(r"^([a-z*][\w*]*(?:, [a-z*][\w*]*)*)  ", table, flags=re.MULTILINE)
    return [name for row in rows for name in row.split(", ")]


def check_broadcast(result: dict[str, Any]) -> None:
    assert result["broadcast_over_local"] > 0 and result["throughput_ratio"] > 0


def check_buffer(result: dict[str, Any]) -> None:
    for name in ("draw_over_mget", "insert_over_set", "update_over_set", "draw_growth"):
        assert result[name] > 0
    assert result["insert_over_reverb"] is None
    assert len(result["rows"]) == 4 and len(result["clients"]) == 3


def check_buffer_soak(result: dict[str, Any]) -> None:
    assert result["kills"] >= 4 and result["acknowledged"] > 1000
    assert (result["lost"], result["duplicates"], result["client_errors"]) == (0, 0, 0)
    assert result["check_clean"] is True


def check_canary(result: dict[str, Any]) -> None:
    assert result["canaries"] == 6 and result["right"]["exceeded"] == 0.0
    medians = [result[case]["mean_median"] for case in ("right", "one_old", "ten_old")]
    assert medians == sorted(medians), "the older the version, the larger the difference"


def check_certificate(result: dict[str, Any]) -> None:
    rows = {(row["target"], row["name"]): row for row in result["planted"]}
    assert len(rows) == 23
    for name in ("right", "half of the mass dropped", "half the strings dropped", "base model"):
        assert rows["toy", name]["verdict_right_of_100"] == 100.0
    assert rows["toy", "half the strings dropped"]["blind_of_100"] == 100.0, "found without exact draws"
    assert rows["toy", "right"]["told_apart_of_100"] == 0.0


def check_continuation(result: dict[str, Any]) -> None:
    assert result["base"][-1]["log_r"] > result["base"][0]["log_r"], "low temperatures give likelier text"
    assert abs(result["log_r_gain"]) < 3.0, "the untrained policy is the base model, up to sampling noise"


def check_dashboard(result: dict[str, Any]) -> None:
    assert result["server_core_fraction"] > 0 and result["throughput_ratio"] > 0


def check_engine(result: dict[str, Any]) -> None:
    assert result["tokens_per_s_of_16_ratio"] > 0 and result["tokens_per_s_of_3_ratio"] > 0
    for side in ("stock", "patched"):
        assert result[f"{side}_16_tokens"]["canary_difference_nats"] < 2e-3, "both sides sample the adapter"


def check_learner(result: dict[str, Any]) -> None:
    assert result["speedup_long"] > 0
    assert result["memory_over_plan"] > 0
    assert 0 < result["overhead"] < 1 and 0 < result["matmul_fraction"] < 1
    losses = [result["long_plain"]["loss"], result["long_ours"]["loss"]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "both sides compute the same loss"


def check_models(result: dict[str, Any]) -> None:
    assert len(result["supported"]) >= 21 and all(row["speedup"] > 0 for row in result["rows"] if row["supported"])


def check_rewards(result: dict[str, Any]) -> None:
    for key in ("speedup", "bound", "fraction_of_bound", "max_difference_nats", "scorer_over_forward"):
        assert len(result[key]) == 2, key
    assert max(result["max_difference_nats"]) < 1e-3 and min(result["speedup"]) > 0


def check_scaling(result: dict[str, Any]) -> None:
    assert set(result["efficiency"]) == {"1", "2"} and result["ceiling"]["trajectories_per_s"] > 0


def check_silent_faults(result: dict[str, Any]) -> None:
    """Each fault is named by an error of this project, at the latest by the first samples of the first wrong version."""
    assert result["healthy_versions"] == 4, "nothing is noticed where there is no fault"
    assert result["healthy_difference_max"] < result["tolerance"] / 100
    unnoticed = [row["fault"] for row in result["rows"] if not row["detected"] or row["versions"] > 1]
    assert len(result["rows"]) == 12 and not unnoticed
    by_samples = [row["fault"] for row in result["rows"] if row["by"].endswith("SampleCheck.compare")]
    assert len(by_samples) == 4, "canaries cannot see the faults of the sampling path"


def check_single_process(result: dict[str, Any]) -> None:
    assert result["ours_over_single_process"] > 0 and result["ours_fresh_per_update"] > 0
    assert len(result["single_process_losses"]) == 2


def check_staleness(result: dict[str, Any]) -> None:
    tv = {(row["objective"], row["lag"]): row["tv"] for row in result["rows"]}
    assert len(tv) == 30 and result["steps"] < 100
    for objective in ("group_subtb", "subtb", "vargrad", "tb", "pg_kl", "pg"):
        assert objective == "pg" or tv[objective, 0] < result["tv_initial"], "it learns"
        assert len({tv[objective, lag] for lag in (0, 10, "frozen")}) == 3, "the lag changes what is learned from"
        assert tv[objective, 100] == tv[objective, 400] == tv[objective, "frozen"], "a lag as long as the run is frozen"


def check_soak(result: dict[str, Any]) -> None:
    assert sum(result["faults"].values()) > 20 and result["acknowledged"] > 5_000
    nothing = ("lost", "duplicates", "failed_adds", "orphans", "exit_code")
    assert [result[name] for name in nothing] == [0] * 5 and result["unrecovered"] == [], result
    assert result["silent"] <= 0.1 * sum(result["faults"].values()), "2 of 133 in the log, both of reward workers"
    assert (result["steps_lost_max"] or 0) <= result["checkpoint_every"] and result["consistent"], result
    assert result["total_variation"]["after"] < result["total_variation"]["before"]


def check_whole_loop(result: dict[str, Any]) -> None:
    assert 0 <= result["engine_waits"] <= 1 and 0 <= result["learner_waits"] <= 1
    assert result["trajectories_per_s"] > 0 and result["steps_per_s"] > 0


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "broadcast": check_broadcast,
    "buffer": check_buffer,
    "buffer_soak": check_buffer_soak,
    "canary": check_canary,
    "certificate": check_certificate,
    "continuation": check_continuation,
    "dashboard": check_dashboard,
    "engine": check_engine,
    "learner": check_learner,
    "models": check_models,
    "rewards": check_rewards,
    "scaling": check_scaling,
    "silent_faults": check_silent_faults,
    "single_process": check_single_process,
    "soak": check_soak,
    "staleness": check_staleness,
    "whole_loop": check_whole_loop,
}
"""A KeyError for a new script means: write its check."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_runs_small_and_prints_the_figures_of_its_docstring(name: str) -> None:
    result = run_small(name)
    source = Path(ROOT, "tests/benchmarks", f"{name}.py").read_text()
    promised = promised_figures(ast.get_docstring(ast.parse(source)) or "")
    assert promised, "the docstring ends with a table of figures"
    missing = [figure for figure in promised if not fnmatch.filter(result, figure)]
    assert not missing
    CHECKS[name](result)
