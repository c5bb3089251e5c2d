"""Objectives: pure functions of one number a prefix.

A new one is a file here, a word in `OBJECTIVES` and in `LearnerConfig`.
"""

from learner.objectives.balance import Objective
from learner.objectives.group_subtb import group_subtb
from learner.objectives.subtb import subtb

OBJECTIVES: dict[str, Objective] = {"subtb": subtb, "group_subtb": group_subtb}
"""By the name that a recipe gives."""
