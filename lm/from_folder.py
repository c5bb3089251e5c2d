"""The one way to load what transformers loads: from a local folder, safetensors only, never code of the folder.

Without `trust_remote_code=False` transformers asks on the terminal whether to run a model's own code.
"""

from pathlib import Path
from typing import Any

from buffer.errors import ModelError

CLOSED: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_weights(auto_class: Any, folder: Path | str, **options: Any) -> Any:
    """A model of `folder`, by `auto_class.from_pretrained`. ModelError where it has no safetensors, or needs code."""
    return _load(auto_class, folder, use_safetensors=True, **options)


def load_settings(auto_class: Any, folder: Path | str, **options: Any) -> Any:
    """A configuration or a tokenizer of `folder`. ModelError where it needs code of its own."""
    return _load(auto_class, folder, **options)


def empty_model(auto_class: Any, settings: Any) -> Any:
    """A model with these settings and without weights. ModelError where it needs code of its own."""
    try:
        return auto_class.from_config(settings, trust_remote_code=False)
    except ValueError as error:
        raise _readable(error, settings.name_or_path) from error


def _load(auto_class: Any, folder: Path | str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(folder, **CLOSED, **options)
    except (ValueError, OSError) as error:
        raise _readable(error, folder) from error


def _readable(error: Exception, folder: Path | str) -> Exception:
    """A ModelError for the two refusals of this module, else `error` itself."""
    if "trust_remote_code" in str(error) or "does not recognize this architecture" in str(error):
        return ModelError(
            f"{folder} is of an architecture that transformers does not have, or brings code of its own (auto_map in "
            "config.json), and code of a model's folder is never run. Choose a model that transformers supports."
        )
    if isinstance(error, OSError) and "safetensors" in str(error):
        return ModelError(
            f"{folder} has no safetensors, and other weight files can hold code. Save the model there with "
            "save_pretrained of transformers."
        )
    return error
