"""The command line and the last line that all scripts of tests/benchmarks share."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from tests.support.tiny import make_tiny_model, tiny_recipe

ROOT = Path(__file__).parents[2]


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with --small and --json, whose help text is the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small",
        action="store_true",
        help="Run in one to five minutes, at tiny sizes, on a tiny model made on the spot. It tests the script; the "
        "figures say nothing about the system.",
    )
    parser.add_argument("--json", action="store_true", help="Print only the JSON object, as one line.")
    return parser


def parse(parser: argparse.ArgumentParser, **small: object) -> argparse.Namespace:
    """The options. With --small, `small` replaces the defaults; options on the command line win over both."""
    if parser.parse_known_args()[0].small:
        parser.set_defaults(**small)
    return parser.parse_args()


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="The device of all parts.")


def gpu_options(shares: str = "0.5,0.3,0.2") -> list[str]:
    """Overrides of a recipe that give engine, learner and reward worker their shares of one GPU."""
    engine, learner, rewards = shares.split(",")
    return [f"actors.gpus={engine}", f"learner.gpus={learner}", f"rewards.gpus={rewards}", "model.dtype=auto"]


def print_progress(figures: Mapping[str, Any]) -> None:
    """One JSON object on the standard error: what is left of a benchmark that is stopped before its end."""
    sys.stderr.write(json.dumps(figures) + "\n")
    sys.stderr.flush()


def print_result(result: Mapping[str, Any], json_only: bool) -> None:
    """One line per figure, unless `json_only`; last of all the JSON object, on one line."""
    if not json_only:
        for name, value in result.items():
            sys.stdout.write(f"{name:32} {f'{value:.4g}' if isinstance(value, float) else value}\n")
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def run_python(arguments: Sequence[str], limit_s: float | None = None) -> str:
    """Standard output of another Python process, run from the root. SystemExit with all its output when it fails.

    The output goes through files: a pipe would stay open as long as any grandchild, such as Ray's, holds it.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, stdout=output, stderr=errors, timeout=limit_s, check=False
        )
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(output.read() + errors.read())
        return output.read()


def write_tiny_recipe(folder: Path) -> Path:
    """A recipe file for the 40 strings of the tiny task, with its model next to it, in a new `folder`."""
    model = make_tiny_model(folder / "model")
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_recipe(model)))
    return path
