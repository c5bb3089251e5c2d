"""Checks of a task before anything heavy starts: its prompts, reward, floor, weights, tool and scorer."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from buffer.errors import ConfigError, RewardError, TributaryError
from buffer.tool import Tool
from buffer.types import IntArray, PolicySpec, Prompt
from rewards.check_target import check_floor, check_support
from rewards.config import BASE, LENGTH, RewardConfig, TaskConfig
from rewards.task import TRAIN, BaseLogProbs, Task, Terms, check_terms
from rewards.task_registry import LOAD_LIMIT_S
from rewards.time_limit import CallFailed, call_with_limit
from rewards.user_frame import place_of
from rewards.verifiers.endpoint import impatient

CANARY_TOKENS = 2
"""An engine checks an adapter on a whole string: the stop stands behind it, and vLLM generates one token more."""


def check_task(
    task: Task,
    spec: PolicySpec,
    config: TaskConfig,
    rewards: RewardConfig,
    max_model_len: int | None,
    tokenizer: Tokenizer,
    temperature: float,
    rows: int | None = None,
) -> Sequence[Prompt]:
    """Return the prompts of the training split. Raise ConfigError or RewardError if the task does not fit the recipe.

    `max_model_len` [tokens] is the engine's limit, None where it follows from the prompts. `temperature` is the reward
    temperature that the run ends with, `rows` the number of tokens of the model, where it is known.
    """
    vocabulary = tokenizer.get_vocab_size()
    _check_tool(task.tool, spec)
    try:
        task.check_policy(spec)
    except ValueError as error:
        raise ConfigError(f"task {config.name!r} does not fit section [policy]: {error}") from error
    prompts = _check_prompts(task, spec, config, max_model_len, rows)
    _check_weights(rewards, _check_reward(task, prompts[0], spec, vocabulary, config.name, rewards.time_limit_s))
    check_support(task, spec, config.name, tokenizer)
    _check_listed_target(task, rewards, config.name)
    check_floor(task, spec, config, temperature, max(vocabulary, rows or 0))
    _check_scorer(task, prompts, rewards)
    return prompts


def _check_prompts(
    task: Task, spec: PolicySpec, config: TaskConfig, max_model_len: int | None, rows: int | None
) -> Sequence[Prompt]:
    try:
        by_split = call_with_limit(
            lambda: {split: list(task.prompts(split)) for split in task.splits}, LOAD_LIMIT_S, "prompts()"
        )
    except CallFailed as error:
        raise ConfigError(f"task {config.name!r}: {error}. It must return the prompts of every split.") from error
    prompts, all_prompts = by_split.get(TRAIN, []), [prompt for split in by_split.values() for prompt in split]
    if not prompts or not all(isinstance(prompt, Prompt) and len(prompt.token_ids) for prompt in all_prompts):
        raise ConfigError(
            f"task {config.name!r} returns no prompts, or something that is not a Prompt. The split {TRAIN!r} needs at "
            "least one Prompt (buffer/types.py), and every prompt needs at least one token."
        )
    largest = max(all_prompts, key=lambda prompt: int(prompt.token_ids.max()))
    if rows is not None and (token := int(largest.token_ids.max())) >= rows:
        raise ConfigError(
            f"prompt {largest.id!r} of task {config.name!r} has token {token}, beyond the model's {rows} rows "
            "(vocab_size in config.json): its tokenizer has tokens that the model lacks. Change the prompt."
        )
    if max_model_len is not None:
        _check_room(max_model_len, all_prompts, spec, task.tool)
    if len({prompt.id for prompt in all_prompts}) < len(all_prompts):
        raise ConfigError(f"task {config.name!r} has two prompts with the same id. Make ids unique over all splits.")
    return prompts


def tokens_needed(prompts: Sequence[Prompt], spec: PolicySpec, tool: Tool | None) -> int:
    """Tokens of the longest prompt, the longest response to it, and the canary behind them."""
    tool_tokens = 0 if tool is None else tool.max_tokens
    longest = max(len(prompt.token_ids) for prompt in prompts)
    return longest + spec.max_actions * (1 + tool_tokens) + CANARY_TOKENS


def _check_room(max_model_len: int, prompts: Sequence[Prompt], spec: PolicySpec, tool: Tool | None) -> None:
    needed = tokens_needed(prompts, spec, tool)
    if needed > max_model_len:
        longest = max(len(prompt.token_ids) for prompt in prompts)
        raise ConfigError(
            f"the longest prompt has {longest} tokens, but actors.max_model_len = {max_model_len} leaves room for "
            f"{max_model_len - needed + longest} next to policy.max_actions = {spec.max_actions}"
            + (f", each followed by up to {tool.max_tokens} tokens of the tool" if tool else "")
            + f", and {CANARY_TOKENS} tokens of an adapter's canary. Raise actors.max_model_len, or leave it out."
        )


def _check_tool(tool: Tool | None, spec: PolicySpec) -> None:
    if tool is not None and spec.stop_token_id in tool.triggers:
        raise ConfigError(
            "policy.stop is a trigger of the task's tool, so the tool would never be called. Choose another stop."
        )


def _check_weights(rewards: RewardConfig, terms: set[str]) -> None:
    beta = rewards.beta if rewards.beta_start is None else rewards.beta_start
    if beta != 1.0 and BASE not in terms:
        raise ConfigError(
            f"rewards.beta = {beta:g} divides every term but {BASE!r}, and the task has no such term, only "
            f"{', '.join(sorted(terms))}. Set learner.reward_temperature_end for a tempered target."
        )
    if rewards.length_penalty and LENGTH in terms:
        raise ConfigError(
            f"rewards.length_penalty adds a term {LENGTH!r}, and the task has a term of this name. Rename the task's."
        )
    weighable = sorted(name for name in terms | ({LENGTH} if rewards.length_penalty else set()) if name[0] != "_")
    if unknown := sorted(set(rewards.weights) - set(weighable)):
        raise ConfigError(
            f"rewards.weights has {', '.join(unknown)}, but the task's reward has no such term. Its terms: "
            f"{', '.join(weighable)}."
        )


def _check_listed_target(task: Task, rewards: RewardConfig, name: str) -> None:
    """ConfigError where the recipe changes log R, and the task lists strings with the log R of its own terms."""
    changed = [f"rewards.weights.{term} = {weight:g}" for term, weight in rewards.weights.items() if weight != 1.0]
    changed += [f"rewards.beta = {rewards.beta:g}"] if rewards.beta != 1.0 else []
    changed += [f"rewards.length_penalty = {rewards.length_penalty:g}"] if rewards.length_penalty else []
    if changed and task.support():
        raise ConfigError(
            f"{', '.join(changed)}: task {name!r} lists its strings with the log R of its own terms alone, so its "
            "exact log Z, total variation and certificate would be of another target. Set "
            "learner.reward_temperature_end for a tempered target, or change the task's options."
        )


def _check_reward(
    task: Task, prompt: Prompt, spec: PolicySpec, vocabulary: int, name: str, time_limit_s: float
) -> set[str]:
    """Score three strings with made-up base scores and return the names of the reward's terms.

    NaN, wrong shapes, exceptions and endless loops show before any model is loaded.
    """
    rng, term_names = np.random.default_rng(0), set[str]()
    tokens = np.array(spec.allowed_token_ids or range(vocabulary), dtype=np.int32)
    choices = tokens[spec.permits(tokens)]
    for n in sorted({0, 1, spec.max_actions}):
        token_ids = rng.choice(choices, size=n).astype(np.int32)
        per_prefix = np.full(n + 1, -3.0, np.float32)
        log_probs = BaseLogProbs(np.full(n, -5.0, np.float32), per_prefix, per_prefix)

        def score(
            token_ids: IntArray = token_ids, log_probs: BaseLogProbs = log_probs
        ) -> tuple[Terms, Mapping[str, float]]:
            base_scores = [log_probs for _ in task.score_requests(prompt)]
            return task.log_reward(prompt, token_ids, base_scores), task.labels(prompt, token_ids)

        batch_terms = _batch_terms(task, prompt, token_ids, name)
        try:
            terms, labels = call_with_limit(score, time_limit_s, f"task {name!r}")
        except CallFailed as error:
            raise RewardError(
                f"{error}, on a response of {n} tokens {token_ids.tolist()[:8]}. "
                "log_reward and labels must return a result for every string, including the empty one."
            ) from error
        terms = {**terms, **batch_terms}
        check_terms(terms, n, name, task.whole_strings_only)
        term_names |= set(terms)
        bad = [key for key, value in labels.items() if not math.isfinite(value)]
        if bad:
            raise RewardError(
                f"label {bad[0]!r} of task {name!r} is {labels[bad[0]]} on a response of {n} tokens. "
                "Return a finite number."
            )
    return term_names


def _batch_terms(task: Task, prompt: Prompt, token_ids: IntArray, name: str) -> Terms:
    """What `Task.batch_terms` gives for one string. RewardError where it raises or returns more or fewer results."""
    try:
        with impatient():
            results = task.batch_terms([prompt], [token_ids])
    except TributaryError:
        raise
    except Exception as error:  # user code
        raise RewardError(
            f"task {name!r}: batch_terms raised {type(error).__name__}: {error}{place_of(error)}"
        ) from error
    if len(results) != 1:
        raise RewardError(
            f"task {name!r}: batch_terms returned {len(results)} results for 1 string. Return one for each."
        )
    if isinstance(results[0], RewardError):
        raise results[0]
    return results[0]


def _check_scorer(task: Task, prompts: Sequence[Prompt], rewards: RewardConfig) -> None:
    if rewards.adapter is not None and not (Path(rewards.adapter) / "adapter_config.json").is_file():
        raise ConfigError(
            f"rewards.adapter = {rewards.adapter!r} is not a folder with an adapter_config.json: give the folder that "
            "`tributary m-step` wrote, or that of another PEFT adapter."
        )
    if rewards.scorer != "vllm":
        return
    if rewards.adapter is not None:
        raise ConfigError("rewards.scorer = 'vllm' does not support rewards.adapter. Set it to 'transformers'.")
    if any(len(request.target) for request in task.score_requests(prompts[0])):
        raise ConfigError(
            "rewards.scorer = 'vllm' scores continuations only, but the task scores a target after every prefix. "
            "Set it to 'transformers'."
        )
