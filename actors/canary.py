"""The checks that an engine scores and samples with the adapter version it was given.

CanaryCheck compares the engine's scores of a version's canary with the learner's. SampleCheck compares the
log-probabilities that came with the version's first samples with the engine's scores of the same tokens: samples take
another path through the engine than scores do, with a prefix cache and requests of their own.

Compared is the mean |difference| over the tokens, so that rounding averages out. In 16 bits a string of two or three
tokens can still exceed the tolerance by rounding: one or two exceedances are counted and the version is served; the
third in a row, or one far beyond the tolerance, is an error. Measured: docs/decisions/0021-canary.md and
0022-sampled-canary.md.
"""

import json

import numpy as np

from buffer.errors import AdapterError
from buffer.types import AdapterVersion, FloatArray

FAR_BEYOND = 4.0
"""Multiples of the tolerance that are an error at once: another adapter, or none."""
MAX_IN_A_ROW = 3
"""Exceedances in a row that are an error."""
SAMPLED_TOKENS = 8
"""Tokens of a version's samples that are compared, at least: the mean of fewer exceeds the tolerance by rounding."""


class Differences:
    """The mean differences that one check has seen, in the order of the versions."""

    def __init__(self) -> None:
        self.largest = 0.0
        """nats"""
        self.exceeded = 0
        self.in_a_row = 0

    def add(self, difference: float, tolerance: float) -> bool:
        """Count a mean difference, nats. True where it shows other weights."""
        self.largest = max(self.largest, difference)
        exceeds = not difference <= tolerance  # NaN does too
        self.exceeded += exceeds
        self.in_a_row = self.in_a_row + 1 if exceeds else 0
        return self.in_a_row >= MAX_IN_A_ROW or not difference <= FAR_BEYOND * tolerance


class CanaryCheck:
    """The canaries of one engine's versions, in the order in which it takes them."""

    def __init__(self) -> None:
        self.differences = Differences()

    def compare(self, version: AdapterVersion, log_probs: FloatArray) -> float:
        """The mean |difference| between the engine's `log_probs` [T] of the version's canary and the learner's, nats.

        AdapterError where it shows that the engine does not serve this version.
        """
        canary = version.canary
        if len(canary.token_ids) == 0:
            raise AdapterError(
                f"adapter version {version.number} has an empty canary, so nothing proves which weights are served: "
                "publish a canary of at least one token."
            )
        difference, largest = _mean_and_largest(log_probs, canary.log_probs)
        if self.differences.add(difference, canary.tolerance):
            raise AdapterError(
                f"the engine does not serve adapter version {version.number}: its canary log-probabilities "
                f"{_show(log_probs)} differ from the learner's {_show(canary.log_probs)} by {difference:.4g} nats in "
                f"the mean and {largest:.4g} at most, {self.differences.in_a_row} in a row. "
                f"{_limits(canary.tolerance)} Samples would not come from the policy whose digest they carry."
            )
        return difference


class SampleCheck:
    """The first samples of one engine's versions."""

    def __init__(self) -> None:
        self.differences = Differences()

    def compare(self, version: AdapterVersion, reported: FloatArray, scored: FloatArray) -> float:
        """The mean |difference| between log-probabilities [T] reported with samples and scored afterwards, nats.

        Both are of the version's tokens, untempered and unmasked. AdapterError where the samples are not its own.
        """
        tolerance = version.canary.tolerance
        difference, largest = _mean_and_largest(reported, scored)
        if self.differences.add(difference, tolerance):
            raise AdapterError(
                f"the engine does not sample from adapter version {version.number}, although it scores with it: the "
                f"log-probabilities that its samples came with, {_show(reported)}, differ from the scores of the same "
                f"tokens, {_show(scored)}, by {difference:.4g} nats in the mean and {largest:.4g} at most, "
                f"{self.differences.in_a_row} in a row. {_limits(tolerance)} The samples come from other weights, from "
                "keys and values of another version, or with log-probabilities of another distribution."
            )
        return difference


def _mean_and_largest(ours: FloatArray, theirs: FloatArray) -> tuple[float, float]:
    differences = np.abs(ours - theirs)
    return float(differences.mean()), float(differences.max())


def _limits(tolerance: float) -> str:
    return f"The mean may exceed {tolerance:g} {MAX_IN_A_ROW - 1} times in a row, and {FAR_BEYOND * tolerance:g} never."


def _show(values: FloatArray) -> str:
    return json.dumps([round(float(v), 4) for v in values])
