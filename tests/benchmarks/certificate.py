"""The certificate on planted samplers: is the verdict right, and how often are subtle faults told apart?

    python tests/benchmarks/certificate.py [--small] [--json] [--seeds 100] [--pool 4000]

Two targets. `toy`: 40 listed strings with random rewards. `text`: strings that the base model of the recipe `constrained` wrote for
its first prompt (`--pool` draws), as if there were no others; the target is p_LM times the constraint, and exact draws are drawn
from it. A third, `versions`, is the policy of a tiny model in the middle of its training: the sampler is one version older.
Each sampler is judged with `--seeds` seeds: 256 of its draws, 64 exact draws where strings are not listed, 64 draws of the base
model.

Figures, in the JSON object of the last line:

planted      a list of {target, name, tv, gap, verdict_right_of_100, told_apart_of_100, blind_of_100, verdict}: true total variation
             and true gap [nats]; of 100 seeds: verdicts whose claim is true, intervals of the gap that exclude 0.001 nats, verdicts
             without exact draws that find contrary evidence; and the verdict of the first seed
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.engine import Engine
from actors.rollout import sample
from buffer.types import IntArray, given_trajectory
from deploy.commands.environment import quiet_engine
from deploy.config import load_recipe
from deploy.driver.preflight import Checked, check
from learner.batch import collate
from learner.data_parallel import DataParallel
from learner.given_strings import log_q_of_given
from learner.gradient import Gradient
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from rewards.judging.certificate import Array
from tests.support.benchmark import make_parser, parse, print_result
from tests.support.planted import (
    Universe,
    is_right,
    judge,
    judge_without_exact,
    planted,
    total_variation,
    toy,
    true_gap,
)
from tests.support.tiny_text import make_text_model

DRAWS, EXACT, BASE = 256, 64, 64
FLOOR = -10.0
TOLD_APART = 1e-3


TARGET = (
    'task.options.prompts=["The weather forecast for tomorrow says"]',
    'task.options.constraint={kind="keywords", words=["rain", "snow"], match="any"}',
    "task.options.log_epsilon=-10.0",
)
"""The text target: other settings than the recipe's, which may be tuned."""


def text_universe(checked: Checked, pool: int, seed: int) -> Universe:
    """The distinct strings of `pool` draws of the base model, with the recipe's constraint or, on a tiny model that never meets it,
    one that a tenth of the strings meet."""
    prompt = checked.prompts[0]
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(checked.spec, checked.config.actors, Path(scratch), seed, on_gpu=False)
        engine.set_threads(2)
        drawn = {s.token_ids.tobytes(): s for s in sample(engine, [prompt], pool, use_base_model=True)[prompt.id]}
    strings = list(drawn.values())
    texts = [checked.tokenizer.decode(s.token_ids.tolist()) for s in strings]
    words = [[word in text for text in texts] for word in ("rain", "snow")]
    met = np.array(words).any(0)
    mode = np.array(words[0])
    if met.sum() < 10:
        order = np.argsort(texts)
        met, mode = np.isin(np.arange(len(texts)), order[::10]), np.isin(np.arange(len(texts)), order[::20])
    log_base = np.array([s.log_q for s in strings])
    log_p = log_base + np.where(met, 0.0, FLOOR)
    log_stop = [np.minimum(s.log_pterm.astype(float), -1e-9) for s in strings]
    return Universe(
        log_p - np.logaddexp.reduce(log_p), log_base - np.logaddexp.reduce(log_base), log_stop, mode, listed=False
    )


def two_versions(folder: Path, steps: int) -> tuple[Universe, Array]:
    """The strings of the recipe `toy` on a tiny model: its policy after some steps of training as the target, and log q [N] of the
    policy one step earlier."""
    checked = check(load_recipe("toy", [f'model.name="{make_text_model(folder)}"']))
    [listed] = checked.task.support().values()
    log_r = {token_ids.tobytes(): value for token_ids, value in listed}
    rows = [
        given_trajectory(
            checked.prompts[0], ids, "listed", np.array([prefix_rewards(ids, log_r)], dtype=np.float32), ("table",)
        )
        for ids, _ in listed
    ]
    policy, config = LoraPolicy(checked.spec, torch.device("cpu")), checked.config.learner
    parameters = policy.trainable_parameters()
    gradient = Gradient(policy, parameters, "subtb", 1.0, DataParallel())
    optimiser = Optimiser(parameters, 0.0, config.advanced.max_grad_norm)
    batch = collate(rows, checked.spec)
    newest = older = log_q_of_given(policy, rows, 0)
    for _ in range(steps):
        gradient.compute(batch, 1.0)
        optimiser.clip_gradients()
        optimiser.step(config.learning_rate)
        older, newest = newest, log_q_of_given(policy, rows, 0)
    base = log_q_of_given(policy, rows, 0, base_model=True)
    no_stop = [np.zeros(0)] * len(rows)
    mode = np.array([len(ids) == 1 for ids, _ in listed])
    return Universe(normalised(newest), normalised(base), no_stop, mode, listed=True), normalised(older)


def prefix_rewards(token_ids: IntArray, log_r: Mapping[bytes, float]) -> list[float]:
    """[T+1] log R of every prefix of a listed string."""
    return [log_r[token_ids[:i].tobytes()] for i in range(len(token_ids) + 1)]


def normalised(log_q: NDArray[np.floating]) -> Array:
    """log q over the listed strings alone."""
    values = log_q.astype(np.float64)
    result: Array = values - np.logaddexp.reduce(values)
    return result


def row(target: str, name: str, universe: Universe, log_q: Array, seeds: int) -> dict[str, Any]:
    """Figures of one sampler."""
    gap = true_gap(universe.log_p, log_q)
    judged = [judge(universe, log_q, seed, DRAWS, EXACT, BASE) for seed in range(seeds)]
    blind = [judge_without_exact(universe, log_q, seed, DRAWS, BASE) for seed in range(seeds)]
    return {
        "target": target,
        "name": name,
        "tv": total_variation(universe.log_p, log_q),
        "gap": gap,
        "verdict_right_of_100": 100.0 * float(np.mean([is_right(verdict, gap) for verdict, _ in judged])),
        "told_apart_of_100": 100.0 * float(np.mean([low > TOLD_APART for _, low in judged])),
        "blind_of_100": 100.0 * float(np.mean([verdict.kind != "not known" for verdict in blind])),
        "verdict": judged[0][0].text,
    }


def measure(checked: Checked, pool: int, seeds: int, steps: int, folder: Path) -> dict[str, Any]:
    """All rows."""
    listed = toy()
    text = text_universe(checked, pool, seed=1)
    newest, older = two_versions(folder, steps)
    samplers = [("toy", name, listed, log_q) for name, log_q in planted(listed).items()]
    samplers += [("text", name, text, log_q) for name, log_q in planted(text).items()]
    samplers += [("versions", "one version old", newest, older)]
    return {
        "planted": [row(*sampler, seeds=seeds) for sampler in samplers],
        "seeds": seeds,
        "strings": {"toy": len(listed.log_p), "text": len(text.log_p)},
        "model": Path(checked.spec.base_model).name,
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="The seeds of each sampler.")
    parser.add_argument("--pool", type=int, default=4000, help="The draws of the base model that make the text target.")
    parser.add_argument("--steps", type=int, default=30, help="The steps of training before the two versions.")
    args = parse(parser, seeds=2, pool=200, steps=2)
    quiet_engine()
    with tempfile.TemporaryDirectory() as scratch:
        options = [*TARGET, f"policy.max_actions={12 if args.small else 20}"]
        if args.small:
            options.append(f'model.name="{make_text_model(Path(scratch) / "model")}"')
        checked = check(load_recipe("constrained", options))
        result = measure(checked, args.pool, args.seeds, args.steps, Path(scratch) / "versions")
    if not args.json:
        for r in result["planted"]:
            sys.stdout.write(f"{r['target']:9} {r['name']:26} TV {r['tv']:.3f} gap {r['gap']:7.3f} right {r['verdict_right_of_100']:4.0f} "
                             f"apart {r['told_apart_of_100']:4.0f} blind {r['blind_of_100']:4.0f}  {r['verdict']}\n")  # fmt: skip
    print_result(result, json_only=True)


if __name__ == "__main__":
    main()
