"""The list of runs, the comparison of several, and the events of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.status import began_at, state_of, step_of, steps_of, updated_at

KINDS = ("start", "phase", "version", "restart", "process", "wait", "quarantine", "skipped", "alert", "end")
MAX_EVENTS = 500


def runs_view(runs: Sequence[RunReader], token_required: bool, version: str) -> dict[str, Any]:
    """The response of `/api/runs`, as in docs/dashboard-api.md."""
    entries = [entry for run in runs if (entry := _listed(run))]
    return {"runs": entries, "token_required": token_required, "version": version}


def _listed(run: RunReader) -> dict[str, Any] | None:
    """The entry of a run as it is now; None for a neighbour that can't be read: it must not hide the others."""
    try:
        run.glance()
        return run_entry(run)
    except Exception:  # what stands in another person's files may raise anything
        if run.primary:
            raise
        return None


def run_entry(run: RunReader) -> dict[str, Any]:
    """One entry of the list of runs."""
    about, config = run.meta.get("about") or {}, run.config()
    return {
        "id": run.id,
        "name": run.folder.name,
        "task": about.get("task") or config.get("task", {}).get("name"),
        "model": about.get("model") or config.get("model", {}).get("name"),
        "state": state_of(run)[0],
        "steps": steps_of(run),
        "step": step_of(run),
        "began_at": began_at(run),
        "updated_at": updated_at(run),
        "has_history": run.has_history,
        "primary": run.primary,
    }


def compare(runs: Sequence[RunReader]) -> dict[str, Any]:
    """The response of `/api/compare`."""
    configs = [_flat(run.config()) for run in runs]
    summaries = [_flat((run.summary() or {}).get("metrics") or {}) for run in runs]
    fields = sorted({name for config in configs for name in config})
    differ = [name for name in fields if len({repr(config.get(name)) for config in configs}) > 1]
    figures = [n for n in dict.fromkeys(n for summary in summaries for n in summary) if _is_figure(n, summaries)]
    counts = [run.learner.counts() | run.snapshots.counts() for run in runs]
    names = sorted({name for count in counts for name in count})
    return {
        "runs": [run_entry(run) for run in runs],
        "config": [{"field": name, "values": [config.get(name) for config in configs]} for name in differ],
        "same_fields": len(fields) - len(differ),
        "summary": [{"figure": name, "values": [summary.get(name) for summary in summaries]} for name in figures],
        "curves": [name for name in names if sum(name in count for count in counts) > 1],
    }


def events(run: RunReader, kinds: Sequence[str], before: int | None, limit: int, after: int = 0) -> dict[str, Any]:
    """The response of `/api/events`, newest first."""
    where, values = ["id > ?"], [after]
    if before is not None:
        where.append("id < ?")
        values.append(before)
    if kinds:
        where.append(f"kind IN ({', '.join('?' * len(kinds))})")
    rows = run.query(
        f"SELECT id, at, step, kind, level, who, data FROM events WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?",
        [*values, *kinds, limit],
    )
    listed = [{**{name: row[name] for name in _EVENT_COLUMNS}, "text": row["data"]} for row in rows]
    return {"run": run.id, "events": listed, "kinds": list(KINDS)}


_EVENT_COLUMNS = ("id", "at", "step", "kind", "level", "who")


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table as one level, with names joined by dots; lists are values."""
    fields: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def _is_figure(name: str, summaries: Sequence[Mapping[str, Any]]) -> bool:
    return any(isinstance(summary.get(name), (int, float)) for summary in summaries)
