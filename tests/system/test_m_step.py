"""The M-step on a tiny model: its objective, that the objective improves, and that PEFT loads the adapter."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from buffer.errors import ConfigError
from buffer.types import IntArray, PolicySpec
from learner.config import LearnerConfig
from learner.m_step import Choice, Fitted, check_choices, log_shares, m_step
from learner.policy import LoraPolicy
from tests.support.tiny import VOCABULARY

CPU = torch.device("cpu")
CONFIG = LearnerConfig(steps=20, batch_size=8, learning_rate=1e-2, warmup_steps=5)


def tokens(text: str) -> IntArray:
    return np.array([VOCABULARY.index(word) for word in text.split()], dtype=np.int32)


def choices() -> list[Choice]:
    """Does a context of five letters hold more a than b? The labels share their beginning and differ in length."""
    rng, labels = np.random.default_rng(0), [tokens("c a ."), tokens("c b b .")]
    contexts = ["draw " + " ".join(rng.choice(["a", "b"], size=5)) for _ in range(12)]
    return [Choice(tokens(text), labels, int(text.count("b") > 2)) for text in contexts]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Passes this small do not gain from more threads, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fitted(tiny_spec: PolicySpec) -> Fitted:
    return m_step(tiny_spec, choices(), CONFIG, CPU)


@pytest.fixture(scope="module")
def folder(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter, saved as PEFT saves one."""
    folder = tmp_path_factory.mktemp("m-step")
    (folder / "adapter_model.safetensors").write_bytes(fitted.files.weights)
    (folder / "adapter_config.json").write_text(fitted.files.config_json)
    return folder


def plain_shares(model: torch.nn.Module, choices: list[Choice]) -> list[float]:
    """[B] log share of the right alternative, by one full pass per alternative."""
    shares = []
    for choice in choices:
        scores = []
        for target in choice.alternatives:
            text = torch.from_numpy(np.concatenate([choice.context, target])).long()
            with torch.no_grad():
                log_p = model(text[None]).logits[0].log_softmax(-1)
            scores.append(log_p[torch.arange(len(text) - 1), text[1:]][len(choice.context) - 1 :].sum())
        shares.append(float(torch.stack(scores).log_softmax(0)[choice.right]))
    return shares


def test_a_fresh_adapter_gives_the_shares_of_plain_passes_of_the_base_model(tiny_spec: PolicySpec) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_spec.base_model, dtype=torch.float32).eval()
    with torch.no_grad():
        shares = log_shares(LoraPolicy(tiny_spec, CPU), choices())
    np.testing.assert_allclose(shares.numpy(), plain_shares(base, choices()), atol=1e-4)


def test_a_loss_that_is_not_finite_leaves_no_adapter(tiny_spec: PolicySpec) -> None:
    config = LearnerConfig(steps=5, batch_size=8, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(ConfigError, match=r"cross-entropy is nan at step \d.*Lower --learning-rate"):
        m_step(tiny_spec, choices(), config, CPU)


def test_limits_of_the_policy_do_not_apply_to_the_labels(tiny_spec: PolicySpec) -> None:
    narrow = replace(tiny_spec, max_actions=1, min_actions=1, allowed_token_ids=(VOCABULARY.index("a"),))
    with torch.no_grad():
        free, bound = (log_shares(LoraPolicy(spec, CPU), choices()) for spec in (tiny_spec, narrow))
    np.testing.assert_allclose(free.numpy(), bound.numpy(), atol=1e-5)


def test_the_cross_entropy_falls_and_the_right_label_gets_the_larger_share(
    fitted: Fitted, tiny_spec: PolicySpec
) -> None:
    assert len(fitted.losses) == CONFIG.steps
    assert np.mean(fitted.losses[-5:]) < 0.5 * np.mean(fitted.losses[:5])


def test_the_saved_adapter_loads_with_peft_and_predicts_the_labels_once_merged(
    folder: Path, tiny_spec: PolicySpec
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_spec.base_model, dtype=torch.float32).eval()
    before = plain_shares(base, choices())
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
    after = plain_shares(merged, choices())
    assert np.mean(after) > np.mean(before)
    assert np.mean(np.array(after) > np.log(0.5)) >= 0.9


def test_the_same_seed_gives_the_same_adapter_however_many_passes_a_step_has(tiny_spec: PolicySpec) -> None:
    few = CONFIG.model_copy(update={"steps": 2})
    whole, again = (m_step(tiny_spec, choices(), few, CPU) for _ in range(2))
    assert whole == again
    split = m_step(tiny_spec, choices(), few.model_copy(update={"max_tokens": 30}), CPU)
    np.testing.assert_allclose(whole.losses, split.losses, rtol=1e-3)
    assert whole.losses != m_step(tiny_spec, choices(), few, CPU, seed=1).losses


def test_a_batch_size_above_the_number_of_choices_takes_all_of_them(tiny_spec: PolicySpec) -> None:
    few = choices()[:3]
    fitted = m_step(tiny_spec, few, CONFIG.model_copy(update={"steps": 1, "batch_size": 64}), CPU)
    with torch.no_grad():
        expected = -log_shares(LoraPolicy(tiny_spec, CPU), few).mean()
    assert fitted.losses[0] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        Choice(tokens(""), [tokens("a"), tokens("b")]),
        Choice(tokens("draw"), [tokens("a")]),
        Choice(tokens("draw"), [tokens("a"), tokens("")]),
        Choice(tokens("draw"), [tokens("a"), tokens("b")], right=2),
        Choice(tokens("draw"), [tokens("a"), tokens("b")], right=-1),
    ],
)
def test_a_malformed_choice_is_reported_by_its_number(wrong: Choice) -> None:
    with pytest.raises(ConfigError, match="choice 1 of the M-step"):
        check_choices([choices()[0], wrong])
    with pytest.raises(ConfigError, match="no choices to learn from"):
        check_choices([])
