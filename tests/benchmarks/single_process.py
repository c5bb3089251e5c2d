"""The whole system against one process that samples, scores and learns in turns, as the method's first implementation did.

    python tests/benchmarks/single_process.py [--updates 4] [--steps 40] [--json]

Same task (integer), model, batch of 64, LoRA, objective's data and threads (all cores). The single process samples token by token *with
gradient* behind a KV cache, so that the loss is taken from the sampling pass; scores all prefixes by one pass with the adapter switched
off; sums SubTB over the lengths of sub-trajectories in a loop. Ours is `tributary train demo`, shortened. Counted are trajectories
that were sampled, scored and learned from once: for ours the fresh rows of all batches over the whole training time, first wait included;
for the single process 64 over the median seconds of an update after the first.
Last line: one JSON object; ours_over_single_process is the ratio of the two rates.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
BATCH = 64


def single_process(updates: int) -> dict[str, float]:
    """Seconds an update and trajectories a second of the loop in one process."""
    import torch

    from deploy.checks import check
    from deploy.config import load_recipe
    from learner.policy import LoraPolicy

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    checked = check(load_recipe("demo"))
    policy = LoraPolicy(checked.spec, torch.device("cpu"))
    optimiser = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-3, weight_decay=0.0)
    seconds = []
    for _ in range(updates + 1):
        began = time.perf_counter()
        tokens, log_pf, log_pterm, lengths = sample_with_gradient(policy, checked.prompts[0].token_ids)
        log_reward = score(policy, checked, tokens, lengths)
        loss = subtb_by_lengths(log_pf, log_pterm, log_reward, lengths)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[1:])
    return {"seconds_an_update": median, "trajectories_per_s": BATCH / median}


def sample_with_gradient(policy: Any, prompt: Any) -> tuple[Any, Any, Any, Any]:
    """64 responses: tokens [B, N], log_pf [B, N], log_pterm [B, N+1] with gradient, and lengths [B]."""
    import torch

    n_max, stop = policy.spec.max_actions, policy.spec.stop_token_id
    ids = torch.from_numpy(prompt).long().repeat(BATCH, 1)
    live, lengths, past = torch.ones(BATCH, dtype=torch.bool), torch.zeros(BATCH, dtype=torch.long), None
    tokens, log_pf, log_pterm = [], [], []
    for _ in range(n_max):
        out = policy.model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        log_q = out.logits[:, -1].log_softmax(-1)
        drawn = torch.multinomial(log_q.detach().exp(), 1)
        live = live & (drawn[:, 0] != stop)
        log_pterm.append(log_q[:, stop])
        log_pf.append(log_q.gather(1, drawn)[:, 0])
        tokens.append(drawn[:, 0])
        lengths += live
        ids = drawn
    log_pterm.append(torch.zeros(BATCH))  # stopping is forced at the limit
    return torch.stack(tokens, 1), torch.stack(log_pf, 1), torch.stack(log_pterm, 1), lengths


def score(policy: Any, checked: Any, tokens: Any, lengths: Any) -> Any:
    """log R [B, N+1] of all prefixes: one pass of the same network without its adapter."""
    import numpy as np
    import torch

    from rewards.task import BaseLogProbs

    prompt = checked.prompts[0]
    n, stop = tokens.shape[1], policy.spec.stop_token_id
    ids = torch.cat([torch.from_numpy(prompt.token_ids).long().repeat(BATCH, 1), tokens], 1)
    with torch.no_grad(), policy.model.disable_adapter():
        log_p = policy.model(input_ids=ids).logits[:, len(prompt.token_ids) - 1 :].log_softmax(-1)
    taken = log_p[:, :-1].gather(2, tokens[..., None])[..., 0]
    rows = torch.zeros(BATCH, n + 1)
    for row in range(BATCH):
        k = int(lengths[row])
        base = BaseLogProbs(taken[row, :k].numpy(), log_p[row, : k + 1, stop].numpy())
        terms = checked.task.log_reward(prompt, tokens[row, :k].numpy().astype(np.int32), base)
        rows[row, : k + 1] = torch.from_numpy(np.asarray(sum(terms.values()), dtype=np.float32))
    return rows


def subtb_by_lengths(log_pf: Any, log_pterm: Any, log_reward: Any, lengths: Any) -> Any:
    """Modified SubTB, λ = 1: for each length of a sub-trajectory, the squared sums of one-step differences."""
    import torch

    log_f = log_reward - log_pterm
    difference = log_f[:, :-1] + log_pf - log_f[:, 1:]
    so_far = torch.cat([torch.zeros(BATCH, 1), difference.cumsum(1)], 1)
    total, count = torch.zeros(()), torch.zeros(())
    for length in range(1, log_pf.shape[1] + 1):
        real = torch.arange(length, log_pf.shape[1] + 1)[None] <= lengths[:, None]
        total = total + torch.where(real, (so_far[:, length:] - so_far[:, :-length]).square(), 0.0).sum()
        count = count + real.sum()
    return total / count.clamp_min(1)


def ours(steps: int) -> dict[str, float]:
    """`tributary train demo`, shortened; fresh trajectories learned from over the whole training time."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [
            sys.executable,
            "-m",
            "deploy.cli",
            "train",
            "demo",
            f"learner.steps={steps}",
            "evaluation.samples=64",
            "--run",
            str(run),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        summary = json.loads((run / "summary.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    learned = sum(row["fresh"] for row in rows)
    return {
        "training_s": summary["training_seconds"],
        "trajectories_learned_once": learned,
        "trajectories_sampled": summary["trajectories"],
        "trajectories_per_s": learned / summary["training_seconds"],
    }


def main() -> None:
    """Run both, one after the other, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=4, help="of the single process, after one that warms up")
    parser.add_argument("--steps", type=int, default=40, help="of ours")
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--side", choices=["single"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(single_process(args.updates)))
        return
    command = [sys.executable, __file__, "--updates", str(args.updates), "--side", "single"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    single = json.loads(done.stdout.splitlines()[-1])
    system = ours(args.steps)
    if not args.json:
        print("single process", single)
        print("ours", system)
    ratio = system["trajectories_per_s"] / single["trajectories_per_s"]
    print(json.dumps({"ours_over_single_process": ratio, "single_process": single, "ours": system}))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the packages are imported flat
    main()
