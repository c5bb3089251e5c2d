"""Recipes on tokenizers of every kind: prompts, targets and demonstrations are the text that was meant, or refused."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from deploy.config import parse_config
from deploy.driver.preflight import Checked, check
from tests.unit.test_check_model import LAYERS, LLAMA, write_model
from tests.unit.test_tokens import KINDS, tokens

TERMS = [{"kind": "continuation"}, {"kind": "target", "target": ". so she sat"}]
PROMPTS = ["hello shore. so nice", "he has a list"]


def checked(folder: Path, tokenizer: Tokenizer, stop: str = ".", **sections: object) -> Checked:
    """The task `custom` with a target, on a model with this tokenizer."""
    rows = tokenizer.get_vocab_size()
    embeddings = {"model.embed_tokens.weight": (rows, 4), "lm_head.weight": (rows, 4)}
    write_model(folder, LLAMA | {"vocab_size": rows}, LAYERS | embeddings)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "model": {"name": str(folder)},
        "policy": {"stop": stop, "max_actions": 8},
        "task": {"name": "custom", "options": {"prompts": PROMPTS, "terms": TERMS}},
    }
    return check(parse_config(values | sections, "test"))


def copy_of(kind: str) -> Tokenizer:
    return Tokenizer.from_str(KINDS[kind].to_str())


@pytest.mark.parametrize("kind", KINDS)
def test_bos_twice__a_prompt_that_begins_with_it_gets_no_second_one(kind: str, tmp_path: Path) -> None:
    marked = {
        "name": "custom",
        "options": {"prompts": ["<s>" + PROMPTS[0], PROMPTS[0]], "terms": [{"kind": "continuation"}]},
    }
    recipe = checked(tmp_path / "m", copy_of(kind), task=marked)
    first, second = (tokens(recipe.tokenizer, prompt.token_ids) for prompt in recipe.prompts)
    assert first[0] == second[0] == "<s>" and first.count("<s>") == second.count("<s>") == 1
    assert "</s>" not in first + second, "what the file puts behind a text would end the prompt"


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_space_target__a_target_and_a_demonstration_are_the_text_that_was_meant(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "demonstrations.jsonl"
    file.write_text('{"response": " at noon"}\n')
    task = {"name": "custom", "options": {"prompts": PROMPTS[:1], "terms": TERMS}, "demonstrations": str(file)}
    recipe = checked(tmp_path / "m", copy_of(kind), policy={"stop": ".", "max_actions": 20}, task=task)

    def text(ids: np.ndarray) -> str:  # type: ignore[type-arg]
        return "".join(tokens(recipe.tokenizer, ids)).replace("▁", " ").replace("Ġ", " ")

    targets = [text(request.target) for request in recipe.task.score_requests(recipe.prompts[0])]
    assert ". so she sat" in targets
    assert [text(given.token_ids) for given in recipe.demonstrations] == [" at noon"]


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_newline_stop_sentencepiece__a_newline_is_its_byte(kind: str, tmp_path: Path) -> None:
    recipe = checked(tmp_path / "m", copy_of(kind), stop="\n")
    assert recipe.tokenizer.id_to_token(recipe.spec.stop_token_id) == "<0x0A>"


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_truncates__prompts_are_whole_and_nothing_is_filled_up(kind: str, tmp_path: Path) -> None:
    cutting = copy_of(kind)
    cutting.enable_truncation(max_length=4)
    cutting.enable_padding(length=64, pad_token="<s>", pad_id=cutting.token_to_id("<s>"))
    recipe, plain = checked(tmp_path / "m", cutting), checked(tmp_path / "n", copy_of(kind))
    for ours, expected in zip(recipe.prompts, plain.prompts, strict=True):
        assert ours.token_ids.tolist() == expected.token_ids.tolist() and len(ours.token_ids) > 4
