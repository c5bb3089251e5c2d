"""The cost of the replay buffer, against the raw commands of the same server in the same run.

    python tests/benchmarks/buffer.py [--small] [--json] [--sizes 10000,100000,1000000] [--reverb-python PATH]

draw      the payloads of weighted rows; ceiling: MGET of as many random keys
insert    everything on (dedup, a full store that evicts one row per insert, quota, histograms, events); ceiling: pipelined SET
update    weights of drawn rows; ceiling: pipelined SET

Design and ceiling take turns, round by round, since a machine's speed drifts; figures are medians over rounds.
`prefetched` and `two_writers` keep a second call in flight from another thread, as the learner's batch source and two
reward workers do; the figures for draw and insert use these, the one for update uses the single call. Payloads are bytes on
both sides: the cost of encoding and decoding trajectories is in `codec`.

Figures, in the JSON object of the last line:

draw_over_mget, insert_over_set, update_over_set    items/s over the ceiling's, batches of 256, worst size
draw_growth, mget_growth                            microseconds per item at the largest size over those at the smallest
insert_over_reverb                                  items/s over dm-reverb's; null without --reverb-python
overhead_bytes_per_item                             size -> server memory per item beyond the payload
append_only_file                                    inserts with the append-only file off and on
clients                                             draws and inserts of 1, 4 and 16 processes at once
codec, cpprb, reverb                                microseconds per item; the last two are null where not installed
rows                                                all timings, a row per size and batch
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import redis

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.store.item_store import ADD_CHUNK, DrawRequest, Handle, ItemStore, NewItem
from buffer.store.priority_levels import MIDDLE
from buffer.store.settings import StoreSettings
from tests.support.benchmark import make_parser, parse, print_result

PROMPTS = 1000
FROM_ONE_PROMPT = 16
"""Consecutive items of one prompt, as an actor pushes them."""
LEVEL_SPREAD = 16
"""Standard deviation of an item's level: a factor 4 in weight."""
UPDATE_SPREAD = 6
"""Standard deviation of an update's change of level: a lognormal factor of about exp(0.5)."""
CLIENTS_SIZE = 100_000
BATCHES = (64, 256)


class Bench:
    """A store of N items and N plain keys on one server."""

    def __init__(self, url: str, pid: int, name: str, n: int, payload: int, fill: bool = True) -> None:
        self.url, self.pid, self.n, self.name = url, pid, n, name
        self.client = connect(url)
        self.rng = np.random.default_rng(0)
        self.payloads = [os.urandom(payload) for _ in range(64)]
        self.numbers = itertools.count()
        self.seeds = itertools.count()
        settings = StoreSettings(capacity=n, per_prompt_quota=4 * max(n // PROMPTS, FROM_ONE_PROMPT))
        self.store = ItemStore(self.client, name, settings)
        if fill:
            self._fill(payload)

    def _fill(self, payload: int) -> None:
        """Insert a tenth more than the capacity, so that every further insert evicts one."""
        before = self.client.info("memory")["used_memory"]
        for _ in range(int(1.1 * self.n) // ADD_CHUNK + 1):
            self.store.put(self.items(ADD_CHUNK))
        self.overhead = (self.client.info("memory")["used_memory"] - before) / self.n - payload
        for start in range(0, self.n, 1000):
            keys = range(start, min(start + 1000, self.n))
            self.client.mset({f"k:{k}": self.payloads[k % 64] for k in keys})

    def items(self, batch: int) -> list[NewItem]:
        """`batch` new items."""
        levels = np.clip(self.rng.normal(MIDDLE, LEVEL_SPREAD, batch), 1, 511).astype(int).tolist()
        numbers = [next(self.numbers) for _ in range(batch)]
        return [
            NewItem(
                digest=(number + 1).to_bytes(12, "little") + self.name.encode()[:4].ljust(4),
                record=self.payloads[number % 64],
                group=(number // FROM_ONE_PROMPT % PROMPTS).to_bytes(8, "little"),
                version=number // 5000,
                log_reward=float(-(number % 97)),
                level=level,
                tag="on_policy",
            )
            for number, level in zip(numbers, levels, strict=True)
        ]

    def random_keys(self, batch: int) -> list[str]:
        """Names of `batch` plain keys."""
        return [f"k:{k}" for k in self.rng.integers(0, self.n, batch).tolist()]

    def update(self, batch: int) -> tuple[list[Handle], list[int]]:
        """Handles of `batch` rows and a new level for each."""
        rows = self.store.draw(DrawRequest(rows=batch, sampler="uniform"), next(self.seeds))
        assert rows is not None
        levels = rows.entries["level"] + self.rng.normal(0, UPDATE_SPREAD, batch)
        handles = [
            Handle(*pair)
            for pair in zip(rows.entries["slot"].tolist(), rows.entries["generation"].tolist(), strict=True)
        ]
        return handles, np.clip(levels, 1, 511).astype(int).tolist()

    def draw(self, batch: int) -> int:
        """Draw `batch` rows with their payloads; returns their number."""
        rows = self.store.draw(DrawRequest(rows=batch), next(self.seeds))
        assert rows is not None and all(record is not None for record in rows.records)
        return len(rows.records)


def pipelined_set(client: redis.Redis, keys: Sequence[str], payloads: Sequence[bytes]) -> None:
    """SET all keys in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for number, key in enumerate(keys):
            pipe.set(key, payloads[number % 64])
        pipe.execute()


def server_s(pid: int) -> float:
    """CPU seconds of a process's threads so far. /proc/PID/stat counts in steps of 10 ms, too coarse for a round."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


class Timed:
    """Timings of one kind of call, over all rounds."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.latencies_s: list[float] = []
        self.rounds_us: list[float] = []
        self.server_us: list[float] = []
        self.client_us: list[float] = []

    @contextlib.contextmanager
    def round(self, pid: int, calls: int) -> Iterator[None]:
        """Time the block, which makes `calls` calls."""
        wall, server, own = time.perf_counter(), server_s(pid), time.process_time()
        yield
        for values, spent in (
            (self.rounds_us, time.perf_counter() - wall),
            (self.server_us, server_s(pid) - server),
            (self.client_us, time.process_time() - own),
        ):
            values.append(spent / calls / self.batch * 1e6)

    def time_call(self, call: Callable[[], object]) -> None:
        """Call, and record the latency."""
        start = time.perf_counter()
        call()
        self.latencies_s.append(time.perf_counter() - start)

    @property
    def us(self) -> float:
        """Wall-clock microseconds per item, median over rounds."""
        return statistics.median(self.rounds_us)

    def row(self) -> dict[str, float | None]:
        """All figures; p50 and p99 are None where calls overlapped."""
        p50, p99 = np.quantile(self.latencies_s, [0.5, 0.99]) * 1e3 if self.latencies_s else (None, None)
        return {
            "us_per_item": round(self.us, 2),
            "items_per_s": round(1e6 / self.us),
            "server_us": round(statistics.median(self.server_us), 2),
            "client_us": round(statistics.median(self.client_us), 2),
            "p50_ms": None if p50 is None else round(float(p50), 2),
            "p99_ms": None if p99 is None else round(float(p99), 2),
        }


def measure(bench: Bench, batch: int, rounds: int, calls: int) -> dict[str, Any]:
    """All kinds of calls in turn: `rounds` rounds, `calls` calls of each per round."""
    kinds = ("mget", "draw", "draw_prefetched", "set", "insert", "insert_two_writers", "update")
    timed = {kind: Timed(batch) for kind in kinds}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds):
            keys = [bench.random_keys(batch) for _ in range(calls)]
            new, more = ([bench.items(batch) for _ in range(calls)] for _ in range(2))
            updates = [bench.update(batch) for _ in range(calls)]
            with timed["mget"].round(bench.pid, calls):
                for names in keys:
                    timed["mget"].time_call(lambda names=names: bench.client.mget(names))  # type: ignore[misc]
            with timed["draw"].round(bench.pid, calls):
                for _ in range(calls):
                    timed["draw"].time_call(lambda: bench.draw(batch))
            with timed["draw_prefetched"].round(bench.pid, calls):
                list(pool.map(bench.draw, [batch] * calls))
            with timed["set"].round(bench.pid, calls):
                for names in keys:
                    timed["set"].time_call(lambda names=names: pipelined_set(bench.client, names, bench.payloads))  # type: ignore[misc]
            with timed["insert"].round(bench.pid, calls):
                for items in new:
                    timed["insert"].time_call(lambda items=items: bench.store.put(items))  # type: ignore[misc]
            with timed["insert_two_writers"].round(bench.pid, calls):
                list(pool.map(bench.store.put, more))
            with timed["update"].round(bench.pid, calls):
                for handles, levels in updates:
                    timed["update"].time_call(lambda h=handles, v=levels: bench.store.reprioritize(h, v))  # type: ignore[misc]
    return {
        "items": bench.n,
        "batch": batch,
        "draw_over_mget": timed["mget"].us / timed["draw_prefetched"].us,
        "draw_over_mget_one_call": timed["mget"].us / timed["draw"].us,
        "insert_over_set": timed["set"].us / timed["insert_two_writers"].us,
        "insert_over_set_one_call": timed["set"].us / timed["insert"].us,
        "update_over_set": timed["set"].us / timed["update"].us,
        **{kind: values.row() for kind, values in timed.items()},
    }


def many_clients(url: str, pid: int, name: str, n: int, payload: int, clients: int, calls: int) -> dict[str, Any]:
    """Draws and inserts of `clients` processes at once, batches of 256; items/s of all together."""
    figures: dict[str, Any] = {"clients": clients}
    for number, kind in enumerate(("draw", "insert")):
        turns = max(calls // clients, 4)
        command = [sys.executable, __file__, "--worker", kind, "--url", url, "--name", name, "--size", str(n)]
        command += ["--payload", str(payload), "--calls", str(turns)]
        processes = [
            subprocess.Popen(
                [*command, "--first", str(10**9 * (1 + clients + 100 * number) + 10**7 * k)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for k in range(clients)
        ]  # fmt: skip
        for process in processes:  # all are ready before the first one starts
            assert process.stdout is not None and process.stdout.readline().strip() == "ready"
        server = server_s(pid)
        start = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        tails = [json.loads(process.communicate()[0]) for process in processes]
        wall = time.perf_counter() - start
        items = clients * turns * 256
        figures[kind] = {
            "items_per_s": round(items / wall),
            "server_busy": round((server_s(pid) - server) / wall, 2),
            "p99_ms": round(max(tail["p99_ms"] for tail in tails), 2),
        }
    return figures


def worker(arguments: argparse.Namespace) -> None:
    """One client process of `many_clients`."""
    bench = Bench(arguments.url, 0, arguments.name, arguments.size, arguments.payload, fill=False)
    bench.numbers = itertools.count(arguments.first)
    bench.seeds = itertools.count(arguments.first % 2**30)
    batches = [bench.items(256) for _ in range(arguments.calls)] if arguments.worker == "insert" else []
    timed = Timed(256)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for turn in range(arguments.calls):
        timed.time_call((lambda t=turn: bench.store.put(batches[t])) if batches else (lambda: bench.draw(256)))  # type: ignore[misc]
    sys.stdout.write(json.dumps({"p99_ms": float(np.quantile(timed.latencies_s, 0.99)) * 1e3}))


def with_append_only_file(bench: Bench, rounds: int, calls: int) -> dict[str, Any]:
    """Inserts with the append-only file off and on, taking turns."""
    timed = {"no": Timed(256), "yes": Timed(256)}
    for _ in range(rounds):
        for setting, values in timed.items():
            bench.client.config_set("appendonly", setting)
            while bench.client.info("persistence")["aof_rewrite_in_progress"]:
                time.sleep(0.1)
            batches = [bench.items(256) for _ in range(calls)]
            with values.round(bench.pid, calls):
                for items in batches:
                    values.time_call(lambda items=items: bench.store.put(items))  # type: ignore[misc]
    bench.client.config_set("appendonly", "no")
    return {
        "off": timed["no"].row(),
        "on": timed["yes"].row(),
        "on_over_off": timed["no"].us / timed["yes"].us,
    }


def codec_cost() -> dict[str, float]:
    """Microseconds to encode a trajectory of 48 + 64 tokens, to compute its digest, and to decode it."""
    from buffer.codec import decode, encode
    from buffer.types import Trajectory

    rng = np.random.default_rng(0)
    trajectory = Trajectory(
        prompt_id="p", prompt_token_ids=np.arange(48, dtype=np.int32), token_ids=np.arange(64, dtype=np.int32),
        is_action=np.ones(64, np.bool_), log_pf=rng.normal(size=64).astype(np.float32),
        log_pterm=rng.normal(size=65).astype(np.float32), policy_version=3, adapter_digest="ab" * 32,
        behaviour="on_policy", task="t", sampled_at=0.0, sampling_s=0.0,
        log_reward=rng.normal(size=(1, 65)).astype(np.float32), reward_terms=("r",),
    )  # fmt: skip
    record = encode(trajectory)

    def cost(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(2000):
            call()
        return round((time.perf_counter() - start) / 2000 * 1e6, 2)

    return {
        "bytes": len(record),
        "encode_us": cost(lambda: encode(trajectory)),
        "digest_us": cost(lambda: trajectory.content_id),
        "decode_us": cost(lambda: decode(record)),
    }


def cpprb_rows(n: int, payload: int, batch: int) -> dict[str, float] | None:
    """The same payload in a buffer of this process: no server, no network. None where cpprb is not installed."""
    try:
        from cpprb import PrioritizedReplayBuffer  # type: ignore[import-not-found]
    except ImportError:
        return None
    buffer = PrioritizedReplayBuffer(n, {"obs": {"shape": payload, "dtype": np.uint8}})
    data = np.random.default_rng(0).integers(0, 256, (batch, payload), dtype=np.uint8)

    def cost(call: Callable[[], object], turns: int = 100) -> float:
        start = time.perf_counter()
        for _ in range(turns):
            call()
        return round((time.perf_counter() - start) / turns / batch * 1e6, 2)

    insert = cost(lambda: buffer.add(obs=data), max(n // batch, 100))
    return {"insert_us": insert, "draw_us": cost(lambda: buffer.sample(batch))}


def reverb_rows(python: str | None, payload: int) -> dict[str, float] | None:
    """dm-reverb in its own interpreter, by tests/support/reverb_peer.py; None without an interpreter."""
    if not python:
        return None
    script = ROOT / "tests" / "support" / "reverb_peer.py"
    process = subprocess.run([python, str(script), str(payload)], capture_output=True, text=True, check=True)
    return dict(json.loads(process.stdout.splitlines()[-1]))


def run(
    sizes: Sequence[int], at_once: Sequence[int], payload: int, rounds: int, calls: int, reverb_python: str | None
) -> dict[str, Any]:
    """All figures; `at_once`: numbers of client processes."""
    rows, clients, log = [], [], {}
    overhead = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder, RedisServer.start(Path(folder)) as server:
            connect(server.url).config_set("appendonly", "no")
            bench = Bench(server.url, server.pid, f"b{n}", n, payload)
            overhead[str(n)] = round(bench.overhead, 1)
            for batch in BATCHES:
                rows.append(measure(bench, batch, rounds, calls))
                show(rows[-1])
            if n == min(sizes, key=lambda size: abs(size - CLIENTS_SIZE)):
                for number in at_once:
                    clients.append(many_clients(server.url, server.pid, bench.name, n, payload, number, 4 * calls))
                log = with_append_only_file(bench, rounds, calls)
    large = [row for row in rows if row["batch"] == max(BATCHES)]
    reverb = reverb_rows(reverb_python, payload)
    insert_us = max(row["insert_two_writers"]["us_per_item"] for row in large)
    return {
        "draw_over_mget": min(row["draw_over_mget"] for row in large),
        "insert_over_set": min(row["insert_over_set"] for row in large),
        "update_over_set": min(row["update_over_set"] for row in large),
        "draw_growth": large[-1]["draw_prefetched"]["us_per_item"] / large[0]["draw_prefetched"]["us_per_item"],
        "mget_growth": large[-1]["mget"]["us_per_item"] / large[0]["mget"]["us_per_item"],
        "insert_over_reverb": reverb["insert_us"] / insert_us if reverb else None,
        "overhead_bytes_per_item": overhead,
        "append_only_file": log,
        "clients": clients,
        "codec": codec_cost(),
        "cpprb": cpprb_rows(max(sizes[0], 1), payload, 256),
        "reverb": reverb,
        "rows": rows,
        "payload_bytes": payload,
    }


def show(row: dict[str, Any]) -> None:
    """Print the timings of one size and batch to stderr."""
    sys.stderr.write(f"\n{row['items']:,} items, batches of {row['batch']}\n")
    for kind, values in row.items():
        if isinstance(values, dict):
            sys.stderr.write(
                f"  {kind:20}" + "  ".join(f"{k} {v:g}" for k, v in values.items() if v is not None) + "\n"
            )
    sys.stderr.write("  " + "  ".join(f"{k} {v:.2f}" for k, v in row.items() if isinstance(v, float)) + "\n")


def main() -> None:
    """Measure and print; with --worker, be one client of `many_clients`."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="The numbers of items, separated by commas.")
    parser.add_argument("--payload", type=int, default=2048, help="Bytes of each item.")
    parser.add_argument("--rounds", type=int, default=5, help="The number of rounds; figures are medians over them.")
    parser.add_argument("--calls", type=int, default=60, help="The number of calls of each kind in a round.")
    parser.add_argument("--reverb-python", help="A Python interpreter that has dm-reverb, to compare with.")
    for hidden in ("worker", "url", "name"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    for hidden in ("size", "first"):
        parser.add_argument(f"--{hidden}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clients", default="1,4,16", help="The numbers of client processes at once.")
    arguments = parse(parser, sizes="600,1200", rounds=2, calls=4, clients="1,2,3")
    if arguments.worker:
        worker(arguments)
        return
    sizes = [int(size) for size in arguments.sizes.split(",")]
    at_once = [int(number) for number in arguments.clients.split(",")]
    result = run(sizes, at_once, arguments.payload, arguments.rounds, arguments.calls, arguments.reverb_python)
    print_result(result, arguments.json)


if __name__ == "__main__":
    main()
