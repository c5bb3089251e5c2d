"""Checks before anything heavy starts: model, tokens, task, reward, floor, store, port, disk."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from buffer.errors import ConfigError, ModelError, RewardError, StoreError, TributaryError
from deploy.artifacts.run_folder import RunFolder, check_disk
from deploy.config import RunConfig, parse_config
from deploy.driver.preflight import check, check_store
from deploy.driver.train import resume, train
from tests.support.processes import ROOT

Make = Callable[..., RunConfig]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a base model with digits, a stop and one linear layer: nothing heavy reads it."""
    words = [*"0123456789", ".", "pick", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def make(model: Path) -> Make:
    """A configuration that passes, with changes."""

    def config(**sections: dict[str, object]) -> RunConfig:
        values: dict[str, dict[str, object]] = {
            "model": {"name": str(model), "lora_targets": ["q_proj"]},
            "policy": {"stop": ".", "max_actions": 3},
            "task": {"name": "integer", "options": {"prompt": "pick"}},
        }
        for section, fields in sections.items():
            values[section] = values.get(section, {}) | fields
        return parse_config(values, "test")

    return config


def test_tmpdir_too_long__train_and_resume_refuse_it_before_a_folder_is_made_or_changed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "cluster_a/project_x/users/somebody/job_1355700/node0016/tmp"))
    checked, console = check(make()), Console()
    (older := tmp_path / "older").mkdir()
    with pytest.raises(ConfigError, match="set TMPDIR"):
        train(checked, tmp_path / "run", replace_run=False, console=console)
    with pytest.raises(ConfigError, match="set TMPDIR"):
        resume(checked, RunFolder(older), console)
    assert not (tmp_path / "run").exists() and list(older.iterdir()) == []


def test_fine_tuning_without_demonstrations_is_rejected(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"task\.demonstrations names no file"):
        check(make(learner={"objective": "sft"}))


def test_the_scorer_must_support_the_task(make: Make, tmp_path: Path) -> None:
    assert check(make(rewards={"scorer": "vllm"}))
    with pytest.raises(ConfigError, match=r"rewards\.adapter = .*not a folder with an adapter_config\.json"):
        check(make(rewards={"adapter": str(tmp_path)}))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"does not support rewards\.adapter"):
        check(make(rewards={"adapter": str(tmp_path), "scorer": "vllm"}))
    target = {"prompts": ["pick"], "terms": [{"kind": "target", "target": "7"}]}
    with pytest.raises(ConfigError, match="scores continuations only"):
        check(make(task={"name": "custom", "options": target}, rewards={"scorer": "vllm"}))


def test_weights_of_unknown_reward_terms_are_rejected(make: Make) -> None:
    task = {"name": "custom", "options": {"prompts": ["pick"], "terms": [{"kind": "continuation"}]}}
    assert check(make(task=task, rewards={"weights": {"continuation": 0.5}}))
    assert check(make(task=task, rewards={"weights": {"length": 2.0}, "length_penalty": 0.1}))
    with pytest.raises(ConfigError, match=r"weights has fluency, length, but .* terms: integer\."):
        check(make(rewards={"weights": {"fluency": 1.0, "length": 2.0}}))


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ({"weights": {"integer": 0.5}}, r"rewards\.weights\.integer = 0\.5: task 'integer' lists its strings"),
        ({"length_penalty": 0.1}, r"rewards\.length_penalty = 0\.1: task 'integer' lists its strings"),
        ({"length_penalty": 0.1, "weights": {"length": 2.0}}, r"weights\.length = 2, rewards\.length_penalty = 0\.1"),
    ],
)
def test_a_listed_target_is_not_changed_by_the_recipe(make: Make, rewards: dict[str, object], words: str) -> None:
    assert check(make(rewards={"weights": {"integer": 1.0}})).log_z_exact is not None
    with pytest.raises(ConfigError, match=words):
        check(make(rewards=rewards))


def test_a_valid_configuration_resolves_its_tokens(make: Make) -> None:
    checked = check(make())
    assert checked.spec.stop_token_id == 10
    assert checked.prompts[0].token_ids.tolist() == [11]


@pytest.mark.parametrize(
    ("section", "fields", "error", "words"),
    [
        ("model", {"name": "no-such-model"}, ModelError, ["no-such-model", "tributary model get"]),
        ("model", {"lora_targets": ["w_proj"]}, ConfigError, ["w_proj", "q_proj"]),
        ("policy", {"stop": "pick 7"}, ConfigError, ["policy.stop = 'pick 7'", "not one token", "becomes 2"]),
        ("policy", {"allowed_tokens": ["1", "2 3"]}, ConfigError, ["policy.allowed_tokens = '2 3'", "not one token"]),
        ("policy", {"forbidden_tokens": ["2 3"]}, ConfigError, ["policy.forbidden_tokens = '2 3'", "not one token"]),
        ("policy", {"forbidden_tokens": ["7"]}, ConfigError, ["can't write", "'7' is one of policy.forbidden_tokens"]),
        ("task", {"name": "no-such-task"}, ConfigError, ["no-such-task", "integer", "module:Class"]),
        ("task", {"name": "no.such:Class"}, ConfigError, ["no.such:Class", "can't be imported"]),
        ("task", {"options": {"biggest": 3}}, ConfigError, ["biggest", "largest"]),
        ("task", {"options": {"largest": 0}}, ConfigError, ["largest = 0", "at least 1"]),
        (
            "task",
            {"options": {"log_epsilon": -0.5, "largest": 9}},
            ConfigError,
            ["log_epsilon", "more than 1%", "Lower the floor"],
        ),
        (
            "policy",
            {"max_actions": 1},
            ConfigError,
            ["101 target strings", "can't write 91", "policy.max_actions = 1", "Raise it"],
        ),
        ("policy", {"max_actions": 2}, ConfigError, ["can't write 1 of", "'1 0 0'", "policy.max_actions = 2"]),
        (
            "policy",
            {"allowed_tokens": ["1", "2", "3"]},
            ConfigError,
            ["can't write 89", "not one of the 3 tokens of policy.allowed_tokens", "Add it"],
        ),
        ("policy", {"stop": "7"}, ConfigError, ["can't write 19", "contains policy.stop", "another stop"]),
        (
            "learner",
            {"reward_temperature_end": 3.0},
            ConfigError,
            ["at reward temperature 3, which the run ends with", "more than 1%", "Lower the floor", "temperature"],
        ),
        (
            "learner",
            {"steps": 200, "reward_temperature_start": 5.0, "reward_temperature_steps": 400},
            ConfigError,
            ["at reward temperature 3, which the run ends with"],
        ),
        ("actors", {"max_model_len": 600}, ConfigError, ["actors.max_model_len = 600", "512 positions"]),
        ("model", {"quantization": "nf4"}, ConfigError, ["model.quantization = 'nf4'", "actors.gpus = 0"]),
        (
            "learner",
            {"device": "cuda"},
            ConfigError,
            ["learner.device = 'cuda'", "learner.gpus = 0", "share such as 0.2"],
        ),
    ],
)
def test_invalid_values_are_rejected_with_value_and_fix(
    make: Make, section: str, fields: dict[str, object], error: type[TributaryError], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        check(make(**{section: fields}))
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_listed_strings_that_are_too_short_are_rejected(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"can't write 10 of .*below policy\.min_actions = 2\. Lower it"):
        check(make(policy={"min_actions": 2}, learner={"objective": "group_subtb"}))


def test_temperatures_that_a_run_does_not_end_with_do_not_count_for_the_floor(make: Make) -> None:
    assert check(make(learner={"reward_temperature_start": 3.0}))
    assert check(make(learner={"reward_temperature_start": 3.0, "reward_temperature_steps": 10}))
    end = {"reward_temperature_end": 3.0, "reward_temperature_steps": 100_000}
    assert check(make(learner=end | {"steps": 10}))
    assert check(make(learner={"reward_temperature_end": 0.5}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NanTask", ["reward term 'r'", "nan at prefix 1", "floor"]),
        ("ShortTask", ["shape (1,)", "one value for every prefix"]),
        ("RaisingTask", ["ZeroDivisionError", "every string, including the empty one"]),
        ("SilentTask", ["no reward term"]),
    ],
)
def test_a_reward_that_breaks_its_contract_is_rejected_before_the_start(
    make: Make, name: str, words: list[str]
) -> None:
    with pytest.raises(RewardError) as raised:
        check(make(task={"name": f"tests.support.broken_tasks:{name}", "options": {}}))
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_damaged_weight_file_is_named(make: Make, model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"model\.safetensors.*damaged"):
        check(make())


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        ("config.json", b'{"max_position', "is not JSON .*the file is damaged"),
        ("config.json", b"[]", "holds list instead of a JSON object"),
        ("config.json", b"\xff\xfe{}", "encoded as UTF-16"),
        ("model.safetensors.index.json", b'{"weight_map": ', "is not JSON"),
        ("model.safetensors.index.json", b"{}", "has no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": 3}}', "has no weight_map"),
    ],
)
def test_a_damaged_json_file_of_the_model_is_named(
    make: Make, model: Path, file: str, content: bytes, words: str
) -> None:
    (model / file).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{re.escape(file)}.*{words}"):
        check(make())


def test_an_unreachable_redis_is_reported_with_its_address(make: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(StoreError, match=f"127.0.0.1:{port}"):
        check_store(make(buffer={"url": f"redis://127.0.0.1:{port}/0"}).buffer)


def test_a_taken_port_is_reported_with_its_number(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} was taken.*buffer.advanced.port"):
            check_store(make(buffer={"advanced": {"port": port}}).buffer)


def test_a_full_disk_is_reported_with_free_and_needed_space(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"free and 1000000\.0 GB are needed"):
        check_disk(tmp_path / "run", 10**15)


def test_bad_input_ends_the_command_before_ray_torch_or_vllm_are_loaded(model: Path) -> None:
    """In a process of its own: exit code 2, the message alone, and none of the heavy packages imported."""
    arguments = [
        "tributary",
        "validate",
        "demo",
        "policy.stop=two tokens",
        f"model.name={model}",
        'model.lora_targets=["q_proj"]',
    ]
    program = (
        f"import sys; sys.argv = {arguments!r}\n"
        "from deploy.cli import main\n"
        "try: main()\n"
        "finally: print('HEAVY', sorted({'ray', 'torch', 'vllm', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: policy.stop = 'two tokens'") and "Traceback" not in done.stderr
    assert "HEAVY []" in done.stdout


OWN_TASK = "from rewards.tasks.integer import IntegerTask\nclass MyTask(IntegerTask): pass\n"


@pytest.mark.parametrize("start", [["-m"], ["-P", "-m"]], ids=["folder-first", "console-script"])
def test_rewards_py_in_folder_breaks_nothing_and_own_tasks_are_imported(
    model: Path, tmp_path: Path, start: list[str]
) -> None:
    """-P is the path of the `tributary` script; `python -m` itself imports a deploy.py of the folder."""
    names = ["actors", "buffer", "learner", "lm", "rewards", *(["deploy"] if "-P" in start else [])]
    for folder in (tmp_path / "own", tmp_path / "tasks"):
        folder.mkdir()
        for name in names if folder.name == "own" else ["rewards"]:
            (folder / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    (tmp_path / "own" / "my_task.py").write_text(OWN_TASK)
    command = [
        sys.executable,
        *start,
        "deploy.cli",
        "validate",
        "demo",
        "task.name=my_task:MyTask",
        f"model.name={model}",
    ]
    done = subprocess.run(
        [*command, 'model.lora_targets=["q_proj"]', "task.options={prompt='pick'}"],
        cwd=tmp_path / "own", capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "tasks"), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_task_in_a_file_with_the_name_of_another_module_is_reported_with_both(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(OWN_TASK)
    with pytest.raises(ConfigError, match=r"rewards\.py is hidden by the installed module 'rewards'.*rename your file"):
        check(make(task={"name": "rewards:MyTask"}))


def test_the_engine_has_room_for_a_whole_string_and_the_canary_behind_it(make: Make) -> None:
    prompt_tokens, max_actions = 1, 15
    fits = prompt_tokens + max_actions + 2
    check(make(policy={"max_actions": max_actions}, actors={"max_model_len": fits}))
    with pytest.raises(ConfigError, match=r"2 tokens of an adapter's canary. Raise actors\.max_model_len"):
        check(make(policy={"max_actions": max_actions}, actors={"max_model_len": fits - 1}))


def test_max_model_len_that_a_recipe_leaves_open_follows_from_the_model_and_the_prompts(
    make: Make, model: Path
) -> None:
    long = {"task": {"options": {"prompt": "pick " * 600}}, "policy": {"max_actions": 9}}
    with pytest.raises(ConfigError, match=r"longest prompt and policy\.max_actions = 9 need 611 tokens.*512 positions"):
        check(make(**long))
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    assert check(make(**long)).config.actors.max_model_len == 600 + 9 + 2
    assert check(make()).config.actors.max_model_len == 512, "the default, which is more than these prompts need"
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    assert check(make()).config.actors.max_model_len == 64, "no more than the model has"
    check(make(policy={"max_actions": 60}))
    with pytest.raises(
        ConfigError, match=r"max_actions = 60 leaves no room for a prompt in actors\.max_model_len = 60"
    ):
        make(policy={"max_actions": 60}, actors={"max_model_len": 60})
