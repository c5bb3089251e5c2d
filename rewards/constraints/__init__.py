"""Constraints c(text) that a string must meet, hard or soft. One file each; a recipe names one by its `kind`."""

from rewards.constraints.classifier import Classifier
from rewards.constraints.function import Function
from rewards.constraints.json_schema import JsonSchema
from rewards.constraints.keywords import Keywords
from rewards.constraints.pattern import Pattern
from rewards.constraints.settings import ConstraintSettings

CONSTRAINTS: dict[str, type[ConstraintSettings]] = {
    "classifier": Classifier,
    "function": Function,
    "json_schema": JsonSchema,
    "keywords": Keywords,
    "regex": Pattern,
}
"""By the kind that a recipe gives."""
