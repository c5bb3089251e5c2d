"""Packed prefix scoring against a pass for each prefix, on the frozen model.

    python tests/benchmarks/rewards.py [--model NAME_OR_DIR] [--device cpu|cuda] [--threads 2] [--rounds 5] [--quick] [--busy]
                                       [--json]

16 responses Z of random tokens, which share nothing but the prompt X (40 tokens), each with a target Y (15) behind every
prefix; one shape with 20 tokens in Z, one with 60. Both sides hold the same fp32 weights and give every log-probability of
`BaseLogProbs`. Sides take turns, round by round; medians, and the spread of the rounds' own speedups. --busy counts the process's
CPU time instead of the clock's, for a machine that is shared; it means something with one thread only.

naive   one plain transformers forward for every prefix, [X][z_1:i][Y] without Y's last token, which predicts nothing: the 16
        rows of a prefix length are one batch without padding, under the library's causal attention. It has logits at every token,
        as `model(input_ids)` gives them.
lean    the same passes with logits only where one is read (`logits_to_keep`): the best a caller of transformers can do.
packed  BaseModel.answer, layout and all, with logits only where one is read.
plain   one causal forward of as many tokens as packed feeds, in rows of X + Z + Y, with logits at as many of them.

One value a shape:
speedup, bound, fraction_of_bound    naive / packed: seconds; tokens fed; the first over the second. Both have logits at (nearly)
                                     every token they feed, so the ratio of tokens is what equal efficiency would give.
lean_speedup, lean_bound, lean_fraction_of_bound    lean / packed: seconds; multiply-adds with the weights, since here the sides need as
                                     many logits as each other and these do not shrink with the tokens; the first over the second.
scorer_over_forward                  tokens/s of packed over tokens/s of plain
max_difference_nats                  of any log-probability, packed to lean
Last line: one JSON object.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent.parent
SHAPES = {"full": ((40, 20, 15, 16), (40, 60, 15, 16)), "quick": ((6, 3, 4, 2), (6, 5, 4, 2))}
"""Tokens of X, Z and Y, and responses."""
FULL_TOKENS = 8192


class Sides:
    """The two models with the same weights, and one shape."""

    def __init__(self, model: Any, base: Any, stop: int, shape: tuple[int, int, int, int], max_tokens: int) -> None:
        from lm.packing import ScoredRow, pack, scoring_passes
        from rewards.task import ScoreRequest

        context, width, target, rows = shape
        rng = np.random.default_rng(0)
        self.model, self.base, self.stop = model, base, stop
        self.device = next(model.parameters()).device
        draw = lambda n: rng.integers(3, model.config.vocab_size, n).astype(np.int32)  # noqa: E731
        self.context, self.target = draw(context), draw(target)
        self.responses = [draw(width) for _ in range(rows)]
        self.questions = [ScoreRequest(self.context, self.target)] * rows
        scored = [ScoredRow(k, self.context, z, self.target, 0, width + 1, False) for k, z in enumerate(self.responses)]
        layouts = [pack(part, stop) for part in scoring_passes(scored, max_tokens)]
        self.packed_tokens = sum(len(layout.tokens) for layout in layouts)
        self.packed_logits = sum(len(np.unique(layout.read_at)) for layout in layouts)
        self.naive_tokens = rows * sum(context + i + target - 1 for i in range(width + 1))
        self.lean_logits = rows * (width + 1) * target
        self.row = context + width + target

    @torch.inference_mode()
    def naive(self, keep: int = 0) -> list[np.ndarray]:
        """[B, T] of tokens, [B, T+1] of stops, [B, T+1] of targets. `keep`: logits at the last so many tokens; 0: at all."""
        width, many = len(self.target), len(self.responses)
        target = torch.from_numpy(self.target).long().to(self.device).expand(many, -1)
        tokens, stops, targets = [], [], []
        for i in range(len(self.responses[0]) + 1):
            text = np.stack([np.concatenate([self.context, z[:i], self.target[:-1]]) for z in self.responses])
            ids = torch.from_numpy(text).long().to(self.device)
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[:, -width:].float()
            normaliser = logits.logsumexp(-1)
            targets.append((logits.gather(-1, target[..., None])[..., 0] - normaliser).sum(-1).cpu().numpy())
            stops.append((logits[:, 0, self.stop] - normaliser[:, 0]).cpu().numpy())
            if i < len(self.responses[0]):
                taken = torch.tensor([int(z[i]) for z in self.responses], device=self.device)
                tokens.append((logits[torch.arange(many), 0, taken] - normaliser[:, 0]).cpu().numpy())
        return [np.stack(x, 1) for x in (tokens, stops, targets)]

    def lean(self) -> list[np.ndarray]:
        """The same with few logits."""
        return self.naive(len(self.target))

    def packed(self) -> list[np.ndarray]:
        """The same by BaseModel."""
        said = self.base.score(self.questions, self.responses)
        return [np.stack([getattr(one, name) for one in said]) for name in ("tokens", "stop", "target")]

    @torch.inference_mode()
    def plain(self) -> None:
        """As many tokens and logits as packed, in passes of at most as many tokens."""
        rows, logits = round(self.packed_tokens / self.row), self.packed_logits
        at_once = max(1, self.base.max_tokens // self.row)
        for begin in range(0, rows, at_once):
            ids = torch.zeros(min(at_once, rows - begin), self.row, dtype=torch.int64, device=self.device)
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[:logits]
            logits -= len(hidden)
            for part in hidden.split(170):
                self.model.lm_head(part)

    @property
    def plain_tokens(self) -> int:
        """Rows are whole, so they differ a little."""
        return round(self.packed_tokens / self.row) * self.row


def measure(sides: Sides, rounds: int, now: Callable[[], float], show: Callable[[str], None]) -> dict[str, Any]:
    """All figures of one shape; the run that checks equality warms up."""
    names = ("packed", "naive", "plain", "lean")
    answers = {name: getattr(sides, name)() for name in ("packed", "lean")}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            began = now()
            getattr(sides, name)()
            seconds[name].append(now() - began)
        show(f"round {number}: " + ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in names))
    median = {name: statistics.median(found) for name, found in seconds.items()}
    head = sides.model.lm_head.weight.numel()
    body = sum(p.numel() for n, p in sides.model.named_parameters() if "embed" not in n and "lm_head" not in n)
    bound = sides.naive_tokens / sides.packed_tokens
    work = body * sides.packed_tokens + head * sides.packed_logits
    lean_bound = (body * sides.naive_tokens + head * sides.lean_logits) / work
    ratios = [a / b for a, b in zip(seconds["naive"], seconds["packed"], strict=True)]
    rate = sides.packed_tokens / median["packed"]
    return {
        "speedup": median["naive"] / median["packed"],
        "bound": bound,
        "fraction_of_bound": median["naive"] / median["packed"] / bound,
        "lean_speedup": median["lean"] / median["packed"],
        "lean_bound": lean_bound,
        "lean_fraction_of_bound": median["lean"] / median["packed"] / lean_bound,
        "scorer_over_forward": rate / (sides.plain_tokens / median["plain"]),
        "max_difference_nats": max(
            float(np.abs(a - b).max()) for a, b in zip(answers["packed"], answers["lean"], strict=True)
        ),
        "seconds": median,
        "speedup_of_rounds": [min(ratios), max(ratios)],
        "tokens": {"packed": sides.packed_tokens, "naive": sides.naive_tokens},
    }


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure both shapes and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="timed")
    parser.add_argument("--quick", action="store_true", help="a tiny model and short strings: does it run?")
    parser.add_argument("--busy", action="store_true", help="CPU time of one thread instead of the clock's")
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    from buffer.types import PolicySpec
    from deploy.models.registry import resolve_model
    from rewards.base_model import BaseModel
    from tests.support.tiny import make_tiny_model

    threads = 1 if args.busy else args.threads
    torch.set_num_threads(threads)
    device = torch.device(args.device)
    now = time.process_time if args.busy else lambda: clock(device)
    show = (lambda line: None) if args.json else lambda line: print(line, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(make_tiny_model(Path(scratch)) if args.quick else resolve_model(args.model))
        spec = PolicySpec(folder, "float32", 8, 8, ("q_proj",), stop_token_id=2, max_actions=64)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        model.to(device).eval()
        base = BaseModel(spec, device, FULL_TOKENS)
    found = [
        measure(Sides(model, base, spec.stop_token_id, shape, base.max_tokens), args.rounds, now, show)
        for shape in SHAPES["quick" if args.quick else "full"]
    ]
    result: dict[str, Any] = {key: [figures[key] for figures in found] for key in found[0]}
    result |= {"rounds": args.rounds, "threads": threads, "busy": args.busy, "device": args.device}
    result["model"] = "tiny" if args.quick else args.model
    print(json.dumps(result))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the packages are imported flat
    main()
