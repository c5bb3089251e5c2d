"""Reads a run's adapter, and refuses one that is not the adapter of its version."""

from buffer.errors import AdapterError
from buffer.types import AdapterFiles
from deploy.artifacts.run_folder import RunFolder
from learner.adapter import digest


def checked_adapter(folder: RunFolder) -> AdapterFiles:
    """The run's adapter. AdapterError unless it has the digest of its version."""
    files, version = folder.adapter(), folder.version()
    if (actual := digest(files)) != version.digest:
        raise AdapterError(
            f"{folder.adapter_path} has sha256 {actual}, and its version.json says {version.digest}: the files are of "
            "different versions, or damaged. Restore them, or resume the run."
        )
    return files
