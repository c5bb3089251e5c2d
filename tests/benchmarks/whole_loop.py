"""The whole loop on one device: the share of time the engine computes, and how long the learner waits for it.

    python tests/benchmarks/whole_loop.py [--small] [--json] [--device cpu|cuda] [--recipe demo] [--steps 60] [--gpus 0.5,0.3,0.2]
                                          [--run DIR] [section.setting=value ...]

Runs `tributary train` and reads its summary. On one GPU the engine, the learner and the reward worker share it by the fractions
given; on a CPU they share its cores. The figures cover training, not the start
and not the evaluation.

Figures, in the JSON object of the last line:

engine_waits          share of the actors' time outside the engine: waiting for reward workers, taking adapters, packing
learner_waits         share of the learner's time without data
trajectories_per_s    trajectories sampled while training
steps_per_s           steps of the learner
staleness             versions by which trajectories lag behind the learner: mean and max
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.benchmark import (
    add_device,
    gpu_options,
    make_parser,
    parse,
    print_result,
    run_python,
    write_tiny_recipe,
)


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = make_parser(__doc__)
    add_device(parser)
    parser.add_argument("--recipe", default="demo", help="The recipe to train: a shipped name or a file.")
    parser.add_argument("--steps", type=int, default=60, help="The number of learner steps.")
    parser.add_argument(
        "--gpus", default="0.5,0.3,0.2", help="With --device cuda: the shares of engine, learner and reward worker."
    )
    parser.add_argument("--run", help="The run's folder, which is replaced and kept. Default: a temporary one.")
    parser.add_argument("overrides", nargs="*", help="Settings of the recipe to change, as section.setting=value.")
    return parse(parser, recipe="", steps=20)


def recipe_of(args: argparse.Namespace, scratch: Path) -> tuple[str, list[str]]:
    """The recipe and the settings that replace its own."""
    recipe = args.recipe or str(write_tiny_recipe(scratch / "recipe"))
    options = gpu_options(args.gpus) if args.device == "cuda" else []
    return recipe, [f"learner.steps={args.steps}", "evaluation.samples=64", *options, *args.overrides]


def main() -> None:
    """Train and print."""
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(args.run or Path(scratch) / "run")
        recipe, options = recipe_of(args, Path(scratch))
        output = run_python(["-m", "deploy.cli", "train", recipe, *options, "--run", str(run), "--replace"])
        if not args.json:
            print(output)
        summary = json.loads((run / "summary.json").read_text())
    result = {
        "engine_waits": 1.0 - summary["engine_busy"],
        "learner_waits": summary["learner_waits"],
        "trajectories_per_s": summary["trajectories_per_s"],
        "steps_per_s": summary["steps"] / summary["training_seconds"],
        "staleness": summary["staleness"],
        "device": args.device,
        "recipe": args.recipe or "tiny",
    }
    print_result(result, args.json)


if __name__ == "__main__":
    main()
