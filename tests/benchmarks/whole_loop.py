"""The whole loop on one device: how much of its time the engine computes, and how long the learner waits for it.

    python tests/benchmarks/whole_loop.py [--device cpu|cuda] [--recipe demo] [--steps 60] [--gpus 0.5,0.3,0.2] [--json] [section.field=value ...]

Runs `tributary train` and reads its summary. On one GPU, engine, learner and reward worker share it by the fractions given (the engine's
also bounds vLLM's memory); on a CPU they share its cores. Evaluation is left out of all figures; the start is not.

engine_waits        share of the actors' time outside the engine: waiting for reward workers, taking adapters, packing
learner_waits       share of the learner's time without data
trajectories_per_s  sampled, while training             steps_per_s   of the learner
Last line: one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--gpus", default="0.5,0.3,0.2", help="shares of engine, learner, reward worker; with --device cuda"
    )
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("overrides", nargs="*", help="section.field=value")
    args = parser.parse_args()
    options = [f"learner.steps={args.steps}", "evaluation.samples=64"]
    if args.device == "cuda":
        engine, learner, rewards = args.gpus.split(",")
        options += [
            f"actors.gpus={engine}",
            f"actors.gpu_memory_fraction={engine}",
            f"learner.gpus={learner}",
            f"rewards.gpus={rewards}",
        ]
        options += ["model.dtype=bfloat16", "learner.canary_tolerance=0.3"]
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [
            sys.executable,
            "-m",
            "deploy.cli",
            "train",
            args.recipe,
            *options,
            *args.overrides,
            "--run",
            str(run),
        ]
        with (Path(scratch) / "output").open("w+") as output:  # no pipe: Ray's helpers would hold it open
            done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
            output.seek(0)
            said = output.read()
        if done.returncode:
            raise SystemExit(said)
        if not args.json:
            print(said)
        summary = json.loads((run / "summary.json").read_text())
    print(
        json.dumps(
            {
                "engine_waits": 1.0 - summary["engine_busy"],
                "learner_waits": summary["learner_waits"],
                "trajectories_per_s": summary["trajectories_per_s"],
                "steps_per_s": summary["steps"] / summary["training_seconds"],
                "staleness": summary["staleness"],
                "device": args.device,
                "recipe": args.recipe,
            }
        )
    )


if __name__ == "__main__":
    main()
