"""Producers and learners share one buffer while the server or one of them is killed at intervals: is anything lost?

    python tests/benchmarks/buffer_soak.py [--small] [--json] [--minutes 10] [--every 20] [--seed 0]

Four producers add trajectories that no other producer has, and log the ids of every acknowledged add. Two learners draw,
reprioritise and log their fresh rows. A schedule made from the seed decides who is killed (-9) when: the server, which is
restarted on its folder, or a client, which is restarted. At the end everything is counted.

Figures, in the JSON object of the last line:

kills            processes killed
acknowledged     trajectories whose add was acknowledged
lost             acknowledged trajectories that the store does not hold
duplicates       arrivals counted beyond those acknowledged or in flight in a producer that died, and fresh rows handed out
                 more often than their trajectory arrived
check_clean      true if buffer/store/check.py finds every index in order
client_errors    clients that ended by themselves
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from buffer.config import BufferConfig
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.store.check import findings, snapshot
from buffer.types import Trajectory
from tests.support.benchmark import make_parser, parse, print_result

PRODUCERS, LEARNERS, ADD_SIZE = 4, 2, 32
RATE = 200
"""Trajectories/s of one producer."""
CONFIG = BufferConfig(capacity=7_000_000, min_size_to_sample=64, priority_exponent=1.0)
"""Nothing is evicted, so a trajectory that is missing at the end was lost."""
NAME = "soak"


def trajectory(producer: int, life: int, number: int) -> Trajectory:
    """A trajectory whose tokens differ from those of all others."""
    tokens = np.array([producer, life, number % 50_000, number // 50_000, 5, 6, 7, 8], dtype=np.int32)
    return Trajectory(
        prompt_id=f"prompt-{number % 50}", prompt_token_ids=np.arange(16, dtype=np.int32), token_ids=tokens,
        is_action=np.ones(8, np.bool_), log_pf=np.full(8, -1.0, np.float32), log_pterm=np.full(9, -2.0, np.float32),
        policy_version=number // 1000, adapter_digest="ab" * 32, behaviour="on_policy", task="soak",
        sampled_at=0.0, sampling_s=0.0, log_reward=np.full((1, 9), -float(number % 30), np.float32),
        reward_terms=("r",),
    )  # fmt: skip


def produce(url: str, log: Path, producer: int, life: int) -> None:
    """Add at RATE; log a line of ids for each acknowledged add."""
    buffer, number, began = ReplayBuffer(connect(url), CONFIG, NAME), 0, time.monotonic()
    with log.open("a") as file:
        while True:
            batch = [trajectory(producer, life, number + k) for k in range(ADD_SIZE)]
            buffer.add(batch)
            file.write(" ".join(item.content_id for item in batch) + "\n")
            file.flush()
            number += ADD_SIZE
            time.sleep(max(0.0, number / RATE - (time.monotonic() - began)))


def learn(url: str, log: Path, learner: int, life: int) -> None:
    """Draw, log the fresh rows, reprioritise."""
    buffer, rng = ReplayBuffer(connect(url), CONFIG, NAME), np.random.default_rng([learner, life])
    with log.open("a") as file:
        while True:
            rows = buffer.draw(48, 16, rng)
            file.write(" ".join(row.content_id for row in rows if row.fresh) + "\n")
            file.flush()
            buffer.reprioritize([row.id for row in rows], rng.lognormal(size=len(rows)).tolist())
            time.sleep(0.05)


class Soak:
    """The server, its clients and their logs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = RedisServer.start(folder / "redis")
        self.url, self.port = self.server.url, self.server.port
        self.lives: Counter[str] = Counter()
        self.errors: list[str] = []
        self.clients = {name: self._start(name) for name in self.names()}

    @staticmethod
    def names() -> list[str]:
        """Names of the clients."""
        return [f"produce-{k}" for k in range(PRODUCERS)] + [f"learn-{k}" for k in range(LEARNERS)]

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self.lives[name] += 1
        command = [sys.executable, __file__, "--client", name, "--life", str(self.lives[name]), "--url", self.url]
        return subprocess.Popen([*command, "--log", str(self._log(name))], stderr=self._errors(name).open("ab"))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _errors(self, name: str) -> Path:
        return self.folder / f"{name}.err"

    def kill(self, victim: str) -> float:
        """Kill -9 and restart; returns the seconds until the server answers again, 0 for a client."""
        if victim == "server":
            began = time.monotonic()
            self.server.kill()
            self.server = RedisServer.start(self.folder / "redis", self.port)
            return time.monotonic() - began
        self.clients[victim].kill()
        self.clients[victim].wait()
        self.clients[victim] = self._start(victim)
        return 0.0

    def restart_failed_clients(self) -> None:
        """Restart each client that ended by itself, and record the error."""
        for name, process in self.clients.items():
            if process.poll() is not None:
                self.errors.append(f"{name}: {self._errors(name).read_text()[-300:]}")
                self.clients[name] = self._start(name)

    def end(self) -> None:
        """Kill all clients."""
        for process in self.clients.values():
            process.kill()
            process.wait()

    def ids(self, kind: str) -> list[str]:
        """Ids in all complete lines of the logs of one kind of client."""
        lines = [
            line
            for name in self.names()
            if name.startswith(kind) and self._log(name).exists()
            for line in self._log(name).read_text().split("\n")[:-1]
        ]
        return [content for line in lines for content in line.split()]

    def count(self) -> dict[str, Any]:
        """Counts of the store against the logs."""
        with connect(self.url) as client:
            buffer = ReplayBuffer(client, CONFIG, NAME)
            store, stats = snapshot(client, buffer.store.keys), buffer.stats()
        stored = {digest.hex() for digest in store.record_digests}
        acknowledged, fresh = self.ids("produce"), Counter(self.ids("learn"))
        deaths = sum(self.lives[name] for name in self.names() if name.startswith("produce"))
        # A producer that was killed may have had one add in flight that went through.
        unlogged = stats.arrivals - len(acknowledged)
        repeated = (len(acknowledged) - len(set(acknowledged))) + stats.duplicates
        return {
            "acknowledged": len(acknowledged),
            "lost": len(set(acknowledged) - stored),
            "duplicates": repeated + max(0, unlogged - deaths * ADD_SIZE) + sum(n - 1 for n in fresh.values() if n > 1),
            "check_clean": findings(store) == [],
            "findings": findings(store),
            "stored": len(stored),
            "in_flight_at_a_kill": unlogged,
            "fresh_rows": fresh.total(),
            "drawn": stats.drawn,
            "updated": stats.updated,
        }


def run(minutes: float, every_s: float, seed: int) -> dict[str, Any]:
    """Figures of `minutes` of load with a kill every `every_s` seconds."""
    schedule, kills, outages = random.Random(seed), Counter[str](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder))
        end = next_kill = time.monotonic()
        end, next_kill = end + 60 * minutes, next_kill + every_s
        try:
            while time.monotonic() < end:
                time.sleep(0.2)
                soak.restart_failed_clients()
                if time.monotonic() >= next_kill:
                    victim = "server" if schedule.random() < 0.5 else schedule.choice(soak.names())
                    outage = soak.kill(victim)
                    outages += [outage] if victim == "server" else []
                    kills[victim.split("-")[0]] += 1
                    next_kill += every_s
                    sys.stderr.write(f"killed {victim}" + (f", back in {outage:.1f} s" if outage else "") + "\n")
            soak.end()
            counted = soak.count()
        finally:
            soak.end()
            soak.server.stop()
    return {
        "kills": sum(kills.values()),
        **counted,
        "client_errors": len(soak.errors),
        "errors": soak.errors,
        "kills_by_kind": dict(kills),
        "longest_outage_s": max(outages, default=0.0),
        "minutes": minutes,
        "seed": seed,
    }


def main() -> None:
    """Measure and print; with --client, be one client."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="Minutes of load.")
    parser.add_argument("--every", type=float, default=20.0, help="Seconds between kills.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of the schedule of kills.")
    for hidden in ("client", "url", "log"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--life", type=int, help=argparse.SUPPRESS)
    arguments = parse(parser, minutes=0.25, every=3.0)
    if arguments.client:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kind, number = arguments.client.split("-")
        work = produce if kind == "produce" else learn
        work(arguments.url, Path(arguments.log), int(number), arguments.life)
        return
    result = run(arguments.minutes, arguments.every, arguments.seed)
    print_result(result, arguments.json)


if __name__ == "__main__":
    main()
