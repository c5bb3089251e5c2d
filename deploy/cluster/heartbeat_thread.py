"""Heartbeats of a process that can't answer calls while it works: a thread of its own sends them."""

import threading
import time

from deploy.cluster.adapter_store import AdapterStoreClient

BEAT_EVERY_S = 1.0


def start_heartbeats(store: AdapterStoreClient, name: str) -> None:
    """Beat from now until the process ends or is stopped; the first beat has arrived on return.

    Not a method of the Ray actor: with concurrency groups Ray runs every method outside the main thread, where no
    signal can interrupt a reward function that takes too long.
    """
    store.beat(name)

    def beat() -> None:
        while True:
            time.sleep(BEAT_EVERY_S)
            store.beat(name, wait=False)

    threading.Thread(target=beat, name="heartbeats", daemon=True).start()
