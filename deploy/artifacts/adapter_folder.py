"""An adapter as a folder in PEFT's format."""

from pathlib import Path

from buffer.types import AdapterFiles
from deploy.artifacts.json_files import write_whole

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(folder: Path, files: AdapterFiles) -> None:
    """Make the folder and write both files, each replaced atomically."""
    folder.mkdir(exist_ok=True)
    write_whole(folder / CONFIG, files.config_json.encode())
    write_whole(folder / WEIGHTS, files.weights)
