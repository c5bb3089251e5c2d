"""The statistics of a buffer: a table for people, plain values for programs."""

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
from deploy.telemetry.figures import FIGURES

MAX_BARS = 12
BAR_WIDTH = 24
REASONS_SHOWN = 5


def stats_table(stats: BufferStats, quarantine: Sequence[Quarantined]) -> Table:
    """Totals, the current content of the buffer, and its histograms as bars."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(stats).items():
        table.add_row(FIGURES[name].label, value)
    for note in quarantine[:REASONS_SHOWN]:
        table.add_row("", Text(f"{visible(note.id)[:8]}  {visible(note.reason)}", "red"))
    for title, bars in (
        ("log R [nats]", _reward_bars(stats.reward_histogram)),
        ("staleness of draws", _staleness_bars(stats.staleness_histogram)),
    ):
        table.add_section()
        table.add_row(title, bars or "-")
    return table


def stats_values(stats: BufferStats, quarantine: Sequence[Quarantined]) -> dict[str, Any]:
    """The same as plain values for JSON, ages in s."""
    return asdict(stats) | {
        "draws_per_insert": stats.draws_per_insert,
        "unique_ratio": stats.unique_ratio,
        "quarantine": [{"id": note.id, "reason": note.reason} for note in quarantine],
    }


def _rows(stats: BufferStats) -> dict[str, str]:
    """Figure -> value in words, in the order shown."""
    refused = ", ".join(f"{number:,} {visible(reason)}" for reason, number in sorted(stats.refused.items()))
    fill = 100 * stats.size / stats.capacity
    return {
        "buffer.size": f"{stats.size:,} of {stats.capacity:,} ({fill:.0f} %)",
        "buffer.prompts": f"{stats.prompts:,}",
        "buffer.fresh_waiting": f"{stats.fresh_waiting:,}",
        "buffer.arrivals": f"{stats.arrivals:,}",
        "buffer.inserted": f"{stats.inserted:,} ({100 * stats.unique_ratio:.0f} % of the arrivals)",
        "buffer.duplicates": f"{stats.duplicates:,}",
        "buffer.refused.REASON": refused or "0",
        "buffer.evicted": f"{stats.evicted:,}",
        "buffer.expired": f"{stats.expired:,}",
        "buffer.max_draws_reached": f"{stats.max_draws_reached:,}",
        "buffer.drawn": f"{stats.drawn:,} ({stats.draws_per_insert:.2f} per arrival)",
        "buffer.updated": f"{stats.updated:,}",
        "buffer.update_misses": f"{stats.update_misses:,}",
        "buffer.priority_ess": figure(stats.priority_ess),
        "buffer.mean_age_s": _age(stats.mean_age_s),
        "buffer.oldest_age_s": _age(stats.oldest_age_s),
        "buffer.last_insert_age_s": f"{_age(stats.last_insert_age_s)} ago" if stats.arrivals else "never",
        "buffer.newest_version": f"{stats.newest_version}" if stats.newest_version >= 0 else "-",
        "buffer.quarantined": f"{stats.quarantined:,}",
    }


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else clock(seconds)


def _reward_bars(histogram: Mapping[float, int]) -> str:
    """At most MAX_BARS rows: where there are more bins, neighbours share a row, so that an outlier hides nothing."""
    edges = sorted(histogram)
    bins_per_row = -(-len(edges) // MAX_BARS)
    rows = [edges[start : start + bins_per_row] for start in range(0, len(edges), bins_per_row or 1)]
    return _bars(
        [f"{row[0]:g} to {row[-1] + 1 / BINS_PER_NAT:g}" for row in rows],
        [sum(histogram[edge] for edge in row) for row in rows],
    )


def _staleness_bars(histogram: Mapping[int, int]) -> str:
    lowest = sorted(histogram)
    names = [f"{n}" if n < 2 else f"{n} to {2 * n - 1}" for n in lowest]
    return _bars(names, [histogram[n] for n in lowest])


def _bars(names: Sequence[str], numbers: Sequence[int]) -> str:
    width, largest = max(map(len, names), default=0), max(numbers, default=0)
    return "\n".join(
        f"{name:>{width}}  {'█' * max(round(BAR_WIDTH * number / largest), 1)} {number:,}"
        for name, number in zip(names, numbers, strict=True)
    )
