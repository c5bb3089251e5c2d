"""The benchmarks run where there is no GPU: on the tiny model, each prints the keys it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.slow


def run(name: str, *args: str) -> dict[str, float]:
    """The last line of a benchmark's output."""
    command = [sys.executable, f"tests/benchmarks/{name}.py", "--json", *args]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_learner_benchmark_measures_both_sides_of_every_case(tiny_model: Path) -> None:
    found = run("learner", "--model", str(tiny_model), "--steps", "1")
    assert all(found[f"speedup_{case}"] > 0 for case in ("short", "long", "forced"))
    assert 0 < found["overhead"] < 1 and 0 < found["matmul_fraction"] < 1
    sides = [found["long_plain"], found["long_ours"]]
    assert sides[0]["loss"] == pytest.approx(sides[1]["loss"], rel=1e-3), "both sides computed the same"  # type: ignore[index]


def test_the_whole_loop_benchmark_tells_who_waits(recipe: Path) -> None:
    found = run("whole_loop", "--recipe", str(recipe), "--steps", "20")
    assert 0 <= found["engine_waits"] <= 1 and 0 <= found["learner_waits"] <= 1
    assert found["trajectories_per_s"] > 0 and found["steps_per_s"] > 0


def test_the_buffer_benchmark_measures_every_ceiling_and_every_operation() -> None:
    found = run("buffer", "--sizes", "600,1200", "--rounds", "2", "--calls", "4")
    for name in ("draw_over_mget", "insert_over_set", "update_over_set", "draw_growth"):
        assert found[name] > 0
    assert found["insert_over_reverb"] is None
    assert len(found["rows"]) == 4 and len(found["clients"]) == 3  # type: ignore[arg-type]


def test_the_soak_loses_nothing_while_the_server_and_clients_are_killed() -> None:
    found = run("buffer_soak", "--minutes", "0.25", "--every", "3", "--seed", "0")
    assert found["kills"] >= 4 and found["acknowledged"] > 1000
    assert (found["lost"], found["duplicates"], found["client_errors"]) == (0, 0, 0)
    assert found["check_clean"] is True


def test_the_rewards_benchmark_compares_equal_scores_at_every_shape() -> None:
    found = run("rewards", "--quick", "--rounds", "1")
    for key in ("speedup", "bound", "fraction_of_bound", "max_difference_nats", "scorer_over_forward"):
        assert len(found[key]) == 2, key  # type: ignore[arg-type]
    assert max(found["max_difference_nats"]) < 1e-3 and min(found["speedup"]) > 0  # type: ignore[call-overload]


def test_the_dashboard_benchmark_loads_the_server_and_pairs_runs_with_and_without_it() -> None:
    found = run("dashboard", "--seconds", "4", "--pairs", "1")
    assert found["server_core_fraction"] > 0 and found["throughput_ratio"] > 0


def test_the_scaling_benchmark_reaches_the_sum_of_the_engines_rates() -> None:
    found = run("scaling", "--most", "2", "--window", "3", "--rate", "5")
    assert set(found["efficiency"]) == {"1", "2"} and found["ceiling"]["trajectories_per_s"] > 0  # type: ignore[arg-type,index]


def test_the_broadcast_benchmark_times_both_ways(recipe: Path) -> None:
    found = run(
        "broadcast", "--recipe", str(recipe), "--versions", "2", "--window", "2", "--interval", "0.5", "--rounds", "1"
    )
    assert found["broadcast_over_local"] > 0 and found["throughput_ratio"] > 0
