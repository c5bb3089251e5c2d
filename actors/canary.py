"""The check that an engine serves the adapter version it was given: its log-probabilities against the learner's.

Compared is the mean |difference| over the canary's tokens, so that rounding averages out. In 16 bits a string of two or
three tokens can still exceed the tolerance by rounding: one or two exceedances are counted and the version is served;
the third in a row, or one far beyond the tolerance, is an error. Measured: docs/decisions/0021-canary.md.
"""

import json

import numpy as np

from buffer.errors import AdapterError
from buffer.types import AdapterVersion, FloatArray

FAR_BEYOND = 4.0
"""Multiples of the tolerance that are an error at once: another adapter, or none."""
MAX_IN_A_ROW = 3
"""Exceedances in a row that are an error."""


class CanaryCheck:
    """The checks of one engine's versions, in the order in which it takes them."""

    def __init__(self) -> None:
        self._in_a_row = 0

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
        differences = np.abs(log_probs - canary.log_probs)
        difference = float(differences.mean())
        self._in_a_row = 0 if difference <= canary.tolerance else self._in_a_row + 1
        if self._in_a_row >= MAX_IN_A_ROW or not difference <= FAR_BEYOND * canary.tolerance:  # NaN is an error too
            raise AdapterError(
                f"the engine does not serve adapter version {version.number}: its canary log-probabilities "
                f"{_show(log_probs)} differ from the learner's {_show(canary.log_probs)} by {difference:.4g} nats in "
                f"the mean and {float(differences.max()):.4g} at most, {self._in_a_row} in a row. The mean may "
                f"exceed {canary.tolerance:g} {MAX_IN_A_ROW - 1} times in a row, and {FAR_BEYOND * canary.tolerance:g} "
                "never. Samples would not come from the policy whose digest they carry."
            )
        return difference


def _show(values: FloatArray) -> str:
    return json.dumps([round(float(v), 4) for v in values])
