"""The end of a run: summary.json, plots, and the result on the console."""

from typing import Any

from rich.text import Text

from buffer.types import AdapterVersion
from deploy.artifacts.summary import figures_of_rows, installed_versions
from deploy.driver.evaluation import explanations, notes, show_certificates, write_plots
from deploy.driver.run_setup import RunSetup
from deploy.driver.training import Evaluations
from deploy.driver.training_progress import TrainingProgress
from deploy.models.judges import omitted_figures
from deploy.telemetry.before_after_table import before_after_table
from deploy.telemetry.live_view import next_commands
from learner.schedule import reward_temperature


def make_summary(
    setup: RunSetup,
    progress: TrainingProgress,
    version: AdapterVersion,
    results: Evaluations,
    stopped_by: str | None,
) -> dict[str, Any]:
    """The content of summary.json; times in s."""
    before, after, certificates = results.before, results.after, results.certificates
    trajectories, tokens = progress.totals.total("trajectories"), progress.totals.total("tokens")
    return {
        "task": setup.config.task.name,
        "seconds": progress.elapsed_s,
        "training_seconds": progress.training_s,
        "resumed_after_step": setup.first_step if setup.resumed else None,
        "steps": progress.step,
        "trajectories": trajectories,
        "trajectories_per_s": trajectories / progress.session_s,
        "tokens_per_s": tokens / progress.session_s,
        "metrics": {"before": before and before.metrics, "after": after and after.metrics},
        "intervals": {"before": before and before.intervals, "after": after and after.intervals},
        "bounds": {"before": before and before.bounds, "after": after and after.bounds},
        "certificate": certificates
        and {key: c.as_dict() for key, c in zip(("before", "after"), certificates, strict=True)},
        "samples_a_prompt": setup.config.evaluation.samples,
        "reward_temperature": reward_temperature(version.learner_step, setup.config.learner),
        **figures_of_rows(setup.folder.metrics()),
        "rewards": list(progress.rewards),
        "engine_busy": progress.totals.engine_busy,
        "versions_published": version.number + 1,
        "canaries_exceeded": progress.totals.total("canaries_exceeded"),
        "canary_difference_max": progress.totals.canary_difference_max,
        "adapter_sha256": version.digest,
        "stopped_by": stopped_by,
        "versions": installed_versions(),
    }


def show_result(setup: RunSetup, summary: dict[str, Any], results: Evaluations) -> None:
    """Draw the plots; print the figures before and after training and the commands to type next."""
    checked, folder, console = setup.checked, setup.folder, setup.console
    before, after = results.before, results.after
    write_plots(folder, checked, before, after)
    if summary["stopped_by"]:
        console.print(
            f"\nStopped by {summary['stopped_by']} after {summary['steps']} steps; "
            f"the adapter of that step is in {folder.path}/adapter."
        )
    if before and after:
        console.print(before_after_table(before.figures, after.figures, explanations(checked), notes(checked, after)))
    if results.certificates:
        console.print(show_certificates(*results.certificates))
    if after and (problem := after.problem or omitted_figures(checked.task, after.figures, setup.judges)):
        console.print(Text(problem, "yellow"))
    steps = setup.config.learner.steps
    console.print(next_commands(folder.path, steps, max(steps - summary["steps"], 0)), soft_wrap=True)
