"""Packed passes of every architecture against plain ones, on tiny random models; writes the table of docs/models.md.

    python tests/benchmarks/models.py [--small] [--json] [--write]

Every architecture is a model of two layers with random weights, saved and loaded like any base model. The learner (LoRA on
the default targets, with random weights) and the frozen model score the same strings: a shared prompt longer than any
window, then strings that part at different places. The plain side is the model's own attention in transformers, one string
at a time. `--small` is the same table with one timed round.

Figures, in the JSON object of the last line:

rows         one object per architecture: architecture, supported, refused_because (the reason of `validate`, or of the
             proof at load), max_difference_nats (the larger of learner and frozen model), lora_in_vllm, speedup
             (seconds of plain passes over seconds of the packed one, frozen model)
supported    architectures that can be trained
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.architectures import ARCHITECTURES, PAGE, make_model, models_page
from tests.support.benchmark import make_parser, parse, print_result

CONTEXT, STRINGS, LENGTH = 40, 6, 12
"""Tokens of the prompt, strings, and tokens of each."""


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    from buffer.errors import ConfigError
    from lm.architectures import packing_problem, vllm_has_lora

    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(name, Path(scratch))
        row: dict[str, Any] = {
            "architecture": name,
            "supported": False,
            "refused_because": packing_problem(json.loads((folder / "config.json").read_text())),
            "max_difference_nats": None,
            "lora_in_vllm": vllm_has_lora(name),
            "speedup": None,
        }
        try:
            difference, speedup = _compare(folder, rounds)
        except ConfigError as error:
            return row | {"refused_because": row["refused_because"] or str(error).partition(": ")[2]}
    return row | {"supported": True, "max_difference_nats": difference, "speedup": speedup}


def _compare(folder: Path, rounds: int) -> tuple[float, float]:
    """(largest difference of any log q, nats; speedup). ConfigError where the model is refused at load."""
    from buffer.types import PolicySpec
    from deploy.config import ModelConfig
    from deploy.driver.check_model import ModelFiles, lora_targets
    from learner.policy import LoraPolicy
    from lm.load import load_model
    from lm.model import PackedModel

    targets = lora_targets(ModelConfig(), ModelFiles.read(folder))
    spec = PolicySpec(str(folder), "float32", 4, 4, tuple(targets), stop_token_id=2, max_actions=LENGTH)
    device = torch.device("cpu")
    frozen = PackedModel(load_model(spec, device, quantized=False), str(folder))
    policy = LoraPolicy(spec, device)
    torch.manual_seed(1)
    for parameter in policy.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    differences = []
    for model in (frozen, policy._packed):
        differences.append(float((_packed(model) - _plain(model.model)).abs().max()))
    seconds: dict[str, list[float]] = {side: [] for side in ("packed", "plain")}
    for _ in range(rounds):
        for side, call in (("packed", lambda: _packed(frozen)), ("plain", lambda: _plain(frozen.model))):
            began = time.process_time()
            call()
            seconds[side].append(time.process_time() - began)
    return max(differences), statistics.median(seconds["plain"]) / statistics.median(seconds["packed"])


def _strings() -> tuple[np.ndarray, list[np.ndarray]]:
    """The prompt and the strings; each shares a beginning with the one before it."""
    rng = np.random.default_rng(0)
    context = rng.integers(3, 64, CONTEXT).astype(np.int32)
    strings = [rng.integers(3, 64, LENGTH).astype(np.int32) for _ in range(STRINGS)]
    for k in range(1, STRINGS):
        strings[k][:k] = strings[k - 1][:k]
    return context, strings


@torch.inference_mode()
def _packed(model: Any) -> torch.Tensor:
    """[STRINGS, LENGTH] log-probabilities by one packed pass, nats."""
    from lm.prefix_tree import build_prefix_tree

    context, strings = _strings()
    tree = build_prefix_tree([context] * STRINGS, strings)
    hidden = model.hidden_states(tree.tokens)[torch.from_numpy(np.stack(tree.nodes)[:, :-1]).flatten()]
    tokens = torch.from_numpy(np.concatenate(strings)).long()
    log_p = model.output.token_logits(hidden, tokens) - model.output.log_normaliser(hidden)
    return log_p.view(STRINGS, LENGTH)


@torch.inference_mode()
def _plain(model: Any) -> torch.Tensor:
    """The same by a pass per string, under the attention that the model has in transformers."""
    from lm.attention import PACKED_ATTENTION

    context, strings = _strings()
    model.set_attn_implementation("eager")
    try:
        rows = []
        for string in strings:
            text = torch.from_numpy(np.concatenate([context, string])).long()[None]
            logits = model(input_ids=text, use_cache=False).logits[0, -LENGTH - 1 : -1].float()
            rows.append(logits.log_softmax(-1).gather(1, text[0, -LENGTH:, None])[:, 0])
    finally:
        model.set_attn_implementation(PACKED_ATTENTION)
    return torch.stack(rows)


def main() -> None:
    """Measure all architectures and print; with --write, write the page too."""
    parser = make_parser(__doc__)
    parser.add_argument("--write", action="store_true", help="Write the table into docs/models.md.")
    parser.add_argument("--rounds", type=int, default=5, help="The number of timed rounds.")
    args = parse(parser, rounds=1)
    torch.set_num_threads(1)
    rows = [measure(name, args.rounds) for name in ARCHITECTURES]
    if args.write:
        PAGE.write_text(models_page(rows))
    print_result({"rows": rows, "supported": [row["architecture"] for row in rows if row["supported"]]}, args.json)


if __name__ == "__main__":
    main()
