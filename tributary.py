"""Tributary from Python: train a policy, and load what a run has learned.

    import tributary

    run = tributary.train("demo", learner={"steps": 200})
    run.samples(100), run.metrics, run.certificate()

These are the functions that the command line calls. An error that the command would print is raised as a
`TributaryError`, such as `ConfigError`. Importing this module is fast: the first call imports torch, Ray and vLLM.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deploy  # noqa: F401 - puts Tributary's packages in front of the working folder
from buffer.errors import AdapterError, ConfigError, ModelError, RewardError, StoreError, TributaryError

if TYPE_CHECKING:
    from deploy.artifacts.run_folder import RunFolder
    from deploy.driver.preflight import Checked
    from rewards.task import Task

__all__ = [
    "AdapterError",
    "ConfigError",
    "ModelError",
    "RewardError",
    "Run",
    "StoreError",
    "Task",
    "TributaryError",
    "load",
    "train",
]


class Run:
    """A run in its folder; `train` and `load` make one."""

    def __init__(self, folder: "RunFolder") -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    @property
    def adapter(self) -> Path:
        """The folder of the newest adapter, which PEFT, transformers and vLLM load."""
        return self._folder.adapter_path

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json. ConfigError if the run has not finished."""
        return self._folder.read_summary()

    @property
    def metrics(self) -> Any:
        """The learner's figures, a row per step: a pandas DataFrame if pandas is installed, else a list of dicts."""
        rows = self._folder.metrics()
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows)

    def samples(self, n: int = 10, split: str = "train", seed: int = 0) -> list[dict[str, Any]]:
        """n responses to each prompt of a split from the final adapter, drawn by vLLM.

        Each has prompt (its id), text, log_q, log_reward and terms; nats. A response whose reward fails is omitted.
        """
        checked = self._checked
        from deploy.driver.samples import draw, judged_prompts, sample_rows, score_samples
        from deploy.formatting import console

        prompts, adapter = judged_prompts(checked, split), (self._folder.version(), self._folder.adapter())
        drawn = draw(checked, prompts, adapter, n, base_too=False, seed=seed, say=console.print)
        [scored] = score_samples(checked, prompts, drawn)
        return list(sample_rows(checked, scored))

    def evaluate(
        self, split: str = "train", samples: int | None = None, prompts: int | None = None, seed: int = 12345
    ) -> dict[str, Any]:
        """Evaluate base model and final adapter, as `tributary evaluate` does; returns what it writes to
        evaluation.json."""
        checked = self._checked
        from deploy.driver.evaluate_run import evaluate_run
        from deploy.formatting import console

        result = evaluate_run(checked, self._folder, split, samples, prompts, None, seed, console.print)
        return self._folder.read_json(result.file)

    def certificate(self) -> dict[str, Any]:
        """How closely the final adapter samples its target: verdict, text, figures, intervals. ConfigError if that is
        not known."""
        record = self._folder.certified(self._folder.version().digest)
        if not record:
            raise ConfigError(f"{self.path} has no certificate of its adapter. Evaluate it: run.evaluate()")
        certificate: dict[str, Any] = record["certificate"]["after"]
        return certificate

    def resume(self, **sections: Any) -> "Run":
        """Continue a run that was stopped, or train it further: `run.resume(learner={"steps": 400})`."""
        from deploy.commands.environment import prepare_for_ray
        from deploy.config import resumed_config
        from deploy.driver.preflight import check

        source = f"{self.path}/config.toml"
        checked = check(resumed_config(self._folder.read_config(), (), source, sections))
        prepare_for_ray()
        from deploy.driver.train import resume
        from deploy.formatting import console

        _finish(lambda: resume(checked, self._folder, console))
        return Run(self._folder)

    def export(self, to: str | Path | None = None, merge: bool = False) -> Path:
        """Write the adapter, or with `merge` a whole model, into a new or empty folder; returns it."""
        checked = self._checked
        from deploy.driver.export import export_adapter, export_merged

        target = Path(to).expanduser() if to is not None else self.path / ("merged" if merge else "exported")
        (export_merged if merge else export_adapter)(checked, self._folder, target)
        return target

    @cached_property
    def _checked(self) -> "Checked":
        from deploy.commands.environment import quiet_engine

        quiet_engine()
        from deploy.config import parse_config
        from deploy.driver.preflight import check

        return check(parse_config(self._folder.read_config(), source=f"{self.path}/config.toml"))


def train(
    recipe: str | Path,
    *,
    run: str | Path | None = None,
    task: "type[Task] | Mapping[str, Any] | None" = None,
    replace: bool = False,
    dashboard: bool = False,
    sinks: Sequence[str] = (),
    **sections: Any,
) -> "Run":
    """Train the policy of a recipe until its steps are done, as `tributary train` does.

    `recipe`: a name of deploy/recipes, or the path of a TOML file. `sections` replace its settings, such as
    `learner={"steps": 200}` or `seed=1`. `task`: a class, which may be defined in a notebook, or the settings of
    section [task], whose `name` may be a class. `run`: folder of the run, default runs/RECIPE; `replace` deletes a run
    that is there. Raises TributaryError; KeyboardInterrupt if it is interrupted before training begins.
    """
    from deploy.commands.environment import prepare_for_ray
    from deploy.config import load_recipe
    from deploy.driver.notebook_task import task_section
    from deploy.driver.preflight import check
    from deploy.driver.train_options import TrainOptions

    folder = Path(run) if run is not None else Path("runs") / Path(recipe).stem
    if task is not None:
        sections["task"] = task_section(task, folder.parent)
    checked = check(load_recipe(str(recipe), sections=sections))
    prepare_for_ray()
    from deploy.driver.train import train as run_training
    from deploy.formatting import console

    options = TrainOptions(dashboard, sinks=tuple(sinks))
    _finish(lambda: run_training(checked, folder, replace, console, options))
    return load(folder)


def load(path: str | Path) -> "Run":
    """The run in a folder. ConfigError if there is none."""
    from deploy.artifacts.run_folder import RunFolder

    return Run(RunFolder.open(Path(path)))


def __getattr__(name: str) -> Any:
    """`Task`, whose module imports numpy."""
    if name == "Task":
        from rewards.task import Task

        return Task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _finish(training: Callable[[], dict[str, Any]]) -> None:
    """Train; an error that comes through Ray is raised as what it is."""
    from deploy.cluster.root_cause import root_cause

    try:
        summary = training()
    except Exception as error:
        cause = root_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from error
    if not summary:
        raise KeyboardInterrupt


if __name__ == "__main__":
    from deploy.cli import main

    main()
