"""What a new adapter costs: until the engine samples from it, and in tokens.

    python tests/benchmarks/broadcast.py [--recipe demo] [--versions 12] [--interval 2.0] [--window 20] [--json]

One Ray process with the real rollout loop around a real vLLM engine on the demo's prompt; the learner's side is this process, with
real LoRA weights of rank 16 on q, k, v, o. Both ways end when the engine has read the new version's canary, which is its first tokens.

board   serialise the adapter, publish it by the object store, the actor is told, fetches and loads it
local   serialise it, write it to a file, and the same engine, between two of its steps, reads and loads that file

broadcast_over_local   median seconds of the first over the second; the two take turns
throughput_ratio       tokens/s with a version every `interval` seconds over tokens/s with none, while the learner's side makes its
                       versions in both; windows take turns
Last line: one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
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


class Nobody:
    """Takes trajectories and forgets them: a RewardGate without reward workers."""

    def send(self, trajectories: list[Any]) -> None:
        """Forget."""

    def free_slots(self, timeout_s: float) -> int:
        """Always."""
        return 1


class Timed(ActorProcess):
    """An actor that says when it began to serve a version, and can find one in a file instead of on the board."""

    def __init__(self, number: int, address: Address) -> None:
        super().__init__(number, address)
        rollout = self._rollout
        rollout._rewards = Nobody()
        self._from_board, self._file, self._version = rollout._adapters, None, None
        self._served: dict[int, float] = {}
        rollout._adapters = self._newest
        self._serve = rollout._engine.serve
        rollout._engine.serve = self._timed  # type: ignore[method-assign]

    def give_file(self, path: str, version: AdapterVersion) -> None:
        """From now on the newest version is in this file; an empty path: on the board again."""
        self._file, self._version = path, version

    def served(self, number: int) -> float | None:
        """Unix time at which the version's canary had been read; None before."""
        return self._served.get(number)

    def _newest(self, known: int) -> Any:
        if not self._file:
            return self._from_board(known)
        version = self._version
        if version.number <= known:
            return version.number, None
        return version.number, (
            version,
            AdapterFiles(Path(self._file).read_bytes(), Path(f"{self._file}.json").read_text()),
        )

    def _timed(self, version: AdapterVersion, files: AdapterFiles) -> float:
        difference = self._serve(version, files)
        self._served[version.number] = time.time()
        return difference


class Learner:
    """The publishing side."""

    def __init__(self, checked: Any, board: AdapterStoreClient, actor: Any, folder: Path) -> None:
        self._policy = LoraPolicy(checked.spec, torch.device("cpu"))
        self._prompt, self._tolerance = checked.prompts[0], checked.config.learner.canary_tolerance
        self._board, self._actor, self._folder = board, actor, folder
        self._number = -1
        self._example = given_trajectory(
            self._prompt, np.zeros(0, np.int32), "canary", np.zeros((1, 1), np.float32), ("none",)
        )

    def step(self) -> tuple[AdapterVersion, AdapterFiles, float]:
        """Weights as after an optimiser step, in their files; and when that step ended."""
        with torch.no_grad():
            for name, parameter in self._policy.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
        self._number += 1
        canary_of = adapter_version(
            self._policy, adapter_files(self._policy), self._number, 0, self._example, self._tolerance
        )
        began = time.time()  # the canary's own forward pass is the same for both ways, and is left out
        return canary_of, adapter_files(self._policy), began

    def by_board(self) -> float:
        """Seconds from the step's end until the version is served."""
        version, files, began = self.step()
        self.publish(version, files)
        return self._wait(version.number) - began

    def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Put it on the board."""
        self._board.publish(version, files)

    def by_file(self) -> float:
        """Likewise."""
        version, files, began = self.step()
        path = self._folder / f"{version.number}"
        path.write_bytes(files.weights)
        Path(f"{path}.json").write_text(files.config_json)
        ray.get(self._actor.give_file.remote(str(path), version))
        served = self._wait(version.number)
        ray.get(self._actor.give_file.remote("", version))
        return served - began

    def _wait(self, number: int) -> float:
        while True:
            if (at := ray.get(self._actor.served.remote(number))) is not None:
                return at
            threading.Event().wait(0.002)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--versions", type=int, default=12, help="of each way")
    parser.add_argument(
        "--interval", type=float, default=2.0, help="seconds between two versions, while tokens are counted"
    )
    parser.add_argument("--window", type=float, default=20.0, help="seconds of counting")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("overrides", nargs="*", help="section.field=value")
    args = parser.parse_args()
    checked = check(load_recipe(args.recipe, ["actors.advanced.max_staleness=100000", *args.overrides]))
    with tempfile.TemporaryDirectory() as scratch, RedisServer.start(Path(scratch) / "redis") as server:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=4)
        try:
            result = measure(args, checked, server.url, Path(scratch))
        finally:
            ray.shutdown()
    if not args.json:
        for name, value in result.items():
            print(f"{name:22} {value:.4g}" if isinstance(value, float) else f"{name:22} {value}")
    print(json.dumps(result))


def measure(args: argparse.Namespace, checked: Any, redis_url: str, scratch: Path) -> dict[str, Any]:
    """Both figures."""
    address = Address(
        checked.config, checked.spec, redis_url, "broadcast", checked.config.task.name, "", "adapter_store"
    )
    board = ray.remote(AdapterStore).options(num_cpus=0, name="adapter_store", max_concurrency=100).remote()
    actor = remote(Timed, checked.config.actors, max_concurrency=4).remote(0, address)
    ray.get(actor.ready.remote())
    learner = Learner(checked, AdapterStoreClient(board), actor, scratch)
    running = actor.run.remote()
    learner.by_board()
    learner.by_file()  # both once, so that nothing is done for the first time
    board_s, file_s = [], []
    for _ in range(args.versions):
        board_s.append(learner.by_board())
        file_s.append(learner.by_file())
    tokens: dict[str, list[float]] = {"never": [], "often": []}
    for _ in range(args.rounds):
        for side in ("never", "often"):
            stopping = threading.Event()
            thread = threading.Thread(target=_learn, args=(learner, stopping, args.interval, side == "often"))
            thread.start()
            tokens[side].append(_tokens_per_s(actor, args.window))
            stopping.set()
            thread.join()
    ray.get(actor.stop.remote())
    ray.get(running)
    return {
        "broadcast_over_local": statistics.median(board_s) / statistics.median(file_s),
        "throughput_ratio": statistics.median(tokens["often"]) / statistics.median(tokens["never"]),
        "broadcast_s": statistics.median(board_s),
        "local_s": statistics.median(file_s),
        "tokens_per_s": {name: statistics.median(values) for name, values in tokens.items()},
        "rounds_tokens_per_s": tokens,
        "interval_s": args.interval,
        "adapter_bytes": len(learner.step()[1].weights),
        "model": Path(checked.spec.base_model).name,
    }


def _learn(learner: Learner, stopping: threading.Event, interval: float, publish: bool) -> None:
    """A version every `interval` seconds; nobody asks when it is served: the questions would cost tokens too."""
    torch.set_num_threads(1)  # the engine has one core, the learner's side the other
    while not stopping.wait(interval):
        version, files, _ = learner.step()
        if publish:
            learner.publish(version, files)


def _tokens_per_s(actor: Any, seconds: float) -> float:
    before, began = ray.get(actor.status.remote())["tokens"], time.monotonic()
    threading.Event().wait(seconds)
    status = ray.get(actor.status.remote())
    return float((status["tokens"] - before) / (time.monotonic() - began))


if __name__ == "__main__":
    main()
