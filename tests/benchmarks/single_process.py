"""The whole system against one process that samples, scores and learns in turns, as the method's first implementation did.

    python tests/benchmarks/single_process.py [--small] [--json] [--updates 6] [--steps 30] [--threads 0]

Both sides train the demo recipe: the same task, base model, dtype, LoRA, batch of 64 and learning rate. The single process (after Hu et
al., arXiv 2310.04363) draws on-policy, token by token with a KV cache and *with gradient*, so that the loss needs no second pass: one
copy of the prompt per row, logits at all positions, finished rows padded. log R is a pass over the padded rows with the adapter off. The
loss is plain SubTB, a loop over lengths. Ours is `tributary train demo`, shortened, and runs after the other side, never at the same time;
with learner.fresh_fraction=1.0 it replays nothing. A trajectory counts once it was sampled, scored and learned
from for the first time; a replayed one does not. The first update there and the first 3 steps of ours are not timed.
The machine must be idle: the threads of the single process wait for one another, so a busy neighbour costs it far more than it costs ours.
Ours evaluates each distinct prefix once and so gains as the policy gathers on 101 strings; that is part of the comparison.

Figures, in the JSON object of the last line:

ours_over_single_process      ours_per_s / single_process_per_s, aim at least 2.5
single_process_per_s          trajectories/s: batch size x timed updates / their seconds
ours_per_s                    trajectories/s: fresh rows of metrics.jsonl / seconds between them, by the run's own clock (0.5 s)
single_process_s_per_update   median seconds of an update
ours_s_per_update             median seconds of an update, waits included
ours_fresh_per_update         mean trajectories; below the batch size the learner had to replay for want of new ones
single_process_losses         nats², the warm-up first: SubTB on the batch just drawn. They should fall
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.benchmark import make_parser, parse, print_result, run_python
from tests.support.tiny_text import make_text_model

if TYPE_CHECKING:
    from torch import Tensor

    from buffer.types import IntArray, Prompt
    from learner.policy import LoraPolicy
    from rewards.task import Task

WARM_UP_UPDATES, WARM_UP_STEPS = 1, 3
"""Not timed, of the single process and of ours."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """B responses of at most T tokens; log q in nats, with gradient."""

    token_ids: "Tensor"
    """[B, T] int64; the stop token as padding."""
    lengths: "Tensor"
    """[B] int64, the number of tokens before the stop."""
    log_pf: "Tensor"
    """[B, T] log q of the token drawn; 0 at padding."""
    log_pterm: "Tensor"
    """[B, T+1] log q of the stop token; 0 where stopping is forced, and at padding."""


def sample_with_gradient(policy: "LoraPolicy", prompt: "IntArray", rows: int) -> Sampled:
    """Draw `rows` responses to prompt [P] token by token; every pass keeps its graph."""
    import torch

    stop = policy.spec.stop_token_id
    ids = torch.from_numpy(prompt).long().repeat(rows, 1)
    live, lengths = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.long)
    tokens, log_pf, log_pterm, cache = [], [], [], None
    for _ in range(policy.spec.max_actions):
        out = policy.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        log_q = out.logits[:, -1].float().log_softmax(-1)  # [B, V]
        drawn = torch.multinomial(log_q.detach().exp(), 1)[:, 0]
        log_pterm.append(torch.where(live, log_q[:, stop], 0.0))
        live = live & (drawn != stop)
        drawn = torch.where(live, drawn, stop)
        log_pf.append(torch.where(live, log_q.gather(1, drawn[:, None])[:, 0], 0.0))
        tokens.append(drawn)
        lengths += live
        if not live.any():
            break
        ids = drawn[:, None]
    log_pterm.append(torch.zeros(rows))  # forced
    return Sampled(torch.stack(tokens, 1), lengths, torch.stack(log_pf, 1), torch.stack(log_pterm, 1))


def score(policy: "LoraPolicy", task: "Task", prompt: "Prompt", sampled: Sampled) -> "Tensor":
    """log R of stopping after each prefix, [B, T+1] nats, by one pass of the network without its adapter; 0 at padding."""
    import numpy as np
    import torch

    from rewards.task import BaseLogProbs, check_terms

    tokens = sampled.token_ids
    ids = torch.cat([torch.from_numpy(prompt.token_ids).long().repeat(len(tokens), 1), tokens], 1)
    with torch.no_grad(), policy.model.disable_adapter():
        logits = policy.model(input_ids=ids, use_cache=False).logits
    log_p = logits[:, len(prompt.token_ids) - 1 :].float().log_softmax(-1)  # [B, T+1, V]
    taken = log_p[:, :-1].gather(2, tokens[..., None])[..., 0].numpy()
    stop = log_p[..., policy.spec.stop_token_id].numpy()
    log_reward = torch.zeros(stop.shape)
    for row, n in enumerate(sampled.lengths.tolist()):
        base_scores = BaseLogProbs(taken[row, :n], stop[row, : n + 1], np.zeros(n + 1, np.float32))
        terms = task.log_reward(prompt, tokens[row, :n].numpy().astype(np.int32), [base_scores])
        log_reward[row, : n + 1] = torch.from_numpy(check_terms(terms, n, "integer").sum(0))
    return log_reward


def subtb_by_lengths(sampled: Sampled, log_reward: "Tensor") -> "Tensor":
    """Modified SubTB, λ = 1, [] nats²: summed over the lengths of sub-trajectories. log_reward [B, T+1]."""
    import torch

    flow = log_reward - sampled.log_pterm
    steps = flow[:, :-1] + sampled.log_pf - flow[:, 1:]  # [B, T] imbalance of one action
    so_far = torch.nn.functional.pad(steps.cumsum(1), (1, 0))  # [B, T+1]
    ends = torch.arange(so_far.shape[1])
    total, pairs = torch.zeros(()), 0
    for length in range(1, so_far.shape[1]):
        real = ends[None, length:] <= sampled.lengths[:, None]
        total = total + ((so_far[:, length:] - so_far[:, :-length]).square() * real).sum()
        pairs += int(real.sum())
    return total / max(pairs, 1)


def single_process(model: str, updates: int, threads: int) -> dict[str, Any]:
    """Seconds and losses of `updates` updates after the warm-up, in this process."""
    import torch

    from deploy.config import load_recipe
    from deploy.driver.preflight import check
    from learner.policy import LoraPolicy
    from learner.schedule import learning_rate

    checked = check(load_recipe("demo", model_override(model)))
    config, spec, prompt = checked.config.learner, checked.spec, checked.prompts[0]
    assert spec.min_actions == 0 and spec.allowed_token_ids is None, "this sampler masks nothing"
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(checked.config.seed)
    policy = LoraPolicy(spec, torch.device("cpu"))
    parameters = policy.trainable_parameters()
    optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.advanced.weight_decay)
    seconds, losses = [], []
    for step in range(WARM_UP_UPDATES + updates):
        began = time.perf_counter()
        sampled = sample_with_gradient(policy, prompt.token_ids, config.batch_size)
        loss = subtb_by_lengths(sampled, score(policy, checked.task, prompt, sampled))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.advanced.max_grad_norm)
        optimiser.param_groups[0]["lr"] = learning_rate(step, config)
        optimiser.step()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - began)
    timed = seconds[WARM_UP_UPDATES:]
    return {
        "single_process_per_s": config.batch_size * len(timed) / sum(timed),
        "single_process_s_per_update": statistics.median(timed),
        "single_process_updates": len(timed),
        "single_process_losses": losses,
        "single_process_threads": torch.get_num_threads(),
        "model": checked.config.model.name,
    }


def model_override(model: str) -> list[str]:
    """The demo recipe with another base model; its own where `model` is empty."""
    return [f'model.name="{model}"'] if model else []


def ours(model: str, steps: int) -> dict[str, Any]:
    """Rates of `tributary train demo` with `steps` steps, from its metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        options = [f"learner.steps={steps}", "learner.fresh_fraction=1.0", "evaluation.samples=64"]
        run_python(["-m", "deploy.cli", "train", "demo", *options, *model_override(model), "--run", str(run)])
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before, timed = rows[WARM_UP_STEPS - 1], rows[WARM_UP_STEPS:]
    fresh = [row["fresh"] for row in timed]
    return {
        "ours_per_s": sum(fresh) / (timed[-1]["elapsed_s"] - before["elapsed_s"]),
        "ours_s_per_update": statistics.median(row["step_s"] for row in timed),
        "ours_updates": len(timed),
        "ours_fresh_per_update": statistics.mean(fresh),
    }


def main() -> None:
    """Run both sides, one after the other, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--updates", type=int, default=6, help="The number of timed updates of the single process.")
    parser.add_argument(
        "--steps",
        type=int,
        default=30,
        help=f"The number of steps of ours, of which the first {WARM_UP_STEPS} are not timed.",
    )
    parser.add_argument("--threads", type=int, default=0, help="Threads of the single process; 0 means all cores.")
    parser.add_argument("--model", default="", help="A base model to use instead of the recipe's.")
    parser.add_argument("--side", choices=["single"], help=argparse.SUPPRESS)
    args = parse(parser, updates=1, steps=WARM_UP_STEPS + 40, threads=1)
    if args.updates < 1 or args.steps <= WARM_UP_STEPS:
        parser.error(f"--updates must be at least 1 and --steps at least {WARM_UP_STEPS + 1}: nothing would be timed")
    if args.side:
        print(json.dumps(single_process(args.model, args.updates, args.threads)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = str(make_text_model(Path(scratch))) if args.small else args.model
        options = ["--model", model, "--updates", str(args.updates), "--threads", str(args.threads), "--side", "single"]
        single = json.loads(run_python([__file__, *options]).splitlines()[-1])
        system = ours(model, args.steps)
    single["model"] = "tiny" if args.small else single["model"]
    ratio = system["ours_per_s"] / single["single_process_per_s"]
    print_result({"ours_over_single_process": ratio} | single | system, args.json)


if __name__ == "__main__":
    main()
