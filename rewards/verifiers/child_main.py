"""The process of a user's reward function: `python child_main.py module:name`.

Reads one JSON line {"prompts", "completions", "columns"} for each call and writes one: {"rewards": [...]}, where a
string is the reason for which an answer has none, or {"error": "..."}. It ends with its parent. It imports almost
nothing of ours, so that it starts at once.
"""

import asyncio
import ctypes
import importlib
import importlib.util
import inspect
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from rewards.user_frame import place_of

PR_SET_PDEATHSIG = 1
MAX_TEXT = 300


def main(name: str) -> None:
    """Serve calls until the parent closes the pipe."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the function prints must not mix with the replies
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a function that hangs would outlive its parent

    def reply(value: Mapping[str, object]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        function = load(name)
    except BaseException as error:  # a module may raise anything, SystemExit included
        reply({"error": f"can't be imported: {describe(error)}"})
        return
    reply({})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply({"rewards": call(function, request)})
        except KeyboardInterrupt:
            return
        except BaseException as error:
            reply({"error": describe(error)})


def load(name: str) -> Callable[..., Any]:
    """The function `module:name`, or `PATH.py:name`, whose neighbours it may import."""
    where, _, function_name = name.rpartition(":")
    if where.endswith(".py"):
        path = Path(where).expanduser().resolve()
        spec = importlib.util.spec_from_file_location(f"rewards_of_the_user_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        sys.path.append(str(path.parent))
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    function = getattr(module, function_name)
    if not callable(function):
        raise TypeError(f"{function_name} is {function!r:.80} and can't be called")
    return function  # type: ignore[no-any-return]


def call(function: Callable[..., Any], request: Mapping[str, Any]) -> list[float | str | None]:
    """Call it as TRL does: prompts, completions and the columns, each a list. A function without **kwargs gets those
    that it names."""
    arguments = {**request["columns"], "prompts": request["prompts"], "completions": request["completions"]}
    parameters = inspect.signature(function).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        arguments = {key: value for key, value in arguments.items() if key in parameters}
    rewards = function(**arguments)
    if inspect.isawaitable(rewards):
        rewards = asyncio.run(_await(rewards))
    if hasattr(rewards, "tolist"):  # an array or a tensor
        rewards = rewards.tolist()
    n = len(request["completions"])
    if not isinstance(rewards, Sequence) or isinstance(rewards, str) or len(rewards) != n:
        size = f" of {len(rewards)} values" if isinstance(rewards, Sequence) and not isinstance(rewards, str) else ""
        raise ValueError(f"returned a {type(rewards).__name__}{size} for {n} completions: return a list of {n} numbers")
    return [_number(reward) for reward in rewards]


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _number(reward: Any) -> float | str | None:
    """The reward as a number, None, or the reason for which it is none."""
    if hasattr(reward, "item"):
        reward = reward.item()
    if reward is None:
        return None
    if not isinstance(reward, Real):
        return f"returned {reward!r:.80} for an answer: a reward is a number, or None for no opinion"
    if not math.isfinite(reward):
        return f"returned {float(reward)} for an answer: a reward must be finite"
    return float(reward)


def describe(error: BaseException) -> str:
    """One line: the exception, and the last line of the user's own code that it passed."""
    try:
        text = " ".join(str(error).split())[:MAX_TEXT]
    except BaseException:
        text = "(its message could not be read)"
    if isinstance(error, ValueError) and text.startswith("returned"):
        return text
    return f"raised {type(error).__name__}: {text}{place_of(error)}"


if __name__ == "__main__":
    main(sys.argv[1])
