"""dm-reverb on the payload of tests/benchmarks/buffer.py, for an interpreter that has dm-reverb 0.14 and tensorflow 2.14.

    python tests/support/reverb_peer.py PAYLOAD_BYTES

Prints one JSON object: wall-clock microseconds per item for inserting with a TrajectoryWriter, drawing batches of 256
with a TrajectoryDataset, and updating priorities. Server and client share one process, as in Reverb's own examples.
"""

import json
import sys
import time

import numpy as np
import reverb  # type: ignore[import-not-found]

SIZE, BATCH, ITEMS = 20_000, 256, 40_000


def main(payload: int) -> None:
    table = reverb.Table(
        name="t",
        sampler=reverb.selectors.Prioritized(0.6),
        remover=reverb.selectors.Fifo(),
        max_size=SIZE,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={"x": __import__("tensorflow").TensorSpec((1, payload), "uint8")},
    )
    server = reverb.Server([table])
    client = reverb.Client(f"localhost:{server.port}")
    data = np.random.default_rng(0).integers(0, 256, (64, payload), dtype=np.uint8)
    best = {"insert_us": float("inf"), "draw_us": float("inf"), "update_us": float("inf")}
    for _ in range(3):
        start = time.perf_counter()
        with client.trajectory_writer(num_keep_alive_refs=1) as writer:
            for number in range(ITEMS):
                writer.append({"x": data[number % 64]})
                writer.create_item("t", priority=1.0 + number % 7, trajectory={"x": writer.history["x"][-1:]})
                if number % BATCH == BATCH - 1:
                    writer.flush(block_until_num_items=1024)
            writer.flush()
        best["insert_us"] = min(best["insert_us"], (time.perf_counter() - start) / ITEMS * 1e6)
        dataset = reverb.TrajectoryDataset.from_table_signature(
            server_address=f"localhost:{server.port}", table="t", max_in_flight_samples_per_worker=2 * BATCH
        ).batch(BATCH)
        batches = iter(dataset)
        keys = next(batches).info.key.numpy().reshape(-1)
        start = time.perf_counter()
        for _ in range(100):
            next(batches)
        best["draw_us"] = min(best["draw_us"], (time.perf_counter() - start) / 100 / BATCH * 1e6)
        updates = {int(key): 2.0 for key in keys}
        start = time.perf_counter()
        for _ in range(100):
            client.mutate_priorities("t", updates=updates)
        best["update_us"] = min(best["update_us"], (time.perf_counter() - start) / 100 / len(updates) * 1e6)
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in best.items()}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
