"""Checks of a task's target: the policy can write its listed strings, and a floor under all others adds little mass."""

import json
import math
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from buffer.errors import ConfigError
from buffer.tool import Tool, actions_of
from buffer.types import IntArray, PolicySpec
from rewards.config import TaskConfig
from rewards.task import Task
from rewards.task_registry import LOAD_LIMIT_S
from rewards.time_limit import CallFailed, call_with_limit

MAX_FLOOR_SHARE = 0.01
"""Largest mass that the floor may add, as a share of the target's known mass."""


def check_support(task: Task, spec: PolicySpec, name: str, tokenizer: Tokenizer) -> None:
    """ConfigError if the policy can't write a string that the task lists: the exact log Z, total variation and KL would
    be of another target."""
    try:
        support = call_with_limit(task.support, LOAD_LIMIT_S, "support()")
    except CallFailed as error:
        raise ConfigError(f"task {name!r}: {error}. It must return the listed strings, or {{}}.") from error
    strings = [token_ids for listed in support.values() for token_ids, _ in listed]
    problems = [(ids, problem) for ids in strings if (problem := _problem_of_string(ids, task.tool, spec, tokenizer))]
    if problems:
        token_ids, problem = max(problems, key=lambda pair: len(pair[0]))
        text = tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
        raise ConfigError(
            f"task {name!r} lists {len(strings):,} target strings, and the policy can't write {len(problems):,} of "
            f"them, such as {text!r}: {problem}, or change the task's options until it lists only strings that the "
            "policy can write. Otherwise the exact log Z, total variation and KL would be those of another target."
        )


def _problem_of_string(token_ids: IntArray, tool: Tool | None, spec: PolicySpec, tokenizer: Tokenizer) -> str | None:
    """The reason why the policy can't write a string, with the setting to change; None if it can."""
    try:
        actions = token_ids[actions_of(token_ids, tool)]
    except ValueError as error:
        return f"{error}. List it with the text that the tool writes"
    if len(actions) > spec.max_actions:
        return f"its number of actions, {len(actions)}, is above policy.max_actions = {spec.max_actions}. Raise it"
    if len(actions) < spec.min_actions:
        return f"its number of actions, {len(actions)}, is below policy.min_actions = {spec.min_actions}. Lower it"
    if spec.stop_token_id in actions:
        return "it contains policy.stop, which ends a string. Choose another stop"
    if len(masked := actions[~spec.permits(actions)]):
        token = tokenizer.decode(masked[:1].tolist(), skip_special_tokens=False)
        if spec.allowed_token_ids is None:
            return f"{token!r} is one of policy.forbidden_tokens. Remove it"
        return f"{token!r} is not one of the {len(spec.allowed_token_ids)} tokens of policy.allowed_tokens. Add it"
    return None


def check_floor(task: Task, spec: PolicySpec, config: TaskConfig, temperature: float, vocabulary: int) -> None:
    """ConfigError if the floor under strings that the task does not want may have too much mass.

    It is checked at the reward temperature that the run ends with, `temperature`: heat raises a floor, and a hotter
    start is a way to explore, whose target nobody samples in the end. The task states both masses at its own
    temperature. With s the ratio of the two, the sum of n values x obeys
    Σ x^(1/s) <= n^(1 - 1/s) (Σ x)^(1/s) for s >= 1 (Hölder's inequality), and Σ x^(1/s) >= (Σ x)^(1/s). `vocabulary`
    tokens bound n where the policy has no list of tokens.
    """
    known_mass, floor = task.log_mass()
    s = max(temperature / task.mass_temperature, 1.0)
    floor = floor / s + (1.0 - 1.0 / s) * _log_strings(spec, vocabulary)
    known_mass /= s
    if s > 1.0 and (support := task.support()):
        known_mass = min(_log_mass([r for _, r in listed], temperature) for listed in support.values())
    if math.isfinite(known_mass) and floor - known_mass > math.log(MAX_FLOOR_SHARE):
        raise ConfigError(
            f"task {config.name!r} with options {json.dumps(config.options)}: at reward temperature "
            f"{s * task.mass_temperature:g}, which the run ends with, the floor under all other strings may have "
            f"{_times(floor - known_mass)} the target's mass, more than {MAX_FLOOR_SHARE:.0%}: even a perfect sampler "
            "would draw them too often. Lower the floor (log_epsilon, off_by_one)"
            + (" or the learner's reward temperature." if s > 1.0 else ".")
        )


def _log_mass(log_rewards: Sequence[float], temperature: float) -> float:
    """log Σ R^(1/T) of the listed strings of one prompt, nats."""
    return float(np.logaddexp.reduce(np.array(log_rewards) / temperature))


def _times(log_ratio: float) -> str:
    return f"{math.exp(log_ratio):.1%} of" if log_ratio < 0.0 else f"e^{log_ratio:.1f} times"


def _log_strings(spec: PolicySpec, vocabulary: int) -> float:
    """log of the number of strings that the policy can write."""
    tokens = len(spec.allowed_token_ids) if spec.allowed_token_ids is not None else vocabulary
    return float(np.logaddexp.reduce(np.arange(spec.min_actions, spec.max_actions + 1) * math.log(tokens)))
