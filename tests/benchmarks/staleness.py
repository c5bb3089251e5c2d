"""How close each objective comes to the exact target when the actors' versions are old: equal trajectories, forced lags.

    python tests/benchmarks/staleness.py [--small] [--json] [--steps 2000] [--seeds 3] [--out FILE.jsonl]

The target is the 40 strings of the tiny test task, the policy a LoRA adapter on all linear layers of the tiny test model.
Every step publishes a version. The actor samples each batch from the version `lag` steps old (version 0 in the first `lag`
steps), or from version 0 for ever: `frozen`. It is exact: the 40 probabilities of the old version are known. Nothing is
replayed, and the behaviour is on_policy alone, as in a recipe that names none: what an old version seldom samples is seldom
learned. The learner's code is the real one, with batch size, learning rate and decay of the tiny recipe
(tests/support/tiny.py), the same for all objectives and lags. A seed sets the adapter's first weights and the draws.
With --out, runs are appended to the file as they end, and runs that it holds with the same settings are read from it.

Figures, in the JSON object of the last line:

rows                   one of each objective and lag:
                       objective, lag (steps, or "frozen")
                       tv, tv_min, tv_max   total variation to the target after the last step, exact: mean and range over seeds
                       tv_curve             the mean over the seeds after each of `curve_steps`
tv_initial             total variation of version 0, which is the base model
seldom_mass            the target's mass on strings of which a whole run is expected to draw fewer than 10 from version 0
curve_steps            steps after which `tv_curve` is read
steps, trajectories    of each run
seeds                  number of runs of each row
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from learner.batch import collate
from learner.config import LearnerConfig
from learner.data_parallel import DataParallel
from learner.diagnostics import exact_figures
from learner.gradient import Gradient
from learner.objectives.balance import log_q_of_strings
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy, PrefixLogProbs
from learner.schedule import learning_rate, reward_temperature
from tests.support.benchmark import make_parser, parse, print_result
from tests.support.lagged_actor import LaggedActor
from tests.support.tiny import TinyTask, make_tiny_model, tiny_recipe, tiny_spec, tiny_trajectory

OBJECTIVES = ("group_subtb", "subtb", "vargrad", "tb", "pg_kl", "pg")
LAGS = (0, 10, 100, 400, None)
"""Steps; None: the actor keeps version 0."""
READINGS = 10
"""Readings of the total variation in a run, after the one of version 0."""
SELDOM = 10
"""Draws of a string in a whole run."""


class Run:
    """One training run of `config` on the 40 strings, from a fresh adapter."""

    def __init__(self, model: Path, config: LearnerConfig, lag: int | None, seed: int) -> None:
        torch.manual_seed(seed)
        self._config = config
        self._policy = LoraPolicy(tiny_spec(model), torch.device("cpu"))
        task = TinyTask(Tokenizer.from_file(str(model / "tokenizer.json")))
        support = [tiny_trajectory(task, string) for string in task.log_r]
        self._listed = collate(support, self._policy.spec)
        self._actor = LaggedActor(support, lag, seed)
        parameters = self._policy.trainable_parameters()
        advanced = config.advanced
        self._gradient = Gradient(self._policy, parameters, config.objective, advanced.subtb_lambda, DataParallel())
        self._optimiser = Optimiser(parameters, advanced.weight_decay, advanced.max_grad_norm)

    def train(self) -> list[float]:
        """Take all steps. Returns the total variation before the first step and after each of `curve_steps`."""
        read_after = {0, *curve_steps(self._config)}
        curve = []
        for step in range(self._config.steps):
            log_probs = self.log_probs()
            if step in read_after:
                curve.append(self.total_variation(log_probs))
            self._actor.publish(self._listed, log_probs)
            self._step(step)
        return [*curve, self.total_variation(self.log_probs())]

    def _step(self, step: int) -> None:
        """One update on a batch of the lagged actor."""
        rows = self._actor.sample(self._config.batch_size)
        batch = collate(rows, self._policy.spec, self._config.max_tokens)
        self._gradient.compute(batch, reward_temperature(step, self._config))
        self._optimiser.clip_gradients()
        self._optimiser.step(learning_rate(step, self._config))

    def log_probs(self) -> PrefixLogProbs:
        """Of the listed strings under the policy as it is now."""
        with torch.no_grad():
            return self._policy.log_probs(self._listed)

    def total_variation(self, log_probs: PrefixLogProbs) -> float:
        """Distance of a policy with these `log_probs` to the target; mass on strings that are not listed counts."""
        log_q = log_q_of_strings(log_probs.log_pf, log_probs.log_pterm, self._listed.is_terminal)
        return exact_figures(log_q, self._listed.log_reward_of_strings, self._listed.prompt)["total_variation"]

    def seldom_mass(self, log_probs: PrefixLogProbs) -> float:
        """The target's mass on strings of which fewer than SELDOM are expected in a run that draws with these `log_probs`."""
        log_q = log_q_of_strings(log_probs.log_pf, log_probs.log_pterm, self._listed.is_terminal)
        seldom = log_q.double().exp() * self._config.steps * self._config.batch_size < SELDOM
        return float(self._listed.log_reward_of_strings.double().softmax(0)[seldom].sum())


def curve_steps(config: LearnerConfig) -> list[int]:
    """Numbers of steps after which the total variation is read; the last is all of them."""
    return [config.steps * k // READINGS for k in range(1, READINGS + 1)]


class Curves:
    """The curves of runs, kept in a JSONL file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self._stored = [json.loads(line) for line in lines]

    def get(self, model: Path, config: LearnerConfig, lag: int | None, seed: int) -> list[float]:
        """The curve of a run with these settings: the stored one, or that of a new run, which is then stored."""
        settings = {"lag": lag_name(lag), "seed": seed, "learner": config.model_dump(mode="json")}
        for run in self._stored:
            if run["settings"] == settings:
                return [float(value) for value in run["curve"]]
        curve = Run(model, config, lag, seed).train()
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps({"settings": settings, "curve": curve}) + "\n")
        return curve


def row(objective: str, lag: int | None, curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """One row of the result: `curves` of all seeds."""
    final = [curve[-1] for curve in curves]
    return {
        "objective": objective,
        "lag": lag_name(lag),
        "tv": float(np.mean(final)),
        "tv_min": min(final),
        "tv_max": max(final),
        "tv_curve": np.mean(curves, axis=0)[1:].tolist(),
    }


def lag_name(lag: int | None) -> int | str:
    """The lag as it is printed."""
    return "frozen" if lag is None else lag


def measure(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    recipe = tiny_recipe(model)["learner"] | {"steps": args.steps, "publish_every": 1}
    rows, stored = [], Curves(args.out)
    for objective in OBJECTIVES:
        config = LearnerConfig(**recipe | {"objective": objective})
        for lag in LAGS:
            curves = [stored.get(model, config, lag, seed) for seed in range(args.seeds)]
            rows.append(row(objective, lag, curves))
    initial = Run(model, config, None, 0)
    log_probs = initial.log_probs()
    return {
        "rows": rows,
        "tv_initial": initial.total_variation(log_probs),
        "seldom_mass": initial.seldom_mass(log_probs),
        "curve_steps": curve_steps(config),
        "steps": config.steps,
        "trajectories": config.steps * config.batch_size,
        "seeds": args.seeds,
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="Steps of each run, and so its versions.")
    parser.add_argument("--seeds", type=int, default=3, help="Runs of each objective and lag.")
    parser.add_argument("--out", type=Path, help="Keep the runs in this JSONL file; skip those that it holds.")
    args = parse(parser, steps=30, seeds=1)
    if args.steps < READINGS or args.seeds < 1:
        parser.error(f"--steps must be at least {READINGS} and --seeds at least 1: there would be nothing to read")
    torch.set_num_threads(1)  # the model is too small for two
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(make_tiny_model(Path(scratch) / "model"), args)
    print_result(result, args.json)


if __name__ == "__main__":
    main()
