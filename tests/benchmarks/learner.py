"""The learner's step: one pass over the distinct prefixes, against one padded row a trajectory.

    python tests/benchmarks/learner.py [--model NAME_OR_DIR | --architecture 7b] [--device cpu|cuda] [--threads 2] [--json]

Both sides take the same trajectories through the same model, objective (SubTB, λ = 1) and AdamW; the plain side too computes logits at
response positions only. short: 64 trajectories of one 20-token prompt with 4 actions; long: 16 of a 200-token prompt with 60. Tokens
are drawn uniformly from the vocabulary, so that nothing but the prompt is shared: a trained policy shares more. Median of the steps
after the first. Each side runs in a process of its own, whose peak memory over that of the loaded model is compared.

speedup_short, speedup_long   plain seconds / ours        memory_ratio     ours / plain, peak over the loaded model, long case
overhead         share of our step outside the model's forward and backward (packing, objective, clipping, optimiser), worst case
matmul_fraction  floating-point operations of our step / its seconds / the rate of one large matrix product here, worst case
Last line: one JSON object.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CASES = {"short": (64, 20, 4, 5), "long": (16, 200, 60, 61), "forced": (64, 20, 4, 4)}
"""Trajectories, prompt tokens, actions, and the action limit, at which stopping is forced."""
SHAPES = {
    "7b": dict(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )
}


def trajectories(n: int, prompt: int, actions: int, vocabulary: int) -> list[Any]:
    """n scored strings of one prompt."""
    import numpy as np

    from buffer.types import Trajectory

    rng = np.random.default_rng(0)
    prompt_ids = rng.integers(3, vocabulary, prompt).astype(np.int32)
    return [
        Trajectory(
            prompt_id="p", prompt_token_ids=prompt_ids, token_ids=rng.integers(3, vocabulary, actions).astype(np.int32),
            is_action=np.ones(actions, np.bool_), log_pf=np.zeros(actions, np.float32), log_pterm=np.zeros(actions + 1, np.float32),
            policy_version=0, adapter_digest="", behaviour="on_policy", task="benchmark", sampled_at=0.0, sampling_s=0.0,
            log_reward=rng.normal(size=(1, actions + 1)).astype(np.float32), reward_terms=("r",),
        )
        for _ in range(n)
    ]  # fmt: skip


def plain_log_probs(policy: Any, rows: list[Any], batch: Any) -> Any:
    """What LoraPolicy.log_probs gives, by one padded row a trajectory (all rows here are equally long)."""
    import torch

    from learner.policy import PrefixLogProbs

    ids = torch.tensor(
        [[*row.prompt_token_ids.tolist(), *row.token_ids.tolist()] for row in rows], device=policy.device
    )
    begin = len(rows[0].prompt_token_ids) - 1
    hidden = policy._trunk(input_ids=ids, use_cache=False).last_hidden_state[:, begin:]
    logits = (hidden @ policy._weight.T).float()
    normaliser = logits.logsumexp(-1)
    log_pf = logits[:, :-1].gather(2, ids[:, begin + 1 :, None])[..., 0] - normaliser[:, :-1]
    log_pterm = logits[..., policy.spec.stop_token_id] - normaliser
    return PrefixLogProbs(log_pf, torch.where(batch.may_stop.to(policy.device), log_pterm, 0.0))


def measure(model: str, device: str, threads: int, side: str, case: str, steps: int) -> dict[str, float]:
    """Seconds, overhead, peak memory and floating-point operations of one side, in this process."""
    import torch

    from buffer.types import PolicySpec
    from learner.batch import collate
    from learner.objectives.balance import Estimates, log_q_of_strings, log_z_estimates
    from learner.objectives.subtb import subtb
    from learner.policy import LoraPolicy

    if threads:
        torch.set_num_threads(threads)
    n, prompt, actions, limit = CASES[case]
    dtype = "bfloat16" if device == "cuda" else "float32"
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    spec = PolicySpec(model, dtype, 16, 16, targets, stop_token_id=2, max_actions=limit)
    policy = LoraPolicy(spec, torch.device(device))
    vocabulary = policy.model.config.vocab_size
    rows = trajectories(n, prompt, actions, vocabulary)
    optimiser = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-4)
    memory = peak_bytes(device)
    totals, outside = [], []
    for _ in range(steps + 1):
        t0 = now(device)
        batch = collate(rows, spec)
        t1 = now(device)
        scored = policy.log_probs(batch) if side == "ours" else plain_log_probs(policy, rows, batch)
        t2 = now(device)
        counts = batch.counts.to(device)
        u = log_z_estimates(scored.log_pf, scored.log_pterm, batch.log_reward.to(device))
        estimates = Estimates(
            u, counts, torch.zeros(n, dtype=torch.int64), log_q_of_strings(scored.log_pf, scored.log_pterm, counts)
        )
        loss = subtb(estimates, 1.0).value
        t3 = now(device)
        loss.backward()
        t4 = now(device)
        torch.nn.utils.clip_grad_norm_(policy.trainable_parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        t5 = now(device)
        totals.append(t5 - t0)
        outside.append((t1 - t0) + (t3 - t2) + (t5 - t4))
    nodes = batch.parts[0].tree.nodes
    states = len(set(nodes.flatten().tolist())) if side == "ours" else n * (actions + 1)
    tokens = batch.tree_nodes if side == "ours" else n * (prompt + actions)
    head = policy._weight.numel()
    body = sum(p.numel() for p in policy._trunk.parameters()) - policy.model.get_input_embeddings().weight.numel()
    return {
        "seconds": statistics.median(totals[1:]),
        "overhead": statistics.median(o / t for o, t in zip(outside[1:], totals[1:], strict=True)),
        "peak_bytes": peak_bytes(device) - memory,
        # forward, and backward to the inputs only: the base weights have no gradient
        "operations": 4.0 * (tokens * body + states * head),
        "matmul_per_s": matmul_rate(device, dtype),
        "loss": float(loss.detach()),
    }


def matmul_rate(device: str, dtype: str) -> float:
    """Operations a second of one large square product: the machine's own ceiling."""
    import torch

    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    times = []
    for _ in range(6):
        began = now(device)
        a @ a
        times.append(now(device) - began)
    return 2.0 * size**3 / min(times)


def now(device: str) -> float:
    """Seconds, after the device has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(device: str) -> float:
    """Most memory held so far, bytes: of the device, or of the process."""
    import torch

    return (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    )


def random_model(architecture: str, folder: Path) -> str:
    """A folder with random weights of a known shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=32000, max_position_embeddings=4096, **SHAPES[architecture])
    ).save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Run both sides on both cases and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument(
        "--architecture", choices=sorted(SHAPES), help="random weights of this shape instead of --model"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that warms up")
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.model, args.device, args.threads, args.side, args.case, args.steps)))
        return
    import tempfile

    from deploy.models import resolve_model

    with tempfile.TemporaryDirectory() as scratch:
        model = random_model(args.architecture, Path(scratch)) if args.architecture else str(resolve_model(args.model))
        found = {}
        for case in CASES:
            for side in ("plain", "ours"):
                options = [
                    "--model",
                    model,
                    "--device",
                    args.device,
                    "--threads",
                    str(args.threads),
                    "--steps",
                    str(args.steps),
                ]
                command = [sys.executable, __file__, *options, "--side", side, "--case", case]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                found[case, side] = json.loads(done.stdout.splitlines()[-1])
                if not args.json:
                    print(case, side, found[case, side])
    ours = [found[case, "ours"] for case in CASES]
    result: dict[str, Any] = {f"speedup_{c}": found[c, "plain"]["seconds"] / found[c, "ours"]["seconds"] for c in CASES}
    result |= {
        "overhead": max(f["overhead"] for f in ours),
        "memory_ratio": found["long", "ours"]["peak_bytes"] / found["long", "plain"]["peak_bytes"],
        "matmul_fraction": min(f["operations"] / f["seconds"] / f["matmul_per_s"] for f in ours),
        "device": args.device,
        "threads": args.threads,
        "model": args.architecture or args.model,
    }
    result |= {f"{case}_{side}": figures for (case, side), figures in found.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the packages are imported flat
    main()
