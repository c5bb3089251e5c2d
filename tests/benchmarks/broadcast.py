"""The cost of a new adapter: seconds until the engine samples from it, and tokens lost.

    python tests/benchmarks/broadcast.py [--small] [--json] [--device cpu|cuda] [--recipe demo] [--versions 12] [--interval 2.0]
                                         [--window 20] [section.setting=value ...]

One Ray process runs the real rollout loop around a real vLLM engine on the demo's prompt. This process plays the learner, with
real LoRA weights of rank 16 on q, k, v, o. Both ways end when the engine has read the canary of the new version, which is the
first thing that it computes with it.

broadcast   serialise the adapter and publish it through the object store; the actor is notified, fetches and loads it
local       serialise it and write it to a file; the same engine reads and loads that file between two of its steps

Figures, in the JSON object of the last line:

broadcast_over_local     broadcast_s / local_s; the two ways take turns
broadcast_s, local_s     median seconds from the end of the optimiser step until the version is served
throughput_ratio         tokens/s with a version every `interval_s` seconds over tokens/s with none. The learner's side makes its
                         versions in both cases; windows take turns
tokens_per_s             medians, `never` and `often`
adapter_bytes            size of one adapter
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ["PYTHONPATH"] = str(ROOT)

import numpy as np
import ray
import torch

from buffer.server.redis_server import RedisServer
from buffer.types import AdapterFiles, AdapterVersion, given_trajectory
from deploy.cluster.actor_process import ActorProcess
from deploy.cluster.adapter_store import AdapterStore, AdapterStoreClient
from deploy.cluster.placement import remote
from deploy.cluster.process_setup import Address
from deploy.config import load_recipe
from deploy.driver.preflight import check
from learner.adapter import adapter_files, adapter_version
from learner.policy import LoraPolicy
from tests.support.benchmark import (
    add_device,
    gpu_options,
    make_parser,
    parse,
    print_progress,
    print_result,
    write_tiny_recipe,
)


class DiscardingGate:
    """A RewardGate without reward workers: trajectories are dropped."""

    def send(self, trajectories: list[Any]) -> None:
        """Drop them."""

    def free_slots(self, timeout_s: float) -> int:
        """There is always a free slot."""
        return 1


class TimedActor(ActorProcess):
    """An actor that records when it began to serve a version, and can take a version from a file instead of the store."""

    def __init__(self, number: int, address: Address) -> None:
        super().__init__(number, address)
        rollout = self._rollout
        rollout._rewards = DiscardingGate()
        self._from_store, self._file, self._version = rollout._adapters, None, None
        self._served_at: dict[int, float] = {}
        rollout._adapters = self._newest
        self._serve = rollout._engine.serve
        rollout._engine.serve = self._timed_serve  # type: ignore[method-assign]

    def read_from(self, path: str, version: AdapterVersion) -> None:
        """From now on the newest version is in this file; an empty path: in the store again."""
        self._file, self._version = path, version

    def served_at(self, number: int) -> float | None:
        """Unix time at which the version's canary had been read; None before."""
        return self._served_at.get(number)

    def _newest(self, known: int) -> Any:
        if not self._file:
            return self._from_store(known)
        version = self._version
        if version.number <= known:
            return None
        return version, AdapterFiles(Path(self._file).read_bytes(), Path(f"{self._file}.json").read_text())

    def _timed_serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        difference = self._serve(version, files)
        self._served_at[version.number] = time.time()
        return difference


class Publisher:
    """The learner's side."""

    def __init__(self, checked: Any, store: AdapterStoreClient, actor: Any, folder: Path, device: torch.device) -> None:
        self._policy = LoraPolicy(checked.spec, device)
        self._tolerance = checked.config.learner.canary_tolerance_of(checked.spec.dtype)
        self._store, self._actor, self._folder = store, actor, folder
        self._number = -1
        no_tokens, no_reward = np.zeros(0, np.int32), np.zeros((1, 1), np.float32)
        self._example = given_trajectory(checked.prompts[0], no_tokens, "canary", no_reward, ("none",))

    def step(self) -> tuple[AdapterVersion, AdapterFiles, float]:
        """Weights as after an optimiser step, their files, and the time at which that step ended."""
        with torch.no_grad():
            for name, parameter in self._policy.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
        self._number += 1
        files = adapter_files(self._policy)
        version = adapter_version(self._policy, files, self._number, 0, self._example, self._tolerance)
        began = time.time()  # the canary's own forward pass is the same for both ways, and is left out
        return version, adapter_files(self._policy), began

    def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Put the version into the store."""
        self._store.publish(version, files)

    def broadcast_s(self) -> float:
        """Seconds from the step's end until the version is served, through the store."""
        version, files, began = self.step()
        self.publish(version, files)
        return self._wait(version.number) - began

    def local_s(self) -> float:
        """Seconds from the step's end until the version is served, through a file."""
        version, files, began = self.step()
        path = self._folder / f"{version.number}"
        path.write_bytes(files.weights)
        Path(f"{path}.json").write_text(files.config_json)
        ray.get(self._actor.read_from.remote(str(path), version))
        served_at = self._wait(version.number)
        ray.get(self._actor.read_from.remote("", version))
        return served_at - began

    def _wait(self, number: int) -> float:
        while True:
            if (served_at := ray.get(self._actor.served_at.remote(number))) is not None:
                return served_at
            threading.Event().wait(0.002)


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = make_parser(__doc__)
    add_device(parser)
    parser.add_argument("--recipe", default="demo", help="The recipe to run: a shipped name or a file.")
    parser.add_argument("--versions", type=int, default=12, help="The number of versions timed in each way.")
    parser.add_argument(
        "--interval", type=float, default=2.0, help="Seconds between versions while tokens are counted."
    )
    parser.add_argument("--window", type=float, default=20.0, help="Seconds of each count of tokens.")
    parser.add_argument("--rounds", type=int, default=3, help="The number of counts with and without versions.")
    parser.add_argument("overrides", nargs="*", help="Settings of the recipe to change, as section.setting=value.")
    return parse(parser, recipe="", versions=2, interval=0.5, window=2.0, rounds=1)


def recipe_of(args: argparse.Namespace, scratch: Path) -> tuple[str, list[str]]:
    """The recipe and the settings that replace its own."""
    recipe = args.recipe or str(write_tiny_recipe(scratch / "recipe"))
    return recipe, [*(gpu_options() if args.device == "cuda" else []), *args.overrides]


def main() -> None:
    """Measure and print."""
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch, RedisServer.start(Path(scratch) / "redis") as server:
        checked = check(load_recipe(*recipe_of(args, Path(scratch))))
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=4)
        try:
            result = measure(args, checked, server.url, Path(scratch))
        finally:
            ray.shutdown()
    print_result(result, args.json)


def measure(args: argparse.Namespace, checked: Any, redis_url: str, scratch: Path) -> dict[str, Any]:
    """All figures."""
    address = Address(checked.config, checked.spec, redis_url, "broadcast", checked.config.task.name, "", "store")
    store = ray.remote(AdapterStore).options(num_cpus=0, name="store", max_concurrency=100).remote()
    actor = remote(TimedActor, checked.config.actors, max_concurrency=4).remote(0, address)
    ray.get(actor.ready.remote())
    publisher = Publisher(checked, AdapterStoreClient(store), actor, scratch, torch.device(args.device))
    running = actor.run.remote()
    publisher.broadcast_s()
    publisher.local_s()  # both once before timing, so that caches are warm
    broadcast_s, local_s = [], []
    for _ in range(args.versions):
        broadcast_s.append(publisher.broadcast_s())
        local_s.append(publisher.local_s())
    print_progress({"broadcast_s": statistics.median(broadcast_s), "local_s": statistics.median(local_s)})
    tokens: dict[str, list[float]] = {"never": [], "often": []}
    for _ in range(args.rounds):
        for side in ("never", "often"):
            stopping = threading.Event()
            thread = threading.Thread(target=_make_versions, args=(publisher, stopping, args.interval, side == "often"))
            thread.start()
            tokens[side].append(_tokens_per_s(actor, args.window))
            stopping.set()
            thread.join()
    ray.get(actor.stop.remote())
    ray.get(running)
    return {
        "broadcast_over_local": statistics.median(broadcast_s) / statistics.median(local_s),
        "throughput_ratio": statistics.median(tokens["often"]) / statistics.median(tokens["never"]),
        "broadcast_s": statistics.median(broadcast_s),
        "local_s": statistics.median(local_s),
        "tokens_per_s": {name: statistics.median(values) for name, values in tokens.items()},
        "rounds_tokens_per_s": tokens,
        "interval_s": args.interval,
        "adapter_bytes": len(publisher.step()[1].weights),
        "model": Path(checked.spec.base_model).name,
    }


def _make_versions(publisher: Publisher, stopping: threading.Event, interval: float, publish: bool) -> None:
    """A version every `interval` seconds, without polling for when it is served: those calls would cost tokens too."""
    torch.set_num_threads(1)  # the engine has one core, the learner's side the other
    while not stopping.wait(interval):
        version, files, _ = publisher.step()
        if publish:
            publisher.publish(version, files)


def _tokens_per_s(actor: Any, seconds: float) -> float:
    before, began = ray.get(actor.status.remote())["tokens"], time.monotonic()
    threading.Event().wait(seconds)
    status = ray.get(actor.status.remote())
    return float((status["tokens"] - before) / (time.monotonic() - began))


if __name__ == "__main__":
    main()
