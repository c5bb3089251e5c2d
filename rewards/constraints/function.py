"""A Python function of the user's own: text -> yes or no, a share, or nats.

def rhymes(text: str) -> bool: ...     {kind = "function", function = "my_module:rhymes"}

It runs in the reward worker under rewards.time_limit_s. Where it raises, or gives what its `unit` does not allow, the
string is set aside with the reason, and the run goes on.
"""

import importlib
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from rewards.constraints.settings import Constraint, ConstraintSettings


class Function(ConstraintSettings):
    """{kind = "function", function = "module:name"}"""

    kind: Literal["function"]
    function: str
    """module:name, importable from the folder where the run is started."""
    unit: Literal["share", "nats"] = "share"
    """Of a number that it gives: share is c in 0..1, nats is log c. True and False are 1 and 0 in either."""

    def build(self) -> Constraint:
        """ValueError for what can't be imported or called."""
        call, read = _import(self.function), _share if self.unit == "share" else _nats
        return lambda texts: np.array([read(call(text), self.function) for text in texts], dtype=np.float64)


def _import(name: str) -> Callable[[str], object]:
    module_name, _, function_name = name.partition(":")
    rule = "It must be module:name, importable from the folder where the run is started"
    if not module_name or not function_name:
        raise ValueError(f"function = {name!r} names no function. {rule}")
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module may raise anything
        raise ValueError(f"function = {name!r} can't be imported ({error!r:.200}). {rule}") from error
    if not callable(found):
        raise ValueError(f"function = {name!r} is {found!r:.80} and can't be called. {rule}")
    call: Callable[[str], object] = found
    return call


def _share(value: object, name: str) -> float:
    if isinstance(value, bool | np.bool_):
        return 0.0 if value else -math.inf
    share = _number(value, name)
    if not 0.0 <= share <= 1.0:  # NaN too
        raise ValueError(f"{name} gave {share}; a share must be in 0..1. Set unit = 'nats' if it is log c")
    return math.log(share) if share else -math.inf


def _nats(value: object, name: str) -> float:
    if isinstance(value, bool | np.bool_):
        return 0.0 if value else -math.inf
    nats = _number(value, name)
    if math.isnan(nats) or nats == math.inf:
        raise ValueError(f"{name} gave {nats}; log c must be a number, or -inf where c fails")
    return nats


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} gave {value!r:.80}; it must give True or False, or a number")
    return float(value)
