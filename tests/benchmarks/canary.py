"""The canary of right and wrong adapter versions: differences between engine and learner, and who is caught.

    python tests/benchmarks/canary.py [--small] [--json] [--device cpu|cuda] [--dtype bfloat16] [--strings 24] [--seed 1] [--raw FILE.npz]

The learner takes real steps of the recipe `continue` (its objective, learning rate and reward) on strings that the engine sampled
from the base model, at the full learning rate from the first step on. Versions 10, 13 and 16 are announced, each with the learner's
log-probabilities of `--strings` strings of at most 16 tokens.
The engine then scores the same strings under the announced version and under wrong ones:

right       the announced version
one_old     the version before it: one step of the learner is missing
ten_old     the version ten steps before
base        the base model: no adapter
scale       the announced weights, multiplied by twice the alpha / rank that the learner uses

Figures, in the JSON object of the last line:

right, one_old, ten_old, base, scale    of all canaries of a case, nats: mean_median, mean_p99 and mean_max of the mean
                                        difference over a string, token_p99 and token_max of single tokens; refused_at_once,
                                        exceeded: shares of canaries; refused_in_three: share of three in a row, exceeded cubed
exceeded_by_length                      tokens -> share of strings of that length beyond the tolerance if their tokens were drawn
                                        from those of the right versions (200,000 strings each)
tolerance, at_once                      limits of the dtype, nats
tokens                                  tokens of all right canaries
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.behaviour import Behaviour
from actors.canary import FAR_BEYOND, MAX_IN_A_ROW
from actors.engine import Engine
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, Trajectory, given_trajectory
from deploy.commands.environment import quiet_engine
from deploy.config import load_recipe
from deploy.driver.preflight import Checked, check
from learner.adapter import adapter_files, adapter_tensors, adapter_version, load_adapter
from learner.batch import collate
from learner.data_parallel import DataParallel
from learner.gradient import Gradient
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from tests.support.benchmark import add_device, gpu_options, make_parser, parse, print_progress, print_result
from tests.support.tiny_text import make_text_model

OLD = 10
"""Versions between the announced one and the oldest wrong one."""
ANNOUNCED = (10, 13, 16)
"""Versions, which are steps too."""
BATCH = 8
"""Strings that a step learns from: the first of them."""
CASES = ("right", "one_old", "ten_old", "base", "scale")
LENGTHS = (1, 2, 4, 8, 16)
BOOTSTRAP = 200_000
BEHAVIOURS = (Behaviour("on_policy", 1.0, False), Behaviour("tempered", 1.5, False), Behaviour("long", 1.0, True))


def draw(engine: Engine, checked: Checked, number: int) -> list[Trajectory]:
    """`number` strings of the base model, two of each prompt, with the reward of the task: log p of stopping there."""
    prompt_of = {}
    for k in range(number):
        prompt = checked.prompts[k // 2 % len(checked.prompts)]
        prompt_of[engine.add(prompt.token_ids, BEHAVIOURS[k % len(BEHAVIOURS)], use_base_model=True)] = prompt
    rows = []
    while engine.in_flight:
        for sampled in engine.step():
            log_r = np.append(0.0, sampled.log_pf.cumsum()) + sampled.log_pterm
            terms = log_r[None].astype(np.float32), ("base",)
            rows.append(given_trajectory(prompt_of[sampled.request_id], sampled.token_ids, "drawn", *terms))
    return rows


class Versions:
    """Adapter versions of a training run: files of each, and canaries of the announced ones."""

    def __init__(
        self, checked: Checked, rows: Sequence[Trajectory], announced: Sequence[int], device: torch.device
    ) -> None:
        adapters = trained(checked, rows[:BATCH], max(announced), device)
        policy = LoraPolicy(checked.spec, device)
        self.files: list[AdapterFiles] = []
        self.announced: dict[int, list[AdapterVersion]] = {}
        for step, adapter in enumerate(adapters):
            load_adapter(policy, adapter)
            self.files.append(adapter_files(policy))
            if step in announced:
                self.announced[step] = [adapter_version(policy, self.files[-1], step, step, row, 1.0) for row in rows]


def trained(checked: Checked, rows: Sequence[Trajectory], steps: int, device: torch.device) -> list[dict[str, Tensor]]:
    """The adapter before the first step and after each. Base weights in fp32: in bf16 a step takes a CPU a minute."""
    policy = LoraPolicy(replace(checked.spec, dtype="float32"), device)
    learner, parameters = checked.config.learner, policy.trainable_parameters()
    gradient = Gradient(policy, parameters, learner.objective, 1.0, DataParallel())
    optimiser = Optimiser(parameters, 0.0, learner.advanced.max_grad_norm)
    batch = collate(rows, checked.spec, learner.max_tokens)
    adapters = [copied(policy)]
    for _ in range(steps):
        gradient.compute(batch, learner.reward_temperature_end)
        optimiser.clip_gradients()
        optimiser.step(learner.learning_rate)
        adapters.append(copied(policy))
    return adapters


def copied(policy: LoraPolicy) -> dict[str, Tensor]:
    """The policy's adapter as it is now."""
    return {name: tensor.clone() for name, tensor in adapter_tensors(policy).items()}


def scores(engine: Engine, rows: Sequence[AdapterVersion], files: AdapterFiles | None) -> list[FloatArray]:
    """The engine's log-probabilities of the canaries of `rows` under the adapter in `files` (None: the base model)."""
    served = None if files is None else engine._versions.write(rows[0], files)
    scored = [engine.score(row.canary.prompt_token_ids, row.canary.token_ids, served) for row in rows]
    if served:
        engine._versions.remove(served)
    return scored


def scaled(files: AdapterFiles) -> AdapterFiles:
    """The same weights with twice the scale."""
    config = json.loads(files.config_json)
    return replace(files, config_json=json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))


def differences(engine: Engine, versions: Versions) -> dict[str, list[FloatArray]]:
    """Case -> |engine - learner| of each token, for every canary."""
    result: dict[str, list[FloatArray]] = {case: [] for case in CASES}
    files = versions.files
    for number, rows in versions.announced.items():
        served = (files[number], files[number - 1], files[number - OLD], None, scaled(files[number]))
        for case, of_case in zip(CASES, served, strict=True):
            for row, log_probs in zip(rows, scores(engine, rows, of_case), strict=True):
                result[case].append(np.abs(log_probs - row.canary.log_probs))
        print_progress({"version": number, **{case: float(np.mean(np.concatenate(result[case]))) for case in CASES}})
    return result


def summary(canaries: Sequence[FloatArray], tolerance: float) -> dict[str, float]:
    """Figures of one case."""
    means, tokens = np.array([c.mean() for c in canaries]), np.concatenate(canaries)
    exceeded = float((means > tolerance).mean())
    return {
        "mean_median": float(np.median(means)),
        "mean_p99": float(np.quantile(means, 0.99)),
        "mean_max": float(means.max()),
        "token_p99": float(np.quantile(tokens, 0.99)),
        "token_max": float(tokens.max()),
        "exceeded": exceeded,
        "refused_in_three": exceeded**MAX_IN_A_ROW,
        "refused_at_once": float((means > FAR_BEYOND * tolerance).mean()),
    }


def measure(checked: Checked, args: argparse.Namespace, announced: Sequence[int]) -> dict[str, Any]:
    """All figures."""
    tolerance = checked.config.learner.canary_tolerance_of(checked.spec.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        on_gpu = args.device == "cuda"
        engine = Engine(checked.spec, checked.config.actors, Path(scratch), args.seed, on_gpu=on_gpu)
        rows = draw(engine, checked, args.strings)
        differences_of = differences(engine, Versions(checked, rows, announced, torch.device(args.device)))
    if args.raw:
        np.savez(args.raw, **{f"{case}-{k}": c for case in CASES for k, c in enumerate(differences_of[case])})
    tokens, rng = np.concatenate(differences_of["right"]), np.random.default_rng(0)
    by_length = {n: rng.choice(tokens, (BOOTSTRAP, n)).mean(1) for n in LENGTHS}
    return {
        **{case: summary(differences_of[case], tolerance) for case in CASES},
        "exceeded_by_length": {str(n): float((means > tolerance).mean()) for n, means in by_length.items()},
        "tolerance": tolerance,
        "at_once": FAR_BEYOND * tolerance,
        "tokens": len(tokens),
        "canaries": len(differences_of["right"]),
        "device": args.device,
        "dtype": checked.spec.dtype,
        "model": Path(checked.spec.base_model).name,
    }


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = make_parser(__doc__)
    add_device(parser)
    parser.add_argument("--dtype", default="bfloat16", help="The dtype of engine and learner.")
    parser.add_argument("--strings", type=int, default=24, help="The strings that are compared.")
    parser.add_argument("--seed", type=int, default=1, help="The seed of the engine, which draws the strings.")
    parser.add_argument("--raw", type=Path, help="Write the differences of all tokens to this NPZ file.")
    return parse(parser, strings=6)


def recipe_of(args: argparse.Namespace, scratch: Path) -> tuple[str, list[str]]:
    """The recipe and the settings that replace its own."""
    options = gpu_options() if args.device == "cuda" else []
    options += [f'model.dtype="{args.dtype}"', "policy.max_actions=16"]
    if args.small:
        options.append(f'model.name="{make_text_model(scratch / "model")}"')
    return "continue", options


def main() -> None:
    """Measure and print."""
    args = arguments()
    quiet_engine()
    with tempfile.TemporaryDirectory() as scratch:
        checked = check(load_recipe(*recipe_of(args, Path(scratch))))
        result = measure(checked, args, ANNOUNCED[:1] if args.small else ANNOUNCED)
    print_result(result, args.json)


if __name__ == "__main__":
    main()
