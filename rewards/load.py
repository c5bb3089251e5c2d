"""From the name in a recipe to a task: one of rewards/tasks, or a class of the user's own."""

import importlib
import inspect

from tokenizers import Tokenizer

from buffer.errors import ConfigError
from rewards.config import TaskConfig
from rewards.task import Task
from rewards.tasks import TASKS


def make_task(config: TaskConfig, tokenizer: Tokenizer) -> Task:
    """The task that a recipe names. Raises ConfigError with what is wrong and what would be right."""
    cls = TASKS.get(config.name) or _import_task(config.name)
    accepted = [p for p in inspect.signature(cls).parameters if p != "tokenizer"]
    unknown = sorted(set(config.options) - set(accepted))
    if unknown:
        raise ConfigError(
            f"task.options has {', '.join(unknown)}, which task {config.name!r} does not take. "
            f"It takes: {', '.join(accepted) or 'nothing'}."
        )
    try:
        return cls(tokenizer, **config.options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"task {config.name!r} refused its options {dict(config.options)}: {error}") from error


def _import_task(name: str) -> type[Task]:
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise ConfigError(
            f"task.name = {name!r} is not known. Known: {', '.join(sorted(TASKS))}; "
            "or name a class of your own as module:Class."
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"task.name = {name!r} can't be imported ({error}). "
            "It must be module:Class, importable from the folder where the run is started."
        ) from error
    missing = [
        m
        for m in ("prompts", "log_reward", "labels", "evaluate", "log_mass", "needs_base_model")
        if not hasattr(cls, m)
    ]
    if missing:
        raise ConfigError(f"task.name = {name!r} lacks {', '.join(missing)}. See rewards/task.py for what a task has.")
    loaded: type[Task] = cls
    return loaded
