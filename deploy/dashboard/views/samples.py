"""The samples page: a filtered list, one sample in full, and samples from before and after training."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any

from deploy.artifacts.json_files import plain
from deploy.dashboard.data.pattern_search import matching
from deploy.dashboard.data.run_reader import RunReader

MAX_COMPARED = 32
"""Samples from before training, and as many from after."""
MAX_SAME_STRING = 50
MAX_PROMPTS = 500
MAX_SAVED, SAVED_PER_READ = 20_000, 500
"""Samples in a file of JSON Lines; read at a time, since a reader holds the file."""
ORDERS = {
    "prompt": "prompt_id, log_reward DESC, id DESC",
    "newest": "id DESC",
    "oldest": "id",
    "reward": "log_reward DESC, id DESC",
    "-reward": "log_reward, id DESC",
    "log_q": "log_q DESC, id DESC",
    "-log_q": "log_q, id DESC",
}
_LISTS = ("log_pf", "log_pterm", "u", "log_reward_prefix")
_COLUMNS = "id, at, step, phase, prompt_id, behaviour, fresh, version, log_q, log_reward, text, data"


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of samples; None accepts any value."""

    phase: str = "train"
    prompt: str | None = None
    behaviour: str | None = None
    fresh: bool | None = None
    reward_from: float | None = None
    reward_to: float | None = None
    step_from: int | None = None
    step_to: int | None = None
    version_from: int | None = None
    version_to: int | None = None
    text: str | None = None
    pattern: str | None = None
    """A regular expression that the response contains; `where` leaves it out."""

    def where(self) -> tuple[str, list[Any]]:
        """The WHERE clause with placeholders, and their values."""
        rules = [
            ("phase = ?", self.phase),
            ("prompt_id = ?", self.prompt),
            ("behaviour = ?", self.behaviour),
            ("fresh = ?", None if self.fresh is None else int(self.fresh)),
            ("log_reward >= ?", self.reward_from),
            ("log_reward <= ?", self.reward_to),
            ("step >= ?", self.step_from),
            ("step <= ?", self.step_to),
            ("version >= ?", self.version_from),
            ("version <= ?", self.version_to),
            ("instr(text, ?) > 0", self.text),
        ]
        used = [(rule, value) for rule, value in rules if value is not None]
        return " AND ".join(rule for rule, _ in used), [value for _, value in used]


def samples(run: RunReader, filter: Filter, sort: str, limit: int, page: int) -> dict[str, Any]:
    """The response of `/api/samples`, as in docs/dashboard-api.md."""
    numbers = _numbers(run, filter, sort)
    rows = _rows(run, numbers[limit * page :][:limit])
    behaviours = run.query("SELECT DISTINCT behaviour FROM samples WHERE phase = ? ORDER BY behaviour", [filter.phase])
    return {
        "run": run.id,
        "total": len(numbers),
        "page": page,
        "limit": limit,
        "behaviours": [row["behaviour"] for row in behaviours],
        "prompts": {row["prompt_id"]: _prompt(run, row["prompt_id"]) for row in rows},
        "samples": [full(row) for row in rows],
    }


def sample_lines(run: RunReader, filter: Filter, sort: str) -> Iterator[str]:
    """All samples that match, as JSON Lines: SAMPLE with its prompt's text and fields, at most MAX_SAVED."""
    prompts: dict[str, dict[str, Any]] = {}
    numbers = _numbers(run, filter, sort)[:MAX_SAVED]
    for begin in range(0, len(numbers), SAVED_PER_READ):
        for row in _rows(run, numbers[begin : begin + SAVED_PER_READ]):
            name = row["prompt_id"]
            prompts[name] = prompts.get(name) or _prompt(run, name)
            yield json.dumps(plain(full(row) | {"prompt": prompts[name]}), allow_nan=False) + "\n"


def _numbers(run: RunReader, filter: Filter, sort: str) -> list[int]:
    """The ids of the samples that match, in order. Raise PatternTooSlow."""
    where, values = filter.where()
    texts = "text" if filter.pattern else "''"
    rows = run.query(f"SELECT id, {texts} AS text FROM samples WHERE {where} ORDER BY {ORDERS[sort]}", values)
    if not filter.pattern:
        return [row["id"] for row in rows]
    return matching(filter.pattern, ((row["id"], row["text"]) for row in rows))


def _rows(run: RunReader, numbers: Sequence[int]) -> list[Row]:
    """The samples of these ids, in their order; those that were thinned out meanwhile are missing."""
    marks = ", ".join("?" * len(numbers))
    rows = {row["id"]: row for row in run.query(f"SELECT {_COLUMNS} FROM samples WHERE id IN ({marks})", numbers)}
    return [rows[number] for number in numbers if number in rows]


def one_sample(run: RunReader, number: int) -> dict[str, Any] | None:
    """The response of `/api/samples/ID`; None if the sample does not exist."""
    rows = run.query(f"SELECT {_COLUMNS} FROM samples WHERE id = ?", [number])
    if not rows:
        return None
    row = rows[0]
    same = run.query(
        f"SELECT {_COLUMNS} FROM samples WHERE prompt_id = ? AND phase = ? AND text = ? AND id <> ? "
        "ORDER BY id DESC LIMIT ?",
        [row["prompt_id"], row["phase"], row["text"], number, MAX_SAME_STRING],
    )
    short = [{key: value for key, value in full(other).items() if key not in (*_LISTS, "terms")} for other in same]
    return full(row) | {"run": run.id, "prompt": _prompt(run, row["prompt_id"]), "same_string": short}


def before_after(run: RunReader, prompt_id: str) -> dict[str, Any]:
    """The response of `/api/before-after`."""
    sides = {phase: _of_phase(run, prompt_id, phase, "id") for phase in ("before", "after")}
    source = "judging"
    if not any(sides.values()):
        source = "noted"
        sides = {
            "before": _of_phase(run, prompt_id, "train", "id"),
            "after": _of_phase(run, prompt_id, "train", "id DESC"),
        }
    return {"run": run.id, "prompt": _prompt(run, prompt_id), "source": source, **sides}


def prompts(run: RunReader, limit: int = MAX_PROMPTS) -> dict[str, Any]:
    """The response of `/api/prompts`."""
    counts: dict[str, dict[str, int]] = {}
    for row in run.query("SELECT prompt_id, phase, COUNT(*) AS n FROM samples GROUP BY prompt_id, phase"):
        counts.setdefault(row["prompt_id"], {})[row["phase"]] = row["n"]
    texts = {row["id"]: row["text"] for row in run.query("SELECT id, text FROM prompts")}
    entries = [
        {
            "id": name,
            "text": texts.get(name, ""),
            "samples": counts.get(name, {}).get("train", 0),
            "before": counts.get(name, {}).get("before", 0),
            "after": counts.get(name, {}).get("after", 0),
        }
        for name in {**texts, **counts}
    ]
    return {"run": run.id, "prompts": sorted(entries, key=lambda entry: (-int(entry["samples"]), entry["id"]))[:limit]}


def newest(run: RunReader, limit: int, prompt: str | None = None, steps: int = 0) -> list[dict[str, Any]]:
    """The newest `limit` recorded samples in full, from the newest `steps` recorded steps (0: from all)."""
    step_from = None
    if steps:
        rows = run.query(
            "SELECT DISTINCT step FROM samples WHERE phase = 'train' ORDER BY step DESC LIMIT 1 OFFSET ?", [steps - 1]
        )
        step_from = rows[0]["step"] if rows else None
    where, values = Filter(prompt=prompt, step_from=step_from).where()
    rows = run.query(f"SELECT {_COLUMNS} FROM samples WHERE {where} ORDER BY id DESC LIMIT ?", [*values, limit])
    return [full(row) for row in rows]


def full(row: Row) -> dict[str, Any]:
    """A row as SAMPLE of docs/dashboard-api.md."""
    data = json.loads(row["data"])
    defined = [value for value in data.get("u", ()) if value is not None]
    return {
        "id": row["id"],
        "at": row["at"],
        "step": row["step"],
        "phase": row["phase"],
        "prompt_id": row["prompt_id"],
        "behaviour": row["behaviour"],
        "fresh": bool(row["fresh"]),
        "policy_version": row["version"],
        "staleness": data.get("staleness"),
        "text": row["text"],
        "pieces": data["pieces"],
        "is_action": data.get("is_action", [True] * len(data["pieces"])),
        "log_q": _finite(row["log_q"]),
        "log_reward": _finite(row["log_reward"]),
        "u_last": defined[-1] if defined else None,
        **{name: data.get(name, []) for name in _LISTS},
        "terms": data.get("terms", {}),
        "terms_last": data.get("terms_last") or {name: _last(values) for name, values in data.get("terms", {}).items()},
        "labels": data.get("labels", {}),
        "scoring_s": data.get("scoring_s"),
    }


def _of_phase(run: RunReader, prompt_id: str, phase: str, order: str) -> list[dict[str, Any]]:
    where, values = "prompt_id = ? AND phase = ? AND behaviour = 'on_policy'", [prompt_id, phase]
    rows: Sequence[Row] = run.query(
        f"SELECT {_COLUMNS} FROM samples WHERE {where} ORDER BY {order} LIMIT ?", [*values, MAX_COMPARED]
    )
    return [full(row) for row in rows]


def _prompt(run: RunReader, prompt_id: str) -> dict[str, Any]:
    """Id, text and fields of a prompt; a history of an earlier release has no fields."""
    rows = run.query("SELECT text FROM prompts WHERE id = ?", [prompt_id])
    has_fields = run.query("SELECT 1 FROM sqlite_master WHERE name = 'fields'")
    fields = run.query("SELECT data FROM fields WHERE prompt_id = ?", [prompt_id]) if has_fields else []
    return {
        "id": prompt_id,
        "text": rows[0]["text"] if rows else "",
        "fields": json.loads(fields[0]["data"]) if fields else {},
    }


def _last(values: Sequence[float | None]) -> float | None:
    """The value of the whole string."""
    return values[-1] if values else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
