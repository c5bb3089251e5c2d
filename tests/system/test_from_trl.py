"""docs/from-trl.md, followed in an empty folder: rows, a reward function as TRL calls it, and a recipe; no Python of ours."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_text import make_text_model

ROOT = Path(__file__).resolve().parents[2]
LINES_OF_THE_RECIPE = 12


def blocks(kind: str) -> list[str]:
    """Code blocks of the page."""
    page = (ROOT / "docs" / "from-trl.md").read_text("utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


@pytest.mark.slow
def test_a_user_of_trl_trains_with_their_own_rows_and_reward(tmp_path: Path) -> None:
    model = make_text_model(tmp_path / "model")
    folder = tmp_path / "empty"
    folder.mkdir()
    ([data], [rewards], [recipe]) = blocks("json"), blocks("python"), blocks("toml")
    assert len(recipe.splitlines()) <= LINES_OF_THE_RECIPE
    for name, text in (("data.jsonl", data), ("my_rewards.py", rewards), ("sums.toml", recipe)):
        (folder / name).write_text(text)
    tiny = [f'model.name="{model}"', "model.dtype=float32", "learner.steps=200", "learner.batch_size=16"]
    tiny += ["buffer.min_size_to_sample=16", "evaluation.samples=8", "actors.max_model_len=96"]
    tiny += ["evaluation.every=50", "evaluation.every_samples=4", "evaluation.best=reward"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def tributary(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    checked = tributary("validate", "sums.toml", *tiny)
    assert checked.returncode == 0, checked.stderr
    done = tributary("train", "sums.toml", *tiny, "--run", "run", "--no-dashboard")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert {"mean_correct", "reward", "tokens"} <= set(summary["metrics"]["after"])
    rows = [json.loads(line) for line in (folder / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert rows and rows[0]["best"] and {"reward", "mean_correct"} <= set(rows[0]["figures"])
    assert rows[-1]["step"] == 200, "the last adapter is evaluated too"
    for place in ("adapter", "best"):
        assert (folder / "run" / place / "adapter_model.safetensors").is_file()
    assert summary["steps"] == 200, "actors sampled on after the evaluations"
