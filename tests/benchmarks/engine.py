"""What the two CPU patches of vLLM bring: the same engine with and without them, one after the other on the same machine.

    python tests/benchmarks/engine.py --model DIR_OR_NAME [--threads 1] [--json]

Each side runs in a process of its own: 64 requests in flight on one LoRA adapter (rank 16 on q, k, v, o), once 16 tokens each
(LoRA products dominate) and once 3 tokens behind the 18-token prompt of the integer task (the prompt dominates). Best of three.
Last line: one JSON object. Keys ending in _ratio are patched / stock of this run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 3
REQUESTS = 64
PROMPT = "The following is a random integer drawn uniformly between 0 and 100: "


def measure(model: str, threads: int, tokens: int, patched: bool) -> dict[str, float]:
    """Tokens and trajectories a second of one engine, in this process."""
    import numpy as np
    import torch

    from actors.behaviour import Behaviour
    from actors.config import ActorConfig
    from actors.engine import Engine
    from buffer.types import Prompt, given_trajectory
    from deploy.config import ModelConfig, PolicyConfig
    from deploy.driver.preflight import policy_spec
    from deploy.models.registry import read_tokenizer, resolve_model
    from learner.adapter import adapter_files, adapter_version
    from learner.policy import LoraPolicy
    from lm import cpu_patches

    if not patched:
        cpu_patches.apply = dict
    folder = resolve_model(model)
    tokenizer = read_tokenizer(folder)
    prompt = Prompt("benchmark", PROMPT, np.array(tokenizer.encode(PROMPT).ids, dtype=np.int32))
    spec = policy_spec(ModelConfig(name=model), PolicyConfig(max_actions=tokens), folder, tokenizer)
    policy = LoraPolicy(spec, torch.device("cpu"))
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    files = adapter_files(policy)
    version = adapter_version(
        policy,
        files,
        0,
        0,
        given_trajectory(prompt, np.zeros(0, np.int32), "canary", np.zeros((1, 1), np.float32), ("none",)),
        2e-3,
    )
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--side", choices=["patched", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.model, args.threads, args.tokens, args.side == "patched")))
        return
    result: dict[str, object] = {"model": args.model, "threads": args.threads}
    for tokens in (16, 3):
        rates = {}
        for side in ("stock", "patched"):
            options = ["--model", args.model, "--threads", str(args.threads), "--side", side, "--tokens", str(tokens)]
            done = subprocess.run(
                [sys.executable, __file__, *options], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            figures = json.loads(done.stdout.splitlines()[-1])
            result[f"{side}_{tokens}_tokens"] = figures
            rates[side] = figures["tokens_per_s"]
            if not args.json:
                print(side, tokens, "tokens:", figures)
        result[f"tokens_per_s_of_{tokens}_ratio"] = rates["patched"] / rates["stock"]
    print(json.dumps(result))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the packages are imported flat
    main()
