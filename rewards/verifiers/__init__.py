"""Verifiers: rewards of whole answers, many at once. One file per kind; a recipe names one by its `kind`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buffer.plugins import installed
from rewards.config import BASE
from rewards.constraints import CONSTRAINTS
from rewards.constraints.settings import read_table
from rewards.verifiers.code import Code
from rewards.verifiers.constraint import KINDS as CONSTRAINT_KINDS
from rewards.verifiers.constraint import constraint_verifier
from rewards.verifiers.function import Function
from rewards.verifiers.http import Http
from rewards.verifiers.judge import Judge
from rewards.verifiers.mathematics import Math
from rewards.verifiers.text import Exact, Length, Numeric
from rewards.verifiers.verifier import Verifier, VerifierSettings

VERIFIERS: Mapping[str, type[VerifierSettings]] = {
    "code": Code,
    "exact": Exact,
    "function": Function,
    "http": Http,
    "judge": Judge,
    "length": Length,
    "math": Math,
    "numeric": Numeric,
    **dict.fromkeys(CONSTRAINT_KINDS, VerifierSettings),
}
"""Kind in a recipe -> its settings, without those of a constraint."""


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward of a recipe."""

    name: str
    columns: Sequence[str]
    """Columns that every row must have."""
    highest: float | None
    """The largest r that it gives; None if that is not known."""
    longest_wait_s: float
    verify: Verifier


def read_rewards(entries: Sequence[object]) -> list[Reward]:
    """The rewards of a recipe, in order: tables, or short forms "PATH.py:name", "module:name", "https://...", and names
    that installed packages give functions of theirs.

    ValueError for entries that don't fit, alone or together.
    """
    if not entries:
        raise ValueError(
            'rewards is empty: give a function, such as rewards = ["my_rewards.py:accuracy"], or a table with kind = '
            f"one of: {', '.join(sorted(VERIFIERS))}"
        )
    rewards = [_read(_table(entry), f"rewards[{k}]") for k, entry in enumerate(entries, start=1)]
    names = [reward.name for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two rewards have the name {name!r}: set name = '...' on one of them")
        if name.startswith("_"):
            raise ValueError(
                f"a reward can't have the name {name!r}: terms with _ in front do not count. Set name = '...'"
            )
        if name == BASE:
            raise ValueError(
                f"a reward can't have the name {name!r}, which another term of log R has: set name = '...'"
            )
    return rewards


def _table(entry: object) -> object:
    if isinstance(entry, str):
        if entry.startswith(("http://", "https://")):
            return {"kind": "http", "url": entry}
        entry = {"kind": "function", "function": entry} if ":" in entry else {"kind": entry}
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    is_other = isinstance(kind, str) and kind not in VERIFIERS
    if isinstance(entry, Mapping) and is_other and (function := installed("rewards").get(str(kind))):
        return {"name": kind, **entry, "kind": "function", "function": function}
    return entry


def _read(table: object, where: str) -> Reward:
    kind = table.get("kind") if isinstance(table, Mapping) else None
    if isinstance(table, Mapping) and isinstance(kind, str) and kind in CONSTRAINT_KINDS:
        common = VerifierSettings.model_fields
        constraint = {key: value for key, value in table.items() if key == "kind" or key not in common}
        settings = read_table(VERIFIERS, {key: value for key, value in table.items() if key in common}, where)
        verify = constraint_verifier(read_table(CONSTRAINTS, constraint, where).build())
    else:
        settings = read_table(VERIFIERS, table, where)
        verify = settings.build()
    return Reward(settings.title, settings.columns, settings.highest_reward, settings.longest_wait_s, verify)
