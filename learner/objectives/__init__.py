"""Objectives: pure functions of one number a prefix.

A new one is a file here and a name in `OBJECTIVES` and `OBJECTIVE_NAMES`, and in `COMPARING` if it compares
trajectories. One of the user's own is named as module:function, or as its package says (buffer/plugins.py), and may
compare them.
"""

import importlib

from buffer.errors import ConfigError
from buffer.plugins import installed
from learner.objectives.balance import Objective
from learner.objectives.db import detailed_balance
from learner.objectives.group_subtb import group_subtb
from learner.objectives.policy_gradient import policy_gradient, policy_gradient_kl
from learner.objectives.sft import sft
from learner.objectives.subtb import subtb
from learner.objectives.tb import trajectory_balance
from learner.objectives.vargrad import vargrad

OBJECTIVES: dict[str, Objective] = {
    "subtb": subtb,
    "group_subtb": group_subtb,
    "tb": trajectory_balance,
    "db": detailed_balance,
    "vargrad": vargrad,
    "sft": sft,
    "pg": policy_gradient,
    "pg_kl": policy_gradient_kl,
}
"""Objectives by their names in a recipe."""

COMPARING = frozenset({"group_subtb", "vargrad", "pg", "pg_kl"})
"""Objectives that compare the trajectories of a prompt: their loss is not a sum over trajectories."""


def find_objective(name: str) -> tuple[Objective, bool]:
    """(an objective by its name in a recipe, whether it compares trajectories). ConfigError where it can't be
    imported."""
    if name in OBJECTIVES:
        return OBJECTIVES[name], name in COMPARING
    module, _, function = installed("objectives").get(name, name).partition(":")
    try:
        loaded = getattr(importlib.import_module(module), function)
    except Exception as error:  # user code
        raise ConfigError(
            f"learner.objective = {name!r} can't be imported ({type(error).__name__}: {error}). It must be "
            "module:function, importable from the folder where the run is started or from the recipe's."
        ) from error
    if not callable(loaded):
        raise ConfigError(
            f"learner.objective = {name!r} is no function. Write one as in learner/objectives/vargrad.py: it takes "
            "the estimates of a batch and λ, and returns a Loss."
        )
    return loaded, True
