"""Objectives: pure functions of one number a prefix.

A new one is a file here and a name in `OBJECTIVES` and `LearnerConfig`, and in `COMPARING` if it compares trajectories.
"""

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
