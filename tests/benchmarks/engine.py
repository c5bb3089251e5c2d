"""The gain from the CPU patches of vLLM: the same engine with and without them, one after the other on the same machine.

    python tests/benchmarks/engine.py [--small] [--json] [--model DIR_OR_NAME] [--threads 1]

Each side runs in a process of its own, with 64 requests in flight on one LoRA adapter (rank 16 on q, k, v, o): once with 16 tokens per
request (LoRA products dominate) and once with 3 tokens after the 18-token prompt of the integer task (the prompt dominates). Best of
three rounds.

Figures, in the JSON object of the last line:

tokens_per_s_of_16_ratio, tokens_per_s_of_3_ratio    patched / stock, of this run
stock_*_tokens, patched_*_tokens                     {tokens_per_s, trajectories_per_s, canary_difference_nats} of one side
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.benchmark import make_parser, parse, print_result, run_python
from tests.support.tiny_text import make_text_model

ROUNDS = 3
REQUESTS = 64
TOKENS = (16, 3)
"""Tokens of a response."""
PROMPT = "The following is a random integer drawn uniformly between 0 and 100: "


def measure(model: str, threads: int, tokens: int, patched: bool) -> dict[str, float]:
    """Tokens/s and trajectories/s of one engine, in this process."""
    import numpy as np
    import torch

    from actors.behaviour import Behaviour
    from actors.config import ActorConfig
    from actors.engine import Engine
    from buffer.types import Prompt, given_trajectory
    from deploy.config import ModelConfig, PolicyConfig
    from deploy.driver.preflight import policy_spec
    from deploy.models.registry import resolve_model
    from learner.adapter import adapter_files, adapter_version
    from learner.policy import LoraPolicy
    from lm import cpu_patches
    from lm.tokens import load_tokenizer

    if not patched:
        cpu_patches.apply = dict
    folder = resolve_model(model)
    tokenizer = load_tokenizer(folder)
    prompt = Prompt("benchmark", PROMPT, np.array(tokenizer.encode(PROMPT).ids, dtype=np.int32))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    spec = policy_spec(
        ModelConfig(name=model, dtype="float32"), PolicyConfig(max_actions=tokens), folder, tokenizer, targets
    )
    policy = LoraPolicy(spec, torch.device("cpu"))
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    files = adapter_files(policy)
    no_tokens, no_reward = np.zeros(0, np.int32), np.zeros((1, 1), np.float32)
    example = given_trajectory(prompt, no_tokens, "canary", no_reward, ("none",))
    version = adapter_version(policy, files, 0, 0, example, 2e-3)
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(spec, ActorConfig(max_in_flight=REQUESTS), Path(scratch), 0, on_gpu=False)
        engine.set_threads(threads)
        difference, best = engine.serve(version, files), 0.0
        for _ in range(ROUNDS + 1):  # the first one warms up
            began = time.perf_counter()
            for _ in range(REQUESTS):
                engine.add(prompt.token_ids, Behaviour("suppressed", 1.0, suppress_stop=True))
            while engine.in_flight:
                engine.step()
            best = max(best, REQUESTS * tokens / (time.perf_counter() - began))
    return {"tokens_per_s": best, "trajectories_per_s": best / tokens, "canary_difference_nats": difference}


def main() -> None:
    """Run both sides and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="The base model: a name or a folder.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine.")
    parser.add_argument("--side", choices=["patched", "stock"], help=argparse.SUPPRESS)
    args = parse(parser)
    if args.side:
        for tokens in TOKENS:
            print(json.dumps(measure(args.model, args.threads, tokens, args.side == "patched")))
        return
    result: dict[str, object] = {"model": "tiny" if args.small else args.model, "threads": args.threads}
    with tempfile.TemporaryDirectory() as scratch:
        model = str(make_text_model(Path(scratch))) if args.small else args.model
        rates = {}
        for side in ("stock", "patched"):
            options = ["--model", model, "--threads", str(args.threads), "--side", side]
            lines = [line for line in run_python([__file__, *options]).splitlines() if line.startswith("{")]
            for tokens, line in zip(TOKENS, lines, strict=True):
                figures = result[f"{side}_{tokens}_tokens"] = json.loads(line)
                rates[side, tokens] = figures["tokens_per_s"]
        for tokens in TOKENS:
            result[f"tokens_per_s_of_{tokens}_ratio"] = rates["patched", tokens] / rates["stock", tokens]
    print_result(result, args.json)


if __name__ == "__main__":
    main()
