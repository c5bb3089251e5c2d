"""The experiments of `tributary reproduce`: their recipes, their rows and their tables."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.config import load_recipe
from deploy.driver.check_objective import check_objective
from deploy.evidence import reproduce
from deploy.evidence.experiments import EXPERIMENTS, Contender, Experiment, find_experiment
from deploy.evidence.figure import write_figure
from deploy.evidence.rows import Row, Rows, figures_of, verdict_of
from deploy.evidence.table import write_table

DECODINGS = {"--temperature", "--top-p", "--greedy", "--beam", "--diverse-beam", "--best-of", "--shots", "--max-tokens"}
OURS, BASE = Contender("ours", "toy"), Contender("base", "toy", trains=False)
LATER = Contender("later", "toy")
EXPERIMENT = Experiment(
    "A title", (OURS, LATER, BASE), {"tv": "total variation"}, "smallest", 1.0, published={"A paper": "0.1"}
)


def row(contender: str, seed: int, tv: float | None, minutes: float | None = None) -> Row:
    seconds, drawn = (None, None) if minutes is None else (60 * minutes, 1000)
    return Row(
        contender=contender, seed=seed, settings=["toy"], figures={"tv": tv}, verdict="samples (gap 1)",
        trajectories=drawn, training_s=seconds, command="tributary train toy", commit="abc", machine="2 cores",
    )  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_contender_is_a_recipe_with_the_batches_that_its_objective_needs(name: str) -> None:
    experiment = find_experiment(name)
    assert len({c.name for c in experiment.contenders}) == len(experiment.contenders)
    for contender in experiment.contenders:
        config = load_recipe(contender.recipe, contender.overrides)
        check_objective(config, prompts=2, whole_strings_only=False)
        assert contender.trains or any(c.trains and c.recipe == contender.recipe for c in experiment.contenders)
        if contender.teaches:
            assert config.learner.objective == "sft"
        assert not contender.decoding or set(contender.decoding) & DECODINGS, "it reads the file of another decoding"
        of_recipe = [c for c in experiment.contenders if c.trains and c.recipe == contender.recipe]
        assert contender.like in {"", *(c.name for c in of_recipe)}


def test_an_unknown_experiment_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'integer' is not an experiment. Choose one of: integers, solutions"):
        find_experiment("integer")


def test_the_table_has_means_ranges_missing_contenders_and_published_figures(tmp_path: Path) -> None:
    rows = [row("ours", 1, 0.3, 4.0), row("ours", 0, 0.1, 2.0), row("base", 0, None)]
    write_table(tmp_path / "table.md", "toys", EXPERIMENT, rows)
    text = (tmp_path / "table.md").read_text()
    assert "| ours | 0.2 [0.1, 0.3] | 2 | 1,000 [1,000, 1,000] | 3 [2, 4] | samples |" in text
    assert "| base | - | 1 | - | - | samples |" in text
    assert "Not run yet: later." in text and "A paper: 0.1." in text and "`tributary reproduce toys`" in text
    write_figure(tmp_path / "figure.svg", EXPERIMENT, rows)
    assert "<svg" in (tmp_path / "figure.svg").read_text()


def test_rows_outlive_the_process_and_a_row_of_other_settings_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "results.json"
    Rows(path).add(row("ours", 0, 0.1))
    again = Rows(path)
    again.add(row("ours", 0, 0.2))
    stored = Rows(path)
    assert [r.figures["tv"] for r in stored.rows] == [0.2], "one row of a contender and seed"
    assert stored.find("ours", 0, ["toy"]) is not None and stored.find("ours", 1, ["toy"]) is None
    assert stored.find("ours", 0, ["toy", "learner.steps=9"]) is None
    path.write_text('{"rows": [{"contender": 3}]}')
    with pytest.raises(ConfigError, match="is not a table of results of this release"):
        Rows(path)


def test_figures_come_from_the_side_that_was_judged_and_exact_distances_from_training_alone() -> None:
    summary = {
        "metrics": {"before": {"valid": 0.1, "kl": 3.0}, "after": {"valid": 0.9}},
        "posterior": {"total_variation": 0.02},
        "certificate": {"before": {"figures": {"gap": 9.0}, "text": "too flat"}, "after": None},
    }
    assert figures_of(summary, "before") == {"valid": 0.1, "kl": 3.0, "gap": 9.0}
    assert figures_of(summary, "after") == {"valid": 0.9, "total_variation": 0.02}
    assert (verdict_of(summary, "before"), verdict_of(summary, "after")) == ("too flat", "")


def test_each_split_is_judged_once_a_run_and_decoders_not_on_the_simulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    run = tmp_path / "runs" / reproduce.run_name(OURS, 0, [])

    def tributary(arguments: Sequence[str]) -> None:
        commands.append(" ".join(arguments[3:]))
        split, decodes = arguments[arguments.index("--split") + 1], "--greedy" in arguments
        file = "evaluation-decoding.json" if decodes else f"evaluation-{split}.json"
        figure = {"train": 3.0, "test": 4.0, "simulated": 5.0}[split]
        metrics = {"before": {"right": figure}, "after": {"right": figure + 10 + decodes}}
        (run / file).write_text(json.dumps({"metrics": metrics}))

    monkeypatch.setattr(reproduce, "_tributary", tributary)
    greedy = Contender("ours, greedy", "toy", trains=False, decoding=("--greedy",), like="ours")
    splits = ("test", "simulated")
    figures = {"test.right": "right"}
    experiment = Experiment(
        "A", (OURS, greedy, BASE), figures, "largest", 1.0, splits=splits, judged=("--samples", "2")
    )
    run.mkdir(parents=True)
    summary = {"stopped_by": None, "trajectories": 9, "training_seconds": 1.0, "metrics": {}}
    (run / "summary.json").write_text(json.dumps(summary))
    reproduce.reproduce("a", experiment, reproduce.Place(tmp_path / "runs", tmp_path), 1, math.inf, [], print)
    rows = {row.contender: row.figures for row in Rows(tmp_path / "results.json").rows}
    assert rows["ours"] == {"test.right": 14.0, "simulated.right": 15.0}
    assert rows["ours, greedy"] == {"test.right": 15.0} and rows["base"] == {"test.right": 4.0, "simulated.right": 5.0}
    assert [command.split()[1] for command in commands] == ["test", "simulated", "test"], "base model: nothing is left"
    assert all("--samples 2" in command for command in commands)


def test_runs_of_other_settings_or_seeds_are_other_folders() -> None:
    names = {
        reproduce.run_name(OURS, 0, []),
        reproduce.run_name(OURS, 1, []),
        reproduce.run_name(OURS, 0, ["learner.steps=3"]),
    }
    names.add(reproduce.run_name(replace(OURS, overrides=("learner.steps=3",)), 0, []))
    assert len(names) == 3 and reproduce.run_name(OURS, 0, []) in names, "an override is a setting, whoever gives it"
