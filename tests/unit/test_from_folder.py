"""Models come from one loader: safetensors only, and code that a folder brings is never run."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from buffer.errors import ConfigError, ModelError
from deploy.config import load_recipe
from deploy.driver.memory_plan import model_shape
from lm import merge_adapter
from lm.from_folder import load_settings, load_weights
from lm.load import load_model
from rewards.judging.embedding import Encoder
from tests.support.processes import ROOT
from tests.support.tiny import make_tiny_model, tiny_spec

PACKAGES = ("actors", "buffer", "deploy", "learner", "lm", "rewards")
ONLY_IN = {
    "from_pretrained": {"lm/from_folder.py", "lm/merge_adapter.py"},
    "from_config": {"lm/from_folder.py"},
    "trust_remote_code": {"lm/from_folder.py", "lm/vllm.py"},
}
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"torch.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"}


def uses(source: str) -> set[str]:
    """Names of a source that load or run what a file holds."""
    found = set[str]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) if name in ONLY_IN:
                found.add(name)
            case ast.keyword(arg="trust_remote_code") | ast.Constant(value="trust_remote_code"):
                found.add("trust_remote_code")
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names} & FORBIDDEN_MODULES
            case ast.ImportFrom(module=str(module)):
                found |= {module.partition(".")[0]} & FORBIDDEN_MODULES
            case ast.Call(func=function):
                found |= {ast.unparse(function)} & FORBIDDEN_CALLS
                found |= {"allow_pickle" for word in node.keywords if word.arg == "allow_pickle"}
    return found


def test_no_other_place_loads_a_model_and_none_unpickles() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            allowed = {name for name, places in ONLY_IN.items() if place in places}
            assert uses(path.read_text()) <= allowed, place


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(folder)", "load = AutoTokenizer.from_pretrained", "AutoModel.from_config(c)",
        "f(x, trust_remote_code=True)", "{'trust_remote_code': True}", "import pickle", "from pickle import loads",
        "import cloudpickle as p", "torch.load(path)", "np.load(path, allow_pickle=True)", "yaml.load(text)", "eval(text)",
        "exec(text)", "import dill", "import joblib", "import marshal", "torch.hub.load(name)",
    ],
)  # fmt: skip
def test_the_search_finds_planted_lines(line: str) -> None:
    assert uses(line)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


def hostile(tiny_model: Path, folder: Path, architecture: str) -> Path:
    """A copy whose config.json names classes in a file of the folder, which leaves a mark when it is run."""
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"model_type": architecture}
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForCausalLM": "evil.M"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(tokenizer | {"auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )
    (folder / "evil.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')\n")
    return folder


LOADERS: dict[str, Callable[[Path], object]] = {
    "policy": lambda folder: load_model(tiny_spec(folder), torch.device("cpu"), quantized=False),
    "encoder": Encoder,
}


@pytest.mark.parametrize("loader", LOADERS)
def test_code_of_a_models_folder_is_not_run_and_nobody_is_asked(
    loader: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    LOADERS[loader](hostile(tiny_model, tmp_path, "llama"))  # transformers has this architecture
    hostile(tiny_model, tmp_path, "evil")
    with pytest.raises(ModelError, match="code of a model's folder is never run"):
        LOADERS[loader](tmp_path)
    assert not (tmp_path / "RAN").exists()


def test_a_plan_refuses_a_model_with_code_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    recipe = load_recipe("demo", ['model.lora_targets=["q_proj"]', "actors.max_model_len=64"])
    model_shape(recipe, hostile(tiny_model, tmp_path, "llama"))  # transformers has this architecture
    with pytest.raises(ConfigError, match="needs code of its own"):
        model_shape(recipe, hostile(tiny_model, tmp_path, "evil"))
    assert not (tmp_path / "RAN").exists()


def test_code_of_a_classifier_and_of_a_tokenizer_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    hostile(tiny_model, tmp_path, "evil")
    with pytest.raises(ModelError, match="code of a model's folder is never run"):
        load_weights(AutoModelForSequenceClassification, tmp_path)
    load_settings(AutoTokenizer, tmp_path)  # by its class of transformers
    assert not (tmp_path / "RAN").exists()


def test_weights_that_could_hold_code_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    hostile(tiny_model, tmp_path, "llama")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no safetensors"):
        LOADERS["policy"](tmp_path)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """A sound LoRA adapter of the tiny model."""
    model = load_model(tiny_spec(tiny_model), torch.device("cpu"), quantized=False)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    return tmp_path


def with_adapter(tiny_model: Path, adapter: Path) -> object:
    return load_model(tiny_spec(tiny_model), torch.device("cpu"), quantized=False, adapter=adapter)


def test_an_adapter_is_merged_whether_it_names_layers_by_a_list_or_by_a_pattern(
    tiny_model: Path, adapter: Path
) -> None:
    assert with_adapter(tiny_model, adapter)
    change(adapter, target_modules=r".*\.(q_proj)")
    assert with_adapter(tiny_model, adapter)


def change(adapter: Path, **settings: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": "(.*.*)*(.*.*)*X"}, r"patterns .* take longer than 0\.5 s"),
        ({"exclude_modules": "((a|.)+)+X"}, r"patterns .* take longer than 0\.5 s"),
        ({"rank_pattern": {"(.*.*)*(.*.*)*X": 4}}, r"patterns .* take longer than 0\.5 s"),
        ({"alpha_pattern": {"((m|o|d|.)+)+X": 4}}, r"patterns .* take longer than 0\.5 s"),
        ({"target_modules": "(["}, "are not regular expressions"),
        ({"more": "x" * 2**20}, "larger than 1048576 bytes"),
    ],
    ids=["target", "exclude", "rank", "alpha", "broken", "large"],
)
def test_an_adapter_whose_patterns_never_end_is_refused(
    settings: dict[str, object], message: str, tiny_model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_adapter, "PATTERN_LIMIT_S", 0.5)
    change(adapter, **settings)
    with pytest.raises(ConfigError, match=message):
        with_adapter(tiny_model, adapter)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_that_is_not_finite_is_refused(value: float, tiny_model: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    tensors[name][0, 0] = value
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="1 of its tensors hold NaN or infinity, the first one"):
        with_adapter(tiny_model, adapter)
