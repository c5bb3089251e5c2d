"""Given strings, from a file into the buffer: rationales to learn from, or good strings to begin with.

One JSON object a line: {"prompt": id of a prompt of the task, "response": text}. With one prompt its id can be left
out. They are scored like any other string.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from buffer.errors import ConfigError
from buffer.tool import Tool, actions_of
from buffer.types import PolicySpec, Prompt, Trajectory, given_trajectory
from deploy.config import RunConfig
from rewards.task import Task

BEHAVIOUR = "demonstration"


class Line(BaseModel):
    """What a line may say."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    prompt: str | None = None
    response: str


def given_strings(
    config: RunConfig, task: Task, prompts: Sequence[Prompt], tokenizer: Tokenizer, spec: PolicySpec
) -> list[Trajectory]:
    """The strings that the task knows and those of the recipe's file, unscored. ConfigError as below."""
    by_id = {prompt.id: prompt for prompt in prompts}
    given = [
        given_string(by_id[prompt_id], text, f"demonstration {k} of the task", tokenizer, spec, task.tool)
        for k, (prompt_id, text) in enumerate(task.demonstrations(), start=1)
    ]
    if path := config.task.demonstrations:
        given += read_demonstrations(Path(path), prompts, tokenizer, spec, task.tool)
    if config.learner.objective == "sft" and not given:
        raise ConfigError(
            "learner.objective = 'sft' learns from given strings and task.demonstrations names none: give a file, or "
            "choose an objective that learns from samples."
        )
    return given


def read_demonstrations(
    path: Path, prompts: Sequence[Prompt], tokenizer: Tokenizer, spec: PolicySpec, tool: Tool | None = None
) -> list[Trajectory]:
    """The strings of a file, unscored. ConfigError with the line for what the policy could not write itself."""
    known = {prompt.id: prompt for prompt in prompts}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task.demonstrations = {str(path)!r} can't be read: {error}. Give a text file.") from error
    found = []
    for number, text in enumerate(lines, start=1):
        if text.strip():
            where = f"{path}, line {number}"
            found.append(given_string(*_read(text, where, known), where, tokenizer, spec, tool))
    if not found:
        raise ConfigError(f"task.demonstrations = {str(path)!r} holds no line. Write at least one, or leave it out.")
    return found


def given_string(
    prompt: Prompt, response: str, where: str, tokenizer: Tokenizer, spec: PolicySpec, tool: Tool | None = None
) -> Trajectory:
    """One of them, unscored, from its text, which holds what the tool wrote. ConfigError with `where`, as above."""
    ids = tokenizer.encode(response, add_special_tokens=False).ids
    try:
        is_action = actions_of(np.array(ids, dtype=np.int32), tool)
    except ValueError as error:
        raise ConfigError(
            f"{where}: acting can't lead to {response!r}: {error}. Write what the tool writes."
        ) from error
    actions = [token for token, acted in zip(ids, is_action, strict=True) if acted]
    if not spec.min_actions <= len(actions) <= spec.max_actions:
        raise ConfigError(
            f"{where}: the response has {len(actions)} tokens, and policy.min_actions = {spec.min_actions} to "
            f"policy.max_actions = {spec.max_actions} are allowed. Shorten it, or change the limits."
        )
    if spec.stop_token_id in actions:
        raise ConfigError(f"{where}: the response holds the stop token, which only ends a string. Take it out.")
    if spec.allowed_token_ids is not None and (strange := set(actions) - set(spec.allowed_token_ids)):
        raise ConfigError(
            f"{where}: {tokenizer.decode(sorted(strange))!r} is not in policy.allowed_tokens, so the policy can't "
            "write it."
        )
    return given_trajectory(prompt, np.array(ids, dtype=np.int32), BEHAVIOUR, is_action=is_action)


def _read(text: str, where: str, prompts: Mapping[str, Prompt]) -> tuple[Prompt, str]:
    try:
        line = Line.model_validate(json.loads(text))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ConfigError(
            f'{where}: {text[:80]!r} must be {{"prompt": "...", "response": "..."}} and nothing else.'
        ) from error
    first = next(iter(prompts))
    name = line.prompt if line.prompt is not None else first
    if name not in prompts or (line.prompt is None and len(prompts) > 1):
        raise ConfigError(f"{where}: prompt {line.prompt!r} is none of the task's {len(prompts)}, such as {first!r}.")
    return prompts[name], line.response
