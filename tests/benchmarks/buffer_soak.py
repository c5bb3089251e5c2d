"""Producers and learners on one buffer while the server or one of them is killed every so often: is anything lost?

    python tests/benchmarks/buffer_soak.py --minutes 10 --seed 0 --json

Four producers add trajectories that no other has, and write down the ids of every add that was answered; two learners
draw, reprioritise and write down their fresh rows. A schedule made of the seed says who is killed (-9) when: the server,
which is started again on its folder, or a client, which is started anew. At the end everything is counted:

lost           acknowledged trajectories that the store does not hold
duplicates     arrivals counted beyond those acknowledged or under way in a producer that died, and fresh rows handed out
               more often than their trajectory arrived
check_clean    buffer/store/check.py finds every index in order
client_errors  clients that ended by themselves
"""

import argparse
import json
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

PRODUCERS, LEARNERS, ADD_SIZE = 4, 2, 32
RATE = 200
"""Trajectories a second of one producer."""
CONFIG = BufferConfig(capacity=10_000_000, fresh_capacity=10_000_000, min_size_to_sample=64, priority_exponent=1.0)
"""Nothing is evicted: what is not there at the end was lost."""
NAME = "soak"


def trajectory(producer: int, life: int, number: int) -> Trajectory:
    """Told apart from all others by its tokens."""
    tokens = np.array([producer, life, number % 50_000, number // 50_000, 5, 6, 7, 8], dtype=np.int32)
    return Trajectory(
        prompt_id=f"prompt-{number % 50}", prompt_token_ids=np.arange(16, dtype=np.int32), token_ids=tokens,
        is_action=np.ones(8, np.bool_), log_pf=np.full(8, -1.0, np.float32), log_pterm=np.full(9, -2.0, np.float32),
        policy_version=number // 1000, adapter_digest="ab" * 32, behaviour="on_policy", task="soak",
        sampled_at=0.0, sampling_s=0.0, log_reward=np.full((1, 9), -float(number % 30), np.float32),
        reward_terms=("r",),
    )  # fmt: skip


def produce(url: str, log: Path, producer: int, life: int) -> None:
    """Add at RATE; a line of ids for each add once it was answered."""
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
    """Draw, write down the fresh rows, reprioritise."""
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
        return [f"produce-{k}" for k in range(PRODUCERS)] + [f"learn-{k}" for k in range(LEARNERS)]

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self.lives[name] += 1
        command = [sys.executable, __file__, "--client", name, "--life", str(self.lives[name]), "--url", self.url]
        return subprocess.Popen([*command, "--log", str(self._log(name))], stderr=self._errors(name).open("ab"))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _errors(self, name: str) -> Path:
        return self.folder / f"{name}.err"

    def kill(self, whom: str) -> float:
        """Kill -9 and start again; seconds until the server answers again, 0 for a client."""
        if whom == "server":
            began = time.monotonic()
            self.server.kill()
            self.server = RedisServer.start(self.folder / "redis", self.port)
            return time.monotonic() - began
        self.clients[whom].kill()
        self.clients[whom].wait()
        self.clients[whom] = self._start(whom)
        return 0.0

    def look_after_clients(self) -> None:
        """One that ended by itself is an error, and is started anew."""
        for name, process in self.clients.items():
            if process.poll() is not None:
                self.errors.append(f"{name}: {self._errors(name).read_text()[-300:]}")
                self.clients[name] = self._start(name)

    def end(self) -> None:
        """Kill all clients where they are."""
        for process in self.clients.values():
            process.kill()
            process.wait()

    def ids(self, kind: str) -> list[str]:
        """Of all whole lines in the logs of one kind of client."""
        lines = [
            line
            for name in self.names()
            if name.startswith(kind) and self._log(name).exists()
            for line in self._log(name).read_text().split("\n")[:-1]
        ]
        return [content for line in lines for content in line.split()]

    def count(self) -> dict[str, Any]:
        """What the store holds against what the logs say."""
        with connect(self.url) as client:
            buffer = ReplayBuffer(client, CONFIG, NAME)
            found, stats = snapshot(client, buffer.store.keys), buffer.stats()
        stored = {digest.hex() for digest in found.record_digests}
        acknowledged, fresh = self.ids("produce"), Counter(self.ids("learn"))
        deaths = sum(self.lives[name] for name in self.names() if name.startswith("produce"))
        # A producer that was killed may have had one add under way that went through.
        beyond = stats.arrivals - len(acknowledged)
        repeated = (len(acknowledged) - len(set(acknowledged))) + stats.duplicates
        return {
            "acknowledged": len(acknowledged),
            "lost": len(set(acknowledged) - stored),
            "duplicates": repeated + max(0, beyond - deaths * ADD_SIZE) + sum(n - 1 for n in fresh.values() if n > 1),
            "check_clean": findings(found) == [],
            "findings": findings(found),
            "stored": len(stored),
            "under_way_at_a_death": beyond,
            "fresh_rows": fresh.total(),
            "drawn": stats.drawn,
            "updated": stats.updated,
        }


def run(minutes: float, every_s: float, seed: int) -> dict[str, Any]:
    """`minutes` of load with a kill every `every_s`."""
    schedule, kills, outages = random.Random(seed), Counter[str](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder))
        end = next_kill = time.monotonic()
        end, next_kill = end + 60 * minutes, next_kill + every_s
        try:
            while time.monotonic() < end:
                time.sleep(0.2)
                soak.look_after_clients()
                if time.monotonic() >= next_kill:
                    whom = "server" if schedule.random() < 0.5 else schedule.choice(soak.names())
                    outage = soak.kill(whom)
                    outages += [outage] if whom == "server" else []
                    kills[whom.split("-")[0]] += 1
                    next_kill += every_s
                    sys.stderr.write(f"killed {whom}" + (f", back in {outage:.1f} s" if outage else "") + "\n")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    for hidden in ("client", "url", "log"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--life", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kind, number = arguments.client.split("-")
        work = produce if kind == "produce" else learn
        work(arguments.url, Path(arguments.log), int(number), arguments.life)
        return
    result = run(arguments.minutes, arguments.every, arguments.seed)
    for name, value in result.items():
        sys.stderr.write(f"{name:22}{value}\n")
    sys.stdout.write((json.dumps(result) if arguments.json else json.dumps(result, indent=2)) + "\n")


if __name__ == "__main__":
    main()
