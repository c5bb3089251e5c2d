"""Scaling on one machine: 1, 2, 4, ... actors whose engines finish responses at a set rate; everything else is real.

    python tests/benchmarks/scaling.py [--small] [--json] [--most 64] [--rate 10] [--window 8] [--plot FILE]

Each actor is a Ray process with the real rollout loop around a simulated engine. The actors send to real reward workers, which
score and add to a real Redis. A stand-in for the learner draws batches of 64, sets priorities, and publishes an adapter of 4 MB
every second. Between two sizes actors are added to the running system, as `tributary scale` does. Last, every engine runs as fast
as it can: the ceiling.

Figures, in the JSON object of the last line:

efficiency   number of actors -> accepted trajectories/s over the sum of the engines' rates (accepted: added to the buffer)
ceiling      {trajectories_per_s, actors, limited_by, cores: role -> CPU cores used}
rows         a row per size: accepted_per_s, learner_wait, broadcast_s (from publish until every actor serves it, median; null if no
             broadcast ended), and CPU cores by role
rate         trajectories/s of each engine
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

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ["PYTHONPATH"] = str(ROOT)

import psutil
import ray

from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.types import AdapterFiles, AdapterVersion, Canary, Prompt
from deploy.cluster.actor_process import ActorProcess
from deploy.cluster.adapter_store import AdapterStore, AdapterStoreClient
from deploy.cluster.placement import remote
from deploy.cluster.process_setup import Address
from deploy.cluster.reward_process import RewardProcess
from deploy.cluster.worker_group import WorkerGroup
from deploy.config import RunConfig, parse_config
from tests.support import tiny
from tests.support.benchmark import make_parser, parse, print_result

ADAPTER_BYTES = 4_000_000
BATCH = 64
MAX_ACTIONS = 12
NAME = "scaling"


class ManyStrings(tiny.TinyTask):
    """The tiny task with longer strings, so that hardly any comes twice."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._prompt = Prompt("tiny", "draw", np.array([3], dtype=np.int32))


class SimulatedLearner(threading.Thread):
    """Draws as a learner does, at most `steps_per_s`, and publishes every second."""

    def __init__(
        self, buffer: ReplayBuffer, store: AdapterStoreClient, actors: WorkerGroup, steps_per_s: float
    ) -> None:
        super().__init__(daemon=True)
        self._buffer, self._store, self._actors, self._step_s = buffer, store, actors, 1.0 / steps_per_s
        self.stopping = threading.Event()
        self.waited_s = 0.0
        self.broadcasts: list[float] = []
        self._version = 0

    def publish(self) -> None:
        """Publish a new version of random bytes."""
        canary = Canary(np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32), 1.0)
        version = AdapterVersion(self._version, "00" * 32, 0, canary)
        self._store.publish(version, AdapterFiles(os.urandom(ADAPTER_BYTES), "{}"))
        self._version += 1

    def run(self) -> None:
        """Draw and publish until `stopping`."""
        published = 0.0
        rng = np.random.default_rng(0)
        while not self.stopping.is_set():
            began = time.monotonic()
            while not (rows := self._buffer.draw(BATCH // 2, BATCH // 2, rng)) and not self.stopping.wait(0.02):
                self.waited_s += 0.02  # the buffer has no rows yet
            self._buffer.reprioritize([row.id for row in rows], [1.0] * len(rows))
            if time.monotonic() - published > 1.0:
                published = time.monotonic()
                self.publish()
                self._time_broadcast(published)
            self.stopping.wait(max(self._step_s - (time.monotonic() - began), 0.0))

    def _time_broadcast(self, began: float) -> None:
        version = self._version - 1
        while not self.stopping.is_set():
            calls = [actor.status.remote() for actor in self._actors.members.values()]
            if all(status["version"] >= version for status in ray.get(calls)):
                self.broadcasts.append(time.monotonic() - began)
                return
            self.stopping.wait(0.02)  # so that polling costs the actors little


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--most", type=int, default=64, help="The largest number of actors.")
    parser.add_argument("--rate", type=float, default=10.0, help="Trajectories/s of each engine.")
    parser.add_argument("--window", type=float, default=8.0, help="Seconds of each measurement.")
    parser.add_argument("--rewards", type=int, default=1, help="The number of reward workers.")
    parser.add_argument("--plot", type=Path, help="Write the curve to this file (svg or png).")
    args = parse(parser, most=2, window=3.0, rate=20.0)
    with tempfile.TemporaryDirectory() as scratch, RedisServer.start(Path(scratch) / "redis") as server:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=4)
        try:
            model = tiny.make_tiny_model(Path(scratch) / "model")
            result = measure(args, server, model)
        finally:
            ray.shutdown()
    if args.plot:
        plot(args.plot, result, args.rate)
    print_result(result, args.json)


def measure(args: argparse.Namespace, server: RedisServer, model: Path) -> dict[str, Any]:
    """All sizes, then the ceiling."""
    sizes = [2**k for k in range(args.most.bit_length()) if 2**k <= args.most]
    rows = _sizes(args, server, model, sizes, args.rate)
    [top] = _sizes(args, server, model, [min(8, args.most)], 1e5)
    cores = {name.removesuffix("_cores"): top[name] for name in top if name.endswith("_cores")}
    total = sum(cores.values())
    count = psutil.cpu_count()
    single = {role: cores[role] / (args.rewards if role == "reward" else 1) for role in ("redis", "reward")}
    busiest = max(single, key=lambda role: single[role])
    if single[busiest] > 0.85:
        limited = f"one core of {busiest}"
    elif total > 0.75 * count:
        limited = f"all {count} cores of the machine: {total:.2f} in these processes, the rest in Ray's"
    else:
        limited = f"no core ({total:.2f} of {count} used) but batches in flight: reward workers take two at a time"
    ceiling = {
        "trajectories_per_s": top["accepted_per_s"],
        "actors": top["actors"],
        "limited_by": limited,
        "cores": cores,
    }
    efficiency = {str(row["actors"]): row["accepted_per_s"] / (row["actors"] * args.rate) for row in rows}
    return {"efficiency": efficiency, "ceiling": ceiling, "rows": rows, "rate": args.rate}


def _sizes(
    args: argparse.Namespace, server: RedisServer, model: Path, sizes: list[int], rate: float
) -> list[dict[str, Any]]:
    """Rows of one system, grown from size to size."""
    config = recipe(model, rate, args.rewards)
    spec = tiny.tiny_spec(model)
    spec = type(spec)(**{field: getattr(spec, field) for field in spec.__slots__} | {"max_actions": MAX_ACTIONS})
    client = connect(server.url)
    buffer = ReplayBuffer(client, config.buffer, NAME)
    buffer.clear()
    buffer.begin_draws()
    address = Address(config, spec, server.url, NAME, config.task.name, "", "store")
    store_actor = ray.remote(AdapterStore).options(num_cpus=0, name="store", max_concurrency=1000).remote()
    store = AdapterStoreClient(store_actor)
    rewards = WorkerGroup(
        "reward", lambda k: remote(RewardProcess, config.rewards, name=f"reward-{k}").remote(k, address), args.rewards
    )
    actors = WorkerGroup(
        "actor", lambda k: remote(ActorProcess, config.actors, max_concurrency=4).remote(k, address), 0
    )
    _join(rewards)
    store.set_reward_workers(rewards.names())
    learner = SimulatedLearner(buffer, store, actors, steps_per_s=5.0)
    learner.publish()
    rows: list[dict[str, Any]] = []
    try:
        for size in sizes:
            actors.resize(size)
            runs = [actors.members[k].run.remote() for k in _join(actors)]
            if not rows:
                learner.start()
            _settle(actors, runs)
            rows.append(_window(args.window, buffer, client, learner, actors, rewards))
            print(f"{size} actors: {rows[-1]['accepted_per_s']:.0f}/s", file=sys.stderr)
    finally:
        learner.stopping.set()
        if learner.ident:
            learner.join(20)
        for process in (*actors.all_handles(), *rewards.all_handles(), store_actor):
            ray.kill(process)
    return rows


def recipe(model: Path, rate: float, rewards: int) -> RunConfig:
    """Configuration of the system that is measured."""
    return parse_config(
        {
            "model": {"name": str(model), "lora_targets": list(tiny.LINEAR_LAYERS)},
            "policy": {"stop": ".", "max_actions": MAX_ACTIONS, "allowed_tokens": ["a", "b", "c"]},
            "task": {"name": "tests.benchmarks.scaling:ManyStrings"},
            "actors": {"engine": "simulated", "push_size": 16, "max_in_flight": 64, "max_model_len": 64,
                       "advanced": {"simulated_rate": rate, "cpus": 0.0}},
            "rewards": {"workers": rewards, "advanced": {"cpus": 0.0}},
            "buffer": {"capacity": 50_000, "min_size_to_sample": BATCH},
            "learner": {"batch_size": BATCH, "publish_every": 1},
        },
        "benchmark",
    )  # fmt: skip


def _join(group: WorkerGroup) -> list[int]:
    """Wait until all of a group are ready; returns the numbers of the new ones."""
    ray.get(group.calls)
    joined, problems = group.poll()
    assert not problems, problems
    return joined


def _settle(actors: WorkerGroup, runs: list[Any]) -> None:
    """Wait until every actor has sent its first trajectories."""
    while not all(s["trajectories"] for s in ray.get([a.status.remote() for a in actors.members.values()])):
        done, _ = ray.wait(runs, timeout=0.2) if runs else ([], [])
        ray.get(done)


def _window(
    seconds: float,
    buffer: ReplayBuffer,
    client: Any,
    learner: SimulatedLearner,
    actors: WorkerGroup,
    rewards: WorkerGroup,
) -> dict[str, Any]:
    """Flow and CPU use over `seconds`."""
    learner.broadcasts.clear()
    before, cpu, waited, began = buffer.stats().arrivals, _cpu(client), learner.waited_s, time.monotonic()
    threading.Event().wait(seconds)
    passed = time.monotonic() - began
    cores = {role: (cpu_s - cpu[role]) / passed for role, cpu_s in _cpu(client).items()}
    return {
        "actors": len(actors.members),
        "accepted_per_s": (buffer.stats().arrivals - before) / passed,
        "learner_wait": (learner.waited_s - waited) / passed,
        "broadcast_s": statistics.median(learner.broadcasts) if learner.broadcasts else None,
        **{f"{role}_cores": value for role, value in cores.items()},
    }


def _cpu(client: Any) -> dict[str, float]:
    """CPU seconds of each role so far."""
    info = client.info("cpu")
    used = {"redis": info["used_cpu_user"] + info["used_cpu_sys"], "actor": 0.0, "reward": 0.0, "ray": 0.0}
    for process in psutil.Process().children(recursive=True):
        try:
            title, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        role = next((r for r, mark in {"actor": "ray::Actor", "reward": "ray::Reward"}.items() if mark in title), None)
        if role is None and ("raylet" in title or "gcs_server" in title or "ray::AdapterStore" in title):
            role = "ray"
        if role:
            used[role] += times.user + times.system
    driver = psutil.Process().cpu_times()
    return used | {"driver": driver.user + driver.system}


def plot(path: Path, result: dict[str, Any], rate: float) -> None:
    """Accepted trajectories/s over the number of actors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    actors = [row["actors"] for row in result["rows"]]
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(actors, [n * rate for n in actors], "--", color="0.6", label="sum of the engines' rates")
    axes.plot(actors, [row["accepted_per_s"] for row in result["rows"]], "o-", color="#0072b2", label="accepted")
    axes.axhline(
        result["ceiling"]["trajectories_per_s"], color="#d55e00", linestyle=":", label="ceiling of this machine"
    )
    axes.set(
        xscale="log", yscale="log", xlabel="actors", ylabel="trajectories / s", title="One machine, simulated engines"
    )
    axes.set_xticks(actors, [str(n) for n in actors])
    axes.minorticks_off()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
