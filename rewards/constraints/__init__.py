"""Constraints c(text) on sampled strings, hard or soft. One file per kind; a recipe names one by its `kind`."""

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
"""Kind in a recipe -> its settings."""
