"""Packed prefix scoring against one pass per prefix, on the frozen model.

    python tests/benchmarks/rewards.py [--small] [--json] [--model NAME_OR_DIR] [--device cpu|cuda] [--threads 2] [--rounds 5]
                                       [--cpu-time]

16 responses Z of random tokens, which share nothing but the prompt X (40 tokens), each with a target Y (15 tokens) after every
prefix; one shape with 20 tokens in Z, one with 60. Both sides hold the same fp32 weights and give every log-probability of
`BaseLogProbs`. Sides take turns, round by round; figures are medians.

naive   one plain transformers forward for every prefix, [X][z_1:i][Y] without Y's last token, which predicts nothing: the 16
        rows of a prefix length are one batch without padding, under the library's causal attention. It computes logits at every
        token, as `model(input_ids)` does.
lean    the same passes with logits only where one is read (`logits_to_keep`): the best a caller of transformers can do
packed  BaseModel.score, layout included, with logits only where one is read
plain   one causal forward of as many tokens as packed feeds, in rows of X + Z + Y, with logits at as many of them

Figures, in the JSON object of the last line, one value per shape:

speedup                   naive / packed, seconds
bound                     naive / packed, tokens fed. Both compute logits at (nearly) every token they feed, so this is the speedup that
                          equal efficiency would give
fraction_of_bound         speedup / bound
lean_speedup              lean / packed, seconds
lean_bound                lean / packed, multiply-adds with the weights: here both sides need equally many logits, which do not shrink with
                          the tokens
lean_fraction_of_bound    lean_speedup / lean_bound
scorer_over_forward       tokens/s of packed over tokens/s of plain
max_difference_nats       largest difference of any log-probability, packed to lean
speedup_of_rounds         [lowest, highest] speedup of single rounds
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lm.packing import pack
from tests.support.benchmark import add_device, make_parser, parse, print_progress, print_result
from tests.support.tiny import make_tiny_model

SHAPES = ((40, 20, 15, 16), (40, 60, 15, 16))
SMALL_SHAPES = ((6, 3, 4, 2), (6, 5, 4, 2))
"""Tokens of X, of Z and of Y, and the number of responses."""
MAX_TOKENS = 8192
"""Tokens of one pass."""


class Sides:
    """The two models with the same weights, and one shape."""

    def __init__(self, model: Any, base: Any, stop: int, shape: tuple[int, int, int, int], max_tokens: int) -> None:
        from lm.packing import ScoredRow, scoring_passes
        from rewards.task import ScoreRequest

        context, width, target, rows = shape
        rng = np.random.default_rng(0)
        self.model, self.base, self.stop = model, base, stop
        self.device = next(model.parameters()).device
        draw = lambda n: rng.integers(3, model.config.vocab_size, n).astype(np.int32)  # noqa: E731
        self.context, self.target = draw(context), draw(target)
        self.responses = [draw(width) for _ in range(rows)]
        self.requests = [ScoreRequest(self.context, self.target)] * rows
        scored = [
            ScoredRow(k, self.context, z, self.target, np.arange(width + 1), False)
            for k, z in enumerate(self.responses)
        ]
        layouts = [pack(part, stop) for part in scoring_passes(scored, max_tokens)]
        self.packed_tokens = sum(len(layout.tokens) for layout in layouts)
        self.packed_logits = sum(len(np.unique(layout.read_at)) for layout in layouts)
        self.naive_tokens = rows * sum(context + i + target - 1 for i in range(width + 1))
        self.lean_logits = rows * (width + 1) * target
        self.row = context + width + target

    @torch.inference_mode()
    def naive(self, keep: int = 0) -> list[np.ndarray]:
        """log p, nats: of tokens [B, T], of stops [B, T+1], of targets [B, T+1]. Logits at the last `keep` tokens; 0: at all."""
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
        """The result of `naive`, with logits only where one is read."""
        return self.naive(len(self.target))

    def packed(self) -> list[np.ndarray]:
        """The result of `naive`, by BaseModel."""
        base_scores = self.base.score(self.requests, self.responses)
        return [np.stack([getattr(score, name) for score in base_scores]) for name in ("tokens", "stop", "target")]

    @torch.inference_mode()
    def plain(self) -> None:
        """A causal forward of as many tokens and logits as packed, in passes of at most as many tokens."""
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
        """Tokens that `plain` feeds: whole rows, so a few more or fewer than packed."""
        return round(self.packed_tokens / self.row) * self.row


def measure(sides: Sides, rounds: int, now: Callable[[], float], show: Callable[[str], None]) -> dict[str, Any]:
    """All figures of one shape. The calls that check equality also warm up."""
    names = ("packed", "naive", "plain", "lean")
    log_probs = {name: getattr(sides, name)() for name in ("packed", "lean")}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            began = now()
            getattr(sides, name)()
            seconds[name].append(now() - began)
        show(f"round {number}: " + ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in names))
    median = {name: statistics.median(values) for name, values in seconds.items()}
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
            float(np.abs(a - b).max()) for a, b in zip(log_probs["packed"], log_probs["lean"], strict=True)
        ),
        "seconds": median,
        "speedup_of_rounds": [min(ratios), max(ratios)],
        "tokens": {"packed": sides.packed_tokens, "naive": sides.naive_tokens},
    }


def clock(device: torch.device) -> float:
    """Seconds on a clock, once the device has finished all work it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure both shapes and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="The base model: a name or a folder.")
    add_device(parser)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads.")
    parser.add_argument("--rounds", type=int, default=5, help="The number of timed rounds.")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="Measure CPU time of the process on one thread instead of wall-clock time: for a machine that is shared.",
    )
    args = parse(parser, rounds=1)
    from transformers import AutoModelForCausalLM

    from buffer.types import PolicySpec
    from deploy.models.registry import resolve_model
    from rewards.base_model import BaseModel

    threads = 1 if args.cpu_time else args.threads
    torch.set_num_threads(threads)
    device = torch.device(args.device)
    now = time.process_time if args.cpu_time else lambda: clock(device)
    show = (lambda line: None) if args.json else lambda line: print(line, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(make_tiny_model(Path(scratch)) if args.small else resolve_model(args.model))
        spec = PolicySpec(folder, "float32", 8, 8, ("q_proj",), stop_token_id=2, max_actions=64)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        model.to(device).eval()
        base = BaseModel(spec, device, MAX_TOKENS)
    per_shape = []
    for shape in SMALL_SHAPES if args.small else SHAPES:
        sides = Sides(model, base, spec.stop_token_id, shape, base.max_tokens)
        per_shape.append(measure(sides, args.rounds, now, show))
        print_progress(per_shape[-1])
    result: dict[str, Any] = {key: [figures[key] for figures in per_shape] for key in per_shape[0]}
    result |= {"rounds": args.rounds, "threads": threads, "cpu_time": args.cpu_time, "device": args.device}
    print_result(result | {"model": "tiny" if args.small else args.model}, args.json)


if __name__ == "__main__":
    main()
