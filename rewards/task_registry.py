"""Builds the task that a recipe names: one of rewards/tasks, or a class of the user's own."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from tokenizers import Tokenizer

from buffer.errors import ConfigError
from buffer.plugins import installed
from rewards.config import TaskConfig
from rewards.hidden_module import explain_hidden_file
from rewards.task import Task
from rewards.tasks import TASKS
from rewards.time_limit import CallFailed, call_with_limit

LOAD_LIMIT_S = 120.0
"""Time limit for a module or a constructor, which may read models, s."""


def make_task(config: TaskConfig, tokenizer: Tokenizer, model_folder: Path) -> Task:
    """Build the task that a recipe names; one with an argument `model_folder` gets the base model's. Raise ConfigError
    for an unknown name or bad options. `config.folder` comes last on the import path."""
    if config.folder and config.folder not in sys.path:
        sys.path.append(config.folder)
    cls = _import_task(TASKS.get(config.name) or installed("tasks").get(config.name, config.name))
    parameters = inspect.signature(cls).parameters
    accepted = [p for p in parameters if p not in ("tokenizer", "model_folder")]
    given = {"model_folder": model_folder} if "model_folder" in parameters else {}
    unknown = sorted(set(config.options) - set(accepted))
    if unknown:
        raise ConfigError(
            f"task.options has {', '.join(unknown)}, which is not an option of task {config.name!r}. "
            f"Its options: {', '.join(accepted) or 'none'}."
        )
    try:
        return call_with_limit(lambda: cls(tokenizer, **given, **config.options), LOAD_LIMIT_S, "the constructor")  # type: ignore[call-arg]
    except CallFailed as error:
        reason = error.__cause__ if isinstance(error.__cause__, TypeError | ValueError) else error
        raise ConfigError(f"task {config.name!r} rejects its options {dict(config.options)}: {reason}") from error


def _import_task(name: str) -> type[Task]:
    module_name, _, class_name = name.rpartition(":")
    if not module_name:
        raise ConfigError(
            f"task.name = {name!r} is unknown. Choose one of {', '.join(sorted({*TASKS, *installed('tasks')}))}, "
            "or give your own class as module:Class or FILE.py:Class."
        )
    try:
        module = call_with_limit(lambda: _load_module(module_name), LOAD_LIMIT_S, f"the module {module_name}")
        cls = getattr(module, class_name)
    except (CallFailed, AttributeError) as error:
        raise ConfigError(
            f"task.name = {name!r} can't be imported ({error}). "
            "It must be module:Class, importable from the folder where the run is started or from the recipe's, or "
            "FILE.py:Class." + explain_hidden_file(module_name)
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ConfigError(
            f"task.name = {name!r} is not a task. Derive the class from Task in rewards/task.py, "
            f"`class {class_name}(Task)`, and implement prompts and log_reward."
        )
    loaded: type[Task] = cls
    return loaded


def _load_module(name: str) -> ModuleType:
    """A module by its name, or by the path of its file, which need not be on the import path. ImportError."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).expanduser()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"there is no file {path.absolute()}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
