"""The JSON files of a model's folder, which a broken copy may have damaged."""

from pathlib import Path
from typing import Any

from buffer.errors import ModelError
from rewards.text_file import read_json_object


def read_model_json(path: Path) -> dict[str, Any]:
    """The object in config.json or in another file. ModelError where it is not one, or begins with a mark that
    transformers does not read."""
    try:
        values = read_json_object(path, path.name)
        marked = path.read_bytes().startswith(b"\xef\xbb\xbf")
    except (ValueError, OSError) as error:
        raise ModelError(f"{error}. The model can't be loaded.") from error
    if marked:
        raise ModelError(f"{path} begins with a byte order mark, which transformers does not read: save it without.")
    return values


def read_shards(index: Path) -> list[str]:
    """Names of the weight files in an index. ModelError where it lists none."""
    names = read_model_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{index} has no weight_map of file names: the file is damaged. Copy the model again.")
    return sorted(set(names.values()))
