"""Kills, stops and poisons the parts of a real run for minutes: is anything lost, and does the run tell?

    python tests/benchmarks/soak.py [--small] [--json] [--minutes 30] [--seed 0] [--engine vllm]

A run trains the tiny model on its 40 strings, with vLLM, Redis and Ray as in any run. A schedule made from the seed
injects a fault every few seconds; faults of several parts overlap, and a part whose last fault is not over gets no
other. Kinds: tests/support/soak_faults.py. Meanwhile a client adds trajectories that nobody else has to a second buffer
of the run's Redis, and keeps the ids of each acknowledged add. At the end SIGINT stops the run. --small: five minutes,
without vLLM.

Figures, in the JSON object of the last line:

faults           kind -> number
recovery_s       p50, p95 and max of the time from a fault until its part works again, s
unrecovered      faults that were not over when the run was stopped, or 120 s later
lost             acknowledged trajectories that the buffer does not hold
duplicates       arrivals counted beyond the trajectories that it holds
acknowledged     trajectories whose add was acknowledged
failed_adds      adds that ended with an error
consistent       true if every index of both buffers is in order
orphans          processes that outlived the run
steps            learner steps of the run
steps_lost_max   steps between a learner's death and the checkpoint from which it went on, the largest; null if the run
                 did not say from where it went on, once for each death
checkpoint_every steps between two checkpoints: the limit of steps_lost_max
memory_growth    resident memory of the driver, last fifth of the time over the second fifth
converging       true if total variation to the target, exact, is below a third of that before training
total_variation  before training, and median of the last five that the learner computed
silent           faults that no message named
exit_code        of the command; 0
"""

import json
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from buffer.config import BufferConfig
from buffer.errors import TributaryError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer, url_of_running
from buffer.store.check import findings, snapshot
from tests.benchmarks.buffer_soak import trajectory
from tests.support.benchmark import make_parser, parse, print_result
from tests.support.processes import Command, rows_of, until
from tests.support.soak_faults import KINDS, Fault, NotThere, end_of, inject, silent
from tests.support.soaked_run import SoakedRun
from tests.support.tiny import make_tiny_model, tiny_recipe

CHECKPOINT_EVERY = 20
PAUSE_S = (1.0, 5.0)
"""Shortest and longest time between two faults, s."""
RECOVERY_LIMIT_S = 120.0
PATIENCE_S = 20.0
"""A message may come this much later than the recovery, s."""
ADDS_PER_S = 20
WITNESS = BufferConfig(capacity=1_000_000)
"""Nothing is evicted, so a trajectory that is missing at the end was lost."""


def write_recipe(folder: Path, engine: str) -> Path:
    """A run that survives as many deaths as the schedule has, and checkpoints often."""
    recipe = tiny_recipe(make_tiny_model(folder / "model"))
    recipe["task"] = {"name": "tests.support.soak_task:SoakTask", "options": {"request": str(folder / "request")}}
    recipe["actors"] |= {"engine": engine, "advanced": {"max_restarts": 1000, "silent_limit_s": 20.0}}
    recipe["rewards"] = {
        "time_limit_s": 0.5,
        "advanced": {"max_restarts": 1000, "silent_limit_s": 20.0, "cache_size": 0},
    }
    recipe["buffer"] |= {"samples_per_insert": 5.0}
    recipe["learner"] |= {
        "steps": 1_000_000, "batch_size": 64, "learning_rate": 1e-3, "checkpoint_every": CHECKPOINT_EVERY,
        "advanced": {"max_restarts": 1000},
    }  # fmt: skip
    path = folder / "soak.toml"
    path.write_text(tomli_w.dumps(recipe))
    return path


class Witness:
    """Adds trajectories of its own all the time, from a thread."""

    def __init__(self, url: str) -> None:
        self._buffer = ReplayBuffer(connect(url), WITNESS, "witness")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._add, daemon=True)
        self.acknowledged: list[str] = []
        self.errors: list[str] = []
        self._thread.start()

    def _add(self) -> None:
        number = 0
        while not self._stopping.wait(1 / ADDS_PER_S):
            batch = [trajectory(0, 0, number + k) for k in range(4)]
            try:
                self._buffer.add(batch)
            except TributaryError as error:
                self.errors.append(str(error))
            else:
                self.acknowledged += [item.content_id for item in batch]
            number += 4

    def stop(self) -> None:
        """Returns once the last add was answered."""
        if not self._thread.is_alive():
            self.errors.append("the witness ended by itself")
        self._stopping.set()
        self._thread.join()

    def count(self, url: str) -> dict[str, Any]:
        """Its figures, from what the server holds."""
        with connect(url) as client:
            buffer = ReplayBuffer(client, WITNESS, "witness")
            store, stats = snapshot(client, buffer.store.keys), buffer.stats()
        stored = {digest.hex() for digest in store.record_digests & store.slots.keys()}
        return {
            "lost": len(set(self.acknowledged) - stored),
            "duplicates": stats.arrivals - len(stored),
            "acknowledged": len(self.acknowledged),
            "failed_adds": len(self.errors),
            "findings": findings(store),
        }


def schedule(run: SoakedRun, end: float, seed: int) -> tuple[list[Fault], list[int]]:
    """Inject faults until `end`, and wait for the last recoveries; (faults, resident bytes of the driver)."""
    chance, faults, memory = random.Random(seed), list[Fault](), list[int]()
    active: list[Fault] = []
    next_at = time.monotonic() + chance.uniform(*PAUSE_S)
    while time.monotonic() < end or (active and time.monotonic() < end + RECOVERY_LIMIT_S):
        if run.command.process.poll() is not None:
            return faults, memory
        time.sleep(0.3)
        memory.append(run.driver_bytes())
        step = run.newest_row()["step"]
        for fault in list(active):
            if fault.recovered():
                end_of(fault, run)
                active.remove(fault)
        if next_at <= time.monotonic() < end:
            busy = {fault.kind.part for fault in active}
            free = [kind for kind in KINDS if kind.part not in busy]
            next_at = time.monotonic() + chance.uniform(*PAUSE_S)
            if not free:
                continue
            kind = chance.choices(free, [kind.weight for kind in free])[0]
            try:
                active.append(inject(kind, run))
            except (NotThere, ProcessLookupError):
                continue
            faults.append(active[-1])
            sys.stderr.write(
                f"{len(faults)}: {kind.name}; step {step}; not over: {', '.join(sorted(busy)) or 'none'}\n"
            )
    return faults, memory


def growth(memory: list[int]) -> float:
    """Median of the last fifth over that of the second fifth."""
    fifth = len(memory) // 5
    return float(np.median(memory[-fifth:]) / np.median(memory[fifth : 2 * fifth]))


def figures_of(
    faults: list[Fault], memory: list[int], messages: list[tuple[float, str]], rewinds: list[int]
) -> dict[str, Any]:
    """The figures that need no server. `rewinds`: the steps after which a learner went on, one for each that died."""
    times = [fault.recovery_s for fault in faults if fault.recovery_s is not None]
    unnamed = [fault.kind.name for fault in silent(faults, messages, PATIENCE_S)]
    deaths = [fault.step for fault in faults if fault.kind.part == "learner"]
    return {
        "faults": dict(Counter(fault.kind.name for fault in faults)),
        "recovery_s": {
            "p50": float(np.quantile(times, 0.5)), "p95": float(np.quantile(times, 0.95)), "max": max(times),
        },
        "recovery_s_by_kind": {
            kind.name: float(np.median(of_kind))
            for kind in KINDS
            if (of_kind := [f.recovery_s for f in faults if f.kind is kind and f.recovery_s is not None])
        },
        "unrecovered": [fault.kind.name for fault in faults if fault.recovery_s is None],
        "steps_lost_max": max((a - b for a, b in zip(deaths, rewinds, strict=True)), default=0)
        if len(deaths) == len(rewinds)
        else None,
        "memory_growth": growth(memory),
        "silent": len(unnamed),
        "silent_kinds": dict(Counter(unnamed)),
    }  # fmt: skip


def soak(minutes: float, seed: int, engine: str, folder: Path) -> dict[str, Any]:
    """Figures of `minutes` of faults."""
    where = folder / "run"
    command = Command("train", str(write_recipe(folder, engine)), "evaluation.samples=0", "--run", str(where))
    with (folder / "output").open("w") as output:
        reader = threading.Thread(target=lambda: output.writelines(command.process.stdout or ()), daemon=True)
        reader.start()
        try:
            until(lambda: len(rows_of(where)) > 50 or command.process.poll() is not None, 600, "training")
            run = SoakedRun(command, where)
            witness = Witness(url_of_running(where / "buffer"))
            faults, memory = schedule(run, time.monotonic() + 60 * minutes, seed)
            witness.stop()
            command.process.send_signal(signal.SIGINT)
            command.process.wait(600)
            reader.join(10)
            orphans = command.alive()
        finally:
            command.end()
    if command.process.returncode:
        sys.stderr.write((folder / "output").read_text()[-3000:])
    told = " ".join((folder / "output").read_text().split())
    rewinds = [int(step) for step in re.findall(r"It is back, and goes on after step (\d+)", told)]
    with RedisServer.start(where / "buffer") as server, connect(server.url) as client:
        counted = witness.count(server.url)
        problems = [*counted.pop("findings"), *findings(snapshot(client, run.keys))]
    summary = json.loads((where / "summary.json").read_text())
    distances = [row["total_variation"] for row in rows_of(where) if row.get("total_variation") is not None]
    before, after = distances[0], float(np.median(distances[-5:]))
    return {
        **figures_of(faults, memory, run.messages(), rewinds),
        **counted,
        "consistent": problems == [],
        "findings": problems[:5],
        "orphans": len(orphans),
        "steps": summary["steps"],
        "checkpoint_every": CHECKPOINT_EVERY,
        "converging": after < before / 3,
        "total_variation": {"before": before, "after": after},
        "exit_code": command.process.returncode,
        "minutes": minutes,
        "seed": seed,
        "engine": engine,
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="Minutes of faults.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of the schedule.")
    parser.add_argument("--engine", choices=["vllm", "simulated"], default="vllm", help="The actors' engine.")
    arguments = parse(parser, minutes=5.0, engine="simulated")
    with tempfile.TemporaryDirectory() as folder:
        result = soak(arguments.minutes, arguments.seed, arguments.engine, Path(folder))
    print_result(result, arguments.json)


if __name__ == "__main__":
    main()
