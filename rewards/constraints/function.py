"""A Python function of the user: text -> true or false, a probability, or nats.

def rhymes(text: str) -> bool: ...     {kind = "function", function = "my_module:rhymes"}

It runs in the reward worker under rewards.time_limit_s. If it raises or returns a value that its `unit` does not allow,
the string is quarantined with the reason and the run continues.
"""

import importlib
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from rewards.constraints.settings import Constraint, ConstraintSettings
from rewards.hidden_module import explain_hidden_file


class Function(ConstraintSettings):
    """{kind = "function", function = "module:name"}"""

    kind: Literal["function"]
    function: str
    """module:name, importable from the folder where the run is started or from the recipe's."""
    unit: Literal["share", "nats"] = "share"
    """Meaning of a number that it returns: share is c in 0..1, nats is log c. True is c = 1, False is c = 0 in both."""

    def build(self) -> Constraint:
        """Raise ValueError if the function can't be imported or called."""
        call, read = _import(self.function), _share if self.unit == "share" else _nats
        return lambda texts: np.array([read(call(text), self.function) for text in texts], dtype=np.float64)


def _import(name: str) -> Callable[[str], object]:
    module_name, _, function_name = name.partition(":")
    rule = "It must be module:name, importable from the folder where the run is started or from the recipe's"
    if not module_name or not function_name:
        raise ValueError(f"function = {name!r} does not name a function. {rule}")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module may raise anything
        hidden = explain_hidden_file(module_name)
        raise ValueError(f"function = {name!r} can't be imported ({error!r:.200}). {rule}.{hidden}") from error
    if not callable(function):
        raise ValueError(f"function = {name!r} is {function!r:.80} and can't be called. {rule}")
    call: Callable[[str], object] = function
    return call


def _share(value: object, name: str) -> float:
    if isinstance(value, bool | np.bool_):
        return 0.0 if value else -math.inf
    share = _number(value, name)
    if not 0.0 <= share <= 1.0:  # NaN too
        raise ValueError(f"{name} returned {share}: a share must be in 0..1. Set unit = 'nats' if it returns log c")
    return math.log(share) if share else -math.inf


def _nats(value: object, name: str) -> float:
    if isinstance(value, bool | np.bool_):
        return 0.0 if value else -math.inf
    nats = _number(value, name)
    if math.isnan(nats) or nats == math.inf:
        raise ValueError(f"{name} returned {nats}: log c must be finite, or -inf where c fails. Fix the function")
    return nats


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} returned {value!r:.80}: it must return True, False or a number. Fix the function")
    return float(value)
