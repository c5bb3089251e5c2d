"""docs/quickstart.ipynb on a tiny model: a task of a cell is trained, evaluated, sampled and exported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tributary
from tests.support.processes import ROOT
from tests.support.tiny import tiny_recipe
from tests.support.tiny_text import make_text_model
from tests.support.trained_run import make_trained_run


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last_and_another_process_resumes_its_run(tmp_path: Path) -> None:
    model = make_text_model(tmp_path / "model")
    command = [sys.executable, "-m", "tests.support.notebook", str(ROOT / "docs" / "quickstart.ipynb")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [*command, f"smollm2-135m-instruct={model}"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stdout + process.stderr
    shown = {line.partition(": ")[0]: line.partition(": ")[2] for line in process.stdout.splitlines()}
    assert shown["Out[3]"].startswith("samples the posterior")
    shares = ast.literal_eval(shown["Out[5]"])
    assert shares.keys() == {"", "a", "b", "c"}
    assert all(drawn == pytest.approx(target, abs=0.06) for drawn, target in shares.values())
    assert (tmp_path / "runs" / "letters" / "merged" / "model.safetensors").is_file()
    card = (tmp_path / "runs" / "letters" / "adapter" / "README.md").read_text()
    assert "samples the posterior" in card and "odds 1 : 2 : 4 : 8" in card
    code = """import tributary
run = tributary.load("runs/letters").resume(learner={"steps": 90})
print("resumed:", run.summary["steps"], run.summary["resumed_after_step"], run.certificate()["text"])"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert "resumed: 90 80 samples the posterior" in process.stdout, process.stdout + process.stderr


def test_a_run_is_exported_and_has_no_certificate_before_it_is_evaluated(tiny_model: Path, tmp_path: Path) -> None:
    made = make_trained_run(tmp_path / "run", tiny_recipe(tiny_model))
    run = tributary.load(made.folder.path)
    with pytest.raises(tributary.ConfigError, match=r"no certificate of its adapter\. Evaluate it"):
        run.certificate()
    certificate = {"text": "samples the posterior", "exact_draws": "Listed.", "figures": {}, "intervals": {}}
    digest = made.folder.version().digest
    made.folder.write_json("summary.json", {"adapter_sha256": digest, "certificate": {"after": certificate}})
    assert run.certificate() == certificate and run.summary["adapter_sha256"] == digest
    assert (run.export(tmp_path / "out") / "adapter_config.json").is_file() and run.adapter.is_dir()
