"""The fingerprint of a model's folder: the same for a copy, another one for other weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deploy.models.fingerprint import PIECE_BYTES, fingerprint


def save(folder: Path, weights: np.ndarray, config: dict[str, int], name: str = "model.safetensors") -> Path:
    folder.mkdir()
    save_file({"w": weights}, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model", np.zeros(PIECE_BYTES, np.float32), {"layers": 1})


def test_a_copy_has_the_same_fingerprint_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    assert fingerprint(folder) == fingerprint(Path(shutil.copytree(folder, tmp_path / "copy")))


def test_other_weights_of_the_same_shapes_another_configuration_and_an_adapter_have_other_fingerprints(
    folder: Path, tmp_path: Path
) -> None:
    tuned = save(tmp_path / "tuned", np.full(PIECE_BYTES, 1e-3, np.float32), {"layers": 1})
    wider = save(tmp_path / "wider", np.zeros(PIECE_BYTES, np.float32), {"layers": 2})
    adapter = save(tmp_path / "adapter", np.zeros(4, np.float32), {}, "adapter_model.safetensors")
    longer = save(tmp_path / "longer", np.zeros(PIECE_BYTES + 1, np.float32), {"layers": 1})
    assert len({fingerprint(path) for path in (folder, tuned, wider, adapter, longer)}) == 5
