"""Demonstrations: strings to learn from that no policy sampled, of the task itself and of the recipe's file.

The file holds one JSON object per line: {"prompt": id of a prompt of the task, "response": text}. The id may be omitted
if the task has one prompt. Demonstrations are scored like any other string.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from buffer.errors import ConfigError
from buffer.tool import Tool, actions_of
from buffer.types import PolicySpec, Prompt, Trajectory, given_trajectory
from deploy.config import RunConfig
from lm.tokens import encode_behind
from rewards.task import Task
from rewards.text_file import read_json_lines

BEHAVIOUR = "demonstration"
FORM = 'an object {"prompt": "...", "response": "..."}'
"""A line of the file."""


class Line(BaseModel):
    """A line of the file; other fields are a person's own."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    prompt: str | None = None
    response: str


def load_demonstrations(
    config: RunConfig, task: Task, prompts: Sequence[Prompt], tokenizer: Tokenizer, spec: PolicySpec
) -> list[Trajectory]:
    """The demonstrations of the task and of the recipe's file, unscored. ConfigError for one the policy can't write."""
    by_id = {prompt.id: prompt for prompt in prompts}
    demonstrations = [
        _trajectory(by_id[prompt_id], text, f"demonstration {k} of the task", tokenizer, spec, task.tool)
        for k, (prompt_id, text) in enumerate(task.demonstrations(), start=1)
    ]
    if path := config.task.demonstrations:
        demonstrations += read_demonstrations(Path(path), prompts, tokenizer, spec, task.tool)
    if config.learner.objective == "sft" and not demonstrations:
        raise ConfigError(
            "learner.objective = 'sft' learns from demonstrations and task.demonstrations names no file: name one, or "
            "choose an objective that learns from samples."
        )
    return demonstrations


def read_demonstrations(
    path: Path, prompts: Sequence[Prompt], tokenizer: Tokenizer, spec: PolicySpec, tool: Tool | None = None
) -> list[Trajectory]:
    """The demonstrations of a file, unscored. ConfigError with the line of one that the policy can't write."""
    by_id = {prompt.id: prompt for prompt in prompts}
    try:
        lines = list(read_json_lines(path, "task.demonstrations", FORM))
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    demonstrations = []
    for number, value in lines:
        where = f"{path}, line {number}"
        demonstrations.append(_trajectory(*_read(value, where, by_id), where, tokenizer, spec, tool))
    if not demonstrations:
        raise ConfigError(
            f"task.demonstrations = {str(path)!r} has no lines. Write at least one, or remove the setting."
        )
    return demonstrations


def _trajectory(
    prompt: Prompt, response: str, where: str, tokenizer: Tokenizer, spec: PolicySpec, tool: Tool | None = None
) -> Trajectory:
    """One demonstration, unscored; `response` includes the tool's text. ConfigError that begins with `where`."""
    token_ids = encode_behind(tokenizer, response)
    try:
        is_action = actions_of(token_ids, tool)
    except ValueError as error:
        raise ConfigError(
            f"{where}: the policy can't produce {response!r}: {error}. Write what the tool writes."
        ) from error
    actions = token_ids[is_action]
    if not spec.min_actions <= len(actions) <= spec.max_actions:
        raise ConfigError(
            f"{where}: the response has {len(actions)} tokens, and policy.min_actions = {spec.min_actions} to "
            f"policy.max_actions = {spec.max_actions} are allowed. Change the response, or the limits."
        )
    if spec.stop_token_id in actions:
        raise ConfigError(f"{where}: the response contains the stop token, which only ends a string. Remove it.")
    if masked := np.unique(actions[~spec.permits(actions)]).tolist():
        listed = "is in policy.forbidden_tokens" if spec.forbidden_token_ids else "is not in policy.allowed_tokens"
        raise ConfigError(
            f"{where}: {tokenizer.decode(masked)!r} {listed}, so the policy can't write it. Change the response, or "
            "allow the token."
        )
    return given_trajectory(prompt, token_ids, BEHAVIOUR, is_action=is_action)


def _read(value: object, where: str, prompts: Mapping[str, Prompt]) -> tuple[Prompt, str]:
    try:
        line = Line.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {str(value)[:80]!r} must be {FORM}.") from error
    first = next(iter(prompts))
    name = line.prompt if line.prompt is not None else first
    if name not in prompts or (line.prompt is None and len(prompts) > 1):
        raise ConfigError(
            f"{where}: prompt {line.prompt!r} is not one of the task's {len(prompts)} prompts. "
            f"Use an id such as {first!r}."
        )
    return prompts[name], line.response
