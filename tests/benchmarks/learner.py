"""The learner's step: one pass over the distinct prefixes, against one padded row per trajectory.

    python tests/benchmarks/learner.py [--small] [--json] [--model NAME_OR_DIR | --architecture 7b] [--device cpu|cuda] [--threads 2]

Both sides take the same trajectories through the same model, objective (SubTB, λ = 1) and AdamW; the plain side too computes logits at
response positions only. Tokens are drawn uniformly from the vocabulary, so that nothing but the prompt is shared: a trained policy shares
more. Times are medians of the steps after the first. Each side runs in a process of its own, whose peak memory beyond the loaded model is
compared.

short    64 trajectories of one 20-token prompt with 4 actions
forced   short, at the action limit, where the last states need no output
long     16 trajectories of a 200-token prompt with 60 actions
wide     on a GPU the only case: 256 trajectories of a 128-token prompt with 64 actions, in bf16, both sides in passes of at most 8,192
         tokens

Figures, in the JSON object of the last line:

speedup_*          per case: plain seconds / ours; with --small of the largest case alone
memory_ratio       ours / plain, peak beyond the loaded model, largest case
memory_over_plan   ours / what `tributary validate --plan` computes for it: activations, output, gradients and moments, largest case
overhead           share of our step outside the model's forward and backward (packing, objective, clipping, optimiser), worst case
matmul_fraction    floating-point operations of our step (4 per weight and token; attention and recomputation not counted) / its seconds /
                   the rate of one large matrix product on this device, worst case
mfu                the same over the device's published bf16 peak; null where the peak is unknown
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.benchmark import add_device, make_parser, parse, print_progress, print_result, run_python
from tests.support.tiny import make_tiny_model

CASES = {"short": (64, 20, 4, 5), "long": (16, 200, 60, 61), "forced": (64, 20, 4, 4), "wide": (256, 128, 64, 65)}
"""Trajectories, prompt tokens, actions, and the action limit, at which stopping is forced."""
CASES_OF = {"cpu": ("short", "forced", "long"), "cuda": ("wide",)}
"""In order of size: the largest is last."""
PASS_TOKENS = {"cpu": 0, "cuda": 8192}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Part of the device's name -> its published dense bf16 operations/s."""
RANK, TARGETS = 16, ("q_proj", "k_proj", "v_proj", "o_proj")
SHAPES = {
    "7b": dict(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )
}


def trajectories(n: int, prompt: int, actions: int, vocabulary: int, side: str) -> list[Any]:
    """n scored strings of one prompt. For the plain side each row has its own prompt id, so that no prompt is shared."""
    import numpy as np

    from buffer.types import Prompt, given_trajectory

    rng = np.random.default_rng(0)
    ids = rng.integers(3, vocabulary, prompt).astype(np.int32)
    rows = []
    for k in range(n):
        named = Prompt(f"p{k}" if side == "plain" else "p", "", ids)
        tokens = rng.integers(3, vocabulary, actions).astype(np.int32)
        log_reward = rng.normal(size=(1, actions + 1)).astype(np.float32)
        rows.append(given_trajectory(named, tokens, "on_policy", log_reward, ("r",)))
    return rows


def plain_log_probs(policy: Any, rows: list[Any], batch: Any, part: Any) -> Any:
    """The result of LoraPolicy.log_probs_of, by one padded row per trajectory (all rows of a case are equally long)."""
    import torch

    from learner.policy import PrefixLogProbs

    chosen = [rows[k] for k in part.rows.tolist()]
    ids = torch.tensor(
        [[*row.prompt_token_ids.tolist(), *row.token_ids.tolist()] for row in chosen], device=policy.device
    )
    begin = len(chosen[0].prompt_token_ids) - 1
    hidden = policy._packed._trunk(input_ids=ids, use_cache=False).last_hidden_state[:, begin:]
    logits = (hidden @ policy._packed.output.weight.T).float()
    normaliser = logits.logsumexp(-1)
    log_pf = logits[:, :-1].gather(2, ids[:, begin + 1 :, None])[..., 0] - normaliser[:, :-1]
    log_pterm = logits[..., policy.spec.stop_token_id] - normaliser
    return PrefixLogProbs(log_pf, torch.where(batch.may_stop[part.rows].to(policy.device), log_pterm, 0.0))


class TimedFunction:
    """A function that sums the seconds spent in its calls."""

    def __init__(self, function: Callable[..., Any], device: str) -> None:
        self._function, self._device, self.seconds = function, device, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = now(self._device)
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds += now(self._device) - began


def measure(model: str, device: str, threads: int, side: str, case: str, steps: int) -> dict[str, Any]:
    """Seconds, overhead, peak memory and floating-point operations of one side, in this process."""
    import torch

    from buffer.types import PolicySpec
    from learner.batch import collate
    from learner.data_parallel import DataParallel
    from learner.gradient import Gradient
    from learner.policy import LoraPolicy

    if threads:
        torch.set_num_threads(threads)
    n, prompt, actions, limit = CASES[case]
    dtype = "bfloat16" if device == "cuda" else "float32"
    spec = PolicySpec(model, dtype, RANK, RANK, TARGETS, stop_token_id=2, max_actions=limit)
    policy = LoraPolicy(spec, torch.device(device))
    rows = trajectories(n, prompt, actions, policy.model.config.vocab_size, side)
    if side == "plain":
        policy.log_probs_of = lambda batch, part, masked=True: plain_log_probs(policy, rows, batch, part)  # type: ignore[method-assign]
    forward = policy.log_probs_of = TimedFunction(policy.log_probs_of, device)  # type: ignore[method-assign]
    backward = torch.autograd.backward = TimedFunction(torch.autograd.backward, device)
    parameters = policy.trainable_parameters()
    gradient = Gradient(policy, parameters, "subtb", 1.0, DataParallel())
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)
    memory = peak_bytes(device)
    totals, overheads = [], []
    for _ in range(steps + 1):
        forward.seconds = backward.seconds = 0.0
        began = now(device)
        batch = collate(rows, spec, PASS_TOKENS[device])
        _, loss = gradient.compute(batch, temperature=1.0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        totals.append(now(device) - began)
        overheads.append(1.0 - (forward.seconds + backward.seconds) / totals[-1])
    # the output layer is evaluated at every state, or at all but the last where stopping is forced there
    read = actions + (limit > actions)
    states = 1 + n * (read - 1) if side == "ours" else n * (actions + 1)
    tokens = batch.tree_nodes if side == "ours" else n * (prompt + actions)
    head = policy._packed.output.weight.numel()
    body = (
        sum(p.numel() for p in policy._packed._trunk.parameters()) - policy.model.get_input_embeddings().weight.numel()
    )
    return {
        "seconds": statistics.median(totals[1:]),
        "overhead": statistics.median(overheads[1:]),
        "peak_bytes": peak_bytes(device) - memory,
        # forward, and backward to the inputs only: the base weights have no gradient
        "operations": 4.0 * (tokens * body + states * head),
        "matmul_per_s": matmul_rate(device, dtype),
        "peak_per_s": published_peak(device),
        "passes": len(batch.parts),
        "pass_tokens": max(len(part.tree.tokens) for part in batch.parts),
        "loss": float(loss.value),
    }


def planned_bytes(model: str, device: str, tokens: int) -> float:
    """What the memory plan adds to the loaded model for passes of `tokens`, bytes."""
    from deploy.config import load_recipe
    from deploy.driver import memory_arithmetic as arithmetic
    from deploy.driver.memory_plan import model_shape
    from lm.head import chunk_bytes

    on_gpu = device == "cuda"
    names = f"model.lora_targets={json.dumps(TARGETS)}"
    config = load_recipe("demo", [f"model.name={model}", f"model.lora_rank={RANK}", names, "actors.max_model_len=16"])
    shape = model_shape(config, Path(model))
    width = 2 if on_gpu else 4
    activations, output = arithmetic.learner_pass(shape, width, tokens, False, on_gpu, chunk_bytes(on_gpu))
    return activations + output + 3 * arithmetic.optimiser(shape) / 4  # the adapter itself is loaded with the model


def published_peak(device: str) -> float | None:
    """Operations/s by the vendor's data sheet; None where unknown."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def matmul_rate(device: str, dtype: str) -> float:
    """Operations/s of one large square matrix product: the ceiling of this machine."""
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
    """Seconds on a clock, once the device has finished all work it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(device: str) -> float:
    """Peak memory so far in bytes: of the GPU, or of this process."""
    import torch

    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def random_model(architecture: str, folder: Path) -> str:
    """Folder of a model of a known shape with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=32000, max_position_embeddings=4096, **SHAPES[architecture])
    ).save_pretrained(folder)
    return str(folder)


def run_sides(model: str, args: argparse.Namespace, cases: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """(case, side) -> its measurements."""
    options = ["--model", model, "--device", args.device, "--threads", str(args.threads), "--steps", str(args.steps)]
    measured = {}
    for case in cases:
        for side in ("ours", "plain"):  # ours first: the other may not fit into a GPU
            output = run_python([__file__, *options, "--side", side, "--case", case])
            measured[case, side] = json.loads(output.splitlines()[-1])
            print_progress({f"{case}_{side}": measured[case, side]})
    return measured


def main() -> None:
    """Run both sides on all cases and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="The base model: a name or a folder.")
    parser.add_argument(
        "--architecture", choices=sorted(SHAPES), help="Use random weights of this shape instead of --model."
    )
    add_device(parser)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side.")
    parser.add_argument("--steps", type=int, default=3, help="The number of timed steps, after one that warms up.")
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    args = parse(parser, steps=1)
    if args.side:
        print(json.dumps(measure(args.model, args.device, args.threads, args.side, args.case, args.steps)))
        return
    from deploy.models.registry import resolve_model

    with tempfile.TemporaryDirectory() as scratch:
        if args.small:
            model = str(make_tiny_model(Path(scratch) / "model"))
        elif args.architecture:
            model = random_model(args.architecture, Path(scratch))
        else:
            model = str(resolve_model(args.model))
        cases = CASES_OF[args.device][-1:] if args.small else CASES_OF[args.device]
        measured = run_sides(model, args, cases)
        planned = planned_bytes(model, args.device, measured[cases[-1], "ours"]["pass_tokens"])
    ours = [measured[case, "ours"] for case in cases]
    largest, peak = measured[cases[-1], "ours"], ours[-1]["peak_per_s"]
    result: dict[str, Any] = {
        f"speedup_{case}": measured[case, "plain"]["seconds"] / measured[case, "ours"]["seconds"] for case in cases
    }
    result |= {
        "overhead": max(figures["overhead"] for figures in ours),
        "memory_ratio": largest["peak_bytes"] / measured[cases[-1], "plain"]["peak_bytes"],
        "memory_over_plan": largest["peak_bytes"] / planned,
        "matmul_fraction": min(f["operations"] / f["seconds"] / f["matmul_per_s"] for f in ours),
        "mfu": peak and largest["operations"] / largest["seconds"] / peak,
        "device": args.device,
        "threads": args.threads,
        "model": "tiny" if args.small else args.architecture or args.model,
    }
    print_result(result | {f"{case}_{side}": figures for (case, side), figures in measured.items()}, args.json)


if __name__ == "__main__":
    main()
