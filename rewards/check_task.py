"""What can be known of a task before anything heavy starts: its prompts, reward, floor, weights, tool and scorer."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from buffer.errors import ConfigError, RewardError
from buffer.tool import Tool
from buffer.types import IntArray, PolicySpec, Prompt
from rewards.config import RewardConfig, TaskConfig
from rewards.task import TRAIN, BaseLogProbs, Task, Terms, check_terms
from rewards.task_registry import LOAD_LIMIT_S
from rewards.time_limit import CallFailed, call_with_limit

LARGEST_FLOOR_SHARE = 0.01
"""Of the target's known mass that the floor may add."""


def check_task(
    task: Task, spec: PolicySpec, config: TaskConfig, rewards: RewardConfig, max_model_len: int, vocabulary: int
) -> Sequence[Prompt]:
    """The prompts of the training split. `max_model_len` [tokens] is the engine's, `vocabulary` the number of tokens.

    Raises ConfigError or RewardError with the bad value, the constraint and the fix.
    """
    _check_tool(task.tool, spec)
    try:
        task.check_policy(spec)
    except ValueError as error:
        raise ConfigError(f"task {config.name!r} and section [policy] don't fit: {error}") from error
    prompts = _check_prompts(task, spec, config, max_model_len)
    _check_weights(rewards, _check_reward(task, prompts[0], spec, vocabulary, config.name, rewards.time_limit_s))
    _check_floor(task, config)
    _check_scorer(task, prompts, rewards)
    return prompts


def _check_prompts(task: Task, spec: PolicySpec, config: TaskConfig, max_model_len: int) -> Sequence[Prompt]:
    try:
        by_split = call_with_limit(
            lambda: {split: list(task.prompts(split)) for split in task.splits}, LOAD_LIMIT_S, "its method prompts"
        )
    except CallFailed as error:
        raise ConfigError(f"task {config.name!r}: {error}. It must return the prompts of each split.") from error
    prompts, everything = by_split.get(TRAIN, []), [prompt for split in by_split.values() for prompt in split]
    if not prompts or not all(isinstance(prompt, Prompt) and len(prompt.token_ids) for prompt in everything):
        raise ConfigError(
            f"task {config.name!r} has no prompt, or gives something else. The split {TRAIN!r} needs at least one "
            "Prompt (buffer/types.py), and each needs a token."
        )
    longest = max(len(prompt.token_ids) for prompt in everything)
    of_tool = 0 if task.tool is None else task.tool.max_tokens
    room = max_model_len - spec.max_actions * (1 + of_tool)
    if longest > room:
        raise ConfigError(
            f"the longest prompt has {longest} tokens and actors.max_model_len = {max_model_len} leaves "
            f"{room} beside policy.max_actions = {spec.max_actions}"
            + (f", behind each of which the tool may write {of_tool}" if of_tool else "")
            + ". Raise actors.max_model_len."
        )
    if len({prompt.id for prompt in everything}) < len(everything):
        raise ConfigError(
            f"task {config.name!r} gives two prompts the same id: ids must be unique, over all its splits."
        )
    return prompts


def _check_tool(tool: Tool | None, spec: PolicySpec) -> None:
    if tool is not None and spec.stop_token_id in tool.triggers:
        raise ConfigError(
            "the task's tool waits for the token that policy.stop names: it would never be asked. Choose another stop."
        )


def _check_weights(rewards: RewardConfig, terms: set[str]) -> None:
    known = sorted(name for name in terms | ({"length"} if rewards.length_penalty else set()) if name[0] != "_")
    if unknown := sorted(set(rewards.weights) - set(known)):
        raise ConfigError(
            f"rewards.weights names {', '.join(unknown)}, which the task's reward does not have. It has: "
            f"{', '.join(known)}."
        )


def _check_reward(
    task: Task, prompt: Prompt, spec: PolicySpec, vocabulary: int, name: str, time_limit_s: float
) -> set[str]:
    """The names of the reward's terms, from three strings scored with a made-up base model: NaN, wrong shapes,
    exceptions and endless loops show before any loading."""
    rng, found = np.random.default_rng(0), set[str]()
    choices = np.array(spec.allowed_token_ids or range(vocabulary), dtype=np.int32)
    for n in sorted({0, 1, spec.max_actions}):
        token_ids = rng.choice(choices, size=n).astype(np.int32)
        behind = np.full(n + 1, -3.0, np.float32)
        base_scores = BaseLogProbs(np.full(n, -5.0, np.float32), behind, behind)

        def ask(
            token_ids: IntArray = token_ids, base_scores: BaseLogProbs = base_scores
        ) -> tuple[Terms, Mapping[str, float]]:
            answers = [base_scores for _ in task.score_requests(prompt)]
            return task.log_reward(prompt, token_ids, answers), task.labels(prompt, token_ids)

        try:
            terms, labels = call_with_limit(ask, time_limit_s, f"task {name!r}")
        except CallFailed as error:
            raise RewardError(
                f"{error}, on a response of {n} tokens {token_ids.tolist()[:8]}. "
                "log_reward and labels must answer for any string, the empty one included."
            ) from error
        check_terms(terms, n, name)
        found |= set(terms)
        bad = [key for key, value in labels.items() if not math.isfinite(value)]
        if bad:
            raise RewardError(
                f"labels of task {name!r} has {bad[0]} = {labels[bad[0]]} on a response of {n} tokens: "
                "it must be finite."
            )
    return found


def _check_scorer(task: Task, prompts: Sequence[Prompt], rewards: RewardConfig) -> None:
    if rewards.adapter is not None and not (Path(rewards.adapter) / "adapter_config.json").is_file():
        raise ConfigError(
            f"rewards.adapter = {rewards.adapter!r} is no folder with an adapter_config.json: name what "
            "`tributary m-step` wrote, or another PEFT adapter's folder."
        )
    if rewards.scorer != "vllm":
        return
    if rewards.adapter is not None:
        raise ConfigError("rewards.scorer = 'vllm' takes no rewards.adapter: set the scorer to 'transformers'.")
    if any(len(question.target) for question in task.score_requests(prompts[0])):
        raise ConfigError(
            "rewards.scorer = 'vllm' scores continuations only, and the task asks for a target behind every prefix: "
            "set it to 'transformers'."
        )


def _check_floor(task: Task, config: TaskConfig) -> None:
    known, floor = task.log_mass()
    if math.isfinite(known) and floor - known > math.log(LARGEST_FLOOR_SHARE):
        raise ConfigError(
            f"task {config.name!r} with options {json.dumps(config.options)}: the floor for all other strings may "
            f"weigh {math.exp(floor - known):.1%} of the target, more than {LARGEST_FLOOR_SHARE:.0%}: "
            "the optimum would be samples of the floor. "
            "Lower the floor (for the relative floor: a smaller log_epsilon)."
        )
