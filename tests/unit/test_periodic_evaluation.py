"""Evaluations while training: when they are due, which adapter is the best, when patience ends, what survives."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Canary
from deploy.config import EvaluationConfig, load_recipe
from deploy.driver.evaluation import Judged
from deploy.driver.periodic_evaluation import PeriodicEvaluation

NONE = np.zeros(0, np.int32)


def adapter(number: int) -> tuple[AdapterVersion, AdapterFiles]:
    canary = Canary(NONE, NONE, np.zeros(0, np.float32), 0.1)
    return AdapterVersion(number, f"{number:064}", number, canary), AdapterFiles(f"weights {number}".encode(), "{}")


def periodic(folder: Path, first_step: int = 0, **settings: Any) -> PeriodicEvaluation:
    prompts = [SimpleNamespace(id="p", text="x", token_ids=NONE)]
    task = SimpleNamespace(splits=("train", "test"), prompts=lambda split: prompts)
    names = {"task": SimpleNamespace(name="t"), "model": SimpleNamespace(name="smollm2-135m-instruct")}
    config = SimpleNamespace(evaluation=EvaluationConfig(**settings), **names)
    return PeriodicEvaluation(folder, SimpleNamespace(task=task, config=config), first_step)  # type: ignore[arg-type]


def add(evaluation: PeriodicEvaluation, step: int, **figures: float) -> str:
    return evaluation.add(step, Judged(figures, {}, 1.0, None), adapter(step))


def test_it_is_due_every_so_many_steps_on_the_held_out_split(tmp_path: Path) -> None:
    evaluation = periodic(tmp_path, every=10)
    assert evaluation.split == "test" and [s for s in (5, 9, 10, 15) if evaluation.is_due(s)] == [10, 15]
    assert add(evaluation, 12, correct=0.5) == "step 12, split 'test': correct 0.5"
    assert [s for s in (13, 21, 22) if evaluation.is_due(s)] == [22]
    assert not periodic(tmp_path).is_due(1000)


@pytest.mark.parametrize(
    ("best", "values", "kept"), [("correct", (0.1, 0.4, 0.3, 0.2), 2), ("-tokens", (9.0, 4.0, 3.0, 5.0), 3)]
)
def test_the_best_adapter_is_kept_and_patience_ends(
    tmp_path: Path, best: str, values: tuple[float, ...], kept: int
) -> None:
    evaluation = periodic(tmp_path, every=1, best=best, patience=2)
    ended = []
    for step, value in enumerate(values, start=1):
        line = add(evaluation, step, **{best.removeprefix("-"): value})
        assert line.endswith("(the best so far)") == (step <= kept)
        ended.append(evaluation.is_out_of_patience)
    assert (tmp_path / "best" / "adapter_model.safetensors").read_bytes() == f"weights {kept}".encode()
    assert json.loads((tmp_path / "best" / "about.json").read_text())["step"] == kept
    base = json.loads((tmp_path / "best" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == "HuggingFaceTB/SmolLM2-135M-Instruct", "the hub's name, not a path of this machine"
    assert ended == [False, False, False, kept == 2]


def test_a_resumed_run_keeps_the_rows_up_to_its_checkpoint(tmp_path: Path) -> None:
    evaluation = periodic(tmp_path, every=10, best="correct")
    for step, value in ((10, 0.5), (20, 0.9)):
        add(evaluation, step, correct=value)
    again = periodic(tmp_path, first_step=15, every=10, best="correct")
    rows = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10] and not again.is_due(20) and again.is_due(25)
    assert add(again, 25, correct=0.6).endswith("(the best so far)"), "0.9 belongs to steps that are made again"


def test_settings_that_can_not_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs an evaluation while training"):
        load_recipe("demo", ["evaluation.best=valid"])
    with pytest.raises(ConfigError, match=r"evaluation\.patience = 2 needs evaluation\.best"):
        load_recipe("demo", ["evaluation.every=10", "evaluation.patience=2"])
    with pytest.raises(ConfigError, match=r"no figure of this task. Its figures: correct"):
        add(periodic(tmp_path, every=1, best="accuracy"), 1, correct=1.0)


def test_a_figure_that_the_first_evaluation_cannot_have_ends_the_run_with_the_fix(tmp_path: Path) -> None:
    evaluation = periodic(tmp_path, every=10, best="pass_at_8", every_samples=4)
    with pytest.raises(
        ConfigError, match=r"pass_at_8' is nan in the first evaluation, of evaluation\.every_samples = 4"
    ):
        add(evaluation, 10, pass_at_8=math.nan)
    add(evaluation, 20, pass_at_8=0.5)
    assert not add(evaluation, 30, pass_at_8=math.nan).endswith("(the best so far)")
