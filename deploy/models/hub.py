"""Base models of the Hugging Face hub, in the local hub cache ($HF_HOME/hub): find them, and download them into it."""

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from buffer.errors import ModelError
from deploy.models.model_json import read_shards
from lm.tokens import HOW_TO_SAVE

_FILES: dict[str, Any] = {"allow_patterns": ["*.json", "*.safetensors"], "ignore_patterns": ["*/*"]}
"""The files of a repository that are copied. The look-up asks for the same ones: the cache without others would count
as incomplete."""
WEIGHTS = "model.safetensors"


def is_hub_id(name: str) -> bool:
    """True for a name such as OWNER/MODEL."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def find_in_cache(name: str) -> Path | None:
    """The folder of a hub id in the local cache, complete or not; None where there is none. Needs no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True, **_FILES))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def get_from_hub(name: str, console: Console) -> Path:
    """The folder of a hub id; weights, configuration and tokenizer are downloaded unless the cache has them all.

    Raises ModelError with the hub's answer, or with the files that the model lacks.
    """
    folder = find_in_cache(name)
    if folder and not missing_files(folder):
        console.print(Text(f"{name} is already installed: {folder}"), soft_wrap=True)
        return folder
    console.print(Text(f"downloading {name} from the hub"), soft_wrap=True)
    began = time.monotonic()
    folder = _download(name, **_FILES)
    require_complete(folder)
    console.print(Text(f"{name} is ready after {time.monotonic() - began:.0f} s: {folder}"), soft_wrap=True)
    return folder


@contextmanager
def config_from_hub(name: str) -> Iterator[Path]:
    """A folder with the config.json of a hub id, for the length of the block: the cache would look damaged with it."""
    with tempfile.TemporaryDirectory() as folder:
        yield _download(name, allow_patterns=["config.json"], local_dir=folder)


def _download(name: str, **options: Any) -> Path:
    """The folder with the files of a hub id; ModelError with the hub's answer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{name} can't be downloaded from the hub: {type(error).__name__}: {reason} Check the name and the "
            "network; a model behind a licence needs a token in HF_TOKEN."
        ) from error


def require_complete(folder: Path) -> Path:
    """`folder`; ModelError where it lacks files of a model."""
    if missing := missing_files(folder):
        raise ModelError(f"{folder} is not a complete model: it lacks {', '.join(missing)}. {HOW_TO_SAVE}")
    return folder


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a base model needs and `folder` lacks."""
    missing = [file for file in ("config.json", "tokenizer.json") if not (folder / file).is_file()]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        missing += [shard for shard in read_shards(index) if not (folder / shard).is_file()]
    elif not any(not file.name.startswith("adapter") for file in folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    return missing
