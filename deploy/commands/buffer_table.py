"""How the statistics of a buffer look: a table for people, plain values for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from buffer.quarantine import Quarantined
from buffer.store.binary_layout import BINS_PER_NAT
from buffer.store.statistics import BufferStats
from deploy.formatting import clock, figure, visible

MOST_BARS = 12
BAR_WIDTH = 24
REASONS_SHOWN = 5


def stats_table(stats: BufferStats, quarantine: Sequence[Quarantined]) -> Table:
    """Totals, what is in the buffer now, and its histograms as bars."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(stats):
        table.add_row(name, value)
    for note in quarantine[:REASONS_SHOWN]:
        table.add_row("", Text(f"{visible(note.id)[:8]}  {visible(note.reason)}", "red"))
    for name, bars in (
        ("log R [nats]", _reward_bars(stats.reward_histogram)),
        ("staleness of draws", _staleness_bars(stats.staleness_histogram)),
    ):
        table.add_section()
        table.add_row(name, bars or "-")
    return table


def stats_values(stats: BufferStats, quarantine: Sequence[Quarantined]) -> dict[str, Any]:
    """The same as values that JSON can hold, ages in s."""
    return asdict(stats) | {
        "draws_per_insert": stats.draws_per_insert,
        "unique_ratio": stats.unique_ratio,
        "quarantine": [{"id": note.id, "reason": note.reason} for note in quarantine],
    }


def _rows(stats: BufferStats) -> list[tuple[str, str]]:
    refused = ", ".join(f"{number:,} {visible(reason)}" for reason, number in sorted(stats.refused.items()))
    fill = 100 * stats.size / stats.capacity
    return [
        ("in it", f"{stats.size:,} of {stats.capacity:,} ({fill:.0f} %), {stats.prompts:,} prompts"),
        ("fresh, waiting", f"{stats.fresh_waiting:,}"),
        ("arrivals", f"{stats.arrivals:,}"),
        ("  new", f"{stats.inserted:,} ({100 * stats.unique_ratio:.0f} %)"),
        ("  duplicates", f"{stats.duplicates:,}"),
        ("refused", refused or "0"),
        ("evicted", f"{stats.evicted:,}"),
        ("left as stale", f"{stats.expired:,}"),
        ("left with last draw", f"{stats.max_draws_reached:,}"),
        ("drawn", f"{stats.drawn:,} ({stats.draws_per_insert:.2f} an arrival)"),
        ("priorities set", f"{stats.updated:,}, {stats.update_misses:,} of what had left"),
        ("effective size", f"{figure(stats.priority_ess)} by draw weight"),
        ("age", f"mean {_age(stats.mean_age_s)}, oldest {_age(stats.oldest_age_s)}"),
        ("last arrival", "never" if stats.last_insert_age_s is None else f"{_age(stats.last_insert_age_s)} ago"),
        ("newest version", f"{stats.newest_version}" if stats.newest_version >= 0 else "-"),
        ("quarantined", f"{stats.quarantined:,}"),
    ]


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else clock(seconds)


def _reward_bars(histogram: Mapping[float, int]) -> str:
    """At most MOST_BARS rows: neighbours share one where there are more bins, so that one far off hides nothing."""
    edges = sorted(histogram)
    together = -(-len(edges) // MOST_BARS)
    rows = [edges[start : start + together] for start in range(0, len(edges), together or 1)]
    return _bars(
        [f"{row[0]:g} to {row[-1] + 1 / BINS_PER_NAT:g}" for row in rows],
        [sum(histogram[edge] for edge in row) for row in rows],
    )


def _staleness_bars(histogram: Mapping[int, int]) -> str:
    least = sorted(histogram)
    names = [f"{n}" if n < 2 else f"{n} to {2 * n - 1}" for n in least]
    return _bars(names, [histogram[n] for n in least])


def _bars(names: Sequence[str], numbers: Sequence[int]) -> str:
    width, most = max(map(len, names), default=0), max(numbers, default=0)
    return "\n".join(
        f"{name:>{width}}  {'█' * max(round(BAR_WIDTH * number / most), 1)} {number:,}"
        for name, number in zip(names, numbers, strict=True)
    )
