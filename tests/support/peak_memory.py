"""The peak memory of a function on the CPU, by torch's record of its allocations."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that `work` holds at a time, beyond those held before it. One thread: the record slows others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            work()
    finally:
        torch.set_num_threads(threads)
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak
