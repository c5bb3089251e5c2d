"""Objectives: pure functions of one number a prefix.

A new one is a file here and a word in `OBJECTIVES` and in `LearnerConfig`, and in `COMPARING` where it compares
trajectories.
"""

from learner.objectives.balance import Objective
from learner.objectives.db import detailed_balance
from learner.objectives.group_subtb import group_subtb
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
}
"""By the name that a recipe gives."""

COMPARING = frozenset({"group_subtb", "vargrad"})
"""Those in which trajectories of a prompt are compared: their loss is no sum over trajectories."""
