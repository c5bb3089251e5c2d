"""From the name in a recipe to a task: one of rewards/tasks, or a class of the user's own."""

import importlib
import inspect

from tokenizers import Tokenizer

from buffer.errors import ConfigError
from rewards.config import TaskConfig
from rewards.task import Task
from rewards.tasks import TASKS
from rewards.time_limit import CallFailed, call_with_limit

LOAD_LIMIT_S = 120.0
"""For a module or a constructor, which may read models, s."""


def make_task(config: TaskConfig, tokenizer: Tokenizer) -> Task:
    """The task that a recipe names. Raises ConfigError with what is wrong and what would be right."""
    cls = _import_task(TASKS.get(config.name, config.name))
    accepted = [p for p in inspect.signature(cls).parameters if p != "tokenizer"]
    unknown = sorted(set(config.options) - set(accepted))
    if unknown:
        raise ConfigError(
            f"task.options has {', '.join(unknown)}, which task {config.name!r} does not take. "
            f"It takes: {', '.join(accepted) or 'nothing'}."
        )
    try:
        return call_with_limit(lambda: cls(tokenizer, **config.options), LOAD_LIMIT_S, "its constructor")  # type: ignore[call-arg]
    except CallFailed as error:
        why = error.__cause__ if isinstance(error.__cause__, TypeError | ValueError) else error
        raise ConfigError(f"task {config.name!r} refused its options {dict(config.options)}: {why}") from error


def _import_task(name: str) -> type[Task]:
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise ConfigError(
            f"task.name = {name!r} is not known. Known: {', '.join(sorted(TASKS))}; "
            "or name a class of your own as module:Class."
        )
    try:
        module = call_with_limit(
            lambda: importlib.import_module(module_name), LOAD_LIMIT_S, f"the module {module_name}"
        )
        cls = getattr(module, class_name)
    except (CallFailed, AttributeError) as error:
        raise ConfigError(
            f"task.name = {name!r} can't be imported ({error}). "
            "It must be module:Class, importable from the folder where the run is started."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ConfigError(
            f"task.name = {name!r} is no task: write `class {class_name}(Task)`, with Task from rewards.task. It has "
            "defaults for everything but prompts and log_reward."
        )
    loaded: type[Task] = cls
    return loaded
