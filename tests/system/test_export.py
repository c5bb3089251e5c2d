"""An adapter's folder describes itself, and an export is the policy: plain transformers and PEFT read what was written."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from buffer.errors import AdapterError, ConfigError
from buffer.types import AdapterFiles
from deploy.artifacts.run_folder import RunFolder
from deploy.cli import app
from deploy.driver.describe_adapter import describe_adapter, generation_config, portable
from deploy.driver.export import export_adapter, export_merged
from learner.given_strings import log_q_of_given
from lm.merge_adapter import merged
from tests.support.tiny import SYMBOLS, VOCABULARY, TinyTask, tiny_recipe, tiny_trajectory
from tests.support.trained_run import TrainedRun, make_trained_run

STOP = VOCABULARY.index(".")
STRINGS = [(), (0,), (1, 2), (2, 2, 0)]
CERTIFICATE = {
    "text": "samples the posterior (gap 0.012 [0.004, 0.03] nats)",
    "exact_draws": "The task lists its strings.",
    "figures": {"gap": 0.012, "kl_q_p": 0.005, "missing": None},
    "intervals": {"gap": [0.004, 0.03]},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run whose policy chooses among three letters and the stop."""
    return make_trained_run(tmp_path_factory.mktemp("runs") / "masked", tiny_recipe(tiny_model))


@pytest.fixture(scope="module")
def open_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run without a mask: any token of the vocabulary is an action."""
    recipe = tiny_recipe(tiny_model)
    del recipe["policy"]["allowed_tokens"]
    return make_trained_run(tmp_path_factory.mktemp("runs") / "open", recipe)


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The front matter and the text of a model card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def plain_log_q(model: Any, run: TrainedRun) -> list[float]:
    """log q of STRINGS from plain passes of a transformers model, with the policy's mask and its forced stop."""
    task, spec, values = TinyTask(run.checked.tokenizer), run.checked.spec, []
    allowed = torch.tensor(sorted({*spec.allowed_token_ids, spec.stop_token_id})) if spec.allowed_token_ids else None
    for string in STRINGS:
        ids = [*task.prompts()[0].token_ids.tolist(), *task.tokens(string).tolist()]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, len(ids) - len(string) - 1 :].float()
        if allowed is not None:
            logits = torch.full_like(logits, -torch.inf).index_copy(1, allowed, logits[:, allowed])
        log_p = logits.log_softmax(-1)
        total = sum(float(log_p[i, token]) for i, token in enumerate(task.tokens(string)))
        values.append(total + (float(log_p[-1, STOP]) if len(string) < spec.max_actions else 0.0))
    return values


def share_of_early_stops(model: Any) -> float:
    """Probability that the stop is the first or the second token, by plain passes."""
    prompt = VOCABULARY.index("draw")
    with torch.no_grad():
        first = model(torch.tensor([[prompt]])).logits[0, -1].softmax(-1)
        second = model(torch.tensor([[prompt, token] for token in range(len(first))])).logits[:, -1].softmax(-1)
    stop_second = first * second[:, STOP]
    return float(first[STOP] + stop_second.sum() - stop_second[STOP])


def learner_log_q(run: TrainedRun, base_model: bool = False) -> list[float]:
    task = TinyTask(run.checked.tokenizer)
    return log_q_of_given(run.policy, [tiny_trajectory(task, z) for z in STRINGS], 4096, base_model).tolist()


def test_the_adapter_folder_of_a_run_describes_itself(run: TrainedRun) -> None:
    folder = run.folder.adapter_path
    front, text = card(folder)
    assert front["library_name"] == "peft" and front["pipeline_tag"] == "text-generation"
    assert "base_model" not in front and "license" not in front, "a local folder has neither a hub id nor a licence"
    assert "40 strings of at most three letters" in text and '"draw"' in text
    assert "has not been evaluated" in text
    assert f"{sorted(VOCABULARY.index(s) for s in (*SYMBOLS, '.'))}" in text, "the mask is in no other file"
    assert hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest() in text
    assert AutoTokenizer.from_pretrained(folder)("draw")["input_ids"] == [VOCABULARY.index("draw")]


def test_the_card_tells_of_a_mask_only_where_there_is_one(open_run: TrainedRun) -> None:
    assert "tokens only" not in card(open_run.folder.adapter_path)[1]


def test_the_card_has_the_certificate_of_this_adapter_and_of_no_other(tiny_model: Path, tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run", tiny_recipe(tiny_model))
    evaluation = {"adapter_sha256": "00" * 32, "certificate": {"before": CERTIFICATE, "after": CERTIFICATE}}
    run.folder.write_json("evaluation.json", evaluation)
    describe_adapter(run.checked, run.folder)
    assert CERTIFICATE["text"] not in card(run.folder.adapter_path)[1]
    run.folder.write_json("evaluation.json", evaluation | {"adapter_sha256": run.folder.version().digest})
    describe_adapter(run.checked, run.folder)
    text = card(run.folder.adapter_path)[1]
    assert str(CERTIFICATE["text"]) in text and "| gap | 0.012 | 0.004 to 0.03 |" in text and "missing" not in text


def test_a_base_model_of_the_hub_is_named_by_its_id(run: TrainedRun) -> None:
    named = json.loads(portable(run.files, "smollm2-135m-instruct").config_json)
    assert named["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert json.loads(portable(run.files, "OWNER/MODEL").config_json)["base_model_name_or_path"] == "OWNER/MODEL"
    assert portable(run.files, run.checked.spec.base_model) == run.files, "a local folder has no other name"


def test_what_describes_an_adapter_changes_nothing_for_its_readers(run: TrainedRun, tiny_model: Path) -> None:
    assert run.folder.adapter() == AdapterFiles(run.files.weights, run.files.config_json)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    scores = plain_log_q(merged(base, run.folder.adapter_path), run)  # as rewards.adapter does
    assert scores == pytest.approx(learner_log_q(run), abs=1e-3)


def test_plain_generate_stops_where_the_policy_stops(open_run: TrainedRun, tiny_model: Path) -> None:
    folder = open_run.folder.adapter_path
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)
    prompt = torch.tensor([[VOCABULARY.index("draw")]])
    torch.manual_seed(0)
    drawn = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), num_return_sequences=4000,
        generation_config=GenerationConfig.from_pretrained(folder),
    )[:, 1:].tolist()  # fmt: skip
    assert max(map(len, drawn)) == 3, "the longest response of the policy"
    after_stop = {t for row in drawn if STOP in row for t in row[row.index(STOP) + 1 :]}
    assert after_stop <= {0}, "padding"
    early = np.mean([STOP in row[:2] for row in drawn])
    expected = share_of_early_stops(model)
    assert expected > 0.005 and early == pytest.approx(expected, abs=0.006)


def test_plain_generate_writes_no_forbidden_token(open_run: TrainedRun, tiny_model: Path) -> None:
    spec = replace(open_run.checked.spec, forbidden_token_ids=tuple(range(8, 60)))
    settings = GenerationConfig.from_dict(generation_config(spec, tiny_model))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = torch.tensor([[VOCABULARY.index("draw")]])
    mask = torch.ones_like(prompt)
    drawn = model.generate(prompt, attention_mask=mask, num_return_sequences=500, generation_config=settings)
    assert not set(drawn.flatten().tolist()) & set(spec.forbidden_token_ids)


def test_an_exported_adapter_is_the_policy(run: TrainedRun, tiny_model: Path, tmp_path: Path) -> None:
    target = export_adapter(run.checked, run.folder, tmp_path / "a" / "b")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), target)
    assert plain_log_q(model, run) == pytest.approx(learner_log_q(run), abs=1e-3)
    names = {file.name for file in run.folder.adapter_path.iterdir()}
    assert {file.name for file in target.iterdir()} == names and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["run", "open_run"])
def test_a_merged_model_is_the_policy_and_not_the_base_model(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: TrainedRun = request.getfixturevalue(kind)
    check = export_merged(run.checked, run.folder, tmp_path / "model")
    assert check.to_adapter <= 1e-3 < 0.1 < check.to_base and check.strings == 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain_log_q(model, run) == pytest.approx(learner_log_q(run), abs=1e-3)
    assert plain_log_q(model, run) != pytest.approx(learner_log_q(run, base_model=True), abs=0.1)
    assert model.generation_config.eos_token_id == STOP and model.generation_config.max_new_tokens == 3
    assert card(tmp_path / "model")[0]["library_name"] == "transformers"
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("draw")["input_ids"] == [VOCABULARY.index("draw")]


def test_a_merged_model_has_the_dtype_of_the_run(tiny_model: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_model)
    recipe["model"]["dtype"] = "bfloat16"
    run = make_trained_run(tmp_path / "run", recipe)
    check = export_merged(run.checked, run.folder, tmp_path / "model")
    assert check.to_adapter < check.to_base
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


def test_an_adapter_that_changes_nothing_is_not_merged(tiny_model: Path, tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run", tiny_recipe(tiny_model), spread=0.0)
    with pytest.raises(ConfigError, match="changes nothing yet"):
        export_merged(run.checked, run.folder, tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"], "nothing is left behind"


def test_a_run_on_4_bit_weights_is_not_merged(run: TrainedRun, tmp_path: Path) -> None:
    checked = replace(run.checked, spec=replace(run.checked.spec, quantization="nf4"))
    with pytest.raises(ConfigError, match=r"4 bits .*Export without --merge"):
        export_merged(checked, run.folder, tmp_path / "model")


def test_weights_of_another_version_are_not_exported(run: TrainedRun, tmp_path: Path) -> None:
    shutil.copytree(run.folder.path, tmp_path / "run")
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    exports: list[Callable[..., object]] = [export_adapter, export_merged]
    for export in exports:
        with pytest.raises(AdapterError, match="different versions, or damaged"):
            export(run.checked, RunFolder.open(tmp_path / "run"), tmp_path / "out")


def test_a_folder_that_is_in_use_is_left_alone(run: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ConfigError, match=r"not an empty folder\. Give another with --to"):
        export_adapter(run.checked, run.folder, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert (export_adapter(run.checked, run.folder, tmp_path / "empty") / "README.md").is_file()


def test_the_command_writes_both_kinds_into_the_folder_of_the_run(run: TrainedRun) -> None:
    for options, name, said in ([], "exported", "Written"), (["--merge"], "merged", "differs by at most"):
        result = CliRunner().invoke(app, ["export", "--run", str(run.folder.path), *options])
        assert result.exit_code == 0, result.output
        assert said in result.output and (run.folder.path / name / "README.md").is_file()
