"""The whole system through its command: Ray, vLLM, Redis and a separate learner, on a tiny model with a known posterior.

`make test` runs one whole training of this file; the slow tests evaluate and sample the run that it leaves.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from deploy.driver.evaluate_decoding import FILE as DECODING
from deploy.evidence.experiments import Contender, Experiment
from deploy.evidence.reproduce import Place, reproduce, run_name
from tests.support.processes import Command, rows_of, until
from tests.support.tiny import PACED, TinyTask


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Folder of the run's temporary files; a short path, since Ray makes sockets in it."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def finished(recipe: Path, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Command, str]:
    """One complete run, its command and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    command = Command("train", str(recipe), PACED, "--run", str(run), TMPDIR=str(scratch))
    until(
        lambda: list(scratch.glob("tributary-adapters-*")) != [] or command.process.poll() is not None, 240, "an engine"
    )
    until(lambda: len(rows_of(run)) > 5 or command.process.poll() is not None, 240, "training")
    assert len(command.family()) > 5, command.finish()  # remembers the processes, for the test of what is left
    return run, command, command.finish()


def test_the_whole_system_reaches_the_exact_posterior(finished: tuple[Path, Command, str]) -> None:
    run, command, output = finished
    assert command.process.returncode == 0, output
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["after"]["total_variation"] <= 0.05 < 0.3 < metrics["before"]["total_variation"]


def test_the_table_of_a_run_names_its_target_its_prompt_and_the_bounds(finished: tuple[Path, Command, str]) -> None:
    output = " ".join(finished[2].split())
    assert "Target: R^(1/T) at reward temperature T = 1." in output and "Prompt: the one trained on." in output
    assert "at most" in output and "K = 8,000, 1/K = 0.000125" in output


def test_a_finished_run_leaves_no_process_and_no_adapter_behind(
    finished: tuple[Path, Command, str], scratch: Path
) -> None:
    assert finished[1].alive() == []
    assert list(scratch.glob("tributary-adapters-*")) == []


def test_the_summary_holds_what_other_tools_read(finished: tuple[Path, Command, str], tiny_model: Path) -> None:
    run = finished[0]
    summary = json.loads((run / "summary.json").read_text())
    keys = {"task", "seconds", "steps", "trajectories", "trajectories_per_s", "tokens_per_s", "metrics", "log_z", "var_u",
            "staleness", "versions_published", "adapter_sha256", "versions"}  # fmt: skip
    assert keys <= set(summary)
    assert summary["steps"] == 300 and summary["versions_published"] == 151
    assert summary["trajectories"] > 500 and summary["staleness"]["max"] < 100
    task = TinyTask(Tokenizer.from_file(str(tiny_model / "tokenizer.json")))
    assert summary["log_z"] == pytest.approx(task.log_mass()[0], abs=0.1)
    assert summary["var_u"] < 0.05
    assert summary["canary_difference_max"] < 2e-4, "actors served what was published, every time"


def test_a_run_lives_in_one_folder(finished: tuple[Path, Command, str]) -> None:
    run = finished[0]
    for name in (
        "config.toml",
        "metrics.jsonl",
        "summary.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/generation_config.json",
        "adapter/tokenizer.json",
        "plots/training.png",
    ):
        assert (run / name).stat().st_size > 0, name
    assert [row["step"] for row in rows_of(run)] == list(range(1, 301))
    card = (run / "adapter" / "README.md").read_text()
    assert json.loads((run / "summary.json").read_text())["certificate"]["after"]["text"] in card


def test_the_final_adapter_is_one_that_peft_loads(finished: tuple[Path, Command, str], tiny_model: Path) -> None:
    import hashlib

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = finished[0]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run / "adapter"))
    moved = [float(p.abs().sum()) for n, p in model.named_parameters() if "lora_B" in n]
    assert moved and min(moved) > 0
    digest = hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert digest == json.loads((run / "summary.json").read_text())["adapter_sha256"]


@pytest.mark.slow
def test_evaluate_and_sample_read_a_finished_run(finished: tuple[Path, Command, str]) -> None:
    run = finished[0]
    evaluate = Command("evaluate", "--run", str(run), "--samples", "8000")
    output = " ".join(evaluate.finish().split())
    assert (
        "total_variation" in output and "Trained: samples the posterior" in output and evaluate.process.returncode == 0
    )
    evaluation = json.loads((run / "evaluation.json").read_text())
    metrics, certificate = evaluation["metrics"], evaluation["certificate"]
    assert certificate["after"]["verdict"] == "samples" and certificate["before"]["verdict"] == "misses mass"
    assert certificate["after"]["figures"]["engine_difference"] < 5e-4, "engine and learner have the same log q"
    assert metrics["after"]["total_variation"] <= 0.05 < metrics["before"]["total_variation"]
    sample = Command("sample", "--run", str(run), "-n", "7", "--exact")
    lines = [line for line in sample.finish().splitlines() if line.startswith("draw")]
    assert len(lines) == 7 and {c for line in lines for c in line.removeprefix("draw")} <= set("abc ")


@pytest.mark.slow
def test_an_adapter_that_was_tampered_with_is_not_evaluated(finished: tuple[Path, Command, str]) -> None:
    path = finished[0] / "adapter" / "adapter_model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        command = Command("sample", "--run", str(finished[0]), "-n", "1")
        assert "sha256" in command.finish() and command.process.returncode == 2
    finally:
        path.write_bytes(good)


@pytest.mark.slow
def test_reproduce_reads_a_finished_run_and_decodes_the_base_model_in_another_way(
    finished: tuple[Path, Command, str], recipe: Path, tmp_path: Path
) -> None:
    runs, to = tmp_path / "runs", tmp_path / "results"
    ours, greedy = (
        Contender("ours", str(recipe)),
        Contender("greedy", str(recipe), trains=False, decoding=("--greedy",)),
    )
    run = runs / run_name(ours, 0, [])
    shutil.copytree(finished[0], run)
    experiment = Experiment(
        "Toys", (ours, greedy), {"total_variation": "total variation"}, "smallest", 1.0, judged=("--samples", "200")
    )
    heard: list[str] = []
    assert reproduce("toys", experiment, Place(runs, to), 1, math.inf, [], heard.append) == []
    of_ours, of_greedy = json.loads((to / "results.json").read_text())["rows"]
    assert of_ours["figures"]["total_variation"] <= 0.05 and of_ours["trajectories"] > 500
    assert json.loads((run / DECODING).read_text())["decoding"]["temperature"] == 0.0
    assert of_greedy["figures"]["total_variation"] > 0.8, "one string has all the mass"
    assert of_greedy["trajectories"] is None and heard == ["[1/2] ours, seed 0", "[2/2] greedy, seed 0"]
    assert reproduce("toys", experiment, Place(runs, to), 1, math.inf, [], heard.append) == [] and len(heard) == 2
