"""No text of a task may hold a token that the tokenizer has and the model does not: its embedding does not exist."""

from collections.abc import Iterator, Sequence

from buffer.errors import ConfigError
from buffer.types import IntArray, Trajectory
from rewards.task import Task
from rewards.task_registry import LOAD_LIMIT_S
from rewards.time_limit import CallFailed, call_with_limit


def check_rows(task: Task, demonstrations: Sequence[Trajectory], rows: int | None, model: str) -> None:
    """ConfigError for a token beyond the model's `rows` in what the frozen model reads, in a listed string or in a
    demonstration. `rows` None: the model's files do not tell."""
    if rows is None:
        return
    try:
        problem = call_with_limit(lambda: _problem(task, demonstrations, rows), LOAD_LIMIT_S, "score_requests()")
    except CallFailed as error:
        raise ConfigError(f"{error}. It must return the requests of every prompt.") from error
    if problem:
        raise ConfigError(
            f"{problem}, beyond the {rows} rows of {model} (vocab_size in config.json): its tokenizer has tokens that "
            "the model was not resized for. Change the text."
        )


def _problem(task: Task, demonstrations: Sequence[Trajectory], rows: int) -> str | None:
    """The first text with such a token, and the token."""
    for where, ids in _texts(task, demonstrations):
        if len(ids) and (token := int(ids.max())) >= rows:
            return f"{where} has token {token}"
    return None


def _texts(task: Task, demonstrations: Sequence[Trajectory]) -> Iterator[tuple[str, IntArray]]:
    for split in task.splits:
        for prompt in task.prompts(split):
            for request in task.score_requests(prompt):
                yield f"the context in front of a response to prompt {prompt.id!r}", request.context
                yield f"the target of prompt {prompt.id!r}", request.target
    for prompt_id, strings in task.support().items():
        for ids, _ in strings:
            yield f"a string that the task lists for prompt {prompt_id!r}", ids
    for k, trajectory in enumerate(demonstrations, start=1):
        yield f"demonstration {k}, of prompt {trajectory.prompt_id!r},", trajectory.token_ids
